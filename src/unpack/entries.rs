//! Going through a tar of somebody else's, entry by entry, with what stands before each one bounded.

use std::cell::Cell;
use std::io::{self, Read};

/// Most that may stand before one entry: its header, and the extended headers that the reader of archives
/// holds in memory. Paths are at most 4 KiB.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Hands each entry of a tar to `act`; `failed` tells of what cannot be read. What is in an entry is bounded by whoever
/// reads it.
pub fn each<E>(
    tar: &mut dyn Read,
    failed: impl Fn(io::Error) -> E,
    mut act: impl FnMut(&mut tar::Entry<'_, Allowed<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let left = Cell::new(MAX_HEADER_BYTES);
    let mut tar = tar::Archive::new(Allowed { inner: tar, left: &left });
    let mut entries = tar.entries().map_err(&failed)?;
    loop {
        left.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(&failed)?;
        left.set(u64::MAX);
        act(&mut entry)?;
    }
}

/// Reads the padding behind the last entry.
pub fn padding(tar: &mut dyn Read) -> io::Result<()> {
    io::copy(&mut Allowed { inner: tar, left: &Cell::new(MAX_HEADER_BYTES) }, &mut io::sink()).map(drop)
}

/// Returns a path without `./` before and `/` behind, or `None` for the root itself.
pub fn trimmed(spelled: &[u8]) -> Option<&[u8]> {
    let mut path = spelled;
    while let Some(rest) = path.strip_prefix(b"./") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    (!path.is_empty() && path != b".").then_some(path)
}

/// A reader that ends with an error once its allowance is used up.
pub struct Allowed<'a> {
    inner: &'a mut dyn Read,
    left: &'a Cell<u64>,
}

impl Read for Allowed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a header of more than {MAX_HEADER_BYTES} bytes")));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}
