//! Opens and reads addresses: http and https through the host's proxies and trust store, local files directly.
//!
//! The runtime and the client start at the first request that leaves the machine. The runtime has no worker threads: of the threads in
//! `block_on`, one drives all connections, and each does its own hashing and writing. Only a DNS lookup needs a new thread, and fails if
//! the system refuses one. All code above this module is plain blocking code.
//!
//! Proxies come from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY (on macOS also from the system). Trust comes from the platform's
//! verifier: on Linux the system's certificate store, or SSL_CERT_FILE and SSL_CERT_DIR; on macOS the keychain. The libraries read both
//! themselves, like other programs on the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use reqwest::header::{ACCEPT, CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::address::{local_path, shown};
use super::client::{Asked, Net, challenges, innermost, is_timeout, start};
use super::error::{Error, Size};
use super::retry::{Attempts, RetryPolicy, SpeedMeter, Stop, retry_after};

/// Bytes of one read of a local file.
const FILE_CHUNK_BYTES: usize = 256 << 10;

/// The servers that a transport may ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Any server.
    #[default]
    Network,
    /// None: only files of this machine are read.
    Files,
}

/// The HTTP client, created once a process and shared by all fetches; it costs nothing before its first use.
#[derive(Debug, Default)]
pub struct Transport {
    patience: RetryPolicy,
    reach: Reach,
    net: OnceLock<Result<Net, String>>,
    /// Values of the `Authorization` header, by address prefix.
    passes: Mutex<Vec<(String, String)>>,
    /// Further addresses of files, by digest.
    offers: Mutex<BTreeMap<[u8; 32], Vec<String>>>,
}

/// A request for a small document.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// The address.
    pub url: &'a str,
    /// The value of the `Accept` header.
    pub accept: &'a str,
    /// The value of the `Authorization` header, instead of the one for the address.
    pub pass: Option<&'a str>,
    /// The address of the server that named this one, if another server did.
    pub named_by: Option<&'a str>,
    /// The limit on its size.
    pub max_bytes: u64,
}

/// A server's response, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The challenges of its `WWW-Authenticate` headers, joined with commas.
    pub challenge: Option<String>,
    /// The origin (scheme, host and port) of the response, if a redirect changed it.
    pub elsewhere: Option<String>,
    /// The body.
    pub bytes: Vec<u8>,
}

/// A response that is being read.
pub(super) struct Body<'a> {
    /// The address, without credentials.
    pub(super) url: String,
    /// The offset of the next byte in the file: the start of the response, which may differ from the requested offset.
    pub(super) from: u64,
    /// The length of the whole file, if announced.
    pub(super) total: Option<u64>,
    source: Source<'a>,
}

enum Source<'a> {
    Net { net: &'a Net, stream: Box<Stream> },
    File { file: File, path: PathBuf },
}

/// A server's response, with its measured speed.
struct Stream {
    response: Response,
    patience: RetryPolicy,
    pace: SpeedMeter,
}

impl Transport {
    /// Returns a transport that has opened nothing yet.
    pub fn new(patience: RetryPolicy) -> Transport {
        Transport::with_reach(patience, Reach::Network)
    }

    /// Returns a transport that asks these servers alone.
    pub fn with_reach(patience: RetryPolicy, reach: Reach) -> Transport {
        Transport { patience, reach, net: OnceLock::new(), passes: Mutex::default(), offers: Mutex::default() }
    }

    /// Returns true if the transport asks no server.
    pub fn is_offline(&self) -> bool {
        self.reach == Reach::Files
    }

