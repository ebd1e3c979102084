//! Grants of hosts: one host, the names below one, a network, or every name, each at some ports.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use silo_wire::ports::PortRange;

use super::block::Block;
use super::host::{Host, MACHINE};

/// The ports of a grant without a port: https and http.
const USUAL_PORTS: [PortRange; 2] = [PortRange::HTTPS, PortRange::HTTP];

/// A text that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a name; write name, name:port, *.name, an address, a network like 192.0.2.0/24, or @ecosystem")]
pub struct NotAGrant(pub(super) String);

/// A host or a family of hosts that may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostGrant {
    /// The text as written.
    text: String,
    who: Pattern,
    /// The ports; `None` for the usual ones.
    pub(super) ports: Option<PortRange>,
    /// Port 443 may carry protocols other than TLS for the name.
    pub(super) raw: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// This host.
    Exactly(Host),
    /// Every address of this network.
    Within(Block),
    /// Every name below this one, which itself is not covered.
    Below(Host),
    /// Every name.
    All,
}

/// Precision with which a grant covers a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specificity {
    /// As a member of a family.
    Family,
    /// By its own name.
    Exact,
}

impl HostGrant {
    /// Parses `name`, `*.name`, `*` or a network, each with an optional `:port`, `:from-to` or `:*`, and an optional trailing `/tcp`.
    pub fn parse(written: &str) -> Option<HostGrant> {
        let (text, raw) = written.strip_suffix("/tcp").map_or((written, false), |text| (text, true));
        let (host, ports) = split_range(text)?;
        let who = match (host, host.strip_prefix("*.")) {
            ("*", _) => Pattern::All,
            (_, Some(parent)) => Pattern::Below(Host::parse(parent).filter(|parent| !parent.is_address())?),
            (host, None) if host.contains('/') => Pattern::Within(Block::parse(host)?),
            (host, None) => Pattern::Exactly(Host::parse(host)?),
        };
        Some(HostGrant { text: written.to_owned(), who, ports, raw })
    }

    /// Returns the grant of [`MACHINE`] at the usual ports.
    pub(super) fn of_machine() -> HostGrant {
        HostGrant { text: MACHINE.to_owned(), who: Pattern::Exactly(Host::of_machine()), ports: None, raw: false }
    }

    /// Returns the text as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns how the grant covers a host's port, or `None` if it does not.
    pub fn covers(&self, host: &Host, port: u16) -> Option<Specificity> {
        self.rank(host).filter(|_| self.opens(port)).map(|_| match &self.who {
            Pattern::Exactly(_) => Specificity::Exact,
            // A grant for part of a private network is deliberate; one for half of the internet is not.
            Pattern::Within(block) if block.is_apart() => Specificity::Exact,
            Pattern::Within(_) | Pattern::Below(_) | Pattern::All => Specificity::Family,
        })
    }

    /// Returns the reason why this grant can never work, regardless of the services, with the text to write instead.
    pub fn flaw(&self) -> Option<String> {
        let host = match &self.who {
            Pattern::Exactly(host) => host,
            // A reason that applies to the whole network.
            Pattern::Within(block) => return flaw_of(block.first).filter(|why| flaw_of(block.last()).as_ref() == Some(why)),
            Pattern::Below(parent) => {
                let below = parent.as_str() == "localhost" || parent.as_str().ends_with(".localhost");
                return below.then(|| "names below localhost mean the sandbox itself; write localhost:PORT".to_owned());
            }
            Pattern::All => return None,
        };
        match host.address() {
            Some(address) => flaw_of(address),
            None if host.is_address() => Some("it is an address in an unusual spelling; write it as in 192.0.2.7".to_owned()),
            None if host.as_str().ends_with(".localhost") => Some("it means the sandbox itself; write localhost:PORT".to_owned()),
            None => None,
        }
    }

    /// Returns how closely the grant names a host: a longer name ranks higher; `None` if it does not match.
    pub(super) fn rank(&self, host: &Host) -> Option<usize> {
        match &self.who {
            Pattern::Exactly(own) => (own == host).then_some(usize::MAX),
            Pattern::Below(parent) => {
                let below = host.as_str().strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
                (below && !host.is_address()).then_some(parent.as_str().len())
            }
            Pattern::Within(block) => host.address().filter(|address| block.contains(*address)).map(|_| usize::from(block.bits)),
            Pattern::All => (!host.is_address()).then_some(0),
        }
    }

