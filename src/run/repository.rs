//! Decides how a run sees the project's git repository: through a private overlay, read-only, hidden, or directly.

use std::fs;
use std::path::{Path, PathBuf};

use silo_guard::git::layer::Layer;
use silo_guard::git::layer_inputs::LayerInputs;
use silo_guard::git::leftover_layers;
use silo_guard::git::repository::{Layout, Repository};
use silo_launch::open_checked::{Links, OpenedPath};
use silo_launch::spec::{Access, Fallback, Mount, Overlay};
use silo_launch::{HAS_NATIVE, spec::host_path::HostPath};
use silo_model::config::mounts::Git;

use silo_base::sanitize;

use super::error::Error;
use super::{WORKSPACE, worktree};

/// Files of a directly writable repository that git acts on.
const OBEYED: [&str; 5] = [".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir", ".git/info"];
/// Inner repositories; read-only when the repository is directly writable.
const INNER: [&str; 2] = ["modules", "worktrees"];

/// A run's view of a repository.
#[derive(Default)]
pub struct RepositoryView {
    /// Mounts in addition to the project's.
    pub mounts: Vec<Mount>,
    /// Overlays over directories.
    pub overlays: Vec<Overlay>,
    /// Read-only guest paths.
    pub read_only: Vec<PathBuf>,
    /// Guest paths that appear empty.
    pub hidden: Vec<PathBuf>,
    /// Project paths that git acts on.
    pub obeyed: Vec<(PathBuf, String)>,
    /// Descriptors that must stay open until the program has started.
    pub opened: Vec<OpenedPath>,
    /// The layer to import.
    pub layer: Option<Layer>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Inputs that decide the view.
pub struct ViewInputs<'a> {
    /// Directory of the layers.
    pub layers: &'a Path,
    /// Setting `mount.git`.
    pub git: Git,
    /// Access to the project.
    pub access: Access,
    /// Working trees of submodules.
    pub submodules: &'a [PathBuf],
    /// Lifetime of the layer.
    pub lifetime: Lifetime,
}

/// Lifetime of a repository's layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The run imports it.
    Run,
    /// A review keeps it for later runs.
    Review,
}

/// Decides how a run sees the project's repository.
pub fn see(given: &ViewInputs<'_>, project: &OpenedPath) -> Result<RepositoryView, Error> {
    let mut seen = RepositoryView::default();
    let path = project.path();
    let at_git = [path.join(".git"), Path::new(WORKSPACE).join(".git")];
    let Ok(git) = fs::symlink_metadata(&at_git[0]) else {
        // Report a repository that appears during the run.
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
            // Create it as mount point for the guard. If that fails, the check after the run finds a new one.
            let _ = fs::create_dir(at_git[0].join("hooks"));
            seen.read_only.extend(at_git.iter().flat_map(|git| INNER.map(|name| git.join(name))));
            seen.obeyed.extend(OBEYED.iter().map(|name| (PathBuf::from(name), "git".to_owned())));
        }
        if let Some(linked) = linked {
            for mount in linked.mounts {
                let dir = OpenedPath::open(mount.host.path(), Links::Refuse)?;
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
    let dir = OpenedPath::open(&common, Links::Refuse)?;
    let guests = if linked.is_some() { vec![common.clone()] } else { at_git.to_vec() };
    let layer = if given.git == Git::Import { layer(given, path, &common, &mut seen)? } else { None };
    match layer {
        Some(layer) => {
            if linked.is_some() {
                // The overlay covers this mount completely.
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

/// Finds the guest paths of a repository elsewhere in the project: `git init --separate-git-dir`, or a `.git` that is a symlink.
fn elsewhere(project: &Path) -> Vec<PathBuf> {
    // If silo cannot read it, git on the host most likely cannot either.
    let Ok(Some(repository)) = Repository::find(project) else { return Vec::new() };
    let inner = [repository.own(), repository.common()].into_iter().filter_map(|dir| dir.strip_prefix(project).ok());
    inner.flat_map(|inner| [project, Path::new(WORKSPACE)].map(|top| top.join(inner))).collect()
}

/// Makes the layer, unless silo cannot import into this repository.
fn layer(given: &ViewInputs<'_>, project: &Path, common: &Path, seen: &mut RepositoryView) -> Result<Option<Layer>, Error> {
    let mut note = |why: &str| seen.notes.push(format!("the repository in {} is read-only inside: {why}", sanitize::path(common)));
    if !HAS_NATIVE {
        note("this system has no overlay file system");
        return Ok(None);
    }
    if given.lifetime == Lifetime::Review
        && let Some(kept) = leftover_layers::of_project(given.layers, project).pop()
    {
        if kept.is_replaced() {
            return Err(Error::usage(
                format!("the repository in {} was replaced here since the review began", sanitize::path(common)),
                "move the directory of this project out of ~/.silo/reviews first",
            ));
        }
        return Ok(Some(kept));
    }
    match Repository::find(project)? {
        None => note("it is not a complete repository"),
        Some(repository) if repository.layout() == Layout::Other => note("silo cannot read its ref format"),
        Some(repository) if repository.common() != common => note("its objects are in another directory"),
        Some(repository) => {
            let over = LayerInputs { layers: given.layers, project, repository: &repository, submodules: given.submodules };
            match Layer::begin(over) {
                Ok(layer) => return Ok(Some(layer)),
                Err(error) => note(&silo_base::error_chain::of(&error).join(": ")),
            }
        }
    }
    Ok(None)
}

fn overlay(layer: &Layer, lower: HostPath, guests: Vec<PathBuf>) -> Overlay {
    Overlay { lower, upper: layer.upper(), work: layer.work(), guests, fallback: Fallback::ReadOnly }
}
