//! What must be held while a run goes on, and what is reported at its end.

use std::path::{Path, PathBuf};

use silo_store::lock::Pin;

use crate::home::Home;
use crate::launch::opened::Opened;
use crate::launch::spec::Access;
use crate::plain;
use crate::tool::kept::InUse;
use crate::tool::trust;

use super::error::Error;
use super::mounts::Shown;
use super::network::{self, Lesson};
use super::obeyed;

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
    /// The names that are reached, where everything is granted.
    pub(super) lesson: Option<Lesson>,
    /// The file that the network is recorded in.
    pub(super) record: Option<PathBuf>,
}

impl Leases {
    /// Reports, after the run, what changed that the host obeys and what was reached; one text for each.
    pub fn close(self, home: &Home) -> Result<Vec<String>, Error> {
        network::prune_records(home, self.record.as_deref());
        let mut reports = Vec::new();
        if let Some(project) = &self.project {
            reports.extend(compare(home, project)?);
        }
        if let Some(lesson) = &self.lesson {
            reports.push(lesson.summary()?);
        }
        Ok(reports)
    }
}

/// Finds what has come during the run that the host obeys by itself.
fn compare(home: &Home, project: &Shown) -> Result<Option<String>, Error> {
    if project.access == Access::ReadOnly {
        return Ok(None);
    }
    let mut new = obeyed::look(&project.path, project.recipes).new_since(&project.obeyed);
    // The place of an excluded directory is made by silo itself, and nothing inside can put anything there.
    new.retain(|path| !project.excluded.iter().any(|(dir, _)| path.starts_with(dir)));
    if new.is_empty() {
        return Ok(None);
    }
    trust::came_inside(home, &project.path, &new)?;
    Ok(Some(described(&project.path, &new)))
}

fn described(project: &Path, new: &[PathBuf]) -> String {
    // The program inside chose the names.
    let names: Vec<String> = new.iter().map(|path| path.to_string_lossy().escape_debug().to_string()).collect();
    let what = "programs of this machine obey without asking: look at it before you go on in";
    format!("new in the project, {what} {}\n  {}", plain::path(project), names.join("\n  "))
}
