//! Many files, progress, stopping, local files, texts, TLS, a full disk.

use super::{Dir, LEN, check_dir, content, digest, fetch, hex, hurried, request};
use crate::support::http::{Fault, Http};
use silo_base::event::Event;
use silo_fetch::download::Context;
use silo_fetch::download::Request;
use silo_fetch::download::fetch_all;
use silo_fetch::download::fetch_checked;
use silo_fetch::download::is_present;
use silo_fetch::download::verify_file;
use silo_fetch::error::Error;
use silo_fetch::fetch_small::{self, fetch_text};
use silo_fetch::retry::RetryPolicy;
use silo_fetch::transport::Transport;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

#[test]
fn many_files_arrive_with_progress_and_one_event_each() {
    let (http, dir) = (Http::start(), Dir::new());
    let files: Vec<Vec<u8>> = (0..20).map(content).collect();
    let mut requests: Vec<Request> =
        files.iter().enumerate().map(|(at, bytes)| request(bytes, &[http.put(&format!("/{at}"), bytes, [])])).collect();
    // The same file twice: one fetches it, the other waits for the lock.
    requests.push(requests[0].clone());
    let (events, told) = (Mutex::new(Vec::new()), Mutex::new(vec![0; requests.len()]));
    let (transport, cancel) = (hurried(), AtomicBool::new(false));
    let sink = |event| events.lock().expect("no thread panics").push(event);
    let context = Context { transport: &transport, dir: &dir.0, jobs: 100, sink: &sink, cancel: &cancel };
    let on_done = |at: usize, path: &Path| {
        verify_file(path, &requests[at].sha256).expect("it is whole when it is told");
        told.lock().expect("no thread panics")[at] += 1;
    };
    fetch_all(&context, &requests, &on_done).expect("the server is honest");
    assert!(told.lock().expect("no thread panics").iter().all(|times| *times == 1));
    let events = std::mem::take(&mut *events.lock().expect("no thread panics"));
    let started: Vec<u64> =
        events.iter().filter_map(|event| if let Event::Started { id, .. } = event { Some(*id) } else { None }).collect();
    let finished = events.iter().filter(|event| matches!(event, Event::Finished { .. })).count();
    assert_eq!((started.len(), finished), (22, 22));
    assert!(matches!(&events[0], Event::Started { name, total: Some(6_300_000), .. } if name == "21 files"));
    let last = events
        .iter()
        .rev()
        .find_map(|event| if let Event::Progress { id, done } = event { (*id == started[0]).then_some(*done) } else { None });
    assert_eq!(last, Some(6_300_000));

    // A second call finds all files: no request, no event, but one callback each.
    let before = http.seen().len();
    let silent = |event: Event| panic!("{event:?}");
    fetch_all(&Context { sink: &silent, ..context }, &requests, &on_done).expect("all is there");
    assert_eq!(http.seen().len(), before);
    assert!(told.lock().expect("no thread panics").iter().all(|times| *times == 2));
    assert!(is_present(&dir.0, &requests[0]));
    // A file of another size is fetched again.
    fs::write(dir.0.join(hex(&files[0])), b"short").expect("the directory can be written");
    fetch(&dir.0, &requests[..1]).expect("the server is honest");
    verify_file(&dir.0.join(hex(&files[0])), &digest(&files[0])).expect("it was mended");
}

#[test]
fn a_changed_file_is_fetched_again_if_no_later_step_checks() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(17));
    let requests = [request(&bytes, &[http.put("/a", &bytes, [])])];
    let (transport, cancel) = (hurried(), AtomicBool::new(false));
    let context = Context { transport: &transport, dir: &dir.0, jobs: 1, sink: &|_| {}, cancel: &cancel };
    let paths = fetch_checked(&context, &requests).expect("the server is honest");
    let mut wrong = bytes.clone();
    wrong[LEN / 2] ^= 1;
    fs::write(&paths[0], wrong).expect("the directory can be written");
    assert_eq!(fetch_checked(&context, &requests).expect("the server is honest"), paths);
    verify_file(&paths[0], &digest(&bytes)).expect("it was mended");
    let _ = fetch_checked(&context, &requests).expect("it is there");
    assert_eq!(http.seen().len(), 2);
}

#[test]
fn stopping_is_quick_and_leaves_a_beginning() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(7));
    let url = http.put("/a", &bytes, [Fault::Stall(100_000)]);
    let transport = Transport::new(RetryPolicy::default());
    let cancel = AtomicBool::new(false);
    let context = Context { transport: &transport, dir: &dir.0, jobs: 1, sink: &|_| {}, cancel: &cancel };
    let stopped = std::sync::OnceLock::new();
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            let is_there = || fs::metadata(dir.partial(&bytes)).is_ok_and(|facts| facts.len() == 100_000);
            while !is_there() && start.elapsed() < Duration::from_secs(60) {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = stopped.set(Instant::now());
            cancel.store(true, Ordering::Relaxed);
        });
        fetch_all(&context, &[request(&bytes, std::slice::from_ref(&url))], &|_, _| {})
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    // The server is silent for longer.
    let took = stopped.get().expect("it was stopped").elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(fs::read(dir.partial(&bytes)).ok().as_deref(), Some(&bytes[..100_000]));
    fetch(&dir.0, &[request(&bytes, &[url])]).expect("it goes on");
    assert_eq!(http.ranges(), ["", "bytes=100000-"]);
}

