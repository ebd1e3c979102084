//! Files, directories and mount points that the image lacks, in a layer of their own.
//!
//! The layer is a plain directory in memory that becomes part of the overlay. Writing it is cheap (no copy-up), and for a build step it
//! does not show up in the step's changes. The merged directory takes its mode from this layer, so each directory is created with the mode
//! of the image's directory.
//!
//! This module resolves paths itself, because the overlay does not exist yet. A symlink of the image resolves within the image, never
//! outside it: every open is relative to a layer's descriptor and does not follow symlinks.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags, chmodat, chownat, fchmod, fstat, getxattr, mkdirat, openat, openat2,
    readlinkat, setxattr, symlinkat,
};
use rustix::io::{Errno, write};
use rustix::process::{Gid, Uid};
use silo_store::resolve_in_root::names;

use crate::failure::{Failure, StepContext};

/// Most symlinks followed in one path, as in the kernel.
const SYMLINKS: usize = 40;

/// The attribute with a directory's recorded owner from a build step; copied to our copy of the directory.
const OWNER: &str = "user.silo.owner";

/// The layer to write to and the layers to look up.
pub struct MountPoints<'a> {
    base: BorrowedFd<'a>,
    trees: Vec<BorrowedFd<'a>>,
}

impl<'a> MountPoints<'a> {
    /// Starts with an empty directory `base`; `above` and `below` are the layers around it.
    pub fn new(above: Option<BorrowedFd<'a>>, base: BorrowedFd<'a>, below: &'a [OwnedFd]) -> Result<MountPoints<'a>, Failure> {
        let trees = above.into_iter().chain([base]).chain(below.iter().map(AsFd::as_fd)).collect();
        let top = below.first().map_or(base, AsFd::as_fd);
        let mode = fstat(top).during("inspecting the image's root")?.st_mode;
        let skeleton = MountPoints { base, trees };
        chmodat(base, ".", Mode::from_raw_mode(mode & 0o7777), AtFlags::empty()).during("making the root directory")?;
        Ok(skeleton)
    }

    /// Creates a directory unless it exists.
    pub fn dir(&self, guest: &Path, mode: u32) -> Result<(), Failure> {
        let path = self.resolve(guest)?;
        if self.find(&path)?.is_some_and(|(_, kind, _)| kind == FileType::Directory) {
            return Ok(());
        }
        self.parents(&path)?;
        match mkdirat(self.base, &path, Mode::from_raw_mode(mode & 0o7777)) {
            Err(Errno::EXIST) => Ok(()),
            made => made.during_this(|| format!("making directory {}", guest.display())),
        }
    }

    /// Writes a file, which hides an existing entry.
    pub fn file(&self, guest: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let step = || format!("writing {}", guest.display());
        let path = match (guest.parent(), guest.file_name()) {
            // The last component is not followed: a symlink there is hidden, as a file would be.
            (Some(parent), Some(name)) => self.resolve(parent)?.join(name),
            _ => return Err(Errno::ISDIR).during_this(step),
        };
        self.parents(&path)?;
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(self.base, &path, flags, Mode::from_raw_mode(0o600)).during_this(step)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = write(&file, rest).during_this(step)?;
            rest = &rest[written..];
        }
        fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).during_this(step)
    }

    /// Creates a symlink, which hides an existing entry.
    pub fn symlink(&self, guest: &Path, target: &[u8]) -> Result<(), Failure> {
        let step = || format!("making symlink {}", guest.display());
        let (Some(parent), Some(name)) = (guest.parent(), guest.file_name()) else { return Err(Errno::ISDIR).during_this(step) };
        let path = self.resolve(parent)?.join(name);
        self.parents(&path)?;
        symlinkat(OsStr::from_bytes(target), self.base, &path).during_this(step)
    }

    /// Creates an empty file as a mount point, unless an entry exists.
    pub fn file_mount_point(&self, guest: &Path) -> Result<(), Failure> {
        match self.find(&self.resolve(guest)?)? {
            Some(_) => Ok(()),
            None => self.file(guest, b"", 0o644),
        }
    }

    /// Creates our own copies of a path's parent directories.
    fn parents(&self, path: &Path) -> Result<(), Failure> {
        let mut prefix = PathBuf::new();
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        for name in parent {
            prefix.push(name);
            match mkdirat(self.base, &prefix, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.mirror(&prefix)?,
                Err(Errno::EXIST) => {}
                Err(error) => {
                    return Err(error).during_this(|| format!("making directory /{}", prefix.display()));
                }
            }
        }
        Ok(())
    }

    /// Copies the mode and recorded owner of the image's directory to ours.
    fn mirror(&self, path: &Path) -> Result<(), Failure> {
        let step = || format!("making directory /{}", path.display());
        for tree in self.trees.iter().filter(|tree| tree.as_raw_fd() != self.base.as_raw_fd()) {
            let Some((original, FileType::Directory, mode)) = open_entry(*tree, path)? else { continue };
            let stat = fstat(&original).during_this(step)?;
            if (stat.st_uid, stat.st_gid) != (0, 0) {
                let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
                // An id without a mapping cannot be given.
                let _ = chownat(self.base, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            }
            chmodat(self.base, path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty()).during_this(step)?;
            let mut owner = [0; 64];
            let original = format!("/proc/self/fd/{}", original.as_raw_fd());
            if let Ok(length) = getxattr(original, OWNER, &mut owner) {
                let ours = openat(self.base, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during_this(step)?;
                let ours = format!("/proc/self/fd/{}", ours.as_raw_fd());
                // Without user xattrs on tmpfs (before Linux 6.6) it cannot be stored.
                let _ = setxattr(ours, OWNER, &owner[..length], XattrFlags::empty());
            }
            return Ok(());
        }
        Ok(())
    }

    /// Resolves symlinks within the image; missing components stay as written.
    fn resolve(&self, guest: &Path) -> Result<PathBuf, Failure> {
        let mut left: VecDeque<OsString> = names(guest).map(OsStr::to_owned).collect();
        let mut done = PathBuf::new();
        let mut followed = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(&name);
            let Some((link, FileType::Symlink, _)) = self.find(&done)? else { continue };
            followed += 1;
            if followed > SYMLINKS {
                return Err(Errno::LOOP).during_this(|| format!("resolving {}", guest.display()));
            }
            let target = readlinkat(&link, "", Vec::new()).during_this(|| format!("resolving {}", guest.display()))?;
            let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
            if target.is_absolute() {
                done.clear();
            } else {
                done.pop();
            }
            for name in names(&target).rev() {
                left.push_front(name.to_owned());
            }
        }
        Ok(done)
    }

    /// Looks up a resolved path in all layers, the topmost first.
    ///
    /// Opaque directories are ignored: a directory of a lower layer may then supply the mode for one that hides it, which nothing depends
    /// on.
    fn find(&self, path: &Path) -> Result<Option<(OwnedFd, FileType, u32)>, Failure> {
        for tree in &self.trees {
            if let Some(found) = open_entry(*tree, path)? {
                let whiteout = found.1 == FileType::CharacterDevice;
                return Ok((!whiteout).then_some(found));
            }
        }
        Ok(None)
    }
}

