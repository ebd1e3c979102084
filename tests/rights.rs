//! A project's files give nothing that the user did not approve, and nothing global depends on the directory.

use std::fs;
use std::path::PathBuf;

use crate::support::{As, Done, Silo};

/// A step that a hostile project wants to run.
const STEP: &str = "{ run = \"cat /workspace/secret\", network = [\"evil.example\"], project = true }";

/// The line of [`STEP`], after the name of the tool.
const LINE: &str = "runs `cat /workspace/secret` when it is built, reaching evil.example, seeing the project";

/// Writes files into the project.
fn write(silo: &Silo, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = silo.project().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("our own project");
        fs::write(path, text).expect("our own project");
    }
}

/// Asserts that a command is refused because of a line, and that approving the project is what it takes.
fn is_refused(done: &Done, line: &str) {
    assert!(done.code != 0 && done.err.contains("asks for permissions that are not approved") && done.err.contains(line), "{done:?}");
}

#[test]
fn the_steps_of_the_version_that_is_built_are_lines() {
    let recipe = format!("command = [\"sh\"]\n[versions.\"99\"]\nsteps = [{STEP}]\n");
    for (settings, command) in [
        ("tools = [\"node@99\"]\n", "sync"),
        ("[overrides.node]\nversion = \"99\"\n", "lock"),
        ("tools = [\"node\"]\n[overrides.node]\nversion = \"99\"\n", "upgrade"),
    ] {
        let silo = Silo::new();
        write(&silo, &[("silo.toml", settings), ("recipes/node.toml", &recipe), ("secret", "s")]);
        is_refused(&silo.run([command]), &format!("node {LINE}"));
        let told = silo.run(["trust"]);
        assert!(told.out.contains(&format!("node {LINE}")), "{told:?}");
        // A version without them asks for nothing.
        write(&silo, &[("silo.toml", "tools = [\"node\"]\n")]);
        assert!(silo.ok(["trust"]).contains("everything is approved"));
    }
}

#[test]
fn additions_of_a_projects_recipe_are_lines() {
    let silo = Silo::new();
    let sh = "passEnv = [\"KEY\"]\nstate = [{ guest = \"~/.x\", scope = \"tool\" }]\n";
    let own = "image = \"registry.example.com/a:1\"\nsteps = [{ run = \"true\", network = [\"n.example\"] }]\n";
    write(&silo, &[("silo.toml", "tools = [\"sh\", \"own\", \"python\"]\n"), ("recipes/sh.toml", sh), ("recipes/own.toml", own)]);
    let told = silo.run(["trust"]).out;
    let lines: Vec<&str> = told.lines().skip(1).map(str::trim).collect();
    let expect = [
        "own is made of the image registry.example.com/a:1",
        "own runs `true` when it is built, reaching n.example",
        "sh has the same ~/.x in all projects",
        "sh sees the variable KEY",
    ];
    assert_eq!(lines, expect);
}

#[test]
fn what_a_required_recipe_or_a_broken_one_adds_is_not_lost() {
    let silo = Silo::new();
    // playwright requires node, and the recipe of playwright itself stays the built-in one.
    write(&silo, &[("silo.toml", "tools = [\"playwright\"]\n"), ("recipes/node.toml", &format!("steps = [{STEP}]\n"))]);
    is_refused(&silo.run(["sync"]), LINE);
    // A recipe that cannot be read is an error and not a recipe without lines.
    write(&silo, &[("silo.toml", "tools = [\"sh\"]\n"), ("recipes/sh.toml", "steps = 1\n")]);
    for words in [&["trust"][..], &["sync"], &["trust", "--hash"]] {
        let broken = silo.fails(words);
        assert!(broken.err.contains("recipes/sh.toml"), "{broken:?}");
    }
}

