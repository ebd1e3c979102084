//! Layers that killed runs left. The next run in their project imports them, and so does `silo doctor --fix`. Empty layers, and layers
//! without a project or repository, are removed.
//!
//! A run creates and locks its layer while it holds a shared lock on the directory of all layers. A search takes an exclusive lock on that
//! directory while it tries the layers' locks. So an unlocked layer never belongs to a run that is just starting.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::removal::remove_tree;
use silo_store::usage::LinkCounts;

use super::layer::{self, Finished, LOCK, Layer};
use super::layer_inputs::Record;

/// A layer without a run, locked as long as this value lives.
struct Orphan {
    dir: PathBuf,
    lock: LockedFile,
}

/// A layer that a killed run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftLayer {
    /// Layer directory.
    pub dir: PathBuf,
    /// Project of the run, if the layer's record is readable.
    pub project: Option<PathBuf>,
    /// Size on disk.
    pub bytes: u64,
    /// True if it has something to import.
    pub is_needed: bool,
}

/// Number and size of removed layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedLayers {
    /// Number.
    pub layers: usize,
    /// Size on disk.
    pub bytes: u64,
}

/// Opens the layers that killed runs left in a project. Unreadable ones are skipped.
pub fn of_project(layers: &Path, project: &Path) -> Vec<Layer> {
    let dirs = fs::read_dir(layers).into_iter().flatten().flatten().map(|entry| entry.path());
    let open = |dir: PathBuf| {
        // A layer that a run is about to lock has no record yet.
        let lock = LockedFile::try_exclusive(File::open(dir.join(LOCK)).ok()?).ok()??;
        let is_ours = Record::read(&dir).is_ok_and(|record| record.project == project);
        if is_ours { Layer::reopen(dir, lock).ok() } else { None }
    };
    dirs.filter_map(open).collect()
}

/// Lists the layers that killed runs left, without changes.
pub fn list_leftover(layers: &Path) -> Result<Vec<LeftLayer>, PathError> {
    orphans(layers).map_err(|source| at(layers, source))?.iter().map(judge).collect()
}

/// Removes the layers with nothing to import.
pub fn sweep(layers: &Path) -> Result<RemovedLayers, PathError> {
    let mut swept = RemovedLayers::default();
    for orphan in orphans(layers).map_err(|source| at(layers, source))? {
        let left = judge(&orphan)?;
        if !left.is_needed {
            // Hold the lock until it is removed, so that no run opens it.
            layer::remove(&orphan.dir)?;
            swept.layers += 1;
            swept.bytes += left.bytes;
        }
    }
    Ok(swept)
}

/// Imports all layers that killed runs left; returns each with its project.
pub fn take_over(layers: &Path) -> Result<Vec<(PathBuf, Finished)>, PathError> {
    let mut done = Vec::new();
    for orphan in orphans(layers).map_err(|source| at(layers, source))? {
        let left = judge(&orphan)?;
        let Some(project) = left.project.filter(|_| left.is_needed) else { continue };
        let dir = orphan.dir.clone();
        let finished = match Layer::reopen(orphan.dir, orphan.lock) {
            Ok(layer) => layer.finish(),
            Err(error) => Finished { told: vec![error.to_string()], left: Some(dir), ..Finished::default() },
        };
        done.push((project, finished));
    }
    Ok(done)
}

