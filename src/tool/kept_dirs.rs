//! Kept directories, which outlive runs, in `~/.silo/kept/`: excluded directories, package caches and private state of projects, and
//! directories that a tool shares among all projects.
//!
//! ```text
//! projects/<id>/owner.toml              its owner
//! projects/<id>/lock                    locked while in use
//! projects/<id>/exclude/<directory>     replaces the project's own in a sandbox
//! projects/<id>/cache/<tool>/<path>     may be emptied at any time
//! projects/<id>/state/<tool>/<path>     must be kept
//! tools/<tool>/{lock,cache,state}       the same for all projects
//! ```
//!
//! The storage of a project is named by its path and bound to its directory by inode and birth time, which a sandboxed program cannot
//! forge. A different directory at the same path gets new storage, and the old one is set aside. The storage of a moved project is found by
//! its directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::private;

use silo_base::home::Home;
use silo_base::identity::DirectoryId;
use silo_model::document;
use silo_model::recipe::kept_dirs::{KeptDir, Scope};

use super::projects;

/// The version of the format of `owner.toml`.
const VERSION: u32 = 1;

/// Prefix of the storage of projects with an explicit id; ids made from a path are hexadecimal and cannot have it.
const NAMED: &str = "named-";

/// Error of using a kept directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record is invalid.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// Class of a kept directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Packages that can be fetched again.
    Cache,
    /// Data that cannot be made again, such as logins.
    State,
}

impl Class {
    /// Returns its name on disk and for users.
    pub fn name(self) -> &'static str {
        match self {
            Class::Cache => "cache",
            Class::State => "state",
        }
    }
}

/// Manages the storage of a project and of tools.
#[derive(Clone, Debug)]
pub struct Keeper<'a> {
    home: &'a Home,
    project: Option<(String, &'a Path)>,
}

/// Directories in use: they are not emptied as long as this lives.
#[derive(Debug)]
pub struct InUse {
    /// Never read; holds the locks.
    _locks: Vec<LockedFile>,
}

impl<'a> Keeper<'a> {
    /// Creates a keeper for the project at a canonical path, which may have an explicit id.
    pub fn new(home: &'a Home, project: Option<&'a Path>, named: Option<&str>) -> Keeper<'a> {
        Keeper { home, project: project.map(|path| (id(path, named), path)) }
    }

    /// Returns the directory that replaces an excluded one of the project; `None` without a project.
    pub fn excluded(&self, inner: &str) -> Option<PathBuf> {
        self.project.as_ref().map(|(id, _)| self.home.kept_project(id).join("exclude").join(file_name(inner)))
    }

    /// Returns the path of a tool's kept directory; `None` for a project's directory without a project.
    pub fn kept(&self, tool: &str, class: Class, kept: &KeptDir) -> Option<PathBuf> {
        let name = file_name(&kept.guest);
        match (kept.scope, &self.project) {
            (Scope::Tool, _) => Some(self.home.kept_tool(tool).join(class.name()).join(name)),
            (Scope::Project, Some((id, _))) => Some(self.home.kept_project(id).join(class.name()).join(tool).join(name)),
            (Scope::Project, None) => None,
        }
    }

    /// Creates directories of this keeper if they are missing, and locks their storage.
    pub fn open(&self, dirs: &[PathBuf]) -> Result<InUse, Error> {
        if let Some((id, path)) = &self.project {
            set_aside(self.home, id, path)?;
        }
        let mut rooms: Vec<PathBuf> = dirs.iter().filter_map(|dir| room(self.home, dir)).collect();
        rooms.sort();
        rooms.dedup();
        let own = self.project.as_ref().map(|(id, _)| self.home.kept_project(id));
        for dir in dirs {
            make(dir)?;
        }
        if let Some((id, path)) = self.project.as_ref().filter(|_| own.is_some_and(|own| rooms.contains(&own))) {
            own_by(self.home, id, path)?;
        }
        let locks = rooms.iter().map(|room| lock(room)).collect::<Result<_, _>>()?;
        Ok(InUse { _locks: locks })
    }

    /// Returns true if the project has storage.
    pub fn is_known(&self) -> Result<bool, Error> {
        let Some((id, path)) = &self.project else { return Ok(true) };
        Ok(owner(self.home, id)?.is_some_and(|owner| is_named(id) || owner.is_at(path)))
    }
}

