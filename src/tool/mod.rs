//! What the verbs do, without the command line around them.

pub mod projects;
pub mod record;
pub mod settings_file;

pub mod archives;
pub mod kept;

pub mod evict;
pub mod keep;
pub mod relock;
pub mod trust;

pub mod definition;
pub mod locking;

pub mod shims;

pub mod collect;
pub mod ecosystems;
pub mod install;
pub mod offer;
pub mod verify;

pub mod server;

pub mod adopt;
pub mod clean;
pub mod compress;
pub mod usage;

pub mod outdated;
pub mod sync;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use silo_store::layout::Store;

use crate::build::network::{Learning, Outside};
use crate::config::Settings;
use crate::config::project::ProjectFiles;
use crate::event::Sink;
use crate::fetch::mirrors::{self, Mirrors, Overrides};
use crate::fetch::sources;
use crate::fetch::transport::Transport;
use crate::home::Home;
use crate::recipe::Recipe;
use crate::recipe::catalog::Places;

/// What every verb works with.
pub struct Context<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// Where recipes are found.
    pub places: &'a Places,
    /// The settings in force: the user's, with the project's laid over them.
    pub settings: &'a Settings,
    /// The user's settings alone.
    pub user_settings: &'a Settings,
    /// The project's settings alone.
    pub project_settings: &'a Settings,
    /// The directory of the project.
    pub project: &'a std::path::Path,
    /// Whether what a failed step left is kept for a look into it.
    pub keep_failed: bool,
    /// Where every step is run twice, what is found out by that.
    pub check: Option<&'a crate::build::check::Check>,
    /// The virtual machine that steps run in; by default they run natively.
    pub machine: Option<&'a crate::launch::spec::Machine>,
    /// What has been made and is to be recorded.
    pub notes: crate::build::Notes,
    /// The machine's apt configuration.
    pub apt_dir: PathBuf,
    /// The way to the mirrors.
    pub transport: &'a Transport,
    /// What the machine knows of the network.
    pub outside: Outside,
    /// The program itself.
    pub program: PathBuf,
    /// Where the program is found again, as the user has it: the name that stays when a new version is put there.
    pub found_as: PathBuf,
    /// Seconds since 1970 now.
    pub now: i64,
    /// Processors to use.
    pub jobs: usize,
    /// Who is told what happens.
    pub sink: Sink<'a>,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
}

/// What decides what a tool is, on disk and in settings.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The home.
    pub home: &'a Home,
    /// Where recipes are found.
    pub places: &'a Places,
    /// The settings in force: the user's, with the project's laid over them.
    pub settings: &'a Settings,
    /// The user's settings alone.
    pub user_settings: &'a Settings,
    /// The project's settings alone.
    pub project_settings: &'a Settings,
    /// The directory of the project.
    pub project: &'a std::path::Path,
    /// The files of the project as they were read and judged; a verb that changes them looks at the disk instead.
    pub files: Option<&'a ProjectFiles>,
}

impl Context<'_> {
    /// The same context with other recipes.
    pub fn among<'b>(&'b self, places: &'b Places) -> Context<'b> {
        Context {
            places,
            home: self.home,
            store: self.store,
            settings: self.settings,
            user_settings: self.user_settings,
            project_settings: self.project_settings,
            project: self.project,
            keep_failed: self.keep_failed,
            check: self.check,
            machine: self.machine,
            notes: crate::build::Notes::default(),
            apt_dir: self.apt_dir.clone(),
            transport: self.transport,
            outside: self.outside.clone(),
            program: self.program.clone(),
            found_as: self.found_as.clone(),
            now: self.now,
            jobs: self.jobs,
            sink: self.sink,
            stop: self.stop,
        }
    }

    /// Returns the part of the context that decides what a tool is.
    pub fn view(&self) -> View<'_> {
        View {
            home: self.home,
            places: self.places,
            settings: self.settings,
            user_settings: self.user_settings,
            project_settings: self.project_settings,
            project: self.project,
            files: None,
        }
    }

    /// Returns what ecosystems are learned with, by a recipe's probes in a root.
    pub fn learning<'b>(&'b self, recipe: &'b Recipe, root: &'b [PathBuf]) -> Learning<'b> {
        Learning { home: self.home, program: &self.program, outside: &self.outside, stop: self.stop, recipe, root }
    }

    /// Returns the mirrors to fetch from: the settings', else the machine's.
    pub fn mirrors(&self) -> Mirrors {
        let machine = sources::read_machine(&self.apt_dir);
        for warning in &machine.warnings {
            (self.sink)(crate::event::Event::Warning { text: warning.clone() });
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
