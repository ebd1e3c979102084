//! Checks the token service in a registry's challenge, and the hosts that may be reached without TLS.
//!
//! By the distribution protocol a registry may name a token service on another host, which receives the login. A hostile registry may name
//! any address: one of this machine, a cloud metadata service, or one without TLS.

use reqwest::Url;

use crate::redirects::{self, Zone};

/// The longest address of a token service.
const MAX_BYTES: usize = 2 << 10;

/// Whether a registry (`host` or `host:port`) is on this machine's loopback, so that plain http is acceptable.
pub fn is_loopback(host: &str) -> bool {
    Url::parse(&format!("http://{host}/")).is_ok_and(|url| is_at_loopback(&url))
}

/// Parses the token service address (`realm`) in a challenge of `registry`; the error says why it is refused.
pub fn parse(realm: &str, registry: &str) -> Result<Url, &'static str> {
    let service = Url::parse(realm).ok().filter(|_| realm.len() <= MAX_BYTES).ok_or("it is not an address")?;
    parse_location(&service, registry)?;
    Ok(service)
}

/// Checks an address that `registry` sends a request to; the error says why it is refused.
pub fn parse_location(service: &Url, registry: &str) -> Result<(), &'static str> {
    let local = Url::parse(&format!("http://{registry}/")).map_err(|_| "the registry has no address")?;
    match service.scheme() {
        "https" => {}
        "http" if is_at_loopback(service) && is_at_loopback(&local) => {}
        "http" => return Err("it has no encryption"),
        _ => return Err("it is neither http nor https"),
    }
    if !service.username().is_empty() || service.password().is_some() {
        return Err("it has a name or password in it");
    }
    let zone = redirects::zone_of_url(&local).unwrap_or(Zone::Public);
    let may_be_there = |to: Zone| service.host() == local.host() || redirects::may_name(zone, to);
    match redirects::zone_of_url(service) {
        Some(to) if !may_be_there(to) => Err("it is a private address, or one of this machine"),
        // A name is looked up when it is asked, and its addresses are checked then.
        _ => Ok(()),
    }
}

fn is_at_loopback(url: &Url) -> bool {
    redirects::zone_of_url(url) == Some(Zone::Loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_asked_without_encryption() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "127.1:80", "[::1]:5000", "[::1]", "a.localhost:1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["127.example.com", "127.0.0.1.example.com:5000", "localhost.example.com", "10.0.0.1:5000", "[::2]", "a b", "", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn realms_in_private_networks_are_refused() {
        for (realm, registry) in [
            ("https://auth.example.com/token", "registry.example.com"),
            ("https://auth.example.com:8443/token?a=b", "127.0.0.1:5000"),
            ("http://127.0.0.1:5001/token", "127.0.0.1:5000"),
            ("http://localhost:5001/token", "[::1]:5000"),
            ("https://10.0.0.1:5001/token", "10.0.0.1:5000"),
            ("https://10.0.0.2/token", "10.0.0.1:5000"),
            ("https://169.254.1.1/token", "169.254.1.1"),
        ] {
            assert!(parse(realm, registry).is_ok(), "{realm} of {registry}");
        }
        for (realm, registry) in [
            ("", "registry.example.com"),
            ("/token", "registry.example.com"),
            ("//auth.example.com/token", "registry.example.com"),
            ("http://auth.example.com/token", "registry.example.com"),
            ("http://auth.example.com/token", "127.0.0.1:5000"),
            ("http://127.0.0.1:5001/token", "registry.example.com"),
            ("http://127.0.0.1.example.com/token", "127.0.0.1:5000"),
            ("HTTP://auth.example.com/token", "registry.example.com"),
            ("file:///etc/passwd", "registry.example.com"),
            ("ftp://auth.example.com/token", "registry.example.com"),
            ("https://me:secret@auth.example.com/token", "registry.example.com"),
            ("https://127.0.0.1/token", "registry.example.com"),
            ("https://localhost/token", "registry.example.com"),
            ("https://[::1]/token", "registry.example.com"),
            ("https://[::ffff:127.0.0.1]/token", "registry.example.com"),
            ("https://2130706433/token", "registry.example.com"),
            ("https://0.0.0.0/token", "registry.example.com"),
            ("https://169.254.169.254/token", "registry.example.com"),
            ("https://10.0.0.1/token", "registry.example.com"),
            ("https://127.0.0.1/token", "10.0.0.1:5000"),
            ("https://10.0.0.1/token", "127.0.0.1:5000"),
            ("https://169.254.169.254/token", "127.0.0.1:5000"),
        ] {
            assert!(parse(realm, registry).is_err(), "{realm} of {registry}");
        }
    }
}
