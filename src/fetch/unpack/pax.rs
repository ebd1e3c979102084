//! The records of a pax header: values for the next entry, or for all following ones, that do not fit into the header. Pure.

use std::collections::BTreeMap;

/// Prefix of extended attributes; tools that make images and packages use no other.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Prefix of records about holes.
const SPARSE: &[u8] = b"GNU.sparse.";
/// Records that change the type of an entry and are not supported: a part of a file, or another program's sparse format.
const FOREIGN: [&[u8]; 4] = [b"GNU.volume.", b"GNU.dumpdir", b"SCHILY.realsize", b"SUN.holesdata"];

/// The values of the records. An empty value removes an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// The path.
    pub path: Option<Vec<u8>>,
    /// The target of a link.
    pub link: Option<Vec<u8>>,
    /// The length of the contents.
    pub size: Option<u64>,
    /// User id.
    pub uid: Option<i64>,
    /// Group id.
    pub gid: Option<i64>,
    /// The mtime in seconds since 1970, rounded down.
    pub mtime: Option<i64>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Sparse records in order, without the common prefix of their keys.
    pub sparse: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Parses the records of one header.
pub fn parse(body: &[u8]) -> Result<Records, &'static str> {
    let mut records = Records::default();
    let mut rest = body;
    while !rest.is_empty() {
        let (key, value, after) = record(rest).ok_or("a malformed pax record")?;
        records.take(key, value)?;
        rest = after;
    }
    Ok(records)
}

/// Splits off one record: `length key=value`; the length includes itself and the newline.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let said = Some(value).filter(|value| !value.is_empty());
        let text = |what| match said {
            Some(value) if value.contains(&0) => Err(what),
            said => Ok(said.map(<[u8]>::to_vec)),
        };
        match key {
            b"path" => self.path = text("a path with a zero byte in a pax record")?,
            b"linkpath" => self.link = text("a link target with a zero byte in a pax record")?,
            b"size" => self.size = said.map(|value| decimal(value).ok_or("a malformed size in a pax record")).transpose()?,
            b"uid" => self.uid = said.map(|value| signed(value).ok_or("a malformed owner in a pax record")).transpose()?,
            b"gid" => self.gid = said.map(|value| signed(value).ok_or("a malformed group in a pax record")).transpose()?,
            b"mtime" => self.mtime = said.map(|value| seconds(value).ok_or("a malformed time in a pax record")).transpose()?,
            _ if FOREIGN.iter().any(|foreign| key.starts_with(foreign)) => return Err("a file in an unsupported format"),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(SPARSE) {
                    self.sparse.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Returns true if global records set a value that only a single entry can have.
    pub fn is_of_one_entry(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some() || !self.sparse.is_empty()
    }

    /// Merges another header's records over these.
    pub fn over(&self, above: Records) -> Records {
        Records {
            uid: above.uid.or(self.uid),
            gid: above.gid.or(self.gid),
            mtime: above.mtime.or(self.mtime),
            xattrs: self.xattrs.clone().into_iter().chain(above.xattrs).collect(),
            ..above
        }
    }

    /// Returns true if no record sets a value.
    pub fn is_empty(&self) -> bool {
        *self == Records::default()
    }
}

/// Parses an unsigned number.
pub fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(text) => i64::try_from(decimal(text)?).ok().map(|value| -value),
        None => i64::try_from(decimal(text)?).ok(),
    }
}

/// Parses a time; fractions of a second are rounded down.
fn seconds(text: &[u8]) -> Option<i64> {
    let (whole, part) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !part.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let is_before = whole.starts_with(b"-") && part.iter().any(|digit| *digit != b'0');
    Some(signed(whole)? - i64::from(is_before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(records: &[(&str, &str)]) -> Vec<u8> {
        let one = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).expect("a length");
            format!("{length} {key}={value}\n")
        };
        records.iter().map(one).collect::<String>().into_bytes()
    }

    #[test]
    fn records_are_read() {
        let read = parse(&body(&[("path", "a=b\nc"), ("mtime", "12.5"), ("uid", "7"), ("SCHILY.xattr.user.a", ""), ("comment", "x")]));
        let read = read.expect("records");
        assert_eq!((read.path.as_deref(), read.mtime, read.uid), (Some(&b"a=b\nc"[..]), Some(12), Some(7)));
        assert_eq!(read.xattrs, BTreeMap::from([(b"user.a".to_vec(), Vec::new())]));
        assert_eq!(parse(&body(&[("path", "a"), ("path", "")])).expect("records").path, None);
        for (time, expect) in [("-1", -1), ("-1.5", -2), ("-1.0", -1), ("-0.5", -1), ("1.", 1), ("9999999999", 9_999_999_999)] {
            assert_eq!(parse(&body(&[("mtime", time)])).expect(time).mtime, Some(expect), "{time}");
        }
        let all = Records { uid: Some(1), mtime: Some(2), ..Records::default() };
        let one = all.over(parse(&body(&[("uid", "5"), ("size", "3")])).expect("records"));
        assert_eq!((one.uid, one.mtime, one.size), (Some(5), Some(2), Some(3)));
    }

    #[test]
    fn malformed_records_are_refused() {
        for wrong in
            [&b"x"[..], b"5 a=b", b"7 a=b\n", b"99 a=b\n", b"5 =b\n", b"5 abc\n", b"0 a=b\n", b" 6 a=b\n", b"+6 a=b\n", b"6 a=b\n\0"]
        {
            parse(wrong).expect_err(&String::from_utf8_lossy(wrong));
        }
        for (key, value) in [
            ("size", "-1"),
            ("size", "0x1"),
            ("mtime", "1e3"),
            ("mtime", "soon"),
            ("uid", "a"),
            ("path", "a\0b"),
            ("GNU.volume.offset", "1"),
        ] {
            parse(&body(&[(key, value)])).expect_err(key);
        }
    }
}
