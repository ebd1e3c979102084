//! What of the host a run sees besides its image: the project, directories that outlive runs, files of the user's.
//!
//! Each host path that another program can replace is opened here once and checked as that descriptor; the launch spec then
//! names the descriptor's inode, and nothing else is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::config::sight::{Mode, PassFile, Sockets};
use crate::git::named::{self, Place};
use crate::guard::{MAX_GUARDED, nearby};
use crate::home::{Home, RECIPES};
use crate::launch::opened::{self, Links, Opened};
use crate::launch::spec::host_path::HostPath;
use crate::launch::spec::{Access, Mount, Overlay};
use crate::recipe::Run;
use crate::tool::kept::{Class, InUse, Keeper};
use crate::tool::projects;

use super::WORKSPACE;
use super::error::Error;
use super::guarding::{self, Guarded, Guarding};
use super::repository;

/// What decides what a run sees.
pub struct Given<'a> {
    /// The home.
    pub home: &'a Home,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The tool's name.
    pub tool: &'a str,
    /// Its recipe's part about running.
    pub run: Option<&'a Run>,
    /// The name under which things are kept for the project, where its own settings give one.
    pub project_id: Option<&'a str>,
    /// Whether silo reads recipes of the project.
    pub has_recipes: bool,
    /// The user's home directory.
    pub user_home: &'a Path,
}

/// What a run sees.
#[derive(Default)]
pub struct Mounts {
    /// All of it.
    pub mounts: Vec<Mount>,
    /// Guest paths that are read-only all the same.
    pub read_only: Vec<PathBuf>,
    /// Layers over directories of the mounts.
    pub overlays: Vec<Overlay>,
    /// Guest paths at which something empty is seen.
    pub hidden: Vec<PathBuf>,
    /// Guest paths of directories that the program may remove and make again.
    pub removable: Vec<PathBuf>,
    /// What the user is to know.
    pub notes: Vec<String>,
    /// Variables that name kept directories.
    pub env: Vec<(String, PathBuf)>,
    /// The project, if it is seen.
    pub project: Option<Shown>,
    /// Descriptors that must stay open until the program has started.
    pub opened: Vec<Opened>,
    /// Keeps the kept directories from being emptied.
    pub in_use: Option<InUse>,
}

/// The project as a run sees it.
pub struct Shown {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it can be written.
    pub access: Access,
    /// Directories of it that the sandbox has of its own, each with the host directory that is mounted there.
    pub excluded: Vec<(PathBuf, PathBuf)>,
    /// Watches over what of it the host obeys, where it can be written.
    pub guarding: Option<Guarding>,
}

