//! The faults of a hostile server: each makes an answer from the honest one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Part, Reply};
use crate::support::numbers::Numbers;

/// An honest answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Honest {
    /// The status.
    pub status: u16,
    /// The media type.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Honest {
    /// Returns the answer on the wire.
    pub fn reply(&self, from: Option<usize>) -> Reply {
        let kind = format!("Content-Type: {}\r\n", self.kind);
        match from.filter(|from| self.status == 200 && *from < self.body.len()) {
            Some(from) => {
                let range = format!("{kind}Content-Range: bytes {from}-{}/{}\r\n", self.body.len() - 1, self.body.len());
                Reply::whole(206, &range, &self.body[from..])
            }
            None => Reply::whole(self.status, &kind, &self.body),
        }
    }
}

/// A request that is answered wrongly.
pub struct Case<'a> {
    /// The honest answer.
    pub honest: &'a Honest,
    /// The target of the request.
    pub target: &'a str,
    /// Honest answers to other requests.
    pub others: &'a BTreeMap<String, Honest>,
    /// Answers of an older image, which the same key signed.
    pub old: &'a BTreeMap<String, Honest>,
    /// The server's host and port.
    pub host: &'a str,
    /// A server that answers the same requests honestly.
    pub elsewhere: &'a str,
    /// The number of this variant of the fault.
    pub variant: usize,
    /// Numbers for this variant.
    pub numbers: Numbers,
}

/// The weight of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A small answer.
    Light,
    /// Megabytes.
    Heavy,
    /// A silent server, which costs the client its patience.
    Silent,
}

/// A kind of fault.
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// Number of variants.
    pub variants: usize,
    /// Its weight.
    pub weight: Weight,
    /// Makes the answer.
    pub make: fn(&mut Case<'_>) -> Reply,
}

const fn light(name: &'static str, variants: usize, make: fn(&mut Case<'_>) -> Reply) -> Fault {
    Fault { name, variants, weight: Weight::Light, make }
}

/// All faults.
pub const FAULTS: &[Fault] = &[
    light("bits are flipped", 10, flipped),
    light("bytes are replaced", 2, scrambled),
    light("the connection ends in the body", 4, cut),
    light("the body is short", 4, short),
    light("the body is long", 2, long),
    light("the answer is that of another request", 10, swapped),
    light("the answer is an older one", 6, replayed),
    light("values of the document are changed", 24, mutated),
    light("the status is another one", STATUSES.len(), status),
    light("a login is demanded", CHALLENGES.len(), challenge),
    light("the server is busy", BUSY.len(), busy),
    light("the request is redirected", 16, redirected),
    light("the headers are wrong", 18, headers),
    light("the document is another one", 22, document),
    light("the protocol is another one", 12, protocol),
    Fault { name: "the head has no end", variants: 4, weight: Weight::Heavy, make: head },
    Fault { name: "the body has no end", variants: 8, weight: Weight::Heavy, make: body },
    Fault { name: "the document is a bomb", variants: 14, weight: Weight::Heavy, make: bomb },
    Fault { name: "the server is silent", variants: 7, weight: Weight::Silent, make: silent },
];

fn with_body(case: &Case<'_>, body: &[u8]) -> Reply {
    Reply::whole(200, &format!("Content-Type: {}\r\n", case.honest.kind), body)
}

fn flipped(case: &mut Case<'_>) -> Reply {
    let mut body = case.honest.body.clone();
    let count = if case.variant.is_multiple_of(2) { 1 } else { 1 + case.numbers.next(9) };
    for _ in 0..count.min(body.len()) {
        let at = case.numbers.next(body.len());
        body[at] ^= 1 << case.numbers.next(8);
    }
    with_body(case, &body)
}

fn scrambled(case: &mut Case<'_>) -> Reply {
    let body: Vec<u8> = case.honest.body.iter().map(|_| case.numbers.next(256) as u8).collect();
    with_body(case, &body)
}

fn cut(case: &mut Case<'_>) -> Reply {
    let body = &case.honest.body;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let end = case.numbers.next(body.len().max(1));
    Reply::last([head.as_bytes(), &body[..end]].concat())
}

fn short(case: &mut Case<'_>) -> Reply {
    let end = if case.variant == 0 { 0 } else { case.numbers.next(case.honest.body.len().max(1)) };
    with_body(case, &case.honest.body[..end])
}

