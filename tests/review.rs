//! Review mode: a real sandbox changes a project, and nothing reaches the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::sandbox::until;
use crate::support::{As, Silo};

/// A project with files of every kind.
fn project(silo: &Silo) -> PathBuf {
    let project = silo.project();
    for dir in ["src", "deep/er", ".vscode", ".husky"] {
        fs::create_dir_all(project.join(dir)).expect("our own project");
    }
    for (path, text) in [
        ("src/a.py", "one\ntwo\n"),
        ("src/b.py", "b\n"),
        ("deep/er/file", "deep\n"),
        (".vscode/tasks.json", "{}\n"),
        (".husky/pre-commit", "true\n"),
        (".envrc", "true\n"),
        ("run.sh", "#!/bin/sh\n"),
    ] {
        fs::write(project.join(path), text).expect("our own project");
    }
    symlink("a.py", project.join("src/link")).expect("our own project");
    project
}

/// Every file of a directory, with everything that a program can see of it.
fn state(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).expect("our own project") {
            let path = entry.expect("our own project").path();
            let meta = path.symlink_metadata().expect("our own project");
            let content = match (meta.is_dir(), meta.is_symlink()) {
                (true, _) => "directory".to_owned(),
                (_, true) => format!("{:?}", fs::read_link(&path).expect("a link")),
                _ => String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned(),
            };
            if meta.is_dir() {
                dirs.push(path.clone());
            }
            found.insert(path, format!("{:o} {} {content}", meta.mode(), if meta.is_dir() { 0 } else { meta.ino() }));
        }
    }
    found
}

/// Changes files in every way.
const CHANGES: &str = r#"
import os, shutil
open("src/a.py", "w").write("one\nTWO\n")
os.remove("src/b.py")
os.remove("src/link"); os.symlink("../../etc/passwd", "src/link")
open("src/new.py", "w").write("new\n")
shutil.copytree("deep", "moved"); shutil.rmtree("deep")
shutil.rmtree(".husky"); os.mkdir(".husky"); open(".husky/post-merge", "w").write("evil\n")
open(".vscode/tasks.json", "w").write('{"evil": 1}\n')
open(".envrc", "w").write("evil\n")
os.chmod("run.sh", 0o755)
os.makedirs("lib/.git/hooks"); open("lib/.git/config", "w").write("[core]\nfsmonitor = evil\n")
os.link("src/new.py", "src/other.py")
os.mkfifo("pipe")
"#;

/// Runs a Python program in review mode.
fn inside(silo: &Silo, program: &str) -> crate::support::Done {
    silo.run(["run", "--review", "--shim", "python3", "python", "--", "-c", program])
}

/// Lists the changes by path.
fn changes(silo: &Silo) -> BTreeMap<String, serde_json::Value> {
    let json: serde_json::Value = serde_json::from_str(&silo.ok(["review", "--json"])).expect("JSON");
    let all = json["changes"].as_array().expect("a list").iter();
    all.map(|change| (change["path"].as_str().expect("a path").to_owned(), change.clone())).collect()
}

#[test]
fn nothing_of_a_run_in_review_mode_reaches_the_host() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    let before = state(&project);
    let done = inside(&silo, CHANGES);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("silo review"), "{done:?}");
    assert_eq!(state(&project), before);
    let found = changes(&silo);
    for (path, kind) in [
        ("src/a.py", "changed"),
        ("src/b.py", "removed"),
        ("src/link", "link"),
        ("src/new.py", "added"),
        ("src/other.py", "added"),
        ("deep", "removed"),
        ("moved", "added"),
        ("moved/er/file", "added"),
        (".husky/pre-commit", "removed"),
        (".husky/post-merge", "added"),
        (".vscode/tasks.json", "changed"),
        (".envrc", "changed"),
        ("run.sh", "mode"),
        ("lib/.git/config", "added"),
        ("pipe", "added"),
    ] {
        assert_eq!(found.get(path).map(|change| change["change"].as_str()), Some(Some(kind)), "{path}: {found:?}");
    }
    assert!(!found.contains_key("deep/er/file") && !found.contains_key(".husky"), "{found:?}");
    // The next run continues, at both paths of the project.
    let again = inside(&silo, "import os; print(open('/workspace/src/a.py').read(), os.path.exists('deep'), os.listdir('.husky'))");
    assert_eq!(again.out.trim(), "one\nTWO\n False ['post-merge']", "{again:?}");
    // A run without review sees the host's files.
    let direct = silo.ok(["run", "--review=never", "--shim", "python3", "python", "--", "-c", "print(open('src/a.py').read())"]);
    assert_eq!(direct.trim(), "one\ntwo");
    assert_eq!(state(&project), before);
}

#[test]
fn one_run_at_a_time_uses_the_layer() {
    let silo = Silo::shared(As::Me);
    project(&silo);
    let wait = "import sys\nopen('ready', 'w')\nsys.stdin.read()";
    let words = ["run", "--review", "--shim", "python3", "python", "--", "-c", wait];
    let mut first = silo.command(words).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
    until("the program inside runs", || changes(&silo).contains_key("ready") || first.try_wait().is_ok_and(|end| end.is_some()));
    let second = silo.fails(["run", "--review", "--shim", "python3", "python", "--", "-c", "pass"]);
    assert!(second.code == 125 && second.err.contains("is running in review mode") && second.err.contains("hint:"), "{second:?}");
    drop(first.stdin.take());
    assert!(first.wait().expect("silo ends").success());
    assert_eq!(inside(&silo, "pass").code, 0);
}

#[test]
fn mount_mode_and_review_of_the_settings_keep_changes_too() {
    for (settings, is_kept) in [
        ("mount.mode = \"review\"", true),
        ("review = \"always\"", true),
        ("overrides.python.review = \"always\"", true),
        ("overrides.sh.review = \"always\"", false),
    ] {
        let silo = Silo::shared(As::Me);
        let project = silo.project();
        fs::write(project.join("silo.toml"), settings).expect("our own project");
        let _ = silo.run(["trust", "--yes"]);
        silo.ok(["run", "--shim", "python3", "python", "--", "-c", "open('made', 'w')"]);
        assert_eq!(project.join("made").exists(), !is_kept, "{settings}");
    }
}

#[test]
fn a_project_keeps_its_permissions_inside() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::set_permissions(&project, fs::Permissions::from_mode(0o750)).expect("our own project");
    fs::create_dir(project.join("node_modules")).expect("our own project");
    fs::write(project.join("silo.toml"), "mount.exclude = [\"node_modules\"]\n").expect("our own project");
    let program = "import os; print(oct(os.stat('.').st_mode & 0o777)); open('node_modules/x', 'w'); open('y', 'w')";
    assert_eq!(inside(&silo, program).out.trim(), "0o750");
    // An excluded directory stays one: its files are the sandboxes' own.
    assert_eq!(changes(&silo).keys().collect::<Vec<_>>(), ["y"]);
    assert_eq!(inside(&silo, "import os; print(os.listdir('node_modules'))").out.trim(), "['x']");
}
