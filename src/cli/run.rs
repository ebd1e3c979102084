//! `silo run`, and `silo <tool>` for short.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use silo_store::in_root;
use silo_store::lock::{self, Pin};

use crate::config::Tier;
use crate::event::Event;
use crate::grant::Port;
use crate::image::{self, cold};
use crate::launch::{self, Phase, again};
use crate::plain;
use crate::run::grammar;
use crate::run::{self, Accounts, User, Wish};
use crate::tool::projects;
use crate::tool::record::Installed;

use super::activation;
use super::cache::RESTORE;
use super::context::{Globals, Setting, setting};
use super::env;
use super::error::{self, Failure};
use super::reach::{self, Asked, Lesson};
use super::screen;
use super::sight::{self, Sight};
use super::target::{self, Target, Wanted};
use super::tier;
use super::timing::Timing;
use super::trust;
use super::ui::{self, Ui};

/// The most of an image's `/etc/passwd` or `/etc/group` that is read; Debian's have a thousand bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// What of the host a run may see.
#[derive(clap::Args, Default)]
pub struct Visible {
    /// Show this directory as the project instead of the one around the working directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_project")]
    project: Option<PathBuf>,
    /// Show no project at all
    #[arg(long)]
    no_project: bool,
    /// Show the project although it holds your home directory, keys or the whole machine
    #[arg(long)]
    expose: bool,
    /// Let the tool reach every name with a public address, and say afterwards which it needed
    #[arg(long)]
    learn: bool,
    /// Lead this port of this machine, on 127.0.0.1, to one inside; a single number is both
    #[arg(long, short, value_name = "PORT:INSIDE", value_parser = reach::port)]
    port: Vec<Port>,
    /// Let the tool ask your ssh agent for signatures
    #[arg(long)]
    ssh_agent: bool,
    /// Where the tool runs; by default what `tier` in silo.toml says, else in a machine where that is quick, else natively
    #[arg(long, value_name = "native|vm", value_parser = tier::parse)]
    tier: Option<Tier>,
    /// Boot a virtual machine anew, without a snapshot, and take none
    #[arg(long)]
    cold: bool,
    /// Say on standard error how long each phase took
    #[arg(long)]
    timing: bool,
    /// Write how long each phase took to this file, as JSON for trace viewers
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Whether nobody typed silo, so that a directory which must not be shown is left out instead of being an error.
    #[arg(skip)]
    by_shim: bool,
}

impl Visible {
    /// Says whether the project is left out.
    pub fn is_without_project(&self) -> bool {
        self.no_project
    }
}

/// Run a tool in a throw-away sandbox that sees this project and nothing else
///
/// Options of silo stand before the tool; everything after it is the tool's, byte for byte. The exit code
/// is the program's own; 125 means that silo failed, 126 and 127 that the program cannot be executed or
/// is not there, and 128+n that signal n ended it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    visible: Visible,
    /// Run this program of the tool's image instead of the tool's own
    #[arg(long, value_name = "PROGRAM")]
    shim: Option<OsString>,
    /// The tool and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "TOOL [ARGUMENTS]...")]
    words: Vec<OsString>,
    /// Whether the words after the tool are looked at for options, as older scripts have them.
    #[arg(skip = true)]
    older: bool,
}

impl Args {
    /// What `silo <tool> …` means.
    pub fn shorthand(words: Vec<OsString>) -> Args {
        Args { visible: Visible::default(), shim: None, words, older: false }
    }

    /// The same sandbox for another program of the image.
    pub fn program(visible: Visible, program: &str, tool: OsString) -> Args {
        Args { visible, shim: Some(program.into()), words: vec![tool], older: false }
    }
}

/// The exit code that says that silo failed, and not the program.
pub(super) const SILO_FAILED: u8 = 125;

/// Variables of the terminal, which say nothing of the machine and without which programs look wrong.
const TERMINAL: [&str; 3] = ["TERM", "COLORTERM", "NO_COLOR"];

