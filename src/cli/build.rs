//! `silo build`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::run::activate;
use crate::run::lost_installs;
use crate::run::mounts::MountedProject;
use crate::run::tier::ImageLocks;
use silo_base::sanitize;
use silo_build::cause::Cause;
use silo_build::check::{Check, Finding, Verdict};
use silo_launch::spec::Access;
use silo_model::config::Tier;
use silo_model::config::edit::NewStep;
use silo_model::document;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_grants;
use silo_tool::definition::{self, Scope};
use silo_tool::kept_dirs::Keeper;
use silo_tool::{record, settings_file};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::overlay::{self, Target};
use super::{remote, tier, trust, ui};

/// Run a command once and bake its changes into a tool, for every later run
///
/// The command goes into silo.toml, and its output is pinned in silo.lock. The command sees the project read-only at /workspace; only
/// changes to the tool's own root file system are kept. Without a command, the tool is built as silo.toml describes it. A failed build
/// changes nothing.
#[derive(clap::Args)]
pub struct Args {
    /// The tool
    #[arg(required_unless_present = "all")]
    tool: Option<String>,
    /// The command, word by word
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A shell command line, instead of separate words
    #[arg(long, alias = "setup", value_name = "COMMAND", conflicts_with = "command")]
    script: Option<String>,
    /// Hosts that the command may connect to: name, name:port, *.name or @ecosystem; by default those of the tool's recipe
    #[arg(long, value_name = "NAME")]
    network: Vec<String>,
    /// Give the command no network access
    #[arg(long, conflicts_with = "network")]
    no_network: bool,
    /// Bake into the tool everywhere, not only in this project
    #[arg(long)]
    global: bool,
    /// Remove the recorded command of this number, or all of them
    #[arg(long, alias = "reset", value_name = "NUMBER", num_args = 0..=1, require_equals = true, conflicts_with_all = ["script", "command"])]
    remove: Option<Option<usize>>,
    /// Run the recorded commands again and pin their new output
    #[arg(long)]
    rerun: bool,
    /// Build every tool; a failure does not stop the others
    #[arg(long, conflicts_with_all = ["script", "remove"])]
    all: bool,
    /// Fail if the lock is missing or out of date
    #[arg(long, conflicts_with = "rerun")]
    frozen: bool,
    /// Run every build step twice, under different conditions, and report differences in the output
    #[arg(long, conflicts_with_all = ["script", "command", "remove", "rerun"])]
    check: bool,
    /// The tier of the second run of --check, for another kernel; by default that of the first one
    #[arg(long, value_name = "native|vm", value_parser = tier::parse, requires = "check")]
    check_tier: Option<Tier>,
    /// Fail if an output depends on the host name or the umask alone; every build has the same ones, so --check only notes it
    #[arg(long, requires = "check")]
    strict: bool,
    #[command(flatten)]
    tier: tier::StepTier,
    #[command(flatten)]
    place: remote::StepPlace,
    /// Keep the state of a failed step, for `silo debug`
    #[arg(long)]
    keep_failed: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let mut setting = setting(globals)?;
    setting.keep_failed = args.keep_failed;
    if args.check {
        // A file system in memory has other inode numbers.
        let mut check = Check::new(Some(PathBuf::from("/dev/shm")).filter(|dir| dir.is_dir()));
        check.verdict = if args.strict { Verdict::Fail } else { Verdict::Note };
        setting.check = Some(check);
    }
    let _machine_in_use = args.tier.prepare(&mut setting)?;
    args.place.prepare(&mut setting)?;
    let _second_in_use = second_tier(&mut setting, args)?;
    let scope = if args.global { Scope::Global } else { Scope::Project };
    if args.all {
        let done = all(globals, &mut setting, args, scope);
        return found(&setting, done);
    }
    let tool = overlay::tool(&setting, args.tool.as_deref(), scope)?;
    let target = Target { tool: tool.clone(), scope, anew: args.rerun, frozen: args.frozen };
    if args.remove.is_none() && step(&setting, args, &tool)?.is_none() {
        let done = overlay::apply(globals, &mut setting, &target, None);
        return found(&setting, done);
    }
    let path = trust::settings_path(&setting, scope)?;
    if let Some(which) = args.remove {
        let (removed, changed) = settings_file::prepare(&setting.home, &path, |document| document.remove_steps(&tool, which))?;
        if removed == 0 {
            return Err(Failure::found(format!("{} records no such command for {tool}", path.display()), "see postInstall in that file"));
        }
        ui::data(&format!("{}: {removed} commands removed\n", sanitize::path(&path)))?;
        return overlay::apply(globals, &mut setting, &target, Some(changed));
    }
    let Some(step) = step(&setting, args, &tool)? else {
        let done = overlay::apply(globals, &mut setting, &target, None);
        return found(&setting, done);
    };
    let (_, changed) = settings_file::prepare(&setting.home, &path, |document| document.add_step(&tool, &step))?;
    let done = overlay::apply(globals, &mut setting, &target, Some(changed)).map_err(|failure| match step.project {
        true => failure.or_hint(&format!("{}; `{}` changes the project itself", READ_ONLY, as_a_run(&tool, &step))),
        false => failure,
    })?;
    note_hidden_packages(&setting, &tool, &step);
    Ok(done)
}

