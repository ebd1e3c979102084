//! Carries the requests of one TLS connection to a host of a secret, with the secret's value in their headers.
//!
//! The program speaks TLS with the broker, which shows a certificate of this run, and the broker speaks TLS with the host, whose certificate
//! it verifies as usual. Both sides speak the same version of HTTP. A request goes on only if it names the host of the connection: a server
//! with many names could give it to another one.
//!
//! Bodies pass unchanged. So does everything after a change of protocol (WebSocket).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version, client, server};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use silo_base::grant::{Host, split_port};

use super::authority::{self, Authority};
use super::connections::Connections;
use super::exchange::{self, Pair, TooLarge};

/// Time limit of each handshake.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most intercepted connections at a time; others wait. Each has buffers for two TLS connections and for heads.
const MAX_INTERCEPTED: usize = 128;
/// The most bytes of a head, in both versions of HTTP.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Bytes of a window of HTTP/2, for one stream and for a connection.
const WINDOW_BYTES: u32 = 256 << 10;
/// The most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 64;
/// Names of HTTP/2 and HTTP/1.1 in TLS (ALPN).
const VERSIONS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Reasons to cut a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's side broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The program refused the certificate.
    #[error("the program does not accept the certificate of this run ({why}), so it cannot use {secrets}; {CURE}")]
    Pinned {
        /// The alert of TLS, or the end of the connection.
        why: String,
        /// The secrets of the host.
        secrets: String,
    },
    /// The host's certificate was refused, or the host does not speak TLS.
    #[error("no TLS with the host: {0}")]
    Outward(io::Error),
    /// The two sides have no version of HTTP in common.
    #[error("the program speaks only HTTP/2, and the host does not")]
    Version,
    /// Making a certificate failed.
    #[error(transparent)]
    Certificate(#[from] authority::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection to the host broke.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
}

/// The advice for a program with certificates of its own.
const CURE: &str = "it must trust the certificates in $SSL_CERT_FILE, or else pass the value itself (`silo run --env NAME`)";

/// The secrets of a run with their values, for the broker alone.
pub struct Secrets {
    authority: Authority,
    entries: Vec<(Pair, Vec<(Host, u16)>)>,
    outward: Arc<ClientConfig>,
    certified: Mutex<BTreeMap<Host, Arc<CertifiedKey>>>,
    running: Semaphore,
}

impl Secrets {
    /// Takes the secrets, and the bundle of CA certificates that verifies their hosts.
    pub fn new(authority: Authority, entries: Vec<(Pair, Vec<(Host, u16)>)>, bundle: &[u8]) -> Result<Secrets, Error> {
        let mut roots = RootCertStore::empty();
        // A certificate that cannot be read verifies nothing.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).flatten());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let outward = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let outward = Arc::new(outward.with_root_certificates(roots).with_no_client_auth());
        Ok(Secrets { authority, entries, outward, certified: Mutex::default(), running: Semaphore::new(MAX_INTERCEPTED) })
    }

    /// True if a connection to this place is intercepted.
    pub fn cover(&self, host: &Host, port: u16) -> bool {
        self.of(host, port).next().is_some()
    }

    fn of(&self, host: &Host, port: u16) -> impl Iterator<Item = &Pair> {
        let is_for = move |places: &[(Host, u16)]| places.iter().any(|(one, at)| one == host && *at == port);
        self.entries.iter().filter(move |(_, places)| is_for(places)).map(|(pair, _)| pair)
    }

    fn certified(&self, host: &Host) -> Result<Arc<CertifiedKey>, Error> {
        let mut certified = self.certified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = certified.get(host) {
            return Ok(Arc::clone(known));
        }
        let new = self.authority.certify(host)?;
        certified.insert(host.clone(), Arc::clone(&new));
        Ok(new)
    }
}

