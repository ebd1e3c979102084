//! Names of package ecosystems, as in `@pypi`.

use std::fmt;

/// The longest name; it becomes a file name.
const MAX_NAME_BYTES: usize = 64;

/// A package ecosystem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ecosystem(String);

impl Ecosystem {
    /// Parses the name with its `@`.
    pub fn parse(text: &str) -> Option<Ecosystem> {
        text.strip_prefix('@').filter(|name| is_name(name)).map(|_| Ecosystem(text.to_owned()))
    }

    /// Returns the name without its `@`.
    pub fn name(&self) -> &str {
        self.0.trim_start_matches('@')
    }

    /// Returns the name with its `@`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ecosystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns true if the text can be the name of an ecosystem or a tool: a file name, and a word on the command line.
pub fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= MAX_NAME_BYTES && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_plain)
}
