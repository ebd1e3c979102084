//! Finds the repository of a project, and its formats.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::read_limited;

use super::config::{self, MAX_CONFIG_BYTES};
use super::dir_fd::is_absent;
use super::index::{Index, MAX_INDEX_BYTES};
use super::oid::Format;

/// Maximum size of the small files with which git's directories refer to each other.
const MAX_LINK_BYTES: u64 = 8192;

/// Reason why a repository cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Cause.
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

/// Storage of a repository's refs and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As files, which Silo reads and writes.
    Files,
    /// An unsupported format.
    Other,
}

impl Repository {
    /// Finds the repository of the working tree at a canonical path; `None` if its `.git` is not a repository.
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

    /// Returns the directory with this working tree's HEAD and index.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Returns the directory with objects, refs and configuration.
    pub fn common(&self) -> &Path {
        &self.common
    }

    /// Returns the hash function of object ids.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the storage of refs.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the configuration files.
    pub fn configs(&self) -> [PathBuf; 2] {
        [self.common.join("config"), self.own.join("config.worktree")]
    }

    /// Returns the paths of submodules in the index. A split or unreadable index has none.
    pub fn gitlinks(&self) -> Result<Vec<Vec<u8>>, Error> {
        let path = self.own.join("index");
        match read_limited::read(&path, MAX_INDEX_BYTES) {
            Ok(bytes) => {
                Ok(Index::parse_own(&bytes, self.format).map(|index| index.gitlinks().map(<[u8]>::to_vec).collect()).unwrap_or_default())
            }
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

/// Reads a small file of one line.
pub fn line(path: &Path) -> Option<String> {
    let text = String::from_utf8(read_limited::read(path, MAX_LINK_BYTES).ok()?).ok()?;
    Some(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads the hash function and the ref storage of a repository.
fn formats(path: &Path) -> Result<(Format, Layout), Error> {
    let text = match read_limited::read(path, MAX_CONFIG_BYTES) {
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
