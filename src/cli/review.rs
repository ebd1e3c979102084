//! `silo review`: shows the changes of tools that ran in review mode.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::{sanitize, units};
use silo_review::commits::Commits;
use silo_review::difference::Comparison;
use silo_review::view::View;
use silo_review::weigh::{Weighed, Weight, groups};
use silo_review::{html, lookalike, report};

use super::browser;
use super::context::{Globals, Setting, setting};
use super::deciding::{self, open};
use super::error::Failure;
use super::ui;

/// Show the changes that tools made in review mode, before they reach the project
///
/// Files that this machine executes or obeys come first, each with the reason. Then come sources with their differences, then generated
/// files as counts. A terminal shows a list to scroll, filter and choose from.
#[derive(clap::Args)]
pub struct Args {
    /// Show only changes of these paths, and of everything below them
    paths: Vec<PathBuf>,
    /// Print the changes, also to a terminal
    #[arg(long, conflicts_with_all = ["list", "json", "html"])]
    plain: bool,
    /// List the changes without their differences
    #[arg(long, conflicts_with_all = ["json", "html"])]
    list: bool,
    /// Print the changes as JSON
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Write the changes to this file, as one HTML page without other files
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show the project with its changes at a path for programs of this machine, read-only, until Ctrl-C
    #[arg(long, conflicts_with_all = ["plain", "list", "json", "html", "paths", "command"])]
    mount: bool,
    /// With --mount or a program: show the changes even if this machine executes or obeys one of them
    #[arg(long)]
    obeyed: bool,
    /// Run this program of this machine, not in a sandbox; it sees the project with its changes, read-only
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["plain", "list", "json", "html", "paths"])]
    command: Vec<OsString>,
}

