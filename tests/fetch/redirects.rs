//! Redirects, and other addresses that a server names: none leads to a server that only this machine or its network reaches.

use std::sync::atomic::AtomicBool;

use silo_fetch::exchange::{self, Method};
use silo_fetch::transport::Get;

use super::processes::child;
use super::{Dir, content, fetch, hurried, request};
use crate::support::http::{Fault, Http};

/// Addresses that a server on loopback may not name. Nothing answers there; each must be refused without a try.
const REFUSED: &[&str] = &[
    "http://10.0.0.1/x",
    "http://192.168.0.1:9000/x",
    "http://[fd00::1]/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/x",
    "http://100.100.100.200/x",
    "http://0.0.0.0:1/x",
    "http://[::ffff:169.254.169.254]/x",
    "http://2852039166/x",
    "https://169.254.169.254/x",
    "file:///etc/passwd",
    "http://me:secret@example.com/x",
];

#[test]
fn a_redirect_to_a_private_or_metadata_address_is_refused_without_a_try() {
    for to in REFUSED {
        let (http, dir, bytes) = (Http::start(), Dir::new(), content(20));
        let url = http.put("/a", &bytes, [Fault::Redirect((*to).to_owned())]);
        let err = fetch(&dir.0, &[request(&bytes, std::slice::from_ref(&url))]).expect_err(to).to_string();
        assert!(err.contains("bad redirect") && err.contains(&url) && !err.contains("secret"), "{to}: {err}");
        assert_eq!(http.seen().len(), 1, "{to}");
        // Documents and requests to a registry follow the same rule.
        let (transport, cancel) = (hurried(), AtomicBool::new(false));
        let url = http.put("/b", &bytes, vec![Fault::Redirect((*to).to_owned()); 2]);
        let get = Get { url: &url, accept: "*/*", pass: None, named_by: None, max_bytes: 1 << 20 };
        assert!(transport.ask(get, &cancel).expect_err(to).to_string().contains("bad redirect"), "{to}");
        let head = exchange::Request::new(Method::Head, &url, 1 << 20);
        assert!(transport.exchange(&head, &cancel).expect_err(to).to_string().contains("bad redirect"), "{to}");
        assert_eq!(http.seen().len(), 3, "{to}");
    }
}

#[test]
fn a_server_on_loopback_may_name_another_one_there() {
    let (http, other, dir, bytes) = (Http::start(), Http::start(), Dir::new(), content(21));
    let there = other.put("/there", &bytes, []);
    let url = http.put("/a", b"", [Fault::Redirect(there)]);
    fetch(&dir.0, &[request(&bytes, &[url])]).expect("the user named a server on loopback");
    assert_eq!(other.seen().len(), 1);
}

/// A proxy answers for the public server, and the address that this server names is reached directly.
#[test]
fn a_public_server_cannot_name_a_server_of_this_machine() {
    let (public, bait, bytes) = (Http::start(), Http::start(), content(22));
    bait.put("/bait", &bytes, []);
    let port = bait.url("").rsplit(':').next().expect("a port").to_owned();
    let url = "http://mirror.example.com/pool/a.deb";
    let direct = [("HTTP_PROXY", public.url("")), ("NO_PROXY", "127.0.0.1,localhost,::1".to_owned())];
    let direct: Vec<(&str, &str)> = direct.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for host in ["127.0.0.1", "localhost", "localhost.", "127.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let dir = Dir::new();
        public.put("/pool/a.deb", &bytes, [Fault::Redirect(format!("http://{host}:{port}/bait"))]);
        assert!(!child(&dir.0, url, &bytes, &direct).wait().expect("the child ends").success(), "{host}");
    }
    assert_eq!(bait.seen(), []);
    // The same child fetches the file if the server does not redirect, so the redirect was the reason.
    let dir = Dir::new();
    public.put("/pool/a.deb", &bytes, []);
    assert!(child(&dir.0, url, &bytes, &direct).wait().expect("the child ends").success());
    // A token service, or the place of an upload, is an address that a server names, too.
    let (transport, cancel, there) = (hurried(), AtomicBool::new(false), bait.url("/bait"));
    let get = Get { url: &there, accept: "*/*", pass: None, named_by: Some("http://registry.example.com/v2/x"), max_bytes: 1 << 20 };
    assert!(transport.ask(get, &cancel).is_err());
    let named_by = Some("http://registry.example.com/v2/x");
    let put = exchange::Request { named_by, body: b"x", ..exchange::Request::new(Method::Put, &there, 1 << 20) };
    assert!(transport.exchange(&put, &cancel).is_err());
    assert_eq!(bait.seen(), []);
}

#[test]
fn a_pause_that_a_server_wants_is_kept_up_to_a_bound() {
    for (pause, requests, ends_well) in [(0, 2, true), (1, 2, true), (61, 1, false), (u64::MAX, 1, false)] {
        let (http, bytes) = (Http::start(), content(23));
        let url = http.put("/v2/x/manifests/v1", &bytes, [Fault::Wait(429, pause)]);
        let (transport, cancel) = (hurried(), AtomicBool::new(false));
        let began = std::time::Instant::now();
        let done = transport.exchange(&exchange::Request::new(Method::Get, &url, 1 << 20), &cancel);
        assert_eq!((done.is_ok(), http.seen().len()), (ends_well, requests), "{pause}: {done:?}");
        assert!(!ends_well || began.elapsed().as_secs() >= pause, "{pause}");
        if let Err(error) = done {
            assert!(error.to_string().contains("and wants a pause of"), "{error}");
        }
    }
}
