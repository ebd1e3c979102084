//! Sizes, times and names as people read them.

/// Returns a number of bytes in three digits or less, such as `6.8 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    // What would be written as 1000 is one of the next unit.
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

/// Returns how long something took, such as `250 ms`, `4.2 s` or `3 min 5 s`.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms / 100 % 10),
        _ => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
    }
}

/// Returns a number of things: `1 layer`, `2 layers`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// The most letters of a name.
const NAME_CHARS: usize = 300;

/// Returns a text on one line, without what could steer a terminal.
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns a name on one line; names of layers may be whole commands, of which the beginning has to do.
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
