//! An image with what stands beside its layers, and how words on the command line name one.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use silo_store::digest::LayerId;
use silo_store::index::Index;
use silo_store::layer::{self, LayerError, read_index, read_manifest};
use silo_store::layout::Store;
use silo_store::lock::{self, SharedLock};
use silo_store::manifest::Manifest;
use silo_store::path::LayerPath;

use crate::home::Home;
use crate::image::{self, Image, ImageId};
use crate::tool::View;
use crate::tool::definition;
use crate::tool::record::{self, Installed};
use crate::unpack::record::{Stanza, parse_stanzas};

use super::error::Error;
use super::way;

/// The fewest digits that name an image or a layer. Arbitrary: fewer are more often a typing error.
const MIN_PREFIX: usize = 4;
/// dpkg's list of what is installed.
const STATUS: &str = "var/lib/dpkg/status";

/// What one looks at: a home, in which nothing is collected meanwhile.
pub struct Look<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// What decides what a tool is here.
    pub view: View<'a>,
    _lock: SharedLock,
}

impl<'a> Look<'a> {
    /// Begins to look.
    pub fn new(view: View<'a>, store: &'a Store) -> Result<Look<'a>, Error> {
        Ok(Look { home: view.home, store, view, _lock: lock::share(store).map_err(Error::Lock)? })
    }
}

/// Lists the tools that can be looked at: those of the project as they are there, and the others that are installed.
pub fn tools(look: &Look<'_>) -> Result<Vec<Installed>, Error> {
    let mut tools = record::list(look.home)?;
    for name in definition::claimed(look.view).unwrap_or_default() {
        // One that is not built cannot be looked at; what is installed under its name is another.
        tools.retain(|tool| tool.name != name);
        tools.extend(definition::image(look.view, &name).ok().flatten());
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tools)
}

/// An image and where it came from.
#[derive(Debug)]
pub struct Inside {
    /// Its id.
    pub id: ImageId,
    /// Its configuration.
    pub image: Image,
    /// The installed tools that have it.
    pub tools: Vec<Installed>,
    /// Where its layers came from, lowest first.
    pub layers: Vec<Manifest>,
    /// Where their files are, in the same order.
    trees: Vec<PathBuf>,
    root: PathBuf,
    index_path: PathBuf,
    index: OnceCell<Index>,
}

/// What a word names.
#[derive(Debug)]
pub enum Subject {
    /// An image, by itself or by a tool.
    Image(Box<Inside>),
    /// A layer.
    Layer(Box<Manifest>),
}

impl Inside {
    /// Returns how to call the image: by its tool, where one has it.
    pub fn title(&self) -> String {
        match self.tools.first() {
            Some(tool) => format!("{} {}", tool.name, tool.version),
            None => format!("image {:.12}", self.id.to_string()),
        }
    }

    /// Returns the entries of the composed root.
    pub fn index(&self) -> Result<&Index, Error> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let path = &self.index_path;
        let text = fs::read(path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
        let index = Index::parse(&text).map_err(|error| Error::Content { path: path.clone(), what: error.to_string() })?;
        Ok(self.index.get_or_init(|| index))
    }

    /// Returns the bytes of a file of the image, or `None` where there is none. Symbolic links lead to other files of the
    /// image, never to the machine's own.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let index = self.index()?;
        let Some(end) = way::follow(index, path.as_bytes()).end else { return Ok(None) };
        let is_file = index.resolve(&end).is_some_and(|entry| matches!(entry.node, silo_store::Node::File { .. }));
        if !is_file {
            return Ok(None);
        }
        // Every directory on the way is one of the index, so the path cannot lead out of the root.
        let path = self.root.join(end.as_path());
        fs::read(&path).map(Some).map_err(|source| Error::File { doing: "read", path, source })
    }

    /// Returns what dpkg says is installed, by name; nothing where the image has no dpkg.
    pub fn stanzas(&self) -> Result<Vec<Stanza>, Error> {
        let Some(bytes) = self.read(STATUS)? else { return Ok(Vec::new()) };
        installed_of(&bytes, &self.root)
    }

    /// Returns what dpkg said was installed before the first step ran: packages of the distribution, or of the image that this one
    /// is made of. What steps install is of an origin that nothing here knows.
    pub fn stanzas_before_steps(&self) -> Result<Vec<Stanza>, Error> {
        let below = self.layers.iter().rposition(|layer| !is_step(layer)).map_or(0, |last| last + 1);
        for tree in self.trees[..below].iter().rev() {
            let path = tree.join(STATUS);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_file() => {
                    let bytes = fs::read(&path).map_err(|source| Error::File { doing: "read", path, source })?;
                    return installed_of(&bytes, tree);
                }
                _ => {}
            }
        }
        Ok(Vec::new())
    }
}

