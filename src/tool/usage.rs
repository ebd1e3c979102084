//! Disk usage of Silo's directory, by subdirectory, and of each image, with the reasons for it.

use std::path::Path;

use silo_store::gc::{Keeper, Object};
use silo_store::layer;
use silo_store::path_error::PathError;
use silo_store::usage::{Added, LinkCounts};

use silo_build::image::{self, ImageId, compressed};

use super::Context;
use super::gc_roots;
use super::kept_dirs;
use super::projects::Project;

/// A subdirectory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubdirUsage {
    /// Its name.
    pub name: String,
    /// Its contents.
    pub what: &'static str,
    /// Disk usage, not counting files shared with earlier subdirectories.
    pub takes: Added,
}

/// The known subdirectories, in the order in which shared files are counted.
const ROOMS: [(&str, &str); 17] = [
    ("baked", "layers"),
    ("images", "images, not counting files shared with layers"),
    ("downloads", "fetched files"),
    ("kept", "package caches, private state and excluded directories"),
    ("repositories", "layers over .git, of running and of killed runs"),
    ("reviews", "undecided changes of review mode, and replaced files that can be restored"),
    ("work", "unfinished steps"),
    ("stage", "unfinished layers"),
    ("logs", "logs of steps, records of runs"),
    ("realisations", "results of build steps"),
    ("made", "images by derivation"),
    ("tools", "installed tools"),
    ("projects", "projects"),
    ("platforms", "tools, projects and kept directories of other platforms"),
    ("recipe-locks", "locks made here"),
    ("one-off", "locks of one-off tools"),
    ("recipes", "your recipes"),
];

/// Counts every file once; the total is the same as that of `du`.
pub fn report(root: &Path) -> Result<Vec<SubdirUsage>, PathError> {
    let mut ledger = LinkCounts::default();
    let mut rooms = Vec::new();
    for (name, what) in ROOMS {
        rooms.push(SubdirUsage { name: name.to_owned(), what, takes: ledger.add(&root.join(name))? });
    }
    rooms.push(SubdirUsage { name: "the rest".to_owned(), what: "roots, locks, settings", takes: ledger.add(root)? });
    Ok(rooms)
}

/// An image with its disk usage and reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub id: ImageId,
    /// True if its root must be rebuilt before a run.
    pub cold: bool,
    /// Disk usage with its layers, including shared ones.
    pub takes: u64,
    /// Disk space that its removal would free.
    pub alone: u64,
    /// Time of the last use, in seconds since 1970.
    pub last_used: Option<i64>,
    /// Tools, projects and sandboxes that need it.
    pub kept_by: Vec<String>,
}

/// Lists the images.
pub fn images(context: &Context<'_>) -> Result<Vec<ImageUsage>, gc_roots::Error> {
    let (keepers, made_of) = marked(context)?;
    let mut rows = Vec::new();
    for id in image::list(context.home)? {
        let mut ledger = LinkCounts::default();
        let mut takes = ledger.add(&context.store.image(&id.digest()))?;
        let layers = made_of.get(&id.digest()).cloned().unwrap_or_default();
        for layer in &layers {
            let others = made_of.iter().any(|(other, layers)| *other != id.digest() && layers.contains(layer));
            let added = ledger.add(&context.store.layer(layer))?;
            takes.fresh += added.fresh;
            takes.freed += if others { 0 } else { added.freed };
        }
        rows.push(ImageUsage {
            id,
            cold: compressed::is_cold(context.home, id),
            takes: takes.fresh,
            alone: takes.freed,
            last_used: image::last_used(context.home, id),
            kept_by: keeper_names(&keepers, &Object::Image(id.digest())),
        });
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.last_used), row.id));
    Ok(rows)
}

/// Returns the disk usage of a project's images and their layers, including shared ones.
pub fn of_project(context: &Context<'_>, project: &Project) -> Result<u64, gc_roots::Error> {
    let mut ledger = LinkCounts::default();
    let mut bytes = ledger.add(&context.home.project(&project.id()))?.fresh;
    for owner in kept_dirs::owners(context.home)?.into_iter().filter(|owner| owner.path == project.path) {
        bytes += ledger.add(&context.home.kept_project(&owner.id))?.fresh;
    }
    for id in project.images() {
        bytes += ledger.add(&context.store.image(&id.digest()))?.fresh;
        for layer in image::get(context.home, id).ok().flatten().map(|image| image.layer_set()).unwrap_or_default() {
            bytes += ledger.add(&context.store.layer(&layer))?.fresh;
        }
    }
    Ok(bytes)
}

/// Reasons for an image or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasons {
    /// The image or layer.
    pub thing: Object,
    /// The name in a layer's manifest; empty for an image.
    pub name: String,
    /// Tools, projects and sandboxes that need it.
    pub kept_by: Vec<String>,
    /// All images with the layer, needed or not.
    pub images: Vec<ImageId>,
}

/// Returns the reasons for the images and layers with this prefix of their id.
pub fn why(context: &Context<'_>, prefix: &str) -> Result<Vec<Reasons>, gc_roots::Error> {
    let (keepers, made_of) = marked(context)?;
    let begins = |id: &dyn std::fmt::Display| id.to_string().starts_with(prefix);
    let mut found = Vec::new();
    for id in image::list(context.home)?.into_iter().filter(|id| begins(id)) {
        let thing = Object::Image(id.digest());
        found.push(Reasons { thing, name: String::new(), kept_by: keeper_names(&keepers, &thing), images: Vec::new() });
    }
    for id in layer::list(context.store)?.into_iter().filter(|id| begins(id)) {
        let thing = Object::Layer(id);
        // A layer with a broken manifest has no name.
        let name = layer::read_manifest(context.store, &id).map(|manifest| manifest.record.name).unwrap_or_default();
        let having = made_of.iter().filter(|(_, layers)| layers.contains(&id));
        let images = having.filter_map(|(image, _)| ImageId::parse(&image.to_string())).collect();
        found.push(Reasons { thing, name, kept_by: keeper_names(&keepers, &thing), images });
    }
    Ok(found)
}

fn marked(context: &Context<'_>) -> Result<(Vec<Keeper>, gc_roots::MadeOf), gc_roots::Error> {
    let made_of = gc_roots::made_of(context.home)?;
    Ok((gc_roots::keepers(context.home, context.store, &made_of)?, made_of))
}

fn keeper_names(keepers: &[Keeper], thing: &Object) -> Vec<String> {
    let keeps = |keeper: &&Keeper| match thing {
        Object::Image(id) => keeper.root.images.contains(id),
        Object::Layer(id) => keeper.root.layers.contains(id),
    };
    keepers.iter().filter(keeps).map(|keeper| keeper.why.clone()).collect()
}
