//! `silo projects` and `silo clean`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use silo_base::sanitize;
use silo_base::timestamp;
use silo_base::units;
use silo_review::stored_reviews::State;
use silo_tool::clean;
use silo_tool::projects::{self, Project};
use silo_tool::shims;
use silo_tool::usage;

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::{Effect, Format};
use super::{env, gc, ui};

/// List projects that have images, caches or state of their own
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    #[command(alias = "list")]
    Ls(Ls),
}

/// List the projects with their size and last use
#[derive(clap::Args)]
struct Ls {
    /// List only projects without a directory
    #[arg(long)]
    orphaned: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Remove a project's data, and the images and layers that nothing else needs
///
/// Never touches the project's own directory.
#[derive(clap::Args)]
pub struct CleanArgs {
    /// The project's directory; by default the one around the working directory
    #[arg(value_name = "DIR", conflicts_with = "orphaned")]
    path: Option<PathBuf>,
    /// Remove the data of all projects without a directory
    #[arg(long)]
    orphaned: bool,
    /// Keep everything that other tools or projects use; always on, accepted for scripts
    #[arg(long)]
    keep_shared: bool,
    /// Show the things to remove, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let Verb::Ls(args) = &args.verb;
    let setting = setting(globals)?;
    let listed = clean::known(&setting.home)?.into_iter().filter(|project| !args.orphaned || project.is_orphaned());
    let rows = setting.read_only(|context| {
        let row = |project: Project| {
            let reviews = clean::reviews(context.home, std::slice::from_ref(&project))?;
            let bytes = usage::of_project(context, &project)? + reviews.iter().map(|review| review.bytes).sum::<u64>();
            Ok((project, bytes))
        };
        listed.map(row).collect::<Result<Vec<_>, Failure>>()
    })?;
    if args.json {
        ui::json(&rows.iter().map(|(project, bytes)| json(project, *bytes)).collect())?;
    } else if rows.is_empty() {
        ui::data(if args.orphaned { "no project's directory is gone\n" } else { "nothing is kept for any project\n" })?;
    } else {
        ui::data(&table(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn status(project: &Project) -> &'static str {
    if project.is_orphaned() { "orphaned" } else { "ok" }
}

fn json(project: &Project, bytes: u64) -> serde_json::Value {
    let tool = |(name, pinned): (&String, &projects::Pinned)| {
        (name.clone(), serde_json::json!({ "version": pinned.version, "image": pinned.image.to_string() }))
    };
    let tools: serde_json::Map<String, serde_json::Value> = project.tools.iter().map(tool).collect();
    serde_json::json!({
        "id": project.id(), "path": project.path.to_string_lossy(), "tools": tools, "sizeBytes": bytes,
        "lastUsedAt": timestamp::rfc3339(project.last_used), "status": status(project),
    })
}

fn table(rows: &[(Project, u64)]) -> String {
    let now = env::now();
    let head = ["PATH", "TOOLS", "SIZE", "LAST USED", "STATUS"].map(str::to_owned);
    let row = |(project, bytes): &(Project, u64)| {
        let tools = project.tools.iter().map(|(name, pinned)| format!("{name}@{}", pinned.version));
        let path = sanitize::path(&project.path);
        let used = units::ago(now, project.last_used);
        [path, tools.collect::<Vec<_>>().join(","), units::size(*bytes), used, status(project).to_owned()]
    };
    let lines: Vec<[String; 5]> = std::iter::once(head).chain(rows.iter().map(row)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let text = |line: &[String; 5]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(text).collect()
}

pub fn clean(globals: &Globals, args: &CleanArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let chosen = chosen(&setting, args)?;
    if chosen.is_empty() {
        ui::data("no project's directory is gone\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let own = setting.read_only(|context| Ok(clean::own(context, &chosen)?))?;
    let found = &own.measured;
    let verb = if args.dry_run { "would be forgotten" } else { "will be forgotten" };
    let mut text = String::new();
    for project in &chosen {
        text += &format!("{} {verb}\n", sanitize::path(&project.path));
    }
    text += &format!("{} images and {} layers of its own ({})\n", found.images, found.layers, units::size(found.bytes));
    let kept = clean::kept_bytes(&setting.home, &chosen)?;
    if kept > 0 {
        text += &format!("its package caches, private state (logins) and excluded directories ({})\n", units::size(kept));
    }
    for review in clean::reviews(&setting.home, &chosen)? {
        let what = if review.state == State::Waiting || review.state == State::Gone { "undecided changes" } else { "data" };
        text += &format!("the {what} of its review ({})\n", units::size(review.bytes));
    }
    if own.shared > 0 {
        text += &format!("{} images stay, because other tools or projects need them\n", own.shared);
    }
    ui::data(&text)?;
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.force && !ui::ask("Remove it? [y/N] ", "y", "--force does it without asking")? {
        ui::data("nothing was removed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let collected = setting.with(|context| {
        let collected = clean::clean(context, &chosen, &own)?;
        shims::remove_unused(context.home, &context.found_as)?;
        Ok(collected)
    })?;
    gc::print_collected(&collected, &[], Effect::Change, Format::Text)?;
    Ok(ExitCode::SUCCESS)
}

fn chosen(setting: &Setting, args: &CleanArgs) -> Result<Vec<Project>, Failure> {
    if args.orphaned {
        return Ok(clean::known(&setting.home)?.into_iter().filter(Project::is_orphaned).collect());
    }
    let path = args.path.clone().unwrap_or_else(|| setting.project.clone());
    let path = absolute(&path)?;
    let found = clean::project_of(&setting.home, &path)?;
    let none = || Failure::found(format!("nothing is kept for {}", path.display()), "`silo projects ls` lists the projects with data");
    Ok(vec![found.ok_or_else(none)?])
}

/// Returns the canonical path if it exists, else the path as recorded.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(_) => Ok(env::cwd()?.join(path)),
    }
}
