//! The rule for addresses that a server names: redirects, token services, places of uploads.
//!
//! A hostile server could name an address that only this machine reaches: a service on loopback, a device of the network, the metadata of a
//! cloud. So a server may name public addresses, its own host, and hosts of its own zone: a private registry its private storage, a
//! registry on loopback a storage on loopback. Nothing else may be named, not even by a server that is closer: link-local and metadata
//! addresses never are. Encryption is never lost on the way.

use std::net::IpAddr;

use reqwest::{StatusCode, Url};

use silo_base::grant::address::{Owner, owner};
use silo_base::sanitize::brief;

/// The most redirects of a request; browsers stop at 20, mirrors need one or two.
pub const MAX_REDIRECTS: usize = 10;
/// The longest address that a server names.
const MAX_BYTES: usize = 8 << 10;

/// The end of a message about an address that is not permitted.
pub const NOT_PUBLIC: &str = "a private address or one of this machine, which only a server of the same kind may name";

/// The part of the network in which a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    /// Everywhere.
    Public,
    /// A private network.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, cloud metadata, multicast, or unclear.
    Closed,
}

/// Returns the zone of an address.
pub fn zone_of(address: IpAddr) -> Zone {
    match owner(address) {
        Owner::World => Zone::Public,
        Owner::Network => Zone::Private,
        Owner::Machine if address.to_canonical().is_loopback() => Zone::Loopback,
        Owner::Machine => Zone::Closed,
    }
}

/// Returns the zone of a server by its address; `None` for a name, which must be looked up.
pub fn zone_of_url(url: &Url) -> Option<Zone> {
    let name = url.host_str().unwrap_or_default();
    let plain = name.trim_end_matches('.');
    if plain == "localhost" || plain.ends_with(".localhost") {
        return Some(Zone::Loopback);
    }
    name.trim_start_matches('[').trim_end_matches(']').parse().ok().map(zone_of)
}

/// Whether a server in one zone may name a server in another.
pub fn may_name(from: Zone, to: Zone) -> bool {
    to == Zone::Public || (to == from && to != Zone::Closed)
}

/// Checks the length of an address that a server names.
pub fn check_length(address: &str) -> Result<(), String> {
    match address.len() {
        length if length > MAX_BYTES => Err(format!("it names an address of {length} bytes")),
        _ => Ok(()),
    }
}

/// Checks an address that the server at `from`, in this zone, names. A name is looked up later, and its addresses are checked then.
pub fn check(from: &Url, zone: Zone, next: &Url) -> Result<(), String> {
    if !matches!(next.scheme(), "http" | "https") {
        return Err(format!("it redirects to a {} URL", brief(next.scheme())));
    }
    if from.scheme() == "https" && next.scheme() != "https" {
        return Err("it redirects from https to http".to_owned());
    }
    if from.host() == next.host() {
        return Ok(());
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err("it names an address with a name or password in it".to_owned());
    }
    match zone_of_url(next) {
        Some(to) if !may_name(zone, to) => Err(format!("it names {}, {NOT_PUBLIC}", brief(&next.origin().ascii_serialization()))),
        _ => Ok(()),
    }
}

/// Checks a redirect of a request that writes: another server would receive the bytes, and act on them.
pub fn check_write(from: &Url, next: &Url, status: StatusCode) -> Result<(), String> {
    if from.origin() != next.origin() {
        return Err(format!("it sends what is written to {}", brief(&next.origin().ascii_serialization())));
    }
    // The other redirects ask for a page to read.
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => Ok(()),
        _ => Err("it answers a request that writes with a page to read".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("the table holds addresses")
    }

    fn may(from: &str, next: &str) -> bool {
        let from = url(from);
        check(&from, zone_of_url(&from).unwrap_or(Zone::Public), &url(next)).is_ok()
    }

    #[test]
    fn redirects_never_lose_encryption() {
        assert!(may("http://example.com/a", "https://example.com/a"));
        assert!(!may("https://example.com/a", "http://example.com/a"));
        assert!(!may("https://127.0.0.1/a", "http://127.0.0.1/a"));
        assert!(!may("http://example.com/a", "ftp://example.com/a"));
        assert!(check_length(&"x".repeat(MAX_BYTES)).is_ok() && check_length(&"x".repeat(MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn writes_stay_with_their_server() {
        let from = url("https://example.com/a");
        let again = StatusCode::TEMPORARY_REDIRECT;
        assert!(check_write(&from, &url("https://example.com/b"), again).is_ok());
        assert!(check_write(&from, &url("https://example.com/b"), StatusCode::SEE_OTHER).is_err());
        assert!(check_write(&from, &url("https://other.example/a"), again).is_err());
        assert!(check_write(&from, &url("https://example.com:8443/a"), again).is_err());
    }

    #[test]
    fn a_server_names_public_addresses_and_its_own_zone() {
        let public = ["http://example.com/", "http://1.1.1.1/", "http://[2606:4700::1111]/"];
        let private = ["http://10.0.0.1/", "http://192.168.1.9:9000/", "http://172.16.0.1/", "http://100.64.0.1/", "http://[fd00::1]/"];
        let loopback = [
            "http://127.0.0.1:9000/",
            "http://localhost/",
            "http://a.localhost./",
            "http://[::1]/",
            "http://2130706433/",
            "http://0x7f.1/",
        ];
        let closed = [
            "http://169.254.169.254/latest",
            "http://100.100.100.200/",
            "http://168.63.129.16/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0:5000/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://[::ffff:169.254.169.254]/",
            "http://[64:ff9b::169.254.169.254]/",
        ];
        let zones: [(&str, [bool; 4]); 3] = [
            ("http://registry.example.com/", [true, false, false, false]),
            ("http://10.9.9.9:5000/", [true, true, false, false]),
            ("http://127.0.0.1:5000/", [true, false, true, false]),
        ];
        for (from, expect) in zones {
            for (list, expect) in [&public[..], &private, &loopback, &closed].into_iter().zip(expect) {
                for next in list {
                    assert_eq!(may(from, next), expect, "{from} to {next}");
                }
            }
        }
        // A server may name itself, wherever it is, and no server may hand out a login.
        assert!(may("http://169.254.1.1/a", "http://169.254.1.1:81/b"));
        assert!(!may("http://example.com/", "http://me:secret@other.example/"));
    }
}
