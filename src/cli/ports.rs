//! `silo config ports`.

use std::process::ExitCode;

use clap::Subcommand;

use silo_base::grant::Port;
use silo_base::sanitize;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_name;
use silo_tool::definition::Scope;
use silo_tool::settings_file;
use silo_tool::trust::exposure;

use super::context::Setting;
use super::error::Failure;
use super::{env, run, trust as trust_command, ui};

/// Actions on port forwards.
#[derive(Subcommand)]
pub enum Ports {
    /// Forward ports of this machine, on 127.0.0.1, to ports of a tool
    Add(Change),
    /// Remove port forwards
    Remove(Change),
    /// Show the port forwards
    Show,
}

#[derive(clap::Args)]
pub struct Change {
    /// The tool
    tool: String,
    /// PORT:INSIDE, or one number for both
    #[arg(required = true, value_name = "PORT:INSIDE", value_parser = run::port)]
    ports: Vec<Port>,
    /// Apply everywhere: write to ~/.silo/silo.toml
    #[arg(long)]
    global: bool,
}

pub fn run(setting: &Setting, what: &Ports) -> Result<ExitCode, Failure> {
    match what {
        Ports::Add(change) => add(setting, change),
        Ports::Remove(change) => remove(setting, change),
        Ports::Show => show(setting),
    }
}

fn path(setting: &Setting, change: &Change) -> Result<std::path::PathBuf, Failure> {
    check_name(&change.tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    trust_command::settings_path(setting, Scope::of_flag(change.global))
}

fn add(setting: &Setting, change: &Change) -> Result<ExitCode, Failure> {
    let path = path(setting, change)?;
    let tool = &change.tool;
    catalog::find(&setting.places, tool)?;
    change.ports.iter().try_for_each(|port| listenable(*port))?;
    let (_, written) = settings_file::change(&setting.home, &path, |document| {
        change.ports.iter().try_for_each(|port| document.add_port(tool, *port).map(drop))
    })?;
    // Typing the command approves this change. Other exposures of the file still need an approval.
    trust_command::changed(setting, &written)?;
    ui::data(&match written.is_new() {
        true => change.ports.iter().map(|port| format!("{}: {}\n", sanitize::path(&path), exposure::listens(tool, *port))).collect(),
        false => format!("{} has this already\n", sanitize::path(&path)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Fails for a privileged port if the caller is not root.
fn listenable(port: Port) -> Result<(), Failure> {
    let first = env::first_open_port();
    if port.host.get() >= first {
        return Ok(());
    }
    let higher = port.host.get().saturating_add(8000);
    let what = format!("port {} of this machine needs root; other users can listen from {first} on", port.host);
    Err(Failure::usage(what, format!("type {higher}:{}, and open localhost:{higher}", port.guest)))
}

fn remove(setting: &Setting, change: &Change) -> Result<ExitCode, Failure> {
    let path = path(setting, change)?;
    let (unsaid, changed) = settings_file::prepare(&setting.home, &path, |document| {
        for port in &change.ports {
            if !document.remove_port(&change.tool, *port)? {
                return Ok(Some(*port));
            }
        }
        Ok(None)
    })?;
    if let Some(port) = unsaid {
        let hint = "`silo config ports show` lists the port forwards; --global selects the file";
        return Err(Failure::found(format!("{} has no port forward {port} to {}", path.display(), change.tool), hint));
    }
    changed.commit(&setting.home)?;
    for port in &change.ports {
        ui::data(&format!("{}: port forward {port} to {} removed\n", sanitize::path(&path), change.tool))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(setting: &Setting) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for tool in setting.settings.overrides.keys() {
        text.extend(setting.settings.ports(tool).iter().map(|port| format!("{}\n", exposure::listens(tool, *port))));
    }
    ui::data(if text.is_empty() { "there are no port forwards\n" } else { &text })?;
    Ok(ExitCode::SUCCESS)
}
