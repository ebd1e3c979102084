//! What QEMU is told about a machine as a whole, by its own protocol (QMP): to save its state, to go on from one.
//!
//! Commands and answers are JSON, a line each. Between them come events, which nobody asked for here, and what QEMU says
//! in plain words when something is wrong: the way is its standard error, the one descriptor that it has left.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long an answer may take, and a machine until it is saved; a quiet host needs a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// Most that is kept of plain words.
const MAX_WORDS_BYTES: usize = 16 << 10;
/// The longest answer that is read.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A conversation with QEMU.
pub struct Control {
    socket: BufReader<UnixStream>,
    words: Vec<u8>,
}

impl Control {
    /// Takes the other end of QEMU's standard error.
    pub fn new(socket: OwnedFd) -> io::Result<Control> {
        let socket = UnixStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Control { socket: BufReader::new(socket), words: Vec::new() })
    }

    /// What QEMU said in plain words.
    pub fn words(&self) -> &[u8] {
        &self.words
    }

    /// Begins: memory that is in a file is not part of a state.
    pub fn begin(&mut self) -> io::Result<()> {
        // It greets first.
        self.line()?;
        self.ask(&json!({ "execute": "qmp_capabilities" }))?;
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.ask(&json!({ "execute": "migrate-set-capabilities", "arguments": { "capabilities": capabilities } })).map(drop)
    }

    /// Lets a machine that waits for it go on from a state.
    pub fn restore(&mut self, path: &str) -> io::Result<()> {
        self.ask(&json!({ "execute": "migrate-incoming", "arguments": { "uri": format!("file:{path}") } })).map(drop)
    }

    /// Saves a machine's state, and leaves it standing still.
    pub fn save(&mut self, path: &str) -> io::Result<()> {
        self.ask(&json!({ "execute": "migrate", "arguments": { "uri": format!("file:{path}") } }))?;
        let began = Instant::now();
        loop {
            let answer = self.ask(&json!({ "execute": "query-migrate" }))?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => return Err(io::Error::other(format!("QEMU could not save the machine: {answer}"))),
                _ if began.elapsed() > PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
                _ => thread::sleep(LOOK),
            }
        }
    }

    fn ask(&mut self, command: &Value) -> io::Result<Value> {
        let mut text = command.to_string();
        text.push('\n');
        self.socket.get_mut().write_all(text.as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("QEMU refused {command}: {error}")));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        loop {
            let mut line = Vec::new();
            (&mut self.socket).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
            match serde_json::from_slice(&line) {
                _ if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(value) => return Ok(value),
                Err(_) if self.words.len() < MAX_WORDS_BYTES => self.words.extend(line),
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}
