//! Sparse files: parses GNU's four formats of the sparse map, and reads the contents with holes as zeros.

use std::io::{self, Read};

use super::header::{self, BLOCK_BYTES, Block};
use super::pax::{Records, decimal};

/// Length of an offset or length in a header.
const FIELD_BYTES: usize = 12;
/// Number of pieces in a header; `IN_BLOCK` is the number in each following block.
const IN_HEADER: usize = 4;
const IN_BLOCK: usize = 21;

/// A data segment of a file: offset and length.
pub type Piece = (u64, u64);

/// The map of a sparse file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// The data segments, in order.
    pub pieces: Vec<Piece>,
    /// The size with the holes.
    pub size: u64,
}

/// Sparse information in a pax header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SparseInfo {
    /// No sparse information.
    Nothing,
    /// The complete map, and the file's real name if it differs (versions 0.0 and 0.1).
    Map(Map, Option<Vec<u8>>),
    /// The size and the name; the map precedes the data (version 1.0).
    Size(u64, Option<Vec<u8>>),
}

/// Parses the segments of a header; returns true if a block of segments follows.
pub fn of_header(block: &Block, pieces: &mut Vec<Piece>) -> Result<bool, &'static str> {
    segments(block, 386, IN_HEADER, pieces)
}

/// Parses the segments of a block after a header; returns true if another block follows.
pub fn of_block(block: &Block, pieces: &mut Vec<Piece>) -> Result<bool, &'static str> {
    segments(block, 0, IN_BLOCK, pieces)
}

fn segments(block: &Block, start: usize, count: usize, pieces: &mut Vec<Piece>) -> Result<bool, &'static str> {
    for at in (0..count).map(|number| start + 2 * FIELD_BYTES * number) {
        let field = |at: usize| header::number(&block[at..at + FIELD_BYTES]);
        if block[at] == 0 {
            break;
        }
        pieces.push((positive(field(at)?)?, positive(field(at + FIELD_BYTES)?)?));
    }
    Ok(block[start + 2 * FIELD_BYTES * count] != 0)
}

/// Returns the size with holes from a header in the old format.
pub fn old_size(block: &Block) -> Result<u64, &'static str> {
    positive(header::number(&block[483..495])?)
}

fn positive(value: i64) -> Result<u64, &'static str> {
    u64::try_from(value).map_err(|_| "a negative size")
}

/// Parses the sparse records of a pax header.
pub fn said(records: &Records) -> Result<SparseInfo, &'static str> {
    const MALFORMED: &str = "a malformed sparse file record";
    if records.sparse.is_empty() {
        return Ok(SparseInfo::Nothing);
    }
    let (mut size, mut name, mut major, mut minor, mut count) = (None, None, None, None, None);
    let mut numbers: Vec<u64> = Vec::new();
    let mut has_map = false;
    for (key, value) in &records.sparse {
        let number = || decimal(value).ok_or(MALFORMED);
        match key.as_slice() {
            b"size" | b"realsize" => size = Some(number()?),
            b"name" => name = Some(value.clone()).filter(|name| !name.is_empty() && !name.contains(&0)),
            b"major" => major = Some(number()?),
            b"minor" => minor = Some(number()?),
            b"numblocks" => count = Some(number()?),
            // Offsets and lengths alternate, the offset first.
            b"offset" | b"numbytes" if !has_map && numbers.len().is_multiple_of(2) == (key == b"offset") => numbers.push(number()?),
            b"map" if numbers.is_empty() && !has_map => {
                has_map = true;
                let parts = value.split(|byte| *byte == b',').filter(|_| !value.is_empty());
                numbers = parts.map(|part| decimal(part).ok_or(MALFORMED)).collect::<Result<_, _>>()?;
            }
            _ => return Err(MALFORMED),
        }
    }
    let size = size.ok_or(MALFORMED)?;
    match (major, minor) {
        (Some(1), Some(0)) if numbers.is_empty() => Ok(SparseInfo::Size(size, name)),
        (None | Some(0), None | Some(0 | 1)) => {
            let pieces = paired(&numbers).filter(|pieces| count.is_none_or(|count| count == pieces.len() as u64)).ok_or(MALFORMED)?;
            Ok(SparseInfo::Map(Map { pieces, size }, name))
        }
        _ => Err("a sparse file in an unsupported format"),
    }
}