/// Finds what a run sees, and makes the directories that are kept for it.
///
/// `settle` is called before anything is kept for a project for which nothing was kept before.
pub fn find(given: &Given<'_>, project: Option<Opened>, settle: impl FnOnce() -> Result<(), Error>) -> Result<Mounts, Error> {
    let mut found = Mounts::default();
    let keeper = Keeper::new(given.home, project.as_ref().map(Opened::path), given.project_id);
    let mut dirs = keep(&mut found, given, &keeper);
    if let Some(project) = &project {
        let access = if given.settings.mount.mode == Some(Mode::Ro) { Access::ReadOnly } else { Access::ReadWrite };
        for inner in &given.settings.mount.exclude {
            excludable(project.path(), inner, access)?;
        }
        let excluded = given.settings.mount.exclude.iter().filter_map(|inner| Some((PathBuf::from(inner), keeper.excluded(inner)?)));
        let mut shown = Shown { path: project.path().to_owned(), access, excluded: excluded.collect(), guarding: None };
        dirs.extend(shown.excluded.iter().map(|(_, dir)| dir.clone()));
        mount_project(&mut found, &shown, project.host());
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

/// Adds what a tool keeps; returns the host directories that it is kept in.
fn keep(found: &mut Mounts, given: &Given<'_>, keeper: &Keeper<'_>) -> Vec<PathBuf> {
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

/// Mounts the project at its own path and at `/workspace`.
fn mount_project(found: &mut Mounts, shown: &Shown, host: HostPath) {
    for guest in [shown.path.as_path(), Path::new(WORKSPACE)] {
        found.mounts.push(Mount { host: host.clone(), guest: guest.to_owned(), access: shown.access });
        for (inner, dir) in &shown.excluded {
            found.mounts.push(Mount { host: dir.clone().into(), guest: guest.join(inner), access: Access::ReadWrite });
            found.removable.push(guest.join(inner));
        }
    }
}

/// Guards what of the project the host obeys: its repository, the files that its programs act on, its sockets.
fn guard(found: &mut Mounts, given: &Given<'_>, shown: &mut Shown, project: &Opened) -> Result<(), Error> {
    let (path, mount) = (project.path(), &given.settings.mount);
    let layers = given.home.repositories();
    let left = guarding::recover(&layers, path);
    if !left.is_empty() {
        found
            .notes
            .push(format!("of an earlier run that was killed, not all was taken over into the repository:\n  {}", left.join("\n  ")));
    }
    let most = mount.max_guarded.map_or(MAX_GUARDED, |most| most as usize);
    let named = named::named(Place { project: path, home: given.user_home, most })?;
    let asked =
        repository::Given { layers: &layers, git: mount.git.unwrap_or_default(), access: shown.access, submodules: &named.submodules };
    let mut seen = repository::see(&asked, project)?;
    let both = |inner: &Path| [path, Path::new(WORKSPACE)].map(|top| top.join(inner));
    let nearby = nearby::look(path);
    if mount.sockets.unwrap_or_default() == Sockets::Hidden {
        found.hidden.extend(nearby.sockets.iter().flat_map(|socket| both(socket)));
    }
    if shown.access == Access::ReadWrite {
        let guarded = Guarded {
            project: path.to_owned(),
            nested: guarding::nested(&nearby).collect(),
            user_home: given.user_home.to_owned(),
            recipes: given.has_recipes.then_some(RECIPES),
            named: named.obeyed.into_iter().chain(std::mem::take(&mut seen.obeyed)).chain(guarding::of_repositories(nearby)).collect(),
            excluded: shown.excluded.iter().map(|(inner, _)| inner.clone()).collect(),
            most,
        };
        let start = guarded.look()?;
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

/// In a project that cannot be written there must be a place for an excluded directory.
fn excludable(project: &Path, inner: &str, access: Access) -> Result<(), Error> {
    let place = project.join(inner);
    match fs::metadata(&place) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::usage(format!("mount.exclude: {} is not a directory", place.display()), "take it out of silo.toml")),
        Err(_) if access == Access::ReadOnly => {
            let what = format!("mount.exclude: {} is not there, and mount.mode = \"ro\" keeps it from being made", place.display());
            Err(Error::usage(what, format!("mkdir -p {}", place.display())))
        }
        Err(_) => Ok(()),
    }
}

/// Adds a file that the settings name.
fn pass(found: &mut Mounts, given: &Given<'_>, file: &PassFile, project: Option<&Opened>) -> Result<(), Error> {
    let (host, guest) = (file.host(), file.guest());
    let wrong = |what: String| {
        Error::usage(
            format!("passFiles: {host}: {what}"),
            "`silo config show` says which silo.toml names it; make the file, or take it out",
        )
    };
    let opened = match (file.is_of_project(), project) {
        (true, Some(project)) => project.below(Path::new(host)),
        // Without the project there is none of its files.
        (true, None) => return Ok(()),
        (false, _) => open_users_file(given, &below(given.user_home, host), project.map(Opened::path)),
    };
    let opened = opened.map_err(|error| match error {
        opened::Error::Open { source, .. } => wrong(source.to_string()),
        opened::Error::Link { path } if file.is_of_project() => wrong(format!("{} is a symlink; name the file itself", path.display())),
        opened::Error::Link { path } => wrong(format!("{} is a symlink in a project, where a tool may have put it", path.display())),
        opened::Error::Outside { .. } => wrong("it is outside of the project".to_owned()),
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

/// Opens a file that the user named by a path of their own. Its symlinks are the user's, but for those in projects: a tool
/// that runs there can make them.
fn open_users_file(given: &Given<'_>, path: &Path, project: Option<&Path>) -> Result<Opened, opened::Error> {
    let written_by_tools = |link: &Path| {
        let in_project = |dir: &Path| link.starts_with(dir);
        // Where the list cannot be read, no symlink counts as the user's own.
        let recorded = projects::list(given.home).map_or(true, |all| all.iter().any(|recorded| in_project(&recorded.path)));
        project.is_some_and(in_project) || link.starts_with(given.home.kept()) || recorded
    };
    Opened::open(path, Links::If(&|link| !written_by_tools(link)))
}

/// Reads `~/` as the home directory, which has the same path inside.
fn below(home: &Path, path: &str) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

impl Shown {
    /// Returns the host path of a path of the project, which in an excluded directory is elsewhere.
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let inner = path.strip_prefix(&self.path).ok()?;
        // The deepest directory that is excluded has the last word.
        let of = |(dir, host): &(PathBuf, PathBuf)| Some((dir.components().count(), host.join(inner.strip_prefix(dir).ok()?)));
        let elsewhere = self.excluded.iter().filter_map(of).max_by_key(|(depth, _)| *depth);
        Some(elsewhere.map_or_else(|| path.to_owned(), |(_, host)| host))
    }
}
