//! A pack: many objects in one file, some stored as deltas. Every object is unpacked and hashed here, and the pack's index is made from the
//! result, because an index from a sandbox could give an object another's id.
//!
//! A pack comes from a sandbox. So stated sizes are counted but never allocated in advance, and the memory in use is limited. The available
//! crates for packs trust these numbers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;

use flate2::Crc;
use flate2::bufread::ZlibDecoder;

use super::Refusal;
use super::budget::Budget;
use super::oid::{Format, Hasher, Oid};

/// Maximum size of an object that is a delta or the base of one; git makes no deltas of files above half of that.
const MAX_DELTA_BYTES: u64 = 1 << 30;
/// Maximum size of objects in memory while deltas are applied.
const MAX_HELD_BYTES: u64 = 1 << 30;
/// Maximum length of a chain of deltas; git makes none above 4,095.
const MAX_CHAIN: usize = 4096;
/// Maximum number of objects: the list of a hundred million would take ten gigabytes.
const MAX_OBJECTS: u32 = 50_000_000;

/// A verified object of a pack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Object id.
    pub oid: Oid,
    /// Offset of the entry.
    pub offset: u64,
    /// CRC of the entry's bytes in the pack.
    pub crc: u32,
}

/// A verified pack.
#[derive(Debug)]
pub struct Pack {
    /// Objects, sorted by id.
    pub objects: Vec<Object>,
    /// Hash of all bytes before the trailer.
    pub checksum: Oid,
}

/// Base of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    /// None: a complete object of this type.
    Whole(&'static str),
    /// A delta to the entry at this offset.
    Offset(u64),
    /// A delta to the object with this id.
    Name(Oid),
}

struct Entry {
    offset: u64,
    /// Offset of its compressed bytes.
    data: u64,
    size: u64,
    crc: u32,
    base: Base,
    oid: Option<Oid>,
}

/// Verifies a pack with this length.
pub fn verify(file: &File, len: u64, format: Format, budget: &mut Budget) -> Result<Pack, Refusal> {
    let body = len.checked_sub(format.bytes() as u64).ok_or(Refusal("is too short for a pack"))?;
    let (mut entries, checksum) = scan(file, body, format, budget)?;
    let mut sum = vec![0; format.bytes()];
    file.read_exact_at(&mut sum, body).map_err(|_| Refusal("cannot be read"))?;
    if checksum.as_bytes() != sum {
        return Err(Refusal("has a wrong checksum"));
    }
    resolve(file, &mut entries, format, budget)?;
    let mut objects = Vec::with_capacity(entries.len());
    for entry in &entries {
        let oid = entry.oid.ok_or(Refusal("has a delta to a missing object"))?;
        objects.push(Object { oid, offset: entry.offset, crc: entry.crc });
    }
    objects.sort();
    Ok(Pack { objects, checksum })
}

/// Reads the object whose entry is at this offset. The caller compares it with its id: neither the offset nor the pack is verified.
/// It and its bases have at most `most` bytes each. `find` returns the offset of another object of the pack.
pub fn read(
    file: &File,
    (offset, most): (u64, u64),
    format: Format,
    find: &dyn Fn(&Oid) -> Option<u64>,
    budget: &mut Budget,
) -> Result<(&'static str, Vec<u8>), Refusal> {
    let mut at = offset;
    let mut differences: Vec<Vec<u8>> = Vec::new();
    while differences.len() <= MAX_CHAIN {
        let mut input =
            Input { file, at, end: u64::MAX, buffer: vec![0; 1 << 12], from: 0, to: 0, crc: Crc::new(), hasher: format.hasher() };
        let (base, size) = entry_start(&mut input, at, format)?;
        if size > most {
            return Err(Refusal("has a too large object"));
        }
        budget.take(size)?;
        let mut content = Vec::new();
        inflate(&mut input, size, &mut |bytes| content.extend_from_slice(bytes))?;
        at = match base {
            Base::Whole(kind) => {
                for difference in differences.iter().rev() {
                    content = apply(&content, difference, budget)?;
                }
                return Ok((kind, content));
            }
            Base::Offset(base) => base,
            Base::Name(name) => find(&name).ok_or(Refusal("has a delta to a missing object"))?,
        };
        differences.push(content);
    }
    Err(Refusal("has a too long chain of deltas"))
}

