//! `silo run`, and `silo <tool>` for short.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Tier;
use crate::grant::Port;
use crate::launch::spec::Spec;
use crate::launch::{self, Exit, Phase, again};
use crate::run;
use crate::run::grammar;
use crate::run::leases::Leases;
use crate::run::plan::{self, Inputs, Options, Private, Project};
use crate::run::target::{self, Target, Wanted};

use super::context::{Globals, Setting, setting};
use super::env;
use super::error::{self, Failure};
use super::screen;
use super::tier;
use super::timing::Timing;
use super::trust;
use super::ui;

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
    #[arg(long, short, value_name = "PORT:INSIDE", value_parser = port)]
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

    fn options(self) -> Options {
        let private = match (self.by_shim, self.expose) {
            (true, _) => Private::Hide,
            (false, true) => Private::Show,
            (false, false) => Private::Refuse,
        };
        Options {
            project: if self.no_project { Project::None } else { Project::Of(self.project, private) },
            learn: self.learn,
            ports: self.port,
            ssh_agent: self.ssh_agent,
            tier: self.tier,
            cold: self.cold,
        }
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

/// Reads a pair of ports as it is typed.
pub(super) fn port(text: &str) -> Result<Port, String> {
    Port::parse(text).ok_or_else(|| "write 8080:80, or 8080 for both; ports are 1 to 65535".to_owned())
}

pub fn run(globals: &Globals, mut args: Args) -> Result<ExitCode, Failure> {
    if args.older {
        take_older_options(&mut args);
    }
    launched(globals, args.visible, |setting, visible| {
        let mut words = args.words.into_iter();
        let word = words.next().unwrap_or_default();
        let hint = hints(globals.quiet);
        let wanted = Wanted { word: &word, program: args.shim, rest: words.collect(), no_project: visible.no_project, hint: &hint };
        Ok(target::find(setting.view(), wanted)?)
    })
    .map_err(|failure| failure.or_code(SILO_FAILED))
}

/// What a shim of a tool does.
pub fn shim(globals: &Globals, tool: &str, name: &str, args: Vec<OsString>) -> Result<ExitCode, Failure> {
    launched(globals, Visible { by_shim: true, ..Visible::default() }, |setting, _| Ok(target::of_shim(setting.view(), tool, name, args)?))
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

/// Shows hints, unless only errors are wanted.
pub(super) fn hints(quiet: bool) -> impl Fn(&str) {
    move |text| {
        if !quiet {
            ui::note(text);
        }
    }
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
    if !visible.no_project {
        trust::require(&setting, Some(&target.tool.name))?;
    }
    timing.done("tool found");
    let own = !visible.no_project;
    let (spec, mut leases) = planned(&setting, &target, visible.options())?;
    if own {
        leases.begin(&setting.home, &setting.files).map_err(Failure::from)?;
    }
    timing.done("sandbox described");
    let done = launch(&setting, &spec, &mut leases, &mut timing);
    report(&setting, leases);
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

/// Plans the run; where a directory must be confirmed first, it is asked about.
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

fn launch(setting: &Setting, spec: &Spec, leases: &mut Leases, timing: &mut Timing) -> Result<Exit, launch::error::Error> {
    let kept = screen::keep(&setting.home);
    let done = launch::launch_noting(spec, &mut |phase| {
        if phase == Phase::Started {
            leases.started();
        }
        timing.done(match phase {
            Phase::Ready => "machine ready",
            Phase::Started => "sandbox made",
            Phase::Ended => "program ended",
        });
    });
    drop(kept);
    timing.done("sandbox gone");
    done
}

/// Reports what the run changed.
fn report(setting: &Setting, leases: Leases) {
    leases.close(&setting.home).iter().for_each(|report| ui::note(report));
}
