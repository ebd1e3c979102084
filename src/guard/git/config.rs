//! Parses git's configuration, and identifies values that name commands and files that git runs or reads.

use std::collections::BTreeSet;

/// Maximum size of a configuration.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A value. Its key is in lower case except for the subsection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Section.
    pub section: String,
    /// Subsection: name of a remote or driver.
    pub subsection: Option<String>,
    /// Name of the variable.
    pub name: String,
    /// Value of the variable.
    pub value: Vec<u8>,
}

/// Relation of a value to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Path of another configuration, relative to this one.
    Include,
    /// Path of a directory with programs that git runs.
    Programs,
    /// Path of a file.
    File,
    /// Command line.
    Command,
}

/// The text is not a git configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a git configuration")]
pub struct Error;

/// Variables with values that git runs or reads as files; `*` matches any subsection or name.
const KEYS: [(&str, &str, &str, Names); 66] = [
    ("include", "", "path", Names::Include),
    ("includeif", "*", "path", Names::Include),
    ("core", "", "hookspath", Names::Programs),
    ("init", "", "templatedir", Names::Programs),
    ("core", "", "attributesfile", Names::File),
    ("gpg", "ssh", "allowedsignersfile", Names::File),
    ("gpg", "ssh", "revocationfile", Names::File),
    ("http", "", "sslkey", Names::File),
    ("core", "", "fsmonitor", Names::Command),
    ("core", "", "editor", Names::Command),
    ("core", "", "pager", Names::Command),
    ("core", "", "askpass", Names::Command),
    ("core", "", "sshcommand", Names::Command),
    ("core", "", "gitproxy", Names::Command),
    ("core", "", "alternaterefscommand", Names::Command),
    ("core", "", "virtualfilesystem", Names::Command),
    ("sequence", "", "editor", Names::Command),
    ("pager", "", "*", Names::Command),
    ("pager", "*", "*", Names::Command),
    ("alias", "", "*", Names::Command),
    ("alias", "*", "command", Names::Command),
    ("interactive", "", "difffilter", Names::Command),
    ("filter", "*", "clean", Names::Command),
    ("filter", "*", "smudge", Names::Command),
    ("filter", "*", "process", Names::Command),
    ("diff", "", "external", Names::Command),
    ("diff", "*", "command", Names::Command),
    ("diff", "*", "textconv", Names::Command),
    ("merge", "*", "driver", Names::Command),
    ("difftool", "*", "cmd", Names::Command),
    ("difftool", "*", "path", Names::Command),
    ("mergetool", "*", "cmd", Names::Command),
    ("mergetool", "*", "path", Names::Command),
    ("guitool", "*", "cmd", Names::Command),
    ("browser", "*", "cmd", Names::Command),
    ("browser", "*", "path", Names::Command),
    ("man", "*", "cmd", Names::Command),
    ("man", "*", "path", Names::Command),
    ("tar", "*", "command", Names::Command),
    ("trailer", "*", "command", Names::Command),
    ("trailer", "*", "cmd", Names::Command),
    ("hook", "*", "command", Names::Command),
    ("gpg", "", "program", Names::Command),
    ("gpg", "*", "program", Names::Command),
    ("gpg", "ssh", "defaultkeycommand", Names::Command),
    ("credential", "", "helper", Names::Command),
    ("credential", "*", "helper", Names::Command),
    ("remote", "*", "uploadpack", Names::Command),
    ("remote", "*", "receivepack", Names::Command),
    ("remote", "*", "vcs", Names::Command),
    ("remote", "*", "url", Names::Command),
    ("remote", "*", "pushurl", Names::Command),
    ("uploadpack", "", "packobjectshook", Names::Command),
    ("submodule", "*", "update", Names::Command),
    ("sendemail", "", "*cmd", Names::Command),
    ("sendemail", "", "smtpserver", Names::Command),
    ("sendemail", "*", "*cmd", Names::Command),
    ("imap", "", "tunnel", Names::Command),
    ("instaweb", "", "httpd", Names::Command),
    ("web", "", "browser", Names::Command),
    ("maintenance", "", "*command", Names::Command),
    ("lfs", "customtransfer.*", "path", Names::Command),
    ("lfs", "extension.*", "clean", Names::Command),
    ("lfs", "extension.*", "smudge", Names::Command),
    ("difftool", "", "*", Names::Command),
    ("annex", "", "*command", Names::Command),
];