fn open_entry(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<(OwnedFd, FileType, u32)>, Failure> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(tree, path, flags, Mode::empty(), within) {
        Ok(found) => {
            let stat = fstat(&found).during_this(|| format!("inspecting /{}", path.display()))?;
            Ok(Some((found, FileType::from_raw_mode(stat.st_mode), stat.st_mode)))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error).during_this(|| format!("inspecting /{}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("the test has just made it")
    }

    #[test]
    fn symlinks_of_the_image_stay_in_the_image() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (base, image) = (place.path().join("base"), place.path().join("image"));
        fs::create_dir_all(image.join("etc")).expect("made");
        fs::create_dir_all(&base).expect("made");
        fs::create_dir(image.join("run")).expect("made");
        fs::set_permissions(image.join("run"), fs::Permissions::from_mode(0o711)).expect("set");
        symlink("/../../run", image.join("etc/out")).expect("made");
        symlink("../etc/out/", image.join("etc/twice")).expect("made");
        symlink("loop", image.join("etc/loop")).expect("made");
        let below = [open(&image)];
        let open_base = open(&base);
        let skeleton = MountPoints::new(None, open_base.as_fd(), &below).expect("made");

        skeleton.file(Path::new("/etc/twice/deep/file"), b"hello", 0o640).expect("written");
        let written = base.join("run/deep/file");
        assert_eq!(fs::read(&written).expect("there"), b"hello");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode(&written), 0o640);
        assert_eq!(mode(&base.join("run")), 0o711, "our copy has the mode of the image's");

        skeleton.dir(Path::new("/etc"), 0o700).expect("there already");
        assert!(!base.join("etc").exists(), "the image's directory is not copied");
        skeleton.file(Path::new("/etc/out"), b"", 0o644).expect("hides the symlink");
        assert!(base.join("etc/out").symlink_metadata().expect("there").is_file());
        let failure = skeleton.dir(Path::new("/etc/loop/x"), 0o755).expect_err("it is a loop");
        assert_eq!(failure.cause, crate::failure::Cause::Number(libc::ELOOP));
    }
}
