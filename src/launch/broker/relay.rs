//! Relays one connection between a guest and the network: checks its first bytes, then copies both directions.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use silo_base::grant::Host;

use super::budget::Budget;
use super::connections::Connections;
use super::copy::{self, Counted};
use super::dial::DialledConnection;
use super::http_head::{self, MAX_HEAD_BYTES};
use super::intercept::{self, Secrets};
use super::recording::{self, Recorder};
use super::sni::{ClientHello, MAX_HELLO_BYTES, Reader};

/// Time limit for a guest to send the first bytes, where they are checked.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of one read. A longer ClientHello or request head needs a permit, because only a few may be buffered at a time.
const SHORT_BYTES: usize = 4 << 10;

/// Reasons to cut an open connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke; both sides have seen it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The TLS SNI names another host.
    #[error("TLS SNI {0} does not match the host connected to")]
    OtherName(String),
    /// No TLS, or TLS without SNI.
    #[error("{0} on port 443; \"{1}\" would grant it")]
    Unnamed(&'static str, String),
    /// The same, at a host of a secret.
    #[error("{0} at a host of a secret, which is reached by TLS alone")]
    Open(&'static str),
    /// The request to the upstream proxy is not valid.
    #[error(transparent)]
    Request(#[from] http_head::Error),
    /// The run has used up its limit of bytes.
    #[error("the run has used up its limit of data over the network")]
    Exceeded,
    /// A connection to a host of a secret failed.
    #[error(transparent)]
    Secret(#[from] intercept::Error),
    /// An inspected connection of a step failed.
    #[error(transparent)]
    Recording(#[from] recording::carry::Error),
    /// A record answers, and the program does not speak HTTP.
    #[error("the record of this step lacks this connection")]
    Unrecorded,
}

/// The destination of a connection.
pub struct Place<'a> {
    /// The host.
    pub host: &'a Host,
    /// The port.
    pub port: u16,
    /// Whether port 443 may carry any protocol, not only TLS for this host.
    pub raw: bool,
    /// The secrets of the run.
    pub secrets: Option<&'a Arc<Secrets>>,
    /// Records responses, or answers from a record.
    pub recorder: Option<&'a Arc<Recorder>>,
}

/// Copies both directions until they end; returns the bytes sent and received.
pub async fn relay(
    mut guest: TcpStream,
    dialled: Option<DialledConnection>,
    place: Place<'_>,
    among: &Connections,
) -> Result<(u64, u64), Error> {
    if let Some(recorder) = place.recorder.filter(|recorder| recorder.inspects(place.host, place.port)) {
        return Box::pin(recorded(guest, dialled, &place, recorder, among)).await;
    }
    let Some(DialledConnection { stream: mut world, proxy }) = dialled else { return Err(Error::Unrecorded) };
    // Disable Nagle's algorithm: small messages must not wait for an ACK. The guest's side of a VM is no TCP socket, and has no such delay.
    let _ = guest.set_nodelay(true);
    world.set_nodelay(true)?;
    if let Some(secrets) = place.secrets.filter(|secrets| proxy.is_none() && secrets.cover(place.host, place.port)) {
        let begin = named(&mut guest, &place, among.budget()).await?;
        // In a box, because every connection has the memory of this function, and few carry a secret.
        return Ok(Box::pin(intercept::carry((guest, begin), world, (place.host, place.port), secrets, among)).await?);
    }
    let mut left = None;
    let mut first = 0;
    if let Some(proxy) = proxy {
        let (head, mut rest) = head(&mut guest, among.budget()).await?;
        let exchange = http_head::parse(&head, place.host, place.port)?;
        let head = exchange.for_proxy(place.host, place.port, proxy.authorization.as_deref());
        world.write_all(head.as_bytes()).await?;
        rest.truncate(usize::try_from(exchange.body).unwrap_or(usize::MAX));
        world.write_all(&rest).await?;
        first = (head.len() + rest.len()) as u64;
        left = Some(exchange.body - rest.len() as u64);
    } else if place.port == 443 && !place.raw {
        let begin = named(&mut guest, &place, among.budget()).await?;
        world.write_all(&begin).await?;
        first = begin.len() as u64;
    }
    among.count(first);
    match left {
        None => {
            let (sent, received) = copy::both(&mut guest, &mut world, among, Counted::Yes).await?;
            Ok((first + sent, received))
        }
        Some(bytes) => {
            // One exchange: the broker reads nothing after the request's body.
            let (from, mut to) = guest.split();
            let (mut answer, mut ask) = world.split();
            let sent = Cell::new(first);
            let body = copy::one_way(from.take(bytes), &mut ask, among.budget(), |bytes| {
                sent.set(sent.get() + bytes);
                among.note(bytes);
                among.count(bytes);
            });
            let received = Cell::new(0);
            let answered = among.while_it_lives(async {
                copy::one_way(&mut answer, &mut to, among.budget(), |bytes| {
                    received.set(received.get() + bytes);
                    among.count(bytes);
                })
                .await?;
                to.shutdown().await
            });
            let (body, answered) = tokio::join!(body, answered);
            body.and(answered)?;
            Ok((sent.get(), received.get()))
        }
    }
}

/// Relays a connection of a step that is recorded, if it speaks HTTP.
async fn recorded(
    mut guest: TcpStream,
    dialled: Option<DialledConnection>,
    place: &Place<'_>,
    recorder: &Arc<Recorder>,
    among: &Connections,
) -> Result<(u64, u64), Error> {
    let at = (place.host, place.port);
    // The guest's side of a VM is no TCP socket, and has no such delay.
    let _ = guest.set_nodelay(true);
    dialled.iter().try_for_each(|dialled| dialled.stream.set_nodelay(true))?;
    let (begin, protocol) = if place.port == 443 && !place.raw {
        (named(&mut guest, place, among.budget()).await?, Protocol::Tls)
    } else {
        protocol(&mut guest, dialled.as_ref(), place.host, among.budget()).await?
    };
    let is_tls = protocol == Protocol::Tls;
    if protocol != Protocol::Other {
        return Ok(
            recording::carry::carry(recording::carry::Ends { guest: (guest, begin), world: dialled, is_tls }, at, recorder, among).await?
        );
    }
    let is_passed = recorder.pass(at, "the connection speaks no HTTP");
    let Some(DialledConnection { stream: mut world, proxy: None }) = dialled.filter(|_| is_passed) else { return Err(Error::Unrecorded) };
    world.write_all(&begin).await?;
    among.count(begin.len() as u64);
    let (sent, received) = copy::both(&mut guest, &mut world, among, Counted::Yes).await?;
    Ok((begin.len() as u64 + sent, received))
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// TLS for the host.
    Tls,
    /// HTTP/1.
    Http,
    /// Any other.
    Other,
}

/// Reads the first bytes of a connection, and finds its protocol.
async fn protocol(
    guest: &mut TcpStream,
    dialled: Option<&DialledConnection>,
    host: &Host,
    budget: &Budget,
) -> Result<(Vec<u8>, Protocol), Error> {
    if let Some(DialledConnection { stream, .. }) = dialled {
        let mut first = [0];
        tokio::select! {
            biased;
            ready = guest.readable() => ready?,
            // Only in other protocols does the host speak first.
            _ = stream.peek(&mut first) => return Ok((Vec::new(), Protocol::Other)),
        }
    }
    let mut begin = Beginning::of(guest, budget);
    let mut reader = Reader::default();
    loop {
        let from = begin.more(MAX_HELLO_BYTES).await?;
        let found = match begin.bytes.first() {
            Some(0x16) => match reader.take(&begin.bytes[from..]) {
                ClientHello::Part => None,
                ClientHello::Names(name) if name == *host => Some(Protocol::Tls),
                // Programs name no address.
                ClientHello::Nameless if host.is_address() => Some(Protocol::Tls),
                ClientHello::Names(_) | ClientHello::Nameless | ClientHello::Other => Some(Protocol::Other),
            },
            _ => http_head::is_start(&begin.bytes).map(|is_http| if is_http { Protocol::Http } else { Protocol::Other }),
        };
        if let Some(found) = found {
            return Ok((begin.bytes, found));
        }
    }
}

/// Reads the TLS ClientHello, whose SNI must be the host connected to.
async fn named(guest: &mut TcpStream, place: &Place<'_>, budget: &Budget) -> Result<Vec<u8>, Error> {
    let mut begin = Beginning::of(guest, budget);
    let mut reader = Reader::default();
    let is_secret = place.secrets.is_some_and(|secrets| secrets.cover(place.host, place.port));
    let unnamed = |what| match is_secret {
        true => Err(Error::Open(what)),
        false => Err(Error::Unnamed(what, format!("{}:443/tcp", place.host.as_str()))),
    };
    loop {
        let from = begin.more(MAX_HELLO_BYTES).await?;
        match reader.take(&begin.bytes[from..]) {
            ClientHello::Part => {}
            ClientHello::Names(name) if name == *place.host => return Ok(begin.bytes),
            ClientHello::Names(name) => return Err(Error::OtherName(name.as_str().to_owned())),
            ClientHello::Nameless => return unnamed("TLS without SNI"),
            ClientHello::Other => return unnamed("not TLS"),
        }
    }
}

/// Reads the head of a request; returns it with the bytes that followed it.
async fn head(guest: &mut TcpStream, budget: &Budget) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut begin = Beginning::of(guest, budget);
    loop {
        if let Some(at) = http_head::end_of_head(&begin.bytes)? {
            let rest = begin.bytes.split_off(at);
            return Ok((begin.bytes, rest));
        }
        begin.more(MAX_HEAD_BYTES).await?;
    }
}

/// The first bytes of a connection, read in pieces. Long ones wait for a permit, which bounds the memory of all connections.
struct Beginning<'a> {
    guest: &'a mut TcpStream,
    budget: &'a Budget,
    bytes: Vec<u8>,
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Beginning<'a> {
    fn of(guest: &'a mut TcpStream, budget: &'a Budget) -> Beginning<'a> {
        Beginning { guest, budget, bytes: Vec::new(), permit: None }
    }

    /// Reads a piece; returns the index of its first byte. Errors at the end of the stream and at `most` bytes.
    async fn more(&mut self, most: usize) -> io::Result<usize> {
        let from = self.bytes.len();
        if from >= SHORT_BYTES && self.permit.is_none() {
            self.permit = self.budget.long_head().await;
        }
        self.bytes.resize(from + most.saturating_sub(from).min(SHORT_BYTES), 0);
        let read = timeout(PATIENCE, self.guest.read(&mut self.bytes[from..])).await;
        self.bytes.truncate(from + read.as_ref().ok().and_then(|read| read.as_ref().ok()).copied().unwrap_or(0));
        match read {
            Ok(Ok(0)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(from),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ErrorKind::TimedOut.into()),
        }
    }
}
