//! The HTTP client: its runtime and connections, and requests with their redirects.
//!
//! Silo follows redirects itself, since each of them is checked: where it goes ([`redirects`]), and that a login stays with its server. A name
//! that a server gives is looked up by a client that connects to permitted addresses only, so the answer cannot change after the check.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode, Url};
use tokio::runtime::Runtime;

use super::address::shown;
use super::error::Error;
use super::redirects::{self, Zone};
use super::retry::{RetryPolicy, Stop};
use silo_base::thread;

/// The User-Agent header.
const USER_AGENT: &str = concat!("silo/", env!("CARGO_PKG_VERSION"));

/// The interval at which cancellation is checked.
const LOOK: Duration = Duration::from_millis(100);

/// The client of a process, with its runtime.
#[derive(Debug)]
pub(super) struct Net {
    runtime: Runtime,
    /// Connects to any address: that of a server which the user named.
    client: Client,
    /// The clients for names that a server in each zone gives, from the first use on.
    guarded: Guarded,
    /// The zones of the servers that answered, by name.
    zones: Mutex<BTreeMap<String, Zone>>,
    proxies: Matcher,
    patience: RetryPolicy,
    authorities: bool,
}

/// Clients that connect to addresses that a server in one zone may name.
#[derive(Debug, Default)]
struct Guarded {
    public: OnceLock<Result<Client, String>>,
    private: OnceLock<Result<Client, String>>,
    loopback: OnceLock<Result<Client, String>>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    pub method: Method,
    pub url: &'a str,
    /// The server that named the address, if a server did.
    pub named_by: Option<&'a str>,
    pub headers: HeaderMap,
    /// The `Authorization` header.
    pub pass: Option<String>,
    pub body: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    /// Returns a request without headers and without a body.
    pub fn new(method: Method, url: &'a str) -> Asked<'a> {
        Asked { method, url, named_by: None, headers: HeaderMap::new(), pass: None, body: None }
    }

    /// Adds a header. A value that no header can have is left out.
    pub fn add(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }
}

/// Starts the runtime and the client.
pub(super) fn start(patience: RetryPolicy) -> Result<Net, String> {
    // Fails if the process has a provider already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|err| err.to_string())?;
    let net = |client, authorities| Net {
        runtime,
        client,
        guarded: Guarded::default(),
        zones: Mutex::default(),
        proxies: Matcher::from_system(),
        patience,
        authorities,
    };
    match builder(patience, None).build() {
        Ok(client) => Ok(net(client, true)),
        // A minimal Debian system has no ca-certificates, but plain http to its mirror still works: signatures and digests verify the
        // files. Https then fails with an error that names the missing certificates.
        Err(_) => match builder(patience, None).tls_certs_only([]).build() {
            Ok(client) => Ok(net(client, false)),
            Err(err) => Err(innermost(&err)),
        },
    }
}

/// Returns the builder of a client; with a zone, it looks up only names that a server in this zone may give.
fn builder(patience: RetryPolicy, zone: Option<Zone>) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(patience.connect)
        .read_timeout(patience.idle)
        .redirect(Policy::none())
        .referer(false)
        .dns_resolver(Arc::new(Lookup { zone }))
}

