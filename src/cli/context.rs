//! What a command needs of the machine before it can do anything: home, store, settings, progress.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};

use silo_store::layout::Store;

use crate::build::Notes;
use crate::build::check::Check;
use crate::config::legacy::Whose;
use crate::config::merge::merge;
use crate::config::project::ProjectFiles;
use crate::config::read::{self, Older};
use crate::config::{Build, Cache, Settings, discover};
use crate::document;
use crate::event::Event;
use crate::fetch::patience::Patience;
use crate::fetch::transport::Transport;
use crate::home::{Home, PROJECT_CONFIG};
use crate::insight::inside::Look;
use crate::journal;
use crate::launch::spec::Machine;
use crate::plain;
use crate::recipe::catalog::{self, Places};
use crate::run::image::Images;
use crate::run::tier;
use crate::tool::record;
use crate::tool::settings_file::Changed;
use crate::tool::{Context, View};

use super::env;
use super::error::Failure;
use super::ui::{self, Ui};

/// The options of every command.
#[derive(clap::Args)]
pub struct Globals {
    /// Show no progress, only results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// A command's surroundings, from which it makes a [`Context`].
pub struct Setting {
    /// The home.
    pub home: Home,
    /// Its layer store.
    pub store: Store,
    /// The directory that the user works in, with what `silo.toml` makes of it.
    pub project: PathBuf,
    /// The directory that the command was given in.
    pub from: PathBuf,
    /// The files of the project that silo obeys, read once.
    pub files: ProjectFiles,
    /// Where recipes are found.
    pub places: Places,
    /// The settings in force: the user's, with the project's laid over them.
    pub settings: Settings,
    /// The user's settings alone.
    pub user_settings: Settings,
    /// The project's settings alone.
    pub project_settings: Settings,
    /// Whether what a failed step left is kept for a look into it.
    pub keep_failed: bool,
    /// Where every step is run twice, what is found out by that.
    pub check: Option<Check>,
    /// The virtual machine that steps run in; by default they run natively.
    pub machine: Option<Machine>,
    transport: Transport,
    ui: Ui,
    stop: Arc<AtomicBool>,
}

/// Reads the surroundings of a command.
pub fn setting(globals: &Globals) -> Result<Setting, Failure> {
    setting_at(globals, &env::cwd()?)
}

/// Settings that are not used are told of once.
static TOLD_OF_UNUSED: Once = Once::new();
/// Older settings are told of once.
static TOLD_OF_OLDER: Once = Once::new();

fn tell_of_older(older: &Older) {
    let left: String = older.left.iter().map(|left| format!("\n  not taken: {}", left.escape_debug())).collect();
    ui::note(&format!("{} is in the older form (YAML); `silo config migrate` writes it as silo.toml{left}", plain::path(&older.path)));
}

/// Reads the surroundings of a command as if it were given in another directory.
pub fn setting_at(globals: &Globals, dir: &Path) -> Result<Setting, Failure> {
    setting_with(globals, dir, None)
}

/// The same as if a file of settings were changed already.
pub fn setting_with(globals: &Globals, dir: &Path, changed: Option<&Changed>) -> Result<Setting, Failure> {
    let dir = std::fs::canonicalize(dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", dir.display()), "name a directory that exists"))?;
    let home = Home::of_user(&env::home()?);
    let discover::Found { root: project, passed_over } = discover::project(&dir);
    let store = Store::open(home.root()).map_err(Failure::other)?;
    silo_store::layout::make_workplace(&home.work()).map_err(Failure::other)?;
    journal::settle(&home).map_err(Failure::other)?;
    let project_config = project.join(PROJECT_CONFIG);
    let of_user = match changed.filter(|changed| changed.path() == home.config()) {
        Some(changed) => (read::parse(changed.texts().1, &home.config())?, None),
        None => read::read_any(&home.config(), &home.legacy_config(), Whose::User)?,
    };
    let (user_settings, older) = of_user;
    let mut files = ProjectFiles::read(&project)?;
    if let Some(changed) = changed.filter(|changed| changed.path() == project_config) {
        files = files.with_settings(changed.texts().1)?;
    }
    // Others beside it or above are no news then.
    if let Some(nearest) = passed_over.iter().chain(files.passed_over()).next() {
        TOLD_OF_UNUSED.call_once(|| ui::note(&nearest.to_string()));
    }
    let (project_settings, projects) = read::of_project(&files)?;
    TOLD_OF_OLDER.call_once(|| older.iter().chain(&projects).for_each(tell_of_older));
    let mine = [
        (project_settings.trust.is_some(), "trust"),
        (project_settings.cache != Cache::default(), "cache"),
        (project_settings.build != Build::default(), "build"),
        (project_settings.mirrors.allow_stale.is_some(), "mirrors.allowStale"),
    ];
    if let Some((_, key)) = mine.into_iter().find(|(said, _)| *said) {
        let what = format!("{}: {key} is yours to set, and no project's", project_config.display());
        return Err(Failure::usage(what, "set it in ~/.silo/silo.toml"));
    }
    let places = Places { user: Some(home.recipes()), project: files.recipes(), draft: None };
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
        machine: None,
        transport: Transport::new(Patience::default()),
        ui: Ui::new(globals.quiet),
        stop: Arc::default(),
    })
}

