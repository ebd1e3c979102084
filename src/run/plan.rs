//! Decides everything about one run.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use silo_store::resolve_in_root;

use silo_base::grant::{Grant, Port};
use silo_base::sanitize;
use silo_build::host_network::HostNetwork;
use silo_build::image;
use silo_insight::network::Title;
use silo_launch::open_checked::{Links, OpenedPath};
use silo_launch::spec::{Abi, Spec};
use silo_model::config::merge::smaller;
use silo_model::config::{Override, Review, RunLimits, Settings, Tier};
use silo_model::recipe::Run;
use silo_tool::{View, projects};

use super::environment::{self, Environment, Sources};
use super::error::Error;
use super::image::Images;
use super::leases::Leases;
use super::mounts::{self, MountedProject, Mounts};
use super::network::{self, LearnRun, RequestedGrants};
use super::spec::{Budget, Parts, assemble};
use super::target::Target;
use super::tier::{self, Boot};
use super::user::{Accounts, User};
use super::{WORKSPACE, activation, first_start, moved_project, private_dirs, project_owner, secrets, terminfo, time_zone};

/// Maximum size of an image's `/etc/passwd` or `/etc/group`; Debian's have a thousand bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1 << 20;

/// Inputs of a run. All files among them were read once, before.
pub struct Inputs<'a> {
    /// The settings, the recipes and their project.
    pub view: View<'a>,
    /// Access to images.
    pub images: Images<'a>,
    /// The caller and the host environment.
    pub caller: &'a Caller<'a>,
    /// The tool, and its program to run.
    pub target: &'a Target,
    /// Options of the command line.
    pub options: Options,
    /// Prints lines that `--quiet` does not hide.
    pub say: &'a dyn Fn(&str),
}

/// The caller and the host environment.
pub struct Caller<'a> {
    /// Calling user.
    pub user: User,
    /// Working directory.
    pub cwd: PathBuf,
    /// The working directory as the user's shell spells it, if that path has symlinks.
    pub typed: Option<PathBuf>,
    /// Reads one of the caller's variables.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Proxies and CA certificates of the host.
    pub outside: HostNetwork,
    /// The host's directories with descriptions of terminals.
    pub terminfo: Vec<PathBuf>,
    /// The host's time zones.
    pub zones: time_zone::Host,
    /// Current time in seconds since 1970.
    pub now: u64,
    /// Id of this process.
    pub pid: u32,
}

/// Options of the command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Project to show.
    pub project: Project,
    /// Grant all public addresses, and report the reached hosts.
    pub learn: bool,
    /// Port forwards.
    pub ports: Vec<Port>,
    /// Pass the user's ssh agent.
    pub ssh_agent: bool,
    /// Variables for this run.
    pub env: Vec<(String, OsString)>,
    /// Allowed hosts, in addition to the settings.
    pub allow: Vec<Grant>,
    /// Memory limit in MiB.
    pub memory_mb: Option<u64>,
    /// Time limit in seconds.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of data over the network.
    pub network_mb: Option<u64>,
    /// CPU limit.
    pub cpus: Option<u32>,
    /// Requested decision about changes of the project.
    pub review: Option<Review>,
    /// Requested tier.
    pub tier: Option<Tier>,
    /// Boot the VM without a snapshot, and take none.
    pub cold: bool,
}

/// The project to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    /// No project.
    None,
    /// A directory; by default the one around the working directory.
    Of(Option<PathBuf>, Private),
}

impl Default for Project {
    fn default() -> Project {
        Project::Of(None, Private::Refuse)
    }
}

/// Handling of a directory with keys, logins or the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Fail with [`Error::Private`].
    Refuse,
    /// Show no project, and print a note. For calls through a shim.
    Hide,
    /// Show it.
    Show,
}