/// Selects the tier of the second run of a check: by default that of the first one.
fn second_tier(setting: &mut Setting, args: &Args) -> Result<Option<ImageLocks>, Failure> {
    let (machine, locks) = match args.check_tier {
        None => (setting.machine.clone(), None),
        Some(Tier::Native) => (None, None),
        Some(Tier::Vm) => {
            let (machine, locks) = setting.images(crate::run::tier::of_steps)?;
            (Some(machine), Some(locks))
        }
    };
    if let Some(check) = &mut setting.check {
        check.machine = machine;
    }
    Ok(locks)
}

/// A step sees the project read-only; used in the hint of a failed step.
const READ_ONLY: &str = "the project is read-only in a build, which keeps only changes outside of it";

/// Spells the `silo run` or `silo shell` command that does the same as a build step.
fn as_a_run(tool: &str, step: &NewStep) -> String {
    match step.shell {
        true => format!("silo shell {tool}"),
        false => format!("silo exec {tool} -- {}", quoted(&step.run)),
    }
}

/// Writes words as a shell takes them, because a user pastes them.
fn quoted(words: &[String]) -> String {
    words.iter().map(|word| lost_installs::quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Notes that an active virtual environment of the project hides packages that were just baked into the tool.
fn note_hidden_packages(setting: &Setting, tool: &str, step: &NewStep) {
    let installs = step.run.iter().any(|word| word.contains("pip")) && step.run.iter().any(|word| word.contains("install"));
    let Ok(definition) = definition::of(setting.view(), tool, Scope::Project) else { return };
    let rules = &definition.found.recipe.run.activate;
    // A sandbox has its own directory in place of an excluded one.
    let keeper = Keeper::new(&setting.home, Some(&setting.project), setting.settings.project_id.as_deref());
    let excluded =
        setting.settings.mount.exclude.iter().filter_map(|inner| Some((PathBuf::from(inner), keeper.excluded(inner)?))).collect();
    let shown = MountedProject { path: setting.project.clone(), access: Access::ReadOnly, excluded, guarding: None, review: None };
    let there = |path: &Path| shown.on_host(path).unwrap_or_else(|| path.to_owned());
    let hiding = activate::find(rules, &setting.project, &setting.from, |path| there(path).symlink_metadata().is_ok());
    let is_closed = |dir: &Path| {
        let said = document::text_of(&there(&dir.join("pyvenv.cfg"))).ok().flatten().unwrap_or_default();
        !said.lines().any(|line| line.replace(' ', "").eq_ignore_ascii_case("include-system-site-packages=true"))
    };
    if let Some(active) = hiding.iter().find(|active| active.rule.variable.as_deref() == Some("VIRTUAL_ENV") && is_closed(&active.dir))
        && installs
    {
        let dir = sanitize::path(&active.dir);
        ui::note(&format!(
            "{dir} is active in this project and hides packages that are baked into {tool}\n  try: `silo run {tool} {}` installs into it; `silo run {tool} -m venv --system-site-packages {dir}` makes both visible",
            quoted(&step.run)
        ));
    }
}

/// Returns the command to record, if the user gave one.
fn step(setting: &Setting, args: &Args, tool: &str) -> Result<Option<NewStep>, Failure> {
    let (run, shell) = match (&args.script, args.command.as_slice()) {
        (Some(script), _) => (vec![script.clone()], true),
        (None, []) => return Ok(None),
        (None, words) => (words.to_vec(), false),
    };
    let mut network =
        check_grants("--network", &args.network).map_err(|error| Failure::usage(error.to_string(), "see `silo build --help`"))?;
    if network.is_empty() && !args.no_network {
        // A step of the user's own settings has nothing of a project.
        let (places, settings) = match args.global {
            true => (setting.places.without_project(), &setting.user_settings),
            false => (setting.places.clone(), &setting.settings),
        };
        network = catalog::find(&places, tool)?.recipe.install_allow;
        network.extend(settings.install_allow(tool));
    }
    network.sort();
    network.dedup();
    Ok(Some(NewStep { run, shell, network, project: !args.global }))
}

fn all(globals: &Globals, setting: &mut Setting, args: &Args, scope: Scope) -> Result<ExitCode, Failure> {
    let tools = match scope {
        Scope::Project => definition::claimed(setting.view())?,
        Scope::Global => record::list(&setting.home)?.into_iter().map(|tool| tool.name).collect(),
    };
    let mut failed = Vec::new();
    for tool in tools {
        let target = Target { tool: tool.clone(), scope, anew: args.rerun, frozen: args.frozen };
        if let Err(failure) = overlay::apply(globals, setting, &target, None) {
            ui::report(&failure);
            failed.push(tool);
        }
    }
    match failed.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failed => Err(Failure::found(format!("not built: {}", failed.join(", ")), "see the messages above")),
    }
}

/// Paths listed for one cause; the rest are counted.
const MOST_PATHS: usize = 5;

/// Groups the findings of a step by package and cause.
fn groups(findings: &[&Finding]) -> String {
    let mut groups: BTreeMap<(Option<&str>, bool, Cause), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        groups.entry((finding.package.as_deref(), finding.is_note, finding.cause)).or_default().push(finding);
    }
    let mut text = String::new();
    for ((package, is_note, cause), group) in groups {
        let package = package.map_or_else(String::new, |package| format!(" of {package}"));
        for finding in group.iter().take(MOST_PATHS) {
            text.push_str(&format!("  {}{package}\n", finding.difference));
        }
        if let Some(more) = group.len().checked_sub(MOST_PATHS).filter(|more| *more > 0) {
            text.push_str(&format!("  and {more} more{package}\n"));
        }
        let remedy = if is_note { "every build has the same one" } else { cause.remedy() };
        text.push_str(&format!("      {}: {}; {remedy}\n", cause.name(), cause.sign()));
    }
    text
}

