//! Version files as published projects have them, and the versions that they decide: `tests/golden/version-files/`.
//!
//! A sample is one text: each file of the project after a line `--- NAME`, and the result after a line `===`.

use std::fs;
use std::path::{Path, PathBuf};

use silo_model::version_files::decide::decide;
use silo_model::version_files::findings::{Findings, VersionWish};
use silo_model::version_files::read;
use silo_model::version_request::AvailableVersion;

use crate::support::Silo;

/// Available versions of the samples, which do not change with the recipes.
const AVAILABLE: &[(&str, &[(&str, &str)])] = &[
    ("python", &[("3.9.2", ""), ("3.11.2", ""), ("3.13.5", ""), ("3.14.2", "")]),
    ("node", &[("18.20.8", ""), ("20.19.2", ""), ("22.23.3", "long-term support"), ("24.21.0", "long-term support"), ("26.10.0", "")]),
    ("go", &[("1.19.8", ""), ("1.24.4", "")]),
    ("rust", &[("1.63.0", ""), ("1.85.0", "")]),
    ("deno", &[("2.9.8", "")]),
    ("java", &[("17", ""), ("21", ""), ("25", "")]),
];

fn available(tool: &str) -> Vec<AvailableVersion> {
    let versions = AVAILABLE.iter().find(|(name, _)| *name == tool).map_or(&[][..], |(_, versions)| versions);
    versions.iter().map(|(version, label)| AvailableVersion { version: (*version).to_owned(), label: (*label).to_owned() }).collect()
}

/// The files of a sample.
fn files(sample: &str) -> Vec<(String, String)> {
    let text = format!("\n{sample}");
    let parts = text.split("\n--- ").skip(1).map(|part| part.split_once('\n').unwrap_or((part, "")));
    parts.map(|(name, text)| (name.to_owned(), format!("{text}\n"))).collect()
}

/// Reads the files as a project's, and decides every tool.
fn result(sample: &str) -> String {
    let files = files(sample);
    let mut found = Findings::default();
    for file in read::FILES {
        if let Some((_, text)) = files.iter().find(|(name, _)| name == file) {
            read::read(file, text, &mut found);
        }
    }
    let mut tools: Vec<&str> = found.wishes.iter().map(|wish| wish.tool.as_str()).collect();
    tools.sort_unstable();
    tools.dedup();
    let mut text = String::new();
    for tool in tools {
        let wishes: Vec<&VersionWish> = found.wishes.iter().filter(|wish| wish.tool == tool).collect();
        let decision = decide(tool, &wishes, &available(tool));
        text += &match (decision.pin, decision.version, decision.source) {
            (Some(pin), Some(version), Some(source)) => format!("{tool}@{pin} is {version}, because of {source}\n"),
            _ => format!("{tool}: none\n"),
        };
        text.extend(decision.notes.iter().map(|note| format!("note: {note}\n")));
    }
    text.extend(found.addons.iter().map(|addon| format!("add-on {}, because of {}\n", addon.name, addon.source)));
    text.extend(found.ports.iter().map(|port| format!("port {port}\n")));
    text.extend(found.notes.iter().map(|note| format!("note: {note}\n")));
    text
}

#[test]
fn samples_of_published_projects_are_golden() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-files");
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir).expect("ours").map(|entry| entry.expect("ours").path()).collect();
    paths.sort();
    assert!(paths.len() >= 30, "{} samples", paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).expect("ours");
        let (sample, expect) = text.split_once("===\n").expect("a result");
        let result = result(sample);
        if std::env::var_os("SILO_BLESS").is_some() {
            fs::write(&path, format!("{sample}===\n{result}")).expect("ours");
        } else {
            assert_eq!(result, expect, "{}", path.display());
        }
    }
}

#[test]
fn hostile_version_files_are_notes_at_most() {
    let deep = "[".repeat(100_000);
    let texts = ["", "\0", "\u{feff}", "{", "[[[[", "= = =", "{\"engines\":{\"node\":[]}}", "a\nb\nc d e", "tools = 1", deep.as_str()];
    for file in read::FILES {
        for text in texts {
            let mut found = Findings::default();
            read::read(file, text, &mut found);
            for wish in &found.wishes {
                let decision = decide(&wish.tool, &[wish], &available(&wish.tool));
                assert!(decision.pin.is_some() || !decision.notes.is_empty(), "{file} {text:.20}: {decision:?}");
            }
        }
    }
}

#[test]
fn init_takes_the_versions_of_the_files_and_reports_the_others() {
    let silo = Silo::new();
    let write = |name: &str, text: &str| fs::write(silo.project().join(name), text).expect("our own project");
    write(".nvmrc", "22\n");
    write("package.json", "{\"engines\":{\"node\":\">=99\"},\"packageManager\":\"pnpm@9.1.0\"}");
    write(".python-version", "3.0\n");
    let told = silo.ok(["init", "--no-interactive"]);
    let settings = fs::read_to_string(silo.project().join("silo.toml")).expect("it was written");
    assert!(settings.contains("\"node@22\"") && settings.contains("\"python\"") && settings.contains("pnpm"), "{settings}");
    for part in [
        "because of .nvmrc",
        "package.json (engines.node) asks for node >=99, which is not available",
        ".python-version asks for python 3.0",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn use_resolves_ranges_and_refuses_what_is_not_there() {
    let silo = Silo::new();
    let settings = || fs::read_to_string(silo.project().join("silo.toml")).unwrap_or_default();
    fs::write(silo.project().join("silo.toml"), "").expect("our own project");
    let told = silo.ok(["use", "node@^22.1"]);
    assert!(told.contains("uses node@22 (22."), "{told}");
    assert!(settings().contains("version = \"22\""), "{}", settings());
    for spec in ["python@3.0", "node@<1", "node@lts/nobody", "node@a b"] {
        let refused = silo.run(["use", spec]);
        assert!(
            refused.code != 0 && (refused.err.contains("is not available: there") || refused.err.contains("is not a version")),
            "{refused:?}"
        );
    }
    fs::write(silo.project().join(".python-version"), "3.13\n").expect("our own project");
    let told = silo.run(["use", "python"]);
    assert!(told.code == 0 && told.err.contains("python 3.13 is the version of .python-version"), "{told:?}");
    assert!(settings().contains("version = \"3.13\""), "{}", settings());
    let refused = silo.run(["install", "python@3.0"]);
    assert!(refused.code == 1 && refused.err.contains("python 3.0 is not available: there"), "{refused:?}");
}
