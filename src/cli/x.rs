//! `silo x`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use silo_model::recipe::catalog::{self, RecipeSources};
use silo_model::recipe::check::check_packages;
use silo_tool::View;
use silo_tool::definition::{self, Scope};
use silo_tool::one_off::{self, OneOff, OneOffOptions};
use silo_tool::package_tool::{self, PackageTool};
use silo_tool::record;
use silo_tool::script;

use crate::run::target::{self, Target};

use super::apart;
use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::requested;
use super::run::{self, HostArgs};

/// Run a tool once without installing it, in any of its versions, or a program of any Debian package
///
/// The first run builds the image, and later runs use it again. `silo gc`, or the daily collection after 30 days without use, removes it.
/// Silo's options come before the tool; everything after it goes to the program unchanged. Programs of Debian packages have no network;
/// --allow grants it. Exit codes are those of `silo run`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  silo x node@22 --version\n  silo x debian:jq . data.json\n  silo x --package ripgrep,jq -- rg pattern"
)]
pub struct Args {
    #[command(flatten)]
    visible: HostArgs,
    /// Run a program of these Debian packages, instead of a tool
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',')]
    package: Vec<String>,
    /// Debian release of the packages, such as bookworm or forky; by default trixie
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// Lock today's packages, instead of those of the first run
    #[arg(long)]
    update: bool,
    /// Only build the image
    #[arg(long)]
    build: bool,
    /// With --build: the image for this script with dependencies
    #[arg(long, value_name = "FILE", hide = true, requires = "build")]
    script: Option<PathBuf>,
    /// The tool or debian:PACKAGE, and its arguments; with --package, the program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "TOOL[@VERSION] [ARGUMENTS]...")]
    words: Vec<OsString>,
}

/// The words of a command line, interpreted.
enum Wanted {
    /// A tool or a command of one, and its arguments.
    Tool { name: String, word: String, version: Option<String>, rest: Vec<OsString> },
    /// Packages, with a program by its name, or the program of the only package, and its arguments.
    Packages { tool: PackageTool, program: Option<OsString>, rest: Vec<OsString> },
}

pub fn run(globals: &Globals, args: Args) -> Result<ExitCode, Failure> {
    if args.build {
        return build(globals, &args);
    }
    let Args { visible, package, suite, update, words: typed, .. } = args;
    run::launched(globals, visible, |setting, visible| {
        let wanted = wanted(setting, &package, suite.as_deref(), &typed)?;
        if let (Wanted::Tool { name, word, version: None, rest }, false) = (&wanted, update)
            && let Some(target) = current(setting, visible, name, word, rest)?
        {
            return Ok(target);
        }
        if update || found(setting, &wanted)?.is_none() {
            let packages = package.iter().map(|package| format!("--package={package}"));
            let options = packages.chain(suite.iter().map(|suite| format!("--suite={suite}"))).chain(update.then(|| "--update".to_owned()));
            let options = options.chain((visible.scope() == Scope::Global).then(|| "--no-project".to_owned()));
            let words = ["--build".to_owned()].into_iter().chain(options).chain(["--".to_owned()]).map(OsString::from);
            let what = format!("{} could not be built", typed[0].to_string_lossy());
            apart::run(
                globals,
                "x",
                words.chain([typed[0].clone()]),
                (&what, "the error above has the cause; if the network failed, run the same command again"),
            )?;
        }
        let one_off = found(setting, &wanted)?
            .ok_or_else(|| Failure::found("the image was removed right after the build", "run the same command again"))?;
        target(setting, one_off, wanted)
    })
    .map_err(|failure| failure.or_code(run::SILO_FAILED))
}

fn build(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let wanted = wanted(&setting, &args.package, args.suite.as_deref(), &args.words)?;
    if let (Some(path), Wanted::Tool { version, .. }) = (&args.script, &wanted) {
        let script =
            script::read(path)?.ok_or_else(|| Failure::found(format!("{} has no dependencies", path.display()), "name a script"))?;
        setting.with(|context| Ok(script::build(context, &script, version.as_deref())?))?;
        return Ok(ExitCode::SUCCESS);
    }
    // A run uses the tool of the project, or the installed one.
    if let (Wanted::Tool { name, word, version: None, rest }, false) = (&wanted, args.update)
        && let Some(target) = current(&setting, &args.visible, name, word, rest)?
    {
        setting.note(format!("silo x {word} uses {} {}, which is built already", target.tool.name, target.tool.version));
        return Ok(ExitCode::SUCCESS);
    }
    let (places, wish) = asked(&setting, &wanted);
    let wish = OneOffOptions { update: args.update, ..wish };
    setting.with(|context| Ok(one_off::build(&context.among(&places), &wish)?))?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(setting: &Setting, packages: &[String], suite: Option<&str>, words: &[OsString]) -> Result<Wanted, Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Err(Failure::usage("no tool is named", "silo x TOOL[@VERSION] [ARGUMENTS]"));
    };
    target::check_first_word(first, "x")?;
    let (word, rest) = (first.to_str().unwrap_or_default(), rest.to_vec());
    match word.strip_prefix(PREFIX) {
        Some(names) if packages.is_empty() => {
            let packages = names.split(',').map(str::to_owned).collect();
            Ok(Wanted::Packages { tool: package_tool(packages, suite)?, program: None, rest })
        }
        _ if !packages.is_empty() => {
            Ok(Wanted::Packages { tool: package_tool(packages.to_vec(), suite)?, program: Some(first.clone()), rest })
        }
        _ if suite.is_some() => Err(Failure::usage("--suite is for packages", "add --package, or write debian:PACKAGE")),
        _ => of_tool(setting, word, rest),
    }
}

