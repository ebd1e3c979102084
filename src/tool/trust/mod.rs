//! Which of a project's files count: what they open is approved line by line, and what a sandbox may have written is
//! approved by its content.
//!
//! Before a sandbox starts that can write a project, the digests of its `silo.toml`, `silo.lock` and recipes are recorded
//! in the home, and a mark says that it runs. Files with other digests count for nothing until they are approved, if
//!
//! * a sandbox can write the directory, or one above it, or
//! * its silo was killed, or
//! * the files were different when the sandbox ended.
//!
//! Where no sandbox could write the directory since the files were compared, a change is the user's own.

pub mod record;
pub mod runs;

pub mod exposure;

pub mod words;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::digest::Digest;
use silo_store::path_error::PathError;

use crate::config::Settings;
use crate::config::project::ProjectFiles;
use crate::config::read;
use crate::document;
use crate::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG, PROJECT_LOCK, RECIPES};
use crate::journal::{self, Change};

use exposure::{Exposures, of_settings};
use record::{Place, Record, digest_of};
use runs::{Running, Runs};

/// Why approvals could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record is not as it was written.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The system refused.
    #[error(transparent)]
    File(#[from] PathError),
}

/// Whether the files of a project count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They do.
    Counts,
    /// They do once the user has approved these differences.
    Asks(Vec<String>),
}

/// A directory with what is recorded of it, and who could have changed it.
struct State {
    place: Place,
    record: Record,
    own: Runs,
    /// Other directories in which sandboxes ran that could write the files: those above, and those that links lead to.
    above: BTreeMap<String, Runs>,
    /// A file has a second name, which any sandbox may have written.
    is_linked: bool,
}

impl State {
    /// Reads the marks of runs first: one that ends meanwhile writes the record before its mark goes.
    fn of(home: &Home, files: &ProjectFiles) -> Result<State, Error> {
        let place = place(home, files.root())?;
        let own = runs::look(&place.runs())?;
        let mut above = BTreeMap::new();
        let outer = files.root().ancestors().skip(1).chain(files.elsewhere().flat_map(Path::ancestors));
        for dir in outer {
            // A directory that cannot be looked at has no record by its identity.
            let Ok(outer) = Place::of(home, dir) else { continue };
            let found = runs::look(&outer.runs())?;
            if found.last > 0 && outer.key() != place.key() {
                above.insert(outer.key().to_owned(), found);
            }
        }
        let record = place.read()?;
        Ok(State { place, record, own, above, is_linked: files.is_linked() })
    }

    fn is_known(&self, digests: &BTreeMap<String, Digest>) -> bool {
        let known = self.record.known.as_ref();
        known == Some(digests) || self.record.approved_files == Some(digest_of(digests)) || known.is_none() && digests.is_empty()
    }

    /// Whether a sandbox may have changed the files since they were compared.
    fn is_suspect(&self) -> bool {
        let since = |(key, runs): (&String, &Runs)| runs.is_live || self.record.above.get(key) != Some(&runs.last);
        self.record.suspect || self.is_linked || self.own.is_open || self.above.iter().any(since)
    }

    fn counts(&self, digests: &BTreeMap<String, Digest>) -> bool {
        self.is_known(digests) || !self.is_suspect()
    }

    /// Makes these the files that count, and returns whether anything changed.
    fn settle(&mut self, files: &ProjectFiles, digests: &BTreeMap<String, Digest>) -> Result<bool, Error> {
        let before = self.record.clone();
        if self.record.known.as_ref() != Some(digests) {
            self.record.known = Some(digests.clone());
            for name in record::DESCRIBED {
                if let Some(text) = files.text(name).ok().flatten() {
                    self.place.keep_copy(name, &text)?;
                }
            }
        }
        let over: BTreeMap<String, u64> =
            self.above.iter().filter(|(_, runs)| !runs.is_live).map(|(key, runs)| (key.clone(), runs.last)).collect();
        let is_new = self.record.suspect || over.iter().any(|(key, last)| self.record.above.get(key) != Some(last));
        // A sandbox that ended after the files were read may have changed them before it ended.
        if is_new && ProjectFiles::read(files.root())?.digests() == *digests {
            self.record.suspect = false;
            self.record.above.extend(over);
        }
        Ok(self.record != before)
    }
}

fn place(home: &Home, dir: &Path) -> Result<Place, Error> {
    Ok(Place::of(home, dir).map_err(|source| PathError { doing: "look at", path: dir.to_owned(), source })?)
}

