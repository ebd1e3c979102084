//! `--remote`: build steps on the workers of an engine that the user's settings name; and the hidden command of such a worker.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use silo_build::pool::Away;
use silo_build::worker::Places;
use silo_model::config::RemotePool;
use silo_remote::{Endpoint, Limits, PoolSettings, Workers};

use super::context::Setting;
use super::env;
use super::error::Failure;

/// Steps at the same time, if the settings do not tell.
const JOBS: usize = 16;
/// Seconds to wait for a worker, and for a step to run, if the settings do not tell.
const QUEUE_SECONDS: u64 = 600;
const RUN_SECONDS: u64 = 6 * 3600;
/// The longest of these times: a year.
const MAX_SECONDS: u64 = 365 * 24 * 3600;

/// The place of build steps.
#[derive(clap::Args)]
pub struct StepPlace {
    /// Run build steps on the workers of an engine: a name in [remote] of ~/.silo/silo.toml, which may be left out if there is one
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, conflicts_with = "no_remote")]
    remote: Option<Option<String>>,
    /// Run build steps here, even if the settings name an engine for all builds
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
            None => pools.iter().find(|(_, pool)| pool.always),
        };
        let Some((name, pool)) = chosen else { return Ok(()) };
        let (workers, check) = (Workers::new(settings(name, pool)?), pool.check.0);
        setting.pool = Some(Away::new(Box::new(workers), check));
        Ok(())
    }
}

/// Returns the only engine of the settings.
fn only(setting: &Setting) -> Result<(&String, &RemotePool), Failure> {
    let mut pools = setting.user_settings.remote.iter();
    match (pools.next(), pools.next()) {
        (Some(pool), None) => Ok(pool),
        (None, _) => Err(Failure::usage(
            format!("{} names no engine for remote builds", setting.home.config().display()),
            "add [remote.NAME] with an endpoint; see docs/remote.md",
        )),
        (Some(_), Some(_)) => Err(Failure::usage("the settings name several engines".to_owned(), "write --remote=NAME")),
    }
}

fn unknown(name: &str, setting: &Setting) -> Failure {
    let names: Vec<&str> = setting.user_settings.remote.keys().map(String::as_str).collect();
    let hint = if names.is_empty() { "it has none; see docs/remote.md".to_owned() } else { format!("it has {}", names.join(", ")) };
    Failure::usage(format!("{} has no [remote.{name}]", setting.home.config().display()), hint)
}

fn settings(name: &str, pool: &RemotePool) -> Result<PoolSettings, Failure> {
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
        program: pool.program.clone(),
        jobs: pool.jobs.unwrap_or(JOBS).max(1),
        limits: Limits {
            queue: Duration::from_secs(pool.queue_seconds.unwrap_or(QUEUE_SECONDS).min(MAX_SECONDS)),
            run: Duration::from_secs(pool.time_seconds.unwrap_or(RUN_SECONDS).clamp(1, MAX_SECONDS)),
        },
    })
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
    let store = env::var(WORKER_STORE).map(PathBuf::from).filter(|path| path.is_absolute());
    let places = Places { scratch: &scratch, store: store.as_deref() };
    Ok(ExitCode::from(silo_build::worker::serve(&env::program()?, &dir, &args.request, places)))
}
