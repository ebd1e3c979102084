//! The place where a step works: the root that it sees, the directory that catches its changes, and its log.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use silo_store::digest::Digest;
use silo_store::lock::BuildLock;
use silo_store::private;

use crate::derivation::DrvId;
use crate::event::Event;
use crate::launch::again::Circumstances;
use crate::launch::spec::{Root, Spec, Upper};
use crate::launch::{self, Exit};
use crate::plain;

use super::budget::Watch;
use super::check::Check;
use super::ground::Ground;
use super::{Error, Workshop, keystore};

/// The launch spec of a failed step that was kept, in its directory.
pub const SPEC: &str = "spec.json";

/// Between two tries at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Between two looks at a log that grows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// The most of a log that is read at once, and the longest line that is told whole.
const MAX_FOLLOWED_BYTES: u64 = 64 << 10;
const MAX_LINE_BYTES: usize = 4 << 10;

/// Largest key store looked into; Debian's has 170 KB.
const MAX_KEYSTORE_BYTES: u64 = 16 << 20;

/// The lines of a failed step's log that are shown.
const TAIL_LINES: usize = 20;

/// The most of such a log, from its end, that they are looked for in.
const MAX_TAIL_BYTES: u64 = 16 << 20;

/// The lines of silo's own in such a log that are shown before those.
const OWN_LINES: usize = 5;

/// Waits until no other process makes this derivation's layer; the user may stop the waiting.
pub(super) fn ours(shop: &Workshop<'_>, key: &Digest) -> Result<BuildLock, Error> {
    loop {
        shop.check_stop()?;
        let locked = silo_store::lock::try_build(shop.store, shop.lock, key);
        match locked.map_err(|source| Error::store("locking the step", source))? {
            Some(ours) => return Ok(ours),
            None => thread::sleep(LOCK_PAUSE),
        }
    }
}

/// The directories that one step works in; removed with it. Drop it late: for each new inode ext4 searches past all those
/// that were freed a moment ago.
#[derive(Debug)]
pub(super) struct Bench {
    dir: PathBuf,
    /// The directory of what the step changes, where that is another one.
    memory: Option<tempfile::TempDir>,
    /// In which circumstances the step runs.
    pub circumstances: Circumstances,
    /// Where all that the step says goes.
    pub log: PathBuf,
    /// Whether its lines are told as they come.
    pub tells: bool,
    keep: bool,
}

impl Bench {
    /// Clears the place of a derivation, whose lock is ours.
    pub fn new(shop: &Workshop<'_>, drv: DrvId) -> Result<Bench, Error> {
        let name = drv.to_string();
        Bench::at(shop, &name, None, Circumstances::Usual)
    }

    /// A place for running the same again in other circumstances.
    pub fn other(shop: &Workshop<'_>, drv: DrvId, check: &Check) -> Result<Bench, Error> {
        let memory = check.memory.as_ref().map(|dir| {
            let made = tempfile::Builder::new().prefix("silo-check-").tempdir_in(dir);
            made.map_err(|source| Error::File { doing: "create a directory in", path: dir.clone(), source })
        });
        Bench::at(shop, &format!("{drv}-check"), memory.transpose()?, Circumstances::Other)
    }

