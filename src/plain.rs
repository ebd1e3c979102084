//! What programs wrote, as a terminal may have it: a step that fails could otherwise retitle a window, or change what was
//! said before it.

use anstream::adapter::strip_str;

/// Most letters of a line.
const MAX_CHARS: usize = 4096;

/// Returns a line without what steers a terminal, as it stood at its end: of what a carriage return wrote over, the last.
pub fn line(text: &str) -> String {
    let stripped = strip_str(text).to_string();
    let last = stripped.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    let plain: String = last.chars().filter(|letter| !letter.is_control() || *letter == '\t').collect();
    match plain.char_indices().nth(MAX_CHARS) {
        Some((cut, _)) => format!("{} …", &plain[..cut]),
        None => plain,
    }
}

/// The same of every line of a text.
pub fn lines(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().map(|text| line(text) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_steers_a_terminal() {
        for (text, expect) in [
            ("plain \tüöß", "plain \tüöß"),
            ("\u{1b}[1;31merror\u{1b}[0m: x", "error: x"),
            ("\u{1b}]0;title\u{7}a\u{1b}]52;c;AAAA\u{1b}\\b", "ab"),
            ("10 %\r50 %\r100 %\r", "100 %"),
            ("\u{1b}P1;2q#0\u{1b}\\end", "end"),
            ("a\u{8}\u{0}\u{7f}\u{9b}31mb", "a31mb"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("", ""),
        ] {
            assert_eq!(line(text), expect, "{text:?}");
        }
        assert_eq!(line(&"é".repeat(5000)).chars().count(), MAX_CHARS + 2);
        assert_eq!(lines(b"\x1b[1ma\r\nb\xff\n\nc"), "a\nb\u{fffd}\n\nc\n");
    }
}
