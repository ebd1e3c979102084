//! A connection to a worker over ssh: the `ssh` program of the user, with the user's own configuration, keys and known hosts.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use silo_base::system::Arch;
use silo_build::away;
use silo_build::pool::Job;
use silo_store::private;

use crate::error::Error;
use crate::ssh_frames::{self, Done, FileReader, FileWriter, Hello, Needs, Order};

/// The command that serves steps over ssh.
pub const SSH_WORD: &str = "__remote-worker";
/// Time limit without a byte, in both directions, except while the step runs. ssh itself notices a dead host in 60 s.
const STALL: Duration = Duration::from_secs(120);
/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(60);
/// Interval of the looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes kept of the messages of ssh.
const MAX_SAID_BYTES: usize = 4 << 10;

/// A host, and how to reach its silo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// A destination of ssh: a host, `USER@HOST`, or a name of the user's configuration.
    pub host: String,
    /// The silo program there.
    pub program: String,
    /// Further options of ssh.
    pub options: Vec<String>,
}

/// A connection to a worker.
pub struct Session {
    child: Child,
    host: String,
    /// The worker's first message.
    pub hello: Hello,
    said: Arc<Mutex<Vec<u8>>>,
}

/// A stream that gives up when the user stops the build, or when nothing moves for some time.
struct Patient<'a> {
    stream: BorrowedFd<'a>,
    stop: &'a AtomicBool,
    patience: Duration,
}

