//! Host files that a run sees in addition to its image: the project, persistent directories, passed files.
//!
//! A host path that another program could replace is opened here once and checked through its descriptor. The launch spec names the
//! descriptor's inode, and only that inode is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use silo_base::home::{Home, RECIPES};
use silo_guard::git::config_paths::{self, Place};
use silo_guard::{MAX_GUARDED, nearby_scan};
use silo_launch::open_checked::{self, Links, OpenedPath};
use silo_launch::spec::host_path::HostPath;
use silo_launch::spec::{Access, Mount, Overlay};
use silo_model::config::mounts::{Git, Mode, PassFile, Sockets};
use silo_model::config::{Review, Settings};
use silo_model::recipe::Run;
use silo_tool::kept_dirs::{Class, InUse, Keeper};
use silo_tool::projects;

use super::WORKSPACE;
use super::error::Error;
use super::repository::{self, Lifetime};
use super::reviewing::{self, Reviewing};
use super::watch_project::{self, Guarded, Guarding};

/// Inputs that decide the mounts.
pub struct MountInputs<'a> {
    /// Silo's home directory.
    pub home: &'a Home,
    /// The settings in force.
    pub settings: &'a Settings,
    /// Name of the tool.
    pub tool: &'a str,
    /// The `run` section of its recipe.
    pub run: Option<&'a Run>,
    /// Id under which project caches and state are stored, if the project's settings set one.
    pub project_id: Option<&'a str>,
    /// True if silo reads recipes of the project.
    pub has_recipes: bool,
    /// Home directory of the user.
    pub user_home: &'a Path,
    /// Decision about changes of the project.
    pub review: Review,
}

/// The mounts of a run.
#[derive(Default)]
pub struct Mounts {
    /// All mounts.
    pub mounts: Vec<Mount>,
    /// Guest paths that are read-only inside writable mounts.
    pub read_only: Vec<PathBuf>,
    /// Overlays over directories of the mounts.
    pub overlays: Vec<Overlay>,
    /// Guest paths that appear empty.
    pub hidden: Vec<PathBuf>,
    /// Guest paths of directories that the program may remove and make again.
    pub removable: Vec<PathBuf>,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// Variables that name persistent directories.
    pub env: Vec<(String, PathBuf)>,
    /// The project, if it is mounted.
    pub project: Option<MountedProject>,
    /// Descriptors that must stay open until the program has started.
    pub opened: Vec<OpenedPath>,
    /// Protects persistent directories from being emptied.
    pub in_use: Option<InUse>,
}

/// A mounted project.
pub struct MountedProject {
    /// Project directory.
    pub path: PathBuf,
    /// Access of the mount.
    pub access: Access,
    /// Excluded directories, each with the host directory mounted there instead.
    pub excluded: Vec<(PathBuf, PathBuf)>,
    /// Watches files that host programs act on, if the project is writable.
    pub guarding: Option<Guarding>,
    /// The private layer with all changes, in review mode.
    pub review: Option<Reviewing>,
}

/// Decides the mounts of a run, and makes its persistent directories.
///
/// Calls `settle` before the first persistent directory of a project is made.
pub fn find(given: &MountInputs<'_>, project: Option<OpenedPath>, settle: impl FnOnce() -> Result<(), Error>) -> Result<Mounts, Error> {
    let mut found = Mounts::default();
    let keeper = Keeper::new(given.home, project.as_ref().map(OpenedPath::path), given.project_id);
    let mut dirs = keep(&mut found, given, &keeper);
    if let Some(project) = &project {
        let access = if given.settings.mount.mode == Some(Mode::Ro) { Access::ReadOnly } else { Access::ReadWrite };
        for inner in &given.settings.mount.exclude {
            excludable(project.path(), inner, access)?;
        }
        let excluded = given.settings.mount.exclude.iter().filter_map(|inner| Some((PathBuf::from(inner), keeper.excluded(inner)?)));
        let mut shown =
            MountedProject { path: project.path().to_owned(), access, excluded: excluded.collect(), guarding: None, review: None };
        dirs.extend(shown.excluded.iter().map(|(_, dir)| dir.clone()));
        mount_project(&mut found, &shown, project.host());
        if given.review > Review::Never && access == Access::ReadWrite {
            let asked = reviewing::Asked { home: given.home, tool: given.tool, review: given.review };
            let layered = reviewing::begin(&asked, project)?;
            found.mounts.extend(layered.mounts);
            found.overlays.push(layered.overlay);
            found.opened.extend(layered.opened);
            found.notes.extend(layered.notes);
            shown.review = Some(layered.reviewing);
        }
        guard(&mut found, given, &mut shown, project)?;
        found.project = Some(shown);
    }
    for file in given.settings.files(given.tool) {
        pass(&mut found, given, file, project.as_ref())?;
    }
    if !dirs.is_empty() {
        if !keeper.is_known()? {
            settle()?;
        }
        found.in_use = Some(keeper.open(&dirs)?);
    }
    found.opened.extend(project);
    Ok(found)
}

