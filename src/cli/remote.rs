//! `--remote`: build steps on the machines that the user's settings name; and the hidden commands of such a machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use silo_base::system::Arch;
use silo_build::places::Away;
use silo_build::pool::Pool;
use silo_build::worker::Places;
use silo_model::config::RemotePool;
use silo_remote::{Endpoint, Limits, PoolSettings, SshSettings, SshWorkers, Way, Workers};

use super::context::Setting;
use super::error::Failure;
use super::{env, ui};

/// Steps at the same time, if the settings do not tell.
const JOBS: usize = 16;
/// Seconds to wait for a worker, and for a step to run, if the settings do not tell.
const QUEUE_SECONDS: u64 = 600;
const RUN_SECONDS: u64 = 3600;
/// The longest of these times: a week.
const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// The place of build steps.
#[derive(clap::Args)]
pub struct StepPlace {
    /// Run build steps on the machines of [remote.NAME] in ~/.silo/silo.toml; the name may be left out if there is one
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, conflicts_with = "no_remote")]
    remote: Option<Option<String>>,
    /// Run build steps here, even if the settings name machines for all builds
    #[arg(long)]
    no_remote: bool,
}

impl StepPlace {
    /// Selects the engine. It is asked when the first step runs.
    pub fn prepare(&self, setting: &mut Setting) -> Result<(), Failure> {
        let pools = &setting.user_settings.remote;
        let chosen = match &self.remote {
            _ if self.no_remote => None,
            Some(Some(name)) => Some((name, pools.get(name).ok_or_else(|| unknown(name, setting))?)),
            Some(None) => Some(only(setting)?),
            None => pools.iter().find(|(name, pool)| pool.always && arch(name, pool).is_ok_and(|arch| arch == setting.home.arch())),
        };
        let Some((name, pool)) = chosen else { return Ok(()) };
        let (theirs, ours) = (arch(name, pool)?.platform(), setting.home.arch().platform());
        if theirs != ours {
            let hint = "set platform in a [remote.NAME] for it, or leave --remote out";
            return Err(Failure::usage(format!("[remote.{name}] runs steps for {theirs}, and this build is for {ours}"), hint));
        }
        setting.pool = Some(Away::new(machines(name, pool)?, pool.check.0, &setting.home));
        Ok(())
    }
}

/// Returns the machines of an entry in the settings: of the named one, or of the only one.
pub fn pool(setting: &Setting, name: Option<&str>) -> Result<Box<dyn Pool>, Failure> {
    let (name, pool) = match name {
        Some(name) => setting.user_settings.remote.get_key_value(name).ok_or_else(|| unknown(name, setting))?,
        None => only(setting)?,
    };
    machines(name, pool)
}

/// Returns the only entry of the settings.
fn only(setting: &Setting) -> Result<(&String, &RemotePool), Failure> {
    let mut pools = setting.user_settings.remote.iter();
    match (pools.next(), pools.next()) {
        (Some(pool), None) => Ok(pool),
        (None, _) => Err(Failure::usage(
            format!("{} has no [remote.NAME]", setting.home.config().display()),
            "add [remote.NAME] with an endpoint or with machines in ssh; see docs/remote.md",
        )),
        (Some(_), Some(_)) => Err(Failure::usage("the settings have several entries in [remote]".to_owned(), "write --remote=NAME")),
    }
}

fn unknown(name: &str, setting: &Setting) -> Failure {
    let names: Vec<&str> = setting.user_settings.remote.keys().map(String::as_str).collect();
    let hint = if names.is_empty() { "it has none; see docs/remote.md".to_owned() } else { format!("it has {}", names.join(", ")) };
    Failure::usage(format!("{} has no [remote.{name}]", setting.home.config().display()), hint)
}

fn limits(pool: &RemotePool) -> Limits {
    Limits {
        queue: Duration::from_secs(pool.queue_seconds.unwrap_or(QUEUE_SECONDS).min(MAX_SECONDS)),
        run: Duration::from_secs(pool.time_seconds.unwrap_or(RUN_SECONDS).clamp(1, MAX_SECONDS)),
    }
}

/// Returns the architecture of an entry in the settings.
fn arch(name: &str, pool: &RemotePool) -> Result<Arch, Failure> {
    let parsed = pool.platform.as_deref().map_or_else(|| Ok(Arch::host()), Arch::of_platform);
    parsed.map_err(|error| Failure::usage(format!("[remote.{name}]: {error}"), "see docs/remote.md"))
}

