//! The protocol between the agent in a sandbox and the broker outside.
//!
//! One message is one datagram (on a stream, a two-byte little-endian length precedes it). A message is a letter, the request id in four
//! little-endian bytes, and the fields of the letter:
//!
//! | from the agent | | from the broker | |
//! |---|---|---|---|
//! | `L` name | lookup: which ports of this name are allowed? | `P` pairs of ports | allowed ranges (from, to); none if denied |
//! | `C` port, name | connect | `O` outcome | the result of the dial |
//! | `A` | the accepted connection (file descriptor) | `E` family, port | connect to this port inside |
//! | `E` | the connection inside (file descriptor) | | |
//! | `N` | the port inside refused the connection | | |
//!
//! The broker chooses the ids of `E` and `N`, the agent all others.
//!
//! Both sides treat input as hostile: they parse a message completely or not at all, and its size is bounded.
//!
//! [`frame`] is the protocol of a VM's serial port.
#![forbid(unsafe_code)]

pub mod id;
pub mod ports;

pub mod frame;

use std::net::Ipv4Addr;

use id::{AgentId, BrokerId};
use ports::PortRange;

/// The address range for names inside, reserved for network benchmarks (RFC 2544), so no real host has it.
pub const NAMES: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// The part of [`NAMES`] for names with more ports than get a listener from the start.
pub const WIDE: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);
/// The address of the resolver inside.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// The longest DNS name.
pub const MAX_NAME_BYTES: usize = 253;
/// The most port ranges of one answer.
pub const MAX_RANGES: usize = 256;
/// The most ports of one name that get a listener from the start. If more are granted, each port gets one at its first connection.
pub const MAX_LISTENED: usize = 256;
/// The longest message.
pub const MAX_MESSAGE_BYTES: usize = 5 + 4 * MAX_RANGES;

/// A message from the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBroker {
    /// Asks for the allowed ports of a name.
    Lookup {
        /// Request id.
        id: AgentId,
        /// The name, or an address as text.
        name: String,
    },
    /// Asks the broker to connect to `name:port`.
    Connect {
        /// Request id.
        id: AgentId,
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// The guest's connection was accepted; its file descriptor comes with the message, or beside it.
    Accepted {
        /// Request id.
        id: AgentId,
    },
    /// The connection inside that the broker asked for. Its file descriptor comes with the message, or beside it, perhaps before it is
    /// connected.
    Entered {
        /// Request id.
        id: BrokerId,
    },
    /// The port inside refused the connection.
    Nobody {
        /// Request id.
        id: BrokerId,
    },
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAgent {
    /// The allowed ports of a name, as ranges; empty if it is denied.
    Ports {
        /// Request id.
        id: AgentId,
        /// The ranges.
        ranges: Vec<PortRange>,
    },
    /// The result of a dial.
    Outcome {
        /// Request id.
        id: AgentId,
        /// The result.
        outcome: Outcome,
    },
    /// Asks the agent to connect to a port of the sandbox's loopback.
    Enter {
        /// Request id.
        id: BrokerId,
        /// The IP version.
        family: Family,
        /// The port.
        port: u16,
    },
}

/// The IP version of a loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The result of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Connected.
    Open,
    /// Policy forbids it.
    Denied,
    /// The peer refused the connection.
    Refused,
    /// No route to the host.
    Unreachable,
    /// The dial timed out.
    TimedOut,
}

const OUTCOMES: [(Outcome, u8); 5] =
    [(Outcome::Open, b'o'), (Outcome::Denied, b'd'), (Outcome::Refused, b'r'), (Outcome::Unreachable, b'u'), (Outcome::TimedOut, b't')];

/// Whether a message may carry a name: printable ASCII, and no longer than a DNS name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic())
}

