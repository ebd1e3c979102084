//! What the verbs do, without the command line around them.

pub mod record;

pub mod locking;
pub mod relock;

pub mod collect;
pub mod install;
pub mod verify;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use silo_store::layout::Store;

use crate::config::Settings;
use crate::event::Sink;
use crate::fetch::mirrors::{self, Mirrors, Overrides};
use crate::fetch::sources;
use crate::fetch::transport::Transport;
use crate::home::Home;
use crate::recipe::catalog::Places;

/// What every verb works with.
pub struct Context<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// Where recipes are found.
    pub places: &'a Places,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The machine's apt configuration.
    pub apt_dir: PathBuf,
    /// The way to the mirrors.
    pub transport: &'a Transport,
    /// The program itself.
    pub program: PathBuf,
    /// Seconds since 1970 now.
    pub now: i64,
    /// Processors to use.
    pub jobs: usize,
    /// Who is told what happens.
    pub sink: Sink<'a>,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
}

impl Context<'_> {
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
