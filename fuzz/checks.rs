//! What must hold of everything that a guest can send, for whatever bytes: the fuzz targets try new ones, and the tests
//! those that were found to matter (`corpus/`).

use silo::broker::hello;
use silo::broker::request::{end_of_head, parse};
use silo::grant::{Cover, Grant, Host};
use silo_wire::{Answer, Ask};

/// Messages of a sandbox's agent: whatever arrives is read whole or not at all.
pub fn wire(data: &[u8]) {
    if let Some(ask) = Ask::from_bytes(data) {
        assert_eq!(ask.to_bytes(), data);
    }
    if let Some(answer) = Answer::from_bytes(data) {
        assert_eq!(answer.to_bytes(), data);
    }
}

/// What a TLS client says first.
pub fn hello(data: &[u8]) {
    let _ = hello::read(data);
}

/// The head of a plain HTTP request on its way to the machine's proxy, as a hostile guest writes it.
pub fn request(data: &[u8]) {
    let head = match end_of_head(data) {
        Ok(Some(end)) => &data[..end],
        _ => data,
    };
    let host = Host::parse("a.example").expect("a host");
    let Ok(exchange) = parse(head, &host, 80) else { return };
    // What is passed on is one whole head, for the host that was connected to.
    let passed = exchange.for_proxy(&host, 80, None);
    assert_eq!(end_of_head(passed.as_bytes()).ok().flatten().unwrap_or(passed.len()), passed.len());
    assert!(passed.split(' ').nth(1).is_some_and(|target| target.starts_with("http://a.example/")));
    assert_eq!(passed.matches("\r\nHost: a.example\r\n").count(), 1);
}

/// Names, networks and ports as a person writes them and as a guest asks for them.
pub fn grant(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(host) = Host::parse(text) {
        // One spelling, which is ASCII and stays itself.
        assert!(host.as_str().is_ascii() && host.as_str().len() <= 253);
        assert_eq!(Host::parse(host.as_str()), Some(host));
    }
    let Some(grant) = Grant::parse(text) else { return };
    assert!(grant.ranges().iter().all(|(from, to)| 0 < *from && from <= to));
    for (place, port) in [("127.0.0.1", 22), ("host.silo.internal", 22), ("169.254.169.254", 80), ("localhost", 80), ("[::1]", 443)] {
        let host = Host::parse(place).expect("a host");
        // Only by its own name, or as one of a private network that is named, does anybody reach this machine.
        if grant.covers(&host, port) == Some(Cover::Exact) {
            assert!(grant.host() == Some(&host) || grant.block().is_some_and(|block| block.is_apart()), "{text}");
            assert!(grant.block().is_none() || place.starts_with("169.254"), "{text}");
        }
    }
}
