//! The list of files that programs of the host obey: data, with a source for each line.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// The list itself.
const TEXT: &str = include_str!("obeyed.toml");

/// What Silo does about a file that is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Makes it read-only inside, and reports every change.
    Guard,
    /// Reports every change.
    Report,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What is done about the file.
    pub act: Act,
    /// The program that obeys it.
    pub of: String,
    /// The page of the program's documentation that says so.
    pub page: String,
}

/// Returns the lines, each by its pattern: a path in the project, in which `*` is any part of one name.
pub fn lines() -> &'static BTreeMap<String, Line> {
    static LINES: OnceLock<BTreeMap<String, Line>> = OnceLock::new();
    // The list is part of the program; a test reads it.
    LINES.get_or_init(|| toml::from_str(TEXT).unwrap_or_default())
}

/// Says whether a name fits a pattern of one component.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return pattern == name };
    let (head, rest) = (&pattern[..star], &pattern[star + 1..]);
    let Some(left) = name.strip_prefix(head) else { return false };
    (0..=left.len()).any(|skip| fits(rest, &left[skip..]))
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use super::*;

    #[test]
    fn every_line_has_a_program_and_a_page_that_says_so() {
        let lines: BTreeMap<String, Line> = toml::from_str(TEXT).expect("the list can be read");
        assert!(lines.len() > 250, "{}", lines.len());
        for (path, line) in &lines {
            assert!(!line.of.is_empty() && !line.page.is_empty() && !line.page.contains("://"), "{path}: {line:?}");
            let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(is_plain && !path.ends_with('/'), "{path} is no path in a project");
            assert!(path.split('/').all(|part| part.matches('*').count() <= 2), "{path} has too many stars");
        }
    }

    #[test]
    fn a_star_is_any_part_of_one_name() {
        for (pattern, name, expect) in [
            (".envrc", ".envrc", true),
            (".envrc", ".envrc2", false),
            ("*.code-workspace", "x.code-workspace", true),
            ("*.code-workspace", ".code-workspace", true),
            ("*.code-workspace", "x.code", false),
            ("jupyter_*_config.*", "jupyter_server_config.py", true),
            ("jupyter_*_config.*", "jupyter_config.py", false),
            (".dir-locals*.el", ".dir-locals-2.el", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expect, "{pattern} {name}");
        }
    }
}