pub fn run(globals: &Globals, mut args: Args) -> Result<ExitCode, Failure> {
    if args.older {
        take_older_options(&mut args);
    }
    launched(globals, args.visible, |setting, visible| {
        let mut words = args.words.into_iter();
        let word = words.next().unwrap_or_default();
        let wanted =
            Wanted { word: &word, program: args.shim, rest: words.collect(), no_project: visible.no_project, quiet: globals.quiet };
        target::find(setting, wanted)
    })
    .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// What a shim of a tool does.
pub fn shim(globals: &Globals, tool: &str, name: &str, args: Vec<OsString>) -> Result<ExitCode, Failure> {
    launched(globals, Visible { by_shim: true, ..Visible::default() }, |setting, _| target::of_shim(setting, tool, name, args))
        .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// Takes silo's options from where older scripts have them.
fn take_older_options(args: &mut Args) {
    let Some((tool, rest)) = args.words.split_first() else { return };
    let Some((older, left)) = grammar::older_options(rest) else { return };
    args.visible.timing |= older.timing;
    args.visible.ssh_agent |= older.ssh_agent;
    args.shim = args.shim.take().or(older.program);
    args.words = [tool.clone(), "--".into()].into_iter().chain(left.iter().cloned()).collect();
    ui::note("options of silo stand before the tool now; between the tool and a `--` they will be the tool's one day");
}

/// Runs what `find` finds in the sandbox of its tool.
pub(super) fn launched(
    globals: &Globals,
    mut visible: Visible,
    find: impl FnOnce(&Setting, &Visible) -> Result<Target, Failure>,
) -> Result<ExitCode, Failure> {
    let mut timing = Timing::begin(visible.timing, visible.trace.take().as_deref())?;
    let setting = setting(globals)?;
    timing.done("settings read");
    let target = find(&setting, &visible)?;
    let (tool, recipe) = (&target.tool, &target.recipe);
    if !visible.no_project {
        trust::require(&setting, Some(&tool.name))?;
    }
    timing.done("tool found");
    let _in_use = in_use(globals, &setting, tool)?;
    let learning = visible.learn.then(Lesson::begin).transpose()?;
    let own = !visible.no_project;
    let tier = visible.tier;
    let cold = visible.cold;
    let asked = Asked { ports: visible.port.clone(), ssh_agent: visible.ssh_agent };
    let project = project(&setting, visible)?;
    let user = env::user()?;
    let sight = sight::look(&setting, &tool.name, recipe.as_ref().map(|recipe| &recipe.run), project, &user)?;
    let mut spec = spec(&setting, &target, &sight, &user)?;
    let project = &sight.project;
    if let (Some(recipe), Some(project)) = (recipe, project) {
        let real = |path: &Path| sight.on_host(path);
        activation::activate(&recipe.run, project, (&image::root(&setting.home, tool.image), &real), globals.quiet, &mut spec);
    }
    reach::furnish(&setting, tool, recipe.as_ref(), own, learning.as_ref(), &mut spec)?;
    let settings = if own { &setting.settings } else { &setting.user_settings };
    reach::open_doors(settings, &tool.name, asked, &mut spec);
    let record = reach::record(&setting, &tool.name, project.as_deref(), &mut spec);
    image::touch(&setting.home, tool.image);
    if let Some(project) = project {
        projects::touch(&setting.home, project);
    }
    let warm_up = (!cold).then(|| recipe.as_ref().map_or(&[][..], |recipe| &recipe.run.warm_up));
    let _machine_in_use = tier::choose(&setting, tier.or(settings.tier), warm_up, tool, &mut spec)?;
    timing.done("sandbox described");
    let kept = screen::keep(&setting.home);
    let done = launch::launch_noting(&spec, &mut |phase| {
        timing.done(match phase {
            Phase::Ready => "machine ready",
            Phase::Started => "sandbox made",
            Phase::Ended => "program ended",
        });
    });
    drop(kept);
    timing.done("sandbox gone");
    reach::noted(&setting, record.as_deref());
    // The program's own end counts more than what cannot be told.
    if let Err(failure) = sight.tell(&setting) {
        failure.report();
    }
    if let Some(lesson) = learning {
        lesson.tell()?;
    }
    timing.tell()?;
    match done {
        Ok(exit) => {
            again::take_snapshot_apart(&spec);
            Ok(ExitCode::from(exit.code()))
        }
        Err(error) => {
            let code = error.code();
            let hint = error::launch_hint(&error);
            let failure = Failure::other(error).with_code(code);
            Err(match hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            })
        }
    }
}

/// Keeps the tool's image from being collected while it runs, and makes it runnable where it is compressed.
fn in_use(globals: &Globals, setting: &Setting, tool: &Installed) -> Result<Pin, Failure> {
    let pin = {
        let shared = lock::share(&setting.store).map_err(Failure::other)?;
        lock::pin(&setting.store, &shared, &tool.image.digest()).map_err(Failure::other)?
    };
    if image::is_there(&setting.home, tool.image) && cold::is_cold(&setting.home, tool.image) {
        restore(globals.quiet, tool)?;
    }
    Ok(pin)
}

/// Makes a compressed image runnable, in a process of its own: this one must have no other thread when it launches.
pub(super) fn restore(quiet: bool, tool: &Installed) -> Result<(), Failure> {
    Ui::new(quiet).show(Event::Note { text: format!("{} is compressed; making it ready", tool.name) });
    let mut command = Command::new(env::program()?);
    command.args(RESTORE).arg(tool.image.to_string()).arg("--quiet").stdin(Stdio::null()).stdout(Stdio::null());
    let hint = || {
        format!("`silo verify {}` says what is wrong; `silo uninstall {0}`, `silo gc --all`, `silo install {0}` make it anew", tool.name)
    };
    let status = command.status().map_err(|error| Failure::found(format!("cannot start silo itself: {error}"), hint()))?;
    if status.success() { Ok(()) } else { Err(Failure::found(format!("the image of {} could not be made ready", tool.name), hint())) }
}

/// The project to show, unless it is one that must not be shown by chance.
fn project(setting: &Setting, visible: Visible) -> Result<Option<PathBuf>, Failure> {
    if visible.no_project {
        return Ok(None);
    }
    let dir = visible.project.unwrap_or_else(|| setting.project.clone());
    let dir =
        fs::canonicalize(&dir).map_err(|error| Failure::usage(format!("{}: {error}", dir.display()), "name a directory that exists"))?;
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", dir.display()), "name a directory"));
    }
    if visible.by_shim {
        let Some(why) = trust::hidden(setting, &dir)? else { return Ok(Some(dir)) };
        ui::note(&format!("nothing of {} is shown to the tool: {why}", plain::path(&dir)));
        return Ok(None);
    }
    if !visible.expose {
        trust::showable(setting, &dir)?;
    }
    Ok(Some(dir))
}

