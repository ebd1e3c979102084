//! Connects to a host for a guest: resolves the name, checks the addresses, then dials them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use silo_wire::Outcome;

use silo_base::grant::address::{Owner, canonical, owner};
use silo_base::grant::{AddressVerdict, Host, MACHINE, Policy, Specificity};
use silo_base::thread;

use super::http_head::{MAX_HEAD_BYTES, end_of_head};
use super::own_addresses::is_own;
use super::upstream_proxy::{Proxies, Proxy, Scheme, UnknownProxy};

/// Timeout over all addresses of a host; a kernel gives up after about as long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Timeout of one address while others are left.
const PATIENCE_ONE: Duration = Duration::from_secs(10);
/// The most addresses tried.
const MAX_ADDRESSES: usize = 8;

/// An open connection to a host or to the upstream proxy.
#[derive(Debug)]
pub struct DialledConnection {
    /// The connection.
    pub stream: TcpStream,
    /// The upstream proxy at the other end, if it must be asked for each exchange (plain HTTP).
    pub proxy: Option<Proxy>,
}

/// Reasons not to connect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name resolves to an address in a private network.
    #[error("it resolves to {address}, which is not public, and no grant names it exactly")]
    NotPublic {
        /// The first such address.
        address: IpAddr,
    },
    /// The name resolves to this machine, or to an address without meaning beyond it.
    #[error("it resolves to {address}, which {}", granted_as(.address, .port))]
    Machine {
        /// The first such address.
        address: IpAddr,
        /// The port that was asked for.
        port: u16,
    },
    /// The name resolves to a denied address.
    #[error("it resolves to {address}, which is denied")]
    Denied {
        /// The first such address.
        address: IpAddr,
    },
    /// The name does not resolve.
    #[error("cannot be resolved: {0}")]
    Resolve(io::Error),
    /// No address accepted the connection.
    #[error("did not answer: {0}")]
    Connect(io::Error),
    /// The upstream proxy refused the tunnel.
    #[error("the machine's proxy refused: {0}")]
    Proxy(String),
    /// The upstream proxy is of an unsupported kind.
    #[error(transparent)]
    Kind(#[from] UnknownProxy),
}

impl Error {
    /// Returns the outcome that the guest sees.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::NotPublic { .. } | Error::Machine { .. } | Error::Denied { .. } => Outcome::Denied,
            Error::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Outcome::Refused,
                io::ErrorKind::TimedOut => Outcome::TimedOut,
                _ => Outcome::Unreachable,
            },
            Error::Resolve(_) | Error::Proxy(_) | Error::Kind(_) => Outcome::Unreachable,
        }
    }
}

/// Names the grant that would allow an address.
fn granted_as(address: &IpAddr, port: &u16) -> String {
    match address {
        address if address.is_loopback() => format!("is this machine's own loopback; grant {MACHINE}:{port} and connect to that name"),
        IpAddr::V4(address) => format!("needs a grant of {address}:{port} itself"),
        IpAddr::V6(address) => format!("needs a grant of [{address}]:{port} itself"),
    }
}

/// Connects to a host that a grant with this cover allows.
///
/// Resolves the name once and dials the addresses that were checked. An upstream proxy gets the name and resolves it itself.
pub async fn dial(host: &Host, port: u16, cover: Specificity, policy: &Policy, proxies: &Proxies) -> Result<DialledConnection, Error> {
    // Plain HTTP goes to the proxy as a request; everything else through a tunnel.
    let plain = port == 80;
    let proxy = proxies.towards(host, port, if plain { Scheme::Http } else { Scheme::Https })?;
    let found = lookup(host, port).await;
    // Behind a proxy the machine itself often cannot resolve names; then the proxy has to check the addresses.
    let addresses = match (found, &proxy) {
        (Ok(addresses), _) => judged(host, addresses, cover, policy)?,
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(Error::Resolve(error)),
    };
    // On the proxy, an address of this machine would mean another machine.
    let proxy = proxy.filter(|_| !addresses.iter().any(|place| owner(place.ip()) == Owner::Machine));
    let Some(proxy) = proxy else {
        return Ok(DialledConnection { stream: connect(&addresses).await.map_err(Error::Connect)?, proxy: None });
    };
    let places = lookup(&proxy.host, proxy.port).await.map_err(|error| Error::Proxy(error.to_string()))?;
    let mut stream = connect(&places).await.map_err(|error| Error::Proxy(error.to_string()))?;
    if plain {
        return Ok(DialledConnection { stream, proxy: Some(proxy) });
    }
    match timeout(PATIENCE, tunnel(&mut stream, &proxy, host, port)).await {
        Ok(tunnelled) => tunnelled?,
        Err(_) => return Err(Error::Connect(io::ErrorKind::TimedOut.into())),
    }
    Ok(DialledConnection { stream, proxy: None })
}

