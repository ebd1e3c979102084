//! VM snapshots on disk; any number of VMs can be restored from one.
//!
//! A snapshot contains a VM with its image mounted, before it has a program, project or network. So the image is all that one run can pass
//! to another through a snapshot. Its memory is mapped, not read: each VM reads only the pages that it uses, and its changes are private. A
//! snapshot matches one silo binary, one QEMU, one kernel, one image and one VM size. Its name is a hash of all of them, so a mismatch is
//! never found. It never leaves this host.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, Mode, OFlags, fchmod, open, openat};
use silo_store::locked_file::LockedFile;
use silo_store::private;
use silo_store::removal::remove_tree;
use silo_wire::frame;

use super::guest_paths::{self, MEMORY, STATE};
use super::kvm::processor;
use super::running::Running;
use super::snapshot_key::{Place, regular, whole};
use super::start::{StartMethod, awake, boot};
use super::supervise::StopEvent;
use super::vm_spec::{self, Processor, Start};
use super::wire_streams;
use crate::error::{Error, host};
use crate::host::stdio;
use crate::host::system::Signals;
use crate::spec::{Conditions, Spec, Stdio, Upper, VmFiles};

/// Most snapshots kept per image: one for each combination of share count and VM size in use.
const MOST: usize = 4;
/// Name prefix of unfinished snapshots.
const UNDONE: &str = "undone-";
/// The default command to run in a VM before its snapshot is taken.
const WARM_UP: [&str; 3] = ["sh", "-c", ":"];

/// True if a launch would use a snapshot and none exists.
pub fn is_wanted(spec: &Spec, machine: &VmFiles) -> bool {
    let place = machine.snapshots.is_some().then(|| Place::of(spec, machine, processor(machine.arch))).flatten();
    place.is_some_and(|place| !place.dir().join(STATE).exists())
}

/// Takes the snapshot for launches like this one, unless it exists or another process is taking one.
pub fn take(spec: &Spec, machine: &VmFiles) -> Result<(), Error> {
    let processor = processor(machine.arch);
    let Some(place) = Place::of(spec, machine, processor) else { return Ok(()) };
    let step = || format!("taking a snapshot in {}", place.parent.display());
    host(fs::DirBuilder::new().recursive(true).mode(0o700).create(&place.parent), &step())?;
    let lock = private::create(&place.parent.join("lock")).and_then(LockedFile::try_exclusive);
    let Some(_held) = host(lock, &step())? else { return Ok(()) };
    if place.dir().exists() {
        return Ok(());
    }
    host(make_room(&place.parent), &step())?;
    let staged = place.parent.join(format!("{UNDONE}{}", place.name));
    let memory_bytes = vm_spec::memory(spec, machine);
    host(prepare(&staged, memory_bytes), &step())?;
    let taken = record(spec, machine, processor, &staged).and_then(|()| host(persist(&staged, &place.dir(), memory_bytes), &step()));
    if taken.is_err() {
        // If this fails, the next attempt removes it.
        let _ = remove_tree(&staged);
    }
    taken
}

/// Boots a VM, runs the warm-up command, and saves the VM.
fn record(spec: &Spec, machine: &VmFiles, processor: Processor, dir: &Path) -> Result<(), Error> {
    let signals = Signals::take_over()?;
    let shares = vm_spec::make(spec, machine, processor, Start::Restored { dir: PathBuf::new() }).shares;
    let plain = plain(spec, machine);
    let start = Start::Observed { dir: dir.to_owned(), shares };
    let booted = boot(vm_spec::make(&plain, machine, processor, start), &signals, StartMethod::Observed);
    let (mut watch, made) = booted.map_err(|unstarted| unstarted.error)?;
    if machine.disk.is_some() {
        wire_streams::program(&mut watch, &plain, made.inside(), &stdio::streams(&plain.stdio)?)?;
        watch.run(&signals, StopEvent::Ended, &mut |_| {})?;
        // A missing or failing command has still warmed the page cache; a setup error makes the VM useless.
        if let Some(frame::Report::Failed { stage: frame::StageFailure::Setup, step, .. }) = &watch.end {
            return Err(Error::Machine { what: format!("could not run the warm-up command ({step})") });
        }
    } else {
        // At its second hello it has all modules in memory that any program needs.
        watch.mux.expect_hello();
        watch.mux.send(&awake()?);
        watch.run(&signals, StopEvent::Heard, &mut |_| {})?;
    }
    let step = "saving the virtual machine";
    let Some(control) = watch.running().and_then(Running::control) else { return Err(Error::Lost) };
    host(control.save(&format!("{}/{STATE}", guest_paths::SNAPSHOT), &signals).map_err(io::Error::other), step)
}

