//! Matches paths with patterns of names, in any directory.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use silo_guard::guarded_paths;

/// A pattern, name by name.
type Pattern = Vec<Vec<u8>>;

/// Patterns by their first name. Names are compared without regard to case, because some file systems do the same.
pub struct Names<T> {
    whole: HashMap<Vec<u8>, Vec<(Pattern, T)>>,
    starred: Vec<(Pattern, T)>,
}

impl<T: Clone> Names<T> {
    /// Indexes patterns such as `.github/workflows` or `*.mk`.
    pub fn new<'a>(patterns: impl Iterator<Item = (&'a str, T)>) -> Names<T> {
        let mut names = Names { whole: HashMap::new(), starred: Vec::new() };
        for (pattern, value) in patterns {
            let parts: Vec<Vec<u8>> = pattern.split('/').map(|part| part.to_ascii_lowercase().into_bytes()).collect();
            match parts.first() {
                Some(first) if !first.contains(&b'*') => names.whole.entry(first.clone()).or_default().push((parts, value)),
                _ => names.starred.push((parts, value)),
            }
        }
        names
    }

    /// Finds the pattern of a path, or of a directory around it.
    pub fn find(&self, path: &Path) -> Option<T> {
        let parts: Vec<Vec<u8>> = path.iter().map(|part| part.as_bytes().to_ascii_lowercase()).collect();
        (0..parts.len()).find_map(|start| {
            let exact = self.whole.get(&parts[start]).into_iter().flatten();
            exact.chain(&self.starred).find(|(pattern, _)| fits(pattern, &parts[start..])).map(|(_, value)| value.clone())
        })
    }
}

fn fits(pattern: &[Vec<u8>], parts: &[Vec<u8>]) -> bool {
    pattern.len() <= parts.len() && pattern.iter().zip(parts).all(|(pattern, part)| guarded_paths::fits(pattern, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_paths_in_any_directory_and_below_it() {
        let names = Names::new([("a/b*", 1), ("*.mk", 2), (".x", 3)].into_iter());
        for (path, expect) in [
            ("a/b", Some(1)),
            ("z/A/Bcd/e/f", Some(1)),
            ("a/c", None),
            ("a", None),
            ("deep/rules.MK", Some(2)),
            (".x/y", Some(3)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(names.find(Path::new(path)), expect, "{path}");
        }
    }
}
