//! Limits the output of a build step and the files that it writes.
//!
//! Both are checked while the step runs: the free disk space at each check, and the step's files at longer intervals. Of a long log
//! only the first and the last part are kept. A step that writes too many files is stopped, and its build fails.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use silo_store::entry::MAX_ENTRIES;

use silo_base::units;

/// Default limit on the bytes of files that a step writes; larger than any image in use.
pub const MAX_STEP_BYTES: u64 = 64 << 30;
/// Bytes kept from the start of a log, and from its end.
const KEPT_LOG_BYTES: u64 = 1 << 20;
/// Size at which the log of a running step is truncated.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// Interval of the counts of files. It grows so that counting takes at most a twentieth of the time.
const BETWEEN_COUNTS: Duration = Duration::from_secs(2);
/// Bytes of a block in `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Watches the limits of one step.
pub(super) struct LimitWatch<'a> {
    upper: &'a Path,
    log: &'a Path,
    max_bytes: u64,
    free_at_start: u64,
    /// The time of the next count of files.
    count_at: Instant,
    /// The limit that the step exceeded.
    over: Option<String>,
    cut: LogParts,
}

/// Parts saved from a log that was truncated while the step ran.
#[derive(Default)]
struct LogParts {
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
}

impl<'a> LimitWatch<'a> {
    /// Prepares to watch a step that has not started.
    pub fn new(upper: &'a Path, log: &'a Path, max_bytes: u64) -> LimitWatch<'a> {
        let free_at_start = free(upper).unwrap_or(0);
        LimitWatch { upper, log, max_bytes, free_at_start, count_at: Instant::now() + BETWEEN_COUNTS, over: None, cut: LogParts::default() }
    }

    /// Checks a running step; returns `Break` if it exceeds a limit.
    pub fn check(&mut self) -> ControlFlow<()> {
        self.cut_log();
        let taken = self.free_at_start.saturating_sub(free(self.upper).unwrap_or(u64::MAX));
        let began = Instant::now();
        if began >= self.count_at || taken > self.max_bytes {
            self.over = self.count().or_else(|| self.hidden(taken));
            self.count_at = Instant::now() + BETWEEN_COUNTS.max(began.elapsed() * 20);
        }
        if self.over.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Returns the limit that an ended step exceeded.
    pub fn exceeded(&self) -> Option<String> {
        self.over.clone().or_else(|| self.count())
    }

    /// Counts the step's files; returns the exceeded limit.
    fn count(&self) -> Option<String> {
        let (mut bytes, mut entries) = (0_u64, 0_usize);
        let mut dirs: Vec<PathBuf> = vec![self.upper.to_owned()];
        while let Some(dir) = dirs.pop() {
            // The step is still running; entries that vanish are not counted.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Ok(facts) = entry.metadata() else { continue };
                bytes = bytes.saturating_add(facts.blocks().saturating_mul(BLOCK_BYTES));
                entries += 1;
                if facts.is_dir() {
                    dirs.push(entry.path());
                }
            }
            if bytes > self.max_bytes {
                return Some(self.too_much());
            }
            if entries > MAX_ENTRIES {
                return Some(format!("it made more than {MAX_ENTRIES} files"));
            }
        }
        None
    }

    /// Catches files that the count cannot reach by their disk usage. Other processes use the disk too, so it must be twice the limit.
    fn hidden(&self, taken: u64) -> Option<String> {
        (taken / 2 > self.max_bytes).then(|| self.too_much())
    }

    fn too_much(&self) -> String {
        format!("it wrote more than {} of files", units::size(self.max_bytes))
    }

    /// Truncates a log that is too large. The step appends, so it continues at the new end. Output written during the truncation is lost.
    fn cut_log(&mut self) {
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(self.log) else { return };
        let length = file.metadata().map_or(0, |facts| facts.len());
        if length <= MAX_LOG_BYTES {
            return;
        }
        let head = if self.cut.bytes == 0 { part(&mut file, 0).ok() } else { None };
        if let (Ok(tail), Ok(())) = (part(&mut file, length - KEPT_LOG_BYTES), file.set_len(0)) {
            self.cut.head.extend(head.into_iter().flatten());
            self.cut.tail = tail;
            self.cut.bytes += length;
        }
    }

    /// Reduces the log of a finished step to its first and last part, with a line between them that says so.
    pub fn finish(self) -> io::Result<()> {
        let mut file = match OpenOptions::new().read(true).write(true).open(self.log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let total = self.cut.bytes.saturating_add(length);
        if total <= 2 * KEPT_LOG_BYTES {
            return Ok(());
        }
        let head = if self.cut.bytes == 0 { part(&mut file, 0)? } else { self.cut.head };
        let mut tail = self.cut.tail;
        tail.extend(part(&mut file, length.saturating_sub(KEPT_LOG_BYTES))?);
        let tail = &tail[tail.len().saturating_sub(KEPT_LOG_BYTES as usize)..];
        let left_out = total - head.len() as u64 - tail.len() as u64;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&head)?;
        write!(file, "\nsilo: {left_out} bytes of output are left out here\n")?;
        file.write_all(tail)
    }
}

/// Reads one part of a log.
fn part(file: &mut fs::File, from: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(KEPT_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the free bytes of a file system.
fn free(path: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(path).ok()?;
    Some(facts.f_bavail.saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_beginning_and_its_end() {
        let place = tempfile::tempdir().expect("a directory");
        let log = place.path().join("log");
        let line = |number: usize| format!("{number:0>15}\n");
        let write = |range: std::ops::Range<usize>| {
            let mut file = OpenOptions::new().create(true).append(true).open(&log).expect("our own file");
            file.write_all(range.map(line).collect::<String>().as_bytes()).expect("our own file");
        };
        for (first, last, all) in [(50, 100, true), (500_000, 1_000_000, false), (5_000_000, 5_000_100, false)] {
            let _ = fs::remove_file(&log);
            let mut watch = LimitWatch::new(place.path(), &log, MAX_STEP_BYTES);
            for range in [0..first, first..last] {
                write(range);
                watch.cut_log();
            }
            watch.finish().expect("our own file");
            let text = fs::read_to_string(&log).expect("text");
            assert!(text.starts_with(&line(0)) && text.ends_with(&line(last - 1)), "{last}");
            assert_eq!(text.contains("bytes of output are left out here"), !all);
            assert!(all || text.len() as u64 <= 2 * KEPT_LOG_BYTES + 100);
            let total = last as u64 * 16;
            let left = text.lines().find_map(|line| line.strip_prefix("silo: ")?.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
            let note = text.lines().filter(|line| line.starts_with("silo: ")).map(|line| line.len() as u64 + 2).sum::<u64>();
            assert_eq!(left + text.len() as u64 - note, total);
        }
    }

    #[test]
    fn files_are_counted_by_the_space_that_they_take() {
        let place = tempfile::tempdir().expect("a directory");
        let (upper, log) = (place.path().join("upper"), place.path().join("log"));
        fs::create_dir_all(upper.join("a/b")).expect("our own");
        fs::write(upper.join("a/b/c"), vec![1; 3 << 20]).expect("our own");
        let holes = fs::File::create(upper.join("holes")).expect("our own");
        holes.set_len(1 << 40).expect("our own");
        let count = |max_bytes| LimitWatch::new(&upper, &log, max_bytes).count();
        assert_eq!(count(16 << 20), None);
        assert!(count(2 << 20).is_some_and(|what| what.contains("wrote more than")));
    }
}