/// Returns a spec of the image's own program, without the user's files.
fn plain(spec: &Spec, machine: &VmFiles) -> Spec {
    let mut plain = spec.clone();
    plain.mounts.clear();
    plain.files.clear();
    plain.dirs.clear();
    plain.read_only.clear();
    plain.owners.clear();
    plain.owners_at = None;
    plain.seed = None;
    plain.fixed_time = None;
    plain.conditions = Conditions::default();
    plain.network = None;
    plain.limits.tasks = None;
    plain.env.retain(|name, _| name == "PATH");
    plain.cwd = "/".into();
    plain.stdio = Stdio::Log { path: "/dev/null".into() };
    if let Upper::Kept { .. } = plain.root.upper {
        plain.root.upper = Upper::Ephemeral { size_bytes: 1 << 30 };
    }
    plain.argv = if machine.warm_up.is_empty() { WARM_UP.map(OsString::from).to_vec() } else { machine.warm_up.clone() };
    plain
}

/// Removes unfinished snapshots and the least recently used ones. The caller must hold the lock.
fn make_room(parent: &Path) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(parent)?.flatten() {
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match fs::symlink_metadata(path.join(STATE)).and_then(|state| state.modified()) {
            Ok(used) if !entry.file_name().as_bytes().starts_with(UNDONE.as_bytes()) => kept.push((used, path)),
            _ => remove_tree(&path).map_err(|error| error.source)?,
        }
    }
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(MOST);
    kept.into_iter().take(surplus).try_for_each(|(_, path)| remove_tree(&path).map_err(|error| error.source))
}

/// Creates the files of a snapshot. QEMU's sandbox gets these two but not their directory, so it cannot replace them.
fn prepare(staged: &Path, memory_bytes: u64) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(staged)?;
    for (name, size) in [(MEMORY, memory_bytes), (STATE, 0)] {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(openat(CWD, staged.join(name), flags, Mode::RUSR | Mode::WUSR)?).set_len(size)?;
    }
    Ok(())
}

/// Syncs a snapshot to disk and renames it to its final name: a partial memory file would be useless.
fn persist(staged: &Path, to: &Path, memory_bytes: u64) -> io::Result<()> {
    whole(staged, memory_bytes)?;
    let place = open(staged, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for name in [MEMORY, STATE] {
        let file = regular(place.as_fd(), name)?;
        // QEMU could change its mode before.
        fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        file.sync_all()?;
    }
    fs::rename(staged, to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::snapshot_key::MAX_STATE_BYTES;
    use super::*;

    const MEMORY_BYTES: u64 = 1 << 20;

    fn place() -> (tempfile::TempDir, Place) {
        let held = tempfile::tempdir().expect("a directory");
        let place = Place { parent: held.path().to_owned(), name: "it".to_owned() };
        (held, place)
    }

    #[test]
    fn a_snapshot_is_its_owners_alone() {
        let (held, place) = place();
        let staged = held.path().join("undone-it");
        prepare(&staged, MEMORY_BYTES).expect("made");
        assert!(persist(&staged, &place.dir(), MEMORY_BYTES).is_err(), "there is no state yet");
        fs::write(staged.join(STATE), "state").expect("written");
        fs::set_permissions(staged.join(MEMORY), fs::Permissions::from_mode(0o644)).expect("QEMU may");
        persist(&staged, &place.dir(), MEMORY_BYTES).expect("it is whole");
        for name in [MEMORY, STATE] {
            assert_eq!(fs::metadata(place.dir().join(name)).expect("there").permissions().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(place.find(MEMORY_BYTES), Some(place.dir()));
        assert_eq!(place.find(MEMORY_BYTES * 2), None, "its memory has another size");
        assert!(!place.dir().exists(), "and is of no use");
    }

    #[test]
    fn invalid_snapshots_are_not_opened() {
        type Spoil = fn(&Path);
        let cases: [(&str, Spoil); 6] = [
            ("a pipe", |state| {
                fs::remove_file(state).expect("removed");
                rustix::fs::mknodat(CWD, state, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
            }),
            ("a link", |state| {
                fs::rename(state, state.with_extension("real")).expect("moved");
                symlink("state.real", state).expect("linked");
            }),
            ("a second name", |state| fs::hard_link(state, state.with_extension("other")).expect("linked")),
            ("a directory", |state| {
                fs::remove_file(state).expect("removed");
                fs::create_dir(state).expect("made");
            }),
            ("empty", |state| fs::write(state, "").expect("written")),
            ("too long", |state| File::options().write(true).open(state).expect("ours").set_len(MAX_STATE_BYTES + 1).expect("set")),
        ];
        for (what, spoil) in cases {
            let (_held, place) = place();
            prepare(&place.dir(), MEMORY_BYTES).expect("made");
            let state = place.dir().join(STATE);
            fs::write(&state, "state").expect("written");
            assert!(place.find(MEMORY_BYTES).is_some(), "{what}");
            spoil(&state);
            // Opening a pipe without a writer must not block here.
            assert_eq!(place.find(MEMORY_BYTES), None, "{what}");
            assert!(!place.dir().exists(), "{what}: the next run makes another one");
        }
    }
}
