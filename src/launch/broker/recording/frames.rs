//! The file in which the broker stores the responses of a step: frames, in the order in which bytes arrived.
//!
//! The broker is confined and can only append to this file. The build reads it after the step. The broker may have been taken over by the
//! program of the step, so the build reads the file as hostile: a wrong frame ends it, and every number is bounded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};
use silo_store::digest::{Digest, Hasher};

use super::document::{self, MAX_RESPONSES, Record, Request, Response, Unrecorded};

/// Largest frame. A head has the headers of a response.
const MAX_FRAME_BYTES: usize = 512 << 10;
/// Most reports: requests without a response, and places that are not inspected.
const MAX_REPORTS: usize = 1000;
/// Most pieces of all bodies. A response of many small packets has a piece of a kilobyte for each.
const MAX_PIECES: usize = 4 << 20;
/// Most bytes of all heads and reports together, which are held in memory.
const MAX_HELD_BYTES: usize = 64 << 20;
/// Bytes of a frame before its text.
const HEAD_BYTES: usize = 9;

/// The start of a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Its request, without the digest of a body.
    pub request: Request,
    /// The status.
    pub status: u16,
    /// True if it came by HTTP/2.
    pub http2: bool,
    /// The stored headers.
    pub headers: Vec<(String, String)>,
}

/// A place that cannot be inspected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uninspected {
    /// The place, and the reason.
    pub place: Unrecorded,
    /// True if the program or the host refused the inspection: the step must run again without it.
    pub is_refused: bool,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A response begins.
    Start(u32, Start),
    /// Bytes of its body.
    Bytes(u32, &'a [u8]),
    /// The response is complete; has the digest of the request's body.
    End(u32, Option<String>),
    /// A place is not inspected.
    Uninspected(Uninspected),
    /// The program closed an inspected connection without a request.
    Unused(String),
    /// A record lacks the response of this request.
    Missing(Request),
    /// The limit of bytes is reached; what follows is not recorded.
    Full,
}

/// Writes frames to a file, up to a limit of bytes.
#[derive(Debug)]
pub struct Writer {
    file: File,
    left: u64,
    is_full: bool,
}

impl Writer {
    /// Takes an empty file and the most bytes to write.
    pub fn new(file: File, max_bytes: u64) -> Writer {
        Writer { file, left: max_bytes, is_full: false }
    }

    /// Writes a frame. A full disk counts as the limit: the step does not depend on its record.
    pub fn write(&mut self, frame: &Frame<'_>) {
        let json = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default();
        let (kind, id, text): (u8, u32, std::borrow::Cow<'_, [u8]>) = match frame {
            Frame::Start(id, start) => (b'S', *id, json(serde_json::to_vec(start)).into()),
            Frame::Bytes(id, bytes) => {
                for piece in bytes.chunks(MAX_FRAME_BYTES) {
                    self.put(b'B', *id, piece);
                }
                return;
            }
            Frame::End(id, body) => (b'E', *id, json(serde_json::to_vec(body)).into()),
            Frame::Uninspected(place) => (b'U', 0, json(serde_json::to_vec(place)).into()),
            Frame::Unused(place) => (b'N', 0, json(serde_json::to_vec(place)).into()),
            Frame::Missing(request) => (b'M', 0, json(serde_json::to_vec(request)).into()),
            Frame::Full => (b'F', 0, (&[][..]).into()),
        };
        self.put(kind, id, &text);
    }

    fn put(&mut self, kind: u8, id: u32, text: &[u8]) {
        // Room for the last frame.
        let size = (HEAD_BYTES + text.len()) as u64;
        if self.is_full || text.len() > MAX_FRAME_BYTES {
            return;
        }
        if size + HEAD_BYTES as u64 > self.left {
            self.is_full = true;
            drop(self.file.write_all(&header(b'F', 0, 0)));
            return;
        }
        self.left -= size;
        let written = self.file.write_all(&[&header(kind, id, text.len()), text].concat());
        self.is_full = written.is_err();
    }
}

fn header(kind: u8, id: u32, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    [&[kind][..], &id.to_le_bytes(), &length.to_le_bytes()].concat()
}

/// Part of the file with bytes of a body.
type Piece = (u64, u64);

/// A body in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    pieces: Vec<Piece>,
}