async fn lookup(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.as_str() == MACHINE {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    // tokio's own lookup panics when the system refuses a thread.
    let (send, receive) = oneshot::channel();
    let name = host.for_resolver().to_owned();
    let resolve = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(|found| found.take(MAX_ADDRESSES).collect::<Vec<_>>());
        // The receiver may be gone.
        let _ = send.send(found);
    };
    thread::apart(resolve).map_err(io::Error::other)?;
    let found = receive.await.map_err(io::Error::other)??;
    if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
}

/// Keeps the addresses that may be dialled: public ones; private ones if a grant names this host or the address; and this machine's own (or
/// those without meaning beyond it) if a grant names them as such.
fn judged(host: &Host, addresses: Vec<SocketAddr>, cover: Specificity, policy: &Policy) -> Result<Vec<SocketAddr>, Error> {
    let mut refusal = None;
    let mut kept = Vec::new();
    for mut place in addresses {
        let (address, port) = (canonical(place.ip()), place.port());
        if address != place.ip() {
            place.set_ip(address);
        }
        let said = policy.said_of(address, port);
        let is_named = host.as_str() == MACHINE || policy.names(address, port);
        let by_class = owner(address);
        let why = match if is_own(address) { Owner::Machine } else { by_class } {
            _ if said == AddressVerdict::Denied => Some(Error::Denied { address }),
            Owner::World => None,
            Owner::Network if said == AddressVerdict::Granted || cover == Specificity::Exact => None,
            Owner::Network => Some(Error::NotPublic { address }),
            Owner::Machine if is_named => None,
            // A grant may cover a link-local network, but not this machine's own address in it.
            Owner::Machine if said == AddressVerdict::Granted && by_class == Owner::Machine => None,
            Owner::Machine => Some(Error::Machine { address, port }),
        };
        match why {
            None => kept.push(place),
            Some(why) => refusal = refusal.or(Some(why)),
        }
    }
    match refusal {
        Some(why) if kept.is_empty() => Err(why),
        _ => Ok(kept),
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for (at, address) in addresses.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let patience = if at + 1 == addresses.len() { left } else { left.min(PATIENCE_ONE) };
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Asks the upstream proxy for a tunnel (CONNECT).
async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, host: &Host, port: u16) -> Result<(), Error> {
    let failed = |error: io::Error| Error::Proxy(error.to_string());
    let place = format!("{}:{port}", host.as_str());
    let authorization = proxy.authorization.as_ref().map_or_else(String::new, |value| format!("Proxy-Authorization: {value}\r\n"));
    let ask = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n");
    stream.write_all(ask.as_bytes()).await.map_err(failed)?;
    let mut head = Vec::new();
    // Byte by byte: the bytes after the head belong to the tunnel, and the answer is short.
    while end_of_head(&head).map_err(|error| Error::Proxy(error.to_string()))?.is_none() {
        head.push(stream.read_u8().await.map_err(failed)?);
        debug_assert!(head.len() <= MAX_HEAD_BYTES);
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(Error::Proxy(line.chars().filter(|c| !c.is_control()).take(200).collect())),
    }
}
