//! Programs by their name (`silo exec`), and tools that run without being installed (`silo x`).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::terminal::Session;
use crate::support::{As, Silo};

/// Writes an executable script into a project.
fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("our own project");
    fs::write(path, text).expect("our own project");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

#[test]
fn a_misspelt_option_is_no_tool() {
    let silo = Silo::new();
    for command in ["run", "exec", "x"] {
        let done = silo.fails([command, "--quite", "python"]);
        assert!(done.code == 125 && done.err.contains("unknown option --quite"), "{done:?}");
        assert!(done.err.contains(&format!("`silo {command} --help`")), "{done:?}");
    }
}

#[test]
fn programs_of_the_project_and_of_images_run_by_name() {
    let silo = Silo::shared(As::Me);
    let venv = silo.project().join(".venv/bin");
    script(&venv.join("greet"), "#!/bin/sh\necho \"greet $* $VIRTUAL_ENV\"\n");
    symlink("/usr/bin/python3", venv.join("python")).expect("our own project");
    let project = fs::canonicalize(silo.project()).expect("our own project");
    let greeted = format!("greet a --help {}/.venv\n", project.display());
    for words in
        [&["exec", "greet", "a", "--help"][..], &["exec", "python", "greet", "a", "--help"], &["exec", "--", "greet", "a", "--help"]]
    {
        assert_eq!(silo.ok(words), greeted, "{words:?}");
    }
    script(&silo.project().join("own.sh"), "#!/bin/sh\necho own \"$1\"\n");
    for (words, expect) in [
        (&["exec", "sh", "./own.sh", "x"][..], "own x\n"),
        (&["exec", "python", "-c", "print(1)"], "1\n"),
        (&["exec", "python", "--", "sh", "-c", "echo $0", "--"], "--\n"),
        (&["exec", "sh", "--", "printf", "%s", "a b"], "a b"),
        (&["exec", "python3", "-c", "print(2)"], "2\n"),
        (&["exec", "sh", "--", "/usr/bin/env", "echo", "3"], "3\n"),
    ] {
        assert_eq!(silo.ok(words), expect, "{words:?}");
    }
    assert_eq!(silo.run(["exec", "sh", "sh", "-c", "exit 42"]).code, 42);
    let several = silo.run(["exec", "ls"]);
    assert!(several.code == 125 && several.err.contains("ls is a program of several tools: python, sh"), "{several:?}");
    let missing = silo.run(["exec", "no-such-program"]);
    assert!(missing.code == 125 && missing.err.contains("no tool here has a program \"no-such-program\""), "{missing:?}");
    assert!(missing.err.contains("silo x --package"), "{missing:?}");
    let without = silo.run(["exec", "--no-project", "greet"]);
    assert_eq!(without.code, 125, "a run without the project has no program of it: {without:?}");
}

#[test]
fn the_tools_of_the_project_come_first() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "tools = [\"sh\"]\n[mount]\nexclude = [\".venv\"]\n").expect("our own project");
    assert!(silo.ok(["exec", "ls", "/"]).contains("workspace\n"), "python has it too, and is no tool of the project");
    // An excluded directory is elsewhere on this machine.
    let make = "mkdir -p .venv/bin && ln -s /usr/bin/python3 .venv/bin/python && printf '#!/bin/sh\\necho inner\\n' > .venv/bin/inner && chmod 755 .venv/bin/inner";
    silo.ok(["exec", "sh", "--", "sh", "-c", make]);
    assert_eq!(silo.ok(["exec", "inner"]), "inner\n");
    // An unbuilt tool of the project is not replaced by another one.
    fs::write(silo.project().join("silo.toml"), "[overrides.sh]\npackages = [\"hello\"]\n").expect("our own project");
    let unbuilt = silo.run(["exec", "ls"]);
    assert!(unbuilt.code == 125 && unbuilt.err.contains("this project's sh is not built"), "{unbuilt:?}");
    assert!(!unbuilt.err.contains("not approved"), "a package of the distribution needs no approval: {unbuilt:?}");
}

/// Every image has a program `test`, and `go test`, `deno test` and `go env` are commands of the tool.
#[test]
fn a_program_of_the_image_does_not_hide_a_subcommand() {
    let silo = Silo::seeded();
    silo.write(".silo/recipes/own.toml", "shims = [\"own:sh ./own\", \"other:echo\"]\n[debian]\npackages = [\"dash\"]\n");
    silo.ok(["install", "--quiet", "own"]);
    script(&silo.project().join("own"), "echo own \"$*\"\n");
    for (words, expect) in [
        (&["exec", "own", "test", "x"][..], "own test x\n"),
        (&["exec", "own", "env"], "own env\n"),
        (&["exec", "own", "/usr/bin/env"], "own /usr/bin/env\n"),
        (&["exec", "own", "other", "x"], "x\n"),
        (&["exec", "own", "--", "echo", "x"], "x\n"),
    ] {
        assert_eq!(silo.ok(words), expect, "{words:?}");
    }
    assert_eq!(silo.run(["exec", "own", "--", "test", "-e", "/nowhere"]).code, 1, "the program of the image");
}

