//! `silo config migrate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_model::config::legacy::{self, InstalledTool, SettingsOwner};
use silo_model::config::{discover, read};
use silo_model::document;
use silo_model::recipe::{catalog, quoted};
use silo_tool::journal::{self, Change};

use super::error::Failure;
use super::{env, ui};

/// Convert old settings (.siloconf, YAML) to silo.toml
///
/// Converts the project's and your own settings. The old file is renamed to .siloconf.bak. An existing silo.toml is never changed.
/// The command also lists the tools that an older silo installed, with the command that installs them here, and the files that it left.
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
    for list in home.legacy_tools() {
        found |= list.is_file();
        if list.is_file() {
            list_tools(&list)?;
        }
    }
    let left: Vec<PathBuf> = home.legacy_data().into_iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    if !left.is_empty() {
        found = true;
        let words: Vec<String> = left.iter().map(|path| quoted(&sanitize::path(path))).collect();
        ui::data(&format!("an older silo left files that this one does not read; this removes them:\n  rm -r {}\n", words.join(" ")))?;
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
    let change = Change::new(home, newer, there, Some(text)).map_err(Failure::other)?;
    journal::commit(home, &[change]).map_err(Failure::other)?;
    let kept = put_by(older)?;
    ui::data(&format!(
        "{} is converted to {}; the old file is {}\n{left}",
        sanitize::path(older),
        sanitize::path(newer),
        sanitize::path(&kept)
    ))
}

/// Lists the tools of an older silo with the commands that install them, and renames the list.
fn list_tools(path: &Path) -> Result<(), Failure> {
    let text = document::text_of(path)?.unwrap_or_default();
    let (known, others): (Vec<InstalledTool>, Vec<InstalledTool>) =
        legacy::installed_tools(&text, path)?.into_iter().partition(|tool| catalog::built_in(&tool.name).is_some());
    let kept = put_by(path)?;
    let shown = |text: &str| quoted(&sanitize::line(text));
    let mut lines = format!("{} lists {} tools; it is now {}\n", sanitize::path(path), known.len() + others.len(), sanitize::path(&kept));
    if !known.is_empty() {
        let names: Vec<String> = known.iter().map(|tool| shown(&tool.name)).collect();
        lines += &format!("  silo install {}\n", names.join(" "));
    }
    for tool in others {
        let image = tool.image.map_or_else(|| "IMAGE".to_owned(), |image| shown(&image));
        lines += &format!("  silo install {} --image {image}    # there is no recipe of this name\n", shown(&tool.name));
    }
    ui::data(&lines)
}

/// Returns the old settings as TOML, and comments about the dropped ones.
fn written(older: &Path, whose: SettingsOwner) -> Result<(String, String), Failure> {
    let yaml = document::text_of(older)?.unwrap_or_default();
    let taken = legacy::to_toml(&yaml, older, whose)?;
    let left: String = taken.left.iter().map(|left| format!("# Not taken from the older form: {}\n", left.escape_debug())).collect();
    let text = if left.is_empty() { taken.text } else { format!("{left}\n{}", taken.text) };
    Ok((text, left))
}

/// Renames an old file, and returns its new path.
fn put_by(path: &Path) -> Result<PathBuf, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    let kept = PathBuf::from(name);
    fs::rename(path, &kept)
        .map_err(|error| Failure::found(format!("cannot write {}: {error}", sanitize::path(&kept)), "is the directory yours?"))?;
    Ok(kept)
}
