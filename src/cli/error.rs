//! Errors as shown to the user: message with causes, hint, exit code.

use std::error::Error;

use silo_base::error_chain;
use silo_launch::error::Limit;

use silo_model::document;

use silo_model::recipe;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// The error and its causes, outermost first.
    messages: Vec<String>,
    hint: Option<String>,
    code: u8,
    /// Failures of several tools, each with the tool's name.
    parts: Vec<(String, Failure)>,
}

/// Hint of an error that a sync mends.
pub const SYNC: &str = "run `silo sync`";

/// Exit code of a failed command.
const FAILED: u8 = 1;
/// Exit code of a wrong command line, as in clap.
const USAGE: u8 = 2;
/// Exit code after the user stopped the command, as in a shell after SIGINT.
const STOPPED: u8 = 130;

impl Failure {
    /// A wrong command line or environment.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { messages: vec![message.into()], hint: Some(hint.into()), code: USAGE, parts: Vec::new() }
    }

    /// An error without a hint of its own.
    pub fn other(error: impl Error + 'static) -> Failure {
        Failure::hinted(&error, None)
    }

    /// A problem described by its message, with a hint.
    pub fn found(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { messages: vec![message.into()], hint: Some(hint.into()), code: FAILED, parts: Vec::new() }
    }

    /// Sets the exit code. Below 125, the codes of `silo run` belong to the program.
    pub fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Replaces exit codes that a program of a run may have too.
    pub fn or_code(self, code: u8) -> Failure {
        if [FAILED, USAGE].contains(&self.code) { self.with_code(code) } else { self }
    }

    /// Puts another suggestion before the hint.
    pub fn or_hint(mut self, hint: &str) -> Failure {
        self.hint = Some(self.hint.map_or_else(|| hint.to_owned(), |before| format!("{hint}; or: {before}")));
        self
    }

    /// Returns the message with its causes, on one line.
    pub fn message(&self) -> String {
        self.messages.join(": ")
    }

    /// Returns the hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Sets the hint.
    pub fn with_hint(mut self, hint: String) -> Failure {
        self.hint = Some(hint);
        self
    }

    /// Returns the failures of single tools.
    pub fn parts(&self) -> &[(String, Failure)] {
        &self.parts
    }

    /// Returns the exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    pub(super) fn hinted(error: &(dyn Error + 'static), hint: Option<String>) -> Failure {
        Failure { messages: error_chain::of(error), hint: hint.or_else(|| system_hint(error)), code: FAILED, parts: Vec::new() }
    }
}

/// Hint for a full or read-only disk, missing permissions or a process limit among the causes.
fn system_hint(error: &(dyn Error + 'static)) -> Option<String> {
    if error_chain::is_full_disk(error) {
        return Some("free some space, then run the same command again".to_owned());
    }
    if error_chain::is_read_only(error) {
        let hint = "make that file system writable, or set HOME to a directory that is; commands that only read images work without";
        return Some(hint.to_owned());
    }
    if error_chain::is_denied(error) {
        let hint = "check the owner and the permissions of that path; if it is in Silo's own directory, SILO_HOME can name another one";
        return Some(hint.to_owned());
    }
    let limits = "end other programs, or raise the limit of processes (`ulimit -u`, or pids.max of the control group)";
    error_chain::is_out_of_processes(error).then(|| limits.to_owned())
}

/// Errors with a sufficient message, which need no hint.
macro_rules! told_as_they_are {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::other(error)
            }
        }
    )+};
}

told_as_they_are!(
    document::Error,
    recipe::catalog::Error,
    silo_tool::record::Error,
    silo_tool::trust::Error,
    silo_tool::kept_dirs::Error,
    silo_model::ecosystem::Error,
    silo_tool::projects::Error,
    silo_store::path_error::PathError,
);

impl From<silo_tool::shims::Error> for Failure {
    fn from(error: silo_tool::shims::Error) -> Failure {
        let hint = shims_hint(&error);
        Failure::hinted(&error, hint)
    }
}

