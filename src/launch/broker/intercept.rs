//! Carries the requests of one TLS connection to a host of a secret, with the secret's value in their headers.
//!
//! The broker inspects the connection ([`super::tls_inspection`]). A request goes on only if it names the host of the connection: a server
//! with many names could give it to another one.
//!
//! Bodies pass unchanged. So does everything after a change of protocol (WebSocket).

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use silo_base::grant::{Host, split_port};

use super::authority::Authority;
use super::connections::Connections;
use super::exchange::{self, Pair, TooLarge};
use super::http_carrier::{Carrier, Counts, Guest, MAX_HEAD_BYTES, one, two};
use super::tls_inspection::{self, Inspection};

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
    /// The inspection failed.
    #[error(transparent)]
    Inspection(tls_inspection::Error),
    /// The connection to the host broke.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
}

/// The advice for a program with certificates of its own.
const CURE: &str = "it must trust the certificates in $SSL_CERT_FILE, or else pass the value itself (`silo run --env NAME`)";

/// The secrets of a run with their values, for the broker alone.
pub struct Secrets {
    inspection: Inspection,
    entries: Vec<(Pair, Vec<(Host, u16)>)>,
}

impl Secrets {
    /// Takes the secrets, and the bundle of CA certificates that verifies their hosts.
    pub fn new(authority: Authority, entries: Vec<(Pair, Vec<(Host, u16)>)>, bundle: &[u8]) -> Result<Secrets, Error> {
        let inspection = Inspection::new(authority, bundle).map_err(|error| Error::Inspection(error.into()))?;
        Ok(Secrets { inspection, entries })
    }

    /// True if a connection to this place is intercepted.
    pub fn cover(&self, host: &Host, port: u16) -> bool {
        self.of(host, port).next().is_some()
    }

    fn of(&self, host: &Host, port: u16) -> impl Iterator<Item = &Pair> {
        let is_for = move |places: &[(Host, u16)]| places.iter().any(|(one, at)| one == host && *at == port);
        self.entries.iter().filter(move |(_, places)| is_for(places)).map(|(pair, _)| pair)
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
    let _running = secrets.inspection.begin().await?;
    let counts = Arc::new(Counts::default());
    let met = secrets.inspection.meet(Guest::new(guest, begin, &counts), world, host).await.map_err(|error| match error {
        tls_inspection::Error::Io(error) => Error::Io(error),
        tls_inspection::Error::Refused(why) => {
            let names: Vec<&str> = secrets.of(host, port).map(|pair| pair.name.as_str()).collect();
            Error::Pinned { why, secrets: names.join(", ") }
        }
        error => Error::Inspection(error),
    })?;
    let place = Rc::new(Place { host: host.clone(), port, secrets: Arc::clone(secrets) });
    let (guest, world) = (TokioIo::new(met.guest), TokioIo::new(met.world));
    let carried = async { if met.is_two { two(guest, world, &place).await } else { one(guest, world, &place).await } };
    match counts.over(carried, among).await {
        (Err(error), _) if error.is_parse() => Err(error.into()),
        // Both sides have seen the end.
        (Err(error), _) => Err(io::Error::other(error).into()),
        (Ok(()), bytes) => Ok(bytes),
    }
}

/// True if a request names this host and no other; `usual` is the port that an address may leave out.
pub fn is_for<B>(request: &Request<B>, (host, port): (&Host, u16), usual: u16) -> bool {
    let is_named = |text: &str| {
        let named = split_port(text).and_then(|(host, port)| Some((Host::parse(host)?, port.unwrap_or(usual))));
        named.is_some_and(|(named, at)| named == *host && at == port)
    };
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let in_target = request.uri().authority().map(|authority| is_named(authority.as_str()));
    let in_header = first.map(|host| host.to_str().is_ok_and(is_named));
    let is_two = request.version() == Version::HTTP_2;
    second.is_none()
        && in_target.unwrap_or(true)
        && in_header.unwrap_or(true)
        && if is_two { in_target.is_some() } else { in_header.is_some() }
}

/// The destination of a connection.
struct Place {
    host: Host,
    port: u16,
    secrets: Arc<Secrets>,
}

impl Place {
    /// Prepares a request for the host, or returns the status of its refusal.
    fn reveal<B>(&self, request: &mut Request<B>) -> Result<(), StatusCode> {
        // The answer to TRACE would have the request's headers in its body.
        if [Method::TRACE, Method::CONNECT].contains(request.method()) {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !is_for(request, (&self.host, self.port), 443) {
            return Err(StatusCode::MISDIRECTED_REQUEST);
        }
        let pairs: Vec<&Pair> = self.secrets.of(&self.host, self.port).collect();
        match exchange::reveal(request.headers_mut(), &pairs, MAX_HEAD_BYTES) {
            Ok(_) => Ok(()),
            Err(TooLarge) => Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        }
    }
}

type Body = Either<Incoming, Full<Bytes>>;

impl Carrier for Place {
    type Asking = Incoming;
    type Answering = Body;
    type Note = ();

    fn admit(&self, mut request: Request<Incoming>) -> Result<(Request<Incoming>, ()), Response<Body>> {
        self.reveal(&mut request).map_err(not_admitted)?;
        Ok((request, ()))
    }

    fn answer(&self, (): (), mut answer: Response<Incoming>) -> Response<Body> {
        let pairs: Vec<&Pair> = self.secrets.of(&self.host, self.port).collect();
        exchange::conceal(answer.headers_mut(), &pairs);
        answer.map(Either::Left)
    }
}

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
