//! `silo config`: shows settings and edits them in place.

use std::process::ExitCode;

use clap::Subcommand;

use silo_base::grant::Grant;
use silo_base::sanitize;
use silo_model::ecosystem;
use silo_model::recipe::catalog;
use silo_model::recipe::check::{check_denials, check_grants, check_name};
use silo_tool::definition::Scope;
use silo_tool::ecosystems;
use silo_tool::record;
use silo_tool::settings_file;

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ports::{self, Ports};
use super::{migrate, settings, trust, ui};

/// Show settings, and change them in silo.toml
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: ConfigVerb,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Network access of tools
    #[command(subcommand)]
    Network(Network),
    /// Port forwards from this machine to a tool
    #[command(subcommand)]
    Ports(Ports),
    Show(settings::Args),
    Migrate(migrate::Args),
}

#[derive(Subcommand)]
enum Network {
    /// Let tools connect to a host
    Allow(Change),
    /// Forbid connections to a host, unless a more specific rule allows it
    Deny(Change),
    /// Remove the allow or deny rules of a host
    Remove(Change),
    /// Show the network access of a tool, and the hosts of package ecosystems such as @pypi
    Show {
        /// The tool; by default all installed tools
        tool: Option<String>,
    },
    /// Ask an ecosystem's own client again for the hosts it needs
    Learn {
        /// The ecosystem, such as @pypi
        ecosystem: String,
        /// The tool that is asked; by default one with a probe for this ecosystem
        #[arg(long)]
        tool: Option<String>,
    },
}

#[derive(clap::Args)]
struct Change {
    /// name, name:port, name:from-to, *.name, * or an ecosystem such as @pypi
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// For this tool only
    #[arg(long)]
    tool: Option<String>,
    /// Apply everywhere: write to ~/.silo/silo.toml
    #[arg(long)]
    global: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    if let ConfigVerb::Migrate(args) = &args.what {
        return migrate::run(args);
    }
    let setting = setting(globals)?;
    let what = match &args.what {
        ConfigVerb::Show(args) => return settings::run(&setting, args),
        ConfigVerb::Migrate(args) => return migrate::run(args),
        ConfigVerb::Ports(what) => return ports::run(&setting, what),
        ConfigVerb::Network(what) => what,
    };
    match what {
        Network::Allow(change) => changed(&setting, change, "allow", "may be reached"),
        Network::Deny(change) => changed(&setting, change, "deny", "may not be reached"),
        Network::Remove(change) => removed(&setting, change),
        Network::Show { tool } => show(&setting, tool.as_deref()),
        Network::Learn { ecosystem, tool } => learn(&setting, ecosystem, tool.as_deref()),
    }
}

fn check(
    change: &Change,
    names: fn(&'static str, &[String]) -> Result<Vec<Grant>, silo_model::recipe::error::Error>,
) -> Result<(), Failure> {
    if let Some(tool) = &change.tool {
        check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    }
    let hint = "write example.com, example.com:22, *.example.com or @pypi";
    names("network", &change.names).map(drop).map_err(|error| Failure::usage(error.to_string(), hint))
}

fn path(setting: &Setting, change: &Change) -> Result<std::path::PathBuf, Failure> {
    trust::settings_path(setting, Scope::of_flag(change.global))
}

fn changed(setting: &Setting, change: &Change, key: &str, what: &str) -> Result<ExitCode, Failure> {
    check(change, if key == "allow" { check_grants } else { check_denials })?;
    if let Some(tool) = &change.tool {
        catalog::find(&setting.places, tool)?;
    }
    let path = path(setting, change)?;
    let tool = change.tool.as_deref();
    let (_, written) = settings_file::change(&setting.home, &path, |document| {
        change.names.iter().try_for_each(|name| document.add_grant(tool, key, name).map(drop))
    })?;
    // Typing the command approves this change. Other exposures of the file still need an approval.
    trust::changed(setting, &written)?;
    let names = change.names.join(", ");
    let by = tool.map_or_else(String::new, |tool| format!(" by {tool}"));
    ui::data(&match written.is_new() {
        true => format!("{}: {names} {what}{by}\n", sanitize::path(&path)),
        false => format!("{} has this already\n", sanitize::path(&path)),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn removed(setting: &Setting, change: &Change) -> Result<ExitCode, Failure> {
    check(change, check_denials)?;
    let path = path(setting, change)?;
    let (unsaid, changed) = settings_file::prepare(&setting.home, &path, |document| {
        for name in &change.names {
            if !document.remove_grant(change.tool.as_deref(), name)? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    })?;
    if let Some(name) = unsaid {
        let hint = "`silo config network show` lists the rules; --tool and --global select the table and file";
        return Err(Failure::found(format!("{} has no rule for {name}", path.display()), hint));
    }
    changed.commit(&setting.home)?;
    for name in &change.names {
        ui::data(&format!("{}: rules for {name} removed\n", sanitize::path(&path)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(setting: &Setting, tool: Option<&str>) -> Result<ExitCode, Failure> {
    let tools: Vec<String> = match tool {
        Some(tool) => vec![catalog::find(&setting.places, tool)?.recipe.name],
        None => record::list(&setting.home)?.into_iter().map(|tool| tool.name).collect(),
    };
    let mut text = String::new();
    let mut mentioned = std::collections::BTreeSet::new();
    for tool in tools {
        let recipe = catalog::find(&setting.places, &tool).map(|found| found.recipe.run.network).unwrap_or_default();
        let network = setting.settings.network(&tool, &recipe);
        let list = |names: &[Grant]| if names.is_empty() { "nothing".to_owned() } else { Grant::join(names, ", ") };
        text += &format!("{tool} may reach {}", list(&network.allow));
        if !network.deny.is_empty() {
            text += &format!(", but not {}", list(&network.deny));
        }
        text += "\n";
        mentioned.extend(network.allow.into_iter().chain(network.deny).filter_map(|grant| Some(grant.ecosystem()?.name().to_owned())));
    }
    for name in mentioned {
        let (names, whence) = match setting.settings.ecosystems.get(&name) {
            Some(names) => (Grant::join(names, ", "), "by silo.toml"),
            None => (ecosystem::get(&setting.home, &name)?.unwrap_or_default().listed(), "as its client showed"),
        };
        text += &match names.is_empty() {
            true => format!("@{name} is not known yet; `silo config network learn @{name}` asks its client\n"),
            false => format!("@{name} is {names}, {whence}\n"),
        };
    }
    ui::data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn learn(setting: &Setting, ecosystem: &str, tool: Option<&str>) -> Result<ExitCode, Failure> {
    let name = ecosystem.strip_prefix('@').unwrap_or(ecosystem);
    check_name(name).map_err(|error| Failure::usage(error.to_string(), "an ecosystem is written like @pypi"))?;
    let learned = setting.with(|context| {
        let tool = match tool {
            Some(tool) => tool.to_owned(),
            None => ecosystems::tool_with(context, None, name)?.ok_or_else(|| {
                let hint = format!("set ecosystems.{name} = [\"name\", …] in silo.toml");
                Failure::found(format!("no tool has a probe for @{name}"), hint)
            })?,
        };
        Ok(ecosystems::learn(context, &tool, name)?)
    })?;
    ui::data(&format!("@{name} is {}\n", learned.listed()))?;
    Ok(ExitCode::SUCCESS)
}
