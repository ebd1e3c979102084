//! Byte-exact text in JSON: a string if it is UTF-8, otherwise a list of byte values.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

/// The content of a file, serialized as text if it is UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl From<OsString> for Bytes {
    fn from(text: OsString) -> Bytes {
        Bytes(text.into_vec())
    }
}

impl AsRef<OsStr> for Bytes {
    fn as_ref(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

impl Text {
    fn of(text: &OsStr) -> Text {
        match text.to_str() {
            Some(utf8) => Text::Utf8(utf8.to_owned()),
            None => Text::Bytes(text.as_bytes().to_vec()),
        }
    }

    fn into_os(self) -> OsString {
        match self {
            Text::Utf8(utf8) => OsString::from(utf8),
            Text::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

/// For `#[serde(with)]`: one path, argument or content.
pub mod one {
    use serde::{Deserializer, Serializer};

    use crate::spec::text::{Deserialize, OsStr, OsString, Serialize, Text};

    /// Serializes one value.
    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(text: &T, to: S) -> Result<S::Ok, S::Error> {
        Text::of(text.as_ref()).serialize(to)
    }

    /// Deserializes one value.
    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        Ok(Text::deserialize(from)?.into_os().into())
    }
}

/// For `#[serde(with)]`: a path that may be missing.
pub mod perhaps {
    use serde::{Deserializer, Serializer};

    use crate::spec::text::{Deserialize, OsStr, OsString, Serialize, Text};

    /// Serializes an optional value.
    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(text: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        text.as_ref().map(|text| Text::of(text.as_ref())).serialize(to)
    }

    /// Deserializes an optional value.
    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.into_os().into()))
    }
}

/// For `#[serde(with)]`: a list of paths or arguments.
pub mod list {
    use serde::{Deserializer, Serializer};

    use crate::spec::text::{Deserialize, OsStr, OsString, Text};

    /// Serializes a list.
    pub fn serialize<T: AsRef<OsStr>, S: Serializer>(list: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|text| Text::of(text.as_ref())))
    }

    /// Deserializes a list.
    pub fn deserialize<'de, T: From<OsString>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let list = Vec::<Text>::deserialize(from)?;
        Ok(list.into_iter().map(|text| text.into_os().into()).collect())
    }
}

/// For `#[serde(with)]`: variables, as a list of pairs, since a JSON key must be UTF-8.
pub mod map {
    use std::collections::BTreeMap;

    use serde::{Deserializer, Serializer};

    use crate::spec::text::{Deserialize, OsString, Text};

    /// Serializes the variables.
    pub fn serialize<S: Serializer>(map: &BTreeMap<OsString, OsString>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter().map(|(name, value)| (Text::of(name), Text::of(value))))
    }

    /// Deserializes the variables.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<OsString, OsString>, D::Error> {
        let pairs = Vec::<(Text, Text)>::deserialize(from)?;
        Ok(pairs.into_iter().map(|(name, value)| (name.into_os(), value.into_os())).collect())
    }
}
