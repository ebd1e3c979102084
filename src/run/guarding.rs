//! Watches over a project while a run goes on: takes over what is made in its repository, and notes every change of what the
//! host obeys. In a thread of its own, which begins when the sandbox is made: before that this process must have one thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::git::layer::{Finished, Layer};
use crate::git::left;
use crate::git::named::{self, Place};
use crate::guard::difference::Difference;
use crate::guard::nearby::{self, Nearby};
use crate::guard::watch::Watch;
use crate::guard::{self, Asked, Guards};
use crate::plain;

/// Before the first look: a run is 200 ms old when the watch begins.
const FIRST: Duration = Duration::from_millis(100);
/// Between two looks.
const BETWEEN: Duration = Duration::from_millis(300);
/// Of the time, a look may take this part.
const SHARE: u32 = 10;

/// What of a project is guarded.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// The project.
    pub project: PathBuf,
    /// The user's home directory.
    pub user_home: PathBuf,
    /// The project's directory of recipes, where silo reads one.
    pub recipes: Option<&'static str>,
    /// Paths that git obeys.
    pub named: Vec<(PathBuf, String)>,
    /// Paths in its directories that are compared, each with the program that obeys it.
    pub nested: Vec<(PathBuf, String)>,
    /// Directories of it that the sandbox has of its own.
    pub excluded: Vec<PathBuf>,
    /// Most paths.
    pub most: usize,
}

impl Guarded {
    /// Looks at the project as it is now.
    pub fn look(&self) -> Result<Guards, guard::Error> {
        guard::look(&self.project, &self.asked())
    }

    fn asked(&self) -> Asked<'_> {
        Asked { recipes: self.recipes, named: &self.named, nested: &self.nested, excluded: &self.excluded, most: self.most }
    }
}

/// A project that is watched over.
pub struct Guarding {
    guarded: Guarded,
    kept: Option<Kept>,
    running: Option<(Sender<()>, JoinHandle<Kept>)>,
}

/// What travels to the thread and back.
struct Kept {
    watch: Option<Watch>,
    layer: Option<Layer>,
}

/// What a run has left.
#[derive(Debug, Default)]
pub struct Ended {
    /// What the host obeys and is not as it was.
    pub differences: BTreeMap<PathBuf, Difference>,
    /// What of the repository was not taken over as it was.
    pub repository: Vec<String>,
    /// What could not be found out.
    pub failed: Vec<String>,
}

impl Guarding {
    /// Prepares to watch over a project that a run may write.
    pub fn new(guarded: Guarded, start: Option<Guards>, layer: Option<Layer>) -> Guarding {
        let watch = start.map(|start| Watch::new(&guarded.project, start));
        Guarding { guarded, kept: Some(Kept { watch, layer }), running: None }
    }

    /// Begins, when the sandbox is there. Without another thread everything is done at the end.
    pub fn start(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let (stop, stopped) = mpsc::channel();
        let (give, take) = mpsc::channel::<Kept>();
        let guarded = self.guarded.clone();
        let work = move || {
            // Sent by whoever made this thread.
            let mut kept = take.recv().unwrap_or(Kept { watch: None, layer: None });
            let mut pause = FIRST;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                if let Some(layer) = &mut kept.layer {
                    layer.round();
                }
                if let Some(watch) = &mut kept.watch {
                    // What cannot be looked at now is told at the end.
                    let _ = watch.tick(&guarded.asked());
                }
                pause = BETWEEN.max(began.elapsed() * SHARE);
            }
            kept
        };
        match thread::Builder::new().name("silo-guard".to_owned()).spawn(work) {
            Ok(thread) => match give.send(kept) {
                Ok(()) => self.running = Some((stop, thread)),
                Err(back) => self.kept = Some(back.0),
            },
            Err(_) => self.kept = Some(kept),
        }
    }

    /// Looks a last time, when nothing of the sandbox is left, and takes over what is left.
    pub fn end(mut self) -> Ended {
        let mut ended = Ended::default();
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            match thread.join() {
                Ok(kept) => self.kept = Some(kept),
                Err(_) => ended.failed.push("the project could not be watched to the end".to_owned()),
            }
        }
        let Some(Kept { watch, layer }) = self.kept.take() else { return ended };
        if let Some(layer) = layer {
            let unlayered = layer.is_unlayered().then(|| {
                format!(
                    "the repository in {} was read-only inside: no layer can be mounted over it here",
                    plain::path(&self.guarded.project)
                )
            });
            ended.repository.extend(unlayered);
            told(layer.finish(), &mut ended.repository);
        }
        let Some(watch) = watch else { return ended };
        // What git names by now counts, too: the host may have changed it.
        let place = Place { project: &self.guarded.project, home: &self.guarded.user_home, most: self.guarded.most };
        self.guarded.named.extend(named::named(place).unwrap_or_default().obeyed);
        let nearby = nearby::look(&self.guarded.project);
        self.guarded.nested.extend(nested(&nearby));
        self.guarded.named.extend(of_repositories(nearby));
        let (differences, failed) = watch.finish(&self.guarded.asked());
        ended.differences = differences;
        ended.failed.extend(failed.map(|error| crate::causes::of(&error).join(": ")));
        ended
    }
}

/// Files of the list in directories of the project.
pub fn nested(nearby: &Nearby) -> impl Iterator<Item = (PathBuf, String)> {
    nearby.nested.iter().map(|(path, of)| (path.clone(), (*of).to_owned()))
}

/// What git obeys of repositories in directories of the project.
pub fn of_repositories(nearby: Nearby) -> impl Iterator<Item = (PathBuf, String)> {
    nearby.obeyed.into_iter().map(|path| (path, "git, in a repository of its own".to_owned()))
}

/// Takes over what a silo that was killed has left of runs in a project.
pub fn recover(layers: &Path, project: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in left::of_project(layers, project) {
        told(layer.finish(), &mut lines);
    }
    lines
}

fn told(finished: Finished, lines: &mut Vec<String>) {
    lines.extend(finished.told);
    lines.extend(finished.left.map(|left| format!("what is left of it is in {} and is tried again at the next run", plain::path(&left))));
}
