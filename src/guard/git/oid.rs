//! Object ids with git's two hash functions.

use std::fmt;

use sha1_checked::{CollisionResult, Sha1};
use sha2::{Digest as _, Sha256};

/// Hash function of a repository's object ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// SHA-1: 20 bytes.
    Sha1,
    /// SHA-256: 32 bytes.
    Sha256,
}

/// Object id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid {
    len: u8,
    bytes: [u8; 32],
}

impl Format {
    /// Length of an id in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Format::Sha1 => 20,
            Format::Sha256 => 32,
        }
    }

    /// Parses an id: lower-case hex digits only.
    pub fn parse(self, text: &[u8]) -> Option<Oid> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        if text.len() != self.bytes() * 2 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Oid { len: self.bytes() as u8, bytes })
    }

    /// Makes an id from raw bytes of the right length.
    pub fn raw(self, from: &[u8]) -> Option<Oid> {
        let mut bytes = [0; 32];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        (from.len() == self.bytes()).then_some(Oid { len: self.bytes() as u8, bytes })
    }

    /// Starts a hash.
    pub fn hasher(self) -> Hasher {
        match self {
            Format::Sha1 => Hasher::Sha1(Box::new(Sha1::new())),
            Format::Sha256 => Hasher::Sha256(Sha256::new()),
        }
    }

    /// Returns the id of an object with this type (`blob`, `tree`, ...) and content; `None` for a SHA-1 collision attack.
    pub fn of_object(self, kind: &str, content: &[u8]) -> Option<Oid> {
        let mut hasher = self.hasher();
        hasher.update(format!("{kind} {}\0", content.len()).as_bytes());
        hasher.update(content);
        hasher.finish()
    }
}

impl Oid {
    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// True for the null id: all zeros.
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running hash.
pub enum Hasher {
    /// With git's detection of collision attacks.
    Sha1(Box<Sha1>),
    /// Plain SHA-256.
    Sha256(Sha256),
}

impl Hasher {
    /// Hashes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha1(hasher) => sha1_checked::Digest::update(hasher.as_mut(), bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the hash; `None` for a collision attack.
    pub fn finish(self) -> Option<Oid> {
        match self {
            Hasher::Sha1(hasher) => match hasher.try_finalize() {
                CollisionResult::Ok(hash) => Format::Sha1.raw(&hash),
                CollisionResult::Mitigated(_) | CollisionResult::Collision(_) => None,
            },
            Hasher::Sha256(hasher) => Format::Sha256.raw(&hasher.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_names_that_git_gives_them() {
        for (format, expect) in [
            (Format::Sha1, "ce013625030ba8dba906f756967f9e9ca394464a"),
            (Format::Sha256, "2cf8d83d9ee29543b34a87727421fdecb7e3f3a183d337639025de576db9ebb4"),
        ] {
            let oid = format.of_object("blob", b"hello\n").expect("no attack");
            assert_eq!(oid.to_string(), expect);
            assert_eq!(format.parse(expect.as_bytes()), Some(oid));
            assert_eq!(format.raw(oid.as_bytes()), Some(oid));
            for wrong in [&expect[1..], &expect.to_uppercase(), "", &format!("{expect}0"), &expect.replace('c', "g")] {
                assert_eq!(format.parse(wrong.as_bytes()), None, "{wrong}");
            }
        }
    }
}
