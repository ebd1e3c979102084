//! Decides everything about one run.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use silo_store::in_root;

use crate::build::network::Outside;
use crate::config::{Override, Settings, Tier};
use crate::grant::Port;
use crate::image;
use crate::insight::network::Title;
use crate::launch::opened::{Links, Opened};
use crate::launch::spec::Spec;
use crate::plain;
use crate::recipe::Run;
use crate::tool::{View, projects};

use super::environment::{self, Environment, Sources};
use super::error::Error;
use super::image::Images;
use super::leases::Leases;
use super::mounts::{self, Mounts, Shown};
use super::network::{self, Asked, Lesson};
use super::spec::{Budget, Parts, assemble};
use super::target::Target;
use super::tier::{self, Boot};
use super::user::{Accounts, User};
use super::{WORKSPACE, activation, moved, owner, private};

/// The most of an image's `/etc/passwd` or `/etc/group` that is read; Debian's have a thousand bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// Everything that decides a run. What is read of it was read once, before.
pub struct Inputs<'a> {
    /// The settings, the recipes and the project that they are of.
    pub view: View<'a>,
    /// Where images are.
    pub images: Images<'a>,
    /// The caller and the machine around them.
    pub caller: &'a Caller<'a>,
    /// The tool, and the program to run of it.
    pub target: &'a Target,
    /// What was typed besides.
    pub options: Options,
    /// Takes lines for the user that --quiet does not hide.
    pub say: &'a dyn Fn(&str),
}

/// The caller and the machine around them.
pub struct Caller<'a> {
    /// Who calls.
    pub user: User,
    /// The working directory.
    pub cwd: PathBuf,
    /// The same as the user's shell names it, where that path has symlinks.
    pub typed: Option<PathBuf>,
    /// Reads a variable of the caller's environment.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// What the machine knows of the network.
    pub outside: Outside,
    /// Seconds since 1970 now.
    pub now: u64,
    /// The number of this process.
    pub pid: u32,
}

/// What was typed besides the tool.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The project to show.
    pub project: Project,
    /// Grant every name with a public address, and report which were reached.
    pub learn: bool,
    /// Ports to forward.
    pub ports: Vec<Port>,
    /// Pass the user's ssh agent.
    pub ssh_agent: bool,
    /// Variables that are set for this run.
    pub env: Vec<(String, OsString)>,
    /// Names that may be reached besides those of the settings.
    pub allow: Vec<String>,
    /// Memory to use at most, in MiB.
    pub memory_mb: Option<u64>,
    /// Processors to use at most.
    pub cpus: Option<u32>,
    /// The tier that was asked for.
    pub tier: Option<Tier>,
    /// Boot a machine without a snapshot, and take none.
    pub cold: bool,
}

/// The project to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    /// None.
    None,
    /// A directory; by default the one around the working directory.
    Of(Option<PathBuf>, Private),
}

impl Default for Project {
    fn default() -> Project {
        Project::Of(None, Private::Refuse)
    }
}

/// What to do about a directory that holds keys, logins or the machine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Fail with [`Error::Private`].
    Refuse,
    /// Show no project, and say so: nobody typed silo.
    Hide,
    /// Show it.
    Show,
}

