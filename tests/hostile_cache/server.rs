//! A web server that sends any bytes as its answers: broken heads, endless bodies, nothing at all.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The longest write, and the longest silence. A client of a test ends far earlier.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// The most bytes of a request's body.
const MAX_BODY_BYTES: u64 = 16 << 20;
/// The interval at which a silent server looks if the client is still there.
const LOOK: Duration = Duration::from_millis(5);

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: String,
    /// The target.
    pub target: String,
    /// The start of the body.
    pub body: Vec<u8>,
    /// The first byte of the requested range.
    pub from: Option<usize>,
}

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, so many times.
    Repeat(Vec<u8>, u64),
    /// These bytes, one by one, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Nothing more, until the client gives up.
    Stall,
    /// Ends the connection with a reset.
    Reset,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// True if another request may follow on the connection.
    pub stays: bool,
}

impl Reply {
    /// A whole answer.
    pub fn whole(status: u16, headers: &str, body: &[u8]) -> Reply {
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        Reply { parts: vec![Part::Bytes([head.as_bytes(), body].concat())], stays: true }
    }

    /// Bytes, after which the connection ends.
    pub fn last(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { parts: vec![Part::Bytes(bytes.into())], stays: false }
    }
}

type Handler = Arc<dyn Fn(&Ask) -> Reply + Send + Sync>;

/// A running server; it ends when this value does.
pub struct Server {
    /// Its host and port.
    pub host: String,
    ended: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server.
    pub fn start(handler: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Server {
        let handler: Handler = Arc::new(handler);
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let host = socket.local_addr().expect("a bound socket has an address").to_string();
        let ended = Arc::new(AtomicBool::new(false));
        let ours = Arc::clone(&ended);
        let listener = thread::spawn(move || {
            for stream in socket.incoming() {
                if ours.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, ended) = (Arc::clone(&handler), Arc::clone(&ours));
                // A client may disconnect.
                thread::spawn(move || stream.and_then(|stream| serve(&stream, &handler, &ended)));
            }
        });
        Server { host, ended, listener: Some(listener) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener up; if it is gone already, so much the better.
        drop(TcpStream::connect(&self.host));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

fn serve(stream: &TcpStream, handler: &Handler, ended: &AtomicBool) -> io::Result<()> {
    stream.set_write_timeout(Some(MAX_WAIT))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(ask) = read(&mut reader)? {
        let reply = handler(&ask);
        for part in &reply.parts {
            send(stream, part, ended)?;
        }
        if !reply.stays {
            // The client may still send, and would lose the answer if the connection were reset.
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            io::copy(&mut Read::by_ref(&mut reader).take(1 << 20), &mut io::sink())?;
            return Ok(());
        }
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Ask>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut ask = Ask { method: words.next().unwrap_or_default(), target: words.next().unwrap_or_default(), body: Vec::new(), from: None };
    let mut length: u64 = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            Read::by_ref(reader).take(length.min(MAX_BODY_BYTES)).read_to_end(&mut ask.body)?;
            return Ok(Some(ask));
        }
        let header = header.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        if let Some(range) = header.strip_prefix("range: bytes=") {
            ask.from = range.trim().trim_end_matches('-').parse().ok();
        }
    }
}

fn send(stream: &TcpStream, part: &Part, ended: &AtomicBool) -> io::Result<()> {
    let mut out = stream;
    match part {
        Part::Bytes(bytes) => out.write_all(bytes),
        Part::Repeat(bytes, times) => {
            // Few large writes instead of many small ones.
            let at_once = ((64 << 10) / bytes.len().max(1)).max(1) as u64;
            let piece = bytes.repeat(usize::try_from(at_once.min(*times)).expect("it is small"));
            for _ in 0..times / at_once {
                if ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                out.write_all(&piece)?;
            }
            out.write_all(&bytes.repeat(usize::try_from(times % at_once).expect("it is small")))
        }
        Part::Drip(bytes, pause) => {
            for byte in bytes {
                if ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                out.write_all(&[*byte])?;
                thread::sleep(*pause);
            }
            Ok(())
        }
        Part::Stall => {
            stream.set_read_timeout(Some(LOOK))?;
            let mut left = MAX_WAIT;
            while !left.is_zero() && !ended.load(Ordering::Relaxed) {
                match stream.peek(&mut [0]) {
                    Ok(0) => break,
                    // A further request is no reason to answer.
                    Ok(_) => thread::sleep(LOOK),
                    Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
                left = left.saturating_sub(LOOK);
            }
            Err(io::ErrorKind::TimedOut.into())
        }
        Part::Reset => {
            // The descriptor is closed at the end of this thread.
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
}
