//! Mounts in the guest's view: copies of mounted trees, put on paths that are resolved inside its root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};

use crate::kernel::sys;

/// Flags of every mount that a guest may write to.
pub const HARMLESS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Mounts a path read-only, as [`super::root::enter`] does.
pub fn make_read_only(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    bind_to_itself(root, path, Some(MountAttrFlags::MOUNT_ATTR_RDONLY))
}

/// Mounts an empty directory or file over a path, as [`super::root::enter`] does for hidden paths.
pub fn cover(root: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let tree = if is_dir(target)? {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "mode", "0555")?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?
    } else {
        clone_tree(open_in(root.as_fd(), Path::new("/dev/null"))?.as_fd(), "")?
    };
    move_onto(&tree, target)
}

/// Makes a path a mount point, so that it cannot be renamed or removed.
pub fn bind_to_itself(root: &OwnedFd, path: &Path, flags: Option<MountAttrFlags>) -> Result<(), Errno> {
    let target = open_in(root.as_fd(), path)?;
    let tree = clone_tree(target.as_fd(), "")?;
    if let Some(flags) = flags {
        sys::mount_setattr(tree.as_fd(), u64::from(flags.bits())).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    }
    move_onto(&tree, &target)
}

/// Returns a detached copy of a mounted tree, with all mounts below it.
pub fn clone_tree(at: BorrowedFd<'_>, path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(at, path.as_ref(), flags)
}

/// Mounts a detached tree on a guest path.
pub fn attach(tree: &OwnedFd, root: &OwnedFd, guest: &Path) -> Result<(), Errno> {
    move_onto(tree, &open_in(root.as_fd(), guest)?)
}

/// Mounts a detached tree on an opened directory or file.
pub fn move_onto(tree: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Like [`attach`], and creates the mount point if it is missing in another mount.
pub fn attach_making(tree: &OwnedFd, root: &OwnedFd, guest: &Path) -> Result<(), Errno> {
    match attach(tree, root, guest) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let is_dir = is_dir(tree)?;
    let mut path = PathBuf::from("/");
    let mut parent = open_in(root.as_fd(), &path)?;
    for name in guest.strip_prefix("/").unwrap_or(guest) {
        path.push(name);
        match open_in(root.as_fd(), &path) {
            Err(Errno::NOENT) if is_dir || path != guest => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            }
            Err(Errno::NOENT) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        parent = open_in(root.as_fd(), &path)?;
    }
    attach(tree, root, guest)
}

pub fn is_dir(tree: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory)
}

/// Opens a path as the guest sees it.
pub fn open_in(root: BorrowedFd<'_>, guest: &Path) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, guest, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within)
}
