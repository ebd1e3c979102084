//! Host names and addresses in one form.

use std::net::{IpAddr, Ipv6Addr};

/// The longest name in DNS.
const MAX_NAME_BYTES: usize = 253;
/// The longest label between two dots.
const MAX_LABEL_BYTES: usize = 63;
/// Limit of a name with non-ASCII letters; such a name has more bytes than its DNS form.
const MAX_TYPED_BYTES: usize = 4 * MAX_NAME_BYTES;

/// The name of the host's own services in a sandbox; only a grant of exactly this name covers it.
pub const MACHINE: &str = "host.silo.internal";

/// A requested host: a name or an address, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// Parses a name, an IPv4 address, or an IPv6 address in brackets.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Host(format!("[{address}]")));
        }
        let mapped;
        let text = if text.is_ascii() {
            text
        } else {
            mapped = idna::domain_to_ascii(text).ok().filter(|_| text.len() <= MAX_TYPED_BYTES)?;
            &mapped
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label);
        plain.then(|| Host(name.to_ascii_lowercase()))
    }

    /// Returns the host of the machine's own services.
    pub fn of_machine() -> Host {
        Host(MACHINE.to_owned())
    }

    /// Returns the canonical form, for comparison.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the form for a resolver: an IPv6 address without its brackets.
    pub fn for_resolver(&self) -> &str {
        self.0.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the host for an address, in the form that a guest would use.
    pub fn of(address: IpAddr) -> Host {
        match address {
            IpAddr::V4(address) => Host(address.to_string()),
            IpAddr::V6(address) => Host(format!("[{address}]")),
        }
    }

    /// Returns the address, if the host is one in its usual spelling.
    pub fn address(&self) -> Option<IpAddr> {
        self.for_resolver().parse().ok()
    }

    /// Returns true if a resolver would read it as an address rather than as a name.
    pub fn is_address(&self) -> bool {
        let last = self.0.rsplit('.').next().unwrap_or_default();
        self.0.starts_with('[') || last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x")
    }

    /// Returns true if it means the loopback of the machine that resolves it.
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
