//! `silo doctor`.

use std::path::Path;
use std::process::ExitCode;

use crate::run::tier;
use silo_base::home::Home;
use silo_base::sanitize;
use silo_base::units::size;
use silo_guard::git::layer::Finished;
use silo_guard::git::leftover_layers::{self, LeftLayer};
use silo_launch::{Check, State};
use silo_model::lock::{self, Archive};
use silo_model::recipe::catalog;
use silo_tool::shim::{launchers, scripts, table};
use silo_tool::{collect, shims};

use super::context::{Globals, Setting, setting};
#[cfg(feature = "remote")]
use super::doctor_remote::Form;
use super::error::Failure;
use super::{env, gc, restore_tty, stored_reviews, ui};

/// Check that sandboxes and builds work on this machine, and name fixes for problems
///
/// The exit code is 1 if no sandbox can run here.
#[derive(clap::Args)]
pub struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Repair shims and leftovers of killed commands
    #[arg(long)]
    fix: bool,
    /// Check the machines of [remote.NAME] in ~/.silo/silo.toml instead; the name may be left out if there is one
    #[cfg(feature = "remote")]
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, conflicts_with = "fix")]
    remote: Option<Option<String>>,
}

/// Scripts listed by name; the rest are counted.
const MOST_SCRIPTS: usize = 12;

/// Below this much free space, most images do not fit on the home's disk.
const LITTLE_ROOM_BYTES: u64 = 2 << 30;

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    #[cfg(feature = "remote")]
    if let Some(name) = &args.remote {
        let form = if args.json { Form::Json } else { Form::Text };
        return super::doctor_remote::run(&setting(globals)?, name.as_deref(), form);
    }
    // Run this first: the launcher's probes need a process with one thread.
    let home = env::silo_home()?;
    let written = home_check(&home);
    let mut checks = silo_launch::probe(home.root());
    checks.push(written);
    match setting(globals) {
        Ok(setting) => {
            if args.fix {
                fix(&setting)?;
            }
            checks.push(room(&home));
            checks.push(mirrors(&setting)?);
            checks.extend(tier::check(&setting.home)?);
            checks.extend(tier::check_emulator(&setting.home)?);
            checks.extend(shim_checks(&setting));
        }
        // The check above has reported an unwritable home already.
        Err(_) if checks.iter().any(|check| check.name == HOME_CHECK && check.state == State::Missing) => {}
        Err(failure) => checks.push(Check {
            name: "settings",
            state: State::Missing,
            detail: failure.message(),
            cure: failure.hint().unwrap_or("correct the file that the message names").to_owned(),
        }),
    }
    checks.push(clock());
    checks.extend(leftovers(&home));
    checks.extend(stored_reviews::check(&home));
    if args.json {
        ui::json(&serde_json::json!(checks))?;
    } else {
        ui::data(&checks.iter().map(line).collect::<String>())?;
    }
    let missing = checks.iter().any(|check| check.state == State::Missing);
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Repairs shims, removes leftovers and imports the repositories of killed runs; notes the result.
fn fix(setting: &Setting) -> Result<(), Failure> {
    let layers = setting.home.repositories();
    let (foreign, mut gone) = setting.with(|context| {
        let foreign = shims::rebuild_table(context)?;
        let stages = silo_store::scratch::sweep_stages(&setting.store).map_err(Failure::other)?;
        Ok((foreign, stages.len() + collect::half_written(&setting.home)?))
    })?;
    gone += restore_tty::sweep(&setting.home) + leftover_layers::sweep(&layers).map_err(Failure::other)?.layers;
    stored_reviews::fix(&setting.home)?;
    for (project, finished) in leftover_layers::take_over(&layers).map_err(Failure::other)? {
        ui::note(&taken_over(&project, &finished));
    }
    for name in foreign {
        ui::note(&format!("{} is not a shim; it was not changed", sanitize::path(&setting.home.shim(&name))));
    }
    if gone > 0 {
        ui::note(&format!("removed {gone} leftovers of killed commands"));
    }
    Ok(())
}

