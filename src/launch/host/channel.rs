//! The channel to a sandbox's network agent: datagrams, some with a connection's file descriptor.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType, getsockname, recv, recvmsg, send, sockopt,
};
use silo_wire::{MAX_MESSAGE_BYTES, ToAgent, ToBroker};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc::Sender;

use super::system::{RECEIVING, SENDING};
use crate::broker::AgentChannel;

/// The broker's end.
///
/// A tokio `UnixStream` only for polling. Messages are sent and received by calls that keep message boundaries.
pub struct Channel(UnixStream);

impl Channel {
    /// Wraps one end of a message-oriented socket pair.
    pub fn new(socket: OwnedFd) -> io::Result<Channel> {
        Ok(Channel(stream(socket)?))
    }
}

impl AgentChannel for Channel {
    async fn next(&self) -> io::Result<Option<(ToBroker, Option<TcpStream>)>> {
        loop {
            self.0.readable().await?;
            let received = match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                received => received?,
            };
            let Some((bytes, passed)) = received else { return Ok(None) };
            if let Some(ask) = ToBroker::from_bytes(&bytes) {
                return Ok(Some((ask, passed.and_then(connection))));
            }
        }
    }

    async fn answer(&self, answer: &ToAgent) -> io::Result<()> {
        let bytes = answer.to_bytes();
        loop {
            self.0.writable().await?;
            match self.0.try_io(Interest::WRITABLE, || Ok(send(&self.0, &bytes, SENDING)?)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                sent => return sent.map(drop),
            }
        }
    }
}

