//! Renames that replace a file only if it is as expected, with an equal for file systems without them.

use std::ffi::OsStr;
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
pub fn exchange(dir: &Dir, one: &OsStr, other: &OsStr) -> io::Result<()> {
    match renameat_with(dir, one, dir, other, RenameFlags::EXCHANGE) {
        // A file system without such renames.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let mut third = one.to_owned();
            third.push("-old");
            dir.rename(other, &third)?;
            dir.rename(one, other)?;
            dir.rename(&third, one)
        }
        done => Ok(done?),
    }
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
