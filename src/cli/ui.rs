//! What a user sees while a command works: bars on a terminal, plain lines elsewhere.
//!
//! Data goes to standard output, everything else to standard error. The first moment is silent, so that
//! a command with nothing to do says nothing but its result.
#![allow(clippy::print_stderr)]

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{Activity, Event};

use super::error::Failure;

/// How long an activity is silent.
const SILENT: Duration = Duration::from_millis(250);
/// How often the time of an activity without a size is drawn.
const TICK: Duration = Duration::from_millis(200);
/// How often a bar is drawn at most.
const DRAWS_PER_SEC: u8 = 10;

/// Shows events.
pub struct Ui {
    mode: Mode,
    began: Instant,
    running: Mutex<HashMap<u64, Running>>,
}

enum Mode {
    Quiet,
    Plain,
    Terminal(MultiProgress),
}

struct Running {
    name: String,
    kind: Activity,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    told: bool,
}

impl Ui {
    /// Chooses how to show events from what standard error is.
    pub fn new(quiet: bool) -> Ui {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, false) => Mode::Plain,
            (false, true) => Mode::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SEC))),
        };
        Ui { mode, began: Instant::now(), running: Mutex::default() }
    }

    /// Shows an event; called from any thread.
    pub fn show(&self, event: Event) {
        match event {
            Event::Warning { text } => self.line(&format!("silo: warning: {text}")),
            Event::Note { text } if !matches!(self.mode, Mode::Quiet) => self.line(&format!("silo: {text}")),
            Event::Note { .. } => {}
            _ if matches!(self.mode, Mode::Quiet) => {}
            Event::Started { id, kind, name, total } => self.started(id, kind, name, total),
            Event::Progress { id, done } => self.progressed(id, done),
            Event::Log { line, .. } => self.line(&line),
            Event::Finished { id } => self.finished(id),
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        for (_, running) in self.running().drain() {
            if let Some(bar) = running.bar {
                bar.finish_and_clear();
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn line(&self, line: &str) {
        match &self.mode {
            // A line that cannot be shown is no reason to stop the work.
            Mode::Terminal(bars) => bars.suspend(|| drop(writeln!(io::stderr(), "{line}"))),
            Mode::Quiet | Mode::Plain => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    fn started(&self, id: u64, kind: Activity, name: String, total: Option<u64>) {
        let mut running = Running { name, kind, total, bar: None, told: false };
        // On plain lines a file's own progress would be noise beside the total's.
        if let Mode::Plain = self.mode
            && shows_in_plain(kind, total)
            && self.began.elapsed() >= SILENT
        {
            self.line(&format!("{} {}", verb(kind), running.name));
            running.told = true;
        }
        if let Mode::Terminal(bars) = &self.mode
            && self.began.elapsed() >= SILENT
        {
            running.bar = Some(bars.add(bar(running.kind, &running.name, running.total)));
        }
        self.running().insert(id, running);
    }

    fn progressed(&self, id: u64, done: u64) {
        let mut all = self.running();
        let Some(running) = all.get_mut(&id) else { return };
        match &self.mode {
            Mode::Terminal(bars) if self.began.elapsed() >= SILENT => {
                let bar = running.bar.get_or_insert_with(|| bars.add(bar(running.kind, &running.name, running.total)));
                bar.set_position(done);
            }
            Mode::Terminal(_) | Mode::Quiet | Mode::Plain => {}
        }
    }

    fn finished(&self, id: u64) {
        let Some(running) = self.running().remove(&id) else { return };
        if let Some(bar) = running.bar {
            bar.finish_and_clear();
        }
        if running.told && matches!(self.mode, Mode::Plain) {
            self.line(&format!("{} {}: done", verb(running.kind), running.name));
        }
    }
}

fn shows_in_plain(kind: Activity, total: Option<u64>) -> bool {
    kind != Activity::Fetch || total.is_none_or(|bytes| bytes > 4 << 20)
}

fn verb(kind: Activity) -> &'static str {
    match kind {
        Activity::Build => "building",
        Activity::Resolve => "resolving",
        Activity::Fetch => "fetching",
        Activity::Unpack => "unpacking",
        Activity::Step => "running",
        Activity::Commit => "committing",
        Activity::Compose => "composing",
        Activity::Verify => "verifying",
        Activity::Compress => "compressing",
        Activity::Restore => "restoring",
    }
}

fn bar(kind: Activity, name: &str, total: Option<u64>) -> ProgressBar {
    let template = match (kind, total) {
        (Activity::Fetch, Some(_)) => "{prefix:>10} {wide_msg} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} ETA {eta:4} [{bar:20}]",
        (Activity::Build, Some(_)) => "{prefix:>10} {wide_msg} {pos:>5}/{len:5} parts, {elapsed} [{bar:20}]",
        (_, Some(_)) => "{prefix:>10} {wide_msg} {pos:>5}/{len:5} ETA {eta:4} [{bar:20}]",
        (_, None) => "{prefix:>10} {wide_msg} {elapsed} {spinner}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(ProgressStyle::with_template(template).expect("the templates above are right").progress_chars("=> "));
    bar.set_prefix(verb(kind));
    bar.set_message(name.lines().next().unwrap_or_default().to_owned());
    if total.is_none() {
        // What tells nothing of its progress shows at least that it goes on.
        bar.enable_steady_tick(TICK);
    }
    bar
}

/// Writes a line beside the results.
pub fn note(text: &str) {
    // A line that cannot be shown is no reason to fail.
    drop(writeln!(io::stderr(), "silo: {text}"));
}

/// Whether somebody is there to be asked.
pub fn is_asking() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal, and says whether the answer is `yes` in whatever case; without a terminal it is an error with this hint.
pub fn ask(question: &str, yes: &str, hint: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked, because standard input is no terminal", hint));
    }
    let failed = |error: io::Error| Failure::found(format!("cannot ask: {error}"), hint);
    let mut err = io::stderr().lock();
    err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().eq_ignore_ascii_case(yes))
}

/// Writes data to standard output; a reader that has gone away is no error.
pub fn data(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Writes text to a file where one is named, else to standard output.
pub fn data_to(file: Option<&Path>, text: &str) -> Result<(), Failure> {
    let Some(file) = file else { return data(text) };
    std::fs::write(file, text)
        .map_err(|error| Failure::found(format!("cannot write {}: {error}", file.display()), "name a file that can be written"))
}

/// Writes bytes as they are to standard output; a reader that has gone away is no error.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::found(format!("cannot write to standard output: {error}"), "is the disk full?"))
        }
        _ => Ok(()),
    }
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<(), Failure> {
    data(&format!("{value:#}\n"))
}
