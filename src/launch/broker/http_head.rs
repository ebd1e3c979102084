//! Parses the head of a plain HTTP request that a guest sends to the upstream proxy.
//!
//! A proxy needs the absolute URL and its credentials, so the broker parses the head and writes a new one. It refuses any deviation from
//! the grammar: request smuggling needs two parsers that disagree about the end of a request.

use std::fmt::Write;

use silo_base::grant::{Host, split_port};

/// The longest head; programs send a few hundred bytes, or a few thousand with large cookies.
pub const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most header lines; far above any real client.
const MAX_HEADERS: usize = 100;

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// Hop-by-hop headers, which are not forwarded. `Host` and `Connection` are written again.
const OWN: [&str; 9] =
    ["host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade", "transfer-encoding"];

/// A plain HTTP request to forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The method.
    method: String,
    /// Path and query.
    path: String,
    /// The header lines to forward, without line ends.
    headers: Vec<String>,
    /// Bytes of body that follow the head.
    pub body: u64,
}

/// Reasons to refuse a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an HTTP/1 head.
    #[error("not an HTTP/1 request")]
    Form,
    /// Longer than the limits.
    #[error("the request's head is longer than {MAX_HEAD_BYTES} bytes or has more than {MAX_HEADERS} lines")]
    Long,
    /// Names another host than the one connected to.
    #[error("the request's Host does not match the host connected to")]
    Target,
    /// Has a body without a length.
    #[error("a request with a body needs a Content-Length")]
    Length,
}

impl Error {
    /// Returns the HTTP status for the error.
    pub fn status(self) -> &'static str {
        match self {
            Error::Form | Error::Target => "400 Bad Request",
            Error::Long => "431 Request Header Fields Too Large",
            Error::Length => "411 Length Required",
        }
    }
}

/// Finds the end of the head in the bytes read so far; `None` if it is incomplete.
pub fn end_of_head(bytes: &[u8]) -> Result<Option<usize>, Error> {
    match bytes.windows(END.len()).position(|window| window == END) {
        Some(at) if at + END.len() <= MAX_HEAD_BYTES => Ok(Some(at + END.len())),
        None if bytes.len() < MAX_HEAD_BYTES => Ok(None),
        _ => Err(Error::Long),
    }
}

/// Returns true if the first bytes of a connection begin an HTTP/1 request, and false if they cannot; `None` if they are too few.
pub fn is_start(bytes: &[u8]) -> Option<bool> {
    /// Longer than any method.
    const MAX_METHOD_BYTES: usize = 32;
    let length = bytes.iter().position(|byte| !byte.is_ascii_uppercase()).unwrap_or(bytes.len());
    match bytes.get(length) {
        // The preface of HTTP/2 without TLS.
        Some(b' ') => Some(length > 0 && &bytes[..length] != b"PRI"),
        Some(_) => Some(false),
        None if length > MAX_METHOD_BYTES => Some(false),
        None => None,
    }
}

/// Parses the whole head of a request to a host.
pub fn parse(head: &[u8], host: &Host, port: u16) -> Result<Exchange, Error> {
    let text = std::str::from_utf8(head).map_err(|_| Error::Form)?;
    // Refuses control characters: parsers disagree about which of them end a line.
    if text.replace("\r\n", "").chars().any(|c| c.is_control() && c != '\t') {
        return Err(Error::Form);
    }
    let mut lines = text.strip_suffix("\r\n\r\n").ok_or(Error::Form)?.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, "HTTP/1.1" | "HTTP/1.0"] = line[..] else { return Err(Error::Form) };
    if method.is_empty() || !method.bytes().all(is_token) || !path.starts_with('/') {
        return Err(Error::Form);
    }
    let headers: Vec<(&str, &str)> = lines.map(header).collect::<Option<_>>().ok_or(Error::Form)?;
    if headers.len() > MAX_HEADERS {
        return Err(Error::Long);
    }
    let named = |value: &str| authority(value).is_some_and(|(named, at)| named == *host && at.unwrap_or(80) == port);
    if !headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).all(|(_, value)| named(value)) {
        return Err(Error::Target);
    }
    let passed = headers.iter().filter(|(name, _)| !OWN.contains(&name.to_ascii_lowercase().as_str()));
    Ok(Exchange {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: passed.map(|(name, value)| format!("{name}: {value}")).collect(),
        body: length(&headers)?,
    })
}

