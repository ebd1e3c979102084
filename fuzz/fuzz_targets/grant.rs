//! Names, networks and ports as a person writes them and as a guest asks for them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo::grant::{Cover, Grant, Host};

fuzz_target!(|text: &str| {
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
});
