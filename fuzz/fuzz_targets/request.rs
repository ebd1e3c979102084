//! The head of a plain HTTP request on its way to the machine's proxy, as a hostile guest writes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo::broker::request::{end_of_head, parse};
use silo::grant::Host;

fuzz_target!(|bytes: &[u8]| {
    let head = match end_of_head(bytes) {
        Ok(Some(end)) => &bytes[..end],
        _ => bytes,
    };
    let host = Host::parse("a.example").expect("a host");
    let Ok(exchange) = parse(head, &host, 80) else { return };
    // What is passed on is one whole head, for the host that was connected to.
    let passed = exchange.for_proxy(&host, 80, None);
    assert_eq!(end_of_head(passed.as_bytes()).ok().flatten().unwrap_or(passed.len()), passed.len());
    assert!(passed.split(' ').nth(1).is_some_and(|target| target.starts_with("http://a.example/")));
    assert_eq!(passed.matches("\r\nHost: a.example\r\n").count(), 1);
});
