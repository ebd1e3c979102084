//! Moves the blobs of an image into a repository: some are compressed while others are sent.
//!
//! The repository is asked once for each blob, small ones by the request that begins their upload. A blob whose digest is remembered, and
//! that the repository has, is not compressed at all.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use silo_store::digest::{Digest, LayerId};
use silo_store::layer;
use silo_store::path_error::PathError;

use silo_base::event::{self, Activity, Event};
use silo_fetch::registry::repository::{Bytes, Moved, Repository};
use silo_model::oci::contents::Form;

use crate::blob::{self, Blob};
use crate::context::Context;
use crate::error::Error;
use crate::stack;

/// The least number of parallel transfers. Each waits for the registry most of the time, so they are more than processors.
pub(crate) const LEAST_TRANSFERS: usize = 6;

/// The layer or layers inside a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One layer.
    Layer(LayerId),
    /// Layers that are merged for programs that stack few.
    Merged(Vec<LayerId>),
}

impl Source {
    fn key(&self) -> Digest {
        match self {
            Source::Layer(layer) => layer.digest(),
            Source::Merged(layers) => stack::key(layers),
        }
    }

    fn compress(&self, context: &Context<'_>, form: Form, temp: &Path, to: &Path) -> Result<Blob, Error> {
        match self {
            Source::Layer(layer) => blob::compress(context, *layer, form, to),
            Source::Merged(layers) => stack::compress(context, layers, form, temp, to),
        }
    }

    /// Returns the bytes of its files, to begin with the largest; an unreadable layer fails when it is compressed.
    fn weight(&self, context: &Context<'_>) -> u64 {
        match self {
            Source::Layer(layer) => layer::read_manifest(context.store, layer).map_or(0, |manifest| manifest.bytes),
            // All layers of it are read before the first byte is written.
            Source::Merged(_) => u64::MAX,
        }
    }
}

/// The moved blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves {
    /// The blobs, in the order of their sources.
    pub blobs: Vec<Blob>,
    /// Number of blobs that were sent.
    pub sent: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Number of blobs that the registry took from another repository.
    pub mounted: usize,
}

/// Sends the blobs that the repository lacks; the registry may take them from the repository `mount`.
pub fn send(context: &Context<'_>, to: &Repository<'_>, sources: &[Source], form: Form, mount: Option<&str>) -> Result<Moves, Error> {
    let known: Vec<Option<Blob>> = sources.iter().map(|source| blob::remembered(context.home, source.key(), form)).collect();
    let senders = context.jobs.max(LEAST_TRANSFERS);
    let there = context.each_on(senders, &known, |known| match known {
        Some(blob) => Ok(to.has_blob(blob.pointer.digest)?),
        None => Ok(false),
    })?;
    let mut lacking: Vec<usize> = (0..sources.len()).filter(|at| !there[*at]).collect();
    lacking.sort_by_cached_key(|at| std::cmp::Reverse(sources[*at].weight(context)));
    let mut moves = Moves { blobs: Vec::new(), sent: 0, bytes: 0, mounted: 0 };
    let mut blobs = known.clone();
    if !lacking.is_empty() {
        let work = context.home.work();
        let temp = tempfile::Builder::new().prefix("push-").tempdir_in(&work);
        let temp = temp.map_err(|source| PathError { doing: "make a directory in", path: work, source })?;
        let sending = Sending { context, to, form, mount, temp: temp.path(), permits: Permits::new(context.jobs.max(1)) };
        let progress = Progress::start(context, lacking.len(), &to.location().to_string());
        let done = context.each_on(senders, &lacking, |at| {
            let (blob, how) = sending.move_one(*at, &sources[*at], known[*at], &progress)?;
            Ok((*at, blob, how))
        });
        progress.finish();
        for (at, blob, how) in done? {
            blobs[at] = Some(blob);
            match how {
                Moved::Sent => (moves.sent, moves.bytes) = (moves.sent + 1, moves.bytes + blob.pointer.size),
                Moved::Mounted => moves.mounted += 1,
                Moved::Present => {}
            }
        }
    }
    moves.blobs = blobs.into_iter().flatten().collect();
    Ok(moves)
}

