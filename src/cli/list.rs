//! `silo list` and `silo search`.

use std::process::ExitCode;

use silo_base::home::Home;
use silo_base::sanitize;
use silo_base::system::Arch;
use silo_base::units;
use silo_model::document;
use silo_model::recipe::addon;
use silo_tool::catalog_entry::{self, CatalogEntry};
use silo_tool::shim::table::{self, Shim};
use silo_tool::{projects, record};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Format;
use super::ui;

/// List the tools that are installed or used by projects, or all available ones
#[derive(clap::Args)]
pub struct Args {
    /// List available tools: versions, download size, source, and date of the last test
    #[arg(long)]
    available: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Search tools and add-ons by name, description, command and package
#[derive(clap::Args)]
pub struct SearchArgs {
    /// Words that must all match
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let rows = match args.available {
        true => catalog_entry::all(setting.view())?.iter().map(available).collect(),
        false => installed(&setting, globals.platform)?,
    };
    print(rows, Format::of_flag(args.json))
}

pub fn search(globals: &Globals, args: &SearchArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let words: Vec<String> = args.words.iter().map(|word| word.to_lowercase()).collect();
    let offers = catalog_entry::all(setting.view())?;
    let mut rows: Vec<Row> = offers.iter().filter(|offer| offer.speaks_of(&words)).map(available).collect();
    for name in addon::names(&setting.places)? {
        let Some(addon) = addon::find(&setting.places, &name)? else { continue };
        let told = [&name, &addon.description].into_iter().chain(&addon.packages).map(|text| text.to_lowercase());
        let told = told.collect::<Vec<_>>().join("\n");
        if words.iter().all(|word| told.contains(word.as_str())) {
            let json = serde_json::json!({ "addon": name, "description": addon.description, "packages": addon.packages });
            rows.push(Row {
                cells: vec![name.clone(), "add-on".to_owned()],
                rest: format!("{}; silo add {name}", addon.description),
                json,
            });
        }
    }
    if rows.is_empty() && !args.json {
        let known: Vec<&str> = offers.iter().map(|offer| offer.definition.tool()).collect();
        let near = document::nearest(&args.words[0], &known).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
        return Err(Failure::found(
            format!("no tool or add-on matches \"{}\"{near}", args.words.join(" ")),
            "`silo list --available` shows all tools; docs/recipe.md describes how to write a recipe",
        ));
    }
    print(rows, Format::of_flag(args.json))
}

struct Row {
    cells: Vec<String>,
    rest: String,
    json: serde_json::Value,
}

fn print(rows: Vec<Row>, format: Format) -> Result<ExitCode, Failure> {
    if format == Format::Json {
        ui::json(&rows.into_iter().map(|row| row.json).collect())?;
    } else {
        let cell = |row: &Row, at: usize| row.cells.get(at).map_or_else(String::new, |cell| sanitize::line(cell));
        let columns = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(|at| rows.iter().map(|row| cell(row, at).chars().count()).max().unwrap_or(0)).collect();
        let line = |row: &Row| {
            let cells = widths.iter().enumerate().map(|(at, width)| format!("{:width$}  ", cell(row, at)));
            format!("{}\n", (cells.collect::<String>() + &sanitize::line(&row.rest)).trim_end())
        };
        ui::data(&rows.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn installed(setting: &Setting, platform: Option<Arch>) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    // This machine's platform first.
    let others = Arch::ALL.into_iter().filter(|arch| *arch != Arch::host());
    for arch in std::iter::once(Arch::host()).chain(others).filter(|arch| platform.is_none_or(|wanted| wanted == *arch)) {
        rows.extend(installed_for(&setting.home.of_platform(arch))?);
    }
    Ok(rows)
}

/// Lists the tools of one platform. Only this machine's have shims.
fn installed_for(home: &Home) -> Result<Vec<Row>, Failure> {
    let (platform, is_own) = (home.arch().platform(), home.arch() == Arch::host());
    let table = table::read(&home.shims())?;
    let mut rows = Vec::new();
    for tool in record::list(home)? {
        let entry = table.get(&tool.name).filter(|_| is_own);
        let is_pinned = entry.is_some_and(|entry| entry.pinned);
        let shown = entry.into_iter().flat_map(|entry| &entry.shims).filter(|(_, shim)| **shim != Shim::Hidden);
        let shims: Vec<&str> = shown.map(|(name, _)| name.as_str()).collect();
        let state = match (is_own, is_pinned) {
            (true, true) => "pinned",
            (true, false) => "not pinned",
            (false, _) => &platform,
        };
        rows.push(Row {
            json: serde_json::json!({
                "tool": tool.name, "version": tool.version, "platform": platform, "image": tool.image.to_string(), "pinned": is_pinned,
                "shims": shims,
            }),
            cells: vec![tool.name.clone(), tool.version, format!("image {:.12}", tool.image.to_string()), state.to_owned()],
            rest: shims.join(", "),
        });
    }
    for project in projects::list(home)? {
        let path = &project.path;
        let state = if is_own { "project".to_owned() } else { format!("project, {platform}") };
        rows.extend(project.tools.iter().map(|(name, pin)| Row {
            json: serde_json::json!({
                "tool": name, "version": pin.version, "platform": platform, "image": pin.image.to_string(), "project": path.to_string_lossy(),
            }),
            cells: vec![name.clone(), pin.version.clone(), format!("image {:.12}", pin.image.to_string()), state.clone()],
            rest: path.to_string_lossy().into_owned(),
        }));
    }
    Ok(rows)
}

fn available(offer: &CatalogEntry) -> Row {
    let recipe = offer.recipe();
    let version = offer.version.clone().unwrap_or_else(|| "not locked".to_owned());
    let weight = offer.weight();
    let size = if offer.lock.is_some() { units::size(weight.fetched + weight.made) } else { String::new() };
    let others: Vec<&str> = recipe.versions.keys().map(String::as_str).filter(|other| *other != version).collect();
    let also = if others.is_empty() { String::new() } else { format!(" (also {})", others.join(", ")) };
    let json = serde_json::json!({
        "tool": recipe.name,
        "version": version,
        "versions": recipe.version_labels(),
        "description": recipe.description,
        "origin": offer.definition.found.origin,
        "source": offer.source(),
        "packages": weight.packages,
        "fetchedBytes": weight.fetched,
        "madeBytes": weight.made,
        "tested": recipe.tested,
        "installed": offer.installed.as_ref().map(|tool| &tool.version),
    });
    let tested = recipe.tested.as_ref().map_or_else(|| "not tested".to_owned(), |tested| format!("tested {tested}"));
    let cells = vec![recipe.name.clone(), version, size, offer.source(), tested];
    Row { cells, rest: format!("{}{also}", recipe.description), json }
}
