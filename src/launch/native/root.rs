//! The root file system: an overlay in the sandbox's own mount namespace, and the mounts in it.
//!
//! First, all host files are opened as descriptors. Then one tmpfs (the *scratch*: upper layer, `/dev`, `/dev/shm`, `/tmp`) is attached,
//! because overlayfs accepts only attached layers. Then the overlay is attached within it and becomes the root. The scratch covers the
//! host's `/dev`, a directory that every host has and that is no longer needed by then. So no staging directory is needed, and one unmount
//! removes both the host's root and the scratch. Each unmount waits for all processors, which takes as long as everything else here
//! together.
//!
//! Layers are passed to the kernel as descriptor numbers in `/proc/self/fd`. So `:` and `,` need no escaping, no path is too long, and the
//! guest's mount table shows no host path. Mount points in the guest are opened with `RESOLVE_IN_ROOT`, so a symlink in an image or project
//! cannot point outside.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fstat, mkdirat, open, openat2, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{fchdir, pivot_root};

use super::mount_points::MountPoints;
use super::mounts::{HARMLESS, attach, attach_making, bind_to_itself, clone_tree, is_dir, move_onto, open_in};
use super::owners::{Changes, Owners};
use super::{dev, owners, proc};
use crate::failure::{Failure, StepContext};
use crate::kernel::sys;
use crate::open_checked;
use crate::spec::UNLAYERED;
use crate::spec::host_path::HostPath;
use crate::spec::{Access, Fallback, Overlay, SYMLINK, Spec, Upper};

/// Bytes of tmpfs per inode. An inode costs about 1 KiB of kernel memory that is not counted as size, so the inodes of a full sandbox take
/// at most a quarter more than its limit.
const BYTES_PER_INODE: u64 = 4096;

/// Attempts to open a path whose inode differs from the expected one. An editor that saves by rename causes one mismatch; a program that
/// swaps files in a loop leaves the right file in place in about half of the attempts.
const OPEN_ATTEMPTS: usize = 64;

/// The directory of the layer with other owners' files, beside the directory with the changes.
const OWNERS: &str = "owners";

const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The host's files, opened before any change.
struct Sources {
    lower: Vec<OwnedFd>,
    kept: Option<(OwnedFd, OwnedFd)>,
    mounts: Vec<OwnedFd>,
    devices: dev::Sources,
}

/// Creates the root file system and enters it; `/proc` is not masked yet. With real owners, the result includes the step's directories.
pub fn enter(spec: &Spec, owners: Owners) -> Result<(proc::EmptyDirs, Option<Changes>), Failure> {
    // Later mounts on the host do not propagate into the sandbox.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).during("making mounts private")?;
    let mut sources = open_sources(spec)?;
    let changes = match owners {
        Owners::Real => true_owners(spec, &mut sources)?,
        Owners::Recorded => None,
    };
    let scratch = scratch(spec)?;
    let root = overlay(spec, &sources, &scratch)?;
    let at_root = |name| format!("mounting {name}");
    dev::attach_dev(&root, &scratch, sources.devices)?;
    let no_files = proc::attach_proc(&root, &scratch)?;
    if sources.kept.is_some() {
        let tmp = clone_tree(scratch.as_fd(), "tmp").during_this(|| at_root("/tmp"))?;
        attach(&tmp, &root, Path::new("/tmp")).during_this(|| at_root("/tmp"))?;
    }
    let mut layers: Vec<Layered<'_>> = spec.overlays.iter().map(Layered::new).collect();
    for (mount, tree) in spec.mounts.iter().zip(&sources.mounts) {
        attach_making(tree, &root, &mount.guest)
            .during_this(|| format!("mounting {} on {}", mount.host.path().display(), mount.guest.display()))?;
        // Before later mounts, which are inside it.
        for layer in &mut layers {
            layer.attach_at(&mount.guest, &root)?;
        }
    }
    for layer in &mut layers {
        layer.attach(&root)?;
    }
    protect(spec, &root)?;
    hide(spec, &root, &scratch)?;
    fchdir(&root).during("entering the root")?;
    pivot_root(".", ".").during("changing the root")?;
    // The host's root is now on top of ours, with all its mounts.
    unmount(".", UnmountFlags::DETACH).during("unmounting the host's root")?;
    rustix::process::chdir("/").during("entering the root")?;
    Ok((no_files, changes))
}

