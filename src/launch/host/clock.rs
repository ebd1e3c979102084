//! The date that a VM gets from its host.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the host's date and time: seconds since 1970, and nanoseconds.
pub fn host_time() -> (i64, u32) {
    // A clock before 1970 is a broken one.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}
