//! `silo log --runs`: the records of runs.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_base::{timestamp, units};
use silo_insight::display;
use silo_insight::runs::{self, Ended, How, Run, State, Stored};

use super::context::Setting;
use super::error::Failure;
use super::ui;

/// Number of runs that are shown as text; JSON has all of them.
const SHOWN: usize = 20;

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Text,
    /// The paths of the files.
    Paths,
    /// JSON.
    Json,
}

impl Form {
    /// Returns the form for the flags `--path` and `--json`.
    pub fn of_flags(paths: bool, json: bool) -> Form {
        match (paths, json) {
            (true, _) => Form::Paths,
            (_, true) => Form::Json,
            _ => Form::Text,
        }
    }
}

/// Shows the recorded runs, the newest first.
pub fn show(setting: &Setting, tool: Option<&str>, form: Form) -> Result<ExitCode, Failure> {
    let (mut stored, strange) = runs::list(&setting.home)?;
    stored.retain(|stored| tool.is_none_or(|tool| tool == stored.run.tool));
    for path in strange {
        ui::note(&format!("{} is not a record of this version of silo", sanitize::path(&path)));
    }
    match form {
        Form::Json => ui::json(&stored.iter().map(json).collect())?,
        Form::Paths => ui::data(&stored.iter().map(|stored| format!("{}\n", sanitize::path(&stored.path))).collect::<String>())?,
        Form::Text => {
            ui::data(&stored.iter().take(SHOWN).map(text).collect::<String>())?;
            if stored.len() > SHOWN {
                setting.note(format!("{} older runs are in `silo log --runs --json`", stored.len() - SHOWN));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(stored: &Stored) -> serde_json::Value {
    serde_json::json!({ "state": word(stored.state), "run": stored.run })
}

fn word(state: State) -> &'static str {
    match state {
        State::Ended => "ended",
        State::Running => "running",
        State::Lost => "lost",
    }
}

fn text(stored: &Stored) -> String {
    let run = &stored.run;
    let line = |text: &str| sanitize::line(text);
    let started = timestamp::rfc3339(i64::try_from(run.started).unwrap_or(i64::MAX));
    let end = match (&run.ended, stored.state) {
        (Some(ended), _) => end(ended),
        (None, State::Running) => "running".to_owned(),
        (None, _) => "no end: silo was killed".to_owned(),
    };
    let arguments = usize::try_from(run.arguments).unwrap_or(usize::MAX);
    let program = format!("{} with {}", line(&run.program), display::count(arguments, "argument", "arguments"));
    let mut text = format!("{started}  {}  {program}  {end}\n", line(&run.tool));
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            text += &format!("  {name:<9} {value}\n");
        }
    };
    let tier = if run.machine { "vm" } else { "native" };
    let lock = run.lock.as_ref().map_or_else(String::new, |lock| format!(", lock {:.12}", line(lock)));
    add("image", format!("{:.12}, {tier}{lock}", line(&run.image)));
    add("project", run.project.as_deref().map(line).unwrap_or_default());
    let list = |entries: &[String]| entries.iter().map(|entry| line(entry)).collect::<Vec<_>>().join(", ");
    let granted = &run.granted;
    let all = granted.all_public.then(|| "all public addresses".to_owned());
    add("hosts", all.into_iter().chain([list(&granted.hosts)]).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", "));
    add("denied", list(&granted.denied));
    add("ports", list(&granted.ports));
    add("ssh agent", if granted.ssh_agent { "passed".to_owned() } else { String::new() });
    add("secrets", list(&granted.secrets));
    let files = granted.files.iter().map(|file| format!("{} ({})", line(&file.path), if file.writable { "rw" } else { "ro" }));
    add("files", files.collect::<Vec<_>>().join(", "));
    let time = granted.time_seconds.map(|seconds| format!("{seconds} s"));
    let network = granted.network_bytes.map(|bytes| format!("{} over the network", units::size(bytes)));
    add("limits", time.into_iter().chain(network).collect::<Vec<_>>().join(", "));
    add("variables", list(&granted.variables));
    add("reached", reached(run));
    add("changed", list(&run.changed.files));
    add("refs", list(&run.changed.refs));
    add("omitted", if run.omitted > 0 { format!("{} entries, for which the record had no space", run.omitted) } else { String::new() });
    text
}

fn end(ended: &Ended) -> String {
    let how = match (ended.how, ended.signal) {
        (How::Exited, _) => format!("exit {}", ended.code),
        (How::Killed, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
        (How::Failed, _) => format!("failed with exit {}", ended.code),
        (How::TimeLimit, _) => "ended at its time limit".to_owned(),
        (How::NetworkLimit, _) => "ended at its network limit".to_owned(),
    };
    format!("{how} after {}", display::duration(ended.milliseconds))
}

fn reached(run: &Run) -> String {
    let place = |reached: &runs::Reached| {
        let port = reached.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{}{port} ({} {}x)", sanitize::line(&reached.name), reached.verdict.as_str(), reached.times)
    };
    run.reached.iter().map(place).collect::<Vec<_>>().join(", ")
}