impl Patient<'_> {
    fn wait(&self, event: PollFlags) -> io::Result<()> {
        let until = Instant::now() + self.patience;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other(Stopped));
            }
            let look = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
            match poll(&mut [PollFd::from_borrowed_fd(self.stream, event)], Some(&look)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                ready => return ready.map(drop).map_err(Into::into),
            }
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(self.stream, &mut *into) {
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(rustix::io::Errno::INTR) => {}
                read => return read.map_err(Into::into),
            }
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.stream, bytes) {
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                written => return written.map_err(Into::into),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The user stopped the build.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped;

impl Session {
    /// Connects.
    pub fn connect(way: &Way, arch: Arch, stop: &AtomicBool) -> Result<Session, Error> {
        let refused = |what: String| Error::Host { host: way.host.clone(), what };
        let mut command = Command::new("ssh");
        // Nobody could answer a question: the progress of the build has the terminal.
        command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]);
        command.args(["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]);
        command.args(&way.options).arg("--").arg(&way.host).arg(format!("{} {SSH_WORD}", quoted(&way.program)));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| refused(format!("ssh cannot be started: {error}")))?;
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let own = Arc::clone(&said);
        let kept = child.stderr.take().map(|stderr| std::thread::Builder::new().spawn(move || keep(stderr, &own)));
        let mut session = Session { child, host: way.host.clone(), hello: Hello { version: 0, arch: String::new(), processors: 1 }, said };
        if let Some(Err(error)) = kept {
            return Err(refused(format!("no thread can be started: {error}")));
        }
        let greeted = session.streams(stop, CONNECT).and_then(|(mut input, _)| {
            ssh_frames::await_preamble(&mut input)?;
            ssh_frames::receive::<Hello>(&mut input)
        });
        session.hello = greeted.map_err(|error| session.lost(error))?;
        if session.hello.version != away::VERSION {
            let (theirs, ours) = (session.hello.version, away::VERSION);
            return Err(refused(format!(
                "its silo knows version {theirs} of build steps, and this silo version {ours}: install the same silo there"
            )));
        }
        if session.hello.arch != arch.name() {
            let theirs = silo_base::sanitize::brief(&session.hello.arch);
            return Err(refused(format!("its architecture is {theirs}, and platform in [remote.NAME] says {arch}")));
        }
        Ok(session)
    }

    fn streams<'a>(&'a self, stop: &'a AtomicBool, patience: Duration) -> io::Result<(Patient<'a>, Patient<'a>)> {
        let (Some(input), Some(output)) = (&self.child.stdout, &self.child.stdin) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let patient = |stream: BorrowedFd<'a>| {
            fcntl_setfl(stream, fcntl_getfl(stream)? | OFlags::NONBLOCK)?;
            Ok::<_, io::Error>(Patient { stream, stop, patience })
        };
        Ok((patient(input.as_fd())?, patient(output.as_fd())?))
    }

    /// Describes the loss of the connection.
    fn lost(&self, error: io::Error) -> Error {
        if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) {
            return Error::Stopped;
        }
        // Its last words may come after the end of its output.
        if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::BrokenPipe {
            std::thread::sleep(LOOK);
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let why = match error.kind() {
            io::ErrorKind::TimedOut => "nothing comes from it, or goes to it".to_owned(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => "the connection is closed".to_owned(),
            _ => error.to_string(),
        };
        let what = if said.is_empty() { why } else { format!("{why}: {}", silo_base::sanitize::brief(&said.join("; "))) };
        Error::Host { host: self.host.clone(), what }
    }

    /// Runs a step. After an error the session cannot be used again.
    pub fn run(&mut self, job: &Job<'_>, run: Duration) -> Result<(), Error> {
        self.ordered(job).map_err(|error| self.told(error))?;
        (job.say)(format!("silo: {} runs on {}", job.name, self.host));
        let (input, _) = self.streams(job.stop, run).map_err(|error| self.lost(error))?;
        // The message and the files share one buffer: it may hold bytes of both.
        let mut input = BufReader::with_capacity(64 << 10, input);
        let done: Done = ssh_frames::receive(&mut input).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout { url: self.host.clone(), seconds: run.as_secs() },
            _ => self.lost(error),
        })?;
        input.get_mut().patience = STALL;
        for name in &done.files {
            let known = job.results.iter().find(|(known, _)| known == name);
            let most = known.map(|(_, most)| *most).ok_or_else(|| self.odd("it sends a file that was not asked for"))?;
            let path = job.dir.join(Path::new(name).file_name().unwrap_or_default());
            let failed = |source| Error::File { doing: "write", path: path.clone(), source };
            let mut file = private::create(&path).map_err(failed)?;
            let mut reader = FileReader::new(&mut input);
            let (mut buffer, mut total) = (vec![0; 128 << 10], 0);
            loop {
                let read = reader.read(&mut buffer).map_err(|error| self.lost(error))?;
                if read == 0 {
                    break;
                }
                total += read as u64;
                if total > most {
                    return Err(self.odd(&format!("a file of the step is larger than {most} bytes")));
                }
                file.write_all(&buffer[..read]).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn odd(&self, what: &str) -> Error {
        Error::Host { host: self.host.clone(), what: what.to_owned() }
    }

    fn told(&self, error: Sending) -> Error {
        match error {
            Sending::Lost(error) => self.lost(error),
            Sending::Own(error) => error,
        }
    }

    /// Sends the order, its files, and the layers that the worker lacks.
    fn ordered(&self, job: &Job<'_>) -> Result<(), Sending> {
        let (mut input, output) = self.streams(job.stop, STALL)?;
        let mut output = BufWriter::with_capacity(64 << 10, output);
        let names = [away::REQUEST.to_owned()].into_iter().chain(job.files.iter().map(|(name, _)| name.clone()));
        let order = Order {
            layers: job.layers.iter().map(|layer| layer.layer.to_string()).collect(),
            files: names.collect(),
            results: job.results.iter().map(|(name, _)| name.clone()).collect(),
        };
        ssh_frames::send(&mut output, &order)?;
        send_file(&mut output, &mut &job.request[..], Path::new(away::REQUEST))?;
        for (_, path) in &job.files {
            let mut file = File::open(path).map_err(|source| Error::File { doing: "open", path: path.clone(), source })?;
            send_file(&mut output, &mut file, path)?;
        }
        let needs: Needs = ssh_frames::receive(&mut input)?;
        for number in needs.layers {
            let layer = job.layers.get(number).ok_or_else(|| self.odd("it asks for a layer that does not exist"))?;
            let mut writer = FileWriter::new(&mut output);
            (layer.write)(&mut writer)?;
            writer.finish()?;
        }
        Ok(())
    }
}

/// Sends a local file.
fn send_file(output: &mut dyn Write, file: &mut dyn Read, path: &Path) -> Result<(), Sending> {
    let mut writer = FileWriter::new(output);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(|source| Error::File { doing: "read", path: path.to_owned(), source })?;
        if read == 0 {
            return Ok(writer.finish()?);
        }
        writer.write_all(&buffer[..read])?;
    }
}

/// An error while an order is sent.
enum Sending {
    /// Of the connection.
    Lost(io::Error),
    /// Of this machine.
    Own(Error),
}

impl From<io::Error> for Sending {
    fn from(error: io::Error) -> Sending {
        Sending::Lost(error)
    }
}

impl From<Error> for Sending {
    fn from(error: Error) -> Sending {
        Sending::Own(error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of its input ends the worker, and with it the step.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the first messages of ssh, and discards the rest.
fn keep(mut stderr: ChildStderr, into: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer) {
        let mut said = into.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_SAID_BYTES.saturating_sub(said.len()).min(read);
        said.extend_from_slice(&buffer[..room]);
    }
}

/// Quotes a word for the shell of the host.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-+~".contains(letter));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_words_of_a_shell() {
        for (word, expect) in
            [("silo", "silo"), ("~/bin/silo", "~/bin/silo"), ("/a b/silo", "'/a b/silo'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), expect);
        }
    }
}
