//! The record of a directory: `~/.silo/trust/<identity>/`.
//!
//! ```text
//! record.toml     approved lines, and the digests of the files that count
//! known/<file>    copies of those files, from which a change is described
//! runs            marks of sandboxes that can write the directory, see `runs`
//! lock            locked while the record changes
//! ```
//!
//! The record is named by the directory's identity, so another directory at the same path does not use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use silo_store::digest::Digest;
use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::read_limited;

use crate::projects;
use silo_base::home::{Home, PROJECT_CONFIG, PROJECT_LOCK};
use silo_base::identity::DirectoryId;
use silo_model::document;

use super::error::Error;

/// The version of the format of `record.toml`.
const VERSION: u32 = 1;
/// Files with a stored copy, so that a change of them can be described.
pub const DESCRIBED: [&str; 2] = [PROJECT_CONFIG, PROJECT_LOCK];
/// Directory of the copies in a record.
pub const COPIES: &str = "known";
/// Limit on the size of a copy: a lock of 20,000 packages. A larger file is described by its digest only.
const MAX_COPY_BYTES: u64 = 8 << 20;

/// A directory and the location of its record.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
    path: PathBuf,
    key: String,
    is_lasting: bool,
}

/// The record of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Lines that the user approved.
    pub approved: BTreeSet<String>,
    /// Digest of the files that the user approved by content.
    pub approved_files: Option<Digest>,
    /// Digests of the files that count: recorded before a sandbox started, written by silo, or approved.
    pub known: Option<BTreeMap<String, Digest>>,
    /// True if a sandbox may have changed the files since.
    pub suspect: bool,
    /// For each parent directory, the number of its last sandbox when the files were compared.
    pub above: BTreeMap<String, u64>,
    /// Lines of a change that a command makes at the moment.
    pub announced: Option<Announced>,
}

/// Lines that count as approved once `silo.toml` is the file of a command's change. A killed command may leave them without that file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The lines.
    pub lines: BTreeSet<String>,
    /// The digest of the changed `silo.toml`.
    pub settings: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    /// The path in hexadecimal digits, because a path may have any bytes; a comment in the file has it for people.
    path: String,
    #[serde(default)]
    suspect: bool,
    #[serde(default)]
    approved: BTreeSet<String>,
    approved_files: Option<String>,
    known: Option<BTreeMap<String, String>>,
    #[serde(default)]
    above: BTreeMap<String, u64>,
    #[serde(default)]
    announced: BTreeSet<String>,
    announced_settings: Option<String>,
}

impl Place {
    /// Returns the location of the record for the directory at a path; creates nothing.
    pub fn of(home: &Home, path: &Path) -> io::Result<Place> {
        let id = DirectoryId::of(path)?;
        let key = id.key();
        Ok(Place { dir: home.trust_of(&key), path: path.to_owned(), key, is_lasting: id.is_lasting() })
    }

    /// Returns the name of the record.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the directory of the record.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the file with the marks of runs.
    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    /// Creates the location and locks it for a change.
    pub fn lock(&self) -> Result<LockedFile, Error> {
        self.make()?;
        let path = self.dir.join("lock");
        let failed = |source| PathError { doing: "lock", path: path.clone(), source };
        let file = File::options().create(true).append(true).mode(0o600).open(&path);
        Ok(file.and_then(LockedFile::exclusive).map_err(failed)?)
    }

    /// Creates the directory of the record.
    pub fn make(&self) -> Result<(), Error> {
        if self.dir.is_dir() {
            return Ok(());
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        Ok(made.map_err(|source| PathError { doing: "create", path: self.dir.clone(), source })?)
    }

    /// Reads the record; without one, returns an empty record.
    pub fn read(&self) -> Result<Record, Error> {
        let path = self.dir.join("record.toml");
        let Some(written) = document::read::<Written>(&path)? else { return Ok(Record::default()) };
        let wrong = |message: &str| document::Error::Meaning { path: path.clone(), message: message.to_owned() };
        let known_path = projects::unhex(&written.path).filter(|_| written.format == VERSION);
        let known_path =
            known_path.ok_or_else(|| wrong("it was not written by this version of silo; remove it, and approve the project again"))?;
        // Without a birth time, another directory may have the inode number now.
        if !self.is_lasting && known_path != self.path {
            return Ok(Record::default());
        }
        let digest = |text: &String| Digest::parse(text).map_err(|_| wrong("it names something that is not a sha-256"));
        let announced = written.announced_settings.as_ref().map(digest).transpose()?;
        let known = written.known.map(|known| {
            known.iter().map(|(name, text)| Ok((name.clone(), digest(text)?))).collect::<Result<BTreeMap<_, _>, document::Error>>()
        });
        Ok(Record {
            approved: written.approved,
            approved_files: written.approved_files.as_ref().map(digest).transpose()?,
            known: known.transpose()?,
            suspect: written.suspect,
            above: written.above,
            announced: announced.map(|settings| Announced { lines: written.announced, settings }),
        })
    }

    /// Writes the record; the caller holds the lock.
    pub fn write(&self, record: &Record, _held: &LockedFile) -> Result<(), Error> {
        let spell = |known: &BTreeMap<String, Digest>| known.iter().map(|(name, digest)| (name.clone(), digest.to_string())).collect();
        let written = Written {
            format: VERSION,
            path: projects::hex(&self.path),
            suspect: record.suspect,
            approved: record.approved.clone(),
            approved_files: record.approved_files.map(|digest| digest.to_string()),
            known: record.known.as_ref().map(spell),
            above: record.above.clone(),
            announced: record.announced.as_ref().map(|announced| announced.lines.clone()).unwrap_or_default(),
            announced_settings: record.announced.as_ref().map(|announced| announced.settings.to_string()),
        };
        // A path may contain line breaks, which would end the comment.
        let text = format!("# {:?}\n{}", self.path, toml::to_string(&written).expect("strings, numbers and tables are TOML"));
        write(&self.dir.join("record.toml"), &text)
    }

    /// Stores a copy of a file that counts.
    pub fn keep_copy(&self, name: &str, text: &str) -> Result<(), Error> {
        if !DESCRIBED.contains(&name) || text.len() as u64 > MAX_COPY_BYTES {
            return Ok(());
        }
        write(&self.dir.join(COPIES).join(name), text)
    }

    /// Returns the copy of a file with this digest, if there is one.
    pub fn copy(&self, name: &str, digest: &Digest) -> Option<String> {
        let bytes = read_limited::read(&self.dir.join(COPIES).join(name), MAX_COPY_BYTES).ok()?;
        String::from_utf8(bytes).ok().filter(|text| Digest::of(text.as_bytes()) == *digest)
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    Ok(document::write(path, text).map_err(|source| PathError { doing: "write", path: path.to_owned(), source })?)
}

/// Returns one digest of all files.
pub fn digest_of(files: &BTreeMap<String, Digest>) -> Digest {
    let lines: String = files.iter().map(|(name, digest)| format!("{digest} {}:{name}\n", name.len())).collect();
    Digest::of(lines.as_bytes())
}

/// Returns where the records of a directory are.
pub(super) fn place(home: &Home, dir: &Path) -> Result<Place, Error> {
    Ok(Place::of(home, dir).map_err(|source| PathError { doing: "look at", path: dir.to_owned(), source })?)
}
