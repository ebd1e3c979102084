//! Classifies IP addresses: public, private network, or reachable only by a grant of exactly this address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Scope of an address. A later variant is closer to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A public address.
    World,
    /// An address of a private network: RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193 (unique local).
    Network,
    /// Loopback, link-local, cloud metadata, multicast, unspecified, or an address with an unclear meaning.
    Machine,
}

/// Cloud metadata addresses outside the link-local ranges. They look like ordinary addresses.
const METADATA_V4: [Ipv4Addr; 2] = [
    // Azure.
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud.
    Ipv4Addr::new(100, 100, 100, 200),
];
/// IPv6 addresses of cloud metadata: Amazon and Google.
const METADATA_V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Returns the scope of an address, judged by the address alone.
///
/// Documentation and benchmark ranges count as public: no service uses them, but intercepting resolvers of gateways answer with such
/// addresses.
pub fn owner(address: IpAddr) -> Owner {
    match canonical(address) {
        IpAddr::V4(address) => owner_v4(address),
        IpAddr::V6(address) => owner_v6(address),
    }
}

/// Converts an IPv4-mapped IPv6 address to the IPv4 address that the kernel uses for it; other addresses are unchanged.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn owner_v4(address: Ipv4Addr) -> Owner {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    // IETF protocol assignments, including one cloud's metadata.
    let is_assigned = a == 192 && b == 0 && c == 0;
    if a == 0 || a >= 224 || is_assigned || address.is_loopback() || address.is_link_local() || METADATA_V4.contains(&address) {
        return Owner::Machine;
    }
    if is_shared || address.is_private() { Owner::Network } else { Owner::World }
}

fn owner_v6(address: Ipv6Addr) -> Owner {
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        owner_v4(Ipv4Addr::new(a, b, c, d))
    };
    if METADATA_V6.contains(&address) {
        return Owner::Machine;
    }
    match address.segments() {
        // An embedded IPv4 address: NAT64 (RFC 6052) and 6to4 (RFC 3056).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => inner(high, low),
        // Local-use NAT64 (RFC 8215).
        [0x64, 0xff9b, 1, _, _, _, high, low] => inner(high, low).max(Owner::Network),
        // Teredo contains a scrambled IPv4 address; the service was shut down.
        [0x2001, 0, ..] => Owner::Machine,
        // Unique local.
        [first, ..] if first & 0xfe00 == 0xfc00 => Owner::Network,
        // Global unicast. Everything else is loopback, link-local, site-local, multicast, IPv4-compatible or unassigned.
        [first, ..] if first & 0xe000 == 0x2000 => Owner::World,
        _ => Owner::Machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_belong_to_the_world_a_network_or_the_machine() {
        let table: [(Owner, &[&str]); 3] = [
            (
                Owner::World,
                &[
                    "1.1.1.1",
                    "100.128.0.1",
                    "172.32.0.1",
                    "192.0.1.1",
                    "198.18.0.5",
                    "203.0.113.80",
                    "2606:4700::1111",
                    "::ffff:1.1.1.1",
                    "64:ff9b::8.8.8.8",
                    "2002:808:808::1",
                ],
            ),
            (
                Owner::Network,
                &[
                    "10.1.2.3",
                    "100.64.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.0.1",
                    "fc00::1",
                    "fd00:ec2::253",
                    "::ffff:10.0.0.1",
                    "64:ff9b::10.0.0.1",
                    "64:ff9b:1::8.8.8.8",
                    "2002:a00:1::1",
                ],
            ),
            (
                Owner::Machine,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "100.100.100.200",
                    "127.0.0.1",
                    "127.255.255.254",
                    "168.63.129.16",
                    "169.254.0.1",
                    "169.254.169.254",
                    "192.0.0.192",
                    "224.0.0.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "::1",
                    "::2",
                    "::7f00:1",
                    "::10.0.0.1",
                    "::8.8.8.8",
                    "::ffff:0.0.0.0",
                    "::ffff:127.0.0.1",
                    "::ffff:169.254.169.254",
                    "::ffff:0:127.0.0.1",
                    "100::1",
                    "2001:0:1::1",
                    "2002:7f00:1::1",
                    "2002:a9fe:a9fe::1",
                    "64:ff9b::127.0.0.1",
                    "64:ff9b::169.254.169.254",
                    "64:ff9b::0.0.0.0",
                    "64:ff9b:1::169.254.169.254",
                    "64:ff9b:2::1",
                    "fd00:ec2::254",
                    "fd20:ce::254",
                    "fe80::1",
                    "fe80::a9fe:a9fe",
                    "febf::1",
                    "fec0::1",
                    "ff02::1",
                ],
            ),
        ];
        for (expect, list) in table {
            for text in list {
                assert_eq!(owner(text.parse().expect(text)), expect, "{text}");
            }
        }
    }
}
