//! The network policy of a sandbox: verdicts on hosts and addresses from granted and denied hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use silo_wire::ports::PortRange;

use super::host::{Host, MACHINE};
use super::host_grant::{HostGrant, Specificity};

/// The network policy of a sandbox: granted and denied hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Granted hosts.
    pub allow: Vec<HostGrant>,
    /// Hosts that are granted only at public addresses.
    pub public: Vec<HostGrant>,
    /// Denied hosts, unless a grant names the host more closely; without a port, at every port.
    pub deny: Vec<HostGrant>,
}

/// Verdict on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressVerdict {
    /// Granted exactly, or as part of a private network.
    Granted,
    /// Denied.
    Denied,
    /// Neither granted nor denied.
    Nothing,
}

/// Permission to reach a host's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The precision of the covering grant.
    pub cover: Specificity,
    /// Port 443 may carry protocols other than TLS for the name.
    pub raw: bool,
}

impl Policy {
    /// Returns the permission for a host's port, or `None` if it is not allowed.
    pub fn judge(&self, host: &Host, port: u16) -> Option<Permit> {
        let allowed = |grants: &[HostGrant], cover: Option<Specificity>| {
            let fit = |grant: &HostGrant| {
                let covered = grant.covers(host, port).filter(|_| !self.is_denied(grant, host, Some(port)))?;
                Some((cover.unwrap_or(covered), grant.raw))
            };
            grants.iter().filter_map(fit).max().map(|(cover, raw)| Permit { cover, raw })
        };
        allowed(&self.allow, None).or_else(|| allowed(&self.public, Some(Specificity::Family)))
    }

    /// Returns the verdict on an address of a granted name, independent of the name's own grant.
    pub fn said_of(&self, address: IpAddr, port: u16) -> AddressVerdict {
        let host = Host::of(address);
        let denied = |deny: &HostGrant| deny.rank(&host).is_some() && deny.ports.is_none_or(|_| deny.opens(port));
        match self.judge(&host, port) {
            Some(Permit { cover: Specificity::Exact, .. }) => AddressVerdict::Granted,
            Some(_) => AddressVerdict::Nothing,
            None if self.deny.iter().any(denied) => AddressVerdict::Denied,
            None => AddressVerdict::Nothing,
        }
    }

    /// Returns true if a grant names exactly this address, or names the host's loopback explicitly.
    pub fn names(&self, address: IpAddr, port: u16) -> bool {
        let by = |host: &Host| {
            let named = |grant: &&HostGrant| grant.host() == Some(host) && grant.opens(port);
            self.allow.iter().filter(named).any(|grant| !self.is_denied(grant, host, Some(port)))
        };
        let is_usual = address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
        by(&Host::of(address)) || (is_usual && [MACHINE, "localhost"].into_iter().filter_map(Host::parse).any(|host| by(&host)))
    }

    /// Returns the number of ports opened by all grants together.
    pub fn count(&self) -> usize {
        self.allow.iter().chain(&self.public).map(|grant| PortRange::count(grant.ranges())).sum()
    }

    /// Returns the ports at which a host may be reached, considering only whole grants; empty if there are none.
    pub fn ranges(&self, host: &Host) -> Vec<PortRange> {
        let grants = self.allow.iter().chain(&self.public);
        let open = grants.filter(|grant| grant.rank(host).is_some() && !self.is_denied(grant, host, None));
        let mut ranges: Vec<PortRange> = open.flat_map(HostGrant::ranges).copied().collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }

    /// Returns true if a denial names a host at least as closely as a grant: at `port`, or at all ports of the grant.
    fn is_denied(&self, grant: &HostGrant, host: &Host, port: Option<u16>) -> bool {
        let rank = grant.rank(host);
        self.deny.iter().any(|deny| {
            let here = match (deny.ports, port) {
                (None, _) => true,
                (Some(denied), Some(port)) => denied.contains(port),
                // All ports of the grant.
                (Some(denied), None) => grant.ranges().iter().all(|range| denied.covers(*range)),
            };
            here && deny.rank(host).is_some_and(|denied| Some(denied) >= rank)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_named_by_its_address_or_as_loopback() {
        let grants = |list: &[&str]| list.iter().map(|text| HostGrant::parse(text).expect("a grant")).collect();
        let policy = Policy {
            allow: grants(&[
                "host.silo.internal:5432",
                "127.0.0.2:80",
                "10.0.0.0/8:*",
                "*:*",
                "a.example:*",
                "localhost:9",
                "169.254.169.254",
            ]),
            public: grants(&["127.0.0.1:22"]),
            deny: grants(&["localhost:9"]),
        };
        for (address, port, expect) in [
            ("127.0.0.1", 5432, true),
            ("::1", 5432, true),
            ("127.0.0.1", 5433, false),
            ("127.0.0.2", 5432, false),
            ("127.0.0.2", 80, true),
            ("127.0.0.1", 22, false),
            ("127.0.0.1", 9, false),
            ("10.0.0.1", 80, false),
            ("169.254.169.254", 80, true),
            ("169.254.169.254", 8080, false),
        ] {
            assert_eq!(policy.names(address.parse().expect("an address"), port), expect, "{address}:{port}");
        }
    }

    #[test]
    fn a_more_specific_grant_overrides_a_denial() {
        let grants = |list: &[&str]| list.iter().map(|text| HostGrant::parse(text).expect("a grant")).collect();
        let policy = Policy {
            allow: grants(&["*", "*.b.example", "x.b.example", "a.example:22", "a.example"]),
            public: grants(&["p.example:8080"]),
            deny: grants(&["b.example", "*.b.example", "a.example:22", "c.example", "p.example:8081"]),
        };
        let host = |text: &str| Host::parse(text).expect("a host");
        for (name, port, expect) in [
            ("any.example", 443, Some(Specificity::Family)),
            ("b.example", 443, None),
            ("y.b.example", 443, None),
            ("x.b.example", 443, Some(Specificity::Exact)),
            ("a.example", 22, None),
            ("a.example", 80, Some(Specificity::Exact)),
            ("c.example", 443, None),
            ("p.example", 8080, Some(Specificity::Family)),
        ] {
            assert_eq!(policy.judge(&host(name), port).map(|leave| leave.cover), expect, "{name}:{port}");
        }
        assert_eq!(policy.ranges(&host("c.example")), []);
        assert_eq!(policy.ranges(&host("a.example")), [PortRange::HTTP, PortRange::HTTPS]);
    }
}
