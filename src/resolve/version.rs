//! The order of Debian version strings, deb-version(7).
//!
//! Versions are borrowed strings: an index has 70,000 of them, and most are never compared.

use std::cmp::Ordering;

/// Returns true if the text is a valid Debian version: an optional numeric epoch, an upstream version, and an optional revision of letters,
/// digits and `.+-~`.
pub fn is_valid(text: &str) -> bool {
    let (epoch, rest) = match text.split_once(':') {
        Some((epoch, rest)) => (epoch, rest),
        None => ("0", text),
    };
    // Nine digits exceed any epoch in use and still fit dpkg's signed 32-bit integer.
    !epoch.is_empty()
        && epoch.len() <= 9
        && epoch.bytes().all(|b| b.is_ascii_digit())
        && !rest.is_empty()
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b))
}

/// Compares two versions as dpkg does.
pub fn compare(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    digits(left_epoch, right_epoch).then_with(|| part(left_upstream, right_upstream)).then_with(|| part(left_revision, right_revision))
}

/// Splits a version into epoch, upstream version and revision.
fn split(text: &str) -> (&[u8], &[u8], &[u8]) {
    let (epoch, rest) = text.split_once(':').unwrap_or(("", text));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.as_bytes(), upstream.as_bytes(), revision.as_bytes())
}

/// Compares upstream versions or revisions: alternating runs of non-digits and digits.
fn part(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = left.split_at(run(left, |b| !b.is_ascii_digit()));
        let (right_text, right_rest) = right.split_at(run(right, |b| !b.is_ascii_digit()));
        let longest = left_text.len().max(right_text.len());
        for at in 0..longest {
            let order = weight(left_text.get(at)).cmp(&weight(right_text.get(at)));
            if order != Ordering::Equal {
                return order;
            }
        }
        let (left_number, left_rest) = left_rest.split_at(run(left_rest, |b| b.is_ascii_digit()));
        let (right_number, right_rest) = right_rest.split_at(run(right_rest, |b| b.is_ascii_digit()));
        let order = digits(left_number, right_number);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Returns the length of the leading run of matching bytes.
fn run(text: &[u8], wanted: fn(&u8) -> bool) -> usize {
    text.iter().position(|b| !wanted(b)).unwrap_or(text.len())
}

/// Ranks one byte of a non-digit run: `~` before the end, the end before letters, letters before the rest.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(b) if b.is_ascii_alphabetic() => i32::from(*b),
        Some(b) => i32::from(*b) + 256,
    }
}

/// Compares digit strings of any length by value, without overflow.
fn digits(left: &[u8], right: &[u8]) -> Ordering {
    let left = &left[run(left, |b| *b == b'0')..];
    let right = &right[run(right, |b| *b == b'0')..];
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::{compare, is_valid};
    use std::cmp::Ordering;

    #[test]
    fn orders_as_dpkg() {
        // Each line is strictly ascending; every pair in it is checked in both directions.
        let ascending: &[&[&str]] = &[
            &["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0a", "1.0+b1", "1.0.1", "1.1", "1:0.1"],
            &["2.9", "2.10", "2.10-1", "2.10-1+deb13u1", "2.10-1.1", "2.10-10"],
            &["0~rc1-1", "0-1", "1~", "1", "1a", "1+", "1.", "99999999999999999999998", "99999999999999999999999"],
            &["5.40.0-6", "5.40.1-6", "5.40.1-6+b1", "2:1", "10:0"],
        ];
        for line in ascending {
            for (low, a) in line.iter().enumerate() {
                for (high, b) in line.iter().enumerate() {
                    assert_eq!(compare(a, b), low.cmp(&high), "{a} against {b}");
                }
            }
        }
        for (a, b) in [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.01", "1.1"), ("1.0-1", "1.0-01"), ("1a0", "1a")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} against {b}");
        }
    }

    #[test]
    fn knows_the_form() {
        for good in ["1", "1:2.3-4~x+y", "0.0~git2024-1", "2.3a-1-2", "1:1:2"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "1:", ":1", "a:1", "1 2", "1/2", "1\n", "99999999999:1", "1_2", "é"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
