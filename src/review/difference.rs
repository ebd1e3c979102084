//! Differences of texts, as unified diffs. Binary and large files have a line with their sizes instead.

use std::path::Path;
use std::time::Duration;

use similar::{Algorithm, TextDiff};

use silo_base::units;
use silo_guard::git::dir_fd::{Dir, Kind};

use crate::changes::{Change, Entry, What};
use crate::lookalike;
use crate::view::View;

/// Maximum size of a compared file.
const MAX_BYTES: u64 = 1 << 20;
/// Maximum number of lines of one difference.
const MAX_LINES: usize = 2_000;
/// Time for one comparison; afterwards the difference is correct, but longer than necessary.
const MOST: Duration = Duration::from_millis(500);

/// Maximum size of all files that one command compares: a layer can have many links to one file.
const MAX_ALL_BYTES: u64 = 64 << 20;

/// Compares the files of one command, within a budget.
#[derive(Debug)]
pub struct Comparison {
    /// Bytes that may still be read.
    left: u64,
}

impl Default for Comparison {
    fn default() -> Comparison {
        Comparison { left: MAX_ALL_BYTES }
    }
}

impl Comparison {
    /// Returns the difference of one change, one escaped line each.
    pub fn lines(&mut self, view: &View, change: &Change) -> Vec<String> {
        let is_text = |entry: &&Entry| entry.kind == Kind::File && entry.size <= MAX_BYTES;
        let size: u64 = [&change.before, &change.after].into_iter().flatten().filter(is_text).map(|entry| entry.size).sum();
        match self.left.checked_sub(size) {
            Some(left) => {
                self.left = left;
                lines(view, change)
            }
            None => vec![format!(
                "{}: not compared, because the files before it are large; name its path to compare it",
                lookalike::name(&change.path)
            )],
        }
    }
}

/// Returns the difference of one change, one escaped line each.
fn lines(view: &View, change: &Change) -> Vec<String> {
    let mut lines = Vec::new();
    let path = lookalike::name(&change.path);
    if change.what == What::Mode {
        return vec![format!("permissions of {path}: {} -> {}", mode(change.before.as_ref()), mode(change.after.as_ref()))];
    }
    let (before, after) =
        (side(&view.project, &change.path, change.before.as_ref()), side(&view.upper, &change.path, change.after.as_ref()));
    match (before, after) {
        (Side::Text(before), Side::Text(after)) => {
            lines.push(if change.before.is_some() { format!("--- {path}") } else { "--- /dev/null".to_owned() });
            lines.push(if change.after.is_some() { format!("+++ {path}") } else { "+++ /dev/null".to_owned() });
            lines.extend(unified(&before, &after));
        }
        (before, after) => lines.push(format!("{path}: {} -> {}", before.word(), after.word())),
    }
    let (old, new) = (change.before.as_ref(), change.after.as_ref());
    if let (Some(old), Some(new)) = (old, new)
        && old.kind == Kind::File
        && new.kind == Kind::File
        && old.mode != new.mode
    {
        lines.push(format!("permissions of {path}: {} -> {}", mode(Some(old)), mode(Some(new))));
    }
    lines
}

/// One side of a difference.
enum Side {
    Text(String),
    Other(String),
}

impl Side {
    fn word(&self) -> String {
        match self {
            Side::Text(text) if text.is_empty() => "nothing".to_owned(),
            Side::Text(text) => format!("text of {}", units::size(text.len() as u64)),
            Side::Other(word) => word.clone(),
        }
    }
}

fn side(dir: &Dir, path: &Path, entry: Option<&Entry>) -> Side {
    let Some(entry) = entry else { return Side::Text(String::new()) };
    match entry.kind {
        Kind::File if entry.size <= MAX_BYTES => match dir.read(path, MAX_BYTES) {
            Ok(Some(bytes)) => match String::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => Side::Text(text),
                _ => Side::Other(format!("binary file of {}", units::size(entry.size))),
            },
            _ => Side::Other("file that cannot be read".to_owned()),
        },
        Kind::File => Side::Other(format!("file of {}", units::size(entry.size))),
        Kind::Dir => Side::Other("directory".to_owned()),
        Kind::Link => Side::Other(format!("link to {}", entry.target.as_deref().map_or_else(String::new, lookalike::name))),
        Kind::Socket => Side::Other("socket".to_owned()),
        Kind::Whiteout | Kind::Other => Side::Other("pipe or device".to_owned()),
    }
}

fn mode(entry: Option<&Entry>) -> String {
    entry.map_or_else(String::new, |entry| format!("{:o}", entry.mode))
}

/// Returns the hunks of two texts.
pub fn unified(before: &str, after: &str) -> Vec<String> {
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(MOST).diff_lines(before, after);
    let mut lines: Vec<String> = Vec::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        lines.push(hunk.header().to_string());
        for change in hunk.iter_changes() {
            if lines.len() >= MAX_LINES {
                lines.push("… the rest is not shown".to_owned());
                return lines;
            }
            let text = change.value().trim_end_matches('\n');
            lines.push(format!("{}{}", change.tag(), lookalike::line(text)));
            if change.missing_newline() {
                lines.push("\\ No newline at end of file".to_owned());
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use silo_base::sanitize;

    use super::*;

    #[test]
    fn a_difference_shows_hidden_letters_as_numbers() {
        let lines = unified("a\nb\nc\n", "a\nx\u{202e}\x1b[2J\nc");
        assert_eq!(lines[0], "@@ -1,3 +1,3 @@");
        assert!(lines.contains(&"-b".to_owned()) && lines.contains(&"\\ No newline at end of file".to_owned()), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().all(sanitize::is_plain)), "{lines:?}");
        let long: String = (0..100_000).map(|number| format!("{number}\n")).collect();
        assert!(unified("", &long).len() <= MAX_LINES + 1);
    }

    #[test]
    fn the_files_of_one_command_are_compared_within_a_budget() {
        let place = tempfile::tempdir().expect("a directory");
        let project = place.path().join("project");
        std::fs::create_dir(&project).expect("made");
        let session = crate::session::Session::begin(&place.path().join("reviews"), &project, "sh").expect("begun");
        let upper = session.upper();
        std::fs::write(upper.join("a"), "text\n").expect("written");
        for name in ["b", "c"] {
            std::fs::hard_link(upper.join("a"), upper.join(name)).expect("linked");
        }
        let view = View::open(session).expect("opened");
        let mut comparison = Comparison { left: 10 };
        let lines: Vec<Vec<String>> = view.changes().expect("listed").iter().map(|change| comparison.lines(&view, change)).collect();
        let is_compared: Vec<bool> = lines.iter().map(|lines| lines.contains(&"+text".to_owned())).collect();
        assert_eq!(is_compared, [true, true, false]);
        assert!(lines[2].len() == 1 && lines[2][0].starts_with("c: not compared"), "{lines:?}");
    }
}
