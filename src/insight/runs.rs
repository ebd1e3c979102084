//! Records of runs: the rights, the reached hosts, the changes and the end of each run, in one file for each.
//!
//! Silo writes a line of JSON when the program starts, and holds a lock on the file until the end. At the end it appends the whole record as
//! a second line, which replaces the first for a reader. So a record without an end and without a lock belongs to a silo that was killed.
//! One of [`PRUNE_RUNS`] runs removes all but the newest [`MAX_RECORDS`] files.
//!
//! A record has no values of variables, no arguments and no secrets: it has the names of the variables and the number of the arguments.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::{private, read_limited};

use silo_base::home::Home;
use silo_launch::Exit;
use silo_launch::broker::network_log::Verdict;
use silo_launch::error::Limit;

use super::error::Error;
use super::network;

/// The version of the format.
const VERSION: u32 = 1;
/// Limit on the files that are kept when old ones are removed.
const MAX_RECORDS: usize = 500;
/// So many runs, on average, for each that removes old files: to list them takes longer than everything else about a record.
const PRUNE_RUNS: u64 = 16;
/// Limit on the bytes of all list entries of a record; the rest is counted. A usual run has some thousands.
const MAX_LIST_BYTES: usize = 64 << 10;
/// Limit on the characters of one text.
const MAX_TEXT_CHARS: usize = 4096;
/// Limit on a file that is read, with two lines; JSON needs at most six bytes for one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The record of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Version of the format.
    pub format: u32,
    /// The tool.
    pub tool: String,
    /// The program, without its arguments: they may hold secrets.
    pub program: String,
    /// Number of the arguments.
    pub arguments: u64,
    /// The project, if it was shown.
    pub project: Option<String>,
    /// Start of the run, in seconds since 1970.
    pub started: u64,
    /// Process id of silo.
    pub pid: u32,
    /// True for a run in a virtual machine.
    pub machine: bool,
    /// Id of the image.
    pub image: String,
    /// SHA-256 of the project's `silo.lock`, if it has one.
    pub lock: Option<String>,
    /// The rights.
    pub granted: Granted,
    /// The requested hosts and the results.
    pub reached: Vec<Reached>,
    /// Changes of the host.
    pub changed: Changed,
    /// Number of list entries that did not fit into the record.
    pub omitted: u64,
    /// The end; `None` while the program runs, and forever if silo was killed.
    pub ended: Option<Ended>,
}

/// The rights of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// Host names.
    pub hosts: Vec<String>,
    /// Denied host names.
    pub denied: Vec<String>,
    /// True if all public addresses were allowed (`--learn`).
    pub all_public: bool,
    /// Port forwards, as `port of this machine:port inside`.
    pub ports: Vec<String>,
    /// True if the ssh agent was passed.
    pub ssh_agent: bool,
    /// Secrets, each with its hosts; neither values nor placeholders.
    pub secrets: Vec<String>,
    /// Files and directories of this machine.
    pub files: Vec<Granting>,
    /// Names of the variables.
    pub variables: Vec<String>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU limit in thousandths of a processor.
    pub cpu_thousandths: Option<u64>,
    /// Time limit in seconds.
    #[serde(default)]
    pub time_seconds: Option<u64>,
    /// Limit of data over the network in bytes.
    #[serde(default)]
    pub network_bytes: Option<u64>,
}

/// A visible file or directory of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granting {
    /// Its path.
    pub path: String,
    /// True if the program could write it.
    pub writable: bool,
}

/// A requested host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reached {
    /// The name or address.
    pub name: String,
    /// The port; `None` for a DNS lookup.
    pub port: Option<u16>,
    /// The result.
    pub verdict: Verdict,
    /// Number of requests.
    pub times: u64,
    /// Bytes sent by the sandbox.
    pub sent: u64,
    /// Bytes received by the sandbox.
    pub received: u64,
}

