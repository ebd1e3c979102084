//! Addresses that lead to this sandbox itself: what rtnetlink(7) is asked for.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

// linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h, linux/if_link.h.
const SET_LINK: u16 = 16;
const LINK_SEGMENT_BYTES: u16 = 63;
const LINK_RECEIVED_BYTES: u16 = 64;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const REQUEST_AND_ANSWER: u16 = 0x1 | 0x4;
const MAKE: u16 = REQUEST_AND_ANSWER | 0x400;
const ERROR: u16 = 2;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_SOURCE: u16 = 7;
const TABLE_LOCAL: u8 = 255;
const FROM_BOOT: u8 = 3;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
const INET: u8 = 2;
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// The most that the kernel lets a segment of the loopback hold.
const SEGMENT_BYTES: u32 = 8 * 65_535;

/// A way to the kernel's tables of addresses and routes.
pub struct Routes(OwnedFd);

impl Routes {
    /// Opens it.
    pub fn open() -> io::Result<Routes> {
        // NETLINK_ROUTE is protocol 0, the one that is meant where none is named.
        Ok(Routes(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// Gives the loopback interface an address of its own.
    pub fn add_address(&self, address: Ipv4Addr) -> io::Result<()> {
        let mut body = vec![INET, 32, 0, SCOPE_HOST];
        body.extend(LOOPBACK.to_ne_bytes());
        attribute(&mut body, ADDRESS_LOCAL, &address.octets());
        self.ask(NEW_ADDRESS, MAKE, &body)
    }

    /// Has everything below a prefix lead here; who connects there comes from `source`.
    pub fn add_local(&self, prefix: Ipv4Addr, bits: u8, source: Ipv4Addr) -> io::Result<()> {
        let mut body = vec![INET, bits, 0, 0, TABLE_LOCAL, FROM_BOOT, SCOPE_HOST, TYPE_LOCAL];
        body.extend(0u32.to_ne_bytes());
        attribute(&mut body, ROUTE_DESTINATION, &prefix.octets());
        attribute(&mut body, ROUTE_OUT, &LOOPBACK.to_ne_bytes());
        attribute(&mut body, ROUTE_SOURCE, &source.octets());
        self.ask(NEW_ROUTE, MAKE, &body)
    }

    /// Has the loopback carry segments of up to half a megabyte (Linux 6.3), so that much data makes few wake-ups.
    pub fn carry_large_segments(&self) -> io::Result<()> {
        let mut body = vec![0; 4];
        body.extend(LOOPBACK.to_ne_bytes());
        body.extend([0; 8]);
        for kind in [LINK_SEGMENT_BYTES, LINK_RECEIVED_BYTES] {
            attribute(&mut body, kind, &SEGMENT_BYTES.to_ne_bytes());
        }
        self.ask(SET_LINK, REQUEST_AND_ANSWER, &body)
    }

    /// Sends a request and waits for the kernel's verdict.
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

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8; 4]) {
    body.extend(8u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}
