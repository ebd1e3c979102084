//! The GC root set: objects needed by installed tools, existing projects and running sandboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::{self, ExclusiveLock, Holder};
use silo_store::gc::Keeper;
use silo_store::gc_roots::{self, Root, RootName};
use silo_store::layout::Store;

use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};

use super::projects;
use super::root_name;

/// Kind of the GC root of an installed tool.
pub const TOOL: &str = "tool";
/// Kind of the GC root of a language server.
pub const SERVER: &str = "server";
/// Default wait for short-time users of the store; a starting sandbox needs it for milliseconds.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Error of reading the GC root set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A GC root cannot be read.
    #[error(transparent)]
    Root(#[from] gc_roots::RootError),
    /// A project's record cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The kept directories cannot be read.
    #[error(transparent)]
    Kept(#[from] super::kept_dirs::Error),
    /// The images could not be listed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The store could not be locked.
    #[error(transparent)]
    Lock(#[from] silo_store::path_error::PathError),
    /// Another process builds or verifies.
    #[error("the store is in use by {who}")]
    Busy {
        /// Commands and process ids.
        who: String,
    },
}

/// Takes the store's exclusive lock, or returns an error that names its users.
pub fn exclude(store: &Store, patience: Duration) -> Result<ExclusiveLock, Error> {
    match flock::exclude_within(store, patience)? {
        Some(exclusive) => Ok(exclusive),
        None => Err(Error::Busy { who: describe(&flock::users(store)) }),
    }
}

/// Returns all GC roots with their reasons.
///
/// The caller must hold the store's exclusive lock before it removes anything else: without it, an install may be about to need an object.
pub fn keepers(home: &Home, store: &Store, made_of: &MadeOf) -> Result<Vec<Keeper>, Error> {
    let mut keepers = Vec::new();
    for (name, root) in gc_roots::list(store)? {
        keepers.extend(why(home, &name)?.map(|why| Keeper { why, root }));
    }
    for (image, holders) in flock::image_locks(store)? {
        let root = Root { images: [image].into(), layers: made_of.get(&image).cloned().unwrap_or_default() };
        keepers.push(Keeper { why: format!("the running sandbox of {}", describe(&holders)), root });
    }
    Ok(keepers)
}

/// The layers of each image.
pub type MadeOf = BTreeMap<Digest, BTreeSet<LayerId>>;

/// Reads the layers of each image; an image with a broken configuration has none.
pub fn made_of(home: &Home) -> Result<MadeOf, Error> {
    let layers = |id: ImageId| image::get(home, id).ok().flatten().map(|image| image.layer_set()).unwrap_or_default();
    Ok(image::list(home)?.into_iter().map(|id| (id.digest(), layers(id))).collect())
}

/// Returns the reason for a GC root, or `None` if it is stale.
///
/// A GC root is written before its record and removed after it. While the store is locked no process is between the two, so a root without
/// a record is left from a killed command.
fn why(home: &Home, name: &RootName) -> Result<Option<String>, Error> {
    let kind = name.kind();
    // One of a newer version stays.
    let Some((record, arch)) = root_name::split(name) else { return Ok(Some(format!("{kind} {}", name.name()))) };
    let home = &home.of_platform(arch);
    let why = match kind {
        TOOL => home.tool(record).exists().then(|| format!("tool {record}")),
        // The root of a language server is named after its tool, and also after its project if it has one. It is needed while they exist.
        SERVER => match record.split_once('.') {
            None => home.tool(record).exists().then(|| format!("the language server of {record}")),
            Some((tool, id)) => {
                let project = projects::by_id(home, id)?.filter(|project| !project.is_orphaned());
                project.map(|project| format!("the language server of {tool} in {}", project.path.display()))
            }
        },
        projects::KIND => {
            let project = projects::by_id(home, record)?.filter(|project| !project.is_orphaned());
            project.map(|project| format!("project {}", project.path.display()))
        }
        kind => Some(format!("{kind} {record}")),
    };
    let platform = if arch == Arch::host() { String::new() } else { format!(" for {}", arch.platform()) };
    Ok(why.map(|why| why + &platform))
}

/// Lists processes by command and process id.
fn describe(holders: &[Holder]) -> String {
    let one = |holder: &Holder| {
        let program = holder.command.first().map(|program| Path::new(program).file_name().unwrap_or_default().to_string_lossy());
        let words = program.into_iter().map(String::from).chain(holder.command.iter().skip(1).take(3).cloned());
        let words: Vec<String> = words.map(|word| word.chars().filter(|c| !c.is_control()).take(40).collect()).collect();
        if words.is_empty() { format!("process {}", holder.pid) } else { format!("`{}` (process {})", words.join(" "), holder.pid) }
    };
    if holders.is_empty() {
        // The system does not give the user of the lock, or the process has just ended.
        return "another process".to_owned();
    }
    holders.iter().map(one).collect::<Vec<_>>().join(", ")
}
