//! Inspects TLS: the program speaks with the broker, which shows a certificate of this run, and the broker speaks with the host, whose
//! certificate it verifies as usual. Both sides speak the same version of HTTP.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_rustls::server::StartHandshake;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use silo_base::grant::Host;

use super::authority::{self, Authority};
use super::http_carrier::Guest;

/// Time limit of each handshake.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most inspected connections at a time; others wait. Each has buffers for two TLS connections and for heads.
const MAX_INSPECTED: usize = 128;
/// Names of HTTP/2 and HTTP/1.1 in TLS (ALPN).
const VERSIONS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Reasons to cut a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's side broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The program refused the certificate.
    #[error("the program does not accept the certificate of this run ({0})")]
    Refused(String),
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
}

/// The certificates of a run, and those that verify hosts.
pub struct Inspection {
    authority: Authority,
    outward: Arc<ClientConfig>,
    certified: Mutex<BTreeMap<Host, Arc<CertifiedKey>>>,
    running: Semaphore,
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// Two connections of the same version of HTTP.
pub struct Met {
    /// The program's.
    pub guest: server::TlsStream<Guest>,
    /// The host's.
    pub world: client::TlsStream<TcpStream>,
    /// True for HTTP/2.
    pub is_two: bool,
}

impl Inspection {
    /// Takes the authority of the run, and the bundle of CA certificates that verifies hosts.
    pub fn new(authority: Authority, bundle: &[u8]) -> Result<Inspection, rustls::Error> {
        let mut roots = RootCertStore::empty();
        // A certificate that cannot be read verifies nothing.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).flatten());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let outward = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let outward = Arc::new(outward.with_root_certificates(roots).with_no_client_auth());
        Ok(Inspection { authority, outward, certified: Mutex::default(), running: Semaphore::new(MAX_INSPECTED) })
    }

    /// Waits until another connection may be inspected.
    pub async fn begin(&self) -> io::Result<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.running.acquire().await.map_err(io::Error::other)
    }

    /// Speaks TLS with both sides.
    pub async fn meet(&self, guest: Guest, world: TcpStream, host: &Host) -> Result<Met, Error> {
        let (started, offered) = hello(guest).await?;
        let mut outward = (*self.outward).clone();
        outward.alpn_protocols.clone_from(&offered);
        let name = ServerName::try_from(host.for_resolver().to_owned()).map_err(io::Error::other)?;
        let world = timeout(PATIENCE, TlsConnector::from(Arc::new(outward)).connect(name, world)).await;
        let world = world.map_err(|late| Error::Outward(late.into()))?.map_err(Error::Outward)?;
        let chosen = world.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let is_two = chosen.as_deref() == Some(VERSIONS[0]);
        if chosen.is_none() && !offered.is_empty() && !offered.iter().any(|name| name == VERSIONS[1]) {
            return Err(Error::Version);
        }
        let own = if offered.is_empty() { None } else { Some(chosen.unwrap_or_else(|| VERSIONS[1].to_vec())) };
        Ok(Met { guest: self.accept(started, host, own).await?, world, is_two })
    }

    /// Speaks TLS with the program alone, by this version of HTTP if the program speaks it. Returns the version.
    pub async fn answer(&self, guest: Guest, host: &Host, wanted: HttpVersion) -> Result<(server::TlsStream<Guest>, HttpVersion), Error> {
        let (started, offered) = hello(guest).await?;
        let has = |version: &[u8]| offered.iter().any(|name| name == version);
        let is_two = has(VERSIONS[0]) && (wanted == HttpVersion::Two || !has(VERSIONS[1]));
        let own = if offered.is_empty() { None } else { Some(VERSIONS[usize::from(!is_two)].to_vec()) };
        let version = if is_two { HttpVersion::Two } else { HttpVersion::One };
        Ok((self.accept(started, host, own).await?, version))
    }

    async fn accept(
        &self,
        started: StartHandshake<Guest>,
        host: &Host,
        version: Option<Vec<u8>>,
    ) -> Result<server::TlsStream<Guest>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inward = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let key = SingleCertAndKey::from(self.certified(host)?);
        let mut inward = inward.with_no_client_auth().with_cert_resolver(Arc::new(key));
        inward.alpn_protocols = version.into_iter().collect();
        let accepted = timeout(PATIENCE, started.into_stream(Arc::new(inward))).await.map_err(io::Error::from)?;
        accepted.map_err(refused)
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

/// Reads the program's first message; returns it with the versions of HTTP that the program speaks.
async fn hello(guest: Guest) -> Result<(StartHandshake<Guest>, Vec<Vec<u8>>), Error> {
    let started = timeout(PATIENCE, LazyConfigAcceptor::new(Acceptor::default(), guest)).await.map_err(io::Error::from)??;
    let asked: Vec<Vec<u8>> = started.client_hello().alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let offered = VERSIONS.iter().map(|name| name.to_vec()).filter(|name| asked.contains(name)).collect();
    Ok((started, offered))
}

/// Describes a handshake that the program ended.
fn refused(error: io::Error) -> Error {
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).and_then(|error| match error {
        rustls::Error::AlertReceived(alert) => Some(format!("its answer was {alert:?}")),
        _ => None,
    });
    match (alert, error.kind()) {
        (Some(alert), _) => Error::Refused(alert),
        // A program that closes with unread data resets the connection, and its answer may be lost.
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            Error::Refused("it closed the connection in the handshake".to_owned())
        }
        (None, _) => Error::Io(error),
    }
}
