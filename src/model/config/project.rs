//! The configuration files of a project, read once, so that the checked bytes are the used bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use silo_store::digest::Digest;
use silo_store::read_limited;

use crate::document;
use crate::recipe::addon;
use crate::recipe::texts::ProjectRecipes;
use silo_base::home::{LEGACY_CONFIG, PROJECT_CONFIG, PROJECT_LOCK, RECIPES};

use super::discover::{self, ProjectFile, RejectedFile};

/// Limit of recipes, locks and add-ons of a project. Arbitrary; a tool has two files.
const MAX_RECIPE_FILES: usize = 1024;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    /// Reason why it cannot be read.
    Unreadable(String),
}

impl Content {
    fn digest(&self) -> Digest {
        match self {
            Content::Bytes(bytes) => Digest::of(bytes),
            Content::Unreadable(why) => Digest::of(format!("unreadable: {why}").as_bytes()),
        }
    }
}

/// Settings, lock and recipes of a project at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectFiles {
    root: PathBuf,
    files: BTreeMap<String, Content>,
    /// Directories outside the project that hold one of the files.
    elsewhere: BTreeSet<PathBuf>,
    /// A file has another hard link, through which it can be changed.
    is_linked: bool,
    passed_over: Vec<RejectedFile>,
}

impl ProjectFiles {
    /// Reads the files of the project at a canonical path.
    pub fn read(root: &Path) -> Result<ProjectFiles, document::Error> {
        let mut files = ProjectFiles { root: root.to_owned(), ..ProjectFiles::default() };
        for name in [PROJECT_CONFIG, LEGACY_CONFIG, PROJECT_LOCK] {
            files.add(name.to_owned());
        }
        // Without a silo.toml, a directory of recipes has nothing to do with silo.
        if files.has(PROJECT_CONFIG) {
            files.add_recipes()?;
        }
        Ok(files)
    }

    /// Returns the files with other settings, which are not written yet.
    pub fn with_settings(mut self, text: &str) -> Result<ProjectFiles, document::Error> {
        let had = self.has(PROJECT_CONFIG);
        self.files.insert(PROJECT_CONFIG.to_owned(), Content::Bytes(text.as_bytes().to_vec()));
        if !had {
            self.add_recipes()?;
        }
        Ok(self)
    }

    /// Returns the files with a file as it is among others.
    pub fn with_file_of(mut self, name: &str, others: &ProjectFiles) -> ProjectFiles {
        match others.files.get(name) {
            Some(content) => drop(self.files.insert(name.to_owned(), content.clone())),
            None => drop(self.files.remove(name)),
        }
        self
    }

    /// Returns the project directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directories outside the project that hold one of the files.
    pub fn elsewhere(&self) -> impl Iterator<Item = &Path> {
        self.elsewhere.iter().map(PathBuf::as_path)
    }

    /// True if one of the files has another hard link.
    pub fn is_linked(&self) -> bool {
        self.is_linked
    }

    /// Returns the rejected settings files in the project directory.
    pub fn passed_over(&self) -> &[RejectedFile] {
        &self.passed_over
    }

    /// Returns the names of the files: `silo.toml`, `recipes/tool.toml`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// True if there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Returns the text of a file, or `None` if there is no such file.
    pub fn text(&self, name: &str) -> Result<Option<&str>, document::Error> {
        let wrong = |why: String| document::Error::Read { path: self.root.join(name), source: io::Error::other(why) };
        match self.files.get(name) {
            None => Ok(None),
            Some(Content::Unreadable(why)) => Err(wrong(why.clone())),
            Some(Content::Bytes(bytes)) => std::str::from_utf8(bytes).map(Some).map_err(|error| wrong(error.to_string())),
        }
    }