/// Adds a tool's persistent directories; returns their host paths.
fn keep(found: &mut Mounts, given: &MountInputs<'_>, keeper: &Keeper<'_>) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let (settings, tool) = (given.settings, given.tool);
    for (class, all) in [(Class::Cache, settings.caches(tool, given.run)), (Class::State, settings.states(tool, given.run))] {
        for kept in all {
            let Some(dir) = keeper.kept(tool, class, &kept) else { continue };
            let guest = below(given.user_home, &kept.guest);
            found.env.extend(kept.env.map(|name| (name, guest.clone())));
            found.mounts.push(Mount { host: dir.clone().into(), guest, access: Access::ReadWrite });
            dirs.push(dir);
        }
    }
    dirs
}

/// Returns a tool's caches in a project: each path in the sandbox, with the directory on the host.
pub fn caches(inputs: &CacheInputs<'_>) -> Vec<(PathBuf, PathBuf)> {
    let settings = inputs.settings;
    let keeper = Keeper::new(inputs.home, Some(inputs.project), settings.project_id.as_deref());
    let kept = settings.caches(inputs.tool, inputs.run);
    kept.into_iter()
        .filter_map(|kept| Some((below(inputs.user_home, &kept.guest), keeper.kept(inputs.tool, Class::Cache, &kept)?)))
        .collect()
}

/// Inputs that decide the caches of a tool.
pub struct CacheInputs<'a> {
    /// Silo's home directory.
    pub home: &'a Home,
    /// The settings in force.
    pub settings: &'a Settings,
    /// Name of the tool.
    pub tool: &'a str,
    /// The `run` section of its recipe.
    pub run: Option<&'a Run>,
    /// The project.
    pub project: &'a Path,
    /// Home directory of the user.
    pub user_home: &'a Path,
}

/// Mounts the project at its own path and at `/workspace`.
fn mount_project(found: &mut Mounts, shown: &MountedProject, host: HostPath) {
    for guest in [shown.path.as_path(), Path::new(WORKSPACE)] {
        found.mounts.push(Mount { host: host.clone(), guest: guest.to_owned(), access: shown.access });
        for (inner, dir) in &shown.excluded {
            found.mounts.push(Mount { host: dir.clone().into(), guest: guest.join(inner), access: Access::ReadWrite });
            found.removable.push(guest.join(inner));
        }
    }
}

/// Protects the parts of the project that host programs act on: its repository, known files, sockets.
fn guard(found: &mut Mounts, given: &MountInputs<'_>, shown: &mut MountedProject, project: &OpenedPath) -> Result<(), Error> {
    let (path, mount) = (project.path(), &given.settings.mount);
    let layers = given.home.repositories();
    let left = watch_project::recover(&layers, path);
    if !left.is_empty() {
        found
            .notes
            .push(format!("not all changes of an earlier, killed run could be imported into the repository:\n  {}", left.join("\n  ")));
    }
    let most = mount.max_guarded.map_or(MAX_GUARDED, |most| most as usize);
    let named = config_paths::named(Place { project: path, home: given.user_home, most })?;
    let (layers, lifetime) = match &shown.review {
        Some(review) => (review.layers(), Lifetime::Review),
        None => (layers, Lifetime::Run),
    };
    let git = match (mount.git.unwrap_or_default(), lifetime) {
        // Nothing reaches the host directly in review mode.
        (Git::Direct, Lifetime::Review) => Git::Import,
        (git, _) => git,
    };
    let asked = repository::ViewInputs { layers: &layers, git, access: shown.access, submodules: &named.submodules, lifetime };
    let mut seen = repository::see(&asked, project)?;
    let both = |inner: &Path| [path, Path::new(WORKSPACE)].map(|top| top.join(inner));
    let nearby = nearby_scan::scan_nearby(path);
    if mount.sockets.unwrap_or_default() == Sockets::Hidden {
        found.hidden.extend(nearby.sockets.iter().flat_map(|socket| both(socket)));
    }
    if let Some(review) = &mut shown.review {
        // No file of the host can change, so none is read-only or watched.
        review.layer = seen.layer.take();
    } else if shown.access == Access::ReadWrite {
        let guarded = Guarded {
            project: path.to_owned(),
            nested: watch_project::nested(&nearby).collect(),
            user_home: given.user_home.to_owned(),
            recipes: given.has_recipes.then_some(RECIPES),
            named: named.obeyed.into_iter().chain(std::mem::take(&mut seen.obeyed)).chain(watch_project::of_repositories(nearby)).collect(),
            excluded: shown.excluded.iter().map(|(inner, _)| inner.clone()).collect(),
            most,
        };
        let start = guarded.record_state()?;
        found.read_only.extend(start.read_only().into_iter().flat_map(both));
        shown.guarding = Some(Guarding::new(guarded, Some(start), seen.layer.take()));
    }
    found.mounts.extend(seen.mounts);
    found.overlays.extend(seen.overlays);
    found.read_only.extend(seen.read_only);
    found.hidden.extend(seen.hidden);
    found.opened.extend(seen.opened);
    found.notes.extend(seen.notes);
    Ok(())
}

