//! The results of a conversation: actions to perform.

use silo_wire::frame::Frame;

use super::stream::DescriptorAction;

/// The side of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host: streams of the network become connections. The peer is not trusted.
    Host,
    /// The guest: connections of the network become streams.
    Guest,
}

/// An action in response to received data.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward a network message; with a new connection, if it names a stream.
    Message {
        /// The stream, which does not exist yet.
        stream: Option<u32>,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Connect a new stream to the user's ssh agent.
    Keys {
        /// The stream.
        stream: u32,
    },
    /// Shut down or close the descriptor of a stream.
    Settle {
        /// The stream.
        stream: u32,
        /// The action on the descriptor.
        fate: DescriptorAction,
    },
    /// Report a frame to the caller.
    Tell(Frame),
}
