//! `silo install`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use silo_base::system::Arch;
use silo_base::units;
use silo_build::image::ImageId;
use silo_model::oci::reference;
use silo_model::recipe::check::{check_grants, check_name, check_packages};
use silo_tool::View;
use silo_tool::collect;
use silo_tool::import_image;
use silo_tool::install::{self, InstallOptions, Outcome};
use silo_tool::lock_files::Resolving;
use silo_tool::package_tool::{self, PackageTool};
use silo_tool::shims as tool_shims;

use super::choose_tool;
use super::context::{Globals, Setting, setting_of_home};
use super::error::Failure;
use super::{cache, env, legacy, lsp, remote, requested, shims, tier, ui, x};

/// Build a tool's image from its recipe and lock, and install it
///
/// The tool is installed only when everything is complete: an interrupted install leaves nothing behind. Without a tool, asks for one and
/// its version on a terminal.
#[derive(clap::Args)]
pub struct Args {
    /// The tools, each with an optional version: python, python@3.13; or a Debian package as a tool: debian:jq
    #[arg(value_name = "TOOL[@VERSION]")]
    tools: Vec<String>,
    /// Make the tool of these Debian packages, with their programs as its commands
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',', conflicts_with_all = ["image", "version", "frozen"])]
    package: Vec<String>,
    /// With --package or debian:PACKAGE: the Debian release, such as bookworm or forky; by default trixie
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// The version, or a prefix of it, if only one tool is named
    #[arg(long, value_name = "VERSION", requires = "tools")]
    version: Option<String>,
    /// Make the tool from a container image: registry.example.com/name:tag, oci:layout:name, oci-archive:file.tar:name or
    /// docker-archive:file.tar:name
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["version", "frozen", "projects_only"])]
    image: Option<String>,
    /// With --image: commands of the tool, as name or name:program; by default those found in the image
    #[arg(long, value_name = "SHIM", value_delimiter = ',', requires = "image")]
    shim: Vec<String>,
    /// With --image: a shell command that is run in the image once
    #[arg(long, value_name = "COMMAND", requires = "image")]
    setup: Vec<String>,
    /// With --image or packages: hosts that the tool may connect to
    #[arg(long, value_name = "NAME")]
    network: Vec<String>,
    /// With --image: CPU limit of a run
    #[arg(long, value_name = "N", requires = "image")]
    cpus: Option<u32>,
    /// With --image: memory limit of a run, such as 2G
    #[arg(long, value_name = "SIZE", requires = "image")]
    memory: Option<String>,
    /// Let the tool's commands start it only in projects that use it, as `silo unpin` does
    #[arg(long)]
    projects_only: bool,
    /// Also build the tools' language servers, for editors
    #[arg(long, conflicts_with_all = ["image", "package"])]
    lsp: bool,
    /// Fail if the recipe has no lock for the requested tool
    #[arg(long)]
    frozen: bool,
    #[command(flatten)]
    tier: tier::StepTier,
    #[command(flatten)]
    place: remote::StepPlace,
    /// Keep the state of a failed step, for `silo debug`
    #[arg(long)]
    keep_failed: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    if let Some(image) = &args.image {
        return of_image(globals, args, image);
    }
    if !args.package.is_empty() || args.tools.iter().any(|spec| spec.starts_with(x::PREFIX)) {
        return of_packages(globals, args);
    }
    let wrong = [(args.suite.is_some(), "--suite is for packages"), (!args.network.is_empty(), "--network is for images and packages")];
    if let Some((_, what)) = wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
        return Err(Failure::usage(what, "add --package, or write debian:PACKAGE"));
    }
    let resolving = Resolving::of_flag(args.frozen);
    let parsed = |specs: &[String]| specs.iter().map(|spec| parse(spec, resolving)).collect::<Result<Vec<_>, _>>();
    let mut wishes = parsed(&args.tools)?;
    if let (Some(version), false) = (&args.version, wishes.is_empty()) {
        give_version(&mut wishes, version, &args.tools)?;
    }
    let mut setting = setting_of_home(globals)?;
    if wishes.is_empty() {
        wishes = parsed(&[choose_tool::ask(&setting, "Install")?])?;
    }
    let places = setting.places.without_project();
    let view = View { places: &places, ..setting.view() };
    for wish in &mut wishes {
        if let Some(version) = &wish.version {
            wish.version = Some(requested::resolve(view, &wish.name, version)?.pin);
        }
    }
    if args.lsp {
        lsp::require(view, wishes.iter().map(|wish| wish.name.as_str()))?;
    }
    setting.keep_failed = args.keep_failed;
    let _machine_in_use = args.tier.prepare(&mut setting)?;
    args.place.prepare(&mut setting)?;
    let outcomes = setting.with(|context| {
        let outcomes = install::install_all(context, &wishes);
        if outcomes.iter().flat_map(|(_, outcome)| outcome).any(|outcome| outcome.fresh) {
            collect::by_itself(context);
        }
        Ok(outcomes)
    })?;
    let outcomes = installed(outcomes)?;
    if args.projects_only {
        let program = env::found_as(&setting.home)?;
        for outcome in &outcomes {
            tool_shims::pin(&setting.home, &program, &outcome.tool.name, tool_shims::Pin::Unpinned)?;
        }
    }
    let servers = if args.lsp { language_servers(&setting, &outcomes, resolving)? } else { BTreeMap::new() };
    if args.json {
        let with_server = |outcome: &Outcome| {
            let mut row = json(outcome);
            if let Some(image) = servers.get(outcome.tool.name.as_str()) {
                row["languageServer"] = image.to_string().into();
            }
            row
        };
        ui::json(&outcomes.iter().map(with_server).collect())?;
    } else {
        ui::data(&outcomes.iter().map(line).collect::<String>())?;
        ui::data(&servers.iter().map(|(tool, image)| lsp::line(tool, *image)).collect::<String>())?;
    }
    let made: Vec<&str> = outcomes.iter().filter(|outcome| outcome.made > 0).map(|outcome| outcome.tool.name.as_str()).collect();
    cache::push_made(&setting, &made);
    for outcome in outcomes.iter().filter(|outcome| outcome.fresh) {
        shims::note_hidden_commands(&setting, &outcome.tool.name)?;
        tier::announce(&setting, &outcome.tool.name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the language servers of installed tools, and returns their images by tool.
fn language_servers<'a>(setting: &Setting, outcomes: &'a [Outcome], resolving: Resolving) -> Result<BTreeMap<&'a str, ImageId>, Failure> {
    let built = |outcome: &'a Outcome| {
        let image = lsp::build_of_installed(setting, &outcome.tool, resolving);
        let image = image.inspect_err(|_| ui::note(line(outcome).trim_end()))?;
        Ok((outcome.tool.name.as_str(), image))
    };
    outcomes.iter().map(built).collect()
}

