//! Launching from a process with threads: the program is started anew and told the spec.
//!
//! The child reads the spec from its standard input and answers on its standard output; it dies with its
//! parent, so a build that is killed leaves no step running.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::spec::Spec;
use super::{Exit, launch};

/// The word on the command line that makes the program serve one launch.
pub const WORD: &str = "__launch";

/// The option by which it takes a snapshot instead.
const SNAPSHOT: &str = "--snapshot";

/// Between two looks at the caller's wish to stop; a person does not feel a twentieth of a second.
const LOOK: Duration = Duration::from_millis(50);

/// Largest answer read: an exit or an error's text.
const MAX_ANSWER_BYTES: u32 = 1 << 20;

/// Largest spec read: its script and environment are bounded by the kernel's limit for arguments.
const MAX_SPEC_BYTES: u32 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Code(u8),
    Signal(i32),
    Failed(String),
}

/// What surrounds a launch without being part of its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circumstances {
    /// As it comes.
    Usual,
    /// Otherwise than usual, for builds that must not depend on it: one processor, another umask, time zone and locale.
    Other,
}

/// Launches `spec` in a process of `program` and waits for its end, or kills it when `stop` is set.
///
/// A thread that launches one step after another keeps the process that did it: it serves one launch at a time.
pub fn run(program: &Path, spec: &Spec, circumstances: Circumstances, stop: &AtomicBool) -> Result<Exit, Error> {
    let failed = |step: &str, source| Error::Host { step: format!("{step} {} {WORD}", program.display()), source };
    // What serves a network, or lives in other circumstances, is not used again.
    let reusable = circumstances == Circumstances::Usual && spec.network.is_none();
    let idle = if reusable { IDLE.with(|idle| idle.borrow_mut().take()) } else { None };
    let mut server = match idle.filter(|server| server.program == program) {
        Some(server) => server,
        None => Server::start(program, circumstances).map_err(|source| failed("starting", source))?,
    };
    let json = spec.to_json()?;
    let answer = server.ask(&json, stop).map_err(|source| failed("listening to", source))?;
    match serde_json::from_slice(&answer) {
        Ok(answer) => {
            if reusable {
                IDLE.with(|idle| *idle.borrow_mut() = Some(server));
            }
            match answer {
                Answer::Code(code) => Ok(Exit::Code(code)),
                Answer::Signal(signal) => Ok(Exit::Signal(signal)),
                Answer::Failed(message) => Err(Error::Elsewhere { message }),
            }
        }
        Err(_) => Err(Error::Lost),
    }
}

