//! `silo config migrate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_model::config::legacy::{self, SettingsOwner};
use silo_model::config::{discover, read};
use silo_model::document;
use silo_tool::journal::{self, Change};

use super::error::Failure;
use super::{env, ui};

/// Convert old settings (.siloconf, YAML) to silo.toml
///
/// Converts the project's and your own settings. The old file is renamed to .siloconf.bak. An existing silo.toml is never changed.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args) -> Result<ExitCode, Failure> {
    let home = env::silo_home()?;
    journal::finish_interrupted(&home).map_err(Failure::other)?;
    let project = discover::project(&env::cwd()?).root;
    let places = [
        (project.join(LEGACY_CONFIG), project.join(PROJECT_CONFIG), SettingsOwner::Project),
        (home.legacy_config(), home.config(), SettingsOwner::User),
    ];
    let mut found = false;
    for (older, newer, whose) in places {
        found |= older.is_file();
        if older.is_file() {
            migrate(&home, &older, &newer, whose)?;
        }
    }
    if !found {
        ui::data("there are no old settings to convert\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn migrate(home: &Home, older: &Path, newer: &Path, whose: SettingsOwner) -> Result<(), Failure> {
    let text = written(older, whose)?;
    let there = document::text_of(newer)?;
    if there.as_ref().is_some_and(|there| *there != text.0) {
        return ui::data(&format!("{} exists already; {} was not converted\n", sanitize::path(newer), sanitize::path(older)));
    }
    // Check the result first: errors are reported before anything is written.
    read::read_any(newer, older, whose)?;
    let (text, left) = text;
    let failed = |path: &Path, error| Failure::found(format!("cannot write {}: {error}", path.display()), "is the directory yours?");
    let change = Change::new(home, newer, there, Some(text)).map_err(Failure::other)?;
    journal::commit(home, &[change]).map_err(Failure::other)?;
    let kept = backup(older);
    fs::rename(older, &kept).map_err(|error| failed(&kept, error))?;
    ui::data(&format!(
        "{} is converted to {}; the old file is {}\n{left}",
        sanitize::path(older),
        sanitize::path(newer),
        sanitize::path(&kept)
    ))
}

/// Returns the old settings as TOML, and comments about the dropped ones.
fn written(older: &Path, whose: SettingsOwner) -> Result<(String, String), Failure> {
    let yaml = document::text_of(older)?.unwrap_or_default();
    let taken = legacy::to_toml(&yaml, older, whose)?;
    let left: String = taken.left.iter().map(|left| format!("# Not taken from the older form: {}\n", left.escape_debug())).collect();
    let text = if left.is_empty() { taken.text } else { format!("{left}\n{}", taken.text) };
    Ok((text, left))
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}
