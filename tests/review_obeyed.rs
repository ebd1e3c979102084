//! Review mode and the files that programs of this machine obey: links to them, files that git's settings name, nested repositories, and
//! settings of editors and agents. Nothing of a run reaches the host, and each of them is listed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::review::{changes, inside, state};
use crate::support::{As, Silo, done, has, skip};

/// Settings of editors, agents and other programs, which obey them when a person opens the directory or types a command in it.
const SETTINGS: [&str; 29] = [
    ".claude/settings.json",
    ".mcp.json",
    ".cursor/mcp.json",
    ".gemini/settings.json",
    ".codex/config.toml",
    ".github/copilot-instructions.md",
    "CLAUDE.md",
    ".cargo/config.toml",
    ".devcontainer/devcontainer.json",
    "x.code-workspace",
    "mise.toml",
    ".mise.toml",
    ".gdbinit",
    ".vimrc",
    ".exrc",
    ".dir-locals-2.el",
    "lefthook.yaml",
    "lefthook.toml",
    "lefthook-local.yml",
    ".config/lefthook.yml",
    ".yarnrc.yml",
    ".npmrc",
    ".eslintrc.js",
    ".clangd",
    "silo.toml",
    "sub/.envrc",
    "sub/.vscode/tasks.json",
    "a/b/c/d/e/f/g/h/.vscode/tasks.json",
    "many/599/.envrc",
];

fn git(dir: &Path, words: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "safe.directory=*"]).args(words).current_dir(dir);
    let done = done(git.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]));
    assert_eq!(done.code, 0, "{words:?}: {done:?}");
}

#[test]
fn settings_of_every_program_stay_in_the_layer_and_are_listed() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::create_dir_all(project.join(".claude")).expect("our own project");
    fs::write(project.join(".claude/settings.json"), "{}\n").expect("our own project");
    // Directories without an end for a search that stops at some number of them.
    for number in 0..600 {
        fs::create_dir_all(project.join(format!("many/{number}"))).expect("our own project");
    }
    let before = state(&project);
    let list = SETTINGS.map(|path| format!("{path:?}")).join(", ");
    let program = format!(
        "import os\nfor path in [{list}]:\n    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)\n    open(path, 'w').write('planted\\n')\n"
    );
    let done = inside(&silo, &program);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(state(&project), before);
    let found = changes(&silo);
    let unlisted: Vec<&str> = SETTINGS
        .into_iter()
        .filter(|path| found.get(*path).is_none_or(|change| change["weight"] != "obeyed" || change["safe"] == true))
        .collect();
    assert!(unlisted.is_empty(), "{unlisted:?} of {found:?}");
    silo.ok(["discard", "--yes"]);
    assert_eq!(state(&project), before);
}

#[test]
fn files_that_git_obeys_stay_in_the_layer_and_are_listed() {
    if !has("git") {
        return skip("git is not installed");
    }
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    for dir in ["tools", ".githooks", "conf/vscode"] {
        fs::create_dir_all(project.join(dir)).expect("our own project");
    }
    for (path, text) in [
        ("tools/pre-commit", "#!/bin/sh\n"),
        (".githooks/pre-push", "#!/bin/sh\n"),
        (".gitconfig", "[user]\n\tname = a\n"),
        ("conf/vscode/tasks.json", "{}\n"),
        ("file", "text\n"),
    ] {
        fs::write(project.join(path), text).expect("our own project");
    }
    symlink(project.join("conf/vscode"), project.join(".vscode")).expect("our own project");
    git(&project, &["init", "-q", "-b", "main"]);
    git(&project, &["config", "core.hooksPath", ".githooks"]);
    git(&project, &["config", "include.path", "../.gitconfig"]);
    let _ = fs::remove_file(project.join(".git/hooks/pre-commit"));
    symlink("../../tools/pre-commit", project.join(".git/hooks/pre-commit")).expect("our own project");
    git(&project, &["add", "-A"]);
    git(&project, &["commit", "-qm", "one"]);
    // The repository that the program makes, with its entry in the index of the outer one: prepared here, since the image has no git.
    let prepared = silo.home().join("prepared");
    let from = project.to_str().expect("our own path");
    git(silo.home(), &["clone", "-q", from, "prepared"]);
    git(&prepared, &["init", "-q", "docs"]);
    fs::write(prepared.join("docs/a"), "1").expect("our own directory");
    git(&prepared.join("docs"), &["add", "a"]);
    git(&prepared.join("docs"), &["commit", "-qm", "one"]);
    git(&prepared.join("docs"), &["config", "core.fsmonitor", "touch ../planted; false"]);
    git(&prepared, &["-c", "advice.addEmbeddedRepo=false", "add", "docs"]);
    let packed =
        Command::new("tar").args(["-cf"]).arg(project.join("prepared.tar")).args(["docs", ".git/index"]).current_dir(&prepared).status();
    assert!(packed.is_ok_and(|status| status.success()));

    let before = state(&project);
    let program = format!(
        r##"
import os, tarfile
tarfile.open("prepared.tar").extractall()
open("tools/pre-commit", "w").write("#!/bin/sh\ntouch planted\n")
open(".githooks/pre-push", "w").write("#!/bin/sh\ntouch planted\n")
open(".gitconfig", "w").write("[core]\n\tfsmonitor = touch planted\n")
open("/workspace/conf/vscode/tasks.json", "w").write("planted")
assert open({:?}).read() == "planted"
"##,
        project.join("conf/vscode/tasks.json")
    );
    let done = inside(&silo, &program);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(state(&project), before);
    git(&project, &["status", "--short"]);
    git(&project, &["commit", "-q", "--allow-empty", "-m", "two"]);
    assert!(!project.join("planted").exists());
    let found = changes(&silo);
    for path in ["tools/pre-commit", ".githooks/pre-push", ".gitconfig", "conf/vscode/tasks.json", "docs/.git/config"] {
        let change = found.get(path).unwrap_or_else(|| panic!("{path} is not listed: {found:?}"));
        assert_eq!((change["weight"].as_str(), change["safe"].as_bool()), (Some("obeyed"), Some(false)), "{path}: {change}");
    }
}