    /// Returns the host, if the grant names a single one.
    pub fn host(&self) -> Option<&Host> {
        match &self.who {
            Pattern::Exactly(host) => Some(host),
            Pattern::Within(_) | Pattern::Below(_) | Pattern::All => None,
        }
    }

    /// Returns the network, if the grant names one.
    pub fn block(&self) -> Option<Block> {
        match &self.who {
            Pattern::Within(block) => Some(*block),
            Pattern::Exactly(_) | Pattern::Below(_) | Pattern::All => None,
        }
    }

    pub(super) fn opens(&self, port: u16) -> bool {
        self.ranges().iter().any(|range| range.contains(port))
    }

    /// Returns the covered ports.
    pub fn ranges(&self) -> &[PortRange] {
        self.ports.as_ref().map_or(&USUAL_PORTS, std::slice::from_ref)
    }
}

impl TryFrom<String> for HostGrant {
    type Error = NotAGrant;

    fn try_from(text: String) -> Result<HostGrant, NotAGrant> {
        HostGrant::parse(&text).ok_or(NotAGrant(text))
    }
}

impl From<HostGrant> for String {
    fn from(grant: HostGrant) -> String {
        grant.text
    }
}

/// Returns the reason why an address can never be reached from inside a sandbox.
fn flaw_of(address: IpAddr) -> Option<String> {
    let why = match address {
        IpAddr::V6(address) if address.is_loopback() => {
            "inside, ::1 is the sandbox itself; write localhost:PORT, which means both loopback addresses of the host"
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(inner) => return Some(format!("it is an IPv4 address; write {inner}")),
            None if address.is_unicast_link_local() => "an IPv6 link-local address needs an interface, which a sandbox does not have",
            None if address.is_multicast() => "a multicast address takes no connections",
            None if address.is_unspecified() || address.to_ipv4().is_some() => "it is not a host address",
            None => return None,
        },
        IpAddr::V4(address) if address.is_multicast() || address.is_broadcast() => "a multicast or broadcast address takes no connections",
        IpAddr::V4(address) if address.octets()[0] == 0 => {
            "it is not a host address; write host.silo.internal:PORT for the host's own services"
        }
        IpAddr::V4(_) => return None,
    };
    Some(why.to_owned())
}

/// Splits the port or range of ports off a grant.
fn split_range(text: &str) -> Option<(&str, Option<PortRange>)> {
    if let Some(host) = text.strip_suffix(":*") {
        return Some((host, Some(PortRange::ALL)));
    }
    let Some((place, to)) = text.rsplit_once('-').filter(|(place, to)| place.contains(':') && !to.contains([':', ']', '.'])) else {
        return split_port(text).map(|(host, port)| (host, port.and_then(|port| PortRange::new(port, port))));
    };
    let (host, from) = split_port(place)?;
    Some((host, Some(PortRange::new(from?, split_port(&format!(":{to}"))?.1?)?)))
}

/// Formats the grant that would cover a host's port.
pub fn that_covers(host: &Host, port: u16) -> String {
    if USUAL_PORTS.iter().any(|range| range.contains(port)) { host.as_str().to_owned() } else { format!("{}:{port}", host.as_str()) }
}

