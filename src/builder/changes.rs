//! Captures the changes of a step as a layer. A worker that runs several steps of a chain does the same as this machine.

use std::io;
use std::path::Path;

use silo_store::capture::{self, Capture, Captured, Lower};
use silo_store::commit;
use silo_store::digest::LayerId;
use silo_store::entry::{Kind, Meta};
use silo_store::flock::SharedLock;
use silo_store::layout::Store;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;
use silo_store::rewrite::rewrite;

use super::error::Error;
use super::{java_keystore, scrub};

/// Limit on the size of a Java keystore; Debian's has 170 KB.
const MAX_KEYSTORE_BYTES: u64 = 16 << 20;

/// Returns the layer of a step that changed nothing, if the store has it.
pub(super) fn none(store: &Store, upper: &Path) -> Option<LayerId> {
    let is_empty = std::fs::read_dir(upper).is_ok_and(|mut listing| listing.next().is_none());
    if is_empty { commit::empty_layer(store) } else { None }
}

/// Captures the changes in an overlay's upper directory. `epoch` is the build's SOURCE_DATE_EPOCH.
pub(super) fn capture((store, lock): (&Store, &SharedLock), upper: &Path, lower: Lower<'_>, epoch: i64) -> Result<Captured, Error> {
    date_keystore(upper, epoch)?;
    let changes = Capture { upper, lower, epoch, filter: &filter };
    capture::capture(store, lock, &changes).map_err(|source| Error::store("capturing the step's changes", source))
}

/// Makes a file with embedded dates reproducible: the entries of a Java keystore get the date of `epoch`.
fn date_keystore(upper: &Path, epoch: i64) -> Result<(), Error> {
    let failed = |source| Error::File(PathError { doing: "change", path: upper.join(java_keystore::PATH), source });
    let path = LayerPath::parse(java_keystore::PATH.as_bytes()).map_err(|error| failed(io::Error::other(error.to_string())))?;
    match rewrite(upper, &path, MAX_KEYSTORE_BYTES, |bytes| java_keystore::dated(bytes, epoch)) {
        // No keystore of Java has this size.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(()),
        done => done.map_err(failed),
    }
}

/// Drops files that depend on the time and place of a step.
fn filter(path: &LayerPath, _: &Meta, _: Kind) -> capture::Verdict {
    match scrub::judge(path.as_bytes()) {
        scrub::Verdict::Keep => capture::Verdict::Keep,
        scrub::Verdict::Drop => capture::Verdict::Drop,
    }
}
