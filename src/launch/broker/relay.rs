//! A conversation between a guest and the world: what must be judged of its beginning, then bytes to their ends.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use silo_base::grant::Host;

use super::budget::Budget;
use super::carry;
use super::conversations::Conversations;
use super::dial::Dialled;
use super::hello::{Hello, MAX_HELLO_BYTES, Reader};
use super::request::{self, MAX_HEAD_BYTES};

/// How long a guest may take to say what it wants, where that is judged.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes read at once of a beginning, and as many as every connection may hold of it; more takes a right that few have at once.
const SHORT_BYTES: usize = 4 << 10;

/// Why a connection that was open is broken off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection broke; both sides have seen it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It wants to talk to another host.
    #[error("it asks for {0} there, which is another name")]
    OtherName(String),
    /// It says nothing of whom it wants to talk to.
    #[error("{0} on port 443; \"{1}\" would grant it")]
    Unnamed(&'static str, String),
    /// Its request to the machine's proxy is none.
    #[error(transparent)]
    Request(#[from] request::Error),
}

/// Whom a connection goes to.
pub struct Place<'a> {
    /// The host.
    pub host: &'a Host,
    /// The port.
    pub port: u16,
    /// Whether anything goes on port 443.
    pub raw: bool,
}

/// Carries both directions to their ends; returns how many bytes went to the world, and how many came from it.
pub async fn relay(mut guest: TcpStream, dialled: Dialled, place: Place<'_>, among: &Conversations) -> Result<(u64, u64), Error> {
    let Dialled { stream: mut world, proxy } = dialled;
    // Small messages of a conversation must not wait for one another. A machine's connection is no TCP, and has no such delay.
    let _ = guest.set_nodelay(true);
    world.set_nodelay(true)?;
    let mut left = None;
    let mut first = 0;
    if let Some(proxy) = proxy {
        let (head, mut rest) = head(&mut guest, among.budget()).await?;
        let exchange = request::parse(&head, place.host, place.port)?;
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
    match left {
        None => {
            let (sent, received) = carry::both(&mut guest, &mut world, among).await?;
            Ok((first + sent, received))
        }
        Some(bytes) => {
            // One exchange: nobody reads what comes after the body.
            let (from, mut to) = guest.split();
            let (mut answer, mut ask) = world.split();
            let sent = Cell::new(first);
            let body = carry::one_way(from.take(bytes), &mut ask, among.budget(), |bytes| {
                sent.set(sent.get() + bytes);
                among.note(bytes);
            });
            let received = among.while_it_lives(async {
                let received = tokio::io::copy(&mut answer, &mut to).await?;
                to.shutdown().await.map(|()| received)
            });
            let (body, received) = tokio::join!(body, received);
            body?;
            Ok((sent.get(), received?))
        }
    }
}

/// Reads the beginning of a TLS connection, which must name the host that was connected to.
async fn named(guest: &mut TcpStream, place: &Place<'_>, budget: &Budget) -> Result<Vec<u8>, Error> {
    let mut begin = Vec::new();
    let mut reader = Reader::default();
    let mut long = None;
    loop {
        if begin.len() >= SHORT_BYTES && long.is_none() {
            long = budget.long_head().await;
        }
        let from = begin.len();
        more(guest, &mut begin, MAX_HELLO_BYTES).await?;
        let unnamed = |what| Err(Error::Unnamed(what, format!("{}:443/tcp", place.host.as_str())));
        match reader.take(&begin[from..]) {
            Hello::Part => {}
            Hello::Names(name) if name == *place.host => return Ok(begin),
            Hello::Names(name) => return Err(Error::OtherName(name.as_str().to_owned())),
            Hello::Nameless => return unnamed("it asks for no name"),
            Hello::Other => return unnamed("it does not speak TLS"),
        }
    }
}

/// Reads the head of a request; returns what was read after it, too.
async fn head(guest: &mut TcpStream, budget: &Budget) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut read = Vec::new();
    let mut long = None;
    loop {
        if let Some(at) = request::end_of_head(&read)? {
            let rest = read.split_off(at);
            return Ok((read, rest));
        }
        if read.len() >= SHORT_BYTES && long.is_none() {
            long = budget.long_head().await;
        }
        more(guest, &mut read, MAX_HEAD_BYTES).await?;
    }
}

async fn more(guest: &mut TcpStream, into: &mut Vec<u8>, most: usize) -> io::Result<()> {
    let left = most.saturating_sub(into.len()).min(SHORT_BYTES);
    let from = into.len();
    into.resize(from + left, 0);
    let read = timeout(PATIENCE, guest.read(&mut into[from..])).await;
    into.truncate(from + read.as_ref().ok().and_then(|read| read.as_ref().ok()).copied().unwrap_or(0));
    match read {
        Ok(Ok(0)) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}
