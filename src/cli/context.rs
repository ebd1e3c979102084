//! The context of a command: home, store, settings, project, progress.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};

use silo_store::layout::Store;

use crate::run::image::Images;
use crate::run::tier::{self, ImageLocks};
use silo_base::event::Event;
use silo_base::home::{Home, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_base::system::Arch;
use silo_build::check::Check;
use silo_build::places::Away;
use silo_build::{NoMachine, RealisationWriter};
use silo_fetch::retry::RetryPolicy;
use silo_fetch::transport::{Reach, Transport};
use silo_insight::image_view::LockedHome;
use silo_launch::spec::VmFiles;
use silo_model::config::legacy::SettingsOwner;
use silo_model::config::merge::merge;
use silo_model::config::project::ProjectFiles;
use silo_model::config::read::{self, LegacySettings};
use silo_model::config::{Build, Cache, Gc, Settings, discover};
use silo_model::document;
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_tool::ecosystems;
use silo_tool::journal;
use silo_tool::record;
use silo_tool::settings_file::Changed;
use silo_tool::{Context, View};

use super::env;
use super::error::Failure;
use super::flags::Verbosity;
use super::progress::Ui;
use super::ui;

/// Options of every command.
#[derive(Default, clap::Args)]
pub struct Globals {
    /// Show no progress, only results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Fetch nothing: use only files and caches of this machine. Programs keep their network
    #[arg(long, global = true)]
    pub offline: bool,
    /// The platform of the images, linux/amd64 or linux/arm64; by default this machine's
    #[arg(long, global = true, value_name = "PLATFORM", value_parser = platform)]
    pub platform: Option<Arch>,
}

/// Parses a platform.
fn platform(text: &str) -> Result<Arch, String> {
    Arch::of_platform(text).map_err(|error| error.to_string())
}

/// Returns the reason for which a step has no VM.
fn no_machine_by(failure: &Failure) -> NoMachine {
    NoMachine { why: failure.message(), hint: failure.hint().map(str::to_owned) }
}

/// The default VM of build steps, or the reason why another platform has none.
type UsualMachine = (Option<(VmFiles, ImageLocks)>, Option<NoMachine>);

/// Everything a command has read at its start; it makes a [`Context`] from this.
pub struct Setting {
    /// Silo's home directory.
    pub home: Home,
    /// Layer store of the home.
    pub store: Store,
    /// Project directory: the nearest parent with a `silo.toml`, else with a `.git`, else the working directory.
    pub project: PathBuf,
    /// Directory in which the command was given.
    pub from: PathBuf,
    /// The project's configuration files, read once.
    pub files: ProjectFiles,
    /// Directories that hold recipes.
    pub places: RecipeSources,
    /// Settings in force: the user's, overlaid with the project's.
    pub settings: Settings,
    /// The user's settings only.
    pub user_settings: Settings,
    /// The project's settings only.
    pub project_settings: Settings,
    /// True if the state of a failed step is kept for `silo debug`.
    pub keep_failed: bool,
    /// Results of the reproducibility check, if enabled.
    pub check: Option<Check>,
    /// Machines that launch build steps.
    pub pool: Option<Away>,
    /// VM for build steps; `None` for the default tier.
    pub machine: Option<VmFiles>,
    transport: Transport,
    ui: Ui,
    stop: Arc<AtomicBool>,
    /// Set once signals ask `stop`: a second handler would take the first signal for the second one.
    attends_signals: AtomicBool,
}

/// Opens the home, and reads settings and project of the working directory.
pub fn setting(globals: &Globals) -> Result<Setting, Failure> {
    setting_at(globals, &env::cwd()?)
}

/// Like [`setting`], for a command that acts on the whole home: if the files of the project are wrong, notes the error and goes on without
/// them.
pub fn setting_of_home(globals: &Globals) -> Result<Setting, Failure> {
    let dir = env::cwd()?;
    read_setting(globals, &dir, Project::Read(None)).or_else(|failure| {
        // Fails with the same error if the user's own settings are wrong.
        let setting = read_setting(globals, &dir, Project::Left)?;
        let hint = failure.hint().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        ui::note(&format!("{}{hint}\n  this command needs no project, and goes on without it", failure.message()));
        Ok(setting)
    })
}

/// Reports unused settings only once per process.
static TOLD_OF_UNUSED: Once = Once::new();
/// Reports old-format settings only once per process.
static TOLD_OF_OLDER: Once = Once::new();

fn note_older_settings(older: &LegacySettings) {
    let left: String = older.left.iter().map(|left| format!("\n  not taken: {}", left.escape_debug())).collect();
    ui::note(&format!("{} is in the older form (YAML); `silo config migrate` writes it as silo.toml{left}", sanitize::path(&older.path)));
}

/// Opens the home, and reads settings and project of another directory.
pub fn setting_at(globals: &Globals, dir: &Path) -> Result<Setting, Failure> {
    setting_with(globals, dir, None)
}

/// Like [`setting_at`], with a settings file replaced by a change that is not written yet.
pub fn setting_with(globals: &Globals, dir: &Path, changed: Option<&Changed>) -> Result<Setting, Failure> {
    read_setting(globals, dir, Project::Read(changed))
}

/// The use of a project's files.
#[derive(Clone, Copy)]
enum Project<'a> {
    /// They are read, with a change that is not written yet.
    Read(Option<&'a Changed>),
    /// They are not read.
    Left,
}

fn read_setting(globals: &Globals, dir: &Path, of_project: Project<'_>) -> Result<Setting, Failure> {
    let changed = if let Project::Read(changed) = of_project { changed } else { None };
    let dir = std::fs::canonicalize(dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", dir.display()), "name a directory that exists"))?;
    let home = env::silo_home()?.of_platform(globals.platform.unwrap_or_else(Arch::host));
    let discover::FoundProject { root: project, passed_over } = discover::project(&dir);
    let store = Store::open(home.root()).map_err(Failure::other)?;
    silo_store::layout::make_workplace(&home.work()).map_err(Failure::other)?;
    journal::finish_interrupted(&home).map_err(Failure::other)?;
    let project_config = project.join(PROJECT_CONFIG);
    let of_user = match changed.filter(|changed| changed.path() == home.config()) {
        Some(changed) => (read::parse(changed.texts().1, &home.config())?, None),
        None => read::read_any(&home.config(), &home.legacy_config(), SettingsOwner::User)?,
    };
    let (user_settings, older) = of_user;
    let mut files = match of_project {
        Project::Read(_) => ProjectFiles::read(&project)?,
        Project::Left => ProjectFiles::default(),
    };
    if let Some(changed) = changed.filter(|changed| changed.path() == project_config) {
        files = files.with_settings(changed.texts().1)?;
    }
    // Report only the nearest; others above it are no news.
    if let Some(nearest) = passed_over.iter().chain(files.passed_over()).next() {
        TOLD_OF_UNUSED.call_once(|| ui::note(&nearest.to_string()));
    }
    let (project_settings, projects) = read::of_project(&files)?;
    TOLD_OF_OLDER.call_once(|| older.iter().chain(&projects).for_each(note_older_settings));
    let mine = [
        (project_settings.trust.is_some(), "trust"),
        (project_settings.cache != Cache::default(), "cache"),
        (project_settings.build != Build::default(), "build"),
        (project_settings.gc != Gc::default(), "gc"),
        (!project_settings.remote.is_empty(), "remote"),
        (project_settings.caches.iter().any(|cache| cache.push), "caches.push"),
        (!project_settings.secrets.is_empty(), "secrets"),
        (project_settings.overrides.values().any(|over| !over.secrets.is_empty()), "overrides.<tool>.secrets"),
        (project_settings.mirrors.allow_stale.is_some(), "mirrors.allowStale"),
    ];
    if let Some((_, key)) = mine.into_iter().find(|(said, _)| *said) {
        let what = format!("{}: {key} is a user setting, and a project cannot set it", project_config.display());
        return Err(Failure::usage(what, "set it in ~/.silo/silo.toml"));
    }
    let places = RecipeSources { user: Some(home.recipes()), project: files.recipes(), draft: None };
    Ok(Setting {
        home,
        store,
        from: dir,
        project,
        files,
        places,
        settings: merge(user_settings.clone(), project_settings.clone()),
        user_settings,
        project_settings,
        keep_failed: false,
        check: None,
        pool: None,
        machine: None,
        transport: Transport::with_reach(RetryPolicy::default(), if globals.offline { Reach::Files } else { Reach::Network }),
        ui: Ui::new(Verbosity::of_flag(globals.quiet)),
        stop: Arc::default(),
        attends_signals: AtomicBool::new(false),
    })
}

/// Opens the built images for reading. No collection runs until the result is dropped.
pub fn open_for_reading(setting: &Setting) -> Result<LockedHome<'_>, Failure> {
    Ok(LockedHome::new(setting.view(), &setting.store)?)
}

impl Setting {
    /// Returns the inputs that define a tool.
    pub fn view(&self) -> View<'_> {
        View {
            home: &self.home,
            places: &self.places,
            settings: &self.settings,
            user_settings: &self.user_settings,
            project_settings: &self.project_settings,
            project: &self.project,
            files: Some(&self.files),
        }
    }

    /// Calls `work` with the images of this home.
    pub fn images<T, E: Into<Failure>>(&self, work: impl FnOnce(Images<'_>) -> Result<T, E>) -> Result<T, Failure> {
        let sink = |event| self.ui.show(event);
        work(Images { home: &self.home, store: &self.store, program: &env::program()?, sink: &sink }).map_err(Into::into)
    }

    /// Fails if a silo.toml names an unknown tool, because its settings would have no effect.
    pub fn check_names(&self) -> Result<(), Failure> {
        let mut known: Option<BTreeSet<String>> = None;
        let files = [(&self.project_settings, self.project.join(PROJECT_CONFIG)), (&self.user_settings, self.home.config())];
        for (settings, path) in files {
            let listed = settings.tools.iter().map(|tool| (tool, "tools"));
            for (tool, key) in listed.chain(settings.overrides.keys().map(|tool| (tool, "overrides"))) {
                if catalog::built_in(tool).is_some() {
                    continue;
                }
                let known = match &mut known {
                    Some(known) => known,
                    None => known.insert(self.tools()?),
                };
                if !known.contains(tool) {
                    let names: Vec<&str> = known.iter().map(String::as_str).collect();
                    let hint = document::nearest(tool, &names)
                        .map_or_else(|| "`silo list --available` shows the tools".to_owned(), |near| format!("did you mean \"{near}\"?"));
                    return Err(Failure::usage(
                        format!("{}: {key} names \"{tool}\", but there is no such tool", sanitize::path(&path)),
                        hint,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Returns every tool that has a recipe or an installed image.
    fn tools(&self) -> Result<BTreeSet<String>, Failure> {
        let mut names = catalog::names(&self.places)?;
        names.extend(record::list(&self.home)?.into_iter().map(|tool| tool.name));
        Ok(names)
    }

    /// Shows the output of build steps.
    pub fn show_steps(&self) {
        self.ui.show_steps();
    }

    /// Shows a note, unless `--quiet` is set.
    pub fn note(&self, text: String) {
        self.ui.show(Event::Note { text });
    }

    /// Returns the default VM of build steps. If another platform needs one that cannot be had, a build reports the reason at its first step.
    fn usual_machine(&self) -> Result<UsualMachine, Failure> {
        if self.home.arch() == Arch::host() {
            return Ok((self.images(tier::usual_of_steps)?, None));
        }
        Ok(match self.images(tier::of_steps) {
            Ok(machine) => (Some(machine), None),
            Err(failure) => (None, Some(no_machine_by(&failure))),
        })
    }

    /// Runs `work` with progress shown. A first SIGINT, SIGTERM or SIGHUP asks it to stop.
    pub fn with<T>(&self, work: impl FnOnce(&Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
        let are_attended = self.attends_signals.swap(true, Ordering::Relaxed);
        for signal in signals.into_iter().filter(|_| !are_attended) {
            // A second signal ends the program immediately. This depends on the order of the two lines.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&self.stop)).map_err(Failure::other)?;
            signal_hook::flag::register(signal, Arc::clone(&self.stop)).map_err(Failure::other)?;
        }
        self.read_only(work)
    }

    /// Runs read-only `work`. Ctrl-C ends the program immediately, also at a later question.
    pub fn read_only<T>(&self, work: impl FnOnce(&Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let sink = |event| self.ui.show(event);
        let (usual, no_machine) = match self.machine {
            None => self.usual_machine()?,
            Some(_) => (None, None),
        };
        // The images stay locked until the work is done.
        let counted: Mutex<Vec<ImageLocks>> = Mutex::default();
        let counted_machine = || match self.images(tier::counted_of_steps) {
            Ok((machine, locks)) => {
                counted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(locks);
                Ok(machine)
            }
            Err(failure) => Err(no_machine_by(&failure)),
        };
        let second = if usual.is_none() && self.machine.is_none() { self.images(tier::second_of_steps)? } else { None };
        let context = Context {
            home: &self.home,
            store: &self.store,
            places: Cow::Borrowed(&self.places),
            settings: &self.settings,
            user_settings: &self.user_settings,
            project_settings: &self.project_settings,
            project: &self.project,
            files: &self.files,
            keep_failed: self.keep_failed,
            check: self.check.as_ref(),
            pool: self.pool.as_ref(),
            machine: self.machine.as_ref().or_else(|| usual.as_ref().map(|(machine, _)| machine)),
            no_machine,
            second_machine: second.as_ref().map(|(machine, _)| machine),
            counted_machine: &counted_machine,
            realisations: RealisationWriter::default(),
            apt_dir: Path::new("/etc/apt").to_owned(),
            transport: &self.transport,
            outside: env::outside()?,
            program: env::program()?,
            found_as: env::found_as(&self.home)?,
            now: env::now(),
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            sink: &sink,
            stop: &self.stop,
            learn_client: ecosystems::learn_with_usual_version,
        };
        let done = work(&context);
        self.ui.clear();
        done
    }
}