fn long(case: &mut Case<'_>) -> Reply {
    let more = if case.variant == 0 { b" ".to_vec() } else { vec![b'x'; 1 + case.numbers.next(1000)] };
    with_body(case, &[&case.honest.body[..], &more].concat())
}

fn one<'a>(numbers: &mut Numbers, of: &'a BTreeMap<String, Honest>) -> &'a Honest {
    of.values().nth(numbers.next(of.len())).expect("there are some")
}

fn swapped(case: &mut Case<'_>) -> Reply {
    one(&mut case.numbers, case.others).reply(None)
}

fn replayed(case: &mut Case<'_>) -> Reply {
    one(&mut case.numbers, case.old).reply(None)
}

fn mutated(case: &mut Case<'_>) -> Reply {
    match serde_json::from_slice::<Value>(&case.honest.body) {
        Ok(mut value) => {
            for _ in 0..1 + case.variant % 3 {
                mutate(&mut value, case);
            }
            with_body(case, value.to_string().as_bytes())
        }
        Err(_) => flipped(case),
    }
}

/// Counts the values of a document.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

fn mutate(value: &mut Value, case: &mut Case<'_>) {
    let mut at = case.numbers.next(count(value));
    change(value, &mut at, case);
}

/// Changes the value at this position, counted from the top; returns true if it did.
fn change(value: &mut Value, at: &mut usize, case: &mut Case<'_>) -> bool {
    if *at == 0 {
        *value = changed(value, case);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| change(value, at, case)),
        Value::Object(map) => map.values_mut().any(|value| change(value, at, case)),
        _ => false,
    }
}

fn changed(value: &Value, case: &mut Case<'_>) -> Value {
    let pick = case.numbers.next(8);
    match (value, pick) {
        (_, 0) => Value::Null,
        (Value::Number(number), pick) => {
            let own = number.as_u64().unwrap_or(0);
            [
                json!(0),
                json!(-1),
                json!(own.wrapping_add(1)),
                json!(own.wrapping_sub(1)),
                json!(u64::MAX),
                json!(1e300),
                json!(own.to_string()),
            ][pick - 1]
                .clone()
        }
        (Value::String(_), 1 | 2) => {
            let bytes = &one(&mut case.numbers, case.others).body;
            json!(format!("sha256:{}", silo_store::digest::Digest::of(bytes)))
        }
        (Value::String(text), 3) => json!(text.chars().rev().collect::<String>()),
        (Value::String(text), 4) => json!(format!("{text}x")),
        (Value::String(_), 5) => json!("../../../../etc/passwd"),
        (Value::String(_), 6) => json!("\u{1b}[2J\u{202e}\0\n".repeat(500)),
        (Value::String(_), _) => json!(""),
        (Value::Array(list), 1) => json!(list.iter().rev().collect::<Vec<_>>()),
        (Value::Array(list), 2 | 3) => json!([&list[..], &list[..]].concat()),
        (Value::Array(list), 4) => json!(list.iter().skip(1).collect::<Vec<_>>()),
        (Value::Array(_), _) => json!([]),
        (Value::Object(map), 1..=4) => {
            let mut map = map.clone();
            if let Some(key) = map.keys().nth(case.numbers.next(map.len().max(1))).cloned() {
                let gone = map.remove(&key);
                if pick > 2 {
                    map.insert(format!("{key}x"), gone.unwrap_or_default());
                }
            }
            Value::Object(map)
        }
        (Value::Object(map), 5) => {
            let mut map = map.clone();
            map.insert("x".repeat(3000), json!(1));
            Value::Object(map)
        }
        (Value::Object(_), _) => json!({}),
        (Value::Null | Value::Bool(_), _) => json!([[]]),
    }
}

const STATUSES: &[u16] = &[201, 202, 204, 206, 300, 301, 304, 305, 400, 401, 403, 404, 405, 410, 416, 418, 451, 500, 502, 507, 599, 999];

fn status(case: &mut Case<'_>) -> Reply {
    let status = STATUSES[case.variant];
    let error = json!({ "errors": [{ "message": "\u{1b}[31mno\u{202e}".repeat(1 + case.variant % 2 * 4000) }] }).to_string();
    let body = if case.variant.is_multiple_of(3) { &case.honest.body[..] } else { error.as_bytes() };
    Reply::whole(status, "", body)
}

