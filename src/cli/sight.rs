//! What of the host a run sees besides its image: the project, directories that outlive runs, files of the user's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::config::sight::{Mode, PassFile};
use crate::home::RECIPES;
use crate::launch::spec::{Access, Mount};
use crate::plain;
use crate::recipe::Run;
use crate::run::obeyed::{self, Obeyed};
use crate::run::{Shown, User, WORKSPACE, worktree};
use crate::tool::kept::{Class, InUse, Keeper};
use crate::tool::{kept, projects, trust};

use super::context::Setting;
use super::error::Failure;
use super::ui;

/// What a run sees.
#[derive(Default)]
pub struct Sight {
    /// The project, if it sees one.
    pub project: Option<PathBuf>,
    /// What else of the host, and of what is made for it.
    pub mounts: Vec<Mount>,
    /// What of all that is read-only all the same.
    pub read_only: Vec<PathBuf>,
    /// Variables that lead programs to it.
    pub env: Vec<(String, PathBuf)>,
    access: Option<Access>,
    excluded: Vec<(PathBuf, PathBuf)>,
    obeyed: Obeyed,
    recipes: Option<&'static str>,
    /// Keeps what is kept from being emptied meanwhile.
    _held: Option<InUse>,
}

/// Finds out what a run of a tool sees, and makes what is to be kept of it; the project's settings count where it is its own.
pub fn look(setting: &Setting, tool: &str, run: Option<&Run>, project: Option<PathBuf>, user: &User) -> Result<Sight, Failure> {
    let settings = if project.is_some() { &setting.settings } else { &setting.user_settings };
    let mut sight = Sight::default();
    let is_own = project.as_ref() == Some(&setting.project);
    let named = settings.project_id.as_deref().filter(|_| is_own);
    let keeper = Keeper::new(&setting.home, project.as_deref(), named);
    let mut dirs = keep(&mut sight, settings, &keeper, (tool, run), &user.home);
    if let Some(project) = &project {
        show(&mut sight, setting, settings, project);
        for inner in &settings.mount.exclude {
            excludable(project, inner, sight.access)?;
            let Some(dir) = keeper.excluded(inner) else { continue };
            sight.excluded.push((inner.into(), dir.clone()));
            dirs.push(dir);
        }
    }
    for file in settings.files(tool) {
        pass(&mut sight, file, project.as_deref(), &user.home)?;
    }
    if !dirs.is_empty() {
        if !keeper.is_known() {
            settle(setting)?;
        }
        sight._held = Some(keeper.open(&dirs)?);
    }
    sight.project = project;
    Ok(sight)
}

/// Adds what a tool keeps; returns the directories that it is kept in.
fn keep(sight: &mut Sight, settings: &Settings, keeper: &Keeper<'_>, tool: (&str, Option<&Run>), home: &Path) -> Vec<PathBuf> {
    let (name, run) = tool;
    let mut dirs = Vec::new();
    for (class, all) in [(Class::Cache, settings.caches(name, run)), (Class::State, settings.states(name, run))] {
        for kept in all {
            let Some(dir) = keeper.kept(name, class, &kept) else { continue };
            let guest = below(home, &kept.guest);
            sight.env.extend(kept.env.map(|name| (name, guest.clone())));
            sight.mounts.push(Mount { host: dir.clone(), guest, access: Access::ReadWrite });
            dirs.push(dir);
        }
    }
    dirs
}

/// Adds the project, what of it the host obeys, and the repository that it is a worktree of.
fn show(sight: &mut Sight, setting: &Setting, settings: &Settings, project: &Path) {
    let access = if settings.mount.mode == Some(Mode::Ro) { Access::ReadOnly } else { Access::ReadWrite };
    if access == Access::ReadWrite {
        obeyed::shut(project);
    }
    sight.access = Some(access);
    sight.recipes = setting.places.project.as_ref().map(|_| RECIPES);
    sight.obeyed = obeyed::look(project, sight.recipes);
    if let Some(repository) = worktree::repository(project, access) {
        sight.mounts.extend(repository.mounts);
        sight.read_only.extend(repository.read_only);
    }
}