/// Returns the id of a project's storage: the explicit id, or one made from its path.
pub fn id(project: &Path, named: Option<&str>) -> String {
    named.map_or_else(|| projects::id(project), |name| format!("{NAMED}{name}"))
}

/// Returns the storage directory of a project or tool that contains a kept directory.
fn room(home: &Home, dir: &Path) -> Option<PathBuf> {
    let mut names = dir.strip_prefix(home.kept()).ok()?.components();
    Some(home.kept().join(names.next()?).join(names.next()?))
}

/// Encodes a path as one file name; special characters become `%` and two digits.
fn file_name(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let name: String = path.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    // `.` and `..` would name other directories.
    if name.chars().all(|c| c == '.') { name.replace('.', "%2E") } else { name }
}

fn make(dir: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    // Private, since a login may leave secrets there.
    Ok(private::make_dir(dir)?)
}

fn lock(room: &Path) -> Result<LockedFile, Error> {
    let path = room.join("lock");
    let failed = |source| PathError { doing: "lock", path: path.clone(), source };
    Ok(private::open(&path).and_then(LockedFile::shared).map_err(failed)?)
}

/// Locks storage exclusively, for emptying it; `None` if it is in use.
pub fn take(room: &Path) -> Option<LockedFile> {
    private::open(&room.join("lock")).and_then(LockedFile::try_exclusive).ok().flatten()
}

/// The owner of a project's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The id of the storage.
    pub id: String,
    /// The project's directory at the last use.
    pub path: PathBuf,
    /// The identity of that directory, independent of its path.
    identity: Option<DirectoryId>,
}

impl Owner {
    /// Returns true if the owner's directory is gone; an unreadable one may exist.
    pub fn is_orphaned(&self) -> bool {
        match DirectoryId::of(&self.path) {
            Ok(_) => !is_named(&self.id) && !self.is_at(&self.path),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Returns true if the directory at a path is the owner.
    fn is_at(&self, path: &Path) -> bool {
        self.identity.is_some_and(|own| DirectoryId::of(path).is_ok_and(|found| found.is_same(&own)))
    }
}

/// True for an explicit id, which several projects may have.
pub fn is_named(id: &str) -> bool {
    id.starts_with(NAMED)
}

/// Renames the storage of another directory that was at the same path before.
fn set_aside(home: &Home, id: &str, project: &Path) -> Result<(), Error> {
    let Some(owner) = owner(home, id)?.filter(|owner| !is_named(id) && !owner.is_at(project)) else { return Ok(()) };
    let other = owner.identity.map_or_else(|| "unknown".to_owned(), |identity| identity.key());
    let from = home.kept_project(id);
    // File systems reuse inode numbers, so an earlier directory may have had the same identity.
    for number in 1_u32.. {
        let name = if number == 1 { format!("{id}-{other}") } else { format!("{id}-{other}-{number}") };
        match fs::rename(&from, home.kept_project(&name)) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            // Another process has renamed it already.
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PathError { doing: "set aside", path: from, source }.into());
            }
            _ => break,
        }
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    /// The path in hexadecimal digits, because a path may have any bytes; a comment in the file has it for people.
    path: String,
    directory: Option<String>,
}

fn owner_file(home: &Home, id: &str) -> PathBuf {
    home.kept_project(id).join("owner.toml")
}

