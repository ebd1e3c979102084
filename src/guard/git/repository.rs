//! Where the repository of a project is, and what it is like.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::bounded;

use super::config::{self, MAX_CONFIG_BYTES};
use super::dir::is_absent;
use super::index::{Index, MAX_INDEX_BYTES};
use super::oid::Format;

/// The largest of the small files by which git's directories name one another.
const MAX_LINK_BYTES: u64 = 8192;

/// Why a repository cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of it cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// The repository of a working tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    own: PathBuf,
    common: PathBuf,
    format: Format,
    layout: Layout,
}

/// How a repository keeps its refs and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As files, which Silo reads and writes.
    Files,
    /// In a way that is not known here.
    Other,
}

impl Repository {
    /// Finds the repository of the working tree at a canonical path. Where its `.git` is no repository there is none.
    pub fn find(tree: &Path) -> Result<Option<Repository>, Error> {
        let git = tree.join(".git");
        let Ok(found) = fs::metadata(&git) else { return Ok(None) };
        let own = if found.is_dir() {
            fs::canonicalize(&git).ok()
        } else {
            line(&git).and_then(|text| fs::canonicalize(tree.join(text.strip_prefix("gitdir:")?.trim())).ok())
        };
        let Some(own) = own else { return Ok(None) };
        let common = match line(&own.join("commondir")) {
            Some(text) => fs::canonicalize(own.join(text)).ok(),
            None => Some(own.clone()),
        };
        let Some(common) = common.filter(|common| own.join("HEAD").exists() && common.join("objects").is_dir()) else { return Ok(None) };
        let (format, layout) = formats(&common.join("config"))?;
        Ok(Some(Repository { own, common, format, layout }))
    }

    /// The directory that holds this working tree's HEAD and index.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// The directory that holds objects, refs and configuration.
    pub fn common(&self) -> &Path {
        &self.common
    }

    /// How objects are named.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How refs are kept.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its configurations.
    pub fn configs(&self) -> [PathBuf; 2] {
        [self.common.join("config"), self.own.join("config.worktree")]
    }

    /// Returns the paths in its index that are other repositories. An index that is split, or not read here, has none.
    pub fn gitlinks(&self) -> Result<Vec<Vec<u8>>, Error> {
        let path = self.own.join("index");
        match bounded::read(&path, MAX_INDEX_BYTES) {
            Ok(bytes) => {
                Ok(Index::parse_own(&bytes, self.format).map(|index| index.gitlinks().map(<[u8]>::to_vec).collect()).unwrap_or_default())
            }
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

/// Reads the one line of a small file.
pub fn line(path: &Path) -> Option<String> {
    let text = String::from_utf8(bounded::read(path, MAX_LINK_BYTES).ok()?).ok()?;
    Some(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads how a repository names objects and keeps refs.
fn formats(path: &Path) -> Result<(Format, Layout), Error> {
    let text = match bounded::read(path, MAX_CONFIG_BYTES) {
        Ok(text) => text,
        Err(error) if is_absent(&error) => Vec::new(),
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    };
    let (mut format, mut layout) = (Format::Sha1, Layout::Files);
    for value in config::parse(&text).unwrap_or_default().iter().filter(|value| value.section == "extensions") {
        match (value.name.as_str(), value.value.to_ascii_lowercase().as_slice()) {
            ("objectformat", b"sha256") => format = Format::Sha256,
            ("objectformat", b"sha1") | ("refstorage", b"files") => {}
            ("objectformat" | "refstorage", _) => layout = Layout::Other,
            _ => {}
        }
    }
    Ok((format, layout))
}
