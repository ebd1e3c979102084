//! What must be held while a run goes on, and what is reported at its end.

use std::path::PathBuf;

use silo_store::lock::Pin;

use crate::config::project::ProjectFiles;
use crate::guard::difference;
use crate::home::Home;
use crate::launch::opened::Opened;
use crate::launch::spec::Access;
use crate::plain;
use crate::tool::kept::InUse;
use crate::tool::trust::{self, RunRecord};

use super::error::Error;
use super::mounts::Shown;
use super::network::{self, Lesson};

/// Keeps what a launch spec names: images, kept directories and descriptors. To be dropped when the program has ended.
#[derive(Default)]
pub struct Leases {
    /// Keep images from being collected.
    pub(super) pins: Vec<Pin>,
    /// Keeps the kept directories from being emptied.
    pub(super) in_use: Option<InUse>,
    /// Keep the inode numbers that the spec names from being reused.
    pub(super) opened: Vec<Opened>,
    /// The project, to be compared at the end.
    pub(super) project: Option<Shown>,
    /// Marks the project as written until its files have been compared at the end.
    pub(super) run: Option<RunRecord>,
    /// The names that are reached, where everything is granted.
    pub(super) lesson: Option<Lesson>,
    /// The file that the network is recorded in.
    pub(super) record: Option<PathBuf>,
}

impl Leases {
    /// Records, before the run, the files of the project that count, and marks the directory that the program can write.
    pub fn begin(&mut self, home: &Home, files: &ProjectFiles) -> Result<(), Error> {
        match &self.project {
            Some(shown) if shown.access == Access::ReadWrite => self.run = Some(trust::begin_run(home, files, &shown.path)?),
            _ => drop(trust::remember(home, files)?),
        }
        Ok(())
    }

    /// Begins to watch over the project. To be called when the program runs: a thread is made for it.
    pub fn started(&mut self) {
        if let Some(guarding) = self.project.as_mut().and_then(|project| project.guarding.as_mut()) {
            guarding.start();
        }
    }

    /// Reports, after the run, what changed that the host obeys, what was reached, and what failed of that; one text for each.
    pub fn close(mut self, home: &Home) -> Vec<String> {
        network::prune_records(home, self.record.as_deref());
        let mut reports = Vec::new();
        if let Some(project) = self.project {
            reports.extend(compare(home, project));
        }
        if let Some(lesson) = &self.lesson {
            reports.push(lesson.summary().unwrap_or_else(|error| {
                let what = "the names that were reached could not be summed up";
                format!("{what}: {}", crate::causes::of(&error).join(": "))
            }));
        }
        if let Some(Err(error)) = self.run.take().map(RunRecord::finish) {
            let what = "silo could not note that this run has ended, so the next one in this directory asks for approval";
            reports.push(format!("{what}: {}", crate::causes::of(&error).join(": ")));
        }
        reports
    }
}

/// Ends the watch over the project, and describes what is not as it was.
fn compare(home: &Home, project: Shown) -> Vec<String> {
    let Some(guarding) = project.guarding else { return Vec::new() };
    let ended = guarding.end();
    let mut reports = Vec::new();
    if !ended.differences.is_empty() {
        let paths: Vec<PathBuf> = ended.differences.keys().cloned().collect();
        let noted = trust::came_inside(home, &project.path, &paths);
        let what = "changed in the project while a sandbox could write it; programs of this machine obey these files without asking, \
            so look at them before you go on in";
        let lines = difference::lines(&ended.differences);
        reports.push(format!("{what} {}\n  {}", plain::path(&project.path), lines.join("\n  ")));
        if let Err(error) = noted {
            let what = "silo could not note that these came while a sandbox ran, and will not ask about those of its own among them";
            reports.push(format!("{what}: {}", crate::causes::of(&error).join(": ")));
        }
    }
    if !ended.repository.is_empty() {
        reports.push(format!("of the repository in {}\n  {}", plain::path(&project.path), ended.repository.join("\n  ")));
    }
    reports.extend(ended.failed);
    reports
}
