//! What of a project the host's own programs execute or obey by themselves: hooks, editors' tasks, settings.
//!
//! What of it exists is read-only for a guest. What does not exist cannot be guarded by a mount, so it is looked at again
//! after the run, and what has come is told. The list is of files that act without being asked for: on `cd`, on opening
//! the directory, on `git status` or `git commit`. A Makefile or a package.json acts when a person runs it, and is not on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Paths of a project that are obeyed.
const PATHS: [&str; 25] = [
    // Commands that git, Mercurial and Jujutsu run by themselves, and what leads them to other settings.
    ".git/hooks",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
    ".git/info/attributes",
    ".gitmodules",
    ".gitattributes",
    ".hg/hgrc",
    ".jj/repo/config.toml",
    // What the hooks that are there run.
    ".husky",
    ".pre-commit-config.yaml",
    "lefthook.yml",
    ".lefthook.yml",
    // Silo's own.
    "silo.toml",
    "silo.lock",
    ".siloconf",
    // Shells and editors, on entering or opening the directory.
    ".envrc",
    ".vscode",
    ".idea",
    ".zed",
    ".helix",
    ".exrc",
    ".nvimrc",
    ".nvim.lua",
    ".dir-locals.el",
];

/// Directories of a repository that hold repositories of their own, and what of each is obeyed.
const NESTED: [(&str, [&str; 3]); 2] =
    [(".git/modules", ["hooks", "config", "commondir"]), (".git/worktrees", ["commondir", "gitdir", "config.worktree"])];
/// How deep a submodule's name may be: `libs/a/b`.
const NESTED_DEPTH: usize = 4;
/// Most directories that are looked through for submodules; one that has more is looked at in part.
const NESTED_DIRS: usize = 512;

/// What a project has that is obeyed, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obeyed {
    /// Paths within the project; where one is a symbolic link, with where it leads.
    there: BTreeMap<PathBuf, Option<OsString>>,
    /// Whether the project is a repository.
    repository: bool,
}

/// Looks at a project; `recipes` is its directory of recipes, where silo reads one.
pub fn look(project: &Path, recipes: Option<&str>) -> Obeyed {
    let mut found = Obeyed::default();
    let git = fs::symlink_metadata(project.join(".git")).ok();
    found.repository = git.is_some();
    for path in PATHS.into_iter().chain(recipes) {
        found.add(project, PathBuf::from(path));
    }
    match git {
        // A file leads to the repository; a link may lead anywhere.
        Some(git) if !git.is_dir() => found.add(project, PathBuf::from(".git")),
        Some(_) => NESTED.into_iter().for_each(|(dir, names)| found.nested(project, dir, names)),
        None => {}
    }
    found
}

/// Makes an empty `.git/hooks` where a repository has none, so that there is something to guard.
pub fn shut(project: &Path) {
    let git = project.join(".git");
    if fs::symlink_metadata(&git).is_ok_and(|found| found.is_dir()) {
        // Where it cannot be made it is looked for after the run.
        let _ = fs::create_dir(git.join("hooks"));
    }
}

impl Obeyed {
    fn add(&mut self, project: &Path, path: PathBuf) {
        let whole = project.join(&path);
        let Ok(found) = fs::symlink_metadata(&whole) else { return };
        let link = found.is_symlink().then(|| fs::read_link(&whole).unwrap_or_default().into_os_string());
        self.there.insert(path, link);
    }

    fn nested(&mut self, project: &Path, dir: &str, names: [&str; 3]) {
        let mut dirs = vec![(PathBuf::from(dir), 0)];
        let mut seen = 0;
        while let Some((dir, depth)) = dirs.pop() {
            for entry in fs::read_dir(project.join(&dir)).into_iter().flatten().flatten() {
                seen += 1;
                if seen > NESTED_DIRS {
                    return;
                }
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let below = dir.join(entry.file_name());
                let is_one = fs::symlink_metadata(project.join(&below).join("HEAD")).is_ok();
                if is_one {
                    names.iter().for_each(|name| self.add(project, below.join(name)));
                } else if depth + 1 < NESTED_DEPTH {
                    dirs.push((below, depth + 1));
                }
            }
        }
    }

    /// Returns the paths within the project.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.there.keys().map(PathBuf::as_path)
    }

    /// Says whether a path was there.
    pub fn has(&self, path: &str) -> bool {
        self.there.contains_key(Path::new(path))
    }

    /// Returns what is there now and was not before, or was a link to something else; a new repository is named once.
    pub fn new_since(&self, before: &Obeyed) -> Vec<PathBuf> {
        let repository = self.repository && !before.repository;
        let is_new = |(path, link): &(&PathBuf, &Option<OsString>)| before.there.get(*path) != Some(*link);
        let named = |path: &PathBuf| !(repository && path.starts_with(".git"));
        let paths = self.there.iter().filter(is_new).map(|(path, _)| path.clone()).filter(named);
        repository.then(|| PathBuf::from(".git")).into_iter().chain(paths).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_comes_is_found_and_what_was_there_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let project = place.path();
        let before = look(project, None);
        assert_eq!(before, Obeyed::default());
        shut(project);
        fs::create_dir_all(project.join(".git/hooks")).expect("made");
        fs::write(project.join(".envrc"), "").expect("written");
        let after = look(project, None);
        assert_eq!(after.new_since(&before), [".git", ".envrc"].map(PathBuf::from));
        assert_eq!(after.new_since(&after), Vec::<PathBuf>::new());

        // A link that leads elsewhere is another one, and so is a submodule's configuration.
        fs::remove_file(project.join(".envrc")).expect("there");
        symlink("a", project.join(".envrc")).expect("made");
        let linked = look(project, None);
        fs::remove_file(project.join(".envrc")).expect("there");
        symlink("b", project.join(".envrc")).expect("made");
        for dir in [".git/modules/libs/a", ".git/worktrees/w", "recipes"] {
            fs::create_dir_all(project.join(dir)).expect("made");
            fs::write(project.join(dir).join("HEAD"), "").expect("written");
            fs::write(project.join(dir).join("commondir"), "").expect("written");
        }
        let expect = [".envrc", ".git/modules/libs/a/commondir", ".git/worktrees/w/commondir", "recipes"].map(PathBuf::from);
        assert_eq!(look(project, Some("recipes")).new_since(&linked), expect);
        assert!(!linked.has("recipes"));
    }

    #[test]
    fn a_repository_gets_hooks_to_guard() {
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join(".git")).expect("made");
        shut(place.path());
        assert!(look(place.path(), None).has(".git/hooks"));
    }
}
