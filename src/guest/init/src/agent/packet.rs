//! The first packet of a connection (RFC 9293), and the answers to it.

use std::net::{Ipv4Addr, SocketAddrV4};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who connects.
    pub from: SocketAddrV4,
    /// Where to.
    pub to: SocketAddrV4,
}

/// A first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    /// From whom to whom.
    pub ends: Ends,
    bytes: Vec<u8>,
    header: usize,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// The host cannot be reached.
    Host = 1,
    /// It is not allowed.
    Forbidden = 13,
}

impl Syn {
    /// Reads a packet with its IP header; `None` for another than a first one.
    pub fn parse(bytes: &[u8]) -> Option<Syn> {
        let header = usize::from(bytes.first()? & 15) * 4;
        let tcp = bytes.get(header..).filter(|tcp| tcp.len() >= TCP_BYTES && header >= IP_BYTES)?;
        let first = bytes[0] >> 4 == 4 && bytes[9] == TCP && tcp[13] & (SYN | ACK | RST) == SYN;
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let ends = Ends { from: SocketAddrV4::new(address(12), port(0)), to: SocketAddrV4::new(address(16), port(2)) };
        first.then(|| Syn { ends, bytes: bytes.to_vec(), header })
    }

    /// Returns the packet itself, complete: on the way here it had no checksum.
    pub fn again(&self) -> Vec<u8> {
        let (ip, tcp) = self.bytes.split_at(self.header);
        [ip, &summed(self.ends, tcp)].concat()
    }

    /// Returns the answer that refuses it.
    pub fn reset(&self) -> Vec<u8> {
        let tcp = &self.bytes[self.header..];
        let number = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(1);
        let mut answer = Vec::with_capacity(TCP_BYTES);
        answer.extend(self.ends.to.port().to_be_bytes());
        answer.extend(self.ends.from.port().to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(number.to_be_bytes());
        answer.extend([5 << 4, RST | ACK, 0, 0, 0, 0, 0, 0]);
        self.back(TCP, &summed(Ends { from: self.ends.to, to: self.ends.from }, &answer))
    }

    /// Returns the answer that says that there is no way (RFC 792).
    pub fn no_way(&self, why: NoWay) -> Vec<u8> {
        let mut answer = vec![3, why as u8, 0, 0, 0, 0, 0, 0];
        answer.extend(&self.bytes[..self.header + 8]);
        let sum = checksum(&[&answer]);
        answer[2..4].copy_from_slice(&sum.to_be_bytes());
        self.back(ICMP, &answer)
    }

    /// Lays an IP header before an answer; the kernel adds its length and its checksum.
    fn back(&self, protocol: u8, answer: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(self.ends.to.ip().octets());
        packet.extend(self.ends.from.ip().octets());
        packet.extend(answer);
        packet
    }
}

/// Returns a TCP segment with its checksum.
fn summed(ends: Ends, tcp: &[u8]) -> Vec<u8> {
    let mut tcp = tcp.to_vec();
    tcp[16..18].fill(0);
    let length = u16::try_from(tcp.len()).unwrap_or(u16::MAX).to_be_bytes();
    let sum = checksum(&[&ends.from.ip().octets(), &ends.to.ip().octets(), &[0, TCP, length[0], length[1]], &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    tcp
}

/// The Internet's checksum (RFC 1071); every part but the last is of even length.
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
        assert_eq!(syn.ends.to, SocketAddrV4::new(Ipv4Addr::new(198, 18, 1, 5), 443));
        let pseudo = |packet: &[u8]| checksum(&[&packet[12..20], &[0, 6, 0, 20], &packet[20..]]);
        assert_eq!(pseudo(&syn.again()), 0);
        let reset = syn.reset();
        assert_eq!((pseudo(&reset), &reset[20..24], reset[33]), (0, &[1, 0xbb, 0xc0, 0][..], 0x14));
        let answer = syn.no_way(NoWay::Forbidden);
        assert_eq!((checksum(&[&answer[20..]]), answer[21], answer.len()), (0, 13, 20 + 8 + 28));
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
