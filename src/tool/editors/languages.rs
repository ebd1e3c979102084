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
}

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
    },
    Languages {
        tool: "node",
        names: SCRIPTS,
        helix: HELIX_SCRIPTS,
        zed: "typescript-language-server",
        zed_languages: ZED_SCRIPTS,
        zed_others: &["!vtsls"],
        vscode_off: &[],
    },
    Languages {
        tool: "rust",
        names: &["rust"],
        helix: &["rust"],
        zed: "rust-analyzer",
        zed_languages: &[],
        zed_others: &[],
        vscode_off: &[],
    },
    Languages {
        tool: "go",
        names: &["go"],
        helix: &["go"],
        zed: "gopls",
        zed_languages: &[],
        zed_others: &[],
        vscode_off: &[("go.useLanguageServer", "false")],
    },
    Languages {
        tool: "deno",
        names: SCRIPTS,
        helix: HELIX_SCRIPTS,
        zed: "deno",
        zed_languages: ZED_SCRIPTS,
        zed_others: &["!typescript-language-server", "!vtsls"],
        vscode_off: &[],
    },
];