/// Judges the files of a project, as they were read.
pub fn judge(home: &Home, files: &ProjectFiles) -> Result<Verdict, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    if state.counts(&digests) {
        return Ok(Verdict::Counts);
    }
    Ok(Verdict::Asks(words::differences(&state.place, state.record.known.as_ref(), files)))
}

/// Finds settings that a sandbox may have removed from a directory between two, so that those of one above it would count.
pub fn lost_between(home: &Home, from: &Path, root: &Path) -> Result<Option<ProjectFiles>, Error> {
    for dir in from.ancestors().take_while(|dir| *dir != root) {
        let Ok(place) = Place::of(home, dir) else { continue };
        let had_settings =
            |known: &BTreeMap<String, Digest>| known.keys().any(|name| [PROJECT_CONFIG, LEGACY_CONFIG].contains(&name.as_str()));
        if place.read()?.known.as_ref().is_some_and(had_settings) {
            let files = ProjectFiles::read(dir)?;
            if judge(home, &files)? != Verdict::Counts {
                return Ok(Some(files));
            }
        }
    }
    Ok(None)
}

/// Describes how files that count differ from those of the last time, for a person who wants to know.
pub fn changes(home: &Home, files: &ProjectFiles) -> Result<Vec<String>, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    match state.record.known.as_ref().filter(|known| **known != digests) {
        Some(known) => Ok(words::differences(&state.place, Some(known), files)),
        None => Ok(Vec::new()),
    }
}

/// Approves the files of a project, as they were read.
pub fn approve_files(home: &Home, files: &ProjectFiles) -> Result<(), Error> {
    let held = place(home, files.root())?.hold()?;
    let mut state = State::of(home, files)?;
    let digests = files.digests();
    state.settle(files, &digests)?;
    state.record.approved_files = Some(digest_of(&digests));
    state.place.write(&state.record, &held)
}

/// A sandbox that can write a directory. Whoever holds it ends it when the sandbox is gone; a silo that is killed never does.
#[derive(Debug)]
pub struct RunRecord {
    home: Home,
    dir: PathBuf,
    /// Which directory that was.
    key: String,
    before: BTreeMap<String, Digest>,
    running: Option<Running>,
}

/// Records the files that count before a sandbox starts that shows the project, and returns their digests.
pub fn remember(home: &Home, files: &ProjectFiles) -> Result<BTreeMap<String, Digest>, Error> {
    let held = place(home, files.root())?.hold()?;
    let mut state = State::of(home, files)?;
    let digests = files.digests();
    if state.record.known.as_ref().is_some_and(|known| *known != digests) {
        let now = ProjectFiles::read(files.root())?.digests();
        if state.record.known.as_ref() == Some(&now) {
            // Silo itself has changed and recorded them since they were read.
            return Ok(now);
        }
    }
    if state.counts(&digests) && state.settle(files, &digests)? {
        state.place.write(&state.record, &held)?;
    }
    Ok(digests)
}

/// Records the files that count, and marks the directory that a sandbox can write, before that sandbox starts.
///
/// The files are those of the project whose settings count; the directory may be another one.
pub fn begin_run(home: &Home, files: &ProjectFiles, shown: &Path) -> Result<RunRecord, Error> {
    let mut before = remember(home, files)?;
    if shown != files.root() {
        before = remember(home, &ProjectFiles::read(shown)?)?;
    }
    let place = place(home, shown)?;
    place.make()?;
    let running = Some(runs::begin(&place.runs())?);
    Ok(RunRecord { home: home.clone(), dir: shown.to_owned(), key: place.key().to_owned(), before, running })
}

impl RunRecord {
    /// Ends the run: files that are different now count once they are approved.
    pub fn finish(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else { return Ok(()) };
        // Another directory is there now. The one that was written stays open, wherever it is.
        if place(&self.home, &self.dir)?.key() != self.key {
            return Ok(());
        }
        let files = ProjectFiles::read(&self.dir)?;
        let digests = files.digests();
        if digests != self.before {
            let place = place(&self.home, &self.dir)?;
            let held = place.hold()?;
            let mut state = State::of(&self.home, &files)?;
            if !state.is_known(&digests) {
                state.record.suspect = true;
                state.record.known.get_or_insert_with(|| self.before.clone());
                state.place.write(&state.record, &held)?;
            }
        }
        let failed = |source: io::Error| PathError { doing: "mark the end of the run in", path: self.dir.clone(), source };
        Ok(running.end().map_err(failed)?)
    }
}

