//! Python scripts with dependencies in a comment: resolved once, pinned beside the script, and run without a network afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{As, Silo};

fn script(dependency: &str) -> String {
    format!(
        "#!/usr/bin/env -S silo run python\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\"{dependency}\"]\n# ///\nimport sys\nimport six\nprint(six.__version__, sys.argv[1:])\n"
    )
}

#[test]
fn a_script_gets_its_dependencies_once_and_pinned() {
    let silo = Silo::shared(As::Me);
    let _store = Silo::hold_store();
    let path = silo.project().join("tool.py");
    let write = |text: &str| fs::write(&path, text).expect("our own project");
    let lock = || fs::read_to_string(silo.project().join("tool.py.lock")).unwrap_or_default();
    write(&script("six<1.17"));
    let first = silo.run(["python", "tool.py", "a", "--help"]);
    assert!(first.code == 0 && first.out == "1.16.0 ['a', '--help']\n", "{first:?}");
    let pinned = lock();
    for part in ["version = 1\n", "name = \"six\", specifier = \"<1.17\"", "name = \"six\"\nversion = \"1.16.0\"", "hash = \"sha256:"] {
        assert!(pinned.contains(part), "{part}: {pinned}");
    }
    // The image is there: no network, and no change of the lock.
    let again = silo.run(["--offline", "run", "python", "-u", "tool.py"]);
    assert_eq!(silo.ok(["--offline", "exec", "python", "tool.py"]), silo.ok(["--offline", "run", "python", "tool.py"]));
    assert!(again.code == 0 && again.out == "1.16.0 []\n", "{again:?}");
    assert_eq!(lock(), pinned);
    // Other commands of Python do not see the packages.
    assert_ne!(silo.run(["python", "-c", "import six"]).code, 0);

    // A script is started by its first line.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    let bin = silo.project().join("bin");
    fs::create_dir(&bin).expect("our own project");
    std::os::unix::fs::symlink(crate::support::program(), bin.join("silo")).expect("our own project");
    let mut command = std::process::Command::new(&path);
    command.arg("x").current_dir(silo.project()).env("HOME", silo.home());
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()));
    let started = crate::support::done(&mut command);
    assert!(started.code == 0 && started.out == "1.16.0 ['x']\n", "{started:?}");

    // Other dependencies need another lock, and a file that is not the pinned one is refused.
    write(&script("six==1.15.0"));
    fs::write(silo.project().join("tool.py.lock"), pinned.replace("<1.17", "==1.15.0").replace("1.16.0", "1.15.0")).expect("ours");
    let other = silo.run(["python", "tool.py"]);
    assert!(other.code == 125 && other.err.contains("the dependencies of") && other.err.contains("HASHES"), "{other:?}");
    fs::remove_file(silo.project().join("tool.py.lock")).expect("ours");
    assert_eq!(silo.ok(["python", "tool.py"]), "1.15.0 []\n");
}

#[test]
fn invalid_dependencies_and_locks_name_the_file() {
    let silo = Silo::shared(As::Me);
    let write = |name: &str, text: &str| fs::write(silo.project().join(name), text).expect("our own project");
    write("a.py", "# /// script\n# dependencies = [\"--index-url=x\"]\n# ///\n");
    let wrong = silo.run(["python", "a.py"]);
    assert!(
        wrong.code == 125 && wrong.err.contains("a.py: the `# /// script` comment: \"--index-url=x\" is not a dependency"),
        "{wrong:?}"
    );
    write("a.py", "# /// script\n# requires-python = \"<3\"\n# ///\n");
    let wrong = silo.run(["python", "a.py"]);
    assert!(wrong.code == 125 && wrong.err.contains("python <3 is not available: there are"), "{wrong:?}");
    write("a.py", "# /// script\n# dependencies = [\"six\"]\n# ///\n");
    write("a.py.lock", "version = 9\n");
    let wrong = silo.run(["python", "a.py"]);
    assert!(
        wrong.code == 125 && wrong.err.contains("a.py.lock: version 9 is not supported") && wrong.err.contains("remove the lock"),
        "{wrong:?}"
    );
    // Without dependencies, the tool runs the script as any other.
    write("b.py", "# /// script\n# requires-python = \">=3.11\"\n# dependencies = []\n# ///\nprint(1)\n");
    assert_eq!(silo.ok(["python", "b.py"]), "1\n");
}
