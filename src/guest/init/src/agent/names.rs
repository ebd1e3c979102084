//! The names that may be asked for, with the addresses that stand for them inside, and the listeners there.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, listen, socket_with, sockopt};
use silo_wire::NAMES;

use super::packet::Ends;
use super::{Literal, hold};
use crate::sys;

/// The first of the names' addresses.
const FIRST: u32 = 0x100;
/// The most names of one sandbox: a family of names could carry words out, a name at a time.
const MAX_NAMES: usize = 4096;
/// The most listeners of one name.
const MAX_PORTS: usize = 4096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The names of a sandbox. An address, once given to a name, is never another's.
#[derive(Default)]
pub struct Names {
    addresses: HashMap<String, Ipv4Addr>,
    owners: HashMap<Ipv4Addr, String>,
    listening: HashMap<SocketAddrV4, String>,
    listeners: Vec<(OwnedFd, SocketAddrV4)>,
}

impl Names {
    /// Returns a name's address.
    pub fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.addresses.get(name).copied()
    }

    /// Returns the name that is listened for at an address.
    pub fn name_at(&self, place: SocketAddrV4) -> Option<&str> {
        self.listening.get(&place).map(String::as_str)
    }

    /// Returns the name that an address stands for, whether or not it is listened there.
    pub fn owner(&self, address: Ipv4Addr) -> Option<&str> {
        self.owners.get(&address).map(String::as_str)
    }

    /// Whether nobody listens at an address yet.
    pub fn is_new(&self, address: Ipv4Addr) -> bool {
        !self.listening.keys().any(|place| *place.ip() == address)
    }

    /// Gives a name an address and listens there; `None` when there are too many.
    pub fn add(&mut self, epoll: BorrowedFd<'_>, name: &str, ranges: &[(u16, u16)]) -> Option<Ipv4Addr> {
        if let Some(address) = self.address(name) {
            return Some(address);
        }
        if self.addresses.len() >= MAX_NAMES {
            return None;
        }
        let number = FIRST + u32::try_from(self.addresses.len()).ok()?;
        let address = Ipv4Addr::from_bits(NAMES.0.to_bits() + number);
        self.addresses.insert(name.to_owned(), address);
        self.owners.insert(address, name.to_owned());
        self.listen(epoll, address, name, ranges);
        Some(address)
    }

    /// Listens at an address of the world, or of this sandbox itself.
    pub fn add_literal(&mut self, epoll: BorrowedFd<'_>, literal: &Literal) {
        self.listen(epoll, literal.address, &literal.name, &literal.ranges);
    }

    fn listen(&mut self, epoll: BorrowedFd<'_>, address: Ipv4Addr, name: &str, ranges: &[(u16, u16)]) {
        for port in ranges.iter().flat_map(|(from, to)| *from..=*to).take(MAX_PORTS) {
            let place = SocketAddrV4::new(address, port);
            // A port that the program took first stays its own.
            let Ok(listener) = listener(place) else { continue };
            let token = EventData::new_u64(self.listeners.len() as u64);
            if epoll::add(epoll, &listener, token, EventFlags::IN).is_ok() {
                self.listeners.push((listener, place));
                self.listening.insert(place, name.to_owned());
            }
        }
    }

    /// Accepts what waits at a listener.
    pub fn accept(&self, listener: u64) -> io::Result<Option<(OwnedFd, Ends)>> {
        let Some((listener, to)) = usize::try_from(listener).ok().and_then(|at| self.listeners.get(at)) else { return Ok(None) };
        let (connection, from) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let from: SocketAddrV4 = from.and_then(|from| from.try_into().ok()).ok_or(ErrorKind::InvalidData)?;
        // It is open; the filter was for its first packet.
        sys::detach_filter(connection.as_fd())?;
        Ok(Some((connection, Ends { from, to: *to })))
    }
}

fn listener(place: SocketAddrV4) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    hold::shut(listener.as_fd())?;
    bind(&listener, &place)?;
    listen(&listener, BACKLOG)?;
    Ok(listener)
}