/// Returns the results if no tool failed. Otherwise names the tools that were installed nevertheless.
fn installed(outcomes: Vec<(&str, Result<Outcome, install::Error>)>) -> Result<Vec<Outcome>, Failure> {
    let errors = outcomes.iter().filter_map(|(name, outcome)| Some((*name, outcome.as_ref().err()?))).collect();
    let failure = Failure::of_several(errors, outcomes.len());
    let done: Vec<Outcome> = outcomes.into_iter().filter_map(|(_, outcome)| outcome.ok()).collect();
    match failure {
        None => Ok(done),
        Some(failure) => {
            done.iter().for_each(|outcome| ui::note(line(outcome).trim_end()));
            Err(failure)
        }
    }
}

/// Makes a tool from a container image.
fn of_image(globals: &Globals, args: &Args, image: &str) -> Result<ExitCode, Failure> {
    let [spec] = args.tools.as_slice() else {
        return Err(Failure::usage("--image makes one tool", "name one"));
    };
    let parsed = parse(spec, Resolving::Allowed)?;
    if parsed.version.is_some() {
        return Err(Failure::usage(
            format!("\"{spec}\" has a version, but the version of an image is its tag"),
            "put the version into the image's tag",
        ));
    }
    let network = check_grants("--network", &args.network)
        .map_err(|error| Failure::usage(error.to_string(), "as in --network db.example.com:5432"))?;
    let memory = args.memory.as_deref().map(units::parse_size).transpose();
    let memory = memory.map_err(|error| Failure::usage(error.to_string(), "as in --memory 2G"))?;
    let wish = import_image::ImportOptions {
        name: parsed.name,
        image: reference::from(&env::cwd()?, image),
        shims: args.shim.clone(),
        steps: args.setup.clone(),
        network,
        cpus: args.cpus,
        memory_mb: memory.map(|bytes| bytes >> 20),
    };
    let mut setting = setting_of_home(globals)?;
    let _machine_in_use = args.tier.prepare(&mut setting)?;
    let (outcome, shims) = setting.with(|context| Ok(import_image::adopt(context, &wish)?))?;
    match args.json {
        true => ui::json(&serde_json::json!([json(&outcome)]))?,
        false => ui::data(&format!("{}  commands: {}\n", line(&outcome), shims.join(" ")))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes tools of Debian packages.
fn of_packages(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    if !args.package.is_empty() && args.tools.len() != 1 {
        return Err(Failure::usage("--package makes one tool", "name one"));
    }
    if args.lsp {
        return Err(Failure::usage("a tool of Debian packages has no language server", "install it without --lsp"));
    }
    if args.version.is_some() || args.frozen {
        return Err(Failure::usage("--version and --frozen are for recipes", "write the version as in debian:jq=1.7"));
    }
    let wishes: Vec<PackageTool> = args.tools.iter().map(|spec| package_tool(args, spec)).collect::<Result<_, _>>()?;
    let mut setting = setting_of_home(globals)?;
    let _machine_in_use = args.tier.prepare(&mut setting)?;
    let made = setting.with(|context| {
        let adopt = |wish| Ok(package_tool::adopt(context, wish)?);
        wishes.iter().map(adopt).collect::<Result<Vec<_>, Failure>>()
    })?;
    if args.projects_only {
        let program = env::found_as(&setting.home)?;
        for (outcome, _) in &made {
            tool_shims::pin(&setting.home, &program, &outcome.tool.name, tool_shims::Pin::Unpinned)?;
        }
    }
    let text = |(outcome, shims): &(Outcome, Vec<String>)| format!("{}  commands: {}\n", line(outcome), shims.join(" "));
    match args.json {
        true => ui::json(&made.iter().map(|(outcome, _)| json(outcome)).collect())?,
        false => ui::data(&made.iter().map(text).collect::<String>())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses `debian:PACKAGE`, or the name of the tool for `--package`.
fn package_tool(args: &Args, spec: &str) -> Result<PackageTool, Failure> {
    let network = check_grants("--network", &args.network)
        .map_err(|error| Failure::usage(error.to_string(), "as in --network db.example.com:5432"))?;
    let check = |packages: &[String]| {
        check_packages("--package", packages).map_err(|error| Failure::usage(error.to_string(), "as in --package ripgrep,jq"))
    };
    let (name, packages) = match spec.strip_prefix(x::PREFIX) {
        None if args.package.is_empty() => {
            return Err(Failure::usage(format!("{spec} is not a package"), "install tools and packages with one command each"));
        }
        None => (spec, args.package.clone()),
        Some(names) => {
            let packages: Vec<String> = names.split(',').map(str::to_owned).collect();
            check(&packages)?;
            let name = package_tool::tool_name(names.split(',').next().unwrap_or_default());
            let what = || format!("\"{names}\" cannot be the name of a tool");
            (name.ok_or_else(|| Failure::usage(what(), format!("silo install NAME --package {names}")))?, packages)
        }
    };
    check(&packages)?;
    let name = parse(name, Resolving::Allowed)?.name;
    Ok(PackageTool { name, packages, suite: args.suite.clone(), network })
}

/// Applies `--version` to the only tool on the command line.
fn give_version(wishes: &mut [InstallOptions], version: &str, specs: &[String]) -> Result<(), Failure> {
    let [wish] = wishes else {
        return Err(Failure::usage("--version is for one tool", "type the version after each tool: python@3.13"));
    };
    if wish.version.as_deref().is_some_and(|other| other != version) {
        let message = format!("conflicting versions: \"{}\" and --version {version}", specs.join(" "));
        return Err(Failure::usage(message, format!("type {}@{version}", wish.name)));
    }
    wish.version = Some(version.to_owned());
    Ok(())
}

/// Parses `tool` or `tool@version`.
pub fn parse(spec: &str, resolving: Resolving) -> Result<InstallOptions, Failure> {
    let (name, version) = match spec.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (spec, None),
    };
    check_name(name).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    if legacy::reserved().iter().any(|word| word == name) {
        return Err(Failure::usage(
            format!("\"{name}\" is a command of silo and cannot be a tool"),
            "`silo list --available` shows the tools",
        ));
    }
    if version == Some("") {
        return Err(Failure::usage(format!("\"{spec}\" has no version after the @"), format!("type {name}, or {name}@ and a version")));
    }
    Ok(InstallOptions { name: name.to_owned(), version: version.map(str::to_owned), resolving, anew: false, with: Vec::new() })
}

/// Describes the result of an install.
pub fn line(outcome: &Outcome) -> String {
    let tool = &outcome.tool;
    let state = if outcome.fresh { "installed" } else { "is installed already" };
    let platform = if outcome.arch == Arch::host() { String::new() } else { format!(" for {}", outcome.arch.platform()) };
    format!("{} {}{platform} {state} (image {:.12})\n", tool.name, tool.version, tool.image.to_string())
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let tool = &outcome.tool;
    serde_json::json!({
        "tool": tool.name, "version": tool.version, "platform": outcome.arch.platform(), "image": tool.image.to_string(),
        "changed": outcome.fresh, "layersMade": outcome.made,
    })
}
