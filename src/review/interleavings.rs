//! Random interleavings of changes inside, changes here, decisions and killed decisions. `SILO_INTERLEAVINGS` sets their number, and
//! `SILO_SEED` the first seed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, setxattr};

use silo_guard::git::dir_fd::Dir;

use crate::Error;
use crate::apply;
use crate::choose::{Choice, choose};
use crate::discard;
use crate::finish::{self, Caller};
use crate::plan::{Action, Operation, Phase, Plan};
use crate::session::Session;
use crate::view::View;
use crate::weigh::{Weighed, weigh};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A small generator: the same seed gives the same interleaving.
struct Random(u64);

impl Random {
    fn next(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most as u64).expect("it is smaller")
    }

    fn path(&mut self) -> PathBuf {
        (0..=self.next(3)).map(|_| NAMES[self.next(NAMES.len())]).collect()
    }
}

/// A project with a layer, as a program inside would change it.
struct World {
    _place: tempfile::TempDir,
    reviews: PathBuf,
    project: PathBuf,
    random: Random,
    written: usize,
}

/// Files by path: content and permissions; directories are `None`.
type Tree = BTreeMap<PathBuf, Option<(String, u32)>>;

fn tree(top: &Path) -> Tree {
    let mut found = Tree::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(top.join(&dir)).expect("ours") {
            let entry = entry.expect("ours");
            let path = dir.join(entry.file_name());
            if entry.file_type().expect("ours").is_dir() {
                dirs.push(path.clone());
                found.insert(path, None);
            } else {
                let mode = entry.metadata().expect("ours").permissions().mode() & 0o777;
                found.insert(path, Some((fs::read_to_string(entry.path()).unwrap_or_default(), mode)));
            }
        }
    }
    found
}

impl World {
    fn new(seed: u64) -> World {
        let place = tempfile::tempdir().expect("a directory");
        let (reviews, project) = (place.path().join("reviews"), place.path().join("project"));
        fs::create_dir(&project).expect("ours");
        World { _place: place, reviews, project, random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), written: 0 }
    }

    fn text(&mut self) -> String {
        self.written += 1;
        format!("text {}\n", self.written)
    }

    /// Changes a file here, as a person would.
    fn outside(&mut self) {
        let path = self.project.join(self.random.path());
        match self.random.next(4) {
            0 => drop(fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path))),
            1 => {
                let to = self.project.join(self.random.path());
                drop(fs::rename(&path, to));
            }
            _ => {
                let text = self.text();
                if fs::create_dir_all(path.parent().expect("in the project")).is_ok() {
                    drop(fs::write(&path, text));
                }
            }
        }
    }

    /// Removes staged files that a rename took away from their place.
    fn remove_staged(&self) {
        for path in tree(&self.project)
            .into_keys()
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".silo-apply")))
        {
            let path = self.project.join(path);
            drop(fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)));
        }
    }

    /// Changes the layer, as overlayfs stores a change.
    fn inside(&mut self, session: &Session) {
        let path = self.random.path();
        let (upper, merged) = (session.upper(), self.merged(session));
        let is_dir = |path: &Path| path.as_os_str().is_empty() || matches!(merged.get(path), Some(None));
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        match self.random.next(4) {
            0 if merged.contains_key(&path) => {
                copy_up(&upper, parent);
                drop(fs::remove_dir_all(upper.join(&path)).or_else(|_| fs::remove_file(upper.join(&path))));
                if self.is_lower(&upper, &path) {
                    whiteout(&upper.join(&path));
                }
            }
            1 if is_dir(parent) && !merged.contains_key(&path) => {
                copy_up(&upper, parent);
                drop(fs::remove_file(upper.join(&path)));
                fs::create_dir(upper.join(&path)).expect("ours");
                opaque(&upper.join(&path));
            }
            _ if is_dir(parent) && !is_dir(&path) => {
                copy_up(&upper, parent);
                let text = self.text();
                drop(fs::remove_file(upper.join(&path)));
                fs::write(upper.join(&path), text).expect("ours");
            }
            _ => {}
        }
    }

    /// True if the layer shows the project's file at a path, once its own is gone.
    fn is_lower(&self, upper: &Path, path: &Path) -> bool {
        let hidden =
            path.ancestors().skip(1).any(|dir| !dir.as_os_str().is_empty() && Dir::open(&upper.join(dir)).is_ok_and(|dir| dir.is_opaque()));
        !hidden && self.project.join(path).symlink_metadata().is_ok()
    }

    /// The tree that a program inside sees.
    fn merged(&self, session: &Session) -> Tree {
        let mut merged = Tree::new();
        self.merge(&session.upper(), Path::new(""), Some(&self.project), &mut merged);
        merged
    }

    fn merge(&self, upper: &Path, dir: &Path, lower: Option<&Path>, merged: &mut Tree) {
        let ours = upper.join(dir);
        let (mut seen, mut hides) = (Vec::new(), false);
        if let Ok(opened) = Dir::open(&ours) {
            hides = opened.is_opaque() && !dir.as_os_str().is_empty();
            for name in opened.list(usize::MAX).expect("ours") {
                let path = dir.join(&name);
                let kind = fs::symlink_metadata(ours.join(&name)).expect("ours");
                if kind.is_dir() {
                    merged.insert(path.clone(), None);
                    self.merge(upper, &path, lower.filter(|lower| !hides && lower.join(&path).is_dir()), merged);
                } else if kind.is_file() {
                    let mode = kind.permissions().mode() & 0o777;
                    merged.insert(path.clone(), Some((fs::read_to_string(ours.join(&name)).expect("ours"), mode)));
                }
                seen.push(name);
            }
        }
        let listed = lower.filter(|_| !hides).and_then(|lower| fs::read_dir(lower.join(dir)).ok());
        for entry in listed.into_iter().flatten().flatten().filter(|entry| !seen.contains(&entry.file_name())) {
            let path = dir.join(entry.file_name());
            if entry.file_type().expect("ours").is_dir() {
                merged.insert(path.clone(), None);
                self.merge(upper, &path, lower, merged);
            } else {
                let mode = entry.metadata().expect("ours").permissions().mode() & 0o777;
                merged.insert(path, Some((fs::read_to_string(entry.path()).expect("ours"), mode)));
            }
        }
    }
}

