//! `silo log`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_base::timestamp;
use silo_insight::display;
use silo_insight::log::{self, Log};
use silo_insight::network;

use super::context::{Globals, Setting, open_for_reading, setting};
use super::error::Failure;
use super::log_runs;
use super::ui;

/// Show the build logs of an image, or list all logs; with --network, the connections of a run; with --runs, the rights of runs
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or a prefix of a derivation id; without it, all logs are listed
    step: Option<String>,
    /// Show the connections and their results in this project's last run (of the tool, if one is named)
    #[arg(long)]
    network: bool,
    /// Show the rights, the reached hosts, the changes and the end of the last runs (of the tool, if one is named)
    #[arg(long, conflicts_with = "network")]
    runs: bool,
    /// Print the paths of the log files
    #[arg(long)]
    path: bool,
    /// Print the result as JSON; with --network or --runs, all recorded runs
    #[arg(long, conflicts_with = "path")]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    if args.network {
        return networks(&setting, args);
    }
    if args.runs {
        return log_runs::show(&setting, args.step.as_deref(), log_runs::Form::of_flags(args.path, args.json));
    }
    let home = open_for_reading(&setting)?;
    let logs = match &args.step {
        Some(word) => log::named(&home, word)?,
        None => log::list(&home)?,
    };
    if args.path {
        ui::data(&logs.iter().map(|log| format!("{}\n", sanitize::path(&log.path))).collect::<String>())?;
    } else if args.json {
        ui::json(&logs.iter().map(json).collect())?;
    } else if args.step.is_none() {
        ui::data(&logs.iter().map(line).collect::<String>())?;
    } else {
        for (number, found) in logs.iter().enumerate() {
            if logs.len() > 1 {
                let gap = if number > 0 { "\n" } else { "" };
                ui::data(&format!("{gap}==> {} ({:.12})\n", step(found), found.derivation.to_string()))?;
            }
            let said = log::read(found)?;
            ui::program_output(&said)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn step(log: &Log) -> String {
    log.step.as_deref().map_or_else(|| "made no layer".to_owned(), display::one_line)
}

fn line(log: &Log) -> String {
    let tools = if log.tools.is_empty() { String::new() } else { format!("  of {}", log.tools.join(", ")) };
    let size = display::bytes(log.bytes);
    format!("{:.12}  {}  {size:>9}  {}{tools}\n", log.derivation.to_string(), timestamp::rfc3339(log.written), step(log))
}

fn json(log: &Log) -> serde_json::Value {
    serde_json::json!({
        "derivation": log.derivation.to_string(), "path": log.path.display().to_string(), "bytes": log.bytes,
        "written": timestamp::rfc3339(log.written), "step": log.step, "tools": log.tools,
    })
}

fn networks(setting: &Setting, args: &Args) -> Result<ExitCode, Failure> {
    let mut runs = network::list(&setting.home)?;
    runs.retain(|run| args.step.as_ref().is_none_or(|tool| *tool == run.title.tool));
    if args.path {
        ui::data(&runs.iter().map(|run| format!("{}\n", sanitize::path(&run.path))).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        ui::json(&runs.iter().map(|run| serde_json::json!({ "run": run.title, "entries": run.entries })).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    // With several projects in use, prefer the runs of this one.
    let here = setting.project.to_string_lossy();
    let own = runs.iter().find(|run| run.title.project.as_deref() == Some(&*here));
    let Some(run) = own.or_else(|| runs.first()) else {
        let of = args.step.as_ref().map_or_else(String::new, |tool| format!(" of {tool}"));
        return Err(Failure::found(format!("no run{of} with network access is recorded"), "a run is recorded when it opens a connection"));
    };
    let project = run.title.project.as_ref().map_or_else(String::new, |project| format!(" in {}", display::one_line(project)));
    let started = timestamp::rfc3339(i64::try_from(run.title.started).unwrap_or(i64::MAX));
    let mut text = format!("{}{project}, {started}\n", display::one_line(&run.title.tool));
    for ((name, port, verdict), sum) in run.sums() {
        let place = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let amounts = match (sum.sent, sum.received) {
            (0, 0) => String::new(),
            (sent, received) => format!("  {} out, {} in", display::bytes(sent), display::bytes(received)),
        };
        text += &format!("  {:<11} {:>4}x  {}{amounts}\n", verdict.as_str(), sum.times, display::one_line(&place));
    }
    ui::data(&text)?;
    Ok(ExitCode::SUCCESS)
}
