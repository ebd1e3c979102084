//! Fetches many pinned files in parallel into a directory where each file is named by its digest.
//!
//! A file grows in `partial/`, is hashed as it arrives, and gets its final name only if the digest matches. An interrupted download stays
//! there, and the next attempt or run resumes it. Candidates are tried in order: a candidate that is down is retried a few times; one
//! without the file, or with other contents, is skipped immediately.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use silo_store::private;

use super::address::{server, shown};
use super::error::{Error, Size, verdict};
use super::meter::{Meter, Total};
use super::partial::{Claim, Partial, Pin, Use, claim, present, sync_dir};
use super::retry::{Attempts, RetryPolicy, Stop};
use super::transport::Transport;
use silo_base::event::Sink;
use silo_base::thread;

pub use super::partial::verify_file;

/// The most parallel connections, whatever the setting: mirrors belong to others, and more connections are no faster.
pub const MAX_JOBS: usize = 8;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name in messages.
    pub name: String,
    /// The pinned size, or a limit.
    pub size: Size,
    /// Its pinned digest.
    pub sha256: [u8; 32],
    /// Addresses to try, best first: http, https, file, or an absolute path.
    pub candidates: Vec<String>,
}

/// The environment of a fetch.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The HTTP client.
    pub transport: &'a Transport,
    /// The directory of the files (`downloads/`); created if missing.
    pub dir: &'a Path,
    /// Parallel downloads, between 1 and [`MAX_JOBS`].
    pub jobs: usize,
    /// Receives progress events.
    pub sink: Sink<'a>,
    /// Set by another thread to cancel; checked at least ten times a second.
    pub cancel: &'a AtomicBool,
}

/// Whether a request's file is present, by its size alone ([`verify_file`] also checks the digest).
pub fn is_present(dir: &Path, request: &Request) -> bool {
    present(dir, pin(request)).is_some()
}

/// Fetches the missing files and returns all paths, in the order of the requests.
///
/// Calls `on_done` once for each finished file, on the thread that fetched it: during the call the other threads continue to fetch. The
/// first failure cancels the others; partial files are kept.
pub fn fetch_all(context: &Context, requests: &[Request], on_done: &(dyn Fn(usize, &Path) + Sync)) -> Result<Vec<PathBuf>, Error> {
    fetch_used(context, requests, Use::Lasting, on_done)
}

/// Like [`fetch_all`], for files that `on_done` reads, verifies and removes. They are not synced to disk, which would take most of the time.
pub fn fetch_once(context: &Context, requests: &[Request], on_done: &(dyn Fn(usize, &Path) + Sync)) -> Result<(), Error> {
    fetch_used(context, requests, Use::Once, on_done).map(drop)
}

fn fetch_used(context: &Context, requests: &[Request], used: Use, on_done: &(dyn Fn(usize, &Path) + Sync)) -> Result<Vec<PathBuf>, Error> {
    let with_offers = |request: &Request| {
        let candidates = context.transport.offers(&request.sha256).into_iter().chain(request.candidates.iter().cloned()).collect();
        Request { candidates, ..request.clone() }
    };
    let requests: &[Request] = &requests.iter().map(with_offers).collect::<Vec<_>>();
    let paths: Vec<Option<PathBuf>> = requests.iter().map(|request| present(context.dir, pin(request))).collect();
    let missing: Vec<usize> = (0..requests.len()).filter(|at| paths[*at].is_none()).collect();
    let run = Run { context, requests, used, on_done, stop: Stop::new(context.cancel), sick: Mutex::default() };
    run.stop.check()?;
    for (at, path) in paths.iter().enumerate() {
        if let Some(path) = path {
            on_done(at, path);
        }
    }
    let mut paths = paths;
    if !missing.is_empty() {
        let partial = context.dir.join("partial");
        private::make_dir(&partial).map_err(|err| Error::io("create", &partial, err.source))?;
        for (at, path) in run.fetch_missing(&missing)? {
            paths[at] = Some(path);
        }
        if used == Use::Lasting {
            sync_dir(context.dir)?;
        }
    }
    Ok(paths.into_iter().flatten().collect())
}

/// Like [`fetch_all`], but also fetches files again whose contents changed: for files that no later step checks.
pub fn fetch_checked(context: &Context, requests: &[Request]) -> Result<Vec<PathBuf>, Error> {
    for request in requests {
        let Some(path) = present(context.dir, pin(request)) else { continue };
        match verify_file(&path, &request.sha256) {
            Err(Error::WrongDigest { .. }) => fs::remove_file(&path).map_err(|err| Error::io("remove", &path, err))?,
            verified => verified?,
        }
    }
    fetch_all(context, requests, &|_, _| {})
}

/// One call of [`fetch_all`], shared by its threads.
struct Run<'a> {
    context: &'a Context<'a>,
    requests: &'a [Request],
    used: Use,
    on_done: &'a (dyn Fn(usize, &Path) + Sync),
    stop: Stop<'a>,
    /// Servers that failed all attempts for one file. Other files try them last, and only once.
    sick: Mutex<BTreeSet<String>>,
}

/// One address of a requested file.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// Index into the request's candidates.
    at: usize,
    request: &'a Request,
}