    fn at(shop: &Workshop<'_>, name: &str, memory: Option<tempfile::TempDir>, circumstances: Circumstances) -> Result<Bench, Error> {
        let log = shop.home.logs().join(format!("{name}.log"));
        // What lies here is the rest of a step that was killed.
        let bench = Bench { dir: shop.home.work().join(name), memory, circumstances, log, tells: false, keep: false };
        remove_tree(&bench.dir)?;
        for dir in [bench.upper(), bench.changes().join("work"), bench.dir.clone(), shop.home.logs()] {
            private::make_dir(&dir).map_err(|error| Error::File { doing: error.doing, path: error.path, source: error.source })?;
        }
        match fs::remove_file(&bench.log) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { doing: "remove", path: bench.log.clone(), source })
            }
            _ => Ok(bench),
        }
    }

    /// The root as a launch spec names it.
    pub fn spec_root(&self, shop: &Workshop<'_>, ground: &Ground) -> Root {
        Root { lower: ground.mounts(shop), upper: Upper::Kept { upper: self.upper(), work: self.changes().join("work") } }
    }

    /// The directory that catches the step's changes.
    pub fn upper(&self) -> PathBuf {
        self.changes().join("upper")
    }

    fn changes(&self) -> &Path {
        self.memory.as_ref().map_or(&self.dir, |memory| memory.path())
    }

    /// Runs a step here; `name` is what an error calls it.
    pub fn launch(&mut self, shop: &Workshop<'_>, ground: &mut Ground, name: &str, spec: &Spec) -> Result<(), Error> {
        let launched = Spec { machine: shop.machine.cloned(), ..spec.clone() };
        let (halt, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let upper = self.upper();
        let mut watch = Watch::new(&upper, &self.log, shop.max_step_bytes);
        let tell = |line: String| (shop.sink)(Event::Log { id: 0, line });
        let (exit, over) = thread::scope(|scope| {
            let watching = crate::thread::beside(scope, || watch.look(shop.stop, &halt, &ended))?;
            if self.tells {
                // Without a thread for it the lines are in the log all the same.
                drop(crate::thread::beside(scope, || follow(&self.log, &ended, &tell)));
            }
            let exit = launch::again::run(shop.program, &launched, self.circumstances, &halt);
            ended.store(true, Ordering::Relaxed);
            watching.thread().unpark();
            let over = watching.join().map_err(|_| Error::Worker)?;
            Ok::<_, Error>((exit, over))
        })?;
        let over = over.or_else(|| watch.count());
        watch.finish().map_err(|source| Error::File { doing: "shorten", path: self.log.clone(), source })?;
        shop.check_stop()?;
        if let Some(what) = over {
            return Err(Error::Budget { name: name.to_owned(), what });
        }
        self.check(shop, ground, name, exit?, spec)
    }

    /// Makes the bytes of what a step wrote with a clock the same each time.
    pub fn settle(&self, epoch: i64) -> Result<(), Error> {
        let path = self.upper().join(keystore::PATH);
        // A link in place of a directory on the way would lead out of the step's changes.
        let inside = fs::canonicalize(&path).is_ok_and(|real| fs::canonicalize(self.upper()).is_ok_and(|upper| real.starts_with(upper)));
        if !inside || !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_KEYSTORE_BYTES) {
            return Ok(());
        }
        let bytes = fs::read(&path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
        match keystore::dated(&bytes, epoch) {
            Some(dated) if dated != bytes => fs::write(&path, dated).map_err(|source| Error::File { doing: "write", path, source }),
            _ => Ok(()),
        }
    }

    /// Keeps the place of a step that ended well and whose changes are refused, if failed steps are to be kept; returns the error.
    pub fn refused(&mut self, shop: &Workshop<'_>, ground: &mut Ground, spec: &Spec, error: Error) -> Error {
        match self.keep(shop, ground, spec) {
            Ok(None) => error,
            Ok(Some(kept)) => {
                (shop.sink)(Event::Note { text: format!("the refused step is kept: `silo debug {kept:.12}` looks into it") });
                error
            }
            Err(error) => error,
        }
    }

    /// Keeps the place of a failed step, if that is wanted; returns the name to find it by.
    fn keep(&mut self, shop: &Workshop<'_>, ground: &mut Ground, spec: &Spec) -> Result<Option<String>, Error> {
        if !shop.keep_failed || self.memory.is_some() {
            return Ok(None);
        }
        let path = self.dir.join(SPEC);
        private::write(&path, &spec.to_json()?).map_err(|source| Error::File { doing: "write", path, source })?;
        self.keep = true;
        ground.keep();
        Ok(self.dir.file_name().map(|name| name.to_string_lossy().into_owned()))
    }

    /// Turns how a step ended into an error, unless it ended well.
    fn check(&mut self, shop: &Workshop<'_>, ground: &mut Ground, name: &str, exit: Exit, spec: &Spec) -> Result<(), Error> {
        if exit == Exit::Code(0) {
            return Ok(());
        }
        let kept = self.keep(shop, ground, spec)?;
        Err(Error::Step { name: name.to_owned(), exit: told(exit), log: self.log.clone(), tail: tail(&self.log), kept })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !self.keep {
            // A directory of a step may be one that cannot be entered, which only our own removal gets away with.
            if let Some(memory) = &self.memory {
                drop(remove_tree(memory.path()));
            }
            // What cannot be removed now is swept by `silo gc`; the build's own outcome matters more.
            drop(remove_tree(&self.dir));
        }
    }
}

/// Removes a directory in which a step may have made directories that cannot be entered.
fn remove_tree(dir: &Path) -> Result<(), Error> {
    silo_store::removal::remove_tree(dir).map_err(|source| Error::store("clearing the step's directory", source))
}

/// Tells the lines of a log as they come, until the step has ended.
fn follow(log: &Path, ended: &AtomicBool, tell: &dyn Fn(String)) {
    let mut at = 0;
    let mut rest = Vec::new();
    loop {
        let is_last = ended.load(Ordering::Relaxed);
        let mut bytes = Vec::new();
        let read = File::open(log).and_then(|mut file| {
            file.seek(SeekFrom::Start(at))?;
            file.take(MAX_FOLLOWED_BYTES).read_to_end(&mut bytes)
        });
        at += bytes.len() as u64;
        rest.append(&mut bytes);
        while let Some(end) =
            rest.iter().position(|byte| *byte == b'\n').or_else(|| (rest.len() > MAX_LINE_BYTES).then_some(MAX_LINE_BYTES))
        {
            let line: Vec<u8> = rest.drain(..=end.min(rest.len() - 1)).collect();
            // Of a line that is written over and over, such as a bar, the last state counts.
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
            tell(text.to_owned());
        }
        if read.is_ok_and(|length| length > 0) {
            continue;
        }
        if is_last {
            return;
        }
        thread::sleep(FOLLOW_PAUSE);
    }
}

pub(super) fn told(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

pub(super) fn tail(log: &Path) -> String {
    let text = end_of(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    // What silo itself wrote there (whom it did not let the step reach) says more than the end of a long trace.
    let own = lines[..from].iter().filter(|line| line.starts_with("silo: ")).take(OWN_LINES);
    own.chain(&lines[from..]).map(|line| format!("  {}", plain::said(line))).collect::<Vec<_>>().join("\n")
}

/// Reads what is looked into of a log: a step may write without end.
fn end_of(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
