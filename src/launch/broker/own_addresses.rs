//! Detects the host's own IP addresses, each time before a dial.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// An address reserved for documentation (RFC 5737), so no machine has it.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Whether an address belongs to this machine, on any interface.
///
/// Looks up the kernel's route instead of a list of interfaces: the kernel chooses the address itself as the source for its own address, or
/// loopback where a whole range is routed to the machine. Sends no packet.
pub fn is_own(address: IpAddr) -> bool {
    let source = UdpSocket::bind(unspecified(address)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address || source.ip().is_loopback()) || can_listen(address)
}

/// Whether a server could bind to an address: a second test, for hosts with unusual routes. It proves nothing on a machine that allows a
/// bind to any address (`ip_nonlocal_bind`).
fn can_listen(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok() && UdpSocket::bind((NOBODYS, 0)).is_err()
}

fn unspecified(address: IpAddr) -> (IpAddr, u16) {
    let any = if address.is_ipv4() { IpAddr::from([0_u8; 4]) } else { IpAddr::from([0_u16; 8]) };
    (any, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_addresses_are_known() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()) && is_own(Ipv4Addr::new(127, 9, 9, 9).into()));
        assert!(!is_own(NOBODYS.into()));
        // The source address of the default route, on a machine that has one.
        let seen = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect((NOBODYS, 9)).and_then(|()| socket.local_addr()));
        if let Ok(seen) = seen {
            assert!(is_own(seen.ip()), "{seen}");
        }
    }
}
