//! Tests that need a process: the proxy of the environment, two processes in parallel, kill -9.

use super::{Dir, content, digest, fetch, hex, request};
use crate::support::http::{Fault, Http};
use silo_fetch::download::Request;
use silo_fetch::download::verify_file;
use silo_fetch::error::Size;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Set for a copy of this program that is to fetch one file: `dir`, `url`, `name of the file`.
const CHILD: &str = "SILO_TEST_FETCH";

/// Starts a copy of this program that fetches one file and does nothing else.
pub(super) fn child(dir: &Path, url: &str, bytes: &[u8], environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--exact", "fetch::processes::a_copy_of_this_program_fetches", "--nocapture"]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command.env(CHILD, format!("{}\n{url}\n{}\n{}", dir.display(), hex(bytes), bytes.len()));
    command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("this program can be started again")
}

/// Does nothing by itself; it is the work of [`child`].
#[test]
#[allow(clippy::disallowed_methods, reason = "the parent speaks to its copy through the environment")]
fn a_copy_of_this_program_fetches() {
    let Some(order) = std::env::var_os(CHILD) else {
        return;
    };
    let order = order.into_string().expect("the parent wrote text");
    let [dir, url, digest, len] = order.split('\n').collect::<Vec<_>>()[..] else { panic!("four lines, not {order}") };
    let mut sha256 = [0; 32];
    for (at, byte) in sha256.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).expect("the parent wrote hex");
    }
    let size = Size::Exactly(len.parse().expect("the parent wrote a number"));
    let request = Request { name: "the file".to_owned(), size, sha256, candidates: vec![url.to_owned()] };
    fetch(Path::new(dir), &[request]).expect("the parent's server is honest");
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let (proxy, bytes) = (Http::start(), content(14));
    proxy.put("/pool/a.deb", &bytes, []);
    let url = "http://mirror.example.com/pool/a.deb";
    let address = proxy.url("");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let dir = Dir::new();
        let status = child(&dir.0, url, &bytes, &[(name, &address)]).wait().expect("the child ends");
        assert!(status.success(), "{name}");
        verify_file(&dir.0.join(hex(&bytes)), &digest(&bytes)).expect("the file is right");
    }
    assert!(proxy.seen().iter().all(|seen| seen.target == url), "{:?}", proxy.seen());
    // A dead proxy is no matter for a host that NO_PROXY names.
    let dir = Dir::new();
    let status =
        child(&dir.0, &proxy.url("/pool/a.deb"), &bytes, &[("HTTP_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "127.0.0.1")]).wait();
    assert!(status.is_ok_and(|status| status.success()));
}

#[test]
fn two_processes_fetch_a_file_once() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(15));
    let url = http.put("/a", &bytes, [Fault::Slow(30_000, Duration::from_millis(50))]);
    let children = [child(&dir.0, &url, &bytes, &[]), child(&dir.0, &url, &bytes, &[])];
    for mut child in children {
        assert!(child.wait().is_ok_and(|status| status.success()));
    }
    assert_eq!(http.ranges(), [""]);
    verify_file(&dir.0.join(hex(&bytes)), &digest(&bytes)).expect("the file is right");
}

#[test]
fn a_killed_process_is_taken_over_from() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(16));
    let url = http.put("/a", &bytes, [Fault::Slow(10_000, Duration::from_millis(50))]);
    let mut first = child(&dir.0, &url, &bytes, &[]);
    let start = Instant::now();
    while fs::metadata(dir.partial(&bytes)).map_or(0, |facts| facts.len()) == 0 && start.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(5));
    }
    first.kill().and_then(|()| first.wait().map(drop)).expect("the child can be killed");
    fetch(&dir.0, &[request(&bytes, &[url])]).expect("the lock died with its holder");
    verify_file(&dir.0.join(hex(&bytes)), &digest(&bytes)).expect("the file is right");
    let ranges = http.ranges();
    assert!(ranges.len() == 2 && ranges[1].starts_with("bytes="), "{ranges:?}");
}
