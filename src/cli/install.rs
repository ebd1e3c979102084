//! `silo install`.

use std::process::ExitCode;

use crate::recipe::file::check_name;
use crate::tool::collect;
use crate::tool::install::{self, Outcome, Wish};
use crate::tool::locking::Resolving;

use super::context::{Globals, setting};
use super::error::Failure;
use super::{reserved, shims, ui};

/// Build a tool's image from its recipe and lock, and install it
///
/// The tool is installed only when everything is in place: an install that is interrupted leaves nothing.
#[derive(clap::Args)]
pub struct Args {
    /// The tools, each with a version if you like: python, python@3.13
    #[arg(required = true, value_name = "TOOL[@VERSION]")]
    tools: Vec<String>,
    /// The version, or its beginning, of the one tool that is named
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Do not make a lock where the recipe has none for what it asks for
    #[arg(long)]
    frozen: bool,
    /// Print what was installed as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let resolving = if args.frozen { Resolving::Frozen } else { Resolving::Allowed };
    let mut wishes: Vec<Wish> = args.tools.iter().map(|spec| parse(spec, resolving)).collect::<Result<_, _>>()?;
    if let Some(version) = &args.version {
        give_version(&mut wishes, version, &args.tools)?;
    }
    let setting = setting(globals)?;
    let outcomes = setting.with(|context| {
        let outcomes = wishes.iter().map(|wish| Ok(install::install(context, wish)?)).collect::<Result<Vec<Outcome>, Failure>>()?;
        if outcomes.iter().any(|outcome| outcome.fresh) {
            collect::by_itself(context);
        }
        Ok(outcomes)
    })?;
    if args.json {
        ui::json(&outcomes.iter().map(json).collect())?;
    } else {
        ui::data(&outcomes.iter().map(line).collect::<String>())?;
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.fresh) {
        shims::tell(&setting, &outcome.tool.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays `--version` over the one tool that is named.
fn give_version(wishes: &mut [Wish], version: &str, specs: &[String]) -> Result<(), Failure> {
    let [wish] = wishes else {
        return Err(Failure::usage("--version is for one tool", "type the version behind each tool: python@3.13"));
    };
    if wish.version.as_deref().is_some_and(|other| other != version) {
        let message = format!("conflicting versions: \"{}\" and --version {version}", specs.join(" "));
        return Err(Failure::usage(message, format!("type {}@{version}", wish.name)));
    }
    wish.version = Some(version.to_owned());
    Ok(())
}

/// Parses `tool` or `tool@version`.
pub fn parse(spec: &str, resolving: Resolving) -> Result<Wish, Failure> {
    let (name, version) = match spec.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (spec, None),
    };
    check_name(name).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    if reserved().iter().any(|word| word == name) {
        return Err(Failure::usage(
            format!("\"{name}\" is a command of silo and cannot be a tool"),
            "`silo list --available` shows the tools",
        ));
    }
    if version == Some("") {
        return Err(Failure::usage(format!("\"{spec}\" has no version after the @"), format!("type {name}, or {name}@ and a version")));
    }
    Ok(Wish { name: name.to_owned(), version: version.map(str::to_owned), resolving, anew: false })
}

/// Tells what an install did.
pub fn line(outcome: &Outcome) -> String {
    let tool = &outcome.tool;
    let state = if outcome.fresh { "installed" } else { "is installed already" };
    format!("{} {} {state} (image {:.12})\n", tool.name, tool.version, tool.image.to_string())
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let tool = &outcome.tool;
    serde_json::json!({ "tool": tool.name, "version": tool.version, "image": tool.image.to_string(), "changed": outcome.fresh, "layersMade": outcome.made })
}
