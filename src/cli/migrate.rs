//! `silo config migrate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::legacy::{self, Whose};
use crate::config::{self, read};
use crate::document;
use crate::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use crate::plain;

use super::error::Failure;
use super::{env, ui};

/// Write settings of the older form (.siloconf, YAML) as silo.toml
///
/// The project's and your own. The older file stays as .siloconf.bak; where there is a silo.toml nothing is done.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<ExitCode, Failure> {
    let home = Home::of_user(&env::home()?);
    let project = config::project_root(&env::cwd()?);
    let places =
        [(project.join(LEGACY_CONFIG), project.join(PROJECT_CONFIG), Whose::Project), (home.legacy_config(), home.config(), Whose::User)];
    let mut found = false;
    for (older, newer, whose) in places {
        found |= older.is_file();
        if older.is_file() {
            migrate(&older, &newer, whose)?;
        }
    }
    if !found {
        ui::data("there are no settings of the older form here\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn migrate(older: &Path, newer: &Path, whose: Whose) -> Result<(), Failure> {
    if newer.exists() {
        return ui::data(&format!("{} is there already; nothing is done with {}\n", plain::path(newer), plain::path(older)));
    }
    let yaml = document::text_of(older)?.unwrap_or_default();
    let taken = legacy::to_toml(&yaml, older, whose)?;
    // What is wrong in it is told before anything is written.
    read::read_any(newer, older, whose)?;
    let left: String = taken.left.iter().map(|left| format!("# Not taken from the older form: {}\n", left.escape_debug())).collect();
    let text = if left.is_empty() { taken.text } else { format!("{left}\n{}", taken.text) };
    let failed = |path: &Path, error| Failure::found(format!("cannot write {}: {error}", path.display()), "is the directory yours?");
    document::write(newer, &text).map_err(|error| failed(newer, error))?;
    let kept = backup(older);
    fs::rename(older, &kept).map_err(|error| failed(&kept, error))?;
    ui::data(&format!("{} is written as {}; the older file is {}\n{left}", plain::path(older), plain::path(newer), plain::path(&kept)))
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}