const CHALLENGES: &[&str] = &[
    "Basic realm=\"x\"",
    "Bearer realm=\"http://HOST/token\",service=\"x\",scope=\"repository:team/silo:pull\"",
    "Bearer realm=\"http://HOST/token\",scope=\"repository:other:pull,push,delete\r\n\tx\"",
    "Bearer realm=\"file:///etc/passwd\"",
    "Bearer realm=\"http://169.254.169.254/latest\"",
    "Bearer realm=\"https://10.0.0.1/token\"",
    "Bearer realm=\"HTTP://example.com/token\"",
    "Bearer",
    "Negotiate",
    "Bearer realm=\"unterminated",
    "=,=,=\"\\",
    "Digest qop=\"auth\", realm=a, realm=b",
];

fn challenge(case: &mut Case<'_>) -> Reply {
    let challenge = CHALLENGES[case.variant].replace("HOST", case.host);
    Reply::whole(401, &format!("WWW-Authenticate: {challenge}\r\n"), b"{}")
}

const BUSY: &[(u16, &str)] = &[
    (429, "0"),
    (503, "0"),
    (429, "61"),
    (503, "99999999999999999999"),
    (429, "-1"),
    (503, "Thu, 01 Jan 2099 00:00:00 GMT"),
    (408, "x"),
    (504, ""),
];

fn busy(case: &mut Case<'_>) -> Reply {
    let (status, wait) = BUSY[case.variant];
    Reply::whole(status, &format!("Retry-After: {wait}\r\n"), &case.honest.body)
}

fn redirected(case: &mut Case<'_>) -> Reply {
    let (host, target) = (case.host, case.target);
    let to = match case.variant {
        0 => format!("http://{host}{target}"),
        1 => target.to_owned(),
        2 => format!("http://{host}{target}?{}", case.numbers.next(1 << 30)),
        3 => format!("http://{}{target}", case.elsewhere),
        4 => format!("http://{}/nothing", case.elsewhere),
        5 => "http://127.0.0.1:1/x".to_owned(),
        6 => format!("https://{host}{target}"),
        7 => "file:///etc/passwd".to_owned(),
        8 => "ftp://127.0.0.1/x".to_owned(),
        9 => "data:text/plain,x".to_owned(),
        10 => "//".to_owned(),
        11 => "http://[::1".to_owned(),
        12 => format!("http://{}/{}", case.elsewhere, "x".repeat(60_000)),
        13 => format!("http://user:password@{}{target}", case.elsewhere),
        14 => "http://127.0.0.1:1/\u{1b}[2J".to_owned(),
        _ => String::new(),
    };
    let status = [301, 302, 303, 307, 308][case.variant % 5];
    Reply::whole(status, &format!("Location: {to}\r\n"), b"")
}

fn headers(case: &mut Case<'_>) -> Reply {
    let body = &case.honest.body;
    let length = body.len();
    let other = silo_store::digest::Digest::of(b"other");
    let lines = match case.variant {
        0 => format!("Content-Length: {}\r\n", length / 2),
        1 => format!("Content-Length: {}\r\n", length + 1000),
        2 => "Content-Length: -1\r\n".to_owned(),
        3 => "Content-Length: 18446744073709551616\r\n".to_owned(),
        4 => format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + 1),
        5 => format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        6 => "Transfer-Encoding: gzip\r\n".to_owned(),
        7 => format!("Content-Length: {length}\r\nContent-Encoding: gzip\r\n"),
        8 => format!("Content-Length: {length}\r\nContent-Encoding: zstd\r\n"),
        9 => format!("Content-Length: {length}\r\nDocker-Content-Digest: sha256:{other}\r\n"),
        10 => format!("Content-Length: {length}\r\nContent-Type: text/html\r\n"),
        11 => format!("Content-Length: {length}\r\nContent-Type: \u{fffd}\u{1}\r\n"),
        12 => format!("Content-Length: {length}\r\nLink: <http://{}{}>; rel=\"next\"\r\n", case.host, case.target),
        13 => format!("Content-Length: {length}\r\nOCI-Subject: sha256:{other}\r\nOCI-Filters-Applied: artifactType\r\n"),
        14 => format!("Content-Length: {length}\r\nContent-Range: bytes 7-{length}/{length}\r\n"),
        15 => format!("Content-Length: {length}\r\nConnection: close, keep-alive, upgrade\r\nUpgrade: h2c\r\n"),
        16 => format!("Content-Length: {length}\r\nRange: 0-{}\r\nOCI-Chunk-Min-Length: {}\r\n", u64::MAX, u64::MAX),
        _ => "no header\r\n\r\n".to_owned(),
    };
    Reply::last([b"HTTP/1.1 200 OK\r\n", lines.as_bytes(), b"\r\n", body].concat())
}

