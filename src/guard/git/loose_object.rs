//! A loose object: one compressed file, verified against its id by streaming, never completely in memory.

use std::io::{self, BufReader, Read};

use flate2::bufread::ZlibDecoder;

use super::Refusal;
use super::budget::Budget;
use super::oid::{Format, Oid};

/// Longest header: a type, a number of twenty digits, a zero.
const MAX_HEADER_BYTES: usize = 32;

/// Verifies that a file contains the complete object of this id and nothing after it.
pub fn verify(file: impl Read, oid: Oid, format: Format, budget: &mut Budget) -> Result<(), Refusal> {
    let mut decoder = ZlibDecoder::new(BufReader::new(file));
    let mut buffer = vec![0; 1 << 16];
    let mut have = 0;
    // The header is short, but the decoder may return it in parts.
    let end = loop {
        let read =
            decoder.read(buffer.get_mut(have..MAX_HEADER_BYTES).unwrap_or_default()).map_err(|_| Refusal("has invalid zlib data"))?;
        have += read;
        if let Some(end) = buffer[..have].iter().position(|byte| *byte == 0) {
            break end;
        }
        if read == 0 {
            return Err(Refusal("has no header"));
        }
    };
    let size = header(&buffer[..end]).ok_or(Refusal("has an invalid header"))?;
    budget.take(size)?;
    let mut hasher = format.hasher();
    hasher.update(&buffer[..have]);
    let mut got = (have - end - 1) as u64;
    loop {
        if got > size {
            return Err(Refusal("is longer than its header states"));
        }
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                got += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal("has invalid zlib data")),
        }
    }
    if got != size {
        return Err(Refusal("is shorter than its header states"));
    }
    let mut rest = decoder.into_inner();
    if !matches!(rest.read(&mut [0]), Ok(0)) {
        return Err(Refusal("has trailing data"));
    }
    if hasher.finish() == Some(oid) { Ok(()) } else { Err(Refusal("does not match its id")) }
}

/// Reads an object of at most this many bytes, without comparing it with its id. Returns its type and its content.
pub fn read(file: impl Read, most: u64, budget: &mut Budget) -> Result<(&'static str, Vec<u8>), Refusal> {
    let decoder = ZlibDecoder::new(BufReader::new(file));
    let mut bytes = Vec::new();
    let read = decoder.take(most.saturating_add(MAX_HEADER_BYTES as u64)).read_to_end(&mut bytes);
    // A broken object costs its time, too.
    budget.take(bytes.len() as u64)?;
    read.map_err(|_| Refusal("has invalid zlib data"))?;
    let end = bytes.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == 0).ok_or(Refusal("has no header"))?;
    let (kind, size) = kind_and_size(&bytes[..end]).ok_or(Refusal("has an invalid header"))?;
    bytes.drain(..=end);
    if bytes.len() as u64 == size { Ok((kind, bytes)) } else { Err(Refusal("has another length than its header states")) }
}

/// Parses a header without its zero: type and size. Returns the size.
fn header(text: &[u8]) -> Option<u64> {
    kind_and_size(text).map(|(_, size)| size)
}

fn kind_and_size(text: &[u8]) -> Option<(&'static str, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (kind, size) = text.split_once(' ')?;
    let kind = *["blob", "tree", "commit", "tag"].iter().find(|known| **known == kind)?;
    let is_plain = size == "0" || !size.starts_with(['0', '+']);
    if is_plain { Some((kind, size.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    #[test]
    fn only_objects_that_match_their_name_are_accepted() {
        let format = Format::Sha1;
        let hello = format.of_object("blob", b"hello\n").expect("no attack");
        let check = |bytes: &[u8], oid| verify(bytes, oid, format, &mut Budget::new(1 << 20));
        let good = packed(b"blob 6\0hello\n");
        assert_eq!(check(&good, hello), Ok(()));
        let empty = format.of_object("tree", b"").expect("no attack");
        assert_eq!(check(&packed(b"tree 0\0"), empty), Ok(()));
        let big = vec![b'x'; 300_000];
        let oid = format.of_object("blob", &big).expect("no attack");
        assert_eq!(check(&packed(&[b"blob 300000\0", &big[..]].concat()), oid), Ok(()));
        for (bytes, why) in [
            (packed(b"blob 7\0hello\n"), "shorter"),
            (packed(b"blob 5\0hello\n"), "longer"),
            (packed(b"blob 6\0hallo\n"), "does not match its id"),
            (packed(b"blub 6\0hello\n"), "header"),
            (packed(b"blob 06\0hello\n"), "header"),
            (packed(b"blob +6\0hello\n"), "header"),
            (packed(&[b'b'; 100]), "header"),
            (packed(b""), "header"),
            ([&good[..], b"x"].concat(), "trailing data"),
            (good[..good.len() - 5].to_vec(), "invalid zlib"),
            (b"blob 6\0hello\n".to_vec(), "invalid zlib"),
            (packed(b"blob 99999999999\0hello\n"), "exceeds"),
        ] {
            let refused = check(&bytes, hello).expect_err(why);
            assert!(refused.0.contains(why), "{why}: {refused}");
        }
    }
}
