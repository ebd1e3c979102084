//! The repository of a linked git worktree, which is outside the project.
//!
//! The project's `.git` is a file that names a directory of the repository, and a guest can have written that file. So it is accepted only
//! if that directory, which no guest of this project can write, names the project as its worktree. The repository is read-only except for
//! the paths that commits write: objects, refs, and the worktree's own index and heads.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::read_limited;

use silo_launch::spec::{Access, Mount};

/// Maximum size of the small files with which git's directories refer to each other.
const MAX_LINK_BYTES: u64 = 8192;
/// Directories of a repository that commits write.
const WRITTEN: [&str; 3] = ["objects", "refs", "logs"];
/// Files in a worktree's own directory that git acts on.
const OBEYED: [&str; 3] = ["commondir", "gitdir", "config.worktree"];

/// The mounts of a linked worktree's repository, at its own path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repository {
    /// Mounts, outer ones first.
    pub mounts: Vec<Mount>,
    /// Read-only paths inside them.
    pub read_only: Vec<PathBuf>,
}

/// Finds the repository of a linked worktree by the worktree's canonical path. With write access, commits are possible.
pub fn repository(project: &Path, access: Access) -> Option<Repository> {
    let file = project.join(".git");
    if !fs::symlink_metadata(&file).ok()?.is_file() {
        return None;
    }
    let named = line(&file)?;
    let own = fs::canonicalize(project.join(named.strip_prefix("gitdir:")?.trim())).ok()?;
    let back = fs::canonicalize(own.join(line(&own.join("gitdir"))?)).ok()?;
    let common = fs::canonicalize(own.join(line(&own.join("commondir"))?)).ok()?;
    let is_repository = ["HEAD", "objects", "refs"].iter().all(|name| common.join(name).exists());
    let is_its_worktree = own.parent() == Some(common.join("worktrees").as_path());
    if back != file || !is_repository || !is_its_worktree || own.starts_with(project) {
        return None;
    }
    let mount = |path: PathBuf, access| Mount { host: path.clone().into(), guest: path, access };
    let mut mounts = vec![mount(common.clone(), Access::ReadOnly)];
    if access == Access::ReadWrite {
        let written = WRITTEN.into_iter().map(|name| common.join(name)).filter(|path| is_plain_directory(path));
        mounts.extend(written.chain([own.clone()]).map(|path| mount(path, Access::ReadWrite)));
    }
    Some(Repository { mounts, read_only: OBEYED.into_iter().map(|name| own.join(name)).collect() })
}

fn is_plain_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Reads a small file of one line.
fn line(path: &Path) -> Option<String> {
    let text = String::from_utf8(read_limited::read(path, MAX_LINK_BYTES).ok()?).ok()?;
    Some(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_that_names_the_worktree_is_shown() {
        let place = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(place.path()).expect("it is there");
        let (project, common) = (root.join("tree"), root.join("main/.git"));
        let own = common.join("worktrees/tree");
        for dir in [&project, &own, &common.join("objects"), &common.join("refs")] {
            fs::create_dir_all(dir).expect("made");
        }
        let write = |path: PathBuf, text: String| fs::write(path, text).expect("written");
        write(common.join("HEAD"), "ref: refs/heads/main\n".to_owned());
        write(own.join("commondir"), "../..\n".to_owned());
        write(own.join("gitdir"), format!("{}\n", project.join(".git").display()));
        write(project.join(".git"), format!("gitdir: {}\n", own.display()));
        let found = repository(&project, Access::ReadWrite).expect("a worktree");
        let shown: Vec<(PathBuf, Access)> = found.mounts.iter().map(|mount| (mount.host.path().to_owned(), mount.access)).collect();
        let (read, written) = (Access::ReadOnly, Access::ReadWrite);
        assert_eq!(
            shown,
            [(common.clone(), read), (common.join("objects"), written), (common.join("refs"), written), (own.clone(), written)]
        );
        assert_eq!(repository(&project, Access::ReadOnly).expect("a worktree").mounts.len(), 1);
        // The other spelling.
        write(own.join("gitdir"), "../../../../tree/.git\n".to_owned());
        write(project.join(".git"), "gitdir: ../main/.git/worktrees/tree\n".to_owned());
        assert!(repository(&project, Access::ReadWrite).is_some());
        // Another project that claims to be this worktree.
        let other = root.join("other");
        fs::create_dir(&other).expect("made");
        write(other.join(".git"), format!("gitdir: {}\n", own.display()));
        assert_eq!(repository(&other, Access::ReadWrite), None);
        // A repository that the guest made in the project, with a `commondir` that points out of it.
        let inner = other.join("x/worktrees/w");
        fs::create_dir_all(&inner).expect("made");
        write(inner.join("gitdir"), format!("{}\n", other.join(".git").display()));
        write(inner.join("commondir"), format!("{}\n", common.display()));
        write(other.join(".git"), "gitdir: x/worktrees/w\n".to_owned());
        assert_eq!(repository(&other, Access::ReadWrite), None);
        assert_eq!(repository(&root.join("main"), Access::ReadWrite), None, "a repository of its own needs none");
    }
}
