//! Each verb with each of its system calls failing, and killed at each of them.
//!
//! strace does it: `--inject` fails the Nth call of a kind, or kills at it. A verb is tried first to see which calls it makes;
//! then once for each point, from the same home and project. Afterwards nothing of a person's is half or odd, nothing in the
//! store is broken, and the same verb succeeds. A whole sweep takes hours: the test takes every so-manieth point, the same
//! each time; `SILO_TEST_POINTS=all` takes all, and `SILO_TEST_POINTS=N` every Nth.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::names;
use crate::support::images::{self, Layer};
use crate::support::{Done, Silo, done, has, skip};

/// The tried calls, with their errors: calls that change something on disk, start something, or take a resource
/// that may run out.
const CALLS: [(&str, &str); 28] = [
    ("openat", "EMFILE"),
    ("write", "ENOSPC"),
    ("pwrite64", "ENOSPC"),
    ("copy_file_range", "ENOSPC"),
    ("rename", "EIO"),
    ("renameat", "EIO"),
    ("renameat2", "EIO"),
    ("link", "EMLINK"),
    ("linkat", "EMLINK"),
    ("unlink", "EIO"),
    ("unlinkat", "EIO"),
    ("fsync", "EIO"),
    ("fdatasync", "EIO"),
    ("syncfs", "EIO"),
    ("mkdir", "ENOSPC"),
    ("mkdirat", "ENOSPC"),
    ("symlink", "ENOSPC"),
    ("symlinkat", "ENOSPC"),
    ("chmod", "EPERM"),
    ("fchmod", "EPERM"),
    ("fchmodat", "EPERM"),
    ("ftruncate", "EIO"),
    ("flock", "ENOLCK"),
    ("utimensat", "EIO"),
    ("clone", "EAGAIN"),
    ("clone3", "EAGAIN"),
    ("mmap", "ENOMEM"),
    ("fcntl", "EMFILE"),
];

/// How many points of a verb the test takes, of either kind.
const SAMPLE: usize = 12;

/// The fault at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Fail,
    Kill,
}

/// A verb with a home and a project to begin from.
struct Trial {
    silo: Silo,
    args: Vec<String>,
    /// Where home and project are kept as they were at the beginning.
    kept: tempfile::TempDir,
    /// The files of the project before and after.
    before: BTreeMap<String, String>,
    after: BTreeMap<String, String>,
    /// Whether the verb is done. A second time it may be refused: nothing can be uninstalled twice.
    is_done: Option<Check>,
}

/// Looks at the result of a verb.
type Check = fn(&Silo) -> bool;

/// The files of a project, whole.
fn files(project: &Path) -> BTreeMap<String, String> {
    let text = |name: &String| fs::read_to_string(project.join(name)).unwrap_or_default();
    names(project).into_iter().map(|name| (name.clone(), text(&name))).collect()
}

/// A layer with a shell and the libraries of this machine that it needs.
fn shell() -> Option<Layer> {
    let listed = Command::new("ldd").arg("/bin/sh").output().ok()?;
    let listed = String::from_utf8(listed.stdout).ok()?;
    let libraries: Vec<&str> = listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).expect("memory");
    };
    let mut dirs = BTreeSet::from(["tmp", "etc", "root", "home"].map(str::to_owned));
    let of = |path: &str| -> Vec<String> {
        let above = Path::new(path).parent().into_iter().flat_map(Path::ancestors);
        above.filter_map(|dir| dir.strip_prefix("/").ok()?.to_str().map(str::to_owned)).filter(|dir| !dir.is_empty()).collect()
    };
    libraries.iter().chain(&["/bin/sh"]).for_each(|path| dirs.extend(of(path)));
    dirs.iter().for_each(|dir| add(dir, tar::EntryType::Directory, 0o755, b""));
    for path in libraries.iter().chain(&["/bin/sh"]) {
        add(&path[1..], tar::EntryType::Regular, 0o755, &fs::read(path).ok()?);
    }
    Some(Layer::plain(builder.into_inner().expect("memory")))
}

fn copy_children(from: &Path, to: &Path) {
    for name in names(to) {
        silo_store::removal::remove_tree(&to.join(name)).expect("our own");
    }
    let copied = Command::new("cp").args(["-a", "--reflink=auto", "-T"]).args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()));
}

