//! Carries one inspected connection: to its host with a copy of the responses, or from a record.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version, server};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use silo_base::grant::Host;

use super::bodies::{Answering, Asked, Asking, Log, Passed};
use super::document::{self, ASKED, MAX_URL_BYTES};
use super::frames::{Frame, Start};
use super::recorder::Recorder;
use crate::broker::connections::Connections;
use crate::broker::dial::DialledConnection;
use crate::broker::http_carrier::{Carrier, Counts, Guest, Local, MAX_HEAD_BYTES, one, two};
use crate::broker::intercept::is_for;
use crate::broker::tls_inspection::{self, HttpVersion};
use crate::broker::upstream_proxy::Proxy;

/// Reasons to cut a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program's side broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The inspection failed. The build repeats the step without it.
    #[error(transparent)]
    Inspection(tls_inspection::Error),
    /// The connection to the host broke.
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
}

/// The two ends of a connection.
pub struct Ends {
    /// The program's, and the bytes that were read from it.
    pub guest: (TcpStream, Vec<u8>),
    /// The host's; a record has none.
    pub world: Option<DialledConnection>,
    /// True if the program speaks TLS.
    pub is_tls: bool,
}

/// Carries a connection until both sides have ended; returns the bytes sent and received by the program.
pub async fn carry(ends: Ends, (host, port): (&Host, u16), recorder: &Arc<Recorder>, among: &Connections) -> Result<(u64, u64), Error> {
    let _running = recorder.inspection.begin().await?;
    let Ends { guest: (guest, begin), world, is_tls } = ends;
    let counts = Arc::new(Counts::default());
    let guest = Guest::new(guest, begin, &counts);
    let inspection = &recorder.inspection;
    let refused = |error: tls_inspection::Error| {
        if let tls_inspection::Error::Io(error) = error {
            return Error::Io(error);
        }
        if !recorder.is_replay() {
            recorder.refuse((host, port), &error.to_string());
        }
        Error::Inspection(error)
    };
    let place = Rc::new(Place {
        host: host.clone(),
        port,
        is_tls,
        proxy: world.as_ref().and_then(|world| world.proxy.clone()),
        recorder: Arc::clone(recorder),
        requests: Cell::new(0),
    });
    let carried = async {
        match (world, is_tls) {
            (Some(world), true) => {
                let met = inspection.meet(guest, world.stream, host).await.map_err(refused)?;
                let (guest, world) = (TokioIo::new(met.guest), TokioIo::new(met.world));
                let carried = if met.is_two { two(guest, world, &place).await } else { one(guest, world, &place).await };
                if place.requests.get() == 0 {
                    recorder.write(&Frame::Unused(document::place(host, port)));
                }
                Ok(carried?)
            }
            (Some(world), false) => Ok(one(TokioIo::new(guest), TokioIo::new(world.stream), &place).await?),
            (None, true) => {
                let is_two = recorder.answers.as_ref().is_some_and(|answers| answers.is_two(host, port));
                let wanted = if is_two { HttpVersion::Two } else { HttpVersion::One };
                let (guest, version) = inspection.answer(guest, host, wanted).await.map_err(refused)?;
                match version {
                    HttpVersion::One => replay_one(TokioIo::new(guest), &place).await?,
                    HttpVersion::Two => replay_two(TokioIo::new(guest), &place).await?,
                }
                Ok(())
            }
            (None, false) => Ok(replay_one(TokioIo::new(guest), &place).await?),
        }
    };
    match counts.over(carried, among).await {
        (Err(Error::Http(error)), _) if !error.is_parse() => Err(io::Error::other(error).into()),
        (Err(Error::Http(error)), _) => {
            if !recorder.is_replay() {
                recorder.refuse((host, port), &error.to_string());
            }
            Err(Error::Http(error))
        }
        (Err(error), _) => Err(error),
        (Ok(()), bytes) => Ok(bytes),
    }
}

/// Answers the requests of a connection of HTTP/1.1 from the record.
async fn replay_one<G>(guest: TokioIo<G>, place: &Rc<Place>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let place = Rc::clone(place);
        async move { Ok::<_, hyper::Error>(place.stored(request).await) }
    });
    let mut builder = server::conn::http1::Builder::new();
    builder.title_case_headers(true).max_buf_size(MAX_HEAD_BYTES).auto_date_header(false).half_close(true);
    builder.serve_connection(guest, service).await
}

/// The same for HTTP/2.
async fn replay_two<G>(guest: TokioIo<G>, place: &Rc<Place>) -> Result<(), hyper::Error>
where
    G: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let place = Rc::clone(place);
        async move { Ok::<_, hyper::Error>(place.stored(request).await) }
    });
    let mut builder = server::conn::http2::Builder::new(Local);
    builder.max_header_list_size(MAX_HEAD_BYTES as u32).auto_date_header(false);
    builder.serve_connection(guest, service).await
}

/// The destination of a connection.
struct Place {
    host: Host,
    port: u16,
    is_tls: bool,
    proxy: Option<Proxy>,
    recorder: Arc<Recorder>,
    /// The number of requests so far.
    requests: Cell<u64>,
}

