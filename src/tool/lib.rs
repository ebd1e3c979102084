//! Implements the commands, without the command line.

mod default_cache;
pub mod journal;

pub mod keys;
pub mod shim;

pub mod signed_files;

pub mod shipping;

mod cached_layers;
pub mod caches;
mod root_name;

pub mod projects;
pub mod record;
pub mod settings_file;

pub mod archives;
pub mod kept_dirs;
pub mod lock_error;

pub mod cache_eviction;
pub mod gc_roots;
pub mod resolve_lock;
pub mod trust;

mod defined_tool;

pub mod definition;
pub mod lock_files;

pub mod shims;
pub mod versions;

pub mod catalog_entry;
pub mod collect;
pub mod install;
pub mod verify;

pub mod editors;
pub mod language_server;
pub mod one_off;

pub mod script;

pub mod ecosystems;
pub mod project_rights;

pub mod clean;
pub mod compress;
pub mod import_image;
pub mod usage;

pub mod package_tool;

pub mod outdated;
pub mod share;
pub mod sync;
pub mod vendor;

pub mod challenge;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use silo_store::layout::Store;

use silo_base::event::Sink;
use silo_base::home::Home;
use silo_build::network::LearnContext;
use silo_fetch::mirrors::{self, Mirrors, Overrides};
use silo_fetch::sources;
use silo_fetch::transport::Transport;
use silo_model::config::Settings;
use silo_model::config::project::ProjectFiles;
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog::RecipeSources;

/// Context of a command.
pub struct Context<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// The locations of recipes.
    pub places: Cow<'a, RecipeSources>,
    /// The settings in force: the user's, overridden by the project's.
    pub settings: &'a Settings,
    /// The user's settings only.
    pub user_settings: &'a Settings,
    /// The project's settings only.
    pub project_settings: &'a Settings,
    /// The directory of the project.
    pub project: &'a std::path::Path,
    /// The files of the project as they were read and judged.
    pub files: &'a ProjectFiles,
    /// True if the root of a failed step is kept for `silo debug`.
    pub keep_failed: bool,
    /// Results of the reproducibility check, if enabled. Each step then runs twice.
    pub check: Option<&'a silo_build::check::Check>,
    /// The machines that launch steps.
    pub pool: Option<&'a silo_build::places::Away>,
    /// The VM to run steps in; `None` runs them natively.
    pub machine: Option<&'a silo_launch::spec::VmFiles>,
    /// The reason why there is no VM for the steps of another platform.
    pub no_machine: Option<silo_build::NoMachine>,
    /// The VM for steps whose owners a native run can only record, if the system gives no range of ids and there is a VM.
    pub second_machine: Option<&'a silo_launch::spec::VmFiles>,
    /// Finds the VM of steps that count instructions in place of time.
    pub counted_machine: silo_build::FindMachine<'a>,
    /// Finished realisations that are not yet written to the store.
    pub realisations: silo_build::RealisationWriter,
    /// The host's apt configuration directory.
    pub apt_dir: PathBuf,
    /// Transport for downloads.
    pub transport: &'a Transport,
    /// The host's network configuration.
    pub outside: silo_build::host_network::HostNetwork,
    /// Path of the silo binary.
    pub program: PathBuf,
    /// Path by which launchers start the binary; it stays valid when a new version is installed there.
    pub found_as: PathBuf,
    /// Current time in seconds since 1970.
    pub now: i64,
    /// Number of worker threads.
    pub jobs: usize,
    /// Receiver of events.
    pub sink: Sink<'a>,
    /// Set when the user stops the command.
    pub stop: &'a AtomicBool,
    /// Learns the host names of an ecosystem with the usual version of a tool; false if that fails. A version whose root has no client
    /// before its steps needs this: [`ecosystems::learn_with_usual_version`], which builds that version.
    pub learn_client: fn(&Context<'_>, &str, &str) -> bool,
}

