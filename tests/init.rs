//! `silo init`: its detection, the files that it writes, and a working project afterwards.

use std::fs;

use crate::support::terminal::Session;
use crate::support::{As, Silo, skip};

fn write(silo: &Silo, file: &str, text: &str) {
    fs::write(silo.project().join(file), text).expect("our own project");
}

fn read(silo: &Silo, file: &str) -> String {
    fs::read_to_string(silo.project().join(file)).unwrap_or_default()
}

#[test]
fn a_directory_becomes_a_project_that_works() {
    let silo = Silo::shared(As::Me);
    write(&silo, "requirements.txt", "");
    write(&silo, ".gitignore", "*.pyc");
    let said = silo.ok(["init", "--pass-env", "TOKEN", "--port", "18080:80"]);
    assert!(
        said.contains("tools     python\n") && said.contains("excluded  .venv\n") && said.ends_with("`silo sync` builds it\n"),
        "{said}"
    );
    let text = read(&silo, "silo.toml");
    let expect = "tools = [\"python\"]\npassEnv = [\"TOKEN\"]\n\n[mount]\nexclude = [\".venv\"]\n\n[overrides.python]\nports = [{ host = 18080, guest = 80 }]\n";
    assert!(text.starts_with("# ") && text.ends_with(expect), "{text}");
    assert_eq!(read(&silo, ".gitignore"), "*.pyc\n/.venv/\n");
    // The user typed the command, so the result is approved. Excluded directories are created inside, used, and activated.
    let _ = silo.ok(["config", "ports", "remove", "python", "18080:80"]);
    let _ = silo.ok(["sync", "--quiet"]);
    let _ = silo.ok(["python", "-m", "venv", "--without-pip", ".venv"]);
    let project = fs::canonicalize(silo.project()).expect("our own project");
    assert_eq!(silo.ok(["python", "-c", "import sys; print(sys.prefix)"]), format!("{}/.venv\n", project.display()));
    assert_eq!(fs::read_dir(silo.project().join(".venv")).expect("the place of it").count(), 0);
    let again = silo.fails(["init"]);
    assert!(again.code == 2 && again.err.contains("silo.toml exists already"), "{again:?}");
}

/// The advice of `silo init` is complete: nothing was installed before.
#[test]
fn a_synced_tool_reaches_its_ecosystem_and_a_changed_one_says_nothing_for_others() {
    let silo = Silo::seeded();
    drop(fs::remove_dir_all(silo.path("ecosystems")));
    let learned = || silo.path("ecosystems/pypi.toml").exists();
    // A project with steps of its own in the client does not decide the registry for all others.
    write(&silo, "silo.toml", "[overrides.python]\npostInstall = [\"true\"]\n");
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sync", "--quiet"]);
    assert!(!learned());
    write(&silo, "silo.toml", "");
    write(&silo, "requirements.txt", "");
    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    let _ = silo.ok(["init"]);
    let said = silo.run(["sync"]);
    if said.err.contains("@pypi is not reachable") {
        return skip(&format!("the package index cannot be reached from here: {}", said.err.trim()));
    }
    assert!(said.code == 0 && said.err.contains("learned @pypi from its client: ") && learned(), "{said:?}");
    let fetched = silo.run(["pip", "download", "--no-deps", "--quiet", "--dest", "/tmp/x", "six"]);
    assert!(fetched.code == 0 && !fetched.err.contains("not granted"), "{fetched:?}");
    // A registry lookup that failed is repeated the next time, even if nothing else is left to do.
    fs::remove_dir_all(silo.path("ecosystems")).expect("ours");
    let again = silo.ok(["sync"]);
    assert!(again.contains("is up to date") && learned(), "{again}");
}

#[test]
fn detected_tools_are_confirmed_and_named_tools_are_used() {
    let silo = Silo::new();
    for file in ["package.json", "pyproject.toml", "uv.lock", "pom.xml"] {
        write(&silo, file, "");
    }
    let mut session = Session::of(&mut silo.command(["init"]));
    session.expect("Use python (pyproject.toml)? [Y/n] ");
    session.type_in("\n");
    session.expect("Use node (package.json)? [Y/n] ");
    session.type_in("n\n");
    session.expect("Use java (pom.xml)? [Y/n] ");
    session.type_in("\n");
    session.expect("Use uv (uv.lock)? [Y/n] ");
    session.type_in("y\n");
    session.expect("builds it");
    assert_eq!(session.end().0, Some(0));
    let expect = "tools = [\"python\", \"java\"]\n\n[mount]\nexclude = [\".venv\"]\n\n[overrides.python]\naddons = [\"uv\"]\n";
    assert!(read(&silo, "silo.toml").ends_with(expect), "{}", read(&silo, "silo.toml"));

    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    let said = silo.ok(["init", "--tool", "python@3.13,sh", "--addon", "ruby", "--for", "sh", "--no-exclude", "--no-interactive"]);
    assert!(said.contains("tools     python@3.13, sh\n") && said.contains("add-on    ruby, over sh\n"), "{said}");
    assert!(read(&silo, "silo.toml").ends_with("tools = [\"python@3.13\", \"sh\"]\n\n[overrides.sh]\naddons = [\"ruby\"]\n"));
    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    for (args, expect) in [
        (["--tool", "pyton"], "did you mean \"python\"?"),
        (["--tool", "python@!"], "is not a version or a range of versions"),
        (["--addon", "cobol"], "there is no add-on \"cobol\""),
        (["--port", "80"], "--port needs exactly one tool"),
        (["--pass-env", "A=B"], "is not a variable name"),
    ] {
        let done = silo.fails(["init", "--no-interactive"].iter().chain(&args));
        assert!(done.err.contains(expect) && !silo.project().join("silo.toml").exists(), "{args:?}: {done:?}");
    }
}

/// A file of an unknown project must not open a port of this machine.
#[test]
fn forwarded_ports_of_a_file_are_asked_for() {
    let devcontainer = "{ \"image\": \"python:3.13\", \"forwardPorts\": [8000, 9000] }";
    let silo = Silo::new();
    write(&silo, ".devcontainer.json", devcontainer);
    let said = silo.ok(["init", "--port", "8000:80"]);
    assert!(said.contains("ports     8000:80\n") && said.contains("`silo config ports add python 9000` forwards it"), "{said}");
    let text = read(&silo, "silo.toml");
    assert!(text.contains("ports = [{ host = 8000, guest = 80 }]") && !text.contains("9000"), "{text}");
    assert!(silo.ok(["trust", "--revoke"]).contains("python answers at port 8000 of this machine, from its port 80"));

    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    let mut session = Session::of(&mut silo.command(["init"]));
    session.expect("Use python (");
    session.type_in("\n");
    session.expect("Forward port 8000 of this machine to python (forwardPorts)? [y/N] ");
    session.type_in("y\n");
    session.expect("Forward port 9000 of this machine to python (forwardPorts)? [y/N] ");
    session.type_in("\n");
    session.expect("builds it");
    assert_eq!(session.end().0, Some(0));
    let text = read(&silo, "silo.toml");
    assert!(text.contains("ports = [{ host = 8000, guest = 8000 }]") && !text.contains("9000"), "{text}");
}
