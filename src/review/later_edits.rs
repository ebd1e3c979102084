//! Edits of a person while a decision is unfinished, and before it is undone. None is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use silo_guard::git::dir_fd::Dir;

use crate::Error;
use crate::apply;
use crate::choose::{Choice, choose};
use crate::decisions::decision;
use crate::discard;
use crate::finish::{self, Caller};
use crate::plan::{Phase, Plan};
use crate::session::Session;
use crate::view::View;
use crate::weigh::{Weighed, weigh};

/// Moments of a kill: the number in `finish::interrupted`.
const STEPS: usize = 1;
const KEEPING: usize = 2;

const NOW: u64 = 1_000_000;

struct Place {
    _dir: tempfile::TempDir,
    project: PathBuf,
    view: View,
    all: Vec<Weighed>,
}

impl Place {
    /// A project with files, and a layer that a program has changed.
    fn new(files: &[(&str, &str)], change: impl Fn(&Path)) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let project = dir.path().join("project");
        fs::create_dir(&project).expect("made");
        for (path, text) in files {
            write(&project.join(path), text);
        }
        // The kernel's clock is coarse: files of the same tick count as changed.
        std::thread::sleep(Duration::from_millis(20));
        let session = Session::begin(&dir.path().join("reviews"), &project, "sh").expect("begun");
        session.mark_files().expect("marked");
        change(&session.upper());
        let view = View::open(session).expect("opened");
        let all = weigh(&view, &|_| false).expect("weighed");
        Place { _dir: dir, project, view, all }
    }

    fn chosen(&self) -> Vec<usize> {
        choose(&self.all, &Choice::All).expect("all")
    }

    fn apply(&mut self) -> Result<u64, Error> {
        let chosen = self.chosen();
        apply::apply(&mut self.view, &self.all, &chosen, &caller(NOW)).map(|applied| applied.number)
    }

    /// Stops a decision at a moment, after some operations.
    fn kill(&self, moment: usize, some: usize) {
        let mut numbers = [moment, some].into_iter();
        apply::interrupted(&self.view, &self.all, &self.chosen(), &mut |_| numbers.next().unwrap_or(0)).expect("interrupted");
    }

    fn finish(&mut self, now: u64) -> Vec<String> {
        finish::finish_interrupted(&mut self.view, &caller(now)).expect("finished")
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.project.join(path)).ok()
    }

    fn plan(&self, number: u64) -> Plan {
        Plan::read(&decision(&self.view.session, number)).expect("read").expect("there")
    }

    /// The staged or replaced file of an operation in the top directory.
    fn aside(&self, operation: usize) -> PathBuf {
        let names = fs::read_dir(&self.project).expect("listed").map(|entry| entry.expect("ours").path());
        let end = format!("-{operation}");
        let is_it = |path: &PathBuf| path.to_string_lossy().contains(".silo-apply") && path.to_string_lossy().ends_with(&end);
        names.into_iter().find(is_it).expect("it is there")
    }
}

fn caller(now: u64) -> Caller<'static> {
    Caller { now, arrive: &|_| Ok(()) }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("in the project")).expect("made");
    fs::write(path, text).expect("written");
}

fn whiteout(path: &Path) {
    let parent = Dir::open(path.parent().expect("in the layer")).expect("opened");
    silo_store::system::make_whiteout(&parent, Path::new(path.file_name().expect("a name"))).expect("anybody makes whiteouts");
}

/// Removes `d`, or replaces it by a file.
const CHANGES: [fn(&Path); 2] = [|upper| whiteout(&upper.join("d")), |upper| write(&upper.join("d"), "inside")];

#[test]
fn edits_in_a_directory_that_a_killed_apply_removes_stay() {
    let edits: [(&str, &str); 3] = [("d/x", "edited"), ("d/new", "new"), ("d/e/deep", "new")];
    for change in CHANGES {
        for (path, text) in edits {
            let mut place = Place::new(&[("d/x", "x"), ("d/e/y", "y")], change);
            place.kill(STEPS, 0);
            write(&place.project.join(path), text);
            let lines = place.finish(NOW);
            assert!(lines.len() == 1 && lines[0].contains("d: it changed here"), "{lines:?}");
            assert_eq!(place.text(path).as_deref(), Some(text));
            assert_eq!(place.text("d/e/y").as_deref(), Some("y"));
            assert!(!finish::is_unfinished(&place.view.session).expect("read"));
            assert_eq!(fs::read_dir(&place.project).expect("listed").count(), 1);
        }
    }
}