/// DNS lookups through the system's resolver. The client's own resolver panics when the system refuses a thread.
struct Lookup {
    /// The zone of the server that gave the name; `None` for a name that the user gave.
    zone: Option<Zone>,
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let zone = self.zone;
        Box::pin(async move {
            let (send, receive) = tokio::sync::oneshot::channel();
            let host = name.as_str().to_owned();
            let lookup = move || {
                // The receiver may be gone.
                let _ = send.send((host.as_str(), 0).to_socket_addrs().map(Vec::from_iter));
            };
            thread::apart(lookup).map_err(|refused| format!("{refused} to look a name up: {}", innermost(&refused)))?;
            let mut found: Vec<SocketAddr> = receive.await??;
            if let Some(zone) = zone {
                let all = found.len();
                found.retain(|address| redirects::may_name(zone, redirects::zone_of(address.ip())));
                if found.is_empty() && all > 0 {
                    return Err(Box::new(NotPermitted(name.as_str().to_owned())) as Box<dyn StdError + Send + Sync>);
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A name that leads to an address which the server that gave the name may not name.
#[derive(Debug)]
struct NotPermitted(String);

impl fmt::Display for NotPermitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it names {}, {}", self.0, redirects::NOT_PUBLIC)
    }
}

impl StdError for NotPermitted {}

impl Net {
    /// Ends the runtime. A DNS lookup that hangs does not delay the exit of the process.
    pub(super) fn shut_down(self) {
        self.runtime.shutdown_background();
    }

    /// Sends a request, follows its redirects, and returns the last response with its head read.
    pub(super) fn send(&self, asked: &Asked<'_>, within: Duration, stop: &Stop) -> Result<Response, Error> {
        self.wait(stop, asked.url, within, self.follow(asked))?
    }

    async fn follow(&self, asked: &Asked<'_>) -> Result<Response, Error> {
        let refused = |cause: String| Error::Redirect { url: shown(asked.url), cause };
        let mut url = Url::parse(asked.url).map_err(|err| Error::Address { url: shown(asked.url), cause: err.to_string() })?;
        let mut client = &self.client;
        if let Some(from) = asked.named_by.and_then(|from| Url::parse(from).ok()) {
            redirects::check(&from, self.zone(&from), &url).map_err(refused)?;
            client = self.client_for(&from, &url)?;
        }
        let mut pass = asked.pass.as_deref();
        for count in 0.. {
            let mut request = client.request(asked.method.clone(), url.clone()).headers(asked.headers.clone());
            if let Some(pass) = pass {
                request = request.header(AUTHORIZATION, pass);
            }
            if let Some(body) = asked.body {
                request = request.body(body.to_vec());
            }
            let response = request.send().await.map_err(|err| self.explain(err, asked.url, self.patience))?;
            self.learn_zone(&url, &response);
            let Some(mut next) = target(&response).map_err(refused)? else { return Ok(response) };
            if count >= redirects::MAX_REDIRECTS {
                return Err(refused(format!("more than {} in a row", redirects::MAX_REDIRECTS)));
            }
            redirects::check(&url, self.zone(&url), &next).map_err(refused)?;
            if !matches!(asked.method, Method::GET | Method::HEAD) {
                redirects::check_write(&url, &next, response.status()).map_err(refused)?;
            }
            // A server may give its own host another port or path; the name is as trusted as before.
            if url.host() != next.host() {
                client = self.client_for(&url, &next)?;
            }
            if next.origin() != url.origin() {
                pass = None;
            } else if next.username().is_empty() && next.password().is_none() {
                // The login of an address that the user wrote. Both calls fail only for addresses that cannot have one.
                let _ = next.set_username(url.username());
                let _ = next.set_password(url.password());
            }
            url = next;
        }
        Err(refused("it has no end".to_owned()))
    }

    /// Returns the client for an address that a server named.
    fn client_for(&self, from: &Url, next: &Url) -> Result<&Client, Error> {
        // A proxy looks the name up by itself; and the name of the proxy comes from the user.
        if from.host() == next.host() || self.is_proxied(next) {
            return Ok(&self.client);
        }
        // A server at an address of no zone may name public addresses, as a public one.
        let zone = Some(self.zone(from)).filter(|zone| *zone != Zone::Closed).unwrap_or(Zone::Public);
        let guarded = match zone {
            Zone::Public | Zone::Closed => &self.guarded.public,
            Zone::Private => &self.guarded.private,
            Zone::Loopback => &self.guarded.loopback,
        };
        let start = || {
            let builder = builder(self.patience, Some(zone));
            let builder = if self.authorities { builder } else { builder.tls_certs_only([]) };
            builder.build().map_err(|err| innermost(&err))
        };
        guarded.get_or_init(start).as_ref().map_err(|cause| Error::Client { cause: cause.clone() })
    }

    fn is_proxied(&self, url: &Url) -> bool {
        url.as_str().parse().is_ok_and(|uri| self.proxies.intercept(&uri).is_some())
    }

    /// Returns the zone of a server: by its address, else by the address of its answers, else public.
    fn zone(&self, url: &Url) -> Zone {
        let known = || self.zones.lock().unwrap_or_else(PoisonError::into_inner).get(url.host_str()?).copied();
        redirects::zone_of_url(url).or_else(known).unwrap_or(Zone::Public)
    }

    /// Records the zone of a server that answered. A name with addresses in several zones counts as public.
    fn learn_zone(&self, url: &Url, response: &Response) {
        if redirects::zone_of_url(url).is_some() {
            return;
        }
        let zone = match response.remote_addr() {
            Some(address) if !self.is_proxied(url) => redirects::zone_of(address.ip()),
            _ => Zone::Public,
        };
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let known = zones.entry(url.host_str().unwrap_or_default().to_owned()).or_insert(zone);
        if *known != zone {
            *known = Zone::Public;
        }
    }

    /// Waits for `work` on `url`; checks for cancellation and for the timeout.
    pub(super) fn wait<T>(&self, stop: &Stop, url: &str, within: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
        stop.check()?;
        let began = Instant::now();
        self.runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                match tokio::time::timeout(LOOK, work.as_mut()).await {
                    Ok(done) => return Ok(done),
                    Err(_) => stop.check()?,
                }
                if began.elapsed() > within {
                    return Err(Error::Slow { url: shown(url), bytes: 0, time: within });
                }
            }
        })
    }