/// Parses a configuration. Includes are returned like other values.
pub fn parse(text: &[u8]) -> Result<Vec<Value>, Error> {
    let options = gix_config::file::init::Options::default();
    let file = gix_config::File::from_bytes_no_includes(text, gix_config::file::Metadata::api(), options).map_err(|_| Error)?;
    let mut values = Vec::new();
    for section in file.sections() {
        let header = section.header();
        let lower = |text: &[u8]| String::from_utf8_lossy(text).to_lowercase();
        let names: BTreeSet<String> = section.body().value_names().map(|name| name.to_lowercase()).collect();
        for name in names {
            for value in section.body().values(&name) {
                values.push(Value {
                    section: lower(header.name()),
                    subsection: header.subsection_name().map(|name| String::from_utf8_lossy(name).into_owned()),
                    name: name.clone(),
                    value: value.to_vec(),
                });
            }
        }
    }
    Ok(values)
}

impl Value {
    /// Returns the relation of the value to files, if it has one.
    pub fn names(&self) -> Option<Names> {
        let fits = |pattern: &str, text: &str| match pattern.split_once('*') {
            Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
            None => pattern == text,
        };
        let subsection = self.subsection.as_deref().unwrap_or_default();
        let is_it = |(section, sub, name, _): &&(&str, &str, &str, Names)| {
            *section == self.section && fits(sub, subsection) && sub.is_empty() == self.subsection.is_none() && fits(name, &self.name)
        };
        KEYS.iter().find(is_it).map(|(.., names)| *names)
    }

    /// Returns the key as git writes it.
    pub fn key(&self) -> String {
        match &self.subsection {
            Some(subsection) => format!("{}.{subsection}.{}", self.section, self.name),
            None => format!("{}.{}", self.section, self.name),
        }
    }
}

/// Splits a command line into words that may be paths. A shell runs it, so paths may be quoted and follow any character. The first word is
/// the program, which is searched on PATH if it has no slash.
pub fn words(command: &str) -> Vec<&str> {
    let cut = |letter: char| letter.is_whitespace() || "'\"`;&|()<>$={},!".contains(letter);
    command.split(cut).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_git_reads_it() {
        let text = b"[core]\n\thooksPath = .githooks ; comment\n\tfsMonitor = \"tools/mon\" \\\n --now\n[filter \"A.b\"]\n\
            clean = a\nclean = b\n[Alias] x = !tools/x\n[include]\npath = ../.gitconfig\n[remote \"o\"]\n\tfetch = +refs/heads/*:x\n";
        let values = parse(text).expect("a configuration");
        let found: Vec<_> = values
            .iter()
            .filter_map(|value| Some((value.key(), String::from_utf8_lossy(&value.value).into_owned(), value.names()?)))
            .collect();
        let expect = [
            ("core.fsmonitor", "tools/mon  --now", Names::Command),
            ("core.hookspath", ".githooks", Names::Programs),
            ("filter.A.b.clean", "a", Names::Command),
            ("filter.A.b.clean", "b", Names::Command),
            ("alias.x", "!tools/x", Names::Command),
            ("include.path", "../.gitconfig", Names::Include),
        ];
        assert_eq!(found, expect.map(|(key, value, names)| (key.to_owned(), value.to_owned(), names)));
        assert_eq!(parse(b"[core\n"), Err(Error));
    }

    #[test]
    fn commands_are_taken_apart() {
        for (command, expect) in [
            ("tools/x --clean %f", &["tools/x", "--clean", "%f"][..]),
            ("!f() { python3 'tools/y' \"$@\"; }; f", &["f", "python3", "tools/y", "@", "f"]),
            ("sh -c \"$(git rev-parse --show-toplevel)/z\"", &["sh", "-c", "git", "rev-parse", "--show-toplevel", "/z"]),
            ("a --config=b/c", &["a", "--config", "b/c"]),
        ] {
            assert_eq!(words(command), expect, "{command}");
        }
    }
}