#[test]
fn a_project_whose_tool_is_installed_needs_no_sync() {
    let silo = Silo::seeded();
    silo.ok(["install", "--quiet", "sh"]);
    let write = |text: &str| fs::write(silo.project().join("silo.toml"), text).expect("our own project");
    write("tools = [\"sh\"]\n");
    assert_eq!(silo.ok(["sh", "-c", "echo ran"]), "ran\n");
    assert!(!silo.project().join("silo.lock").exists(), "a run writes no lock");
    write("[overrides.sh]\nversion = \"99\"\n");
    let other = silo.run(["sh", "-c", "true"]);
    assert!(other.code == 125 && other.err.contains("its recipe does not have the version of silo.toml"), "{other:?}");
    // A missing tool is built if that is asked for.
    write("[overrides.sh]\npackages = [\"hello\"]\n");
    let missing = silo.run(["sh", "-c", "hello"]);
    assert!(missing.code == 125 && missing.err.contains("run `silo sync`"), "{missing:?}");
    let built = silo.run(["run", "--sync", "sh", "-c", "hello -g built"]);
    assert!(built.code == 0 && built.out == "built\n" && built.err.contains("this project's sh is not built"), "{built:?}");
    assert_eq!(silo.ok(["run", "--sync", "sh", "-c", "hello -g again"]), "again\n");
    write("[overrides.sh]\npackages = [\"hello\"]\npassEnv = [\"TOKEN\"]\n");
    let refused = silo.run(["run", "--sync", "sh", "-c", "true"]);
    assert!(refused.code == 125 && refused.err.contains("sh sees the variable TOKEN"), "{refused:?}");
}

#[test]
fn a_run_on_a_terminal_builds_a_missing_tool() {
    let silo = Silo::seeded();
    silo.ok(["install", "--quiet", "sh"]);
    let write = |text: &str| fs::write(silo.project().join("silo.toml"), text).expect("our own project");
    write("[overrides.sh]\npackages = [\"hello\"]\n");
    let run = |words: &[&str]| Session::controlled(&silo.command(words));
    let mut session = run(&["sh", "-c", "hello -g first-run"]);
    session.expect("this project's sh is not built");
    session.expect("building it");
    session.expect("first-run");
    assert_eq!(session.end().0, Some(0));
    assert!(silo.project().join("silo.lock").exists());
    // A permission is asked for before the build. A refusal builds and runs nothing.
    write("[overrides.sh]\npackages = [\"hello\", \"jq\"]\npassEnv = [\"TOKEN\"]\n");
    for (answer, code) in [("n\n", 125), ("y\n", 0)] {
        let mut session = run(&["sh", "-c", "jq -n 1 && echo second-run"]);
        session.expect("sh sees the variable TOKEN");
        session.expect("Approve it? [y/N] ");
        session.type_in(answer);
        if code == 0 {
            session.expect("second-run");
        }
        assert_eq!(session.end().0, Some(code));
    }
}

#[test]
fn a_tool_runs_once_without_being_installed() {
    let silo = Silo::seeded();
    assert_eq!(silo.ok(["x", "sh", "-c", "echo $0 \"$@\"", "a", "--help"]), "a --help\n");
    assert_eq!(
        silo.ok(["x", "--offline", "bash", "-c", "echo again"]),
        "again\n",
        "the image is still there, and a command names its tool"
    );
    assert_eq!(silo.run(["x", "sh", "-c", "exit 3"]).code, 3);
    assert!(!silo.ok(["list"]).contains("sh"), "it is not installed");
    let refused = silo.run(["x", "sh@99"]);
    assert!(refused.code == 125 && refused.err.contains("sh 99 is not available: there is"), "{refused:?}");
    let unknown = silo.run(["x", "no-such-tool"]);
    assert!(unknown.code == 125 && unknown.err.contains("silo x --package PACKAGE -- no-such-tool"), "{unknown:?}");
    let told = silo.ok(["gc", "--min-age", "0s"]);
    assert!(told.contains("1 image"), "garbage collection removes it: {told}");
}

