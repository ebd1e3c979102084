//! Resources held during a run, and the reports at its end.

use std::path::{Path, PathBuf};

use silo_store::flock::ImageLock;

use silo_base::home::{Home, PROJECT_LOCK};
use silo_base::sanitize;
use silo_guard::difference;
use silo_insight::runs::{Failed, Open};
use silo_launch::Exit;
use silo_launch::open_checked::OpenedPath;
use silo_launch::spec::Access;
use silo_model::config::project::ProjectFiles;
use silo_tool::kept_dirs::InUse;
use silo_tool::trust::{self, RunRecord};

use super::error::Error;
use super::mounts::MountedProject;
use super::network::{self, LearnRun};
use super::reviewing::Reviewing;

/// Holds everything that a launch spec names: images, persistent directories, file descriptors. Drop it after the program has ended.
#[derive(Default)]
pub struct Leases {
    /// Protect images from collection.
    pub(super) image_locks: Vec<ImageLock>,
    /// Protects persistent directories from being emptied.
    pub(super) in_use: Option<InUse>,
    /// Open descriptors, so that the inode numbers in the spec are not reused.
    pub(super) opened: Vec<OpenedPath>,
    /// The project, compared at the end.
    pub(super) project: Option<MountedProject>,
    /// Marks the project as writable by a tool, until its files are compared at the end.
    pub(super) run: Option<RunRecord>,
    /// Records the reached hosts of `--learn`.
    pub(super) lesson: Option<LearnRun>,
    /// Log file of the network.
    pub(super) record: Option<PathBuf>,
    /// The record of the run.
    pub(super) account: Option<Open>,
}

impl Leases {
    /// Before the run: records the project's trusted files, and marks the directory that the program can write.
    pub fn begin(&mut self, home: &Home, files: &ProjectFiles) -> Result<(), Error> {
        match &self.project {
            // In review mode nothing reaches the host's files.
            Some(shown) if shown.access == Access::ReadWrite && shown.review.is_none() => {
                self.run = Some(trust::begin_run(home, files, &shown.path)?)
            }
            _ => drop(trust::remember(home, files)?),
        }
        Ok(())
    }

    /// Returns the project and its access, if it is shown.
    pub fn project(&self) -> Option<(&Path, Access)> {
        self.project.as_ref().map(|shown| (shown.path.as_path(), shown.access))
    }

    /// Takes the record of the run, which the end completes.
    pub fn account(&mut self, account: Open) {
        self.account = Some(account);
    }

    /// Writes the record of the run, when the program has started.
    pub fn recorded(&mut self, files: &ProjectFiles) {
        if let Some(account) = &mut self.account {
            let lock = self.project.as_ref().filter(|shown| shown.path == files.root()).and_then(|_| files.digest(PROJECT_LOCK));
            account.started(lock.map(|lock| lock.to_string()));
        }
    }

    /// Starts the watch of the project. Call it after the program has started, because it makes a thread.
    pub fn started(&mut self) {
        let Some(project) = &mut self.project else { return };
        if let Some(guarding) = &mut project.guarding {
            guarding.start();
        }
        if let Some(review) = &mut project.review {
            review.start();
        }
    }

    /// Returns the review of the project, if the run had one.
    pub fn take_review(&mut self) -> Option<Reviewing> {
        self.project.as_mut()?.review.take()
    }

    /// After the run: completes its record, and reports changed files that host programs act on, reached hosts, and errors, each as one
    /// text. `exit` has the exit code of silo if the program did not run to its end.
    pub fn close(mut self, home: &Home, exit: Result<Exit, Failed>) -> Vec<String> {
        network::prune_records(home, self.record.as_deref());
        let mut reports = Vec::new();
        let mut changed = (Vec::new(), Vec::new());
        if let Some(project) = self.project {
            let (texts, files, refs) = compare(home, project);
            reports.extend(texts);
            changed = (files, refs);
        }
        if let Some(mut account) = self.account.take() {
            if let Some(log) = &self.record {
                account.reached(log);
            }
            account.changed(changed.0, changed.1);
            if let Err(error) = account.end(exit) {
                reports.push(format!("silo could not record this run: {}", silo_base::error_chain::of(&error).join(": ")));
            }
        }
        if let Some(lesson) = &self.lesson {
            reports.push(lesson.summary().unwrap_or_else(|error| {
                let what = "cannot summarize the reached hosts";
                format!("{what}: {}", silo_base::error_chain::of(&error).join(": "))
            }));
        }
        if let Some(Err(error)) = self.run.take().map(RunRecord::finish) {
            let what = "silo could not record the end of this run, so the next run in this directory asks for approval";
            reports.push(format!("{what}: {}", silo_base::error_chain::of(&error).join(": ")));
        }
        reports
    }
}

/// Ends the watch of the project. Returns the reports, the changed files that host programs act on, and the imported refs.
fn compare(home: &Home, project: MountedProject) -> (Vec<String>, Vec<String>, Vec<String>) {
    let Some(guarding) = project.guarding else { return Default::default() };
    let ended = guarding.end();
    let mut reports = Vec::new();
    let files = difference::lines(&ended.differences);
    if !ended.differences.is_empty() {
        let paths: Vec<PathBuf> = ended.differences.keys().cloned().collect();
        let noted = trust::came_inside(home, &project.path, &paths);
        let what = "changed while a sandbox could write the project; programs of this machine act on these files without asking, \
            so check them before you continue in";
        reports.push(format!("{what} {}\n  {}", sanitize::path(&project.path), files.join("\n  ")));
        if let Err(error) = noted {
            let what = "silo could not record that these changed during a run, and will not ask about its own files among them";
            reports.push(format!("{what}: {}", silo_base::error_chain::of(&error).join(": ")));
        }
    }
    if !ended.repository.is_empty() {
        reports.push(format!("of the repository in {}\n  {}", sanitize::path(&project.path), ended.repository.join("\n  ")));
    }
    reports.extend(ended.failed);
    (reports, files, ended.brought)
}
