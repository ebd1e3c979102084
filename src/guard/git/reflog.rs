//! Reflogs: lines with the old and new value of a ref. Pure.

use std::collections::HashSet;

use super::oid::{Format, Oid};

/// Maximum size of a reflog.
pub const MAX_LOG_BYTES: u64 = 64 << 20;
/// Maximum length of a line.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Change of the host's reflog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// No change.
    Same,
    /// Append these lines.
    Append(Vec<u8>),
    /// Replace the contents.
    Replace(Vec<u8>),
}

/// Merges a sandbox's reflog into the host's. `last` is the ref's value at the start of the run. If the host's reflog still ends with it,
/// lines that the sandbox removed are removed too.
pub fn merge(host: &[u8], inside: &[u8], last: Option<Oid>, format: Format) -> Merged {
    let lines: Vec<&[u8]> = inside.split_inclusive(|byte| *byte == b'\n').filter(|line| values(line, format).is_some()).collect();
    let whole = lines.concat();
    if whole == host {
        return Merged::Same;
    }
    if let Some(rest) = whole.strip_prefix(host) {
        return Merged::Append(rest.to_vec());
    }
    let ends_with = host.split_inclusive(|byte| *byte == b'\n').next_back().and_then(|line| values(line, format));
    if last.is_some() && ends_with.is_some_and(|(_, new)| Some(new) == last) && !whole.is_empty() {
        return Merged::Replace(whole);
    }
    let known: HashSet<&[u8]> = host.split_inclusive(|byte| *byte == b'\n').collect();
    let new: Vec<u8> = lines.into_iter().filter(|line| !known.contains(line)).flatten().copied().collect();
    if new.is_empty() { Merged::Same } else { Merged::Append(new) }
}

/// Parses the two values of a line: `old new name <mail> seconds zone TAB message`.
fn values(line: &[u8], format: Format) -> Option<(Oid, Oid)> {
    let line = line.strip_suffix(b"\n").filter(|line| line.len() <= MAX_LINE_BYTES)?;
    let hex = format.bytes() * 2;
    let (old, rest) = line.split_at_checked(hex)?;
    let (new, rest) = rest.strip_prefix(b" ")?.split_at_checked(hex)?;
    let who = rest.strip_prefix(b" ")?.split(|byte| *byte == b'\t').next()?;
    let stamp = &who[who.iter().rposition(|byte| *byte == b'>')? + 1..];
    let mut words = stamp.split(|byte| *byte == b' ').skip(1);
    let (seconds, zone) = (words.next()?, words.next()?);
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_plain = !line.iter().any(|byte| *byte < b' ' && *byte != b'\t');
    let is_line =
        is_number(seconds) && zone.first().is_some_and(|sign| b"+-".contains(sign)) && is_number(&zone[1..]) && words.next().is_none();
    (is_plain && is_line).then(|| Some((format.parse(old)?, format.parse(new)?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_grow_and_lose_no_line_of_the_hosts() {
        let line = |old: char, new: char, text: &str| {
            format!("{} {} A <a@example.com> 1700000000 +0100\t{text}\n", String::from(old).repeat(40), String::from(new).repeat(40))
        };
        let (a, b, c, d) = (line('0', '1', "a"), line('1', '2', "b"), line('2', '3', "c"), line('2', '4', "d"));
        let last = Format::Sha1.parse("2".repeat(40).as_bytes());
        let bytes = |lines: &[&String]| lines.iter().flat_map(|line| line.bytes()).collect::<Vec<u8>>();
        for (host, inside, last, expect) in [
            (bytes(&[&a, &b]), bytes(&[&a, &b]), None, Merged::Same),
            (bytes(&[&a, &b]), bytes(&[&a, &b, &c]), None, Merged::Append(bytes(&[&c]))),
            (Vec::new(), bytes(&[&a]), None, Merged::Append(bytes(&[&a]))),
            // The host continued too.
            (bytes(&[&a, &b, &d]), bytes(&[&a, &b, &c]), last, Merged::Append(bytes(&[&c]))),
            // A dropped stash.
            (bytes(&[&a, &b]), bytes(&[&a]), last, Merged::Replace(bytes(&[&a]))),
            (bytes(&[&a, &b]), bytes(&[&a]), None, Merged::Same),
            (bytes(&[&a]), [&a.clone().into_bytes()[..], b"evil\n", b"\x1b[2J\n"].concat(), None, Merged::Same),
        ] {
            assert_eq!(merge(&host, &inside, last, Format::Sha1), expect);
        }
        for wrong in ["", "x\n", &a.replace("+0100", ""), &a.replace("1700000000", "x"), &a.replace('\t', "\t\u{1b}"), &a[..a.len() - 1]] {
            assert!(values(wrong.as_bytes(), Format::Sha1).is_none(), "{wrong:?}");
        }
    }
}
