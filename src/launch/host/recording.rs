//! Opens the files of a recording in the broker's process, before it is confined.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use silo_store::read_limited;

use crate::broker::recording::{Error, Recorder};
use crate::spec::recording::Recording;

/// Limit on the size of the bundle of CA certificates; Debian's has 0.2 MB.
const MAX_ROOTS_BYTES: u64 = 16 << 20;

/// Opens the files.
pub fn open(recording: &Recording) -> Result<Arc<Recorder>, Error> {
    let bundle = read_limited::read(&recording.roots, MAX_ROOTS_BYTES)?;
    let into = OpenOptions::new().append(true).create(true).mode(0o600).open(&recording.into)?;
    let (authority, except) = (recording.authority.clone(), recording.except.clone());
    Ok(Arc::new(Recorder::new(authority, &bundle, except, (into, recording.max_bytes), recording.from.as_deref())?))
}
