//! `silo list`.

use std::process::ExitCode;

use crate::recipe::catalog;
use crate::tool::definition::{self, Scope};
use crate::tool::{locking, record};

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// List the installed tools, or all that there are recipes for
#[derive(clap::Args)]
pub struct Args {
    /// List what can be installed
    #[arg(long)]
    available: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let rows = if args.available { available(&setting)? } else { installed(&setting)? };
    if args.json {
        ui::json(&rows.into_iter().map(|row| row.json).collect())?;
    } else {
        let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let second = rows.iter().map(|row| row.version.len()).max().unwrap_or(0);
        let lines = rows.iter().map(|row| format!("{:width$}  {:second$}  {}\n", row.name, row.version, row.rest));
        ui::data(&lines.collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Row {
    name: String,
    version: String,
    rest: String,
    json: serde_json::Value,
}

fn installed(setting: &super::context::Setting) -> Result<Vec<Row>, Failure> {
    let tools = record::list(&setting.home)?;
    let row = |tool: record::Installed| Row {
        rest: format!("image {:.12}", tool.image.to_string()),
        json: serde_json::json!({ "tool": tool.name, "version": tool.version, "image": tool.image.to_string() }),
        name: tool.name,
        version: tool.version,
    };
    Ok(tools.into_iter().map(row).collect())
}

fn available(setting: &super::context::Setting) -> Result<Vec<Row>, Failure> {
    setting.with(|context| {
        let mut rows = Vec::new();
        for name in catalog::names(context.places)? {
            let definition = definition::of(context.view(), &name, Scope::Global)?;
            let found = &definition.found;
            let lock = locking::existing(context.view(), &definition)?;
            let version = lock.map_or_else(|| "not locked".to_owned(), |lock| locking::version(found, &lock));
            let description = found.recipe.description.clone();
            let json = serde_json::json!({ "tool": name, "version": version, "description": description, "origin": found.origin });
            rows.push(Row { name, version, rest: description, json });
        }
        Ok(rows)
    })
}
