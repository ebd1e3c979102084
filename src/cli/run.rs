//! `silo run`, and its short form `silo <tool>`.

use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::run;
use crate::run::explain::{self, Facts};
use crate::run::grammar;
use crate::run::leases::Leases;
use crate::run::plan::{self, Inputs, Options, Private, Project};
use crate::run::target::{self, ParsedWords, Target};
use crate::run::{invisible_files, lost_installs, private_dirs, reviewing, rights_record};
use silo_base::grant::{Grant, Port};
use silo_base::sanitize;
use silo_base::system::Arch;
use silo_base::units;
use silo_insight::runs::Failed;
use silo_launch::spec::Spec;
use silo_launch::{Exit, Phase, reexec};
use silo_model::config::{Review, Tier};
use silo_model::recipe::catalog;
use silo_tool::definition::Scope;
use silo_tool::shim::fall_through::ChoiceReason;

use super::apart;
use super::captured_stderr::CapturedStderr;
use super::context::{self, Globals, Setting};
use super::deciding;
use super::env;
use super::error::{self, Failure};
use super::flags::Verbosity;
use super::legacy;
use super::restore_tty;
use super::script;
use super::tier;
use super::timing::Timing;
use super::trust;
use super::ui;

/// Host resources that a run may use.
#[derive(clap::Args, Default)]
pub struct HostArgs {
    /// Use this directory as the project, instead of the one around the working directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_project")]
    project: Option<PathBuf>,
    /// Run without a project
    #[arg(long)]
    no_project: bool,
    /// Show the project although it holds your home directory, keys or the whole machine
    #[arg(long)]
    expose: bool,
    /// Allow all hosts with a public address, and list the used ones afterwards
    #[arg(long)]
    learn: bool,
    /// Forward a port of this machine, on 127.0.0.1, to a port inside; one number is both
    #[arg(long, short, value_name = "PORT:INSIDE", value_parser = port)]
    port: Vec<Port>,
    /// Let the tool use your ssh agent
    #[arg(long)]
    ssh_agent: bool,
    /// Set a variable for this run; without a value, pass your own
    #[arg(long, short, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Also allow connections to this host: name, name:port, *.name or an ecosystem such as @pypi
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// Memory limit of this run, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// CPU limit of this run
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<NonZero<u32>>,
    /// End this run after this time, such as 90s, 30m or 2h, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    max_time: Option<u64>,
    /// End this run after this amount of data over the network, such as 500M, with exit code 124
    #[arg(long, value_name = "SIZE", value_parser = network_size)]
    max_network: Option<u64>,
    /// Keep changes of the project in a private layer, which `silo review` lists
    #[arg(long, value_name = "always|risky|never", num_args = 0..=1, require_equals = true, default_missing_value = "always", value_parser = decision)]
    review: Option<Review>,
    /// The tier; by default `tier` of silo.toml, else vm if its image is installed and the processor supports virtual machines, else native
    #[arg(long, value_name = "native|vm", value_parser = tier::parse)]
    tier: Option<Tier>,
    /// Lock and build the project's tools first if one is missing; on a terminal this is the default
    #[arg(long, conflicts_with = "no_project")]
    sync: bool,
    /// Boot the virtual machine without a snapshot, and take no snapshot
    #[arg(long)]
    cold: bool,
    /// Print the duration of each phase on standard error
    #[arg(long)]
    timing: bool,
    /// Write the duration of each phase to this file, as JSON for trace viewers
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Set if started through a shim: a directory that must not be shown is then left out instead of an error.
    #[arg(skip)]
    by_shim: Option<ChoiceReason>,
}

impl HostArgs {
    /// Returns the definitions that count: without a project, only those of the user.
    pub fn scope(&self) -> Scope {
        if self.no_project { Scope::Global } else { Scope::Project }
    }

    /// Returns the directory of `--project`.
    pub fn named_project(&self) -> Option<&Path> {
        self.project.as_deref()
    }

