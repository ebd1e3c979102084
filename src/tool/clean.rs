//! Removes the data of projects, or all of Silo's data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use silo_store::digest::Digest;
use silo_store::flock;
use silo_store::gc::{Candidate, Object};
use silo_store::layout::Store;
use silo_store::path_error::PathError;
use silo_store::removal::remove_tree;
use silo_store::usage::LinkCounts;

use silo_base::home::Home;
use silo_review::stored_reviews::{self, State, StoredReview};

use super::Context;
use super::collect::{self, Collected, GcSelection};
use super::gc_roots;
use super::kept_dirs;
use super::projects::{self, Project};

/// Error of removing data.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A project's record could not be read or removed.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The kept directories could not be read.
    #[error(transparent)]
    Kept(#[from] kept_dirs::Error),
    /// Collecting a project's images failed.
    #[error(transparent)]
    Collect(#[from] collect::Error),
    /// The store is in use, or could not be locked.
    #[error(transparent)]
    Keep(#[from] gc_roots::Error),
    /// Sandboxes are running.
    #[error("{count} images are in use by running sandboxes")]
    Running {
        /// The number of their images.
        count: usize,
    },
    /// An operation on a path failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A stored review could not be inspected or removed, or is in use.
    #[error(transparent)]
    Review(#[from] silo_review::Error),
}

/// Data that only these projects need.
#[derive(Clone, Debug, Default)]
pub struct ProjectData {
    /// Images and layers.
    pub choice: GcSelection,
    /// Number of their images that stay because something else needs them.
    pub shared: usize,
    /// Counts and sizes.
    pub measured: Collected,
}

/// Finds images and layers of these projects that no tool, other project or running sandbox needs.
pub fn own(context: &Context<'_>, projects: &[Project]) -> Result<ProjectData, Error> {
    let ids: BTreeSet<Digest> = projects.iter().flat_map(Project::images).map(|id| id.digest()).collect();
    let made_of = gc_roots::made_of(context.home)?;
    let theirs: BTreeSet<Object> = ids.iter().flat_map(|id| made_of.get(id)).flatten().map(|layer| Object::Layer(*layer)).collect();
    let exclusive = gc_roots::exclude(context.store, gc_roots::PATIENCE)?;
    let names: BTreeSet<String> = projects.iter().map(|project| format!("project {}", project.path.display())).collect();
    let mut keepers = gc_roots::keepers(context.home, context.store, &made_of)?;
    keepers.retain(|keeper| !names.contains(&keeper.why));
    let unneeded = silo_store::gc::unneeded(context.store, &exclusive, &keepers, &made_of).map_err(collect::Error::from)?;
    drop(exclusive);
    let going: BTreeSet<Digest> = unneeded.iter().filter_map(|candidate| image_of(candidate).filter(|id| ids.contains(id))).collect();
    // A layer of an image that stays is not removed, even if the image is unneeded.
    let stays: BTreeSet<Object> =
        made_of.iter().filter(|(id, _)| !going.contains(id)).flat_map(|(_, layers)| layers).map(|layer| Object::Layer(*layer)).collect();
    let is_theirs = |candidate: &Candidate| match candidate.thing {
        Object::Image(id) => going.contains(&id),
        Object::Layer(_) => theirs.contains(&candidate.thing) && !stays.contains(&candidate.thing),
    };
    let choice = GcSelection { things: unneeded.into_iter().filter(is_theirs).collect(), downloads: Vec::new() };
    let measured = collect::measured(context, &choice)?;
    let here = ids.iter().filter(|id| made_of.contains_key(id)).count();
    Ok(ProjectData { choice, shared: here - going.len(), measured })
}

fn image_of(candidate: &Candidate) -> Option<Digest> {
    match candidate.thing {
        Object::Image(id) => Some(id),
        Object::Layer(_) => None,
    }
}

/// Removes the records, reviews and kept directories of projects, and the images and layers found by [`own`].
pub fn clean(context: &Context<'_>, projects: &[Project], own: &ProjectData) -> Result<Collected, Error> {
    let shared = flock::share(context.store)?;
    let owners = kept_dirs::owners(context.home)?;
    let mut reviews = stored_reviews::Removed::default();
    for project in projects {
        let removed = stored_reviews::remove_of(&context.home.reviews(), &project.path)?;
        reviews.reviews += removed.reviews;
        reviews.bytes += removed.bytes;
        // Other projects may use storage with an explicit id; only the last one is recorded.
        let may_be_shared = |id: &str| kept_dirs::is_named(id) && !project.path.exists();
        for owner in owners.iter().filter(|owner| owner.path == project.path && !may_be_shared(&owner.id)) {
            let room = context.home.kept_project(&owner.id);
            // A running sandbox may be writing there.
            let _ours = kept_dirs::take(&room).ok_or(Error::Running { count: 1 })?;
            remove_tree(&room)?;
        }
        projects::remove(context.home, context.store, &shared, &project.path)?;
    }
    drop(shared);
    let mut collected = collect::remove(context, &own.choice, None, gc_roots::PATIENCE)?;
    collected.reviews += reviews.reviews;
    collected.bytes += reviews.bytes;
    Ok(collected)
}

/// Removes all of Silo's directory, unless it is in use; returns true if it existed.
///
/// The directory is renamed first. So a kill leaves either everything, or a renamed rest that the next call removes.
pub fn reset(home: &Home) -> Result<bool, Error> {
    let rest = home.discarded();
    remove_tree(&rest)?;
    if !home.root().exists() {
        return Ok(false);
    }
    let store = Store::open(home.root())?;
    let exclusive = gc_roots::exclude(&store, gc_roots::PATIENCE)?;
    let running = flock::image_locks(&store)?;
    if !running.is_empty() {
        return Err(Error::Running { count: running.len() });
    }
    // A home that is a symlink: the data are in its target.
    if let Ok(target) = fs::read_link(home.root()) {
        empty(home.root())?;
        drop(exclusive);
        let failed = |source| Error::File(PathError { doing: "remove", path: home.root().to_owned(), source });
        fs::remove_file(home.root()).map_err(failed)?;
        // The directory itself may be a mount point, or in a directory of another owner.
        drop(fs::remove_dir(home.root().parent().unwrap_or_else(|| Path::new("/")).join(target)));
        return Ok(true);
    }
    match fs::rename(home.root(), &rest) {
        Ok(()) => remove_tree(&rest)?,
        // A mount point, or a parent directory of another owner: empty the directory instead of removing it.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices) =>
        {
            empty(home.root())?;
        }
        Err(source) => return Err(Error::File(PathError { doing: "remove", path: home.root().to_owned(), source })),
    }
    drop(exclusive);
    Ok(true)
}

fn empty(dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::File(PathError { doing: "list", path: dir.to_owned(), source });
    for entry in fs::read_dir(dir).map_err(failed)? {
        remove_tree(&entry.map_err(failed)?.path())?;
    }
    Ok(())
}

/// Lists the projects with a record, a review or kept directories, by path.
pub fn known(home: &Home) -> Result<Vec<Project>, Error> {
    let mut all = projects::list(home)?;
    for owner in kept_dirs::owners(home)? {
        if all.iter().all(|project| project.path != owner.path) {
            let last_used = fs::metadata(home.kept_project(&owner.id)).map_or(0, |found| found.mtime());
            all.push(Project { path: owner.path, tools: BTreeMap::new(), last_used });
        }
    }
    for review in stored_reviews::list_all(&home.reviews())? {
        let Some(path) = review.project.filter(|path| review.state != State::Empty && all.iter().all(|project| project.path != *path))
        else {
            continue;
        };
        let used = review.last_used.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        all.push(Project { path, tools: BTreeMap::new(), last_used: i64::try_from(used).unwrap_or(i64::MAX) });
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Returns the reviews of projects.
pub fn reviews(home: &Home, projects: &[Project]) -> Result<Vec<StoredReview>, Error> {
    let is_theirs = |review: &StoredReview| projects.iter().any(|project| Some(&project.path) == review.project.as_ref());
    Ok(stored_reviews::list_all(&home.reviews())?.into_iter().filter(is_theirs).collect())
}

/// Returns the size of projects' kept directories: caches, private state, excluded directories.
pub fn kept_bytes(home: &Home, projects: &[Project]) -> Result<u64, Error> {
    let mut ledger = LinkCounts::default();
    let mut bytes = 0;
    for owner in kept_dirs::owners(home)?.into_iter().filter(|owner| projects.iter().any(|project| project.path == owner.path)) {
        bytes += ledger.add(&home.kept_project(&owner.id))?.fresh;
    }
    Ok(bytes)
}

/// Finds the known project at a path or in the nearest parent directory.
pub fn project_of(home: &Home, path: &Path) -> Result<Option<Project>, Error> {
    let mut known = known(home)?;
    // The deepest directory is the last.
    known.sort_by_key(|project| project.path.components().count());
    Ok(known.into_iter().rfind(|project| path.starts_with(&project.path)))
}
