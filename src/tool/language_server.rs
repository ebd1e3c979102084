//! A tool's language server: a separate image on top of the tool's, built on first use and locked with the tool.
//!
//! Its lock is the tool's lock plus the server's packages and steps, so both images share layers. A new lock of the tool also locks the
//! server again. The server never changes the tool itself.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use silo_store::flock::{self as store_lock, SharedLock};
use silo_store::gc_roots::{self, Root, RootName};

use silo_base::event::Event;
use silo_base::home::PROJECT_LOCK;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_build::{Built, Target};
use silo_model::config::Settings;
use silo_model::lock::{self, Lock, Package, PackageRequest, PackageTier};
use silo_model::recipe::catalog::Origin;
use silo_model::recipe::lsp;
use silo_model::recipe::{Lsp, Recipe};

use super::definition::{self, Definition, Scope};
use super::gc_roots::SERVER;
use super::install::{self, Error};
use super::lock_files::{self, Resolving};
use super::{Context, View, projects, root_name};

/// A language server in a scope.
#[derive(Clone, Debug)]
pub struct Server {
    /// The tool.
    pub tool: String,
    /// Its command, packages and steps.
    pub lsp: Lsp,
    /// The scope: the project's if the project itself configures the server.
    scope: Scope,
    /// The tool's definition with the server's packages and steps.
    definition: Definition,
    /// The tool's own lock, if it has one.
    base: Option<Lock>,
}

/// Returns a tool's language server, if its recipe or the settings define one. With `Scope::Global`, only the user's settings count.
pub fn of(view: View<'_>, tool: &str, scope: Scope) -> Result<Option<Server>, Error> {
    let has_server = || view.project_settings.overrides.get(tool).is_some_and(|over| over.lsp.is_some());
    let (own, scope) = match scope {
        Scope::Global => (false, Scope::Global),
        Scope::Project => (has_server(), definition::scope(view, tool)?),
    };
    let settings = if own || scope == Scope::Project { view.settings } else { view.user_settings };
    let found = definition::of(view, tool, scope)?;
    let base = lock_files::existing(view, &found)?;
    let Some(mut lsp) = laid_over(&found.found.recipe, settings)?.filter(|lsp| !lsp.command.is_empty()) else {
        return Ok(None);
    };
    if own {
        // A project has no probes: learned hosts count in all projects.
        lsp.ecosystems.clear();
    }
    let wrong = |source| definition::Error::Overlay { tool: tool.to_owned(), source };
    let mut definition = laid(found, &lsp).map_err(wrong)?;
    if own {
        // A server configured by the project is locked in the project, even if the tool is global.
        definition.lock_file = Some(view.project.join(PROJECT_LOCK));
    }
    let scope = if own { Scope::Project } else { scope };
    Ok(Some(Server { tool: tool.to_owned(), lsp, scope, definition, base }))
}

/// Returns the language server of a recipe with these settings over it.
pub(super) fn laid_over(recipe: &Recipe, settings: &Settings) -> Result<Option<Lsp>, definition::Error> {
    let tool = &recipe.name;
    let mut network = recipe.install_allow.clone();
    network.extend(settings.install_allow(tool));
    network.sort();
    network.dedup();
    let over = settings.overrides.get(tool).and_then(|over| over.lsp.as_ref());
    lsp::over(recipe.lsp.clone(), over, &network).map_err(|source| definition::Error::Overlay { tool: tool.clone(), source })
}

