//! The files of records: the list of a step's responses and their bodies are downloads, named by their digests.
//!
//! A record counts by the digest in the lock, or because the step ran on this machine. Every body is hashed before a step sees it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use silo_store::digest::Digest;
use silo_store::path_error::PathError;
use silo_store::{private, read_limited};

use silo_base::thread;
use silo_fetch::download::{self, Context, Request};
use silo_fetch::error::Size;
use silo_fetch::import;
use silo_launch::broker::recording::document::{self, MAX_BYTES, Record, Response};
use silo_launch::broker::recording::frames::Contents;

use super::context::BuildContext;
use super::error::Error;

/// The file name of the list in the directory of a replay.
const LIST: &str = "list";

/// Threads that store bodies.
const WRITERS: usize = 8;

/// A record on this machine.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The digest of its list.
    pub digest: Digest,
    /// Its responses.
    pub record: Record,
}

fn request(name: String, digest: Digest, size: Size) -> Request {
    Request { name, size, sha256: *digest.as_bytes(), candidates: Vec::new() }
}

/// Stores what the broker recorded; returns the record.
pub(super) fn store(ctx: &BuildContext<'_>, mut contents: Contents, file: &File, settings: Vec<(String, String)>) -> Result<Stored, Error> {
    let dir = ctx.home.downloads();
    // Each file waits for the disk, so several are written at a time.
    let next = Mutex::new(contents.bodies.values());
    let put = || {
        loop {
            let Some(body) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return Ok::<_, Error>(()) };
            let wanted = request(body.digest.to_string(), body.digest, Size::Exactly(body.size));
            import::deposit(&dir, &wanted, &mut body.reader(file), "the record of a step", ctx.stop)?;
        }
    };
    thread::together(WRITERS.min(contents.bodies.len()).max(1), put).into_iter().collect::<Result<(), Error>>()?;
    contents.record.settings = settings;
    let list = contents.record.write().map_err(|error| Error::fault(format!("a record is not valid: {error}")))?;
    let digest = Digest::of(&list);
    let wanted = request("the list of a record".to_owned(), digest, Size::Exactly(list.len() as u64));
    import::deposit(&dir, &wanted, &mut list.as_slice(), "the record of a step", ctx.stop)?;
    Ok(Stored { digest, record: contents.record })
}

/// Notes that a step with this output has this record.
pub(super) fn note(ctx: &BuildContext<'_>, output: &Digest, record: Digest) -> Result<(), Error> {
    let dir = ctx.home.recorded();
    private::make_dir(&dir)?;
    let path = dir.join(output.to_string());
    // Half a digest is none, and counts as no record.
    private::write(&path, record.to_string().as_bytes()).map_err(|source| Error::File(PathError { doing: "write", path, source }))
}

/// Returns the record of a step with this output, if it ran on this machine.
pub(super) fn noted(ctx: &BuildContext<'_>, output: &Digest) -> Option<Digest> {
    let text = read_limited::read(&ctx.home.recorded().join(output.to_string()), 100).ok()?;
    Digest::parse(std::str::from_utf8(&text).ok()?).ok()
}

/// Reads a list; fetches it if a cache offers it. `None` if it is nowhere.
pub(super) fn load(ctx: &BuildContext<'_>, command: &str, digest: Digest) -> Result<Option<Stored>, Error> {
    let wanted = request(format!("the record of `{command}`"), digest, Size::AtMost(MAX_BYTES as u64));
    let Some(path) = present(ctx, vec![wanted])?.pop().flatten() else { return Ok(None) };
    let no_record = |what: String| Error::NoRecord { command: command.to_owned(), what };
    let list = read_limited::read(&path, MAX_BYTES as u64).map_err(|error| no_record(format!("{}: {error}", path.display())))?;
    let record = document::read(&list).map_err(|error| no_record(error.to_string()))?;
    Ok(Some(Stored { digest, record }))
}

/// Returns the bodies of a record, verified; fetches those that a cache offers. Fails if one is nowhere.
pub(super) fn bodies(ctx: &BuildContext<'_>, command: &str, stored: &Stored) -> Result<Vec<(Digest, u64, PathBuf)>, Error> {
    let mut distinct: Vec<(Digest, u64, &Response)> = Vec::new();
    for response in &stored.record.responses {
        let digest = response.digest().map_err(|error| Error::NoRecord { command: command.to_owned(), what: error.to_string() })?;
        distinct.push((digest, response.size, response));
    }
    distinct.sort_by_key(|(digest, ..)| *digest);
    distinct.dedup_by_key(|(digest, ..)| *digest);
    let name = |url: &str| url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    let wanted = |(digest, size, response): &(Digest, u64, &Response)| request(name(&response.request.url), *digest, Size::Exactly(*size));
    let paths = present(ctx, distinct.iter().map(wanted).collect())?;
    let mut lost = distinct.iter().zip(&paths).filter(|(_, path)| path.is_none());
    if let Some(((digest, _, response), _)) = lost.next() {
        let (method, url) = (response.request.method.clone(), response.request.url.clone());
        return Err(Error::LostResponse { command: command.to_owned(), method, url, digest: *digest, others: lost.count() });
    }
    Ok(distinct.into_iter().zip(paths).filter_map(|((digest, size, _), path)| Some((digest, size, path?))).collect())
}

/// Returns the paths of files that are on this machine, or that a cache offers. Removes files whose contents changed.
fn present(ctx: &BuildContext<'_>, wanted: Vec<Request>) -> Result<Vec<Option<PathBuf>>, Error> {
    let dir = ctx.home.downloads();
    let path = |request: &Request| dir.join(Digest::from_bytes(request.sha256).to_string());
    for request in wanted.iter().filter(|request| download::is_present(&dir, request)) {
        match download::verify_file(&path(request), &request.sha256) {
            Err(silo_fetch::error::Error::WrongDigest { .. }) => {
                let path = path(request);
                fs::remove_file(&path).map_err(|source| Error::File(PathError { doing: "remove", path, source }))?;
            }
            verified => verified?,
        }
    }
    let is_there = |request: &Request| download::is_present(&dir, request) || !ctx.transport.offers(&request.sha256).is_empty();
    let there: Vec<bool> = wanted.iter().map(is_there).collect();
    let context = Context { transport: ctx.transport, dir: &dir, jobs: download::MAX_JOBS, sink: ctx.sink, cancel: ctx.stop };
    let fetched: Vec<Request> = wanted.iter().zip(&there).filter(|(_, there)| **there).map(|(request, _)| request.clone()).collect();
    download::fetch_all(&context, &fetched, &|_, _| {})?;
    Ok(wanted.iter().zip(there).map(|(request, there)| there.then(|| path(request))).collect())
}

/// Fills a directory with the list and the bodies of a record, for the broker: it may read no other files.
pub(super) fn lay_out(ctx: &BuildContext<'_>, command: &str, stored: &Stored, into: &Path) -> Result<(), Error> {
    let bodies = bodies(ctx, command, stored)?;
    private::make_dir(into)?;
    let list = ctx.home.downloads().join(stored.digest.to_string());
    for (name, from) in bodies.iter().map(|(digest, _, path)| (digest.to_string(), path)).chain([(LIST.to_owned(), &list)]) {
        let to = into.join(name);
        let linked = fs::hard_link(from, &to).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            // A file system without hard links, or another one.
            _ => fs::copy(from, &to).map(drop),
        });
        linked.map_err(|source| Error::File(PathError { doing: "link", path: to, source }))?;
    }
    Ok(())
}