impl Run<'_> {
    fn fetch_missing(&self, missing: &[usize]) -> Result<Vec<(usize, PathBuf)>, Error> {
        let files: Vec<&Request> = missing.iter().map(|at| &self.requests[*at]).collect();
        let name = if let [file] = files[..] { file.name.clone() } else { format!("{} files", files.len()) };
        let total = Total::start(self.context.sink, &name, files.iter().map(|file| exact(file)).sum());
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(&at) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.fetch_one(&self.requests[at], &total) {
                    Ok(path) => {
                        (self.on_done)(at, &path);
                        done.push((at, path));
                    }
                    Err(err) => {
                        self.stop.fail();
                        return Err((at, err));
                    }
                }
            }
            Ok(done)
        };
        let jobs = self.context.jobs.clamp(1, MAX_JOBS).min(missing.len());
        let results = thread::together(jobs, work);
        let mut done = Vec::new();
        let mut failed: Option<(usize, Error)> = None;
        for result in results {
            match result {
                Ok(files) => done.extend(files),
                // Of several errors, reports the one of the first file, but never a mere cancellation.
                Err((at, err)) => {
                    let better = match &failed {
                        None => true,
                        Some((_, Error::Cancelled)) => true,
                        Some((other, _)) => at < *other && !matches!(err, Error::Cancelled),
                    };
                    if better {
                        failed = Some((at, err));
                    }
                }
            }
        }
        match failed {
            Some((_, err)) => Err(err),
            None => Ok(done),
        }
    }

    fn fetch_one(&self, request: &Request, total: &Total) -> Result<PathBuf, Error> {
        self.stop.check()?;
        let mut meter = total.file(&request.name, exact(request));
        let on_wait = || total.note(format!("waiting for another silo that is fetching {}", request.name));
        let mut part = match claim(self.context.dir, pin(request), &self.stop, on_wait)? {
            Claim::Ours(part) => part,
            Claim::Done(path) => {
                meter.set(fs::metadata(&path).map_or(0, |facts| facts.len()));
                return Ok(path);
            }
        };
        meter.set(part.len());
        if part.is_whole() {
            return part.finish(&request.name, self.used);
        }
        let mut reasons = Vec::new();
        for (at, attempts) in self.order(request) {
            let patience = RetryPolicy { attempts, ..self.context.transport.patience() };
            match self.fetch_from(Candidate { at, request }, patience, &mut part, &mut meter) {
                Ok(path) => return Ok(path),
                Err(err) if err.is_ours() => return Err(err),
                Err(err) => {
                    if err.is_transient() || matches!(err, Error::Slow { .. }) {
                        self.sick().insert(server(&request.candidates[at]));
                    }
                    reasons.push(err);
                }
            }
        }
        let urls = request.candidates.iter().map(|url| shown(url)).collect();
        Err(verdict(&request.name, urls, reasons))
    }

    /// Fetches from one candidate until the file is complete or a retry is useless.
    fn fetch_from(&self, from: Candidate<'_>, patience: RetryPolicy, part: &mut Partial, meter: &mut Meter) -> Result<PathBuf, Error> {
        let mut attempts = Attempts::new(patience, part.len());
        loop {
            match self.pump(from, part, meter) {
                Ok(url) => match part.finish(&url, self.used) {
                    Err(err @ Error::WrongDigest { .. }) => {
                        let pure = part.is_pure();
                        part.restart()?;
                        // The bytes of an earlier run or of another candidate may be wrong: fetches everything from this candidate once.
                        if pure {
                            return Err(err);
                        }
                    }
                    result => return result,
                },
                // The server does not serve the requested range: starts from the beginning.
                Err(Error::Range { .. } | Error::Status { status: 416, .. }) if part.len() > 0 => part.restart()?,
                Err(err) => attempts.again(err, part.len(), &self.stop)?,
            }
        }
    }

    /// Reads one response to its end into the partial file; returns the address for display.
    fn pump(&self, from: Candidate<'_>, part: &mut Partial, meter: &mut Meter) -> Result<String, Error> {
        let Candidate { at, request } = from;
        let mut body = self.context.transport.open(&request.candidates[at], part.len(), &self.stop)?;
        let wrong = |url: &str, got| Error::WrongSize { url: url.to_owned(), expected: request.size, got };
        if let Some(total) = body.total.filter(|total| !request.size.admits(*total)) {
            return Err(wrong(&body.url, total));
        }
        if body.from != part.len() {
            part.restart()?;
        }
        part.begin(at);
        while let Some(piece) = body.next(&self.stop)? {
            let len = part.len().saturating_add(piece.len() as u64);
            if len > request.size.bound() {
                part.restart()?;
                return Err(wrong(&body.url, len));
            }
            part.append(&piece)?;
            meter.set(len);
        }
        match request.size {
            Size::Exactly(size) if part.len() < size => {
                Err(Error::Broken { url: body.url, cause: format!("it ended after {} of {size} bytes", part.len()) })
            }
            Size::Exactly(_) | Size::AtMost(_) => Ok(body.url),
        }
    }

    /// Returns the order in which to try the candidates, each with its number of attempts.
    fn order(&self, request: &Request) -> Vec<(usize, u32)> {
        let full = self.context.transport.patience().attempts;
        let sick = self.sick();
        let is_sick = |at: &usize| sick.contains(&server(&request.candidates[*at]));
        let (last, first): (Vec<usize>, Vec<usize>) = (0..request.candidates.len()).partition(is_sick);
        let alone = first.is_empty();
        let last = last.into_iter().map(|at| (at, if alone { full } else { 1 }));
        first.into_iter().map(|at| (at, full)).chain(last).collect()
    }

    fn sick(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        // Only inserts happen under this lock, so a panicked thread cannot leave the set half changed.
        self.sick.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pin(request: &Request) -> Pin<'_> {
    Pin { sha256: &request.sha256, size: request.size }
}

fn exact(request: &Request) -> Option<u64> {
    match request.size {
        Size::Exactly(size) => Some(size),
        Size::AtMost(_) => None,
    }
}
