//! The addresses of a sandbox's network, by kind.

use std::net::Ipv4Addr;

use silo_wire::ports::PortRange;

use super::route::Prefix;

/// A host granted by address, or a name that stands for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// The address inside.
    pub address: Ipv4Addr,
    /// The name to ask the broker for.
    pub name: String,
    /// The ports to listen on.
    pub ranges: Vec<PortRange>,
}

/// The addresses that the network grants, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Hosts with a listener from the start.
    pub literals: Vec<Literal>,
    /// Networks and hosts without a listener before a program connects.
    pub networks: Vec<Prefix>,
    /// Whether names may have more ports than get a listener from the start.
    pub wide_names: bool,
}