/// Carries a connection until both sides have ended; returns the bytes sent and received by the program. `begin` has the bytes that were
/// read to check its SNI.
pub async fn carry(
    (guest, begin): (TcpStream, Vec<u8>),
    world: TcpStream,
    (host, port): (&Host, u16),
    secrets: &Arc<Secrets>,
    among: &Connections,
) -> Result<(u64, u64), Error> {
    // The semaphore is never closed.
    let _running = secrets.running.acquire().await.map_err(io::Error::other)?;
    let counts = Arc::new(Counts::default());
    let guest = Guest { stream: guest, begin, counts: Arc::clone(&counts) };
    let started = timeout(PATIENCE, LazyConfigAcceptor::new(Acceptor::default(), guest)).await.map_err(io::Error::from)??;
    let asked: Vec<Vec<u8>> = started.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let offered: Vec<Vec<u8>> = VERSIONS.iter().map(|name| name.to_vec()).filter(|name| asked.contains(name)).collect();

    let mut outward = (*secrets.outward).clone();
    outward.alpn_protocols.clone_from(&offered);
    let name = ServerName::try_from(host.for_resolver().to_owned()).map_err(io::Error::other)?;
    let world = timeout(PATIENCE, TlsConnector::from(Arc::new(outward)).connect(name, world)).await;
    let world = world.map_err(|late| Error::Outward(late.into()))?.map_err(Error::Outward)?;
    let chosen = world.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let is_two = chosen.as_deref() == Some(VERSIONS[0]);
    if chosen.is_none() && !offered.is_empty() && !offered.iter().any(|name| name == VERSIONS[1]) {
        return Err(Error::Version);
    }

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inward = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let key = SingleCertAndKey::from(secrets.certified(host)?);
    let mut inward = inward.with_no_client_auth().with_cert_resolver(Arc::new(key));
    if !offered.is_empty() {
        inward.alpn_protocols = vec![chosen.unwrap_or_else(|| VERSIONS[1].to_vec())];
    }
    let accepted = timeout(PATIENCE, started.into_stream(Arc::new(inward))).await.map_err(io::Error::from)?;
    let guest = accepted.map_err(|error| refused(error, secrets, (host, port)))?;

    let place = Rc::new(Place { host: host.clone(), port, secrets: Arc::clone(secrets) });
    let (guest, world) = (TokioIo::new(guest), TokioIo::new(world));
    let mut carried = pin!(async { if is_two { two(guest, world, &place).await } else { one(guest, world, &place).await } });
    let (mut noted, mut counted) = (0, 0);
    let carried = poll_fn(|context| {
        let polled = carried.as_mut().poll(context);
        let sent = counts.sent.load(Ordering::Relaxed);
        among.note(sent - noted);
        noted = sent;
        let all = sent + counts.received.load(Ordering::Relaxed);
        among.count(all - counted);
        counted = all;
        polled
    });
    match carried.await {
        Err(error) if error.is_parse() => return Err(error.into()),
        // Both sides have seen the end.
        Err(error) => return Err(io::Error::other(error).into()),
        Ok(()) => {}
    }
    Ok((counts.sent.load(Ordering::Relaxed), counts.received.load(Ordering::Relaxed)))
}

/// Describes a handshake that the program ended.
fn refused(error: io::Error, secrets: &Secrets, (host, port): (&Host, u16)) -> Error {
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).and_then(|error| match error {
        rustls::Error::AlertReceived(alert) => Some(format!("its answer was {alert:?}")),
        _ => None,
    });
    let why = match (alert, error.kind()) {
        (Some(alert), _) => alert,
        // A program that closes with unread data resets the connection, and its answer may be lost.
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            "it closed the connection in the handshake".to_owned()
        }
        (None, _) => return Error::Io(error),
    };
    let names: Vec<&str> = secrets.of(host, port).map(|pair| pair.name.as_str()).collect();
    Error::Pinned { why, secrets: names.join(", ") }
}

/// The destination of a connection.
struct Place {
    host: Host,
    port: u16,
    secrets: Arc<Secrets>,
}

impl Place {
    /// Prepares a request for the host, or returns the status of its refusal.
    fn admit<B>(&self, request: &mut Request<B>) -> Result<(), StatusCode> {
        // The answer to TRACE would have the request's headers in its body.
        if [Method::TRACE, Method::CONNECT].contains(request.method()) {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let is_named = |text: &str| {
            let named = split_port(text).and_then(|(host, port)| Some((Host::parse(host)?, port.unwrap_or(443))));
            named.is_some_and(|(host, port)| host == self.host && port == self.port)
        };
        let mut hosts = request.headers().get_all(HOST).iter();
        let (first, second) = (hosts.next(), hosts.next());
        let in_target = request.uri().authority().map(|authority| is_named(authority.as_str()));
        let in_header = first.map(|host| host.to_str().is_ok_and(is_named));
        let is_two = request.version() == Version::HTTP_2;
        let is_for_host = second.is_none()
            && in_target.unwrap_or(true)
            && in_header.unwrap_or(true)
            && if is_two { in_target.is_some() } else { in_header.is_some() };
        if !is_for_host {
            return Err(StatusCode::MISDIRECTED_REQUEST);
        }
        let pairs: Vec<&Pair> = self.secrets.of(&self.host, self.port).collect();
        match exchange::reveal(request.headers_mut(), &pairs, MAX_HEAD_BYTES) {
            Ok(_) => Ok(()),
            Err(TooLarge) => Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        }
    }

    fn conceal<B>(&self, answer: &mut Response<B>) {
        let pairs: Vec<&Pair> = self.secrets.of(&self.host, self.port).collect();
        exchange::conceal(answer.headers_mut(), &pairs);
    }
}

type Body = Either<Incoming, Full<Bytes>>;

/// An answer of the broker itself.
fn own(status: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(format!("silo: {text}\n")))));
    *answer.status_mut() = status;
    answer
}