thread_local! {
    /// The process that served this thread's last launch. It dies with the thread, which the kernel sees to.
    static IDLE: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// A process that serves launches, one after another.
struct Server {
    program: PathBuf,
    child: Child,
}

impl Server {
    fn start(program: &Path, circumstances: Circumstances) -> io::Result<Server> {
        let mut command = match circumstances {
            Circumstances::Usual => Command::new(program),
            Circumstances::Other => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(program);
                shell
            }
        };
        command.arg(WORD).env_clear();
        if circumstances == Circumstances::Other {
            command.env("TZ", "Pacific/Kiritimati").env("LC_ALL", "tr_TR.UTF-8").current_dir("/");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        if circumstances == Circumstances::Other {
            one_processor(&child);
        }
        Ok(Server { program: program.to_owned(), child })
    }

    /// Sends a spec and reads the answer; nothing where the process has died. It is not waited for meanwhile, so its number
    /// is still its own when it is killed.
    fn ask(&mut self, spec: &[u8], stop: &AtomicBool) -> io::Result<Vec<u8>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let (Some(input), Some(output)) = (&mut self.child.stdin, &mut self.child.stdout) else { return Ok(Vec::new()) };
        match write_frame(input, spec) {
            // A process that died before it read all says so by having no answer.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // One that lives would wait for the rest; it ends when its input does.
            sent => sent?,
        }
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = crate::thread::beside(scope, || {
                while !ended.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                    thread::park_timeout(LOOK);
                }
                if let Some(pid) = pid.filter(|_| stop.load(Ordering::Relaxed)) {
                    // One that has just ended cannot be killed, and need not be.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            });
            let watch = watch.map_err(io::Error::other)?;
            let answer = read_frame(output, MAX_ANSWER_BYTES);
            ended.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            Ok(answer?.unwrap_or_default())
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends when it is told nothing more; one that was killed has ended.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Starts a process that takes the snapshot which this launch could have used, if there is none, and does not
/// wait for it. Without a snapshot the next machines boot, too, so nobody is told where it cannot be started.
pub fn take_snapshot_apart(spec: &Spec) {
    if !super::wants_snapshot(spec) {
        return;
    }
    let (Ok(program), Ok(json)) = (super::this_program(), spec.to_json()) else { return };
    let mut command = Command::new(program);
    command.args([WORD, SNAPSHOT, "/dev/stdin"]).env_clear().current_dir("/");
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Some(mut input) = started.ok().and_then(|mut child| child.stdin.take()) {
        let _ = input.write_all(&json);
    }
}

/// Serves launches until there are no more: the other side of [`run`].
pub fn serve() -> Result<(), Error> {
    die_with_parent();
    let failed = |step: &str, source| Error::Host { step: step.to_owned(), source };
    loop {
        let spec = read_frame(&mut io::stdin(), MAX_SPEC_BYTES).map_err(|source| failed("reading the launch spec", source))?;
        let Some(json) = spec else { return Ok(()) };
        let spec = Spec::from_json(&json);
        let answer = match spec.as_ref().map(launch) {
            Ok(Ok(Exit::Code(code))) => Answer::Code(code),
            Ok(Ok(Exit::Signal(signal))) => Answer::Signal(signal),
            Ok(Err(error)) => Answer::Failed(told(&error)),
            Err(error) => Answer::Failed(told(error)),
        };
        let text = serde_json::to_vec(&answer)?;
        write_frame(&mut io::stdout(), &text).map_err(|source| failed("answering", source))?;
        if let Ok(spec) = spec {
            take_snapshot_apart(&spec);
        }
    }
}

/// Writes a length of four bytes, the lowest first, and as many bytes.
fn write_frame(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads what [`write_frame`] wrote; nothing at the end of the stream, or where it ends within.
fn read_frame(from: &mut impl Read, most: u32) -> io::Result<Option<Vec<u8>>> {
    let whole = |result: io::Result<()>| match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let mut length = [0; 4];
    if !whole(from.read_exact(&mut length))? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "longer than any honest one"));
    }
    let mut bytes = vec![0; length as usize];
    Ok(whole(from.read_exact(&mut bytes))?.then_some(bytes))
}

/// Gives a child, which waits for its spec, only one processor.
#[cfg(target_os = "linux")]
fn one_processor(child: &Child) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Where it cannot be had, that circumstance is not another one.
    let Ok(all) = sched_getaffinity(pid) else { return };
    if let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|cpu| all.is_set(*cpu)) {
        let mut one = CpuSet::new();
        one.set(last);
        let _ = sched_setaffinity(pid, &one);
    }
}

#[cfg(not(target_os = "linux"))]
fn one_processor(_: &Child) {}

#[cfg(target_os = "linux")]
fn die_with_parent() {
    let parent = rustix::process::getppid();
    // Where the kernel refuses, a killed build's step runs on until its end; nothing waits for it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid() != parent || parent == Some(Pid::INIT) {
        // The parent died before the kernel knew that we die with it.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
}

/// Nothing tells of a parent's death here, so it is looked for.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() {
    use rustix::process::{getpid, getppid, kill_process};
    let parent = getppid();
    // Without a thread for it, a machine may outlive a killed build until its own end.
    let _ = crate::thread::apart(move || {
        while getppid() == parent {
            thread::sleep(LOOK);
        }
        // A machine ends with the process that it belongs to.
        let _ = kill_process(getpid(), Signal::KILL);
    });
}

fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