/// Describes the import of a killed run's repository.
fn taken_over(project: &Path, finished: &Finished) -> String {
    let project = sanitize::path(project);
    let first = match &finished.left {
        None => format!("imported the work of a killed run into the repository of {project}"),
        Some(left) => format!(
            "could not import all work of a killed run into the repository of {project}; the rest is in {}, and `silo doctor --fix` \
            tries again",
            sanitize::path(left)
        ),
    };
    [vec![first], finished.told.clone()].concat().join("\n  ")
}

/// Private repository layers of killed runs: work to import, and garbage. `None` if there are none.
fn leftovers(home: &Home) -> Option<Check> {
    let (name, cure) = ("repositories", "silo doctor --fix".to_owned());
    let (state, detail) = match leftover_layers::list_leftover(&home.repositories()) {
        Ok(left) if left.is_empty() => return None,
        Ok(left) => (State::Degraded, left.iter().map(described).collect::<Vec<_>>().join("; ")),
        Err(error) => (State::Degraded, Failure::other(error).message()),
    };
    Some(Check { name, state, detail, cure })
}

fn described(left: &LeftLayer) -> String {
    if left.is_needed {
        return gc::of_killed_run(left);
    }
    format!("a killed run left {} of garbage in {}", size(left.bytes), sanitize::path(&left.dir))
}

/// Checks the shims.
fn shim_checks(setting: &Setting) -> Vec<Check> {
    let check = |name, state, detail: String, cure: String| Check { name, state, detail, cure };
    let fix = || "silo doctor --fix".to_owned();
    let table = match table::read(&setting.home.shims()) {
        Ok(table) => table,
        Err(error) => return vec![check("shims", State::Degraded, Failure::from(error).message(), fix())],
    };
    let names: Vec<&str> = table.names().into_iter().collect();
    if names.is_empty() {
        return vec![check("shims", State::Ok, "there are none".to_owned(), String::new())];
    }
    let faults = env::found_as(&setting.home)
        .map_err(|failure| failure.message())
        .and_then(|program| launchers::faults(&setting.home, &table, &program).map_err(|error| Failure::from(error).message()));
    let launchers = match faults {
        Ok(faults) if faults.is_empty() => check("shims", State::Ok, format!("{} start silo", names.len()), String::new()),
        Ok(faults) => {
            let told = |what: &str, names: &std::collections::BTreeSet<String>| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
            };
            let moved = faults.program.then(|| "all start another silo, or none".to_owned());
            let told = [moved, told("missing", &faults.missing), told("left over", &faults.stale), told("not silo's:", &faults.foreign)];
            check("shims", State::Degraded, told.into_iter().flatten().collect::<Vec<_>>().join("; "), fix())
        }
        Err(message) => check("shims", State::Degraded, message, fix()),
    };
    let path = if !super::shims::on_path(setting) {
        let cure = format!("{} in your shell's start-up file", super::shims::advice());
        check("PATH", State::Degraded, format!("{} is not on it", sanitize::path(&setting.home.bin())), cure)
    } else {
        let before = super::shims::shadowed(setting, &names);
        let told: Vec<String> = before.iter().map(|(name, file)| format!("{name} is {}", sanitize::path(file))).collect();
        match before.is_empty() {
            true => check("PATH", State::Ok, "the shims come first".to_owned(), String::new()),
            false => {
                let cure = format!("{} as the last line of your shell's start-up file", super::shims::advice());
                check("PATH", State::Degraded, format!("before the shims: {}", told.join(", ")), cure)
            }
        }
    };
    vec![launchers, path, script_check(setting, &table)]
}

