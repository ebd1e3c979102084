//! git's system configuration with sorted keys.
//!
//! A program in Go, such as git-lfs, writes the keys of a map in random order. Each thread of Go has random numbers of its own, and the
//! kernel chooses the thread, so a seed does not help. git reads different keys of a section in any order.

use std::collections::BTreeSet;

/// The path of the file.
pub const PATH: &str = "etc/gitconfig";

/// Sorts the keys of each section; `None` if the order may matter: if a key repeats, or a line is neither a section nor a simple key.
pub fn sorted(text: &[u8]) -> Option<Vec<u8>> {
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in std::str::from_utf8(text).ok()?.lines() {
        match sections.last_mut() {
            _ if line.starts_with('[') && line.ends_with(']') => sections.push((line, Vec::new())),
            Some((_, keys)) if is_simple(line) => keys.push(line),
            _ => return None,
        }
    }
    let mut lines = Vec::new();
    for (head, mut keys) in sections {
        let names: BTreeSet<String> = keys.iter().map(|line| name(line)).collect();
        // An included file may set keys of any section.
        if names.len() != keys.len() || head.to_ascii_lowercase().starts_with("[include") {
            return None;
        }
        keys.sort_by_key(|line| name(line));
        lines.push(head);
        lines.extend(keys);
    }
    Some(lines.iter().flat_map(|line| [line.as_bytes(), b"\n"]).flatten().copied().collect())
}

/// True for a key and its value on one line, without a comment.
fn is_simple(line: &str) -> bool {
    line.starts_with('\t') && line.contains(" = ") && !line.ends_with('\\') && !line.contains(['#', ';'])
}

/// Returns the name of a key, which has no upper and lower case.
fn name(line: &str) -> String {
    line.split('=').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_if_their_order_does_not_matter() {
        for (text, expect) in [
            ("", Some("")),
            ("[a]\n\tz = 1\n\tB = 2 = 3\n[a]\n\tc = 1\n", Some("[a]\n\tB = 2 = 3\n\tz = 1\n[a]\n\tc = 1\n")),
            (
                "[filter \"lfs\"]\n\trequired = true\n\tclean = git-lfs clean -- %f\n",
                Some("[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\trequired = true\n"),
            ),
            ("\ta = 1\n", None),
            ("[a]\n\tb = 1\n\tB = 2\n", None),
            ("[a]\n\tb = 1 \\\n\tc = 2\n", None),
            ("[a]\n# b\n\tc = 2\n", None),
            ("[a]\n\n\tc = 2\n", None),
            ("[a]\n\tc\n", None),
            ("[Include]\n\tpath = /x\n", None),
            ("[a]\n\tc = \u{e4}\n", Some("[a]\n\tc = \u{e4}\n")),
        ] {
            assert_eq!(sorted(text.as_bytes()), expect.map(|text| text.as_bytes().to_vec()), "{text}");
        }
        assert_eq!(sorted(b"[a]\n\tb = \xff\n"), None);
    }
}
