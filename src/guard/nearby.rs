//! What is in the directories of a project: sockets of this machine, to which whoever can name one can connect and pass
//! descriptors; repositories of their own, with hooks of their own; and files of the list of obeyed ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use silo_store::bounded;

use super::nested::Table;
use crate::git::dir::{Dir, Kind};

/// Where the kernel lists sockets by the path that they were bound to.
const LISTED: &str = "/proc/net/unix";
/// Largest such list read.
const MAX_LISTED_BYTES: u64 = 16 << 20;
/// Most entries of a project that are looked at: a start must not wait for a tree of a million files.
const MAX_ENTRIES: usize = 20_000;
/// How deep the directories are: programs put them into the top directory or `tmp/sockets`.
const MAX_DEPTH: usize = 4;
/// Directories of packages and of builds, which hold many files and no sockets.
const SKIPPED: [&str; 5] = [".git", "node_modules", "target", ".venv", "vendor"];

/// What a repository in a directory has that git obeys.
const OBEYED: [&str; 5] = ["hooks", "config", "config.worktree", "commondir", "info"];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearby {
    /// Sockets.
    pub sockets: BTreeSet<PathBuf>,
    /// What git obeys of repositories in directories below the top.
    pub obeyed: BTreeSet<PathBuf>,
    /// Files of the list in directories below the top, each with the program that obeys it.
    pub nested: BTreeMap<PathBuf, &'static str>,
}

/// Looks through a project, a canonical path. Sockets are those that the kernel lists, wherever they are, and what is a socket
/// near the top, whoever listens; repositories and files of the list are those near the top, the nearest first.
pub fn look(project: &Path) -> Nearby {
    let Ok(dir) = Dir::open(project) else { return Nearby::default() };
    let mut nearby = Nearby::default();
    let table = Table::new();
    let mut found: BTreeSet<PathBuf> = bounded::read(Path::new(LISTED), MAX_LISTED_BYTES)
        .map(|bytes| listed(&String::from_utf8_lossy(&bytes), project))
        .unwrap_or_default();
    found.retain(|path| dir.stat(path).ok().flatten().is_some_and(|stat| Kind::of(&stat) == Kind::Socket));
    let mut left = MAX_ENTRIES;
    let mut dirs = VecDeque::from([(PathBuf::new(), 0)]);
    while let Some((path, depth)) = dirs.pop_front() {
        let Ok(inner) = dir.dir(&path) else { continue };
        let names = inner.list(left).unwrap_or_default();
        if depth > 0 {
            nearby.nested.extend(table.find(&inner, &names).into_iter().map(|(name, of)| (path.join(name), of)));
        }
        for name in names {
            left = left.saturating_sub(1);
            let whole = path.join(&name);
            if name == ".git" && !path.as_os_str().is_empty() {
                nearby.obeyed.extend(obeyed(&inner, &whole));
            }
            match inner.stat(Path::new(&name)).ok().flatten().map(|stat| Kind::of(&stat)) {
                Some(Kind::Socket) => drop(found.insert(whole)),
                Some(Kind::Dir) if depth + 1 < MAX_DEPTH && !SKIPPED.iter().any(|skipped| name == *skipped) => {
                    dirs.push_back((whole, depth + 1));
                }
                _ => {}
            }
        }
    }
    nearby.sockets = found;
    nearby
}

/// What git obeys of a repository that is a directory in another one; a file leads elsewhere.
pub fn obeyed(tree: &Dir, git: &Path) -> Vec<PathBuf> {
    let is_dir = tree.stat(Path::new(".git")).ok().flatten().is_some_and(|stat| Kind::of(&stat) == Kind::Dir);
    if is_dir { OBEYED.iter().map(|name| git.join(name)).collect() } else { vec![git.to_owned()] }
}

/// Reads the kernel's list: the path is the eighth word of a line.
fn listed(text: &str, project: &Path) -> BTreeSet<PathBuf> {
    let path = |line: &str| Path::new(line.splitn(8, ' ').nth(7)?.trim_start()).strip_prefix(project).ok().map(Path::to_owned);
    text.lines().skip(1).filter_map(path).filter(|path| !path.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_repositories_and_obeyed_files_in_directories_are_found() {
        let place = tempfile::tempdir().expect("a directory");
        let project = std::fs::canonicalize(place.path()).expect("there");
        std::fs::create_dir_all(project.join("a/b/c/d/e")).expect("made");
        std::fs::write(project.join("file"), "").expect("written");
        let deep = UnixListener::bind(project.join("a/b/c/d/e/deep"));
        drop(UnixListener::bind(project.join("near")).expect("bound"));
        std::fs::create_dir_all(project.join("lib/.git/hooks")).expect("made");
        std::fs::create_dir_all(project.join(".git/hooks")).expect("made");
        std::fs::write(project.join("a/.git"), "gitdir: x").expect("written");
        for dir in ["packages/web/.vscode", "packages/web/.config", "packages/web/node_modules/x", "packages/web/a/b"] {
            std::fs::create_dir_all(project.join(dir)).expect("made");
        }
        for file in [
            ".envrc",
            "packages/.MCP.json",
            "packages/web/.config/mise.toml",
            "packages/web/node_modules/x/.envrc",
            "packages/web/README.md",
        ] {
            std::fs::write(project.join(file), "").expect("written");
        }
        std::fs::write(project.join("packages/web/a/b/.envrc"), "").expect("written");
        let nearby = look(&project);
        assert!(nearby.obeyed.contains(Path::new("lib/.git/config")) && nearby.obeyed.contains(Path::new("a/.git")));
        assert!(nearby.obeyed.len() == 6, "{nearby:?}");
        let nested: Vec<&Path> = nearby.nested.keys().map(PathBuf::as_path).collect();
        assert_eq!(nested, ["packages/.MCP.json", "packages/web/.config/mise.toml", "packages/web/.vscode"].map(Path::new));
        let found: Vec<PathBuf> = nearby.sockets.into_iter().collect();
        let expect = if deep.is_ok() { vec!["a/b/c/d/e/deep", "near"] } else { vec!["near"] };
        assert_eq!(found, expect.iter().map(PathBuf::from).collect::<Vec<_>>());
        let text =
            format!("Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 10000 1 01 5 {}/x y\n0: 2 0 1 1 01 5\n", project.display());
        assert_eq!(listed(&text, &project), BTreeSet::from([PathBuf::from("x y")]));
    }
}
