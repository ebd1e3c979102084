//! Launching from a process with threads: the program is started anew and told the spec.
//!
//! The child reads the spec from its standard input and answers on its standard output; it dies with its
//! parent, so a build that is killed leaves no step running.

use std::io::{Read, Write};
use std::path::Path;
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

/// Between two looks at the caller's wish to stop; a person does not feel a twentieth of a second.
const LOOK: Duration = Duration::from_millis(50);

/// Largest answer read: an exit or an error's text.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

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

/// Launches `spec` in a new process of `program` and waits for its end, or kills it when `stop` is set.
pub fn run(program: &Path, spec: &Spec, circumstances: Circumstances, stop: &AtomicBool) -> Result<Exit, Error> {
    let failed = |step: &str, source| Error::Host { step: format!("{step} {} {WORD}", program.display()), source };
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
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|source| failed("starting", source))?;
    if circumstances == Circumstances::Other {
        one_processor(&child);
    }
    let json = spec.to_json()?;
    if let Some(mut input) = child.stdin.take() {
        // A child that died before it read all says so by its answer, or by having none.
        drop(input.write_all(&json));
    }
    let answer = answer(&mut child, stop).map_err(|source| failed("listening to", source))?;
    child.wait().map_err(|source| failed("waiting for", source))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Code(code)) => Ok(Exit::Code(code)),
        Ok(Answer::Signal(signal)) => Ok(Exit::Signal(signal)),
        Ok(Answer::Failed(message)) => Err(Error::Elsewhere { message }),
        Err(_) => Err(Error::Lost),
    }
}

/// Reads all that the child answers. The child is not waited for before, so its number is still its own when it is killed.
fn answer(child: &mut Child, stop: &AtomicBool) -> std::io::Result<Vec<u8>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut answer = Vec::new();
    let Some(output) = child.stdout.take() else { return Ok(answer) };
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                thread::park_timeout(LOOK);
            }
            if let Some(pid) = pid.filter(|_| stop.load(Ordering::Relaxed)) {
                // One that has just ended cannot be killed, and need not be.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        });
        let read = output.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        ended.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        read.map(drop)
    })?;
    Ok(answer)
}

/// Serves one launch: the other side of [`run`].
pub fn serve() -> Result<(), Error> {
    die_with_parent();
    let mut json = Vec::new();
    std::io::stdin().read_to_end(&mut json).map_err(|source| Error::Host { step: "reading the launch spec".to_owned(), source })?;
    let answer = match Spec::from_json(&json).and_then(|spec| launch(&spec)) {
        Ok(Exit::Code(code)) => Answer::Code(code),
        Ok(Exit::Signal(signal)) => Answer::Signal(signal),
        Err(error) => Answer::Failed(told(&error)),
    };
    let text = serde_json::to_vec(&answer)?;
    std::io::stdout().write_all(&text).map_err(|source| Error::Host { step: "answering".to_owned(), source })
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

#[cfg(not(target_os = "linux"))]
fn die_with_parent() {}

fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