impl Drop for RunRecord {
    fn drop(&mut self) {
        // Where this fails the run stays open, as if silo had been killed.
        let _ = self.end();
    }
}

/// Files that Silo itself obeys.
const SILOS: [&str; 4] = [PROJECT_CONFIG, LEGACY_CONFIG, PROJECT_LOCK, RECIPES];

/// Notes what of a project came while a sandbox ran; files that silo does not obey are passed over.
pub fn came_inside(home: &Home, project: &Path, paths: &[PathBuf]) -> Result<(), Error> {
    if !paths.iter().any(|path| SILOS.iter().any(|name| path.starts_with(name))) {
        return Ok(());
    }
    let place = place(home, project)?;
    let held = place.hold()?;
    let mut record = place.read()?;
    record.known.get_or_insert_default();
    record.suspect = true;
    place.write(&record, &held)
}

/// Records a file that silo itself has changed from one text to another, of which the empty one is no file: it counts if it did before.
pub fn wrote(home: &Home, project: &Path, name: &str, texts: (&str, &str)) -> Result<(), Error> {
    let (before, after) = texts;
    let place = place(home, project)?;
    let held = place.hold()?;
    let files = ProjectFiles::read(project)?;
    let mut state = State::of(home, &files)?;
    let is_alone = files.names().all(|found| found == name);
    if !state.is_suspect() {
        // Everything counts as it is.
        state.settle(&files, &files.digests())?;
    } else if state.record.known.is_none() && before.is_empty() && is_alone {
        state.record.known = Some(BTreeMap::new());
    } else {
        let old = state.record.known.as_ref().map(|known| known.get(name));
        let counted = old.is_some_and(|old| old == Some(&Digest::of(before.as_bytes())) || old.is_none() && before.is_empty());
        if !counted {
            return Ok(());
        }
    }
    let known = state.record.known.get_or_insert_default();
    if after.is_empty() {
        known.remove(name);
    } else {
        known.insert(name.to_owned(), Digest::of(after.as_bytes()));
        place.keep_copy(name, after)?;
    }
    place.write(&state.record, &held)
}

/// Makes changes of files of a project and of the home, and records those of files that silo obeys.
pub fn commit(home: &Home, project: &Path, changes: &[Change]) -> Result<(), Error> {
    journal::commit(home, changes)?;
    for change in changes {
        let name = change.path().strip_prefix(project).ok().and_then(Path::to_str);
        if let Some(name) = name.filter(|name| [PROJECT_CONFIG, PROJECT_LOCK].contains(name) || name.starts_with(RECIPES)) {
            wrote(home, project, name, change.texts())?;
        }
    }
    Ok(())
}

/// Approves what a change of a project's `silo.toml` opens: whoever typed the command has said so.
pub fn approve_change(home: &Home, project: &Path, user: &Settings, before: &str, after: &str) -> Result<(), Error> {
    wrote(home, project, PROJECT_CONFIG, (before, after))?;
    let path = project.join(PROJECT_CONFIG);
    // A text that cannot be read opened nothing.
    let opened = |text: &str| read::parse(text, &path).map(|settings| of_settings(&settings, user)).unwrap_or_default();
    let more: Exposures = opened(after).difference(&opened(before)).cloned().collect();
    if more.is_empty() { Ok(()) } else { approve(home, project, &more) }
}

/// Returns the approved lines of the directory at a canonical path.
pub fn approved(home: &Home, dir: &Path) -> Result<Exposures, Error> {
    Ok(place(home, dir)?.read()?.approved)
}

/// Approves these lines besides those that were approved before.
pub fn approve(home: &Home, dir: &Path, more: &Exposures) -> Result<(), Error> {
    let place = place(home, dir)?;
    let held = place.hold()?;
    let mut record = place.read()?;
    record.approved.extend(more.iter().cloned());
    place.write(&record, &held)
}

/// Approvals that were revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Lines.
    pub lines: Exposures,
    /// Names of files that counted as they were.
    pub files: Vec<String>,
}

