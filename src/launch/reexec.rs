//! Launching from a multi-threaded process: re-executes the program as a child and sends it the spec.
//!
//! The child reads the spec from standard input and answers on standard output. It dies with its parent, so a killed build leaves no step
//! running.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use silo_base::sanitize;

use super::error::Error;
use super::host::exit::Exit;
use super::host::system::this_program;
use super::serialized_error::SerializedError;
use super::spec::Spec;
use super::tier::{launch_noting, reap, wants_snapshot};

/// The subcommand that serves launches.
pub const WORD: &str = "__launch";

/// The option of [`WORD`] that takes a snapshot instead.
const SNAPSHOT: &str = "--snapshot";

/// The option of [`WORD`] that gives files to the caller instead.
const RECLAIM: &str = "--reclaim";

/// Interval of the caller's checks; 50 ms is too short for a person to notice.
const LOOK: Duration = Duration::from_millis(50);

/// Largest answer accepted: an exit status or an error message.
const MAX_ANSWER_BYTES: u32 = 1 << 20;

/// Largest spec accepted. The kernel's limit on arguments bounds its script and environment.
const MAX_SPEC_BYTES: u32 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Code(u8),
    Signal(i32),
    Failed(SerializedError),
}

/// Process settings around a launch that are not part of its spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessSettings {
    /// The normal settings.
    Usual,
    /// Different settings, for reproducibility checks: one processor, umask 077, another time zone and locale.
    Other,
}

/// A check that runs at intervals of 50 ms while a launch runs; `Break` kills the launch.
pub type Check<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// Returns a check for [`run`] that ends the launch when `stop` is set.
pub fn until(stop: &AtomicBool) -> impl FnMut() -> ControlFlow<()> {
    || if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Launches `spec` in a process of `program` and waits for its exit, or kills it when `check` says so.
///
/// Each thread keeps its last server process and reuses it, so a thread that launches several steps starts only one. A server runs one
/// launch at a time.
pub fn run(program: &Path, spec: &Spec, circumstances: ProcessSettings, check: Check<'_>) -> Result<Exit, Error> {
    let failed = |step: &str, source| Error::Host { step: format!("{step} {} {WORD}", program.display()), source };
    // A server with a network or with other circumstances is not reused.
    let reusable = circumstances == ProcessSettings::Usual && spec.network.is_none();
    let idle = if reusable { IDLE.with(|idle| idle.borrow_mut().take()) } else { None };
    let mut server = match idle.filter(|server| server.program == program) {
        Some(server) => server,
        None => Server::start(program, circumstances).map_err(|source| failed("starting", source))?,
    };
    let json = spec.to_json()?;
    let answer = server.ask(&json, check).map_err(|source| failed("reading the answer of", source))?;
    match serde_json::from_slice(&answer) {
        Ok(answer) => {
            if reusable {
                IDLE.with(|idle| *idle.borrow_mut() = Some(server));
            }
            match answer {
                Answer::Code(code) => Ok(Exit::Code(code)),
                Answer::Signal(signal) => Ok(Exit::Signal(signal)),
                Answer::Failed(carried) => Err(carried.into_error()),
            }
        }
        Err(_) => Err(Error::Lost),
    }
}

thread_local! {
    /// The server process of this thread's last launch. It is dropped, and so ends, with the thread.
    static IDLE: RefCell<Option<Server>> = const { RefCell::new(None) };
}

/// A process that serves launches, one after another.
struct Server {
    program: PathBuf,
    child: Child,
}

impl Server {
    fn start(program: &Path, circumstances: ProcessSettings) -> io::Result<Server> {
        let mut command = match circumstances {
            ProcessSettings::Usual => Command::new(program),
            ProcessSettings::Other => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(program);
                shell
            }
        };
        command.arg(WORD).env_clear();
        if circumstances == ProcessSettings::Other {
            command.env("TZ", "Pacific/Kiritimati").env("LC_ALL", "tr_TR.UTF-8").current_dir("/");
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        if circumstances == ProcessSettings::Other {
            one_processor(&child);
        }
        Ok(Server { program: program.to_owned(), child })
    }

    /// Sends a spec and reads the answer, which is empty if the process died. The child is not reaped before that, so its PID cannot have
    /// been reused when it is killed.
    fn ask(&mut self, spec: &[u8], check: Check<'_>) -> io::Result<Vec<u8>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let (Some(input), Some(output)) = (&mut self.child.stdin, &mut self.child.stdout) else { return Ok(Vec::new()) };
        match write_frame(input, spec) {
            // A process that died before it read the whole spec sends no answer, which is handled below.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            // A live process would wait for the rest of the spec; closing its input ends it.
            sent => sent?,
        }
        let answer = read_frame(&mut CheckedReader { output, pid, check }, MAX_ANSWER_BYTES);
        Ok(answer?.unwrap_or_default())
    }
}

/// Reads the output of a server. While there is none, it calls the check, and kills the server if that says so.
struct CheckedReader<'a> {
    output: &'a mut ChildStdout,
    /// The server, until it is killed.
    pid: Option<Pid>,
    check: Check<'a>,
}