#[test]
fn a_tool_that_only_the_lock_names_has_lines() {
    let honest = Silo::seeded();
    write(&honest, &[("silo.toml", "tools = [\"sh\"]\n")]);
    let _ = honest.ok(["lock"]);
    let lock = fs::read_to_string(honest.project().join("silo.lock")).expect("locked");
    let silo = Silo::seeded();
    write(&silo, &[("silo.toml", ""), ("silo.lock", &lock), ("recipes/sh.toml", &format!("steps = [{STEP}]\n"))]);
    for words in [&["sync"][..], &["upgrade"], &["lock"]] {
        is_refused(&silo.run(words), &format!("sh {LINE}"));
    }
}

#[test]
fn an_addon_of_the_project_is_approved_by_its_contents() {
    let addon = |run: &str| format!("steps = [{{ run = \"{run}\", network = [\"evil.example\"] }}]\n");
    let silo = Silo::seeded();
    write(&silo, &[("silo.toml", "[overrides.python]\naddons = [\"uv\"]\n"), ("recipes/addons/uv.toml", &addon("first"))]);
    let line = |run: &str| format!("python runs `{run}` when it is built, reaching evil.example");
    is_refused(&silo.run(["sync"]), &line("first"));
    let _ = silo.ok(["trust", "--yes"]);
    assert!(silo.ok(["trust"]).contains("everything is approved"));
    write(&silo, &[("recipes/addons/uv.toml", &addon("second"))]);
    is_refused(&silo.run(["sync"]), &line("second"));
    // The built-in add-on is approved by its name.
    fs::remove_file(silo.project().join("recipes/addons/uv.toml")).expect("ours");
    assert!(silo.ok(["trust"]).contains("everything is approved"));
    // Neither `add` nor `init` approves the contents.
    write(&silo, &[("silo.toml", ""), ("recipes/addons/hello.toml", &addon("third"))]);
    let added = silo.run(["add", "hello", "--for", "sh"]);
    is_refused(&added, "sh runs `third` when it is built, reaching evil.example");
    assert_eq!(fs::read_to_string(silo.project().join("silo.toml")).expect("ours"), "", "{added:?}");
    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    write(&silo, &[("uv.lock", ""), ("pyproject.toml", ""), ("recipes/addons/uv.toml", &addon("fourth"))]);
    let _ = silo.ok(["init"]);
    is_refused(&silo.run(["sync"]), &line("fourth"));
}

#[test]
fn a_command_that_fails_approves_nothing() {
    let silo = Silo::seeded();
    write(&silo, &[("silo.toml", "tools = [\"sh\"]\n")]);
    for words in
        [&["add", "--for", "sh", "--step", "exit 3", "--network", "a.example"][..], &["build", "sh", "--network", "a.example", "false"]]
    {
        let failed = silo.run(words);
        assert!(failed.code != 0 && failed.err.contains("silo.toml was not changed"), "{failed:?}");
    }
    assert!(silo.ok(["trust", "--revoke"]).contains("nothing was approved"));
    // One that succeeds approves its own lines.
    let _ = silo.ok(["build", "sh", "--no-network", "true"]);
    assert!(silo.ok(["trust", "--revoke"]).contains("sh runs `true` when it is built, seeing the project"));
}

#[test]
fn what_is_installed_does_not_depend_on_the_directory() {
    let silo = Silo::seeded();
    let hostile = "steps = [\"echo evil > /opt/evil\"]\n[env]\nEVIL = \"1\"\n";
    let settings = "[mirrors]\ndebian = [\"/nowhere\"]\ndebianSecurity = [\"/nowhere\"]\n[ecosystems]\npypi = [\"evil.example\"]\n";
    write(&silo, &[("silo.toml", settings), ("recipes/sh.toml", hostile), ("recipes/evil.toml", "command = [\"sh\"]\n")]);
    let installed = silo.ok(["install", "sh"]);
    let is_clean = || !silo.image_root("sh").join("opt/evil").exists();
    assert!(is_clean(), "{installed}");
    let evil = silo.fails(["install", "evil"]);
    assert!(evil.err.contains("there is no recipe for \"evil\""), "{evil:?}");
    // The indexes come from the user's mirrors.
    let _ = silo.ok(["upgrade", "sh"]);
    assert!(is_clean());
    let hello = silo.ok(["install", "debian:hello"]);
    assert!(hello.starts_with("hello "), "{hello}");
    let built = silo.ok(["build", "sh", "--global", "--no-network", "true"]);
    assert!(is_clean(), "{built}");
    let locked = silo.ok(["lock", "sh", "--update", "--output", "out.lock"]);
    assert!(locked.contains("locked"), "{locked}");
}