impl ToBroker {
    /// Encodes the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let (letter, id) = match self {
            ToBroker::Lookup { id, .. } => (b'L', id.0),
            ToBroker::Connect { id, .. } => (b'C', id.0),
            ToBroker::Accepted { id } => (b'A', id.0),
            ToBroker::Entered { id } => (b'E', id.0),
            ToBroker::Nobody { id } => (b'N', id.0),
        };
        bytes.push(letter);
        bytes.extend(id.to_le_bytes());
        match self {
            ToBroker::Lookup { name, .. } => bytes.extend(name.bytes()),
            ToBroker::Connect { name, port, .. } => {
                bytes.extend(port.to_le_bytes());
                bytes.extend(name.bytes());
            }
            ToBroker::Accepted { .. } | ToBroker::Entered { .. } | ToBroker::Nobody { .. } => {}
        }
        bytes
    }

    /// Parses a message; `None` if it is malformed.
    pub fn from_bytes(bytes: &[u8]) -> Option<ToBroker> {
        let (letter, id, rest) = split(bytes)?;
        let name = |bytes: &[u8]| std::str::from_utf8(bytes).ok().filter(|name| is_name(name)).map(str::to_owned);
        match letter {
            b'L' => Some(ToBroker::Lookup { id: AgentId(id), name: name(rest)? }),
            b'C' => {
                let (port, rest) = rest.split_first_chunk::<2>()?;
                let port = u16::from_le_bytes(*port);
                (port > 0).then_some(ToBroker::Connect { id: AgentId(id), name: name(rest)?, port })
            }
            b'A' => rest.is_empty().then_some(ToBroker::Accepted { id: AgentId(id) }),
            b'E' => rest.is_empty().then_some(ToBroker::Entered { id: BrokerId(id) }),
            b'N' => rest.is_empty().then_some(ToBroker::Nobody { id: BrokerId(id) }),
            _ => None,
        }
    }
}

impl ToAgent {
    /// Encodes the message; ranges beyond [`MAX_RANGES`] are left out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        match self {
            ToAgent::Ports { id, ranges } => {
                bytes.push(b'P');
                bytes.extend(id.0.to_le_bytes());
                for range in ranges.iter().take(MAX_RANGES) {
                    bytes.extend(range.first().to_le_bytes());
                    bytes.extend(range.last().to_le_bytes());
                }
            }
            ToAgent::Outcome { id, outcome } => {
                bytes.push(b'O');
                bytes.extend(id.0.to_le_bytes());
                bytes.extend(OUTCOMES.iter().find(|(one, _)| one == outcome).map(|(_, letter)| *letter));
            }
            ToAgent::Enter { id, family, port } => {
                bytes.push(b'E');
                bytes.extend(id.0.to_le_bytes());
                bytes.push(if *family == Family::V4 { b'4' } else { b'6' });
                bytes.extend(port.to_le_bytes());
            }
        }
        bytes
    }

    /// Parses a message; `None` if it is malformed.
    pub fn from_bytes(bytes: &[u8]) -> Option<ToAgent> {
        let (letter, id, rest) = split(bytes)?;
        match (letter, rest) {
            (b'P', rest) => {
                let (pairs, odd) = rest.as_chunks::<4>();
                let range = |[a, b, c, d]: &[u8; 4]| PortRange::new(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
                let ranges = pairs.iter().map(range).collect::<Option<Vec<PortRange>>>()?;
                (odd.is_empty() && ranges.len() <= MAX_RANGES).then_some(ToAgent::Ports { id: AgentId(id), ranges })
            }
            (b'O', [letter]) => {
                let outcome = OUTCOMES.iter().find(|(_, one)| one == letter)?.0;
                Some(ToAgent::Outcome { id: AgentId(id), outcome })
            }
            (b'E', [family @ (b'4' | b'6'), low, high]) => {
                let family = if *family == b'4' { Family::V4 } else { Family::V6 };
                let port = u16::from_le_bytes([*low, *high]);
                (port > 0).then_some(ToAgent::Enter { id: BrokerId(id), family, port })
            }
            _ => None,
        }
    }
}

