//! Explains why something is in an image: the layer of a path, its package, and the reason for the package.

pub mod render;

use silo_store::entry::{Kind, Node};
use silo_store::index::Index;
use silo_store::manifest::Manifest;
use silo_store::path::LayerPath;

use silo_build::known_secrets::{self, KnownSecret};
use silo_fetch::unpack::record::Stanza;

use crate::change::{self, PathChange};
use crate::error::Error;
use crate::image_view::{self, ImageView, LockedHome, begin_with};
use crate::owner;
use crate::symlinks::{self, Link};
use crate::why_installed::{self, Origin};

/// Answer of `silo why`.
#[derive(Debug)]
pub struct Answer {
    /// Display name of the image.
    pub place: String,
    /// The subject.
    pub about: Subject,
}

/// The subject of an answer.
#[derive(Debug)]
pub enum Subject {
    /// A path: every symlink on it, and last its final path.
    Path(Vec<PathHistory>),
    /// A package.
    Package(Box<Package>),
    /// A virtual package.
    Provided {
        /// The name.
        name: String,
        /// The packages that provide it.
        by: Vec<Package>,
    },
    /// A layer.
    Layer(Box<Layer>),
    /// A secret or identity that no image has.
    Secret {
        /// The path.
        path: String,
        /// The known secret; `None` for another file that a configure step removed.
        known: Option<&'static KnownSecret>,
    },
}

/// A path with its history.
#[derive(Debug)]
pub struct PathHistory {
    /// The path.
    pub path: LayerPath,
    /// The entry; `None` if a layer removed it.
    pub stands: Option<PathEntry>,
    /// True for a symlink in place of a parent directory.
    pub on_the_way: bool,
    /// The changes of the path, lowest layer first.
    pub deeds: Vec<(Layer, PathChange)>,
    /// The owning package: the topmost layer's; if that is a step's layer, the one in dpkg's database, or else a lower layer's.
    pub package: Option<Package>,
}

/// An entry at a path.
#[derive(Clone, Debug)]
pub struct PathEntry {
    /// Its kind.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// The size of a file.
    pub size: u64,
    /// The target of a symbolic link.
    pub target: Option<String>,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its package, if it has exactly one.
    pub package: Option<Package>,
}

/// A package and the reasons for it.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// True if every Debian root has it.
    pub essential: bool,
    /// The reasons for it.
    pub origin: Origin,
    /// Its layer; `None` if dpkg unpacked it in a step.
    pub layer: Option<Manifest>,
}

/// Explains `what` in the image named by `tool`, or else in the only tool that has it.
pub fn why(look: &LockedHome<'_>, tool: Option<&str>, what: &str) -> Result<Answer, Error> {
    if let Some(tool) = tool {
        let inside = image_view::named(look, tool)?;
        return match answer(look, &inside, what)? {
            Some(about) => Ok(Answer { place: inside.title(), about }),
            None => Err(absent(&inside, what)?),
        };
    }
    let mut answers = Vec::new();
    let tools = image_view::tools(look)?;
    for tool in &tools {
        let inside = image_view::open(look, tool.image)?;
        if let Some(about) = answer(look, &inside, what)? {
            answers.push((tool.name.clone(), Answer { place: format!("{} {}", tool.name, tool.version), about }));
        }
    }
    match (answers.len(), &tools[..]) {
        (1, _) => Ok(answers.remove(0).1),
        (0, []) => Err(Error::Absent {
            what: what.to_owned(),
            place: "any tool: none is installed".to_owned(),
            hint: "`silo list --available` shows what can be installed".to_owned(),
        }),
        (0, tools) if tools.iter().any(|tool| tool.name == what) => Err(Error::Absent {
            what: what.to_owned(),
            place: "an image: it is the name of a tool".to_owned(),
            hint: format!("`silo why {what} /etc/passwd` explains a path, a package or a layer of it; `silo show {what}` shows the tool"),
        }),
        (0, [tool]) => Err(absent(&image_view::open(look, tool.image)?, what)?),
        (0, _) => Err(Error::Absent {
            what: what.to_owned(),
            place: "any installed tool".to_owned(),
            hint: "a path begins with \"/\"; `silo list` shows the tools".to_owned(),
        }),
        _ => Err(Error::Ambiguous {
            word: what.to_owned(),
            hint: format!("silo why {what} --tool {}", answers[0].0),
            candidates: answers.into_iter().map(|(name, _)| format!("that of {name}")).collect(),
        }),
    }
}