/// The parts that the threads of one push share.
struct Sending<'a> {
    context: &'a Context<'a>,
    to: &'a Repository<'a>,
    form: Form,
    mount: Option<&'a str>,
    temp: &'a Path,
    permits: Permits,
}

impl Sending<'_> {
    /// Compresses one blob and sends it, unless the repository has it by now.
    fn move_one(&self, at: usize, source: &Source, known: Option<Blob>, progress: &Progress<'_>) -> Result<(Blob, Moved), Error> {
        let file = self.temp.join(at.to_string());
        let blob = {
            let _permit = self.permits.take();
            self.context.check_stop()?;
            source.compress(self.context, self.form, self.temp, &file)?
        };
        progress.compressed(blob.pointer.size);
        // Another version of a compressor may give other bytes than those that are remembered.
        let is_asked = known.is_some_and(|known| known.pointer.digest == blob.pointer.digest);
        let before = AtomicU64::new(0);
        // Two's complement: adding the wrapped difference subtracts when an upload began again.
        let report = |sent: u64| progress.sent(sent.wrapping_sub(before.swap(sent, Ordering::Relaxed)));
        let bytes = Bytes::File(&file);
        let moved = match is_asked {
            true => self.to.send_blob(blob.pointer, &bytes, self.mount, &report)?,
            false => self.to.put_blob(blob.pointer, &bytes, self.mount, &report)?,
        };
        if moved == Moved::Present {
            progress.sent(blob.pointer.size);
        }
        // The directory is removed in the end; this only frees the space earlier.
        drop(std::fs::remove_file(&file));
        Ok((blob, moved))
    }
}

/// The progress of a push: blobs that are compressed, and bytes that are sent. The number of bytes is known when all are compressed.
struct Progress<'a> {
    context: &'a Context<'a>,
    name: String,
    lacking: usize,
    compressing: u64,
    compressed: AtomicUsize,
    total: AtomicU64,
    sent: AtomicU64,
    sending: AtomicU64,
}

impl<'a> Progress<'a> {
    fn start(context: &'a Context<'a>, lacking: usize, to: &str) -> Progress<'a> {
        let name = format!("{lacking} blobs to {to}");
        let (compressing, sending) = (event::next_id(), event::next_id());
        (context.sink)(Event::Started {
            id: compressing,
            kind: Activity::Compress,
            name: "layers".to_owned(),
            total: Some(lacking as u64),
        });
        (context.sink)(Event::Started { id: sending, kind: Activity::Send, name: name.clone(), total: None });
        Progress {
            context,
            name,
            lacking,
            compressing,
            compressed: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sending: AtomicU64::new(sending),
        }
    }

    /// Counts a compressed blob; with the last one the total is known.
    fn compressed(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::AcqRel);
        let count = self.compressed.fetch_add(1, Ordering::AcqRel) + 1;
        (self.context.sink)(Event::Progress { id: self.compressing, done: count as u64 });
        if count == self.lacking {
            let id = event::next_id();
            (self.context.sink)(Event::Finished { id: self.compressing });
            (self.context.sink)(Event::Finished { id: self.sending.swap(id, Ordering::Relaxed) });
            (self.context.sink)(Event::Started {
                id,
                kind: Activity::Send,
                name: self.name.clone(),
                total: Some(self.total.load(Ordering::Acquire)),
            });
            self.sent(0);
        }
    }

    fn sent(&self, more: u64) {
        let done = self.sent.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        (self.context.sink)(Event::Progress { id: self.sending.load(Ordering::Relaxed), done });
    }

    fn finish(&self) {
        if self.compressed.load(Ordering::Relaxed) < self.lacking {
            (self.context.sink)(Event::Finished { id: self.compressing });
        }
        (self.context.sink)(Event::Finished { id: self.sending.load(Ordering::Relaxed) });
    }
}

/// Permits to compress: as many as processors, while further threads send.
struct Permits {
    left: Mutex<usize>,
    given_back: Condvar,
}

/// A permit, until it is dropped.
struct Permit<'a>(&'a Permits);

impl Permits {
    fn new(count: usize) -> Permits {
        Permits { left: Mutex::new(count), given_back: Condvar::new() }
    }

    fn take(&self) -> Permit<'_> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.given_back.wait_while(left, |left| *left == 0).unwrap_or_else(PoisonError::into_inner);
        *left -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}
