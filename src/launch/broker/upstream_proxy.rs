//! The host's own upstream proxies, and the choice of one for a destination.

use serde::{Deserialize, Serialize};

use silo_base::grant::{Host, MACHINE, split_port};

/// The host's proxies, from its proxy variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For everything else.
    pub https: Option<String>,
    /// Hosts that are reached directly (`NO_PROXY`).
    pub direct: Option<String>,
}

/// An upstream proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The value of the `Proxy-Authorization` header.
    pub authorization: Option<String>,
}

/// The protocol of a connection, as proxy settings distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// All others.
    Https,
}

/// A proxy setting of an unsupported kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine's proxy is not an http:// proxy; other kinds are not supported")]
pub struct UnknownProxy;

impl Proxies {
    /// Returns the proxy for a host.
    pub fn towards(&self, host: &Host, port: u16, scheme: Scheme) -> Result<Option<Proxy>, UnknownProxy> {
        // A proxy would resolve a loopback name to itself.
        if host.is_loopback() || host.as_str() == MACHINE || self.is_direct(host, port) {
            return Ok(None);
        }
        let setting = match scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        setting.as_deref().map(|url| parse(url).ok_or(UnknownProxy)).transpose()
    }

    fn is_direct(&self, host: &Host, port: u16) -> bool {
        self.direct.as_deref().unwrap_or_default().split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
            if entry == "*" {
                return true;
            }
            let Some((name, only)) = split_port(entry) else { return false };
            let name = name.trim_start_matches("*.").trim_start_matches('.');
            let Some(name) = Host::parse(name) else { return false };
            let below = host.as_str().strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')) && !host.is_address();
            only.is_none_or(|only| only == port) && (*host == name || below)
        })
    }
}

/// Reads `http://user:password@host:port`.
fn parse(url: &str) -> Option<Proxy> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) => scheme.eq_ignore_ascii_case("http").then_some(rest)?,
        None => url,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
    let (host, port) = split_port(place)?;
    let authorization = user.map(|user| format!("Basic {}", base64(&unescaped(user))));
    Some(Proxy { host: Host::parse(host)?, port: port.unwrap_or(80), authorization })
}

/// Decodes percent escapes.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).filter(|_| *first == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_settings_are_followed() {
        let proxies = Proxies {
            http: Some("proxy.example:3128".to_owned()),
            https: Some("http://us%40er:pw@proxy.example:8080/".to_owned()),
            direct: Some("localhost, .corp.example,one.example:8443".to_owned()),
        };
        let towards = |host: &str, port, scheme| proxies.towards(&Host::parse(host).expect("a host"), port, scheme).expect("http");
        let secure = towards("a.example", 443, Scheme::Https).expect("a proxy");
        assert_eq!((secure.port, secure.authorization.as_deref()), (8080, Some("Basic dXNAZXI6cHc=")));
        assert_eq!(towards("a.example", 80, Scheme::Http).expect("a proxy").port, 3128);
        for (host, port) in
            [("x.corp.example", 443), ("corp.example", 443), ("one.example", 8443), ("127.0.0.1", 80), ("localhost", 80), (MACHINE, 22)]
        {
            assert_eq!(towards(host, port, Scheme::Https), None, "{host}");
        }
        assert!(towards("one.example", 443, Scheme::Https).is_some() && towards("xcorp.example", 443, Scheme::Https).is_some());
        let odd = Proxies { https: Some("socks5://a".to_owned()), ..Proxies::default() };
        assert_eq!(odd.towards(&Host::parse("a").expect("a host"), 443, Scheme::Https), Err(UnknownProxy));
        for (text, expect) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(text.as_bytes()), expect);
        }
    }
}