#[test]
fn edits_in_a_directory_that_is_moved_away_already_stay() {
    for change in CHANGES {
        let mut place = Place::new(&[("d/x", "x")], change);
        place.kill(STEPS, 1);
        // An editor that has the file open.
        write(&place.aside(0).join("x"), "edited");
        let lines = place.finish(NOW);
        assert!(lines.len() == 1, "{lines:?}");
        assert_eq!(place.text("d/x").as_deref(), Some("edited"));
    }
}

#[test]
fn edits_after_the_changes_were_listed_stay() {
    for change in CHANGES {
        let mut place = Place::new(&[("d/x", "x")], change);
        write(&place.project.join("d/new"), "new");
        let refused = place.apply().expect_err("a conflict");
        assert!(matches!(&refused, Error::Conflicts { lines } if lines[0].contains("d/new")), "{refused:?}");
        assert_eq!((place.text("d/new").as_deref(), place.text("d/x").as_deref()), (Some("new"), Some("x")));
    }
}

#[test]
fn edits_in_a_new_directory_survive_the_rollback() {
    let mut place = Place::new(&[("z", "z")], |upper| {
        write(&upper.join("d/x"), "inside");
        write(&upper.join("z"), "inside");
    });
    place.kill(STEPS, 1);
    write(&place.project.join("d/mine"), "mine");
    write(&place.project.join("z"), "edited");
    assert_eq!(place.finish(NOW).len(), 1);
    assert_eq!((place.text("d/mine").as_deref(), place.text("z").as_deref()), (Some("mine"), Some("edited")));
}

#[test]
fn a_kill_while_old_files_are_kept_is_only_finished() {
    for some in 0..=2 {
        let mut place = Place::new(&[("a", "old a"), ("b", "old b")], |upper| {
            write(&upper.join("a"), "inside a");
            write(&upper.join("b"), "inside b");
        });
        place.kill(KEEPING, some);
        // One that would undo an unfinished decision.
        write(&place.project.join("a"), "edited");
        assert_eq!(place.finish(NOW), Vec::<String>::new());
        assert_eq!((place.text("a").as_deref(), place.text("b").as_deref()), (Some("edited"), Some("inside b")));
        let old = decision(&place.view.session, 1).join("old");
        let kept = ["0", "1"].map(|name| fs::read_to_string(old.join(name)).expect("kept"));
        assert_eq!(kept, ["old a", "old b"]);
        assert_eq!((place.plan(1).phase, place.plan(1).at), (Phase::Finished, NOW));
        assert!(weigh(&place.view, &|_| false).expect("weighed").is_empty());
    }
}

#[test]
fn old_files_are_kept_from_the_end_of_a_decision() {
    let mut place = Place::new(&[("d/x", "x")], |upper| whiteout(&upper.join("d")));
    place.kill(STEPS, 1);
    assert_eq!(place.finish(NOW), Vec::<String>::new());
    place.finish(NOW + 1);
    assert_eq!(fs::read_to_string(decision(&place.view.session, 1).join("old/0/x")).expect("kept"), "x");
}

#[test]
fn an_undo_removes_no_file_of_the_user() {
    for (path, text) in [("d/mine", "mine"), ("d/e/mine", "mine"), ("d/e/x", "edited")] {
        let mut place = Place::new(&[("z", "z")], |upper| write(&upper.join("d/e/x"), "inside"));
        let number = place.apply().expect("applied");
        write(&place.project.join(path), text);
        let refused = apply::undo(&mut place.view, number, &caller(NOW)).expect_err("refused");
        assert!(matches!(&refused, Error::Conflicts { lines } if lines[0].starts_with("d: a file in it")), "{refused:?}");
        assert_eq!(place.text(path).as_deref(), Some(text));
        if path.ends_with("mine") {
            fs::remove_file(place.project.join(path)).expect("removed");
            apply::undo(&mut place.view, number, &caller(NOW)).expect("undone");
            assert!(!place.project.join("d").exists());
        }
    }
}

