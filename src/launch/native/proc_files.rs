//! Reads files of `/proc`.

use std::fs::File;
use std::io::{self, Read};

/// Most files of `/proc/self` are shorter.
const PROC_BYTES: usize = 4096;

/// Reads a file of `/proc`. It reports no size, and without a buffer it would be read 32 bytes at a time.
pub fn read_proc(path: &str) -> io::Result<String> {
    let mut text = String::with_capacity(PROC_BYTES);
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}
