//! The languages of the tools with a language server, as editors name them; and the words of a change.

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Adds the values of the tools.
    Add,
    /// Removes them.
    Remove,
}

/// Errors of a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text has another form.
    #[error("{file}: {reason}")]
    Invalid {
        /// The file.
        file: &'static str,
        /// The reason, with its place.
        reason: String,
    },
    /// A key has another value.
    #[error("{file} has another value for {key}")]
    Differs {
        /// The file.
        file: &'static str,
        /// The key.
        key: String,
    },
    /// A tool whose languages are unknown.
    #[error("silo does not know the languages of {0}")]
    Unknown(String),
    /// The generic client of VS Code runs one server.
    #[error("VS Code's generic language client runs one server, and the project has {0}")]
    Several(String),
}

/// The languages of a tool, as editors name them.
pub(super) struct Languages {
    pub tool: &'static str,
    /// Neovim's file types and VS Code's languages; Helix's where they have the same name.
    pub names: &'static [&'static str],
    pub helix: &'static [&'static str],
    /// Zed's name of the server, and its languages with the servers on the host that it would start as well.
    pub zed: &'static str,
    pub zed_languages: &'static [&'static str],
    pub zed_others: &'static [&'static str],
    /// Settings of VS Code that keep another server of the language from the host.
    pub vscode_off: &'static [(&'static str, &'static str)],
    /// Emacs's major modes, with the name of the language if the mode does not have it.
    pub emacs: &'static [(&'static str, Option<&'static str>)],
    /// Names of the languages with the patterns of their files, for JetBrains' editors.
    pub jetbrains: &'static [(&'static str, &'static [&'static str])],
    /// Configuration of VS Code that attaches to a program in the sandbox, as JSON.
    pub vscode_attach: Option<&'static str>,
}

const EMACS_SCRIPTS: &[(&str, Option<&str>)] = &[
    ("js-mode", Some("javascript")),
    ("js-ts-mode", Some("javascript")),
    ("typescript-mode", Some("typescript")),
    ("typescript-ts-mode", Some("typescript")),
    ("tsx-ts-mode", Some("typescriptreact")),
];
const JETBRAINS_SCRIPTS: &[(&str, &[&str])] = &[
    ("javascript", &["*.js", "*.mjs", "*.cjs"]),
    ("javascriptreact", &["*.jsx"]),
    ("typescript", &["*.ts", "*.mts", "*.cts"]),
    ("typescriptreact", &["*.tsx"]),
];
/// Node's inspector, which Deno has as well.
const ATTACH_INSPECTOR: &str = r#"{
    "name": "silo: attach to JavaScript on port 9229", "type": "node", "request": "attach", "address": "127.0.0.1", "port": 9229,
    "localRoot": "${workspaceFolder}", "remoteRoot": "${workspaceFolder}"
}"#;

const SCRIPTS: &[&str] = &["javascript", "javascriptreact", "typescript", "typescriptreact"];
const HELIX_SCRIPTS: &[&str] = &["javascript", "jsx", "typescript", "tsx"];
const ZED_SCRIPTS: &[&str] = &["JavaScript", "TypeScript", "TSX"];

/// All tools with known languages.
pub(super) const LANGUAGES: &[Languages] = &[
    Languages {
        tool: "python",
        names: &["python"],
        helix: &["python"],
        zed: "pyright",
        zed_languages: &["Python"],
        zed_others: &["!basedpyright"],
        vscode_off: &[("python.languageServer", "\"None\"")],
        emacs: &[("python-mode", None), ("python-ts-mode", None)],
        jetbrains: &[("python", &["*.py", "*.pyi"])],
        vscode_attach: Some(
            r#"{
            "name": "silo: attach to Python on port 5678", "type": "debugpy", "request": "attach", "connect": { "host": "127.0.0.1", "port": 5678 }
        }"#,
        ),
    },
    Languages {
        tool: "node",
        names: SCRIPTS,
        helix: HELIX_SCRIPTS,
        zed: "typescript-language-server",
        zed_languages: ZED_SCRIPTS,
        zed_others: &["!vtsls"],
        vscode_off: &[],
        emacs: EMACS_SCRIPTS,
        jetbrains: JETBRAINS_SCRIPTS,
        vscode_attach: Some(ATTACH_INSPECTOR),
    },
    Languages {
        tool: "rust",
        names: &["rust"],
        helix: &["rust"],
        zed: "rust-analyzer",
        zed_languages: &[],
        zed_others: &[],
        vscode_off: &[],
        emacs: &[("rust-mode", None), ("rust-ts-mode", None)],
        jetbrains: &[("rust", &["*.rs"])],
        vscode_attach: None,
    },
    Languages {
        tool: "go",
        names: &["go"],
        helix: &["go"],
        zed: "gopls",
        zed_languages: &[],
        zed_others: &[],
        vscode_off: &[("go.useLanguageServer", "false")],
        emacs: &[("go-mode", None), ("go-ts-mode", None)],
        jetbrains: &[("go", &["*.go"])],
        vscode_attach: Some(
            r#"{
            "name": "silo: attach to Go on port 2345", "type": "go", "request": "attach", "mode": "remote", "host": "127.0.0.1", "port": 2345
        }"#,
        ),
    },
    Languages {
        tool: "deno",
        names: SCRIPTS,
        helix: HELIX_SCRIPTS,
        zed: "deno",
        zed_languages: ZED_SCRIPTS,
        zed_others: &["!typescript-language-server", "!vtsls"],
        vscode_off: &[],
        emacs: EMACS_SCRIPTS,
        jetbrains: JETBRAINS_SCRIPTS,
        vscode_attach: Some(ATTACH_INSPECTOR),
    },
    // No built-in tool: a recipe of the user with Debian's package.
    Languages {
        tool: "clangd",
        names: &["c", "cpp"],
        helix: &["c", "cpp"],
        zed: "clangd",
        zed_languages: &[],
        zed_others: &[],
        vscode_off: &[("C_Cpp.intelliSenseEngine", "\"disabled\"")],
        emacs: &[("c-mode", None), ("c-ts-mode", None), ("c++-mode", Some("cpp")), ("c++-ts-mode", Some("cpp"))],
        jetbrains: &[("c", &["*.c", "*.h"]), ("cpp", &["*.cpp", "*.cc", "*.cxx", "*.hpp", "*.hh"])],
        vscode_attach: None,
    },
];
