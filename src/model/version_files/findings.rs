//! Findings in version files: requested versions, add-ons, ports, and parts that nothing in Silo corresponds to.

use std::num::NonZeroU16;

/// A version that a file requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionWish {
    /// The tool.
    pub tool: String,
    /// The version or range, as in [`crate::version_request`].
    pub text: String,
    /// Name of the file, and the key in it if it has several.
    pub source: String,
}

/// An add-on that a file requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddonWish {
    /// The add-on.
    pub name: String,
    /// The tool that it is for; `None` for any.
    pub tool: Option<&'static str>,
    /// Name of the file, and the key in it if it has several.
    pub source: String,
}

/// Everything found in the version files of a directory, the most specific file first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Requested versions.
    pub wishes: Vec<VersionWish>,
    /// Requested add-ons.
    pub addons: Vec<AddonWish>,
    /// Ports to forward.
    pub ports: Vec<NonZeroU16>,
    /// Parts of the files that have no effect, one line each.
    pub notes: Vec<String>,
}

impl Findings {
    /// Adds a requested version.
    pub(super) fn wish(&mut self, tool: &str, text: impl Into<String>, source: impl Into<String>) {
        self.wishes.push(VersionWish { tool: tool.to_owned(), text: text.into(), source: source.into() });
    }

    /// Adds a requested version of a tool or add-on by its name in other programs; notes an unknown one.
    pub(super) fn named(&mut self, name: &str, text: &str, source: &str) {
        match tool_of(name) {
            Some(Named::Tool("java")) => self.wish("java", java_version(text), source),
            Some(Named::Tool(tool)) => self.wish(tool, text, source),
            Some(Named::Addon(name, tool)) => self.addon(name, tool, text, source),
            None => self.notes.push(format!("{source} asks for {name} {text}, which is no tool of silo")),
        }
    }

    /// Adds an add-on. An add-on has one version, so another one is only noted.
    pub(super) fn addon(&mut self, name: &str, tool: Option<&'static str>, version: &str, source: &str) {
        if self.addons.iter().all(|addon| addon.name != name) {
            self.addons.push(AddonWish { name: name.to_owned(), tool, source: source.to_owned() });
        }
        if version.starts_with(|c: char| c.is_ascii_digit()) {
            self.notes.push(format!("{source} asks for {name} {version}; the add-on {name} has a version of its own"));
        }
    }
}

/// A tool or an add-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A tool.
    Tool(&'static str),
    /// An add-on, and the tool that it is for.
    Addon(&'static str, Option<&'static str>),
}

/// Returns Silo's tool or add-on for a name in other programs.
pub(super) fn tool_of(name: &str) -> Option<Named> {
    Some(match name.strip_prefix("core:").unwrap_or(name) {
        "node" | "nodejs" | "javascript-node" | "typescript-node" => Named::Tool("node"),
        "python" => Named::Tool("python"),
        "go" | "golang" => Named::Tool("go"),
        "rust" => Named::Tool("rust"),
        "deno" => Named::Tool("deno"),
        "java" => Named::Tool("java"),
        "pnpm" => Named::Addon("pnpm", Some("node")),
        "yarn" => Named::Addon("yarn", Some("node")),
        "poetry" => Named::Addon("poetry", Some("python")),
        "uv" => Named::Addon("uv", Some("python")),
        "ruby" => Named::Addon("ruby", None),
        "kotlin" => Named::Addon("kotlin", None),
        _ => return None,
    })
}

/// Returns the number in the version of a Java distribution: `17.0.9` for `temurin-17.0.9+9`, `8` for `1.8`.
pub(super) fn java_version(text: &str) -> String {
    // The number follows the last dash, if a name is before it: openjdk64-17.0.2, 21.0.1-tem.
    let mut parts = text.split('-').filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let number = parts.next_back().unwrap_or(text);
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let number = &number[..end];
    number.strip_prefix("1.").filter(|rest| !rest.is_empty()).unwrap_or(number).to_owned()
}
