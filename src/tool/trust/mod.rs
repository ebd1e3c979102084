//! Decides whether a project's files count. Rights that they give are approved line by line; files that a sandbox may have written are
//! approved by their content.
//!
//! Before a sandbox starts that can write a project, the digests of its `silo.toml`, `silo.lock` and recipes are recorded in the home, with
//! a mark that it runs. Files with other digests do not count until they are approved, if
//!
//! * a sandbox can write the directory, or a parent directory, or
//! * silo was killed while its sandbox ran, or
//! * the files were different when the sandbox ended.
//!
//! If no sandbox could write the directory since the files were compared, a change is the user's own.

mod error;

pub mod record;
pub mod runs;

pub mod exposure;

pub mod render;

mod approvals;
mod verdict;

mod own_writes;
mod run;

pub mod worktree;

pub use approvals::{Revoked, approve, approved, approved_for, revoke, withdraw};
pub use error::Error;
pub use own_writes::{announce_change, approve_change, commit, given_by_change, wrote};
pub use run::{RunRecord, begin_run, came_inside, remember};
pub use verdict::{Verdict, approve_files, changes, judge, lost_between};

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use silo_base::home::Home;
    use silo_model::config::Settings;
    use silo_model::config::project::ProjectFiles;

    use super::exposure::{Exposures, of_settings};
    use super::*;

    /// A home, and a project in an outer directory.
    struct Ground {
        _place: tempfile::TempDir,
        home: Home,
        outer: PathBuf,
        project: PathBuf,
    }

    fn ground() -> Ground {
        let place = tempfile::tempdir().expect("a directory");
        let path = fs::canonicalize(place.path()).expect("there");
        let (outer, project) = (path.join("outer"), path.join("outer/project"));
        fs::create_dir_all(&project).expect("made");
        Ground { home: Home::new(path.join("home")), _place: place, outer, project }
    }

    impl Ground {
        fn files(&self) -> ProjectFiles {
            ProjectFiles::read(&self.project).expect("read")
        }

        fn write(&self, text: &str) {
            fs::write(self.project.join("silo.toml"), text).expect("written");
        }

        fn asks(&self) -> Vec<String> {
            match judge(&self.home, &self.files()).expect("judged") {
                Verdict::Counts => Vec::new(),
                Verdict::Asks(lines) => lines,
            }
        }

        fn begin(&self, shown: &Path) -> RunRecord {
            begin_run(&self.home, &ProjectFiles::read(shown).expect("read"), shown).expect("begun")
        }
    }

    /// Leaves a run as a killed silo does.
    fn killed(mut run: RunRecord) {
        drop(run.running.take());
    }

    #[test]
    fn files_that_were_there_before_any_sandbox_count() {
        let ground = ground();
        ground.write("tools = [\"a\"]");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.begin(&ground.project).finish().expect("ended");
        ground.write("tools = [\"b\"]");
        assert_eq!(ground.asks(), Vec::<String>::new(), "no sandbox ran: the user edited it");
        assert_eq!(changes(&ground.home, &ground.files()).expect("read").len(), 1);
    }

    #[test]
    fn a_file_made_while_a_sandbox_runs_counts_for_nothing_until_it_is_approved() {
        let ground = ground();
        let (one, two) = (ground.begin(&ground.project), ground.begin(&ground.project));
        ground.write("[overrides.box]\nenv = { X = \"1\" }\n");
        let expect = ["silo.toml is new: overrides.box.env.X = \"1\""];
        assert_eq!(ground.asks(), expect);
        one.finish().expect("ended");
        assert_eq!(ground.asks(), expect, "another sandbox runs");
        two.finish().expect("ended");
        assert_eq!(ground.asks(), expect, "the file is from the time of the runs");
        // A run without an approval changes nothing.
        ground.begin(&ground.project).finish().expect("ended");
        assert_eq!(ground.asks(), expect);
        approve_files(&ground.home, &ground.files()).expect("approved");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.write("tools = [\"mine\"]");
        assert_eq!(ground.asks(), Vec::<String>::new(), "a later edit is the user's own");
    }

    #[test]
    fn a_file_changed_before_silo_was_killed_counts_for_nothing() {
        let ground = ground();
        ground.write("tools = [\"a\"]\n[network]\ndeny = [\"x\"]");
        killed(ground.begin(&ground.project));
        assert_eq!(ground.asks(), Vec::<String>::new(), "unchanged");
        ground.write("tools = [\"b\"]");
        assert_eq!(ground.asks(), ["silo.toml was changed: tools = [\"b\"] instead of [\"a\"]; no network.deny"]);
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        assert_eq!(ground.asks(), ["silo.toml is gone: no network.deny; no tools"], "its denials are lost, too");
        ground.write("tools = [\"a\"]\n[network]\ndeny = [\"x\"]");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.begin(&ground.project).finish().expect("ended");
        ground.write("tools = [\"c\"]");
        assert_eq!(ground.asks(), Vec::<String>::new(), "the next run closed the mark");
    }

    #[test]
    fn a_sandbox_of_a_directory_above_can_have_written_it() {
        let ground = ground();
        ground.write("tools = [\"a\"]");
        ground.begin(&ground.project).finish().expect("ended");
        let outer = ground.begin(&ground.outer);
        assert_eq!(ground.asks(), Vec::<String>::new(), "unchanged");
        ground.write("tools = [\"b\"]");
        assert_eq!(ground.asks().len(), 1);
        outer.finish().expect("ended");
        assert_eq!(ground.asks().len(), 1, "the file is from the time of that run");
        approve_files(&ground.home, &ground.files()).expect("approved");
        ground.write("tools = [\"c\"]");
        assert_eq!(ground.asks(), Vec::<String>::new());
        // A directory that was never used before could have been made by the sandbox of the parent directory.
        let inner = ground.project.join("inner");
        fs::create_dir(&inner).expect("made");
        fs::write(inner.join("silo.toml"), "").expect("written");
        assert_eq!(
            judge(&ground.home, &ProjectFiles::read(&inner).expect("read")).expect("judged"),
            Verdict::Asks(vec!["silo.toml is new".into()])
        );
        // A moved directory keeps its identity.
        let moved = ground.outer.with_file_name("moved");
        fs::rename(&ground.outer, &moved).expect("moved");
        let inner = moved.join("project/inner");
        assert!(matches!(judge(&ground.home, &ProjectFiles::read(&inner).expect("read")).expect("judged"), Verdict::Asks(_)));
    }

    #[test]
    fn links_lead_to_a_file_by_other_names() {
        let ground = ground();
        let below = ground.project.join("below");
        fs::create_dir(&below).expect("made");
        fs::write(below.join("real"), "tools = []").expect("written");
        std::os::unix::fs::symlink("below/real", ground.project.join("silo.toml")).expect("linked");
        ground.begin(&ground.project).finish().expect("ended");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.begin(&below).finish().expect("ended");
        fs::write(below.join("real"), "tools = [\"a\"]").expect("written");
        assert_eq!(ground.asks().len(), 1, "a sandbox could write the target of the symlink");
        approve_files(&ground.home, &ground.files()).expect("approved");
        // A hard link to the file itself.
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        ground.write("tools = [\"a\"]");
        fs::hard_link(ground.project.join("silo.toml"), ground.outer.join("other")).expect("linked");
        ground.begin(&ground.project).finish().expect("ended");
        fs::write(ground.outer.join("other"), "tools = [\"b\"]").expect("written");
        assert_eq!(ground.asks().len(), 1, "a sandbox may have written through the hard link");
    }

    #[test]
    fn a_directory_that_is_moved_while_it_is_written_stays_open() {
        let ground = ground();
        let run = ground.begin(&ground.project);
        let moved = ground.outer.with_file_name("moved");
        fs::rename(&ground.project, &moved).expect("moved");
        fs::create_dir(&ground.project).expect("made");
        fs::write(moved.join("silo.toml"), "").expect("written");
        run.finish().expect("ended");
        let files = ProjectFiles::read(&moved).expect("read");
        assert!(matches!(judge(&ground.home, &files).expect("judged"), Verdict::Asks(_)));
    }

    #[test]
    fn settings_that_a_sandbox_removed_do_not_let_those_above_count() {
        let ground = ground();
        ground.write("tools = []");
        let deep = ground.project.join("deep");
        fs::create_dir(&deep).expect("made");
        ground.begin(&ground.project).finish().expect("ended");
        let run = ground.begin(&ground.project);
        assert_eq!(lost_between(&ground.home, &deep, &ground.outer).expect("read"), None);
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        run.finish().expect("ended");
        let lost = lost_between(&ground.home, &deep, &ground.outer).expect("read").expect("it is gone");
        assert_eq!(lost.root(), ground.project);
        approve_files(&ground.home, &lost).expect("approved");
        assert_eq!(lost_between(&ground.home, &deep, &ground.outer).expect("read"), None);
    }

    #[test]
    fn silos_own_changes_of_files_that_count_count() {
        let ground = ground();
        let user = Settings::default();
        let run = ground.begin(&ground.project);
        ground.write("tools = [\"a\"]\n");
        approve_change(&ground.home, &ground.project, &user, "", "tools = [\"a\"]\n").expect("recorded");
        assert_eq!(ground.asks(), Vec::<String>::new());
        run.finish().expect("ended");
        assert_eq!(ground.asks(), Vec::<String>::new());
        // A change of an unapproved file does not approve it.
        let run = ground.begin(&ground.project);
        ground.write("tools = [\"evil\", \"b\"]\n");
        approve_change(&ground.home, &ground.project, &user, "tools = [\"evil\"]\n", "tools = [\"evil\", \"b\"]\n").expect("recorded");
        run.finish().expect("ended");
        assert_eq!(ground.asks().len(), 1);
    }

    #[test]
    fn another_directory_at_the_same_path_has_no_approvals() {
        let ground = ground();
        let lines: Exposures = ["every tool may reach *".to_owned()].into();
        approve(&ground.home, &ground.project, &lines).expect("written");
        let moved = ground.outer.join("moved");
        fs::rename(&ground.project, &moved).expect("moved");
        fs::create_dir(&ground.project).expect("made");
        assert!(approved(&ground.home, &ground.project).expect("read").is_empty());
        if silo_base::identity::DirectoryId::of(&moved).expect("there").is_lasting() {
            assert_eq!(approved(&ground.home, &moved).expect("read"), lines);
        }
    }

    #[test]
    fn revoked_approvals_are_listed_and_asked_about_again() {
        let ground = ground();
        assert_eq!(revoke(&ground.home, &ground.project).expect("nothing"), Revoked::default());
        let run = ground.begin(&ground.project);
        ground.write("x");
        run.finish().expect("ended");
        approve_files(&ground.home, &ground.files()).expect("approved");
        let lines: Exposures = ["every tool may reach *".to_owned()].into();
        approve(&ground.home, &ground.project, &lines).expect("written");
        let revoked = revoke(&ground.home, &ground.project).expect("revoked");
        assert_eq!(revoked, Revoked { lines, files: vec!["silo.toml".to_owned()] });
        assert!(approved(&ground.home, &ground.project).expect("read").is_empty());
        assert_eq!(ground.asks().len(), 1);
    }

    #[test]
    fn records_are_readable_by_their_owner_alone() {
        let ground = ground();
        ground.write("tools = []");
        ground.begin(&ground.project).finish().expect("ended");
        let mut dirs = vec![ground.home.trust()];
        let mut seen = 0;
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("an entry")) {
                let found = entry.metadata().expect("there");
                assert_eq!(found.permissions().mode() & 0o077, 0, "{}", entry.path().display());
                seen += 1;
                dirs.extend(found.is_dir().then(|| entry.path()));
            }
        }
        assert!(seen >= 5, "{seen}");
    }

    #[test]
    fn files_that_silo_does_not_obey_are_no_matter() {
        let ground = ground();
        came_inside(&ground.home, &ground.project, &[".envrc".into()]).expect("nothing of silo's");
        assert!(!ground.home.trust().exists());
        ground.write("a");
        came_inside(&ground.home, &ground.project, &["silo.toml".into(), ".envrc".into()]).expect("noted");
        assert_eq!(ground.asks(), ["silo.toml is new"]);
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        assert_eq!(ground.asks(), Vec::<String>::new());
    }

    #[test]
    fn approvals_show_every_line() {
        let text = "[overrides.t]\npostInstall = [\"true\\nt may reach *\\n\", 'true\\nt may reach *\\n', \"\\u001b[2K\\u202e\"]\n";
        let found = of_settings(&toml::from_str(text).expect("settings"), &Settings::default());
        // A line break, and the characters that spell its escape.
        assert_eq!(found.len(), 3, "{found:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        approve(&home, dir.path(), &found).expect("written");
        let read = approved(&home, dir.path()).expect("read");
        assert_eq!(read, found);
        assert!(!read.contains("t may reach *") && read.iter().all(|line| !line.contains(char::is_control)), "{read:?}");
    }
}