/// Splits `host` or `host:port`.
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
    fn grants_cover_their_hosts_and_ports() {
        for (grant, host, port, expect) in [
            ("a.example", "a.example", 443, Some(Specificity::Exact)),
            ("a.example", "A.Example.", 80, Some(Specificity::Exact)),
            ("A.example.", "a.example", 80, Some(Specificity::Exact)),
            ("a.example", "a.example", 22, None),
            ("a.example", "b.a.example", 443, None),
            ("a.example:22", "a.example", 22, Some(Specificity::Exact)),
            ("a.example:22", "a.example", 443, None),
            ("*.example", "a.b.example", 443, Some(Specificity::Family)),
            ("*.example", "example", 443, None),
            ("*.example", "notexample", 443, None),
            ("*.example:8080", "a.example", 8080, Some(Specificity::Family)),
            ("*", "a.example", 443, Some(Specificity::Family)),
            ("*", "10.0.0.1", 443, None),
            ("a-b.example:8000-8010", "a-b.example", 8010, Some(Specificity::Exact)),
            ("a.example:8000-8010", "a.example", 8011, None),
            ("a.example:443/tcp", "a.example", 443, Some(Specificity::Exact)),
            ("10.0.0.1:80", "10.0.0.1", 80, Some(Specificity::Exact)),
            ("127.0.0.1", "127.1", 80, None),
            ("[::1]:80", "[0:0::1]", 80, Some(Specificity::Exact)),
            ("a.example:*", "a.example", 65535, Some(Specificity::Exact)),
            ("a.example:1-65535", "a.example", 22, Some(Specificity::Exact)),
            ("*.example:*", "a.example", 1, Some(Specificity::Family)),
            ("10.0.0.0/8:5432", "10.1.2.3", 5432, Some(Specificity::Exact)),
            ("10.0.0.0/8:5432", "10.1.2.3", 5433, None),
            ("10.0.0.0/8", "11.1.2.3", 443, None),
            ("10.0.0.0/8", "a.example", 443, None),
            ("0.0.0.0/0:*", "127.0.0.1", 22, Some(Specificity::Family)),
            ("[2001:db8::/32]:443/tcp", "[2001:db8::1]", 443, Some(Specificity::Family)),
            ("[fd00::/8]:22", "[fd00::1]", 22, Some(Specificity::Exact)),
            ("bücher.example", "xn--bcher-kva.example", 443, Some(Specificity::Exact)),
            ("BÜCHER.example.", "xn--bcher-kva.example", 443, Some(Specificity::Exact)),
            ("*.bücher.example", "a.xn--bcher-kva.example", 443, Some(Specificity::Family)),
            ("xn--bcher-kva.example", "bücher.example", 443, Some(Specificity::Exact)),
            ("b\u{fc}cher\u{3002}example", "xn--bcher-kva.example", 443, Some(Specificity::Exact)),
        ] {
            let host = Host::parse(host).expect("a host");
            assert_eq!(HostGrant::parse(grant).expect("a grant").covers(&host, port), expect, "{grant} {}", host.as_str());
        }
    }

    #[test]
    fn impossible_grants_suggest_a_correction() {
        for (text, expect) in [
            ("[::1]:5432", "localhost:PORT"),
            ("[::ffff:127.0.0.1]:80", "write 127.0.0.1"),
            ("[::ffff:192.0.2.7]", "write 192.0.2.7"),
            ("[fe80::1]:80", "needs an interface"),
            ("[fe80::/10]:80", "needs an interface"),
            ("[ff02::1]:80", "takes no connections"),
            ("[::]:80", "not a host address"),
            ("[::7f00:1]:80", "not a host address"),
            ("0.0.0.0:80", "host.silo.internal:PORT"),
            ("224.0.0.1:80", "takes no connections"),
            ("239.0.0.0/8:80", "takes no connections"),
            ("255.255.255.255:80", "takes no connections"),
            ("127.1:80", "unusual spelling"),
            ("0x7f.1:80", "unusual spelling"),
            ("2130706433", "unusual spelling"),
            ("a.localhost:80", "localhost:PORT"),
            ("*.localhost:80", "localhost:PORT"),
        ] {
            let flaw = HostGrant::parse(text).expect("it is read").flaw().unwrap_or_default();
            assert!(flaw.contains(expect), "{text}: {flaw}");
        }
        for text in [
            "localhost:5432",
            "127.0.0.1:5432",
            "127.0.0.2:5432",
            "host.silo.internal:*",
            "169.254.169.254",
            "169.254.0.0/16:80",
            "0.0.0.0/0:*",
            "0.0.0.0/4:*",
            "[::/0]:*",
            "[2001:db8::1]",
            "[fd00::/8]:22",
            "*",
            "*.example",
            "a1.example",
        ] {
            assert_eq!(HostGrant::parse(text).expect("it is read").flaw(), None, "{text}");
        }
    }

    #[test]
    fn invalid_host_names_are_refused() {
        let long = "a".repeat(64);
        let longer = ["abcdefghi"; 30].join(".");
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a/b",
            "a\n",
            "ü ",
            "a\u{200b}b\u{2028}",
            "xn--\u{fc}",
            "10.0.0.1/8",
            "10.0.0.0/8/tcp/tcp",
            "a/8",
            "a:**",
            ":*",
            "*.*.a",
            "**",
            "*.",
            "a:2-1",
            "a:1-",
            "/tcp",
            "a:0",
            "a:65536",
            "a:",
            "a:+1",
            "[::1",
            "[a]",
            "::1",
            "*.1",
            &long,
            &longer,
        ] {
            assert_eq!(HostGrant::parse(text), None, "{text}");
        }
        for text in ["1.2.3.4", "127.1", "2130706433", "0x7f000001", "a.0x1", "[::1]"] {
            assert!(Host::parse(text).expect("a host").is_address(), "{text}");
        }
        for text in ["a1", "1.a", "example.com", "x0"] {
            assert!(!Host::parse(text).expect("a host").is_address(), "{text}");
        }
    }
}