/// Returns the machines of an entry in the settings.
fn machines(name: &str, pool: &RemotePool) -> Result<Box<dyn Pool>, Failure> {
    let wrong = |what: &str| Failure::usage(format!("[remote.{name}] {what}"), "see docs/remote.md");
    match (pool.endpoint.is_empty(), pool.ssh.is_empty()) {
        (true, true) => Err(wrong("names neither an endpoint nor machines in ssh")),
        (false, false) => Err(wrong("names an endpoint and machines in ssh; only one of them can be used")),
        (false, true) if pool.program.is_none() && arch(name, pool)? != Arch::host() => {
            Err(wrong("is for another platform than this machine's, and needs `program`: silo for that platform"))
        }
        (false, true) => Ok(Box::new(Workers::new(of_engine(name, pool)?))),
        (true, false) => Ok(Box::new(SshWorkers::new(of_ssh(pool, arch(name, pool)?).map_err(|what| wrong(&what))?))),
    }
}

fn of_engine(name: &str, pool: &RemotePool) -> Result<PoolSettings, Failure> {
    let header = |(header, source): (&String, &silo_base::secret::Source)| {
        let value = silo_launch::read_secret(source);
        let value = value.map_err(|error| Failure::usage(format!("the header {header} of [remote.{name}]: {error}"), "see its source"))?;
        Ok::<_, Failure>((header.clone(), String::from_utf8_lossy(value.bytes()).into_owned()))
    };
    Ok(PoolSettings {
        endpoint: Endpoint {
            url: pool.endpoint.clone(),
            instance: pool.instance.clone(),
            certificates: pool.certificates.clone(),
            headers: pool.headers.iter().map(header).collect::<Result<_, _>>()?,
        },
        platform: pool.properties.clone().into_iter().collect(),
        arch: arch(name, pool)?,
        program: pool.program.clone(),
        jobs: pool.jobs.unwrap_or(JOBS).max(1),
        limits: limits(pool),
    })
}

fn of_ssh(pool: &RemotePool, arch: Arch) -> Result<SshSettings, String> {
    // ssh would take the first for an option, and passes the others to a shell in some of its options.
    let is_odd = |host: &str| {
        host.is_empty() || host.starts_with('-') || host.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    };
    if let Some(host) = pool.ssh.iter().find(|host| is_odd(host)) {
        return Err(format!("ssh has {host:?}, which is no host"));
    }
    let program = pool.program.as_ref().map_or_else(|| "silo".into(), |program| program.to_string_lossy());
    let way = |host: &String| Way { host: host.clone(), program: program.to_string(), options: pool.ssh_options.clone() };
    Ok(SshSettings { ways: pool.ssh.iter().map(way).collect(), arch, jobs: pool.jobs, limits: limits(pool) })
}

/// The variable with the directory that a worker keeps between steps.
const WORKER_STORE: &str = "SILO_WORKER_STORE";

/// Name of the worker's command; users do not type it.
pub const WORD: &str = silo_remote::WORD;

/// Run the build step of a request, on a worker
#[derive(clap::Args)]
pub struct Args {
    /// The request, in the working directory
    request: PathBuf,
}

/// Runs the step of a request, in the working directory.
pub fn serve(args: &Args) -> Result<ExitCode, Failure> {
    let dir = env::cwd()?;
    let scratch = [std::env::temp_dir(), dir.clone(), Path::new("/tmp").to_owned()];
    let store = worker_store();
    let places = Places { scratch: &scratch, store: store.as_deref() };
    Ok(ExitCode::from(silo_build::worker::serve(&env::program()?, &dir, &args.request, places, &|| false)))
}

fn worker_store() -> Option<PathBuf> {
    env::var(WORKER_STORE).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Name of the command that serves ssh; users do not type it.
pub const SSH_WORD: &str = silo_remote::SSH_WORD;

/// Run build steps that come over ssh
#[derive(clap::Args)]
pub struct SshArgs {}

/// Serves steps on the standard input and output.
pub fn serve_ssh() -> Result<ExitCode, Failure> {
    let kept = worker_store().map_or_else(|| Ok::<_, Failure>(env::silo_home()?.root().join("worker")), Ok)?;
    silo_remote::sweep(&kept);
    let output = ui::protocol_output()?;
    silo_remote::serve_ssh(&env::program()?, &kept, &[std::env::temp_dir()], output).map_err(|error| Failure::other(Worker(error)))?;
    Ok(ExitCode::SUCCESS)
}

/// Error of a worker; silo on the other machine shows it.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run the step")]
struct Worker(#[source] Box<dyn std::error::Error + Send + Sync>);
