//! The version files that Silo reads, in the order of their weight, and their readers.

use silo_base::sanitize;

use super::findings::Findings;
use super::{devcontainer, manifests, plain, tool_lists};

/// The version files by path in the project; of two that request different versions of a tool, the earlier one decides.
pub const FILES: [&str; 19] = [
    ".python-version",
    ".nvmrc",
    ".node-version",
    ".java-version",
    // rustup takes the file without an ending, if both are there.
    "rust-toolchain",
    "rust-toolchain.toml",
    ".dvmrc",
    // mise takes its own file before asdf's.
    "mise.toml",
    ".mise.toml",
    ".tool-versions",
    "pyproject.toml",
    "Pipfile",
    "package.json",
    "go.mod",
    "Cargo.toml",
    "pnpm-lock.yaml",
    "yarn.lock",
    ".devcontainer/devcontainer.json",
    ".devcontainer.json",
];

/// Files that name a package manager by their presence; their text is not needed.
pub const BY_PRESENCE: [&str; 2] = ["pnpm-lock.yaml", "yarn.lock"];

/// Adds the findings of one file. A file that cannot be parsed gives a note. All text of the findings is one line for a terminal.
pub fn read(file: &str, text: &str, found: &mut Findings) {
    let (wishes, notes) = (found.wishes.len(), found.notes.len());
    read_file(file, text, found);
    let texts = found.wishes[wishes..].iter_mut().map(|wish| &mut wish.text).chain(&mut found.notes[notes..]);
    texts.for_each(|text| *text = sanitize::line(text));
}

fn read_file(file: &str, text: &str, found: &mut Findings) {
    let done = match file {
        ".python-version" => return plain::python(file, text, found),
        ".nvmrc" | ".node-version" => return plain::node(file, text, found),
        ".java-version" => return plain::java(file, text, found),
        ".dvmrc" => return plain::deno(file, text, found),
        ".tool-versions" => return tool_lists::tool_versions(file, text, found),
        "mise.toml" | ".mise.toml" => tool_lists::mise(file, text, found),
        "rust-toolchain.toml" | "rust-toolchain" => manifests::rust_toolchain(file, text, found),
        "Cargo.toml" => manifests::cargo(file, text, found),
        "pyproject.toml" => manifests::pyproject(file, text, found),
        "Pipfile" => manifests::pipfile(file, text, found),
        "package.json" => manifests::package_json(file, text, found),
        "go.mod" => return manifests::go_mod(file, text, found),
        // Their presence names the package manager.
        "pnpm-lock.yaml" => return found.addon("pnpm", Some("node"), "", file),
        "yarn.lock" => return found.addon("yarn", Some("node"), "", file),
        ".devcontainer/devcontainer.json" | ".devcontainer.json" => devcontainer::devcontainer(file, text, found),
        _ => return,
    };
    if let Err(why) = done {
        found.notes.push(format!("{file} is not read: {}", why.lines().next().unwrap_or_default()));
    }
}
