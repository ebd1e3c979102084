//! Log of a build step: sent line by line while the step runs, and quoted in errors.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use silo_base::sanitize;
use silo_launch::Exit;

/// Bytes of a log read at a time. A line longer than `MAX_LINE_BYTES` is split.
const MAX_FOLLOWED_BYTES: u64 = 64 << 10;
const MAX_LINE_BYTES: usize = 4 << 10;

/// Lines shown from the end of a failed step's log.
const TAIL_LINES: usize = 20;

/// Bytes read from the end of a log to find those lines.
const MAX_TAIL_BYTES: u64 = 16 << 20;

/// Most `silo:` lines shown above the log tail.
const OWN_LINES: usize = 5;

/// Reads the lines of a growing log.
pub(super) struct Follower<'a> {
    log: &'a Path,
    at: u64,
    /// An unfinished line.
    rest: Vec<u8>,
}

impl<'a> Follower<'a> {
    /// Starts at the beginning of a log, which may not exist yet.
    pub fn new(log: &'a Path) -> Follower<'a> {
        Follower { log, at: 0, rest: Vec::new() }
    }

    /// Sends the lines that were written since the last call.
    pub fn read(&mut self, tell: &dyn Fn(String)) {
        loop {
            let mut bytes = Vec::new();
            let read = File::open(self.log).and_then(|mut file| {
                file.seek(SeekFrom::Start(self.at))?;
                file.take(MAX_FOLLOWED_BYTES).read_to_end(&mut bytes)
            });
            self.at += bytes.len() as u64;
            let rest = &mut self.rest;
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
            if read.map_or(true, |length| length == 0) {
                return;
            }
        }
    }
}

/// Describes an exit, for error messages.
pub(super) fn describe_exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

/// Returns the last lines of a log, and `silo:` lines above them.
pub(super) fn tail(log: &Path) -> String {
    let text = end_of(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    // Silo's own lines, such as refused connections, explain more than the end of a long trace.
    let own = lines[..from].iter().filter(|line| line.starts_with("silo: ")).take(OWN_LINES);
    own.chain(&lines[from..]).map(|line| format!("  {}", sanitize::said(line))).collect::<Vec<_>>().join("\n")
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