/// Lists the causes over all steps, each with its number of paths.
fn causes(findings: &[Finding]) -> String {
    let mut counts: BTreeMap<Cause, (usize, BTreeSet<&str>)> = BTreeMap::new();
    for finding in findings {
        let (paths, steps) = counts.entry(finding.cause).or_default();
        *paths += 1;
        steps.insert(&finding.step);
    }
    counts.iter().map(|(cause, (paths, steps))| format!("cause     {}: {paths} paths of {} steps\n", cause.name(), steps.len())).collect()
}

/// Prints the result of `--check`, and fails if outputs differed.
fn found(setting: &Setting, done: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    let Some(check) = &setting.check else { return done };
    let ran = check.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let findings = check.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut text = String::new();
    for step in ran.iter() {
        let of: Vec<&Finding> = findings.iter().filter(|finding| finding.step == *step).collect();
        let label = match of.iter().map(|finding| finding.is_note).min() {
            None => "same     ",
            Some(true) => "note     ",
            Some(false) => "DIFFERENT",
        };
        text.push_str(&format!("{label} {step}\n"));
        text.push_str(&groups(&of));
    }
    text.push_str(&causes(&findings));
    ui::data(&text)?;
    let done = done?;
    let notes = findings.iter().filter(|finding| finding.is_note).count();
    if notes > 0 {
        ui::note(&format!(
            "{notes} paths depend on the host name or the umask alone, which are the same in every build; `--strict` refuses them"
        ));
    }
    if findings.len() == notes {
        return Ok(done);
    }
    let message = format!("{} paths differ between the two runs", findings.len() - notes);
    Err(Failure::found(message, "make the steps above reproducible, then run `silo build --check` again"))
}