/// Directories without write permission, as Go's module cache has them. Root may write them, so this says something to other users.
#[test]
fn directories_without_write_permission_are_decided() {
    let lock = |dir: &Path| fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).expect("ours");
    let new = |upper: &Path| {
        write(&upper.join("cache/pkg/file"), "inside");
        lock(&upper.join("cache/pkg"));
        lock(&upper.join("cache"));
    };
    let mut place = Place::new(&[], new);
    let number = place.apply().expect("applied");
    assert_eq!(place.text("cache/pkg/file").as_deref(), Some("inside"));
    assert!(fs::read_dir(place.view.session.upper()).expect("listed").next().is_none());
    let mode = fs::metadata(place.project.join("cache")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
    let again = apply::undo(&mut place.view, number, &caller(NOW)).expect("undone").number;
    assert!(!place.project.join("cache").exists());
    apply::undo(&mut place.view, again, &caller(NOW)).expect("applied again");
    assert_eq!(place.text("cache/pkg/file").as_deref(), Some("inside"));

    // A removed directory, and a discarded path below a directory without write permission.
    let gone = |upper: &Path| whiteout(&upper.join("cache"));
    let mut place = Place::new(&[("cache/pkg/file", "x")], gone);
    lock(&place.project.join("cache/pkg"));
    lock(&place.project.join("cache"));
    place.view.session.mark_files().expect("marked");
    place.view.base = place.view.session.base().expect("read");
    place.all = weigh(&place.view, &|_| false).expect("weighed");
    // The first mark of a file of the layer counts, and the permissions are others.
    let refused = place.apply();
    assert!(matches!(refused, Err(Error::Conflicts { .. })), "{refused:?}");
    // A new file in such a directory of the project is a conflict, so the others can be applied.
    let mut place = Place::new(&[("locked/x", "x")], |upper| {
        write(&upper.join("locked/new"), "inside");
        write(&upper.join("other"), "inside");
        lock(&upper.join("locked"));
    });
    lock(&place.project.join("locked"));
    place.all = weigh(&place.view, &|_| false).expect("weighed");
    let refused: Vec<&Path> = place.all.iter().filter(|one| one.conflict.is_some()).map(|one| one.change.path.as_path()).collect();
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(refused, if is_root { vec![] } else { vec![Path::new("locked/new")] });
    let place = Place::new(&[], new);
    let path = PathBuf::from("cache/pkg/file");
    let chosen = choose(&place.all, &Choice::Paths(vec![path.clone()])).expect("it is there");
    discard::some(&place.view, &place.all, &chosen, &[path]).expect("discarded");
    assert!(!place.view.session.upper().join("cache/pkg/file").exists());
    let mode = fs::metadata(place.view.session.upper().join("cache/pkg")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
}

/// Silo's own settings need an approval from the first moment at which they can be here.
#[test]
fn arriving_paths_are_noted_before_the_first_change_of_each_decision() {
    let change = |upper: &Path| {
        write(&upper.join("recipes/x.toml"), "inside");
        write(&upper.join("silo.toml"), "inside");
    };
    for (moment, some) in [(STEPS, 0), (STEPS, 1), (KEEPING, 1)] {
        let mut place = Place::new(&[("silo.toml", "old")], change);
        place.kill(moment, some);
        let noted = std::cell::RefCell::new(Vec::new());
        let arrive = |paths: &[PathBuf]| {
            noted.borrow_mut().push(paths.to_vec());
            Ok(())
        };
        finish::finish_interrupted(&mut place.view, &Caller { now: NOW, arrive: &arrive }).expect("finished");
        assert_eq!(noted.borrow().len(), 2, "before and after");
        assert!(noted.borrow().iter().all(|paths| ["recipes", "silo.toml"].iter().all(|path| paths.contains(&path.into()))), "{noted:?}");
    }
    // Without the note, nothing changes.
    let mut place = Place::new(&[("silo.toml", "old")], change);
    let refused = Caller { now: NOW, arrive: &|_| Err(std::io::ErrorKind::StorageFull.into()) };
    let chosen = place.chosen();
    assert!(apply::apply(&mut place.view, &place.all, &chosen, &refused).is_err());
    assert_eq!(place.text("silo.toml").as_deref(), Some("old"));
    assert_eq!(fs::read_dir(&place.project).expect("listed").count(), 1);
    let number = place.apply().expect("applied");
    assert!(apply::undo(&mut place.view, number, &refused).is_err());
    assert_eq!(place.text("silo.toml").as_deref(), Some("inside"));
}
