//! Output for the user.
//!
//! Data goes to standard output, everything else to standard error.
//!
//! All output of Silo passes through this module, which escapes it ([`sanitize`]). Text of a project, a registry, a package or a sandbox
//! cannot act on the terminal, in any message. All lines of a message but the first are indented, so they cannot pass for Silo's own.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};

use silo_base::sanitize;

use super::env;
use super::error::Failure;

/// Maximum redraw rate of a bar.
const DRAWS_PER_SEC: u8 = 10;

/// Indent of a message's lines after the first; deeper than hints and tables.
const INDENT: &str = "    ";
/// Maximum characters of a message: enough for a step's last lines, or a line of a file with its error.
const MAX_MESSAGE_CHARS: usize = 64 << 10;

/// The bars on the terminal, once there are any: other output is written above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();
/// Time of the last output.
static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// Returns the bars on the terminal.
pub fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(Box::<Drawing>::default(), DRAWS_PER_SEC)))
}

/// The terminal to draw bars on. Nothing fails if it is gone, because the library panics at such an error.
#[derive(Debug, Default)]
struct Drawing(Mutex<String>);

impl Drawing {
    fn add(&self, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    fn size() -> (u16, u16) {
        // A terminal without a size reports zeros.
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (size.ws_col, size.ws_row))
    }

    fn move_cursor(&self, count: usize, direction: char) {
        if count > 0 {
            self.add(&format!("\x1b[{count}{direction}"));
        }
    }
}

impl TermLike for Drawing {
    fn width(&self) -> u16 {
        Drawing::size().0
    }

    fn height(&self) -> u16 {
        Drawing::size().1
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text);
        self.add("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(io::stderr().write_all(text.as_bytes()));
        Ok(())
    }
}

/// True if standard error is a terminal.
pub fn has_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns the time since the last output, if there was any.
pub fn silence() -> Option<Duration> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).map(|last| last.elapsed())
}

/// Writes output above the bars.
fn above<T>(write: impl FnOnce() -> T) -> T {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
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
    above(|| drop(writeln!(io::stderr(), "{}", sanitize::text(text))));
}

/// Prints a failure and returns its exit code.
pub fn report(failure: &Failure) -> ExitCode {
    line(&format!("silo: {}", message(&failure.message())));
    for (tool, failure) in failure.parts() {
        line(&format!("  {}: {}", sanitize::line(tool), message(&failure.message())));
        if let Some(hint) = failure.hint() {
            line(&format!("    hint: {}", message(hint)));
        }
    }
    if let Some(hint) = failure.hint() {
        line(&format!("  hint: {}", message(hint)));
    }
    ExitCode::from(failure.code())
}

/// Indents all lines of a message but the first, so that none looks like a line of Silo's own.
pub fn message(text: &str) -> String {
    let text = match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text.trim_end_matches('\n').to_owned(),
    };
    text.replace('\n', &format!("\n{INDENT}"))
}

/// True if a view can have the whole terminal: input and output are one with a size.
pub fn has_screen() -> bool {
    // A terminal without a size reports zeros.
    let has_size = || rustix::termios::tcgetwinsize(io::stdin()).is_ok_and(|size| size.ws_col > 0 && size.ws_row > 0);
    io::stdin().is_terminal() && io::stdout().is_terminal() && has_size()
}

/// The output of a view that has the whole terminal. The view draws it from escaped texts.
pub type ScreenOutput = io::BufWriter<io::Stdout>;

/// Returns the output of a view that has the whole terminal.
pub fn screen_output() -> ScreenOutput {
    // Larger than most screens, so that one is drawn in one piece.
    io::BufWriter::with_capacity(64 << 10, io::stdout())
}

/// Returns the output for messages to another silo; fails on a terminal, which would act on them.
pub fn protocol_output() -> Result<io::Stdout, Failure> {
    let output = io::stdout();
    if output.is_terminal() {
        return Err(Failure::usage("this command talks to a silo of another machine".to_owned(), "see docs/remote.md"));
    }
    Ok(output)
}

/// Restores the terminal for the message about a panic.
static RESTORE: OnceLock<fn()> = OnceLock::new();

/// Sets the function that restores the terminal for the message about a panic.
pub fn before_panic_message(restore: fn()) {
    // The same function each time.
    let _ = RESTORE.set(restore);
}

/// Reports a panic of any thread as an error of Silo.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        RESTORE.get().into_iter().for_each(|restore| restore());
        let what = panic.payload_as_str().unwrap_or("a panic without a text");
        let place = panic.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
        // Written past the bars: the thread may hold their lock.
        let line = |text: &str| drop(writeln!(io::stderr(), "{}", sanitize::text(text)));
        line(&format!("silo: internal error: {}{place}", message(what)));
        if env::var("RUST_BACKTRACE").is_some() {
            line(&std::backtrace::Backtrace::force_capture().to_string());
        }
    }));
}

/// Writes an error or help text of clap in clap's own colours. Only help text counts as output that must not be lost.
pub fn styled(error: &clap::Error) -> Result<(), Failure> {
    error.print().or_else(|failed| if error.use_stderr() { Ok(()) } else { unwritten(failed) })
}

/// Set while a question waits for its answer.
static ASKING: AtomicBool = AtomicBool::new(false);

/// True while a question waits for its answer.
pub fn waits_for_answer() -> bool {
    ASKING.load(Ordering::Relaxed)
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
    err.write_all(sanitize::text(question).as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    ASKING.store(true, Ordering::Relaxed);
    let read = io::stdin().read_line(&mut answer);
    ASKING.store(false, Ordering::Relaxed);
    read.map_err(failed)?;
    Ok(answer.trim().eq_ignore_ascii_case(yes))
}

/// Writes text to standard output; a closed pipe is no error.
pub fn data(text: &str) -> Result<(), Failure> {
    write(sanitize::text(text).as_bytes())
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
    if io::stdout().is_terminal() { data(&sanitize::said_lines(bytes)) } else { write(bytes) }
}

/// Writes a value as JSON to standard output.
pub fn json(value: &serde_json::Value) -> Result<(), Failure> {
    json_to(None, value)
}

/// Writes a value as JSON to a file or to standard output. Control and format characters get JSON escapes, so the value stays the same.
pub fn json_to(file: Option<&Path>, value: &serde_json::Value) -> Result<(), Failure> {
    let text = sanitize::json(&format!("{value:#}\n"));
    match file {
        Some(file) => write_file(file, &text),
        None => write(text.as_bytes()),
    }
}

fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text)
        .map_err(|error| Failure::found(format!("cannot write {}: {error}", sanitize::path(file)), "name a file that can be written"))
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let written = above(|| {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    });
    written.or_else(unwritten)
}

/// The failure of a write to standard output; a closed pipe is none.
fn unwritten(error: io::Error) -> Result<(), Failure> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(Failure::found(format!("cannot write to standard output: {error}"), "is the disk full?")),
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
