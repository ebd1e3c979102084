//! The agent: the network of a sandbox from the inside, by name.
//!
//! A sandbox has only a loopback interface. The agent runs a resolver there, which gives every name that the broker allows an address of
//! its own, from a range that is routed to loopback ([`NAMES`]). So the kernel itself speaks TCP with the programs, and no packet leaves
//! the sandbox.
//!
//! A program sees the true result of a connection: the agent holds its SYN until the broker has dialled. The listener on an address has a
//! filter that drops SYN packets, and a raw socket receives a copy of each. If the dial succeeds, the agent sends the SYN again with a mark
//! that passes the filter. Otherwise it sends the answer of a refusing host (RST) or of a router without a route (ICMP). The agent passes
//! each accepted connection to the broker.
//!
//! The agent decides nothing: it passes requests on, and the broker checks them. A program in its place could do no more.

mod dns;
mod packet;
mod route;

mod addresses;
mod syn_queue;

mod dns_table;
mod tap;

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, connect, recv, recvfrom,
    send, sendmsg, sendto, socket_with,
};
use silo_wire::id::{AgentId, BrokerId};
use silo_wire::ports::PortRange;
use silo_wire::{Family, MAX_MESSAGE_BYTES, NAMES, Outcome, RESOLVER, ToAgent, ToBroker};

pub use addresses::{Layout, Literal};
use dns::{Kind, Query, Record};
use dns_table::DnsTable;
use packet::{Syn, Unreachable};
pub use route::Prefix;
use route::Routes;
use syn_queue::{HeldState, SynQueue, Version};
use tap::Tap;

/// The source address of connections to names.
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The most queries that wait for the broker; older ones are dropped, and their clients retry.
const MAX_WAITING: usize = 1024;

/// The agent's sockets and state.
pub struct Agent {
    resolver: OwnedFd,
    raw: OwnedFd,
    epoll: OwnedFd,
    wide: Option<Tap>,
    names: DnsTable,
    hold: SynQueue,
    waiting: Vec<(AgentId, Query, SocketAddrV4)>,
    last: AgentId,
}

/// Event tokens; a smaller token is the number of a listener.
const CHANNEL: u64 = u64::MAX;
const RESOLVE: u64 = u64::MAX - 1;
const PACKETS: u64 = u64::MAX - 2;
const END: u64 = u64::MAX - 3;
const TAP: u64 = u64::MAX - 4;
const TAP_V6: u64 = u64::MAX - 5;

impl Agent {
    /// Sets up the routes and sockets in a network namespace; needs root in it, and loopback up.
    pub fn prepare(layout: &Layout) -> io::Result<Agent> {
        let routes = Routes::open()?;
        // An older kernel keeps small segments, which is only slower.
        let _ = routes.carry_large_segments();
        routes.add_address(SOURCE)?;
        routes.add_local((NAMES.0.into(), NAMES.1), SOURCE.into())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let resolver = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        bind(&resolver, &SocketAddrV4::new(RESOLVER, 53))?;
        let raw = syn_queue::raw_socket()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, token) in [(&resolver, RESOLVE), (&raw, PACKETS)] {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        let mut names = DnsTable::default();
        for literal in &layout.literals {
            if !literal.address.is_loopback() && names.is_new(literal.address) {
                routes.add_local((literal.address.into(), 32), SOURCE.into())?;
            }
            names.add_literal(epoll.as_fd(), literal);
        }
        let mut wide = None;
        if layout.wide_names || !layout.networks.is_empty() {
            let made = Tap::prepare(routes, layout, SOURCE)?;
            for (tap, token) in [(&made.tap, TAP), (&made.tap_v6, TAP_V6)] {
                if let Some(tap) = tap {
                    epoll::add(&epoll, tap, EventData::new_u64(token), EventFlags::IN)?;
                }
            }
            wide = Some(made);
        }
        Ok(Agent { resolver, raw, epoll, wide, names, hold: SynQueue::default(), waiting: Vec::new(), last: AgentId::default() })
    }

