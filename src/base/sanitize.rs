//! Escapes text for a terminal, so that it can neither control the terminal nor imitate other text.
//!
//! Control characters move the cursor, change window titles and write to the clipboard. Format characters reorder or hide letters. [`line`]
//! is for one value inside a line: it escapes line ends too, so that a value cannot add a second line. [`text`] is for whole output of
//! Silo: line ends and tabs stay. [`said`] is for output of programs, which is full of colours and progress bars: those are removed instead
//! of escaped.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anstream::adapter::strip_str;

/// The most characters of a server's text in a message.
const MAX_QUOTED_CHARS: usize = 200;
/// Limit of a value in characters; no name is longer.
const MAX_CHARS: usize = 4096;

/// Escaped characters in addition to control characters: general category Cf, line and paragraph separators, everything that Unicode calls
/// default-ignorable (invisible: variation selectors, tags, fillers), and private use, which depends on the font. Sorted.
const HIDDEN: [(u32, u32); 28] = [
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfdd0, 0xfdef),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0xfffe, 0xffff),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0x0010_ffff),
];

/// Returns true if a character is visible and has no other effect.
pub fn is_plain(letter: char) -> bool {
    let code = u32::from(letter);
    // Nearly all text is ASCII.
    if code < 0x7f {
        return code >= 0x20;
    }
    if letter.is_control() {
        return false;
    }
    let at = HIDDEN.partition_point(|(first, _)| *first <= code);
    at == 0 || HIDDEN[at - 1].1 < code
}

/// Escapes a value inside a line, including line ends and tabs. Cuts it after 4,096 characters.
pub fn line(value: &str) -> String {
    cut(value, is_plain)
}

/// Escapes text of several lines: line ends and tabs stay.
pub fn text(text: &str) -> String {
    escaped(text.chars(), |letter| is_plain(letter) || matches!(letter, '\n' | '\t'))
}

/// Escapes a path as one value; bytes that are not UTF-8 become numbers.
pub fn path(path: &Path) -> String {
    bytes(path.as_os_str().as_bytes())
}

/// Escapes bytes as one value; those that are not UTF-8 become numbers.
pub fn bytes(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown += &line(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Returns the start of a text that a server wrote, without control characters: for a message, which stays one short line.
pub fn brief(text: &str) -> String {
    let mut letters = text.chars().filter(|letter| !letter.is_control());
    let mut brief: String = letters.by_ref().take(MAX_QUOTED_CHARS).collect();
    if letters.next().is_some() {
        brief.push('…');
    }
    brief
}

/// Returns a line of a program's output without colours, and only the part after the last carriage return.
pub fn said(output: &str) -> String {
    let stripped = strip_str(output).to_string();
    let last = stripped.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    let printed: String = last.chars().filter(|letter| !letter.is_control() || *letter == '\t').collect();
    cut(&printed, |letter| is_plain(letter) || letter == '\t')
}

/// Applies [`said`] to each line of a program's output.
pub fn said_lines(output: &[u8]) -> String {
    String::from_utf8_lossy(output).lines().map(|output| said(output) + "\n").collect()
}

/// Escapes JSON text with JSON's own escapes, so that its value stays the same.
pub fn json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_plain(letter) || letter == '\n' {
            shown.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

fn cut(value: &str, stays: impl Fn(char) -> bool) -> String {
    match value.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => escaped(value[..at].chars(), stays) + " …",
        None => escaped(value.chars(), stays),
    }
}

fn escaped(letters: impl Iterator<Item = char>, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::new();
    for letter in letters {
        match letter {
            letter if stays(letter) => shown.push(letter),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            letter => {
                let _ = write!(shown, "{}", letter.escape_unicode());
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_character_that_acts_or_hides_is_escaped() {
        for (value, expect) in [
            ("plain üöß 日本 🦀 é", "plain üöß 日本 🦀 é"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("a\nsilo: approved\r\t", "a\\nsilo: approved\\r\\t"),
            ("\u{0}\u{8}\u{7f}\u{80}\u{9b}31m\u{9f}", "\\u{0}\\u{8}\\u{7f}\\u{80}\\u{9b}31m\\u{9f}"),
            ("\u{202e}gpj.exe\u{202c}", "\\u{202e}gpj.exe\\u{202c}"),
            ("\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}", "\\u{2066}\\u{2069}\\u{200e}\\u{200f}\\u{61c}"),
            ("a\u{200b}b\u{200d}c\u{feff}\u{ad}", "a\\u{200b}b\\u{200d}c\\u{feff}\\u{ad}"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{e0041}\u{e0100}\u{fe0f}\u{3164}", "\\u{e0041}\\u{e0100}\\u{fe0f}\\u{3164}"),
            ("", ""),
        ] {
            assert_eq!(line(value), expect, "{value:?}");
        }
        assert_eq!(text("a\tb\nc\u{1b}[2J\r\n"), "a\tb\nc\\u{1b}[2J\\r\n");
        assert_eq!(line(&"é".repeat(5000)).chars().count(), MAX_CHARS + 2);
        assert!(HIDDEN.windows(2).all(|pair| pair[0].1 < pair[1].0), "the table is sorted");
    }

    #[test]
    fn no_control_character_is_plain() {
        for letter in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            assert!(!(letter.is_control() && is_plain(letter)), "{letter:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_numbers() {
        assert_eq!(bytes(b"a\xff\xfe/\x1bc\n"), "a\\xff\\xfe/\\u{1b}c\\n");
        assert_eq!(path(Path::new(OsStr::from_bytes(b"/d\x9b1A/x"))), "/d\\x9b1A/x");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "a\u{1b}\u{7f}\u{9b}": ["\u{202e}\u{e0041}\n", "ü"] });
        let shown = json(&format!("{value:#}"));
        assert!(shown.chars().all(|letter| is_plain(letter) || letter == '\n'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }

    #[test]
    fn nothing_is_left_of_a_programs_output_that_steers_a_terminal() {
        for (output, expect) in [
            ("plain \tüöß", "plain \tüöß"),
            ("\u{1b}[1;31merror\u{1b}[0m: x", "error: x"),
            ("\u{1b}]0;title\u{7}a\u{1b}]52;c;AAAA\u{1b}\\b", "ab"),
            ("10 %\r50 %\r100 %\r", "100 %"),
            ("\u{1b}P1;2q#0\u{1b}\\end", "end"),
            ("a\u{8}\u{0}\u{7f}\u{9b}31mb", "a31mb"),
            ("\u{202e}a", "\\u{202e}a"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("", ""),
        ] {
            assert_eq!(said(output), expect, "{output:?}");
        }
        assert_eq!(said(&"é".repeat(5000)).chars().count(), MAX_CHARS + 2);
        assert_eq!(said_lines(b"\x1b[1ma\r\nb\xff\n\nc"), "a\nb\u{fffd}\n\nc\n");
    }
}
