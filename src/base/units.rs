//! Parses and formats amounts for people: sizes on disk and durations.

use std::time::Duration;

/// A text that is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a size.
    #[error("\"{0}\" is not a size; write a number and K, M, G or T, such as 500M or 1.5G")]
    Size(String),
    /// Not a duration.
    #[error("\"{0}\" is not a duration; write a number and s, m, h, d or w, such as 36h or 14d")]
    Age(String),
}

/// The units of sizes, each 1024 times the previous one.
const SIZES: [(&str, u64); 5] = [("", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];
/// The units of durations in seconds; a number without a unit is in days.
const AGES: [(&str, u64); 6] = [("", 86_400), ("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("w", 604_800)];

/// Parses a size: `500M`, `1.5G`, `2GiB`; units are powers of 1024, and a number without a unit is in bytes.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let upper = text.to_uppercase();
    let short = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    scaled(short, &SIZES).ok_or_else(|| Error::Size(text.to_owned()))
}

/// Parses a duration: `90s`, `36h`, `14d`, `2w`; a number without a unit is in days.
pub fn parse_age(text: &str) -> Result<Duration, Error> {
    scaled(text, &AGES).map(Duration::from_secs).ok_or_else(|| Error::Age(text.to_owned()))
}

/// Parses a number with at most three decimals and a unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if part.is_empty() || part.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{part:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(factor)?.checked_add(factor.checked_mul(thousandths)? / 1000)
}

/// Formats a size with one decimal: `1.2 GiB`.
pub fn size(bytes: u64) -> String {
    let unit = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match unit.into_iter().find(|(_, factor)| bytes >= *factor) {
        Some((name, factor)) => format!("{}.{} {name}", bytes / factor, bytes % factor * 10 / factor),
        None => format!("{bytes} B"),
    }
}

/// Formats the time between two moments, both in seconds since 1970.
pub fn ago(now: i64, then: i64) -> String {
    let secs = now.saturating_sub(then);
    match secs {
        ..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", secs / 60),
        3_600..86_400 => format!("{} h ago", secs / 3_600),
        _ => format!("{} d ago", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_spelled() {
        for (text, expect) in
            [("0", 0), ("500M", 500 << 20), ("1.5G", 3 << 29), ("2GiB", 2 << 30), ("10kb", 10 << 10), ("7", 7), ("0.001K", 1)]
        {
            assert_eq!(parse_size(text), Ok(expect), "{text}");
        }
        for wrong in ["", "G", "-1", "1,5G", "1.G", "1 G", "99999999T", "1.2345G", "5X", "１G", "1.5.5M"] {
            assert_eq!(parse_size(wrong), Err(Error::Size(wrong.to_owned())), "{wrong}");
        }
        for (text, secs) in [("14d", 1_209_600), ("14", 1_209_600), ("90s", 90), ("1.5h", 5_400), ("2w", 1_209_600), ("0d", 0), ("3m", 180)]
        {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for wrong in ["", "d", "1y", "14 d", "99999999999999999999d"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
        for (bytes, expect) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (u64::MAX, "16777215.9 TiB")] {
            assert_eq!(size(bytes), expect);
        }
        for (secs, expect) in [(-5, "just now"), (3_599, "59 min ago"), (7_200, "2 h ago"), (86_400 * 3, "3 d ago")] {
            assert_eq!(ago(1_000_000, 1_000_000 - secs), expect);
        }
    }
}