#[test]
fn one_failure_stops_the_others() {
    let (http, dir) = (Http::start(), Dir::new());
    let (slow, gone) = (content(8), content(9));
    let requests =
        [request(&slow, &[http.put("/slow", &slow, [Fault::Slow(1000, Duration::from_millis(50))])]), request(&gone, &[http.url("/gone")])];
    let start = Instant::now();
    let err = fetch(&dir.0, &requests).expect_err("one is gone");
    assert!(err.is_gone(), "{err}");
    assert!(start.elapsed() < Duration::from_secs(10));
    check_dir(&dir, &[&slow]);
}

#[test]
fn local_mirrors_need_no_network() {
    let (dir, mirror, bytes) = (Dir::new(), Dir::new(), content(10));
    fs::write(mirror.0.join("a b+c.deb"), &bytes).expect("the directory can be written");
    let base = mirror.0.display().to_string();
    for url in [format!("{base}/a b+c.deb"), format!("file://{base}/a%20b%2bc.deb"), format!("file:{base}/a%20b+c.deb")] {
        dir.leave(&bytes, &bytes[..1000]);
        let paths = fetch(&dir.0, &[request(&bytes, &[url])]).expect("the file is there");
        verify_file(&paths[0], &digest(&bytes)).expect("the file is right");
        fs::remove_file(&paths[0]).expect("the directory can be written");
    }
    let gone = fetch(&dir.0, &[request(&bytes, &[format!("{base}/none")])]).expect_err("there is no such file");
    assert!(gone.is_gone(), "{gone}");
    let folder = fetch(&dir.0, &[request(&bytes, &[base])]).expect_err("it is a directory");
    assert!(folder.to_string().contains("not a regular file"), "{folder}");
}

#[test]
fn texts_are_bounded_and_tried_again() {
    let (http, bytes) = (Http::start(), content(11));
    let cancel = AtomicBool::new(false);
    let get = |request: &fetch_small::Request| fetch_text(&hurried(), request, &|_| {}, &cancel);
    let ask = |url: String, max_bytes, sha256| fetch_small::Request {
        name: "InRelease".to_owned(),
        max_bytes,
        sha256,
        candidates: vec![http.url("/none"), url],
    };
    let url = http.put("/a", &bytes, [Fault::Status(502), Fault::Drop(1000)]);
    let found = get(&ask(url.clone(), LEN as u64, Some(digest(&bytes)))).expect("the third attempt works");
    assert_eq!((found.bytes.as_slice(), found.candidate), (bytes.as_slice(), 1));
    assert!(http.ranges().iter().all(String::is_empty));
    let table = [
        (vec![], LEN as u64 - 1, None, "at most 299999 bytes"),
        (vec![Fault::Unannounced(LEN)], 10, None, "at most 10 bytes"),
        (vec![], LEN as u64, Some([0; 32]), "expected sha256"),
    ];
    for (faults, max_bytes, sha256, expect) in table {
        let url = http.put("/a", &bytes, faults);
        let err = get(&ask(url, max_bytes, sha256)).expect_err(expect);
        assert!(err.to_string().contains(expect), "{err}");
    }
}

#[test]
fn tls_errors_are_reported_as_such() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(12));
    let url = http.put("/a", &bytes, []).replace("http://", "https://");
    let err = fetch(&dir.0, &[request(&bytes, &[url])]).expect_err("the server speaks no TLS");
    assert!(matches!(err, Error::Tls { .. }), "{err:?}");
}

/// A mounted directory, let go even when the test fails.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_as_such() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(13));
    let small = dir.0.join("small");
    fs::create_dir(&small).expect("the directory can be written");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]).arg(&small).stderr(Stdio::null()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        let _ = writeln!(std::io::stderr(), "skipped: a full disk (no permission to mount a tmpfs here)");
        return;
    }
    let mount = Mount(small.clone());
    let url = http.put("/a", &bytes, []);
    let result = fetch(&small, &[request(&bytes, &[url])]);
    let left = fs::metadata(small.join("partial").join(hex(&bytes))).map(|facts| facts.len());
    drop(mount);
    let err = result.expect_err("the file does not fit");
    assert!(err.to_string().contains("No space left") && err.hint().is_some_and(|hint| hint.contains("free some space")), "{err}");
    assert!(left.is_ok_and(|left| left > 0 && left < LEN as u64), "the beginning is kept");
}

/// Files that are read once are verified as all others, and resumed.
#[test]
fn files_that_are_read_once_are_verified_and_resumed() {
    let (http, dir, bytes, other) = (Http::start(), Dir::new(), content(30), content(31));
    let good = http.put("/good", &bytes, [Fault::Drop(100_000)]);
    let wrong = http.put("/wrong", &other, [Fault::WrongBytes]);
    let (transport, cancel) = (hurried(), AtomicBool::new(false));
    let context = Context { transport: &transport, dir: &dir.0, jobs: 2, sink: &|_| {}, cancel: &cancel };
    let read = std::sync::Mutex::new(Vec::new());
    let once = |_: usize, path: &std::path::Path| {
        read.lock().expect("nobody panics here").push(std::fs::read(path).expect("a file"));
        std::fs::remove_file(path).expect("our own");
    };
    silo_fetch::download::fetch_once(&context, &[request(&bytes, &[good])], &once).expect("the server is honest in the end");
    assert_eq!(*read.lock().expect("nobody panics here"), [bytes]);
    assert_eq!(http.ranges(), ["", "bytes=100000-"]);
    let refused = silo_fetch::download::fetch_once(&context, &[request(&other, &[wrong])], &once);
    assert!(refused.expect_err("wrong bytes").to_string().contains("expected sha256"));
    assert_eq!(read.lock().expect("nobody panics here").len(), 1);
}
