//! The reviews of all projects in Silo's home: their sizes, and the removal of those that nothing needs.
//!
//! A review with undecided changes is needed as long as its project exists. If the directory of the project is gone, it may have been moved
//! or be on a disk that is not mounted, so the review stays for [`GONE_AGE`] after its last run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use silo_store::removal;
use silo_store::usage::LinkCounts;

use crate::decisions::{decision, numbers};
use crate::error::{Error, at};
use crate::finish;
use crate::plan::Plan;
use crate::session::Session;
use crate::view;

/// Least age of a removed review with undecided changes.
pub const GONE_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Prefix of a review that is being removed.
const REMOVED: &str = ".removed-";

/// A review in Silo's home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReview {
    /// Its directory.
    pub dir: PathBuf,
    /// Path of the project at the last run, if the record is readable.
    pub project: Option<PathBuf>,
    /// Size on disk.
    pub bytes: u64,
    /// Its state.
    pub state: State,
    /// Time of the last run.
    pub last_used: SystemTime,
}

/// State of a stored review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A run or a command uses it.
    Busy,
    /// Changes wait for a decision.
    Waiting,
    /// A command was killed in a decision.
    Unfinished,
    /// All changes are decided, and some can be undone.
    Decided,
    /// There are no changes, and nothing can be undone.
    Empty,
    /// The directory of the project is gone.
    Gone,
    /// Another version of Silo wrote the record, or it is damaged.
    Unreadable,
}

/// Number and size of removed data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of reviews.
    pub reviews: usize,
    /// Size on disk, with the expired decisions of other reviews.
    pub bytes: u64,
}

/// Lists all reviews by directory, without changes.
pub fn list_all(reviews: &Path) -> Result<Vec<StoredReview>, Error> {
    Ok(dirs(reviews)?.into_iter().filter(|dir| !is_removed(dir)).map(|dir| judge(&dir)).collect())
}

/// Computes the result of [`sweep`] and removes nothing.
pub fn foresee(reviews: &Path, now: SystemTime, min_age: Duration) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    for stored in list_all(reviews)? {
        if stored.is_unneeded(now, min_age) {
            removed.reviews += 1;
            removed.bytes += stored.bytes;
        } else {
            for dir in expired(&stored, now)? {
                removed.bytes += size(&dir);
            }
        }
    }
    Ok(removed)
}

/// Removes reviews that nothing needs, and decisions that can no longer be undone.
pub fn sweep(reviews: &Path, now: SystemTime, min_age: Duration) -> Result<Removed, Error> {
    let mut failed = None;
    for dir in dirs(reviews)?.iter().filter(|dir| is_removed(dir)) {
        if let Err(error) = removal::remove_tree(dir) {
            failed.get_or_insert_with(|| Error::from(error));
        }
    }
    let mut removed = Removed::default();
    for stored in list_all(reviews)? {
        // One review that cannot be removed does not keep the others.
        if let Err(error) = sweep_one(&stored, now, min_age, &mut removed) {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(removed), Err)
}

fn sweep_one(stored: &StoredReview, now: SystemTime, min_age: Duration, removed: &mut Removed) -> Result<(), Error> {
    if stored.is_unneeded(now, min_age) {
        if remove(stored, &|again| again.is_unneeded(now, min_age))? {
            removed.reviews += 1;
            removed.bytes += stored.bytes;
        }
        return Ok(());
    }
    let old = expired(stored, now)?;
    // A command that decides removes them itself.
    let lock = if old.is_empty() { None } else { lock(stored)? };
    for dir in old.iter().filter(|_| lock.is_some()) {
        let bytes = size(dir);
        removal::remove_tree(dir)?;
        removed.bytes += bytes;
    }
    Ok(())
}

/// Removes the reviews of the project at a path, with undecided changes. Fails if one is in use.
pub fn remove_of(reviews: &Path, project: &Path) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    for stored in list_all(reviews)?.into_iter().filter(|stored| stored.project.as_deref() == Some(project)) {
        if !remove(&stored, &|again| again.state != State::Busy)? {
            return Err(Error::Busy { project: project.to_owned() });
        }
        removed.reviews += 1;
        removed.bytes += stored.bytes;
    }
    Ok(removed)
}

