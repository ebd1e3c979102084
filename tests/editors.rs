//! Real editors with the files that `silo ide` writes, and debuggers that attach to programs in a sandbox.
//!
//! The editors are Debian's packages, installed by Silo. They run on this machine, by the loader and with the libraries of their image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{As, Silo, done, free_port, has, program, skip};

/// A home with the editors and Node.js, kept for the next run of the tests.
fn home_of_editors() -> Result<&'static PathBuf, String> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("silo-test-home-of-editors");
        std::fs::create_dir_all(&home).expect("a directory for the home");
        let silo = Silo::at(&home);
        silo.seed_downloads();
        let installed = silo.run(["install", "--quiet", "debian:neovim", "debian:hx", "node"]);
        silo.offer_downloads();
        if installed.code == 0 { Ok(home) } else { Err(installed.err) }
    })
    .as_ref()
    .map_err(String::clone)
}

/// A script of `tests/editors` with silo's own environment.
fn script(silo: &Silo, name: &str) -> Command {
    let mut command = Command::new("python3");
    command.env_clear().envs(silo.command(["ide"]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/editors").join(name)).current_dir(silo.project());
    command
}

/// Runs a session of `tests/editors/session.py` with python.
fn session(editor: &str, package: &str) {
    if !has("python3") {
        return skip("there is no python3, which drives the editor");
    }
    let home = match home_of_editors() {
        Ok(home) => home,
        Err(why) => return skip(&format!("Debian's package of {editor} cannot be had: {why}")),
    };
    let root = Silo::at(home).image_root(package);
    let _alone = Silo::hold_store();
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    std::fs::write(project.join("silo.toml"), "").expect("our own");
    let _ = silo.ok(["lsp", "--build", "python"]);
    silo.offer_downloads();
    let done = done(script(&silo, "session.py").args([editor, "python"]).arg(program()).arg(root).arg(&project));
    assert!(done.code == 0 && done.out.contains("in the project and in the library"), "{}\n{}", done.out, done.err);
}

#[test]
fn neovim_completes_and_opens_definitions_of_the_project_and_of_the_standard_library() {
    session("neovim", "neovim");
}

#[test]
fn helix_completes_and_opens_definitions_of_the_project_and_of_the_standard_library() {
    if !Command::new("tmux").arg("-V").output().is_ok_and(|done| done.status.success()) {
        return skip("there is no tmux, whose window Helix has");
    }
    session("helix", "hx");
}

/// Runs a session of `tests/editors/debug.py`.
fn debugger(silo: &Silo, tool: &str) {
    let done = done(script(silo, "debug.py").arg(tool).arg(program()).arg(silo.project()).arg(free_port().to_string()));
    assert!(done.code == 0 && done.out.contains("read number = 42"), "{}\n{}", done.out, done.err);
}

#[test]
fn a_debugger_of_this_machine_attaches_to_debugpy() {
    if !has("python3") {
        return skip("there is no python3, which is the debugger");
    }
    let silo = Silo::shared(As::Me);
    std::fs::write(silo.project().join("silo.toml"), "").expect("our own");
    let _ = silo.ok(["python", "-m", "venv", ".venv"]);
    let _ = silo.ok(["python", "-m", "pip", "install", "--quiet", "debugpy==1.8.22"]);
    debugger(&silo, "python");
}

#[test]
fn a_debugger_of_this_machine_attaches_to_the_inspector_of_node() {
    if !has("python3") {
        return skip("there is no python3, which is the debugger");
    }
    let silo = match home_of_editors() {
        Ok(home) => Silo::at(home),
        Err(why) => return skip(&format!("Node.js cannot be had: {why}")),
    };
    std::fs::write(silo.project().join("silo.toml"), "").expect("our own");
    debugger(&silo, "node");
}
