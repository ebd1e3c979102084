//! Blobs of a server's content-addressed store: which of them it lacks, and their transfer in both directions.
//!
//! Small blobs travel together, others as streams. A download is resumed after a broken connection, and its bytes are hashed; a server
//! cannot hand out other bytes, or more of them, than the digest says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prost::Message;
use silo_store::digest::{Digest, Hasher};
use silo_store::private;
use tonic::Streaming;

use crate::connection::Connection;
use crate::error::Error;
use crate::messages as m;

/// Bytes of one message of a stream.
const PIECE_BYTES: usize = 1 << 20;
/// The largest blob that travels together with others.
const SMALL_BYTES: u64 = 256 << 10;
/// Bytes of blobs in one message, for servers that name no limit: gRPC's customary limit of a message is 4 MiB.
const BATCH_BYTES: u64 = 3 << 20;
/// Digests in one question.
const ASKED: usize = 1000;

const MISSING: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
const UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
const WRITE: &str = "/google.bytestream.ByteStream/Write";
const READ: &str = "/google.bytestream.ByteStream/Read";

/// The name of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobId {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// A blob to upload, if the server lacks it.
pub enum Source<'a> {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A file.
    File(PathBuf),
    /// Bytes that are written to a file when they are needed.
    Made(&'a (dyn Fn(&mut dyn Write) -> std::io::Result<()> + Sync)),
}

/// The blobs of an action.
#[derive(Default)]
pub struct Blobs<'a>(pub(crate) BTreeMap<BlobId, Source<'a>>);

