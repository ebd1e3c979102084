//! The list of the responses that a build step got: each with its request, and the digest of its body.
//!
//! The list is text: JSON, a line for each response, sorted by request; responses to the same request are in their order. A list may come
//! from anywhere, so a reader checks every field and bounds every number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use silo_base::grant::{Host, split_port};
use silo_store::digest::Digest;

/// Largest list.
pub const MAX_BYTES: usize = 32 << 20;
/// Most responses in a list; an install of a large npm application has about two thousand.
pub const MAX_RESPONSES: usize = 20_000;
/// Most bytes of one body, and of all bodies.
pub const MAX_BODY_BYTES: u64 = 16 << 30;
/// Longest URL.
pub const MAX_URL_BYTES: usize = 16 << 10;
/// Most bytes of the headers of one response.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most settings.
const MAX_SETTINGS: usize = 32;
/// The version of the format.
const VERSION: u32 = 1;

/// Headers of a request that change its response. No other header of a request is stored.
pub const ASKED: [&str; 6] = ["accept", "accept-encoding", "if-modified-since", "if-none-match", "range", "git-protocol"];

/// Headers of a response that are not stored: credentials, and those of one connection.
const DROPPED: [&str; 14] = [
    "set-cookie",
    "set-cookie2",
    "authorization",
    "authentication-info",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "alt-svc",
];

/// True if a header of a response is stored.
pub fn is_stored(header: &str) -> bool {
    !DROPPED.contains(&header)
}

/// Returns the name of a place.
pub fn place(host: &Host, port: u16) -> String {
    format!("{}:{port}", host.as_str())
}

/// A request, as far as it determines the response.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// The headers of [`ASKED`], by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The digest of its body, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl Request {
    /// Returns the host and port of the address.
    pub fn place(&self) -> Option<(Host, u16)> {
        let (usual, rest) = match self.url.split_once("://")? {
            ("https", rest) => (443, rest),
            ("http", rest) => (80, rest),
            _ => return None,
        };
        let (host, port) = split_port(rest.split(['/', '?', '#']).next()?)?;
        Some((Host::parse(host)?, port.unwrap_or(usual)))
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Its request.
    pub request: Request,
    /// The status.
    pub status: u16,
    /// True if it came by HTTP/2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub http2: bool,
    /// The headers; each character is one byte.
    pub headers: Vec<(String, String)>,
    /// The SHA-256 of the body, as sent.
    pub sha256: String,
    /// The bytes of the body.
    pub size: u64,
}

impl Response {
    /// Returns the digest of the body.
    pub fn digest(&self) -> Result<Digest, Error> {
        Digest::parse(&self.sha256).map_err(|_| Error("a body has no sha-256".to_owned()))
    }
}

/// A place with connections that are not recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unrecorded {
    /// The host and port.
    pub place: String,
    /// The reason.
    pub why: String,
}

/// All responses of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The responses.
    pub responses: Vec<Response>,
    /// The places that the record lacks.
    pub unrecorded: Vec<Unrecorded>,
    /// The settings of package clients that name registries, as variables with their values.
    pub settings: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    #[serde(default)]
    unrecorded: Vec<Unrecorded>,
    #[serde(default)]
    settings: Vec<(String, String)>,
}

/// The error of a list that is malformed or too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Record {
    /// Returns the sum of the bodies' bytes.
    pub fn bytes(&self) -> u64 {
        self.responses.iter().map(|response| response.size).sum()
    }

    /// Writes the list. The order of different requests makes no difference.
    pub fn write(&mut self) -> Result<Vec<u8>, Error> {
        self.responses.sort_by(|one, other| one.request.cmp(&other.request));
        self.unrecorded.sort();
        self.unrecorded.dedup();
        let line = |value: serde_json::Result<String>| value.map_err(|error| Error(error.to_string()));
        let (unrecorded, settings) = (self.unrecorded.clone(), self.settings.clone());
        let mut text = line(serde_json::to_string(&Head { version: VERSION, unrecorded, settings }))?;
        text.push('\n');
        for response in &self.responses {
            text.push_str(&line(serde_json::to_string(response))?);
            text.push('\n');
        }
        // A list that nobody could read is never stored.
        read(text.as_bytes())?;
        Ok(text.into_bytes())
    }
}

