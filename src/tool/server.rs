//! A tool's language server: an image of its own over the tool's, built when it is first wanted and locked beside the tool.
//!
//! Its lock is the tool's with what the server adds, so it stands on the same layers and goes with the tool's version: once
//! the tool is locked anew, the server is too. What the tool itself is made of never changes for it.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use silo_store::lock::{self as store_lock, SharedLock};
use silo_store::roots::{self, Root, RootName};

use crate::build::{self, Built, Target};
use crate::event::Event;
use crate::home::PROJECT_LOCK;
use crate::image::{self, ImageId};
use crate::lock::{self, Asked, Lock, Package, Tier};
use crate::recipe::lsp::{self, Lsp};
use crate::system::Arch;

use super::definition::{self, Definition, Scope};
use super::install::{self, Error};
use super::keep::SERVER;
use super::locking::{self, Resolving};
use super::{Context, View, projects};

/// A language server as it is used somewhere.
#[derive(Clone, Debug)]
pub struct Server {
    /// The tool that it is of.
    pub tool: String,
    /// What is run, and what it needs.
    pub lsp: Lsp,
    /// Whether it is a project's own.
    scope: Scope,
    /// The tool with the server's packages and steps.
    definition: Definition,
    /// The tool's own lock, if it has one.
    base: Option<Lock>,
}

/// Returns a tool's language server, where its recipe or the settings say of one. The user's settings alone count where the
/// project is left out.
pub fn of(view: View<'_>, tool: &str, no_project: bool) -> Result<Option<Server>, Error> {
    let settings = if no_project { view.user_settings } else { view.settings };
    let own = view.project_settings.overrides.get(tool).filter(|_| !no_project).is_some_and(|over| over.lsp.is_some());
    let scope = if no_project { Scope::Global } else { definition::scope(view, tool)? };
    let found = definition::of(view, tool, scope)?;
    let base = locking::existing(view, &found)?;
    let recipe = &found.found.recipe;
    let mut network = recipe.install_allow.clone();
    network.extend(settings.install_allow(tool));
    network.sort();
    network.dedup();
    let over = settings.overrides.get(tool).and_then(|over| over.lsp.as_ref());
    let wrong = |source| definition::Error::Overlay { tool: tool.to_owned(), source };
    let Some(lsp) = lsp::over(recipe.lsp.clone(), over, &network).map_err(wrong)?.filter(|lsp| !lsp.command.is_empty()) else {
        return Ok(None);
    };
    let mut definition = laid(found, &lsp).map_err(wrong)?;
    if own {
        // What a project says of a server is locked with the project, whoever has the tool.
        definition.lock_file = Some(view.project.join(PROJECT_LOCK));
    }
    let scope = if own { Scope::Project } else { scope };
    Ok(Some(Server { tool: tool.to_owned(), lsp, scope, definition, base }))
}

/// Lays what a server adds over its tool.
fn laid(mut definition: Definition, lsp: &Lsp) -> Result<Definition, crate::recipe::file::Error> {
    let recipe = &mut definition.found.recipe;
    recipe.name = lock::server(&recipe.name);
    if recipe.image.is_some() && !lsp.packages.is_empty() {
        return Err(crate::recipe::file::Error::Both("lsp.packages; use lsp.steps with the image's own package manager"));
    }
    let own = recipe.debian.packages.clone();
    recipe.debian.added.extend(lsp.packages.iter().filter(|package| !own.contains(package)).cloned());
    recipe.debian.added.sort();
    recipe.debian.added.dedup();
    recipe.steps.extend(lsp.steps.iter().cloned());
    recipe.ecosystems.extend(lsp.ecosystems.clone());
    Ok(definition)
}

impl Server {
    /// Says whether it is in the tool's own image already.
    pub fn is_in_tool(&self) -> bool {
        self.lsp.packages.is_empty() && self.lsp.steps.is_empty()
    }

    /// Finds the image that it is now, looking at a few small files.
    pub fn known(&self, view: View<'_>) -> Result<Option<ImageId>, Error> {
        let Some(lock) = self.locked(view)? else { return Ok(None) };
        Ok(build::known(view.home, &self.definition.target(&lock)))
    }

    /// Returns its lock, if it is for what the server adds and for the tool as that is locked now.
    fn locked(&self, view: View<'_>) -> Result<Option<Lock>, Error> {
        let Some(base) = &self.base else { return Ok(None) };
        Ok(locking::existing(view, &self.definition)?.filter(|lock| stands_on(lock, base)))
    }

