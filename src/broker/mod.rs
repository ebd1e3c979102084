//! The broker: the one way from a sandbox to the network, by name.
//!
//! A sandbox has no interface but its own loopback. On that loopback stands a listener which the sandbox's first
//! process made and handed out; whoever connects to it speaks, as to an HTTP proxy, with this code outside. It judges
//! the *name* that is asked for, looks it up itself, judges the address, dials, and carries bytes. So a guest, be it
//! root inside, can at most ask for what is granted.
//!
//! **Invariant.** What a guest sends is read only by [`request`] before it is judged, and its size, its time, and the
//! number of its connections are bounded.
//!
//! A name says nothing about what is behind it: in a tunnel to a host that serves many names, a guest may ask that
//! host for any of them.

mod address;
pub mod proxies;
mod relay;
pub mod request;

mod dial;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::grant::{Cover, Grant, Host, that_covers};

use proxies::Proxies;
use relay::{Left, STACK_BYTES};
use request::{Request, Wish};

/// The most connections at once; more wait in the kernel's queue. Two descriptors each: half of the usual 1024.
const MAX_CONNECTIONS: usize = 240;
/// How long a guest may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Lines told in all; a guest can ask for as many names as it likes.
const MAX_LINES: usize = 200;
/// What is read of a guest that was refused, so that it reads the answer before its connection is reset.
const MAX_DRAINED_BYTES: u64 = 64 << 10;

/// Takes a line, from any thread.
pub type Say = Box<dyn Fn(&str) + Send + Sync>;

/// What a guest may reach, and who hears of what it tried.
pub struct Terms {
    /// What is granted.
    pub allow: Vec<Grant>,
    /// What is granted where it leads to a public address.
    pub public: Vec<Grant>,
    /// Grants every name that leads to a public address, and takes each `name:port` that was reached.
    pub learned: Option<Say>,
    /// The machine's own proxies.
    pub proxies: Proxies,
    /// Takes one line for each name that was refused or not reached.
    pub tell: Say,
}

impl Terms {
    fn judge(&self, host: &Host, port: u16) -> Option<Cover> {
        let by = |grants: &[Grant]| grants.iter().filter_map(|grant| grant.covers(host, port)).max();
        let learning = || self.learned.as_ref().filter(|_| !host.is_address()).map(|_| Cover::Family);
        by(&self.allow).or_else(|| by(&self.public).map(|_| Cover::Family)).or_else(learning)
    }
}

/// A broker at work; stops when dropped.
pub struct Broker {
    hall: Arc<Hall>,
    doorman: Option<JoinHandle<()>>,
}

/// What all conversations share.
struct Hall {
    listener: TcpListener,
    terms: Terms,
    closing: AtomicBool,
    guests: Mutex<Guests>,
    left: Condvar,
    lines: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    /// Both connections of each conversation, to be cut when it is time.
    here: BTreeMap<u64, Vec<Arc<TcpStream>>>,
}

