//! `silo init`.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::ExitCode;

use silo_base::grant::Port;
use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_model::config::detect::{self, Detected};
use silo_model::config::edit::Document;
use silo_model::document;
use silo_model::recipe::addon;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_variables;
use silo_model::version_files::decide::decide;
use silo_model::version_files::findings::{Findings, VersionWish};
use silo_tool::journal::{self, Change};
use silo_tool::{record, trust, versions};

use super::context::{Globals, Setting, setting_at};
use super::error::Failure;
use super::{env, requested, run, trust as trust_command, ui};

/// Make this directory a project: write its silo.toml
///
/// Detects tools and languages by files such as requirements.txt, package.json or pom.xml, else by source files such as hello.py, and asks about each one on a terminal. Versions
/// come from the project's version files: .nvmrc, .python-version, .tool-versions, mise.toml, package.json, go.mod, devcontainer.json and
/// others.
/// Directories that are better created inside (.venv, node_modules, target) are excluded: each sandbox has its own, and .gitignore lists
/// them.
#[derive(clap::Args)]
pub struct Args {
    /// Use these tools, each with an optional version, and detect none
    #[arg(long = "tool", value_name = "TOOL[@VERSION]", value_delimiter = ',')]
    tools: Vec<String>,
    /// Add these add-ons to the tool
    #[arg(long = "addon", value_name = "ADDON", value_delimiter = ',')]
    addons: Vec<String>,
    /// The tool that languages are added to; by default claude-code if installed, else sh
    #[arg(long = "for", value_name = "TOOL")]
    base: Option<String>,
    /// Forward this port of this machine to the tool
    #[arg(long, value_name = "PORT:INSIDE", value_parser = run::port)]
    port: Vec<Port>,
    /// Pass this variable of yours to every tool
    #[arg(long = "pass-env", value_name = "NAME", value_delimiter = ',')]
    pass_env: Vec<String>,
    /// Exclude no directories
    #[arg(long)]
    no_exclude: bool,
    /// Accept everything detected without asking
    #[arg(long)]
    no_interactive: bool,
}

/// Contents of the new silo.toml.
#[derive(Default)]
struct Plan {
    /// As written: `python`, `python@3.13`.
    tools: Vec<String>,
    /// Each add-on with its tool.
    addons: Vec<(String, String)>,
    exclude: Vec<&'static str>,
    /// Ports to forward to the only tool.
    ports: Vec<Port>,
    /// Reasons of the versions, and requests of files that have no effect.
    notes: Vec<String>,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let dir = env::cwd()?;
    let path = dir.join(PROJECT_CONFIG);
    // Finish an init that was killed first; its files then exist.
    let mut setting = setting_at(globals, &dir)?;
    let legacy = dir.join(LEGACY_CONFIG);
    let taken =
        |there: &Path| Failure::usage(format!("{} exists already", sanitize::path(there)), "`silo use`, `add` and `config` change it");
    let before = document::text_of(&path)?;
    if before.as_ref().is_some_and(|before| !before.starts_with(HEAD)) || (before.is_none() && path.is_symlink()) {
        return Err(taken(&path));
    }
    if legacy.exists() {
        return Err(taken(&legacy));
    }
    // This directory becomes the project, even inside another project.
    setting.project.clone_from(&fs::canonicalize(&dir).map_err(|error| Failure::usage(error.to_string(), "change to a directory"))?);
    trust_command::showable(&setting, &setting.project)?;
    check_variables("--pass-env", args.pass_env.iter()).map_err(|error| Failure::usage(error.to_string(), "write a variable's name"))?;
    let plan = plan(&setting, args, &dir)?;
    let text = text(args, &plan)?;
    // The same text again, as after a kill, is no change.
    if before.as_ref().is_some_and(|before| *before != text) {
        return Err(taken(&path));
    }
    let (ignored, ignoring) = ignore(&setting.home, &dir, &plan.exclude)?;
    let writing = Change::new(&setting.home, &path, before, Some(text.clone())).map_err(Failure::other)?;
    let changes: Vec<Change> = [writing].into_iter().chain(ignoring).collect();
    journal::commit(&setting.home, &changes).map_err(Failure::other)?;
    trust::approve_change(&setting.home, &setting.project, &setting.user_settings, "", &text)?;
    ui::data(&describe(&path, &plan, &ignored))?;
    Ok(ExitCode::SUCCESS)
}