/// Decides a run. Returns the complete launch spec, and the leases to hold until the end.
pub fn plan(inputs: &Inputs<'_>) -> Result<(Spec, Leases), Error> {
    let Inputs { view, images, caller, target, options, .. } = inputs;
    let tool = &target.tool;
    let mut leases = Leases { image_locks: vec![images.lock(tool)?], ..Leases::default() };
    let image = images.read(tool)?;
    let root = image::root(view.home, tool.image);
    let run = target.recipe.as_ref().map(|recipe| &recipe.run);

    let project = project(inputs)?;
    let settings = if project.is_some() { view.settings } else { view.user_settings };
    let over = settings.overrides.get(&tool.name).cloned().unwrap_or_default();
    // A recipe's default is for systems with review mode. Settings and options ask for it, and fail without it.
    let by_recipe = run.and_then(|run| run.review).filter(|_| silo_launch::HAS_NATIVE);
    let review = options.review.unwrap_or_else(|| settings.review(&tool.name, by_recipe));
    let mut mounts = see(inputs, (settings, review), run, project)?;
    mounts.notes.iter().for_each(|note| (inputs.say)(note));
    let cwd = cwd(&over, mounts.project.as_ref(), caller);
    let alias = mounts.project.as_ref().and_then(|shown| alias(inputs, &shown.path));
    if let Some(note) = mounts.project.as_ref().and_then(|shown| project_owner::note(&caller.user, &shown.path, shown.access)) {
        (inputs.say)(&note);
    }

    let secrets = secrets::of(&secrets::SecretInputs {
        settings: view.user_settings,
        tool: &tool.name,
        user_home: &caller.user.home,
        roots: caller.outside.bundle(),
    })?;
    leases.lesson = options.learn.then(LearnRun::begin).transpose()?;
    let reach = network::reach(network::NetworkInputs {
        home: view.home,
        tool: &tool.name,
        recipe: target.recipe.as_ref(),
        settings,
        root: &root,
        outside: &caller.outside,
        learn: leases.lesson.as_ref(),
        asked: RequestedGrants { ports: options.ports.clone(), ssh_agent: ssh_agent(inputs, settings), allow: options.allow.clone() },
        secrets: secrets.clone(),
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
        secrets: secrets.as_ref().map_or(&[], |secrets| secrets.list.as_slice()),
        command: &target.env,
    });
    env.extend(options.env.iter().map(|(name, value)| (OsString::from(name), value.clone())));
    for lost in activate(run, mounts.project.as_ref(), &cwd, &root, &mut env) {
        (images.sink)(silo_base::event::Event::Note { text: lost });
    }
    if let (Some(alias), Some(shown)) = (&alias, &mounts.project)
        && let Ok(inner) = cwd.strip_prefix(&shown.path)
    {
        // As the caller's shell would set it.
        env.entry("PWD".into()).or_insert_with(|| alias.components().chain(inner.components()).collect::<PathBuf>().into());
    }
    environment::add_network(reach.env, network.as_ref(), &mut env);
    let mut files = time_zone::zone_files((caller.variable)("TZ").as_deref(), &caller.zones, &root, &mut env);
    let terminal = env.get(OsStr::new("TERM")).and_then(|terminal| terminal.to_str());
    files.extend(terminal.and_then(|terminal| terminfo::file(terminal, &root, &caller.terminfo)));
    files.extend(reach.files);
    files.extend(first_start::files(&root)?);

    let budget = budget((&over, settings.limits), run, options, target.least_memory_mb);
    let home = view.home.of_platform(image.arch);
    let machine = match tier::of_image(&home, options.tier, settings.tier)? {
        Tier::Native => None,
        Tier::Vm => {
            let boot = if options.cold { Boot::Cold } else { Boot::Warm(run.map_or(&[][..], |run| &run.warm_up)) };
            let (machine, image_locks) = tier::of_run(Images { home: &home, ..*images }, tool, boot, budget.cpus)?;
            leases.image_locks.extend(image_locks);
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
        files,
        alias: alias.zip(mounts.project.as_ref().map(|shown| shown.path.clone())),
        machine,
        abi: Abi::of(image.foreign.iter().map(String::as_str)),
    });
    leases.in_use = mounts.in_use;
    leases.opened = mounts.opened;
    leases.project = mounts.project;
    Ok((spec, leases))
}

/// Returns the path by which the user knows the project, if symlinks lead from it to the project.
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

/// Opens the project, unless it is private and not confirmed.
fn project(inputs: &Inputs<'_>) -> Result<Option<OpenedPath>, Error> {
    let Project::Of(dir, private) = &inputs.options.project else { return Ok(None) };
    let dir = dir.as_deref().unwrap_or(inputs.view.project);
    let absolute = inputs.caller.cwd.join(dir);
    let canonical = std::fs::canonicalize(&absolute).map_err(|source| Error::Directory { path: dir.to_owned(), source })?;
    // The canonical path has no symlinks. If one appears now, opening fails.
    let opened = OpenedPath::open(&canonical, Links::Refuse)?;
    if !opened.is_dir() {
        return Err(Error::usage(format!("{} is not a directory", dir.display()), "name a directory"));
    }
    if *private == Private::Show {
        return Ok(Some(opened));
    }
    let Some(why) = private_dirs::hidden(inputs.view.home, &inputs.caller.user.home, opened.path())? else { return Ok(Some(opened)) };
    if *private == Private::Refuse {
        return Err(Error::Private { dir: opened.path().to_owned(), why });
    }
    (inputs.say)(&format!("{} is not shown to the tool: {why}", sanitize::path(opened.path())));
    Ok(None)
}