impl BlobId {
    /// Returns the name of these bytes.
    pub fn of(bytes: &[u8]) -> BlobId {
        BlobId { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    /// Returns the name as a message.
    pub fn to_message(self) -> m::Digest {
        m::Digest { hash: self.digest.to_string(), size_bytes: i64::try_from(self.size).unwrap_or(i64::MAX) }
    }

    /// Reads a name from a message.
    pub fn of_message(message: &m::Digest) -> Option<BlobId> {
        Some(BlobId { digest: Digest::parse(&message.hash).ok()?, size: u64::try_from(message.size_bytes).ok()? })
    }
}

impl<'a> Blobs<'a> {
    /// Adds a blob, and returns its name.
    pub fn add(&mut self, bytes: Vec<u8>) -> BlobId {
        let id = BlobId::of(&bytes);
        self.0.insert(id, Source::Bytes(bytes));
        id
    }

    /// Adds a blob whose name is known.
    pub fn add_known(&mut self, id: BlobId, source: Source<'a>) {
        self.0.insert(id, source);
    }

    pub(crate) fn add_message(&mut self, message: &impl Message) -> m::Digest {
        self.add(message.encode_to_vec()).to_message()
    }
}

/// Returns those of some blobs that the server lacks, sorted.
pub(crate) fn missing(from: &Connection, ids: &[BlobId], stop: &AtomicBool) -> Result<Vec<BlobId>, Error> {
    let asked: BTreeSet<BlobId> = ids.iter().copied().collect();
    let mut lacking = BTreeSet::new();
    for some in ids.chunks(ASKED) {
        let blob_digests = some.iter().map(|id| id.to_message()).collect();
        let request = m::FindMissingBlobsRequest { instance_name: from.instance.clone(), blob_digests };
        let answer: m::FindMissingBlobsResponse = from.unary(stop, MISSING, request)?;
        for digest in &answer.missing_blob_digests {
            let id = BlobId::of_message(digest).filter(|id| asked.contains(id));
            lacking.insert(id.ok_or_else(|| from.odd("it asks for a blob that was not named"))?);
        }
    }
    Ok(lacking.into_iter().collect())
}

/// Uploads the blobs that the server lacks; returns their number and bytes. `temp` is for files that are made.
pub(crate) fn upload(
    to: &Connection,
    blobs: &Blobs<'_>,
    most: u64,
    temp: &std::path::Path,
    stop: &AtomicBool,
) -> Result<(usize, u64), Error> {
    let lacking = missing(to, &blobs.0.keys().copied().collect::<Vec<_>>(), stop)?;
    let most = if most == 0 { BATCH_BYTES } else { most.min(BATCH_BYTES) };
    let (mut batch, mut size) = (Vec::new(), 0);
    for id in &lacking {
        match &blobs.0[id] {
            Source::Bytes(bytes) if id.size <= SMALL_BYTES.min(most) => {
                if size + id.size > most {
                    update(to, std::mem::take(&mut batch), stop)?;
                    size = 0;
                }
                size += id.size;
                batch.push(m::Blob { digest: Some(id.to_message()), data: bytes.clone() });
            }
            source => write(to, *id, source, temp, stop)?,
        }
    }
    if !batch.is_empty() {
        update(to, batch, stop)?;
    }
    Ok((lacking.len(), lacking.iter().map(|id| id.size).sum()))
}

fn update(to: &Connection, requests: Vec<m::Blob>, stop: &AtomicBool) -> Result<(), Error> {
    let request = m::BatchUpdateBlobsRequest { instance_name: to.instance.clone(), requests };
    let answer: m::BatchUpdateBlobsResponse = to.unary(stop, UPDATE, request)?;
    match answer.responses.iter().filter_map(|one| one.status.as_ref()).find(|status| status.code != 0) {
        Some(status) => Err(to.failed(UPDATE, &tonic::Status::new(tonic::Code::from_i32(status.code), status.message.clone()))),
        None => Ok(()),
    }
}

/// Sends a blob as a stream.
fn write(to: &Connection, id: BlobId, source: &Source<'_>, temp: &std::path::Path, stop: &AtomicBool) -> Result<(), Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let made = temp.join(format!("blob-{number}"));
    let path = match source {
        Source::Bytes(_) => None,
        Source::File(path) => Some(path),
        Source::Made(make) => {
            let failed = |source| Error::File { doing: "write", path: made.clone(), source };
            let mut file = private::create(&made).map_err(failed)?;
            make(&mut file).map_err(failed)?;
            Some(&made)
        }
    };
    let sent = to.again(stop, |_| {
        let reader: Box<dyn Read + Send> = match (path, source) {
            (Some(path), _) => Box::new(File::open(path).map_err(|source| Error::File { doing: "open", path: path.clone(), source })?),
            (None, Source::Bytes(bytes)) => Box::new(std::io::Cursor::new(bytes.clone())),
            (None, _) => Box::new(std::io::empty()),
        };
        let name = resource(to, &format!("uploads/{}/blobs/{}/{}", unique(number), id.digest, id.size));
        let answer: m::WriteResponse = to.wait(stop, to.send(WRITE, pieces(reader, name, id.size)))?;
        // A server that has the blob already may answer early, with -1 for compressed ones.
        match u64::try_from(answer.committed_size) {
            Ok(size) if size != id.size => Err(to.odd(format!("it took {size} bytes of {}", id.size))),
            _ => Ok(()),
        }
    });
    if let Source::Made(_) = source {
        // The directory is removed in the end; this only frees the space earlier.
        drop(std::fs::remove_file(&made));
    }
    sent
}

/// Returns a name for an upload, in the form of a UUID.
fn unique(number: u64) -> String {
    // Each of these has keys of its own, which the system made at random.
    let chance = |_| RandomState::new().hash_one(number);
    let text = Digest::of(format!("{} {:?}", std::process::id(), [0, 1].map(chance)).as_bytes()).to_string();
    format!("{}-{}-4{}-8{}-{}", &text[..8], &text[8..12], &text[13..16], &text[17..20], &text[20..32])
}

fn pieces(mut reader: Box<dyn Read + Send>, name: String, size: u64) -> impl tokio_stream::Stream<Item = m::WriteRequest> + Send {
    let (mut offset, mut is_done) = (0_u64, false);
    tokio_stream::iter(std::iter::from_fn(move || {
        if is_done {
            return None;
        }
        let mut data = Vec::new();
        // A file that was cut short ends the stream early, and the server refuses it.
        let got = (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut data).unwrap_or(0);
        data.truncate(got);
        let write_offset = i64::try_from(offset).unwrap_or(i64::MAX);
        offset += got as u64;
        is_done = got == 0 || offset >= size;
        Some(m::WriteRequest { resource_name: name.clone(), write_offset, finish_write: is_done, data })
    }))
}

/// Downloads a blob. The caller has checked its size.
pub(crate) fn download(from: &Connection, id: BlobId, out: &mut dyn Write, stop: &AtomicBool) -> Result<(), Error> {
    if id.size == 0 {
        return if id == BlobId::of(b"") { Ok(()) } else { Err(Error::Blob { url: from.url.clone(), blob: id.digest }) };
    }
    let name = resource(from, &format!("blobs/{}/{}", id.digest, id.size));
    let (mut hasher, mut got) = (Hasher::new(), 0_u64);
    from.again(stop, |advanced| {
        let read_offset = i64::try_from(got).unwrap_or(i64::MAX);
        let request = m::ReadRequest { resource_name: name.clone(), read_offset };
        let mut stream: Streaming<m::ReadResponse> = from.wait(stop, from.stream(READ, request))?;
        while let Some(piece) = from.wait(stop, async { stream.message().await.map_err(|status| from.failed(READ, &status)) })? {
            got = got.saturating_add(piece.data.len() as u64);
            if got > id.size {
                return Err(Error::Blob { url: from.url.clone(), blob: id.digest });
            }
            *advanced = *advanced || !piece.data.is_empty();
            hasher.update(&piece.data);
            out.write_all(&piece.data).map_err(|error| from.odd(format!("its answer cannot be written: {error}")))?;
        }
        match got == id.size {
            true => Ok(()),
            false => Err(from.failed(READ, &tonic::Status::unavailable(format!("it ended after {got} of {} bytes", id.size)))),
        }
    })?;
    match hasher.finish() == id.digest {
        true => Ok(()),
        false => Err(Error::Blob { url: from.url.clone(), blob: id.digest }),
    }
}

fn resource(of: &Connection, rest: &str) -> String {
    if of.instance.is_empty() { rest.to_owned() } else { format!("{}/{rest}", of.instance) }
}