impl Trial {
    /// A verb that begins after `prepare`.
    fn new(layer: &Layer, args: &[&str], is_done: Option<Check>, prepare: impl FnOnce(&Silo)) -> Trial {
        let silo = Silo::new();
        let place = silo.home().join("layout");
        images::layout(&place, &[Layer { bytes: layer.bytes.clone(), diff: layer.diff }]);
        prepare(&silo);
        let args = args.iter().map(|arg| arg.replace("LAYOUT", &place.display().to_string())).collect();
        let kept = tempfile::tempdir().expect("a temporary directory");
        let mut trial = Trial { silo, args, kept, before: BTreeMap::new(), after: BTreeMap::new(), is_done };
        for (from, name) in [(trial.silo.home().to_owned(), "home"), (trial.silo.project(), "project")] {
            let kept = trial.kept.path().join(name);
            fs::create_dir(&kept).expect("our own");
            copy_children(&from, &kept);
        }
        trial.before = files(&trial.silo.project());
        let _ = trial.silo.ok(&trial.args);
        trial.after = files(&trial.silo.project());
        assert!(trial.is_done() != Some(false), "{:?}", trial.args);
        trial
    }

    fn is_done(&self) -> Option<bool> {
        self.is_done.map(|is_done| is_done(&self.silo))
    }

    fn restore(&self) {
        copy_children(&self.kept.path().join("home"), self.silo.home());
        copy_children(&self.kept.path().join("project"), &self.silo.project());
    }

    fn traced(&self, options: &[String], log: &Path) -> Done {
        let whole = self.silo.command(&self.args);
        let mut traced = Command::new("timeout");
        traced.args(["--kill-after=5", "60", "strace", "-f", "--seccomp-bpf", "-qqq", "-o"]).arg(log).args(options);
        traced.arg(whole.get_program()).args(whole.get_args()).current_dir(self.silo.project()).env_clear();
        traced.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
        done(&mut traced)
    }

    /// The points of the verb: how often one of its processes makes each call.
    fn points(&self) -> Vec<(&'static str, &'static str, usize)> {
        self.restore();
        let log = self.kept.path().join("log");
        // Not every system has all of them.
        let all = format!("trace={}", CALLS.map(|(name, _)| format!("?{name}")).join(","));
        let traced = self.traced(&["-e".to_owned(), all, "-e".to_owned(), "signal=none".to_owned()], &log);
        assert_eq!(traced.code, 0, "{traced:?}");
        let text = String::from_utf8_lossy(&fs::read(&log).expect("a log")).into_owned();
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(process), Some(rest)) = (words.next(), words.next()) else { continue };
            if let Some(call) = CALLS.iter().find(|(name, _)| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))) {
                *counts.entry((call.0, process)).or_default() += 1;
            }
        }
        let most = |name| counts.iter().filter(|((call, _), _)| *call == name).map(|(_, count)| *count).max().unwrap_or(0);
        CALLS.iter().flat_map(|(name, error)| (1..=most(*name)).map(move |number| (*name, *error, number))).collect()
    }

    /// Tries one point; returns the faults afterwards.
    fn harm(&self, harm: Harm, (call, error, number): (&str, &str, usize)) -> Result<(), String> {
        self.restore();
        let what = match harm {
            Harm::Fail => format!("error={error}"),
            Harm::Kill => "signal=KILL".to_owned(),
        };
        let options = ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), format!("inject={call}:{what}:when={number}")];
        let tried = self.traced(&options, &self.kept.path().join("log"));
        let point = format!("`silo {}`, {call} {number} {what}", self.args.join(" "));
        // Before anything of ours runs, Rust's own start-up takes a stack for signals, and gives up where there is none.
        let before_main = tried.err.contains("failed to allocate an alternative stack");
        if tried.code == 124 || (!before_main && (tried.code == 101 || tried.err.contains("panicked"))) {
            return Err(format!("{point}: it hung or panicked: {tried:?}"));
        }
        // The next silo of any kind finishes or undoes the begun change.
        let verified = self.silo.run(["verify", "--all"]);
        if verified.code != 0 || !verified.out.contains(" 0 faults") {
            return Err(format!("{point}: {tried:?}\nafterwards: {verified:?}"));
        }
        self.is_whole().map_err(|wrong| format!("{point}: {tried:?}\n{wrong}"))?;
        // A verb that succeeded may be impossible a second time.
        let again = if tried.code == 0 || self.is_done() == Some(true) { None } else { Some(self.silo.run(&self.args)) };
        let again = again.unwrap_or_else(|| Done { code: 0, ..tried.clone() });
        if again.code != 0 {
            return Err(format!("{point}: {tried:?}\nthe same again: {again:?}"));
        }
        if self.is_done() == Some(false) {
            return Err(format!("{point}: {tried:?}\nit is not done after {again:?}"));
        }
        let now = files(&self.silo.project());
        if now != self.after {
            return Err(format!("{point}: {tried:?}\nthe project is {now:?}\nand not {:?}", self.after));
        }
        Ok(())
    }

    /// Everything that a person wrote is as it was, or all of it as it is to be.
    fn is_whole(&self) -> Result<(), String> {
        let now = files(&self.silo.project());
        let journal = names(&self.silo.path("journal"));
        if (now != self.before && now != self.after) || !journal.is_empty() {
            return Err(format!("the project is half changed: {now:?}, journal {journal:?}"));
        }
        Ok(())
    }
}