/// Records the owner of storage, if it is not recorded. Storage with an explicit id belongs to the last project that used it.
pub fn own_by(home: &Home, id: &str, project: &Path) -> Result<(), Error> {
    set_aside(home, id, project)?;
    if owner(home, id)?.is_some_and(|owner| !is_named(id) || owner.path == project) {
        return Ok(());
    }
    make(&home.kept_project(id))?;
    let directory = DirectoryId::of(project).ok().map(|identity| identity.text());
    let written = Written { format: VERSION, path: projects::hex(project), directory };
    // A path may contain line breaks, which would end the comment.
    let text = format!("# {project:?}\n{}", toml::to_string(&written).expect("strings and numbers are TOML"));
    let path = owner_file(home, id);
    Ok(document::write(&path, &text).map_err(|source| PathError { doing: "write", path, source })?)
}

/// Reads the owner of storage.
pub fn owner(home: &Home, id: &str) -> Result<Option<Owner>, Error> {
    let path = owner_file(home, id);
    let Some(written) = document::read::<Written>(&path)? else { return Ok(None) };
    let project = projects::unhex(&written.path).filter(|_| written.format == VERSION);
    let wrong = || document::Error::Meaning { path: path.clone(), message: "it was not written by this version of silo".to_owned() };
    let identity = written.directory.as_deref().and_then(DirectoryId::parse);
    Ok(Some(Owner { id: id.to_owned(), path: project.ok_or_else(wrong)?, identity }))
}

/// Lists the owners of all storage of projects, by id.
pub fn owners(home: &Home) -> Result<Vec<Owner>, Error> {
    let mut all = Vec::new();
    for name in names(&home.kept_projects())? {
        all.extend(owner(home, &name)?);
    }
    Ok(all)
}

