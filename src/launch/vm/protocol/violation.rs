//! Violations of the protocol, which end a conversation.

use silo_wire::frame::VERSION;

use super::phase::Phase;

/// A frame or byte that violates the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The bytes are not a valid frame.
    #[error("sent a malformed frame")]
    Malformed,
    /// Another version of the protocol.
    #[error("uses version {version} of the protocol, but this silo uses version {VERSION}")]
    Version {
        /// The version.
        version: u16,
    },
    /// A frame that is not allowed in this phase, or from this side.
    #[error("sent a frame out of turn ({name} {phase})")]
    OutOfTurn {
        /// The frame's name.
        name: &'static str,
        /// The phase.
        phase: Phase,
    },
    /// More bytes than the stream's window, or bytes after its end.
    #[error("sent more of stream {stream} than it may")]
    TooMuch {
        /// The stream.
        stream: u32,
    },
    /// Credit for bytes that were never sent.
    #[error("gave credit for more bytes of stream {stream} than were sent")]
    TooMuchCredit {
        /// The stream.
        stream: u32,
    },
    /// A frame of a stream that never existed, or that has the other direction.
    #[error("sent a frame of stream {stream}, which it may not use")]
    NotIts {
        /// The stream.
        stream: u32,
    },
    /// A new stream with a number in use.
    #[error("used the number of stream {stream} twice")]
    InUse {
        /// The stream.
        stream: u32,
    },
    /// A network message over the size limit.
    #[error("sent a message of {length} bytes, which is too long")]
    LongMessage {
        /// The length in bytes.
        length: usize,
    },
}
