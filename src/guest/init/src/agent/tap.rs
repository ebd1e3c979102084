//! Addresses with more granted ports than get a listener from the start: whole networks, and names at all ports.
//!
//! The kernel refuses a connection to a port without a listener. A routing rule drops these refusals, and a packet socket receives a copy
//! of the SYN. After the broker has dialled, the agent listens at that address and port, another rule lets its answers through, and the
//! held SYN is sent again. The agent's own packets carry a mark, which a third rule lets through. So an address costs nothing before a
//! connection, and the kernel answers UDP and pings as usual.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use silo_wire::{NAMES, WIDE};

use super::addresses::Layout;
use super::route::{Prefix, Routes, Rule, TABLE_LOCAL};
use super::syn_queue::{self, OURS, Version};

/// The most pairs of address and port that are opened in the life of one sandbox.
const MAX_OPENED: usize = 4096;
/// A routing table of the agent's own.
const TABLE_NOWHERE: u8 = 101;
// Priorities of the rules; the kernel's rule for local addresses moves after them.
const FIRST: u32 = 0;
const SENT_AGAIN: u32 = 5;
const OPENED: u32 = 10;
const NEVER_WIDE: u32 = 11;
const HELD: u32 = 12;
const LOCAL: u32 = 20;

/// The granted addresses, and the sockets that watch them.
pub struct Tap {
    routes: Routes,
    prefixes: Vec<Prefix>,
    opened: HashSet<SocketAddr>,
    /// Receives copies of SYN packets to such IPv4 addresses, if there are any.
    pub tap: Option<OwnedFd>,
    /// The same for IPv6.
    pub tap_v6: Option<OwnedFd>,
    /// Sends IPv6 packets.
    pub raw_v6: Option<OwnedFd>,
}

impl Tap {
    /// Returns all descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        [&self.tap, &self.tap_v6, &self.raw_v6].into_iter().flatten().chain([self.routes.socket()])
    }

    /// Routes the layout's networks to loopback, and the range for names at all ports if there are any.
    pub fn prepare(routes: Routes, layout: &Layout, source: Ipv4Addr) -> io::Result<Tap> {
        let networks = &layout.networks;
        let mut wide = Tap { routes, prefixes: networks.to_vec(), opened: HashSet::new(), tap: None, tap_v6: None, raw_v6: None };
        for (address, bits) in networks {
            let source = if address.is_ipv4() { source.into() } else { Ipv6Addr::LOCALHOST.into() };
            match wide.routes.add_local((*address, *bits), source) {
                // Two grants of one network.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => done?,
            }
        }
        let mut held = networks.to_vec();
        if layout.wide_names {
            held.push((WIDE.0.into(), WIDE.1));
        }
        if held.iter().any(|(address, _)| address.is_ipv4()) {
            // A socket has no source address before its destination is known.
            let never = [(Ipv4Addr::new(127, 0, 0, 0).into(), 8), (NAMES.0.into(), 16), (Ipv4Addr::UNSPECIFIED.into(), 32)];
            wide.rule(source.into(), &never, &held)?;
            wide.tap = Some(syn_queue::tap(Version::V4)?);
        }
        if held.iter().any(|(address, _)| address.is_ipv6()) {
            let own = Ipv6Addr::LOCALHOST.into();
            wide.rule(own, &[(own, 128)], &held)?;
            wide.tap_v6 = Some(syn_queue::tap(Version::V6)?);
            wide.raw_v6 = Some(syn_queue::raw_socket_v6()?);
        }
        Ok(wide)
    }

    fn rule(&self, source: IpAddr, never: &[Prefix], held: &[Prefix]) -> io::Result<()> {
        let plain = Rule { priority: LOCAL, table: TABLE_LOCAL, from: None, tcp: None, mark: None };
        self.routes.add_nowhere(TABLE_NOWHERE, source)?;
        self.routes.add_rule(source, plain)?;
        self.routes.add_rule(source, Rule { priority: SENT_AGAIN, mark: Some(OURS), ..plain })?;
        for from in never {
            self.routes.add_rule(source, Rule { priority: NEVER_WIDE, from: Some(*from), ..plain })?;
        }
        for from in held.iter().filter(|(address, _)| address.is_ipv4() == source.is_ipv4()).flat_map(|prefix| halves(*prefix)) {
            let rule = Rule { priority: HELD, table: TABLE_NOWHERE, from: Some(from), tcp: Some(None), mark: None };
            self.routes.add_rule(source, rule)?;
        }
        self.routes.remove_rule(source, Rule { priority: FIRST, ..plain })
    }

    /// Whether a tap receives SYN packets to an address.
    pub fn holds(&self, address: IpAddr) -> bool {
        !never(address) && (is_within(address, (WIDE.0.into(), WIDE.1)) || self.is_granted(address))
    }

    /// Whether a granted network contains an address.
    pub fn is_granted(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| is_within(address, *prefix))
    }

    /// Lets answers from an address and port through; returns whether they pass.
    pub fn open(&mut self, place: SocketAddr) -> bool {
        if self.opened.contains(&place) {
            return true;
        }
        if self.opened.len() >= MAX_OPENED {
            return false;
        }
        let from = (place.ip(), if place.is_ipv4() { 32 } else { 128 });
        let rule = Rule { priority: OPENED, table: TABLE_LOCAL, from: Some(from), tcp: Some(Some(place.port())), mark: None };
        self.routes.add_rule(place.ip(), rule).is_ok() && self.opened.insert(place)
    }
}

/// Splits the prefix of all addresses in two: a rule without a prefix would also match sockets without an address.
fn halves(prefix: Prefix) -> Vec<Prefix> {
    match prefix {
        (IpAddr::V4(_), 0) => vec![(Ipv4Addr::UNSPECIFIED.into(), 1), (Ipv4Addr::new(128, 0, 0, 0).into(), 1)],
        (IpAddr::V6(_), 0) => vec![(Ipv6Addr::UNSPECIFIED.into(), 1), (Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into(), 1)],
        _ => vec![prefix],
    }
}

/// Addresses that stay the sandbox's own, or have listeners from the start, whatever network is granted.
fn never(address: IpAddr) -> bool {
    address.is_loopback() || is_within(address, (NAMES.0.into(), 16))
}

fn is_within(address: IpAddr, (network, bits): Prefix) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (address.to_bits() ^ network.to_bits()).checked_shr(32 - u32::from(bits.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            (address.to_bits() ^ network.to_bits()).checked_shr(128 - u32::from(bits.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_within_networks() {
        for (address, network, bits, expect) in [
            ("10.1.2.3", "10.0.0.0", 8, true),
            ("11.1.2.3", "10.0.0.0", 8, false),
            ("1.2.3.4", "0.0.0.0", 0, true),
            ("1.2.3.4", "1.2.3.4", 32, true),
            ("1.2.3.5", "1.2.3.4", 32, false),
            ("2001:db8::1", "2001:db8::", 32, true),
            ("2001:db9::1", "2001:db8::", 32, false),
            ("::1", "::", 0, true),
            ("1.2.3.4", "::", 0, false),
        ] {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(is_within(parse(address), (parse(network), bits)), expect, "{address} {network}/{bits}");
        }
    }
}
