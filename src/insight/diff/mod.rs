//! Compares two images or two layers: settings, packages, then paths.

pub mod render;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use silo_store::entry::{Entry, Kind};
use silo_store::index::Index;
use silo_store::layer::read_index;
use silo_store::path::LayerPath;

use crate::change::{self, Aspect};
use crate::display;
use crate::error::Error;
use crate::image_view::{ImageView, LockedHome, Subject};

/// One side of a comparison.
#[derive(Debug)]
pub struct Side {
    /// The display name.
    pub title: String,
    /// Other compared properties of an image, by name, such as its command and architecture.
    pub settings: BTreeMap<&'static str, String>,
    /// The versions of its packages, by name.
    pub packages: BTreeMap<String, String>,
    /// Its index.
    pub index: Index,
}

/// A difference between two maps at one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// Only the second has it.
    Added(T),
    /// Only the first has it.
    Removed(T),
    /// Both have it, with different values.
    Changed(T, T),
}

/// A path at which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// The path.
    pub path: LayerPath,
    /// The entries on both sides.
    pub change: Change<PathEntry>,
    /// The properties that differ, if both sides have an entry.
    pub aspects: Vec<Aspect>,
}

/// An entry at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEntry {
    /// Its kind.
    pub kind: Kind,
    /// The size of a file.
    pub size: u64,
    /// The permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// The target of a symbolic link.
    pub target: Option<String>,
}

/// All differences of two sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Settings, by name.
    pub settings: Vec<(&'static str, Change<String>)>,
    /// Packages, by name.
    pub packages: Vec<(String, Change<String>)>,
    /// Paths, in order.
    pub paths: Vec<PathChange>,
}

impl Difference {
    /// Returns true if there is no difference.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.packages.is_empty() && self.paths.is_empty()
    }
}

/// Reads one side.
pub fn side(look: &LockedHome<'_>, subject: &Subject) -> Result<Side, Error> {
    match subject {
        Subject::Image(inside) => image_side(inside),
        Subject::Layer(layer) => Ok(Side {
            title: format!("layer {:.12} ({})", layer.layer.to_string(), display::name(&layer.record.name)),
            settings: BTreeMap::new(),
            packages: layer.record.packages.iter().map(|package| name_and_version(package)).collect(),
            index: read_index(look.store, &layer.layer)?,
        }),
    }
}

fn image_side(inside: &ImageView) -> Result<Side, Error> {
    let image = &inside.image;
    let settings = [
        ("architecture", image.arch.to_string()),
        ("date", silo_base::timestamp::rfc3339(image.epoch)),
        ("command", image.command.join(" ")),
        ("environment", image.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")),
    ];
    Ok(Side {
        title: format!("{} (image {:.12})", inside.title(), inside.id.to_string()),
        settings: settings.into_iter().collect(),
        packages: packages(inside)?,
        index: inside.index()?.clone(),
    })
}

/// Returns the versions of an image's packages, by name, from dpkg's database and the layers' manifests.
pub fn packages(inside: &ImageView) -> Result<BTreeMap<String, String>, Error> {
    let said = inside.layers.iter().flat_map(|layer| &layer.record.packages).map(|package| name_and_version(package));
    let mut packages: BTreeMap<String, String> = said.collect();
    // dpkg's database overrides the manifests: a step may have upgraded or removed a layer's package.
    for stanza in inside.stanzas()? {
        packages.insert(stanza.label(inside.image.arch.name()), stanza.get("Version").unwrap_or_default().to_owned());
    }
    Ok(packages)
}

/// Splits a manifest's `name version`.
pub fn name_and_version(package: &str) -> (String, String) {
    let (name, version) = package.split_once(' ').unwrap_or((package, ""));
    (name.to_owned(), version.to_owned())
}

/// Compares two sides.
pub fn diff(a: &Side, b: &Side) -> Difference {
    Difference { settings: maps(&a.settings, &b.settings), packages: maps(&a.packages, &b.packages), paths: paths(&a.index, &b.index) }
}

fn maps<K: Ord + Clone>(a: &BTreeMap<K, String>, b: &BTreeMap<K, String>) -> Vec<(K, Change<String>)> {
    let mut changes: BTreeMap<K, Change<String>> = BTreeMap::new();
    for (key, old) in a {
        match b.get(key) {
            None => changes.insert(key.clone(), Change::Removed(old.clone())),
            Some(new) if new != old => changes.insert(key.clone(), Change::Changed(old.clone(), new.clone())),
            Some(_) => None,
        };
    }
    for (key, new) in b.iter().filter(|(key, _)| !a.contains_key(key)) {
        changes.insert(key.clone(), Change::Added(new.clone()));
    }
    changes.into_iter().collect()
}

fn paths(a: &Index, b: &Index) -> Vec<PathChange> {
    let (mut left, mut right) = (a.entries().iter().peekable(), b.entries().iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        let old = if order == Ordering::Greater { None } else { left.next() };
        let new = if order == Ordering::Less { None } else { right.next() };
        let aspects = old.zip(new).map(|(old, new)| change::compare(a, old, b, new)).unwrap_or_default();
        let (path, change) = match (old, new) {
            (Some(_), Some(_)) if aspects.is_empty() => continue,
            (Some(old), Some(new)) => (&old.path, Change::Changed(spot(a, old), spot(b, new))),
            (Some(old), None) => (&old.path, Change::Removed(spot(a, old))),
            (None, Some(new)) => (&new.path, Change::Added(spot(b, new))),
            (None, None) => continue,
        };
        changes.push(PathChange { path: path.clone(), change, aspects });
    }
}

fn spot(index: &Index, entry: &Entry) -> PathEntry {
    let target = match &entry.node {
        silo_store::Node::Symlink { target } => Some(target.escape_ascii().to_string()),
        _ => None,
    };
    // Hard links to a file take no extra space.
    let size = if entry.node.kind() == Kind::Hardlink { 0 } else { change::size(index, entry) };
    PathEntry { kind: change::kind(entry), size, mode: entry.meta.mode, owner: (entry.meta.uid, entry.meta.gid), target }
}
