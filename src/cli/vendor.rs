//! `silo vendor`.

use std::process::ExitCode;

use silo_base::units;
use silo_insight::image_view;
use silo_ship::vendor::Vendored;
use silo_tool::definition::{self, Scope};
use silo_tool::vendor;

use super::context::{Globals, Setting, open_for_reading, setting};
use super::error::Failure;
use super::push::SignArgs;
use super::{cache, trust, ui};

/// Copy all inputs of tools into a directory or a registry, for builds without other servers
///
/// The inputs are the files that the lock names by digest, and the outputs and records of steps with a network. A build finds them in a cache:
/// `[[caches]]` with this location in ~/.silo/silo.toml. With --offline, it asks no server at all.
#[derive(clap::Args)]
pub struct Args {
    /// A directory, or a repository of a registry: /srv/vendor, registry.example.com/team/silo
    #[arg(value_name = "LOCATION")]
    to: String,
    /// Only these tools; by default the tools of the project, or all that are built
    tools: Vec<String>,
    #[command(flatten)]
    sign: SignArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let to = cache::located(&args.to)?;
    let tools = tools(&setting, args)?;
    for tool in &tools {
        if definition::scope(setting.view(), tool)? == Scope::Project {
            trust::require(&setting, Some(tool))?;
        }
    }
    let signer = args.sign.signer(&setting.home)?;
    let mut rows: Vec<(String, Vendored)> = Vec::new();
    setting.with(|context| {
        for tool in tools {
            let done = vendor::vendor(context, &tool, &to, signer.as_ref())?;
            rows.push((tool, done));
        }
        Ok(())
    })?;
    let is_unsigned = signer.is_none() && rows.iter().any(|(_, done)| done.outputs > 0);
    if is_unsigned {
        setting
            .note("nothing is signed, so the outputs of steps with a network count for nobody; `silo key new NAME` makes a key".to_owned());
    }
    if args.json {
        let row = |(tool, done): &(String, Vendored)| {
            serde_json::json!({
                "tool": tool, "manifest": format!("sha256:{}", done.manifest), "files": done.files, "outputs": done.outputs,
                "sent": done.sent, "bytes": done.bytes,
            })
        };
        ui::json(&rows.iter().map(row).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = |(tool, done): &(String, Vendored)| {
        let outputs = if done.outputs > 0 { format!(" and {} outputs of steps", done.outputs) } else { String::new() };
        format!("{tool} to {to}: {} files{outputs}, {} sent ({})\n", done.files, done.sent, units::size(done.bytes))
    };
    ui::data(&rows.iter().map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the tools to copy: the named ones, else those of the project, else all that are built.
fn tools(setting: &Setting, args: &Args) -> Result<Vec<String>, Failure> {
    if !args.tools.is_empty() {
        return Ok(args.tools.clone());
    }
    let mut tools: Vec<String> = definition::claimed(setting.view())?.into_iter().collect();
    if tools.is_empty() {
        tools = image_view::tools(&open_for_reading(setting)?)?.into_iter().map(|tool| tool.name).collect();
    }
    if tools.is_empty() {
        return Err(Failure::usage("there is no tool whose inputs could be copied", "name one, as in `silo vendor /srv/vendor python`"));
    }
    Ok(tools)
}
