//! SHA-256 digests and ids made of them.
//!
//! There is one textual form, 64 lower-case hex digits, and one parser for it, so one digest cannot have two spellings on disk.

use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The id of a layer: the digest of its canonical tar, which is also its OCI diff id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(Digest);

/// Text that is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a sha-256 digest (64 lower-case hex digits)")]
pub struct DigestError {
    /// The rejected text, shortened for display.
    pub text: String,
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// Returns the digest with these raw bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 lower-case hex digits and nothing else.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Self::parse_bytes(text.as_bytes()).ok_or_else(|| DigestError { text: text.chars().take(80).collect() })
    }

    /// Parses bytes; the index reader calls it directly.
    pub(crate) fn parse_bytes(text: &[u8]) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Digest(bytes))
    }

    /// Returns the 64 hex digits as bytes, without the formatter.
    pub fn hex(&self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut out = [0; 64];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out
    }
}

impl LayerId {
    /// Returns the id for `digest`, which must be that of a canonical tar.
    pub fn new(digest: Digest) -> Self {
        LayerId(digest)
    }

    /// Reads 64 lower-case hex digits and nothing else.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Digest::parse(text).map(LayerId)
    }

    /// Returns the digest.
    pub fn digest(&self) -> Digest {
        self.0
    }

    /// Returns the OCI spelling, `sha256:<hex>`.
    pub fn oci(&self) -> String {
        format!("sha256:{self}")
    }
}

impl Hasher {
    /// Returns a new hasher.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes` to the hash.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all added bytes.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that hashes the read bytes.
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> HashingReader<R> {
    /// Wraps a reader.
    pub fn new(inner: R) -> HashingReader<R> {
        HashingReader { inner, hasher: Hasher::new() }
    }

    /// Returns the wrapped reader.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Returns the digest of the read bytes, and the reader.
    pub fn finish(self) -> (Digest, R) {
        (self.hasher.finish(), self.inner)
    }
}

impl<R: io::Read> io::Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A writer that hashes and counts the written bytes.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W> HashingWriter<W> {
    /// Wraps a writer.
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter { inner, hasher: Hasher::new(), bytes: 0 }
    }

    /// Returns the digest and the number of the written bytes, and the writer.
    pub fn finish(self) -> (Digest, u64, W) {
        (self.hasher.finish(), self.bytes, self.inner)
    }
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), hex);
        assert_eq!(Digest::parse(hex).unwrap(), Digest::of(b"abc"));
        let id = LayerId::parse(hex).unwrap();
        assert_eq!(id.oci(), format!("sha256:{hex}"));
        for bad in
            ["", "ba78", &hex.to_uppercase(), &format!("{hex}0"), &format!(" {}", &hex[1..]), &format!("sha256:{hex}"), &"é".repeat(32)]
        {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