/// Decides a run: returns its launch spec, complete, and what must be held until its end.
pub fn plan(inputs: &Inputs<'_>) -> Result<(Spec, Leases), Error> {
    let Inputs { view, images, caller, target, options, .. } = inputs;
    let tool = &target.tool;
    let mut leases = Leases { pins: vec![images.pin(tool)?], ..Leases::default() };
    let image = images.read(tool)?;
    let root = image::root(view.home, tool.image);
    let run = target.recipe.as_ref().map(|recipe| &recipe.run);

    let project = project(inputs)?;
    let settings = if project.is_some() { view.settings } else { view.user_settings };
    let over = settings.overrides.get(&tool.name).cloned().unwrap_or_default();
    let mut mounts = see(inputs, settings, run, project)?;
    mounts.notes.iter().for_each(|note| (inputs.say)(note));
    let cwd = cwd(&over, mounts.project.as_ref(), caller);
    let alias = mounts.project.as_ref().and_then(|shown| alias(inputs, &shown.path));
    if let Some(note) = mounts.project.as_ref().and_then(|shown| owner::note(&caller.user, &shown.path, shown.access)) {
        (inputs.say)(&note);
    }

    leases.lesson = options.learn.then(Lesson::begin).transpose()?;
    let reach = network::reach(network::Given {
        home: view.home,
        tool: &tool.name,
        recipe: target.recipe.as_ref(),
        settings,
        root: &root,
        outside: &caller.outside,
        learn: leases.lesson.as_ref(),
        asked: Asked { ports: options.ports.clone(), ssh_agent: ssh_agent(inputs, settings), allow: options.allow.clone() },
        sink: images.sink,
    });
    let mut network = reach.network;
    if let Some(network) = &mut network {
        let project = mounts.project.as_ref().map(|shown| shown.path.to_string_lossy().into_owned());
        let record = network::record(view.home, &Title { tool: tool.name.clone(), project, started: caller.now }, caller.pid);
        leases.record = Some(record.into.clone());
        network.record = Some(record);
    }

    let mut env = environment::environment(&Sources {
        image: &image.env,
        user: &caller.user,
        kept: &mounts.env,
        settings,
        recipe: run,
        caller: caller.variable,
        over: &over,
        command: &target.env,
    });
    env.extend(options.env.iter().map(|(name, value)| (OsString::from(name), value.clone())));
    for lost in activate(run, mounts.project.as_ref(), &cwd, &root, &mut env) {
        (images.sink)(crate::event::Event::Note { text: lost });
    }
    if let (Some(alias), Some(shown)) = (&alias, &mounts.project)
        && let Ok(inner) = cwd.strip_prefix(&shown.path)
    {
        // As its shell would tell it.
        env.entry("PWD".into()).or_insert_with(|| alias.components().chain(inner.components()).collect::<PathBuf>().into());
    }
    environment::add_network(reach.env, network.as_ref(), &mut env);

    let budget = budget(&over, run, options, target.least_memory_mb);
    let machine = match options.tier.or(settings.tier).map_or_else(|| tier::usual(view.home), Ok)? {
        Tier::Native => None,
        Tier::Vm => {
            let boot = if options.cold { Boot::Cold } else { Boot::Warm(run.map_or(&[][..], |run| &run.warm_up)) };
            let (machine, pins) = tier::of_run(*images, tool, boot, budget.cpus)?;
            leases.pins.extend(pins);
            Some(machine)
        }
    };

    image::touch(view.home, tool.image);
    if let Some(shown) = &mounts.project {
        projects::touch(view.home, &shown.path);
    }
    let spec = assemble(Parts {
        accounts: accounts(&caller.user, &root),
        argv: match target.argv.is_empty() {
            true => image.command.iter().chain(image.arguments.iter().flatten()).map(OsString::from).collect(),
            false => target.argv.clone(),
        },
        root,
        env,
        mounts: std::mem::take(&mut mounts.mounts),
        read_only: std::mem::take(&mut mounts.read_only),
        overlays: std::mem::take(&mut mounts.overlays),
        hidden: std::mem::take(&mut mounts.hidden),
        removable: std::mem::take(&mut mounts.removable),
        cwd,
        user: &caller.user,
        budget,
        network,
        network_files: reach.files,
        alias: alias.zip(mounts.project.as_ref().map(|shown| shown.path.clone())),
        machine,
    });
    leases.in_use = mounts.in_use;
    leases.opened = mounts.opened;
    leases.project = mounts.project;
    Ok((spec, leases))
}

/// The path by which the user knows the project, where symlinks lead from there to it and not the other way round.
fn alias(inputs: &Inputs<'_>, project: &Path) -> Option<PathBuf> {
    let named = match &inputs.options.project {
        Project::Of(Some(dir), _) if dir.is_absolute() && !dir.components().any(|part| part == Component::ParentDir) => Some(dir),
        _ => inputs.caller.typed.as_ref(),
    };
    let leads_there = |dir: &&Path| std::fs::canonicalize(dir).is_ok_and(|real| real == project);
    let alias = named?.ancestors().find(leads_there)?;
    let is_apart = !alias.starts_with(project) && !project.starts_with(alias) && !alias.starts_with(WORKSPACE);
    is_apart.then(|| alias.components().collect())
}

