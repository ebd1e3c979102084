//! `silo config show`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use silo_base::home::{LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_model::config::legacy::{self, SettingsOwner};
use silo_model::config::origin::{self, PlacedValue, Source};
use silo_model::document;
use silo_model::recipe::catalog;

use super::context::Setting;
use super::error::Failure;
use super::{env, ui};

/// Show the settings in force, with the file and line of each
///
/// The output is a valid silo.toml. With a tool, it includes the settings of the tool's recipe.
#[derive(clap::Args)]
pub struct Args {
    /// Also show the recipe of this tool
    tool: Option<String>,
    /// Print the settings as JSON
    #[arg(long)]
    json: bool,
}

/// Keys of a recipe that silo.toml has too.
const RECIPE_KEYS: [&str; 10] = ["env", "passEnv", "cache", "state", "network", "cpus", "memoryMB", "timeSeconds", "networkMB", "review"];

pub fn run(setting: &Setting, args: &Args) -> Result<ExitCode, Failure> {
    setting.check_names()?;
    let mut sources = Vec::new();
    if let Some(tool) = &args.tool {
        sources.extend(of_recipe(setting, tool)?);
    }
    sources.extend(of_file(&setting.home.config(), &setting.home.legacy_config(), SettingsOwner::User)?);
    sources.extend(of_file(&setting.project.join(PROJECT_CONFIG), &setting.project.join(LEGACY_CONFIG), SettingsOwner::Project)?);
    let settings = origin::settings(&sources)?;
    if args.json {
        let said = |said: &PlacedValue| serde_json::json!({ "value": value(&said.value), "file": said.path, "line": said.line });
        let all = settings.iter().map(|(key, setting)| match setting {
            origin::Setting::One(one) => (key.clone(), said(one)),
            origin::Setting::List(list) => (key.clone(), list.iter().map(said).collect()),
        });
        ui::json(&serde_json::Value::Object(all.collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if settings.is_empty() {
        ui::data(&format!(
            "# nothing is set in {} or {}\n",
            sanitize::path(&setting.project.join(PROJECT_CONFIG)),
            sanitize::path(&setting.home.config())
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let home = env::home()?;
    let shown = |path: &Path| match (path.strip_prefix(&setting.project), path.strip_prefix(&home)) {
        (Ok(inner), _) => sanitize::path(inner),
        (_, Ok(inner)) => format!("~/{}", sanitize::path(inner)),
        _ => sanitize::path(path),
    };
    ui::data(&origin::text(&settings, shown))?;
    Ok(ExitCode::SUCCESS)
}

/// Converts a TOML value to JSON.
fn value(toml: &str) -> serde_json::Value {
    let read = toml::from_str::<serde_json::Value>(&format!("value = {toml}")).ok();
    read.and_then(|mut table| table.get_mut("value").map(serde_json::Value::take)).unwrap_or_default()
}

fn of_file(path: &Path, older: &Path, whose: SettingsOwner) -> Result<Option<Source>, Failure> {
    let source = |path: &Path, text| Source { path: path.to_owned(), text, below: None, keys: &[] };
    if let Some(text) = document::text_of(path)? {
        return Ok(Some(source(path, text)));
    }
    let Some(yaml) = document::text_of(older)? else { return Ok(None) };
    Ok(Some(source(older, legacy::to_toml(&yaml, older, whose)?.text)))
}

/// Returns the texts of a recipe, the built-in one first.
fn of_recipe(setting: &Setting, tool: &str) -> Result<Vec<Source>, Failure> {
    let tool = catalog::find(&setting.places, tool)?.recipe.name;
    let name = format!("{tool}.toml");
    let mut texts = Vec::new();
    texts.extend(catalog::built_in(&tool).map(|builtin| (PathBuf::from("built-in recipes").join(&name), builtin.recipe.to_owned())));
    texts.extend(catalog::documents(&setting.places, &name)?.into_iter().map(|(_, path, text)| (path, text)));
    let below = format!("overrides.{tool}");
    Ok(texts.into_iter().map(|(path, text)| Source { path, text, below: Some(below.clone()), keys: &RECIPE_KEYS }).collect())
}