fn document(case: &mut Case<'_>) -> Reply {
    let digest = format!("sha256:{}", silo_store::digest::Digest::of(&case.honest.body));
    let entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1 });
    let index = |entries: Value| json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes();
    let of = |platform: Value| {
        let mut entry = entry.clone();
        entry["platform"] = platform;
        entry
    };
    let arch = silo_base::system::Arch::host().name();
    let body: Vec<u8> = match case.variant {
        0 => b"".to_vec(),
        1 => b"null".to_vec(),
        2 => b"[]".to_vec(),
        3 => b"{}".to_vec(),
        4 => b"\"\\ud800\"".to_vec(),
        5 => b"{\"schemaVersion\":2,\"schemaVersion\":2}".to_vec(),
        6 => b"{\"schemaVersion\":2}\0".to_vec(),
        7 => [b"\xef\xbb\xbf", &case.honest.body[..]].concat(),
        8 => b"{\"schemaVersion\":1e999}".to_vec(),
        9 => b"\xff\xfe{\x00}\x00".to_vec(),
        10 => index(json!([])),
        11 => index(json!([entry, entry])),
        // An index that names itself, or the document that would be here, for this platform.
        12 => index(json!([of(json!({ "architecture": arch, "os": "linux" }))])),
        13 => index(json!([of(json!({ "architecture": "riscv64", "os": "plan9" }))])),
        14 => index(json!([of(json!({ "architecture": "x".repeat(5000), "os": "linux" }))])),
        15 => index(json!(vec![of(json!({ "architecture": if arch == "amd64" { "arm64" } else { "amd64" }, "os": "linux" })); 900])),
        16 => json!({ "schemaVersion": 2, "config": entry, "layers": [entry] }).to_string().into_bytes(),
        17 => {
            let note = json!({ "vnd.silo.image.contents": digest });
            json!({ "schemaVersion": 2, "config": entry, "layers": [], "annotations": note }).to_string().into_bytes()
        }
        18 => {
            let note = json!({ "vnd.silo.image.contents": "\u{1b}[2J".repeat(100_000) });
            json!({ "schemaVersion": 2, "config": entry, "layers": [], "annotations": note }).to_string().into_bytes()
        }
        19 => format!("{{\"{}\":1,\"version\":1}}", "y".repeat(500_000)).into_bytes(),
        20 => format!("{{\"schemaVersion\":\"{}\"}}", "z".repeat(500_000)).into_bytes(),
        _ => b"<!DOCTYPE html><html><body>Please log in</body></html>".to_vec(),
    };
    with_body(case, &body)
}

fn protocol(case: &mut Case<'_>) -> Reply {
    let honest = case.honest.reply(None);
    match case.variant {
        0 => Reply::last(""),
        1 => Reply { parts: vec![Part::Reset], stays: false },
        2 => Reply::last("SSH-2.0-OpenSSH_9.9\r\n"),
        3 => Reply::last(case.honest.body.clone()),
        4 => Reply::last("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        5 => Reply::last([0x16, 3, 1, 0xff, 0xff, 1].repeat(100)),
        6 => Reply::last("HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"),
        7 => Reply::last("HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        8 => Reply::last("HTTP/1.1 0200 OK\r\n\r\n"),
        // A second answer, to a question that nobody asked.
        9 => Reply { parts: [honest.parts.clone(), Reply::whole(200, "", b"{}").parts].concat(), stays: true },
        10 => Reply { parts: [vec![Part::Repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec(), 50)], honest.parts].concat(), stays: true },
        _ => Reply::last("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx"),
    }
}

fn head(case: &mut Case<'_>) -> Reply {
    let parts = match case.variant {
        0 => vec![Part::Bytes(b"HTTP/1.1 200 ".to_vec()), Part::Repeat(vec![b'x'], 64 << 20)],
        1 => vec![Part::Bytes(b"HTTP/1.1 200 OK\r\nX: ".to_vec()), Part::Repeat(vec![b'x'], 64 << 20)],
        2 => vec![Part::Bytes(b"HTTP/1.1 200 OK\r\n".to_vec()), Part::Repeat(b"X: y\r\n".to_vec(), 10 << 20)],
        _ => vec![Part::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), 20_000), Part::Bytes(b"HTTP/1.1 404 X\r\n\r\n".to_vec())],
    };
    Reply { parts, stays: false }
}

