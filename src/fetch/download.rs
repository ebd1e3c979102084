//! Fetches many pinned files at once into a directory where each has its digest for a name.
//!
//! A file arrives in `partial/`, is hashed on the way, and gets its final name only when its digest is right; what is cut
//! off stays there and is resumed by the next attempt or the next run. Candidates are tried in order: one that is down is
//! tried a few times, one that does not have the file or has another one is left at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use silo_store::private;

use super::address::{server, shown};
use super::error::{Error, Size, verdict};
use super::meter::{Meter, Total};
use super::partial::{Claim, Partial, Pin, claim, present, sync_dir};
use super::patience::{Attempts, Patience, Stop};
use super::transport::Transport;
use silo_base::event::Sink;
use silo_base::thread;

pub use super::partial::verify_file;

/// The most connections at a time, whatever is asked for: mirrors are other people's machines, and more bring nothing.
pub const MAX_JOBS: usize = 8;

/// A file to fetch.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to call it towards the user.
    pub name: String,
    /// Its pinned size, or a bound.
    pub size: Size,
    /// Its pinned digest.
    pub sha256: [u8; 32],
    /// Addresses to try, best first: http, https, file, or an absolute path.
    pub candidates: Vec<String>,
}

/// What a fetch works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The way out.
    pub transport: &'a Transport,
    /// Where the files go (`downloads/`); it is made if need be.
    pub dir: &'a Path,
    /// Files at a time, between 1 and [`MAX_JOBS`].
    pub jobs: usize,
    /// Who is told.
    pub sink: Sink<'a>,
    /// Set by someone else to stop; looked at ten times a second and more.
    pub cancel: &'a AtomicBool,
}

/// Says whether a request's file is there already (by its size; [`verify_file`] reads it).
pub fn is_present(dir: &Path, request: &Request) -> bool {
    present(dir, pin(request)).is_some()
}

/// Fetches what is not there yet and returns the paths, in the order of the requests.
///
/// `on_done` is called once for each file as soon as it is whole, from the thread that fetched it: as long as it works, the
/// others go on fetching and this one does not. The first failure stops all; what arrived so far is kept.
pub fn fetch_all(context: &Context, requests: &[Request], on_done: &(dyn Fn(usize, &Path) + Sync)) -> Result<Vec<PathBuf>, Error> {
    let paths: Vec<Option<PathBuf>> = requests.iter().map(|request| present(context.dir, pin(request))).collect();
    let missing: Vec<usize> = (0..requests.len()).filter(|at| paths[*at].is_none()).collect();
    let run = Run { context, requests, on_done, stop: Stop::new(context.cancel), sick: Mutex::default() };
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
        sync_dir(context.dir)?;
    }
    Ok(paths.into_iter().flatten().collect())
}

/// Fetches like [`fetch_all`], and anew what was there but has been changed since: for files that nobody else checks.
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
    on_done: &'a (dyn Fn(usize, &Path) + Sync),
    stop: Stop<'a>,
    /// Servers that used up all attempts at one file: the others try them last, and once.
    sick: Mutex<BTreeSet<String>>,
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
        let results: Vec<_> = std::thread::scope(|scope| {
            // This thread fetches, too, so fewer threads than wished, or none, only take longer.
            let threads: Vec<_> = (1..jobs).map_while(|_| thread::beside(scope, work).ok()).collect();
            let own = Ok(work());
            threads.into_iter().map(|thread| thread.join()).chain([own]).collect()
        });
        let mut done = Vec::new();
        let mut failed: Option<(usize, Error)> = None;
        for result in results {
            match result {
                Ok(Ok(files)) => done.extend(files),
                // Of several errors the first file's is told, but never one that only says that another failed.
                Ok(Err((at, err))) => {
                    let better = match &failed {
                        None => true,
                        Some((_, Error::Cancelled)) => true,
                        Some((other, _)) => at < *other && !matches!(err, Error::Cancelled),
                    };
                    if better {
                        failed = Some((at, err));
                    }
                }
                Err(panic) => std::panic::resume_unwind(panic),
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
            return part.finish(&request.name);
        }
        let mut reasons = Vec::new();
        for (at, attempts) in self.order(request) {
            let patience = Patience { attempts, ..self.context.transport.patience() };
            match self.fetch_from(at, request, patience, &mut part, &mut meter) {
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

    /// Fetches from one candidate until the file is there or trying again is no use.
    fn fetch_from(
        &self,
        at: usize,
        request: &Request,
        patience: Patience,
        part: &mut Partial,
        meter: &mut Meter,
    ) -> Result<PathBuf, Error> {
        let mut attempts = Attempts::new(patience, part.len());
        loop {
            match self.pump(at, request, part, meter) {
                Ok(url) => match part.finish(&url) {
                    Err(err @ Error::WrongDigest { .. }) => {
                        let pure = part.is_pure();
                        part.restart()?;
                        // What an earlier run or another candidate left may be the wrong part: once more, all from here.
                        if pure {
                            return Err(err);
                        }
                    }
                    result => return result,
                },
                // The server does not have the rest that was asked for: once more from the beginning.
                Err(Error::Range { .. } | Error::Status { status: 416, .. }) if part.len() > 0 => part.restart()?,
                Err(err) => attempts.again(err, part.len(), &self.stop)?,
            }
        }
    }

    /// Reads one answer to its end into the partial file and returns the address as it may be shown.
    fn pump(&self, at: usize, request: &Request, part: &mut Partial, meter: &mut Meter) -> Result<String, Error> {
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

    /// Returns the candidates in the order to try them, each with the number of attempts it gets.
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
        // The set is only ever added to, so a thread that died while holding it left it whole.
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