#[test]
fn a_step_of_the_users_own_settings_has_no_grant_of_a_project() {
    let silo = Silo::seeded();
    let settings = "[network]\ninstallAllow = [\"evil.example\"]\n";
    write(&silo, &[("silo.toml", settings), ("recipes/sh.toml", "network.installAllow = [\"worse.example\"]\n")]);
    let _ = silo.ok(["build", "sh", "--global", "true"]);
    let text = fs::read_to_string(silo.path("silo.toml")).expect("it was written");
    assert!(text.contains("true") && !text.contains("example"), "{text}");
}

#[test]
fn a_probe_of_a_project_is_never_run() {
    let silo = Silo::seeded();
    let probe = "[ecosystems.toy]\nprobe = [\"sh\", \"-c\", \"exit 7\"]\n";
    let is_unknown = |done: &Done| {
        assert!(done.code != 0 && done.err.contains("the host names of @toy are unknown"), "{done:?}");
        assert!(done.err.contains("`silo config network learn @toy`") && !silo.path("ecosystems/toy.toml").exists(), "{done:?}");
    };
    // By the settings of a language server, by a recipe, and by an add-on's tool.
    let server = "[overrides.sh.lsp]\ncommand = [\"sh\"]\nsteps = [{ run = \"true\", network = [\"@toy\"] }]\necosystems.toy.probe = [\"sh\", \"-c\", \"exit 7\"]\n";
    write(&silo, &[("silo.toml", server)]);
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["install", "--quiet", "sh"]);
    is_unknown(&silo.run(["lsp", "--build", "sh"]));
    write(
        &silo,
        &[("silo.toml", "[overrides.sh]\npostInstall = [{ run = \"true\", network = [\"@toy\"] }]\n"), ("recipes/sh.toml", probe)],
    );
    let _ = silo.ok(["trust", "--yes"]);
    is_unknown(&silo.run(["sync"]));
    let learned = silo.fails(["config", "network", "learn", "@toy"]);
    assert!(learned.err.contains("no tool has a probe for @toy"), "{learned:?}");
    let named = silo.fails(["config", "network", "learn", "@toy", "--tool", "sh"]);
    assert!(named.err.contains("has no probe for them"), "{named:?}");
}

