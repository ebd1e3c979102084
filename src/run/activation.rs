//! What a project's own directories, such as `.venv`, change about a run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::plain;
use crate::recipe::Run;

use super::activate::{self, Active};

/// More links than this lead nowhere, as for the kernel.
const MAX_LINKS: usize = 40;

/// The image's root, and where on the host a path of the project is that a sandbox sees.
type Seen<'a> = (&'a Path, &'a dyn Fn(&Path) -> Option<PathBuf>);

/// Sets the variables of what the tool's rules find in the project, and says what cannot be activated.
pub fn activate(run: &Run, project: &Path, cwd: &Path, seen: Seen<'_>, env: &mut BTreeMap<OsString, OsString>) -> Vec<String> {
    let is_there = |path: &Path| seen.1(path).is_some_and(|real| real.symlink_metadata().is_ok());
    let found = activate::find(&run.activate, project, cwd, is_there);
    let (usable, lost): (Vec<Active<'_>>, Vec<Active<'_>>) = found.into_iter().partition(|active| is_inside(&active.mark(), seen));
    activate::apply(&usable, env);
    let lost = lost.iter().map(|active| {
        let (dir, mark) = (plain::path(&active.dir), active.mark());
        format!("{dir} is not activated: {} leads to nothing in the sandbox\n  try: make {dir} anew with silo", plain::path(&mark))
    });
    lost.collect()
}

/// Whether a path of the project leads, over links, to something that is there inside: of the project, or of the image.
/// A virtual environment that was made outside leads to the machine's own python.
fn is_inside(path: &Path, (root, on_host): Seen<'_>) -> bool {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let real = on_host(&at).unwrap_or_else(|| root.join(at.strip_prefix("/").unwrap_or(&at)));
        match fs::read_link(&real) {
            Ok(to) => at = plain(&at.parent().unwrap_or(&at).join(to)),
            Err(_) => return real.symlink_metadata().is_ok(),
        }
    }
    false
}

/// Takes `.` and `..` out of a path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => plain.push(part),
        }
    }
    plain
}