fn plan(setting: &Setting, args: &Args, dir: &Path) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    let names: BTreeSet<String> =
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let (detected, found) = match args.tools.is_empty() {
        true => (detect::detect(&names), versions::files_in(dir)),
        false => (Detected::default(), Findings::default()),
    };
    plan.notes.clone_from(&found.notes);
    detected_tools(setting, args, &detected, &found, &mut plan)?;
    for entry in &args.tools {
        let (tool, version) = entry.split_once('@').map_or((entry.as_str(), None), |(tool, version)| (tool, Some(version)));
        catalog::find(&setting.places, tool)?;
        let version = version.map(|version| requested::resolve(setting.view(), tool, version)).transpose()?;
        plan.tools.push(version.map_or_else(|| tool.to_owned(), |version| format!("{tool}@{}", version.pin)));
    }
    addons(setting, args, &detected, &found, &mut plan)?;
    plan.ports = args.port.clone();
    // An explicit forward of a port of this machine decides.
    let is_named = |port: &NonZeroU16| args.port.iter().any(|named| named.host == *port);
    for port in found.ports.iter().filter(|port| !is_named(port)) {
        ask_for_port(args, *port, &mut plan)?;
    }
    if !args.no_exclude {
        plan.exclude = detect::excludes(plan.tools.iter().filter_map(|entry| entry.split('@').next()));
    }
    Ok(plan)
}

/// Asks on a terminal whether a port of this machine is forwarded to the only tool. It is never forwarded unasked: others may reach it.
fn ask_for_port(args: &Args, port: NonZeroU16, plan: &mut Plan) -> Result<(), Failure> {
    let tool = match plan.tools.as_slice() {
        [only] => Some(only.split('@').next().unwrap_or(only)),
        _ => None,
    };
    let question = |tool: &str| format!("Forward port {port} of this machine to {tool} (forwardPorts)? [y/N] ");
    match tool {
        Some(tool) if !args.no_interactive && ui::is_asking() && ui::ask(&question(tool), "y", "")? => {
            plan.ports.push(Port { host: port, guest: port });
        }
        _ => plan.notes.push(format!("forwardPorts: `silo config ports add {} {port}` forwards it", tool.unwrap_or("TOOL"))),
    }
    Ok(())
}

/// Adds the detected tools, each in the version that the project's files decide.
fn detected_tools(setting: &Setting, args: &Args, detected: &Detected, found: &Findings, plan: &mut Plan) -> Result<(), Failure> {
    let mut tools: Vec<(&str, &str)> = detected.tools.iter().map(|found| (found.name, found.file)).collect();
    for wish in &found.wishes {
        if tools.iter().all(|(tool, _)| *tool != wish.tool) {
            tools.push((&wish.tool, &wish.source));
        }
    }
    for (tool, file) in tools {
        let wishes: Vec<&VersionWish> = found.wishes.iter().filter(|wish| wish.tool == tool).collect();
        if catalog::find(&setting.places, tool).is_err() {
            plan.notes.extend(wishes.iter().map(|wish| format!("{} asks for {tool} {}, which is no tool of silo", wish.source, wish.text)));
            continue;
        }
        if !is_wanted(args, tool, file)? {
            continue;
        }
        let available = if wishes.is_empty() { None } else { versions::available(setting.view(), tool)? };
        let decision = available.map(|available| decide(tool, &wishes, &available)).unwrap_or_default();
        plan.tools.push(decision.pin.as_ref().map_or_else(|| tool.to_owned(), |pin| format!("{tool}@{pin}")));
        if let (Some(version), Some(source)) = (&decision.version, &decision.source) {
            plan.notes.push(format!("{tool} {version}, because of {source}"));
        }
        plan.notes.extend(decision.notes);
    }
    Ok(())
}

/// Adds the detected and the named add-ons.
fn addons(setting: &Setting, args: &Args, detected: &Detected, found: &Findings, plan: &mut Plan) -> Result<(), Failure> {
    let base = match &args.base {
        Some(base) => catalog::find(&setting.places, base)?.recipe.name,
        None if record::get(&setting.home, "claude-code")?.is_some() => "claude-code".to_owned(),
        None => "sh".to_owned(),
    };
    let uses = |plan: &Plan, tool: &str| plan.tools.iter().any(|entry| entry.split('@').next() == Some(tool));
    let mut wanted: Vec<(&str, &str, &str)> = Vec::new();
    wanted.extend(detected.of_python.iter().filter(|_| uses(plan, "python")).map(|found| (found.name, found.file, "python")));
    wanted.extend(detected.languages.iter().map(|found| (found.name, found.file, base.as_str())));
    for addon in &found.addons {
        let tool = addon.tool.unwrap_or(&base);
        let is_new = wanted.iter().all(|(name, ..)| *name != addon.name);
        if is_new && addon.tool.is_none_or(|tool| uses(plan, tool)) && addon::find(&setting.places, &addon.name)?.is_some() {
            wanted.push((&addon.name, &addon.source, tool));
        }
    }
    let wanted: Vec<(String, String, String)> =
        wanted.into_iter().map(|(name, file, tool)| (name.to_owned(), file.to_owned(), tool.to_owned())).collect();
    for (name, file, tool) in wanted {
        if is_wanted(args, &name, &file)? {
            plan.addons.push((name, tool));
        }
    }
    for name in &args.addons {
        if addon::find(&setting.places, name)?.is_none() {
            return Err(Failure::usage(
                format!("there is no add-on \"{name}\""),
                "java, kotlin, ruby, poetry, uv, or recipes/addons/<name>.toml",
            ));
        }
        plan.addons.push((name.clone(), args.base.clone().unwrap_or_else(|| base_of(plan, &base))));
    }
    Ok(())
}