/// Prepares the directories of a build step whose ids are real: turns recorded owners of earlier changes into owners, and adds a layer with
/// the image's files of other owners.
fn true_owners(spec: &Spec, sources: &mut Sources) -> Result<Option<Changes>, Failure> {
    let (Upper::Kept { upper, .. }, Some((changes, _))) = (&spec.root.upper, &sources.kept) else { return Ok(None) };
    owners::restore_owners(changes.as_fd())?;
    // Mounts of their own, from which no path leaves the directories.
    let apart = |dir: &OwnedFd| clone_tree(dir.as_fd(), "").during("opening the step's directory");
    let mut made = Changes { dir: apart(changes)?, layer: None, streams: Vec::new() };
    if !spec.owners.is_empty() {
        let layer = match &spec.owners_at {
            Some(at) => kept_owners_layer(spec, sources, at)?,
            None => {
                let dir = upper.parent().unwrap_or_else(|| Path::new("/"));
                let layer = owners_layer(spec, sources, dir, OsStr::new(OWNERS))?;
                made.layer = Some(apart(&layer)?);
                layer
            }
        };
        sources.lower.insert(0, layer);
    }
    Ok(Some(made))
}

/// Makes a layer with the files of other owners in a directory of the host.
fn owners_layer(spec: &Spec, sources: &Sources, dir: &Path, name: &OsStr) -> Result<OwnedFd, Failure> {
    let step = "making a layer of other owners' files";
    let parent = open(dir, OPEN_DIR, Mode::empty()).during(step)?;
    // One is left if the step runs again, for `silo debug`, or was killed.
    silo_store::removal::remove_at(parent.as_fd(), name, &dir.join(name)).map_err(|error| error.source).during(step)?;
    mkdirat(&parent, name, Mode::from_raw_mode(0o755)).during(step)?;
    let layer = rustix::fs::openat(&parent, name, OPEN_DIR, Mode::empty()).during(step)?;
    owners::copy_files(&spec.owners, &sources.lower, layer.as_fd())?;
    Ok(layer)
}

/// Opens the layer of an earlier launch, or makes it. It gets its name when it is complete. No program can change it, because it is a lower
/// layer.
fn kept_owners_layer(spec: &Spec, sources: &Sources, at: &Path) -> Result<OwnedFd, Failure> {
    let step = "keeping a layer of other owners' files";
    match open(at, OPEN_DIR | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return found.during(step),
    }
    let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else { return Err(Errno::INVAL).during(step) };
    let mut unfinished = name.to_owned();
    unfinished.push(".new");
    let layer = owners_layer(spec, sources, dir, &unfinished)?;
    rustix::fs::rename(dir.join(&unfinished), at).during(step)?;
    Ok(layer)
}

fn open_sources(spec: &Spec) -> Result<Sources, Failure> {
    let dir = |path: &Path| open(path, OPEN_DIR, Mode::empty()).during_this(|| format!("opening {}", path.display()));
    let lower = spec.root.lower.iter().map(|path| dir(path)).collect::<Result<_, _>>()?;
    let kept = match &spec.root.upper {
        Upper::Ephemeral { .. } => None,
        Upper::Kept { upper, work } => Some((dir(upper)?, dir(work)?)),
    };
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let step = || format!("opening {}", mount.host.path().display());
        let tree = clone_tree(open_host(&mount.host)?.as_fd(), "").during_this(step)?;
        let flags = match mount.access {
            Access::ReadOnly => HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY,
            Access::ReadWrite => HARMLESS,
        };
        sys::mount_setattr(tree.as_fd(), u64::from(flags.bits())).during_this(step)?;
        mounts.push(tree);
    }
    Ok(Sources { lower, kept, mounts, devices: dev::open_sources(spec.seed.as_ref())? })
}

/// Opens a mount's source; fails if the path's inode differs from the checked one.
fn open_host(host: &HostPath) -> Result<OwnedFd, Failure> {
    let opening = || format!("opening {}", host.path().display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Some(inode) = host.inode() else { return open(host.path(), flags, Mode::empty()).during_this(opening) };
    let mut failed = Errno::STALE;
    for _ in 0..OPEN_ATTEMPTS {
        match openat2(CWD, host.path(), flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS) {
            Ok(file) if open_checked::inode(&fstat(&file).during_this(opening)?) == inode => return Ok(file),
            Ok(_) => failed = Errno::STALE,
            Err(error) => failed = error,
        }
    }
    Err(failed).during_this(|| format!("opening {}, which another program replaced", host.path().display()))
}

/// Mounts the scratch tmpfs over `/dev`, after the last lookup of a host path.
fn scratch(spec: &Spec) -> Result<OwnedFd, Failure> {
    let step = "mounting a tmpfs";
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during(step)?;
    if let Upper::Ephemeral { size_bytes } = spec.root.upper {
        let inodes = (size_bytes / BYTES_PER_INODE).max(1024);
        fsconfig_set_string(&context, "size", size_bytes.to_string()).during(step)?;
        fsconfig_set_string(&context, "nr_inodes", inodes.to_string()).during(step)?;
    }
    fsconfig_set_string(&context, "mode", "0755").during(step)?;
    fsconfig_create(&context).during(step)?;
    let scratch = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS).during(step)?;
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&scratch, "", CWD, "/dev", from_here).during(step)?;
    for (name, mode) in
        [("layer", 0o755), ("work", 0o755), ("root", 0o755), ("dev", 0o755), ("shm", 0o1777), ("tmp", 0o1777), ("none", 0o555)]
    {
        mkdirat(&scratch, name, Mode::from_raw_mode(mode)).during(step)?;
    }
    if !spec.hidden.is_empty() {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&scratch, "nothing", flags, Mode::from_raw_mode(0o444)).during(step)?;
    }
    Ok(scratch)
}