/// The lock of a recipe pins the steps of all its versions; the image of one version has only its own.
#[test]
fn each_version_of_a_recipe_runs_once() {
    let silo = Silo::seeded();
    let step =
        |version: &str| format!("[versions.{version}]\nsteps = [{{ run = \"echo {version} > /opt/v\", network = [\"a.example.com\"] }}]\n");
    let recipe = format!("command = [\"sh\"]\n[debian]\npackages = [\"dash\"]\n{}{}", step("1"), step("2"));
    silo.write(".silo/recipes/two.toml", &recipe);
    for version in ["1", "2"] {
        silo.ok(["install", "--quiet", &format!("two@{version}")]);
    }
    for _ in ["first", "again"] {
        for version in ["1", "2"] {
            assert_eq!(silo.ok(["x", &format!("two@{version}"), "-c", "cat /opt/v"]), format!("{version}\n"));
        }
    }
}

/// The lock of a recipe pins the steps of all its versions, the one of a project those of its version.
#[test]
fn a_project_runs_each_installed_version_without_a_sync() {
    let silo = Silo::seeded();
    let step = |version: &str| {
        format!("[versions.{version}]\nsteps = [{{ run = \"echo $SILO_VERSION > /opt/v\", network = [\"a.example.com\"] }}]\n")
    };
    let recipe = format!("command = [\"sh\"]\nversion = \"3\"\n[debian]\npackages = [\"dash\"]\n{}{}", step("1"), step("2"));
    silo.write(".silo/recipes/many.toml", &recipe);
    for version in ["1", "2", "3"] {
        silo.ok(["install", "--quiet", &format!("many@{version}")]);
    }
    let settings = |version: &str| {
        fs::write(silo.project().join("silo.toml"), format!("[overrides.many]\nversion = \"{version}\"\n")).expect("our own project");
    };
    for version in ["1", "2", "3"] {
        settings(version);
        let done = silo.run(["many", "-c", "cat /opt/v 2>/dev/null || echo 3"]);
        assert!(done.code == 0 && done.out == format!("{version}\n"), "{done:?}");
    }
    // A sync writes the pins of this version only, and the next one changes nothing.
    settings("1");
    silo.ok(["sync", "--quiet"]);
    let lock = || fs::read_to_string(silo.project().join("silo.lock")).expect("it was written");
    let first = lock();
    assert_eq!(first.matches("echo $SILO_VERSION").count(), 1, "{first}");
    silo.ok(["sync", "--quiet", "--force"]);
    assert_eq!(lock(), first);
    assert_eq!(silo.ok(["many", "-c", "cat /opt/v"]), "1\n");
}

#[test]
fn packages_of_debian_run_once_or_become_a_tool() {
    let silo = Silo::seeded();
    let greeted = silo.ok(["x", "debian:hello", "--greeting=one-off"]);
    assert_eq!(greeted, "one-off\n");
    assert_eq!(silo.ok(["x", "--package", "hello", "--", "hello", "-g", "again"]), "again\n");
    assert_eq!(silo.ok(["x", "--offline", "--package=hello", "sh", "-c", "echo $0"]), "sh\n");
    let wrong = silo.run(["x", "--package", "a b", "hello"]);
    assert!(wrong.code == 125 && wrong.err.contains("is not a package name"), "{wrong:?}");
    let suite = silo.run(["x", "--suite", "forky", "sh"]);
    assert!(suite.code == 125 && suite.err.contains("--suite is for packages"), "{suite:?}");

    let told = silo.ok(["install", "debian:hello"]);
    assert!(told.starts_with("hello 2.10 installed") && told.ends_with("commands: hello\n"), "{told}");
    assert_eq!(silo.ok(["hello", "-g", "tool"]), "tool\n");
    assert!(silo.ok(["install", "debian:hello"]).contains("is installed already"));
    let recipe = fs::read_to_string(silo.path("recipes/hello.toml")).expect("a recipe");
    assert!(recipe.contains("packages = [\"hello\"]") && recipe.contains("shims = [\"hello\"]"), "{recipe}");
    let taken = silo.run(["install", "debian:hello,jq"]);
    assert!(taken.code == 1 && taken.err.contains("there is a recipe for hello already"), "{taken:?}");
    for (words, part) in [
        (&["install", "debian:g++"][..], "silo install NAME --package g++"),
        (&["install", "debian:hello", "python"], "python is not a package"),
        (&["install", "--suite", "forky", "sh"], "--suite is for packages"),
    ] {
        let refused = silo.run(words);
        assert!(refused.code == 2 && refused.err.contains(part), "{refused:?}");
    }
}
