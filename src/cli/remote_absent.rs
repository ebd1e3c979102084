//! In place of `--remote`, in a silo without the feature `remote`: all steps run here.

use super::context::Setting;
use super::error::Failure;

/// The place of build steps.
#[derive(clap::Args)]
pub struct StepPlace {}

impl StepPlace {
    /// Selects nothing. Settings that ask for other machines in every build are an error.
    pub fn prepare(&self, setting: &mut Setting) -> Result<(), Failure> {
        match setting.user_settings.remote.iter().find(|(_, pool)| pool.always) {
            None => Ok(()),
            Some((name, _)) => Err(Failure::usage(
                format!("[remote.{name}] runs every build's steps on other machines, and this silo was built without remote builds"),
                "remove `always`, or build silo with --features remote",
            )),
        }
    }
}
