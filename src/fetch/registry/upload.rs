//! Uploads a blob to a registry: in pieces, resumed after a broken connection, or taken from another repository without sending a byte.
//!
//! A registry answers each piece with the address of the next one. After an error silo asks for the stored part, and goes on there; if the
//! registry forgot the upload, it begins again. Each failure makes the pieces smaller, for slow lines.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use reqwest::Url;

use silo_base::sanitize::brief;
use silo_model::oci::manifest::Pointer;

use crate::exchange::{Method, Reply, Request};
use crate::retry::{Attempts, Stop};

use super::error::Error;
use super::realm;
use super::session::{Bytes, Moved, Session, refused};

/// Bytes of a piece at first: few requests on a fast line.
const PIECE_BYTES: u64 = 4 << 20;
/// The least bytes of a piece.
const LEAST_PIECE_BYTES: u64 = 256 << 10;
/// The largest piece that a registry may demand, since a piece is held in memory.
const MAX_PIECE_BYTES: u64 = 64 << 20;
/// The most bytes of an answer, which is an error message.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The most bytes of an address that a registry names.
const MAX_LOCATION_BYTES: usize = 8 << 10;

/// Uploads a blob that the repository does not have.
pub fn upload(to: &Session<'_>, pointer: Pointer, bytes: &Bytes<'_>, from: Option<&str>, progress: &dyn Fn(u64)) -> Result<Moved, Error> {
    let mut begun = match begin(to, pointer, from)? {
        Some(begun) => begun,
        None => return Ok(Moved::Mounted),
    };
    let stop = Stop::new(to.context.cancel);
    let mut attempts = Attempts::new(to.context.transport.patience(), 0);
    let mut sent = Sending { stop: &stop, piece: PIECE_BYTES.max(begun.least_piece), at: 0, location: begun.location.clone() };
    loop {
        match send(to, pointer, bytes, &mut sent, progress) {
            Ok(()) => return Ok(Moved::Sent),
            Err(Error::Fetch(error)) => {
                // Ends the loop if the error is not transient, or came too often without progress.
                attempts.again(error, sent.at, &stop)?;
                sent.piece = (sent.piece / 2).max(LEAST_PIECE_BYTES).max(begun.least_piece);
                match stored(to, &sent.location)? {
                    Some((location, at)) if at <= pointer.size => (sent.location, sent.at) = (location, at),
                    _ => {
                        begun = begin(to, pointer, None)?.ok_or_else(|| odd(to, "it mounts a blob that was not offered"))?;
                        (sent.location, sent.at) = (begun.location.clone(), 0);
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
}

struct Begun {
    location: String,
    least_piece: u64,
}

struct Sending<'a> {
    stop: &'a Stop<'a>,
    piece: u64,
    at: u64,
    location: String,
}

/// Begins an upload; `None` if the registry mounted the blob of another repository.
fn begin(to: &Session<'_>, pointer: Pointer, from: Option<&str>) -> Result<Option<Begun>, Error> {
    let url = match from {
        Some(from) => format!("{}/blobs/uploads/?mount=sha256:{}&from={from}", to.base(), pointer.digest),
        None => format!("{}/blobs/uploads/", to.base()),
    };
    let reply = to.call(&Request::new(Method::Post, &url, MAX_ANSWER_BYTES))?;
    match reply.status {
        201 if from.is_some() => Ok(None),
        202 => {
            let least_piece = reply.least_piece.unwrap_or(0);
            if least_piece > MAX_PIECE_BYTES {
                return Err(odd(to, &format!("it wants pieces of {least_piece} bytes; at most {MAX_PIECE_BYTES} are sent")));
            }
            Ok(Some(Begun { location: location(to, &reply)?, least_piece }))
        }
        _ => Err(refused(&url, &reply)),
    }
}

/// Sends the rest of a blob, and ends the upload.
fn send(to: &Session<'_>, pointer: Pointer, bytes: &Bytes<'_>, sent: &mut Sending<'_>, progress: &dyn Fn(u64)) -> Result<(), Error> {
    let base = to.base();
    progress(sent.at);
    while pointer.size - sent.at > sent.piece {
        let piece = part(bytes, sent.at, sent.piece)?;
        let last = sent.at + piece.len() as u64 - 1;
        let range = format!("{}-{last}", sent.at);
        let url = sent.location.clone();
        let request = Request {
            media_type: Some("application/octet-stream"),
            named_by: Some(&base),
            range: Some(&range),
            body: &piece,
            ..Request::new(Method::Patch, &url, MAX_ANSWER_BYTES)
        };
        let reply = once(to, &request, sent.stop)?;
        if reply.status != 202 {
            return Err(refused(&url, &reply));
        }
        sent.location = location(to, &reply)?;
        sent.at = last + 1;
        if let Some(stored) = reply.range.as_deref().and_then(end)
            && stored != sent.at
        {
            return Err(odd(to, &format!("it stored {stored} bytes of {}", sent.at)));
        }
        progress(sent.at);
    }
    let rest = part(bytes, sent.at, pointer.size - sent.at)?;
    let separator = if sent.location.contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}digest=sha256:{}", sent.location, pointer.digest);
    let request = Request {
        media_type: Some("application/octet-stream"),
        named_by: Some(&base),
        body: &rest,
        ..Request::new(Method::Put, &url, MAX_ANSWER_BYTES)
    };
    let reply = once(to, &request, sent.stop)?;
    if !matches!(reply.status, 201 | 204) {
        return Err(refused(&url, &reply));
    }
    progress(pointer.size);
    Ok(())
}

/// Sends a request once; authenticates if asked to.
fn once(to: &Session<'_>, request: &Request<'_>, stop: &Stop<'_>) -> Result<Reply, Error> {
    let send = || Ok(to.context.transport.exchange_once(request, stop)?);
    to.authenticated(request.url, send()?, send)
}

/// Asks for the stored part of an upload: the address to go on at, and the number of bytes. `None` if the registry forgot it.
fn stored(to: &Session<'_>, at: &str) -> Result<Option<(String, u64)>, Error> {
    let reply = to.call(&Request { named_by: Some(&to.base()), ..Request::new(Method::Get, at, MAX_ANSWER_BYTES) })?;
    if !matches!(reply.status, 200 | 202 | 204) {
        return Ok(None);
    }
    let known = reply.range.as_deref().and_then(end);
    match (known, location(to, &reply)) {
        (Some(known), Ok(location)) => Ok(Some((location, known))),
        _ => Ok(None),
    }
}

/// Parses the number of stored bytes: `0-99` are 100. `0-0` is also the answer for none, and one byte is sent again at little cost.
fn end(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then_some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// Checks the address of the next request. A hostile registry could name a server of this network, which would receive the bytes.
fn location(to: &Session<'_>, reply: &Reply) -> Result<String, Error> {
    let text = reply.location.as_deref().ok_or_else(|| odd(to, "it names no place for an upload"))?;
    // It may be relative.
    let url = Url::parse(&to.base())
        .and_then(|base| base.join(text))
        .ok()
        .filter(|_| text.len() <= MAX_LOCATION_BYTES)
        .ok_or_else(|| odd(to, "the place for an upload is no address"))?;
    realm::parse_location(&url, to.host()).map_err(|why| odd(to, &format!("it wants the upload at {}: {why}", brief(text))))?;
    Ok(url.to_string())
}

fn part(bytes: &Bytes<'_>, at: u64, length: u64) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match bytes {
        Bytes::Here(bytes) => {
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Ok(bytes[from..bytes.len().min(from.saturating_add(length))].to_vec())
        }
        Bytes::File(path) => {
            let failed = |source| Error::Read { path: path.to_path_buf(), source };
            let mut file = File::open(path).map_err(failed)?;
            file.seek(SeekFrom::Start(at)).map_err(failed)?;
            let mut piece = vec![0; length];
            std::io::Read::read_exact(&mut file, &mut piece).map_err(failed)?;
            Ok(piece)
        }
    }
}

fn odd(to: &Session<'_>, what: &str) -> Error {
    Error::Document { url: to.location.to_string(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_parts_are_counted() {
        for (range, expect) in
            [("0-99", Some(100)), ("bytes=0-99", Some(100)), ("0-0", Some(0)), ("5-9", None), ("0-", None), ("", None), ("0-x", None)]
        {
            assert_eq!(end(range), expect, "{range}");
        }
    }
}
