//! Configuration of editors: their files in a project, in which the editor starts Silo's language servers.
//!
//! A value of the user's own is never replaced: a different one is an error. So the removal needs no record: it removes the values that
//! this module writes.

mod languages;

mod emacs;
mod helix;
mod json_settings;
mod neovim;

use json_settings::Entry;
pub use languages::{Direction, Error};
use languages::{LANGUAGES, Languages};
use serde_json::{Value, json};

/// An editor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Editor {
    /// Visual Studio Code.
    VsCode,
    /// Zed.
    Zed,
    /// Neovim.
    Neovim,
    /// Helix.
    Helix,
    /// GNU Emacs, with Eglot.
    Emacs,
    /// IntelliJ IDEA and its relatives, with the plugin LSP4IJ.
    JetBrains,
}

/// Returns the tools with known languages.
pub fn tools() -> impl Iterator<Item = &'static str> {
    LANGUAGES.iter().map(|languages| languages.tool)
}

/// Returns the files of an editor, relative to the project.
pub fn files(editor: Editor) -> &'static [&'static str] {
    match editor {
        Editor::VsCode => &[".vscode/settings.json", ".vscode/extensions.json", ".vscode/launch.json"],
        Editor::Zed => &[".zed/settings.json"],
        Editor::Neovim => &[".nvim.lua"],
        Editor::Helix => &[".helix/languages.toml"],
        Editor::Emacs => &[".dir-locals.el"],
        Editor::JetBrains => JETBRAINS_FILES,
    }
}

/// Templates of LSP4IJ: a directory for each server.
const JETBRAINS_FILES: &[&str] = &[
    ".idea/silo/python/template.json",
    ".idea/silo/node/template.json",
    ".idea/silo/rust/template.json",
    ".idea/silo/go/template.json",
    ".idea/silo/deno/template.json",
    ".idea/silo/clangd/template.json",
];

/// Returns the text of one of the editor's files after the change; empty if nothing is left of it.
pub fn change(editor: Editor, file: &'static str, tools: &[String], direction: Direction, before: &str) -> Result<String, Error> {
    let known =
        tools.iter().map(|tool| LANGUAGES.iter().find(|languages| languages.tool == tool).ok_or_else(|| Error::Unknown(tool.clone())));
    let known: Vec<&Languages> = known.collect::<Result<_, Error>>()?;
    match editor {
        Editor::Neovim => neovim::change(file, &known, direction, before),
        Editor::Helix => helix::change(file, &known, direction, before),
        Editor::Emacs => emacs::change(file, &known, direction, before),
        Editor::Zed => json_settings::change(file, &zed(&known), direction, before),
        Editor::JetBrains => match known.iter().find(|languages| file.split('/').any(|part| part == languages.tool)) {
            Some(languages) => json_settings::change(file, &jetbrains(languages), direction, before),
            None => Ok(before.to_owned()),
        },
        Editor::VsCode => {
            if direction == Direction::Add && known.len() > 1 {
                return Err(Error::Several(tools.join(", ")));
            }
            let entries = match file {
                ".vscode/extensions.json" => extensions(&known),
                ".vscode/launch.json" => launch(&known),
                _ => vscode(&known),
            };
            json_settings::change(file, &entries, direction, before)
        }
    }
}

/// The id of the extension of VS Code that starts any language server.
pub const VSCODE_CLIENT: &str = "zsol.vscode-glspc";

fn extensions(known: &[&Languages]) -> Vec<Entry> {
    if known.is_empty() { Vec::new() } else { vec![Entry::in_list(&["recommendations"], json!(VSCODE_CLIENT))] }
}

/// Configurations that attach to a program in the sandbox.
fn launch(known: &[&Languages]) -> Vec<Entry> {
    let attach = known.iter().filter_map(|languages| serde_json::from_str(languages.vscode_attach?).ok());
    let mut entries: Vec<Entry> = attach.map(|value: Value| Entry::in_list(&["configurations"], value)).collect();
    if !entries.is_empty() {
        entries.insert(0, Entry::frame("version", json!("0.2.0")));
    }
    entries
}

fn jetbrains(languages: &Languages) -> Vec<Entry> {
    let name = format!("silo-{}", languages.tool);
    let mappings = languages.jetbrains.iter().map(|(id, patterns)| json!({ "fileType": { "patterns": patterns }, "languageId": id }));
    vec![
        Entry::value(&["id"], json!(name)),
        Entry::value(&["name"], json!(name)),
        Entry::value(&["programArgs"], json!({ "default": format!("silo lsp {}", languages.tool) })),
        Entry::value(&["workingDir"], json!("$PROJECT_DIR$")),
        Entry::value(&["fileTypeMappings"], Value::Array(mappings.collect())),
    ]
}

fn vscode(known: &[&Languages]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for languages in known {
        entries.push(Entry::value(&["glspc.server.commandArguments"], json!(["lsp", languages.tool])).with(vec![
            Entry::value(&["glspc.server.command"], json!("silo")),
            Entry::value(&["glspc.server.languageId"], json!(languages.names)),
        ]));
        for (key, value) in languages.vscode_off {
            let value = serde_json::from_str(value).unwrap_or_default();
            entries.push(Entry::value(&[key], value));
        }
    }
    entries
}

