//! The programs that may run in a sandbox: 64-bit ones only, or 32-bit ones too.

use serde::{Deserialize, Serialize};
use silo_base::system::Arch;

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
    /// Returns the value for an image with packages of these foreign architectures. Programs of the other 64-bit architecture never run.
    pub fn of<'a>(foreign: impl IntoIterator<Item = &'a str>) -> Abi {
        let has_32_bits = foreign.into_iter().any(|name| name.parse::<Arch>().is_err());
        if has_32_bits { Abi::WithCompat } else { Abi::Native }
    }

    pub(super) fn is_native(&self) -> bool {
        *self == Abi::Native
    }
}