/// Serves those who connect to `listener`, in threads.
pub fn serve(listener: TcpListener, terms: Terms) -> io::Result<Broker> {
    let hall = Arc::new(Hall {
        listener,
        terms,
        closing: AtomicBool::new(false),
        guests: Mutex::default(),
        left: Condvar::new(),
        lines: Mutex::default(),
    });
    let shared = Arc::clone(&hall);
    let doorman = thread::Builder::new().name("broker".to_owned()).spawn(move || shared.admit())?;
    Ok(Broker { hall, doorman: Some(doorman) })
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.hall.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections; on Linux accepting fails from then on.
        let _ = rustix::net::shutdown(&self.hall.listener, rustix::net::Shutdown::Both);
        self.hall.left.notify_all();
        if let Some(doorman) = self.doorman.take() {
            // A panic there was told by the runtime.
            let _ = doorman.join();
        }
        // Conversations are cut and not waited for: one that looks a name up cannot be woken.
        for stream in held(&self.hall.guests).here.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Hall {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Takes connections in until the broker stops.
    fn admit(self: &Arc<Hall>) {
        loop {
            let full = |guests: &mut Guests| guests.here.len() >= MAX_CONNECTIONS && !self.is_closing();
            drop(self.left.wait_while(held(&self.guests), full));
            let accepted = self.listener.accept();
            if self.is_closing() {
                return;
            }
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, or the guest has gone: neither is a reason to stop, nor to spin.
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let stream = Arc::new(stream);
            let number = {
                let mut guests = held(&self.guests);
                guests.next += 1;
                let number = guests.next;
                guests.here.insert(number, vec![Arc::clone(&stream)]);
                number
            };
            let hall = Arc::clone(self);
            let begun = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                // A conversation that breaks off is over; the guest has seen it.
                let _ = hall.converse(number, &stream);
                hall.leave(number);
            });
            if begun.is_err() {
                self.leave(number);
            }
        }
    }

    fn leave(&self, number: u64) {
        held(&self.guests).here.remove(&number);
        self.left.notify_all();
    }

    /// Has a connection cut together with its conversation.
    fn keep(&self, number: u64, stream: &Arc<TcpStream>) -> io::Result<()> {
        let mut guests = held(&self.guests);
        if self.is_closing() {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        guests.here.entry(number).or_default().push(Arc::clone(stream));
        Ok(())
    }

    fn converse(&self, number: u64, guest: &TcpStream) -> io::Result<()> {
        let (head, mut rest) = match listen(guest)? {
            Ok(heard) => heard,
            Err(error) => return refuse(guest, error.status(), &error),
        };
        let Request { host, port, wish } = match request::parse(&head) {
            Ok(request) => request,
            Err(error) => return refuse(guest, error.status(), &error),
        };
        let place = format!("{}:{port}", host.as_str());
        let Some(cover) = self.terms.judge(&host, port) else {
            let line = format!("{place} is not granted; \"{}\" under network would grant it", that_covers(&host, port));
            self.tell(&line);
            return refuse(guest, "403 Forbidden", &line);
        };
        let plain = wish != Wish::Tunnel;
        let dialled = match dial::dial(&host, port, cover, &self.terms.proxies, plain) {
            Ok(dialled) => dialled,
            Err(error) => {
                let line = format!("{place}: {error}");
                self.tell(&line);
                return refuse(guest, error.status(), &line);
            }
        };
        if let Some(learned) = &self.terms.learned {
            learned(&place);
        }
        let world = Arc::new(dialled.stream);
        self.keep(number, &world)?;
        let left = match wish {
            Wish::Tunnel => {
                (&*guest).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                Left::All
            }
            Wish::Exchange(exchange) => {
                let head = match &dialled.proxy {
                    Some(proxy) => exchange.for_proxy(&host, port, proxy.authorization.as_deref()),
                    None => exchange.for_host(&host, port),
                };
                (&*world).write_all(head.as_bytes())?;
                rest.truncate(usize::try_from(exchange.body).unwrap_or(usize::MAX));
                Left::Bytes(exchange.body - rest.len() as u64)
            }
        };
        (&*world).write_all(&rest)?;
        relay::relay(guest, &world, left)
    }

    /// Tells a line once, and only so many of them.
    fn tell(&self, line: &str) {
        let mut lines = held(&self.lines);
        if lines.len() > MAX_LINES || lines.iter().any(|told| told == line) {
            return;
        }
        lines.push(line.to_owned());
        if lines.len() > MAX_LINES {
            (self.terms.tell)("more names were refused than are told");
        } else {
            (self.terms.tell)(line);
        }
    }
}

/// A request's head, and what was read after it.
type Heard = (Vec<u8>, Vec<u8>);

/// Reads a request's head.
fn listen(mut guest: &TcpStream) -> io::Result<Result<Heard, request::Error>> {
    let end = Instant::now() + HEAD_PATIENCE;
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match request::end_of_head(&read) {
            Err(error) => return Ok(Err(error)),
            Ok(Some(at)) => {
                let rest = read.split_off(at);
                return Ok(Ok((read, rest)));
            }
            Ok(None) => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        guest.set_read_timeout(Some(left))?;
        match guest.read(&mut piece) {
            // Nobody is there to be answered.
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => read.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Answers that it will not be, and why.
fn refuse(mut guest: &TcpStream, status: &str, why: &dyn Display) -> io::Result<()> {
    let body = format!("silo: {why}\n");
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    guest.write_all((head + &body).as_bytes())?;
    guest.shutdown(Shutdown::Write)?;
    guest.set_read_timeout(Some(Duration::from_secs(1)))?;
    io::copy(&mut guest.take(MAX_DRAINED_BYTES), &mut io::sink()).map(drop)
}