/// Opens the project to show, unless it is one that must not be shown by chance.
fn project(inputs: &Inputs<'_>) -> Result<Option<Opened>, Error> {
    let Project::Of(dir, private) = &inputs.options.project else { return Ok(None) };
    let dir = dir.as_deref().unwrap_or(inputs.view.project);
    let absolute = inputs.caller.cwd.join(dir);
    let canonical = std::fs::canonicalize(&absolute).map_err(|source| Error::Directory { path: dir.to_owned(), source })?;
    // Its path has no symlinks now; if it gets one, nothing is opened.
    let opened = Opened::open(&canonical, Links::Refuse)?;
    if !opened.is_dir() {
        return Err(Error::usage(format!("{} is not a directory", dir.display()), "name a directory"));
    }
    if *private == Private::Show {
        return Ok(Some(opened));
    }
    let Some(why) = private::hidden(inputs.view.home, &inputs.caller.user.home, opened.path())? else { return Ok(Some(opened)) };
    if *private == Private::Refuse {
        return Err(Error::Private { dir: opened.path().to_owned(), why });
    }
    (inputs.say)(&format!("nothing of {} is shown to the tool: {why}", plain::path(opened.path())));
    Ok(None)
}

fn see(inputs: &Inputs<'_>, settings: &Settings, run: Option<&Run>, project: Option<Opened>) -> Result<Mounts, Error> {
    let view = &inputs.view;
    let is_own = project.as_ref().is_some_and(|project| project.path() == view.project);
    let given = mounts::Given {
        home: view.home,
        settings,
        tool: &inputs.target.tool.name,
        run,
        project_id: settings.project_id.as_deref().filter(|_| is_own),
        has_recipes: view.places.project.is_some(),
        user_home: &inputs.caller.user.home,
    };
    mounts::find(&given, project, || {
        if let Some(note) = moved::settle(view.home, inputs.images.store, view.project)? {
            (inputs.say)(&note);
        }
        Ok(())
    })
}

/// The directory to start in: the one of the settings, else the caller's where it is seen, else the project or the home.
fn cwd(over: &Override, project: Option<&Shown>, caller: &Caller<'_>) -> PathBuf {
    match (&over.workdir, project) {
        (Some(workdir), _) => workdir.into(),
        (None, Some(shown)) if caller.cwd.starts_with(&shown.path) => caller.cwd.clone(),
        (None, Some(shown)) => shown.path.clone(),
        (None, None) => caller.user.home.clone(),
    }
}

fn activate(run: Option<&Run>, project: Option<&Shown>, cwd: &Path, root: &Path, env: &mut Environment) -> Vec<String> {
    let (Some(run), Some(shown)) = (run, project) else { return Vec::new() };
    activation::activate(run, &shown.path, cwd, (root, &|path| shown.on_host(path)), env)
}

/// Returns the socket of the user's ssh agent, where it may be asked and is there.
fn ssh_agent(inputs: &Inputs<'_>, settings: &Settings) -> Option<PathBuf> {
    if !inputs.options.ssh_agent && !settings.passes_ssh_agent(&inputs.target.tool.name) {
        return None;
    }
    let socket = (inputs.caller.variable)("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from);
    let why = match socket {
        None => "SSH_AUTH_SOCK is not set".to_owned(),
        Some(socket) if !socket.exists() => format!("nothing is at {}", plain::path(&socket)),
        Some(socket) => return Some(socket),
    };
    (inputs.say)(&format!("there is no ssh agent to pass: {why}\n  try: eval \"$(ssh-agent)\" && ssh-add"));
    None
}

fn budget(over: &Override, run: Option<&Run>, asked: &Options, least_memory_mb: u64) -> Budget {
    Budget {
        cpus: asked.cpus.or(over.cpus).or_else(|| run.and_then(|run| run.cpus)),
        memory_mb: asked.memory_mb.or(over.memory_mb).or_else(|| run.and_then(|run| run.memory_mb)).map(|mib| mib.max(least_memory_mb)),
        scratch_mb: over.rootfs_size_mb,
    }
}

/// Reads the image's accounts; root needs none.
fn accounts(user: &User, root: &Path) -> Accounts {
    if user.uid == 0 {
        return Accounts::default();
    }
    let read = |name: &str| in_root::read(root, Path::new(name), MAX_ACCOUNTS_BYTES).unwrap_or_default();
    Accounts { passwd: read("etc/passwd"), group: read("etc/group") }
}
