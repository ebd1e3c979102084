//! Formats sizes, times and names for display.

/// Formats a number of bytes with at most three digits, such as `6.8 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    // A value that would round to 1000 goes to the next unit.
    while value >= if unit == 0 { 1000.0 } else { 999.5 } && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) if count == 1 => "1 byte".to_owned(),
        (0, _) => format!("{count} bytes"),
        (_, value) if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        (_, value) => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Formats a duration, such as `250 ms`, `4.2 s` or `3 min 5 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms / 100 % 10),
        _ => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
    }
}

/// Formats a count: `1 layer`, `2 layers`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Limit on the characters of a name.
const NAME_CHARS: usize = 300;

/// Joins a text to one line, without control characters, which could steer a terminal.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Shortens a name to one line; the name of a layer may be a long command.
pub fn name(text: &str) -> String {
    let line = one_line(text);
    match line.char_indices().nth(NAME_CHARS) {
        Some((cut, _)) => format!("{} …", &line[..cut]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_951, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (6_812_345, "6.8 MB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(name(&"é ".repeat(200)), format!("{} …", "é ".repeat(150)));
        assert_eq!(name(" npm i \\\n\t-g x\u{1b}[31m "), "npm i \\ -g x [31m");
        for (value, text) in [(0, "0 ms"), (999, "999 ms"), (4_199, "4.1 s"), (59_999, "59.9 s"), (185_000, "3 min 5 s")] {
            assert_eq!(duration(value), text);
        }
    }
}
