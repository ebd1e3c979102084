//! What a user sees while a command works: bars on a terminal, plain lines elsewhere.
//!
//! Data goes to standard output, everything else to standard error. The first moment is silent, so that
//! a command with nothing to do says nothing but its result.
//!
//! This is the only way from Silo to a terminal, and all text is escaped on it ([`plain`]). So text of a project, a registry, a
//! package or a sandbox cannot act on the terminal, wherever it gets into a message. A message keeps its own lines apart from
//! Silo's: all lines but its first are indented.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::event::{Activity, Event};
use crate::plain;
use crate::thread;

use super::env;
use super::error::Failure;

/// How long an activity is silent.
const SILENT: Duration = Duration::from_millis(250);
/// When an activity that began in the first moment shows a sign of life where there are no bars.
const LATER: Duration = Duration::from_secs(1);
/// How often the time of an activity without a size is drawn.
const TICK: Duration = Duration::from_millis(200);
/// How often a bar is drawn at most.
const DRAWS_PER_SEC: u8 = 10;

/// Before each line of a message but the first; more than hints and tables have.
const INDENT: &str = "    ";
/// Most characters of a message: a step's last lines and a file's line with its error fit in it.
const MAX_MESSAGE_CHARS: usize = 64 << 10;

/// Shows events.
pub struct Ui {
    mode: Mode,
    began: Instant,
    running: Arc<Mutex<HashMap<u64, Running>>>,
    /// Set when somebody looks after activities that began in the silent moment.
    looks: AtomicBool,
    /// Whether the lines of steps are shown.
    shows_steps: AtomicBool,
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
        Ui { mode, began: Instant::now(), running: Arc::default(), looks: AtomicBool::new(false), shows_steps: AtomicBool::new(false) }
    }

    /// Shows the lines of steps from now on, too.
    pub fn show_steps(&self) {
        self.shows_steps.store(true, Ordering::Relaxed);
    }

    /// Shows an event; called from any thread.
    pub fn show(&self, event: Event) {
        match event {
            Event::Warning { text } => self.line(&format!("silo: warning: {}", message(&text))),
            Event::Note { text } if !matches!(self.mode, Mode::Quiet) => self.line(&format!("silo: {}", message(&text))),
            Event::Note { .. } => {}
            _ if matches!(self.mode, Mode::Quiet) => {}
            Event::Started { id, kind, name, total } => self.started(id, kind, name, total),
            Event::Progress { id, done } => self.progressed(id, done),
            Event::Log { line, .. } if self.shows_steps.load(Ordering::Relaxed) => self.line(&format!("  {}", plain::said(&line))),
            Event::Log { .. } => {}
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

    fn line(&self, text: &str) {
        match &self.mode {
            Mode::Terminal(bars) => bars.suspend(|| line(text)),
            Mode::Quiet | Mode::Plain => line(text),
        }
    }

    fn started(&self, id: u64, kind: Activity, name: String, total: Option<u64>) {
        let name = plain::line(name.lines().next().unwrap_or_default());
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
        let is_untold = matches!(self.mode, Mode::Plain) && shows_in_plain(kind, total) && !running.told;
        self.running().insert(id, running);
        // A run must have one thread when it launches its sandbox; what it does before that is short.
        if is_untold && matches!(kind, Activity::Build | Activity::Resolve | Activity::Step | Activity::Verify) {
            self.tell_later();
        }
    }

    /// Tells activities that began in the silent moment, if they still go on after it. Without a thread for it nothing is lost.
    fn tell_later(&self) {
        if self.looks.swap(true, Ordering::Relaxed) {
            return;
        }
        let running = Arc::clone(&self.running);
        let wait = LATER.saturating_sub(self.began.elapsed());
        let _ = thread::apart(move || {
            std::thread::sleep(wait);
            let mut all = running.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            for running in all.values_mut().filter(|running| !running.told && shows_in_plain(running.kind, running.total)) {
                line(&format!("{} {}", verb(running.kind), running.name));
                running.told = true;
            }
        });
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
    bar.set_message(name.to_owned());
    if total.is_none() {
        // What tells nothing of its progress shows at least that it goes on.
        keep_ticking(&bar);
    }
    bar
}

/// Draws a bar again now and then until it is gone. Without a thread for it, its time stands still.
fn keep_ticking(bar: &ProgressBar) {
    let bar = bar.downgrade();
    let _ = thread::apart(move || {
        while let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) {
            bar.tick();
            drop(bar);
            std::thread::sleep(TICK);
        }
    });
}

/// Writes lines beside the results. Lines after the first are Silo's own if they are indented.
pub fn note(text: &str) {
    let mut lines = text.split('\n');
    line(&format!("silo: {}", lines.next().unwrap_or_default()));
    for text in lines {
        line(&if text.starts_with("  ") { text.to_owned() } else { format!("{INDENT}{text}") });
    }
}

/// Writes a line to standard error; one that cannot be written is no reason to fail.
pub fn line(text: &str) {
    drop(writeln!(io::stderr(), "{}", plain::text(text)));
}

/// Returns a message with all lines but its first indented, so that none of them looks like a line of Silo's own.
pub fn message(text: &str) -> String {
    let text = match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.trim_end_matches('\n').to_owned(),
    };
    text.replace('\n', &format!("\n{INDENT}"))
}

/// Reports a panic, of any thread, as Silo reports errors.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("a value that is no text");
        let place = panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
        line(&format!("silo: this is a fault of silo: {}{place}", message(what)));
        if env::var("RUST_BACKTRACE").is_some() {
            line(&std::backtrace::Backtrace::force_capture().to_string());
        }
    }));
}

/// Writes an error of clap in clap's own colours, or the help that was asked for.
pub fn styled(error: &clap::Error) {
    // Where the reader has gone there is nobody to tell.
    drop(error.print());
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
    err.write_all(plain::text(question).as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().eq_ignore_ascii_case(yes))
}

/// Writes text to standard output; a reader that has gone away is no error.
pub fn data(text: &str) -> Result<(), Failure> {
    write(plain::text(text).as_bytes())
}

/// Writes text to a file as it is where one is named, else to standard output.
pub fn data_to(file: Option<&Path>, text: &str) -> Result<(), Failure> {
    match file {
        Some(file) => write_file(file, text),
        None => data(text),
    }
}

/// Writes the output of a program: exactly as it is to a file or a pipe, and without its control characters to a terminal.
pub fn program_output(bytes: &[u8]) -> Result<(), Failure> {
    if io::stdout().is_terminal() { data(&plain::said_lines(bytes)) } else { write(bytes) }
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<(), Failure> {
    json_to(None, value)
}

/// Writes a value as JSON to a file where one is named, else to standard output. Control and format characters are escaped
/// in JSON's own way, so that the value is the same.
pub fn json_to(file: Option<&Path>, value: &serde_json::Value) -> Result<(), Failure> {
    let text = plain::json(&format!("{value:#}\n"));
    match file {
        Some(file) => write_file(file, &text),
        None => write(text.as_bytes()),
    }
}

fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text)
        .map_err(|error| Failure::found(format!("cannot write {}: {error}", plain::path(file)), "name a file that can be written"))
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::found(format!("cannot write to standard output: {error}"), "is the disk full?"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_message_are_indented_and_bounded() {
        assert_eq!(message("a\nsilo: approved\n  hint: b\n"), "a\n    silo: approved\n      hint: b");
        assert!(message(&"x".repeat(1 << 20)).chars().count() < MAX_MESSAGE_CHARS + 10);
    }
}
