//! Working directory of a build step: the overlay's upper directory, and the log.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use silo_store::digest::Digest;
use silo_store::lock::BuildLock;
use silo_store::private;

use silo_base::event::Event;
use silo_base::plain;
use silo_launch::Exit;
use silo_launch::again::Circumstances;
use silo_launch::spec::{Root, Spec, Upper};
use silo_model::derivation::DrvId;

use super::budget::Watch;
use super::check::Check;
use super::ground::Ground;
use super::{Error, Workshop, keystore};

/// File name of the launch spec that is kept with a failed step.
pub const SPEC: &str = "spec.json";

/// Interval of the attempts to take a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Interval of the reads of a growing log.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a log read at a time. A line longer than `MAX_LINE_BYTES` is split.
const MAX_FOLLOWED_BYTES: u64 = 64 << 10;
const MAX_LINE_BYTES: usize = 4 << 10;

/// Limit on the size of a Java keystore; Debian's has 170 KB.
const MAX_KEYSTORE_BYTES: u64 = 16 << 20;

/// Lines shown from the end of a failed step's log.
const TAIL_LINES: usize = 20;

/// Bytes read from the end of a log to find those lines.
const MAX_TAIL_BYTES: u64 = 16 << 20;

/// Most `silo:` lines shown above the log tail.
const OWN_LINES: usize = 5;

/// Takes the build lock of a derivation. Waits while another process holds it; the user can stop the wait.
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

/// The directories of one step; removed on drop. Drop it late: when it allocates an inode, ext4 searches past all recently freed ones.
#[derive(Debug)]
pub(super) struct Bench {
    dir: PathBuf,
    /// Directory of the upper directory, if that is not in `dir`.
    memory: Option<tempfile::TempDir>,
    /// Conditions of the run, which a reproducibility check varies.
    pub circumstances: Circumstances,
    /// Path of the step's log.
    pub log: PathBuf,
    /// True if log lines are also sent as events while the step runs.
    pub tells: bool,
    keep: bool,
}

impl Bench {
    /// Creates an empty working directory for a derivation. The caller holds the derivation's build lock.
    pub fn new(shop: &Workshop<'_>, drv: DrvId) -> Result<Bench, Error> {
        let name = drv.to_string();
        Bench::at(shop, &name, None, Circumstances::Usual)
    }

    /// Creates a working directory for the second run of a reproducibility check, under other conditions.
    pub fn other(shop: &Workshop<'_>, drv: DrvId, check: &Check) -> Result<Bench, Error> {
        let memory = check.memory.as_ref().map(|dir| {
            let made = tempfile::Builder::new().prefix("silo-check-").tempdir_in(dir);
            made.map_err(|source| Error::File { doing: "create a directory in", path: dir.clone(), source })
        });
        Bench::at(shop, &format!("{drv}-check"), memory.transpose()?, Circumstances::Other)
    }

    fn at(shop: &Workshop<'_>, name: &str, memory: Option<tempfile::TempDir>, circumstances: Circumstances) -> Result<Bench, Error> {
        let log = shop.home.logs().join(format!("{name}.log"));
        // Anything here is left from a killed step.
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

    /// Returns the root of the step's launch spec.
    pub fn spec_root(&self, shop: &Workshop<'_>, ground: &Ground) -> Root {
        Root { lower: ground.mounts(shop), upper: Upper::Kept { upper: self.upper(), work: self.changes().join("work") } }
    }

    /// Returns the overlay's upper directory, which holds the step's changes.
    pub fn upper(&self) -> PathBuf {
        self.changes().join("upper")
    }

    fn changes(&self) -> &Path {
        self.memory.as_ref().map_or(&self.dir, |memory| memory.path())
    }

    /// Runs a step; `name` is the step's name in errors.
    pub fn launch(&mut self, shop: &Workshop<'_>, ground: &mut Ground, name: &str, spec: &Spec) -> Result<(), Error> {
        let launched = Spec { machine: shop.machine.cloned(), ..spec.clone() };
        let (halt, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let upper = self.upper();
        let mut watch = Watch::new(&upper, &self.log, shop.max_step_bytes);
        let tell = |line: String| (shop.sink)(Event::Log { id: 0, line });
        let (exit, over) = thread::scope(|scope| {
            let watching = silo_base::thread::beside(scope, || watch.look(shop.stop, &halt, &ended))?;
            if self.tells {
                // If no thread can be started, the lines are still in the log.
                drop(silo_base::thread::beside(scope, || follow(&self.log, &ended, &tell)));
            }
            let exit = silo_launch::again::run(shop.program, &launched, self.circumstances, &halt);
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

    /// Makes files with embedded dates reproducible: the entries of a Java keystore get the date of `epoch`.
    pub fn settle(&self, epoch: i64) -> Result<(), Error> {
        let path = self.upper().join(keystore::PATH);
        // A symlink in place of a parent directory would point outside the step's changes.
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

    /// Keeps the directory of a step that ran but whose changes are refused, if failed steps are kept. Returns the error.
    pub fn refused(&mut self, shop: &Workshop<'_>, ground: &mut Ground, spec: &Spec, error: Error) -> Error {
        match self.keep(shop, ground, spec) {
            Ok(None) => error,
            Ok(Some(kept)) => {
                (shop.sink)(Event::Note { text: format!("the root of the refused step is kept; `silo debug {kept:.12}` opens it") });
                error
            }
            Err(error) => error,
        }
    }

    /// Keeps the directory of a failed step if requested; returns its name, for `silo debug`.
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

    /// Returns an error unless the step exited with code 0.
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
            // A step may leave directories without search permission, which `std::fs` and `tempfile` cannot remove.
            if let Some(memory) = &self.memory {
                drop(remove_tree(memory.path()));
            }
            // A leftover is swept by `silo gc`; the outcome of the build matters more.
            drop(remove_tree(&self.dir));
        }
    }
}

/// Removes a directory, including directories in it without search permission.
fn remove_tree(dir: &Path) -> Result<(), Error> {
    silo_store::removal::remove_tree(dir).map_err(|source| Error::store("clearing the step's directory", source))
}

/// Sends the lines of a log as they are written, until the step ends.
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
            // If a line overwrites itself with carriage returns, as a progress bar does, only the last state counts.
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
    // Silo's own lines, such as refused connections, explain more than the end of a long trace.
    let own = lines[..from].iter().filter(|line| line.starts_with("silo: ")).take(OWN_LINES);
    own.chain(&lines[from..]).map(|line| format!("  {}", plain::said(line))).collect::<Vec<_>>().join("\n")
}

/// Reads the end of a log, of limited size: a step may write without end.
fn end_of(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