    /// Adds an address of a file, which downloads try first. Every file is verified by its digest, whatever its address.
    pub fn offer(&self, sha256: [u8; 32], url: String) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        let urls = offers.entry(sha256).or_default();
        if !urls.contains(&url) {
            urls.push(url);
        }
    }

    /// Returns the addresses that were added for a file.
    pub fn offers(&self, sha256: &[u8; 32]) -> Vec<String> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned().unwrap_or_default()
    }

    /// Returns the timeouts and retries of this transport.
    pub fn patience(&self) -> RetryPolicy {
        self.patience
    }

    /// Opens `url` at byte `from`; the response may start at another offset, see [`Body::from`].
    pub(super) fn open(&self, url: &str, from: u64, stop: &Stop) -> Result<Body<'_>, Error> {
        match local_path(url)? {
            Some(path) => open_file(url, path, from),
            None => self.open_net(url, from, stop),
        }
    }

    /// Sends `pass` as `Authorization` from now on, to addresses with this prefix. Redirects to other hosts do not carry it.
    pub fn show(&self, prefix: &str, pass: String) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.retain(|(other, _)| other != prefix);
        passes.push((prefix.to_owned(), pass));
    }

    /// Returns the `Authorization` header for an address.
    pub(super) fn pass(&self, url: &str) -> Option<String> {
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.iter().find(|(prefix, _)| url.starts_with(prefix)).map(|(_, pass)| pass.clone())
    }

    /// Requests a small document; retries transient errors and returns any other response.
    pub fn ask(&self, get: Get<'_>, cancel: &AtomicBool) -> Result<Answer, Error> {
        let stop = Stop::new(cancel);
        let mut attempts = Attempts::new(self.patience, 0);
        loop {
            match self.ask_once(get, &stop) {
                Ok(answer) => return Ok(answer),
                Err(err) => attempts.again(err, 0, &stop)?,
            }
        }
    }

    fn ask_once(&self, get: Get<'_>, stop: &Stop) -> Result<Answer, Error> {
        let Get { url, accept, pass, named_by, max_bytes } = get;
        let net = self.net(url)?;
        let mut asked = Asked { named_by, pass: pass.map(str::to_owned).or_else(|| self.pass(url)), ..Asked::new(Method::GET, url) };
        asked.add(ACCEPT, accept);
        let until = Instant::now() + self.patience.document;
        let mut response = net.send(&asked, self.patience.answer, stop)?;
        let (status, challenge) = (response.status().as_u16(), challenges(&response));
        let elsewhere = other_origin(url, &response);
        let again = Error::Status { url: shown(url), status, wait: retry_after(response.headers()) };
        if again.is_transient() {
            return Err(again);
        }
        let mut bytes = Vec::new();
        let mut pace = SpeedMeter::new(self.patience);
        loop {
            let began = Instant::now();
            let piece = net.wait(stop, url, until.saturating_duration_since(began), response.chunk())?;
            let Some(piece) = piece.map_err(|err| net.explain(err, url, self.patience))? else { break };
            pace.arrived(piece.len(), began.elapsed()).map_err(|(bytes, time)| Error::Slow { url: shown(url), bytes, time })?;
            bytes.extend_from_slice(&piece);
            // `wait` looks at the time only while no piece is there.
            if Instant::now() > until {
                return Err(Error::Slow { url: shown(url), bytes: bytes.len() as u64, time: self.patience.document });
            }
            if bytes.len() as u64 > max_bytes {
                return Err(Error::WrongSize { url: shown(url), expected: Size::AtMost(max_bytes), got: bytes.len() as u64 });
            }
        }
        Ok(Answer { status, challenge, elsewhere, bytes })
    }

    /// Returns the client for a request to this address, and starts it for the first one.
    pub(super) fn net(&self, url: &str) -> Result<&Net, Error> {
        if self.is_offline() {
            return Err(Error::Offline { url: shown(url) });
        }
        match self.net.get_or_init(|| start(self.patience)) {
            Ok(net) => Ok(net),
            Err(cause) => Err(Error::Client { cause: cause.clone() }),
        }
    }

    fn open_net(&self, url: &str, from: u64, stop: &Stop) -> Result<Body<'_>, Error> {
        let net = self.net(url)?;
        let mut asked = Asked { pass: self.pass(url), ..Asked::new(Method::GET, url) };
        if from > 0 {
            asked.add(RANGE, &format!("bytes={from}-"));
        }
        let patience = self.patience;
        let response = net.send(&asked, patience.answer, stop)?;
        let (from, total) = place(&response, url, from)?;
        Ok(Body {
            url: shown(url),
            from,
            total,
            source: Source::Net { net, stream: Box::new(Stream { response, patience, pace: SpeedMeter::new(patience) }) },
        })
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(Ok(net)) = self.net.take() {
            net.shut_down();
        }
    }
}

