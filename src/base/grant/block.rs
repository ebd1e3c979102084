//! Networks as CIDR blocks in grants (`192.0.2.0/24`, `[2001:db8::/32]`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Private and link-local ranges: a grant for part of one names a specific network.
const APART: [Block; 7] = [
    Block::v4([10, 0, 0, 0], 8),
    Block::v4([100, 64, 0, 0], 10),
    Block::v4([169, 254, 0, 0], 16),
    Block::v4([172, 16, 0, 0], 12),
    Block::v4([192, 168, 0, 0], 16),
    Block::v6(0xfc00, 7),
    Block::v6(0xfe80, 10),
];

/// A CIDR block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first address.
    pub first: IpAddr,
    /// The prefix length.
    pub bits: u8,
}

impl Block {
    const fn v4([a, b, c, d]: [u8; 4], bits: u8) -> Block {
        Block { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(first: u16, bits: u8) -> Block {
        Block { first: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), bits }
    }

    /// Parses `192.0.2.0/24`, or an IPv6 block in brackets. Host bits must be zero: otherwise it is a typo.
    pub fn parse(text: &str) -> Option<Block> {
        let (inner, of_v6) = match text.strip_prefix('[') {
            Some(inner) => (inner.strip_suffix(']')?, true),
            None => (text, false),
        };
        let (first, bits) = inner.split_once('/')?;
        let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
        let block = Block { first: first.parse().ok()?, bits: bits.parse().ok().filter(|_| plain)? };
        let sound = block.first.is_ipv6() == of_v6 && block.bits <= block.width() && block.beginning(block.first) == bits_of(block.first);
        // The sandbox has its own loopback, so this block could never reach anything outside.
        (sound && !block.first.is_loopback()).then_some(block)
    }

    /// Returns true if the block contains the address.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.beginning(address) == self.beginning(self.first)
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        let all = if self.first.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
        let free = all.checked_shr(u32::from(self.bits)).unwrap_or(0);
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | u32::try_from(free).unwrap_or(0)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | free).into(),
        }
    }

    /// Returns true if the whole block is in private or link-local ranges.
    pub fn is_apart(self) -> bool {
        APART.iter().any(|apart| apart.bits <= self.bits && apart.contains(self.first))
    }

    fn width(self) -> u8 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }

    /// Returns the address with the host bits set to zero.
    fn beginning(self, address: IpAddr) -> u128 {
        let rest = u32::from(self.width() - self.bits.min(self.width()));
        bits_of(address).checked_shr(rest).and_then(|bits| bits.checked_shl(rest)).unwrap_or(0)
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_end_where_their_bits_do() {
        for (network, expect) in [
            ("10.0.0.0/8", "10.255.255.255"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("[2001:db8::/32]", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("[::/0]", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("[2001:db8::1/128]", "2001:db8::1"),
        ] {
            assert_eq!(Block::parse(network).expect(network).last().to_string(), expect, "{network}");
        }
    }

    #[test]
    fn networks_are_read_and_hold_their_addresses() {
        for (network, inside, outside, apart) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0", true),
            ("10.2.0.0/16", "10.2.3.4", "10.3.0.0", true),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0", false),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "1.2.3.4", "::1", false),
            ("172.0.0.0/8", "172.16.0.1", "173.0.0.0", false),
            ("[2001:db8::/32]", "2001:db8:1::1", "2001:db9::", false),
            ("[fd00::/8]", "fd12::1", "fc00::1", true),
            ("[::/0]", "2001::", "1.1.1.1", false),
        ] {
            let block = Block::parse(network).expect(network);
            let address = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert!(block.contains(address(inside)) && !block.contains(address(outside)), "{network}");
            assert_eq!(block.is_apart(), apart, "{network}");
        }
        for text in [
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/0008",
            "10.0.0.0",
            "10/8",
            "127.0.0.0/8",
            "127.0.0.1/32",
            "2001:db8::/32",
            "[10.0.0.0/8]",
            "[::1/128]",
            "[::/129]",
            "[::]/0",
            "/8",
        ] {
            assert_eq!(Block::parse(text), None, "{text}");
        }
    }
}