    fn root_name(&self, view: View<'_>) -> Result<RootName, Error> {
        let name = match self.scope {
            Scope::Global => self.tool.clone(),
            Scope::Project => format!("{}.{}", self.tool, projects::id(view.project)),
        };
        RootName::new(SERVER, &name).map_err(|error| Error::Store(Box::new(error)))
    }
}

/// Builds a server's image, unless it is there, and keeps it from being collected as long as its tool is needed.
pub fn build(context: &Context<'_>, server: &Server, resolving: Resolving) -> Result<ImageId, Error> {
    let view = context.view();
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let mut lock = match server.locked(view)? {
        Some(lock) => lock,
        None => made(context, server, resolving)?,
    };
    let built = match built(context, &shared, server, &lock, resolving) {
        Err(build::Error::Fetch(error)) if error.is_gone() && resolving == Resolving::Allowed => {
            let text = format!("{}: its lock is older than what the mirrors keep; locking it anew", server.definition.tool());
            (context.sink)(Event::Note { text });
            lock = made(context, server, resolving)?;
            self::built(context, &shared, server, &lock, resolving)?
        }
        other => other?,
    };
    if let Some(outputs) = built.outputs {
        lock.steps.remove(&Arch::host());
        if !outputs.is_empty() {
            lock.steps.insert(Arch::host(), outputs);
        }
    }
    if resolving == Resolving::Allowed {
        locking::keep(view, &server.definition, &lock)?;
    }
    let layers = image::get(context.home, built.image).map_err(build::Error::Image)?.map(|image| image.layer_set()).unwrap_or_default();
    let root = Root { images: [built.image.digest()].into(), layers };
    roots::put(context.store, &shared, &server.root_name(view)?, &root).map_err(|error| Error::Store(Box::new(error)))?;
    Ok(built.image)
}

fn built(context: &Context<'_>, shared: &SharedLock, server: &Server, lock: &Lock, resolving: Resolving) -> Result<Built, build::Error> {
    let mirrors = OnceCell::new();
    let shop = install::workshop(context, shared, &mirrors);
    let target = Target { frozen: resolving == Resolving::Frozen, ..server.definition.target(lock) };
    build::build(&shop, &[target]).remove(0)
}

/// Makes the lock of a server: that of its tool, with what the server adds as the mirrors have it now.
fn made(context: &Context<'_>, server: &Server, resolving: Resolving) -> Result<Lock, Error> {
    let definition = &server.definition;
    let base = match (&server.base, resolving) {
        (Some(base), _) => base.clone(),
        (None, _) => {
            let tool = definition::of(context.view(), &server.tool, server.scope)?;
            locking::obtain(context, &tool, resolving)?
        }
    };
    let asked = Asked::by(&definition.found.recipe);
    if asked == base.asked {
        return Ok(base);
    }
    if resolving == Resolving::Frozen {
        return Err(locking::Error::Frozen { tool: definition.tool().to_owned() }.into());
    }
    let today = locking::resolve(context, definition)?;
    Ok(over(base, today, asked))
}

/// Lays what is needed today over what is locked already, which stays as it is.
fn over(base: Lock, today: Lock, asked: Asked) -> Lock {
    let mut packages = base.packages;
    for (arch, all) in today.packages {
        let own = packages.entry(arch).or_default();
        for (name, package) in all {
            let tier = package.tier.max(Tier::Added);
            // What only the tool's steps have, the server may have for good.
            own.entry(name).and_modify(|own| own.tier = own.tier.min(tier)).or_insert(Package { tier, ..package });
        }
    }
    // The moment of the tool's lock stays too: it is in every layer that both have.
    Lock { asked, packages, steps: BTreeMap::new(), ..base }
}

/// Says whether a lock has all that another one has, as it is there.
fn stands_on(lock: &Lock, base: &Lock) -> bool {
    let of_base = |(arch, packages): (&Arch, &BTreeMap<String, Package>)| {
        let own = lock.packages.get(arch);
        packages.iter().all(|(name, package)| {
            let own = own.and_then(|own| own.get(name));
            own.is_some_and(|own| {
                own == package || (package.tier == Tier::Build && Package { tier: Tier::Build, ..own.clone() } == *package)
            })
        })
    };
    lock.epoch == base.epoch && lock.images == base.images && base.packages.iter().all(of_base)
}
