//! Resolves the program's standard streams before the sandbox starts.
//!
//! A stream on the caller's terminal is connected to a terminal of the sandbox's own. The program also gets that terminal as `/dev/tty`
//! whenever silo has a controlling terminal, even if no stream is on a terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::getpgrp;
use rustix::termios::{InputModes, LocalModes, OutputModes, Termios, Winsize, isatty, tcgetattr, tcgetpgrp, tcgetwinsize};

use super::system;
use crate::error::{Error, host};
use crate::spec::Stdio;

/// The program's standard streams and terminal.
pub struct Streams {
    /// The program's terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// Input, output and errors.
    pub leads: [Target; 3],
    /// The caller's terminal, if the program has one.
    pub console: Option<Console>,
}

/// The destination of one stream.
pub enum Target {
    /// The caller's own stream.
    Caller,
    /// The program's terminal.
    Terminal,
    /// A file descriptor of silo's own.
    To(OwnedFd),
}

/// A terminal to create in the sandbox.
pub struct Terminal {
    /// Settings.
    pub settings: Box<Termios>,
    /// Size.
    pub size: Winsize,
    /// True if the program starts in its foreground.
    pub is_foreground: bool,
}

/// The caller's terminal.
pub struct Console {
    /// The file descriptor for input.
    pub keyboard: OwnedFd,
    /// The file descriptor for output.
    pub display: OwnedFd,
    /// The time of taking it over.
    pub take: TerminalTakeover,
}

/// The time when a program in the foreground takes over the caller's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalTakeover {
    /// For as long as it is in the foreground.
    Always,
    /// On the program's first read or change of settings. Until then another program of the pipeline may be the one that reads keys.
    AtUse,
}

impl Streams {
    /// Uses descriptors of silo's own as streams.
    pub fn given(input: OwnedFd, output: OwnedFd, errors: OwnedFd) -> Streams {
        Streams { terminal: None, leads: [input, output, errors].map(Target::To), console: None }
    }

    /// Returns for each stream if it is on the program's terminal.
    pub fn on_terminal(&self) -> [bool; 3] {
        [0, 1, 2].map(|number| matches!(self.leads[number], Target::Terminal))
    }
}

/// Resolves the program's streams.
pub fn streams(stdio: &Stdio) -> Result<Streams, Error> {
    match stdio {
        Stdio::Log { path } => {
            let step = format!("opening {}", path.display());
            let append = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            let log = host(open(path, append, Mode::from_raw_mode(0o600)), &step)?;
            let errors = host(fcntl_dupfd_cloexec(&log, 3), &step)?;
            let read = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = host(open("/dev/null", read, Mode::empty()), "opening /dev/null")?;
            Ok(Streams::given(null, log, errors))
        }
        Stdio::Auto => {
            refuse_directories()?;
            let Some((console, on)) = console()? else {
                return Ok(Streams { terminal: None, leads: [Target::Caller, Target::Caller, Target::Caller], console: None });
            };
            let is_foreground = is_foreground(console.keyboard.as_fd());
            let mut settings = host(tcgetattr(&console.keyboard), "reading the terminal's settings")?;
            if !is_foreground {
                usual(&mut settings);
            }
            let size = host(tcgetwinsize(&console.display), "reading the terminal's size")?;
            let begins_there = is_foreground && console.take == TerminalTakeover::Always;
            let terminal = Terminal { settings: Box::new(settings), size, is_foreground: begins_there };
            let leads = on.map(|is_there| if is_there { Target::Terminal } else { Target::Caller });
            Ok(Streams { terminal: Some(terminal), leads, console: Some(console) })
        }
    }
}

/// Finds the caller's terminal, and the streams that are on it.
fn console() -> Result<Option<(Console, [bool; 3])>, Error> {
    let [input, output, errors] = standard();
    let step = "opening the caller's terminal";
    let copy = |fd: BorrowedFd<'_>| host(fcntl_dupfd_cloexec(fd, 3), step);
    if isatty(input) && isatty(output) {
        let console = Console { keyboard: copy(input)?, display: copy(output)?, take: TerminalTakeover::Always };
        return Ok(Some((console, [true, true, isatty(errors)])));
    }
    // A stream may be on another terminal, opened by its name; only the controlling terminal counts.
    let on = standard().map(|stream| isatty(stream) && system::is_own_terminal(stream));
    let Some(keyboard) = system::own_terminal(&on) else { return Ok(None) };
    let display = copy(keyboard.as_fd())?;
    let take = if on[0] && !is_pipe(output)? { TerminalTakeover::Always } else { TerminalTakeover::AtUse };
    Ok(Some((Console { keyboard, display, take }, on)))
}

fn is_pipe(stream: BorrowedFd<'_>) -> Result<bool, Error> {
    let stat = host(fstat(stream), "looking at the standard output")?;
    Ok([FileType::Fifo, FileType::Socket].contains(&FileType::from_raw_mode(stat.st_mode)))
}

/// True if this process is in the foreground of a terminal; also true if the terminal does not control it.
pub fn is_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// Resets a terminal to canonical mode if a shell is reading single keys on it: such settings are the shell's, not the program's.
fn usual(settings: &mut Termios) {
    if settings.local_modes.contains(LocalModes::ICANON) {
        return;
    }
    settings.input_modes |= InputModes::ICRNL | InputModes::IXON;
    settings.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    settings.local_modes |=
        LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK | LocalModes::IEXTEN;
}

/// A directory as a stream would give access to the host's file system (`openat(0, "..")`).
fn refuse_directories() -> Result<(), Error> {
    for (name, stream) in ["input", "output", "errors"].iter().zip(standard()) {
        let stat = host(fstat(stream), &format!("looking at the standard {name}"))?;
        if system::is_path_only(stream) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::Spec { reason: format!("the standard {name} is a directory") });
        }
    }
    Ok(())
}

fn standard() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
}