/// Reads a pack from start to end: decompresses each entry, and hashes complete objects.
fn scan(file: &File, body: u64, format: Format, budget: &mut Budget) -> Result<(Vec<Entry>, Oid), Refusal> {
    let mut input = Input { file, at: 0, end: body, buffer: vec![0; 1 << 16], from: 0, to: 0, crc: Crc::new(), hasher: format.hasher() };
    let mut head = [0; 12];
    input.read_exact(&mut head).map_err(|_| Refusal("is cut off"))?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_be_bytes);
    if &head[..4] != b"PACK" || !matches!(number(&head[4..8]), 2 | 3) {
        return Err(Refusal("is not a pack"));
    }
    let count = number(&head[8..]);
    if count > MAX_OBJECTS || u64::from(count) > body / 4 {
        return Err(Refusal("states more objects than its size allows"));
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(scan_entry(&mut input, format, budget)?);
    }
    if input.position() != body {
        return Err(Refusal("has trailing data after its last object"));
    }
    Ok((entries, input.hasher.finish().ok_or(Refusal("is a SHA-1 collision attack"))?))
}

/// Reads the start of the entry at `offset`: its base, and the size of its data.
fn entry_start(input: &mut Input<'_>, offset: u64, format: Format) -> Result<(Base, u64), Refusal> {
    let (kind, size) = entry_header(input)?;
    let base = match kind {
        1 => Base::Whole("commit"),
        2 => Base::Whole("tree"),
        3 => Base::Whole("blob"),
        4 => Base::Whole("tag"),
        6 => {
            let back = distance(input)?;
            Base::Offset(offset.checked_sub(back).filter(|base| *base < offset).ok_or(Refusal("has a delta without a base"))?)
        }
        7 => {
            let mut name = vec![0; format.bytes()];
            input.read_exact(&mut name).map_err(|_| Refusal("is cut off"))?;
            Base::Name(format.raw(&name).ok_or(Refusal("is cut off"))?)
        }
        _ => return Err(Refusal("has an object of an unknown type")),
    };
    Ok((base, size))
}

fn scan_entry(input: &mut Input<'_>, format: Format, budget: &mut Budget) -> Result<Entry, Refusal> {
    input.crc.reset();
    let offset = input.position();
    let (base, size) = entry_start(input, offset, format)?;
    budget.take(size)?;
    let data = input.position();
    let mut hasher = match base {
        Base::Whole(kind) => {
            let mut hasher = format.hasher();
            hasher.update(format!("{kind} {size}\0").as_bytes());
            Some(hasher)
        }
        Base::Offset(_) | Base::Name(_) => None,
    };
    inflate(&mut *input, size, &mut |bytes| {
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    })?;
    let oid = match hasher.map(Hasher::finish) {
        Some(None) => return Err(Refusal("has an object that is a SHA-1 collision attack")),
        Some(oid) => oid,
        None => None,
    };
    Ok(Entry { offset, data, size, crc: input.crc.sum(), base, oid })
}

/// Decompresses exactly `size` bytes.
fn inflate(input: impl BufRead, size: u64, each: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
    let mut decoder = ZlibDecoder::new(input);
    let mut buffer = vec![0; 1 << 15];
    let mut got = 0;
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) if got == size => return Ok(()),
            Ok(0) => return Err(Refusal("has an object that is shorter than its header states")),
            Ok(read) => {
                got += read as u64;
                if got > size {
                    return Err(Refusal("has an object that is longer than its header states"));
                }
                each(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal("has invalid zlib data")),
        }
    }
}

/// Hashes the deltas, from each complete object down to the objects based on it.
fn resolve(file: &File, entries: &mut [Entry], format: Format, budget: &mut Budget) -> Result<(), Refusal> {
    let places: HashMap<u64, usize> = entries.iter().enumerate().map(|(number, entry)| (entry.offset, number)).collect();
    let mut of_entry: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut of_name: BTreeMap<Oid, Vec<usize>> = BTreeMap::new();
    for (number, entry) in entries.iter().enumerate() {
        match entry.base {
            Base::Whole(_) => {}
            Base::Offset(offset) => {
                let base = places.get(&offset).ok_or(Refusal("has a delta without a base"))?;
                of_entry.entry(*base).or_default().push(number);
            }
            Base::Name(name) => of_name.entry(name).or_default().push(number),
        }
    }
    let mut take = |number: usize, oid: Oid| {
        let mut made = of_entry.remove(&number).unwrap_or_default();
        made.extend(of_name.remove(&oid).unwrap_or_default());
        made
    };
    let mut held: u64 = 0;
    for root in 0..entries.len() {
        let (Base::Whole(kind), Some(oid)) = (entries[root].base, entries[root].oid) else { continue };
        let made = take(root, oid);
        if made.is_empty() {
            continue;
        }
        let content = unpack(file, &entries[root], format)?;
        held += content.len() as u64;
        let mut stack = vec![(content, made)];
        while let Some((content, mut made)) = stack.pop() {
            let Some(number) = made.pop() else {
                held -= content.len() as u64;
                continue;
            };
            let difference = unpack(file, &entries[number], format)?;
            let result = apply(&content, &difference, budget)?;
            if made.is_empty() {
                held -= content.len() as u64;
            } else {
                stack.push((content, made));
            }
            let oid = format.of_object(kind, &result).ok_or(Refusal("has an object that is a SHA-1 collision attack"))?;
            entries[number].oid = Some(oid);
            let below = take(number, oid);
            if !below.is_empty() {
                held += result.len() as u64;
                if held > MAX_HELD_BYTES {
                    return Err(Refusal("exceeds the memory limit for a pack"));
                }
                stack.push((result, below));
            }
        }
    }
    Ok(())
}

