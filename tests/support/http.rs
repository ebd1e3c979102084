//! A web server on the loopback interface that serves files from a map and misbehaves on request.
//!
//! Each file has a queue of faults; a request takes the next one, and an empty queue means an honest answer. Every
//! request is written down. A request in absolute form (as a proxy gets it) is answered by its path, so the same server
//! is also a forward proxy for names that need not exist.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A stalled answer ends after this long, so that no test hangs.
const STALL: Duration = Duration::from_secs(20);

/// One way to misbehave, once.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "each test program uses some of them")]
pub enum Fault {
    /// Announce everything, send this many bytes of the body, close.
    Drop(usize),
    /// Announce everything, send this many bytes of the body, then nothing more.
    Stall(usize),
    /// Send the body in pieces of this size with a pause before each.
    Slow(usize, Duration),
    /// Answer with this status and no file.
    Status(u16),
    /// Answer with this status and a Retry-After of so many seconds.
    Wait(u16, u64),
    /// Send other bytes of the same number.
    WrongBytes,
    /// Announce and send only so many bytes, as if that were all.
    Short(usize),
    /// Announce no length, send so many bytes, close: it looks like a whole answer.
    Unannounced(usize),
    /// Announce no length and send this many bytes too many.
    TooLong(usize),
    /// Answer a request for a part with the whole.
    IgnoreRange,
    /// Answer a request for a part with another part.
    OtherRange,
    /// Answer 401 with this challenge.
    Challenge(String),
    /// Send the client to another address.
    Redirect(String),
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The target as written in the request line.
    pub target: String,
    /// The Range header.
    pub range: Option<String>,
    /// The User-Agent header.
    pub agent: Option<String>,
    /// The Authorization header.
    pub pass: Option<String>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (Vec<u8>, VecDeque<Fault>)>,
    /// Faults for the next requests of paths without a stored file.
    faults: BTreeMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

/// Returns the bytes for paths without a stored file.
type Origin = Arc<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A running server; it ends when this value does.
pub struct Http {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Http {
    /// Starts a server without files.
    pub fn start() -> Http {
        Http::over(|_| None)
    }

    /// Starts a server that asks `origin` for the bytes at an unescaped path without a stored file.
    pub fn over(origin: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Http {
        let origin: Origin = Arc::new(origin);
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (state2, ended2) = (Arc::clone(&state), Arc::clone(&ended));
        let listener = thread::spawn(move || {
            for stream in socket.incoming() {
                if ended2.load(Ordering::Relaxed) {
                    return;
                }
                let (state, ended, origin) = (Arc::clone(&state2), Arc::clone(&ended2), Arc::clone(&origin));
                // A client may disconnect.
                thread::spawn(move || stream.and_then(|stream| serve(&stream, &state, &origin, &ended)));
            }
        });
        Http { address, state, ended, listener: Some(listener) }
    }

    /// Adds a file at an absolute path, with the faults of its first requests.
    pub fn put(&self, path: &str, bytes: &[u8], faults: impl IntoIterator<Item = Fault>) -> String {
        lock(&self.state).files.insert(path.to_owned(), (bytes.to_vec(), faults.into_iter().collect()));
        self.url(path)
    }

    /// Adds faults to the next requests of a path.
    pub fn misbehave(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state).faults.insert(path.to_owned(), faults.into_iter().collect());
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state).seen.clone()
    }