/// In a project that cannot be written there must be a place for an excluded directory.
fn excludable(project: &Path, inner: &str, access: Option<Access>) -> Result<(), Failure> {
    let place = project.join(inner);
    match fs::metadata(&place) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("mount.exclude: {} is not a directory", place.display()), "take it out of silo.toml")),
        Err(_) if access == Some(Access::ReadOnly) => {
            let what = format!("mount.exclude: {} is not there, and mount.mode = \"ro\" keeps it from being made", place.display());
            Err(Failure::usage(what, format!("mkdir -p {}", place.display())))
        }
        Err(_) => Ok(()),
    }
}

/// Adds a file that the settings name: it must be there, and one of the project must not lead out of it.
fn pass(sight: &mut Sight, file: &PassFile, project: Option<&Path>, home: &Path) -> Result<(), Failure> {
    let (host, guest) = (file.host(), file.guest());
    let base = if file.is_of_project() { project } else { Some(Path::new("/")) };
    // Without the project there is none of its files.
    let Some(base) = base else { return Ok(()) };
    let path = if file.is_of_project() { base.join(host) } else { below(home, host) };
    let wrong = |what: &str| {
        Failure::usage(
            format!("passFiles: {host}: {what}"),
            "`silo config show` says which silo.toml names it; make the file, or take it out",
        )
    };
    let found = fs::canonicalize(&path).map_err(|error| wrong(&error.to_string()))?;
    if !found.is_file() {
        return Err(wrong("it is not a file"));
    }
    if !found.starts_with(base) {
        return Err(wrong("it is a link that leads out of the project"));
    }
    if file.is_of_project() && host == guest {
        sight.read_only.extend([base, Path::new(WORKSPACE)].map(|top| top.join(host)));
    } else {
        sight.mounts.push(Mount { host: found, guest: below(home, guest), access: Access::ReadOnly });
    }
    Ok(())
}

/// Reads `~/` as the home directory, which has the same path inside.
fn below(home: &Path, path: &str) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest))
}

/// Finds what is kept and approved of this project under the path that it had before it was moved.
pub fn settle(setting: &Setting) -> Result<(), Failure> {
    let Some(old) = kept::moved_from(&setting.home, &setting.project)? else { return Ok(()) };
    let shared = silo_store::lock::share(&setting.store).map_err(Failure::other)?;
    trust::moved(&setting.home, &old.path, &setting.project)?;
    projects::moved(&setting.home, &setting.store, &shared, &old.path, &setting.project)?;
    kept::adopt(&setting.home, &old, &setting.project)?;
    ui::note(&format!("{} was moved to {}; what was kept for it came along", plain::path(&old.path), plain::path(&setting.project)));
    Ok(())
}

impl Sight {
    /// The project as the launch spec needs it.
    pub fn shown(&self) -> Option<Shown<'_>> {
        let path = self.project.as_deref()?;
        let access = self.access.unwrap_or(Access::ReadOnly);
        Some(Shown { path, access, obeyed: self.obeyed.paths().collect(), excluded: self.excluded.clone() })
    }

    /// Where on the host a path of the project is: in an excluded directory, that is elsewhere.
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let inner = path.strip_prefix(self.project.as_ref()?).ok()?;
        // The deepest directory that is excluded has the last word.
        let of = |(dir, host): &(PathBuf, PathBuf)| Some((dir.components().count(), host.join(inner.strip_prefix(dir).ok()?)));
        let elsewhere = self.excluded.iter().filter_map(of).max_by_key(|(depth, _)| *depth);
        Some(elsewhere.map_or_else(|| path.to_owned(), |(_, host)| host))
    }

    /// Tells, after the run, what has come that the host obeys by itself.
    pub fn tell(&self, setting: &Setting) -> Result<(), Failure> {
        let (Some(project), Some(Access::ReadWrite)) = (&self.project, self.access) else { return Ok(()) };
        let mut new = obeyed::look(project, self.recipes).new_since(&self.obeyed);
        // The place of an excluded directory is made by silo itself, and nothing inside can put anything there.
        new.retain(|path| !self.excluded.iter().any(|(dir, _)| path.starts_with(dir)));
        if new.is_empty() {
            return Ok(());
        }
        trust::came_inside(&setting.home, project, &new)?;
        // Whoever made it chose the name of a submodule, too.
        let names: Vec<String> = new.iter().map(|path| path.to_string_lossy().escape_debug().to_string()).collect();
        let what = "programs of this machine obey without asking: look at it before you go on in";
        ui::note(&format!("new in the project, {what} {}\n  {}", plain::path(project), names.join("\n  ")));
        Ok(())
    }
}