fn answer(look: &LockedHome<'_>, inside: &ImageView, what: &str) -> Result<Option<Subject>, Error> {
    let known = NamedPackages::new(look, inside)?;
    if what.starts_with('/') {
        return path(look, inside, &known, what);
    }
    if known.has(what) {
        return Ok(Some(Subject::Package(Box::new(known.package(what)))));
    }
    let layers = begin_with(inside.layers.iter().map(|layer| layer.layer).collect(), what);
    match layers[..] {
        [] => {}
        [id] => {
            let found = inside.layers.iter().find(|layer| layer.layer == id);
            return Ok(found.map(|manifest| Subject::Layer(Box::new(known.layer(manifest)))));
        }
        _ => return Err(image_view::ambiguous(what, layers.iter().map(|id| format!("layer {:.20}", id.to_string())).collect())),
    }
    let by: Vec<Package> = why_installed::providers(&known.stanzas, what).into_iter().map(|name| known.package(name)).collect();
    Ok((!by.is_empty()).then(|| Subject::Provided { name: what.to_owned(), by }))
}

fn path(look: &LockedHome<'_>, inside: &ImageView, known: &NamedPackages<'_>, what: &str) -> Result<Option<Subject>, Error> {
    let index = inside.index()?;
    let way = symlinks::follow(index, what.as_bytes());
    let indexes = image_view::indexes(look, &inside.image.layers)?;
    let mut things = Vec::new();
    for Link { path, is_last, .. } in &way.links {
        things.extend(thing(known, index, &indexes, path)?.map(|thing| PathHistory { on_the_way: !is_last, ..thing }));
    }
    if let Some(end) = &way.end {
        things.extend(thing(known, index, &indexes, end)?);
    }
    // Symlinks in parent directories of a path that does not exist explain nothing.
    let answers = things.iter().any(|thing| !thing.on_the_way);
    if answers {
        return Ok(Some(Subject::Path(things)));
    }
    let has = |path: &str| symlinks::follow(index, path.as_bytes()).end.is_some_and(|end| index.get(&end).is_some());
    let path = what.trim_start_matches('/');
    let known = known_secrets::at(path, has);
    let is_removed = || inside.layers.iter().flat_map(|layer| &layer.record.removed).any(|removed| removed.trim_start_matches('/') == path);
    Ok((known.is_some() || is_removed()).then(|| Subject::Secret { path: path.to_owned(), known }))
}

/// Describes `path`, if the image or one of its layers has it.
fn thing(known: &NamedPackages<'_>, index: &Index, layers: &[Index], path: &LayerPath) -> Result<Option<PathHistory>, Error> {
    let deeds = change::history(layers, path);
    let entry = index.get(path);
    if deeds.is_empty() && entry.is_none() {
        return Ok(None);
    }
    let stands = entry.map(|entry| PathEntry {
        kind: change::kind(entry),
        mode: entry.meta.mode,
        size: change::size(index, entry),
        target: match &entry.node {
            Node::Symlink { target } => Some(target.escape_ascii().to_string()),
            _ => None,
        },
    });
    let deeds: Vec<(Layer, PathChange)> =
        deeds.into_iter().filter_map(|(number, deed)| Some((known.layer(known.inside.layers.get(number)?), deed))).collect();
    // A directory that several layers have belongs to none.
    let is_dir = stands.as_ref().is_some_and(|standing| standing.kind == Kind::Dir);
    let package = match deeds.last() {
        None => None,
        Some(_) if is_dir && deeds.len() > 1 => None,
        Some((Layer { package: Some(package), .. }, _)) => Some(package.clone()),
        Some((Layer { package: None, .. }, _)) => {
            let listed = if stands.is_some() && !is_dir { owner::owner(known.inside, path)? } else { None };
            let below = || deeds.iter().rev().find_map(|(layer, _)| layer.package.clone());
            listed.map(|name| known.package(&name)).or_else(below)
        }
    };
    Ok(Some(PathHistory { path: path.clone(), stands, on_the_way: false, package, deeds }))
}