/// Changes of the host that silo saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// Files of the project that programs of the host act on, each with the kind of change and the program.
    pub files: Vec<String>,
    /// Refs of the project's repository that were set or removed.
    pub refs: Vec<String>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The kind of end.
    pub how: How,
    /// Exit code of silo: the program's, 128+n for signal n, or 124 to 127.
    pub code: u8,
    /// The signal that killed the program.
    pub signal: Option<i32>,
    /// Duration in milliseconds.
    pub milliseconds: u64,
}

/// The kind of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The program exited.
    Exited,
    /// A signal killed the program.
    Killed,
    /// Silo could not run the program, or not to its end.
    Failed,
    /// Silo ended the program at its time limit.
    TimeLimit,
    /// Silo ended the program at its limit of data over the network.
    NetworkLimit,
}

/// The end of a run without an exit of its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    how: How,
    code: u8,
}

impl Failed {
    /// Returns the end of a run with this error.
    pub fn of(error: &silo_launch::error::Error) -> Failed {
        let how = match error {
            silo_launch::error::Error::Limit(Limit::Time { .. }) => How::TimeLimit,
            silo_launch::error::Error::Limit(Limit::Network { .. }) => How::NetworkLimit,
            _ => How::Failed,
        };
        Failed { how, code: error.code() }
    }
}

/// State of a recorded run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The record is complete.
    Ended,
    /// The program is running.
    Running,
    /// Silo was killed before the end.
    Lost,
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The file.
    pub path: PathBuf,
    /// The record.
    pub run: Run,
    /// Its state.
    pub state: State,
}

/// Collects list entries up to the limit of a record.
#[derive(Debug, Default)]
pub struct Space {
    used: usize,
    omitted: u64,
}

impl Space {
    /// Takes the entries that fit, and counts the others.
    pub fn list(&mut self, entries: impl IntoIterator<Item = String>) -> Vec<String> {
        entries.into_iter().filter_map(|entry| self.take(&entry)).collect()
    }

    /// Takes a text if it fits; cuts a long one.
    pub fn take(&mut self, entry: &str) -> Option<String> {
        let entry = cut(entry);
        if self.used + entry.len() > MAX_LIST_BYTES {
            self.omitted += 1;
            return None;
        }
        // Numbers and names of fields count, too.
        self.used += entry.len() + 32;
        Some(entry)
    }

    /// Returns the number of entries that did not fit.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }
}

/// Cuts a text that is too long for a record.
pub fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// The record of a run that has not ended.
#[derive(Debug)]
pub struct Open {
    path: PathBuf,
    run: Run,
    space: Space,
    began: Instant,
    file: Option<LockedFile>,
}

impl Open {
    /// Prepares the record of a run that is about to start; writes nothing.
    pub fn new(home: &Home, run: Run, space: Space) -> Open {
        let name = format!("{:012}-{}.json", run.started, run.pid);
        Open { path: home.run_records().join(name), run, space, began: Instant::now(), file: None }
    }

    /// Writes the record without an end, when the program has started. `lock` is the SHA-256 of the project's lock.
    pub fn started(&mut self, lock: Option<String>) {
        self.run.lock = lock;
        // The end writes the whole record, and reports an error.
        if let Ok(mut file) = self.create(&self.path).and_then(LockedFile::exclusive) {
            // As above.
            let _ = file.write_all(&self.text());
            self.file = Some(file);
        }
        // The program runs now, and nobody waits for this.
        if is_due(self.run.started, self.run.pid)
            && let Some(dir) = self.path.parent()
        {
            prune(dir);
        }
    }

    /// Adds the network log of the run.
    pub fn reached(&mut self, log: &Path) {
        let Some(log) = network::read(log) else { return };
        for ((name, port, verdict), sum) in log.sums() {
            if let Some(name) = self.space.take(name) {
                let reached = Reached { name, port, verdict, times: sum.times, sent: sum.sent, received: sum.received };
                self.run.reached.push(reached);
            }
        }
    }