fn zed(known: &[&Languages]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for languages in known {
        let binary = json!({ "path": "silo", "arguments": ["lsp", languages.tool] });
        entries.push(Entry::value(&["lsp", languages.zed, "binary"], binary));
        for language in languages.zed_languages {
            let servers: Vec<&str> = [languages.zed].iter().chain(languages.zed_others).chain(&["..."]).copied().collect();
            entries.push(Entry::value(&["languages", language, "language_servers"], json!(servers)));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A change adds the values once, and its removal gives the text before.
    #[test]
    fn a_change_is_idempotent_and_its_removal_gives_the_text_before() {
        let json = "{\n    // mine\n    \"a\": [1, 2,], /* kept */\n    \"b\": {}\n}\n";
        let toml = "# mine\n[[language]]\nname = \"rust\" # kept\nauto-format = true\n\n[editor]\nx = 1\n";
        let lua = "-- mine\nvim.o.number = true\n";
        let launch = "{\n  // mine\n  \"version\": \"0.2.0\",\n  \"configurations\": [\n    {\n      \"name\": \"own\"\n    }\n  ]\n}\n";
        let texts = [
            (Editor::VsCode, ".vscode/settings.json", json),
            (Editor::VsCode, ".vscode/extensions.json", "{\n  \"recommendations\": [\"a.b\"] // mine\n}\n"),
            (Editor::Zed, ".zed/settings.json", json),
            (Editor::Helix, ".helix/languages.toml", toml),
            (Editor::Neovim, ".nvim.lua", lua),
            (Editor::VsCode, ".vscode/launch.json", launch),
            (Editor::Emacs, ".dir-locals.el", ";; mine\n((nil . ((fill-column . 80))) ; kept )\n)\n"),
            (Editor::JetBrains, ".idea/silo/python/template.json", "{\n  // mine\n  \"env\": {}\n}\n"),
        ];
        for (editor, file, before) in texts {
            for all in [&["python"][..], &["rust"], &["python", "go", "node"]] {
                // Rust has no configuration of a debugger, and a template is one tool's.
                let is_none = all == ["rust"] && (file.ends_with("launch.json") || editor == Editor::JetBrains);
                if editor == Editor::VsCode && all.len() > 1 || is_none {
                    continue;
                }
                for before in ["", before] {
                    let all = tools(all);
                    let after = change(editor, file, &all, Direction::Add, before).expect("it can be added");
                    assert!(after.contains("silo") || after.contains(VSCODE_CLIENT), "{after}");
                    assert_eq!(change(editor, file, &all, Direction::Add, &after).expect("again"), after);
                    for line in before.lines().filter(|line| line.contains("mine") || line.contains("kept")) {
                        let comment = line
                            .split_once("//")
                            .or_else(|| line.split_once("/*"))
                            .or_else(|| line.split_once('#'))
                            .map_or(line, |(_, rest)| rest);
                        assert!(after.contains(comment), "{comment} {after}");
                    }
                    let back = change(editor, file, &all, Direction::Remove, &after).expect("it can be removed");
                    assert_eq!(back, before, "{editor:?} {all:?}: {after}");
                }
            }
        }
    }

    #[test]
    fn a_value_of_the_users_own_is_an_error_and_is_not_removed() {
        let check = |editor, file, before: &str, key: &str| {
            let error = change(editor, file, &tools(&["python"]), Direction::Add, before).expect_err("another value");
            assert_eq!(error.to_string(), format!("{file} has another value for {key}"));
            assert_eq!(change(editor, file, &tools(&["python"]), Direction::Remove, before).expect("nothing"), before);
        };
        check(Editor::VsCode, ".vscode/settings.json", "{\"glspc.server.command\": \"mine\"}", "glspc.server.command");
        check(Editor::Zed, ".zed/settings.json", "{\"lsp\": {\"pyright\": {\"binary\": {\"path\": \"mine\"}}}}", "lsp.pyright.binary");
        check(Editor::Zed, ".zed/settings.json", "{\"lsp\": 1}", "lsp");
        check(Editor::Emacs, ".dir-locals.el", "((nil . ((eglot-server-programs . nil))))", "eglot-server-programs");
        check(Editor::JetBrains, ".idea/silo/python/template.json", "{\"id\": \"mine\"}", "id");
        check(Editor::Helix, ".helix/languages.toml", "[language-server.silo-python]\ncommand = \"mine\"\n", "language-server.silo-python");
    }

    #[test]
    fn invalid_files_are_errors_with_a_place() {
        for (editor, file, text, place) in [
            (Editor::VsCode, ".vscode/settings.json", "{\n  \"a\" 1\n}", "line 2"),
            (Editor::VsCode, ".vscode/settings.json", "[]", "no object"),
            (Editor::Helix, ".helix/languages.toml", "a = \n", "line 1"),
            (Editor::Helix, ".helix/languages.toml", "language = 1\n", "language is no list of tables"),
            (Editor::Neovim, ".nvim.lua", "-- silo ide: begin\n", "no end"),
            (Editor::Emacs, ".dir-locals.el", "(\n;; silo ide: begin\n)", "no end"),
            (Editor::Emacs, ".dir-locals.el", "(a\n(b)", "not closed"),
        ] {
            let error = change(editor, file, &tools(&["python"]), Direction::Add, text).expect_err("it is invalid");
            assert!(error.to_string().contains(place), "{error}");
        }
        let error = change(Editor::Zed, ".zed/settings.json", &tools(&["x"]), Direction::Add, "").expect_err("unknown");
        assert!(error.to_string().contains('x'), "{error}");
        let error = change(Editor::VsCode, ".vscode/settings.json", &tools(&["go", "rust"]), Direction::Add, "").expect_err("two");
        assert!(error.to_string().contains("go, rust"), "{error}");
    }
}