/// Begins to look at what is built; nothing is collected meanwhile.
pub fn look(setting: &Setting) -> Result<Look<'_>, Failure> {
    Ok(Look::new(setting.view(), &setting.store)?)
}

impl Setting {
    /// Returns what decides what a tool is.
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

    /// Gives `work` the images of this home.
    pub fn images<T, E: Into<Failure>>(&self, work: impl FnOnce(Images<'_>) -> Result<T, E>) -> Result<T, Failure> {
        let sink = |event| self.ui.show(event);
        work(Images { home: &self.home, store: &self.store, program: &env::program()?, sink: &sink }).map_err(Into::into)
    }

    /// Fails if a silo.toml names an unknown tool: its settings would count for nothing.
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
                    return Err(Failure::usage(format!("{}: {key} names \"{tool}\", and there is no such tool", plain::path(&path)), hint));
                }
            }
        }
        Ok(())
    }

    /// Returns the name of every tool that a recipe or an installed image is there for.
    fn tools(&self) -> Result<BTreeSet<String>, Failure> {
        let mut names = catalog::names(&self.places)?;
        names.extend(record::list(&self.home)?.into_iter().map(|tool| tool.name));
        Ok(names)
    }

    /// Shows the output of build steps.
    pub fn show_steps(&self) {
        self.ui.show_steps();
    }

    /// Tells something that is no result, unless that is not wanted.
    pub fn note(&self, text: String) {
        self.ui.show(Event::Note { text });
    }

    /// Runs `work` with progress shown and Ctrl-C turned into a request to stop.
    pub fn with<T>(&self, work: impl FnOnce(&Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            // A second signal ends the program at once; the order of the two lines makes it so.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&self.stop)).map_err(Failure::other)?;
            signal_hook::flag::register(signal, Arc::clone(&self.stop)).map_err(Failure::other)?;
        }
        self.look(work)
    }

    /// Runs `work` that changes nothing, so that Ctrl-C may end the program at once, now and at a question afterwards.
    pub fn look<T>(&self, work: impl FnOnce(&Context<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let sink = |event| self.ui.show(event);
        let usual = if self.machine.is_none() { self.images(tier::usual_of_steps)? } else { None };
        let context = Context {
            home: &self.home,
            store: &self.store,
            places: &self.places,
            settings: &self.settings,
            user_settings: &self.user_settings,
            project_settings: &self.project_settings,
            project: &self.project,
            keep_failed: self.keep_failed,
            check: self.check.as_ref(),
            machine: self.machine.as_ref().or_else(|| usual.as_ref().map(|(machine, _)| machine)),
            notes: Notes::default(),
            apt_dir: Path::new("/etc/apt").to_owned(),
            transport: &self.transport,
            outside: env::outside()?,
            program: env::program()?,
            found_as: env::found_as(&self.home)?,
            now: env::now(),
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            sink: &sink,
            stop: &self.stop,
        };
        let done = work(&context);
        self.ui.clear();
        done
    }
}