/// Mounts the overlay within the scratch.
fn overlay(spec: &Spec, sources: &Sources, scratch: &OwnedFd) -> Result<OwnedFd, Failure> {
    let step = "mounting an overlay on /";
    let layer = open_in(scratch.as_fd(), Path::new("layer")).during(step)?;
    let above = sources.kept.as_ref().map(|(upper, _)| upper.as_fd());
    let skeleton = MountPoints::new(above, layer.as_fd(), &sources.lower)?;
    add_entries(spec, &sources.mounts, &skeleton)?;

    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during(step)?;
    // In that directory each layer's name is a number, and fifty of them fit into the kernel's limit of 255 bytes.
    rustix::process::chdir("/proc/self/fd").during(step)?;
    let by_fd = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let mut lower: Vec<String> = sources.lower.iter().map(by_fd).collect();
    let (upper, work) = match &sources.kept {
        Some((upper, work)) => {
            lower.insert(0, by_fd(&layer));
            forget_volatile(work);
            // Writes need not be durable before the step's changes are committed; with this flag, syncs inside cost nothing.
            fsconfig_set_flag(&context, "volatile").during(step)?;
            (by_fd(upper), by_fd(work))
        }
        None => (by_fd(&layer), format!("{}/work", by_fd(scratch))),
    };
    // The kernel allows only `userxattr` in a user namespace. It rules out redirects and metadata-only copies, both of which would make a
    // layer depend on other layers' paths.
    fsconfig_set_flag(&context, "userxattr").during(step)?;
    fsconfig_set_string(&context, "lowerdir", lower.join(":")).during(step)?;
    fsconfig_set_string(&context, "upperdir", upper).during(step)?;
    fsconfig_set_string(&context, "workdir", work).during(step)?;
    fsconfig_create(&context).during(step)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS).during(step)?;
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", scratch, "root", from_here).during(step)?;
    Ok(root)
}

/// Adds entries to the skeleton that the spec and the launcher need and the image may lack.
fn add_entries(spec: &Spec, mounts: &[OwnedFd], skeleton: &MountPoints<'_>) -> Result<(), Failure> {
    skeleton.dir(Path::new("/dev"), 0o755)?;
    skeleton.dir(Path::new("/proc"), 0o555)?;
    skeleton.dir(Path::new("/tmp"), 0o1777)?;
    for dir in &spec.dirs {
        skeleton.dir(&dir.guest, dir.mode)?;
    }
    for file in &spec.files {
        match file.mode {
            SYMLINK => skeleton.symlink(&file.guest, &file.bytes.0)?,
            mode => skeleton.file(&file.guest, &file.bytes.0, mode)?,
        }
    }
    for (index, (mount, tree)) in spec.mounts.iter().zip(mounts).enumerate() {
        let nested = spec.mounts[..index].iter().any(|outer| mount.guest.starts_with(&outer.guest));
        if nested {
            continue;
        }
        if is_dir(tree).during_this(|| format!("opening {}", mount.host.path().display()))? {
            skeleton.dir(&mount.guest, 0o755)?;
        } else {
            skeleton.file_mount_point(&mount.guest)?;
        }
    }
    Ok(())
}

/// Removes the marker by which overlayfs refuses a directory that was once mounted `volatile`.
///
/// The marker means that a crash may have lost writes. The builder discards a layer after a crash, and a second start on the same directory
/// (a shell in a failed step) reads the page cache.
fn forget_volatile(work: &OwnedFd) {
    // Missing at a first start; any other failure shows when the overlay is mounted.
    let _ = unlinkat(work, "work/incompat/volatile/dirty", AtFlags::empty());
    let _ = unlinkat(work, "work/incompat/volatile", AtFlags::REMOVEDIR);
}

/// An overlay over a host directory while it is attached to its guest paths.
struct Layered<'a> {
    overlay: &'a Overlay,
    /// The guest paths without the overlay.
    left: Vec<&'a Path>,
    /// A guest path with the overlay.
    first: Option<&'a Path>,
}