/// The contents of the file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The complete responses, and the places that are not recorded.
    pub record: Record,
    /// A body for each digest.
    pub bodies: BTreeMap<Digest, Body>,
    /// The places that refused the inspection.
    pub refused: Vec<Unrecorded>,
    /// Requests without a recorded response.
    pub missing: Vec<Request>,
    /// True if the file is no complete record: it is full or ends in the middle of a frame.
    pub is_cut: bool,
}

struct Open {
    start: Start,
    hasher: Hasher,
    size: u64,
    pieces: Vec<Piece>,
}

/// Reads the file.
pub fn read(file: &mut File) -> io::Result<Contents> {
    file.seek(SeekFrom::Start(0))?;
    let mut input = io::BufReader::with_capacity(1 << 18, file);
    let mut contents = Contents::default();
    let mut open: BTreeMap<u32, Open> = BTreeMap::new();
    let mut unused: Vec<String> = Vec::new();
    let mut position = 0_u64;
    let (mut reports, mut pieces, mut held) = (0, 0, 0);
    let mut text = Vec::new();
    loop {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        (&mut input).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        let &[kind, i0, i1, i2, i3, l0, l1, l2, l3] = &head[..] else {
            contents.is_cut |= !head.is_empty();
            break;
        };
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        text.clear();
        if length > MAX_FRAME_BYTES || (&mut input).take(length as u64).read_to_end(&mut text)? < length {
            contents.is_cut = true;
            break;
        }
        let at = position + HEAD_BYTES as u64;
        position = at + length as u64;
        reports += usize::from(b"UNM".contains(&kind));
        pieces += usize::from(kind == b'B');
        held += if b"SUNM".contains(&kind) { length } else { 0 };
        let is_over = reports > MAX_REPORTS || pieces > MAX_PIECES || held > MAX_HELD_BYTES;
        if is_over || contents.record.responses.len() + open.len() > MAX_RESPONSES {
            contents.is_cut = true;
            break;
        }
        match kind {
            b'S' => {
                let Ok(start) = serde_json::from_slice::<Start>(&text) else { continue };
                open.insert(id, Open { start, hasher: Hasher::new(), size: 0, pieces: Vec::new() });
            }
            b'B' => {
                let Some(open) = open.get_mut(&id) else { continue };
                open.hasher.update(&text);
                open.size += length as u64;
                open.pieces.push((at, length as u64));
            }
            b'E' => {
                let Some(Open { start, hasher, size, pieces }) = open.remove(&id) else { continue };
                let Ok(body) = serde_json::from_slice::<Option<String>>(&text) else { continue };
                let digest = hasher.finish();
                let Start { request, status, http2, headers } = start;
                let request = Request { body, ..request };
                contents.record.responses.push(Response { request, status, http2, headers, sha256: digest.to_string(), size });
                contents.bodies.entry(digest).or_insert(Body { digest, size, pieces });
            }
            b'U' => {
                let Ok(Uninspected { place, is_refused }) = serde_json::from_slice(&text) else { continue };
                if is_refused { contents.refused.push(place) } else { contents.record.unrecorded.push(place) }
            }
            b'N' => unused.extend(serde_json::from_slice::<String>(&text)),
            b'M' => contents.missing.extend(serde_json::from_slice::<Request>(&text)),
            b'F' => contents.is_cut = true,
            _ => {
                contents.is_cut = true;
                break;
            }
        }
    }
    // Some programs finish the handshake before they look at the certificate, and then close the connection.
    let answered = |place: &String| {
        let is_at = |response: &Response| response.request.place().is_some_and(|(host, port)| document::place(&host, port) == *place);
        contents.record.responses.iter().any(is_at)
    };
    let refused = unused.into_iter().filter(|place| !answered(place));
    let why = "the program closed the connection after the handshake".to_owned();
    let refused: Vec<Unrecorded> = refused.map(|place| Unrecorded { place, why: why.clone() }).collect();
    contents.refused.extend(refused);
    Ok(contents)
}

impl Body {
    /// Returns a reader of the body's bytes.
    pub fn reader<'a>(&'a self, file: &'a File) -> impl Read + 'a {
        Pieces { file, pieces: self.pieces.iter(), now: (0, 0) }
    }
}