/// Hint for a shim that cannot be changed.
fn shims_hint(error: &silo_tool::shims::Error) -> Option<String> {
    use silo_tool::shims::Error as E;
    match error {
        E::NotHere(tool) => Some(format!("silo install {tool}")),
        E::Spec(_) => Some("write npm, or ipython:python -m IPython in quotes".to_owned()),
        E::Taken { name, owner } => Some(format!("silo shim remove {owner} {name}, then the same command again")),
        E::NoSuch { tool, .. } => Some(format!("`silo shim list {tool}` shows its shims")),
        E::Itself(_) | E::Document(_) | E::Definition(_) | E::Project(_) | E::Record(_) | E::File(_) => None,
    }
}

impl From<crate::run::error::Error> for Failure {
    fn from(error: crate::run::error::Error) -> Failure {
        use crate::run::error::Error as E;
        match error {
            E::Usage { what, hint } => Failure::usage(what, hint),
            E::Missing { what, hint } => Failure::found(what, hint),
            E::Definition(error) => error.into(),
            E::Private { .. } | E::Directory { .. } => Failure { code: USAGE, ..Failure::hinted(&error, error.hint()) },
            error => Failure::hinted(&error, error.hint()),
        }
    }
}

impl From<silo_insight::error::Error> for Failure {
    fn from(error: silo_insight::error::Error) -> Failure {
        let hint = error.hint();
        Failure::hinted(&error, hint)
    }
}

impl From<silo_tool::import_image::Error> for Failure {
    fn from(error: silo_tool::import_image::Error) -> Failure {
        match error {
            silo_tool::import_image::Error::Install(error) => (*error).into(),
            error => {
                let hint = error.hint();
                Failure::hinted(&error, hint)
            }
        }
    }
}

impl From<silo_build::image::export::Error> for Failure {
    fn from(error: silo_build::image::export::Error) -> Failure {
        let hint = match &error {
            silo_build::image::export::Error::Taken { .. } => {
                Some("name a path that does not exist, or remove the existing one".to_owned())
            }
            _ => None,
        };
        Failure::hinted(&error, hint)
    }
}

impl From<silo_tool::share::Error> for Failure {
    fn from(error: silo_tool::share::Error) -> Failure {
        use silo_tool::share::Error as E;
        let hint = match &error {
            E::Name { .. } => Some("as in registry.example.com/team/python:3.13, or oci:/path:tag for a directory".to_owned()),
            E::Gone(_) => Some("`silo install` builds a tool's image again".to_owned()),
            E::Definition(error) => definition_hint(error),
            E::Lock(error) => locking_hint(error),
            E::Ship(error) => error.hint(),
            E::Keys(error) => keys_hint(error),
            E::Unsigned { .. } => {
                Some("`silo key trust FILE` trusts the key of its publisher; --unsigned takes it on your word".to_owned())
            }
            E::Image(_) | E::Store(_) | E::Record(_) | E::Project(_) => None,
        };
        let stopped = matches!(&error, E::Ship(error) if error.is_stopped());
        let code = if matches!(error, E::Name { .. }) { USAGE } else { FAILED };
        let failure = Failure { code, ..Failure::hinted(&error, hint) };
        if stopped { failure.with_code(STOPPED) } else { failure }
    }
}

impl From<silo_tool::vendor::Error> for Failure {
    fn from(error: silo_tool::vendor::Error) -> Failure {
        use silo_tool::vendor::Error as E;
        let hint = match &error {
            E::Definition(error) => definition_hint(error),
            E::Lock(error) => locking_hint(error),
            E::Build(error) => build_hint(error),
            E::Ship(error) => error.hint(),
            E::NoOutput { .. } => {
                Some("`silo sync` in the project, or `silo install`, builds the tool; then its outputs are here".to_owned())
            }
            E::Store(_) => None,
        };
        let stopped = match &error {
            E::Ship(error) => error.is_stopped(),
            E::Build(error) => matches!(error, silo_build::Error::Stopped | silo_build::Error::Fetch(silo_fetch::error::Error::Cancelled)),
            _ => false,
        };
        let failure = Failure::hinted(&error, hint);
        if stopped { failure.with_code(STOPPED) } else { failure }
    }
}

