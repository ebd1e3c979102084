//! How a run sees the project's git repository: under a layer of its own, read-only, not at all, or as it is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::sight::Git;
use crate::git::layer::Layer;
use crate::git::over::Over;
use crate::git::repository::{Layout, Repository};
use crate::launch::opened::{Links, Opened};
use crate::launch::spec::{Access, Mount, Overlay};
use crate::launch::{HAS_NATIVE, spec::host_path::HostPath};

use crate::plain;

use super::error::Error;
use super::{WORKSPACE, worktree};

/// What git obeys of a repository that tools write directly.
const OBEYED: [&str; 5] = [".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir", ".git/info"];
/// Repositories in it, of which tools write nothing then.
const INNER: [&str; 2] = ["modules", "worktrees"];

/// What a run sees of a repository.
#[derive(Default)]
pub struct Seen {
    /// Mounts besides the project's own.
    pub mounts: Vec<Mount>,
    /// Layers over directories.
    pub overlays: Vec<Overlay>,
    /// Guest paths that are read-only.
    pub read_only: Vec<PathBuf>,
    /// Guest paths at which something empty is seen.
    pub hidden: Vec<PathBuf>,
    /// Paths in the project that git obeys.
    pub obeyed: Vec<(PathBuf, String)>,
    /// Descriptors that must stay open until the program has started.
    pub opened: Vec<Opened>,
    /// The layer, to be taken over.
    pub layer: Option<Layer>,
    /// What the user is to know.
    pub notes: Vec<String>,
}

/// What decides how a repository is seen.
pub struct Given<'a> {
    /// Where layers lie.
    pub layers: &'a Path,
    /// How it is wished for.
    pub git: Git,
    /// Whether the project can be written.
    pub access: Access,
    /// Working trees of submodules.
    pub submodules: &'a [PathBuf],
}

/// Decides how the repository of a project is seen.
pub fn see(given: &Given<'_>, project: &Opened) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    let path = project.path();
    let at_git = [path.join(".git"), Path::new(WORKSPACE).join(".git")];
    let Ok(git) = fs::symlink_metadata(&at_git[0]) else {
        // One that comes is reported.
        seen.obeyed.extend(OBEYED.iter().map(|name| (PathBuf::from(name), "git".to_owned())));
        return Ok(seen);
    };
    if given.git == Git::Hidden {
        seen.hidden.extend(at_git);
        return Ok(seen);
    }
    let linked = worktree::repository(path, if given.git == Git::Direct { given.access } else { Access::ReadOnly });
    let writes = given.access == Access::ReadWrite;
    if given.git == Git::Direct || !writes {
        if git.is_dir() && writes {
            // So that there is something to guard. Where it cannot be made it is looked for after the run.
            let _ = fs::create_dir(at_git[0].join("hooks"));
            seen.read_only.extend(at_git.iter().flat_map(|git| INNER.map(|name| git.join(name))));
            seen.obeyed.extend(OBEYED.iter().map(|name| (PathBuf::from(name), "git".to_owned())));
        }
        if let Some(linked) = linked {
            for mount in linked.mounts {
                let dir = Opened::open(mount.host.path(), Links::Refuse)?;
                seen.mounts.push(Mount { host: dir.host(), ..mount });
                seen.opened.push(dir);
            }
            seen.read_only.extend(linked.read_only);
        }
        return Ok(seen);
    }
    let common = match &linked {
        Some(linked) => linked.mounts.first().map(|mount| mount.host.path().to_owned()),
        None => git.is_dir().then(|| at_git[0].clone()),
    };
    let Some(common) = common else {
        seen.read_only.extend(elsewhere(path));
        return Ok(seen);
    };
    let dir = Opened::open(&common, Links::Refuse)?;
    let guests = if linked.is_some() { vec![common.clone()] } else { at_git.to_vec() };
    let layer = if given.git == Git::Import { layer(given, path, &common, &mut seen)? } else { None };
    match layer {
        Some(layer) => {
            if linked.is_some() {
                // Covered by the layer as a whole.
                seen.mounts.push(Mount { host: dir.host(), guest: common, access: Access::ReadWrite });
            }
            seen.overlays.push(overlay(&layer, dir.host(), guests));
            seen.layer = Some(layer);
        }
        None if linked.is_some() => seen.mounts.push(Mount { host: dir.host(), guest: common, access: Access::ReadOnly }),
        None => seen.read_only.extend(guests),
    }
    seen.opened.push(dir);
    Ok(seen)
}

/// Finds the guest paths of a repository that lies elsewhere in the project: `git init --separate-git-dir`, or a `.git` that is
/// a symlink.
fn elsewhere(project: &Path) -> Vec<PathBuf> {
    // What git on the host cannot read either obeys nothing.
    let Ok(Some(repository)) = Repository::find(project) else { return Vec::new() };
    let inner = [repository.own(), repository.common()].into_iter().filter_map(|dir| dir.strip_prefix(project).ok());
    inner.flat_map(|inner| [project, Path::new(WORKSPACE)].map(|top| top.join(inner))).collect()
}

/// Makes the layer, unless the repository is one that cannot be taken over to.
fn layer(given: &Given<'_>, project: &Path, common: &Path, seen: &mut Seen) -> Result<Option<Layer>, Error> {
    let mut note = |why: &str| seen.notes.push(format!("the repository in {} is read-only inside: {why}", plain::path(common)));
    if !HAS_NATIVE {
        note("this system has no layers for files");
        return Ok(None);
    }
    match Repository::find(project)? {
        None => note("it is not a whole repository"),
        Some(repository) if repository.layout() == Layout::Other => note("it keeps its refs in a way that silo does not read"),
        Some(repository) if repository.common() != common => note("it has its objects elsewhere"),
        Some(repository) => {
            let over = Over { layers: given.layers, project, repository: &repository, submodules: given.submodules };
            match Layer::begin(over) {
                Ok(layer) => return Ok(Some(layer)),
                Err(error) => note(&crate::causes::of(&error).join(": ")),
            }
        }
    }
    Ok(None)
}

fn overlay(layer: &Layer, lower: HostPath, guests: Vec<PathBuf>) -> Overlay {
    Overlay { lower, upper: layer.upper(), work: layer.work(), guests }
}