#[test]
fn the_lines_of_a_language_server_name_what_its_steps_reach() {
    let silo = Silo::new();
    let server =
        "[network]\ninstallAllow = [\"evil.example\"]\n[overrides.sh]\npostInstall = [\"one\"]\n[overrides.sh.lsp]\nsteps = [\"two\"]\n";
    write(&silo, &[("silo.toml", server)]);
    let told = silo.run(["trust"]).out;
    for line in [
        "sh runs `one` when it is built, reaching evil.example",
        "the language server of sh runs `two` when it is built, reaching evil.example",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

#[test]
fn settings_of_the_home_are_not_a_projects() {
    let silo = Silo::new();
    write(&silo, &[("silo.toml", "[gc]\nmaxAge = \"1s\"\n")]);
    let refused = silo.fails(["list"]);
    assert!(refused.err.contains("gc is a user setting, and a project cannot set it"), "{refused:?}");
    write(&silo, &[("silo.toml", "[mirrors]\ndebian = [\"https://m.example\"]\n")]);
    let told = silo.run(["trust"]).out;
    assert!(
        told.contains("packages come from https://m.example, and silo.lock decides which files they are, unsigned by Debian"),
        "{told}"
    );
}

#[test]
fn a_one_off_tool_is_updated_and_not_built_beside_an_installed_one() {
    let silo = Silo::seeded();
    assert_eq!(silo.ok(["x", "sh", "-c", "echo first"]), "first\n");
    let listing = fs::read_dir(silo.path("one-off")).expect("a lock was stored");
    let locks: Vec<PathBuf> = listing.map(|entry| entry.expect("ours").path()).collect();
    let [lock] = locks.as_slice() else { panic!("one lock: {locks:?}") };
    let before = fs::read_to_string(lock).expect("it was written");
    let updated = silo.run(["x", "--update", "sh", "-c", "echo updated"]);
    assert!(updated.code == 0 && updated.out == "updated\n", "{updated:?}");
    let text = fs::read_to_string(lock).expect("it was written");
    assert_ne!(text, before, "the recipe has a lock, and today's packages are locked nevertheless");
    assert_eq!(silo.ok(["x", "--offline", "sh", "-c", "echo again"]), "again\n");
    assert_eq!(fs::read_to_string(lock).expect("it stays"), text);
    // An index that is older than that of an earlier run is refused, as for other locks.
    let later: Vec<&str> = text.lines().map(|line| if line.starts_with("date = ") { "date = 4102444800" } else { line }).collect();
    fs::write(lock, format!("{}\n", later.join("\n"))).expect("ours");
    let older = silo.run(["x", "--update", "sh", "-c", "true"]);
    assert!(older.code == 125 && older.err.contains("older"), "{older:?}");

    let installed = Silo::shared(As::Me);
    let built = installed.run(["x", "--build", "sh"]);
    assert!(built.code == 0 && built.err.contains("which is built already"), "{built:?}");
}

#[test]
fn a_killed_command_approves_nothing_that_it_did_not_write() {
    let silo = Silo::seeded();
    write(&silo, &[("silo.toml", "tools = [\"sh\"]\n")]);
    let settings = silo.project().join("silo.toml");
    let before = fs::read_to_string(&settings).expect("our own file");
    drop(silo.ok(["sync", "--quiet"]));
    let build = |step: &str| silo.command(["build", "sh", "--network", "never.example", "sh", "-c", step]);
    let mut child = build("echo begun; sleep 600").stderr(std::process::Stdio::null()).spawn().expect("silo starts");
    let record = || {
        let found = fs::read_dir(silo.path("trust")).into_iter().flatten().flatten();
        found.filter_map(|dir| fs::read_to_string(dir.path().join("record.toml")).ok()).collect::<String>()
    };
    crate::support::sandbox::until_else(
        || record().contains("announced_settings"),
        || format!("the change is not announced: {}", record()),
    );
    child.kill().and_then(|()| child.wait()).expect("our own child");
    assert_eq!(fs::read_to_string(&settings).expect("our own file"), before);
    // Neither the old settings nor others are a question, and the lines of the killed command are.
    assert!(silo.ok(["trust"]).contains("everything is approved"));
    assert!(!record().contains("never.example"), "{}", record());
    drop(silo.ok(["sync", "--quiet"]));
    let step = "{ run = [\"sh\", \"-c\", \"echo begun; sleep 600\"], network = [\"never.example\"] }";
    write(&silo, &[("silo.toml", &format!("{before}[overrides.sh]\npostInstall = [{step}]\n"))]);
    is_refused(&silo.run(["sync"]), "never.example");
    // A command that ends approves what it wrote, and a failing one nothing.
    fs::write(&settings, &before).expect("our own file");
    assert!(!build("exit 3").output().expect("silo starts").status.success());
    assert!(!record().contains("never.example") && silo.ok(["trust"]).contains("everything is approved"), "{}", record());
    let built = build("echo done > /opt/done").output().expect("silo starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert!(record().contains("never.example") && !record().contains("announced_settings"), "{}", record());
    assert!(silo.ok(["trust"]).contains("everything is approved"));
}
