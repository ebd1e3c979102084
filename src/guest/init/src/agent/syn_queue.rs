//! Connections whose SYN is held until the broker knows the result of its dial.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};
use silo_wire::Outcome;
use silo_wire::id::AgentId;

use super::packet::{Ends, Syn};
use crate::sys::{self, Instruction, MARK};

/// The most held connections.
const MAX_HELD: usize = 4096;
/// After this time the kernel inside has given up.
const FORGET: Duration = Duration::from_secs(180);
/// The socket mark of packets that the agent sends.
pub const OURS: u32 = 2;

// Opcodes of linux/filter.h: load a word or a byte, mask, compare, return.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_BEHIND: u16 = 0x50;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const EQUALS: u16 = 0x15;
const RETURN: u16 = 0x06;
const TCP: u32 = 6;
// linux/if_ether.h.
const ETHER_IP: u16 = 0x0800;
const ETHER_IP_V6: u16 = 0x86dd;
const ALL: Instruction = Instruction(RETURN, 0, 0, u32::MAX);
const NONE: Instruction = Instruction(RETURN, 0, 0, 0);
/// The offset of the TCP flags, their mask, and the value of a SYN without ACK.
const FLAGS: (u32, u32, u32) = (13, 0x12, 0x02);

/// Opens the raw socket that receives copies of SYN packets and sends complete packets.
pub fn raw_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let raw = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::TCP))?;
    let (at, mask, first) = FLAGS;
    // Unmarked SYN packets; the IP header precedes the segment.
    let program = [
        Instruction(LOAD_WORD, 0, 0, MARK),
        Instruction(EQUALS, 0, 4, 0),
        Instruction(LOAD_HEADER_LENGTH, 0, 0, 0),
        Instruction(LOAD_BYTE_BEHIND, 0, 0, at),
        Instruction(AND, 0, 0, mask),
        Instruction(EQUALS, 1, 0, first),
        NONE,
        ALL,
    ];
    sys::attach_filter(raw.as_fd(), &program)?;
    sys::write_headers(raw.as_fd())?;
    sys::set_mark(raw.as_fd(), OURS)?;
    Ok(raw)
}

/// Opens the raw socket that sends complete IPv6 packets.
pub fn raw_socket_v6() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // With this protocol number the sender writes the IP header.
    let raw = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::RAW))?;
    sys::set_mark(raw.as_fd(), OURS)?;
    Ok(raw)
}

/// Opens a packet socket that receives copies of SYN packets before the kernel routes them.
pub fn tap(version: Version) -> io::Result<OwnedFd> {
    let (number, protocol_at, load_flags) = match version {
        Version::V4 => (ETHER_IP, 9, [Instruction(LOAD_HEADER_LENGTH, 0, 0, 0), Instruction(LOAD_BYTE_BEHIND, 0, 0, FLAGS.0)]),
        Version::V6 => (ETHER_IP_V6, 6, [Instruction(LOAD_BYTE, 0, 0, 40 + FLAGS.0), Instruction(LOAD_BYTE, 0, 0, 40 + FLAGS.0)]),
    };
    let protocol = u32::from(number.to_be());
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tap = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, protocol)?;
    let program = [
        Instruction(LOAD_WORD, 0, 0, MARK),
        Instruction(EQUALS, 0, 6, 0),
        Instruction(LOAD_BYTE, 0, 0, protocol_at),
        Instruction(EQUALS, 0, 4, TCP),
        load_flags[0],
        load_flags[1],
        Instruction(AND, 0, 0, FLAGS.1),
        Instruction(EQUALS, 1, 0, FLAGS.2),
        NONE,
        ALL,
    ];
    sys::attach_filter(tap.as_fd(), &program)?;
    Ok(tap)
}

/// The IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Attaches a filter to a listener: it drops every SYN that the agent did not send.
pub fn shut(listener: BorrowedFd<'_>) -> io::Result<()> {
    let (at, mask, first) = FLAGS;
    let program = [
        Instruction(LOAD_BYTE, 0, 0, at),
        Instruction(AND, 0, 0, mask),
        Instruction(EQUALS, 0, 3, first),
        Instruction(LOAD_WORD, 0, 0, MARK),
        Instruction(EQUALS, 1, 0, OURS),
        NONE,
        ALL,
    ];
    sys::attach_filter(listener, &program)
}

/// The state of a held connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// The broker is dialling.
    Waiting,
    /// The broker is connected; the guest's connection is about to be accepted.
    Open,
    /// The dial timed out.
    Silent,
}

/// All held connections.
#[derive(Default)]
pub struct SynQueue {
    by_ends: HashMap<Ends, (AgentId, HeldState, Instant)>,
    waiting: HashMap<AgentId, Syn>,
}

impl SynQueue {
    /// Returns the state of a connection, if it is held.
    pub fn get(&self, ends: Ends) -> Option<HeldState> {
        let counts = |(_, held, since): &&(AgentId, HeldState, Instant)| *held == HeldState::Waiting || since.elapsed() < FORGET;
        self.by_ends.get(&ends).filter(counts).map(|(_, held, _)| *held)
    }

    /// Holds a connection; returns false at the limit.
    pub fn put(&mut self, id: AgentId, syn: Syn) -> bool {
        if self.by_ends.len() >= MAX_HELD {
            self.by_ends.retain(|_, (_, _, since)| since.elapsed() < FORGET);
            let by_ends = &self.by_ends;
            self.waiting.retain(|_, syn| by_ends.contains_key(&syn.ends));
        }
        if self.by_ends.len() >= MAX_HELD {
            return false;
        }
        self.by_ends.insert(syn.ends, (id, HeldState::Waiting, Instant::now()));
        self.waiting.insert(id, syn);
        true
    }

    /// Records the result of a dial; returns the held SYN.
    pub fn take_dialed(&mut self, id: AgentId, outcome: Outcome) -> Option<Syn> {
        let syn = self.waiting.remove(&id)?;
        let held = match outcome {
            Outcome::Open => Some(HeldState::Open),
            Outcome::TimedOut => Some(HeldState::Silent),
            Outcome::Denied | Outcome::Refused | Outcome::Unreachable => None,
        };
        match held {
            Some(held) => drop(self.by_ends.insert(syn.ends, (id, held, Instant::now()))),
            None => drop(self.by_ends.remove(&syn.ends)),
        }
        Some(syn)
    }

    /// Drops a connection.
    pub fn forget(&mut self, ends: Ends) {
        self.by_ends.remove(&ends);
    }

    /// Drops a connection that was accepted; returns its id.
    pub fn take(&mut self, ends: Ends) -> Option<AgentId> {
        self.by_ends.remove(&ends).filter(|(_, held, _)| *held == HeldState::Open).map(|(id, ..)| id)
    }
}