impl StoredReview {
    fn is_unneeded(&self, now: SystemTime, min_age: Duration) -> bool {
        let age = now.duration_since(self.last_used).unwrap_or_default();
        match self.state {
            State::Empty => true,
            State::Gone => age >= min_age.max(GONE_AGE),
            State::Busy | State::Waiting | State::Unfinished | State::Decided | State::Unreadable => false,
        }
    }
}

/// Removes a review if it still is as `wanted`, under its lock; returns false if not.
fn remove(stored: &StoredReview, wanted: &dyn Fn(&StoredReview) -> bool) -> Result<bool, Error> {
    let Some(_lock) = lock(stored)? else { return Ok(false) };
    if !wanted(&state(stored.clone())) {
        return Ok(false);
    }
    let name = stored.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let gone = stored.dir.with_file_name(format!("{REMOVED}{name}"));
    // A new run makes another directory from here on.
    fs::rename(&stored.dir, &gone).map_err(at("remove", &stored.dir))?;
    removal::remove_tree(&gone)?;
    Ok(true)
}

fn lock(stored: &StoredReview) -> Result<Option<silo_store::locked_file::LockedFile>, Error> {
    match crate::session::lock(&stored.dir, stored.project.as_deref().unwrap_or(&stored.dir)) {
        Ok(lock) => Ok(Some(lock)),
        Err(Error::Busy { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds the state of a review. One that cannot be read stays, and does not hide the others.
fn judge(dir: &Path) -> StoredReview {
    let record = fs::metadata(dir.join("lock")).or_else(|_| fs::metadata(dir));
    let last_used = record.and_then(|found| found.modified()).unwrap_or(UNIX_EPOCH);
    let mut stored = StoredReview { dir: dir.to_owned(), project: None, bytes: size(dir), state: State::Unreadable, last_used };
    let Ok(found) = Session::at(dir.to_owned()) else { return stored };
    stored.project = found.map(|session| session.project());
    match lock(&stored) {
        Ok(Some(_lock)) => state(stored),
        Ok(None) => StoredReview { state: State::Busy, ..stored },
        Err(_) => stored,
    }
}

/// Finds the state of a review that nobody uses.
fn state(stored: StoredReview) -> StoredReview {
    let state = match Session::at(stored.dir.clone()) {
        Err(_) => State::Unreadable,
        // The record is written before a program can change something.
        Ok(None) => State::Empty,
        Ok(Some(session)) => {
            let has_changes = fs::read_dir(session.upper()).is_ok_and(|mut listing| listing.next().is_some());
            let waits = has_changes || view::repository(&session.git()).has_changes();
            match (finish::is_unfinished(&session), numbers(&session)) {
                _ if session.is_gone() => State::Gone,
                (Err(_), _) | (_, Err(_)) => State::Unreadable,
                (Ok(true), _) => State::Unfinished,
                _ if waits => State::Waiting,
                (_, Ok(numbers)) if numbers.is_empty() => State::Empty,
                _ => State::Decided,
            }
        }
    };
    StoredReview { state, ..stored }
}

/// Finds the decisions that can no longer be undone.
fn expired(stored: &StoredReview, now: SystemTime) -> Result<Vec<PathBuf>, Error> {
    let Some(session) = Session::at(stored.dir.clone()).ok().flatten() else { return Ok(Vec::new()) };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut found = Vec::new();
    for number in numbers(&session)? {
        let dir = decision(&session, number);
        // An unreadable plan belongs to another version of Silo.
        if Plan::read(&dir).is_ok_and(|plan| plan.is_some_and(|plan| plan.is_expired(now))) {
            found.push(dir);
        }
    }
    Ok(found)
}

fn dirs(reviews: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match fs::read_dir(reviews) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(at("list", reviews))?,
    };
    let mut dirs: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    Ok(dirs)
}

fn is_removed(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(REMOVED))
}

/// Returns the size on disk; 0 for a directory that cannot be read.
fn size(dir: &Path) -> u64 {
    LinkCounts::default().add(dir).map_or(0, |counts| counts.fresh)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::plan::Phase;

    const DAY: Duration = Duration::from_secs(86_400);

    struct Ground {
        place: tempfile::TempDir,
    }

    impl Ground {
        fn reviews(&self) -> PathBuf {
            self.place.path().join("reviews")
        }

        /// A review after a run, with this file in its layer.
        fn run(&self, name: &str, changed: Option<&str>) -> PathBuf {
            let project = self.place.path().join(name);
            fs::create_dir_all(&project).expect("ours");
            let session = Session::begin(&self.reviews(), &project, "sh").expect("begun");
            changed.into_iter().for_each(|file| fs::write(session.upper().join(file), "inside\n").expect("ours"));
            project
        }

        fn states(&self) -> Vec<State> {
            let mut found = list_all(&self.reviews()).expect("looked");
            found.sort_by_key(|stored| stored.project.clone());
            found.iter().map(|stored| stored.state).collect()
        }

        fn age(&self, age: Duration) {
            for stored in list_all(&self.reviews()).expect("looked") {
                let file = File::options().write(true).open(stored.dir.join("lock")).expect("ours");
                file.set_modified(SystemTime::now() - age).expect("ours");
            }
        }
    }

    /// A finished decision of this age.
    fn decided(ground: &Ground, project: &Path, age: Duration, phase: Phase) {
        let session = Session::find(&ground.reviews(), project).expect("looked").expect("there");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later").as_secs();
        let (number, dir) = crate::decisions::begin(&session).expect("begun");
        let mut plan = Plan::new(project, format!("1-{number}"), now - age.as_secs(), None, Vec::new());
        plan.phase = phase;
        plan.write(&dir).expect("written");
        fs::write(dir.join("old/0"), "x".repeat(100_000)).expect("ours");
    }

    #[test]
    fn only_reviews_without_a_project_or_without_changes_are_removed() {
        let ground = Ground { place: tempfile::tempdir().expect("a directory") };
        assert_eq!(list_all(&ground.reviews()).expect("none"), []);
        let gone = ground.run("a-gone", Some("file"));
        ground.run("b-waiting", Some("file"));
        ground.run("c-empty", None);
        let decided_now = ground.run("d-decided", None);
        decided(&ground, &decided_now, DAY / 2, Phase::Finished);
        let killed = ground.run("e-killed", Some("file"));
        decided(&ground, &killed, DAY * 30, Phase::Ready);
        let busy = ground.place.path().join("f-busy");
        fs::create_dir(&busy).expect("ours");
        let running = Session::begin(&ground.reviews(), &busy, "sh").expect("begun");
        fs::remove_dir(&gone).expect("ours");
        let all = [State::Gone, State::Waiting, State::Empty, State::Decided, State::Unfinished, State::Busy];
        assert_eq!(ground.states(), all);
        let sweep = |min_age| {
            let foreseen = foresee(&ground.reviews(), SystemTime::now(), min_age).expect("foreseen");
            let removed = sweep(&ground.reviews(), SystemTime::now(), min_age).expect("swept");
            assert_eq!(foreseen, removed);
            removed.reviews
        };
        // Of any age: a project that was moved keeps its changes.
        assert_eq!(sweep(Duration::ZERO), 1);
        assert_eq!(ground.states(), [State::Gone, State::Waiting, State::Decided, State::Unfinished, State::Busy]);
        ground.age(GONE_AGE + DAY);
        assert_eq!((sweep(GONE_AGE + DAY * 2), sweep(Duration::ZERO), sweep(Duration::ZERO)), (0, 1, 0));
        assert_eq!(ground.states(), [State::Waiting, State::Decided, State::Unfinished, State::Busy]);
        drop(running);
        assert_eq!(sweep(Duration::ZERO), 1);
        assert_eq!(fs::read_dir(ground.reviews()).expect("there").count(), 3);
    }

    #[test]
    fn decisions_that_can_no_longer_be_undone_are_removed() {
        let ground = Ground { place: tempfile::tempdir().expect("a directory") };
        let project = ground.run("p", Some("file"));
        for (age, phase) in [(DAY * 2, Phase::Finished), (DAY * 2, Phase::Undone), (DAY * 2, Phase::Ready), (DAY / 2, Phase::Finished)] {
            decided(&ground, &project, age, phase);
        }
        let now = SystemTime::now();
        let foreseen = foresee(&ground.reviews(), now, Duration::ZERO).expect("foreseen");
        let removed = sweep(&ground.reviews(), now, Duration::ZERO).expect("swept");
        assert!(foreseen == removed && removed.reviews == 0 && removed.bytes > 200_000, "{foreseen:?} {removed:?}");
        let session = Session::find(&ground.reviews(), &project).expect("looked").expect("there");
        assert_eq!(numbers(&session).expect("listed"), [3, 4]);
    }

    #[test]
    fn a_review_of_another_version_stays_and_a_half_removed_one_goes() {
        let ground = Ground { place: tempfile::tempdir().expect("a directory") };
        let project = ground.run("p", Some("file"));
        let session = Session::find(&ground.reviews(), &project).expect("looked").expect("there");
        let record = session.dir().join("session.json");
        let text = fs::read_to_string(&record).expect("there").replace("\"version\":1", "\"version\":2");
        fs::write(&record, text).expect("ours");
        fs::create_dir(ground.reviews().join(".removed-1")).expect("ours");
        assert_eq!(ground.states(), [State::Unreadable]);
        assert_eq!(sweep(&ground.reviews(), SystemTime::now() + DAY * 100, Duration::ZERO).expect("swept"), Removed::default());
        assert_eq!(fs::read_dir(ground.reviews()).expect("there").count(), 1);
        assert_eq!(remove_of(&ground.reviews(), &project).expect("looked"), Removed::default());
    }

    #[test]
    fn a_decision_that_cannot_be_read_keeps_its_review_and_no_other() {
        let ground = Ground { place: tempfile::tempdir().expect("a directory") };
        let (project, _other) = (ground.run("p", Some("file")), ground.run("q", None));
        let session = Session::find(&ground.reviews(), &project).expect("looked").expect("there");
        let (_, dir) = crate::decisions::begin(&session).expect("begun");
        fs::write(dir.join("plan.json"), "not JSON").expect("ours");
        assert_eq!(ground.states(), [State::Unreadable, State::Empty]);
        assert_eq!(sweep(&ground.reviews(), SystemTime::now() + DAY * 100, Duration::ZERO).expect("swept").reviews, 1);
        assert_eq!(ground.states(), [State::Unreadable]);
    }

    #[test]
    fn a_project_is_cleaned_with_its_undecided_changes_but_not_in_use() {
        let ground = Ground { place: tempfile::tempdir().expect("a directory") };
        let (project, _other) = (ground.run("p", Some("file")), ground.run("q", Some("file")));
        let running = Session::begin(&ground.reviews(), &project, "sh").expect("begun");
        assert!(matches!(remove_of(&ground.reviews(), &project), Err(Error::Busy { .. })));
        drop(running);
        assert_eq!(remove_of(&ground.reviews(), &project).expect("removed").reviews, 1);
        assert_eq!(ground.states(), [State::Waiting]);
        // The next run begins with an empty layer.
        let session = Session::begin(&ground.reviews(), &project, "sh").expect("begun");
        assert_eq!(fs::read_dir(session.upper()).expect("there").count(), 0);
    }
}
