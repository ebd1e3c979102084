//! The fetcher against a server that misbehaves: the right file, or a clear error, and never a wrong file.

mod faults;
mod processes;
mod redirects;
mod slow;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use silo_fetch::download::{Context, Request, fetch_all};
use silo_fetch::error::{Error, Size};
use silo_fetch::retry::RetryPolicy;
use silo_fetch::transport::Transport;

/// Large enough to arrive in several pieces.
const LEN: usize = 300_000;

fn content(seed: u8) -> Vec<u8> {
    (0..LEN).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(bytes: &[u8], candidates: &[String]) -> Request {
    Request { name: "the file".to_owned(), size: Size::Exactly(bytes.len() as u64), sha256: digest(bytes), candidates: candidates.to_vec() }
}

fn hurried() -> Transport {
    Transport::new(RetryPolicy {
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(2),
        attempts: 3,
        first_pause: Duration::from_millis(5),
        ..RetryPolicy::default()
    })
}

/// A directory of its own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("silo-fetch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the directory for temporary files can be written");
        Dir(path)
    }

    fn partial(&self, bytes: &[u8]) -> PathBuf {
        self.0.join("partial").join(hex(bytes))
    }

    /// Leaves the files of an interrupted run.
    fn leave(&self, bytes: &[u8], left: &[u8]) {
        fs::create_dir_all(self.0.join("partial")).expect("the directory can be written");
        fs::write(self.partial(bytes), left).expect("the directory can be written");
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fetch(dir: &Path, requests: &[Request]) -> Result<Vec<PathBuf>, Error> {
    let (transport, cancel) = (hurried(), AtomicBool::new(false));
    fetch_all(&Context { transport: &transport, dir, jobs: 8, sink: &|_| {}, cancel: &cancel }, requests, &|_, _| {})
}

/// Asserts that the directory holds the right files, or none, and at most a partial that is a true beginning or empty.
fn check_dir(dir: &Dir, files: &[&[u8]]) {
    for entry in fs::read_dir(&dir.0).expect("the directory is there").flatten() {
        if entry.file_name() == "partial" {
            continue;
        }
        let bytes = fs::read(entry.path()).expect("a final file can be read");
        assert_eq!(entry.file_name().to_string_lossy(), hex(&bytes), "a wrong file has a final name");
        assert!(files.contains(&bytes.as_slice()));
    }
}
