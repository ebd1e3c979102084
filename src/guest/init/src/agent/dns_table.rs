//! The DNS table: allowed names, their addresses inside, and the listeners there.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, listen, socket_with, sockopt};
use silo_wire::ports::PortRange;
use silo_wire::{MAX_LISTENED, NAMES, WIDE};

use super::addresses::Literal;
use super::packet::Ends;
use super::syn_queue;
use crate::sys;

/// The first address for names.
const FIRST: u32 = 0x100;
/// The most names of one sandbox. It bounds egress through lookups: a granted domain could carry data out, one name at a time.
const MAX_NAMES: usize = 4096;
/// The most listeners of one name or address from the start, where it cannot be [`Wide`](super::tap::Wide).
const MAX_PORTS: usize = 4096;
/// The listen backlog.
const BACKLOG: i32 = 1024;

/// The names of a sandbox. An address never changes its name.
#[derive(Default)]
pub struct DnsTable {
    addresses: HashMap<String, Ipv4Addr>,
    owners: HashMap<Ipv4Addr, String>,
    listening: HashMap<SocketAddr, String>,
    listeners: Vec<(OwnedFd, SocketAddr)>,
}

impl DnsTable {
    /// Returns the listening sockets.
    pub fn listeners(&self) -> impl Iterator<Item = &OwnedFd> {
        self.listeners.iter().map(|(listener, _)| listener)
    }

    /// Returns the address of a name.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.addresses.get(name).copied()
    }

    /// Returns the name for a listener.
    pub fn name_at(&self, place: SocketAddr) -> Option<&str> {
        self.listening.get(&place).map(String::as_str)
    }

    /// Returns the name for an address, with or without a listener.
    pub fn owner(&self, address: Ipv4Addr) -> Option<&str> {
        self.owners.get(&address).map(String::as_str)
    }

    /// Whether an address has no listener yet.
    pub fn is_new(&self, address: Ipv4Addr) -> bool {
        !self.listening.keys().any(|place| place.ip() == IpAddr::V4(address))
    }

    /// Gives a name an address and listens there; `None` at the limit.
    pub fn add(&mut self, epoll: BorrowedFd<'_>, name: &str, ranges: &[PortRange]) -> Option<Ipv4Addr> {
        if let Some(address) = self.address(name) {
            return Some(address);
        }
        if self.addresses.len() >= MAX_NAMES {
            return None;
        }
        let is_wide = PortRange::count(ranges) > MAX_LISTENED;
        let number = FIRST + u32::try_from(self.addresses.len()).ok()?;
        let base = if is_wide { WIDE.0 } else { NAMES.0 };
        let address = Ipv4Addr::from_bits(base.to_bits() + number);
        self.addresses.insert(name.to_owned(), address);
        self.owners.insert(address, name.to_owned());
        if !is_wide {
            self.listen(epoll, address, name, ranges);
        }
        Some(address)
    }

    /// Listens at a host's own address, or at one of the sandbox itself.
    pub fn add_literal(&mut self, epoll: BorrowedFd<'_>, literal: &Literal) {
        self.listen(epoll, literal.address, &literal.name, &literal.ranges);
    }

    fn listen(&mut self, epoll: BorrowedFd<'_>, address: Ipv4Addr, name: &str, ranges: &[PortRange]) {
        for port in ranges.iter().flat_map(|range| range.ports()).take(MAX_PORTS) {
            // A port that the program took first stays its own.
            let _ = self.listen_at(epoll, SocketAddr::from((address, port)), name);
        }
    }

    /// Listens at an address and port, unless there is a listener.
    pub fn listen_at(&mut self, epoll: BorrowedFd<'_>, place: SocketAddr, name: &str) -> io::Result<()> {
        if self.listening.contains_key(&place) {
            return Ok(());
        }
        let listener = listener(place)?;
        epoll::add(epoll, &listener, EventData::new_u64(self.listeners.len() as u64), EventFlags::IN)?;
        self.listeners.push((listener, place));
        self.listening.insert(place, name.to_owned());
        Ok(())
    }

    /// Returns the number of listeners.
    pub fn count(&self) -> u64 {
        self.listeners.len() as u64
    }

    /// Accepts a connection at a listener.
    pub fn accept(&self, listener: u64) -> io::Result<Option<(OwnedFd, Ends)>> {
        let Some((listener, to)) = usize::try_from(listener).ok().and_then(|at| self.listeners.get(at)) else { return Ok(None) };
        let (connection, from) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let from: SocketAddr = from.and_then(|from| from.try_into().ok()).ok_or(ErrorKind::InvalidData)?;
        // The filter was for the SYN only.
        sys::detach_filter(connection.as_fd())?;
        Ok(Some((connection, Ends { from, to: *to })))
    }
}

fn listener(place: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = if place.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let listener = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    if place.is_ipv6() {
        // A local route is enough to bind an IPv4 address; IPv6 also needs freebind.
        sockopt::set_ipv6_freebind(&listener, true)?;
    }
    syn_queue::shut(listener.as_fd())?;
    bind(&listener, &place)?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}
