//! Scans the directories of a project for sockets of this machine, repositories with their own hooks, and listed files. A program that can
//! name a socket can connect to it and pass descriptors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use silo_store::read_limited;

use super::nested::Table;
use crate::git::dir_fd::{Dir, Kind};

/// The kernel's list of bound sockets.
const LISTED: &str = "/proc/net/unix";
/// Maximum size of that list.
const MAX_LISTED_BYTES: u64 = 16 << 20;
/// Maximum number of scanned entries: a start must not wait for a tree of a million files.
const MAX_ENTRIES: usize = 20_000;
/// Maximum depth: programs put sockets into the top directory or `tmp/sockets`.
const MAX_DEPTH: usize = 4;
/// Directories of packages and builds, with many files and no sockets.
const SKIPPED: [&str; 5] = [".git", "node_modules", "target", ".venv", "vendor"];

/// Files of a nested repository that git acts on.
const OBEYED: [&str; 5] = ["hooks", "config", "config.worktree", "commondir", "info"];

/// Result of the scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NearbyScan {
    /// Sockets.
    pub sockets: BTreeSet<PathBuf>,
    /// Files of repositories in subdirectories that git acts on.
    pub obeyed: BTreeSet<PathBuf>,
    /// Listed files in subdirectories, each with the program that acts on it.
    pub nested: BTreeMap<PathBuf, &'static str>,
}

/// Scans a project by its canonical path. Finds sockets in the kernel's list at any depth, and all sockets near the top, regardless of
/// their listener. Finds repositories and listed files near the top, nearest first.
pub fn scan_nearby(project: &Path) -> NearbyScan {
    let Ok(dir) = Dir::open(project) else { return NearbyScan::default() };
    let mut nearby = NearbyScan::default();
    let table = Table::new();
    let mut found: BTreeSet<PathBuf> = read_limited::read(Path::new(LISTED), MAX_LISTED_BYTES)
        .map(|bytes| parse_list(&String::from_utf8_lossy(&bytes), project))
        .unwrap_or_default();
    found.retain(|path| dir.stat(path).ok().flatten().is_some_and(|stat| Kind::of(&stat) == Kind::Socket));
    let mut left = MAX_ENTRIES;
    let mut dirs = VecDeque::from([(PathBuf::new(), 0)]);
    while let Some((path, depth)) = dirs.pop_front() {
        let Ok(inner) = dir.dir(&path) else { continue };
        let names = inner.list(left).unwrap_or_default();
        if is_bare_repository(&names) {
            nearby.obeyed.extend(OBEYED.map(|name| path.join(name)));
        }
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

/// Returns the files of a nested repository that git acts on; a `.git` file names another directory.
pub fn obeyed(tree: &Dir, git: &Path) -> Vec<PathBuf> {
    let is_dir = tree.stat(Path::new(".git")).ok().flatten().is_some_and(|stat| Kind::of(&stat) == Kind::Dir);
    if is_dir { OBEYED.iter().map(|name| git.join(name)).collect() } else { vec![git.to_owned()] }
}

/// True if git takes a directory with these names for a repository, without the name `.git`. File systems may ignore case.
fn is_bare_repository(names: &[OsString]) -> bool {
    let has = |name: &str| names.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
    has("HEAD") && (has("commondir") || has("objects") && has("refs"))
}

/// Parses the kernel's list: the path is the eighth word of a line.
fn parse_list(text: &str, project: &Path) -> BTreeSet<PathBuf> {
    let path = |line: &str| Path::new(line.splitn(8, ' ').nth(7)?.trim_start()).strip_prefix(project).ok().map(Path::to_owned);
    text.lines().skip(1).filter_map(path).filter(|path| !path.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn bare_repositories_are_found() {
        let place = tempfile::tempdir().expect("a directory");
        for path in ["a/repo.git/objects", "a/repo.git/refs", "b/objects", "b/refs", "c", "src/refs", "src/objects"] {
            std::fs::create_dir_all(place.path().join(path)).expect("made");
        }
        for path in ["a/repo.git/HEAD", "c/head", "c/commondir"] {
            std::fs::write(place.path().join(path), "").expect("written");
        }
        let nearby = scan_nearby(place.path());
        let found: BTreeSet<&Path> = nearby.obeyed.iter().filter_map(|path| path.parent()).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [Path::new("a/repo.git"), Path::new("c")]);
        assert!(nearby.obeyed.contains(Path::new("a/repo.git/config")) && nearby.obeyed.len() == 10);
    }

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
        let nearby = scan_nearby(&project);
        assert!(nearby.obeyed.contains(Path::new("lib/.git/config")) && nearby.obeyed.contains(Path::new("a/.git")));
        assert!(nearby.obeyed.len() == 6, "{nearby:?}");
        let nested: Vec<&Path> = nearby.nested.keys().map(PathBuf::as_path).collect();
        assert_eq!(nested, ["packages/.MCP.json", "packages/web/.config/mise.toml", "packages/web/.vscode"].map(Path::new));
        let found: Vec<PathBuf> = nearby.sockets.into_iter().collect();
        let expect = if deep.is_ok() { vec!["a/b/c/d/e/deep", "near"] } else { vec!["near"] };
        assert_eq!(found, expect.iter().map(PathBuf::from).collect::<Vec<_>>());
        let text =
            format!("Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 10000 1 01 5 {}/x y\n0: 2 0 1 1 01 5\n", project.display());
        assert_eq!(parse_list(&text, &project), BTreeSet::from([PathBuf::from("x y")]));
    }
}
