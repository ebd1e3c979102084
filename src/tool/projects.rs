//! The projects that have images of their own: `~/.silo/projects/<id>.toml`, each with a root that keeps what it names.
//!
//! The root is written before the record and removed after it, and gc takes no root for one that has no record: so a
//! crash between the two keeps nothing for ever and loses nothing. When a project was used last is its record's time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use silo_store::digest::Digest;
use silo_store::layout::Store;
use silo_store::lock::SharedLock;
use silo_store::roots::{self, Root, RootError, RootName};

use crate::document;
use crate::home::Home;
use crate::image::{self, ImageId};

/// The kind of a project's root.
pub const KIND: &str = "project";
/// The version of the format.
const VERSION: u32 = 1;
/// How much of the path's digest names a record: 64 bits, far more than there are projects.
const ID_DIGITS: usize = 16;

/// A project and the tools that were made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its directory, canonical.
    pub path: PathBuf,
    /// Its tools by name.
    pub tools: BTreeMap<String, Pinned>,
    /// When it was used last, in seconds since 1970.
    pub last_used: i64,
}

/// A tool as a project has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The tool's version.
    pub version: String,
    /// Its image.
    pub image: ImageId,
}

impl Project {
    /// Returns the name of its record and root.
    pub fn id(&self) -> String {
        id(&self.path)
    }

    /// Whether its directory is gone; one that cannot be looked at may be there.
    pub fn is_orphaned(&self) -> bool {
        matches!(self.path.try_exists(), Ok(false))
    }

    /// Returns the images of its tools.
    pub fn images(&self) -> std::collections::BTreeSet<ImageId> {
        self.tools.values().map(|tool| tool.image).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    /// The path in hexadecimal digits, since a path may be any bytes; the comment above it is for people.
    path: String,
    #[serde(default)]
    tools: BTreeMap<String, WrittenTool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTool {
    version: String,
    image: String,
}

/// Why a project could not be read or recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record is not as it was written.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The system refused.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The root could not be written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// An image that the project names cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// Returns the name of the record of the project at a canonical path.
pub fn id(path: &Path) -> String {
    let mut digest = Digest::of(path.as_os_str().as_bytes()).to_string();
    digest.truncate(ID_DIGITS);
    digest
}

/// Reads the record of the project at a canonical path, or `None` where there is none.
pub fn get(home: &Home, path: &Path) -> Result<Option<Project>, Error> {
    by_id(home, &id(path))
}

/// Reads the record of this name.
pub fn by_id(home: &Home, id: &str) -> Result<Option<Project>, Error> {
    let file = home.project(id);
    let Some(written) = document::read::<Written>(&file)? else { return Ok(None) };
    let wrong = |message: String| document::Error::Meaning { path: file.clone(), message };
    if written.format != VERSION {
        return Err(wrong(format!("format {} is not known to this silo; remove the file and sync the project anew", written.format)).into());
    }
    let path = unhex(&written.path).ok_or_else(|| wrong("path is not a path in hexadecimal digits".to_owned()))?;
    let mut tools = BTreeMap::new();
    for (name, tool) in written.tools {
        let image = ImageId::parse(&tool.image).ok_or_else(|| wrong(format!("tools.{name}: image \"{}\" is no digest", tool.image)))?;
        tools.insert(name, Pinned { version: tool.version, image });
    }
    let last_used = fs::metadata(&file).map_or(0, |found| found.mtime());
    Ok(Some(Project { path, tools, last_used }))
}

/// Keeps a project's images and records it; what was recorded of it before is replaced.
pub fn put(home: &Home, store: &Store, shared: &SharedLock, project: &Project) -> Result<(), Error> {
    let mut root = Root::default();
    for id in project.images() {
        root.images.insert(id.digest());
        root.layers.extend(image::get(home, id)?.map(|image| image.layer_set()).unwrap_or_default());
    }
    // First what keeps the layers from being collected, then what says that they are needed.
    roots::put(store, shared, &RootName::new(KIND, &project.id())?, &root)?;
    write(home, project)
}

fn write(home: &Home, project: &Project) -> Result<(), Error> {
    let tool = |tool: &Pinned| WrittenTool { version: tool.version.clone(), image: tool.image.to_string() };
    let written = Written {
        format: VERSION,
        path: hex(&project.path),
        tools: project.tools.iter().map(|(name, pinned)| (name.clone(), tool(pinned))).collect(),
    };
    // A path may hold line breaks, which a comment must not.
    let text = format!("# {:?}\n{}", project.path, toml::to_string(&written).expect("strings and numbers are TOML"));
    let path = home.project(&project.id());
    let used = Duration::from_secs(u64::try_from(project.last_used).unwrap_or(0));
    let used = UNIX_EPOCH.checked_add(used).unwrap_or(UNIX_EPOCH);
    let written = document::write(&path, &text).and_then(|()| File::options().write(true).open(&path)?.set_modified(used));
    written.map_err(|source| Error::File { doing: "write", path, source })
}

/// Notes that the project at a canonical path is used now; a project without a record has nothing to note.
pub fn touch(home: &Home, path: &Path) {
    image::stamp(&home.project(&id(path)));
}

/// Makes the record of a project that was moved its own again; where there is none nothing happens.
pub fn moved(home: &Home, store: &Store, shared: &SharedLock, from: &Path, to: &Path) -> Result<(), Error> {
    let Some(project) = get(home, from)? else { return Ok(()) };
    put(home, store, shared, &Project { path: to.to_owned(), ..project })?;
    remove(home, store, shared, from).map(drop)
}

/// Forgets a project and gives up what it keeps; returns whether there was a record.
pub fn remove(home: &Home, store: &Store, shared: &SharedLock, path: &Path) -> Result<bool, Error> {
    let id = id(path);
    let file = home.project(&id);
    let was = match fs::remove_file(&file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(Error::File { doing: "remove", path: file, source }),
    };
    roots::remove(store, shared, &RootName::new(KIND, &id)?)?;
    Ok(was)
}

/// Lists the recorded projects by path.
pub fn list(home: &Home) -> Result<Vec<Project>, Error> {
    let dir = home.projects();
    let listing = match fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File { doing: "list", path: dir, source }),
    };
    let mut projects = Vec::new();
    for entry in listing {
        let name = entry.map_err(|source| Error::File { doing: "list", path: dir.clone(), source })?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".toml")) {
            projects.extend(by_id(home, id)?);
        }
    }
    projects.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(projects)
}