/// Makes the directories of the layer for a path, as overlayfs does before a change.
fn copy_up(upper: &Path, dir: &Path) {
    let mut at = upper.to_owned();
    for name in dir {
        at.push(name);
        if !at.is_dir() {
            fs::create_dir(&at).expect("ours");
        }
    }
}

fn whiteout(path: &Path) {
    let parent = Dir::open(path.parent().expect("in the layer")).expect("ours");
    silo_store::system::make_whiteout(&parent, Path::new(path.file_name().expect("a name"))).expect("anybody makes whiteouts");
}

fn opaque(dir: &Path) {
    setxattr(dir, "user.overlay.opaque", b"y", XattrFlags::empty()).expect("the file system has user attributes");
}

fn weighed(view: &View) -> Vec<Weighed> {
    weigh(view, &|_| false).expect("weighed")
}

/// Every text below a directory.
fn texts(top: &Path) -> Vec<String> {
    if !top.is_dir() {
        return Vec::new();
    }
    tree(top).into_values().flatten().map(|(text, _)| text).collect()
}

/// A command at this time.
fn caller(now: u64) -> Caller<'static> {
    Caller { now, arrive: &|_| Ok(()) }
}

/// Texts below a directory, without staged files.
fn own_texts(top: &Path) -> Vec<String> {
    let is_own = |path: &Path| !path.to_string_lossy().contains(".silo-apply");
    tree(top).into_iter().filter(|(path, _)| is_own(path)).filter_map(|(_, file)| file).map(|(text, _)| text).collect()
}

/// Begins a decision and stops in the middle, as a killed command does.
fn killed(view: &mut View, all: &[Weighed], chosen: &[usize], random: &mut Random) -> Result<(), Error> {
    apply::interrupted(view, all, chosen, &mut |most| random.next(most))
}

