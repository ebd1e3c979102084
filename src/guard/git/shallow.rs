//! Judges the list of commits at which a shallow fetch cut off the history: git takes these commits for ones without parents.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::dir_fd::Dir;
use super::object_store::ObjectStore;
use super::oid::{Format, Oid};
use super::start_state::MAX_STATE_BYTES;

/// Limit on the bytes of all its new commits.
const MAX_COMMITS_BYTES: u64 = 64 << 20;

/// Kind of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is no list of commits.
    Invalid,
    /// The host has a parent of one of its commits, or silo cannot read one: git would hide commits that are here, and remove them later.
    Hides,
    /// The host lacks the parents of all new ones.
    OfNew,
}

/// Judges the list of a layer.
pub fn judge(layer: &Dir, common: &Dir, format: Format, bytes: &[u8]) -> io::Result<Cut> {
    let Some(cut) = commits(bytes, format) else { return Ok(Cut::Invalid) };
    let host = common.read(Path::new("shallow"), MAX_STATE_BYTES)?.unwrap_or_default();
    let known = commits(&host, format).unwrap_or_default();
    let mut store = ObjectStore::open(layer, common, format, MAX_COMMITS_BYTES);
    let hides = cut.difference(&known).any(|commit| !store.lacks_parents(commit));
    Ok(if hides { Cut::Hides } else { Cut::OfNew })
}

fn commits(bytes: &[u8], format: Format) -> Option<BTreeSet<Oid>> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| format.parse(line)).collect()
}