impl Exchange {
    /// Returns the head to send to a proxy.
    pub fn for_proxy(&self, host: &Host, port: u16, authorization: Option<&str>) -> String {
        self.head(&format!("http://{}{}", at(host, port), self.path), host, port, authorization)
    }

    fn head(&self, target: &str, host: &Host, port: u16, authorization: Option<&str>) -> String {
        // One exchange a connection: a second request on it could name another host.
        let mut head = format!("{} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.method, at(host, port));
        for line in &self.headers {
            let _ = write!(head, "{line}\r\n");
        }
        if let Some(authorization) = authorization {
            let _ = write!(head, "Proxy-Authorization: {authorization}\r\n");
        }
        head + "\r\n"
    }
}

fn at(host: &Host, port: u16) -> String {
    if port == 80 { host.as_str().to_owned() } else { format!("{}:{port}", host.as_str()) }
}

fn authority(text: &str) -> Option<(Host, Option<u16>)> {
    let (host, port) = split_port(text)?;
    Some((Host::parse(host)?, port))
}

fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    (!name.is_empty() && name.bytes().all(is_token)).then(|| (name, value.trim_matches([' ', '\t'])))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the length of the body; chunked bodies are refused.
fn length(headers: &[(&str, &str)]) -> Result<u64, Error> {
    let all = |wanted: &'static str| headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value);
    if all("transfer-encoding").next().is_some() {
        return Err(Error::Length);
    }
    let mut length = None;
    for value in all("content-length") {
        let number = value.parse::<u64>().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit())).ok_or(Error::Form)?;
        if length.is_some_and(|before| before != number) {
            return Err(Error::Form);
        }
        length = Some(number);
    }
    Ok(length.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Exchange, Error> {
        parse(head.as_bytes(), &Host::parse("a.example").expect("a host"), 81)
    }

    fn refused(head: &str) -> Error {
        read(head).expect_err(head)
    }

    #[test]
    fn a_request_is_rewritten_for_the_proxy() {
        let head = "POST /?q=1 HTTP/1.1\r\nHost: A.example:81\r\nX: y\r\nProxy-Authorization: z\r\nContent-Length: 3\r\n\r\n";
        let exchange = read(head).expect("an exchange");
        assert_eq!(exchange.body, 3);
        let written = exchange.for_proxy(&Host::parse("a.example").expect("a host"), 81, Some("Basic eA=="));
        let expect = "POST http://a.example:81/?q=1 HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\nX: y\r\n\
                      Content-Length: 3\r\nProxy-Authorization: Basic eA==\r\n\r\n";
        assert_eq!(written, expect);
    }

    #[test]
    fn the_start_of_a_request_is_told_from_other_protocols() {
        for (bytes, expect) in [
            (&b""[..], None),
            (b"GET", None),
            (b"GET /x HTTP/1.1", Some(true)),
            (b"M-SEARCH * HTTP/1.1", Some(false)),
            (b"PRI * HTTP/2.0", Some(false)),
            (b"SSH-2.0-x", Some(false)),
            (b" GET", Some(false)),
            (b"\x16\x03\x01", Some(false)),
            (&[b'A'; 33], Some(false)),
        ] {
            assert_eq!(is_start(bytes), expect, "{bytes:?}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        for head in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "CONNECT a.example:81 HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET / HTTP/1.1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        ] {
            assert_eq!(refused(head), Error::Form, "{head:?}");
        }
        for head in [
            "GET / HTTP/1.1\r\nHost: b.example:81\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example:81\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: u@a.example:81\r\n\r\n",
        ] {
            assert_eq!(refused(head), Error::Target, "{head:?}");
        }
        assert_eq!(refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Error::Length);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101))), Error::Long);
        assert_eq!(end_of_head(&[b'a'; MAX_HEAD_BYTES]), Err(Error::Long));
        assert_eq!(end_of_head(b"a\r\n\r\nb"), Ok(Some(5)));
        assert_eq!(end_of_head(b"a\r\n\r"), Ok(None));
    }
}