/// A named add-on goes to the only tool, if there is just one.
fn base_of(plan: &Plan, otherwise: &str) -> String {
    match plan.tools.as_slice() {
        [only] => only.split('@').next().unwrap_or(only).to_owned(),
        _ => otherwise.to_owned(),
    }
}

/// Asks on a terminal; without a terminal, accepts everything detected.
fn is_wanted(args: &Args, name: &str, file: &str) -> Result<bool, Failure> {
    if args.no_interactive || !ui::is_asking() {
        return Ok(true);
    }
    // Only an explicit "n" declines.
    Ok(!ui::ask(&format!("Use {name} ({file})? [Y/n] "), "n", "--no-interactive accepts everything detected")?)
}

const HEAD: &str = "# Tools of this project, their mounts and their network access; https://example.com/silo documents every key.
# `silo sync` builds it, `silo config show` shows the settings in force, `silo config network allow NAME` grants network access.
";

fn text(args: &Args, plan: &Plan) -> Result<String, Failure> {
    let wrong = |error: silo_model::config::edit::Error| Failure::found(error.to_string(), "this is an internal error of silo");
    let mut document = Document::parse("").map_err(wrong)?;
    document.list_of(&["tools"], plan.tools.iter().map(String::as_str)).map_err(wrong)?;
    if !args.pass_env.is_empty() {
        document.list_of(&["passEnv"], args.pass_env.iter().map(String::as_str)).map_err(wrong)?;
    }
    if !plan.exclude.is_empty() {
        document.list_of(&["mount", "exclude"], plan.exclude.iter().copied()).map_err(wrong)?;
    }
    for (addon, tool) in &plan.addons {
        document.add(tool, "addons", addon).map_err(wrong)?;
    }
    for port in &plan.ports {
        let [tool] = plan.tools.as_slice() else {
            return Err(Failure::usage(
                "--port needs exactly one tool to forward to",
                "name it with --tool, or `silo config ports add TOOL PORT` later",
            ));
        };
        document.add_port(tool.split('@').next().unwrap_or(tool), *port).map_err(wrong)?;
    }
    Ok(format!("{HEAD}\n{}", document.text()))
}

/// Adds the directories that .gitignore does not list yet; returns them and the change.
fn ignore(home: &Home, dir: &Path, exclude: &[&'static str]) -> Result<(Vec<&'static str>, Option<Change>), Failure> {
    let path = dir.join(".gitignore");
    if path.is_symlink() {
        // A sandbox may have made the symlink; do not follow it to a file outside.
        return Ok((Vec::new(), None));
    }
    let there = document::text_of(&path)?;
    let before = there.clone().unwrap_or_default();
    let named = |name: &str| before.lines().any(|line| line.trim().trim_matches('/') == name);
    let new: Vec<&'static str> = exclude.iter().copied().filter(|name| !named(name)).collect();
    if new.is_empty() {
        return Ok((new, None));
    }
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let lines: String = new.iter().map(|name| format!("/{name}/\n")).collect();
    let change = Change::new(home, &path, there, Some(format!("{before}{gap}{lines}"))).map_err(Failure::other)?;
    Ok((new, Some(change)))
}

fn describe(path: &Path, plan: &Plan, ignored: &[&str]) -> String {
    let listed = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut text = format!("wrote {}\n  tools     {}\n", sanitize::path(path), listed(&plan.tools));
    for (addon, tool) in &plan.addons {
        text += &format!("  add-on    {addon}, over {tool}\n");
    }
    if !plan.ports.is_empty() {
        let ports: Vec<String> = plan.ports.iter().map(ToString::to_string).collect();
        text += &format!("  ports     {}\n", ports.join(", "));
    }
    if !plan.exclude.is_empty() {
        text += &format!("  excluded  {}\n", plan.exclude.join(", "));
    }
    if !ignored.is_empty() {
        text += &format!("  .gitignore lists {}\n", ignored.join(", "));
    }
    text.extend(plan.notes.iter().map(|note| format!("  note      {}\n", sanitize::line(note))));
    let next = if plan.tools.is_empty() && plan.addons.is_empty() { "`silo use TOOL` adds a tool" } else { "`silo sync` builds it" };
    text + next + "\n"
}
