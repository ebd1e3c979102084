//! Limits of processes and memory: each command ends with success or an error if the system refuses a resource.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::images::{Layer, layout, tar};
use crate::support::{Done, Silo, copy_program, done, has, is_root, program, skip};

/// A user id that no other process uses, because a process limit counts all processes of a user.
const USER: u32 = 54_322;
/// Longer than any verb takes here; one that hangs is ended by this.
const PATIENCE_SECS: &str = "120";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("silo-limits-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        copy_program(&program(), &dir.path().join("silo"));
        let small = tar(&[(::tar::EntryType::Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\necho x\n")]);
        fs::create_dir(dir.path().join("image")).expect("our own directory");
        layout(&dir.path().join("image"), &[Layer::plain(small.clone()), Layer::gzip(&small), Layer::zstd(&small)]);
        fs::write(dir.path().join("silo.toml"), "").expect("our own file");
        Place { dir }
    }

    fn fresh_home(&self) -> std::path::PathBuf {
        let home = self.dir.path().join("home");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home).expect("our own directory");
        chown(&home, Some(USER), Some(USER)).expect("root may give a directory away");
        home
    }

    fn limited(&self, home: &Path, limit: &str, args: &[&str]) -> Done {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", PATIENCE_SECS, "setpriv"]);
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "prlimit", limit]);
        command.arg(self.dir.path().join("silo")).args(args);
        command.current_dir(home).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
        done(&mut command)
    }
}

fn check(what: &str, done: &Done) {
    assert!(!done.err.contains("internal error") && !done.err.contains("panicked"), "{what}: {done:?}");
    assert!(![124, 137].contains(&done.code), "{what} did not end: {done:?}");
    assert!(done.code == 0 || !done.err.is_empty(), "{what} says nothing of its failure: {done:?}");
}

#[test]
fn every_verb_ends_where_no_more_processes_are_allowed() {
    if !is_root() || !has("setpriv") {
        return skip("only root can be a user of nobody else's");
    }
    let place = Place::new();
    let image = format!("oci:{}", place.dir.path().join("image").display());
    let mut succeeded = false;
    for limit in (1..=12).chain([16, 32]) {
        let home = place.fresh_home();
        let limit = format!("--nproc={limit}");
        let installed = place.limited(&home, &limit, &["-q", "install", "xt", "--image", &image, "--shim", "x:/usr/bin/x-tool"]);
        check(&format!("install with {limit}"), &installed);
        succeeded |= installed.code == 0;
        let free = place.limited(&home, "--nproc=4096", &["-q", "install", "xt", "--image", &image, "--shim", "x:/usr/bin/x-tool"]);
        assert!(installed.code == 0 || free.code == 0, "after {limit} the same install works: {free:?}");
        for args in [&["run", "xt"][..], &["sync"], &["verify"], &["gc"], &["list"], &["lock", "python"], &["lsp", "--build", "xt"]] {
            check(&format!("{args:?} with {limit}"), &place.limited(&home, &limit, args));
        }
    }
    assert!(succeeded, "some limit is enough");
}

#[test]
fn every_verb_ends_where_little_memory_may_be_mapped() {
    if !is_root() || !has("setpriv") {
        return skip("only root can be a user of nobody else's");
    }
    let place = Place::new();
    let image = format!("oci:{}", place.dir.path().join("image").display());
    for limit in [20_000, 40_000, 80_000, 120_000, 160_000, 320_000] {
        let home = place.fresh_home();
        let limit = format!("--as={}", limit * 1024_u64);
        let args = ["-q", "install", "xt", "--image", &image, "--shim", "x:/usr/bin/x-tool"];
        let done = place.limited(&home, &limit, &args);
        // The allocator aborts when memory runs out; no partial file stays.
        assert!(![124, 137].contains(&done.code), "{limit}: {done:?}");
        let after = place.limited(&home, "--nproc=4096", &args);
        assert!(done.code == 0 || after.code == 0, "after {limit} the same install works: {after:?}");
        let verified = place.limited(&home, "--nproc=4096", &["verify", "--all"]);
        assert_eq!(verified.code, 0, "after {limit}: {verified:?}");
    }
}

/// A project whose tool `sh` has a step.
fn stepping(step: &str, settings: &str) -> Silo {
    let silo = Silo::seeded();
    fs::create_dir_all(silo.path("")).expect("our own home");
    fs::write(silo.path("silo.toml"), settings).expect("our own home");
    fs::write(silo.project().join("silo.toml"), format!("tools = [\"sh\"]\n[overrides.sh]\npostInstall = [{step:?}]\n"))
        .expect("our own project");
    let _ = silo.run(["trust", "--yes"]);
    silo
}

#[test]
fn a_step_that_writes_without_end_is_ended() {
    let settings = "[build]\nmaxStepSize = \"64M\"\n";
    for (step, expect) in [
        ("while :; do cat /dev/zero; done > /big", "it wrote more than 64"),
        ("n=0; while :; do n=$((n + 1)); head -c 1000000 /dev/zero > /opt/$n; done", "it wrote more than 64"),
        ("head -c 90M /dev/zero > /big", "it wrote more than 64"),
    ] {
        let silo = stepping(step, settings);
        let done = silo.fails(["sync"]);
        assert!(done.err.contains(expect) && done.err.contains("build.maxStepSize"), "{step}: {done:?}");
        assert!(fs::read_dir(silo.path("work")).into_iter().flatten().count() <= 1, "{step}: nothing of it stays");
    }
    let silo = stepping("head -c 90M /dev/zero > /big", "");
    assert_eq!(silo.run(["sync"]).code, 0);
}

#[test]
fn output_without_end_leaves_its_first_and_its_last_part() {
    let silo = stepping("echo first; head -c 300M /dev/zero | tr '\\0' x; echo; echo last; exit 3", "");
    let done = silo.fails(["sync"]);
    assert!(done.err.contains("exit code 3") && done.err.contains("last"), "{done:?}");
    let logs: Vec<_> = fs::read_dir(silo.path("logs")).expect("logs").flatten().map(|entry| entry.path()).collect();
    let large = logs.iter().map(|log| fs::metadata(log).expect("a log").len()).max().expect("a log");
    assert!((1 << 20..3 << 20).contains(&large), "{large}");
    let text = logs.iter().map(|log| fs::read_to_string(log).expect("text")).find(|text| text.contains("left out")).expect("it says so");
    assert!(text.starts_with("first\n") && text.ends_with("last\n"));
}
