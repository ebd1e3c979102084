//! A connection to a server: HTTP/2, with TLS and the user's headers, driven by one thread. The callers are plain blocking code.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::error::Error;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Interval of pings on an idle connection, and the time that an answer may take: a dead server is noticed.
const PING: Duration = Duration::from_secs(30);
/// Bytes that a server may send before they are read.
const WINDOW_BYTES: u32 = 4 << 20;
/// The most bytes of one message of a server: gRPC's customary limit.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Interval at which a waiting caller looks whether the user stopped the build.
const LOOK: Duration = Duration::from_millis(50);
/// Pauses between the attempts of a request.
const PAUSES: [Duration; 4] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(8)];

/// A server, as the user's settings name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The address: `http://` or `https://`, with a port.
    pub url: String,
    /// The instance name; empty for most servers.
    pub instance: String,
    /// A file with the certificates that the server's must come from, in addition to the system's.
    pub certificates: Option<PathBuf>,
    /// Headers of each request, such as `authorization`.
    pub headers: Vec<(String, String)>,
}

/// A connection.
pub(crate) struct Connection {
    pub(crate) url: String,
    pub(crate) instance: String,
    channel: Channel,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    handle: Handle,
    over: Arc<Notify>,
    driver: Option<JoinHandle<()>>,
}

impl Connection {
    /// Prepares a connection, which is opened by the first request.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Connection, Error> {
        let url = endpoint.url.clone();
        let wrong = |what: String| Error::Address { url: url.clone(), what };
        let to = Channel::from_shared(url.clone()).map_err(|error| wrong(error.to_string()))?;
        let is_tls = match to.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("write it as http://HOST:PORT or https://HOST:PORT".to_owned())),
        };
        let mut to = to
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        if is_tls {
            let mut tls = ClientTlsConfig::new().with_native_roots();
            if let Some(path) = &endpoint.certificates {
                let pem = std::fs::read(path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            to = to.tls_config(tls).map_err(|error| wrong(error.to_string()))?;
        }
        let header = |(name, value): &(String, String)| {
            let name = name.to_ascii_lowercase();
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| wrong(format!("{name:?} is no name of a header")))?;
            // The value may be a secret, so no error shows it.
            let mut value: AsciiMetadataValue =
                value.parse().map_err(|_| wrong(format!("the value of the header {name} has a character that headers cannot have")))?;
            value.set_sensitive(true);
            Ok::<_, Error>((key, value))
        };
        let headers = endpoint.headers.iter().map(header).collect::<Result<_, _>>()?;
        let failed = |source| Error::Runtime { url: url.clone(), source };
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
        let (handle, over) = (runtime.handle().clone(), Arc::new(Notify::new()));
        let channel = {
            let _within = handle.enter();
            to.connect_lazy()
        };
        let until = Arc::clone(&over);
        let driver =
            std::thread::Builder::new().name("remote".to_owned()).spawn(move || runtime.block_on(until.notified())).map_err(failed)?;
        Ok(Connection { url, instance: endpoint.instance.clone(), channel, headers, handle, over, driver: Some(driver) })
    }

    /// Waits for an answer; the user can stop that.
    pub(crate) fn wait<T>(&self, stop: &AtomicBool, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.handle.block_on(async {
            tokio::pin!(answer);
            loop {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                tokio::select! {
                    done = &mut answer => return done,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        })
    }

    /// Calls `work` until it succeeds; transient errors are retried a few times. `work` may tell how far it came: progress counts as a
    /// first attempt.
    pub(crate) fn again<T>(&self, stop: &AtomicBool, mut work: impl FnMut(&mut bool) -> Result<T, Error>) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            let mut advanced = false;
            match work(&mut advanced) {
                Err(error) if error.is_transient() => {
                    attempt = if advanced { 0 } else { attempt };
                    let Some(pause) = PAUSES.get(attempt) else { return Err(error) };
                    attempt += 1;
                    self.pause(stop, *pause)?;
                }
                done => return done,
            }
        }
    }

    /// Waits for a while.
    pub(crate) fn pause(&self, stop: &AtomicBool, time: Duration) -> Result<(), Error> {
        self.wait(stop, async {
            tokio::time::sleep(time).await;
            Ok(())
        })
    }

    /// Sends one message and returns the answer; transient errors are retried.
    pub(crate) fn unary<Q, R>(&self, stop: &AtomicBool, call: &'static str, request: Q) -> Result<R, Error>
    where
        Q: Message + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.again(stop, |_| self.wait(stop, self.call(call, request.clone())))
    }

    /// Sends one message once, and returns the answer.
    pub(crate) async fn call<Q, R>(&self, call: &'static str, request: Q) -> Result<R, Error>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let answer = self.grpc(call).await?.unary(self.request(request), PathAndQuery::from_static(call), codec).await;
        Ok(answer.map_err(|status| self.failed(call, &status))?.into_inner())
    }

    /// Sends one message and returns the stream of answers.
    pub(crate) async fn stream<Q, R>(&self, call: &'static str, request: Q) -> Result<Streaming<R>, Error>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let request = self.request(request);
        let answer = self.grpc(call).await?.server_streaming(request, PathAndQuery::from_static(call), codec).await;
        Ok(answer.map_err(|status| self.failed(call, &status))?.into_inner())
    }

    /// Sends a stream of messages and returns the answer.
    pub(crate) async fn send<Q, R>(
        &self,
        call: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<R, Error>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let answer = self.grpc(call).await?.client_streaming(self.request(requests), PathAndQuery::from_static(call), codec).await;
        Ok(answer.map_err(|status| self.failed(call, &status))?.into_inner())
    }

    async fn grpc(&self, call: &'static str) -> Result<Grpc<Channel>, Error> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let ready = grpc.ready().await;
        ready.map_err(|error| self.failed(call, &Status::unavailable(chain(&error))))?;
        Ok(grpc)
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        request
    }

    /// Describes a failed call.
    pub(crate) fn failed(&self, call: &'static str, status: &Status) -> Error {
        let message = match status.code() {
            // The cause of a lost connection is below the status.
            Code::Unavailable | Code::Unknown => chain(status),
            _ => status.message().to_owned(),
        };
        let text = silo_base::sanitize::brief(&format!("{:?}: {message}", status.code()));
        Error::Call { url: self.url.clone(), call, code: status.code(), text }
    }

    /// Describes an answer that breaks the protocol.
    pub(crate) fn odd(&self, what: impl Into<String>) -> Error {
        Error::Answer { url: self.url.clone(), what: what.into() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.over.notify_one();
        if let Some(driver) = self.driver.take() {
            // It has nothing to report.
            drop(driver.join());
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut all = vec![error.to_string()];
    let mut below = error.source();
    while let Some(cause) = below {
        all.push(cause.to_string());
        below = cause.source();
    }
    all.dedup();
    all.join(": ")
}
