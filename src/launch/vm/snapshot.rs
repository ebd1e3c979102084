//! Snapshots: a machine that has booted, as files, from which any number of machines go on.
//!
//! A snapshot is of a machine that has its image mounted and no program, no project and no network yet; what one run gives
//! to another through it is the image and nothing else. Its memory is mapped, not read, so each machine reads of it what
//! it uses, and what it changes is its own. It is for one program, one QEMU, one kernel, one image and one size of machine:
//! all of that is in its name, and whatever has another name is of no use here. It never leaves this computer.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock};
use silo_store::digest::Hasher;
use silo_store::private;
use silo_store::removal::remove_tree;
use silo_wire::frame;

use super::machine::{self, MEMORY, Processor, STATE, Start};
use super::start::{Way, awake, boot};
use super::{Until, kvm};
use crate::launch::error::Error;
use crate::launch::host::streams::{self, host};
use crate::launch::host::system::Signals;
use crate::launch::spec::{Machine, Spec, Stdio, Upper};

/// Snapshots of one image that are kept: one for each number of shares and size of machine that is in use.
const MOST: usize = 4;
/// The beginning of the name of one that is not done.
const UNDONE: &str = "undone-";
/// What runs in a machine before its snapshot is taken where its tool says nothing.
const WARM_UP: [&str; 3] = ["sh", "-c", ":"];

/// Where the snapshot for a launch is, or would be.
#[derive(Debug)]
pub struct Place {
    parent: PathBuf,
    name: String,
}

impl Place {
    /// Names it; none where none are kept.
    pub fn of(spec: &Spec, machine: &Machine, processor: Processor) -> Option<Place> {
        let parent = machine.snapshots.clone()?;
        let made = machine::make(spec, machine, processor, Start::Restored { dir: PathBuf::new() });
        let mut hasher = Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        made.outer.argv.iter().chain(&machine.warm_up).for_each(|word| put(word.as_bytes()));
        for path in [Some(&machine.root), Some(&machine.kernel), Some(&machine.initial), machine.disk.as_ref()].into_iter().flatten() {
            put(path.as_os_str().as_bytes());
        }
        if processor == Processor::Kvm {
            // Its instructions are the host's.
            let text = fs::read_to_string("/proc/cpuinfo").ok()?;
            text.lines()
                .filter(|line| line.starts_with("model name") || line.starts_with("flags"))
                .take(2)
                .for_each(|line| put(line.as_bytes()));
        }
        Some(Place { parent, name: hasher.finish().to_string() })
    }

    fn dir(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// Returns the directory of a snapshot that is there, and notes that it is used.
    pub fn find(&self) -> Option<PathBuf> {
        let dir = self.dir();
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let file = File::open(dir.join(STATE)).ok()?;
        // One that cannot be noted is used all the same.
        let _ = rustix::fs::futimens(&file, &Timestamps { last_access: omit, last_modification: now });
        Some(dir)
    }

    /// Removes one that is of no use.
    pub fn remove(&self) {
        // Whoever has its files open goes on with them.
        let _ = remove_tree(&self.dir());
    }
}

/// Whether a launch would have used a snapshot, and there is none.
pub fn is_wanted(spec: &Spec, machine: &Machine) -> bool {
    let place = machine.snapshots.is_some().then(|| Place::of(spec, machine, processor())).flatten();
    place.is_some_and(|place| !place.dir().join(STATE).exists())
}

/// The processor that a machine has here, which takes some milliseconds to find out.
pub fn processor() -> Processor {
    if kvm::works().is_ok() { Processor::Kvm } else { Processor::Translated }
}

/// Takes the snapshot for launches like this one, unless it is there or somebody else takes one.
pub fn take(spec: &Spec, machine: &Machine) -> Result<(), Error> {
    let processor = processor();
    let Some(place) = Place::of(spec, machine, processor) else { return Ok(()) };
    let step = || format!("making a snapshot in {}", place.parent.display());
    host(fs::DirBuilder::new().recursive(true).mode(0o700).create(&place.parent), &step())?;
    let held = host(private::create(&place.parent.join("lock")), &step())?;
    if flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() || place.dir().exists() {
        return Ok(());
    }
    host(make_room(&place.parent), &step())?;
    let staged = place.parent.join(format!("{UNDONE}{}", place.name));
    host(fs::DirBuilder::new().mode(0o700).create(&staged), &step())?;
    let taken = record(spec, machine, processor, &staged).and_then(|()| host(persist(&staged, &place.dir()), &step()));
    if taken.is_err() {
        // The next one does it, otherwise.
        let _ = remove_tree(&staged);
    }
    taken
}

/// Boots a machine, runs what is to be in memory, and saves it.
fn record(spec: &Spec, machine: &Machine, processor: Processor, dir: &Path) -> Result<(), Error> {
    let signals = Signals::take_over()?;
    let shares = machine::make(spec, machine, processor, Start::Restored { dir: PathBuf::new() }).shares;
    let plain = plain(spec, machine);
    let start = Start::Observed { dir: dir.to_owned(), shares };
    let (mut watch, made) = boot(machine::make(&plain, machine, processor, start), &signals, Way::Observed)?;
    if machine.disk.is_some() {
        watch.begin(&plain, made.inside(), &streams::streams(&plain.stdio)?)?;
        watch.run(&signals, Until::Ended, &mut |_| {})?;
        // A program that is not there, or fails, has warmed what it could; a machine that fails is no good.
        if let Some(frame::Report::Failed { stage: frame::Stage::Setup, step, .. }) = &watch.end {
            return Err(Error::Machine { what: format!("could not run anything ({step})") });
        }
    } else {
        // It has everything in memory that any program needs once it says so again.
        watch.is_booted = false;
        watch.mux.send(&awake()?);
        watch.run(&signals, Until::Heard, &mut |_| {})?;
    }
    let step = "saving the machine";
    let Some(control) = watch.running.control() else { return Err(Error::Lost) };
    host(control.save(&format!("{}/{STATE}", machine::SNAPSHOT)), step)
}

/// What is run: the image's own program, with nothing of the user's.
fn plain(spec: &Spec, machine: &Machine) -> Spec {
    let mut plain = spec.clone();
    plain.mounts.clear();
    plain.files.clear();
    plain.dirs.clear();
    plain.read_only.clear();
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

/// Removes what was left undone, and the snapshots that were not used for longest. Whoever makes some holds the lock.
fn make_room(parent: &Path) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(parent)?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        match fs::metadata(path.join(STATE)).and_then(|state| state.modified()) {
            Ok(used) if !entry.file_name().as_bytes().starts_with(UNDONE.as_bytes()) => kept.push((used, path)),
            _ => remove_tree(&path).map_err(|error| error.source)?,
        }
    }
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(MOST);
    kept.into_iter().take(surplus).try_for_each(|(_, path)| remove_tree(&path).map_err(|error| error.source))
}

/// Gives a snapshot its name, once it is on disk: half a memory would be no machine.
fn persist(staged: &Path, to: &Path) -> io::Result<()> {
    for name in [MEMORY, STATE] {
        File::open(staged.join(name))?.sync_all()?;
    }
    fs::rename(staged, to)
}
