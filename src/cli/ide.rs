//! `silo ide`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use silo_model::document;
use silo_review::difference::unified;
use silo_tool::definition::Scope;
use silo_tool::editors::{self, Direction, Editor};
use silo_tool::journal::{self, Change};
use silo_tool::{language_server, record};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ui;

/// Configure an editor to run language servers in Silo's sandbox
///
/// Writes the editor's settings in the project: .vscode, .zed, .helix/languages.toml, .nvim.lua, .dir-locals.el or .idea/silo. Comments and
/// other settings stay as they are, and a setting that has another value is an error. Sandboxed programs cannot change these files.
/// The servers are those of `silo lsp`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  silo ide helix --dry-run\n  silo ide neovim --tool python --tool go\n  silo ide vscode --undo")]
pub struct Args {
    /// The editor
    #[arg(value_enum)]
    editor: EditorName,
    /// Only this tool's server; may be repeated. By default the project's tools with a server, or the installed ones
    #[arg(long, value_name = "TOOL")]
    tool: Vec<String>,
    /// Print the changes and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove the settings of this command
    #[arg(long)]
    undo: bool,
}

/// The editors, as words of the command line.
#[derive(Clone, Copy, clap::ValueEnum)]
enum EditorName {
    /// Visual Studio Code
    Vscode,
    /// Zed
    Zed,
    /// Neovim
    Neovim,
    /// Helix
    Helix,
    /// GNU Emacs, with Eglot
    Emacs,
    /// IntelliJ IDEA, PyCharm and others, with the plugin LSP4IJ
    Jetbrains,
}

impl EditorName {
    fn editor(self) -> Editor {
        match self {
            EditorName::Vscode => Editor::VsCode,
            EditorName::Zed => Editor::Zed,
            EditorName::Neovim => Editor::Neovim,
            EditorName::Helix => Editor::Helix,
            EditorName::Emacs => Editor::Emacs,
            EditorName::Jetbrains => Editor::JetBrains,
        }
    }
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let editor = args.editor.editor();
    let direction = if args.undo { Direction::Remove } else { Direction::Add };
    let tools = tools(&setting, args, direction)?;
    let mut texts = Vec::new();
    for &file in editors::files(editor) {
        let path = setting.project.join(file);
        refuse_symlink(&setting.project, file)?;
        let before = document::text_of(&path)?;
        let after = editors::change(editor, file, &tools, direction, before.as_deref().unwrap_or_default()).map_err(failed)?;
        if before.as_deref().unwrap_or_default() != after {
            texts.push((file, before, after));
        }
    }
    if texts.is_empty() {
        ui::data("nothing to change\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        for (file, before, after) in &texts {
            let lines = unified(before.as_deref().unwrap_or_default(), after);
            ui::data(&format!("--- {file}\n+++ {file}\n{}\n", lines.join("\n")))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    write(&setting, &texts)?;
    for (file, _, after) in &texts {
        ui::data(&format!("{} {file}\n", if after.is_empty() { "removed" } else { "wrote" }))?;
    }
    if direction == Direction::Add && !globals.quiet {
        ui::note(advice(editor));
    }
    Ok(ExitCode::SUCCESS)
}

/// The remaining step in the editor itself.
fn advice(editor: Editor) -> &'static str {
    match editor {
        Editor::VsCode => "install the extension zsol.vscode-glspc: VS Code recommends it when it opens the project",
        Editor::Zed => "trust the project in Zed when it asks",
        Editor::Neovim => "Neovim reads .nvim.lua if init.lua has `vim.o.exrc = true`, and asks once whether to trust it",
        Editor::Emacs => {
            "Emacs asks once whether to apply the variables; a mode for the language and Eglot (in Emacs since 29) must be there"
        }
        Editor::JetBrains => {
            "install the plugin LSP4IJ, and import the directory once: New Language Server, Template, Import from custom template"
        }
        Editor::Helix => "Helix reads it when it starts in the project; `hx --health` lists the servers",
    }
}

/// Returns the tools of the command.
fn tools(setting: &Setting, args: &Args, direction: Direction) -> Result<Vec<String>, Failure> {
    if direction == Direction::Remove && args.tool.is_empty() {
        return Ok(editors::tools().map(str::to_owned).collect());
    }
    let has_server = |tool: &str| Ok::<_, Failure>(language_server::of(setting.view(), tool, Scope::Project)?.is_some());
    if !args.tool.is_empty() {
        for tool in &args.tool {
            if direction == Direction::Add && !has_server(tool)? {
                return Err(Failure::found(format!("{tool} has no language server"), "`silo ide --help` shows how to choose another tool"));
            }
        }
        return Ok(args.tool.clone());
    }
    let mut found = setting.settings.claims();
    if found.is_empty() {
        found = record::list(&setting.home)?.into_iter().map(|tool| tool.name).collect();
    }
    let known: Vec<String> = found.into_iter().filter(|tool| editors::tools().any(|known| known == tool)).collect();
    let mut tools = Vec::new();
    for tool in known {
        if has_server(&tool)? {
            tools.push(tool);
        }
    }
    if tools.is_empty() {
        return Err(Failure::found("no tool of this project has a language server", "add one: silo use python"));
    }
    Ok(tools)
}

fn failed(error: editors::Error) -> Failure {
    let hint = match &error {
        editors::Error::Invalid { .. } => "correct the file, or move it away",
        editors::Error::Differs { .. } => "remove that value, or choose other tools with --tool",
        editors::Error::Unknown(_) => "configure the editor by hand: its command is `silo lsp TOOL`",
        editors::Error::Several(_) => "choose one with --tool",
    };
    Failure::found(error.to_string(), hint)
}

/// Refuses a directory of settings that is a symlink: a sandbox may be able to write the files at its target.
fn refuse_symlink(project: &Path, file: &str) -> Result<(), Failure> {
    let path = project.join(file);
    for path in path.ancestors().take_while(|path| *path != project) {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
            return Err(Failure::found(format!("{} is a symlink", path.display()), "replace it by the files themselves"));
        }
    }
    Ok(())
}

/// Writes all files or none. A file without text is removed.
fn write(setting: &Setting, texts: &[(&'static str, Option<String>, String)]) -> Result<(), Failure> {
    let mut changes = Vec::new();
    for (file, before, after) in texts {
        let path = setting.project.join(file);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)
                .map_err(|error| Failure::found(format!("cannot create {}: {error}", dir.display()), "check the project's permissions"))?;
        }
        changes.push(Change::new(&setting.home, &path, before.clone(), Some(after.clone()).filter(|text| !text.is_empty()))?);
    }
    journal::commit(&setting.home, &changes)?;
    for (file, _, _) in texts.iter().filter(|(_, _, after)| after.is_empty()) {
        for dir in setting.project.join(file).ancestors().skip(1).take_while(|dir| *dir != setting.project) {
            // It may have other files.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
    Ok(())
}