struct Pieces<'a> {
    file: &'a File,
    pieces: std::slice::Iter<'a, Piece>,
    now: Piece,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.now.1 == 0 {
            match self.pieces.next() {
                Some(piece) => self.now = *piece,
                None => return Ok(0),
            }
        }
        let most = usize::try_from(self.now.1).unwrap_or(usize::MAX).min(into.len());
        let count = std::os::unix::fs::FileExt::read_at(self.file, &mut into[..most], self.now.0)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.now = (self.now.0 + count as u64, self.now.1 - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(url: &str) -> Start {
        let request = Request { method: "GET".into(), url: url.into(), headers: BTreeMap::new(), body: None };
        Start { request, status: 200, http2: false, headers: Vec::new() }
    }

    fn written(max_bytes: u64) -> File {
        let mut writer = Writer::new(tempfile::tempfile().expect("a file"), max_bytes);
        for frame in [
            Frame::Start(1, start("https://a.example/one")),
            Frame::Start(2, start("https://a.example/two")),
            Frame::Bytes(1, b"on"),
            Frame::Bytes(2, b"tw"),
            Frame::Bytes(1, b"e"),
            Frame::End(1, None),
            Frame::Bytes(2, b"o"),
            Frame::Start(3, start("https://a.example/three")),
            Frame::Bytes(3, b"cut"),
            Frame::End(2, Some(Digest::of(b"x").to_string())),
            Frame::Unused("a.example:443".into()),
            Frame::Unused("b.example:443".into()),
            Frame::Missing(start("https://c.example/").request),
        ] {
            writer.write(&frame);
        }
        writer.file
    }

    #[test]
    fn interleaved_bodies_are_taken_apart_and_cut_ones_are_left_out() {
        let mut file = written(1 << 20);
        let contents = read(&mut file).expect("own file");
        assert!(!contents.is_cut);
        let told: Vec<&str> = contents.record.responses.iter().map(|one| one.request.url.as_str()).collect();
        assert_eq!(told, ["https://a.example/one", "https://a.example/two"]);
        assert_eq!(contents.refused.iter().map(|one| one.place.as_str()).collect::<Vec<_>>(), ["b.example:443"]);
        assert_eq!(contents.missing.len(), 1);
        for (response, text) in contents.record.responses.iter().zip(["one", "two"]) {
            let body = &contents.bodies[&response.digest().expect("a digest")];
            let mut read = String::new();
            body.reader(&file).read_to_string(&mut read).expect("own file");
            assert_eq!((read.as_str(), body.digest), (text, Digest::of(text.as_bytes())));
        }
    }

    #[test]
    fn a_full_file_is_no_complete_record() {
        let contents = read(&mut written(400)).expect("own file");
        assert!(contents.is_cut && contents.record.responses.len() < 2);
    }

    #[test]
    fn a_file_cannot_fill_the_memory_of_its_reader() {
        let read_all = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(bytes).expect("written");
            read(&mut file).expect("it is read to its end")
        };
        let start = serde_json::to_vec(&start("https://a.example/one")).expect("JSON");
        let mut pieces = [header(b'S', 1, start.len()), start].concat();
        pieces.extend(header(b'B', 1, 0).repeat(MAX_PIECES + 1));
        pieces.extend([header(b'E', 1, 4), b"null".to_vec()].concat());
        let contents = read_all(&pieces);
        assert!(contents.is_cut && contents.record.responses.is_empty());
        let report = serde_json::to_vec(&"x".repeat(MAX_FRAME_BYTES - 2)).expect("JSON");
        let reports = [header(b'N', 0, report.len()), report].concat().repeat(MAX_HELD_BYTES / MAX_FRAME_BYTES + 1);
        let contents = read_all(&reports);
        assert!(contents.is_cut && contents.refused.len() <= MAX_HELD_BYTES / MAX_FRAME_BYTES);
    }

    #[test]
    fn changed_files_do_no_harm() {
        let mut good = Vec::new();
        let mut file = written(1 << 20);
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut good)).expect("own file");
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff, b'F', b'"'] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                let mut file = tempfile::tempfile().expect("a file");
                file.write_all(&bytes).expect("written");
                let contents = read(&mut file).expect("it is read to its end");
                for body in contents.bodies.values() {
                    let mut read = Vec::new();
                    body.reader(&file).read_to_end(&mut read).expect("within the file");
                    assert_eq!(Digest::of(&read), body.digest);
                }
            }
        }
    }
}
