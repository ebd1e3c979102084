//! Copies files and directories between two trees by file descriptor, without following symlinks.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, Gid, Mode, RawMode, Uid};

use silo_guard::git::dir_fd::{Dir, Kind, mode_of};

use crate::changes::Entry;
use crate::error::{Error, at};

/// Permission bits that are copied: never set-id bits.
const MODE_BITS: u32 = 0o777;

/// Copies the entry at `path` of one tree to `name` in a directory of another. Of directories, it copies the paths that `wants` accepts.
pub fn copy(from: &Dir, path: &Path, to: &Dir, name: &Path, wants: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
    let entry = crate::changes::entry_at(from, path).map_err(at("read", path))?;
    let entry = entry.ok_or_else(|| at("read", path)(io::ErrorKind::NotFound.into()))?;
    one(from, path, &entry, to, name)?;
    if entry.kind != Kind::Dir {
        return Ok(());
    }
    // Directories get their permissions last, because files are created in them.
    let mut made = vec![(name.to_owned(), entry.mode)];
    let mut dirs = vec![(path.to_owned(), name.to_owned())];
    while let Some((source, target)) = dirs.pop() {
        let (inner, there) = (from.dir(&source).map_err(at("open", &source))?, to.dir(&target).map_err(at("open", &target))?);
        for child in inner.list(usize::MAX).map_err(at("list", &source))? {
            let whole = source.join(&child);
            if !wants(&whole) {
                continue;
            }
            let Some(entry) = crate::changes::entry(&inner, &child).map_err(at("read", &whole))? else { continue };
            one(from, &whole, &entry, &there, Path::new(&child))?;
            if entry.kind == Kind::Dir {
                made.push((target.join(&child), entry.mode));
                dirs.push((whole, target.join(&child)));
            }
        }
    }
    for (dir, mode) in made.iter().rev() {
        let opened = to.dir(dir).map_err(at("open", dir))?;
        set_mode(&opened, *mode).map_err(at("change the mode of", dir))?;
    }
    Ok(())
}

/// Copies one entry; a directory without its files.
fn one(from: &Dir, path: &Path, entry: &Entry, to: &Dir, name: &Path) -> Result<(), Error> {
    match entry.kind {
        Kind::Dir => fs::mkdirat(to, name, Mode::RWXU).map_err(io::Error::from).map_err(at("create", path)),
        Kind::Link => {
            let target = entry.target.as_deref().ok_or(io::ErrorKind::InvalidData).map_err(|kind| at("read", path)(kind.into()))?;
            fs::symlinkat(target, to, name).map_err(io::Error::from).map_err(at("create", path))
        }
        Kind::File => {
            let (source, stat) = from.file(path).map_err(at("read", path))?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let target = to.create(name.as_os_str(), 0o600).map_err(at("create", path))?;
            let copied = fill(source, target, size, entry.mode);
            copied.map_err(at("copy", path))
        }
        Kind::Socket | Kind::Whiteout | Kind::Other => {
            Err(at("copy", path)(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file, a directory or a symlink")))
        }
    }
}

fn fill(source: File, mut target: File, size: u64, mode: u32) -> io::Result<()> {
    // A file that grows is not read to its end.
    let copied = io::copy(&mut source.take(size), &mut target)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter"));
    }
    set_mode(&target, mode)
}

/// Changes permissions, without set-id bits.
pub fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    #[allow(clippy::unnecessary_cast, reason = "the type has another width on other systems")]
    Ok(fs::fchmod(file, Mode::from_raw_mode((mode & MODE_BITS) as RawMode))?)
}

/// Makes a change in a directory. One without write permission gets that for the time of the change.
pub fn with_write<T>(dir: &Dir, change: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let refused = match change() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        done => return done,
    };
    let mode = mode_of(&dir.own_stat()?) & 0o7777;
    if mode & 0o700 == 0o700 || set_all_bits(dir, mode | 0o700).is_err() {
        return Err(refused);
    }
    let changed = change();
    let restored = set_all_bits(dir, mode);
    changed.and_then(|done| restored.map(|()| done))
}

/// Changes permissions, with set-id bits: for a directory that had them.
#[allow(clippy::unnecessary_cast, reason = "the type has another width on other systems")]
fn set_all_bits(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(fs::fchmod(file, Mode::from_raw_mode(mode as RawMode))?)
}

/// Gives an entry the owner of the one that it replaces, if the caller may.
pub fn set_owner(dir: &Dir, name: &Path, uid: u32, gid: u32) {
    // Only root may, and only root needs it.
    let _ = fs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), fs::AtFlags::SYMLINK_NOFOLLOW);
}
