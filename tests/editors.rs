//! Real editors with the files that `silo ide` writes, and debuggers that attach to programs in a sandbox.
//!
//! The editors are Debian's packages, installed by Silo. They run on this machine, by the loader and with the libraries of their image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{As, Silo, done, free_port, has, program, skip};

/// A home with the editors and Node.js, kept for the next run of the tests.
fn home_of_editors() -> Result<&'static PathBuf, String> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("silo-test-home-of-editors");
        std::fs::create_dir_all(&home).expect("a directory for the home");
        let silo = Silo::at(&home);
        silo.seed_downloads();
        let installed = [&["debian:neovim", "debian:hx"][..], &["node"]].map(|names| silo.run(["install", "--quiet"].iter().chain(names)));
        silo.offer_downloads();
        match installed.into_iter().find(|done| done.code != 0) {
            None => Ok(home),
            Some(failed) => Err(failed.err),
        }
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

/// Whether a value is of a declared type: a name, a list of words, or an object of types.
fn fits(declared: &Value, value: &Value) -> bool {
    match declared {
        Value::Array(words) => words.contains(value),
        Value::Object(keys) => {
            value.as_object().is_some_and(|all| all.iter().all(|(key, value)| keys.get(key).is_some_and(|key| fits(key, value))))
        }
        Value::String(name) => match name.as_str() {
            "string" => value.is_string(),
            "strings" => value.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string)),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn settings_of_vs_code_are_those_that_its_extensions_declare() {
    let declared: Value = serde_json::from_str(include_str!("editors/vscode.json")).expect("our own");
    let silo = Silo::new();
    std::fs::write(silo.project().join("silo.toml"), "").expect("our own");
    silo.write(".silo/recipes/clangd.toml", "[debian]\npackages = [\"clangd\"]\n[lsp]\ncommand = [\"clangd\"]\n");
    let mut attached = 0;
    for tool in ["python", "node", "rust", "go", "deno", "clangd"] {
        let _ = silo.ok(["ide", "vscode", "--tool", tool]);
        let read = |file: &str| std::fs::read(silo.project().join(".vscode").join(file)).ok();
        let json = |file: &str| serde_json::from_slice::<Value>(&read(file).unwrap_or_else(|| b"{}".into())).expect("JSON");
        let settings = json("settings.json");
        assert!(settings.as_object().is_some_and(|all| all.len() >= 3) && fits(&declared["settings"], &settings), "{settings}");
        for configuration in json("launch.json")["configurations"].as_array().into_iter().flatten() {
            let mut rest = configuration.clone();
            let mut take = |key: &str| rest.as_object_mut().and_then(|all| all.remove(key)).unwrap_or_default();
            let (kind, request) = (take("type"), take("request"));
            assert!(take("name").is_string() && request == "attach", "{configuration}");
            assert!(fits(&declared["attach"][kind.as_str().unwrap_or_default()], &rest), "{configuration}");
            attached += 1;
        }
        let _ = silo.ok(["ide", "vscode", "--undo"]);
        assert!(!silo.project().join(".vscode").exists(), "{tool}");
    }
    assert_eq!(attached, 4);
}
