//! Working directory of a build step: the overlay's upper directory, and the log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use silo_store::digest::Digest;
use silo_store::path_error::PathError;
use silo_store::private;

use silo_launch::reexec::{self, ProcessSettings};
use silo_launch::spec::{Conditions, Seed, Spec, Upper, VmFiles};
use silo_model::derivation::{DrvId, Repeats};

use super::check::{Check, SecondRun, WhichRun};
use super::context::BuildContext;
use super::error::Error;

/// The directories of one step; removed on drop. Drop it late: when it allocates an inode, ext4 searches past all recently freed ones.
#[derive(Debug)]
pub(super) struct Workdir {
    dir: PathBuf,
    /// Directory of the upper directory, if that is not in `dir`.
    memory: Option<tempfile::TempDir>,
    /// The run, whose conditions a reproducibility check varies.
    run: WhichRun,
    /// Path of the step's log.
    pub log: PathBuf,
    /// The program that gives files of other ids to the caller.
    program: PathBuf,
    keep: bool,
}

impl Workdir {
    /// Creates an empty working directory for a derivation. The caller holds the derivation's build lock.
    pub fn new(ctx: &BuildContext<'_>, drv: DrvId) -> Result<Workdir, Error> {
        let name = drv.to_string();
        Workdir::at(ctx, &name, None, WhichRun::First)
    }

    /// Creates a working directory for a later run of a reproducibility check, under other conditions.
    pub fn other(ctx: &BuildContext<'_>, drv: DrvId, check: &Check, run: WhichRun) -> Result<Workdir, Error> {
        let memory = check.memory.as_ref().map(|dir| {
            let made = tempfile::Builder::new().prefix("silo-check-").tempdir_in(dir);
            made.map_err(|source| Error::File(PathError { doing: "create a directory in", path: dir.clone(), source }))
        });
        Workdir::at(ctx, &format!("{drv}-check"), memory.transpose()?, run)
    }

    fn at(ctx: &BuildContext<'_>, name: &str, memory: Option<tempfile::TempDir>, run: WhichRun) -> Result<Workdir, Error> {
        let log = ctx.home.logs().join(format!("{name}.log"));
        // Anything here is left from a killed step.
        let program = ctx.program.to_owned();
        let bench = Workdir { dir: ctx.home.work().join(name), memory, run, log, program, keep: false };
        bench.remove(&bench.dir)?;
        for dir in [bench.upper(), bench.changes().join("work"), bench.dir.clone(), ctx.home.logs()] {
            private::make_dir(&dir)?;
        }
        // It is the root directory that other users of the step see.
        let upper = bench.upper();
        let opened = fs::set_permissions(&upper, fs::Permissions::from_mode(0o755));
        opened.map_err(|source| Error::File(PathError { doing: "change the mode of", path: upper, source }))?;
        match fs::remove_file(&bench.log) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File(PathError { doing: "remove", path: bench.log.clone(), source }))
            }
            _ => Ok(bench),
        }
    }

    /// Returns the upper and work directories for the overlay of the step's root.
    pub fn overlay(&self) -> Upper {
        Upper::Kept { upper: self.upper(), work: self.changes().join("work") }
    }

    /// Returns the overlay's upper directory, which holds the step's changes.
    pub fn upper(&self) -> PathBuf {
        self.changes().join("upper")
    }

    fn changes(&self) -> &Path {
        self.memory.as_ref().map_or(&self.dir, |memory| memory.path())
    }

    /// Keeps the directories on drop, for `silo debug`; returns the directory's name. A second run of a check keeps nothing.
    pub fn keep(&mut self) -> Option<String> {
        self.keep = self.memory.is_none();
        if self.keep { self.dir.file_name().map(|name| name.to_string_lossy().into_owned()) } else { None }
    }

    /// Removes a directory, including directories in it without search permission, and files of other ids that a killed step left.
    fn remove(&self, dir: &Path) -> Result<(), Error> {
        let doing = "take back the files of a killed step in";
        reexec::reclaim(&self.program, dir).map_err(|source| Error::File(PathError { doing, path: dir.to_owned(), source }))?;
        silo_store::removal::remove_tree(dir).map_err(|source| Error::store("clearing the step's directory", source))
    }

    /// True for the run of an ordinary build.
    pub fn is_first(&self) -> bool {
        self.run == WhichRun::First
    }

    /// Returns the settings of the process around the step.
    pub fn circumstances(&self) -> ProcessSettings {
        match self.run {
            WhichRun::First => ProcessSettings::Usual,
            WhichRun::Second | WhichRun::Third => ProcessSettings::Other,
        }
    }

    /// Returns the seed of a step's random numbers. A second run of a check has another one, so that the check finds results of chance.
    pub fn seed(&self, derivation: &Digest) -> Seed {
        match self.run {
            WhichRun::First => Seed(*derivation.as_bytes()),
            WhichRun::Second | WhichRun::Third => Seed(*Digest::of(derivation.as_bytes()).as_bytes()),
        }
    }

    /// Returns the conditions of a step that a second run of a check varies.
    pub fn conditions(&self, spec: &Spec, repeats: Repeats) -> Conditions {
        match self.run {
            WhichRun::First => Conditions::default(),
            WhichRun::Second => SecondRun::conditions(spec, repeats),
            WhichRun::Third => Conditions { umask: None, ..SecondRun::conditions(spec, repeats) },
        }
    }

    /// Returns the VM of the step, if it runs in one.
    pub fn machine(&self, ctx: &BuildContext<'_>) -> Option<VmFiles> {
        match (self.run, ctx.check) {
            (WhichRun::Second | WhichRun::Third, Some(check)) => check.machine.clone(),
            _ => ctx.machine.cloned(),
        }
    }

    /// Returns the host name of the step.
    pub fn host_name(&self) -> &'static str {
        match self.run {
            WhichRun::First | WhichRun::Third => SecondRun::USUAL_HOST_NAME,
            WhichRun::Second => SecondRun::HOST_NAME,
        }
    }

    /// Returns a path in the directory, for a file that is kept with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if !self.keep {
            // A step may leave directories without search permission, which `std::fs` and `tempfile` cannot remove.
            if let Some(memory) = &self.memory {
                drop(self.remove(memory.path()));
            }
            // A leftover is swept by `silo gc`; the outcome of the build matters more.
            drop(self.remove(&self.dir));
        }
    }
}