/// Adds a server's packages and steps to its tool.
fn laid(mut definition: Definition, lsp: &Lsp) -> Result<Definition, silo_model::recipe::error::Error> {
    let recipe = &mut definition.found.recipe;
    recipe.name = lock::server(&recipe.name);
    recipe.lock_name = lock::server(&recipe.lock_name);
    if recipe.image.is_some() && !lsp.packages.is_empty() {
        return Err(silo_model::recipe::error::Error::Both("lsp.packages; use lsp.steps with the image's own package manager"));
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
    /// Returns the definition of the server's image.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Returns true if the tool's own image has the server.
    pub fn is_in_tool(&self) -> bool {
        self.lsp.packages.is_empty() && self.lsp.steps.is_empty()
    }

    /// Finds the current image of the server; reads a few small files.
    pub fn known(&self, view: View<'_>) -> Result<Option<ImageId>, Error> {
        let Some(lock) = self.locked(view)? else { return Ok(None) };
        Ok(silo_build::known(view.home, &self.definition.target(&lock)))
    }

    /// Returns its lock, if it matches the server's definition and the tool's current lock.
    fn locked(&self, view: View<'_>) -> Result<Option<Lock>, Error> {
        let Some(base) = &self.base else { return Ok(None) };
        Ok(lock_files::existing(view, &self.definition)?.filter(|lock| includes(lock, base)))
    }

    fn root_name(&self, view: View<'_>) -> Result<RootName, Error> {
        let name = match self.scope {
            Scope::Global => self.tool.clone(),
            Scope::Project => format!("{}.{}", self.tool, projects::id(view.project)),
        };
        root_name::of(view.home, SERVER, &name).map_err(|error| Error::Store(Box::new(error)))
    }
}

/// Builds a server's image, unless it exists, and keeps it as long as its tool is needed.
pub fn build(context: &Context<'_>, server: &Server, resolving: Resolving) -> Result<ImageId, Error> {
    let global = (server.scope == Scope::Global).then(|| context.without_project());
    let context = global.as_ref().unwrap_or(context);
    let view = context.view();
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let mut lock = match server.locked(view)? {
        Some(lock) => lock,
        None => build_lock(context, server, resolving)?,
    };
    let built = match built(context, &shared, server, &lock, resolving) {
        Err(silo_build::Error::Fetch(error)) if error.is_gone() && resolving == Resolving::Allowed => {
            let text = format!("{}: the mirrors no longer have its locked packages; making a new lock", server.definition.tool());
            (context.sink)(Event::Note { text });
            lock = build_lock(context, server, resolving)?;
            self::built(context, &shared, server, &lock, resolving)?
        }
        other => other?,
    };
    if server.definition.found.origin != Origin::BuiltIn || server.definition.lock_file.is_some() {
        built.note(server.definition.arch, &mut lock);
    }
    if let Some(outputs) = built.outputs {
        lock.steps.remove(&server.definition.arch);
        if !outputs.is_empty() {
            lock.steps.insert(server.definition.arch, outputs);
        }
    }
    if resolving == Resolving::Allowed {
        lock_files::keep(view, &server.definition, &lock)?;
    }
    let layers =
        image::get(context.home, built.image).map_err(silo_build::Error::Image)?.map(|image| image.layer_set()).unwrap_or_default();
    let root = Root { images: [built.image.digest()].into(), layers };
    gc_roots::put(context.store, &shared, &server.root_name(view)?, &root).map_err(|error| Error::Store(Box::new(error)))?;
    Ok(built.image)
}

fn built(
    context: &Context<'_>,
    shared: &SharedLock,
    server: &Server,
    lock: &Lock,
    resolving: Resolving,
) -> Result<Built, silo_build::Error> {
    let mirrors = OnceCell::new();
    let shop = install::workshop(context, shared, &mirrors);
    let target = Target { frozen: resolving == Resolving::Frozen, ..server.definition.target(lock) };
    silo_build::build(&shop, &[target]).remove(0)
}

/// Makes the lock of a server: the tool's lock, plus the server's packages from the current indexes.
fn build_lock(context: &Context<'_>, server: &Server, resolving: Resolving) -> Result<Lock, Error> {
    let definition = &server.definition;
    let base = match (&server.base, resolving) {
        (Some(base), _) => base.clone(),
        (None, _) => {
            let tool = definition::of(context.view(), &server.tool, server.scope)?;
            lock_files::obtain(context, &tool, resolving)?
        }
    };
    let asked = PackageRequest::by(&definition.found.recipe);
    if asked == base.asked {
        return Ok(base);
    }
    // A project takes the tested lock of the recipe, if it is one for the tool's lock.
    if let Some(shipped) = lock_files::of_recipe(context.view(), &definition.found)?.filter(|lock| includes(lock, &base)) {
        return Ok(shipped);
    }
    if resolving == Resolving::Frozen {
        return Err(lock_files::Error::Frozen { tool: definition.tool().to_owned() }.into());
    }
    let today = lock_files::resolve(context, definition)?;
    Ok(over(base, today, asked))
}

/// Adds newly resolved packages to a lock without changing its entries.
fn over(base: Lock, today: Lock, asked: PackageRequest) -> Lock {
    let mut packages = base.packages;
    for (arch, all) in today.packages {
        let own = packages.entry(arch).or_default();
        for (name, package) in all {
            let tier = package.tier.max(PackageTier::Added);
            // A package that the tool needs only for build steps may become part of the server's image.
            own.entry(name).and_modify(|own| own.tier = own.tier.min(tier)).or_insert(Package { tier, ..package });
        }
    }
    // The epoch of the tool's lock stays, because it is part of all shared layers.
    Lock { asked, packages, steps: BTreeMap::new(), layers: BTreeMap::new(), secrets: BTreeMap::new(), ..base }
}

/// Returns true if a lock has all entries of another one, unchanged.
fn includes(lock: &Lock, base: &Lock) -> bool {
    let of_base = |(arch, packages): (&Arch, &BTreeMap<String, Package>)| {
        let own = lock.packages.get(arch);
        packages.iter().all(|(name, package)| {
            let own = own.and_then(|own| own.get(name));
            own.is_some_and(|own| {
                own == package || (package.tier == PackageTier::Build && Package { tier: PackageTier::Build, ..own.clone() } == *package)
            })
        })
    };
    lock.epoch == base.epoch && lock.images == base.images && base.packages.iter().all(of_base)
}
