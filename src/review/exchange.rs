//! Renames that replace a file only if it is as expected, with an equal for file systems without them.

use std::ffi::{OsStr, OsString};
use std::io;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat_with, statat};
use rustix::io::Errno;

use silo_guard::git::dir_fd::Dir;

use crate::copying;
use crate::plan::Id;

/// Returns the identity of a name in a directory.
pub fn identity_of(dir: &Dir, name: &OsStr) -> io::Result<Option<Id>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Id::of(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Renames to a name that does not exist; `false` if it does.
pub fn move_new(dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<bool> {
    match renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A file system without such renames.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match identity_of(dir, to)? {
            Some(_) => Ok(false),
            None => dir.rename(from, to).map(|()| true),
        },
        Err(error) => Err(error.into()),
    }
}

/// Exchanges two names.
pub fn exchange(dir: &Dir, staged: &OsStr, name: &OsStr) -> io::Result<()> {
    match renameat_with(dir, staged, dir, name, RenameFlags::EXCHANGE) {
        // A file system without such renames.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => exchange_by_moves(dir, staged, name),
        done => Ok(done?),
    }
}

/// Exchanges two names with three renames. After a kill between them, [`complete_exchange`] restores one of both states.
fn exchange_by_moves(dir: &Dir, staged: &OsStr, name: &OsStr) -> io::Result<()> {
    let third = third(staged);
    for (from, to) in [(name, third.as_os_str()), (staged, name), (&third, staged)] {
        if !move_new(dir, from, to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
    }
    Ok(())
}

/// Ends an exchange that was killed between its renames: the file with the third name gets its old name back, or its new one.
pub fn complete_exchange(dir: &Dir, staged: &OsStr, name: &OsStr) -> io::Result<()> {
    let third = third(staged);
    if identity_of(dir, &third)?.is_none() {
        return Ok(());
    }
    // With the staged file in place, the second rename is missing. A new file may have the old name.
    let to = if identity_of(dir, staged)?.is_some() { name } else { staged };
    move_new(dir, &third, to).map(drop)
}

/// Returns the name of a file between the renames of an exchange.
fn third(staged: &OsStr) -> OsString {
    let mut third = staged.to_owned();
    third.push("-old");
    third
}

/// Changes the permissions of a file that is as expected; `false` if it is not.
pub fn change_mode(dir: &Dir, name: &OsStr, before: Id, mode: u32) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = openat(dir, name, flags, Mode::empty())?;
    if Id::of(&rustix::fs::fstat(&opened)?) != before {
        return Ok(false);
    }
    copying::set_mode(&opened, mode).map(|()| true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn an_exchange_without_the_kernel_survives_a_kill_at_each_rename() {
        let (staged, name) = (OsStr::new(".staged"), OsStr::new("name"));
        for renames in 0..=3 {
            let place = tempfile::tempdir().expect("a directory");
            let root = place.path();
            fs::write(root.join("name"), "old").expect("written");
            fs::write(root.join(".staged"), "new").expect("written");
            let dir = Dir::open(root).expect("there");
            let moves = [("name", ".staged-old"), (".staged", "name"), (".staged-old", ".staged")];
            for (from, to) in &moves[..renames] {
                fs::rename(root.join(from), root.join(to)).expect("renamed");
            }
            complete_exchange(&dir, staged, name).expect("completed");
            let texts = || [name, staged].map(|name| fs::read_to_string(root.join(name)).expect("there"));
            let is_done = renames >= 2;
            assert_eq!(texts(), if is_done { ["new", "old"] } else { ["old", "new"] }, "{renames}");
            assert_eq!(dir.list(9).expect("listed").len(), 2);
            exchange_by_moves(&dir, staged, name).expect("exchanged");
            assert_eq!(texts(), if is_done { ["old", "new"] } else { ["new", "old"] }, "{renames}");
        }
    }

    #[test]
    fn a_new_file_with_the_old_name_is_not_overwritten() {
        let place = tempfile::tempdir().expect("a directory");
        for (name, text) in [("name", "of the user"), (".staged", "new"), (".staged-old", "old")] {
            fs::write(place.path().join(name), text).expect("written");
        }
        let dir = Dir::open(place.path()).expect("there");
        complete_exchange(&dir, OsStr::new(".staged"), OsStr::new("name")).expect("looked");
        assert_eq!(dir.read(Path::new("name"), 99).expect("read").as_deref(), Some(&b"of the user"[..]));
        // Without the staged file, the old one takes its place.
        fs::remove_file(place.path().join(".staged")).expect("removed");
        complete_exchange(&dir, OsStr::new(".staged"), OsStr::new("name")).expect("moved");
        assert_eq!(dir.list(9).expect("listed"), [".staged", "name"]);
    }
}
