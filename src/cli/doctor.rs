//! `silo doctor`.

use std::process::ExitCode;

use crate::home::Home;
use crate::launch::{self, Check, State};
use crate::lock::Archive;

use super::context::{Globals, setting};
use super::error::Failure;
use super::{env, ui};

/// Try what sandboxes and builds need on this machine, and say what to do about what is missing
///
/// The exit code is 1 when a sandbox cannot run here.
#[derive(clap::Args)]
pub struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    // Before anything else: the launcher's trials need a process with one thread.
    let home = Home::of_user(&env::home()?);
    let written = home_check(&home);
    let mut checks = launch::probe(home.root());
    checks.push(written);
    checks.push(mirrors(globals)?);
    if args.json {
        ui::json(&serde_json::json!(checks))?;
    } else {
        ui::data(&checks.iter().map(line).collect::<String>())?;
    }
    let missing = checks.iter().any(|check| check.state == State::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(check: &Check) -> String {
    let state = match check.state {
        State::Ok => "ok",
        State::Degraded => "weak",
        State::Missing => "missing",
    };
    let cure = if check.cure.is_empty() { String::new() } else { format!("\n           cure: {}", check.cure) };
    format!("{state:8} {}: {}{cure}\n", check.name, check.detail)
}

fn home_check(home: &Home) -> Check {
    let name = "silo's home";
    match silo_store::layout::Store::open(home.root()) {
        Ok(_) => Check { name, state: State::Ok, detail: format!("{} can be written", home.root().display()), cure: String::new() },
        Err(error) => Check {
            name,
            state: State::Missing,
            detail: Failure::other(error).message(),
            cure: "make your home directory writable, or set HOME to one that is".to_owned(),
        },
    }
}

fn mirrors(globals: &Globals) -> Result<Check, Failure> {
    let name = "Debian mirrors";
    let mirrors = setting(globals)?.with(|context| Ok(context.mirrors()))?;
    let count = |archive| mirrors.candidates(archive, "x", None).len();
    let (main, security) = (count(Archive::Main), count(Archive::Security));
    Ok(if main > 0 && security > 0 {
        Check { name, state: State::Ok, detail: format!("{main} of the archive, {security} of the security updates"), cure: String::new() }
    } else {
        Check {
            name,
            state: State::Degraded,
            detail: format!("{main} of the archive, {security} of the security updates: neither apt nor silo.toml names them"),
            cure: "set mirrors.debian and mirrors.debianSecurity in ~/.silo/silo.toml".to_owned(),
        }
    })
}
