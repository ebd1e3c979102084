//! Finds out which addresses are this machine's own, at the moment that one of them would be dialled.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// An address that is set aside for documentation (RFC 5737), so that no machine has it.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// Whether an address is this machine's own, on any of its interfaces.
///
/// The kernel's routes are asked, not a list of interfaces: it chooses the address itself as the source of what would be
/// sent there, or loopback where a whole range is routed to the machine. Nothing is sent.
pub fn is_own(address: IpAddr) -> bool {
    let source = UdpSocket::bind(unspecified(address)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address || source.ip().is_loopback()) || can_listen(address)
}

/// Whether a server could listen at an address, which is another sign, where routes lead elsewhere. On a machine that is
/// set up to listen at any address (`ip_nonlocal_bind`) it is none.
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
        // The one that this machine would be seen by, where it has a way out.
        let seen = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect((NOBODYS, 9)).and_then(|()| socket.local_addr()));
        if let Ok(seen) = seen {
            assert!(is_own(seen.ip()), "{seen}");
        }
    }
}
