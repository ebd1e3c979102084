//! What is needed and by whom: installed tools, projects that are still there, and running sandboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use silo_store::digest::{Digest, LayerId};
use silo_store::gc::Keeper;
use silo_store::layout::Store;
use silo_store::lock::{self, ExclusiveLock, Holder};
use silo_store::roots::{self, Root, RootName};

use crate::home::Home;
use crate::image::{self, ImageId};

use super::projects;

/// The kind of an installed tool's root.
const TOOL: &str = "tool";
/// The kind of a language server's root.
pub const SERVER: &str = "server";
/// How long those who use the store for a moment are waited for; a sandbox that starts needs milliseconds.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Why it is not known what is needed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A root cannot be read, so what it keeps is unknown.
    #[error(transparent)]
    Root(#[from] roots::RootError),
    /// A project's record cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// It is not known what is kept for projects.
    #[error(transparent)]
    Kept(#[from] super::kept::Error),
    /// The images could not be listed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The store could not be locked.
    #[error(transparent)]
    Lock(#[from] silo_store::path_error::PathError),
    /// Somebody builds or verifies.
    #[error("the store is in use by {who}")]
    Busy {
        /// Their commands and numbers.
        who: String,
    },
}

/// Returns the store's lock for collecting, or says who has it.
pub fn exclude(store: &Store, patience: Duration) -> Result<ExclusiveLock, Error> {
    match lock::exclude_within(store, patience)? {
        Some(exclusive) => Ok(exclusive),
        None => Err(Error::Busy { who: told(&lock::users(store)) }),
    }
}

/// Returns everything that is needed, with who needs it.
///
/// Whoever is to remove the rest holds the store's lock; without it an install may be about to need something.
pub fn keepers(home: &Home, store: &Store, made_of: &MadeOf) -> Result<Vec<Keeper>, Error> {
    let mut keepers = Vec::new();
    for (name, root) in roots::list(store)? {
        keepers.extend(why(home, &name)?.map(|why| Keeper { why, root }));
    }
    for (image, holders) in lock::pins(store)? {
        let root = Root { images: [image].into(), layers: made_of.get(&image).cloned().unwrap_or_default() };
        keepers.push(Keeper { why: format!("the running sandbox of {}", told(&holders)), root });
    }
    Ok(keepers)
}

/// Which layers each image has.
pub type MadeOf = BTreeMap<Digest, BTreeSet<LayerId>>;

/// Reads which layers each image has; one whose configuration is broken has none that are known.
pub fn made_of(home: &Home) -> Result<MadeOf, Error> {
    let layers = |id: ImageId| image::get(home, id).ok().flatten().map(|image| image.layer_set()).unwrap_or_default();
    Ok(image::list(home)?.into_iter().map(|id| (id.digest(), layers(id))).collect())
}

/// Says who needs a root, or `None` where nobody does any more.
///
/// A root is written before the record it stands for and removed after it; while the store is locked nobody is between
/// the two, so a root without a record is what a killed command left.
fn why(home: &Home, name: &RootName) -> Result<Option<String>, Error> {
    Ok(match name.kind() {
        TOOL => home.tool(name.name()).exists().then(|| format!("tool {}", name.name())),
        // A server is needed as long as its tool is: named by the tool, and the project that it is for.
        SERVER => match name.name().split_once('.') {
            None => home.tool(name.name()).exists().then(|| format!("the language server of {}", name.name())),
            Some((tool, id)) => {
                let project = projects::by_id(home, id)?.filter(|project| !project.is_orphaned());
                project.map(|project| format!("the language server of {tool} in {}", project.path.display()))
            }
        },
        projects::KIND => {
            let project = projects::by_id(home, name.name())?.filter(|project| !project.is_orphaned());
            project.map(|project| format!("project {}", project.path.display()))
        }
        kind => Some(format!("{kind} {}", name.name())),
    })
}

/// Names processes by their commands and numbers.
fn told(holders: &[Holder]) -> String {
    let one = |holder: &Holder| {
        let program = holder.command.first().map(|program| Path::new(program).file_name().unwrap_or_default().to_string_lossy());
        let words = program.into_iter().map(String::from).chain(holder.command.iter().skip(1).take(3).cloned());
        let words: Vec<String> = words.map(|word| word.chars().filter(|c| !c.is_control()).take(40).collect()).collect();
        if words.is_empty() { format!("process {}", holder.pid) } else { format!("`{}` (process {})", words.join(" "), holder.pid) }
    };
    if holders.is_empty() {
        // The system does not tell, or it has just ended.
        return "another process".to_owned();
    }
    holders.iter().map(one).collect::<Vec<_>>().join(", ")
}
