//! A terminal that runs silo.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio as Pipe};
use std::sync::mpsc;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use silo_launch::spec::Spec;

use super::sandbox::{Bench, until};

/// How long a command may print nothing, on a machine with other work.
const SILENCE: Duration = Duration::from_secs(300);

/// Silo; it ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal of the test's own with silo on it.
pub struct Session {
    master: OwnedFd,
    /// The end that silo has.
    pub slave: OwnedFd,
    silo: Running,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    /// Starts a spec there.
    pub fn start(bench: &Bench, spec: &Spec) -> Session {
        Session::of(&mut bench.command(spec))
    }

    /// Starts a command there that has the terminal as its controlling one, as a user's shell has.
    pub fn controlled(command: &Command) -> Session {
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = command.get_current_dir() {
            leader.current_dir(dir);
        }
        Session::of(&mut leader)
    }

    /// Starts a command there.
    pub fn of(command: &mut Command) -> Session {
        let (master, slave) = open();
        tcsetwinsize(&master, size(30, 100)).expect("set");
        let end = || Pipe::from(slave.try_clone().expect("copied"));
        let silo = Running(command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts"));
        let (sender, output) = mpsc::channel();
        let mut from = fs::File::from(master.try_clone().expect("copied"));
        std::thread::spawn(move || {
            let mut piece = [0; 65536];
            while let Ok(length) = from.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Session { master, slave, silo, output, seen: String::new() }
    }

    /// The process group that keys are for.
    pub fn foreground(&self) -> Option<rustix::process::Pid> {
        rustix::termios::tcgetpgrp(&self.master).ok()
    }

    /// Types keys.
    pub fn type_in(&mut self, keys: &str) {
        let mut to = fs::File::from(self.master.try_clone().expect("copied"));
        to.write_all(keys.as_bytes()).expect("written");
    }

    /// Types keys and waits for these words; returns all that was printed, they included.
    pub fn expect_all(&mut self, keys: &str, words: &str) -> String {
        self.type_in(keys);
        self.expect(words) + words
    }

    /// Waits for these words; returns the output before them.
    pub fn expect(&mut self, words: &str) -> String {
        while !self.seen.contains(words) {
            match self.output.recv_timeout(SILENCE) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("never printed {words:?}: {:?}", self.seen),
            }
        }
        let at = self.seen.find(words).unwrap_or_default();
        let before = self.seen[..at].to_owned();
        self.seen.drain(..at + words.len());
        before
    }

    /// Waits for the first of several words; returns their index, and the output before them.
    pub fn expect_any(&mut self, words: &[&str]) -> (usize, String) {
        loop {
            let found = words.iter().enumerate().filter_map(|(which, words)| Some((self.seen.find(words)?, which)));
            if let Some((_, which)) = found.min() {
                return (which, self.expect(words[which]));
            }
            match self.output.recv_timeout(SILENCE) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("never printed any of {words:?}: {:?}", self.seen),
            }
        }
    }

    /// Waits a while for these words; returns the output before them, if they came.
    pub fn expect_soon(&mut self, words: &str) -> Option<String> {
        while !self.seen.contains(words) {
            let piece = self.output.recv_timeout(Duration::from_secs(3)).ok()?;
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        Some(self.expect(words))
    }

    /// Changes its size.
    pub fn resize(&self, to: Winsize) {
        tcsetwinsize(&self.master, to).expect("set");
        // The test has no controlling terminal to do this.
        self.signal("WINCH");
    }

    /// Resizes a terminal; the kernel signals its foreground process group.
    pub fn resize_controlled(&self, to: Winsize) {
        tcsetwinsize(&self.master, to).expect("set");
    }

    /// Sends silo a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.silo.0.id().to_string();
        Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill starts");
    }

    /// Stops the terminal as Ctrl-S does: nothing that is printed is taken any more.
    pub fn stop(&self) {
        rustix::termios::tcflow(&self.slave, rustix::termios::Action::OOff).expect("it is a terminal");
    }

    /// Whether silo has ended.
    pub fn has_ended(&mut self) -> bool {
        self.silo.0.try_wait().expect("our own child").is_some()
    }

    /// Waits for the end: the exit code, how much was printed at last, and whether the terminal is as it was.
    pub fn end(mut self) -> (Option<i32>, usize, bool) {
        until(&format!("it ends, after it printed {:?} and", self.seen), || self.silo.0.try_wait().expect("our own child").is_some());
        let status = self.silo.0.wait().expect("it ended");
        let cooked = cooked(&self.slave);
        // With no end open, reading ends after the last byte.
        drop(self.slave);
        let mut left = self.seen.len();
        while let Ok(piece) = self.output.recv_timeout(SILENCE) {
            left += piece.len();
        }
        (status.code(), left, cooked)
    }
}

/// Whether a terminal edits lines, as it does for a shell's user.
pub fn cooked(terminal: &OwnedFd) -> bool {
    let settings = tcgetattr(terminal.as_fd()).expect("a terminal");
    settings.local_modes.contains(rustix::termios::LocalModes::ICANON)
}

/// A terminal's size.
pub fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Opens a terminal: the end that types and sees, and the one for a program.
pub fn open() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a terminal");
    grantpt(&master).expect("ours");
    unlockpt(&master).expect("ours");
    let slave = ioctl_tiocgptpeer(&master, flags).expect("the other end");
    (master, slave)
}
