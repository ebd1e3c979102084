//! Passing of messages and descriptors over a link: messages of the network agent, their connections, and connections to the user's ssh
//! agent.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use silo_wire::MAX_MESSAGE_BYTES;
use silo_wire::frame::Frame;

use super::endpoint::{Error, Mux, SshAgentSocket};
use crate::host::nonblocking::NonBlocking;
use crate::host::system::{RECEIVING, SENDING};
use crate::vm::protocol::{Action, Directions, End, Side, Violation};

impl Mux {
    /// Sends a message to the messenger, with a new connection if it names a stream; returns the action if this would block.
    pub(super) fn deliver(&mut self, stream: Option<u32>, bytes: Vec<u8>) -> Result<Option<Action>, Error> {
        let Some(messenger) = &self.messenger else {
            // There is no broker, or it has ended.
            stream.into_iter().for_each(|number| self.conversation.refuse(number));
            return Ok(None);
        };
        let made = match stream {
            None => None,
            Some(number) => match self.conversation.has_place().then(connection).flatten() {
                Some((ours, theirs)) => Some((number, ours, theirs)),
                // The message is only about this connection.
                None => {
                    self.conversation.refuse(number);
                    return Ok(None);
                }
            },
        };
        let passed: Vec<BorrowedFd<'_>> = made.iter().map(|(_, _, theirs)| theirs.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !passed.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&passed));
        }
        let sent = sendmsg(messenger, &[IoSlice::new(&bytes)], &mut control, SENDING | SendFlags::DONTWAIT);
        drop(passed);
        match (sent, made) {
            (Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS), _) => return Ok(Some(Action::Message { stream, bytes })),
            (Ok(_), Some((number, ours, _))) => self.add(number, NonBlocking::own(ours), End::Own, Directions::BOTH),
            (Ok(_), None) => {}
            // The kernel's limit on passed descriptors per user is reached.
            (Err(Errno::TOOMANYREFS), made) => made.iter().for_each(|(number, ..)| self.conversation.refuse(*number)),
            (Err(_), made) => {
                self.messenger = None;
                made.iter().for_each(|(number, ..)| self.conversation.refuse(*number));
            }
        }
        Ok(None)
    }

    /// Forwards a message to the link, with a new stream if it has a connection.
    pub(super) fn forward(&mut self) -> Result<(), Error> {
        let Some(messenger) = self.messenger.as_ref().filter(|_| self.conversation.has_room()) else { return Ok(()) };
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = match recvmsg(messenger, &mut [IoSliceMut::new(&mut bytes)], &mut control, RECEIVING | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Ok(got) if got.bytes > 0 => got.bytes,
            Ok(_) | Err(_) => {
                self.messenger = None;
                return Ok(());
            }
        };
        let passed = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
            _ => None,
        });
        let stream = passed.filter(|_| self.conversation.side() == Side::Guest && self.conversation.has_place()).map(|connection| {
            // This fails for a descriptor that is no socket; it is forwarded nevertheless.
            let _ = rustix::io::ioctl_fionbio(&connection, true);
            self.add_next(connection)
        });
        self.send(&Frame::Message { stream, bytes: bytes[..got].to_vec() });
        Ok(())
    }

    /// Opens a stream for a client of the ssh agent inside.
    pub(super) fn let_ask(&mut self) {
        let Some(SshAgentSocket::Listener(listener)) = &self.keys else { return };
        // The client may be gone already; surplus clients are rejected.
        let Ok((asking, _)) = listener.accept() else { return };
        if self.conversation.has_place() && asking.set_nonblocking(true).is_ok() {
            let stream = self.add_next(asking.into());
            self.send(&Frame::Keys { stream });
        }
    }

    /// Passes a client of the ssh agent to the broker.
    pub(super) fn pass_agent_client(&mut self, number: u32) -> Result<(), Error> {
        let Some(SshAgentSocket::Broker(broker)) = &self.keys else {
            self.conversation.end();
            self.fds.clear();
            return Err(Violation::NotIts { stream: number }.into());
        };
        // The client is rejected if the broker has ended or its queue is full.
        let made = self.conversation.has_place().then(connection).flatten();
        match made.and_then(|(ours, theirs)| pass(broker, theirs.as_fd()).then_some(ours)) {
            Some(ours) => self.add(number, NonBlocking::own(ours), End::Own, Directions::BOTH),
            None => self.conversation.refuse(number),
        }
        Ok(())
    }
}

/// Passes a client of the ssh agent to the broker without blocking; returns false if the broker does not accept it.
fn pass(broker: &OwnedFd, asking: BorrowedFd<'_>) -> bool {
    let passed = [asking];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(broker, &[IoSlice::new(b"K")], &mut control, SENDING | SendFlags::DONTWAIT).is_ok()
}

/// Creates a socket pair, with a non-blocking end for us; `None` without a free descriptor.
fn connection() -> Option<(OwnedFd, OwnedFd)> {
    let pair = || -> io::Result<_> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((ours.into(), theirs.into()))
    };
    pair().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{linked, run};
    use super::*;
    use crate::host::system::{MESSAGES, pair};

    #[test]
    fn a_connection_is_one_on_the_other_side() {
        let (mut host, mut guest) = linked();
        let pair = || pair(MESSAGES).expect("a socket pair");
        let ((agent, inner), (broker, outer)) = (pair(), pair());
        host.take_messenger(outer);
        guest.take_messenger(inner);
        let (mine, passed) = UnixStream::pair().expect("a connection");
        let passed = OwnedFd::from(passed);
        let fds = [passed.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&agent, &[IoSlice::new(b"A\x01\0\0\0")], &mut control, SENDING).expect("sent");
        drop(passed);
        run([&mut host, &mut guest]).expect("both follow the protocol");
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&broker, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).expect("there");
        assert_eq!(&bytes[..got.bytes], b"A\x01\0\0\0");
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
            _ => None,
        });
        let theirs = UnixStream::from(fd.expect("a connection comes with it"));
        use std::io::{Read, Write};
        theirs.set_nonblocking(false).expect("set");
        (&mine).write_all(b"ping").expect("sent");
        run([&mut host, &mut guest]).expect("both follow the protocol");
        let mut four = [0; 4];
        (&theirs).read_exact(&mut four).expect("there");
        assert_eq!(&four, b"ping");
        drop(theirs);
        run([&mut host, &mut guest]).expect("both follow the protocol");
        assert_eq!((&mine).read(&mut four).expect("read"), 0, "its end is passed on");
    }
}
