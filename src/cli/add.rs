//! `silo add`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_model::config::edit::NewStep;
use silo_model::recipe::addon;
use silo_model::recipe::catalog;
use silo_model::recipe::check::{check_grants, check_packages};
use silo_tool::definition::Scope;
use silo_tool::settings_file;

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::overlay::{self, Target};
use super::{trust, ui};

/// Add Debian packages, languages or commands to a tool, for this project
///
/// A word that names an add-on (java, kotlin, ruby, or one of yours) adds that add-on. All other words are Debian packages, resolved
/// together with the tool's own packages. The additions go into silo.toml and silo.lock, and the tool is built. If the build fails,
/// silo.toml stays unchanged.
#[derive(clap::Args)]
pub struct Args {
    /// Packages and languages
    #[arg(value_name = "PACKAGE|LANGUAGE")]
    words: Vec<String>,
    /// The tool; by default the only one that the project uses
    #[arg(long = "for", value_name = "TOOL")]
    tool: Option<String>,
    /// Also run this shell command after the tool's own steps
    #[arg(long = "step", value_name = "COMMAND")]
    steps: Vec<String>,
    /// Hosts that the commands may connect to: name, name:port, *.name or @ecosystem
    #[arg(long, value_name = "NAME", requires = "steps")]
    network: Vec<String>,
    /// Add to the tool everywhere, not only in this project
    #[arg(long)]
    global: bool,
    /// Only write silo.toml
    #[arg(long)]
    no_sync: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    if args.words.is_empty() && args.steps.is_empty() {
        return Err(Failure::usage("nothing to add", "name packages or languages, as in `silo add jq kotlin --for python`"));
    }
    let mut setting = setting(globals)?;
    let scope = Scope::of_flag(args.global);
    let tool = overlay::tool(&setting, args.tool.as_deref(), scope)?;
    let mut network =
        check_grants("--network", &args.network).map_err(|error| Failure::usage(error.to_string(), "see `silo add --help`"))?;
    network.sort();
    let (mut addons, mut packages) = (Vec::new(), Vec::new());
    for word in &args.words {
        if addon::find(&setting.places, word)?.is_some() {
            addons.push(word.clone());
        } else {
            packages.push(word.clone());
        }
    }
    check_packages("packages", &packages).map_err(|error| Failure::usage(error.to_string(), "see `silo add --help`"))?;
    let path = trust::settings_path(&setting, scope)?;
    let (added, changed) = settings_file::prepare(&setting.home, &path, |document| {
        let mut added = Vec::new();
        for (key, words, what) in [("addons", &addons, "language"), ("packages", &packages, "package")] {
            for word in words {
                if document.add(&tool, key, word)? {
                    added.push(format!("  + {what} {word}\n"));
                }
            }
        }
        for step in &args.steps {
            let step = NewStep { run: vec![step.clone()], shell: true, network: network.clone(), project: false };
            if document.add_step(&tool, &step)? {
                added.push(format!("  + step {}\n", step.run.join(" ")));
            }
        }
        Ok(added)
    })?;
    let said = match changed.is_new() {
        true => format!("{} (tool {tool})\n{}", sanitize::path(&path), added.concat()),
        false => format!("{} has all of it already (tool {tool})\n", sanitize::path(&path)),
    };
    ui::data(&said)?;
    if args.no_sync {
        changed.commit(&setting.home)?;
        trust::changed(&setting, &changed)?;
        return Ok(ExitCode::SUCCESS);
    }
    let baking = by_client(&setting, &tool, &packages);
    overlay::apply(globals, &mut setting, &Target { tool, scope, anew: false, frozen: false }, Some(changed)).map_err(
        |failure| match baking {
            Some(way) if failure.message().contains("does not exist for") => failure.or_hint(&way),
            _ => failure,
        },
    )
}

/// Names the command that installs packages of the tool's own ecosystem (pip, npm, cargo) instead of Debian's.
fn by_client(setting: &Setting, tool: &str, packages: &[String]) -> Option<String> {
    let recipe = catalog::find(&setting.places, tool).ok()?.recipe;
    let names = packages.join(" ");
    let first = packages.first()?;
    let has = |command: &str| recipe.run.shims.contains_key(command);
    let (client, debians) = if has("pip") {
        (format!("pip install {names}"), format!("python3-{first}"))
    } else if has("npm") {
        (format!("npm install --global {names}"), format!("node-{first}"))
    } else if has("cargo") {
        (format!("cargo install {names}"), format!("librust-{first}-dev"))
    } else {
        return None;
    };
    Some(format!("`silo build {tool} {client}` installs it into the image from its own index; the Debian package would be {debians}"))
}
