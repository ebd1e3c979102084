//! The programs that may run in a sandbox: 64-bit ones only, or 32-bit ones too.

use serde::{Deserialize, Serialize};

/// The programs that may run in a sandbox, by their system call interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Abi {
    /// Those of the processor's usual mode. Every other program is killed at its first system call.
    #[default]
    Native,
    /// Also 32-bit programs: i386 on x86-64, ARM on aarch64.
    WithCompat,
}

impl Abi {
    /// Returns the value for an image with packages of this number of foreign architectures.
    pub fn of(foreign: usize) -> Abi {
        if foreign == 0 { Abi::Native } else { Abi::WithCompat }
    }

    pub(super) fn is_native(&self) -> bool {
        *self == Abi::Native
    }
}
