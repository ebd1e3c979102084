//! Parses TCP SYN packets (RFC 9293) and builds the answers to them, for IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const IP_BYTES: usize = 20;
const IP_V6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const HOPS: u8 = 64;

/// Both endpoints of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub from: SocketAddr,
    /// The destination.
    pub to: SocketAddr,
}

/// A SYN packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Its endpoints.
    pub ends: Ends,
    bytes: Vec<u8>,
    header: usize,
}

/// The reason in an ICMP "unreachable" answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// The host is unreachable.
    Host = 1,
    /// Communication is prohibited.
    Forbidden = 13,
}

impl Syn {
    /// Parses a packet with its IP header; `None` unless it is a SYN.
    pub fn parse(bytes: &[u8]) -> Option<Syn> {
        let (header, from, to) = match bytes.first()? >> 4 {
            4 => addresses_v4(bytes)?,
            6 => addresses_v6(bytes)?,
            _ => return None,
        };
        let tcp = bytes.get(header..).filter(|tcp| tcp.len() >= TCP_BYTES)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let ends = Ends { from: SocketAddr::new(from, port(0)), to: SocketAddr::new(to, port(2)) };
        (tcp[13] & (SYN | ACK | RST) == SYN).then(|| Syn { ends, bytes: bytes.to_vec(), header })
    }

    /// Returns the whole packet with its checksum, which loopback had left out.
    pub fn again(&self) -> Vec<u8> {
        let (ip, tcp) = self.bytes.split_at(self.header);
        [ip, &summed(self.ends, tcp)].concat()
    }

    /// Returns a reset (RST) that refuses the connection.
    pub fn reset(&self) -> Vec<u8> {
        let tcp = &self.bytes[self.header..];
        let number = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(1);
        let mut answer = Vec::with_capacity(TCP_BYTES);
        answer.extend(self.ends.to.port().to_be_bytes());
        answer.extend(self.ends.from.port().to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(number.to_be_bytes());
        answer.extend([5 << 4, RST | ACK, 0, 0, 0, 0, 0, 0]);
        self.back(TCP, &summed(self.ends.turned(), &answer))
    }

    /// Returns an ICMP "unreachable" answer (RFC 792, RFC 4443).
    pub fn no_way(&self, why: Unreachable) -> Vec<u8> {
        // ICMPv6 always uses code 1: programs would get "prohibited" as EACCES, which reads like an error about their own files.
        let (kind, code, protocol) = if self.ends.to.is_ipv4() { (3, why as u8, ICMP) } else { (1, 3, ICMP_V6) };
        let mut answer = vec![kind, code, 0, 0, 0, 0, 0, 0];
        answer.extend(&self.bytes[..self.header + 8]);
        let sum = match protocol {
            ICMP => checksum(&[&answer]),
            _ => checksum(&[&pseudo(self.ends.turned(), ICMP_V6, answer.len()), &answer]),
        };
        answer[2..4].copy_from_slice(&sum.to_be_bytes());
        self.back(protocol, &answer)
    }

    /// Prepends an IP header to an answer; for IPv4 the kernel adds the length and the checksum.
    fn back(&self, protocol: u8, answer: &[u8]) -> Vec<u8> {
        let mut packet = match self.ends.to {
            SocketAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, protocol, 0, 0],
            SocketAddr::V6(_) => {
                let [high, low] = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
                vec![0x60, 0, 0, 0, high, low, protocol, HOPS]
            }
        };
        packet.extend(octets(self.ends.to.ip()));
        packet.extend(octets(self.ends.from.ip()));
        packet.extend(answer);
        packet
    }
}

impl Ends {
    fn turned(self) -> Ends {
        Ends { from: self.to, to: self.from }
    }
}

fn addresses_v4(bytes: &[u8]) -> Option<(usize, IpAddr, IpAddr)> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?).into());
    let plain = header >= IP_BYTES && *bytes.get(9)? == TCP;
    plain.then_some((header, address(12)?, address(16)?))
}

fn addresses_v6(bytes: &[u8]) -> Option<(usize, IpAddr, IpAddr)> {
    let address = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?).into());
    // The kernel sends no extension header before TCP.
    (*bytes.get(6)? == TCP).then_some((IP_V6_BYTES, address(8)?, address(24)?))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The pseudo-header of a checksum.
fn pseudo(ends: Ends, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [octets(ends.from.ip()), octets(ends.to.ip()), vec![0, protocol], length.to_vec()].concat()
}

/// Returns a TCP segment with its checksum.
fn summed(ends: Ends, tcp: &[u8]) -> Vec<u8> {
    let mut tcp = tcp.to_vec();
    tcp[16..18].fill(0);
    let sum = checksum(&[&pseudo(ends, TCP, tcp.len()), &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

/// The Internet checksum (RFC 1071); each part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 40] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 1, 198, 18, 1, 5, 0xc0, 0, 1, 0xbb, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0xff,
        0xff, 0, 0, 0, 0,
    ];

    #[test]
    fn answers_have_sound_checksums() {
        let syn = Syn::parse(&PACKET).expect("a first packet");
        assert_eq!(syn.ends.to, SocketAddr::from((Ipv4Addr::new(198, 18, 1, 5), 443)));
        let pseudo = |packet: &[u8]| checksum(&[&packet[12..20], &[0, 6, 0, 20], &packet[20..]]);
        assert_eq!(pseudo(&syn.again()), 0);
        let reset = syn.reset();
        assert_eq!((pseudo(&reset), &reset[20..24], reset[33]), (0, &[1, 0xbb, 0xc0, 0][..], 0x14));
        let answer = syn.no_way(Unreachable::Forbidden);
        assert_eq!((checksum(&[&answer[20..]]), answer[21], answer.len()), (0, 13, 20 + 8 + 28));
    }

    #[test]
    fn answers_of_version_6_have_sound_checksums() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("2001:db8::5".parse::<Ipv6Addr>().expect("an address").octets());
        packet.extend(&PACKET[20..]);
        for length in 0..packet.len() {
            assert_eq!(Syn::parse(&packet[..length]), None, "{length}");
        }
        let syn = Syn::parse(&packet).expect("a first packet");
        assert_eq!(syn.ends.to, "[2001:db8::5]:443".parse().expect("a place"));
        let pseudo = |packet: &[u8], protocol: u8| {
            let length = u8::try_from(packet.len() - 40).expect("short");
            checksum(&[&packet[8..40], &[0, protocol, 0, length], &packet[40..]])
        };
        assert_eq!(pseudo(&syn.again(), 6), 0);
        let reset = syn.reset();
        assert_eq!((pseudo(&reset, 6), &reset[4..7], reset[53]), (0, &[0, 20, 6][..], 0x14));
        let answer = syn.no_way(Unreachable::Forbidden);
        assert_eq!((pseudo(&answer, 58), answer[6], &answer[40..42], answer.len()), (0, 58, &[1, 3][..], 40 + 8 + 48));
    }

    #[test]
    fn other_packets_are_not_read() {
        for length in 0..PACKET.len() {
            assert_eq!(Syn::parse(&PACKET[..length]), None, "{length}");
        }
        for (at, byte) in [(0, 0x65), (0, 0x41), (0, 0x4f), (9, 17), (33, 0x12), (33, 0x10), (33, 4)] {
            let mut packet = PACKET;
            packet[at] = byte;
            assert_eq!(Syn::parse(&packet), None, "{at} {byte}");
        }
    }
}