fn not_admitted(status: StatusCode) -> Response<Body> {
    match status {
        StatusCode::MISDIRECTED_REQUEST => own(status, "the request does not name the host of its connection"),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            own(status, "the headers of the request are too large with the values of secrets in them")
        }
        _ => own(status, "this method is not carried to a host of a secret"),
    }
}

/// Carries HTTP/1.1.
async fn one<G, W>(guest: TokioIo<G>, world: TokioIo<W>, place: &Rc<Place>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    W: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, outward) =
        client::conn::http1::Builder::new().preserve_header_case(true).max_buf_size(MAX_HEAD_BYTES).handshake::<_, Incoming>(world).await?;
    let sender = Rc::new(tokio::sync::Mutex::new(sender));
    let upgraded: Rc<RefCell<Option<tokio::task::JoinHandle<()>>>> = Rc::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let (sender, place, upgraded) = (Rc::clone(&sender), Rc::clone(place), Rc::clone(&upgraded));
        async move {
            if let Err(status) = place.admit(&mut request) {
                return Ok::<_, hyper::Error>(not_admitted(status));
            }
            let inner = hyper::upgrade::on(&mut request);
            let mut answer = sender.lock().await.send_request(request).await?;
            place.conceal(&mut answer);
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                let outer = hyper::upgrade::on(&mut answer);
                let bridge = async move {
                    if let Ok((inner, outer)) = tokio::try_join!(inner, outer) {
                        // Both sides have seen its end.
                        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(inner), &mut TokioIo::new(outer)).await;
                    }
                };
                upgraded.replace(Some(tokio::task::spawn_local(bridge)));
            }
            Ok(answer.map(Either::Left))
        }
    });
    let inward = server::conn::http1::Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .auto_date_header(false)
        .serve_connection(guest, service)
        .with_upgrades();
    let (mut inward, mut outward) = (pin!(inward), pin!(outward.with_upgrades()));
    let served = tokio::select! {
        served = &mut inward => served,
        ended = &mut outward => {
            // The host closed its side: the last answer still goes to the program.
            inward.as_mut().graceful_shutdown();
            inward.await.and(ended)
        }
    };
    let bridge = upgraded.take();
    if let Some(bridge) = bridge {
        // It fails only if it panics.
        let _ = bridge.await;
    }
    served
}

/// Carries HTTP/2.
async fn two<G, W>(guest: TokioIo<G>, world: TokioIo<W>, place: &Rc<Place>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + 'static,
    W: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, outward) = client::conn::http2::Builder::new(Local)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .handshake::<_, Incoming>(world)
        .await?;
    let service = service_fn(|mut request: Request<Incoming>| {
        let (mut sender, place) = (sender.clone(), Rc::clone(place));
        async move {
            if let Err(status) = place.admit(&mut request) {
                return Ok::<_, hyper::Error>(not_admitted(status));
            }
            let mut answer = sender.send_request(request).await?;
            place.conceal(&mut answer);
            Ok(answer.map(Either::Left))
        }
    });
    let inward = server::conn::http2::Builder::new(Local)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(WINDOW_BYTES as usize)
        .max_concurrent_streams(MAX_STREAMS)
        .auto_date_header(false)
        .serve_connection(guest, service);
    let (mut inward, mut outward) = (pin!(inward), pin!(outward));
    tokio::select! {
        served = &mut inward => served,
        ended = &mut outward => {
            inward.as_mut().graceful_shutdown();
            inward.await.and(ended)
        }
    }
}

/// Runs hyper's tasks on the broker's one thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// Bytes of the program's side.
#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The program's side of a connection: first the bytes that were read before, then the stream.
struct Guest {
    stream: TcpStream,
    begin: Vec<u8>,
    counts: Arc<Counts>,
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if self.begin.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        } else {
            let length = self.begin.len().min(into.remaining());
            into.put_slice(&self.begin[..length]);
            self.begin.drain(..length);
        }
        self.counts.sent.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, from))?;
        self.counts.received.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
