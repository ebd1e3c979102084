//! Installing a tool: its lock, its image, its record, in this order; only the last makes it installed.

use silo_store::lock::{self as store_lock, SharedLock};
use silo_store::roots::{self, Root, RootName};

use crate::build::{self, Built, Target, Workshop};
use crate::event::Event;
use crate::image;
use crate::lock::{Lock, Package};
use crate::recipe::catalog::{self, Found, Origin};
use crate::system::Arch;

use super::Context;
use super::locking::{self, Resolving};
use super::record::{self, Installed};

/// Why a tool could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error(transparent)]
    Recipe(#[from] catalog::Error),
    /// It has no lock.
    #[error(transparent)]
    Lock(#[from] locking::Error),
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// Its record could not be read or written.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The store could not be locked or written.
    #[error("the layer store refused")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The lock holds another version than was asked for.
    #[error("{tool} {wanted} is not available: its lock has {available}")]
    Version {
        /// The tool.
        tool: String,
        /// The version asked for.
        wanted: String,
        /// The version that there is.
        available: String,
    },
    /// A locked file is on no mirror any more.
    #[error("{tool}: a locked package is on no mirror any more, and the snapshot archive does not have it either or is not known")]
    Gone {
        /// The tool.
        tool: String,
        /// Which, and where it was looked for.
        #[source]
        source: build::Error,
    },
}

/// What is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The tool.
    pub name: String,
    /// The version or the beginning of one, such as `3.13`.
    pub version: Option<String>,
    /// Whether a lock may be made.
    pub resolving: Resolving,
}

/// What an install did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The tool as it is installed now.
    pub tool: Installed,
    /// Whether anything changed.
    pub fresh: bool,
    /// Layers that were made, and not found.
    pub made: usize,
}

/// Installs a tool, or finds that it is installed already.
pub fn install(context: &Context<'_>, wish: &Wish) -> Result<Outcome, Error> {
    let found = catalog::find(context.places, &wish.name)?;
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let lock = locking::obtain(context, &found, wish.resolving)?;
    let mut version = check_version(&found, &lock, wish)?;
    let built = match build(context, &shared, &found, &lock) {
        Err(build::Error::Fetch(error)) if error.is_gone() => {
            let gone = build::Error::Fetch(error);
            if found.origin != Origin::BuiltIn || wish.resolving == Resolving::Frozen {
                return Err(Error::Gone { tool: wish.name.clone(), source: gone });
            }
            let text = format!("{}: its lock is older than what the mirrors keep; locking it anew from today's signed index", wish.name);
            (context.sink)(Event::Note { text });
            let lock = locking::make(context, &found)?;
            version = check_version(&found, &lock, wish)?;
            build(context, &shared, &found, &lock)?
        }
        other => other?,
    };
    let tool = Installed { name: wish.name.clone(), version, image: built.image };
    let fresh = record::get(context.home, &wish.name).ok().flatten().as_ref() != Some(&tool);
    if fresh {
        // First what keeps the layers from being collected, then what makes the tool installed.
        keep(context, &shared, &tool)?;
        record::put(context.home, &tool)?;
    }
    Ok(Outcome { tool, fresh, made: built.made })
}

fn build(context: &Context<'_>, shared: &SharedLock, found: &Found, lock: &Lock) -> Result<Built, build::Error> {
    let mirrors = std::cell::OnceCell::new();
    let shop = Workshop {
        home: context.home,
        store: context.store,
        lock: shared,
        transport: context.transport,
        mirrors: mirrors.get_or_init(|| context.mirrors()),
        program: &context.program,
        now: context.now,
        jobs: context.jobs,
        sink: context.sink,
        stop: context.stop,
        keep_failed: false,
    };
    let target = Target { recipe: &found.recipe, lock, project: None, frozen: false, anew: false };
    build::build(&shop, &[target]).remove(0)
}

fn check_version(found: &Found, lock: &Lock, wish: &Wish) -> Result<String, Error> {
    let available = version(found, lock);
    match &wish.version {
        Some(wanted) if !is_version(&available, wanted) => {
            Err(Error::Version { tool: wish.name.clone(), wanted: wanted.clone(), available })
        }
        _ => Ok(available),
    }
}

/// Removes a tool; returns whether it was installed.
pub fn uninstall(context: &Context<'_>, name: &str) -> Result<bool, Error> {
    let store = |source: Box<dyn std::error::Error + Send + Sync>| Error::Store(source);
    let shared = store_lock::share(context.store).map_err(|error| store(Box::new(error)))?;
    let was = record::remove(context.home, name)?;
    let root = root_name(name).map_err(store)?;
    roots::remove(context.store, &shared, &root).map_err(|error| store(Box::new(error)))?;
    Ok(was)
}

fn root_name(tool: &str) -> Result<RootName, Box<dyn std::error::Error + Send + Sync>> {
    Ok(RootName::new("tool", tool)?)
}

fn keep(context: &Context<'_>, shared: &SharedLock, tool: &Installed) -> Result<(), Error> {
    let image = image::get(context.home, tool.image).map_err(build::Error::Image)?;
    let root = Root { images: [tool.image.digest()].into(), layers: image.map(|image| image.layer_set()).unwrap_or_default() };
    let name = root_name(&tool.name).map_err(Error::Store)?;
    roots::put(context.store, shared, &name, &root).map_err(|error| Error::Store(Box::new(error)))
}

/// Returns the version that a lock gives a tool: the upstream part of its main package's.
pub fn version(found: &Found, lock: &Lock) -> String {
    let packages = lock.packages.get(&Arch::host());
    let package: Option<&Package> = packages.and_then(|packages| packages.get(&found.recipe.debian.version_of));
    package.map_or_else(|| "unknown".to_owned(), |package| upstream(&package.version))
}

/// Takes epoch and revision off a Debian version, and what marks a repackaged source.
fn upstream(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let version = version.rsplit_once('-').map_or(version, |(rest, _)| rest);
    version.split(['+', '~']).next().unwrap_or(version).to_owned()
}

/// Says whether `version` is `wanted` or begins with it, part by part.
fn is_version(version: &str, wanted: &str) -> bool {
    version.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_matched_part_by_part() {
        for (version, expect) in
            [("3.13.5-1", "3.13.5"), ("1:2.0~rc1-3", "2.0"), ("13.8+deb13u2", "13.8"), ("1.3.dfsg+really1.3.1-1", "1.3.dfsg")]
        {
            assert_eq!(upstream(version), expect);
        }
        for (version, wanted, expect) in [
            ("3.13.5", "3.13", true),
            ("3.13.5", "3", true),
            ("3.13.5", "3.1", false),
            ("3.13.5", "3.13.5", true),
            ("3.13.5", "3.13.5.1", false),
        ] {
            assert_eq!(is_version(version, wanted), expect, "{version} {wanted}");
        }
    }
}
