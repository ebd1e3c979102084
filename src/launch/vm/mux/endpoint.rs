//! One end of a link with its streams and their descriptors.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use silo_wire::frame::{Frame, MAX_PAYLOAD_BYTES};

use crate::host::nonblocking::NonBlocking;
use crate::vm::protocol::{Action, Directions, End, Protocol, Side, Violation};

/// The connection to the user's ssh agent.
pub enum SshAgentSocket {
    /// In the guest: the listening socket for programs.
    Listener(UnixListener),
    /// On the host: the socket to the broker, which accepts clients.
    Broker(OwnedFd),
}

/// The reason why the conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer closed the link.
    #[error("the link is closed")]
    Gone,
    /// The peer violated the protocol.
    #[error(transparent)]
    Broken(#[from] Violation),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One end of a link with its streams.
pub struct Mux {
    pub(super) link: OwnedFd,
    /// True if the peer no longer reads; data sent before may still arrive.
    pub(super) is_deaf: bool,
    pub(super) conversation: Protocol,
    pub(super) piece: Vec<u8>,
    pub(super) fds: BTreeMap<u32, NonBlocking>,
    /// Terminals that no process has open now.
    pub(super) deserted: Vec<u32>,
    pub(super) messenger: Option<OwnedFd>,
    pub(super) keys: Option<SshAgentSocket>,
    /// An action that the receiver could not accept yet. Parsing pauses until it does.
    pub(super) waiting: Option<(Action, Instant)>,
    pub(super) told: VecDeque<Frame>,
}

/// The purpose of a polled descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The link.
    Link,
    /// The messenger.
    Messenger,
    /// The listening socket for clients of the ssh agent.
    Keys,
    /// A stream.
    Stream(u32),
}

impl Mux {
    /// Starts with a non-blocking link.
    pub fn new(link: OwnedFd, side: Side) -> Mux {
        Mux {
            link,
            is_deaf: false,
            conversation: Protocol::new(side),
            piece: vec![0; 2 * MAX_PAYLOAD_BYTES],
            fds: BTreeMap::new(),
            deserted: Vec::new(),
            messenger: None,
            keys: None,
            waiting: None,
            told: VecDeque::new(),
        }
    }

    /// Returns the state of the conversation.
    pub fn conversation(&self) -> &Protocol {
        &self.conversation
    }

    /// Expects a second hello from the VM.
    pub fn expect_hello(&mut self) {
        self.conversation.expect_hello();
    }

    /// Adds a stream.
    pub fn add(&mut self, number: u32, fd: NonBlocking, end: End, ways: Directions) {
        self.conversation.add(number, end, ways);
        self.fds.insert(number, fd);
    }

    /// Adds a stream without a descriptor; received data waits for one.
    pub fn add_unattached(&mut self, number: u32, end: End, ways: Directions) {
        self.conversation.add_unattached(number, end, ways);
    }

    /// Limits the total bytes that may arrive on a stream.
    pub fn bound(&mut self, number: u32, bytes: u64) {
        self.conversation.bound(number, bytes);
    }

    /// Gives a waiting stream its descriptor.
    pub fn attach(&mut self, number: u32, fd: OwnedFd) {
        if self.conversation.has(number) {
            self.fds.insert(number, NonBlocking::own(fd));
            let fate = self.conversation.attach(number);
            self.apply_to_descriptor(number, fate);
        }
    }

    /// Sets the messenger.
    pub fn take_messenger(&mut self, messenger: OwnedFd) {
        self.messenger = Some(messenger);
    }

    /// Sets the connection to the ssh agent.
    pub fn take_keys(&mut self, keys: SshAgentSocket) {
        self.keys = Some(keys);
    }

    /// True if the messenger is still open.
    pub fn has_messenger(&self) -> bool {
        self.messenger.is_some()
    }

    /// Sends a frame that belongs to no stream.
    pub fn send(&mut self, frame: &Frame) {
        self.conversation.send(frame);
    }

    /// Returns the next frame that belongs to no stream.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.told.pop_front()
    }

    /// Adds a stream under a free number.
    pub(super) fn add_next(&mut self, fd: OwnedFd) -> u32 {
        let number = self.conversation.add_next();
        self.fds.insert(number, NonBlocking::own(fd));
        number
    }

    /// Returns the descriptor of a stream.
    pub fn descriptor(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.fds.get(&number).map(AsFd::as_fd)
    }

    /// Takes the content of a kept stream, once it has ended.
    pub fn whole(&mut self, number: u32) -> Option<Vec<u8>> {
        self.conversation.whole(number)
    }

    /// True if a stream exists.
    pub fn has(&self, number: u32) -> bool {
        self.conversation.has(number)
    }

    /// Drops a stream.
    pub fn remove(&mut self, number: u32) {
        self.conversation.remove(number);
        self.fds.remove(&number);
    }
}
