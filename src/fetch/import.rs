//! Imports a file from inside another one into the downloads directory, such as a layer of an archive.
//!
//! It takes the path of a download: written to a partial file under a lock, hashed during the write, and renamed to its digest only if that
//! matches.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use silo_store::private;

use super::download::Request;
use super::error::{Error, Size};
use super::partial::{Claim, Pin, Use, claim, sync_dir};
use super::retry::Stop;

/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;

/// Imports the bytes of `from` into `dir` as the pinned file of the request, unless it is present; `place` is their source in errors.
///
/// Leaves nothing if the bytes differ from the pin or are incomplete.
pub fn deposit(dir: &Path, request: &Request, from: &mut dyn Read, place: &str, cancel: &AtomicBool) -> Result<(), Error> {
    let partial = dir.join("partial");
    private::make_dir(&partial).map_err(|err| Error::io("create", &partial, err.source))?;
    let stop = Stop::new(cancel);
    let pin = Pin { sha256: &request.sha256, size: request.size };
    let Claim::Ours(mut part) = claim(dir, pin, &stop, || {})? else { return Ok(()) };
    part.restart()?;
    let filled = fill(&mut part, request.size, from, place, &stop).and_then(|()| part.finish(place, Use::Lasting));
    if filled.is_err() {
        // The earlier error matters more; the empty file is removed on drop.
        drop(part.restart());
    }
    filled?;
    sync_dir(dir)
}

fn fill(part: &mut super::partial::Partial, size: Size, from: &mut dyn Read, place: &str, stop: &Stop<'_>) -> Result<(), Error> {
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        stop.check()?;
        let count = from.read(&mut piece).map_err(|err| Error::io("read", Path::new(place), err))?;
        if count == 0 {
            break;
        }
        let len = part.len().saturating_add(count as u64);
        if len > size.bound() {
            return Err(Error::WrongSize { url: place.to_owned(), expected: size, got: len });
        }
        part.append(&piece[..count])?;
    }
    match size.admits(part.len()) {
        true => Ok(()),
        false => Err(Error::WrongSize { url: place.to_owned(), expected: size, got: part.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;
    use std::fs;

    #[test]
    fn only_bytes_with_the_pinned_digest_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let request = |text: &str, size: u64| Request {
            name: "x".to_owned(),
            size: Size::Exactly(size),
            sha256: sha2::Sha256::digest(text).into(),
            candidates: Vec::new(),
        };
        let never = AtomicBool::new(false);
        let put = |request: &Request, text: &str| deposit(dir.path(), request, &mut text.as_bytes(), "a.tar", &never);
        let left = || {
            let names = |dir: &Path| fs::read_dir(dir).expect("a directory").flatten().filter(|entry| entry.path().is_file()).count();
            (names(dir.path()), names(&dir.path().join("partial")))
        };
        let wrong = put(&request("right", 5), "wrong").expect_err("another digest");
        assert!(matches!(wrong, Error::WrongDigest { .. }), "{wrong}");
        let long = put(&request("right", 5), "right and more").expect_err("too much");
        let short = put(&request("right", 5), "rig").expect_err("too little");
        assert!(matches!((&long, &short), (Error::WrongSize { .. }, Error::WrongSize { got: 3, .. })), "{long} {short}");
        assert_eq!(left(), (0, 0));
        put(&request("right", 5), "right").expect("it is what is pinned");
        put(&request("right", 5), "not read").expect("it is there");
        assert_eq!(left(), (1, 0));
    }
}
