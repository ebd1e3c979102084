//! Kinds of words in two texts that differ: numbers, times of day, addresses, temporary names, random words.

use std::collections::BTreeSet;

/// Names of days and months, as dates have them.
pub(super) const DATE_NAMES: [&str; 19] =
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// True if two files have the same parts in another order: words, lines, items between commas, names that end in NUL, or records.
pub(super) fn is_reordered(old: &[u8], new: &[u8]) -> bool {
    let sorted = |bytes: &[u8], split: &dyn Fn(&u8) -> bool| {
        let mut parts: Vec<Vec<u8>> = bytes.split(split).filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
        parts.sort_unstable();
        parts
    };
    let records = |bytes: &[u8], length: usize| {
        let mut parts: Vec<Vec<u8>> = bytes.chunks(length).map(<[u8]>::to_vec).collect();
        parts.sort_unstable();
        parts
    };
    if old.len() != new.len() || old == new {
        return false;
    }
    let splits: [&dyn Fn(&u8) -> bool; 3] = [&u8::is_ascii_whitespace, &|byte| b",; \n\t[]{}()\"'".contains(byte), &|byte| *byte == 0];
    // Random numbers of one digit each would be a coincidence; short parts need a separator.
    splits.iter().any(|split| sorted(old, split) == sorted(new, split))
        || [8, 16, 24, 32, 64, 512].iter().any(|length| old.len() >= 2 * length && records(old, *length) == records(new, *length))
}

/// Returns the words of one text that the other does not have.
pub(super) fn changed_words<'a>(of: &'a str, other: &str) -> Vec<&'a str> {
    let split = |letter: char| !(letter.is_alphanumeric() || "/._:+-@".contains(letter));
    let there: BTreeSet<&str> = other.split(split).collect();
    of.split(split).filter(|word| !word.is_empty() && !there.contains(word)).collect()
}

/// Returns the decimal numbers in a word. The digits of a long hexadecimal number are none.
pub(super) fn numbers_of(word: &str) -> Vec<u64> {
    let is_hexadecimal = |part: &&str| {
        let bytes = part.strip_prefix("0x").unwrap_or(part).as_bytes();
        // A date such as 29Dec2027 has both cases.
        let both_cases = bytes.iter().any(u8::is_ascii_lowercase) && bytes.iter().any(u8::is_ascii_uppercase);
        bytes.len() >= 8 && bytes.iter().all(u8::is_ascii_hexdigit) && !bytes.iter().all(u8::is_ascii_digit) && !both_cases
    };
    word.split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|part| !is_hexadecimal(part))
        .flat_map(|part| part.split(|letter: char| !letter.is_ascii_digit()))
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect()
}

/// Returns a word without its numbers and without names of days and months.
pub(super) fn frame_of(word: &str) -> String {
    let mut frame = String::new();
    let mut chars = word.char_indices().peekable();
    while let Some((at, letter)) = chars.next() {
        if letter.is_ascii_digit() {
            while chars.next_if(|(_, next)| next.is_ascii_digit()).is_some() {}
            frame.push('0');
        } else if word.get(at..at + 3).is_some_and(|part| DATE_NAMES.contains(&part)) {
            while chars.next_if(|(_, next)| next.is_ascii_alphabetic()).is_some() {}
            frame.push('N');
        } else {
            frame.push(letter);
        }
    }
    frame
}

/// True for a number, with other characters around it.
pub(super) fn is_number(word: &str) -> bool {
    let digits = word.trim_matches(|letter: char| !letter.is_ascii_digit());
    word.len() <= 20 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// True for a time of day.
pub(super) fn is_clock(word: &str) -> bool {
    let parts: Vec<&str> = word.split(':').collect();
    parts.len() >= 3 && parts[1..].iter().all(|part| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_digit()))
}

/// True for a temporary name.
pub(super) fn is_temporary(word: &str) -> bool {
    word.contains("/tmp/") || word.contains("tmp.") || word.starts_with("tmp")
}

/// True for an address of a program, its libraries or its stack on a 64-bit Linux, in hexadecimal digits.
pub(super) fn is_address(word: &str) -> bool {
    let digits = word.trim_start_matches("0x");
    digits.len() == 12
        && ["7f", "55", "56"].iter().any(|start| digits.starts_with(start))
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True for a word that may be random: a UUID, or six and more letters and digits that are no plain word.
pub(super) fn is_random(word: &str) -> bool {
    let letters: Vec<u8> = word.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let has = |test: fn(&u8) -> bool| letters.iter().any(test);
    letters.len() >= 6 && (has(u8::is_ascii_digit) || has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) || letters.len() > 24)
}
