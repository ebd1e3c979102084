//! What is handed over a link besides bytes: messages of the network's agent, connections that come with them, and who asks
//! the user's ssh agent.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, recvmsg, sendmsg};
use silo_wire::MAX_MESSAGE_BYTES;
use silo_wire::frame::{FIRST_FREE, Frame, MAX_STREAMS};
use tokio::sync::mpsc::UnboundedSender;

use super::{End, Error, Mux, Side, Ways};
use crate::launch::host::system::{RECEIVING, SENDING};

/// The way to the user's ssh agent.
pub enum Keys {
    /// Inside: what listens where programs look for it.
    Listener(UnixListener),
    /// Outside: who takes those that ask.
    Broker(UnboundedSender<UnixStream>),
}

impl Mux {
    /// Hands a message to the messenger, with a connection where a stream came with it.
    pub(super) fn deliver(&mut self, stream: Option<u32>, bytes: &[u8]) -> Result<(), Error> {
        let honest = bytes.len() <= MAX_MESSAGE_BYTES && (stream.is_none() || self.side == Side::Host);
        if !honest || stream.is_some_and(|number| self.streams.contains_key(&number)) || self.streams.len() >= MAX_STREAMS {
            return Err(Error::Broken);
        }
        let Some(messenger) = self.messenger.as_ref() else { return Ok(()) };
        let messenger = messenger.try_clone()?;
        let mut theirs = None;
        if let Some(number) = stream {
            let (ours, other) = connection()?;
            ours.set_nonblocking(true)?;
            self.add(number, Some(ours.into()), End::Own, Ways::BOTH);
            theirs = Some(OwnedFd::from(other));
        }
        let passed: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !passed.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&passed));
        }
        if sendmsg(&messenger, &[IoSlice::new(bytes)], &mut control, SENDING).is_err() {
            // Nobody serves the network any more.
            self.messenger = None;
        }
        Ok(())
    }

    /// Sends a message on, with a stream where a connection came with it.
    pub(super) fn forward(&mut self) -> Result<(), Error> {
        let Some(messenger) = &self.messenger else { return Ok(()) };
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
        let stream = passed.filter(|_| self.side == Side::Guest && self.streams.len() < MAX_STREAMS).map(|connection| {
            // One that cannot be told not to wait is no socket; it is carried all the same.
            let _ = rustix::io::ioctl_fionbio(&connection, true);
            self.add_next(connection)
        });
        self.send(&Frame::Message { stream, bytes: bytes[..got].to_vec() });
        Ok(())
    }

    /// Begins a stream for somebody inside who asks the ssh agent.
    pub(super) fn let_ask(&mut self) {
        let Some(Keys::Listener(listener)) = &self.keys else { return };
        // Who has gone again asks nothing; one too many is turned away.
        let Ok((asking, _)) = listener.accept() else { return };
        if self.streams.len() < MAX_STREAMS && asking.set_nonblocking(true).is_ok() {
            let stream = self.add_next(asking.into());
            self.send(&Frame::Keys { stream });
        }
    }

    /// Hands somebody who asks the ssh agent on to who knows it.
    pub(super) fn hand_on(&mut self, number: u32) -> Result<(), Error> {
        let Some(Keys::Broker(broker)) = &self.keys else { return Err(Error::Broken) };
        if self.streams.contains_key(&number) || self.streams.len() >= MAX_STREAMS {
            return Err(Error::Broken);
        }
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // Where nobody serves any more, both ends are closed, and whoever asks is told so.
        let _ = broker.send(theirs);
        self.add(number, Some(ours.into()), End::Own, Ways::BOTH);
        Ok(())
    }

    /// Adds a stream under a number that is free.
    fn add_next(&mut self, fd: OwnedFd) -> u32 {
        while self.streams.contains_key(&self.next) {
            self.next = self.next.checked_add(1).unwrap_or(FIRST_FREE);
        }
        let number = self.next;
        self.next = number.checked_add(1).unwrap_or(FIRST_FREE);
        self.add(number, Some(fd), End::Own, Ways::BOTH);
        number
    }
}

/// Makes two ends of a connection of this machine with itself, for who knows what to do with one.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let own = ours.local_addr()?;
    loop {
        // Another program of this machine may have been faster.
        let (theirs, from) = listener.accept()?;
        if from == own {
            return Ok((ours, theirs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{linked, run};
    use super::*;
    use crate::launch::host::system::{MESSAGES, pair};

    #[test]
    fn a_connection_is_one_on_the_other_side() {
        let (mut host, mut guest) = linked();
        let pair = || pair(MESSAGES).expect("a socket pair");
        let ((agent, inner), (broker, outer)) = (pair(), pair());
        host.take_messenger(outer);
        guest.take_messenger(inner);
        let (mine, passed) = connection().expect("a connection");
        let passed = OwnedFd::from(passed);
        let fds = [passed.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&agent, &[IoSlice::new(b"A\x01\0\0\0")], &mut control, SENDING).expect("sent");
        drop(passed);
        run([&mut host, &mut guest]).expect("both are honest");
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&broker, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).expect("there");
        assert_eq!(&bytes[..got.bytes], b"A\x01\0\0\0");
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
            _ => None,
        });
        let theirs = TcpStream::from(fd.expect("a connection comes with it"));
        use std::io::{Read, Write};
        (&mine).write_all(b"ping").expect("sent");
        run([&mut host, &mut guest]).expect("both are honest");
        let mut four = [0; 4];
        (&theirs).read_exact(&mut four).expect("there");
        assert_eq!(&four, b"ping");
        drop(theirs);
        run([&mut host, &mut guest]).expect("both are honest");
        assert_eq!((&mine).read(&mut four).expect("read"), 0, "its end is passed on");
    }
}
