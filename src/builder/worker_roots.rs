//! Roots that a worker keeps between steps: a composed tree becomes that of the next step by the few changes between them.
//!
//! A step takes a root by a rename, so two steps never share one, and puts it back in the end. The root of a killed step is lost.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::compose::{self, Base, ComposeError, Wanted};
use silo_store::digest::{Digest, LayerId};
use silo_store::flock::SharedLock;
use silo_store::layout::Store;
use silo_store::private;
use silo_store::read_limited;
use silo_store::removal::remove_tree;

/// The most roots that are kept.
const MAX_ROOTS: usize = 8;
/// Limit on a list of layers.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// The tree of a kept root, and the list of its layers.
const TREE: &str = "root";
const LIST: &str = "layers";

/// Composes the root of `layers` at `into`. It changes a kept root in `kept` if there is one with the same start.
pub(super) fn take(
    (store, shared): (&Store, &SharedLock),
    kept: Option<&Path>,
    layers: &[LayerId],
    into: &Path,
) -> Result<(), ComposeError> {
    let nothing = |_: u64| {};
    if let Some(base) = kept.and_then(|kept| taken(store, kept, layers, &into.with_extension("kept"))) {
        if base.layers == layers && fs::rename(&base.tree, into).is_ok() {
            return Ok(());
        }
        // A damaged root is composed again.
        if compose::recompose(store, shared, &base, Wanted { layers, into }, &nothing).is_ok() {
            return Ok(());
        }
    }
    compose::compose(store, shared, layers, into, &nothing).map(drop)
}

/// Takes a kept root, the most similar one, by moving it to `into`.
fn taken(store: &Store, kept: &Path, layers: &[LayerId], into: &Path) -> Option<Base> {
    let mut found: Vec<(usize, PathBuf, Vec<LayerId>)> =
        fs::read_dir(kept).ok()?.flatten().filter_map(|entry| listed(entry.path(), layers)).collect();
    let is_full = found.len() >= MAX_ROOTS;
    found.retain(|(common, ..)| *common > 0 || is_full);
    found.sort_by_key(|(common, ..)| Reverse(*common));
    // Another step may take one in the meantime.
    let (_, _, layers) = found.into_iter().find(|(_, path, _)| fs::rename(path, into).is_ok())?;
    // Damaged layers are reported when the root is composed from nothing.
    let merged = Arc::new(compose::merged(store, &layers).ok()?);
    Some(Base { tree: into.join(TREE), layers, merged })
}

/// Reads the layers of a kept root; returns the number that it has in common from the start.
fn listed(path: PathBuf, layers: &[LayerId]) -> Option<(usize, PathBuf, Vec<LayerId>)> {
    let text = String::from_utf8(read_limited::read(&path.join(LIST), MAX_LIST_BYTES).ok()?).ok()?;
    let has = text.lines().map(LayerId::parse).collect::<Result<Vec<_>, _>>().ok()?;
    Some((has.iter().zip(layers).take_while(|(a, b)| a == b).count(), path, has))
}

/// Puts a root back. A failure only costs the time to compose it again.
pub(super) fn put(kept: &Path, layers: &[LayerId], tree: &Path) {
    let list: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
    let home = tree.with_extension("put");
    let moved = private::make_dir(kept).is_ok()
        && fs::read_dir(kept).is_ok_and(|listing| listing.count() < MAX_ROOTS)
        && private::make_dir(&home).is_ok()
        && private::write(&home.join(LIST), list.as_bytes()).is_ok()
        && fs::rename(tree, home.join(TREE)).is_ok()
        // The name has the process id: equal roots may be kept several times, one for each step at the same time.
        && fs::rename(&home, kept.join(format!("{}-{}", Digest::of(list.as_bytes()), std::process::id()))).is_ok();
    if !moved {
        drop(remove_tree(&home));
    }
}
