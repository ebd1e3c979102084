//! `silo which`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::sanitize;
use silo_tool::shim::fall_through::{self, Choice, ChoiceReason, Claims};
use silo_tool::shim::table::{self, Entry, Table};
use silo_tool::shim::{claims, launchers, search};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::{argv0, env, ui};

/// Show the program that a command runs here, and why
///
/// Each line starts with the file. The exit code is 1 if nothing is found.
#[derive(clap::Args)]
pub struct Args {
    /// List every candidate, the first choice first
    #[arg(long, short)]
    all: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// The command
    name: String,
}

/// A candidate for the command.
struct Row {
    file: Option<PathBuf>,
    tool: Option<String>,
    why: String,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let table = table::read(&setting.home.shims())?;
    let claims = claims::read(&setting.home, &env::cwd()?)?;
    let mut rows = rows(&setting, &table, &claims, &args.name)?;
    if !args.all {
        rows.truncate(1);
    }
    if args.json {
        let row = |row: &Row| serde_json::json!({ "file": row.file, "tool": row.tool, "why": row.why });
        ui::json(&rows.iter().map(row).collect())?;
    } else {
        let line = |row: &Row| match &row.file {
            Some(file) => format!("{}  {}\n", sanitize::path(file), row.why),
            None => format!("silo {}  {}\n", args.name, row.why),
        };
        ui::data(&rows.iter().map(line).collect::<String>())?;
    }
    if rows.is_empty() {
        let hint = format!("`silo list --available` shows the tools; `silo {}` runs one without a shim", args.name);
        return Err(Failure::found(format!("{} is not on PATH, and no tool has this command", args.name), hint));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the candidates in the order of PATH; only the first shim counts. A tool without a shim on PATH comes last.
fn rows(setting: &Setting, table: &Table, claims: &Claims, name: &str) -> Result<Vec<Row>, Failure> {
    let choice = fall_through::choose(table, name, || Ok::<_, Failure>(claims.clone()))?;
    let (mut tool, others) = match &choice {
        Choice::Tool(entry, why) => (Some((entry.tool.clone(), because(*why, claims))), "the machine's own".to_owned()),
        Choice::Next(owners) if !owners.iter().any(|entry| entry.answers_everywhere(name)) => {
            (None, format!("the machine's own: {} has it only with an add-on that is not used here", names(owners)))
        }
        Choice::Next(owners) => (None, format!("the machine's own: {} is neither pinned nor used by a project here", names(owners))),
        Choice::Nobody => (None, "the machine's own".to_owned()),
        Choice::Several(owners) => return Err(argv0::several(name, owners)),
    };
    let ours = search::identity(&setting.home.program());
    let mut rows = Vec::new();
    let of_tool = |file, (tool, why): (String, String)| Row { file, why: format!("{tool} in a sandbox: {why}"), tool: Some(tool) };
    for file in search::all(OsStr::new(name), &env::path()) {
        if launchers::starts_silo(&file, ours) {
            rows.extend(tool.take().map(|tool| of_tool(Some(file), tool)));
        } else {
            rows.push(Row { file: Some(file), tool: None, why: others.clone() });
        }
    }
    rows.extend(tool.map(|tool| of_tool(None, tool)));
    Ok(rows)
}

fn names(owners: &[&Entry]) -> String {
    owners.iter().map(|entry| entry.tool.as_str()).collect::<Vec<_>>().join(" or ")
}

fn because(why: ChoiceReason, claims: &Claims) -> String {
    match why {
        ChoiceReason::Project => format!("used by the project {}", sanitize::path(&claims.root)),
        ChoiceReason::User => "used by your settings".to_owned(),
        ChoiceReason::Pinned => "pinned".to_owned(),
    }
}