/// Finds and locks the layers without a lock holder.
fn orphans(layers: &Path) -> io::Result<Vec<Orphan>> {
    let dir = match File::open(layers) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        dir => dir?,
    };
    let _alone = LockedFile::exclusive(dir)?;
    let mut found = Vec::new();
    for dir in fs::read_dir(layers)? {
        let dir = dir?.path();
        match File::open(dir.join(LOCK)) {
            Ok(file) => found.extend(LockedFile::try_exclusive(file)?.map(|lock| Orphan { dir, lock })),
            // The lock file is created first and removed last: this layer is being removed, or its silo was killed before or after.
            Err(error) if error.kind() == ErrorKind::NotFound => drop(remove_tree(&dir)),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn judge(orphan: &Orphan) -> Result<LeftLayer, PathError> {
    let is_empty = match fs::read_dir(layer::upper(&orphan.dir)) {
        Ok(mut listing) => listing.next().is_none(),
        // A directory that a program made inaccessible counts as not empty.
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    // An unreadable record may belong to another silo.
    let record = Record::read(&orphan.dir).ok();
    let is_needed = !is_empty && !record.as_ref().is_some_and(Record::is_gone);
    let bytes = LinkCounts::default().add(&orphan.dir)?.fresh;
    Ok(LeftLayer { dir: orphan.dir.clone(), project: record.map(|record| record.project), bytes, is_needed })
}

fn at(path: &Path, source: io::Error) -> PathError {
    PathError { doing: "look for layers of killed runs in", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::super::layer_inputs::LayerInputs;
    use super::super::repository::Repository;
    use super::*;

    /// Setup for the tests.
    type Change = fn(&Ground);

    struct Ground {
        _place: tempfile::TempDir,
        layers: PathBuf,
        project: PathBuf,
    }

    impl Ground {
        /// An empty repository, as from `git init`.
        fn new() -> Ground {
            let place = tempfile::tempdir().expect("a directory");
            let root = fs::canonicalize(place.path()).expect("there");
            let ground = Ground { _place: place, layers: root.join("layers"), project: root.join("p") };
            ground.init();
            ground
        }

        fn init(&self) {
            let git = self.project.join(".git");
            for dir in ["objects/pack", "refs/heads"] {
                fs::create_dir_all(git.join(dir)).expect("made");
            }
            fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("written");
            fs::write(git.join("config"), "[core]\n\trepositoryformatversion = 0\n").expect("written");
        }

        fn begin(&self) -> Layer {
            let repository = Repository::find(&self.project).expect("read").expect("a repository");
            let over = LayerInputs { layers: &self.layers, project: &self.project, repository: &repository, submodules: &[] };
            Layer::begin(over).expect("begun")
        }

        /// A layer of a killed run that has written a commit message.
        fn killed(&self) {
            let layer = self.begin();
            fs::write(layer.upper().join("MERGE_MSG"), "inside\n").expect("written");
        }

        fn left(&self) -> Vec<LeftLayer> {
            list_leftover(&self.layers).expect("looked")
        }
    }

    #[test]
    fn objects_of_a_killed_run_stay_until_imported() {
        let ground = Ground::new();
        assert_eq!((ground.left(), sweep(&ground.layers).expect("swept")), (Vec::new(), RemovedLayers::default()));
        ground.killed();
        let left = ground.left();
        assert!(left.len() == 1 && left[0].is_needed && left[0].bytes > 0, "{left:?}");
        assert_eq!(left[0].project.as_deref(), Some(ground.project.as_path()));
        assert_eq!(sweep(&ground.layers).expect("swept"), RemovedLayers::default());
        let done = take_over(&ground.layers).expect("taken over");
        assert!(done.len() == 1 && done[0].0 == ground.project && done[0].1.left.is_none(), "{done:?}");
        assert_eq!(fs::read_to_string(ground.project.join(".git/MERGE_MSG")).expect("imported"), "inside\n");
        assert_eq!(ground.left(), []);
    }

    #[test]
    fn unusable_leftovers_are_removed_and_locked_ones_stay() {
        let gone: [(&str, Change); 6] = [
            ("nothing was written", |ground| drop(ground.begin())),
            ("killed before it was locked", |ground| {
                drop(ground.begin());
                fs::create_dir(ground.layers.join("unlocked")).expect("made");
            }),
            ("killed before it was noted", |ground| {
                let upper = ground.begin().upper();
                fs::remove_file(upper.with_file_name("begin.json")).expect("there");
            }),
            ("the project is gone", |ground| {
                ground.killed();
                fs::remove_dir_all(&ground.project).expect("ours");
            }),
            ("the repository is gone", |ground| {
                ground.killed();
                fs::remove_dir_all(ground.project.join(".git")).expect("ours");
            }),
            ("the repository is another one", |ground| {
                ground.killed();
                // Rename it, so that its inode number is not reused.
                fs::rename(ground.project.join(".git"), ground.project.join("old")).expect("ours");
                ground.init();
            }),
        ];
        for (why, make) in gone {
            let ground = Ground::new();
            make(&ground);
            let held = ground.project.join(".git").exists().then(|| ground.begin());
            assert!(ground.left().iter().all(|left| !left.is_needed), "{why}");
            assert_eq!(sweep(&ground.layers).expect("swept").layers, 1, "{why}");
            let left = fs::read_dir(&ground.layers).expect("there").count();
            assert_eq!(left, usize::from(held.is_some()), "{why}");
            assert!(held.is_none_or(|held| held.upper().exists()), "{why}");
        }
        // An unreadable record may belong to another silo.
        let ground = Ground::new();
        ground.killed();
        fs::write(ground.left()[0].dir.join("begin.json"), "{\"version\": 3}").expect("ours");
        assert_eq!(sweep(&ground.layers).expect("swept"), RemovedLayers::default());
        assert_eq!((ground.left()[0].project.clone(), take_over(&ground.layers).expect("none").len()), (None, 0));
    }

    #[test]
    fn a_beginning_or_ending_run_loses_nothing_to_a_sweep() {
        let ground = Ground::new();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    sweep(&ground.layers).expect("swept");
                }
            });
            for round in 0..300 {
                let layer = ground.begin();
                fs::write(layer.upper().join("MERGE_MSG"), format!("{round}\n")).expect("the layer is there");
                let finished = layer.finish();
                assert!(finished.left.is_none() && finished.told.is_empty(), "{finished:?}");
                assert_eq!(fs::read_to_string(ground.project.join(".git/MERGE_MSG")).expect("imported"), format!("{round}\n"));
            }
            is_done.store(true, Ordering::Relaxed);
            sweeper.join().expect("it did not fail");
        });
        assert_eq!(fs::read_dir(&ground.layers).expect("there").count(), 0);
    }
}
