//! Watches guarded files during a run, so that a file that is changed and changed back is reported too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::difference::{self, Difference};
use super::error::Error;
use super::guards::Guards;
use super::scan::{ScanOptions, scan_since};

/// The state at the start, and all differences so far.
#[derive(Debug)]
pub struct Watch {
    project: PathBuf,
    start: Guards,
    last: Guards,
    seen: BTreeMap<PathBuf, Difference>,
}

impl Watch {
    /// Starts with the scan from the start of the run.
    pub fn new(project: &Path, start: Guards) -> Watch {
        Watch { project: project.to_owned(), last: start.clone(), start, seen: BTreeMap::new() }
    }

    /// Scans again, without reading files that are unchanged according to the kernel.
    pub fn tick(&mut self, asked: &ScanOptions<'_>) -> Result<(), Error> {
        self.last = scan_since(&self.project, asked, Some(&self.last))?;
        self.note();
        Ok(())
    }

    /// Does a last, complete scan. Returns every difference ever seen, and an error if the scan was incomplete.
    pub fn finish(mut self, asked: &ScanOptions<'_>) -> (BTreeMap<PathBuf, Difference>, Option<Error>) {
        let failed = match scan_since(&self.project, asked, None) {
            Ok(last) => {
                self.last = last;
                None
            }
            Err(error) => {
                // A program can create any number of files in subdirectories; this must not hide changes in the top directory.
                let known: Vec<_> = asked.nested.iter().filter(|(path, _)| self.start.prints.contains_key(path)).cloned().collect();
                if let Ok(last) = scan_since(&self.project, &ScanOptions { nested: &known, ..asked.clone() }, None) {
                    self.last = last;
                }
                Some(error)
            }
        };
        self.note();
        (self.seen, failed)
    }