    fn options(self, allow: Vec<Grant>) -> Options {
        let private = match (self.by_shim.is_some(), self.expose) {
            (true, _) => Private::Hide,
            (false, true) => Private::Show,
            (false, false) => Private::Refuse,
        };
        Options {
            project: if self.no_project { Project::None } else { Project::Of(self.project, private) },
            learn: self.learn,
            ports: self.port,
            ssh_agent: self.ssh_agent,
            env: self
                .env
                .into_iter()
                .filter_map(|(name, value)| Some((name.clone(), value.map(Into::into).or_else(|| env::var(&name))?)))
                .collect(),
            allow,
            memory_mb: self.memory,
            time_seconds: self.max_time,
            network_mb: self.max_network,
            cpus: self.cpus.map(NonZero::get),
            review: self.review,
            tier: self.tier,
            cold: self.cold,
        }
    }
}

/// Parses `NAME` or `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    silo_model::recipe::check::check_variables("--env", [name.to_owned()].iter()).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value))
}

/// Parses a decision about changes.
fn decision(text: &str) -> Result<Review, String> {
    let known = Review::WORDS.iter().find(|(word, _)| *word == text);
    known.map(|(_, review)| *review).ok_or_else(|| "write always, risky or never".to_owned())
}

/// Parses a memory size; returns MiB.
fn memory(text: &str) -> Result<u64, String> {
    let mib = units::parse_size(text).map_err(|error| error.to_string())? >> 20;
    if mib < LEAST_MEMORY_MIB { Err(format!("no program starts in less than {LEAST_MEMORY_MIB}M")) } else { Ok(mib) }
}

/// Parses a number of processors.
fn cpus(text: &str) -> Result<NonZero<u32>, String> {
    text.parse().map_err(|_| "write a whole number, at least 1".to_owned())
}

/// Parses a time limit.
fn seconds(text: &str) -> Result<u64, String> {
    // A number alone is in days elsewhere.
    let time = if text.ends_with(|letter: char| letter.is_ascii_alphabetic()) { units::parse_age(text).ok() } else { None };
    time.map(|time| time.as_secs())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "write a number and s, m, h, d or w, such as 90s or 30m".to_owned())
}

/// Parses a limit of data over the network; returns MiB.
fn network_size(text: &str) -> Result<u64, String> {
    let bytes = units::parse_size(text).map_err(|error| error.to_string())?;
    let mib = bytes >> 20;
    if mib == 0 { Err("the smallest limit is 1M".to_owned()) } else { Ok(mib) }
}

/// A smaller size is taken for a wrong unit.
const LEAST_MEMORY_MIB: u64 = 4;

/// Run a tool in a throw-away sandbox that sees this project and nothing else
///
/// Silo's options come before the tool; everything after it goes to the tool unchanged. The exit code is the program's own. 124 means that
/// the run reached a limit of time or network, 125 that silo failed, 126 that the program cannot be executed, 127 that it was not found, and 128+n that signal n ended it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    visible: HostArgs,
    /// Run this program of the tool's image instead of the tool's own command
    #[arg(long, value_name = "PROGRAM")]
    shim: Option<OsString>,
    /// The tool and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "TOOL [ARGUMENTS]...")]
    words: Vec<OsString>,
    /// True if options after the tool are still accepted, as older scripts have them.
    #[arg(skip = true)]
    older: bool,
}

impl Args {
    /// Arguments of `silo <tool> …`.
    pub fn shorthand(words: Vec<OsString>) -> Args {
        Args { visible: HostArgs::default(), shim: None, words, older: false }
    }

    /// The same sandbox, for another program of the image.
    pub fn program(visible: HostArgs, program: &str, tool: OsString) -> Args {
        Args { visible, shim: Some(program.into()), words: vec![tool], older: false }
    }
}

/// Exit code of a failure of silo itself.
pub(super) const SILO_FAILED: u8 = 125;

/// Parses a port pair.
pub(super) fn port(text: &str) -> Result<Port, String> {
    Port::parse(text).ok_or_else(|| "write 8080:80, or 8080 for both; ports are 1 to 65535".to_owned())
}