impl From<silo_tool::challenge::Error> for Failure {
    fn from(error: silo_tool::challenge::Error) -> Failure {
        use silo_tool::challenge::Error as E;
        let hint = match error {
            E::Share(error) => return error.into(),
            E::Ship(error) => return silo_tool::share::Error::Ship(error).into(),
            E::Definition(ref error) => definition_hint(error),
            E::Build(ref error) => build_hint(error),
            E::NoLock { .. } => Some("only the images of tools have one; `silo inspect` shows the image".to_owned()),
            E::OtherRecipe { .. } => {
                Some("run it with the silo.toml and the recipes from which the image was built, and the same version of silo".to_owned())
            }
            E::Lock { .. } | E::Image(_) | E::File(_) => None,
        };
        let stopped = matches!(&error, E::Build(silo_build::Error::Stopped));
        let failure = Failure::hinted(&error, hint);
        if stopped { failure.with_code(STOPPED) } else { failure }
    }
}

impl From<silo_tool::keys::Error> for Failure {
    fn from(error: silo_tool::keys::Error) -> Failure {
        let hint = keys_hint(&error);
        Failure::hinted(&error, hint)
    }
}

/// Hint for a key that cannot be used.
fn keys_hint(error: &silo_tool::keys::Error) -> Option<String> {
    use silo_tool::keys::Error as E;
    match error {
        E::Name(_) => Some("as in `silo key new laptop`".to_owned()),
        E::Taken { .. } => Some("choose another name".to_owned()),
        E::Absent(_) => Some("`silo key list` shows the keys, `silo key new NAME` makes one".to_owned()),
        E::Key { .. } => Some("`openssl pkey -in FILE` shows the kind of a key".to_owned()),
        E::Revoked { .. } => Some("remove that file if the key is to be trusted again".to_owned()),
        E::Ambiguous { .. } => Some("give the beginning of a fingerprint".to_owned()),
        E::Several(_) => Some("choose one with --sign NAME, or --no-sign".to_owned()),
        E::Build(_) => Some("install another release of silo".to_owned()),
        E::File(_) => None,
    }
}

impl From<silo_tool::ecosystems::Error> for Failure {
    fn from(error: silo_tool::ecosystems::Error) -> Failure {
        let hint = match &error {
            silo_tool::ecosystems::Error::Build(error) => build_hint(error),
            _ => None,
        };
        Failure::hinted(&error, hint)
    }
}

impl From<silo_tool::gc_roots::Error> for Failure {
    fn from(error: silo_tool::gc_roots::Error) -> Failure {
        let hint = keep_hint(&error);
        Failure::hinted(&error, hint)
    }
}

impl From<silo_tool::collect::Error> for Failure {
    fn from(error: silo_tool::collect::Error) -> Failure {
        let hint = match &error {
            silo_tool::collect::Error::Keep(error) => keep_hint(error),
            _ => None,
        };
        Failure::hinted(&error, hint)
    }
}

impl From<silo_tool::compress::Error> for Failure {
    fn from(error: silo_tool::compress::Error) -> Failure {
        use silo_tool::compress::Error as E;
        let hint = match &error {
            E::Keep(error) => keep_hint(error),
            E::Form(_) => Some("`silo verify` lists the changed files".to_owned()),
            E::Image(_) | E::Gone(_) => Some("`silo cache list` shows the images; `silo install` builds a tool's image again".to_owned()),
            E::Path(_) | E::Stopped => None,
        };
        let stopped = matches!(error, E::Stopped);
        let failure = Failure::hinted(&error, hint);
        if stopped { failure.with_code(STOPPED) } else { failure }
    }
}

impl From<silo_tool::clean::Error> for Failure {
    fn from(error: silo_tool::clean::Error) -> Failure {
        use silo_tool::clean::Error as E;
        let hint = match &error {
            E::Keep(error) | E::Collect(silo_tool::collect::Error::Keep(error)) => keep_hint(error),
            E::Running { .. } => Some("`silo cache list` shows them; end them, then try again".to_owned()),
            E::Review(silo_review::Error::Busy { .. }) => Some("wait for its end, then run the same command again".to_owned()),
            E::Project(_) | E::Kept(_) | E::Collect(_) | E::File { .. } | E::Review(_) => None,
        };
        Failure::hinted(&error, hint)
    }
}

