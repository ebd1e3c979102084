//! Grants: which hosts a sandbox may reach, by name and port.
//!
//! Pure text in, data out. A name is compared without regard to case and to a dot at its end. What the
//! system's resolver would take for an address in one of its many spellings (`127.1`, `0x7f.1`,
//! `2130706433`) counts as an address: only a grant that spells it the same way covers it.

use std::net::{IpAddr, Ipv6Addr};

/// The longest name that DNS can carry.
const MAX_NAME_BYTES: usize = 253;
/// The longest part between two dots.
const MAX_LABEL_BYTES: usize = 63;
/// What a grant without a port covers: https and http.
const USUAL_PORTS: [u16; 2] = [443, 80];

/// A host as somebody asks for it: a name or an address, spelled in one way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// Reads a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Host(format!("[{address}]")));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
        plain.then(|| Host(name.to_ascii_lowercase()))
    }

    /// Returns it as it is compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns it as a resolver takes it: an IPv6 address without its brackets.
    pub fn for_resolver(&self) -> &str {
        self.0.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether a resolver would take it for an address rather than for a name.
    pub fn is_address(&self) -> bool {
        let last = self.0.rsplit('.').next().unwrap_or_default();
        self.0.starts_with('[') || last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x")
    }

    /// Whether it stands for this machine itself, from a sandbox's point of view: its own loopback.
    pub fn is_loopback(&self) -> bool {
        let address = self.for_resolver().parse::<IpAddr>();
        self.0 == "localhost" || self.0.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= MAX_LABEL_BYTES
        && !label.starts_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A host or a family of hosts that may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    who: Who,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// This host.
    Exactly(Host),
    /// Every name below this one, which is not covered itself.
    Below(Host),
}

/// How a grant covers a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cover {
    /// As one of a family.
    Family,
    /// By its own name.
    Exact,
}

impl Grant {
    /// Reads `name`, `name:port`, `*.name` or `*.name:port`.
    pub fn parse(text: &str) -> Option<Grant> {
        let (host, port) = split_port(text)?;
        let who = match host.strip_prefix("*.") {
            Some(parent) => Who::Below(Host::parse(parent).filter(|parent| !parent.is_address())?),
            None => Who::Exactly(Host::parse(host)?),
        };
        Some(Grant { who, port })
    }

    /// Says whether and how the grant covers a host's port.
    pub fn covers(&self, host: &Host, port: u16) -> Option<Cover> {
        let open = self.port.map_or_else(|| USUAL_PORTS.contains(&port), |own| own == port);
        if !open {
            return None;
        }
        match &self.who {
            Who::Exactly(own) => (own == host).then_some(Cover::Exact),
            Who::Below(parent) => {
                let below = host.0.strip_suffix(&parent.0).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
                (below && !host.is_address()).then_some(Cover::Family)
            }
        }
    }

    /// The host, where the grant names a single one.
    pub fn host(&self) -> Option<&Host> {
        match &self.who {
            Who::Exactly(host) => Some(host),
            Who::Below(_) => None,
        }
    }
}

/// Spells the grant that would cover a host's port.
pub fn that_covers(host: &Host, port: u16) -> String {
    if USUAL_PORTS.contains(&port) { host.0.clone() } else { format!("{}:{port}", host.0) }
}

/// Takes the port off `host` or `host:port`.
pub fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let colon = match text.rfind(']') {
        Some(end) => text[end..].find(':').map(|at| end + at),
        None => text.find(':'),
    };
    let Some(colon) = colon else { return Some((text, None)) };
    let digits = &text[colon + 1..];
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse::<u16>().ok().filter(|port| is_number && *port > 0)?;
    Some((&text[..colon], Some(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_cover_what_they_name() {
        for (grant, host, port, expect) in [
            ("a.example", "a.example", 443, Some(Cover::Exact)),
            ("a.example", "A.Example.", 80, Some(Cover::Exact)),
            ("A.example.", "a.example", 80, Some(Cover::Exact)),
            ("a.example", "a.example", 22, None),
            ("a.example", "b.a.example", 443, None),
            ("a.example:22", "a.example", 22, Some(Cover::Exact)),
            ("a.example:22", "a.example", 443, None),
            ("*.example", "a.b.example", 443, Some(Cover::Family)),
            ("*.example", "example", 443, None),
            ("*.example", "notexample", 443, None),
            ("*.example:8080", "a.example", 8080, Some(Cover::Family)),
            ("10.0.0.1:80", "10.0.0.1", 80, Some(Cover::Exact)),
            ("127.0.0.1", "127.1", 80, None),
            ("[::1]:80", "[0:0::1]", 80, Some(Cover::Exact)),
        ] {
            let host = Host::parse(host).expect("a host");
            assert_eq!(Grant::parse(grant).expect("a grant").covers(&host, port), expect, "{grant} {}", host.as_str());
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longer = ["abcdefghi"; 30].join(".");
        for text in [
            "", ".", "a..b", "-a", "a b", "a/b", "a\n", "ü", "*.*.a", "*", "*.", "a:0", "a:65536", "a:", "a:+1", "[::1", "[a]", "::1",
            "*.1", &long, &longer,
        ] {
            assert_eq!(Grant::parse(text), None, "{text}");
        }
        for text in ["1.2.3.4", "127.1", "2130706433", "0x7f000001", "a.0x1", "[::1]"] {
            assert!(Host::parse(text).expect("a host").is_address(), "{text}");
        }
        for text in ["a1", "1.a", "example.com", "x0"] {
            assert!(!Host::parse(text).expect("a host").is_address(), "{text}");
        }
    }
}
