//! A sandbox to test with, by launch specs of the test's own: the python image, and a project of its own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio as Pipe};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{As, Silo};
use silo_base::grant::HostGrant;
use silo_launch::spec::{Abi, Access, Conditions, Identity, Limits, Mount, Root, Spec, Stdio, Upper};

/// The upper layer's size; small, since a test fills it.
pub const SIZE_BYTES: u64 = 64 << 20;
/// The memory of each process.
pub const MEMORY_BYTES: u64 = 1 << 30;
/// The number of parallel processes.
pub const TASKS: u64 = 400;
/// Open files of each process.
pub const FILES: u64 = 512;

/// Whether tests launch in virtual machines: `SILO_TEST_TIER=vm cargo test --test main network:: terminal::`.
pub fn in_machines() -> bool {
    std::env::var_os("SILO_TEST_TIER").is_some_and(|tier| tier == "vm")
}

/// A place for one test.
pub struct Bench {
    place: tempfile::TempDir,
    root: PathBuf,
    count: AtomicU32,
}

/// Makes a place, with the root of the python image.
pub fn bench() -> Bench {
    let place = tempfile::Builder::new().prefix("silo-sandbox-").tempdir().expect("a temporary directory");
    fs::create_dir(place.path().join("project")).expect("made");
    Bench { place, root: Silo::shared(As::Me).image_root("python"), count: AtomicU32::new(0) }
}

impl Bench {
    /// A path outside everything that is mounted.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The project's directory.
    pub fn project(&self) -> PathBuf {
        self.path("project")
    }

    /// The read-only root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A spec that runs this program in the project.
    pub fn spec<A: AsRef<OsStr>>(&self, argv: &[A]) -> Spec {
        let project = self.project();
        Spec {
            machine: None,
            root: Root { lower: vec![self.root.clone()], upper: Upper::Ephemeral { size_bytes: SIZE_BYTES } },
            mounts: vec![Mount { host: project.clone().into(), guest: project.clone(), access: Access::ReadWrite }],
            dirs: vec![],
            files: vec![],
            read_only: vec![],
            overlays: vec![],
            hidden: vec![],
            removable: vec![],
            argv: argv.iter().map(|text| text.as_ref().to_owned()).collect(),
            env: BTreeMap::from([
                (OsString::from("PATH"), OsString::from("/usr/local/bin:/usr/bin:/bin")),
                (OsString::from("HOME"), OsString::from("/tmp")),
                (OsString::from("LC_ALL"), OsString::from("C.UTF-8")),
            ]),
            cwd: project,
            hostname: "silo".to_owned(),
            identity: Identity::Caller,
            abi: Abi::Native,
            stdio: Stdio::Auto,
            network: None,
            owners: vec![],
            owners_at: None,
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
            limits: Limits { memory_bytes: Some(MEMORY_BYTES), tasks: Some(TASKS), open_files: Some(FILES), ..Limits::default() },
        }
    }

    /// A spec that runs a shell script.
    pub fn sh(&self, script: &str) -> Spec {
        self.spec(&["sh", "-c", script])
    }

    /// A spec that runs a Python program.
    pub fn python(&self, program: &str) -> Spec {
        self.spec(&["python3", "-c", program])
    }

    /// The command that launches a spec.
    pub fn command(&self, spec: &Spec) -> Command {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let file = self.path(&format!("spec-{number}.json"));
        let mut spec = spec.clone();
        if in_machines() {
            spec.machine.get_or_insert_with(super::machine::machine);
        }
        fs::write(&file, spec.to_json().expect("a spec is JSON")).expect("written");
        let mut command = Command::new(super::program());
        command.arg("__launch").arg(file).env("SECRET_OF_THE_HOST", "canary");
        command
    }

    /// Runs a spec with this input.
    #[must_use]
    pub fn run(&self, spec: &Spec, input: &[u8]) -> Output {
        let mut child = self.start(spec);
        let mut stdin = child.stdin.take().expect("it is piped");
        std::thread::scope(|scope| {
            // A program may end without reading everything.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().expect("silo ends")
        })
    }

    /// Starts a spec with pipes.
    pub fn start(&self, spec: &Spec) -> Child {
        self.command(spec).stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped()).spawn().expect("silo starts")
    }
}

/// The output of a run, with its errors for a failed test.
pub fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something is so, for five minutes at most.
pub fn until(what: &str, so: impl FnMut() -> bool) {
    until_else(so, || format!("never: {what}"));
}

/// Waits until something is so, for five minutes at most; the text for a failure is made at the end of it.
pub fn until_else(mut so: impl FnMut() -> bool, failure: impl Fn() -> String) {
    for _ in 0..15_000 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{}", failure());
}

/// Whether any process has this text among its arguments.
pub fn runs(marker: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        fs::read(process.path().join("cmdline")).is_ok_and(|line| line.windows(marker.len()).any(|part| part == marker.as_bytes()))
    })
}

/// Parses grants of hosts.
pub fn hosts(texts: &[&str]) -> Vec<HostGrant> {
    texts.iter().map(|text| HostGrant::parse(text).expect("a grant")).collect()
}