/// Hint for a store with unknown roots.
fn keep_hint(error: &silo_tool::gc_roots::Error) -> Option<String> {
    use silo_tool::gc_roots::Error as E;
    match error {
        E::Busy { .. } => Some("try again when it has ended".to_owned()),
        E::Root(_) => Some("`silo install` of that tool writes it again".to_owned()),
        E::Project(_) | E::Kept(_) | E::Image(_) | E::Lock(_) => None,
    }
}

impl From<silo_tool::lock_files::Error> for Failure {
    fn from(error: silo_tool::lock_files::Error) -> Failure {
        let hint = locking_hint(&error);
        let failure = Failure::hinted(&error, hint);
        if is_stopped_locking(&error) { failure.with_code(STOPPED) } else { failure }
    }
}

impl From<silo_tool::install::Error> for Failure {
    fn from(error: silo_tool::install::Error) -> Failure {
        Failure::of_install(&error)
    }
}

impl From<silo_tool::settings_file::Error> for Failure {
    fn from(error: silo_tool::settings_file::Error) -> Failure {
        let legacy = matches!(error, silo_tool::settings_file::Error::Legacy { .. });
        Failure::hinted(&error, legacy.then(|| "`silo config migrate` converts it to silo.toml".to_owned()))
    }
}

impl Failure {
    /// Combines the failures of so many tools; that of a single tool is returned unchanged.
    pub fn of_several(errors: Vec<(&str, &silo_tool::install::Error)>, tools: usize) -> Option<Failure> {
        let mut failures: Vec<(&str, Failure)> = errors.into_iter().map(|(tool, error)| (tool, Failure::of_install(error))).collect();
        if tools <= 1 || failures.is_empty() {
            return failures.pop().map(|(_, failure)| failure);
        }
        let code = failures.iter().map(|(_, failure)| failure.code).max().unwrap_or(FAILED);
        let message = format!("{} of {tools} tools failed", failures.len());
        let parts = failures.into_iter().map(|(tool, failure)| (tool.to_owned(), failure)).collect();
        Some(Failure { messages: vec![message], hint: None, code, parts })
    }

    fn of_install(error: &silo_tool::install::Error) -> Failure {
        use silo_tool::install::Error as E;
        let hint = match error {
            E::Lock(error) => locking_hint(error),
            E::Build(error) => build_hint(error),
            E::Version { tool, .. } => Some(format!("`silo show {tool}` lists its versions")),
            E::Gone { tool, .. } => Some(format!("`silo lock {tool} --update` locks newer packages; or set mirrors.snapshot in silo.toml")),
            E::Definition(error) => definition_hint(error),
            E::Shims(error) => shims_hint(error),
            E::ChangedLock { .. } => Some("`silo trust` shows the change and approves it".to_owned()),
            E::Record(_) | E::Project(_) | E::Store(_) => None,
        };
        let stopped = match error {
            E::Build(error) => matches!(error, silo_build::Error::Stopped | silo_build::Error::Fetch(silo_fetch::error::Error::Cancelled)),
            E::Lock(error) => is_stopped_locking(error),
            _ => false,
        };
        let failure = Failure::hinted(error, hint);
        if stopped { failure.with_code(STOPPED) } else { failure }
    }
}

/// True if the user stopped the making of a lock.
fn is_stopped_locking(error: &silo_tool::lock_files::Error) -> bool {
    use silo_tool::{lock_error, lock_files};
    matches!(error, lock_files::Error::Relock { source, .. } if matches!(**source, lock_error::Error::Fetch(silo_fetch::error::Error::Cancelled)))
}

impl From<silo_tool::definition::Error> for Failure {
    fn from(error: silo_tool::definition::Error) -> Failure {
        let hint = definition_hint(&error);
        Failure::hinted(&error, hint)
    }
}

fn definition_hint(error: &silo_tool::definition::Error) -> Option<String> {
    use silo_tool::definition::Error as E;
    match error {
        E::NotBuilt { platform: Some(platform), .. } => Some(format!("run `silo sync --platform {platform}`")),
        E::NotBuilt { .. } => Some(SYNC.to_owned()),
        E::Addon { .. } => Some("add-ons are recipes/addons/<name>.toml of the project or of ~/.silo, and java, kotlin, ruby".to_owned()),
        E::Lock(error) => locking_hint(error),
        E::Recipe(_) | E::Record(_) | E::Document(_) | E::Overlay { .. } => None,
    }
}

