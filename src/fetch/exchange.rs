//! Requests that write to a server: any method, with a body in memory, answered by a status and a few headers.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};

use super::address::shown;
use super::client::{Asked, challenges};
use super::error::{Error, Size};
use super::retry::{Attempts, SpeedMeter, Stop, retry_after};
use super::transport::{Transport, other_origin};

/// The slowest accepted upload; a slower one is given up, so that a stalled server cannot hold silo for ever.
const LEAST_BYTES_PER_SEC: u64 = 16 << 10;

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks for the headers alone.
    Head,
    /// Reads.
    Get,
    /// Begins an upload.
    Post,
    /// Sends a piece of an upload.
    Patch,
    /// Writes a document, or ends an upload.
    Put,
    /// Removes.
    Delete,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The address.
    pub url: &'a str,
    /// The address of the server that named this one, if a server did.
    pub named_by: Option<&'a str>,
    /// The `Accept` header, if there is one.
    pub accept: Option<&'a str>,
    /// The media type of the body.
    pub media_type: Option<&'a str>,
    /// The `Content-Range` header of a piece.
    pub range: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
    /// The most bytes of the response.
    pub max_bytes: u64,
}

impl<'a> Request<'a> {
    /// Returns a request without a body.
    pub fn new(method: Method, url: &'a str, max_bytes: u64) -> Request<'a> {
        Request { method, url, named_by: None, accept: None, media_type: None, range: None, body: &[], max_bytes }
    }
}

/// A response, whatever its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The `Location` header, as an absolute address.
    pub location: Option<String>,
    /// The `Range` header: the stored part of an upload.
    pub range: Option<String>,
    /// The length of the object, if announced.
    pub length: Option<u64>,
    /// The least length of a piece that the registry takes.
    pub least_piece: Option<u64>,
    /// Whether the registry recorded the manifest as a referrer.
    pub has_subject: bool,
    /// The challenges of its `WWW-Authenticate` headers, joined with commas.
    pub challenge: Option<String>,
    /// The origin of the response, if a redirect changed it.
    pub elsewhere: Option<String>,
    /// The body.
    pub bytes: Vec<u8>,
}

impl Transport {
    /// Sends a request that may be repeated; retries transient errors, and returns any other response.
    pub fn exchange(&self, request: &Request<'_>, cancel: &AtomicBool) -> Result<Reply, Error> {
        let stop = Stop::new(cancel);
        let mut attempts = Attempts::new(self.patience(), 0);
        loop {
            match self.exchange_once(request, &stop) {
                Ok(response) => return Ok(response),
                Err(err) => attempts.again(err, 0, &stop)?,
            }
        }
    }

    /// Sends a request once.
    pub(super) fn exchange_once(&self, request: &Request<'_>, stop: &Stop) -> Result<Reply, Error> {
        let url = request.url;
        let net = self.net(url)?;
        let method = match request.method {
            Method::Head => reqwest::Method::HEAD,
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Patch => reqwest::Method::PATCH,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut asked = Asked { pass: self.pass(url), named_by: request.named_by, ..Asked::new(method, url) };
        for (name, value) in [(ACCEPT, request.accept), (CONTENT_TYPE, request.media_type), (CONTENT_RANGE, request.range)] {
            if let Some(value) = value {
                asked.add(name, value);
            }
        }
        if !matches!(request.method, Method::Head | Method::Get | Method::Delete) {
            asked.body = Some(request.body);
        }
        let patience = self.patience();
        let within = patience.answer + Duration::from_secs(request.body.len() as u64 / LEAST_BYTES_PER_SEC);
        let response = net.send(&asked, within, stop)?;
        let mut read = head(url, &response);
        let again = Error::Status { url: shown(url), status: read.status, wait: retry_after(response.headers()) };
        if again.is_transient() {
            return Err(again);
        }
        if request.method != Method::Head {
            read.bytes = self.body(response, request, stop)?;
        }
        Ok(read)
    }

    fn body(&self, mut response: Response, request: &Request<'_>, stop: &Stop) -> Result<Vec<u8>, Error> {
        let (net, patience, url) = (self.net(request.url)?, self.patience(), request.url);
        let until = Instant::now() + patience.document;
        let mut pace = SpeedMeter::new(patience);
        let mut bytes = Vec::new();
        loop {
            let began = Instant::now();
            let piece = net.wait(stop, url, until.saturating_duration_since(began), response.chunk())?;
            let Some(piece) = piece.map_err(|err| net.explain(err, url, patience))? else { return Ok(bytes) };
            pace.arrived(piece.len(), began.elapsed()).map_err(|(bytes, time)| Error::Slow { url: shown(url), bytes, time })?;
            bytes.extend_from_slice(&piece);
            // `wait` looks at the time only while no piece is there.
            if Instant::now() > until {
                return Err(Error::Slow { url: shown(url), bytes: bytes.len() as u64, time: patience.document });
            }
            if bytes.len() as u64 > request.max_bytes {
                return Err(Error::WrongSize { url: shown(url), expected: Size::AtMost(request.max_bytes), got: bytes.len() as u64 });
            }
        }
    }
}

fn head(url: &str, response: &Response) -> Reply {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let location = header(LOCATION.as_str()).and_then(|to| response.url().join(&to).ok()).map(String::from);
    Reply {
        status: response.status().as_u16(),
        location,
        range: header(RANGE.as_str()),
        length: header("content-length").and_then(|value| value.parse().ok()),
        least_piece: header("oci-chunk-min-length").and_then(|value| value.parse().ok()),
        has_subject: header("oci-subject").is_some(),
        challenge: challenges(response),
        elsewhere: other_origin(url, response),
        bytes: Vec::new(),
    }
}
