//! Text of projects, recipes, locks, images and arguments cannot act on a terminal, and cannot look like Silo's own lines.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use silo_base::sanitize;

use crate::support::{Done, Silo, done};

/// Control characters of both kinds, marks that reorder and hide, and a line that looks like one of Silo's.
const EVIL: &str = "\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}\u{200b}\u{2028}\u{e0041}\u{ad}\nsilo: FAKED\r";

/// The verbs that read a project before anything is approved.
const VERBS: [&[&str]; 12] = [
    &["current"],
    &["current", "box"],
    &["trust"],
    &["list"],
    &["list", "--available"],
    &["show", "evil"],
    &["config", "list"],
    &["sync", "--dry-run"],
    &["which", "box"],
    &["shim", "list"],
    &["doctor"],
    &["run", "box", "true"],
];

fn toml(text: &str) -> String {
    let escaped = text.chars().map(|letter| format!("\\U{:08x}", u32::from(letter)));
    format!("\"{}\"", escaped.collect::<String>())
}

fn check(done: &Done, what: &str, args: &[&OsStr]) {
    for text in [&done.out, &done.err] {
        let hidden = text.chars().find(|letter| !sanitize::is_plain(*letter) && !matches!(letter, '\n' | '\t'));
        assert_eq!(hidden, None, "{what}, {args:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("silo: FAKED")), "{what}, {args:?}: {text}");
    }
}

#[test]
fn no_file_of_a_project_reaches_the_terminal_as_it_is() {
    let evil = toml(EVIL);
    let lock = format!(
        "version = 2\n[tool.box]\nepoch=1\n[tool.box.asked]\nsuite=\"a\"\ncomponents=[]\npackages=[]\nrecommends=false\n[tool.box.amd64]\n\
         {evil} = {{ version=\"1\", tier=\"base\", archive=\"main\", path=\"/x\", size=1, sha256=\"{}\" }}\n",
        "0".repeat(64)
    );
    let recipe = |line: &str| format!("description={evil}\ncommand=[\"x\"]\n{line}\n");
    let projects: Vec<(&str, String, Option<String>, Option<String>)> = vec![
        ("a key", format!("{evil} = 1\n"), None, None),
        ("a raw line", format!("{EVIL} = 1\n"), None, None),
        ("a grant", format!("network.allow = [{evil}]\n"), None, None),
        ("a tool", format!("tools = [{evil}]\n"), None, None),
        ("an override", format!("tools=[\"box\"]\n[overrides.{evil}]\nmemory = {evil}\n"), None, None),
        ("a variable", format!("tools=[\"box\"]\n[overrides.box.env]\n{evil} = {evil}\n"), None, None),
        ("a value", format!("tools=[\"box\"]\n[overrides.box.env]\nA = {evil}\n"), None, None),
        ("a mount", format!("[mount]\nmode = {evil}\n"), None, None),
        ("a package", format!("tools=[\"evil\"]\n[overrides.evil]\npackages = [{evil}]\n"), None, None),
        ("a lock", "tools=[\"box\"]\n".to_owned(), Some(lock), None),
        ("a lock's raw line", "tools=[\"box\"]\n".to_owned(), Some(EVIL.to_owned()), None),
        ("a recipe's image", "tools=[\"evil\"]\n".to_owned(), None, Some(recipe(&format!("image={evil}")))),
        ("a recipe's key", "tools=[\"evil\"]\n".to_owned(), None, Some(recipe(&format!("{evil}=1")))),
        ("a recipe's step", "tools=[\"evil\"]\n".to_owned(), None, Some(recipe(&format!("[[step]]\nrun={evil}")))),
        ("a recipe's packages", "tools=[\"evil\"]\n".to_owned(), None, Some(recipe(&format!("[debian]\npackages=[{evil}]")))),
    ];
    let silo = Silo::new();
    let recipes = silo.project().join("recipes");
    for (what, settings, lock, recipe) in projects {
        fs::write(silo.project().join("silo.toml"), settings).expect("our own project");
        let _ = fs::remove_file(silo.project().join("silo.lock"));
        let _ = fs::remove_dir_all(&recipes);
        if let Some(lock) = lock {
            fs::write(silo.project().join("silo.lock"), lock).expect("our own project");
        }
        if let Some(recipe) = recipe {
            fs::create_dir(&recipes).expect("our own project");
            fs::write(recipes.join("evil.toml"), recipe).expect("our own project");
        }
        for verb in VERBS {
            check(&silo.run(verb), what, &verb.iter().map(OsStr::new).collect::<Vec<_>>());
        }
    }
}

#[test]
fn no_name_of_a_directory_reaches_the_terminal_as_it_is() {
    let silo = Silo::new();
    let dir = silo.project().join(format!("dir{}", EVIL.replace('/', "")));
    let bytes = silo.project().join(OsStr::from_bytes(b"\xff\x9b\x1b[2J"));
    for dir in [dir, bytes] {
        fs::create_dir(&dir).expect("our own project");
        fs::write(dir.join("silo.toml"), "tools=[\"sh\"]\nnetwork.allow=[\"evil.example.com\"]\n").expect("our own project");
        for verb in VERBS {
            let args: Vec<&OsStr> = verb.iter().map(OsStr::new).collect();
            check(&done(silo.command(&args).current_dir(&dir)), "a directory", &args);
        }
    }
}

#[test]
fn no_argument_reaches_the_terminal_as_it_is() {
    let silo = Silo::new();
    let evil = OsString::from(EVIL);
    let option = OsString::from(format!("--{EVIL}"));
    let bytes = OsStr::from_bytes(b"\xff\x1b[2J\x9b");
    for verb in ["install", "run", "show", "why", "list", "trust", "config", "export", "use", "lock", "log", "shellenv", "gc"] {
        for arg in [&evil, &option, &bytes.to_owned()] {
            let args = [OsStr::new(verb), arg];
            check(&silo.run(args), "an argument", &args);
        }
    }
    for arg in [&evil, &option] {
        check(&silo.run([arg]), "the first word", &[arg]);
    }
}