/// The settings and files that define tools.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The home.
    pub home: &'a Home,
    /// The locations of recipes.
    pub places: &'a RecipeSources,
    /// The settings in force: the user's, overridden by the project's.
    pub settings: &'a Settings,
    /// The user's settings only.
    pub user_settings: &'a Settings,
    /// The project's settings only.
    pub project_settings: &'a Settings,
    /// The directory of the project.
    pub project: &'a std::path::Path,
    /// The files of the project as they were read and judged; `None` reads the disk.
    pub files: Option<&'a ProjectFiles>,
}

/// The settings of no project.
static NO_SETTINGS: LazyLock<Settings> = LazyLock::new(Settings::default);

/// The files of no project.
static NO_FILES: LazyLock<ProjectFiles> = LazyLock::new(ProjectFiles::default);

impl Context<'_> {
    /// Returns the same context with other recipes.
    pub fn among<'b>(&'b self, places: &'b RecipeSources) -> Context<'b> {
        self.with(Cow::Borrowed(places), self.settings, self.project_settings, self.files)
    }

    /// Returns the same context without a project: nothing that is built with it depends on the directory.
    pub fn without_project(&self) -> Context<'_> {
        self.with(Cow::Owned(self.places.without_project()), self.user_settings, &NO_SETTINGS, &NO_FILES)
    }

    /// Returns the same context with other files of a project.
    pub fn with_files<'b>(&'b self, files: &'b ProjectFiles) -> Context<'b> {
        self.with(Cow::Borrowed(&*self.places), self.settings, self.project_settings, files)
    }

    fn with<'b>(
        &'b self,
        places: Cow<'b, RecipeSources>,
        settings: &'b Settings,
        project_settings: &'b Settings,
        files: &'b ProjectFiles,
    ) -> Context<'b> {
        Context {
            places,
            settings,
            project_settings,
            files,
            home: self.home,
            store: self.store,
            user_settings: self.user_settings,
            project: self.project,
            keep_failed: self.keep_failed,
            check: self.check,
            pool: self.pool,
            machine: self.machine,
            no_machine: self.no_machine.clone(),
            second_machine: self.second_machine,
            counted_machine: self.counted_machine,
            realisations: silo_build::RealisationWriter::default(),
            apt_dir: self.apt_dir.clone(),
            transport: self.transport,
            outside: self.outside.clone(),
            program: self.program.clone(),
            found_as: self.found_as.clone(),
            now: self.now,
            jobs: self.jobs,
            sink: self.sink,
            stop: self.stop,
            learn_client: self.learn_client,
        }
    }

    /// Returns the part of the context that defines tools.
    pub fn view(&self) -> View<'_> {
        View {
            home: self.home,
            places: &self.places,
            settings: self.settings,
            user_settings: self.user_settings,
            project_settings: self.project_settings,
            project: self.project,
            files: Some(self.files),
        }
    }

    /// Returns the context for learning an ecosystem with a recipe's probe in a root.
    pub fn learning<'b>(&'b self, recipe: &'b Recipe, root: &'b [PathBuf]) -> LearnContext<'b> {
        LearnContext {
            home: self.home,
            program: &self.program,
            outside: &self.outside,
            machine: self.machine,
            stop: self.stop,
            recipe,
            root,
        }
    }

    /// Returns the mirrors: those of the settings, else the host's.
    pub fn mirrors(&self) -> Mirrors {
        let machine = sources::read_machine(&self.apt_dir);
        for warning in &machine.warnings {
            (self.sink)(silo_base::event::Event::Warning { text: warning.clone() });
        }
        let wished = &self.settings.mirrors;
        let overrides = Overrides {
            archive: wished.debian.clone(),
            security: wished.debian_security.clone(),
            snapshot_archive: wished.snapshot.clone(),
            snapshot_security: wished.snapshot_security.clone(),
        };
        mirrors::mirrors(&machine, &overrides)
    }
}