/// Revokes every approval of the directory at a canonical path.
pub fn revoke(home: &Home, dir: &Path) -> Result<Revoked, Error> {
    let place = place(home, dir)?;
    let held = place.hold()?;
    let mut record = place.read()?;
    let lines = std::mem::take(&mut record.approved);
    let mut files = Vec::new();
    if record.approved_files.take().is_some() {
        files.extend(record.known.take().into_iter().flatten().map(|(name, _)| name));
        record.known = Some(BTreeMap::new());
        record.suspect = true;
    }
    let revoked = Revoked { lines, files };
    if revoked != Revoked::default() {
        place.write(&record, &held)?;
    }
    Ok(revoked)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

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

    /// As a silo that is killed leaves it.
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
        assert_eq!(ground.asks(), Vec::<String>::new(), "no sandbox was there: it is the user's own edit");
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
        assert_eq!(ground.asks(), expect, "another one runs");
        two.finish().expect("ended");
        assert_eq!(ground.asks(), expect, "it came while they ran");
        // A run of which nobody was asked changes nothing about that.
        ground.begin(&ground.project).finish().expect("ended");
        assert_eq!(ground.asks(), expect);
        approve_files(&ground.home, &ground.files()).expect("approved");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.write("tools = [\"mine\"]");
        assert_eq!(ground.asks(), Vec::<String>::new(), "an edit after it was approved is the user's own");
    }

    #[test]
    fn a_file_changed_before_silo_was_killed_counts_for_nothing() {
        let ground = ground();
        ground.write("tools = [\"a\"]\n[network]\ndeny = [\"x\"]");
        killed(ground.begin(&ground.project));
        assert_eq!(ground.asks(), Vec::<String>::new(), "it is as it was");
        ground.write("tools = [\"b\"]");
        assert_eq!(ground.asks(), ["silo.toml was changed: tools = [\"b\"] instead of [\"a\"]; no network.deny"]);
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        assert_eq!(ground.asks(), ["silo.toml is gone: no network.deny; no tools"], "what it forbids is gone, too");
        ground.write("tools = [\"a\"]\n[network]\ndeny = [\"x\"]");
        assert_eq!(ground.asks(), Vec::<String>::new());
        ground.begin(&ground.project).finish().expect("ended");
        ground.write("tools = [\"c\"]");
        assert_eq!(ground.asks(), Vec::<String>::new(), "the next run ended it");
    }

    #[test]
    fn a_sandbox_of_a_directory_above_can_have_written_it() {
        let ground = ground();
        ground.write("tools = [\"a\"]");
        ground.begin(&ground.project).finish().expect("ended");
        let outer = ground.begin(&ground.outer);
        assert_eq!(ground.asks(), Vec::<String>::new(), "it is as it was");
        ground.write("tools = [\"b\"]");
        assert_eq!(ground.asks().len(), 1);
        outer.finish().expect("ended");
        assert_eq!(ground.asks().len(), 1, "it came while that one ran");
        approve_files(&ground.home, &ground.files()).expect("approved");
        ground.write("tools = [\"c\"]");
        assert_eq!(ground.asks(), Vec::<String>::new());
        // One that was never used before is as new as the sandbox above could make it.
        let inner = ground.project.join("inner");
        fs::create_dir(&inner).expect("made");
        fs::write(inner.join("silo.toml"), "").expect("written");
        assert_eq!(
            judge(&ground.home, &ProjectFiles::read(&inner).expect("read")).expect("judged"),
            Verdict::Asks(vec!["silo.toml is new".into()])
        );
        // And a moved directory is no other one.
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
        assert_eq!(ground.asks().len(), 1, "a sandbox could write what the symlink leads to");
        approve_files(&ground.home, &ground.files()).expect("approved");
        // A second name of the file itself.
        fs::remove_file(ground.project.join("silo.toml")).expect("there");
        ground.write("tools = [\"a\"]");
        fs::hard_link(ground.project.join("silo.toml"), ground.outer.join("other")).expect("linked");
        ground.begin(&ground.project).finish().expect("ended");
        fs::write(ground.outer.join("other"), "tools = [\"b\"]").expect("written");
        assert_eq!(ground.asks().len(), 1, "nobody knows who has the other name");
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
        // A change of a file that does not count makes it count no more than it did.
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
        if crate::identity::DirectoryId::of(&moved).expect("there").is_lasting() {
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
    fn what_is_approved_hides_nothing_between_lines() {
        let text = "[overrides.t]\npostInstall = [\"true\\nt may reach *\\n\", 'true\\nt may reach *\\n', \"\\u001b[2K\\u202e\"]\n";
        let found = of_settings(&toml::from_str(text).expect("settings"), &Settings::default());
        // A line break, and the letters that spell one.
        assert_eq!(found.len(), 3, "{found:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        approve(&home, dir.path(), &found).expect("written");
        let read = approved(&home, dir.path()).expect("read");
        assert_eq!(read, found);
        assert!(!read.contains("t may reach *") && read.iter().all(|line| !line.contains(char::is_control)), "{read:?}");
    }
}
