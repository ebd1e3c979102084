//! git's system configuration with sorted keys.
//!
//! A program in Go, such as git-lfs, writes the keys of a map in random order. Each thread of Go has random numbers of its own, and the
//! kernel chooses the thread, so a seed does not help. git reads different keys of a section in any order.

use std::collections::BTreeMap;

/// The path of the file.
pub const PATH: &str = "etc/gitconfig";

/// Sorts the keys of each section; `None` if that may change the meaning, or if the file is not as simple as a program writes it.
pub fn sorted(text: &[u8]) -> Option<Vec<u8>> {
    let before = meaning(text)?;
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in std::str::from_utf8(text).ok()?.lines() {
        match sections.last_mut() {
            _ if line.starts_with('[') => sections.push((line, Vec::new())),
            Some((_, keys)) if line.starts_with('\t') => keys.push(line),
            _ => return None,
        }
    }
    let mut sorted = Vec::with_capacity(text.len());
    for (head, mut keys) in sections {
        keys.sort_by_key(|line| line.to_ascii_lowercase());
        for line in std::iter::once(head).chain(keys) {
            sorted.extend_from_slice(line.as_bytes());
            sorted.push(b'\n');
        }
    }
    (meaning(&sorted)? == before).then_some(sorted)
}

/// The values of a section by name, without an order.
type Section = (String, BTreeMap<String, Vec<u8>>);

/// Returns the sections of a file as git reads them; `None` if the order of keys counts: a key repeats, or other files are included.
fn meaning(text: &[u8]) -> Option<Vec<Section>> {
    let options = gix_config::file::init::Options::default();
    let file = gix_config::File::from_bytes_no_includes(text, gix_config::file::Metadata::api(), options).ok()?;
    let mut sections = Vec::new();
    for section in file.sections() {
        let head = section.header().to_bstring().to_string();
        if head.to_ascii_lowercase().starts_with("[include") {
            return None;
        }
        let mut values = BTreeMap::new();
        for name in section.body().value_names().map(|name| name.to_lowercase()) {
            let [value] = &section.body().values(&name)[..] else { return None };
            values.insert(name, value.to_vec());
        }
        sections.push((head, values));
    }
    Some(sections)
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
            ("[a]\n\tb = 1 \\\n\tc = 2\n", Some("[a]\n\tb = 1 \\\n\tc = 2\n")),
            ("[a]\n\tz = 1 \\\n\tc = 2\n", None),
            ("[a]\n# b\n\tc = 2\n", None),
            ("[a]\n\tc = \"2\n", None),
            ("[a]\n\tc = 1 [b]\n\ta = 2\n", Some("[a]\n\ta = 2\n\tc = 1 [b]\n")),
            ("[a]\n\n\tc = 2\n", None),
            ("[a]\n\tc\n", Some("[a]\n\tc\n")),
            ("[Include]\n\tpath = /x\n", None),
            ("[a]\n\tc = \u{e4}\n", Some("[a]\n\tc = \u{e4}\n")),
        ] {
            assert_eq!(sorted(text.as_bytes()), expect.map(|text| text.as_bytes().to_vec()), "{text}");
        }
        assert_eq!(sorted(b"[a]\n\tb = \xff\n"), None);
    }
}