fn one(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..6 {
        world.outside();
    }
    for round in 0..4u64 {
        let session = Session::begin(&world.reviews, &world.project, "sh").unwrap_or_else(|error| panic!("{seed}: {error}"));
        // The kernel's clock is coarse: files of the same tick count as changed.
        let early = world.random.next(3) == 0;
        if !early {
            std::thread::sleep(std::time::Duration::from_millis(8));
        }
        session.mark_files().expect("marked");
        for _ in 0..world.random.next(6) {
            world.inside(&session);
        }
        for _ in 0..world.random.next(3) {
            world.outside();
            world.inside(&session);
        }
        let merged = world.merged(&session);
        let mut view = View::open(session).expect("opened");
        let here = tree(&world.project);
        let mut before = texts(&world.project);
        let mut has_edits = false;
        let all = weighed(&view);
        let outcome =
            match world.random.next(6) {
                0 => {
                    let chosen = choose(&all, &Choice::All).expect("all");
                    killed(&mut view, &all, &chosen, &mut world.random).map(|()| {
                        has_edits = world.random.next(2) == 0;
                        for _ in 0..if has_edits { 1 + world.random.next(3) } else { 0 } {
                            world.outside();
                        }
                        // A person has removed or overwritten the others.
                        let left = [texts(&world.project), texts(&view.session.dir().join("done"))].concat();
                        before.retain(|text| left.contains(text));
                        before.extend(own_texts(&world.project));
                        let lines = finish::finish_interrupted(&mut view, &caller(round)).expect("settled");
                        assert!(has_edits || lines.is_empty(), "{seed}: {lines:?}");
                    })
                }
                1 | 2 => {
                    let mut chosen = choose(&all, &Choice::All).expect("all");
                    let skipped: Vec<PathBuf> = all.iter().filter(|one| !one.is_applicable()).map(|one| one.change.path.clone()).collect();
                    chosen.retain(|index| !skipped.iter().any(|path| all[*index].change.path.starts_with(path)));
                    apply::apply(&mut view, &all, &chosen, &caller(round)).map(drop)
                }
                3 => {
                    let chosen = choose(&all, &Choice::All).expect("all");
                    let applied = apply::apply(&mut view, &all, &chosen, &caller(round));
                    if applied.is_ok() {
                        // Everything that a program saw is here.
                        let now = tree(&world.project);
                        assert!(merged.iter().all(|(path, file)| now.get(path) == Some(file)), "{seed}: {all:?}");
                        assert!(now.keys().all(|path| merged.contains_key(path) || here.contains_key(path)), "{seed}: {all:?}");
                        assert_eq!(weighed(&view).len(), 0, "{seed}");
                    }
                    applied
                        .and_then(|applied| {
                            if applied.number == 0 { Ok(()) } else { apply::undo(&mut view, applied.number, &caller(round)).map(drop) }
                        })
                        .inspect(|()| assert_eq!(tree(&world.project), here, "{seed}"))
                }
                4 if !all.is_empty() => {
                    let path = all[world.random.next(all.len())].change.path.clone();
                    let chosen = choose(&all, &Choice::Paths(vec![path.clone()])).expect("it is there");
                    discard::some(&view, &all, &chosen, &[path]).map(drop)
                }
                _ => discard::all(&view),
            };
        match outcome {
            Ok(()) => {}
            Err(Error::Conflicts { lines }) => {
                assert!(!lines.is_empty());
                assert_eq!(tree(&world.project), here, "{seed}: a refused decision changes nothing");
            }
            Err(error) => panic!("{seed}: {error:?}"),
        }
        assert!(!finish::is_unfinished(&view.session).expect("read"), "{seed}");
        // No text that was here is lost: it is in the project, or can be restored.
        let dirs = [world.project.clone(), view.session.dir().join("done"), view.session.upper()];
        let after: Vec<String> = dirs.iter().flat_map(|dir| texts(dir)).collect();
        for text in &before {
            assert!(after.contains(text), "{seed}: {text} is lost");
        }
        // A renamed directory takes its staged files along.
        let is_clean = |path: &PathBuf| !path.to_string_lossy().contains(".silo-apply");
        assert!(has_edits || tree(&world.project).keys().all(is_clean), "{seed}");
        world.remove_staged();
        drop(weighed(&view));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test reads its own settings")]
fn no_interleaving_loses_a_text_of_the_host() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let first = number("SILO_SEED", 1);
    for seed in first..first + number("SILO_INTERLEAVINGS", 100) {
        one(seed);
    }
}

#[test]
fn a_plan_that_cannot_be_read_again_is_not_written() {
    let place = tempfile::tempdir().expect("a directory");
    let long = PathBuf::from("x".repeat(4000));
    let operations = vec![Operation::new(&long, Action::Remove, None, vec![long.clone(); 70_000])];
    let plan = Plan::new(Path::new("/p"), "1-1".to_owned(), 5, None, operations);
    assert_eq!(plan.write(place.path()).expect_err("refused").kind(), io::ErrorKind::FileTooLarge);
    assert!(Plan::read(place.path()).expect("none").is_none());
}

#[test]
fn a_plan_of_another_version_stays() {
    let place = tempfile::tempdir().expect("a directory");
    assert!(Plan::read(place.path()).expect("none").is_none());
    let mut plan = Plan::new(Path::new("/p"), "1-1".to_owned(), 5, None, Vec::new());
    plan.phase = Phase::Ready;
    plan.write(place.path()).expect("written");
    assert_eq!(Plan::read(place.path()).expect("read").map(|plan| plan.phase), Some(Phase::Ready));
    let text = fs::read_to_string(place.path().join("plan.json")).expect("there").replace("\"version\":2", "\"version\":3");
    fs::write(place.path().join("plan.json"), text).expect("ours");
    assert_eq!(Plan::read(place.path()).expect_err("refused").kind(), io::ErrorKind::InvalidData);
}
