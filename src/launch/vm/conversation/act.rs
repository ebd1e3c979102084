//! What comes of a conversation: acts that are to be done, and violations that end it.

use silo_wire::frame::{Frame, VERSION};

use super::phase::Phase;
use super::stream::Fate;

/// Which side of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Outside: streams of the network are made into connections. The other side is hostile.
    Host,
    /// Inside: connections of the network are made into streams.
    Guest,
}

/// A frame or byte that no honest side sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no frame.
    #[error("sent bytes that are no frame")]
    Malformed,
    /// Another version of the protocol.
    #[error("speaks version {version} of the protocol, and this silo version {VERSION}")]
    Version {
        /// The version.
        version: u16,
    },
    /// A frame that the phase, or the side, does not allow.
    #[error("sent a frame out of turn ({name} {phase})")]
    OutOfTurn {
        /// The frame's name.
        name: &'static str,
        /// The phase.
        phase: Phase,
    },
    /// More bytes of a stream than it has room for, or bytes after its end.
    #[error("sent more of stream {stream} than it may")]
    TooMuch {
        /// The stream.
        stream: u32,
    },
    /// Credit for bytes that were never sent.
    #[error("took more of stream {stream} than was sent")]
    TooMuchCredit {
        /// The stream.
        stream: u32,
    },
    /// A frame about a stream that never was, or that goes the other way.
    #[error("sent bytes of stream {stream}, which is not its own")]
    NotIts {
        /// The stream.
        stream: u32,
    },
    /// A new stream with a number that is in use.
    #[error("gave the number of stream {stream} twice")]
    InUse {
        /// The stream.
        stream: u32,
    },
    /// A message of the network beyond its bound.
    #[error("sent a message of {length} bytes")]
    LongMessage {
        /// Its length.
        length: usize,
    },
}

/// What is to be done about what arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Hand a message of the network on; with a connection, if it names a stream.
    Message {
        /// The stream, which is not there yet.
        stream: Option<u32>,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Connect the stream, which is not there yet, with the user's ssh agent.
    Keys {
        /// The stream.
        stream: u32,
    },
    /// Shut down or close the descriptor of a stream.
    Settle {
        /// The stream.
        stream: u32,
        /// How.
        fate: Fate,
    },
    /// Tell the caller.
    Tell(Frame),
}