fn stride(points: usize) -> usize {
    match std::env::var("SILO_TEST_POINTS").ok().as_deref() {
        Some("all") => 1,
        Some(number) => number.parse().expect("SILO_TEST_POINTS is \"all\" or a number"),
        None => points.div_ceil(SAMPLE).max(1),
    }
}

fn sweep(name: &str, trial: &Trial) {
    let points = trial.points();
    let stride = stride(points.len());
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (at, point) in points.iter().enumerate().step_by(stride) {
        // The one and the other by turns, where not all are taken.
        let harms: &[Harm] = match (stride, (at / stride) % 2) {
            (1, _) => &[Harm::Fail, Harm::Kill],
            (_, 0) => &[Harm::Kill],
            _ => &[Harm::Fail],
        };
        for harm in harms {
            tried += 1;
            if let Err(fault) = trial.harm(*harm, *point) {
                say(&format!("{name}: {fault}"));
                wrong.push(fault);
            }
        }
    }
    say(&format!("{name}: {tried} of {} points were tried, {} went wrong", points.len() * 2, wrong.len()));
    assert!(wrong.is_empty(), "{} of {tried}", wrong.len());
}

/// Says something past the test runner's capture: a whole sweep takes long.
fn say(text: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

/// Runs a sweep, where there is strace and a shell to make an image of.
fn swept(name: &str, args: &[&str], prepare: impl FnOnce(&Silo)) {
    swept_until(name, args, None, prepare);
}

/// The same for a verb that may be refused once it is done.
fn swept_until(name: &str, args: &[&str], is_done: Option<Check>, prepare: impl FnOnce(&Silo)) {
    if !has("strace") {
        return skip("there is no strace");
    }
    let Some(layer) = shell() else { return skip("there is no shell to make an image of") };
    sweep(name, &Trial::new(&layer, args, is_done, prepare));
}

const IMAGE: [&str; 6] = ["install", "box", "--image", "oci:LAYOUT:v1", "--shim", "box:/bin/sh"];

fn with_box(silo: &Silo) {
    let layout: PathBuf = silo.home().join("layout");
    let _ = silo.ok(IMAGE.map(|arg| arg.replace("LAYOUT", &layout.display().to_string())));
}

/// A project that uses the tool, and has a step over it that was never run.
fn with_project(silo: &Silo) {
    with_box(silo);
    fs::write(silo.project().join("silo.toml"), "# ours\ntools = [\"box\"]\n").expect("our own");
}

/// The lock does not depend on an earlier attempt that built the image and then failed.
#[test]
fn an_addition_whose_image_is_there_notes_its_layers() {
    let Some(layer) = shell() else { return skip("there is no shell to make an image of") };
    let added = ["add", "--for", "box", "--step", "echo again > /etc/again"];
    let trial = Trial::new(&layer, &added, None, |silo| {
        with_project(silo);
        let _ = silo.ok(["sync"]);
    });
    assert!(trial.after["silo.lock"].contains("[tool.box.layers."), "{:?}", trial.after);
    copy_children(&trial.kept.path().join("project"), &trial.silo.project());
    let _ = trial.silo.ok(&trial.args);
    assert_eq!(files(&trial.silo.project()), trial.after);
}

#[test]
fn an_install_of_an_image_is_made_or_not() {
    swept("install --image", &IMAGE, |_| {});
}

#[test]
fn an_install_is_made_or_not() {
    swept("install", &["install", "box"], |silo| {
        with_box(silo);
        let _ = silo.ok(["uninstall", "box"]);
        let _ = silo.ok(["gc", "--all"]);
    });
}

#[test]
fn a_collection_is_made_or_not() {
    swept("gc", &["gc", "--all"], |silo| {
        with_box(silo);
        let _ = silo.ok(["uninstall", "box"]);
    });
}

#[test]
fn a_sync_is_made_or_not() {
    swept("sync", &["sync"], with_project);
}

#[test]
fn a_build_is_made_or_not() {
    swept("build", &["build", "box", "--no-network", "/bin/sh", "-c", "echo made > /etc/made"], |silo| {
        with_project(silo);
        let _ = silo.ok(["sync"]);
    });
}

#[test]
fn an_addition_is_made_or_not() {
    swept("add", &["add", "--for", "box", "--step", "echo added > /etc/added"], |silo| {
        with_project(silo);
        let _ = silo.ok(["sync"]);
    });
}

#[test]
fn an_approval_is_made_or_not() {
    swept("trust", &["trust", "--yes"], |silo| {
        with_project(silo);
        fs::write(silo.project().join("silo.toml"), "tools = [\"box\"]\nnetwork.allow = [\"x.example\"]\n").expect("our own");
    });
}

/// A list that a command prints as JSON.
fn listed(silo: &Silo, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&silo.ok(args)).expect("--json prints JSON")
}