fn package_tool(packages: Vec<String>, suite: Option<&str>) -> Result<PackageTool, Failure> {
    check_packages("--package", &packages).map_err(|error| Failure::usage(error.to_string(), "as in --package ripgrep,jq"))?;
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    // The prefix is in no name of a built-in tool, so no settings for one apply.
    let name = format!("debian-{}", packages[0]).chars().take(MAX_NAME).map(plain).collect();
    Ok(PackageTool { name, packages, suite: suite.map(str::to_owned), network: Vec::new() })
}

/// Finds the tool that a word names: a tool, or a command of one.
fn of_tool(setting: &Setting, word: &str, rest: Vec<OsString>) -> Result<Wanted, Failure> {
    let (word, version) = word.split_once('@').map_or((word, None), |(word, version)| (word, Some(version)));
    let name = match catalog::find(&setting.places, word) {
        Ok(_) => word.to_owned(),
        Err(error) => match catalog::shim_owners(&setting.places, word)?.into_keys().next() {
            Some(owner) => owner,
            None => return Err(Failure::from(error).or_hint(&format!("silo x --package PACKAGE -- {word}"))),
        },
    };
    // A version of a one-off tool is never the project's.
    let places = setting.places.without_project();
    let view = View { places: &places, ..setting.view() };
    let version = version.map(|version| requested::resolve(view, &name, version)).transpose()?;
    Ok(Wanted::Tool { name, word: word.to_owned(), version: version.map(|version| version.pin), rest })
}

/// Returns the tool of the project or the installed one, if there is one.
fn current(setting: &Setting, visible: &HostArgs, name: &str, word: &str, rest: &[OsString]) -> Result<Option<Target>, Failure> {
    let view = setting.view();
    let (tool, scope) = match visible.scope() {
        Scope::Global => (record::get(view.home, name)?, Scope::Global),
        Scope::Project => (definition::current(view, name)?, definition::scope(view, name)?),
    };
    let Some(tool) = tool else { return Ok(None) };
    let recipe = definition::of(view, name, scope)?.found.recipe;
    Ok(Some(target::of_recipe(tool, recipe, word, rest.to_vec())?))
}

/// Returns the sources of recipes and the one-off tool to look for.
fn asked(setting: &Setting, wanted: &Wanted) -> (RecipeSources, OneOffOptions) {
    match wanted {
        Wanted::Tool { name, version, .. } => {
            (setting.places.clone(), OneOffOptions { name: name.clone(), version: version.clone(), ..OneOffOptions::default() })
        }
        Wanted::Packages { tool, .. } => {
            let wish = OneOffOptions { name: tool.name.clone(), ..OneOffOptions::default() };
            (tool.among(&setting.places, &[]), wish)
        }
    }
}

fn found(setting: &Setting, wanted: &Wanted) -> Result<Option<OneOff>, Failure> {
    let (places, wish) = asked(setting, wanted);
    Ok(one_off::find(View { places: &places, ..setting.view() }, &wish)?)
}

fn target(setting: &Setting, one_off: OneOff, wanted: Wanted) -> Result<Target, Failure> {
    let OneOff { tool, recipe } = one_off;
    match wanted {
        Wanted::Tool { word, rest, .. } => Ok(target::of_recipe(tool, recipe, &word, rest)?),
        Wanted::Packages { program: Some(program), rest, .. } => Ok(target::of_program(tool, recipe, program, rest)),
        Wanted::Packages { tool: PackageTool { packages, .. }, program: None, rest } => {
            let programs = package_tool::programs(&setting.home, tool.image, &packages);
            let own = |name: &&String| packages.iter().any(|package| package == *name);
            let program = match programs.as_slice() {
                [only] => only,
                _ => programs.iter().find(own).ok_or_else(|| several(&packages, &programs))?,
            };
            Ok(target::of_program(tool, recipe, program.into(), rest))
        }
    }
}

/// Prefix of a Debian package as a tool.
pub(super) const PREFIX: &str = "debian:";

/// Length limit of the name of a one-off tool.
const MAX_NAME: usize = 30;

fn several(packages: &[String], programs: &[String]) -> Failure {
    let packages = packages.join(",");
    match programs.first() {
        None => Failure::usage(format!("{packages} has no program"), "--package takes several packages, separated by commas"),
        Some(first) => Failure::usage(
            format!("{packages} has several programs: {}", programs.join(", ")),
            format!("silo x --package {packages} -- {first}"),
        ),
    }
}
