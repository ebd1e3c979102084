//! DNS queries and answers (RFC 1035), as far as one address per name needs them.

use std::net::Ipv4Addr;

/// The TTL of an answer; a name keeps its address for the life of the sandbox.
const TTL_SECONDS: u32 = 300;
const HEADER_BYTES: usize = 12;
const MAX_LABEL_BYTES: usize = 63;

/// A DNS query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The header and the question; an answer repeats them.
    bytes: Vec<u8>,
    /// The queried name, in lower case, without the trailing dot.
    pub name: String,
    /// The record type.
    pub kind: Kind,
}

/// The queried record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address (A).
    V4,
    /// An IPv6 address (AAAA).
    V6,
    /// Any other type.
    Other,
}

/// The answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The name has this address.
    Address(Ipv4Addr),
    /// The name exists, without a record of this type.
    Nothing,
    /// The name does not exist (NXDOMAIN).
    NoName,
    /// The lookup failed (SERVFAIL).
    Failure,
}

impl Query {
    /// Parses a query; `None` if it is malformed or of an unsupported kind.
    pub fn parse(bytes: &[u8]) -> Option<Query> {
        let header = bytes.get(..HEADER_BYTES)?;
        let plain = header[2] & 0xf8 == 0 && header[4..6] == [0, 1];
        let (name, end) = name(bytes).filter(|_| plain)?;
        let [a, b, c, d] = *bytes.get(end..)?.first_chunk::<4>()?;
        let kind = match (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])) {
            (1, 1) => Kind::V4,
            (28, 1) => Kind::V6,
            _ => Kind::Other,
        };
        Some(Query { bytes: bytes[..end + 4].to_vec(), name, kind })
    }

    /// Returns the DNS answer for a record.
    pub fn answer(&self, record: Record) -> Vec<u8> {
        let code = match record {
            Record::Address(_) | Record::Nothing => 0,
            Record::Failure => 2,
            Record::NoName => 3,
        };
        let mut bytes = self.bytes.clone();
        // A response, with the query's recursion flag and "recursion available".
        bytes[2] = 0x80 | (bytes[2] & 1);
        bytes[3] = 0x80 | code;
        bytes[6..HEADER_BYTES].fill(0);
        if let Record::Address(address) = record {
            bytes[7] = 1;
            // A pointer to the question's name, type A, class IN.
            bytes.extend([0xc0, 12, 0, 1, 0, 1]);
            bytes.extend(TTL_SECONDS.to_be_bytes());
            bytes.extend([0, 4]);
            bytes.extend(address.octets());
        }
        bytes
    }
}

/// Parses the name of the first question; returns it with the offset of its end.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut at = HEADER_BYTES;
    let mut name = String::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        let label = bytes.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return (!name.is_empty() && name.len() <= silo_wire::MAX_NAME_BYTES).then_some((name, at));
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        if length > MAX_LABEL_BYTES || name.len() > silo_wire::MAX_NAME_BYTES || !label.iter().all(plain) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01A\x07eXample\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn a_question_is_answered_with_one_address() {
        let query = Query::parse(ASKED).expect("a question");
        assert_eq!((query.name.as_str(), query.kind), ("a.example", Kind::V4));
        let answer = query.answer(Record::Address(Ipv4Addr::new(198, 18, 1, 2)));
        let expect =
            b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01A\x07eXample\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc6\x12\x01\x02";
        assert_eq!(answer, expect);
        assert_eq!(query.answer(Record::NoName)[3], 0x83);
        assert_eq!(query.answer(Record::Nothing)[6..12], [0; 6]);
    }

    #[test]
    fn malformed_queries_are_refused() {
        for length in 0..ASKED.len() - 11 {
            assert_eq!(Query::parse(&ASKED[..length]), None, "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = ASKED.to_vec();
            bytes[at] = byte;
            Query::parse(&bytes)
        };
        // A response, another opcode, two questions, a compressed name, invalid labels.
        for (at, byte) in [(2, 0x81), (2, 0x28), (5, 2), (12, 0xc0), (13, b' '), (13, 0), (13, b'.')] {
            assert_eq!(with(at, byte), None, "{at}");
        }
        assert_eq!(with(24, 28).map(|query| query.kind), Some(Kind::V6));
        assert_eq!(with(24, 65).map(|query| query.kind), Some(Kind::Other));
    }
}
