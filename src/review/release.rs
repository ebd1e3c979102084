//! Removes changes from a layer, after they were applied or discarded. No program uses the layer at that time.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, XattrFlags, fremovexattr, fsetxattr, unlinkat};

use silo_guard::git::dir_fd::{Dir, Kind, is_absent, mode_of};
use silo_store::{removal, system};

use crate::base::Base;
use crate::copying::with_write;
use crate::error::{Error, at};

/// The attribute of an opaque directory.
const OPAQUE: &str = "user.overlay.opaque";
/// Maximum number of entries of one directory.
const MAX_ENTRIES: usize = 1_000_000;

/// Makes the directories around a path transparent: a whiteout for each hidden file takes the place of the mark of an opaque directory. What
/// a program sees does not change.
pub fn open_around(upper: &Dir, project: &Dir, base: Option<&Base>, path: &Path) -> Result<(), Error> {
    let mut around: Vec<&Path> = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
    around.reverse();
    for dir in around {
        let opened = match upper.dir(dir) {
            Ok(opened) => opened,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(at("open", dir)(error)),
        };
        if opened.is_opaque() {
            open_one(&opened, project, base, dir).map_err(at("change", dir))?;
        }
    }
    Ok(())
}

fn open_one(upper: &Dir, project: &Dir, base: Option<&Base>, dir: &Path) -> io::Result<()> {
    if let Ok(host) = project.dir(dir) {
        let ours = upper.list(MAX_ENTRIES)?;
        for name in host.list(MAX_ENTRIES)? {
            if ours.binary_search(&name).is_ok() {
                let is_dir = |dir: &Dir| Ok::<_, io::Error>(dir.stat(Path::new(&name))?.is_some_and(|stat| Kind::of(&stat) == Kind::Dir));
                if is_dir(upper)? && is_dir(&host)? {
                    let inner = upper.dir(Path::new(&name))?;
                    with_write(&inner, || Ok(fsetxattr(&inner, OPAQUE, b"y", XattrFlags::empty())?))?;
                }
            } else if base.is_none_or(|base| base.get(&dir.join(&name)).is_some()) {
                with_write(upper, || system::make_whiteout(upper, Path::new(&name)))?;
            }
        }
    }
    with_write(upper, || Ok(fremovexattr(upper, OPAQUE)?))
}

/// Removes paths from the layer: files first, then the directories that became empty.
pub fn remove(upper: &Dir, project: &Dir, paths: &[PathBuf]) -> Result<(), Error> {
    for path in paths.iter().rev() {
        let (parent, name) = match upper.parent(path) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(at("open", path)(error)),
        };
        match parent.stat(Path::new(name)).map_err(at("read", path))? {
            None => {}
            Some(stat) if Kind::of(&stat) == Kind::Dir => remove_empty(&parent, Path::new(name), project, path),
            Some(_) => with_write(&parent, || Ok(unlinkat(&parent, name, AtFlags::empty())?)).map_err(at("remove", path))?,
        }
        for dir in path.ancestors().skip(1).take_while(|dir| !dir.as_os_str().is_empty()) {
            let Ok((parent, name)) = upper.parent(dir) else { break };
            remove_empty(&parent, Path::new(name), project, dir);
        }
    }
    Ok(())
}

/// Removes an empty directory of the layer that adds nothing to the project's.
fn remove_empty(parent: &Dir, name: &Path, project: &Dir, path: &Path) {
    let same = |one: &Dir| one.own_stat().map(|stat| mode_of(&stat) & 0o777).ok();
    let Ok(ours) = parent.dir(name) else { return };
    let is_same = project.dir(path).is_ok_and(|host| same(&host) == same(&ours));
    if is_same && !ours.is_opaque() {
        // One with files stays.
        let _ = with_write(parent, || match parent.remove_dir(name.as_os_str()) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        });
    }
}

/// Removes a path from the layer with everything below it.
pub fn remove_whole(upper: &Dir, path: &Path) -> Result<(), Error> {
    let remove = |parent: &Dir, name: &OsStr| {
        let removed = || removal::remove_at(parent.as_fd(), name, path).map_err(|error| io::Error::new(error.source.kind(), error));
        with_write(parent, removed).map_err(at("remove", path))
    };
    match upper.parent(path) {
        Ok((parent, name)) => remove(&parent, name),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(at("open", path)(error)),
    }
}
