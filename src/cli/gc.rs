//! `silo gc`, which is also `silo cache gc`, and `silo prune`.

use std::process::ExitCode;
use std::time::Duration;

use silo_store::gc::Object;

use silo_base::sanitize;
use silo_base::units;
use silo_guard::git::leftover_layers::{self, LeftLayer};
use silo_tool::collect::{self, Collected, GcOptions};
use silo_tool::{cache_eviction, usage};

use super::context::{Globals, Setting, setting_of_home};
use super::error::Failure;
use super::flags::{Effect, Format};
use super::ui;

/// Remove images and layers that no installed tool, project or running sandbox needs
///
/// Never removes images used by tools, projects or running sandboxes, or undecided changes of a project that exists. Without --max-age and --max-size, removes everything unneeded that
/// was not used for --min-age.
#[derive(clap::Args)]
pub struct Args {
    /// Keep everything used more recently than this: 90s, 36h, 14d or 2w; a number alone is days [default: 14d, with --max-size 0]
    #[arg(long, value_name = "AGE", value_parser = age)]
    min_age: Option<Duration>,
    /// Remove everything not used for this long, fetched files too
    #[arg(long, value_name = "AGE", value_parser = age)]
    max_age: Option<Duration>,
    /// Remove the least recently used, fetched files too, until Silo's directory takes at most this: 500M, 1.5G or 2T
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Remove everything unneeded of any age, and all fetched files
    #[arg(long, conflicts_with_all = ["min_age", "max_age", "max_size"])]
    all: bool,
    /// Show the things to remove, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Show the users of layers and images with this id prefix, and remove nothing
    #[arg(long, value_name = "ID", conflicts_with_all = ["min_age", "max_age", "max_size", "all", "dry_run"])]
    why: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Remove everything that no installed tool, project or running sandbox needs, and all fetched files
///
/// The same as `silo gc --all`.
#[derive(clap::Args)]
pub struct PruneArgs {
    /// Show the things to remove, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Default minimum age of removed things: a tool that was uninstalled by mistake can be restored from them.
const MIN_AGE: Duration = Duration::from_secs(14 * 86_400);

/// Parses an age on the command line.
pub fn age(text: &str) -> Result<Duration, units::Error> {
    units::parse_age(text)
}

/// Parses a size on the command line.
pub fn size(text: &str) -> Result<u64, units::Error> {
    units::parse_size(text)
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting_of_home(globals)?;
    if let Some(prefix) = &args.why {
        return why(&setting, prefix, Format::of_flag(args.json));
    }
    let otherwise = if args.all || args.max_size.is_some() { Duration::ZERO } else { MIN_AGE };
    // --max-age overrides a longer default: the user asked to remove everything older than it.
    let otherwise = args.max_age.map_or(otherwise, |age| otherwise.min(age));
    let wish = GcOptions {
        min_age: args.min_age.unwrap_or(otherwise),
        max_age: args.max_age,
        max_size: args.max_size,
        downloads: args.all,
        limit: None,
    };
    collected(&setting, &wish, Effect::of_flag(args.dry_run), Format::of_flag(args.json))
}

pub fn prune(globals: &Globals, args: &PruneArgs) -> Result<ExitCode, Failure> {
    let wish = GcOptions { downloads: true, ..GcOptions::default() };
    collected(&setting_of_home(globals)?, &wish, Effect::of_flag(args.dry_run), Format::of_flag(args.json))
}

/// Collects or lists garbage and old package caches, and prints the result.
pub fn collected(setting: &Setting, wish: &GcOptions, effect: Effect, format: Format) -> Result<ExitCode, Failure> {
    let collect = match effect {
        Effect::Change => collect::collect,
        Effect::DryRun => collect::foresee,
    };
    let (collected, waiting, cached) = setting.with(|context| {
        let collected = collect(context, wish)?;
        let waiting = leftover_layers::list_leftover(&context.home.repositories()).map_err(Failure::other)?;
        let waiting: Vec<LeftLayer> = waiting.into_iter().filter(|left| left.is_needed).collect();
        let choice =
            cache_eviction::choose(context.home, &cache_eviction::Policy::of(&context.user_settings.cache), collect::now(context))?;
        Ok((collected, waiting, if effect == Effect::DryRun { (choice.len(), choice.bytes) } else { cache_eviction::remove(&choice) }))
    })?;
    print_collected(&collected, &waiting, effect, format)?;
    if let (Format::Text, (1.., bytes)) = (format, cached) {
        let verb = verb(effect);
        ui::data(&format!("{} files of package caches {verb}, least recently used first ({})\n", cached.0, units::size(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the collected things, and the repository layers that wait for an import.
pub fn print_collected(collected: &Collected, waiting: &[LeftLayer], effect: Effect, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let row = |left: &LeftLayer| serde_json::json!({ "project": left.project, "layer": left.dir, "bytes": left.bytes });
        let waiting: Vec<serde_json::Value> = waiting.iter().map(row).collect();
        return ui::json(&serde_json::json!({
            "layers": collected.layers, "images": collected.images, "downloads": collected.downloads,
            "leftovers": collected.leftovers, "reviews": collected.reviews, "bytes": collected.bytes, "waiting": waiting, "dryRun": effect == Effect::DryRun,
        }));
    }
    for left in waiting {
        ui::note(&of_killed_run(left));
    }
    let verb = verb(effect);
    let reviews = match collected.reviews {
        0 => String::new(),
        1 => ", 1 review".to_owned(),
        count => format!(", {count} reviews"),
    };
    ui::data(&format!(
        "{} layers, {} images{reviews}, {} fetched files and {} leftovers {verb} ({})\n",
        collected.layers,
        collected.images,
        collected.downloads,
        collected.leftovers,
        units::size(collected.bytes)
    ))
}

fn verb(effect: Effect) -> &'static str {
    match effect {
        Effect::Change => "removed",
        Effect::DryRun => "would be removed",
    }
}

/// Describes a killed run's repository layer and the command that imports it.
pub fn of_killed_run(left: &LeftLayer) -> String {
    let (size, dir) = (units::size(left.bytes), sanitize::path(&left.dir));
    match &left.project {
        Some(project) => format!(
            "a killed run left {size} of work for the repository of {}; `silo doctor --fix` imports it, and so does the \
            next run there",
            sanitize::path(project)
        ),
        None => format!("a killed run left {size} in {dir}, which this silo cannot read; remove it unless another silo made it"),
    }
}

/// Fewest digits accepted as an id prefix.
const MIN_DIGITS: usize = 4;

fn why(setting: &Setting, prefix: &str, format: Format) -> Result<ExitCode, Failure> {
    if prefix.len() < MIN_DIGITS || !prefix.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        let message = format!("\"{prefix}\" is not the beginning of an id");
        return Err(Failure::usage(message, "write at least four of its digits, as `silo cache list` shows them"));
    }
    let found = setting.read_only(|context| Ok(usage::why(context, prefix)?))?;
    if found.is_empty() {
        let message = format!("no layer or image has the id prefix {prefix}");
        return Err(Failure::found(message, "`silo cache list` shows the images"));
    }
    if format == Format::Json {
        let row = |why: &usage::Reasons| {
            let (kind, id) = named(&why.thing);
            let images: Vec<String> = why.images.iter().map(ToString::to_string).collect();
            serde_json::json!({ "kind": kind, "id": id, "name": why.name, "keptBy": why.kept_by, "images": images })
        };
        ui::json(&found.iter().map(row).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    ui::data(&found.iter().map(because).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

fn because(why: &usage::Reasons) -> String {
    let (kind, id) = named(&why.thing);
    let name = if why.name.is_empty() { String::new() } else { format!(" ({})", why.name) };
    let mut text = format!("{kind} {id}{name}\n");
    for keeper in &why.kept_by {
        text += &format!("  kept by {keeper}\n");
    }
    if why.kept_by.is_empty() {
        text += "  kept by nothing; `silo gc` removes it when it was not used for long enough\n";
    }
    for image in &why.images {
        text += &format!("  part of image {:.12}\n", image.to_string());
    }
    text
}

fn named(thing: &Object) -> (&'static str, String) {
    match thing {
        Object::Image(id) => ("image", id.to_string()),
        Object::Layer(id) => ("layer", id.to_string()),
    }
}
