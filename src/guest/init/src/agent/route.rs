//! Routes and rules for addresses of the sandbox, through rtnetlink(7).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

// Constants of linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h, linux/if_link.h, linux/fib_rules.h.
const SET_LINK: u16 = 16;
const LINK_SEGMENT_BYTES: u16 = 63;
const LINK_RECEIVED_BYTES: u16 = 64;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;
const REMOVE_RULE: u16 = 33;
const REQUEST_AND_ANSWER: u16 = 0x1 | 0x4;
const MAKE: u16 = REQUEST_AND_ANSWER | 0x400;
const ERROR: u16 = 2;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_SOURCE: u16 = 7;
const RULE_SOURCE: u16 = 2;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_PROTOCOL: u16 = 22;
const RULE_SOURCE_PORTS: u16 = 23;
const TO_TABLE: u8 = 1;
const FROM_BOOT: u8 = 3;
const SCOPE_WORLD: u8 = 0;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
const TYPE_BLACKHOLE: u8 = 6;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
/// Loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// The kernel's maximum for a segment of loopback.
const SEGMENT_BYTES: u32 = 8 * 65_535;

/// The kernel's own table of local addresses.
pub const TABLE_LOCAL: u8 = 255;

/// An address prefix: an address and the number of its significant bits.
pub type Prefix = (IpAddr, u8);

/// A routing rule: a table, and the packets that use it.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Lower priorities come first.
    pub priority: u32,
    /// The table.
    pub table: u8,
    /// Packets from this prefix.
    pub from: Option<Prefix>,
    /// TCP packets, from this port or from any.
    pub tcp: Option<Option<u16>>,
    /// Packets with this mark.
    pub mark: Option<u32>,
}

/// A netlink socket for addresses, routes and rules.
pub struct Routes(OwnedFd);

impl Routes {
    /// Returns the socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.0
    }

    /// Opens the socket.
    pub fn open() -> io::Result<Routes> {
        // NETLINK_ROUTE is protocol 0, which `None` stands for.
        Ok(Routes(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// Adds an address to the loopback interface.
    pub fn add_address(&self, address: Ipv4Addr) -> io::Result<()> {
        let mut body = vec![INET, 32, 0, SCOPE_HOST];
        body.extend(LOOPBACK.to_ne_bytes());
        attribute(&mut body, ADDRESS_LOCAL, &address.octets());
        self.ask(NEW_ADDRESS, MAKE, &body)
    }

    /// Routes a prefix to loopback; connections to it have `source` as their source address.
    pub fn add_local(&self, (prefix, bits): Prefix, source: IpAddr) -> io::Result<()> {
        let mut body = vec![family(prefix), bits, 0, 0, TABLE_LOCAL, FROM_BOOT, SCOPE_HOST, TYPE_LOCAL];
        body.extend(0u32.to_ne_bytes());
        if bits > 0 {
            attribute(&mut body, ROUTE_DESTINATION, &octets(prefix));
        }
        attribute(&mut body, ROUTE_OUT, &LOOPBACK.to_ne_bytes());
        attribute(&mut body, ROUTE_SOURCE, &octets(source));
        self.ask(NEW_ROUTE, MAKE, &body)
    }

    /// Adds a blackhole default route to a table, for the IP version of `like`.
    pub fn add_nowhere(&self, table: u8, like: IpAddr) -> io::Result<()> {
        let mut body = vec![family(like), 0, 0, 0, table, FROM_BOOT, SCOPE_WORLD, TYPE_BLACKHOLE];
        body.extend(0u32.to_ne_bytes());
        self.ask(NEW_ROUTE, MAKE, &body)
    }

    /// Adds a rule, for the IP version of `like`.
    pub fn add_rule(&self, like: IpAddr, rule: Rule) -> io::Result<()> {
        self.ask(NEW_RULE, MAKE, &rule.body(like))
    }

    /// Removes a rule.
    pub fn remove_rule(&self, like: IpAddr, rule: Rule) -> io::Result<()> {
        self.ask(REMOVE_RULE, REQUEST_AND_ANSWER, &rule.body(like))
    }

    /// Raises the segment size of loopback to half a megabyte (Linux 6.3), which needs fewer wake-ups for large transfers.
    pub fn carry_large_segments(&self) -> io::Result<()> {
        let mut body = vec![0; 4];
        body.extend(LOOPBACK.to_ne_bytes());
        body.extend([0; 8]);
        for kind in [LINK_SEGMENT_BYTES, LINK_RECEIVED_BYTES] {
            attribute(&mut body, kind, &SEGMENT_BYTES.to_ne_bytes());
        }
        self.ask(SET_LINK, REQUEST_AND_ANSWER, &body)
    }

    /// Sends a request and waits for the kernel's answer.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + body.len());
        let length = u32::try_from(16 + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        verdict(self.0.as_fd())
    }
}

impl Rule {
    fn body(self, like: IpAddr) -> Vec<u8> {
        let mut body = vec![family(like), 0, self.from.map_or(0, |(_, bits)| bits), 0, self.table, 0, 0, TO_TABLE, 0, 0, 0, 0];
        attribute(&mut body, RULE_PRIORITY, &self.priority.to_ne_bytes());
        attribute(&mut body, RULE_TABLE, &u32::from(self.table).to_ne_bytes());
        if let Some((address, _)) = self.from.filter(|(_, bits)| *bits > 0) {
            attribute(&mut body, RULE_SOURCE, &octets(address));
        }
        if let Some(mark) = self.mark {
            attribute(&mut body, RULE_MARK, &mark.to_ne_bytes());
        }
        if let Some(port) = self.tcp {
            attribute(&mut body, RULE_PROTOCOL, &[TCP]);
            if let Some(port) = port {
                attribute(&mut body, RULE_SOURCE_PORTS, &[port.to_ne_bytes(), port.to_ne_bytes()].concat());
            }
        }
        body
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn verdict(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut answer = [0; 512];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    let kind = answer[..length].get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    let code = answer[..length].get(16..20).map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Appends an attribute, aligned to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