    /// Adds changes of the host.
    pub fn changed(&mut self, files: Vec<String>, refs: Vec<String>) {
        self.run.changed.files.extend(self.space.list(files));
        self.run.changed.refs.extend(self.space.list(refs));
    }

    /// Completes the record.
    pub fn end(mut self, exit: Result<Exit, Failed>) -> Result<(), Error> {
        let (how, code, signal) = match exit {
            Ok(Exit::Code(code)) => (How::Exited, code, None),
            Ok(Exit::Signal(signal)) => (How::Killed, Exit::Signal(signal).code(), Some(signal)),
            Err(Failed { how, code }) => (how, code, None),
        };
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.run.ended = Some(Ended { how, code, signal, milliseconds });
        self.run.omitted = self.space.omitted();
        let text = self.text();
        let written = match &mut self.file {
            Some(file) => append(file, &text),
            None => self.create(&self.path).and_then(|mut file| file.write_all(&text)),
        };
        written.map_err(|source| Error::File(PathError { doing: "write", path: self.path.clone(), source }))
    }

    /// Creates a file; makes the directory first if it is missing.
    fn create(&self, path: &Path) -> io::Result<File> {
        match private::create(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let dir = path.parent().unwrap_or_else(|| Path::new("/"));
                private::make_dir(dir).map_err(|error| error.source)?;
                private::create(path)
            }
            created => created,
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&self.run).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// Appends the line of the end. If that fails, the line of the start remains.
fn append(file: &mut File, text: &[u8]) -> io::Result<()> {
    let length = file.stream_position()?;
    file.write_all(text).inspect_err(|_| {
        // Half a line is skipped by readers, too.
        let _ = file.set_len(length);
    })
}

impl Run {
    /// A record of nothing, with the format of this version.
    pub fn new(tool: &str, started: u64, pid: u32) -> Run {
        Run {
            format: VERSION,
            tool: cut(tool),
            program: String::new(),
            arguments: 0,
            project: None,
            started,
            pid,
            machine: false,
            image: String::new(),
            lock: None,
            granted: Granted::default(),
            reached: Vec::new(),
            changed: Changed::default(),
            omitted: 0,
            ended: None,
        }
    }
}

/// Lists the recorded runs, the newest first, and the files that are no records of this version.
pub fn list(home: &Home) -> Result<(Vec<Stored>, Vec<PathBuf>), Error> {
    let (mut runs, mut strange) = (Vec::new(), Vec::new());
    for path in files(home).map_err(|source| Error::File(PathError { doing: "list", path: home.run_records(), source }))?.into_iter().rev()
    {
        let state = state(&path);
        let run = match read_limited::read(&path, MAX_FILE_BYTES) {
            // Another process has just removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.ok().and_then(|bytes| last_line(&bytes)).filter(|run| run.format == VERSION),
        };
        match run {
            Some(run) => {
                let state = if run.ended.is_some() { State::Ended } else { state };
                runs.push(Stored { path, run, state });
            }
            None => strange.push(path),
        }
    }
    Ok((runs, strange))
}

/// Returns the last complete record of a file.
fn last_line(bytes: &[u8]) -> Option<Run> {
    bytes.rsplit(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
}

/// Returns the state of a record without an end.
fn state(path: &Path) -> State {
    let is_free = File::open(path).and_then(LockedFile::try_exclusive).is_ok_and(|held| held.is_some());
    if is_free { State::Lost } else { State::Running }
}

/// True for one of [`PRUNE_RUNS`] runs. Spreads starts at the same second of each hour, and processes with the same id.
fn is_due(started: u64, pid: u32) -> bool {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    (started + u64::from(pid)).wrapping_mul(GOLDEN_RATIO) >> 32 < (1 << 32) / PRUNE_RUNS
}

/// Removes all but the newest files.
fn prune(dir: &Path) {
    let Ok(mut names) = names(dir) else { return };
    let Some(more) = names.len().checked_sub(MAX_RECORDS).filter(|more| *more > 0) else { return };
    let (old, ..) = names.select_nth_unstable(more);
    for name in old {
        // Ignore errors: the file may be gone already, and otherwise the next run tries again.
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Returns the files, the oldest first.
fn files(home: &Home) -> io::Result<Vec<PathBuf>> {
    let dir = home.run_records();
    let mut names = names(&dir)?;
    // By bytes: a comparison of paths takes them apart, which took a third of the instructions of a start.
    names.sort_unstable();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Returns the names of the files, in the order of the directory.
fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut names = listing.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.retain(|name| name.as_encoded_bytes().ends_with(b".json"));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(home: &Home, started: u64) -> Open {
        let mut space = Space::default();
        let mut run = Run::new("t", started, 7);
        run.granted.variables = space.list(["A".to_owned()]);
        Open::new(home, run, space)
    }

    #[test]
    fn a_record_is_running_then_ended_and_one_of_a_killed_silo_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        assert_eq!(list(&home).expect("nothing"), (Vec::new(), Vec::new()));
        let mut one = open(&home, 1);
        one.started(None);
        let states = || list(&home).expect("listed").0.iter().map(|stored| stored.state).collect::<Vec<_>>();
        assert_eq!(states(), [State::Running]);
        one.changed(vec![".git/hooks/x".to_owned()], vec!["HEAD".to_owned()]);
        one.end(Ok(Exit::Signal(9))).expect("written");
        assert_eq!(states(), [State::Ended]);
        let run = list(&home).expect("listed").0.remove(0).run;
        let ended = run.ended.expect("ended");
        assert_eq!((ended.how, ended.code, ended.signal), (How::Killed, 137, Some(9)));
        assert_eq!((run.changed.files.len(), run.changed.refs, run.granted.variables), (1, vec!["HEAD".to_owned()], vec!["A".to_owned()]));
        let mut two = open(&home, 2);
        two.started(None);
        drop(two);
        assert_eq!(states(), [State::Lost, State::Ended]);
        // A program that never started.
        open(&home, 3).end(Err(Failed { how: How::Failed, code: 127 })).expect("written");
        assert_eq!(list(&home).expect("listed").0[0].run.ended.as_ref().map(|ended| (ended.how, ended.code)), Some((How::Failed, 127)));
        // A line that was cut off, as by a power failure.
        let path = list(&home).expect("listed").0[0].path.clone();
        let whole = fs::read(&path).expect("there");
        fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).expect("written");
        assert_eq!(list(&home).expect("listed").0[0].run.ended.as_ref().map(|ended| ended.code), Some(127));
        // One file for each run.
        assert_eq!(fs::read_dir(home.run_records()).expect("there").count(), 3);
    }

    #[test]
    fn records_are_bounded_in_size_and_number_and_other_files_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        let mut started = 0;
        // As many as are kept, and then up to the next run that removes old ones.
        while started < MAX_RECORDS as u64 + 3 || !is_due(started - 1, 7) {
            let mut one = open(&home, started);
            one.started(None);
            one.end(Ok(Exit::Code(0))).expect("written");
            started += 1;
        }
        assert!(started < MAX_RECORDS as u64 + 8 * PRUNE_RUNS, "{started}");
        assert_eq!(list(&home).expect("listed").0.len(), MAX_RECORDS);
        let mut big = open(&home, 10_000);
        big.changed((0..10_000).map(|at| format!("{at}\u{1b}{}", "x".repeat(10_000))).collect(), Vec::new());
        big.end(Ok(Exit::Code(0))).expect("written");
        for text in ["", "{}", "{\"format\":2}"] {
            fs::write(home.run_records().join(format!("2-{}.json", text.len())), text).expect("written");
        }
        let (runs, strange) = list(&home).expect("listed");
        assert_eq!((runs.len(), strange.len()), (MAX_RECORDS + 1, 3));
        assert!(runs[0].run.omitted > 9_000, "{}", runs[0].run.omitted);
        let size = fs::metadata(&runs[0].path).expect("there").len();
        assert!(size < MAX_FILE_BYTES, "{size}");
    }
}