    /// Returns the descriptor that is readable at the first event.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Returns all descriptors.
    pub fn descriptors(&self) -> Vec<&OwnedFd> {
        let wide = self.wide.iter().flat_map(Tap::descriptors);
        [&self.resolver, &self.raw, &self.epoll].into_iter().chain(self.names.listeners()).chain(wide).collect()
    }

    /// Waits for the first event, and reads nothing; returns false if the program has exited without any.
    pub fn is_needed(&self, channel: &OwnedFd, end: BorrowedFd<'_>) -> io::Result<bool> {
        for (fd, token) in [(channel.as_fd(), CHANNEL), (end, END)] {
            epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        let mut events = Vec::with_capacity(64);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => {}
                result => {
                    result?;
                    return Ok(events.iter().any(|event| event.data.u64() != END));
                }
            }
        }
    }

    /// Serves until the broker closes the channel, or until `end` becomes readable because the program has exited. Needs no privilege but
    /// to bind low ports.
    ///
    /// Call [`Agent::is_needed`] first.
    pub fn serve(mut self, channel: &OwnedFd) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in &events {
                let done = match event.data.u64() {
                    CHANNEL => match self.receive(channel)? {
                        true => Ok(()),
                        false => return Ok(()),
                    },
                    END => {
                        self.finish(channel);
                        return Ok(());
                    }
                    RESOLVE => self.resolve(channel),
                    PACKETS => self.take_packet(channel),
                    TAP => self.take_tapped(channel, Version::V4),
                    TAP_V6 => self.take_tapped(channel, Version::V6),
                    listener => self.accept(channel, listener),
                };
                match done {
                    // The guest closed the connection in between, or sends too much: neither is a reason to stop.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Sends the requests that are still queued, so that the user sees their refusals, although no program waits for the answers. Passes
    /// open connections on, with the data written to them.
    fn finish(&mut self, channel: &OwnedFd) {
        while self.resolve(channel).is_ok() {}
        while self.take_packet(channel).is_ok() {}
        for version in [Version::V4, Version::V6] {
            while self.take_tapped(channel, version).is_ok() {}
        }
        for listener in 0..self.names.count() {
            while self.accept(channel, listener).is_ok() {}
        }
    }

    fn id(&mut self) -> AgentId {
        self.last = self.last.next();
        self.last
    }

    /// Handles one DNS query.
    fn resolve(&mut self, channel: &OwnedFd) -> io::Result<()> {
        let mut bytes = [0; 1500];
        let (length, _, from) = recvfrom(&self.resolver, &mut bytes[..], RecvFlags::empty())?;
        let from: SocketAddrV4 = from.and_then(|from| from.try_into().ok()).ok_or(ErrorKind::InvalidData)?;
        let Some(query) = Query::parse(&bytes[..length]) else { return Ok(()) };
        let local = query.name == "localhost" || query.name.ends_with(".localhost");
        let known = if local { Some(Ipv4Addr::LOCALHOST) } else { self.names.address(&query.name) };
        if let Some(address) = known {
            return self.answer_address(&query, from, Some(address));
        }
        if query.kind == Kind::Other {
            // The agent answers only address queries.
            return self.answer_record(&query, from, Record::Nothing);
        }
        let id = self.id();
        send(channel, &ToBroker::Lookup { id, name: query.name.clone() }.to_bytes(), SendFlags::NOSIGNAL)?;
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push((id, query, from));
        Ok(())
    }

    fn answer_address(&self, query: &Query, to: SocketAddrV4, address: Option<Ipv4Addr>) -> io::Result<()> {
        let record = match (address, query.kind) {
            (Some(address), Kind::V4) => Record::Address(address),
            (Some(_), _) => Record::Nothing,
            (None, _) => Record::NoName,
        };
        self.answer_record(query, to, record)
    }

    fn answer_record(&self, query: &Query, to: SocketAddrV4, record: Record) -> io::Result<()> {
        sendto(&self.resolver, &query.answer(record), SendFlags::empty(), &to)?;
        Ok(())
    }

    /// Handles a copy of a SYN to an address with a listener.
    fn take_packet(&mut self, channel: &OwnedFd) -> io::Result<()> {
        let Some(syn) = next_packet(self.raw.as_fd())? else { return Ok(()) };
        let to = syn.ends.to;
        if self.wide.as_ref().is_some_and(|wide| wide.holds(to.ip())) {
            // The tap receives it too.
            return Ok(());
        }
        if let Some(name) = self.names.name_at(to) {
            let name = name.to_owned();
            return self.hold_back(channel, syn, name);
        }
        // The kernel has refused it already. Still asks the broker for a name's address, so that the user sees the refusal.
        let IpAddr::V4(address) = to.ip() else { return Ok(()) };
        let Some(name) = self.names.owner(address).map(str::to_owned) else { return Ok(()) };
        let id = self.id();
        send(channel, &ToBroker::Connect { id, name, port: to.port() }.to_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Handles a copy of a SYN to an address without a listener.
    fn take_tapped(&mut self, channel: &OwnedFd, version: Version) -> io::Result<()> {
        let nothing = || io::Error::from(ErrorKind::WouldBlock);
        let wide = self.wide.as_ref().ok_or_else(nothing)?;
        let tap = match version {
            Version::V4 => &wide.tap,
            Version::V6 => &wide.tap_v6,
        };
        let tap = tap.as_ref().ok_or_else(nothing)?;
        let Some(syn) = next_packet(tap.as_fd())? else { return Ok(()) };
        let address = syn.ends.to.ip();
        if !wide.holds(address) {
            return Ok(());
        }
        let owner = match address {
            IpAddr::V4(address) => self.names.owner(address).map(str::to_owned),
            IpAddr::V6(_) => None,
        };
        let name = match (owner, address) {
            (Some(name), _) => name,
            (None, IpAddr::V4(address)) if wide.is_granted(address.into()) => address.to_string(),
            (None, IpAddr::V6(address)) => format!("[{address}]"),
            // An address of the names' range that no name has yet.
            (None, IpAddr::V4(_)) => return self.inject(&syn.reset(), syn.ends.from.ip()),
        };
        self.hold_back(channel, syn, name)
    }

    /// Holds a connection until the broker has dialled.
    fn hold_back(&mut self, channel: &OwnedFd, syn: Syn, name: String) -> io::Result<()> {
        match self.hold.get(syn.ends) {
            // A retransmission after the SYN was sent again: that copy was lost.
            Some(HeldState::Open) => return self.inject(&syn.again(), syn.ends.to.ip()),
            Some(HeldState::Waiting | HeldState::Silent) => return Ok(()),
            None => {}
        }
        let id = self.id();
        let (to, port, refusal) = (syn.ends.from.ip(), syn.ends.to.port(), syn.reset());
        if !self.hold.put(id, syn) {
            return self.inject(&refusal, to);
        }
        send(channel, &ToBroker::Connect { id, name, port }.to_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn inject(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let raw = match to {
            IpAddr::V4(_) => Some(&self.raw),
            IpAddr::V6(_) => self.wide.as_ref().and_then(|wide| wide.raw_v6.as_ref()),
        };
        if let Some(raw) = raw {
            sendto(raw, packet, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        }
        Ok(())
    }

    /// Lets the SYN of a connection through after the broker has connected.
    fn let_through(&mut self, syn: &Syn) -> io::Result<()> {
        let to = syn.ends.to;
        if let Some(wide) = self.wide.as_mut().filter(|wide| wide.holds(to.ip())) {
            // The connection's id identifies the name, so none is needed here.
            let listens = self.names.listen_at(self.epoll.as_fd(), to, "").is_ok() && wide.open(to);
            if !listens {
                self.hold.forget(syn.ends);
                return self.inject(&syn.reset(), syn.ends.from.ip());
            }
        }
        self.inject(&syn.again(), to.ip())
    }

    /// Handles one message of the broker; returns false at the end of the channel.
    fn receive(&mut self, channel: &OwnedFd) -> io::Result<bool> {
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        let (length, _) = recv(channel, &mut bytes[..], RecvFlags::empty())?;
        if length == 0 {
            return Ok(false);
        }
        // A failure for one program shows as a missing answer there.
        match ToAgent::from_bytes(&bytes[..length]) {
            Some(ToAgent::Enter { id, family, port }) => drop(enter(channel, id, family, port)),
            Some(ToAgent::Ports { id, ranges }) => drop(self.handle_ports(id, &ranges)),
            Some(ToAgent::Outcome { id, outcome }) => drop(self.came_to(id, outcome)),
            None => {}
        }
        Ok(true)
    }

    fn handle_ports(&mut self, id: AgentId, ranges: &[PortRange]) -> io::Result<()> {
        let Some(at) = self.waiting.iter().position(|(one, ..)| *one == id) else { return Ok(()) };
        let (_, query, from) = self.waiting.remove(at);
        if ranges.is_empty() {
            return self.answer_address(&query, from, None);
        }
        match self.names.add(self.epoll.as_fd(), &query.name, ranges) {
            Some(address) => self.answer_address(&query, from, Some(address)),
            None => self.answer_record(&query, from, Record::Failure),
        }
    }

    fn came_to(&mut self, id: AgentId, outcome: Outcome) -> io::Result<()> {
        let Some(syn) = self.hold.take_dialed(id, outcome) else { return Ok(()) };
        let from = syn.ends.from.ip();
        match outcome {
            Outcome::Open => self.let_through(&syn),
            Outcome::Refused => self.inject(&syn.reset(), from),
            Outcome::Unreachable => self.inject(&syn.no_way(Unreachable::Host), from),
            Outcome::Denied => self.inject(&syn.no_way(Unreachable::Forbidden), from),
            // Answers nothing, like the host: the kernel inside times out by itself.
            Outcome::TimedOut => Ok(()),
        }
    }

    /// Accepts a connection and passes it to the broker.
    fn accept(&mut self, channel: &OwnedFd, listener: u64) -> io::Result<()> {
        let Some((connection, ends)) = self.names.accept(listener)? else { return Ok(()) };
        let Some(id) = self.hold.take(ends) else { return Ok(()) };
        pass(channel, &ToBroker::Accepted { id }, &connection)
    }
}

/// Reads one packet; `None` unless it is a SYN.
fn next_packet(socket: BorrowedFd<'_>) -> io::Result<Option<Syn>> {
    let mut bytes = [MaybeUninit::uninit(); 2048];
    let ((bytes, _), _) = recv(socket, &mut bytes, RecvFlags::empty())?;
    Ok(Syn::parse(bytes))
}

/// Sends a message with a connection's file descriptor.
fn pass(channel: &OwnedFd, message: &ToBroker, connection: &OwnedFd) -> io::Result<()> {
    let passed = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(channel, &[io::IoSlice::new(&message.to_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Connects to a port inside for the broker, which waits for the result itself.
fn enter(channel: &OwnedFd, id: BrokerId, family: Family, port: u16) -> io::Result<()> {
    match begin(family, port) {
        Ok(connection) => pass(channel, &ToBroker::Entered { id }, &connection),
        Err(_) => {
            send(channel, &ToBroker::Nobody { id }.to_bytes(), SendFlags::NOSIGNAL)?;
            Ok(())
        }
    }
}

fn begin(family: Family, port: u16) -> io::Result<OwnedFd> {
    let (family, to) = match family {
        Family::V4 => (AddressFamily::INET, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Family::V6 => (AddressFamily::INET6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
