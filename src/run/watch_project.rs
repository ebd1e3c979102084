//! Watches a project during a run: imports changes of its repository, and records every change of the files that host programs act on. Runs
//! in a thread that starts after the sandbox is made, because until then the process must have one thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use silo_base::sanitize;
use silo_guard::difference::Difference;
use silo_guard::git::config_paths::{self, Place};
use silo_guard::git::layer::{Finished, Layer};
use silo_guard::git::leftover_layers;
use silo_guard::nearby_scan::{self, NearbyScan};
use silo_guard::watch::Watch;
use silo_guard::{Guards, ScanOptions};

use super::error::Error;

/// Delay before the first round, which starts about 200 ms into the run.
const FIRST: Duration = Duration::from_millis(100);
/// Delay between two rounds.
const BETWEEN: Duration = Duration::from_millis(300);
/// A round takes at most one part in this many of the time.
const SHARE: u32 = 10;

/// The watched parts of a project.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// Project directory.
    pub project: PathBuf,
    /// Home directory of the user.
    pub user_home: PathBuf,
    /// Recipe directory of the project, if silo reads one.
    pub recipes: Option<&'static str>,
    /// Paths that git acts on.
    pub named: Vec<(PathBuf, String)>,
    /// Paths in subdirectories to compare, each with the program that acts on it.
    pub nested: Vec<(PathBuf, String)>,
    /// Directories that the sandbox replaces by its own.
    pub excluded: Vec<PathBuf>,
    /// Maximum number of watched paths.
    pub most: usize,
}

impl Guarded {
    /// Records the current state of the project.
    pub fn record_state(&self) -> Result<Guards, silo_guard::Error> {
        silo_guard::scan_project(&self.project, &self.scan_options())
    }

    fn scan_options(&self) -> ScanOptions<'_> {
        ScanOptions { recipes: self.recipes, named: &self.named, nested: &self.nested, excluded: &self.excluded, most: self.most }
    }
}

/// A watched project.
pub struct Guarding {
    guarded: Guarded,
    kept: Option<Kept>,
    running: Option<(Sender<()>, JoinHandle<Kept>)>,
}

/// State that moves to the thread and back.
struct Kept {
    watch: Option<Watch>,
    layer: Option<Layer>,
}

/// Result of the watch.
#[derive(Debug, Default)]
pub struct Ended {
    /// Changed files that host programs act on.
    pub differences: BTreeMap<PathBuf, Difference>,
    /// Refs of the repository that the import set or removed.
    pub brought: Vec<String>,
    /// Repository changes that were not imported unchanged.
    pub repository: Vec<String>,
    /// Errors of the watch.
    pub failed: Vec<String>,
}

impl Guarding {
    /// Prepares the watch of a writable project.
    pub fn new(guarded: Guarded, start: Option<Guards>, layer: Option<Layer>) -> Guarding {
        let watch = start.map(|start| Watch::new(&guarded.project, start));
        Guarding { guarded, kept: Some(Kept { watch, layer }), running: None }
    }

    /// Starts the thread, after the sandbox is made. If the thread cannot start, `end` does all the work.
    pub fn start(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let (stop, stopped) = mpsc::channel();
        let (give, take) = mpsc::channel::<Kept>();
        let guarded = self.guarded.clone();
        let work = move || {
            // The creator of the thread sends this.
            let mut kept = take.recv().unwrap_or(Kept { watch: None, layer: None });
            let mut pause = FIRST;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                if let Some(layer) = &mut kept.layer {
                    layer.round();
                }
                if let Some(watch) = &mut kept.watch {
                    // An error now is reported at the end.
                    let _ = watch.tick(&guarded.scan_options());
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

    /// Does a last round after the sandbox has ended, and imports the rest.
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
                    sanitize::path(&self.guarded.project)
                )
            });
            ended.repository.extend(unlayered);
            let mut finished = layer.finish();
            ended.brought = std::mem::take(&mut finished.brought);
            report_end(finished, &mut ended.repository);
        }
        let Some(watch) = watch else { return ended };
        // Git's configuration may name more files by now; the host can have changed it.
        let place = Place { project: &self.guarded.project, home: &self.guarded.user_home, most: self.guarded.most };
        self.guarded.named.extend(config_paths::named(place).unwrap_or_default().obeyed);
        let nearby = nearby_scan::scan_nearby(&self.guarded.project);
        self.guarded.nested.extend(nested(&nearby));
        self.guarded.named.extend(of_repositories(nearby));
        let (differences, failed) = watch.finish(&self.guarded.scan_options());
        ended.differences = differences;
        ended.failed.extend(failed.map(|error| silo_base::error_chain::of(&error).join(": ")));
        ended
    }
}

/// Lists the files of a project on which programs of this machine act.
pub fn obeyed(project: &Path, user_home: &Path, most: usize) -> Result<Guards, Error> {
    let named = config_paths::named(Place { project, home: user_home, most })?;
    let nearby = nearby_scan::scan_nearby(project);
    let guarded = Guarded {
        project: project.to_owned(),
        nested: nested(&nearby).collect(),
        user_home: user_home.to_owned(),
        recipes: None,
        named: named.obeyed.into_iter().chain(of_repositories(nearby)).collect(),
        excluded: Vec::new(),
        most,
    };
    Ok(guarded.record_state()?)
}

/// Files of the list in subdirectories of the project.
pub fn nested(nearby: &NearbyScan) -> impl Iterator<Item = (PathBuf, String)> {
    nearby.nested.iter().map(|(path, of)| (path.clone(), (*of).to_owned()))
}

/// Files that git acts on in repositories in subdirectories of the project.
pub fn of_repositories(nearby: NearbyScan) -> impl Iterator<Item = (PathBuf, String)> {
    nearby.obeyed.into_iter().map(|path| (path, "git, in a repository of its own".to_owned()))
}

/// Imports the repository layers that killed runs left in a project.
pub fn recover(layers: &Path, project: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in leftover_layers::of_project(layers, project) {
        report_end(layer.finish(), &mut lines);
    }
    lines
}

fn report_end(finished: Finished, lines: &mut Vec<String>) {
    lines.extend(finished.told);
    lines.extend(finished.left.map(|left| format!("the rest of it is in {}; the next run tries again", sanitize::path(&left))));
}
