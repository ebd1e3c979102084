//! `silo current`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::sanitize;
use silo_model::recipe::check::check_name;
use silo_tool::definition::{self, Scope};
use silo_tool::record::{self, Installed};
use silo_tool::shim::claims;
use silo_tool::shim::fall_through::Claims;
use silo_tool::shim::table::{self, Table};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Format;
use super::{env, ui};

/// Show the tools in force here and the reason; with a tool, its complete definition
#[derive(clap::Args)]
pub struct Args {
    /// The tool; by default all tools installed or used here
    tool: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A tool as defined in this directory.
struct Row {
    tool: String,
    /// Installed image, or the reason why it cannot run.
    image: Result<Option<Installed>, definition::Error>,
    state: State,
}

/// Reason why the tool's shims run it here, or do not.
enum State {
    Project(PathBuf),
    User(PathBuf),
    Pinned,
    Next,
}

impl State {
    fn of(setting: &Setting, table: &Table, claims: &Claims, tool: &str) -> State {
        if claims.project.contains(tool) {
            State::Project(claims.root.clone())
        } else if claims.user.contains(tool) {
            State::User(setting.home.config())
        } else if table.get(tool).is_some_and(|entry| entry.pinned) {
            State::Pinned
        } else {
            State::Next
        }
    }

    fn word(&self) -> &'static str {
        match self {
            State::Project(_) => "project",
            State::User(_) => "settings",
            State::Pinned => "pinned",
            State::Next => "next-on-path",
        }
    }

    fn describe(&self) -> String {
        match self {
            State::Project(root) => format!("used by {}", sanitize::path(root)),
            State::User(file) => format!("used by {}", sanitize::path(file)),
            State::Pinned => "pinned".to_owned(),
            State::Next => "neither pinned nor used here: its commands run the next program on PATH".to_owned(),
        }
    }
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let table = table::read(&setting.home.shims())?;
    let claims = claims::read(&setting.home, &env::cwd()?)?;
    if let Some(tool) = &args.tool {
        one(&setting, &table, &claims, tool, Format::of_flag(args.json))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut tools: BTreeSet<String> = record::list(&setting.home)?.into_iter().map(|tool| tool.name).collect();
    tools.extend(claims.project.iter().chain(&claims.user).cloned());
    let row =
        |tool: String| Row { image: definition::current(setting.view(), &tool), state: State::of(&setting, &table, &claims, &tool), tool };
    let rows: Vec<Row> = tools.into_iter().map(row).collect();
    if args.json {
        ui::json(&rows.iter().map(json).collect())?;
    } else if rows.is_empty() {
        ui::data("no tools; `silo install <tool>` installs one\n")?;
    } else {
        let width = rows.iter().map(|row| row.tool.len()).max().unwrap_or(0);
        ui::data(
            &rows.iter().map(|row| format!("{:width$}  {}; {}\n", row.tool, image(&row.image), row.state.describe())).collect::<String>(),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn image(image: &Result<Option<Installed>, definition::Error>) -> String {
    match image {
        Ok(Some(tool)) => format!("{}, image {:.12}", tool.version, tool.image.to_string()),
        Ok(None) => "not installed".to_owned(),
        Err(error) => sanitize::line(&error.to_string()),
    }
}

fn json(row: &Row) -> serde_json::Value {
    let tool = row.image.as_ref().ok().and_then(Option::as_ref);
    serde_json::json!({
        "tool": row.tool,
        "version": tool.map(|tool| &tool.version),
        "image": tool.map(|tool| tool.image.to_string()),
        "error": row.image.as_ref().err().map(ToString::to_string),
        "state": row.state.word(),
        "commands": match &row.state { State::Next => "next on PATH", State::Project(_) | State::User(_) | State::Pinned => "sandbox" },
    })
}

/// Prints one tool: its recipe with the settings applied.
fn one(setting: &Setting, table: &Table, claims: &Claims, tool: &str, format: Format) -> Result<(), Failure> {
    check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    let found = definition::of(setting.view(), tool, Scope::Project)?.found;
    let row =
        Row { tool: tool.to_owned(), image: definition::current(setting.view(), tool), state: State::of(setting, table, claims, tool) };
    let run = &found.recipe.run;
    let over = setting.settings.overrides.get(tool).cloned().unwrap_or_default();
    let network = setting.settings.network(tool, &run.network);
    let mut env = run.env.clone();
    env.extend(over.env.clone());
    let pass_env: BTreeSet<&String> = run.pass_env.iter().chain(&setting.settings.pass_env).chain(&over.pass_env).collect();
    let names: Vec<&str> =
        table.get(tool).into_iter().flat_map(|entry| entry.shims.keys().filter(|name| entry.answers(name))).map(String::as_str).collect();
    let effective = serde_json::json!({
        "recipe": found.origin,
        "command": run.command,
        "shims": names,
        "packages": found.recipe.debian.packages.iter().chain(&found.recipe.debian.added).collect::<Vec<_>>(),
        "env": env,
        "passEnv": pass_env,
        "network": { "allow": network.allow, "deny": network.deny },
        "ports": setting.settings.ports(tool).iter().map(ToString::to_string).collect::<Vec<_>>(),
        "review": setting.settings.review(tool, run.review).word(),
        "passSshAgent": setting.settings.passes_ssh_agent(tool),
    });
    let mut limits = serde_json::Map::new();
    let mut limit = |name: &str, value: Option<u64>| drop(value.map(|value| limits.insert(name.to_owned(), value.into())));
    limit("cpus", over.cpus.or(run.cpus).map(u64::from));
    limit("memoryMB", over.memory_mb.or(run.memory_mb));
    limit("timeSeconds", over.time_seconds.or(run.time_seconds));
    limit("networkMB", over.network_mb.or(run.network_mb));
    let mut value = effective;
    if let Some(map) = value.as_object_mut() {
        map.extend(limits);
    }
    if format == Format::Json {
        let mut told = json(&row);
        if let Some(map) = told.as_object_mut() {
            map.insert("definition".to_owned(), value);
        }
        return ui::json(&told);
    }
    let text = toml::to_string(&value).map_err(Failure::other)?;
    ui::data(&format!("# {tool} {}; {}\n{text}", image(&row.image), row.state.describe()))
}
