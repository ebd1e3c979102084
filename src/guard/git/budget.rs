//! Limits the decompressed size of a sandbox's data: a few bytes can expand to any size, and each byte costs time.

use super::Refusal;

/// Remaining bytes.
#[derive(Clone, Debug)]
pub struct Budget(u64);

impl Budget {
    /// Allows this many bytes.
    pub fn new(bytes: u64) -> Budget {
        Budget(bytes)
    }

    /// Takes this many bytes; fails if fewer are left.
    pub fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.0 = self.0.checked_sub(bytes).ok_or(Refusal("exceeds the limit of decompressed data for one run"))?;
        Ok(())
    }
}
