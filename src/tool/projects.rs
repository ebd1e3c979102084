//! Records of projects with their own images: `~/.silo/projects/<id>.toml`, each with a GC root for its images.
//!
//! The GC root is written before the record and removed after it, and gc ignores a root without a record. So a crash between the two
//! neither keeps anything for ever nor loses anything. The modification time of the record is the time of the project's last use.

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
use silo_store::flock::SharedLock;
use silo_store::gc_roots::{self, Root, RootError};
use silo_store::layout::Store;
use silo_store::path_error::PathError;

use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_model::document;

use super::root_name;

/// Kind of the GC root of a project.
pub const KIND: &str = "project";
/// The version of the format.
const VERSION: u32 = 1;
/// Digits of the path's digest in an id: 64 bits, which suffice for any number of projects.
const ID_DIGITS: usize = 16;

/// A project and the tools that were built for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its directory, canonical.
    pub path: PathBuf,
    /// Its tools by name.
    pub tools: BTreeMap<String, Pinned>,
    /// Time of the last use, in seconds since 1970.
    pub last_used: i64,
}

/// A tool of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The tool's version.
    pub version: String,
    /// Its image.
    pub image: ImageId,
}

impl Project {
    /// Returns the id of its record and GC root.
    pub fn id(&self) -> String {
        id(&self.path)
    }

    /// Returns true if its directory is gone; an unreadable one may exist.
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
    /// The path in hexadecimal digits, because a path may have any bytes; a comment in the file has it for people.
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

/// Error of reading or recording a project.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The record is invalid.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The GC root could not be written.
    #[error(transparent)]
    Root(#[from] RootError),
    /// An image of the project cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// Returns the id of the project at a canonical path.
pub fn id(path: &Path) -> String {
    let mut digest = Digest::of(path.as_os_str().as_bytes()).to_string();
    digest.truncate(ID_DIGITS);
    digest
}

/// Reads the record of the project at a canonical path; `None` if there is none.
pub fn get(home: &Home, path: &Path) -> Result<Option<Project>, Error> {
    by_id(home, &id(path))
}

/// Reads the record with this id.
pub fn by_id(home: &Home, id: &str) -> Result<Option<Project>, Error> {
    let file = home.project(id);
    let Some(written) = document::read::<Written>(&file)? else { return Ok(None) };
    let wrong = |message: String| document::Error::Meaning { path: file.clone(), message };
    document::check_format(&file, written.format, VERSION, "remove the file and run `silo sync` in the project")?;
    let path = unhex(&written.path).ok_or_else(|| wrong("path is not a path in hexadecimal digits".to_owned()))?;
    let mut tools = BTreeMap::new();
    for (name, tool) in written.tools {
        let image = ImageId::parse(&tool.image).ok_or_else(|| wrong(format!("tools.{name}: image \"{}\" is not a digest", tool.image)))?;
        tools.insert(name, Pinned { version: tool.version, image });
    }
    let last_used = fs::metadata(&file).map_or(0, |found| found.mtime());
    Ok(Some(Project { path, tools, last_used }))
}

/// Records a project and keeps its images; replaces an earlier record.
pub fn put(home: &Home, store: &Store, shared: &SharedLock, project: &Project) -> Result<(), Error> {
    let mut root = Root::default();
    for id in project.images() {
        root.images.insert(id.digest());
        root.layers.extend(image::get(home, id)?.map(|image| image.layer_set()).unwrap_or_default());
    }
    // GC root first: a record without a root would name images that can be collected.
    gc_roots::put(store, shared, &root_name::of(home, KIND, &project.id())?, &root)?;
    write(home, project)
}

fn write(home: &Home, project: &Project) -> Result<(), Error> {
    let tool = |tool: &Pinned| WrittenTool { version: tool.version.clone(), image: tool.image.to_string() };
    let written = Written {
        format: VERSION,
        path: hex(&project.path),
        tools: project.tools.iter().map(|(name, pinned)| (name.clone(), tool(pinned))).collect(),
    };
    // A path may contain line breaks, which would end the comment.
    let text = format!("# {:?}\n{}", project.path, toml::to_string(&written).expect("strings and numbers are TOML"));
    let path = home.project(&project.id());
    let used = Duration::from_secs(u64::try_from(project.last_used).unwrap_or(0));
    let used = UNIX_EPOCH.checked_add(used).unwrap_or(UNIX_EPOCH);
    let written = document::write(&path, &text).and_then(|()| File::options().write(true).open(&path)?.set_modified(used));
    written.map_err(|source| Error::File(PathError { doing: "write", path, source }))
}

/// Updates the time of the last use of the project at a canonical path, if it has a record.
pub fn touch(home: &Home, path: &Path) {
    image::stamp(&home.project(&id(path)));
}

/// Moves the records of a moved project to its new path, as far as it has some.
pub fn moved(home: &Home, store: &Store, shared: &SharedLock, from: &Path, to: &Path) -> Result<(), Error> {
    for home in Arch::ALL.map(|arch| home.of_platform(arch)) {
        if let Some(project) = get(&home, from)? {
            put(&home, store, shared, &Project { path: to.to_owned(), ..project })?;
        }
    }
    remove(home, store, shared, from).map(drop)
}

/// Removes the records and GC roots of a project, of all platforms; returns true if there was a record.
pub fn remove(home: &Home, store: &Store, shared: &SharedLock, path: &Path) -> Result<bool, Error> {
    let id = id(path);
    let mut was = false;
    for home in Arch::ALL.map(|arch| home.of_platform(arch)) {
        was |= remove_record(&home, store, shared, &id)?;
    }
    Ok(was)
}

fn remove_record(home: &Home, store: &Store, shared: &SharedLock, id: &str) -> Result<bool, Error> {
    let file = home.project(id);
    let was = match fs::remove_file(&file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(Error::File(PathError { doing: "remove", path: file, source })),
    };
    gc_roots::remove(store, shared, &root_name::of(home, KIND, id)?)?;
    Ok(was)
}

/// Lists the recorded projects by path.
pub fn list(home: &Home) -> Result<Vec<Project>, Error> {
    let dir = home.projects();
    let listing = match fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::File(PathError { doing: "list", path: dir, source })),
    };
    let mut projects = Vec::new();
    for entry in listing {
        let name = entry.map_err(|source| Error::File(PathError { doing: "list", path: dir.clone(), source }))?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".toml")) {
            projects.extend(by_id(home, id)?);
        }
    }
    projects.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(projects)
}

/// Encodes a path in hexadecimal digits.
pub fn hex(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes a path encoded by [`hex`].
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
        let shared = silo_store::flock::share(&store).expect("no gc runs");
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
        assert_eq!(gc_roots::list(&store).expect("roots").len(), 4);
        let one = &projects[0];
        touch(&home, &one.path);
        assert!(get(&home, &one.path).expect("a record").expect("it is there").last_used > one.last_used);
        assert!(one.is_orphaned());
        assert!(remove(&home, &store, &shared, &one.path).expect("removed"));
        assert!(!remove(&home, &store, &shared, &one.path).expect("it was not there"));
        assert_eq!((list(&home).expect("records").len(), gc_roots::list(&store).expect("roots").len()), (3, 3));
        fs::write(home.project("0000000000000000"), "format = 2\npath = \"2f\"\n").expect("our own file");
        assert!(list(&home).expect_err("an unknown format").to_string().contains("format 2 is unknown"));
    }
}
