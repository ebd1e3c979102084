//! Addresses that are granted at more ports than can be listened at beforehand: whole networks, names at all ports.
//!
//! The kernel refuses who connects where nobody listens; by a rule of routing, refusals from such an address go nowhere,
//! and a packet socket has got a copy of the first packet. Once the broker has dialled, the agent listens at that very
//! address and port, another rule lets answers from there through, and the held packet is sent again. What the agent
//! itself answers has a mark that a third rule knows. So an address costs nothing before somebody connects to it, and
//! UDP and pings are answered by the kernel as everywhere inside.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use silo_wire::{NAMES, WIDE};

use super::hold::{self, OURS, Version};
use super::route::{Prefix, Routes, Rule, TABLE_LOCAL};

/// The most addresses with their ports that are opened in one sandbox's life.
const MAX_OPENED: usize = 4096;
/// A table of our own.
const TABLE_NOWHERE: u8 = 101;
// The order of the rules; the kernel's first one, which asks for what is local, goes behind ours.
const FIRST: u32 = 0;
const SENT_AGAIN: u32 = 5;
const OPENED: u32 = 10;
const NEVER_WIDE: u32 = 11;
const HELD: u32 = 12;
const LOCAL: u32 = 20;

/// The addresses, and what watches them.
pub struct Wide {
    routes: Routes,
    prefixes: Vec<Prefix>,
    opened: HashSet<SocketAddr>,
    /// Gets copies of first packets, where there are such addresses of version 4.
    pub tap: Option<OwnedFd>,
    /// The same of version 6.
    pub tap_v6: Option<OwnedFd>,
    /// Sends packets of version 6.
    pub raw_v6: Option<OwnedFd>,
}

impl Wide {
    /// Leads these networks here, and names at all ports if there are any.
    pub fn prepare(routes: Routes, networks: &[Prefix], names: bool, source: Ipv4Addr) -> io::Result<Wide> {
        let mut wide = Wide { routes, prefixes: networks.to_vec(), opened: HashSet::new(), tap: None, tap_v6: None, raw_v6: None };
        for (address, bits) in networks {
            let source = if address.is_ipv4() { source.into() } else { Ipv6Addr::LOCALHOST.into() };
            match wide.routes.add_local((*address, *bits), source) {
                // Two grants of one network.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => done?,
            }
        }
        let mut held = networks.to_vec();
        if names {
            held.push((WIDE.0.into(), WIDE.1));
        }
        if held.iter().any(|(address, _)| address.is_ipv4()) {
            // Who connects has no address before it is known where to.
            let never = [(Ipv4Addr::new(127, 0, 0, 0).into(), 8), (NAMES.0.into(), 16), (Ipv4Addr::UNSPECIFIED.into(), 32)];
            wide.rule(source.into(), &never, &held)?;
            wide.tap = Some(hold::tap(Version::V4)?);
        }
        if held.iter().any(|(address, _)| address.is_ipv6()) {
            let own = Ipv6Addr::LOCALHOST.into();
            wide.rule(own, &[(own, 128)], &held)?;
            wide.tap_v6 = Some(hold::tap(Version::V6)?);
            wide.raw_v6 = Some(hold::raw_socket_v6()?);
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

    /// Whether first packets to an address come here by a tap.
    pub fn holds(&self, address: IpAddr) -> bool {
        !never(address) && (is_within(address, (WIDE.0.into(), WIDE.1)) || self.is_granted(address))
    }

    /// Whether it is of a network that is granted as a whole.
    pub fn is_granted(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| is_within(address, *prefix))
    }

    /// Has answers from a place reach who connects there; says whether that is so.
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

/// Cuts the whole of a version in two: a rule about everything would be one about who has no address yet, too.
fn halves(prefix: Prefix) -> Vec<Prefix> {
    match prefix {
        (IpAddr::V4(_), 0) => vec![(Ipv4Addr::UNSPECIFIED.into(), 1), (Ipv4Addr::new(128, 0, 0, 0).into(), 1)],
        (IpAddr::V6(_), 0) => vec![(Ipv6Addr::UNSPECIFIED.into(), 1), (Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into(), 1)],
        _ => vec![prefix],
    }
}

/// What stays the sandbox's own, or has listeners beforehand, whatever network is granted.
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