    /// Classifies an error before the response.
    pub(super) fn explain(&self, err: reqwest::Error, url: &str, patience: RetryPolicy) -> Error {
        let url = shown(url);
        let cause = innermost(&err);
        if err.is_builder() {
            return Error::Address { url, cause };
        }
        if chain(&err).any(|err| err.is::<NotPermitted>()) {
            return Error::Redirect { url, cause };
        }
        if err.is_connect() {
            if is_timeout(&err) {
                return Error::Unreachable { url, cause: format!("no answer in {} s", patience.connect.as_secs_f32()) };
            }
            if cause.contains("proxy authorization required") {
                return Error::Status { url, status: StatusCode::PROXY_AUTHENTICATION_REQUIRED.as_u16(), wait: None };
            }
            if chain(&err).any(is_tls) {
                return Error::Tls { url, cause, authorities: self.authorities };
            }
            return Error::Unreachable { url, cause };
        }
        if is_timeout(&err) {
            return Error::Stalled { url, idle: patience.idle };
        }
        Error::Broken { url, cause }
    }
}

/// Returns the address that a response redirects to, if it does; a `Location` that is no address counts as none.
fn target(response: &Response) -> Result<Option<Url>, String> {
    use StatusCode as Status;
    let redirects = [Status::MOVED_PERMANENTLY, Status::FOUND, Status::SEE_OTHER, Status::TEMPORARY_REDIRECT, Status::PERMANENT_REDIRECT];
    if !redirects.contains(&response.status()) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    redirects::check_length(location)?;
    Ok(response.url().join(location).ok())
}

/// Joins the challenges of a response; several header lines mean the same as one line with commas (RFC 9110, section 5.2).
pub(super) fn challenges(response: &Response) -> Option<String> {
    let lines = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    lines.map(str::to_owned).reduce(|all, line| format!("{all}, {line}"))
}

type Cause<'a> = &'a (dyn StdError + 'static);

fn chain(err: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    let mut next = Some(err);
    std::iter::from_fn(move || {
        let err = next?;
        next = err.source();
        Some(err)
    })
}

/// Returns the last cause in the chain, which says most: "Connection refused", "invalid peer certificate: Expired".
pub(super) fn innermost(err: Cause<'_>) -> String {
    chain(err).last().map_or_else(String::new, |err| err.to_string())
}

/// Whether an error is a timeout of the client.
pub(super) fn is_timeout(err: &reqwest::Error) -> bool {
    err.is_timeout() || chain(err).any(|err| err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::TimedOut))
}

/// Whether a cause is a TLS error. They are wrapped in io errors, often two deep, which do not report them as their source.
fn is_tls(err: Cause<'_>) -> bool {
    match err.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => is_tls(inner),
        None => err.is::<rustls::Error>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_public_server_gives_is_not_looked_up_to_this_machine() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let found = |zone| {
            let name: Name = "localhost".parse().expect("a name");
            runtime.block_on(Lookup { zone }.resolve(name)).map(Iterator::count)
        };
        assert!(found(None).is_ok_and(|count| count > 0));
        assert!(found(Some(Zone::Loopback)).is_ok_and(|count| count > 0));
        for zone in [Zone::Public, Zone::Private] {
            let refused = found(Some(zone)).expect_err("localhost is on loopback");
            assert!(refused.is::<NotPermitted>() && refused.to_string().contains("localhost"), "{refused}");
        }
    }
}
