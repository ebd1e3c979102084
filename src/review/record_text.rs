//! Texts of paths and digests in JSON records. Paths may have any bytes: `%` and bytes that are not UTF-8 are escaped as in a URL.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Escapes a path.
fn escape(path: &Path) -> String {
    let mut text = String::with_capacity(path.as_os_str().len());
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text += &chunk.valid().replace('%', "%25");
        chunk.invalid().iter().for_each(|byte| text += &format!("%{byte:02x}"));
    }
    text
}

/// Parses the output of [`escape`].
fn unescape(text: &str) -> Option<PathBuf> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = (part.get(..2)?, part.get(2..)?);
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.bytes());
    }
    Some(OsString::from_vec(bytes).into())
}

/// A path.
pub mod escaped_path {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::escape(path))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        super::unescape(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("it is not a path"))
    }
}

/// A list of paths.
pub mod escaped_paths {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| super::escape(path)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let paths = Vec::<String>::deserialize(from)?;
        paths.iter().map(|text| super::unescape(text).ok_or_else(|| D::Error::custom("it is not a path"))).collect()
    }
}

/// A digest, or none.
pub mod digest {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use silo_store::digest::Digest;

    pub fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        digest.map(|digest| digest.to_string()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| Digest::parse(&text).map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_of_any_bytes_survives() {
        for bytes in [&b"a/b"[..], b"", b"50%/%25", b"\xff\xfe/\n\"\0x", "\u{e9}\u{202e}".as_bytes(), b"\xe9%"] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(unescape(&escape(path)).as_deref(), Some(path), "{path:?}");
        }
        for text in ["%", "%2", "%zz", "%+1", "%2\u{e9}"] {
            assert_eq!(unescape(text).filter(|path| escape(path) == text), None, "{text}");
        }
    }
}
