//! The refs as a sandbox sees them: the host's at the start, under the sandbox's layer. Reads the layer in overlayfs's format: a whiteout
//! hides the entry below it, an opaque directory all entries of the lower directory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::dir_fd::{Dir, Kind};
use super::oid::Format;
use super::refs::{self, MAX_PACKED_BYTES, Refs};
use super::start_state::{MAX_LOOSE, StartState, value};

/// Maximum depth of ref directories.
const MAX_DEPTH: usize = 32;

/// A sandbox's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Refs.
    pub refs: Refs,
    /// Paths among the refs that are not refs.
    pub strange: BTreeSet<PathBuf>,
}

/// Reads the view of a layer over a repository.
pub fn read_view(upper: &Dir, begin: &StartState, format: Format) -> io::Result<View> {
    let packed = Path::new("packed-refs");
    let mut view = View::default();
    match upper.stat(packed)?.map(|stat| Kind::of(&stat)) {
        None => view.refs = begin.packed.clone(),
        Some(Kind::File) => {
            let (refs, wrong) = refs::parse_packed(&upper.read(packed, MAX_PACKED_BYTES)?.unwrap_or_default(), format);
            view.refs = refs;
            view.strange.extend((wrong > 0).then(|| packed.to_owned()));
        }
        Some(Kind::Whiteout) => {}
        Some(_) => drop(view.strange.insert(packed.to_owned())),
    }
    let mut loose = begin.loose.clone();
    walk(upper, format, &mut loose, &mut view.strange)?;
    view.refs.extend(loose);
    Ok(view)
}

fn walk(upper: &Dir, format: Format, loose: &mut Refs, strange: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let top = PathBuf::from("refs");
    match upper.stat(&top)?.map(|stat| Kind::of(&stat)) {
        Some(Kind::Dir) => {}
        Some(Kind::Whiteout) => {
            loose.clear();
            return Ok(());
        }
        Some(_) => {
            strange.insert(top);
            return Ok(());
        }
        None => return Ok(()),
    }
    let mut left = MAX_LOOSE;
    let mut dirs = vec![(top, 1)];
    while let Some((path, depth)) = dirs.pop() {
        // A program may remove it at the same time.
        let Ok(dir) = upper.dir(&path) else { continue };
        if dir.is_opaque() {
            forget(loose, &path);
        }
        for name in dir.list(left)? {
            left = left.saturating_sub(1);
            let (inner, whole) = (Path::new(&name), path.join(&name));
            let kind = dir.stat(inner)?.map(|stat| Kind::of(&stat));
            if name.as_encoded_bytes().ends_with(b".lock") {
                continue;
            }
            match kind {
                None => {}
                Some(Kind::Dir) if depth < MAX_DEPTH => {
                    loose.retain(|known, _| known.as_str().as_bytes() != whole.as_os_str().as_encoded_bytes());
                    dirs.push((whole, depth + 1));
                }
                Some(Kind::Whiteout) => forget(loose, &whole),
                Some(Kind::File) => match value(&dir, inner, &whole, format) {
                    Some((name, value)) => {
                        forget(loose, &whole);
                        loose.insert(name, value);
                    }
                    None => drop(strange.insert(whole)),
                },
                Some(_) => drop(strange.insert(whole)),
            }
        }
    }
    Ok(())
}

/// Removes a ref and all refs below it.
fn forget(loose: &mut Refs, path: &Path) {
    loose.retain(|name, _| !Path::new(name.as_str()).starts_with(path));
}