/// Lists the scripts on this machine with an interpreter that a pinned name hides.
fn script_check(setting: &Setting, table: &table::Table) -> Check {
    let name = "scripts on PATH";
    if !super::shims::on_path(setting) {
        let detail = "none starts a sandbox, because the shims are not on PATH".to_owned();
        return Check { name, state: State::Ok, detail, cure: String::new() };
    }
    let pinned = |name: &&str| table.owners(name).any(|entry| entry.pinned && entry.answers_everywhere(name));
    let names = table.names().into_iter().filter(pinned).collect();
    let found = scripts::of(&names, &env::path(), &setting.home.bin());
    if found.is_empty() {
        return Check { name, state: State::Ok, detail: "none needs a pinned name".to_owned(), cure: String::new() };
    }
    let shown: Vec<String> = found.iter().take(MOST_SCRIPTS).map(|(file, name)| format!("{} ({name})", sanitize::path(file))).collect();
    let more = found.len().saturating_sub(MOST_SCRIPTS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let of = |name: &String| table.owners(name).find(|entry| entry.pinned).map(|entry| entry.tool.clone());
    let tools: std::collections::BTreeSet<String> = found.iter().filter_map(|(_, name)| of(name)).collect();
    let unpin = tools.iter().map(|tool| format!("`silo unpin {tool}`")).collect::<Vec<_>>().join(", ");
    Check {
        name,
        state: State::Degraded,
        detail: format!("these start a sandbox in which they are not visible: {}{more}", shown.join(", ")),
        cure: format!("{unpin} gives the name back to this machine's own program wherever no project uses the tool"),
    }
}

fn room(home: &Home) -> Check {
    let name = "disk";
    let free = rustix::fs::statvfs(home.root()).map(|of| of.f_bavail.saturating_mul(of.f_frsize));
    match free {
        Ok(free) if free >= LITTLE_ROOM_BYTES => {
            Check { name, state: State::Ok, detail: format!("{} free", size(free)), cure: String::new() }
        }
        Ok(free) => Check {
            name,
            state: State::Degraded,
            detail: format!("only {} free at {}", size(free), sanitize::path(home.root())),
            cure: "`silo gc --all` removes unneeded images and layers".to_owned(),
        },
        Err(error) => Check {
            name,
            state: State::Degraded,
            detail: format!("cannot look at {}: {error}", sanitize::path(home.root())),
            cure: "make the directory readable".to_owned(),
        },
    }
}

/// Compares the clock with the built-in locks. Certificates and signed indexes need a correct clock.
fn clock() -> Check {
    let name = "clock";
    let newest = catalog::BUILT_IN.iter().filter_map(|builtin| {
        let locks = lock::parse(builtin.lock, std::path::Path::new(builtin.name)).ok()?;
        locks.values().map(|lock| lock.epoch).max()
    });
    let newest = newest.max().unwrap_or(0);
    if env::now() >= newest {
        return Check { name, state: State::Ok, detail: "later than this silo was built".to_owned(), cure: String::new() };
    }
    let detail = "earlier than this silo was built, so signatures and certificates will be rejected".to_owned();
    Check { name, state: State::Degraded, detail, cure: "set the machine's clock".to_owned() }
}

fn line(check: &Check) -> String {
    let state = match check.state {
        State::Ok => "ok",
        State::Degraded => "weak",
        State::Missing => "missing",
    };
    let cure = if check.cure.is_empty() { String::new() } else { format!("\n           cure: {}", sanitize::line(&check.cure)) };
    format!("{state:8} {}: {}{cure}\n", check.name, sanitize::line(&check.detail))
}

/// Name of the check of the home directory.
const HOME_CHECK: &str = "silo's home";

fn home_check(home: &Home) -> Check {
    let name = HOME_CHECK;
    match silo_store::layout::Store::open(home.root()) {
        Ok(_) => Check { name, state: State::Ok, detail: format!("{} can be written", sanitize::path(home.root())), cure: String::new() },
        Err(error) => Check {
            name,
            state: State::Missing,
            detail: Failure::other(error).message(),
            cure: "make your home directory writable, or set HOME to one that is".to_owned(),
        },
    }
}

fn mirrors(setting: &Setting) -> Result<Check, Failure> {
    let name = "Debian mirrors";
    let mirrors = setting.read_only(|context| Ok(context.without_project().mirrors()))?;
    let count = |archive| mirrors.candidates(&archive, "x", None).len();
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
