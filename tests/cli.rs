//! The command line: help, manual, completions, and errors in the user's files.

use crate::support::{Silo, golden};

#[test]
fn help_is_golden() {
    let silo = Silo::new();
    golden("cli/silo.help", &silo.ok(["--help"]));
    for command in [
        "init",
        "install",
        "uninstall",
        "run",
        "shell",
        "lsp",
        "list",
        "search",
        "show",
        "lock",
        "doctor",
        "verify",
        "why",
        "graph",
        "diff",
        "log",
        "sbom",
        "export",
        "use",
        "unuse",
        "add",
        "build",
        "debug",
        "sync",
        "outdated",
        "upgrade",
        "gc",
        "prune",
        "projects ls",
        "clean",
        "cache",
        "cache report",
        "cache list",
        "cache compress",
        "cache clean",
        "reset",
        "current",
        "pin",
        "unpin",
        "shim",
        "shim add",
        "shim remove",
        "shim list",
        "which",
        "shellenv",
        "completions",
        "man",
        "schema",
    ] {
        let words = command.split(' ').chain(["--help"]);
        golden(&format!("cli/{}.help", command.replace(' ', "-")), &silo.ok(words));
    }
    assert!(silo.ok(["--version"]).starts_with("silo 0."));
}

#[test]
fn completions_and_manual_come_from_the_same_definition() {
    let silo = Silo::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(silo.ok(["completions", shell]).contains("uninstall"), "{shell}");
    }
    assert!(silo.ok(["man"]).contains(".TH silo 1"));
    let _ = silo.ok(["man", "--dir", "."]);
    for page in ["silo.1", "silo-run.1", "silo-install.1"] {
        assert!(silo.project().join(page).exists(), "{page}");
    }
}

#[test]
fn errors_in_files_name_the_place_and_the_nearest_key() {
    let silo = Silo::new();
    silo.write(".silo/recipes/mine.toml", "[debian]\npackage = [\"hello\"]\n");
    let done = silo.fails(["install", "mine"]);
    assert!(done.err.contains("mine.toml:2:1: unknown field `package`"), "{done:?}");
    assert!(done.err.contains("did you mean \"packages\"?"), "{done:?}");
    silo.write(".silo/silo.toml", "passenv = []\n");
    let done = silo.fails(["list"]);
    assert!(done.err.contains("silo.toml:1:1: unknown field `passenv`") && done.err.contains("did you mean \"passEnv\"?"), "{done:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let silo = Silo::new();
    let mut command = silo.command(["man"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("silo starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("silo ends");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn unknown_arguments_are_reported() {
    let silo = Silo::new();
    let done = silo.run(["pyton", "x"]);
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("did you mean \"python\"?"), "{done:?}");
    let done = silo.run(["run", "python@3.13", "x"]);
    assert!(done.err.contains("hint: silo install python@3.13, then silo run python"), "{done:?}");
    let done = silo.run(["python", "x"]);
    assert!(done.err.contains("hint: silo install python"), "{done:?}");
}