    fn note(&mut self) {
        for (path, difference) in difference::differences(&self.start, &self.last) {
            match self.seen.get_mut(&path) {
                // Report the greater change.
                Some(known) if known.change >= difference.change => {}
                Some(known) => *known = difference,
                None => drop(self.seen.insert(path, difference)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::difference::{Change, lines};
    use super::super::{MAX_GUARDED, scan_project};
    use super::*;

    fn scan_options<'a>(named: &'a [(PathBuf, String)], excluded: &'a [PathBuf]) -> ScanOptions<'a> {
        ScanOptions { recipes: Some("recipes"), named, nested: &[], excluded, most: MAX_GUARDED }
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("not the root")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn every_difference_is_found_also_one_that_is_undone() {
        let place = tempfile::tempdir().expect("a directory");
        let project = fs::canonicalize(place.path()).expect("there");
        for name in [".envrc", "silo.toml", ".vscode/tasks.json", ".mcp.json", ".gdbinit", "AGENTS.md", "out/x.vimrc"] {
            write(&project.join(name), "before");
        }
        let (named, excluded) = ([(PathBuf::from("tools/hook"), "git's core.hooksPath".to_owned())], [PathBuf::from(".claude")]);
        let asked = scan_options(&named, &excluded);
        let start = scan_project(&project, &asked).expect("looked");
        assert_eq!(start.read_only(), [".envrc", ".gdbinit", ".mcp.json", ".vscode", "silo.toml"].map(Path::new));
        let mut watch = Watch::new(&project, start);
        watch.tick(&asked).expect("looked");
        assert!(watch.seen.is_empty());
        // Changed and changed back between two scans; and replaced by a rename, with the same content.
        write(&project.join(".envrc"), "evil");
        watch.tick(&asked).expect("looked");
        write(&project.join(".envrc"), "before");
        write(&project.join("new"), "before");
        fs::rename(project.join("new"), project.join("silo.toml")).expect("renamed");
        fs::remove_file(project.join(".gdbinit")).expect("there");
        write(&project.join("AGENTS.md"), "after");
        write(&project.join(".vscode/settings.json"), "x");
        write(&project.join(".cursor/mcp.json"), "x");
        write(&project.join("x.code-workspace"), "x");
        write(&project.join(".claude/settings.json"), "of the sandbox's own");
        write(&project.join("tools/hook"), "x");
        write(&project.join("recipes/a.toml"), "x");
        let (found, failed) = watch.finish(&asked);
        assert!(failed.is_none(), "{failed:?}");
        assert_eq!(
            lines(&found),
            [
                ".cursor (new; Cursor)",
                ".envrc (changed; direnv)",
                ".gdbinit (gone; GDB)",
                ".vscode/settings.json (new; Visual Studio Code)",
                "AGENTS.md (changed; coding agents)",
                "recipes (new; Silo)",
                "silo.toml (replaced, with the same content; Silo)",
                "tools/hook (new; git's core.hooksPath)",
                "x.code-workspace (new; Visual Studio Code)",
            ]
        );
        assert_eq!(found[Path::new(".envrc")].change, Change::Changed);
    }

    #[test]
    fn a_directory_of_nothing_else_is_guarded_as_a_whole_and_links_guard_their_targets() {
        let place = tempfile::tempdir().expect("a directory");
        let project = fs::canonicalize(place.path()).expect("there");
        write(&project.join(".cargo/config.toml"), "");
        write(&project.join(".config/mise.toml"), "");
        write(&project.join(".config/other"), "");
        write(&project.join("conf/vscode/tasks.json"), "");
        write(&project.join("tools/tasks.json"), "");
        symlink(project.join("conf/vscode"), project.join(".vscode")).expect("made");
        symlink("../../tools/tasks.json", project.join("conf/vscode/more.json")).expect("made");
        let guards = scan_project(&project, &scan_options(&[], &[])).expect("looked");
        let expect = [".cargo", ".config/mise.toml", ".vscode", "conf/vscode", "tools/tasks.json"];
        assert_eq!(guards.read_only(), expect.map(Path::new));
        // A symlink with another target is another symlink.
        fs::remove_file(project.join(".vscode")).expect("there");
        symlink("other", project.join(".vscode")).expect("made");
        let later = scan_project(&project, &scan_options(&[], &[])).expect("looked");
        assert!(lines(&difference::differences(&guards, &later)).contains(&".vscode (changed; Visual Studio Code)".to_owned()));
    }

    #[test]
    fn what_is_obeyed_in_directories_is_compared_and_counted_and_not_read_only() {
        let place = tempfile::tempdir().expect("a directory");
        let project = fs::canonicalize(place.path()).expect("there");
        write(&project.join("a/.envrc"), "before");
        write(&project.join("a/.vscode/tasks.json"), "before");
        let nested = [("a/.envrc", "direnv"), ("a/.vscode", "an editor"), ("b/.envrc", "direnv")]
            .map(|(path, of)| (PathBuf::from(path), of.to_owned()));
        let asked = ScanOptions { nested: &nested, ..scan_options(&[], &[]) };
        let start = scan_project(&project, &asked).expect("looked");
        assert!(start.read_only().is_empty() && start.prints.len() == 3);
        assert!(matches!(scan_project(&project, &ScanOptions { most: 2, ..asked.clone() }), Err(Error::TooMany { most: 2 })));
        let before = start.clone();
        let watch = Watch::new(&project, start);
        fs::remove_file(project.join("a/.envrc")).expect("there");
        write(&project.join("a/.vscode/tasks.json"), "after");
        write(&project.join("b/.envrc"), "new");
        // Too many other files do not hide these.
        let flood: Vec<_> =
            nested.iter().cloned().chain((0..9).map(|number| (PathBuf::from(format!("c/{number}")), "x".to_owned()))).collect();
        (0..9).for_each(|number| write(&project.join(format!("c/{number}")), "x"));
        let (found, failed) = watch.finish(&ScanOptions { nested: &flood, most: 8, ..asked.clone() });
        assert!(matches!(failed, Some(Error::TooMany { most: 8 })));
        assert_eq!(lines(&found), ["a/.envrc (gone; direnv)", "a/.vscode/tasks.json (changed; an editor)"]);
        let watch = Watch::new(&project, before);
        let (found, failed) = watch.finish(&asked);
        assert!(failed.is_none(), "{failed:?}");
        assert_eq!(lines(&found), ["a/.envrc (gone; direnv)", "a/.vscode/tasks.json (changed; an editor)", "b/.envrc (new; direnv)"]);
        let guarded = ScanOptions { named: &nested[..1], nested: &nested, ..asked.clone() };
        write(&project.join("a/.envrc"), "x");
        assert_eq!(scan_project(&project, &guarded).expect("looked").read_only(), [Path::new("a/.envrc")], "the stricter one counts");
    }

    #[test]
    fn a_project_with_too_much_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        for number in 0..8 {
            write(&place.path().join(format!(".idea/{number}")), "");
        }
        for most in [1, 3, 8] {
            let asked = ScanOptions { most, ..scan_options(&[], &[]) };
            assert!(matches!(scan_project(place.path(), &asked), Err(Error::TooMany { .. })), "{most}");
        }
        let asked = ScanOptions { most: 8, ..scan_options(&[], &[]) };
        assert!(matches!(scan_project(place.path(), &asked), Err(Error::TooMany { most: 8 })));
        let asked = ScanOptions { most: 9, ..asked };
        assert!(scan_project(place.path(), &asked).is_ok());
    }
}
