//! The only place that reads the process's environment.
#![allow(clippy::disallowed_methods)]

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::plan::Caller;
use crate::run::time_zone;
use crate::run::user::{User, account_name};
use silo_base::home::Home;
use silo_base::sanitize;
use silo_build::host_network::HostNetwork;
use silo_launch::broker::upstream_proxy::Proxies;
use silo_model::ecosystem::registries;
use silo_tool::shim::search::{self, identity};

use super::error::Failure;

/// Returns a variable that is set and not empty.
pub fn var(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns a variable that is set, even to an empty value.
fn passed(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Returns `PATH`, or the usual default if it is not set.
pub fn path() -> OsString {
    var("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into())
}

/// Returns the user's home directory.
pub fn home() -> Result<PathBuf, Failure> {
    let home = var("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    home.ok_or_else(|| Failure::usage("HOME is not set to an absolute path", "set HOME to your home directory"))
}

/// Returns Silo's home directory: `SILO_HOME`, or `.silo` in the user's home directory.
pub fn silo_home() -> Result<Home, Failure> {
    let Some(named) = var("SILO_HOME").map(PathBuf::from) else { return Ok(Home::of_user(&home()?)) };
    let is_plain = named.is_absolute() && named.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if is_plain && named != Path::new("/") {
        return Ok(Home::new(named));
    }
    let what = format!("SILO_HOME is {}, which is not an absolute path of a directory", sanitize::path(&named));
    Err(Failure::usage(what, "set SILO_HOME to an absolute path without `..`, or unset it for ~/.silo"))
}

/// Returns the caller.
pub fn user() -> Result<User, Failure> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    Ok(User { uid, gid, name: account_name(var("USER").as_deref(), uid), home: home()? })
}

/// Returns the calling user, process and network environment.
pub fn caller() -> Result<Caller<'static>, Failure> {
    let now = u64::try_from(now()).unwrap_or_default();
    let cwd = cwd()?;
    let typed = typed(&cwd);
    let (user, outside) = (user()?, outside()?);
    let terminfo = terminfo(&user.home);
    Ok(Caller { user, cwd, typed, variable: &passed, outside, terminfo, zones: zones(), now, pid: std::process::id() })
}

/// Returns the host's directories with descriptions of terminals, in the order in which ncurses searches them.
fn terminfo(home: &Path) -> Vec<PathBuf> {
    let named = var("TERMINFO").map(PathBuf::from);
    let list = var("TERMINFO_DIRS").unwrap_or_default();
    let usual = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo", "/usr/lib/terminfo"].map(PathBuf::from);
    let dirs = named.into_iter().chain([home.join(".terminfo")]).chain(std::env::split_paths(&list)).chain(usual);
    dirs.filter(|dir| dir.is_absolute()).collect()
}

/// Returns the host's files about time zones.
fn zones() -> time_zone::Host {
    let dirs = ["/usr/share/zoneinfo", "/etc/zoneinfo", "/var/db/timezone/zoneinfo"];
    time_zone::Host { localtime: "/etc/localtime".into(), zones: dirs.map(PathBuf::from).to_vec() }
}

/// Returns the working directory as the shell spells it, if that path has symlinks.
fn typed(cwd: &Path) -> Option<PathBuf> {
    let typed = PathBuf::from(var("PWD")?);
    let is_plain = typed.is_absolute() && typed.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // PWD can be stale: a process that changes its directory does not update it.
    (is_plain && typed != cwd && std::fs::canonicalize(&typed).is_ok_and(|real| real == cwd)).then_some(typed)
}

/// Returns the machine's proxies, CA certificate files and registry variables.
pub fn outside() -> Result<HostNetwork, Failure> {
    let text = |name: &str| var(name).and_then(|value| value.into_string().ok());
    let any = |names: [&str; 4]| names.into_iter().find_map(text);
    let proxies = Proxies {
        http: any(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
        https: any(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
        direct: text("no_proxy").or_else(|| text("NO_PROXY")),
    };
    let places = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let roots = var("SSL_CERT_FILE").map(PathBuf::from).into_iter().chain(places.map(PathBuf::from)).collect();
    let variables = registries::ASKED.into_iter().filter_map(|name| Some((name.to_owned(), text(name)?))).collect();
    Ok(HostNetwork { proxies, roots, variables, user_home: home()? })
}

/// Returns the working directory.
pub fn cwd() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::usage(format!("the working directory is gone: {error}"), "change to a directory that exists"))
}

/// Returns the program's own path.
pub fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::usage(format!("cannot find silo's own program: {error}"), "start silo by its full path"))
}

/// Returns a stable path of this program: as it was called, with symlinks not followed. A symlink may point into a directory of one
/// version, which an update removes.
pub fn found_as(home: &Home) -> Result<PathBuf, Failure> {
    let this = program()?;
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let called = match called.parent() {
        Some(dir) if dir.as_os_str().is_empty() => {
            let path = path();
            search::all(called.as_os_str(), &path).next()
        }
        _ => Some(called),
    };
    // Called as a shim, the path in the home is of no use.
    let called = called.and_then(|path| std::path::absolute(path).ok()).filter(|path| !path.starts_with(home.root()));
    let known = std::fs::read_link(home.program()).ok();
    let same = |path: &PathBuf| identity(path).is_some() && identity(path) == identity(&this);
    Ok(called.into_iter().chain(known).find(same).unwrap_or(this))
}

/// Returns the environment for the next program on PATH: everything but Silo's own variables.
pub fn handed_on() -> Vec<(OsString, OsString)> {
    let own = |name: &OsString| name.as_encoded_bytes().starts_with(silo_tool::shim::INTERNAL.as_bytes());
    std::env::vars_os().filter(|(name, _)| !own(name)).collect()
}

/// Returns the lowest port that the caller may listen on.
pub fn first_open_port() -> u16 {
    if rustix::process::geteuid().is_root() {
        return 0;
    }
    // Only Linux has a setting for it; elsewhere it is 1024.
    let said = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    said.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// Returns the seconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
