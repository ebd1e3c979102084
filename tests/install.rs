//! Installing, and rebuilding after changes.

use std::fs;
use std::process::Command;

use crate::support::{As, Silo, done};

const HELLO: &str = "description = \"a shell and a program without scripts\"\ncommand = [\"hello\"]\n[debian]\npackages = [\"dash\", \"hello\"]\nversionOf = \"hello\"\n";

fn made(json: &str) -> u64 {
    let json: serde_json::Value = serde_json::from_str(json).expect("install --json prints JSON");
    json[0]["layersMade"].as_u64().expect("a number of layers")
}

#[test]
fn an_install_that_has_nothing_to_do_changes_nothing() {
    let silo = Silo::shared(As::Me);
    let done = silo.run(["install", "python"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("is installed already"), "{done:?}");
    assert_eq!(done.err, "");
}

#[test]
fn a_package_without_scripts_makes_one_layer_and_its_place_in_the_database() {
    let silo = Silo::new();
    silo.seed_downloads();
    // Both are locked now: a built-in lock may have another day's packages.
    silo.write(".silo/recipes/base.toml", "command = [\"sh\"]\n[debian]\npackages = [\"dash\"]\nversionOf = \"dash\"\n");
    silo.write(".silo/recipes/hello.toml", HELLO);
    let _ = silo.ok(["install", "--quiet", "base"]);
    let json = silo.ok(["install", "--quiet", "--json", "hello"]);
    // The package's own layer, and the layer of the dpkg database that now names it.
    assert_eq!(made(&json), 2, "{json}");
    assert_eq!(silo.ok(["hello"]), "Hello, world!\n");
    let list = silo.ok(["run", "hello", "--version"]);
    assert!(list.starts_with("hello (GNU Hello)"), "{list}");
    let status = silo.fed(["shell", "hello"], b"dpkg -s hello | grep ^Status; dpkg --audit\n");
    assert_eq!(status.out, "Status: install ok installed\n", "{status:?}");
}

/// zutils ships `zcat` too, and its preinst diverts the one of the essential package gzip.
#[test]
fn files_that_packages_contend_for_are_placed_by_dpkg() {
    let silo = Silo::seeded();
    silo.write(".silo/recipes/zutils.toml", "command = [\"sh\"]\n[debian]\npackages = [\"dash\", \"zutils\"]\nversionOf = \"zutils\"\n");
    let _ = silo.ok(["install", "--quiet", "zutils"]);
    let said =
        silo.ok(["zutils", "-c", "zcat --version | head -1; zcat.gzip --version | head -1; dpkg --audit; dpkg --verify gzip zutils"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("zcat (zutils)") && lines[1].starts_with("zcat (gzip)"), "{said}");
    // Both are in the step's layer, and dpkg knows their owners.
    for (path, owner) in [("/usr/bin/zcat", "package     zutils 1."), ("/usr/bin/zcat.gzip", "package     gzip 1.")] {
        let why = silo.ok(["why", path]);
        assert!(why.contains("(configure recipe)\n") && why.contains(owner), "{why}");
    }
}

/// Build packages: steps may run, change and remove them, and the image contains no trace of them.
#[test]
fn packages_for_steps_alone_are_not_in_the_image() {
    let silo = Silo::seeded();
    let steps = "steps = [\"hello --traditional > /etc/greeting && rm /usr/bin/hello\", \"! hello && cat /etc/greeting > /etc/again\"]\n";
    let debian = "[debian]\npackages = [\"dash\"]\nbuildPackages = [\"hello\", \"dash\"]\nversionOf = \"dash\"\n";
    silo.write(".silo/recipes/greeting.toml", &format!("command = [\"sh\"]\n{steps}{debian}"));
    let _ = silo.ok(["install", "--quiet", "greeting"]);
    let seen = "cat /etc/greeting /etc/again; ls /usr/bin/hello /usr/share/doc/hello; dpkg -s hello | grep Status; dpkg --audit";
    let done = silo.run(["greeting", "-c", seen]);
    assert_eq!(done.out, "hello, world\nhello, world\n", "{done:?}");
    assert!(!silo.ok(["sbom", "greeting"]).contains("hello@"), "what was there for a while is no part of the bill");
    let lock = fs::read_to_string(silo.path("recipes/greeting.lock")).expect("it is locked");
    assert!(lock.contains("build = [\"hello\"]\n"), "what the image has anyway is there: {lock}");
    let hello = lock.lines().find(|line| line.starts_with("\"hello\" = {")).expect("it is locked, too");
    assert!(hello.contains("tier = \"build\""), "{hello}");
    let checked = silo.ok(["build", "--check", "greeting"]);
    assert_eq!(checked.matches("same      ").count(), 3, "{checked}");
    // With another compiler the steps run again; equal bytes give the same image.
    let image = |json: &str| serde_json::from_str::<serde_json::Value>(json).expect("it is JSON")[0]["image"].clone();
    let before = image(&silo.ok(["list", "--json"]));
    let debian = debian.replace("\"hello\"", "\"hello\", \"jq\"");
    silo.write(".silo/recipes/greeting.toml", &format!("command = [\"sh\"]\n{steps}{debian}"));
    let json = silo.ok(["install", "--quiet", "--json", "greeting"]);
    assert!(made(&json) > 0, "{json}");
    assert_eq!(image(&silo.ok(["list", "--json"])), before);
}

#[test]
fn versions_are_matched_by_their_beginning() {
    let silo = Silo::shared(As::Me);
    let _ = silo.ok(["install", "python@3.13"]);
    let done = silo.fails(["install", "python@3.1"]);
    assert!(done.err.contains("python 3.1 is not available: there"), "{done:?}");
    let done = silo.fails(["install", "node@23"]);
    let list = done.err.split("there are ").nth(1).unwrap_or_default();
    assert!(["20.", "22.", "24."].iter().all(|version| list.contains(version)), "{done:?}");
    let done = silo.fails(["install", "python@"]);
    assert_eq!(done.code, 2, "{done:?}");
    let _ = silo.ok(["install", "python", "--version", "3.13"]);
    let _ = silo.ok(["install", "python@3.13", "--version", "3.13"]);
    let done = silo.fails(["install", "python@3.13", "--version", "3.12"]);
    assert!(done.code == 2 && done.err.contains("conflicting versions: \"python@3.13\" and --version 3.12"), "{done:?}");
    assert_eq!(silo.fails(["install", "python", "sh", "--version", "3.13"]).code, 2);
}

/// A recipe of a step over a shell.
fn with_step(silo: &Silo, name: &str, step: &str) {
    let debian = "[debian]\npackages = [\"dash\"]\nversionOf = \"dash\"\n";
    silo.write(&format!(".silo/recipes/{name}.toml"), &format!("command = [\"sh\"]\nsteps = [\"{step}\"]\n{debian}"));
}

#[test]
fn several_tools_are_built_together_and_one_that_fails_stops_no_other() {
    let silo = Silo::seeded();
    for (name, step) in [("first", "echo 1 > /etc/first"), ("broken", "echo no; false"), ("last", "echo 3 > /etc/last")] {
        with_step(&silo, name, step);
    }
    let mistyped = silo.run(["install", "--quiet", "first", "lasst"]);
    assert!(mistyped.code != 0 && mistyped.err.contains("lasst"), "{mistyped:?}");
    assert_eq!(silo.ok(["list"]), "", "a wrong name costs no build");
    let done = silo.run(["install", "--quiet", "first", "broken", "last"]);
    assert!(done.code != 0 && done.out.is_empty() && done.err.contains("broken"), "{done:?}");
    assert!(done.err.contains("first 0.5") && done.err.contains("last 0.5"), "{done:?}");
    assert_eq!(silo.ok(["run", "--no-project", "last", "-c", "cat /etc/last"]), "3\n");
    with_step(&silo, "broken", "true");
    let json = silo.ok(["install", "--quiet", "--json", "first", "broken", "last"]);
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let changed: Vec<bool> = told.as_array().into_iter().flatten().map(|tool| tool["changed"] == true).collect();
    assert_eq!(changed, [false, true, false], "{json}");
}

#[test]
fn unknown_tools_list_installable_ones() {
    let silo = Silo::new();
    for (tool, expect) in [
        ("pyton", "did you mean \"python\"?"),
        ("zzz", "`silo list --available` shows them all"),
        ("Python", "is not a tool name"),
        ("../etc", "is not a tool name"),
        ("install", "is a command of silo"),
    ] {
        let done = silo.fails(["install", tool]);
        assert!(done.err.contains(expect), "{tool}: {done:?}");
    }
}

#[test]
fn uninstalled_tools_are_collected() {
    let silo = Silo::seeded();
    let _ = silo.ok(["install", "--quiet", "sh"]);
    let _ = silo.ok(["uninstall", "sh"]);
    assert_eq!(silo.ok(["list"]), "");
    let done = silo.fails(["run", "sh", "-c", "true"]);
    assert!(done.err.contains("sh is not installed"), "{done:?}");
    let would = silo.ok(["gc", "--all", "--dry-run"]);
    assert!(would.contains("would be removed"), "{would}");
    let _ = silo.ok(["gc", "--all"]);
    let left: Vec<_> = std::fs::read_dir(silo.path("baked")).expect("the store is there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(std::fs::read_dir(silo.path("images")).expect("the store is there").count(), 0);
    let _ = silo.fails(["uninstall", "sh"]);
}

#[test]
fn newer_versions_are_reported_and_installed() {
    let silo = Silo::new();
    silo.seed_downloads();
    silo.write(".silo/recipes/hello.toml", HELLO);
    let _ = silo.ok(["install", "--quiet", "hello"]);
    let lock = silo.path("recipes/hello.lock");
    let today = fs::read_to_string(&lock).expect("the recipe's lock");
    let version = silo.ok(["list"]).split_whitespace().nth(1).expect("its version").to_owned();
    // As if it had been locked before this version came.
    let old = today.replace(&format!("\"hello\" = {{ version = \"{version}"), "\"hello\" = { version = \"1.9");
    assert_ne!(old, today, "{version}");
    fs::write(&lock, &old).expect("our own file");
    let told = silo.ok(["outdated", "hello"]);
    assert!(told.lines().any(|line| ["hello", "1.9", &version].iter().all(|word| line.contains(word))), "{told}");
    let json: serde_json::Value = serde_json::from_str(&silo.ok(["outdated", "--json"])).expect("outdated --json prints JSON");
    assert!(json.to_string().contains("1.9"), "{json}");
    assert_eq!(fs::read_to_string(&lock).expect("the lock"), old, "asking changes nothing");
    let taken = silo.ok(["upgrade", "--quiet", "hello"]);
    assert!(taken.contains(&version), "{taken}");
    let mended = fs::read_to_string(&lock).expect("the lock");
    let packages = |lock: &str| lock.lines().filter(|line| line.contains(" = { version = ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(packages(&mended), packages(&today));
    let nothing = silo.ok(["outdated", "hello"]);
    assert!(!nothing.contains("1.9"), "{nothing}");
    assert_eq!(silo.ok(["hello"]), "Hello, world!\n");
}

#[test]
fn another_home_holds_everything_and_is_not_shown_to_tools() {
    let silo = Silo::new();
    let place = tempfile::tempdir().expect("a directory");
    let home = place.path().join("silo home");
    let at = |args: &[&str]| {
        let mut command = silo.command(args);
        command.env("SILO_HOME", &home);
        command
    };
    silo.seed_downloads();
    fs::create_dir_all(&home).expect("a directory");
    fs::rename(silo.path("downloads"), home.join("downloads")).expect("on one file system");
    let _ = fs::remove_dir_all(silo.path(""));
    fs::create_dir_all(home.join("recipes")).expect("a directory");
    fs::write(home.join("recipes/greeter.toml"), HELLO).expect("written");
    let installed = done(&mut at(&["install", "--quiet", "greeter"]));
    assert_eq!(installed.code, 0, "{installed:?}");
    let ran = done(&mut at(&["run", "greeter", "-g", "works"]));
    assert_eq!((ran.code, ran.out.as_str()), (0, "works\n"), "{ran:?}");
    let added = done(&mut at(&["shim", "add", "greeter", "greet:hello"]));
    assert_eq!(added.code, 0, "{added:?}");
    let mut shim = Command::new(home.join("bin/greet"));
    shim.args(["-g", "by shim"]).current_dir(silo.project()).env_clear();
    shim.env("HOME", silo.home()).env("SILO_HOME", &home).env("PATH", "/usr/bin:/bin");
    let ran = done(&mut shim);
    assert_eq!((ran.code, ran.out.as_str()), (0, "by shim\n"), "{ran:?}");
    assert!(!silo.path("").exists(), "nothing is made in the usual home");
    // A directory in it, or with it, is as private as the usual home.
    for dir in [home.join("bin"), place.path().to_owned()] {
        let refused = done(at(&["run", "greeter"]).current_dir(&dir));
        assert!(refused.code == 125 && refused.err.contains("keys and approvals"), "{}: {refused:?}", dir.display());
    }
    for bad in ["relative", "/", "/tmp/../x"] {
        let refused = done(silo.command(["list"]).env("SILO_HOME", bad));
        assert!(refused.code == 2 && refused.err.contains("SILO_HOME is"), "{bad}: {refused:?}");
    }
}