    /// Returns the project's recipes; only a project with a `silo.toml` has recipes.
    pub fn recipes(&self) -> Option<ProjectRecipes> {
        let text = |content: &Content| match content {
            Content::Unreadable(why) => Err(why.clone()),
            Content::Bytes(bytes) => String::from_utf8(bytes.clone()).map_err(|error| error.utf8_error().to_string()),
        };
        let below = |(name, content): (&String, &Content)| Some((name.strip_prefix(RECIPES)?.strip_prefix('/')?.to_owned(), text(content)));
        self.has(PROJECT_CONFIG).then(|| ProjectRecipes::new(self.root.join(RECIPES), self.files.iter().filter_map(below).collect()))
    }

    /// Returns the digest of each file.
    pub fn digests(&self) -> BTreeMap<String, Digest> {
        self.files.iter().map(|(name, content)| (name.clone(), content.digest())).collect()
    }

    /// Returns the digest of one file, if it is there.
    pub fn digest(&self, name: &str) -> Option<Digest> {
        self.files.get(name).map(Content::digest)
    }

    fn add(&mut self, name: String) {
        let path = self.root.join(&name);
        let mut names = 1;
        let mut read = |file: File| {
            names = file.metadata()?.nlink();
            read_limited::whole(file, document::MAX_BYTES).map(Content::Bytes)
        };
        let content = match discover::open(&path) {
            Ok(ProjectFile::Absent) => return,
            Ok(ProjectFile::File(file)) => read(file).unwrap_or_else(|error| Content::Unreadable(error.to_string())),
            // With settings, a rejected lock or recipe is an error: the project must not silently change. Without settings, this directory
            // is no project.
            Ok(ProjectFile::PassedOver(one)) if !self.has(PROJECT_CONFIG) && !self.has(LEGACY_CONFIG) => {
                self.passed_over.push(one);
                return;
            }
            Ok(ProjectFile::PassedOver(one)) => Content::Unreadable(one.to_string()),
            Err(error) => Content::Unreadable(error.to_string()),
        };
        self.files.insert(name, content);
        self.is_linked |= names > 1;
        let real = fs::canonicalize(&path).ok();
        self.elsewhere.extend(real.as_deref().and_then(Path::parent).filter(|dir| *dir != self.root).map(Path::to_owned));
    }

    fn add_recipes(&mut self) -> Result<(), document::Error> {
        [RECIPES.to_owned(), format!("{RECIPES}/{}", addon::DIR)].iter().try_for_each(|dir| self.add_all(dir))
    }

    fn add_all(&mut self, dir: &str) -> Result<(), document::Error> {
        let path = self.root.join(dir);
        let failed = |source| document::Error::Read { path: path.clone(), source };
        let listing = match fs::read_dir(&path) {
            Ok(listing) => listing,
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for (number, entry) in listing.enumerate() {
            if number == MAX_RECIPE_FILES {
                let message = format!("it has more than {MAX_RECIPE_FILES} entries");
                return Err(document::Error::Meaning { path, message });
            }
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().filter(|name| [".toml", ".lock", ".asc"].iter().any(|end| name.ends_with(end))) {
                self.add(format!("{dir}/{name}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obeyed_files_are_read_once() {
        let place = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("recipes/a.toml", "a");
        write("recipes/notes.md", "n");
        write("recipes/addons/b.toml", "b");
        write("silo.lock", "l");
        let names = || ProjectFiles::read(place.path()).expect("read").names().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names(), ["silo.lock"], "recipes count beside a silo.toml");
        write("silo.toml", "s");
        assert_eq!(names(), ["recipes/a.toml", "recipes/addons/b.toml", "silo.lock", "silo.toml"]);
        let files = ProjectFiles::read(place.path()).expect("read");
        write("silo.toml", "other");
        assert_eq!(files.text("silo.toml").expect("text"), Some("s"));
        fs::remove_file(place.path().join("silo.lock")).expect("there");
        fs::create_dir(place.path().join("silo.lock")).expect("made");
        let files = ProjectFiles::read(place.path()).expect("read");
        assert!(files.text("silo.lock").is_err() && files.text("none").expect("nothing").is_none());
        assert!(files.digests().contains_key("silo.lock"), "what cannot be read is a change, too");
    }
}