fn body(case: &mut Case<'_>) -> Reply {
    let chunked = |piece: &[u8], times: u64| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        vec![Part::Bytes(head), Part::Repeat(chunk, times)]
    };
    let parts = match case.variant {
        0 => chunked(&vec![b' '; 64 << 10], 10_000),
        1 => chunked(b"[", 200_000),
        2 => vec![Part::Bytes(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Part::Repeat(vec![b' '; 1 << 10], 512 << 10)],
        3 => vec![
            Part::Bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX >> 1).into_bytes()),
            Part::Repeat(vec![0; 1 << 10], 512 << 10),
        ],
        4 => vec![
            Part::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec()),
            Part::Repeat(vec![b' '; 1 << 10], 512 << 10),
        ],
        5 => vec![
            Part::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;".to_vec()),
            Part::Repeat(vec![b'e'; 1 << 10], 64 << 10),
        ],
        6 => vec![
            Part::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n".to_vec()),
            Part::Repeat(b"T: railer\r\n".to_vec(), 6 << 20),
        ],
        _ => vec![Part::Bytes(b"HTTP/1.1 500 OK\r\n\r\n".to_vec()), Part::Repeat(b"{\"errors\":[{\"message\":\"".repeat(40), 512 << 10)],
    };
    Reply { parts, stays: false }
}

/// The number of bytes of a document that is just small enough to be read.
const FITTING: usize = (4 << 20) - 100;

fn bomb(case: &mut Case<'_>) -> Reply {
    let fill = |start: &str, piece: &str, end: &str| {
        let times = (FITTING - start.len() - end.len()) / piece.len();
        format!("{start}{}{}{end}", piece.repeat(times - 1), piece.trim_end_matches(',')).into_bytes()
    };
    let entry = "{\"mediaType\":\"\",\"digest\":\"\",\"size\":0},";
    let whole = format!("{{\"mediaType\":\"\",\"digest\":\"sha256:{}\",\"size\":0}},", "0".repeat(64));
    let body = match case.variant {
        0 => b"[".repeat(FITTING),
        1 => b"{\"a\":".repeat(FITTING / 5),
        2 => fill("{\"schemaVersion\":2,\"manifests\":[", entry, "]}"),
        3 => fill("{\"schemaVersion\":2,\"manifests\":[", &whole, "]}"),
        4 => fill("{\"schemaVersion\":2,\"layers\":[", "{},", "]}"),
        5 => fill("{\"version\":1,\"derivations\":[", "\"\",", "]}"),
        6 => fill("{\"version\":1,\"rules\":[", "0,", "]}"),
        7 => fill("{\"schemaVersion\":2,\"annotations\":{", "\"a\":\"\",", "}}"),
        8 => {
            let keys: Vec<String> = (0..350_000).map(|at| format!("\"{at:x}\":\"\"")).collect();
            format!("{{\"schemaVersion\":2,\"annotations\":{{{}}}}}", keys.join(",")).into_bytes()
        }
        9 => fill(
            "{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\"dsseEnvelope\":{\"signatures\":[",
            "{\"sig\":\"\"},",
            "]}}",
        ),
        10 => fill("{\"unknown\":[", "[],", "]}"),
        11 => format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\"}}", "\\u0041".repeat(FITTING / 7)).into_bytes(),
        12 => zstd::encode_all(std::io::Read::take(std::io::repeat(b'['), 64 << 20), 1).expect("memory"),
        _ => format!("{{\"schemaVersion\":{}}}", "9".repeat(FITTING / 2)).into_bytes(),
    };
    with_body(case, &body)
}

fn silent(case: &mut Case<'_>) -> Reply {
    let honest = &case.honest.body;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", honest.len()).into_bytes();
    let drip = Duration::from_millis(20);
    let parts = match case.variant {
        0 => vec![Part::Stall],
        1 => vec![Part::Bytes(b"HTTP/1.1 200 O".to_vec()), Part::Stall],
        // The client waits for the answer that follows.
        5 => vec![Part::Bytes(b"HTTP/1.1 199 X\r\n\r\n".to_vec()), Part::Stall],
        2 => vec![Part::Bytes([&head[..], &honest[..honest.len() / 2]].concat()), Part::Stall],
        3 => vec![Part::Drip(head, drip), Part::Stall],
        4 => vec![Part::Bytes(head), Part::Drip(honest.iter().copied().take(500).collect(), drip), Part::Stall],
        _ => vec![
            Part::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
            Part::Drip(b"1\r\n \r\n".repeat(100), drip),
        ],
    };
    Reply { parts, stays: false }
}
