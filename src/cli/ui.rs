//! Output for the user: progress bars on a terminal, plain lines elsewhere.
//!
//! Data goes to standard output, everything else to standard error. Nothing is shown in the first moment, so a command without work prints
//! only its result.
//!
//! All output of Silo passes through this module, which escapes it ([`plain`]). Text of a project, a registry, a package or a sandbox
//! cannot act on the terminal, in any message. All lines of a message but the first are indented, so they cannot pass for Silo's own.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use silo_base::event::{Activity, Event};
use silo_base::plain;
use silo_base::thread;

use super::env;
use super::error::Failure;

/// Initial time without output.
const SILENT: Duration = Duration::from_millis(250);
/// Without bars: time after which a line is shown for activities that began in the silent time.
const LATER: Duration = Duration::from_secs(1);
/// Redraw interval of an activity without a known size.
const TICK: Duration = Duration::from_millis(200);
/// Maximum redraw rate of a bar.
const DRAWS_PER_SEC: u8 = 10;

/// Indent of a message's lines after the first; deeper than hints and tables.
const INDENT: &str = "    ";
/// Maximum characters of a message: enough for a step's last lines, or a line of a file with its error.
const MAX_MESSAGE_CHARS: usize = 64 << 10;

/// Shows events.
pub struct Ui {
    mode: Mode,
    began: Instant,
    running: Arc<Mutex<HashMap<u64, Running>>>,
    /// Set once a thread watches for activities that began in the silent time.
    looks: AtomicBool,
    /// Show the output of build steps.
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
    /// Chooses the output mode by the type of standard error.
    pub fn new(quiet: bool) -> Ui {
        let mode = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, false) => Mode::Plain,
            (false, true) => Mode::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SEC))),
        };
        Ui { mode, began: Instant::now(), running: Arc::default(), looks: AtomicBool::new(false), shows_steps: AtomicBool::new(false) }
    }

    /// Also shows the output of build steps from now on.
    pub fn show_steps(&self) {
        self.shows_steps.store(true, Ordering::Relaxed);
    }

    /// Shows an event; callable from any thread.
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

    /// Removes the bars.
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
        // On plain lines, skip the progress of single files; the total has its own line.
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
        // A run must have a single thread when it launches its sandbox, so only the activities of builds get a thread.
        if is_untold && matches!(kind, Activity::Build | Activity::Resolve | Activity::Step | Activity::Verify) {
            self.tell_later();
        }
    }

    /// Shows the activities of the silent time that are still running after it. If the thread cannot start, only these lines are missing.
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
        // No known size: show at least the elapsed time.
        keep_ticking(&bar);
    }
    bar
}

/// Redraws a bar until it is finished. If the thread cannot start, its elapsed time stops.
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

/// Writes a note. Indented lines after the first count as Silo's own.
pub fn note(text: &str) {
    let mut lines = text.split('\n');
    line(&format!("silo: {}", lines.next().unwrap_or_default()));
    for text in lines {
        line(&if text.starts_with("  ") { text.to_owned() } else { format!("{INDENT}{text}") });
    }
}

/// Writes a line to standard error; a failed write is ignored.
pub fn line(text: &str) {
    drop(writeln!(io::stderr(), "{}", plain::text(text)));
}

/// Indents all lines of a message but the first, so that none looks like a line of Silo's own.
pub fn message(text: &str) -> String {
    let text = match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.trim_end_matches('\n').to_owned(),
    };
    text.replace('\n', &format!("\n{INDENT}"))
}

/// Reports a panic of any thread as an error of Silo.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.payload_as_str().unwrap_or("a panic without a text");
        let place = panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
        line(&format!("silo: internal error: {}{place}", message(what)));
        if env::var("RUST_BACKTRACE").is_some() {
            line(&std::backtrace::Backtrace::force_capture().to_string());
        }
    }));
}

/// Writes an error or help text of clap in clap's own colours.
pub fn styled(error: &clap::Error) {
    // Ignore the error: the reader is gone.
    drop(error.print());
}

/// True if a user can be asked.
pub fn is_asking() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal; returns true if the answer is `yes` in any case. Without a terminal it fails with this hint.
pub fn ask(question: &str, yes: &str, hint: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("cannot ask, because standard input is not a terminal", hint));
    }
    let failed = |error: io::Error| Failure::found(format!("cannot ask: {error}"), hint);
    let mut err = io::stderr().lock();
    err.write_all(plain::text(question).as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim().eq_ignore_ascii_case(yes))
}

/// Writes text to standard output; a closed pipe is no error.
pub fn data(text: &str) -> Result<(), Failure> {
    write(plain::text(text).as_bytes())
}

/// Writes text unchanged to a file, or escaped to standard output.
pub fn data_to(file: Option<&Path>, text: &str) -> Result<(), Failure> {
    match file {
        Some(file) => write_file(file, text),
        None => data(text),
    }
}

/// Writes a program's output: unchanged to a file or pipe, without control characters to a terminal.
pub fn program_output(bytes: &[u8]) -> Result<(), Failure> {
    if io::stdout().is_terminal() { data(&plain::said_lines(bytes)) } else { write(bytes) }
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<(), Failure> {
    json_to(None, value)
}

/// Writes a value as JSON to a file or to standard output. Control and format characters get JSON escapes, so the value stays the same.
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
