//! How much of what a sandbox has compressed is unpacked: a few bytes may stand for any number, and each costs time.

use super::Refusal;

/// Bytes that may still be unpacked.
#[derive(Clone, Debug)]
pub struct Budget(u64);

impl Budget {
    /// Allows so many bytes.
    pub fn new(bytes: u64) -> Budget {
        Budget(bytes)
    }

    /// Takes so many bytes, or nothing if they are not there.
    pub fn take(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.0 = self.0.checked_sub(bytes).ok_or(Refusal("unpacks to more than is taken from one run"))?;
        Ok(())
    }
}
