//! Checks the headers of an `ar` archive as they are read. The parser allocates a table of names of the size in its header, which may be
//! gigabytes in a file of a few bytes.

use std::io::{self, ErrorKind, Read};

/// Limit on a table of names, and on one name behind a header.
const MAX_NAMES_BYTES: u64 = 1 << 20;
/// Length of the archive's magic number, and of a member's header (ar(5)).
const MAGIC_BYTES: u64 = 8;
const HEADER_BYTES: usize = 60;

/// A reader of an archive that refuses a header with too large a table of names.
#[derive(Debug)]
pub struct CheckedHeaders<R> {
    inner: R,
    header: [u8; HEADER_BYTES],
    /// Bytes of the current header so far.
    have: usize,
    /// Bytes before the next header.
    skip: u64,
}

impl<R: Read> CheckedHeaders<R> {
    /// Reads an archive from its beginning.
    pub fn new(inner: R) -> CheckedHeaders<R> {
        CheckedHeaders { inner, header: [0; HEADER_BYTES], have: 0, skip: MAGIC_BYTES }
    }

    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let length = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            let length = bytes.len().min(HEADER_BYTES - self.have);
            self.header[self.have..self.have + length].copy_from_slice(&bytes[..length]);
            self.have += length;
            bytes = &bytes[length..];
            if self.have == HEADER_BYTES {
                self.have = 0;
                let size = number(&self.header[48..58]);
                let names = match &self.header[..16] {
                    [b'#', b'1', b'/', length @ ..] => number(length),
                    [b'/', b'/', ..] => size,
                    _ => 0,
                };
                if names > MAX_NAMES_BYTES {
                    let message = format!("its names have {names} bytes, more than {MAX_NAMES_BYTES}");
                    return Err(io::Error::new(ErrorKind::InvalidData, message));
                }
                // Members begin at even offsets.
                self.skip = size.saturating_add(size % 2);
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for CheckedHeaders<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.look(&buffer[..length])?;
        Ok(length)
    }
}

/// Reads a decimal number; the parser refuses anything else.
fn number(field: &[u8]) -> u64 {
    std::str::from_utf8(field).ok().and_then(|text| text.trim_end_matches(' ').parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: &str) -> Vec<u8> {
        format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644).into_bytes()
    }

    fn read(members: &[&[u8]]) -> Result<usize, ErrorKind> {
        let bytes = [&b"!<arch>\n"[..], &members.concat()].concat();
        let mut archive = ar::Archive::new(CheckedHeaders::new(&bytes[..]));
        let mut count = 0;
        while let Some(entry) = archive.next_entry() {
            io::copy(&mut entry.map_err(|error| error.kind())?, &mut io::sink()).map_err(|error| error.kind())?;
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn a_table_of_names_is_bounded() {
        let name = header("debian-binary", "4");
        assert_eq!(read(&[&name, b"2.0\n", &header("a", "3"), b"abc\n", &header("//", "4"), b"long", &header("/0", "2"), b"xy"]), Ok(3));
        for huge in [header("//", "9999999999"), header("#1/9999999999", "9999999999"), header("#1/1048577", "1048577")] {
            assert_eq!(read(&[&name, b"2.0\n", &huge]), Err(ErrorKind::InvalidData));
        }
    }
}