/// Completes on any message from silo on the broker's link, or when the link closes. Both mean that the sandbox has ended.
pub fn word_on(link: OwnedFd) -> io::Result<impl Future<Output = ()>> {
    let link = stream(link)?;
    Ok(async move {
        while link.readable().await.is_ok() {
            match link.try_io(Interest::READABLE, || Ok(recv(&link, &mut [0; 1][..], RecvFlags::DONTWAIT)?)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    })
}

/// Forwards connections to the ssh agent, which arrive one per message, to the broker. Drops a connection if the queue is full.
pub async fn hand_over(socket: OwnedFd, to: Sender<std::os::unix::net::UnixStream>) {
    let Ok(socket) = stream(socket) else { return };
    while socket.readable().await.is_ok() {
        match socket.try_io(Interest::READABLE, || receive(&socket)) {
            Ok(Some((_, Some(asking)))) => drop(to.try_send(asking.into())),
            Ok(Some((_, None))) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Registers a socket with tokio. It is used as a stream only for polling.
fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

type Received = Option<(Vec<u8>, Option<OwnedFd>)>;

fn receive(socket: &UnixStream) -> io::Result<Received> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RECEIVING | RecvFlags::DONTWAIT)?;
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    Ok((got.bytes > 0).then(|| (bytes[..got.bytes].to_vec(), passed)))
}

/// Wraps a received file descriptor as a connection, if it is one: a TCP connection over the sandbox's loopback or, from a VM, one end of a
/// socket pair.
///
/// The broker's operations (read, write, shut down) are the same for both address families.
fn connection(passed: OwnedFd) -> Option<TcpStream> {
    let is_stream = sockopt::socket_type(&passed).is_ok_and(|kind| kind == SocketType::STREAM);
    let families = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX];
    let is_known = getsockname(&passed).is_ok_and(|own| families.contains(&own.address_family()));
    let stream = std::net::TcpStream::from(passed);
    let stream = (is_stream && is_known && stream.set_nonblocking(true).is_ok()).then_some(stream)?;
    TcpStream::from_std(stream).ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Plain, UdpSocket};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::sync::{Arc, Mutex};

    use rustix::io::read;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
    use silo_wire::Outcome;
    use silo_wire::id::{AgentId, BrokerId};
    use silo_wire::ports::PortRange;

    use super::super::system::{MESSAGES, pair};
    use super::*;
    use crate::broker::{self, BrokerConfig, Say};
    use silo_base::grant::{HostGrant, Policy};

    /// A client that sends forged messages in place of the agent.
    struct Forger {
        channel: OwnedFd,
        told: Arc<Mutex<Vec<String>>>,
    }

    impl Forger {
        fn granted(grants: &[&str]) -> Forger {
            let (host, channel) = pair(MESSAGES).expect("a pair");
            let told = Arc::new(Mutex::new(Vec::new()));
            let lines = Arc::clone(&told);
            let tell: Say = Box::new(move |line| lines.lock().expect("not poisoned").push(line.to_owned()));
            let allow = grants.iter().map(|text| HostGrant::parse(text).expect("a grant")).collect();
            let terms = BrokerConfig {
                policy: Policy { allow, ..Policy::default() },
                learned: None,
                proxies: Default::default(),
                cure: |grant| grant.to_owned(),
                tell,
                record: None,
                max_bytes: None,
                exceeded: Box::new(|_| {}),
                doors: Vec::new(),
                keys: None,
                secrets: None,
                recorder: None,
            };
            // The broker ends with its channel.
            let serve = move || broker::serve(|| Ok((Channel::new(host)?, std::future::pending())), terms);
            drop(silo_base::thread::apart(serve).expect("a thread"));
            Forger { channel, told }
        }

        fn send(&self, bytes: &[u8], passed: &[BorrowedFd<'_>]) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(passed.is_empty() || control.push(SendAncillaryMessage::ScmRights(passed)));
            sendmsg(&self.channel, &[io::IoSlice::new(bytes)], &mut control, SENDING).expect("the broker listens");
        }

        fn ask(&self, ask: &ToBroker) {
            self.send(&ask.to_bytes(), &[]);
        }

        fn answer(&self) -> ToAgent {
            let mut bytes = [0; MAX_MESSAGE_BYTES];
            let length = read(&self.channel, &mut bytes).expect("the broker answers");
            ToAgent::from_bytes(&bytes[..length]).expect("an answer")
        }

        fn outcome(&self, name: &str, port: u16) -> Outcome {
            self.ask(&ToBroker::Connect { id: AgentId(7), name: name.to_owned(), port });
            match self.answer() {
                ToAgent::Outcome { id: AgentId(7), outcome } => outcome,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn forged_messages_get_nothing() {
        let server = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = server.local_addr().expect("bound").port();
        let forger = Forger::granted(&["a.example", "*.b.example:*", "10.0.0.0/8:*", "0.0.0.0/0:*"]);
        // No name of the loopback may be dialled, and no cloud metadata address.
        for name in [
            "host.silo.internal",
            "HOST.silo.internal.",
            "localhost",
            "x.localhost",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::]",
            "a.example",
            "a.example.b",
            "169.254.169.254",
            "a.example@127.0.0.1",
            "b.example",
        ] {
            assert_eq!(forger.outcome(name, port), Outcome::Denied, "{name}");
        }
        // Invalid messages, connections that were not requested, and descriptors that are no connections.
        let (udp, file) = (UdpSocket::bind(("127.0.0.1", 0)).expect("a port"), std::fs::File::open("/dev/null").expect("there"));
        let own = Plain::connect(("127.0.0.1", port)).expect("it listens");
        let (mut ours, _) = server.accept().expect("it came");
        for bytes in [&b""[..], b"A", b"Z\0\0\0\0", b"C\0\0\0\0\0\0a", &[0xff; 1029], b"P\0\0\0\0\x50\0\x50\0", b"O\0\0\0\0o"] {
            // An empty message would mean the end.
            if !bytes.is_empty() {
                forger.send(bytes, &[]);
                forger.send(bytes, &[file.as_fd(), udp.as_fd(), own.as_fd()]);
            }
        }
        for id in 0..50 {
            for ask in [ToBroker::Accepted { id: AgentId(id) }, ToBroker::Entered { id: BrokerId(id) }] {
                forger.ask(&ask);
                forger.send(&ask.to_bytes(), &[file.as_fd()]);
                forger.send(&ask.to_bytes(), &[udp.as_fd()]);
                forger.send(&ask.to_bytes(), &[own.as_fd(), own.as_fd(), own.as_fd(), own.as_fd()]);
            }
            forger.ask(&ToBroker::Nobody { id: BrokerId(id) });
        }
        // The broker still answers, and it sent nothing on the unrequested connection.
        forger.ask(&ToBroker::Lookup { id: AgentId(8), name: "a.example".to_owned() });
        assert_eq!(forger.answer(), ToAgent::Ports { id: AgentId(8), ranges: vec![PortRange::HTTP, PortRange::HTTPS] });
        forger.ask(&ToBroker::Lookup { id: AgentId(9), name: "b.example".to_owned() });
        assert_eq!(forger.answer(), ToAgent::Ports { id: AgentId(9), ranges: vec![] });
        drop(own);
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut ours, &mut heard).expect("it was let go");
        assert!(heard.is_empty());
        let told = forger.told.lock().expect("not poisoned");
        assert!(told.contains(&format!("host.silo.internal:{port} is not granted; host.silo.internal:{port}")), "{told:?}");
    }

    #[test]
    fn a_flood_of_lookups_prints_a_bounded_number_of_lines() {
        let forger = Forger::granted(&["a.example"]);
        for id in 0..5000 {
            forger.ask(&ToBroker::Lookup { id: AgentId(id), name: format!("n{id}.example") });
            assert_eq!(forger.answer(), ToAgent::Ports { id: AgentId(id), ranges: vec![] });
        }
        let told = forger.told.lock().expect("not poisoned");
        assert_eq!((told.len(), told.last().map(String::as_str)), (201, Some("further refusals are not shown")));
    }
}
