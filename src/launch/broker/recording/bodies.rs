//! Bodies of requests and responses that are recorded, and bodies from a record.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame as Piece, Incoming, SizeHint};
use silo_store::digest::Hasher;

use super::frames::Frame;
use super::recorder::Recorder;
use crate::broker::http_carrier::BodyError;

/// Bytes of one read of a stored body.
const READ_BYTES: usize = 64 << 10;

/// The digest of a request's body, as far as it was read.
#[derive(Default)]
pub struct Asked(Mutex<State>);

struct State {
    hasher: Hasher,
    bytes: u64,
    is_whole: bool,
}

impl Default for State {
    fn default() -> State {
        State { hasher: Hasher::new(), bytes: 0, is_whole: false }
    }
}

impl Asked {
    /// Adds bytes.
    pub fn add(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.hasher.update(bytes);
        state.bytes += bytes.len() as u64;
    }

    /// Notes the end of the body.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_whole = true;
    }

    /// Returns the digest, if there are bytes; `None` if the body has not ended.
    pub fn digest(&self) -> Option<Option<String>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hasher = std::mem::replace(&mut state.hasher, Hasher::new());
        state.is_whole.then(|| (state.bytes > 0).then(|| hasher.finish().to_string()))
    }
}

/// The body of a request, whose digest is taken on its way.
pub struct Asking {
    inner: Incoming,
    asked: Arc<Asked>,
}

impl Asking {
    /// Wraps a body.
    pub fn new(inner: Incoming, asked: &Arc<Asked>) -> Asking {
        if inner.is_end_stream() {
            asked.end();
        }
        Asking { inner, asked: Arc::clone(asked) }
    }
}

impl Body for Asking {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Piece<Bytes>, hyper::Error>>> {
        let piece = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(piece)) = &piece {
            self.asked.add(piece.data_ref().map_or(&[], |bytes| bytes));
        }
        if piece.is_none() || self.inner.is_end_stream() {
            self.asked.end();
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a response.
pub enum Answering {
    /// From the host, and recorded.
    Passed(Passed),
    /// From a record.
    Stored {
        /// The file.
        file: File,
        /// The bytes left.
        left: u64,
    },
    /// Of the broker itself.
    Own(Full<Bytes>),
}

/// A body on its way to the program.
pub struct Passed {
    inner: Incoming,
    log: Option<Log>,
}

/// The recording of one response.
pub struct Log {
    /// The recorder.
    pub recorder: Arc<Recorder>,
    /// The number of the response.
    pub id: u32,
    /// The body of its request.
    pub asked: Arc<Asked>,
}

impl Passed {
    /// Wraps a body; without a log it is not recorded.
    pub fn new(inner: Incoming, log: Option<Log>) -> Passed {
        let mut passed = Passed { inner, log };
        if passed.inner.is_end_stream() {
            passed.end();
        }
        passed
    }

    fn end(&mut self) {
        if let Some(Log { recorder, id, asked }) = self.log.take() {
            // A host may answer before it has read the request; then nothing identifies the request.
            if let Some(body) = asked.digest() {
                recorder.write(&Frame::End(id, body));
            }
        }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Piece<Bytes>, BodyError>>> {
        match self.get_mut() {
            Answering::Passed(passed) => {
                let piece = ready!(Pin::new(&mut passed.inner).poll_frame(context));
                match (&piece, &passed.log) {
                    (Some(Ok(piece)), Some(log)) => {
                        if let Some(bytes) = piece.data_ref() {
                            log.recorder.write(&Frame::Bytes(log.id, bytes));
                        }
                    }
                    // A response that broke off is not recorded.
                    (Some(Err(_)), _) => passed.log = None,
                    _ => {}
                }
                if piece.is_none() || passed.inner.is_end_stream() {
                    passed.end();
                }
                Poll::Ready(piece.map(|piece| piece.map_err(Into::into)))
            }
            Answering::Stored { left: 0, .. } => Poll::Ready(None),
            Answering::Stored { file, left } => {
                let mut piece = vec![0; usize::try_from(*left).unwrap_or(usize::MAX).min(READ_BYTES)];
                Poll::Ready(Some(match file.read_exact(&mut piece) {
                    Ok(()) => {
                        *left -= piece.len() as u64;
                        Ok(Piece::data(piece.into()))
                    }
                    Err(error) => Err(error.into()),
                }))
            }
            Answering::Own(full) => Pin::new(full).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answering::Passed(passed) => passed.inner.is_end_stream(),
            Answering::Stored { left, .. } => *left == 0,
            Answering::Own(full) => full.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answering::Passed(passed) => passed.inner.size_hint(),
            Answering::Stored { left, .. } => SizeHint::with_exact(*left),
            Answering::Own(full) => full.size_hint(),
        }
    }
}
