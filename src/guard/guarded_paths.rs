//! The list of files that host programs act on: data, with a source for each line.
//!
//! The file is TOML, and all lines have the same shape. Every run reads it, so it is split at its quotes, which takes 1% of a parser's
//! time; a test compares the two.

/// The list.
const TEXT: &str = include_str!("obeyed.toml");

/// Action for a listed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuardAction {
    /// Make it read-only inside, and report every change.
    Guard,
    /// Report every change.
    Report,
}

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Path in the project; `*` matches any part of one name.
    pub pattern: &'static str,
    /// Action for the file.
    pub act: GuardAction,
    /// Program that acts on it.
    pub of: &'static str,
    /// Source: a page of the program's documentation.
    pub page: &'static str,
}

/// Returns the lines.
pub fn lines() -> impl Iterator<Item = Line> {
    // All other lines are comments; a test checks that.
    TEXT.lines().filter_map(line)
}

/// Splits `"<pattern>" = { act = "<act>", of = "<program>", page = "<page>" }`.
fn line(text: &'static str) -> Option<Line> {
    let mut parts = text.strip_prefix('"')?.split('"').step_by(2);
    let (pattern, act, of, page) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let act = match act {
        "guard" => GuardAction::Guard,
        "report" => GuardAction::Report,
        _ => return None,
    };
    Some(Line { pattern, act, of, page })
}

/// True if a name matches a pattern of one component.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return pattern == name };
    let (head, rest) = (&pattern[..star], &pattern[star + 1..]);
    let Some(left) = name.strip_prefix(head) else { return false };
    (0..=left.len()).any(|skip| fits(rest, &left[skip..]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Component, Path};

    use super::*;

    #[test]
    fn every_line_has_a_program_and_a_page_that_says_so() {
        let lines: Vec<Line> = lines().collect();
        assert!(lines.len() > 250, "{}", lines.len());
        for line in lines {
            let path = line.pattern;
            assert!(!line.of.is_empty() && !line.page.is_empty() && !line.page.contains("://"), "{path}: {line:?}");
            let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            assert!(is_plain && !path.ends_with('/'), "{path} is no path in a project");
            assert!(path.split('/').all(|part| part.matches('*').count() <= 2), "{path} has too many stars");
        }
    }

    #[test]
    fn the_list_is_read_as_a_parser_of_toml_reads_it() {
        let parsed: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(TEXT).expect("the list is TOML");
        let of = |line: Line| {
            let act = if line.act == GuardAction::Guard { "guard" } else { "report" };
            let fields = [("act", act), ("of", line.of), ("page", line.page)];
            (line.pattern.to_owned(), fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        assert_eq!(lines().map(of).collect::<BTreeMap<_, BTreeMap<_, _>>>(), parsed);
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