impl Args {
    /// True if a program looks at the changes: then silo only waits.
    pub fn waits_for_program(&self) -> bool {
        self.mount || !self.command.is_empty()
    }
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let view = open(&setting)?;
    if args.waits_for_program() {
        return run_program(&setting, view, args);
    }
    let mut all = match &view {
        Some(view) => deciding::weighed(&setting, view)?,
        None => Vec::new(),
    };
    if !args.paths.is_empty() {
        let paths = deciding::inside(&setting, &args.paths)?;
        let is_there = |path: &&PathBuf| all.iter().any(|one| one.change.path.starts_with(path));
        if let Some(unknown) = paths.iter().find(|path| !is_there(path)) {
            let what = format!("there is no change of {}", sanitize::path(unknown));
            return Err(Failure::usage(what, "`silo review` lists all changes"));
        }
        all.retain(|one| paths.iter().any(|path| one.change.path.starts_with(path)));
    }
    let Some(view) = view.filter(|view| !all.is_empty() || view.repository.has_changes()) else {
        match (&args.html, args.json) {
            (None, true) => ui::json(&report::none())?,
            _ => ui::data("there are no changes to review\n")?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let commits = deciding::commits(&setting, &view)?;
    if args.json {
        ui::json(&report::json(&view, &all, &commits))?;
    } else if let Some(file) = &args.html {
        ui::data_to(Some(file.as_path()), &html::page(&report::json(&view, &all, &commits)))?;
    } else if args.paths.is_empty() && !args.plain && !args.list && browser::has_terminal() {
        return browser::run(&setting, view, all, commits);
    } else {
        let diffs = if args.list { String::new() } else { diffs(&view, &all) };
        ui::data(&format!("{}{diffs}{}", overview(&view, &all, &commits), ways_on(&all)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a program that sees the project with its changes.
///
/// The program is not in a sandbox. It could obey a change: git, for example, runs commands that the configuration of a new repository names.
fn run_program(setting: &Setting, view: Option<View>, args: &Args) -> Result<ExitCode, Failure> {
    let Some(mut view) = view else {
        return Err(Failure::usage("this project has no changes to review", "`silo run --review TOOL` makes some"));
    };
    if !args.obeyed {
        // The lock keeps the layer as it is weighed, until the program ends.
        match view.session.lock() {
            Err(silo_review::Error::Busy { .. }) => {
                let what = "a tool is still running in review mode, and could make changes that the program obeys";
                return Err(Failure::found(what, "wait until it has ended; or --obeyed shows the changes to the program now"));
            }
            locked => locked.map_err(deciding::failure)?,
        }
        refuse_obeyed(&deciding::weighed(setting, &view)?)?;
    }
    // The other descriptors of the review are not for the program.
    let View { session, project: opened, upper: layer, .. } = view;
    drop((opened, layer));
    let (project, upper) = (session.project(), session.upper());
    let ready = |process: i32| {
        let shown = sanitize::path(&project);
        ui::note(&format!("/proc/{process}/root{shown} is the project with its changes, read-only; Ctrl-C ends it"));
    };
    let exit = silo_launch::in_merged_view(&project, &upper, &args.command, &ready).map_err(Failure::other)?;
    drop(session);
    exit.end_by_signal();
    Ok(ExitCode::from(exit.code()))
}

/// Fails if a program that sees the changes could execute, load or obey one.
fn refuse_obeyed(all: &[Weighed]) -> Result<(), Failure> {
    let hint = "`silo review` shows them without a program; --obeyed shows them to the program";
    let mut obeyed = all.iter().filter(|one| one.weight == Weight::Obeyed);
    if let Some(first) = obeyed.next() {
        let more = obeyed.count();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let path = sanitize::path(&first.change.path);
        let what = format!("this machine executes or obeys {path}{more}, and so may a program that sees the changes");
        return Err(Failure::found(what, hint));
    }
    // A program can load each file in such a directory.
    if let Some(one) = all.iter().find(|one| !one.is_safe) {
        let top = sanitize::path(one.top.as_deref().unwrap_or(&one.change.path));
        let what = format!("{top} has changed files that are not only data, and a program that sees the changes may execute or load them");
        return Err(Failure::found(what, hint));
    }
    Ok(())
}

/// Lists the changes for a person.
fn overview(view: &View, all: &[Weighed], commits: &Commits) -> String {
    let mut text = String::new();
    if view.session.is_busy() {
        text += "A tool is still running in review mode, so this can change.\n\n";
    }
    let of = |weight: Weight| all.iter().filter(move |one| one.weight == weight);
    if of(Weight::Obeyed).next().is_some() {
        text += "This machine executes or obeys these files:\n";
        of(Weight::Obeyed).for_each(|one| text += &line(one));
        text.push('\n');
    }
    if of(Weight::Source).next().is_some() {
        text += "Sources:\n";
        of(Weight::Source).for_each(|one| text += &line(one));
        text.push('\n');
    }
    let groups = groups(all);
    if !groups.is_empty() {
        text += "Generated files:\n";
        for (path, group) in &groups {
            let what = if group.is_safe { "" } else { ", not only data" };
            text += &format!("  {}: {} files, {}{what}\n", lookalike::name(path), group.files, units::size(group.bytes));
        }
        text.push('\n');
    }
    text + &repository(view, commits)
}

/// Lists the changes of the repository.
fn repository(view: &View, commits: &Commits) -> String {
    if !view.repository.has_changes() {
        return String::new();
    }
    let mut text = String::new();
    if !commits.is_safe() {
        text += "This machine executes or obeys these files of new commits, or the repository waits for another reason:\n";
        commits.obeyed.iter().for_each(|one| text += &format!("  {}\n", deciding::committed(one)));
        commits.problems.iter().for_each(|problem| text += &format!("  {}\n", deciding::repository_line(problem)));
        text.push('\n');
    }
    let files = deciding::count(commits.others, "other file");
    let counts =
        if commits.number > 0 { format!(" {} with {files}.", deciding::count(commits.number, "new commit")) } else { String::new() };
    text + &format!("The git repository has changes; `silo apply` imports them.{counts}\n\n")
}

/// Shows the differences of all files that are not generated.
fn diffs(view: &View, all: &[Weighed]) -> String {
    let mut text = String::new();
    let mut comparison = Comparison::default();
    for one in all.iter().filter(|one| one.weight != Weight::Generated) {
        for line in comparison.lines(view, &one.change) {
            text += &line;
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

/// Names the commands that decide.
fn ways_on(all: &[Weighed]) -> String {
    let mut text = String::new();
    let conflicts = all.iter().filter(|one| !one.is_applicable()).count();
    text += "`silo apply` applies all changes, `silo apply --safe` those that nothing here executes by itself, `silo discard` drops them; \
        all take paths.\n";
    if conflicts > 0 {
        text += &format!("{conflicts} of them cannot be applied as they are; `silo apply --skip-conflicts` applies the rest.\n");
    }
    text
}

fn line(one: &Weighed) -> String {
    let change = &one.change;
    let mut line = format!("  {:8} {}", change.what.word(), lookalike::name(&change.path));
    if let Some(target) = change.after.as_ref().and_then(|after| after.target.as_deref()) {
        line += &format!(" -> {}", lookalike::name(target));
    }
    if let Some(reason) = &one.reason {
        line += &format!("  ({})", sanitize::line(reason));
    }
    for reason in [&one.conflict, &change.problem].into_iter().flatten() {
        line += &format!("  [not applicable: {}]", sanitize::line(reason));
    }
    line + "\n"
}