/// A read-only project must already contain the excluded directory, as mount point.
fn excludable(project: &Path, inner: &str, access: Access) -> Result<(), Error> {
    let place = project.join(inner);
    match fs::metadata(&place) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::usage(format!("mount.exclude: {} is not a directory", place.display()), "remove it from silo.toml")),
        Err(_) if access == Access::ReadOnly => {
            let what = format!("mount.exclude: {} does not exist, and mount.mode = \"ro\" prevents silo from creating it", place.display());
            Err(Error::usage(what, format!("mkdir -p {}", place.display())))
        }
        Err(_) => Ok(()),
    }
}

/// Adds a file of `passFiles`.
fn pass(found: &mut Mounts, given: &MountInputs<'_>, file: &PassFile, project: Option<&OpenedPath>) -> Result<(), Error> {
    let (host, guest) = (file.host(), file.guest());
    let wrong = |what: String| {
        Error::usage(
            format!("passFiles: {host}: {what}"),
            "`silo config show` shows the silo.toml that names it; create the file, or remove the entry",
        )
    };
    let opened = match (file.is_of_project(), project) {
        (true, Some(project)) => project.below(Path::new(host)),
        // Without a project, its files cannot be passed.
        (true, None) => return Ok(()),
        (false, _) => open_users_file(given, &below(given.user_home, host), project.map(OpenedPath::path)),
    };
    let opened = opened.map_err(|error| match error {
        open_checked::Error::Open { source, .. } => wrong(source.to_string()),
        open_checked::Error::Link { path } if file.is_of_project() => {
            wrong(format!("{} is a symlink; name the file itself", path.display()))
        }
        open_checked::Error::Link { path } => wrong(format!("{} is a symlink in a project, where a tool may have put it", path.display())),
        open_checked::Error::Outside { .. } => wrong("it is outside of the project".to_owned()),
    })?;
    if !opened.is_file() {
        return Err(wrong("it is not a file".to_owned()));
    }
    if let (true, Some(project)) = (file.is_of_project() && host == guest, project) {
        found.read_only.extend([project.path(), Path::new(WORKSPACE)].map(|top| top.join(host)));
    } else {
        found.mounts.push(Mount { host: opened.host(), guest: below(given.user_home, guest), access: Access::ReadOnly });
    }
    found.opened.push(opened);
    Ok(())
}

/// Opens a file that the user named by path. Symlinks are followed, except in projects and persistent directories, where a tool can have
/// made them.
fn open_users_file(given: &MountInputs<'_>, path: &Path, project: Option<&Path>) -> Result<OpenedPath, open_checked::Error> {
    let written_by_tools = |link: &Path| {
        let in_project = |dir: &Path| link.starts_with(dir);
        // If the list cannot be read, follow no symlink.
        let recorded = projects::list(given.home).map_or(true, |all| all.iter().any(|recorded| in_project(&recorded.path)));
        project.is_some_and(in_project) || link.starts_with(given.home.kept()) || recorded
    };
    OpenedPath::open(path, Links::If(&|link| !written_by_tools(link)))
}

/// Expands `~/`; the home directory has the same path inside.
fn below(home: &Path, path: &str) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

impl MountedProject {
    /// Returns the host path of a project path; in an excluded directory it is elsewhere.
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let inner = path.strip_prefix(&self.path).ok()?;
        // The deepest excluded directory wins.
        let of = |(dir, host): &(PathBuf, PathBuf)| Some((dir.components().count(), host.join(inner.strip_prefix(dir).ok()?)));
        let elsewhere = self.excluded.iter().filter_map(of).max_by_key(|(depth, _)| *depth);
        Some(elsewhere.map_or_else(|| path.to_owned(), |(_, host)| host))
    }
}
