//! A server that sends a byte now and then does not stall silo: it tries another candidate, or reports an error.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use silo_fetch::download::{Context, fetch_all};
use silo_fetch::error::Error;
use silo_fetch::fetch_small::{self, fetch_text};
use silo_fetch::retry::RetryPolicy;
use silo_fetch::transport::{Get, Transport};

use super::{Dir, content, hex, request};
use crate::support::http::{Fault, Http};

/// A byte often enough that no wait is long, and never enough of them.
const TRICKLE: Fault = Fault::Slow(1, Duration::from_millis(20));

fn transport() -> Transport {
    Transport::new(RetryPolicy {
        idle: Duration::from_secs(20),
        answer: Duration::from_secs(2),
        document: Duration::from_secs(2),
        window: Duration::from_secs(2),
        least: 10_000,
        first_pause: Duration::from_millis(5),
        ..RetryPolicy::default()
    })
}

#[test]
fn a_file_that_trickles_is_fetched_from_elsewhere() {
    let (slow, good, dir, bytes) = (Http::start(), Http::start(), Dir::new(), content(7));
    let urls = [slow.put("/a", &bytes, [TRICKLE]), good.put("/a", &bytes, [])];
    let (transport, cancel) = (transport(), AtomicBool::new(false));
    let context = Context { transport: &transport, dir: &dir.0, jobs: 1, sink: &|_| {}, cancel: &cancel };
    let alone = fetch_all(&context, &[request(&bytes, &urls[..1])], &|_, _| {});
    assert!(matches!(alone, Err(Error::Slow { .. })), "{alone:?}");
    assert_eq!(slow.seen().len(), 1, "it is not asked again");
    slow.misbehave("/a", [TRICKLE]);
    let paths = fetch_all(&context, &[request(&bytes, &urls)], &|_, _| {}).expect("the other has it");
    assert_eq!(paths, [dir.0.join(hex(&bytes))]);
}

#[test]
fn a_document_that_trickles_is_given_up() {
    let (http, bytes) = (Http::start(), content(8));
    let url = http.put("/a", &bytes, [TRICKLE, TRICKLE]);
    let (transport, cancel) = (transport(), AtomicBool::new(false));
    let wanted = fetch_small::Request { name: "it".to_owned(), max_bytes: 1 << 20, sha256: None, candidates: vec![url.clone()] };
    let text = fetch_text(&transport, &wanted, &|_| {}, &cancel);
    assert!(matches!(text, Err(Error::Slow { .. })), "{text:?}");
    let answer = transport.ask(Get { url: &url, accept: "*/*", pass: None, named_by: None, max_bytes: 1 << 20 }, &cancel);
    assert!(matches!(answer, Err(Error::Slow { .. })), "{answer:?}");
}

#[test]
fn an_answer_whose_head_trickles_is_given_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}/a", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ");
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let (transport, cancel) = (transport(), AtomicBool::new(false));
    let answer = transport.ask(Get { url: &url, accept: "*/*", pass: None, named_by: None, max_bytes: 1 << 20 }, &cancel);
    assert!(matches!(answer, Err(Error::Slow { .. })), "{answer:?}");
    let dir = Dir::new();
    let context = Context { transport: &transport, dir: &dir.0, jobs: 1, sink: &|_| {}, cancel: &cancel };
    let file = fetch_all(&context, &[request(&content(9), &[url])], &|_, _| {});
    assert!(matches!(file, Err(Error::Slow { .. })), "{file:?}");
}