impl Body<'_> {
    /// Returns the next piece, or None at the end of the answer.
    pub(super) fn next(&mut self, stop: &Stop) -> Result<Option<Vec<u8>>, Error> {
        stop.check()?;
        match &mut self.source {
            Source::Net { net, stream } => {
                let Stream { response, patience, pace } = &mut **stream;
                let began = Instant::now();
                // The client has its own timeout for the next bytes.
                match net.wait(stop, &self.url, patience.idle.saturating_mul(2), response.chunk())? {
                    Ok(Some(piece)) => match pace.arrived(piece.len(), began.elapsed()) {
                        Ok(()) => Ok(Some(piece.into())),
                        Err((bytes, time)) => Err(Error::Slow { url: self.url.clone(), bytes, time }),
                    },
                    Ok(None) => Ok(None),
                    Err(err) if is_timeout(&err) => Err(Error::Stalled { url: self.url.clone(), idle: patience.idle }),
                    Err(err) => Err(Error::Broken { url: self.url.clone(), cause: innermost(&err) }),
                }
            }
            Source::File { file, path } => {
                let mut piece = vec![0; FILE_CHUNK_BYTES];
                let len = file.read(&mut piece).map_err(|err| Error::io("read", path, err))?;
                piece.truncate(len);
                Ok((len > 0).then_some(piece))
            }
        }
    }
}

/// Returns the origin of a response, if a redirect changed it.
pub(super) fn other_origin(url: &str, response: &Response) -> Option<String> {
    let is_asked = Url::parse(url).is_ok_and(|asked| asked.origin() == response.url().origin());
    (!is_asked).then(|| response.url().origin().ascii_serialization())
}

/// Returns the response's offset in the file and the length of the whole file.
fn place(response: &Response, url: &str, from: u64) -> Result<(u64, Option<u64>), Error> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::OK => Ok((0, response.content_length())),
        StatusCode::PARTIAL_CONTENT if from > 0 => {
            let range = header(CONTENT_RANGE).unwrap_or_default();
            match content_range(range) {
                Some((first, total)) if first == from => Ok((from, total)),
                _ => Err(Error::Range {
                    url: shown(url),
                    from,
                    got: if range.is_empty() { "no range".to_owned() } else { range.to_owned() },
                }),
            }
        }
        status => Err(Error::Status { url: shown(url), status: status.as_u16(), wait: retry_after(response.headers()) }),
    }
}

/// Parses `bytes FIRST-LAST/TOTAL`, where TOTAL may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse::<u64>().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

fn open_file<'a>(url: &str, path: PathBuf, from: u64) -> Result<Body<'a>, Error> {
    let missing = || Error::Status { url: url.to_owned(), status: 404, wait: None };
    let read = |err: io::Error| match err.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(),
        _ => Error::Address { url: url.to_owned(), cause: err.to_string() },
    };
    // Checked before the open, since opening a named pipe would block.
    let facts = std::fs::metadata(&path).map_err(read)?;
    if !facts.is_file() {
        return Err(Error::Address { url: url.to_owned(), cause: "not a regular file".to_owned() });
    }
    let mut file = File::open(&path).map_err(read)?;
    let from = from.min(facts.len());
    file.seek(SeekFrom::Start(from)).map_err(|err| Error::io("read", &path, err))?;
    Ok(Body { url: url.to_owned(), from, total: Some(facts.len()), source: Source::File { file, path } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let table = [
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("bytes -1-9/10", None),
            ("", None),
        ];
        for (value, expect) in table {
            assert_eq!(content_range(value), expect, "{value}");
        }
    }
}
