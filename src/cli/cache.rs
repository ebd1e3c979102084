//! `silo cache`: disk usage of Silo's directory, and commands that reduce it.

use std::process::ExitCode;
use std::time::Duration;

use silo_base::sanitize;
use silo_base::units;
use silo_build::image::ImageId;
use silo_insight::image_view;
use silo_model::oci::location::{self, Location};
use silo_ship::push::{Options, Pushed};
use silo_sign::external::Signer;
use silo_sign::statement::Claim;
use silo_tool::compress;
use silo_tool::record::Installed;
use silo_tool::share;
use silo_tool::{collect, usage};

use super::context::{Globals, Setting, open_for_reading, setting};
use super::error::Failure;
use super::flags::{Effect, Format};
use super::push::SignArgs;
use super::{env, gc, ui};

/// Show the disk usage of Silo's directory, and reduce it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Report(Report),
    List(List),
    Gc(gc::Args),
    Compress(Compress),
    Clean(Clean),
    Push(Push),
    Prune(Prune),
    #[command(hide = true)]
    Restore(Restore),
}

/// Push the images of tools to the caches, so that other machines need not build them
#[derive(clap::Args)]
struct Push {
    /// Only these tools; by default all that are built
    tools: Vec<String>,
    /// The cache: a repository of a registry, or a directory; by default those with push = true in ~/.silo/silo.toml
    #[arg(long, value_name = "LOCATION")]
    to: Option<String>,
    #[command(flatten)]
    sign: SignArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Remove the images of a cache that no kept tag needs
///
/// A registry removes the blobs by itself, when its administrator collects garbage. In a directory, blobs without a name are removed if they
/// are older than an hour.
#[derive(clap::Args)]
struct Prune {
    /// The cache: a repository of a registry, or a directory
    #[arg(value_name = "LOCATION")]
    from: String,
    /// Keep this tag and the image that it names; a * at the end stands for any rest
    #[arg(long, value_name = "TAG", required_unless_present = "keep_installed")]
    keep: Vec<String>,
    /// Keep the images of this machine and their inputs
    #[arg(long)]
    keep_installed: bool,
    /// Show the tags to remove, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Show the disk usage of each part, counting every file once
///
/// The total is the same as that of `du`.
#[derive(clap::Args)]
struct Report {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// List the images with their size and users, most recently used first
#[derive(clap::Args)]
struct List {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Compress images that were not used lately
///
/// They stay installed. The next run restores the image from the compressed layers and verifies every byte. This takes about as long as
/// unpacking the packages; nothing is fetched. Images of running sandboxes are skipped.
#[derive(clap::Args)]
struct Compress {
    /// Compress images that were not used for this long: 90s, 36h, 14d or 2w; a number alone is days
    #[arg(long, value_name = "AGE", value_parser = gc::age, default_value = "14d")]
    older_than: Duration,
    /// Compress every image that is not in use
    #[arg(long, conflicts_with = "older_than")]
    all: bool,
    /// Show the images to compress, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Remove all fetched files and build logs
#[derive(clap::Args)]
struct Clean {
    /// Also remove unneeded images and layers of any age
    #[arg(long)]
    all: bool,
    /// Show the files to remove, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Restore a compressed image
#[derive(clap::Args)]
struct Restore {
    /// Image id
    image: String,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Report(args) => report(&setting(globals)?, args),
        Verb::List(args) => list(&setting(globals)?, args),
        Verb::Gc(args) => gc::run(globals, args),
        Verb::Compress(args) => squeeze(&setting(globals)?, args),
        Verb::Clean(args) => clean(&setting(globals)?, args),
        Verb::Push(args) => push(&setting(globals)?, args),
        Verb::Prune(args) => prune(&setting(globals)?, args),
        Verb::Restore(args) => restore(&setting(globals)?, args),
    }
}

fn report(setting: &Setting, args: &Report) -> Result<ExitCode, Failure> {
    let root = setting.home.root();
    let rooms = usage::report(root).map_err(Failure::other)?;
    let (total, apparent) = rooms.iter().fold((0, 0), |sums, room| (sums.0 + room.takes.fresh, sums.1 + room.takes.apparent));
    if args.json {
        let row = |room: &usage::SubdirUsage| {
            let takes = room.takes;
            serde_json::json!({ "room": room.name, "bytes": takes.fresh, "apparentBytes": takes.apparent, "files": takes.files })
        };
        let rows: Vec<serde_json::Value> = rooms.iter().map(row).collect();
        ui::json(&serde_json::json!({ "path": root, "rooms": rows, "bytes": total, "apparentBytes": apparent }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let line = |name: &str, bytes: u64, apparent: u64, what: &str| {
        let line = format!("{name:<13} {:>12} {:>12}  {what}", units::size(bytes), units::size(apparent));
        format!("{}\n", line.trim_end())
    };
    let mut text = format!("{:<13} {:>12} {:>12}\n", "DIRECTORY", "ON DISK", "APPARENT");
    for room in rooms.iter().filter(|room| room.takes.files > 0) {
        text += &line(&room.name, room.takes.fresh, room.takes.apparent, room.what);
    }
    text += &line("total", total, apparent, &sanitize::path(root));
    ui::data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(setting: &Setting, args: &List) -> Result<ExitCode, Failure> {
    let images = setting.read_only(|context| Ok(usage::images(context)?))?;
    if args.json {
        let row = |row: &usage::ImageUsage| {
            serde_json::json!({
                "image": row.id.to_string(), "compressed": row.cold, "bytes": row.takes, "ownBytes": row.alone,
                "lastUsedAt": row.last_used, "keptBy": row.kept_by,
            })
        };
        ui::json(&images.iter().map(row).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = env::now();
    let mut text = format!("{:<12}  {:>10}  {:>10}  {:<10}  {:<12}  {}\n", "IMAGE", "SIZE", "ITS OWN", "FORM", "LAST USED", "KEPT BY");
    for row in &images {
        let form = if row.cold { "compressed" } else { "ready" };
        let used = row.last_used.map_or_else(|| "never".to_owned(), |used| units::ago(now, used));
        let kept = if row.kept_by.is_empty() { "nothing".to_owned() } else { row.kept_by.join(", ") };
        let (takes, alone) = (units::size(row.takes), units::size(row.alone));
        text += &format!("{:.12}  {takes:>10}  {alone:>10}  {form:<10}  {used:<12}  {kept}\n", row.id.to_string());
    }
    ui::data(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn squeeze(setting: &Setting, args: &Compress) -> Result<ExitCode, Failure> {
    let older_than = if args.all { Duration::ZERO } else { args.older_than };
    let done = setting.with(|context| {
        let images = compress::idle(context, older_than)?;
        let work = if args.dry_run { compress::foresee } else { compress::compress };
        Ok(work(context, &images)?)
    })?;
    if args.json {
        ui::json(&serde_json::json!({
            "images": done.images, "layers": done.layers, "bytesBefore": done.before, "bytesAfter": done.after, "dryRun": args.dry_run,
        }))?;
    } else if args.dry_run {
        let before = units::size(done.before);
        ui::data(&format!("{} images with {} layers would be compressed ({before} now)\n", done.images, done.layers))?;
    } else {
        let (before, after) = (units::size(done.before), units::size(done.after));
        ui::data(&format!("{} images with {} layers compressed ({before} to {after})\n", done.images, done.layers))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn clean(setting: &Setting, args: &Clean) -> Result<ExitCode, Failure> {
    // Without --all, no layer or image is old enough; fetched files are removed at any age.
    let things = if args.all { Duration::ZERO } else { Duration::MAX };
    let wish = collect::GcOptions { min_age: things, downloads: true, ..collect::GcOptions::default() };
    gc::collected(setting, &wish, Effect::of_flag(args.dry_run), Format::of_flag(args.json))
}

fn push(setting: &Setting, args: &Push) -> Result<ExitCode, Failure> {
    let ours = setting.user_settings.caches.iter().filter(|cache| cache.push).map(|cache| cache.location.clone());
    let locations: Vec<String> = args.to.clone().map_or_else(|| ours.collect(), |to| vec![to]);
    if locations.is_empty() {
        return Err(Failure::usage(
            "no cache is named to push to",
            "name one with --to, or set push = true for a cache in ~/.silo/silo.toml",
        ));
    }
    let locations: Vec<Location> = locations.iter().map(|text| located(text)).collect::<Result<_, _>>()?;
    let mut tools = image_view::tools(&open_for_reading(setting)?)?;
    if let Some(unknown) = args.tools.iter().find(|name| !tools.iter().any(|tool| tool.name == **name)) {
        return Err(Failure::found(
            format!("{} is not installed", sanitize::line(unknown)),
            format!("silo install {}", sanitize::line(unknown)),
        ));
    }
    tools.retain(|tool| args.tools.is_empty() || args.tools.contains(&tool.name));
    let signer = args.sign.signer(&setting.home)?;
    if signer.is_none() {
        setting.note("nothing is signed, so no cache's user takes it; `silo key new NAME` makes a key".to_owned());
    }
    let rows = push_all(setting, &locations, &tools, signer.as_ref())?;
    if args.json {
        let row = |(tool, cache, pushed): &(String, String, Pushed)| serde_json::json!({ "tool": tool, "cache": cache, "layers": pushed.layers, "sent": pushed.sent, "bytes": pushed.bytes });
        ui::json(&rows.iter().map(row).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    ui::data(&rows.iter().map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// The result of a push: the tool, the cache, and the sent blobs.
type Row = (String, String, Pushed);

/// Pushes the images of tools to caches.
fn push_all(setting: &Setting, locations: &[Location], tools: &[Installed], signer: Option<&Signer>) -> Result<Vec<Row>, Failure> {
    let claims: Vec<Vec<Claim>> =
        tools.iter().map(|tool| super::push::claims(setting, tool.image, Some(tool))).collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    setting.with(|context| {
        for location in locations {
            let to = share::Target { location: location.clone(), tag: String::new(), digest: None };
            for (tool, claims) in tools.iter().zip(&claims) {
                let source = share::Source { id: tool.image, tool: Some(tool), claims };
                let pushed = share::push(context, source, &to, &Options { steps: true, ..Options::default() }, signer)?;
                rows.push((tool.name.clone(), location.to_string(), pushed));
            }
        }
        Ok(())
    })?;
    Ok(rows)
}

/// Pushes tools that were just built to the caches with `push = true`. A failure is reported, since the build succeeded.
pub fn push_made(setting: &Setting, names: &[&str]) {
    let locations: Vec<&str> =
        setting.user_settings.caches.iter().filter(|cache| cache.push).map(|cache| cache.location.as_str()).collect();
    if locations.is_empty() || names.is_empty() {
        return;
    }
    let pushed = (|| {
        let Some(signer) = SignArgs::default().signer(&setting.home)? else {
            return Err(Failure::found("there is no key to sign with", "`silo key new NAME` makes one"));
        };
        let locations: Vec<Location> = locations.iter().map(|text| located(text)).collect::<Result<_, _>>()?;
        let mut tools = image_view::tools(&open_for_reading(setting)?)?;
        tools.retain(|tool| names.contains(&tool.name.as_str()));
        push_all(setting, &locations, &tools, Some(&signer))
    })();
    match pushed {
        Ok(rows) => rows.iter().for_each(|row| setting.note(line(row).trim_end().to_owned())),
        Err(failure) => setting.note(format!("the caches were not filled: {}", failure.message())),
    }
}

fn line((tool, cache, pushed): &Row) -> String {
    format!("{tool} to {cache}: {} layers, {} blobs sent ({})\n", pushed.layers, pushed.sent, units::size(pushed.bytes))
}

/// Parses the location of a cache.
pub fn located(text: &str) -> Result<Location, Failure> {
    let hint = "as in registry.example.com/team/silo, or /srv/cache for a directory";
    location::parse(text).map_err(|what| Failure::usage(format!("\"{}\": {what}", sanitize::line(text)), hint))
}

fn prune(setting: &Setting, args: &Prune) -> Result<ExitCode, Failure> {
    let from = located(&args.from)?;
    let keep = share::KeptTags { patterns: args.keep.clone(), installed: args.keep_installed };
    let (plan, pruned) = setting.with(|context| {
        let plan = share::plan_prune(context, &from, &keep)?;
        let pruned = if args.dry_run { None } else { Some(share::prune(context, &from, &plan)?) };
        Ok((plan, pruned))
    })?;
    if args.json {
        ui::json(&serde_json::json!({
            "kept": plan.kept, "removed": plan.gone, "dryRun": args.dry_run, "manifests": pruned.map(|pruned| pruned.manifests),
            "blobs": pruned.map(|pruned| pruned.blobs), "bytes": pruned.map(|pruned| pruned.bytes),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (done, verb) = match pruned {
        Some(pruned) => (format!(", {} manifests and {} blobs ({})", pruned.manifests, pruned.blobs, units::size(pruned.bytes)), "removed"),
        None => (String::new(), "would be removed"),
    };
    let gone: String = plan.gone.iter().map(|tag| format!("{}\n", sanitize::line(tag))).collect();
    ui::data(&format!("{gone}{} tags {verb}{done}; {} stay\n", plan.gone.len(), plan.kept.len()))?;
    Ok(ExitCode::SUCCESS)
}

fn restore(setting: &Setting, args: &Restore) -> Result<ExitCode, Failure> {
    let no_id = || Failure::usage(format!("\"{}\" is not an image id", args.image), "`silo cache list --json` shows the ids");
    let id = ImageId::parse(&args.image).ok_or_else(no_id)?;
    setting.with(|context| Ok(compress::restore(context, id)?))?;
    Ok(ExitCode::SUCCESS)
}
