//! Shows letters that look like others as numbers: a Cyrillic letter in a Latin word, and everything that acts or hides.

use std::path::Path;

use silo_base::sanitize;

/// Letters of other scripts that look like Latin ones: Greek, Cyrillic, Armenian, Cherokee, Lisu, mathematical and full-width letters.
const ALIKE: [(u32, u32); 12] = [
    (0x1c0, 0x1c3),
    (0x237, 0x237),
    (0x250, 0x2af),
    (0x370, 0x3ff),
    (0x400, 0x52f),
    (0x530, 0x58f),
    (0x13a0, 0x13ff),
    (0x1d00, 0x1dbf),
    (0x2100, 0x214f),
    (0xa4d0, 0xa4ff),
    (0xff01, 0xff5e),
    (0x1d400, 0x1d7ff),
];

/// Escapes a line of a text: tabs stay.
pub fn line(text: &str) -> String {
    text.split('\t').map(value).collect::<Vec<_>>().join("\t")
}

/// Escapes a path.
pub fn name(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => value(text),
        None => sanitize::bytes(path.as_os_str().as_bytes()),
    }
}

fn value(text: &str) -> String {
    if text.is_ascii() {
        return sanitize::line(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut word = String::new();
    for letter in text.chars() {
        if letter.is_alphanumeric() || letter == '_' {
            word.push(letter);
        } else {
            shown += &of_word(&word);
            word.clear();
            shown.push(letter);
        }
    }
    shown += &of_word(&word);
    sanitize::line(&shown)
}

/// Replaces lookalikes in a word that also has ASCII letters.
fn of_word(word: &str) -> String {
    if word.is_ascii() || !word.chars().any(|letter| letter.is_ascii_alphabetic()) {
        return word.to_owned();
    }
    word.chars().map(|letter| if is_alike(letter) { letter.escape_unicode().to_string() } else { letter.to_string() }).collect()
}

fn is_alike(letter: char) -> bool {
    ALIKE.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(letter)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_another_script_in_a_latin_word_are_numbers() {
        for (text, expect) in [
            ("admin", "admin"),
            ("аdmin", "\\u{430}dmin"),
            ("слово naïve", "слово naïve"),
            ("if (\u{ff21}b)", "if (\\u{ff21}b)"),
            ("a\tb", "a\tb"),
        ] {
            assert_eq!(line(text), expect);
        }
        assert!(!line("x\u{1b}[31m\u{202e}\u{200b}").contains(['\u{1b}', '\u{202e}', '\u{200b}']));
        assert_eq!(name(Path::new("d/раckage.json")), "d/\\u{440}\\u{430}ckage.json");
    }
}