/// Whether a command of a recipe or a project made a layer (`build/command.rs`).
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

/// Reads an image.
pub fn open(look: &Look<'_>, id: ImageId) -> Result<Inside, Error> {
    let tools: Vec<Installed> = tools(look)?.into_iter().filter(|tool| tool.image == id).collect();
    let image = image::get(look.home, id)?.ok_or_else(|| Error::Gone {
        tool: tools.first().map_or_else(|| "no tool".to_owned(), |tool| tool.name.clone()),
        image: id.to_string(),
    })?;
    let layers = image.layers.iter().map(|layer| read_manifest(look.store, layer)).collect::<Result<_, _>>()?;
    let trees = image.layers.iter().map(|layer| look.store.tree(layer)).collect();
    Ok(Inside {
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

/// Finds the image that a word names: a tool's name, or the beginning of an image's id.
pub fn named(look: &Look<'_>, word: &str) -> Result<Inside, Error> {
    if let Some(tool) = installed(look, word)? {
        return open(look, tool.image);
    }
    let images = begin_with(image::list(look.home)?, word);
    match images[..] {
        [id] => open(look, id),
        [] => Err(unknown(look, word, "neither an installed tool nor the beginning of an image's id")?),
        _ => Err(ambiguous(word, images.iter().map(|id| format!("image {id:.20}", id = id.to_string())).collect())),
    }
}

/// Finds what a word names: a tool, or the beginning of the id of an image or a layer.
pub fn subject(look: &Look<'_>, word: &str) -> Result<Subject, Error> {
    if let Some(tool) = installed(look, word)? {
        return Ok(Subject::Image(Box::new(open(look, tool.image)?)));
    }
    let images = begin_with(image::list(look.home)?, word);
    let layers = begin_with(layer::list(look.store).map_err(LayerError::from)?, word);
    match (&images[..], &layers[..]) {
        ([id], []) => Ok(Subject::Image(Box::new(open(look, *id)?))),
        ([], [id]) => Ok(Subject::Layer(Box::new(read_manifest(look.store, id)?))),
        ([], []) => Err(unknown(look, word, "neither an installed tool nor the beginning of an image's or a layer's id")?),
        _ => {
            let images = images.iter().map(|id| format!("image {id:.20}", id = id.to_string()));
            let layers = layers.iter().map(|id| format!("layer {id:.20}", id = id.to_string()));
            Err(ambiguous(word, images.chain(layers).collect()))
        }
    }
}

fn installed(look: &Look<'_>, word: &str) -> Result<Option<Installed>, Error> {
    // The word becomes a file name, so it is looked at first.
    if crate::recipe::file::check_name(word).is_err() {
        return Ok(None);
    }
    if definition::claimed(look.view).is_ok_and(|claimed| claimed.contains(word)) {
        return Ok(definition::image(look.view, word)?);
    }
    Ok(record::get(look.home, word)?)
}

/// Returns those of `ids` that begin with `word`, where it is long enough to mean one.
pub fn begin_with<T: ToString>(ids: Vec<T>, word: &str) -> Vec<T> {
    let is_prefix = word.len() >= MIN_PREFIX && word.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    ids.into_iter().filter(|id| is_prefix && id.to_string().starts_with(word)).collect()
}

fn unknown(look: &Look<'_>, word: &str, not: &'static str) -> Result<Error, Error> {
    let tools = tools(look)?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    let hint = match crate::document::nearest(word, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if names.is_empty() => "no tool is installed; `silo install python` installs one".to_owned(),
        None => format!("installed: {}; `silo list` shows their images", names.join(", ")),
    };
    Ok(Error::Unknown { word: word.to_owned(), not, hint })
}

/// The error of a word that names several things.
pub fn ambiguous(word: &str, candidates: Vec<String>) -> Error {
    Error::Ambiguous { word: word.to_owned(), candidates, hint: "write more of the id".to_owned() }
}

/// Returns the entries of an image's layers, lowest first.
pub fn indexes(look: &Look<'_>, layers: &[LayerId]) -> Result<Vec<Index>, Error> {
    Ok(layers.iter().map(|layer| read_index(look.store, layer)).collect::<Result<_, _>>()?)
}

/// Returns a path as it is typed.
pub fn shown(path: &LayerPath) -> String {
    format!("/{path}")
}