impl<'a> Layered<'a> {
    fn new(overlay: &'a Overlay) -> Layered<'a> {
        Layered { overlay, left: overlay.guests.iter().map(PathBuf::as_path).collect(), first: None }
    }

    /// Attaches the overlay on this guest path, if it is one of its own.
    fn attach_at(&mut self, guest: &Path, root: &OwnedFd) -> Result<(), Failure> {
        let Some(index) = self.left.iter().position(|path| *path == guest) else { return Ok(()) };
        let guest = self.left.remove(index);
        let step = || format!("mounting a layer over {}", self.overlay.lower.path().display());
        let tree = match self.first {
            None => layer(self.overlay)?,
            // A clone of the first mount: two overlays with one upper directory would corrupt each other.
            Some(first) => clone_tree(open_in(root.as_fd(), first).during_this(step)?.as_fd(), "").during_this(step)?,
        };
        attach(&tree, root, guest).during_this(step)?;
        self.first.get_or_insert(guest);
        Ok(())
    }

    /// Attaches the overlay on all remaining guest paths.
    fn attach(&mut self, root: &OwnedFd) -> Result<(), Failure> {
        for guest in self.left.clone() {
            self.attach_at(guest, root)?;
        }
        Ok(())
    }
}

/// Mounts an overlay over a host directory, detached. If that fails, mounts the directory read-only, or fails.
fn layer(overlay: &Overlay) -> Result<OwnedFd, Failure> {
    let step = || format!("mounting a layer over {}", overlay.lower.path().display());
    let lower = open_host(&overlay.lower)?;
    let dir = |path: &Path| open(path, OPEN_DIR, Mode::empty()).during_this(|| format!("opening {}", path.display()));
    let (upper, work) = (dir(&overlay.upper)?, dir(&overlay.work)?);
    forget_volatile(&work);
    match layered(&lower, &upper, &work) {
        Ok(tree) => Ok(tree),
        Err(error) if overlay.fallback == Fallback::Fail => Err(error).during_this(step),
        // The file system does not support overlays, or the kernel's limit on stacked overlays is reached.
        Err(_) => {
            match mkdirat(&work, UNLAYERED, Mode::from_raw_mode(0o700)) {
                // An earlier run made it.
                Err(Errno::EXIST) => {}
                made => made.during_this(step)?,
            }
            let tree = clone_tree(lower.as_fd(), "").during_this(step)?;
            let flags = HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY;
            sys::mount_setattr(tree.as_fd(), u64::from(flags.bits())).during_this(step)?;
            Ok(tree)
        }
    }
}

fn layered(lower: &OwnedFd, upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::process::chdir("/proc/self/fd")?;
    fsconfig_set_flag(&context, "userxattr")?;
    // Without it, unmounting waits until the layer's whole file system is synced. Files copied from a layer are verified or reviewed, so a
    // layer corrupted by a crash of the host does no harm.
    fsconfig_set_flag(&context, "volatile")?;
    // An index would depend on the inode numbers of the lower directory, which change when the host edits files.
    fsconfig_set_string(&context, "index", "off")?;
    for (name, fd) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&context, name, fd.as_raw_fd().to_string())?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, HARMLESS)
}

/// Mounts an empty file or directory over hidden paths.
fn hide(spec: &Spec, root: &OwnedFd, scratch: &OwnedFd) -> Result<(), Failure> {
    for path in &spec.hidden {
        let step = || format!("hiding {}", path.display());
        let target = match open_in(root.as_fd(), path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error).during_this(step),
        };
        let empty = if is_dir(&target).during_this(step)? { "none" } else { "nothing" };
        let tree = clone_tree(scratch.as_fd(), empty).during_this(step)?;
        let flags = HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY;
        sys::mount_setattr(tree.as_fd(), u64::from(flags.bits())).during_this(step)?;
        move_onto(&tree, &target).during_this(step)?;
    }
    Ok(())
}

/// Remounts paths read-only, and pins their parent directories.
fn protect(spec: &Spec, root: &OwnedFd) -> Result<(), Failure> {
    let mut pinned: BTreeSet<PathBuf> = spec.mounts.iter().map(|m| m.guest.clone()).collect();
    for path in &spec.read_only {
        let step = || format!("making {} read-only", path.display());
        let target = match open_in(root.as_fd(), path) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error).during_this(step),
        };
        let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest));
        if let Some(outer) = outer.max_by_key(|mount| mount.guest.as_os_str().len()) {
            let mut between: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| *dir != outer.guest).collect();
            between.reverse();
            for dir in between {
                if pinned.insert(dir.to_owned()) {
                    bind_to_itself(root, dir, None).during_this(step)?;
                }
            }
        }
        drop(target);
        bind_to_itself(root, path, Some(MountAttrFlags::MOUNT_ATTR_RDONLY)).during_this(step)?;
    }
    Ok(())
}
