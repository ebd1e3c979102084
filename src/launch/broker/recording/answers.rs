//! Finds the recorded response of a request.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use silo_store::read_limited;

use super::document::{self, Request, Response, place};
use silo_base::grant::Host;

/// The reason why there is no recorder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be opened or read.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The record is malformed.
    #[error("the record: {0}")]
    Record(#[from] document::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The file name of the list in the directory of a record. Bodies are named by their digests.
pub const LIST: &str = "list";

/// The responses of a record.
pub struct Answers {
    dir: PathBuf,
    /// The responses to a request in their order, and the number of requests so far.
    responses: HashMap<Request, (Vec<Response>, AtomicUsize)>,
    two: BTreeSet<String>,
}

impl Answers {
    /// Reads the list in a directory.
    pub fn open(dir: &Path) -> Result<Answers, Error> {
        let text = read_limited::read(&dir.join(LIST), document::MAX_BYTES as u64)?;
        let record = document::read(&text)?;
        let mut responses: HashMap<Request, (Vec<Response>, AtomicUsize)> = HashMap::new();
        let mut two = BTreeSet::new();
        for response in record.responses {
            if let Some((host, port)) = response.request.place().filter(|_| response.http2) {
                two.insert(place(&host, port));
            }
            responses.entry(response.request.clone()).or_default().0.push(response);
        }
        Ok(Answers { dir: dir.to_owned(), responses, two })
    }

    /// True if a place answered by HTTP/2.
    pub fn is_two(&self, host: &Host, port: u16) -> bool {
        self.two.contains(&place(host, port))
    }

    /// Returns the next response to a request; the last one answers all further requests.
    pub fn next(&self, request: &Request) -> Option<&Response> {
        let (responses, count) = self.responses.get(request)?;
        let at = count.fetch_add(1, Ordering::Relaxed).min(responses.len() - 1);
        responses.get(at)
    }

    /// Opens the body of a response, whose digest the build has verified.
    pub fn body(&self, response: &Response) -> io::Result<File> {
        let digest = response.digest().map_err(io::Error::other)?;
        let file = File::open(self.dir.join(digest.to_string()))?;
        if file.metadata()?.len() == response.size { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}