/// Decompresses an entry into memory; its size was verified before.
fn unpack(file: &File, entry: &Entry, format: Format) -> Result<Vec<u8>, Refusal> {
    if entry.size > MAX_DELTA_BYTES {
        return Err(Refusal("has deltas of a too large object"));
    }
    let mut input =
        Input { file, at: entry.data, end: u64::MAX, buffer: vec![0; 1 << 14], from: 0, to: 0, crc: Crc::new(), hasher: format.hasher() };
    let mut content = Vec::new();
    inflate(&mut input, entry.size, &mut |bytes| content.extend_from_slice(bytes))?;
    Ok(content)
}

/// Applies a delta.
fn apply(base: &[u8], difference: &[u8], budget: &mut Budget) -> Result<Vec<u8>, Refusal> {
    const WRONG: Refusal = Refusal("has an invalid delta");
    let mut left = difference;
    if size(&mut left).ok_or(WRONG)? != base.len() as u64 {
        return Err(WRONG);
    }
    let expect = size(&mut left).ok_or(WRONG)?;
    if expect > MAX_DELTA_BYTES {
        return Err(Refusal("has deltas of a too large object"));
    }
    budget.take(expect)?;
    let mut result = Vec::new();
    while let Some((&byte, rest)) = left.split_first() {
        left = rest;
        let piece = if byte & 0x80 != 0 {
            let mut number = |bits: std::ops::Range<u32>| -> Option<usize> {
                let mut value = 0;
                for (shift, bit) in bits.enumerate() {
                    if byte & 1 << bit != 0 {
                        let (&next, rest) = left.split_first()?;
                        left = rest;
                        value |= usize::from(next) << (8 * shift);
                    }
                }
                Some(value)
            };
            let from = number(0..4).ok_or(WRONG)?;
            let len = number(4..7).ok_or(WRONG)?;
            base.get(from..from + if len == 0 { 0x10000 } else { len }).ok_or(WRONG)?
        } else {
            let (piece, rest) = left.split_at_checked(usize::from(byte)).filter(|_| byte != 0).ok_or(WRONG)?;
            left = rest;
            piece
        };
        if (result.len() + piece.len()) as u64 > expect {
            return Err(WRONG);
        }
        result.extend_from_slice(piece);
    }
    if result.len() as u64 == expect { Ok(result) } else { Err(WRONG) }
}

/// Parses the type and size of an entry.
fn entry_header(input: &mut Input<'_>) -> Result<(u8, u64), Refusal> {
    let first = input.byte()?;
    let mut size = u64::from(first & 15);
    let (mut more, mut shift) = (first & 0x80 != 0, 4);
    while more {
        let byte = input.byte()?;
        if shift > 57 {
            return Err(Refusal("has an object of an invalid size"));
        }
        size |= u64::from(byte & 0x7f) << shift;
        more = byte & 0x80 != 0;
        shift += 7;
    }
    Ok((first >> 4 & 7, size))
}

/// Parses the distance of a delta to its base.
fn distance(input: &mut Input<'_>) -> Result<u64, Refusal> {
    let mut byte = input.byte()?;
    let mut value = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = input.byte()?;
        if value >= 1 << 55 {
            return Err(Refusal("has a delta without a base"));
        }
        value = (value + 1) << 7 | u64::from(byte & 0x7f);
    }
    Ok(value)
}

/// Parses a size in a delta.
fn size(left: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = left.split_first()?;
        *left = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 57)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
}

/// The bytes of a pack in order; each is hashed when used.
struct Input<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    crc: Crc,
    hasher: Hasher,
}

impl Input<'_> {
    fn position(&self) -> u64 {
        self.at - (self.to - self.from) as u64
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        let mut byte = [0];
        self.read_exact(&mut byte).map_err(|_| Refusal("is cut off"))?;
        Ok(byte[0])
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.from == self.to {
            let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = self.file.read_at(&mut self.buffer[..room], self.at)?;
            (self.from, self.to) = (0, read);
            self.at += read as u64;
        }
        Ok(&self.buffer[self.from..self.to])
    }

    fn consume(&mut self, amount: usize) {
        let used = &self.buffer[self.from..self.from + amount];
        self.crc.update(used);
        // A second read of an entry has an open end and needs no hash.
        if self.end != u64::MAX {
            self.hasher.update(used);
        }
        self.from += amount;
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let have = self.fill_buf()?;
        let len = have.len().min(into.len());
        into[..len].copy_from_slice(&have[..len]);
        self.consume(len);
        Ok(len)
    }
}
