//! `silo show`.

use std::process::ExitCode;

use silo_base::grant::Grant;
use silo_base::sanitize;
use silo_base::units;
use silo_model::config::Review;
use silo_model::derivation::Repeats;
use silo_model::recipe::Step;
use silo_model::recipe::catalog::Origin;
use silo_tool::catalog_entry::{self, CatalogEntry};
use silo_tool::definition::{self, Scope};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ui;

/// Show the definition of a tool here: its recipe with all overrides, its versions, and its lock
#[derive(clap::Args)]
pub struct Args {
    /// The tool
    tool: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let scope = if definition::claimed(setting.view())?.contains(&args.tool) { Scope::Project } else { Scope::Global };
    let offer = catalog_entry::of(setting.view(), &args.tool, scope)?;
    match args.json {
        true => ui::json(&json(&offer))?,
        false => ui::data(&text(&setting, &offer, scope))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(setting: &Setting, offer: &CatalogEntry, scope: Scope) -> String {
    let recipe = offer.recipe();
    let mut text = format!("{} {}: {}\n", recipe.name, sanitize::line(version(offer)), sanitize::line(&recipe.description));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let mut lines = value.split('\n').map(sanitize::line);
            text.push_str(&format!("  {name:12}  {}\n", lines.next().unwrap_or_default()));
            lines.for_each(|line| text.push_str(&format!("                {line}\n")));
        }
    };
    let origin = match offer.definition.found.origin {
        Origin::BuiltIn => "built in".to_owned(),
        Origin::User => sanitize::path(&setting.home.recipes().join(format!("{}.toml", recipe.name))),
        Origin::Project => format!("recipes/{}.toml of the project", recipe.name),
    };
    let over = if scope == Scope::Project { ", with the project's silo.toml over it" } else { "" };
    line("recipe", format!("{origin}{over}"));
    if let Some(tool) = &offer.installed {
        line("installed", format!("{} (image {:.12})", tool.version, tool.image.to_string()));
    }
    let labelled = |(version, label): (&str, &str)| if label.is_empty() { version.to_owned() } else { format!("{version} ({label})") };
    line("versions", recipe.version_labels().into_iter().map(labelled).collect::<Vec<_>>().join(", "));
    line("requires", recipe.requires.join(" "));
    line("source", offer.source());
    line("tested", recipe.tested.clone().unwrap_or_default());
    line("packages", recipe.debian.packages.join(" "));
    line("added", recipe.debian.added.join(" "));
    line("built with", recipe.debian.build.join(" "));
    let weight = offer.weight();
    let made = if weight.made > 0 { format!(", {} made by steps", units::size(weight.made)) } else { String::new() };
    line(
        "locked",
        match offer.lock {
            Some(_) => format!("{} packages, {} to fetch{made}", weight.packages, units::size(weight.fetched)),
            None => "no lock for this definition yet".to_owned(),
        },
    );
    for step in &recipe.steps {
        line("step", display_step(step));
    }
    line("command", recipe.run.command.join(" "));
    if let Some(arguments) = recipe.run.arguments.as_ref().filter(|arguments| !arguments.is_empty()) {
        line("arguments", arguments.join(" "));
    }
    let shim = |(name, command): (&String, &Vec<String>)| match command.as_slice() {
        [program] if program == name => name.clone(),
        words => format!("{name} ({})", words.join(" ")),
    };
    line("shims", recipe.run.shims.iter().map(shim).collect::<Vec<_>>().join(", "));
    if let Some(lsp) = &recipe.lsp {
        line("server", lsp.command.join(" "));
        line("server has", lsp.packages.join(" "));
        for step in &lsp.steps {
            line("server step", display_step(step));
        }
    }
    line("env", recipe.run.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "));
    line("passEnv", recipe.run.pass_env.join(" "));
    line("reaches", Grant::join(&recipe.run.network, " "));
    line("builds reach", Grant::join(&recipe.install_allow, " "));
    line("ecosystems", recipe.ecosystems.keys().map(|name| format!("@{name}")).collect::<Vec<_>>().join(" "));
    line("cpus", recipe.run.cpus.map_or_else(String::new, |cpus| cpus.to_string()));
    line("memory", recipe.run.memory_mb.map_or_else(String::new, |mib| format!("{mib} MiB")));
    line("time", recipe.run.time_seconds.map_or_else(String::new, |seconds| format!("{seconds} s")));
    line("network", recipe.run.network_mb.map_or_else(String::new, |mib| format!("{mib} MiB")));
    line("review", recipe.run.review.map_or_else(String::new, |review| review.word().to_owned()));
    line("warms up", recipe.run.warm_up.join(" "));
    text
}

/// Formats a step as a command, with its network access.
fn display_step(step: &Step) -> String {
    let reach = if step.network.is_empty() { String::new() } else { format!("    # reaches {}", Grant::join(&step.network, " ")) };
    let repeats = match step.repeats {
        Repeats::Nothing => "",
        Repeats::Random => "    # with fixed random numbers",
        Repeats::Machine => "    # in a deterministic VM",
    };
    format!("{}{reach}{repeats}", step.shown().trim())
}

fn version(offer: &CatalogEntry) -> &str {
    offer.version.as_deref().unwrap_or("(not locked)")
}

fn json(offer: &CatalogEntry) -> serde_json::Value {
    let recipe = offer.recipe();
    let step = |step: &Step| {
        let (random, deterministic) = (step.repeats != Repeats::Nothing, step.repeats == Repeats::Machine);
        let random = if random { "fixed" } else { "real" };
        let Step { run, network, env, project, .. } = step;
        serde_json::json!({ "run": run, "network": network, "env": env, "project": project, "random": random, "deterministic": deterministic })
    };
    serde_json::json!({
        "tool": recipe.name,
        "description": recipe.description,
        "version": offer.version,
        "versions": recipe.version_labels(),
        "requires": recipe.requires,
        "origin": offer.definition.found.origin,
        "source": offer.source(),
        "tested": recipe.tested,
        "installed": offer.installed.as_ref().map(|tool| serde_json::json!({ "version": tool.version, "image": tool.image.to_string() })),
        "debian": {
            "suite": recipe.debian.suite,
            "components": recipe.debian.components,
            "packages": recipe.debian.packages,
            "added": recipe.debian.added,
            "buildPackages": recipe.debian.build,
            "recommends": recipe.debian.recommends,
            "versionOf": recipe.debian.version_of,
        },
        "locked": offer.lock.as_ref().map(|lock| serde_json::json!({
            "epoch": lock.epoch,
            "packages": offer.weight().packages,
            "fetchedBytes": offer.weight().fetched,
            "madeBytes": offer.weight().made,
        })),
        "steps": recipe.steps.iter().map(step).collect::<Vec<_>>(),
        "command": recipe.run.command,
        "shims": recipe.run.shims,
        "env": recipe.run.env,
        "passEnv": recipe.run.pass_env,
        "network": { "allow": recipe.run.network, "installAllow": recipe.install_allow },
        "ecosystems": recipe.ecosystems.iter().map(|(name, probe)| (name.clone(), probe.run.clone())).collect::<std::collections::BTreeMap<_, _>>(),
        "lsp": recipe.lsp.as_ref().map(|lsp| serde_json::json!({
            "command": lsp.command,
            "packages": lsp.packages,
            "steps": lsp.steps.iter().map(step).collect::<Vec<_>>(),
            "env": lsp.env,
        })),
        "cpus": recipe.run.cpus,
        "memoryMB": recipe.run.memory_mb,
        "timeSeconds": recipe.run.time_seconds,
        "networkMB": recipe.run.network_mb,
        "review": recipe.run.review.map(Review::word),
        "warmUp": recipe.run.warm_up,
    })
}