    /// Returns the Range headers so far, "" for none.
    pub fn ranges(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.range.unwrap_or_default()).collect()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener up; if it is gone already, so much the better.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests on one connection until it is closed or a fault closes it.
fn serve(stream: &TcpStream, state: &Mutex<State>, origin: &Origin, ended: &AtomicBool) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let seen = match read_request(&mut reader) {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(()),
            // Not text: a client that speaks TLS gets the answer that web servers give it.
            Err(_) => return status(stream, 400, "").map(drop),
        };
        let target = seen.target.clone();
        let path = target.split_once("://").map_or(target.as_str(), |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
        let from = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let plain = unescaped(path);
        let (put, fault) = {
            let mut state = lock(state);
            state.seen.push(seen);
            let put = state.files.get_mut(path).map(|(bytes, faults)| (bytes.clone(), faults.pop_front()));
            let fault = state.faults.get_mut(&plain).and_then(VecDeque::pop_front);
            (put, fault)
        };
        let found = put.or_else(|| origin(&plain).map(|bytes| (bytes, fault)));
        let open = match found {
            Some((bytes, fault)) => answer(stream, &bytes, from, fault, ended)?,
            None => status(stream, 404, "")?,
        };
        if !open {
            return Ok(());
        }
    }
}

/// Takes the %-escapes off a path.
fn unescaped(path: &str) -> String {
    let mut plain = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let code = after.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        plain.push(code.map_or('%', char::from));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    plain + rest
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut seen = Seen { target, range: None, agent: None, pass: None };
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            return Ok(Some(seen));
        }
        if let Some((name, value)) = header.split_once(':') {
            let value = Some(value.trim().to_owned());
            match name.to_ascii_lowercase().as_str() {
                "range" => seen.range = value,
                "user-agent" => seen.agent = value,
                "authorization" => seen.pass = value,
                _ => {}
            }
        }
    }
}

/// Sends one answer and says whether the connection stays open.
fn answer(stream: &TcpStream, bytes: &[u8], from: Option<usize>, fault: Option<Fault>, ended: &AtomicBool) -> io::Result<bool> {
    let from = from.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    if from.is_some_and(|from| from >= bytes.len()) {
        return status(stream, 416, &format!("Content-Range: bytes */{}\r\n", bytes.len()));
    }
    let start = from.unwrap_or(0);
    let mut body = bytes[start..].to_vec();
    let mut head = match from {
        Some(_) if matches!(fault, Some(Fault::OtherRange)) => {
            format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-{}/{}\r\n", body.len() - 1, bytes.len())
        }
        Some(_) => format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let announced = format!("Content-Length: {}\r\n\r\n", body.len());
    let unannounced = "Connection: close\r\n\r\n";
    let mut out = stream;
    match fault {
        Some(Fault::Status(code)) => return status(stream, code, ""),
        Some(Fault::Wait(code, secs)) => {
            return status(stream, code, &format!("Retry-After: {secs}\r\n"));
        }
        Some(Fault::Challenge(what)) => return status(stream, 401, &format!("WWW-Authenticate: {what}\r\n")),
        Some(Fault::Redirect(to)) => return status(stream, 302, &format!("Location: {to}\r\n")),
        Some(Fault::Drop(len)) => {
            out.write_all((head + &announced).as_bytes())?;
            out.write_all(&body[..len.min(body.len())])?;
            return Ok(false);
        }
        Some(Fault::Stall(len)) => {
            out.write_all((head + &announced).as_bytes())?;
            out.write_all(&body[..len.min(body.len())])?;
            wait(STALL, ended);
            return Ok(false);
        }
        Some(Fault::Slow(len, pause)) => {
            out.write_all((head + &announced).as_bytes())?;
            for piece in body.chunks(len) {
                wait(pause, ended);
                out.write_all(piece)?;
            }
            return Ok(true);
        }
        Some(Fault::Unannounced(len)) => {
            out.write_all((head + unannounced).as_bytes())?;
            out.write_all(&body[..len.min(body.len())])?;
            return Ok(false);
        }
        Some(Fault::TooLong(len)) => {
            body.extend(vec![b'x'; len]);
            out.write_all((head + unannounced).as_bytes())?;
            out.write_all(&body)?;
            return Ok(false);
        }
        Some(Fault::Short(len)) => {
            body.truncate(len);
            head += &format!("Content-Length: {}\r\n\r\n", body.len());
        }
        Some(Fault::WrongBytes) => {
            body.iter_mut().for_each(|byte| *byte ^= 1);
            head += &announced;
        }
        Some(Fault::IgnoreRange | Fault::OtherRange) | None => head += &announced,
    }
    out.write_all(head.as_bytes())?;
    out.write_all(&body)?;
    Ok(true)
}

fn status(mut stream: &TcpStream, code: u16, headers: &str) -> io::Result<bool> {
    stream.write_all(format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: 0\r\n\r\n").as_bytes())?;
    Ok(true)
}

fn wait(time: Duration, ended: &AtomicBool) {
    let step = Duration::from_millis(10);
    let mut left = time;
    while !left.is_zero() && !ended.load(Ordering::Relaxed) {
        thread::sleep(step.min(left));
        left = left.saturating_sub(step);
    }
}
