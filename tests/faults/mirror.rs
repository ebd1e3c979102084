//! A loopback copy of the machine's own mirror: packages that were fetched before, indexes from the real mirror.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock, PoisonError};

use silo_base::system::Arch;
use silo_fetch::fetch_small::{self, Request};
use silo_fetch::mirrors::{self, Overrides};
use silo_fetch::retry::RetryPolicy;
use silo_fetch::sources;
use silo_fetch::transport::Transport;
use silo_model::lock::{self, Archive, Lock};
use silo_model::recipe::catalog;

use crate::support::http::Http;
use crate::support::{As, Silo, pool};

/// Larger than any package or index that these tests take from a mirror.
const MAX_BYTES: u64 = 256 << 20;

/// A mirror with all that `sh` and `python` are made of.
pub fn mirror() -> Http {
    Http::over(origin)
}

/// The file at `/debian/<path>` or `/security/<path>`.
pub fn origin(path: &str) -> Option<Vec<u8>> {
    let (archive, rest) = match path.strip_prefix("/debian/") {
        Some(rest) => (Archive::Main, rest),
        None => (Archive::Security, path.strip_prefix("/security/")?),
    };
    match digest(rest) {
        Some(digest) => {
            let kept = pool("downloads").join(&digest);
            fs::read(&kept).ok().or_else(|| {
                let bytes = real(archive, rest)?;
                keep(&kept, &bytes);
                Some(bytes)
            })
        }
        None if rest.starts_with("dists/") => real_once(archive, rest),
        None => real(archive, rest),
    }
}

/// The lock of `sh` in this run: the one that ships, or a new one if mirrors have dropped its files.
pub fn lock_of_sh() -> Lock {
    read_lock("sh")
}

/// The path of the package `name` of `sh` on the mirror.
pub fn path_of(name: &str) -> String {
    let lock = lock_of_sh();
    let package = &lock.packages[&Arch::host()][name];
    let base = if package.archive == Archive::Main { "/debian/" } else { "/security/" };
    format!("{base}{}", package.path)
}

/// The digest of the package `name` of `sh`.
pub fn digest_of(name: &str) -> String {
    lock_of_sh().packages[&Arch::host()][name].sha256.0.to_string()
}

fn read_lock(name: &str) -> Lock {
    let _ = Silo::shared(As::Me);
    let path = pool("recipe-locks").join(format!("{name}.lock"));
    let built_in = catalog::built_in(name).expect("a built-in recipe").lock.to_owned();
    let mut locks = lock::parse(&fs::read_to_string(&path).unwrap_or(built_in), &path).expect("a lock file of our own");
    locks.remove(name).expect("the lock of the tool")
}

/// The digest of the file at a path, if the path or a lock contains it.
fn digest(path: &str) -> Option<String> {
    static PATHS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let paths = PATHS.get_or_init(|| {
        let locks = ["sh", "python"].map(read_lock);
        let packages = locks.iter().flat_map(|lock| lock.packages.values().flat_map(BTreeMap::values));
        packages.map(|package| (package.path.clone(), package.sha256.0.to_string())).collect()
    });
    let by_hash = || path.split_once("/by-hash/SHA256/").map(|(_, digest)| digest.to_owned());
    paths.get(path).cloned().or_else(by_hash)
}

/// Fetches a file of the real mirror once a run: indexes that change in between would not match.
fn real_once(archive: Archive, path: &str) -> Option<Vec<u8>> {
    static KEPT: Mutex<BTreeMap<String, Option<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.entry(format!("{archive:?} {path}")).or_insert_with(|| real(archive, path)).clone()
}

fn real(archive: Archive, path: &str) -> Option<Vec<u8>> {
    let mirrors = mirrors::mirrors(&sources::read_machine(Path::new("/etc/apt")), &Overrides::default());
    let candidates = mirrors.candidates(&archive, path, None);
    let request = Request { name: path.to_owned(), max_bytes: MAX_BYTES, sha256: None, candidates };
    let transport = Transport::new(RetryPolicy::default());
    fetch_small::fetch_text(&transport, &request, &|_| {}, &AtomicBool::new(false)).ok().map(|text| text.bytes)
}

/// Keeps a file for other runs; where that fails it is fetched again.
fn keep(path: &Path, bytes: &[u8]) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = path.with_file_name(format!(".{:?}-{name}", std::thread::current().id()));
    if fs::write(&staged, bytes).is_ok() {
        let _ = fs::rename(&staged, path);
    }
}
