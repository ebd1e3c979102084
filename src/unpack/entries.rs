//! Going through a tar of somebody else's, entry by entry, with what stands before each one bounded.

use std::cell::Cell;
use std::io::{self, Read};

/// Most that may stand before one entry: its header, and the extended headers that the reader of archives
/// holds in memory. Paths are at most 4 KiB.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Hands each entry of a tar to `act`; `failed` tells of what cannot be read. What is in an entry is bounded by whoever
/// reads it.
///
/// The last entry may lack the zeros that fill its block, and those that end the archive: umoci leaves them out, and other
/// readers do not mind. What an entry says that it holds must be there.
pub fn each<E>(
    tar: &mut dyn Read,
    failed: impl Fn(io::Error) -> E,
    mut act: impl FnMut(&mut tar::Entry<'_, Allowed<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    let (left, seen, has_ended) = (Cell::new(MAX_HEADER_BYTES), Cell::new(0), Cell::new(false));
    let mut tar = tar::Archive::new(Allowed { inner: tar, left: &left, seen: &seen, has_ended: &has_ended });
    let mut entries = tar.entries().map_err(&failed)?;
    // Where the last entry's contents end, once they were all there.
    let mut whole = None;
    loop {
        left.set(MAX_HEADER_BYTES);
        let entry = match entries.next() {
            None => return Ok(()),
            Some(Err(_)) if has_ended.get() && whole == Some(seen.get()) => return Ok(()),
            Some(entry) => entry,
        };
        let mut entry = entry.map_err(&failed)?;
        left.set(u64::MAX);
        let end = seen.get().checked_add(entry.size());
        act(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(&failed)?;
        whole = end.filter(|end| *end == seen.get());
    }
}

/// Reads the padding behind the last entry.
pub fn padding(tar: &mut dyn Read) -> io::Result<()> {
    let (left, seen, has_ended) = (Cell::new(MAX_HEADER_BYTES), Cell::new(0), Cell::new(false));
    io::copy(&mut Allowed { inner: tar, left: &left, seen: &seen, has_ended: &has_ended }, &mut io::sink()).map(drop)
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
    /// How much was read.
    seen: &'a Cell<u64>,
    /// Whether there is no more.
    has_ended: &'a Cell<bool>,
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
        self.seen.set(self.seen.get() + count as u64);
        self.has_ended.set(count == 0 && most > 0);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(mut bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        each(
            &mut bytes,
            |error| error,
            |entry| {
                let mut text = String::new();
                entry.read_to_string(&mut text)?;
                all.push(text);
                Ok(())
            },
        )?;
        Ok(all)
    }

    #[test]
    fn an_archive_may_end_with_its_last_byte_and_not_before() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in [("a", "first"), ("b", "the last")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).expect("memory takes it");
        }
        let whole = builder.into_inner().expect("memory takes it");
        let end = 512 + 512 + 512 + "the last".len();
        for length in [whole.len(), whole.len() - 512, 2048, end] {
            assert_eq!(contents(&whole[..length]).expect("it is whole"), ["first", "the last"], "{length}");
        }
        for length in [end - 1, 1536 + 1, 1536 - 1, 1024 + 1, 600, 512 + 3, 1] {
            contents(&whole[..length]).expect_err("something is missing");
        }
    }
}
