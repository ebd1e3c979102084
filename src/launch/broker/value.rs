//! The value of a secret.

use std::fmt;

/// Longest value: tokens have at most a few thousand bytes, and servers accept heads of 8 KiB.
pub const MAX_VALUE_BYTES: usize = 8 << 10;
/// Shortest value: a shorter one occurs in other headers by accident.
const MIN_VALUE_BYTES: usize = 4;

/// The value of a secret. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Vec<u8>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value")
    }
}

/// Reasons to refuse a value. None contains a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short.
    #[error("the value has less than {MIN_VALUE_BYTES} bytes")]
    Short,
    /// Too long.
    #[error("the value has more than {MAX_VALUE_BYTES} bytes")]
    Long,
    /// Not a value of a header.
    #[error("the value has bytes other than printable ASCII")]
    Form,
}

impl Value {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Checks a value; removes the line end of a file or a command.
    pub fn parse(mut bytes: Vec<u8>) -> Result<Value, Error> {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        match bytes.len() {
            0..MIN_VALUE_BYTES => Err(Error::Short),
            _ if bytes.len() > MAX_VALUE_BYTES => Err(Error::Long),
            _ if !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) => Err(Error::Form),
            _ => Ok(Value(bytes)),
        }
    }
}