/// Spells a path in hexadecimal digits.
pub fn hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] spelled.
pub fn unhex(text: &str) -> Option<PathBuf> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    bytes.chunks(2).map(pair).collect::<Option<Vec<u8>>>().map(|bytes| OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_read_back_whatever_their_path_is() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home::new(dir.path().join("home"));
        let store = Store::open(home.root()).expect("a store");
        let shared = silo_store::lock::share(&store).expect("nobody collects");
        let image = ImageId::parse(&"ab".repeat(32)).expect("an id");
        let paths = ["/a/b", "/with\nline \"and\" quote", "/é"].map(PathBuf::from);
        let raw = PathBuf::from(OsString::from_vec(b"/raw\xff".to_vec()));
        let mut projects: Vec<Project> = Vec::new();
        for (at, path) in paths.into_iter().chain([raw]).enumerate() {
            let tools = [("python".to_owned(), Pinned { version: "3.13".to_owned(), image })].into();
            let project = Project { path, tools, last_used: 1_000_000_000 + i64::try_from(at).expect("few") };
            put(&home, &store, &shared, &project).expect("it can be recorded");
            projects.push(project);
        }
        projects.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(list(&home).expect("records"), projects);
        assert_eq!(roots::list(&store).expect("roots").len(), 4);
        let one = &projects[0];
        touch(&home, &one.path);
        assert!(get(&home, &one.path).expect("a record").expect("it is there").last_used > one.last_used);
        assert!(one.is_orphaned());
        assert!(remove(&home, &store, &shared, &one.path).expect("removed"));
        assert!(!remove(&home, &store, &shared, &one.path).expect("it was not there"));
        assert_eq!((list(&home).expect("records").len(), roots::list(&store).expect("roots").len()), (3, 3));
        fs::write(home.project("0000000000000000"), "format = 2\npath = \"2f\"\n").expect("our own file");
        assert!(list(&home).expect_err("an unknown format").to_string().contains("format 2 is not known"));
    }
}