impl Place {
    /// Returns the whole address of a request; `None` if it names another host, or is too long for a record.
    fn url<B>(&self, request: &Request<B>) -> Option<String> {
        let (scheme, usual) = if self.is_tls { ("https", 443) } else { ("http", 80) };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let host = self.host.as_str();
        let at = if self.port == usual { host.to_owned() } else { format!("{host}:{}", self.port) };
        let url = format!("{scheme}://{at}{path}");
        (url.len() <= MAX_URL_BYTES && is_for(request, (&self.host, self.port), usual)).then_some(url)
    }

    /// Returns the part of a request that determines its response.
    fn key<B>(&self, request: &Request<B>) -> Option<document::Request> {
        let headers = ASKED.into_iter().filter_map(|name| Some((name.to_owned(), joined(request.headers(), name)?))).collect();
        Some(document::Request { method: request.method().to_string(), url: self.url(request)?, headers, body: None })
    }

    /// Answers from the record.
    async fn stored(&self, request: Request<Incoming>) -> Response<Answering> {
        let key = self.key(&request);
        let told = format!("{} {}", request.method(), request.uri());
        let mut body = request.into_body();
        let asked = Asked::default();
        while let Some(piece) = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await {
            match piece {
                Ok(piece) => asked.add(piece.data_ref().map_or(&[], |bytes| bytes)),
                Err(_) => return own(StatusCode::BAD_REQUEST, "the request broke off"),
            }
        }
        asked.end();
        let Some(key) = key else {
            return own(StatusCode::MISDIRECTED_REQUEST, &format!("{told} does not name the host of its connection"));
        };
        let key = document::Request { body: asked.digest().flatten(), ..key };
        let answer = self.recorder.answers.as_ref().and_then(|answers| {
            let response = answers.next(&key)?;
            let body = answers.body(response).ok()?;
            answered(response, Answering::Stored { file: body, left: response.size })
        });
        answer.unwrap_or_else(|| {
            let text = format!("the record of this step lacks {} {}", key.method, key.url);
            self.recorder.write(&Frame::Missing(key));
            // Package clients try again after most other errors.
            own(StatusCode::FORBIDDEN, &text)
        })
    }
}

/// Returns the values of a header as text whose characters are bytes.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<String> = headers.get_all(name).iter().map(text).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// Makes a recorded response again.
fn answered(response: &document::Response, body: Answering) -> Option<Response<Answering>> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(response.status).ok()?;
    for (name, value) in &response.headers {
        let bytes: Vec<u8> = value.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect::<Option<_>>()?;
        answer.headers_mut().append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(&bytes).ok()?);
    }
    Some(answer)
}

/// An answer of the broker itself.
fn own(status: StatusCode, text: &str) -> Response<Answering> {
    let mut answer = Response::new(Answering::Own(Full::new(Bytes::from(format!("silo: {text}\n")))));
    *answer.status_mut() = status;
    answer
}

/// A request on its way.
struct Note {
    key: Option<document::Request>,
    asked: Arc<Asked>,
}

impl Carrier for Place {
    type Asking = Asking;
    type Answering = Answering;
    type Note = Note;

    fn admit(&self, request: Request<Incoming>) -> Result<(Request<Asking>, Note), Response<Answering>> {
        self.requests.set(self.requests.get() + 1);
        if request.method() == Method::CONNECT {
            return Err(own(StatusCode::METHOD_NOT_ALLOWED, "a host is no proxy"));
        }
        let key = self.key(&request);
        if key.is_none() {
            self.recorder.report((&self.host, self.port), "a request names another host");
        }
        let asked = Arc::new(Asked::default());
        let mut request = request.map(|body| Asking::new(body, &asked));
        if let Some(proxy) = &self.proxy {
            for name in ["proxy-authorization", "proxy-connection"] {
                request.headers_mut().remove(name);
            }
            let authorization = proxy.authorization.as_ref().and_then(|value| HeaderValue::from_str(value).ok());
            request.headers_mut().extend(authorization.map(|value| (HeaderName::from_static("proxy-authorization"), value)));
            // A proxy could send a request for another host there.
            let url = key.as_ref().and_then(|key| key.url.parse::<Uri>().ok());
            let Some(url) = url else { return Err(own(StatusCode::BAD_REQUEST, "the request names another host")) };
            *request.uri_mut() = url;
        }
        Ok((request, Note { key, asked }))
    }

    fn answer(&self, Note { key, asked }: Note, answer: Response<Incoming>) -> Response<Answering> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.recorder.report((&self.host, self.port), "the connection changes to another protocol than HTTP");
            return answer.map(|body| Answering::Passed(Passed::new(body, None)));
        }
        let log = key.map(|request| {
            let id = self.recorder.next();
            let stored = answer.headers().iter().filter(|(name, _)| document::is_stored(name.as_str()));
            let start = Start {
                request,
                status: answer.status().as_u16(),
                http2: answer.version() == Version::HTTP_2,
                headers: stored.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
            };
            self.recorder.write(&Frame::Start(id, start));
            Log { recorder: Arc::clone(&self.recorder), id, asked }
        });
        answer.map(|body| Answering::Passed(Passed::new(body, log)))
    }
}