fn is_empty(list: &serde_json::Value) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}

#[test]
fn an_uninstall_is_made_or_not() {
    swept_until("uninstall", &["uninstall", "box"], Some(|silo| is_empty(&listed(silo, &["list", "--json"]))), with_box);
}

#[test]
fn a_lock_is_made_or_not() {
    swept("lock", &["lock"], with_project);
}

#[test]
fn an_upgrade_is_made_or_not() {
    swept("upgrade", &["upgrade"], |silo| {
        with_project(silo);
        let _ = silo.ok(["sync"]);
    });
}

#[test]
fn a_use_is_made_or_not() {
    swept("use", &["use", "box"], |silo| {
        with_box(silo);
        fs::write(silo.project().join("silo.toml"), "# ours\n").expect("our own");
    });
}

#[test]
fn a_change_of_settings_is_made_or_not() {
    swept("config", &["config", "network", "allow", "x.example"], with_project);
}

#[test]
fn a_new_project_is_made_or_not() {
    let is_done: Check = |silo| silo.project().join("silo.toml").exists();
    swept_until("init", &["init", "--tool", "box", "--no-interactive"], Some(is_done), with_box);
}

#[test]
fn a_project_is_forgotten_or_not() {
    let is_done: Check = |silo| is_empty(&listed(silo, &["projects", "ls", "--json"]));
    swept_until("clean", &["clean", "--force"], Some(is_done), |silo| {
        with_project(silo);
        let _ = silo.ok(["sync"]);
    });
}

#[test]
fn a_reset_is_made_or_not() {
    let is_done: Check = |silo| !silo.path("").with_extension("removed").exists() && is_empty(&listed(silo, &["list", "--json"]));
    swept_until("reset", &["reset", "--force"], Some(is_done), with_box);
}

#[test]
fn a_shim_is_made_or_not() {
    let is_done: Check = |silo| listed(silo, &["shim", "list", "--json"]).to_string().contains("\"other\"");
    swept_until("shim", &["shim", "add", "box", "other:/bin/sh"], Some(is_done), with_box);
}

#[test]
fn a_pin_is_made_or_not() {
    swept("pin", &["pin", "box"], |silo| {
        with_box(silo);
        let _ = silo.ok(["unpin", "box"]);
    });
}