/// Packages of an image, and the recipe entries that name packages.
struct NamedPackages<'a> {
    inside: &'a ImageView,
    stanzas: Vec<Stanza>,
    wishes: Vec<why_installed::NamedPackage>,
}

impl<'a> NamedPackages<'a> {
    fn new(look: &LockedHome<'_>, inside: &'a ImageView) -> Result<NamedPackages<'a>, Error> {
        let wishes = match inside.tools.first() {
            Some(tool) => why_installed::wishes(look.view, &tool.name)?,
            None => Vec::new(),
        };
        Ok(NamedPackages { inside, stanzas: inside.stanzas()?, wishes })
    }

    fn stanza(&self, name: &str) -> Option<&Stanza> {
        self.stanzas.iter().find(|stanza| why_installed::label(self.inside.image.arch, stanza) == name)
    }

    /// Returns the layer of the package `name`: it has this package only, and was not made of other layers.
    fn layer_of(&self, name: &str) -> Option<&'a Manifest> {
        self.inside.layers.iter().find(|layer| package_of(layer).is_some_and(|(package, _)| package == name))
    }

    fn has(&self, name: &str) -> bool {
        self.stanza(name).is_some() || self.layer_of(name).is_some()
    }

    fn package(&self, name: &str) -> Package {
        let layer = self.layer_of(name);
        let stanza = self.stanza(name);
        let version = stanza.and_then(|stanza| stanza.get("Version"));
        let in_layer = layer.and_then(package_of).map(|(_, version)| version);
        Package {
            name: name.to_owned(),
            version: version.or(in_layer).unwrap_or_default().to_owned(),
            essential: stanza.is_some_and(|stanza| stanza.get("Essential") == Some("yes")),
            origin: why_installed::origin(self.inside.image.arch, &self.stanzas, &self.wishes, name),
            layer: layer.cloned(),
        }
    }

    fn layer(&self, manifest: &Manifest) -> Layer {
        Layer { manifest: manifest.clone(), package: package_of(manifest).map(|(name, _)| self.package(name)) }
    }
}

/// Returns the package of a layer, as name and version; `None` if it has none or several.
fn package_of(layer: &Manifest) -> Option<(&str, &str)> {
    match &layer.record.packages[..] {
        [package] => Some(package.split_once(' ').unwrap_or((package, ""))),
        _ => None,
    }
}

/// Returns the error for a missing path or package, with a near match as hint.
fn absent(inside: &ImageView, what: &str) -> Result<Error, Error> {
    let place = inside.title();
    let hint = if what.starts_with('/') {
        let name = what.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let near = inside.index()?.entries().iter().find(|entry| !name.is_empty() && entry.path.name() == name.as_bytes());
        near.map_or_else(
            || match inside.tools.first() {
                Some(tool) => format!("`silo shell {}` opens a shell in {place}", tool.name),
                None => "give the path of a file in the image".to_owned(),
            },
            |entry| format!("there is {}", image_view::shown(&entry.path)),
        )
    } else {
        let stanzas = inside.stanzas()?;
        let names: Vec<String> = stanzas.iter().map(|stanza| why_installed::label(inside.image.arch, stanza)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        silo_model::document::nearest(what, &names).map_or_else(
            || "give a path that begins with \"/\", a package, or the beginning of a layer's id".to_owned(),
            |near| format!("did you mean \"{near}\"?"),
        )
    };
    Ok(Error::Absent { what: what.to_owned(), place, hint })
}
