//! Listed files in subdirectories of a project: they act when a user enters or opens the subdirectory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::guarded_paths::{self, Line};
use super::scan::{lowered, matching};
use crate::git::dir_fd::Dir;

/// First part of each pattern in lower case, with its line.
type Firsts = Vec<(Vec<u8>, Line)>;

/// Index of the list by name: there are tens of thousands of names and hundreds of lines.
pub struct Table {
    /// Lines with a complete first name, by that name in lower case.
    whole: HashMap<Vec<u8>, Vec<Line>>,
    /// Lines with a star in the first name, by its first byte.
    starred: HashMap<u8, Firsts>,
}

impl Table {
    /// Builds the index.
    pub fn new() -> Table {
        let mut table = Table { whole: HashMap::new(), starred: HashMap::new() };
        for line in guarded_paths::lines() {
            let first = line.pattern.split('/').next().unwrap_or_default().to_ascii_lowercase().into_bytes();
            match first.first() {
                Some(byte) if first.contains(&b'*') => table.starred.entry(*byte).or_default().push((first, line)),
                _ => table.whole.entry(first).or_default().push(line),
            }
        }
        table
    }

    /// Finds the listed paths in a directory, each with the program that acts on it.
    pub fn find(&self, dir: &Dir, names: &[OsString]) -> Vec<(PathBuf, &'static str)> {
        let mut found = Vec::new();
        for name in names {
            for line in self.of(&name.as_bytes().to_ascii_lowercase()) {
                match line.pattern.split_once('/') {
                    None => found.push((PathBuf::from(name), line.of)),
                    Some((_, rest)) => found.extend(below(dir, Path::new(name), rest).into_iter().map(|path| (path, line.of))),
                }
            }
        }
        found
    }

    /// Returns the lines with a pattern that begins with a lower-case name.
    fn of(&self, lower: &[u8]) -> impl Iterator<Item = &Line> {
        let beginning = lower.first().into_iter().chain([&b'*']).filter_map(|byte| self.starred.get(byte)).flatten();
        let starred = beginning.filter(|(first, _)| guarded_paths::fits(first, lower)).map(|(_, line)| line);
        self.whole.get(lower).into_iter().flatten().chain(starred)
    }
}

fn below(dir: &Dir, name: &Path, pattern: &str) -> Vec<PathBuf> {
    let Ok(inner) = dir.dir(name) else { return Vec::new() };
    let names = lowered(inner.list(usize::MAX).unwrap_or_default());
    matching(&inner, &names, pattern).into_iter().map(|path| name.join(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_lines_that_a_search_of_the_whole_list_finds() {
        let table = Table::new();
        let names = guarded_paths::lines().flat_map(|line| line.pattern.split('/').next().map(|first| first.replace('*', "x")));
        for name in names.chain(["x.code-workspace", "README.md", ".ENVRC", "", "x"].map(str::to_owned)) {
            let lower = name.to_ascii_lowercase();
            let first = |line: &Line| line.pattern.split('/').next().unwrap_or_default().to_ascii_lowercase();
            let mut expect: Vec<&str> = guarded_paths::lines()
                .filter(|line| guarded_paths::fits(first(line).as_bytes(), lower.as_bytes()))
                .map(|line| line.pattern)
                .collect();
            let mut found: Vec<&str> = table.of(lower.as_bytes()).map(|line| line.pattern).collect();
            expect.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expect, "{name}");
        }
    }
}
