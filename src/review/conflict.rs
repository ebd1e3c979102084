//! Finds conflicts: changes of files that also changed here since the review first saw them. A conflict is never applied.

use std::path::Path;

use rustix::fs::{Access, AtFlags, accessat, fgetxattr};

use silo_guard::git::dir_fd::{Dir, Kind};

use crate::base::Base;
use crate::changes::{Change, Entry, What};
use crate::mark::{Known, Mark};

/// Maximum number of files of a removed directory that are compared.
const MAX_FILES: usize = 1_000_000;

/// Inputs of a search.
pub struct Given<'a> {
    /// The project.
    pub project: &'a Dir,
    /// The upper directory.
    pub upper: &'a Dir,
    /// Marks of the project's files.
    pub base: Option<&'a Base>,
    /// Start of the review.
    pub since: i128,
}

/// Returns the reason why a change conflicts with a change here.
pub fn find(given: &Given<'_>, change: &Change) -> Option<String> {
    let path = &change.path;
    let own = compare(given, path, change.before.as_ref(), given.base.and_then(|base| base.get(path)));
    let own = own.or_else(|| {
        let is_dir_gone = change.before.as_ref().is_some_and(|before| before.kind == Kind::Dir)
            && change.after.as_ref().is_none_or(|after| after.kind != Kind::Dir);
        if is_dir_gone { inside(given, path) } else { None }
    });
    own.or_else(|| {
        if change.what != What::Mode && is_locked(given.project, path) {
            Some("its directory cannot be written here".to_owned())
        } else {
            None
        }
    })
}

/// True if this user may not change the entries of the directory around a path. One that does not exist comes with the change.
fn is_locked(project: &Dir, path: &Path) -> bool {
    project.parent(path).is_ok_and(|(dir, _)| accessat(&dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_err())
}

/// Compares a file with its mark.
fn compare(given: &Given<'_>, path: &Path, now: Option<&Entry>, mark: Option<&Mark>) -> Option<String> {
    let conflict = |what: &str| Some(what.to_owned());
    match (given.base, now, mark) {
        (Some(_), None, None) => None,
        (Some(_), None, Some(_)) => conflict("it was removed here"),
        (Some(_), Some(_), None) => conflict("it was created here"),
        (Some(_), Some(_), Some(Mark::Unknown)) => conflict("it changed here"),
        (Some(_), Some(now), Some(Mark::Known(known))) => (state(now) != *known).then(|| "it changed here".to_owned()),
        // Without marks the times remain: no program can choose the time of the last change.
        (None, Some(now), _) => (now.changed >= given.since && now.kind != Kind::Dir).then(|| "it may have changed here".to_owned()),
        (None, None, _) => is_copy(given.upper, path).then(|| "it was removed here".to_owned()),
    }
}

/// Finds a file that changed here in a directory that the change removes.
fn inside(given: &Given<'_>, path: &Path) -> Option<String> {
    let mut left = MAX_FILES;
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(opened) = given.project.dir(&dir) else { return Some("it cannot be read here".to_owned()) };
        let Ok(names) = opened.list(left) else { return Some("it has too many files here".to_owned()) };
        left -= names.len();
        for name in names {
            let whole = dir.join(&name);
            let now = crate::changes::entry(&opened, &name).ok().flatten();
            let reason = compare(given, &whole, now.as_ref(), given.base.and_then(|base| base.get(&whole)));
            if let Some(reason) = reason {
                return Some(format!("of {}: {reason}", silo_base::sanitize::path(&whole)));
            }
            if now.is_some_and(|now| now.kind == Kind::Dir) {
                dirs.push(whole);
            }
        }
    }
    None
}

/// Returns the state of an entry.
fn state(entry: &Entry) -> Known {
    let is_dir = entry.kind == Kind::Dir;
    Known {
        kind: entry.kind,
        mode: entry.mode,
        inode: entry.inode,
        size: if is_dir { 0 } else { entry.size },
        changed: if is_dir { 0 } else { entry.changed },
    }
}

/// True if overlayfs copied the file from the project.
fn is_copy(upper: &Dir, path: &Path) -> bool {
    let mut value = [0u8; 256];
    upper.file(path).is_ok_and(|(file, _)| fgetxattr(&file, "user.overlay.origin", &mut value[..]).is_ok())
}
