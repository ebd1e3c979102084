//! A server that misbehaves.

use super::{Dir, LEN, check_dir, content, digest, fetch, hex, request};
use crate::support::http::{Fault, Http};
use silo_fetch::download::{Request, verify_file};
use std::time::{Duration, Instant};

#[test]
fn each_fault_ends_in_the_right_file() {
    let table: Vec<(&str, Vec<Fault>, &[&str])> = vec![
        ("honest", vec![], &[""]),
        ("dropped twice", vec![Fault::Drop(100_000), Fault::Drop(50_000)], &["", "bytes=100000-", "bytes=150000-"]),
        ("stalled", vec![Fault::Stall(100_000)], &["", "bytes=100000-"]),
        ("in trouble twice", vec![Fault::Status(500), Fault::Status(503)], &["", "", ""]),
        ("no ranges", vec![Fault::Drop(100_000), Fault::IgnoreRange], &["", "bytes=100000-"]),
        ("another range", vec![Fault::Drop(100_000), Fault::OtherRange], &["", "bytes=100000-", ""]),
        ("cut off without a word", vec![Fault::Unannounced(100_000)], &["", "bytes=100000-"]),
        ("dropped at once", vec![Fault::Drop(0)], &["", ""]),
    ];
    for (what, faults, ranges) in table {
        let (http, dir, bytes) = (Http::start(), Dir::new(), content(1));
        let url = http.put("/pool/a.deb", &bytes, faults);
        let paths = fetch(&dir.0, &[request(&bytes, &[url])]).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!(paths, [dir.0.join(hex(&bytes))], "{what}");
        verify_file(&paths[0], &digest(&bytes)).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert!(!dir.partial(&bytes).exists(), "{what}");
        assert_eq!(http.ranges(), ranges, "{what}");
        assert!(http.seen()[0].agent.as_deref().is_some_and(|agent| agent.starts_with("silo/")), "{what}");
    }
}

#[test]
fn each_lasting_fault_ends_in_a_clear_error() {
    let table: Vec<(Vec<Fault>, usize, &str)> = vec![
        (vec![Fault::Status(401)], 1, "401 (login wanted)"),
        (vec![Fault::Status(403)], 1, "403 (forbidden)"),
        (vec![Fault::Status(404)], 1, "the file: gone from http://"),
        (vec![Fault::Status(407)], 1, "407 (the proxy wants a login)"),
        (vec![Fault::Status(410)], 1, "the file: gone from http://"),
        (vec![Fault::Status(429); 3], 3, "429 (too many requests)"),
        (vec![Fault::Wait(429, 3600)], 1, "429 (too many requests)"),
        (vec![Fault::Status(500); 3], 3, "500 (internal error)"),
        (vec![Fault::Status(418)], 1, "418"),
        (vec![Fault::WrongBytes], 1, "expected sha256 "),
        (vec![Fault::Short(1000)], 1, "expected 300000 bytes, got 1000 bytes"),
        (vec![Fault::TooLong(1)], 1, "expected 300000 bytes, got 300001 bytes"),
        (vec![Fault::Stall(0); 3], 3, "nothing arrived for 2 s"),
        (vec![Fault::Drop(10), Fault::Drop(0), Fault::Drop(0)], 3, "the connection broke"),
        (vec![Fault::Redirect("ftp://example.com/".to_owned())], 1, "redirect"),
    ];
    for (faults, requests, expect) in table {
        let (http, dir, bytes) = (Http::start(), Dir::new(), content(2));
        let url = http.put("/a", &bytes, faults.clone());
        let err = fetch(&dir.0, &[request(&bytes, std::slice::from_ref(&url))]).expect_err(expect);
        let text = err.to_string();
        assert!(text.contains(expect) && text.contains(&url), "{faults:?}: {text}");
        assert_eq!(http.seen().len(), requests, "{faults:?}: {text}");
        check_dir(&dir, &[]);
    }
}