pub fn run(globals: &Globals, mut args: Args) -> Result<ExitCode, Failure> {
    if args.older {
        take_older_options(&mut args);
    }
    launched(globals, args.visible, |setting, visible| {
        let typed = !args.older;
        let mut words = args.words.iter().cloned();
        let word = words.next().unwrap_or_default();
        let hint = hints(Verbosity::of_flag(globals.quiet));
        let wanted = ParsedWords { word: &word, program: args.shim.clone(), rest: words.collect(), scope: visible.scope(), hint: &hint };
        let target = target::find(setting.view(), wanted).map_err(|error| if typed { no_tool(error, &word) } else { error.into() })?;
        script::with_dependencies(globals, setting, target)
    })
    .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// The error for a first word that is neither a tool nor a command; suggests a command.
fn no_tool(error: run::error::Error, word: &OsStr) -> Failure {
    use run::error::Error as E;
    let is_unknown = matches!(error, E::Recipe(catalog::Error::Unknown { .. }));
    let meant = word.to_str().filter(|_| is_unknown || matches!(error, E::Missing { .. })).and_then(legacy::meant);
    match meant {
        Some(command) if is_unknown => {
            let what = format!("silo has no command \"{}\", and no tool has that name", word.display());
            Failure::usage(what, format!("did you mean `silo {command}`?"))
        }
        // A tool has this command, but it is not installed.
        Some(command) => Failure::from(error).or_hint(&format!("`silo {command}` for the command of silo")),
        None => error.into(),
    }
}

/// Runs the shim `name` of a tool; `why` is the reason why this tool got the call.
pub fn shim(globals: &Globals, (tool, why): (&str, ChoiceReason), name: &str, args: Vec<OsString>) -> Result<ExitCode, Failure> {
    launched(globals, HostArgs { by_shim: Some(why), ..HostArgs::default() }, |setting, _| {
        Ok(target::of_shim(setting.view(), tool, name, args.clone())?)
    })
    .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// Moves Silo's options from after the tool, as older scripts have them.
fn take_older_options(args: &mut Args) {
    let Some((tool, rest)) = args.words.split_first() else { return };
    let Some((older, left)) = grammar::older_options(rest) else { return };
    args.visible.timing |= older.timing;
    args.visible.ssh_agent |= older.ssh_agent;
    args.shim = args.shim.take().or(older.program);
    args.words = [tool.clone(), "--".into()].into_iter().chain(left.iter().cloned()).collect();
    ui::note("put options of silo before the tool; a later version will pass options between the tool and `--` to the tool");
}

/// Prints hints, unless `--quiet` is set.
pub(super) fn hints(verbosity: Verbosity) -> impl Fn(&str) {
    move |text| {
        if verbosity == Verbosity::Normal {
            ui::note(text);
        }
    }
}

/// Runs the target that `find` returns, in the sandbox of its tool.
pub(super) fn launched(
    globals: &Globals,
    mut visible: HostArgs,
    find: impl Fn(&Setting, &HostArgs) -> Result<Target, Failure>,
) -> Result<ExitCode, Failure> {
    let mut timing = Timing::begin(visible.trace.take().as_deref())?;
    if visible.timing {
        timing.print_durations();
    }
    let mut setting = context::setting(globals)?;
    timing.done("settings read");
    let allow = silo_model::recipe::check::check_grants("--allow", &visible.allow)
        .map_err(|error| Failure::usage(error.to_string(), "as in --allow db.example.com:5432"))?;
    let target = match find(&setting, &visible) {
        Err(failure) if is_unsynced(&failure, &visible) => {
            sync(globals, &setting, &failure)?;
            setting = context::setting(globals)?;
            find(&setting, &visible)?
        }
        found => found?,
    };
    if !visible.no_project {
        trust::require(&setting, Some(&target.tool.name))?;
    }
    timing.done("tool found");
    let own = !visible.no_project;
    let by_shim = visible.by_shim;
    let (spec, mut leases) = planned(&setting, &target, visible.options(allow))?;
    note_invisible_script(&setting, &target, &spec, by_shim)?;
    if own {
        leases.begin(&setting.home, &setting.files).map_err(Failure::from)?;
    }
    leases.account(rights_record::of(
        &setting.home,
        &target,
        &spec,
        &rights_record::Circumstances {
            project: leases.project(),
            now: u64::try_from(env::now()).unwrap_or_default(),
            pid: std::process::id(),
        },
    ));
    timing.done("sandbox described");
    let (done, said) = launch(&setting, &spec, &mut leases, &mut timing);
    report(&setting, leases, done.as_ref().copied().map_err(Failed::of));
    if let Ok(exit) = &done {
        explain(&setting, &target, &spec, *exit, &said);
    }
    timing.print()?;
    silo_launch::reap();
    match done {
        Ok(exit) => {
            reexec::take_snapshot_apart(&spec);
            exit.end_by_signal();
            Ok(ExitCode::from(exit.code()))
        }
        Err(error) => {
            let code = error.code();
            let hint = layer_hint(&spec, &error).or_else(|| error::launch_hint(&error));
            let failure = Failure::other(error).with_code(code);
            Err(match hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            })
        }
    }
}

/// True if a tool of the project has no image and may get one now.
fn is_unsynced(failure: &Failure, visible: &HostArgs) -> bool {
    failure.hint() == Some(error::SYNC) && !visible.no_project && (visible.sync || ui::is_asking())
}

/// Locks and builds the project's tools, after an approval of its permissions.
fn sync(globals: &Globals, setting: &Setting, failure: &Failure) -> Result<(), Failure> {
    trust::require(setting, None)?;
    ui::note(&format!("{}; building it", failure.message()));
    apart::run(globals, "sync", [setting.project.clone().into()], ("the project's tools could not be built", error::SYNC))
}

/// Returns the hint for an overlay of review mode that could not be mounted.
fn layer_hint(spec: &Spec, error: &silo_launch::error::Error) -> Option<String> {
    let is_reviewed = spec.is_reviewed();
    match error {
        silo_launch::error::Error::Setup { step, source } if is_reviewed && step.starts_with("mounting a layer") => {
            Some(reviewing::hint(source))
        }
        _ => None,
    }
}

/// Plans the run. Asks first if a directory needs confirmation.
fn planned(setting: &Setting, target: &Target, options: Options) -> Result<(Spec, Leases), Failure> {
    let caller = env::caller()?;
    setting.images(|images| -> Result<_, Failure> {
        let mut inputs = Inputs { view: setting.view(), images, caller: &caller, target, options, say: &ui::note };
        match plan::plan(&inputs) {
            Err(run::error::Error::Private { dir, why }) => {
                trust::confirm_private(setting, &dir, why)?;
                if let Project::Of(_, private) = &mut inputs.options.project {
                    *private = Private::Show;
                }
                Ok(plan::plan(&inputs)?)
            }
            planned => Ok(planned?),
        }
    })
}

/// Notes that the script on the command line is not visible in the sandbox, and suggests alternatives.
fn note_invisible_script(setting: &Setting, target: &Target, spec: &Spec, by_shim: Option<ChoiceReason>) -> Result<(), Failure> {
    let Some(script) = invisible_files::script(spec, &env::cwd()?, &target.args) else { return Ok(()) };
    let tool = &target.tool.name;
    let mut ways = Vec::new();
    let dir = script.parent().and_then(|dir| std::fs::canonicalize(dir).ok());
    // Suggest the script's directory only if it may be shown.
    if let Some(dir) = dir.filter(|dir| env::home().is_ok_and(|home| private_dirs::why_private(&setting.home, &home, dir).is_none())) {
        ways.push(format!("cd {} and run it there", sanitize::path(&dir)));
    }
    match by_shim {
        Some(ChoiceReason::Pinned) => {
            ways.push(format!("`silo unpin {tool}` gives the name back to this machine's own {tool} wherever no project uses it"));
            ways.push(format!("`silo install --projects-only {tool}` does the same at install time"));
        }
        Some(ChoiceReason::Project | ChoiceReason::User) => ways.push("name the machine's own program by its full path".to_owned()),
        None => ways.push(format!("silo run --project DIR {tool} … shows another directory")),
    }
    let shown = match spec.mounts.iter().any(|mount| mount.guest == setting.project) {
        true => format!("shows {} and none of your other files", sanitize::path(&setting.project)),
        false => "shows none of your files".to_owned(),
    };
    ui::note(&format!("{} is not in the sandbox of {tool}, which {shown}\n  try: {}", sanitize::path(&script), ways.join("\n   or: ")));
    Ok(())
}

/// Launches the program; returns its exit and its last output.
fn launch(setting: &Setting, spec: &Spec, leases: &mut Leases, timing: &mut Timing) -> (Result<Exit, silo_launch::error::Error>, Vec<u8>) {
    let mut kept = None;
    let mut heard = CapturedStderr::begin();
    let pipe = heard.as_ref().and_then(CapturedStderr::pipe);
    let done = silo_launch::launch_noting(spec, pipe, &mut |phase| match phase {
        Phase::Ready => timing.done("machine ready"),
        // Watching the project needs a thread.
        Phase::Lasting => leases.started(),
        Phase::Started => {
            leases.recorded(&setting.files);
            timing.done("sandbox made");
        }
        Phase::Printed => heard.iter_mut().for_each(CapturedStderr::start),
        Phase::Ended => timing.done("program ended"),
        // Save the terminal's settings before they change for the first time.
        Phase::Terminal => {
            kept.get_or_insert_with(|| restore_tty::keep(&setting.home));
        }
    });
    drop(kept);
    let said = heard.map_or_else(silo_launch::printed, CapturedStderr::finish);
    timing.done("sandbox gone");
    (done, said)
}

/// Explains error messages of a failed program, and notes a lost install.
fn explain(setting: &Setting, target: &Target, spec: &Spec, exit: Exit, said: &[u8]) {
    let tool = &target.tool.name;
    if exit == Exit::Code(0) {
        lost_installs::lost(spec, tool).iter().for_each(|lost| ui::note(lost));
        return;
    }
    let places = spec.env.get(OsStr::new("PATH")).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let root = spec.root.lower.first();
    let in_image =
        |dir: &str, name: &str| root.is_some_and(|root| root.join(dir.trim_start_matches('/')).join(name).symlink_metadata().is_ok());
    let has = |name: &str| {
        places
            .split(':')
            .any(|dir| in_image(dir, name) || Path::new(dir).starts_with(&setting.project) && Path::new(dir).join(name).exists())
    };
    let allow = spec.network.as_ref().map(|network| network.allow.clone()).unwrap_or_default();
    let grants = |name: &str| allow.iter().any(|grant| grant.as_str().starts_with(name));
    let is_proxy = |name: &str| ["http_proxy", "https_proxy", "all_proxy"].contains(&name.to_ascii_lowercase().as_str());
    let text = |value: &OsString| value.to_string_lossy().into_owned();
    let proxies =
        spec.env.iter().map(|(name, value)| (text(name), text(value))).filter(|(name, value)| is_proxy(name) && !value.is_empty());
    let excluded: Vec<PathBuf> =
        spec.removable.iter().filter_map(|guest| Some(guest.strip_prefix(run::WORKSPACE).ok()?.to_owned())).collect();
    let suite = match &target.recipe {
        Some(recipe) if recipe.image.is_some() => None,
        Some(recipe) => Some(recipe.debian.suite.as_str()),
        None => Some("trixie"),
    };
    let arch = spec.machine.as_ref().map_or_else(Arch::host, |machine| machine.arch);
    let has_package =
        |name: &str| [format!("{name}.list"), format!("{name}:{arch}.list")].iter().any(|list| in_image("/var/lib/dpkg/info", list));
    let facts = Facts {
        tool,
        has: &has,
        suite,
        has_package: &has_package,
        grants: &grants,
        excluded: &excluded,
        is_reviewed: spec.is_reviewed(),
        abi: spec.abi,
        is_in_vm: spec.machine.is_some(),
        proxies: proxies.collect(),
    };
    explain::explain(&sanitize::said_lines(said), &facts).iter().for_each(|line| ui::note(line));
}

/// Completes the record of the run, and reports its changes.
fn report(setting: &Setting, mut leases: Leases, exit: Result<Exit, Failed>) {
    if let Some(reviewing) = leases.take_review() {
        deciding::after_run(setting, reviewing);
    }
    leases.close(&setting.home, exit).iter().for_each(|report| ui::note(report));
}