fn locking_hint(error: &silo_tool::lock_files::Error) -> Option<String> {
    use silo_tool::lock_files::Error as E;
    match error {
        E::Frozen { tool } => Some(format!("run `silo lock {tool}`")),
        E::FrozenProject { .. } => Some("run `silo sync` without --frozen, and check silo.lock in".to_owned()),
        E::Relock { source, .. } => source.hint(),
        E::Document(_) | E::Trust(_) | E::Write { .. } => None,
    }
}

fn build_hint(error: &silo_build::Error) -> Option<String> {
    use silo_build::Error as E;
    match error {
        E::Fetch(error) => error.hint(),
        E::Launch(error) => launch_hint(error),
        E::NoMachine { hint, .. } | E::NotCounted { hint, .. } => hint.clone(),
        E::Registry(error) => error.hint(),
        E::Layer(_) => Some("the image cannot be used; report it to its publisher, or name another one".to_owned()),
        E::Step { kept: Some(drv), .. } => Some(format!("`silo debug {drv:.12}` opens a shell in the state of the failed step")),
        E::Step { kept: None, .. } => Some("`install`, `build` and `sync` with --keep-failed keep its state for `silo debug`".to_owned()),
        E::Away { .. } => Some("the same command with --no-remote builds here".to_owned()),
        E::OtherResult { .. } => Some("`silo build --check --no-remote` tells whether the step is reproducible".to_owned()),
        E::Budget { .. } => Some("look at its output with `silo log`; build.maxStepSize in ~/.silo/silo.toml allows more".to_owned()),
        E::Offline { .. } | E::LostResponse { .. } | E::NoRecord { .. } => Some(
            "run the same command without --offline, or name a cache of this machine with its output: `silo vendor` fills one".to_owned(),
        ),
        E::NoResponse { .. } => Some("run the same command without --offline; `silo sync --force` pins a new record".to_owned()),
        E::NotPinned { .. } => Some("without --frozen it is run, and its output is pinned in the lock".to_owned()),
        E::OtherOutput { .. } => Some("if it is correct, `silo sync --force` pins it; otherwise a fetched file has changed".to_owned()),
        E::Recorded { .. } => Some(
            "install the package uidmap and get a range of ids (`silo doctor`), or `silo install vm`; a cache with the image works too"
                .to_owned(),
        ),
        E::NoProject { .. } => Some("run the command in the project's directory".to_owned()),
        E::Ecosystem { name, .. } => Some(format!(
            "`silo config network learn @{name}` learns them; or set ecosystems.{name} = [\"name\", …] in silo.toml, or ecosystems.{name}.probe in the recipe"
        )),
        E::Unpack(silo_fetch::unpack::deb::Error::Digest { .. }) => {
            Some("the file was removed; run the command again to fetch it".to_owned())
        }
        // The first error that has a hint decides; a full disk has its own hint.
        E::Several(errors) => errors.iter().find_map(|error| build_hint(error).or_else(|| system_hint(error))),
        _ => None,
    }
}

/// Hint for a sandbox that could not be started.
pub fn launch_hint(error: &silo_launch::error::Error) -> Option<String> {
    match error {
        silo_launch::error::Error::Setup { .. } | silo_launch::error::Error::Host { .. } => {
            Some("`silo doctor` checks this machine and names the missing part".to_owned())
        }
        silo_launch::error::Error::Port { port, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Some(format!("only root can use ports below 1024; map {}:{port} and open localhost:{0}", port.saturating_add(8000)))
        }
        silo_launch::error::Error::Port { port, .. } => Some(format!(
            "stop the program that listens there (`ss -ltnp 'sport = :{port}'` shows it), or map another port of this machine"
        )),
        silo_launch::error::Error::Limit(Limit::Time { .. }) => {
            Some("`silo run --max-time 2h TOOL`, or timeSeconds in silo.toml or the recipe, sets another limit".to_owned())
        }
        silo_launch::error::Error::Limit(Limit::Network { .. }) => {
            Some("`silo run --max-network 5G TOOL`, or networkMB in silo.toml or the recipe, sets another limit".to_owned())
        }
        silo_launch::error::Error::NoTier => Some("docs/macos.md describes the setup of virtual machines".to_owned()),
        _ => None,
    }
}
