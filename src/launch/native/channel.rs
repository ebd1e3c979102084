//! The native tier's way to a sandbox's agent: messages that are kept apart, some with a connection.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketType, recvmsg, send, sockopt};
use silo_wire::{Answer, Ask, MAX_MESSAGE_BYTES};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use crate::broker::Carrier;

/// The broker's end.
///
/// A stream only for who waits for it: messages are sent and received by calls that keep them apart.
pub struct Channel(UnixStream);

impl Channel {
    /// Takes over an end of a socket pair that keeps messages apart.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Channel(UnixStream::from_std(socket)?))
    }
}

impl Carrier for Channel {
    async fn next(&self) -> io::Result<Option<(Ask, Option<TcpStream>)>> {
        loop {
            self.0.readable().await?;
            let received = match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                received => received?,
            };
            let Some((bytes, passed)) = received else { return Ok(None) };
            if let Some(ask) = Ask::from_bytes(&bytes) {
                return Ok(Some((ask, passed.and_then(connection))));
            }
        }
    }

    async fn answer(&self, answer: &Answer) -> io::Result<()> {
        let bytes = answer.to_bytes();
        loop {
            self.0.writable().await?;
            match self.0.try_io(Interest::WRITABLE, || Ok(send(&self.0, &bytes, SendFlags::NOSIGNAL)?)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return sent.map(drop),
            }
        }
    }
}

type Received = Option<(Vec<u8>, Option<OwnedFd>)>;

fn receive(socket: &UnixStream) -> io::Result<Received> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    Ok((got.bytes > 0).then(|| (bytes[..got.bytes].to_vec(), passed)))
}

/// Takes what was passed for a connection, if it is one.
fn connection(passed: OwnedFd) -> Option<TcpStream> {
    let is_stream = sockopt::socket_type(&passed).is_ok_and(|kind| kind == SocketType::STREAM);
    let is_inet = sockopt::socket_domain(&passed).is_ok_and(|family| [AddressFamily::INET, AddressFamily::INET6].contains(&family));
    let stream = std::net::TcpStream::from(passed);
    let stream = (is_stream && is_inet && stream.set_nonblocking(true).is_ok()).then_some(stream)?;
    TcpStream::from_std(stream).ok()
}
