//! The parts of a sandbox's network that are reached by address instead of by name, for the agent inside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use silo_init::agent::{Layout, Literal};
use silo_wire::MAX_LISTENED;
use silo_wire::ports::PortRange;

use crate::error::Error;
use crate::spec::Network;
use silo_base::grant::MACHINE;

/// Collects the grants by address, and by a name of the sandbox's own loopback.
pub fn layout(network: &Network) -> Result<Layout, Error> {
    let policy = network.policy();
    let mut layout = Layout { wide_names: policy.count() > MAX_LISTENED, ..Layout::default() };
    let hosts: BTreeSet<_> = policy.allow.iter().filter_map(|grant| grant.host()).collect();
    for host in hosts {
        let ranges = policy.ranges(host);
        let many = PortRange::count(&ranges) > MAX_LISTENED;
        let address = if host.as_str() == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.address() };
        match address {
            Some(address) if address.is_loopback() && many => return Err(Error::Spec { reason: all_of(host.as_str()) }),
            // The sandbox's IPv6 loopback has a name here, like the IPv4 one.
            Some(IpAddr::V6(address)) if address.is_loopback() => {}
            Some(IpAddr::V4(address)) if !many => layout.literals.push(Literal { address, name: host.as_str().to_owned(), ranges }),
            Some(address) => layout.networks.push((address, if address.is_ipv4() { 32 } else { 128 })),
            None => {}
        }
    }
    layout.networks.extend(policy.allow.iter().filter_map(|grant| grant.block()).map(|block| (block.first, block.bits)));
    layout.networks.dedup();
    Ok(layout)
}

fn all_of(name: &str) -> String {
    format!("{name} at more than {MAX_LISTENED} ports would leave the sandbox too few of its own; grant {MACHINE}:* and connect to it")
}
