//! The head of a request to the broker's proxy, as a hostile guest writes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo::broker::request::{Error, Wish, end_of_head, parse};
use silo::grant::{Grant, Host, that_covers};

fuzz_target!(|bytes: &[u8]| {
    let head = match end_of_head(bytes) {
        Ok(Some(end)) => &bytes[..end],
        _ => bytes,
    };
    let Ok(request) = parse(head) else { return };
    // A host is spelled in one way, and the grant that is suggested for it covers it.
    assert_eq!(Host::parse(request.host.as_str()).as_ref(), Some(&request.host));
    let grant = Grant::parse(&that_covers(&request.host, request.port)).expect("a suggestion is a grant");
    assert!(grant.covers(&request.host, request.port).is_some());
    if let Wish::Exchange(exchange) = &request.wish {
        // What is passed on is one whole head, for the host that was judged.
        let passed = exchange.for_host(&request.host, request.port);
        assert_eq!(end_of_head(passed.as_bytes()).ok().flatten().unwrap_or(passed.len()), passed.len());
        match parse(exchange.for_proxy(&request.host, request.port, None).as_bytes()) {
            Ok(again) => assert_eq!((again.host, again.port), (request.host, request.port)),
            // Two lines were added to as many as are read.
            Err(error) => assert_eq!(error, Error::Long),
        }
    }
});
