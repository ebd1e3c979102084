//! Network logs of runs: one file for each run with network activity.
//!
//! A file has lines of JSON: a [`Title`], then an [`Entry`] for each name and connection. The newest [`MAX_RECORDS`] files are kept.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;

use serde::{Deserialize, Serialize};

use silo_base::home::Home;
use silo_launch::broker::network_log::{Entry, Verdict};

use super::error::Error;

/// Limit on the kept files; each has at most some thousands of lines.
const MAX_RECORDS: usize = 200;

/// The first line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title {
    /// The tool.
    pub tool: String,
    /// The project.
    pub project: Option<String>,
    /// Start of the run, in seconds since 1970.
    pub started: u64,
}

impl Title {
    /// Returns the line.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Network activity of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The file.
    pub path: PathBuf,
    /// The run.
    pub title: Title,
    /// The entries, in order.
    pub entries: Vec<Entry>,
}

/// Totals of equal entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryTotal {
    /// Number of entries.
    pub times: u64,
    /// Bytes sent by the sandbox.
    pub sent: u64,
    /// Bytes received by the sandbox.
    pub received: u64,
}

impl Run {
    /// Adds up the entries by name, port and verdict.
    pub fn sums(&self) -> BTreeMap<(&str, Option<u16>, Verdict), EntryTotal> {
        let mut sums = BTreeMap::<_, EntryTotal>::new();
        for entry in &self.entries {
            let sum = sums.entry((entry.name.as_str(), entry.port, entry.verdict)).or_default();
            sum.times += 1;
            sum.sent = sum.sent.saturating_add(entry.sent);
            sum.received = sum.received.saturating_add(entry.received);
        }
        sums
    }
}

/// Returns the file name of a run; names sort by time.
pub fn file_name(started: u64, pid: u32) -> String {
    format!("{started:012}-{pid}.jsonl")
}

/// Lists the runs with network activity, the newest first.
pub fn list(home: &Home) -> Result<Vec<Run>, Error> {
    let mut runs = Vec::new();
    for path in files(home).map_err(|source| Error::File(PathError { doing: "list", path: home.network_logs(), source }))?.into_iter().rev()
    {
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // Another process has just pruned it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::File(PathError { doing: "read", path, source })),
        };
        runs.extend(parse(path, &text));
    }
    Ok(runs)
}

/// Reads the log of one run; `None` if it had no network activity, or the file is damaged.
pub fn read(path: &Path) -> Option<Run> {
    let bytes = fs::read(path).ok()?;
    parse(path.to_owned(), &String::from_utf8_lossy(&bytes))
}

/// Parses a file; skips a line that was truncated by a crash.
fn parse(path: PathBuf, text: &str) -> Option<Run> {
    let mut lines = text.lines();
    let title = serde_json::from_str(lines.next()?).ok()?;
    Some(Run { path, title, entries: lines.filter_map(|line| serde_json::from_str(line).ok()).collect() })
}

/// Removes all but the newest files.
pub fn prune(home: &Home) {
    let Ok(files) = files(home) else { return };
    for old in files.iter().rev().skip(MAX_RECORDS) {
        // Ignore errors: the file may be gone already, and otherwise the next run tries again.
        let _ = fs::remove_file(old);
    }
}

/// Returns the files, the oldest first.
fn files(home: &Home) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(home.network_logs()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let paths = listing.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = paths.into_iter().filter(|path| is_record(path)).collect();
    files.sort();
    Ok(files)
}

fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_the_oldest_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        assert!(list(&home).expect("nothing").is_empty());
        fs::create_dir_all(home.network_logs()).expect("made");
        let title = Title { tool: "t".to_owned(), project: None, started: 5 };
        let line = r#"{"name":"a","port":1,"verdict":"reached","sent":3,"received":4}"#;
        for started in 0..MAX_RECORDS as u64 + 3 {
            let text = format!("{}\n{line}\n{line}\n{{\"name\":\"b", title.line());
            fs::write(home.network_logs().join(file_name(started, 1)), text).expect("written");
        }
        fs::write(home.network_logs().join(file_name(9, 9)), "nothing").expect("written");
        prune(&home);
        let runs = list(&home).expect("listed");
        assert_eq!(runs.len(), MAX_RECORDS - 1, "other files are skipped");
        assert!(runs[0].path.ends_with(file_name(MAX_RECORDS as u64 + 2, 1)), "{:?}", runs[0].path);
        assert_eq!(runs[0].title, title);
        let sums = runs[0].sums();
        assert_eq!(sums.len(), 1);
        assert_eq!(sums[&("a", Some(1), Verdict::Reached)], EntryTotal { times: 2, sent: 6, received: 8 });
    }
}