/// Reads a list, and checks every field.
pub fn read(bytes: &[u8]) -> Result<Record, Error> {
    let wrong = |fault: &str| Error(fault.to_owned());
    if bytes.len() > MAX_BYTES {
        return Err(Error(format!("it has more than {MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is no text"))?;
    let mut lines = text.lines();
    let head: Head = parse(lines.next().unwrap_or_default(), 1)?;
    if head.version != VERSION {
        return Err(Error(format!("version {} is not supported, this silo reads version {VERSION}", head.version)));
    }
    let is_place = |place: &str| split_port(place).is_some_and(|(host, port)| Host::parse(host).is_some() && port.is_some());
    if head.unrecorded.len() > MAX_RESPONSES || !head.unrecorded.iter().all(|one| is_place(&one.place) && is_text(&one.why)) {
        return Err(wrong("line 1: an unrecorded place is no host and port"));
    }
    if head.settings.len() > MAX_SETTINGS || !head.settings.iter().all(|(name, value)| is_text(name) && is_text(value)) {
        return Err(wrong("line 1: a setting is not valid"));
    }
    let mut record = Record { responses: Vec::new(), unrecorded: head.unrecorded, settings: head.settings };
    let mut bytes = 0_u64;
    for (at, line) in lines.enumerate() {
        if at >= MAX_RESPONSES {
            return Err(Error(format!("it has more than {MAX_RESPONSES} responses")));
        }
        let response: Response = parse(line, at + 2)?;
        check(&response).map_err(|fault| Error(format!("line {}: {fault}", at + 2)))?;
        bytes = bytes.saturating_add(response.size);
        record.responses.push(response);
    }
    if bytes > MAX_BODY_BYTES {
        return Err(Error(format!("its bodies have more than {MAX_BODY_BYTES} bytes")));
    }
    Ok(record)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str, number: usize) -> Result<T, Error> {
    serde_json::from_str(line).map_err(|error| Error(format!("line {number}: {error}")))
}

/// True for a text without control characters.
fn is_text(text: &str) -> bool {
    text.len() <= MAX_URL_BYTES && !text.chars().any(char::is_control)
}

/// Checks one response; returns the fault.
fn check(response: &Response) -> Result<(), &'static str> {
    let Response { request, status, headers, sha256, size, .. } = response;
    let is_method =
        !request.method.is_empty() && request.method.len() <= 32 && request.method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_method {
        return Err("the method is not valid");
    }
    let is_url = is_text(&request.url) && request.url.is_ascii() && !request.url.contains(' ') && request.place().is_some();
    if !is_url {
        return Err("the address is not valid");
    }
    if !request.headers.iter().all(|(name, value)| ASKED.contains(&name.as_str()) && is_header(value)) {
        return Err("a header of the request is not valid");
    }
    if request.body.as_ref().is_some_and(|body| Digest::parse(body).is_err()) {
        return Err("the body of the request has no sha-256");
    }
    if !(200..600).contains(status) {
        return Err("the status is not valid");
    }
    let is_name = |name: &str| {
        let is_token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !name.is_empty() && name.bytes().all(is_token)
    };
    if !headers.iter().all(|(name, value)| is_name(name) && is_stored(name) && is_header(value)) {
        return Err("a header of the response is not valid");
    }
    let has_no_body = request.method == "HEAD" || [204, 304].contains(status);
    let is_length = |value: &str| value.parse::<u64>().is_ok_and(|length| length == *size || has_no_body);
    if !headers.iter().filter(|(name, _)| name == "content-length").all(|(_, value)| is_length(value)) || has_no_body && *size > 0 {
        return Err("the size of the body is not the length that the headers name");
    }
    if headers.iter().map(|(name, value)| name.len() + value.chars().count()).sum::<usize>() > MAX_HEADER_BYTES {
        return Err("the headers of the response are too large");
    }
    if Digest::parse(sha256).is_err() || *size > MAX_BODY_BYTES {
        return Err("the body has no sha-256 and size");
    }
    Ok(())
}

/// True for the value of a header: its characters are bytes.
fn is_header(value: &str) -> bool {
    value.len() <= MAX_HEADER_BYTES
        && value.chars().all(|letter| letter == '\t' || (' '..='\u{ff}').contains(&letter) && letter != '\u{7f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let response = |method: &str, url: &str, status: u16, body: &str| Response {
            request: Request { method: method.into(), url: url.into(), headers: BTreeMap::new(), body: None },
            status,
            http2: false,
            headers: vec![("content-type".into(), "text/plain".into()), ("x".into(), "é\u{ff}".into())],
            sha256: Digest::of(body.as_bytes()).to_string(),
            size: body.len() as u64,
        };
        let mut ranged = response("GET", "https://a.example/x?q=1", 206, "part");
        ranged.request.headers.insert("range".into(), "bytes=0-3".into());
        ranged.http2 = true;
        let mut posted = response("POST", "http://b.example:8080/x", 200, "");
        posted.request.body = Some(Digest::of(b"asked").to_string());
        let first = response("GET", "https://a.example/x?q=1", 302, "one");
        let second = response("GET", "https://a.example/x?q=1", 200, "two");
        Record {
            responses: vec![posted, first, ranged, second],
            unrecorded: vec![Unrecorded { place: "git.example:22".into(), why: "not HTTP".into() }],
            settings: vec![("PIP_INDEX_URL".into(), "https://a.example/simple".into())],
        }
    }

    #[test]
    fn a_written_list_is_read_back_in_order() {
        let mut record = sample();
        let text = record.write().expect("it is valid");
        let read = read(&text).expect("own text");
        assert_eq!(read, record);
        let told: Vec<(&str, u16)> = read.responses.iter().map(|one| (one.request.method.as_str(), one.status)).collect();
        assert_eq!(told, [("GET", 302), ("GET", 200), ("GET", 206), ("POST", 200)]);
        assert_eq!(read.responses[3].request.place(), Some((Host::parse("b.example").expect("a host"), 8080)));
        assert_eq!(read.bytes(), 10);
    }

    #[test]
    fn wrong_lists_are_refused() {
        let good = String::from_utf8(sample().write().expect("valid")).expect("text");
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("git.example:22", "git.example"),
            ("\"GET\"", "\"get\""),
            ("https://a.example/x", "file:///etc/passwd"),
            ("https://a.example/x", "https://a.example/ x"),
            ("\"status\":206", "\"status\":101"),
            ("\"status\":206", "\"status\":70000"),
            ("\"range\"", "\"authorization\""),
            ("\"content-type\"", "\"set-cookie\""),
            ("\"content-type\"", "\"Content-Type\""),
            ("text/plain", "text\\r\\nx: y"),
            ("\"content-type\",\"text/plain\"", "\"content-length\",\"5000\""),
            ("\"size\":4", "\"size\":99999999999999"),
            ("\"size\":4", "\"size\":-1"),
            ("\"sha256\":\"", "\"sha256\":\"z"),
            ("\"size\":4", "\"size\":4,\"more\":1"),
        ] {
            assert!(good.contains(from), "{from}");
            let changed = good.replacen(from, to, 1);
            assert!(read(changed.as_bytes()).is_err(), "{from} {to}");
        }
        let line = good.lines().nth(1).expect("a response");
        let many = format!("{{\"version\":1}}\n{}", format!("{line}\n").repeat(MAX_RESPONSES + 1));
        assert!(read(many.as_bytes()).is_err());
    }

    #[test]
    fn changed_lists_are_refused_or_read_the_same() {
        let good = sample().write().expect("valid");
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap_or(0) % below
        };
        let mut read_again = 0;
        for _ in 0..4000 {
            let mut bytes = good.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = u8::try_from(random(256)).unwrap_or(0),
                    1 => drop(bytes.remove(at)),
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"0\"{},[]:\n\\"[random(10)]),
                }
            }
            // An accepted list is valid, and stays the same.
            if let Ok(mut record) = read(&bytes) {
                let text = record.write().expect("an accepted list can be written");
                assert_eq!(read(&text).as_ref(), Ok(&record));
                read_again += 1;
            }
        }
        assert!(read_again > 50, "{read_again}");
    }
}