fn spec(setting: &Setting, target: &Target, sight: &Sight, user: &User) -> Result<launch::spec::Spec, Failure> {
    let (tool, mut argv) = (&target.tool, target.argv.clone());
    let mend = || format!("silo install {}", tool.name);
    let image = image::get(&setting.home, tool.image).map_err(|error| Failure::other(error).with_hint(mend()))?;
    let image = image.ok_or_else(|| Failure::found(format!("the image of {} is gone", tool.name), mend()))?;
    if argv.is_empty() {
        argv.extend(image.command.iter().map(OsString::from));
    }
    let recipe = target.recipe.as_ref().map(|recipe| &recipe.run);
    let project = sight.project.as_deref();
    let settings = if project.is_some() { &setting.settings } else { &setting.user_settings };
    let over = settings.overrides.get(&tool.name).cloned().unwrap_or_default();
    let own = sight.env.iter().map(|(name, path)| (OsString::from(name), path.clone().into_os_string()));
    let mut vars: std::collections::BTreeMap<_, _> = own.collect();
    let passed = recipe.iter().flat_map(|run| &run.pass_env).chain(&settings.pass_env).chain(&over.pass_env);
    for name in passed.map(String::as_str).chain(TERMINAL) {
        if let Some(value) = env::var(name) {
            vars.insert(OsString::from(name), value);
        }
    }
    vars.extend(
        over.env.iter().chain(target.env.iter().map(|(name, value)| (name, value))).map(|(name, value)| (name.into(), value.into())),
    );
    let root = image::root(&setting.home, tool.image);
    let account = |name: &str| in_root::read(&root, Path::new(name), MAX_ACCOUNTS_BYTES).unwrap_or_default();
    let cwd = match (over.workdir, project) {
        (Some(workdir), _) => workdir.into(),
        (None, Some(project)) => {
            let cwd = env::cwd()?;
            if cwd.starts_with(project) { cwd } else { project.to_owned() }
        }
        (None, None) => user.home.clone(),
    };
    let accounts =
        if user.uid == 0 { Accounts::default() } else { Accounts { passwd: account("etc/passwd"), group: account("etc/group") } };
    Ok(run::spec(Wish {
        image_env: &image.env,
        argv,
        env: vars,
        project: sight.shown(),
        mounts: sight.mounts.clone(),
        read_only: sight.read_only.clone(),
        cwd,
        user,
        accounts,
        cpus: over.cpus.or_else(|| recipe.and_then(|run| run.cpus)),
        memory_mb: over.memory_mb.or_else(|| recipe.and_then(|run| run.memory_mb)).map(|mib| mib.max(target.least_memory_mb)),
        scratch_mb: over.rootfs_size_mb,
        root,
    }))
}