/// Lists the names in a directory, sorted; a missing directory has none.
pub fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| PathError { doing: "list", path: dir.to_owned(), source };
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    let mut names = Vec::new();
    for entry in listing {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Finds the storage that the directory at a canonical path had under its former path.
pub fn moved_from(home: &Home, project: &Path) -> Result<Option<Owner>, Error> {
    let Ok(own) = DirectoryId::of(project) else { return Ok(None) };
    // Without a birth time, the directory may be a later one with the same inode number.
    if !own.is_lasting() {
        return Ok(None);
    }
    // The directory may be back at its former path, where another directory was since.
    let is_elsewhere = |owner: &Owner| owner.path != project || owner.id != projects::id(project);
    // A bind mount shows the directory at both paths.
    let has_left = |owner: &Owner| owner.path == project || !owner.is_at(&owner.path);
    let is_it = |owner: &Owner| owner.identity.is_some_and(|other| other.is_same(&own)) && !is_named(&owner.id);
    Ok(owners(home)?.into_iter().find(|owner| is_it(owner) && is_elsewhere(owner) && has_left(owner)))
}

/// Renames the storage of a moved project to its new path.
pub fn adopt(home: &Home, old: &Owner, project: &Path) -> Result<(), Error> {
    let id = projects::id(project);
    set_aside(home, &id, project)?;
    let (from, to) = (home.kept_project(&old.id), home.kept_project(&id));
    fs::rename(&from, &to).map_err(|source| PathError { doing: "rename", path: from, source })?;
    let stale = owner_file(home, &id);
    fs::remove_file(&stale).map_err(|source| PathError { doing: "remove", path: stale, source })?;
    own_by(home, &id, project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_project_and_tool_has_its_own() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let kept = |scope| KeptDir { guest: "~/.cache/pip".to_owned(), scope, env: None };
        let one = Keeper::new(&home, Some(Path::new("/a")), None);
        let two = Keeper::new(&home, Some(Path::new("/b")), None);
        let of = |keeper: &Keeper<'_>, tool: &str, scope| keeper.kept(tool, Class::Cache, &kept(scope));
        assert_ne!(of(&one, "python", Scope::Project), of(&two, "python", Scope::Project));
        assert_ne!(of(&one, "python", Scope::Project), of(&one, "other", Scope::Project));
        assert_eq!(of(&one, "python", Scope::Tool), of(&two, "python", Scope::Tool));
        assert_ne!(one.excluded("a/b"), one.excluded("a%2Fb"));
        assert_eq!(file_name(".."), "%2E%2E");
        let none = Keeper::new(&home, None, None);
        assert_eq!((of(&none, "python", Scope::Project), none.excluded("x")), (None, None));
        let named = [Some("x"), Some("x")].map(|name| Keeper::new(&home, Some(Path::new("/a")), name).excluded("n"));
        assert!(named[0] == named[1] && named[0] != one.excluded("n"));
    }

    #[test]
    fn directories_in_use_are_not_taken() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let keeper = Keeper::new(&home, Some(place.path()), None);
        let dir = keeper.excluded("node_modules").expect("a project");
        let held = keeper.open(std::slice::from_ref(&dir)).expect("made");
        assert!(dir.is_dir() && keeper.is_known().expect("read"));
        let room = home.kept_project(&id(place.path(), None));
        assert!(take(&room).is_none());
        drop(held);
        assert!(take(&room).is_some());
    }

    #[test]
    fn a_moved_directory_is_found_and_another_one_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let (before, after, other) = (place.path().join("before"), place.path().join("after"), place.path().join("other"));
        fs::create_dir(&before).expect("made");
        let keeper = Keeper::new(&home, Some(&before), None);
        let dir = keeper.excluded("n").expect("a project");
        drop(keeper.open(std::slice::from_ref(&dir)).expect("made"));
        fs::write(dir.join("file"), "kept").expect("written");
        if !DirectoryId::of(&before).expect("there").is_lasting() {
            // Then no moved directory is found, and none is mistaken for another.
            let line = "SKIPPED a_moved_directory_is_found_and_another_one_is_not: the file system has no times of birth\n";
            return io::Write::write_all(&mut io::stderr(), line.as_bytes()).expect("standard error is open");
        }
        fs::create_dir(&other).expect("made");
        assert_eq!(moved_from(&home, &before).expect("read"), None, "it was not moved");
        fs::rename(&before, &after).expect("moved");
        assert_eq!(moved_from(&home, &other).expect("read"), None);
        let old = moved_from(&home, &after).expect("read").expect("it was moved");
        adopt(&home, &old, &after).expect("adopted");
        let dir = Keeper::new(&home, Some(&after), None).excluded("n").expect("a project");
        assert_eq!(fs::read_to_string(dir.join("file")).expect("there"), "kept");
        assert_eq!(moved_from(&home, &after).expect("read"), None);
    }

    #[test]
    fn another_directory_at_the_same_path_gets_nothing_of_the_first() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let (path, away) = (place.path().join("project"), place.path().join("away"));
        let dir = |keeper: &Keeper<'_>| keeper.excluded("n").expect("a project");
        fs::create_dir(&path).expect("made");
        let keeper = Keeper::new(&home, Some(&path), None);
        let held = keeper.open(&[dir(&keeper)]).expect("made");
        fs::write(dir(&keeper).join("file"), "first").expect("written");
        // The first directory is still in use.
        fs::rename(&path, &away).expect("moved");
        fs::create_dir(&path).expect("made");
        assert!(!keeper.is_known().expect("read"));
        let other = keeper.open(&[dir(&keeper)]).expect("made");
        assert!(!dir(&keeper).join("file").exists() && keeper.is_known().expect("read"));
        fs::write(dir(&keeper).join("file"), "second").expect("written");
        drop((held, other));
        let owners = owners(&home).expect("listed");
        assert_eq!(owners.iter().map(Owner::is_orphaned).filter(|orphaned| *orphaned).count(), 1);
        if !DirectoryId::of(&path).expect("there").is_lasting() {
            return;
        }
        // Each directory finds its own storage again, also at the path where the other was.
        fs::rename(&path, place.path().join("second")).expect("moved");
        fs::rename(&away, &path).expect("moved");
        let old = moved_from(&home, &path).expect("read").expect("it was here before");
        adopt(&home, &old, &path).expect("adopted");
        assert_eq!(fs::read_to_string(dir(&keeper).join("file")).expect("there"), "first");
        assert!(keeper.is_known().expect("read"));
        assert!(moved_from(&home, &place.path().join("second")).expect("read").is_some());
    }
}
