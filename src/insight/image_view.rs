//! Opens an image with its manifests and indexes, and resolves command-line arguments to images and layers.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use silo_store::digest::LayerId;
use silo_store::flock::{self, SharedLock};
use silo_store::index::Index;
use silo_store::layer::{self, LayerError, read_index, read_manifest};
use silo_store::layout::Store;
use silo_store::manifest::Manifest;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;

use silo_base::home::Home;
use silo_build::image::{self, Image, ImageId};
use silo_fetch::unpack::record::{Stanza, parse_stanzas};
use silo_tool::View;
use silo_tool::definition;
use silo_tool::record::{self, Installed};

use super::error::Error;
use super::symlinks;

/// Shortest prefix of an image or layer id. Arbitrary: a shorter one is more often a typing error.
const MIN_PREFIX: usize = 4;
/// dpkg's status file.
const STATUS: &str = "var/lib/dpkg/status";

/// A home with a shared lock on its store, so that nothing is collected.
pub struct LockedHome<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// The settings that define the tools here.
    pub view: View<'a>,
    _lock: SharedLock,
}

impl<'a> LockedHome<'a> {
    /// Locks the store.
    pub fn new(view: View<'a>, store: &'a Store) -> Result<LockedHome<'a>, Error> {
        Ok(LockedHome { home: view.home, store, view, _lock: flock::share(store).map_err(Error::Lock)? })
    }
}

/// Lists the built tools: those of the project as the project defines them, and other installed ones.
pub fn tools(look: &LockedHome<'_>) -> Result<Vec<Installed>, Error> {
    let mut tools = record::list(look.home)?;
    for name in definition::claimed(look.view).unwrap_or_default() {
        // A claimed tool that is not built has no image; the installed tool of that name is a different one.
        tools.retain(|tool| tool.name != name);
        tools.extend(definition::image(look.view, &name).ok().flatten());
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tools)
}

/// An image with its manifests.
#[derive(Debug)]
pub struct ImageView {
    /// Its id.
    pub id: ImageId,
    /// Its configuration.
    pub image: Image,
    /// The installed tools that use it.
    pub tools: Vec<Installed>,
    /// The manifests of its layers, lowest first.
    pub layers: Vec<Manifest>,
    /// The trees of its layers, in the same order.
    trees: Vec<PathBuf>,
    root: PathBuf,
    index_path: PathBuf,
    index: OnceCell<Index>,
}

/// The object that an argument names.
#[derive(Debug)]
pub enum Subject {
    /// An image, named by its id or by a tool.
    Image(Box<ImageView>),
    /// A layer.
    Layer(Box<Manifest>),
}

impl ImageView {
    /// Returns the display name of the image: its tool's name, if a tool uses it.
    pub fn title(&self) -> String {
        match self.tools.first() {
            Some(tool) => format!("{} {}", tool.name, tool.version),
            None => format!("image {:.12}", self.id.to_string()),
        }
    }

    /// Returns the index of the composed root.
    pub fn index(&self) -> Result<&Index, Error> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let path = &self.index_path;
        let text = fs::read(path).map_err(|source| Error::File(PathError { doing: "read", path: path.clone(), source }))?;
        let index = Index::parse(&text).map_err(|error| Error::Content { path: path.clone(), what: error.to_string() })?;
        Ok(self.index.get_or_init(|| index))
    }

    /// Returns the content of a file of the image, or `None` if there is none. Symlinks are followed in the image and never to host files.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let index = self.index()?;
        let Some(end) = symlinks::follow(index, path.as_bytes()).end else { return Ok(None) };
        let is_file = index.resolve(&end).is_some_and(|entry| matches!(entry.node, silo_store::Node::File { .. }));
        if !is_file {
            return Ok(None);
        }
        // Every parent directory is a directory of the index, so the path cannot leave the root.
        let path = self.root.join(end.as_path());
        fs::read(&path).map(Some).map_err(|source| Error::File(PathError { doing: "read", path, source }))
    }

    /// Returns the installed packages from dpkg's database, by name; empty if the image has no dpkg.
    pub fn stanzas(&self) -> Result<Vec<Stanza>, Error> {
        let Some(bytes) = self.read(STATUS)? else { return Ok(Vec::new()) };
        installed_of(&bytes, &self.root)
    }

    /// Returns the packages that dpkg had installed before the first command step: packages of the distribution, or of the base image. The
    /// origin of later packages is unknown.
    pub fn stanzas_before_steps(&self) -> Result<Vec<Stanza>, Error> {
        let below = self.layers.iter().rposition(|layer| !is_step(layer)).map_or(0, |last| last + 1);
        for tree in self.trees[..below].iter().rev() {
            let path = tree.join(STATUS);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => {
                    let bytes = fs::read(&path).map_err(|source| Error::File(PathError { doing: "read", path, source }))?;
                    return installed_of(&bytes, tree);
                }
                _ => {}
            }
        }
        Ok(Vec::new())
    }
}

/// Returns true if a command step of a recipe or a project made the layer (`build/command.rs`).
fn is_step(layer: &Manifest) -> bool {
    layer.record.name.starts_with("step ")
}