#[test]
fn a_redirect_chain_has_an_end() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(2));
    let end = http.put("/end", &bytes, []);
    let url = http.put("/a", b"", [Fault::Redirect(end)]);
    fetch(&dir.0, &[request(&bytes, &[url])]).expect("one redirect is followed");
    let other = content(3);
    let circle = http.url("/circle");
    http.put("/circle", &other, vec![Fault::Redirect(circle.clone()); 50]);
    let err = fetch(&dir.0, &[request(&other, &[circle])]).expect_err("a circle");
    assert!(err.to_string().contains("more than 10 in a row"), "{err}");
}

#[test]
fn an_earlier_run_is_resumed_and_never_believed() {
    let bytes = content(4);
    let longer = [bytes.as_slice(), b"x"].concat();
    let table: Vec<(&str, &[u8], &[&str])> = vec![
        ("a true beginning", &bytes[..200_000], &["bytes=200000-"]),
        ("all of it", &bytes, &[]),
        ("nothing", b"", &[""]),
        ("a wrong beginning", &[0; 1000], &["bytes=1000-", ""]),
        ("too much", &longer, &[""]),
        ("as long, and wrong", &[0; LEN], &["bytes=300000-", ""]),
    ];
    for (what, left, ranges) in table {
        let (http, dir) = (Http::start(), Dir::new());
        let url = http.put("/a", &bytes, []);
        dir.leave(&bytes, left);
        let paths = fetch(&dir.0, &[request(&bytes, &[url])]).unwrap_or_else(|err| panic!("{what}: {err}"));
        verify_file(&paths[0], &digest(&bytes)).unwrap_or_else(|err| panic!("{what}: {err}"));
        assert_eq!(http.ranges(), ranges, "{what}");
    }
}

#[test]
fn candidates_are_tried_in_order_and_a_dead_server_is_tried_last() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(5));
    let good = http.put("/good", &bytes, []);
    let wrong = http.put("/wrong", &bytes, [Fault::WrongBytes]);
    let missing = http.url("/missing");
    let paths = fetch(&dir.0, &[request(&bytes, &[missing.clone(), wrong.clone(), good])]).expect("the third candidate is good");
    verify_file(&paths[0], &digest(&bytes)).expect("the file is right");
    assert_eq!(http.seen().iter().map(|seen| seen.target.as_str()).collect::<Vec<_>>(), ["/missing", "/wrong", "/good"]);

    // Nothing listens there; the files after the first ones try it last.
    let dead = format!("http://127.0.0.1:{}/a", crate::support::free_port());
    let (http, dir) = (Http::start(), Dir::new());
    let files: Vec<Vec<u8>> = (10..14).map(content).collect();
    let requests: Vec<Request> =
        files.iter().enumerate().map(|(at, bytes)| request(bytes, &[dead.clone(), http.put(&format!("/{at}"), bytes, [])])).collect();
    fetch(&dir.0, &requests).expect("the second server has them");
    let gone = fetch(&dir.0, &[request(&bytes, &[missing.clone(), missing])]).expect_err("it is nowhere");
    assert!(gone.is_gone() && gone.hint().is_some(), "{gone}");
    let mixed = fetch(&dir.0, &[request(&bytes, &[dead])]).expect_err("nobody answers");
    assert!(!mixed.is_gone() && mixed.to_string().contains("Connection refused"), "{mixed}");
    let nowhere = fetch(&dir.0, &[request(&bytes, &[])]).expect_err("no candidates");
    assert!(nowhere.to_string().contains("no mirror is known"), "{nowhere}");
}

#[test]
fn retry_after_is_honoured() {
    let (http, dir, bytes) = (Http::start(), Dir::new(), content(6));
    let url = http.put("/a", &bytes, [Fault::Wait(429, 1)]);
    let start = Instant::now();
    fetch(&dir.0, &[request(&bytes, &[url])]).expect("the second attempt works");
    assert!(start.elapsed() >= Duration::from_secs(1));
}