fn see(
    inputs: &Inputs<'_>,
    (settings, review): (&Settings, Review),
    run: Option<&Run>,
    project: Option<OpenedPath>,
) -> Result<Mounts, Error> {
    let view = &inputs.view;
    let is_own = project.as_ref().is_some_and(|project| project.path() == view.project);
    let given = mounts::MountInputs {
        home: view.home,
        settings,
        tool: &inputs.target.tool.name,
        run,
        project_id: settings.project_id.as_deref().filter(|_| is_own),
        has_recipes: view.places.project.is_some(),
        user_home: &inputs.caller.user.home,
        review,
    };
    mounts::find(&given, project, || {
        if let Some(note) = moved_project::move_data(view.home, inputs.images.store, view.project)? {
            (inputs.say)(&note);
        }
        Ok(())
    })
}

/// Working directory of the program: that of the settings, else the caller's if it is visible, else the project or the home directory.
fn cwd(over: &Override, project: Option<&MountedProject>, caller: &Caller<'_>) -> PathBuf {
    match (&over.workdir, project) {
        (Some(workdir), _) => workdir.into(),
        (None, Some(shown)) if caller.cwd.starts_with(&shown.path) => caller.cwd.clone(),
        (None, Some(shown)) => shown.path.clone(),
        (None, None) => caller.user.home.clone(),
    }
}

fn activate(run: Option<&Run>, project: Option<&MountedProject>, cwd: &Path, root: &Path, env: &mut Environment) -> Vec<String> {
    let (Some(run), Some(shown)) = (run, project) else { return Vec::new() };
    activation::activate(run, &shown.path, cwd, (root, &|path| shown.on_host(path)), env)
}

/// Returns the socket of the user's ssh agent, if it is passed and exists.
fn ssh_agent(inputs: &Inputs<'_>, settings: &Settings) -> Option<PathBuf> {
    if !inputs.options.ssh_agent && !settings.passes_ssh_agent(&inputs.target.tool.name) {
        return None;
    }
    let socket = (inputs.caller.variable)("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()).map(PathBuf::from);
    let why = match socket {
        None => "SSH_AUTH_SOCK is not set".to_owned(),
        Some(socket) if !socket.exists() => format!("{} does not exist", sanitize::path(&socket)),
        Some(socket) => return Some(socket),
    };
    (inputs.say)(&format!("there is no ssh agent to pass: {why}\n  try: eval \"$(ssh-agent)\" && ssh-add"));
    None
}

fn budget((over, limits): (&Override, RunLimits), run: Option<&Run>, asked: &Options, least_memory_mb: u64) -> Budget {
    // A limit of the command line is the user's own decision.
    let memory_mb = asked.memory_mb.or_else(|| smaller(over.memory_mb.or_else(|| run.and_then(|run| run.memory_mb)), limits.memory_mb));
    let time_seconds =
        asked.time_seconds.or_else(|| smaller(over.time_seconds.or_else(|| run.and_then(|run| run.time_seconds)), limits.time_seconds));
    let network_mb =
        asked.network_mb.or_else(|| smaller(over.network_mb.or_else(|| run.and_then(|run| run.network_mb)), limits.network_mb));
    Budget {
        cpus: asked.cpus.or(over.cpus).or_else(|| run.and_then(|run| run.cpus)),
        memory_mb: memory_mb.map(|mib| mib.max(least_memory_mb)),
        time_seconds,
        network_mb,
        processes: limits.processes,
        scratch_mb: over.rootfs_size_mb,
    }
}

/// Reads the image's account files; root needs no entry.
fn accounts(user: &User, root: &Path) -> Accounts {
    if user.uid == 0 {
        return Accounts::default();
    }
    let read = |name: &str| resolve_in_root::read(root, Path::new(name), MAX_ACCOUNTS_BYTES).unwrap_or_default();
    Accounts { passwd: read("etc/passwd"), group: read("etc/group") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_limit_is_at_least_that_of_a_server() {
        const SERVER: u64 = 2048;
        for (asked, setting, least, expect) in [
            (None, None, SERVER, None),
            (None, Some(512), SERVER, Some(SERVER)),
            (Some(512), None, SERVER, Some(SERVER)),
            (None, Some(4096), SERVER, Some(4096)),
            (None, Some(512), 0, Some(512)),
        ] {
            let limits = RunLimits { memory_mb: setting, ..RunLimits::default() };
            let asked = Options { memory_mb: asked, ..Options::default() };
            assert_eq!(budget((&Override::default(), limits), None, &asked, least).memory_mb, expect);
        }
    }
}