fn installed_of(bytes: &[u8], root: &std::path::Path) -> Result<Vec<Stanza>, Error> {
    let stanzas = parse_stanzas(bytes).map_err(|what| Error::Content { path: root.join(STATUS), what })?;
    let mut stanzas: Vec<Stanza> = stanzas.into_iter().filter(is_installed).collect();
    stanzas.sort_by(|a, b| (a.package(), a.architecture()).cmp(&(b.package(), b.architecture())));
    Ok(stanzas)
}

fn is_installed(stanza: &Stanza) -> bool {
    stanza.get("Status").is_some_and(|status| status.ends_with(" installed"))
}

/// Opens an image.
pub fn open(look: &LockedHome<'_>, id: ImageId) -> Result<ImageView, Error> {
    let tools: Vec<Installed> = tools(look)?.into_iter().filter(|tool| tool.image == id).collect();
    let image = image::get(look.home, id)?.ok_or_else(|| Error::Gone {
        tool: tools.first().map_or_else(|| "no tool".to_owned(), |tool| tool.name.clone()),
        image: id.to_string(),
    })?;
    let layers = image.layers.iter().map(|layer| read_manifest(look.store, layer)).collect::<Result<_, _>>()?;
    let trees = image.layers.iter().map(|layer| look.store.tree(layer)).collect();
    Ok(ImageView {
        id,
        image,
        tools,
        layers,
        trees,
        root: image::root(look.home, id),
        index_path: image::index_path(look.home, id),
        index: OnceCell::new(),
    })
}

/// Finds the image of an argument: the name of a tool, or a prefix of an image id.
pub fn named(look: &LockedHome<'_>, word: &str) -> Result<ImageView, Error> {
    if let Some(tool) = installed(look, word)? {
        return open(look, tool.image);
    }
    let images = begin_with(image::list(look.home)?, word);
    match images[..] {
        [id] => open(look, id),
        [] => Err(unknown(look, word, "neither an installed tool nor the start of an image id")?),
        _ => Err(ambiguous(word, images.iter().map(|id| format!("image {id:.20}", id = id.to_string())).collect())),
    }
}

/// Finds the object of an argument: the name of a tool, or a prefix of an image or layer id.
pub fn subject(look: &LockedHome<'_>, word: &str) -> Result<Subject, Error> {
    if let Some(tool) = installed(look, word)? {
        return Ok(Subject::Image(Box::new(open(look, tool.image)?)));
    }
    let images = begin_with(image::list(look.home)?, word);
    let layers = begin_with(layer::list(look.store).map_err(LayerError::from)?, word);
    match (&images[..], &layers[..]) {
        ([id], []) => Ok(Subject::Image(Box::new(open(look, *id)?))),
        ([], [id]) => Ok(Subject::Layer(Box::new(read_manifest(look.store, id)?))),
        ([], []) => Err(unknown(look, word, "neither an installed tool nor the start of an image or layer id")?),
        _ => {
            let images = images.iter().map(|id| format!("image {id:.20}", id = id.to_string()));
            let layers = layers.iter().map(|id| format!("layer {id:.20}", id = id.to_string()));
            Err(ambiguous(word, images.chain(layers).collect()))
        }
    }
}

fn installed(look: &LockedHome<'_>, word: &str) -> Result<Option<Installed>, Error> {
    // Check the word, because it becomes a file name.
    if silo_model::recipe::check::check_name(word).is_err() {
        return Ok(None);
    }
    if definition::claimed(look.view).is_ok_and(|claimed| claimed.contains(word)) {
        return Ok(definition::image(look.view, word)?);
    }
    Ok(record::get(look.home, word)?)
}

/// Returns the ids with the prefix `word`, if it is long enough.
pub fn begin_with<T: ToString>(ids: Vec<T>, word: &str) -> Vec<T> {
    let is_prefix = word.len() >= MIN_PREFIX && word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    ids.into_iter().filter(|id| is_prefix && id.to_string().starts_with(word)).collect()
}

fn unknown(look: &LockedHome<'_>, word: &str, not: &'static str) -> Result<Error, Error> {
    let tools = tools(look)?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    let hint = match silo_model::document::nearest(word, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if names.is_empty() => "no tool is installed; `silo install python` installs one".to_owned(),
        None => format!("installed: {}; `silo list` shows their images", names.join(", ")),
    };
    Ok(Error::Unknown { word: word.to_owned(), not, hint })
}

/// Returns the error for an argument that matches several things.
pub fn ambiguous(word: &str, candidates: Vec<String>) -> Error {
    Error::Ambiguous { word: word.to_owned(), candidates, hint: "type more of the id".to_owned() }
}

/// Returns the indexes of an image's layers, lowest first.
pub fn indexes(look: &LockedHome<'_>, layers: &[LayerId]) -> Result<Vec<Index>, Error> {
    Ok(layers.iter().map(|layer| read_index(look.store, layer)).collect::<Result<_, _>>()?)
}

/// Returns a path in absolute form.
pub fn shown(path: &LayerPath) -> String {
    format!("/{path}")
}