/// Splits off the letter and the id.
fn split(bytes: &[u8]) -> Option<(u8, u32, &[u8])> {
    let (letter, rest) = bytes.split_first()?;
    let (id, rest) = rest.split_first_chunk::<4>()?;
    Some((*letter, u32::from_le_bytes(*id), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exact bytes: a guest of another version reads them.
    #[test]
    fn messages_have_one_form() {
        let asks = [
            (ToBroker::Lookup { id: AgentId(1), name: "a.example".to_owned() }, &b"L\x01\0\0\0a.example"[..]),
            (ToBroker::Connect { id: AgentId(0x0403_0201), name: "b".to_owned(), port: 443 }, b"C\x01\x02\x03\x04\xbb\x01b"),
            (ToBroker::Accepted { id: AgentId(7) }, b"A\x07\0\0\0"),
            (ToBroker::Entered { id: BrokerId(8) }, b"E\x08\0\0\0"),
            (ToBroker::Nobody { id: BrokerId(9) }, b"N\x09\0\0\0"),
        ];
        for (ask, bytes) in asks {
            assert_eq!(ask.to_bytes(), bytes);
            assert_eq!(ToBroker::from_bytes(bytes), Some(ask));
        }
        let several = PortRange::new(8000, 8100).expect("a range");
        let answers = [
            (ToAgent::Ports { id: AgentId(1), ranges: vec![PortRange::HTTP, several] }, &b"P\x01\0\0\0\x50\0\x50\0\x40\x1f\xa4\x1f"[..]),
            (ToAgent::Ports { id: AgentId(2), ranges: vec![] }, b"P\x02\0\0\0"),
            (ToAgent::Outcome { id: AgentId(3), outcome: Outcome::Refused }, b"O\x03\0\0\0r"),
            (ToAgent::Enter { id: BrokerId(4), family: Family::V4, port: 3000 }, b"E\x04\0\0\x004\xb8\x0b"),
            (ToAgent::Enter { id: BrokerId(5), family: Family::V6, port: 1 }, b"E\x05\0\0\x006\x01\0"),
        ];
        for (answer, bytes) in answers {
            assert_eq!(answer.to_bytes(), bytes);
            assert_eq!(ToAgent::from_bytes(bytes), Some(answer));
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let long = [b"L\0\0\0\0".to_vec(), vec![b'a'; 254]].concat();
        for bytes in [
            &b""[..],
            b"L",
            b"L\0\0\0\0",
            b"L\0\0\0\0a b",
            b"L\0\0\0\0\xff",
            b"C\0\0\0\0\0\0a",
            b"C\0\0\0\0\x01",
            b"A\0\0\0\0x",
            b"Z\0\0\0\0",
            &long,
        ] {
            assert_eq!(ToBroker::from_bytes(bytes), None, "{bytes:?}");
        }
        for bytes in [
            &b"P\0\0\0\0\x01"[..],
            b"P\0\0\0\0\x02\0\x01\0",
            b"P\0\0\0\0\0\0\x01\0",
            b"O\0\0\0\0",
            b"O\0\0\0\0x",
            b"O\0\0\0\0oo",
            b"E\0\0\0\x005\x01\0",
            b"E\0\0\0\x004\0\0",
            b"E\0\0\0\x004\x01",
        ] {
            assert_eq!(ToAgent::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    /// Pseudo-random bytes, the same in every run, after the start of a message.
    #[test]
    fn parsing_and_encoding_agree() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut read = 0;
        for round in 0..200_000_usize {
            let mut bytes = vec![b"LCAPOEN"[round % 7]];
            for _ in 0..4 + round % 31 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Often a byte that a name may contain.
                let byte = (state >> 56) as u8;
                bytes.push(if state & 1 << 40 == 0 { byte } else { b'a' + byte % 26 });
            }
            if let Some(ask) = ToBroker::from_bytes(&bytes) {
                assert_eq!(ask.to_bytes(), bytes);
                read += 1;
            }
            if let Some(answer) = ToAgent::from_bytes(&bytes) {
                assert_eq!(answer.to_bytes(), bytes);
                read += 1;
            }
        }
        assert!(read > 1000, "{read} of the messages were read");
    }
}
