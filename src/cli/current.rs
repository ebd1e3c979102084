//! `silo current`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::home::PROJECT_CONFIG;
use silo_base::sanitize;
use silo_model::config::Settings;
use silo_model::config::merge::smaller;
use silo_model::recipe::check::check_name;
use silo_model::version_files::findings::Findings;
use silo_model::version_request::{self, AvailableVersion, VersionRequest};
use silo_tool::definition::{self, Scope};
use silo_tool::record::{self, Installed};
use silo_tool::shim::claims;
use silo_tool::shim::fall_through::Claims;
use silo_tool::shim::table::{self, Table};
use silo_tool::versions;

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
    /// Reason of the version, and requests of the project's files that it does not fulfil.
    version: Reason,
}

/// Reason of a tool's version.
#[derive(Default)]
struct Reason {
    /// The version or prefix in force, and the file that has it; `None` for the recipe's default.
    decided: Option<(String, PathBuf)>,
    /// Version files that request the tool, and if the version fits: file, request, true if it fits.
    files: Vec<(String, String, bool)>,
}

impl Reason {
    fn of(setting: &Setting, found: &Findings, tool: &str, image: Option<&Installed>) -> Reason {
        let version = |settings: &Settings| settings.overrides.get(tool).and_then(|over| over.version.clone());
        let of_project = version(&setting.project_settings).map(|version| (version, setting.project.join(PROJECT_CONFIG)));
        let decided = of_project.or_else(|| Some((version(&setting.user_settings)?, setting.home.config())));
        let fits = |text: &str| {
            let request = version_request::parse(tool, text).ok();
            let available = image.map(|image| AvailableVersion { version: image.version.clone(), label: String::new() });
            let one = |request: VersionRequest| {
                let line = request.of_line(tool);
                available.as_ref().is_some_and(|one| request.fits(one) || line.is_some_and(|line| line.fits(one)))
            };
            // Support for a long term is no property of the version number.
            request.is_some_and(|request| matches!(request, VersionRequest::LongTerm) || one(request))
        };
        let wishes = found.wishes.iter().filter(|wish| wish.tool == tool && image.is_some());
        let files = wishes.map(|wish| (wish.source.clone(), wish.text.clone(), fits(&wish.text))).collect();
        Reason { decided, files }
    }

    /// Describes the reason, as the end of a line; nothing for the recipe's default that no file speaks about.
    fn describe(&self, tool: &str) -> String {
        let mut text = match &self.decided {
            Some((version, file)) => format!("; version {version} of {}", sanitize::path(file)),
            None if self.files.is_empty() => return String::new(),
            None => "; version of the recipe".to_owned(),
        };
        for (file, request, fits) in &self.files {
            let told = if *fits { "agrees with" } else { "conflicts with" };
            text += &format!(", {told} {} ({tool} {})", sanitize::line(file), sanitize::line(request));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let files = self.files.iter().map(|(file, request, fits)| serde_json::json!({ "file": file, "request": request, "fits": fits }));
        serde_json::json!({
            "decided": self.decided.as_ref().map(|(version, file)| serde_json::json!({ "version": version, "file": file })),
            "files": files.collect::<Vec<_>>(),
        })
    }
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
    let found = versions::files_in(&setting.project);
    let row = |tool: String| row(&setting, &table, &claims, &found, tool);
    let rows: Vec<Row> = tools.into_iter().map(row).collect();
    if args.json {
        ui::json(&rows.iter().map(json).collect())?;
    } else if rows.is_empty() {
        ui::data("no tools; `silo install <tool>` installs one\n")?;
    } else {
        let width = rows.iter().map(|row| row.tool.len()).max().unwrap_or(0);
        let line = |row: &Row| {
            let version = row.version.describe(&row.tool);
            format!("{:width$}  {}; {}{version}\n", row.tool, image(&row.image), row.state.describe())
        };
        ui::data(&rows.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(setting: &Setting, table: &Table, claims: &Claims, found: &Findings, tool: String) -> Row {
    let image = definition::current(setting.view(), &tool);
    let version = Reason::of(setting, found, &tool, image.as_ref().ok().and_then(Option::as_ref));
    Row { image, state: State::of(setting, table, claims, &tool), version, tool }
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
        "versionFrom": row.version.json(),
        "commands": match &row.state { State::Next => "next on PATH", State::Project(_) | State::User(_) | State::Pinned => "sandbox" },
    })
}

/// Prints one tool: its recipe with the settings applied.
fn one(setting: &Setting, table: &Table, claims: &Claims, tool: &str, format: Format) -> Result<(), Failure> {
    check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    let found = definition::of(setting.view(), tool, Scope::Project)?.found;
    let row = row(setting, table, claims, &versions::files_in(&setting.project), tool.to_owned());
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
    let of_all = setting.settings.limits;
    limit("memoryMB", smaller(over.memory_mb.or(run.memory_mb), of_all.memory_mb));
    limit("processes", of_all.processes);
    limit("timeSeconds", smaller(over.time_seconds.or(run.time_seconds), of_all.time_seconds));
    limit("networkMB", smaller(over.network_mb.or(run.network_mb), of_all.network_mb));
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
    ui::data(&format!("# {tool} {}; {}{}\n{text}", image(&row.image), row.state.describe(), row.version.describe(tool)))
}
