//! A proxy between an HTTP client and a server that corrupts traffic.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// One way to spoil an exchange, once.
#[derive(Clone, Debug)]
pub enum Spoil {
    /// Answer with this status, these header lines and this body; the server is not asked.
    Answer(u16, &'static str, &'static str),
    /// Let so many bytes of the server's answer pass, head and all, and cut the connection.
    Cut(usize),
    /// Cut the connection before anything is answered.
    Refuse,
}

type Spoils = Arc<Mutex<VecDeque<(&'static str, Spoil)>>>;

/// The proxy; it ends with the test's process.
pub struct Between {
    /// Its address, as references name it.
    pub host: String,
    spoils: Spoils,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Between {
    /// Starts a proxy for the server at `upstream`.
    pub fn start(upstream: &str) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let (spoils, seen) = (Spoils::default(), Arc::new(Mutex::new(Vec::new())));
        let (upstream, theirs, noted) = (upstream.to_owned(), Arc::clone(&spoils), Arc::clone(&seen));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, spoils, seen) = (upstream.clone(), Arc::clone(&theirs), Arc::clone(&noted));
                // A client may disconnect.
                thread::spawn(move || drop(exchange(client, &upstream, &spoils, &seen)));
            }
        });
        Between { host, spoils, seen }
    }

    /// Corrupts the next requests with this text in their target, one after another.
    pub fn spoil(&self, target: &'static str, spoils: impl IntoIterator<Item = Spoil>) {
        let mut all = self.spoils.lock().unwrap_or_else(PoisonError::into_inner);
        all.clear();
        all.extend(spoils.into_iter().map(|spoil| (target, spoil)));
    }

    /// The request lines that came, with the part that was asked for.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn exchange(mut client: TcpStream, upstream: &str, spoils: &Spoils, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let length = head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let range = head.iter().find(|line| line.to_ascii_lowercase().starts_with("range:")).cloned().unwrap_or_default();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {range}", head[0]));
    let spoil = {
        let mut all = spoils.lock().unwrap_or_else(PoisonError::into_inner);
        if all.front().is_some_and(|(target, _)| head[0].contains(target)) { all.pop_front().map(|(_, spoil)| spoil) } else { None }
    };
    let mut left = match spoil {
        Some(Spoil::Answer(status, lines, body)) => {
            let length = body.len();
            return write!(client, "HTTP/1.1 {status} x\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        }
        Some(Spoil::Refuse) => return Ok(()),
        Some(Spoil::Cut(bytes)) => bytes,
        None => usize::MAX,
    };
    let mut server = TcpStream::connect(upstream)?;
    head.retain(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    write!(server, "{}\r\nConnection: close\r\n\r\n", head.join("\r\n"))?;
    server.write_all(&body)?;
    let mut piece = [0; 16 << 10];
    while left > 0 {
        let most = piece.len().min(left);
        let count = server.read(&mut piece[..most])?;
        if count == 0 {
            break;
        }
        client.write_all(&piece[..count])?;
        left -= count;
    }
    Ok(())
}
