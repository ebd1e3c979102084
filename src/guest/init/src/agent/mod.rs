//! The agent: the sandbox's end of its network, by name.
//!
//! A sandbox has no interface but its own loopback. On that stands a resolver, which gives every name that the broker
//! outside knows an address of its own, in a range that leads back to this very loopback ([`NAMES`]). So the kernel
//! itself speaks TCP with whoever connects there, and no packet leaves.
//!
//! A connection is answered truthfully: its first packet is held until the broker has dialled. The listener on an
//! address has a filter that drops first packets, while a raw socket gets a copy of each; once the broker says that
//! there is a connection, the agent sends the packet again, with a mark that the filter lets through; else it sends
//! what a host sends that refuses, or a router that has no way. What it accepted it hands to the broker.
//!
//! The agent has no say: it asks for what the program asks for, and the broker judges. Whoever took its place could do
//! no more.

mod dns;
mod packet;
mod route;

mod hold;
mod names;

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, connect, recv, recvfrom,
    send, sendmsg, sendto, socket_with,
};
use silo_wire::{Answer, Ask, Family, Id, MAX_MESSAGE_BYTES, NAMES, Outcome, RESOLVER};

use dns::{Kind, Query, Record};
use hold::{Held, Hold};
use names::Names;
use packet::{NoWay, Syn};
use route::Routes;

/// Where connections to names come from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// The most questions that wait for the broker; older ones are asked again by whoever still wants to know.
const MAX_WAITING: usize = 1024;

/// A host that is granted by address, or by a name that stands for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal {
    /// The address inside.
    pub address: Ipv4Addr,
    /// What the broker is asked for.
    pub name: String,
    /// Both ends of each range of ports.
    pub ranges: Vec<(u16, u16)>,
}

/// What the agent listens with.
pub struct Agent {
    resolver: OwnedFd,
    raw: OwnedFd,
    epoll: OwnedFd,
    names: Names,
    hold: Hold,
    waiting: Vec<(Id, Query, SocketAddrV4)>,
    last: Id,
}

/// What an event is of, beside listeners (which are their number).
const CHANNEL: u64 = u64::MAX;
const RESOLVE: u64 = u64::MAX - 1;
const PACKETS: u64 = u64::MAX - 2;
const END: u64 = u64::MAX - 3;

impl Agent {
    /// Makes a network namespace lead to names: needs the powers of its root, and the loopback up.
    pub fn prepare(literals: &[Literal]) -> io::Result<Agent> {
        let routes = Routes::open()?;
        // An older kernel carries small segments, and that takes longer.
        let _ = routes.carry_large_segments();
        routes.add_address(SOURCE)?;
        routes.add_local(NAMES.0, NAMES.1, SOURCE)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let resolver = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        bind(&resolver, &SocketAddrV4::new(RESOLVER, 53))?;
        let raw = hold::raw_socket()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, token) in [(&resolver, RESOLVE), (&raw, PACKETS)] {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        let mut names = Names::default();
        for literal in literals {
            if !literal.address.is_loopback() && names.is_new(literal.address) {
                routes.add_local(literal.address, 32, SOURCE)?;
            }
            names.add_literal(epoll.as_fd(), literal);
        }
        Ok(Agent { resolver, raw, epoll, names, hold: Hold::default(), waiting: Vec::new(), last: 0 })
    }

