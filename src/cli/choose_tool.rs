//! Asks for a tool and its version on a terminal.

use silo_tool::catalog_entry;
use silo_tool::versions;

use super::context::Setting;
use super::error::Failure;
use super::picker::{self, Item};

/// The way to choose without a terminal.
const HINT: &str = "`silo list --available` shows the tools; name one, as in python or python@3.13";

/// Asks for a tool and a version; returns them as typed, such as `python@3.13`.
pub fn ask(setting: &Setting, verb: &str) -> Result<String, Failure> {
    if !picker::has_terminal() {
        return Err(Failure::usage("no tool is named", HINT));
    }
    let entries = catalog_entry::all(setting.view())?;
    let tools: Vec<Item> =
        entries.iter().map(|entry| Item { name: entry.recipe().name.clone(), note: entry.recipe().description.clone() }).collect();
    let tool = tools[picker::pick(&setting.home, &format!("{verb} a tool"), &tools, HINT)?].name.clone();
    let mut available = versions::available(setting.view(), &tool)?.unwrap_or_default();
    if available.len() < 2 {
        return Ok(tool);
    }
    let own = entries.iter().find(|entry| entry.recipe().name == tool).and_then(|entry| entry.version.clone());
    available.sort_by_key(|one| std::cmp::Reverse(silo_model::recipe::versions::order(&one.version)));
    let mut versions = vec![Item { name: "default".to_owned(), note: own.unwrap_or_default() }];
    versions.extend(available.into_iter().map(|one| Item { name: one.version, note: one.label }));
    match picker::pick(&setting.home, &format!("{verb} {tool} in a version"), &versions, HINT)? {
        0 => Ok(tool),
        index => Ok(format!("{tool}@{}", versions[index].name)),
    }
}