impl Read for CheckedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let interval = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        loop {
            match poll(&mut [PollFd::new(&*self.output, PollFlags::IN)], Some(&interval)) {
                Ok(0) => {}
                Ok(_) => return self.output.read(into),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if (self.check)().is_break()
                && let Some(pid) = self.pid.take()
            {
                // A process that has just exited cannot be killed; ignore the error.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server exits at end of input; a killed one has exited already.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Starts a process that takes the snapshot for this launch if it is missing, and does not wait for it. A failure is ignored: without a
/// snapshot, later VMs boot as before.
pub fn take_snapshot_apart(spec: &Spec) {
    if !wants_snapshot(spec) {
        return;
    }
    let (Ok(program), Ok(json)) = (this_program(), spec.to_json()) else { return };
    let mut command = Command::new(program);
    command.args([WORD, SNAPSHOT, "/dev/stdin"]).env_clear().current_dir("/");
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Some(mut input) = started.ok().and_then(|mut child| child.stdin.take()) {
        let _ = input.write_all(&json);
    }
}

/// Gives the files of a killed build step to the caller, so that they can be removed: with a range of ids they belong to other ids.
pub fn reclaim(program: &Path, tree: &Path) -> io::Result<()> {
    let own = rustix::process::geteuid();
    if own.is_root() || !has_others(tree, own.as_raw()) {
        return Ok(());
    }
    let done = Command::new(program).args([WORD, RECLAIM]).arg(tree).env_clear().stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(sanitize::line(String::from_utf8_lossy(&done.stderr).trim())))
}

/// Like [`reclaim`], for the entries of a directory with names that begin with `prefix`.
pub fn reclaim_children(program: &Path, dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            reclaim(program, &entry.path())?;
        }
    }
    Ok(())
}

/// True if a tree has files of other users, as far as the caller can see.
fn has_others(tree: &Path, own: u32) -> bool {
    let mut waiting = vec![tree.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        if found.uid() != own {
            return true;
        }
        if found.is_dir() {
            waiting.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    false
}

/// Serves launches until end of input: the child's side of [`run`].
pub fn serve() -> Result<(), Error> {
    die_with_parent();
    let failed = |step: &str, source| Error::Host { step: step.to_owned(), source };
    // `io::stdout` would write a frame in several parts.
    let output = rustix::stdio::stdout().try_clone_to_owned().map_err(|source| failed("opening the standard output", source))?;
    let mut output = std::fs::File::from(output);
    loop {
        let spec = read_frame(&mut io::stdin(), MAX_SPEC_BYTES).map_err(|source| failed("reading the launch spec", source))?;
        let Some(json) = spec else { return Ok(()) };
        let spec = Spec::from_json(&json);
        let answer = match spec.as_ref().map(|spec| launch_noting(spec, None, &mut |_| {})) {
            Ok(Ok(Exit::Code(code))) => Answer::Code(code),
            Ok(Ok(Exit::Signal(signal))) => Answer::Signal(signal),
            Ok(Err(error)) => Answer::Failed(SerializedError::of(&error)),
            Err(error) => Answer::Failed(SerializedError::of(error)),
        };
        let text = serde_json::to_vec(&answer)?;
        write_frame(&mut output, &text).map_err(|source| failed("answering", source))?;
        // The caller captures the step's changes in the meantime.
        reap();
        if let Ok(spec) = spec {
            take_snapshot_apart(&spec);
        }
    }
}

/// Writes the length as four bytes, little-endian, and then the bytes.
fn write_frame(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(bytes.len() + 4);
    frame.extend(length.to_le_bytes());
    frame.extend(bytes);
    // In one part, so that the reader wakes up once.
    to.write_all(&frame)?;
    to.flush()
}

/// Reads a frame from [`write_frame`]; `None` at the end of the stream, also in the middle of a frame.
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message exceeds the size limit"));
    }
    let mut bytes = vec![0; length as usize];
    Ok(whole(from.read_exact(&mut bytes))?.then_some(bytes))
}

/// Restricts a child that still waits for its spec to one processor.
#[cfg(target_os = "linux")]
fn one_processor(child: &Child) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // If the affinity cannot be read or set, the check runs with all processors.
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
    // If the kernel refuses, the step of a killed build runs on to its end; nothing waits for it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid() != parent || parent == Some(Pid::INIT) {
        // The parent died before the death signal was set.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    }
}

/// This system has no parent-death signal, so a thread polls the parent's PID.
#[cfg(not(target_os = "linux"))]
fn die_with_parent() {
    use rustix::process::{getpid, getppid, kill_process};
    let parent = getppid();
    // If the thread cannot start, a VM may outlive a killed build until its program exits.
    let _ = silo_base::thread::apart(move || {
        while getppid() == parent {
            std::thread::sleep(LOOK);
        }
        // A VM ends with the process that owns it.
        let _ = kill_process(getpid(), Signal::KILL);
    });
}