    /// Serves until the broker's end of the channel closes, or `end` can be read, which says that the program has ended;
    /// needs no powers but to listen at low ports.
    pub fn serve(mut self, channel: &OwnedFd, end: BorrowedFd<'_>) -> io::Result<()> {
        for (fd, token) in [(channel.as_fd(), CHANNEL), (end, END)] {
            epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN)?;
        }
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in &events {
                let done = match event.data.u64() {
                    CHANNEL => match self.hear(channel)? {
                        true => Ok(()),
                        false => return Ok(()),
                    },
                    END => {
                        self.ask_all(channel);
                        return Ok(());
                    }
                    RESOLVE => self.resolve(channel),
                    PACKETS => self.take_packet(channel),
                    listener => self.accept(channel, listener),
                };
                match done {
                    // A guest that closed meanwhile, or that floods: neither is a reason to stop.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Asks all that was asked for so far: nobody waits for what comes of it any more, but the user hears of refusals.
    fn ask_all(&mut self, channel: &OwnedFd) {
        while self.resolve(channel).is_ok() {}
        while self.take_packet(channel).is_ok() {}
    }

    fn id(&mut self) -> Id {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    /// Takes one question of a program.
    fn resolve(&mut self, channel: &OwnedFd) -> io::Result<()> {
        let mut bytes = [0; 1500];
        let (length, _, from) = recvfrom(&self.resolver, &mut bytes[..], RecvFlags::empty())?;
        let from: SocketAddrV4 = from.and_then(|from| from.try_into().ok()).ok_or(ErrorKind::InvalidData)?;
        let Some(query) = Query::parse(&bytes[..length]) else { return Ok(()) };
        let local = query.name == "localhost" || query.name.ends_with(".localhost");
        let known = if local { Some(Ipv4Addr::LOCALHOST) } else { self.names.address(&query.name) };
        if let Some(address) = known {
            return self.tell(&query, from, Some(address));
        }
        if query.kind == Kind::Other {
            // Whether there is such a name is nobody's question here.
            return self.say(&query, from, Record::Nothing);
        }
        let id = self.id();
        send(channel, &Ask::Lookup { id, name: query.name.clone() }.to_bytes(), SendFlags::NOSIGNAL)?;
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.remove(0);
        }
        self.waiting.push((id, query, from));
        Ok(())
    }

    fn tell(&self, query: &Query, to: SocketAddrV4, address: Option<Ipv4Addr>) -> io::Result<()> {
        let record = match (address, query.kind) {
            (Some(address), Kind::V4) => Record::Address(address),
            (Some(_), _) => Record::Nothing,
            (None, _) => Record::NoName,
        };
        self.say(query, to, record)
    }

    fn say(&self, query: &Query, to: SocketAddrV4, record: Record) -> io::Result<()> {
        sendto(&self.resolver, &query.answer(record), SendFlags::empty(), &to)?;
        Ok(())
    }

    /// Takes one copy of a connection's first packet.
    fn take_packet(&mut self, channel: &OwnedFd) -> io::Result<()> {
        let mut bytes = [MaybeUninit::uninit(); 2048];
        let ((bytes, _), _) = recv(&self.raw, &mut bytes, RecvFlags::empty())?;
        let Some(syn) = Syn::parse(bytes) else { return Ok(()) };
        let Some(name) = self.names.name_at(syn.ends.to) else {
            // The kernel has refused it already. At a name's address the broker is asked all the same: it tells the user.
            let Some(name) = self.names.owner(*syn.ends.to.ip()) else { return Ok(()) };
            let (name, port) = (name.to_owned(), syn.ends.to.port());
            let id = self.id();
            send(channel, &Ask::Connect { id, name, port }.to_bytes(), SendFlags::NOSIGNAL)?;
            return Ok(());
        };
        match self.hold.get(syn.ends) {
            // It was let through and came again: the copy was lost.
            Some(Held::Open) => return self.inject(&syn.again(), *syn.ends.to.ip()),
            Some(Held::Waiting | Held::Silent) => return Ok(()),
            None => {}
        }
        let (name, port) = (name.to_owned(), syn.ends.to.port());
        let id = self.id();
        let (to, refusal) = (*syn.ends.from.ip(), syn.reset());
        if !self.hold.put(id, syn) {
            return self.inject(&refusal, to);
        }
        send(channel, &Ask::Connect { id, name, port }.to_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn inject(&self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        sendto(&self.raw, packet, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        Ok(())
    }

    /// Takes one message of the broker; says whether there will be more.
    fn hear(&mut self, channel: &OwnedFd) -> io::Result<bool> {
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        let (length, _) = recv(channel, &mut bytes[..], RecvFlags::empty())?;
        if length == 0 {
            return Ok(false);
        }
        // What cannot be done for one program is told by what it does not get.
        match Answer::from_bytes(&bytes[..length]) {
            Some(Answer::Enter { id, family, port }) => drop(enter(channel, id, family, port)),
            Some(Answer::Ports { id, ranges }) => drop(self.told(id, &ranges)),
            Some(Answer::Outcome { id, outcome }) => drop(self.came_to(id, outcome)),
            None => {}
        }
        Ok(true)
    }

    fn told(&mut self, id: Id, ranges: &[(u16, u16)]) -> io::Result<()> {
        let Some(at) = self.waiting.iter().position(|(one, ..)| *one == id) else { return Ok(()) };
        let (_, query, from) = self.waiting.remove(at);
        if ranges.is_empty() {
            return self.tell(&query, from, None);
        }
        match self.names.add(self.epoll.as_fd(), &query.name, ranges) {
            Some(address) => self.tell(&query, from, Some(address)),
            None => self.say(&query, from, Record::Failure),
        }
    }

    fn came_to(&mut self, id: Id, outcome: Outcome) -> io::Result<()> {
        let Some(syn) = self.hold.settle(id, outcome) else { return Ok(()) };
        let (from, to) = (*syn.ends.from.ip(), *syn.ends.to.ip());
        match outcome {
            Outcome::Open => self.inject(&syn.again(), to),
            Outcome::Refused => self.inject(&syn.reset(), from),
            Outcome::Unreachable => self.inject(&syn.no_way(NoWay::Host), from),
            Outcome::Denied => self.inject(&syn.no_way(NoWay::Forbidden), from),
            // Nobody answered, so nobody answers: the kernel inside gives up by itself.
            Outcome::TimedOut => Ok(()),
        }
    }

    /// Hands a connection on.
    fn accept(&mut self, channel: &OwnedFd, listener: u64) -> io::Result<()> {
        let Some((connection, ends)) = self.names.accept(listener)? else { return Ok(()) };
        let Some(id) = self.hold.take(ends) else { return Ok(()) };
        pass(channel, &Ask::Accepted { id }, &connection)
    }
}

/// Sends a message with a connection.
fn pass(channel: &OwnedFd, message: &Ask, connection: &OwnedFd) -> io::Result<()> {
    let passed = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(channel, &[io::IoSlice::new(&message.to_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Connects to a port inside, for the broker, which waits for the outcome itself.
fn enter(channel: &OwnedFd, id: Id, family: Family, port: u16) -> io::Result<()> {
    match begin(family, port) {
        Ok(connection) => pass(channel, &Ask::Entered { id }, &connection),
        Err(_) => {
            send(channel, &Ask::Nobody { id }.to_bytes(), SendFlags::NOSIGNAL)?;
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