fn paired(numbers: &[u64]) -> Option<Vec<Piece>> {
    numbers.len().is_multiple_of(2).then(|| numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Parses the map before a file's data, in whole blocks. `left` is the length of map and data, and becomes that of the data.
pub fn leading(from: &mut dyn Read, left: &mut u64, size: u64) -> io::Result<Map> {
    let wrong = || invalid("a malformed sparse file map");
    let (mut block, mut at) = ([0; BLOCK_BYTES], BLOCK_BYTES);
    let mut number = || -> io::Result<u64> {
        let mut value: Option<u64> = None;
        loop {
            if at == BLOCK_BYTES {
                *left = left.checked_sub(BLOCK_BYTES as u64).ok_or_else(wrong)?;
                from.read_exact(&mut block)?;
                at = 0;
            }
            at += 1;
            match (block[at - 1], value) {
                (b'\n', Some(value)) => return Ok(value),
                (digit @ b'0'..=b'9', so_far) => {
                    let next = so_far.unwrap_or(0).checked_mul(10).and_then(|value| value.checked_add(u64::from(digit - b'0')));
                    value = Some(next.ok_or_else(wrong)?);
                }
                _ => return Err(wrong()),
            }
        }
    };
    let count = number()?;
    // The reader's allowance limits the size of the map.
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push((number()?, number()?));
    }
    Ok(Map { pieces, size })
}

impl Map {
    /// Checks that the segments are in order, within the file, and together as long as the stored data.
    pub fn check(&self, stored: u64) -> Result<(), &'static str> {
        let mut end = 0;
        let mut sum: u64 = 0;
        for (offset, length) in &self.pieces {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= self.size);
            end = next.ok_or("a sparse file map that is out of order or exceeds the file size")?;
            sum += length;
        }
        if sum == stored { Ok(()) } else { Err("a sparse file whose data does not match its map") }
    }
}

/// Reads a sparse file with its holes as zeros.
pub struct SparseReader<R> {
    inner: R,
    map: Map,
    /// The current or next segment.
    piece: usize,
    at: u64,
}

impl<R: Read> SparseReader<R> {
    /// Reads the data of `map`, which was checked, from `inner`.
    pub fn new(inner: R, map: Map) -> SparseReader<R> {
        SparseReader { inner, map, piece: 0, at: 0 }
    }
}

impl<R: Read> Read for SparseReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.map.pieces.get(self.piece).is_some_and(|(offset, length)| offset + length <= self.at) {
            self.piece += 1;
        }
        let (start, end) =
            self.map.pieces.get(self.piece).map_or((self.map.size, self.map.size), |(offset, length)| (*offset, offset + length));
        let (until, is_hole) = if self.at < start { (start, true) } else { (end, false) };
        let most = buffer.len().min(usize::try_from(until - self.at).unwrap_or(usize::MAX));
        let count = match is_hole {
            true => {
                buffer[..most].fill(0);
                most
            }
            false => self.inner.read(&mut buffer[..most])?,
        };
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(list: &[(&str, &str)]) -> Records {
        let sparse = list.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        Records { sparse, ..Records::default() }
    }

    #[test]
    fn maps_are_read_in_every_version() {
        let map = Map { pieces: vec![(0, 4), (8, 2)], size: 10 };
        let zero = records(&[("size", "10"), ("numblocks", "2"), ("offset", "0"), ("numbytes", "4"), ("offset", "8"), ("numbytes", "2")]);
        assert_eq!(said(&zero), Ok(SparseInfo::Map(map.clone(), None)));
        let one = records(&[("size", "10"), ("numblocks", "2"), ("name", "a"), ("map", "0,4,8,2")]);
        assert_eq!(said(&one), Ok(SparseInfo::Map(map.clone(), Some(b"a".to_vec()))));
        let last = records(&[("major", "1"), ("minor", "0"), ("name", "a"), ("realsize", "10")]);
        assert_eq!(said(&last), Ok(SparseInfo::Size(10, Some(b"a".to_vec()))));
        let mut bytes = b"2\n0\n4\n8\n2\n".to_vec();
        bytes.resize(BLOCK_BYTES, 0);
        let mut left = 518;
        assert_eq!((leading(&mut bytes.as_slice(), &mut left, 10).expect("a map"), left), (map.clone(), 6));
        let mut filled = Vec::new();
        map.check(6).expect("it fits");
        SparseReader::new(&b"abcdef"[..], map).read_to_end(&mut filled).expect("all of it");
        assert_eq!(filled, b"abcd\0\0\0\0ef");
    }

    #[test]
    fn maps_that_make_no_file_are_refused() {
        for list in [
            &[("size", "10"), ("offset", "0")][..],
            &[("size", "10"), ("numbytes", "0")],
            &[("size", "10"), ("numblocks", "2"), ("map", "0,1")],
            &[("size", "10"), ("map", "0,1"), ("map", "0,1")],
            &[("size", "10"), ("map", "0,1,")],
            &[("map", "0,1")],
            &[("major", "2"), ("minor", "0"), ("realsize", "1")],
            &[("size", "1"), ("other", "1")],
        ] {
            said(&records(list)).expect_err(list[0].0);
        }
        for (pieces, size, stored) in [
            (vec![(4, 4), (0, 4)], 8, 8),
            (vec![(0, 4), (2, 4)], 8, 8),
            (vec![(6, 4)], 8, 4),
            (vec![(u64::MAX, 2)], 8, 2),
            (vec![(0, 4)], 8, 3),
        ] {
            Map { pieces, size }.check(stored).expect_err("it is no file");
        }
        for text in [&b"1\n0\n"[..], b"x\n", b"\n", b"1\n-1\n2\n", b"99999999999999999999999\n"] {
            let mut bytes = text.to_vec();
            bytes.resize(BLOCK_BYTES, 0);
            leading(&mut bytes.as_slice(), &mut 512, 10).expect_err("no map");
        }
    }
}
