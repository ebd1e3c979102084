//! Fetches a small file into memory, such as a signed index. Its digest is often unknown in advance.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::address::shown;
use super::error::{Error, Size, verdict};
use super::meter::Meter;
use super::partial::compare;
use super::retry::{Attempts, Stop};
use super::transport::Transport;
use silo_base::event::Sink;

/// A small file to fetch.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name in messages.
    pub name: String,
    /// The size limit.
    pub max_bytes: u64,
    /// Its digest, if known.
    pub sha256: Option<[u8; 32]>,
    /// Addresses to try, best first.
    pub candidates: Vec<String>,
}

/// A small file and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The bytes; unverified unless the request has a digest.
    pub bytes: Vec<u8>,
    /// The index of the candidate that served it.
    pub candidate: usize,
}

/// Fetches from the first candidate that has the file.
pub fn fetch_text(transport: &Transport, request: &Request, sink: Sink, cancel: &AtomicBool) -> Result<Text, Error> {
    let stop = Stop::new(cancel);
    let mut meter = Meter::start(sink, &request.name, None);
    let mut reasons = Vec::new();
    for candidate in 0..request.candidates.len() {
        match fetch_from(transport, request, candidate, &stop, &mut meter) {
            Ok(bytes) => return Ok(Text { bytes, candidate }),
            Err(err) if err.is_ours() => return Err(err),
            Err(err) => reasons.push(err),
        }
    }
    let urls = request.candidates.iter().map(|url| shown(url)).collect();
    Err(verdict(&request.name, urls, reasons))
}

fn fetch_from(transport: &Transport, request: &Request, candidate: usize, stop: &Stop, meter: &mut Meter) -> Result<Vec<u8>, Error> {
    let mut attempts = Attempts::new(transport.patience(), 0);
    loop {
        match read(transport, request, candidate, stop, meter) {
            Ok(bytes) => return Ok(bytes),
            // Without a digest two parts might come from different files, so each attempt starts from the beginning.
            Err(err) => attempts.again(err, 0, stop)?,
        }
    }
}

fn read(transport: &Transport, request: &Request, candidate: usize, stop: &Stop, meter: &mut Meter) -> Result<Vec<u8>, Error> {
    let mut body = transport.open(&request.candidates[candidate], 0, stop)?;
    let bound = Size::AtMost(request.max_bytes);
    let wrong = |url: &str, got| Error::WrongSize { url: url.to_owned(), expected: bound, got };
    if let Some(total) = body.total.filter(|total| !bound.admits(*total)) {
        return Err(wrong(&body.url, total));
    }
    let until = Instant::now() + transport.patience().document;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next(stop)? {
        let len = (bytes.len() as u64).saturating_add(piece.len() as u64);
        if !bound.admits(len) {
            return Err(wrong(&body.url, len));
        }
        bytes.extend_from_slice(&piece);
        meter.set(len);
        if Instant::now() > until {
            return Err(Error::Slow { url: body.url, bytes: len, time: transport.patience().document });
        }
    }
    if let Some(expected) = &request.sha256 {
        compare(body.url, expected, &Sha256::digest(&bytes).into())?;
    }
    Ok(bytes)
}
