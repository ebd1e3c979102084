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
pub enum FileRelation {
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
const KEYS: [(&str, &str, &str, FileRelation); 66] = [
    ("include", "", "path", FileRelation::Include),
    ("includeif", "*", "path", FileRelation::Include),
    ("core", "", "hookspath", FileRelation::Programs),
    ("init", "", "templatedir", FileRelation::Programs),
    ("core", "", "attributesfile", FileRelation::File),
    ("gpg", "ssh", "allowedsignersfile", FileRelation::File),
    ("gpg", "ssh", "revocationfile", FileRelation::File),
    ("http", "", "sslkey", FileRelation::File),
    ("core", "", "fsmonitor", FileRelation::Command),
    ("core", "", "editor", FileRelation::Command),
    ("core", "", "pager", FileRelation::Command),
    ("core", "", "askpass", FileRelation::Command),
    ("core", "", "sshcommand", FileRelation::Command),
    ("core", "", "gitproxy", FileRelation::Command),
    ("core", "", "alternaterefscommand", FileRelation::Command),
    ("core", "", "virtualfilesystem", FileRelation::Command),
    ("sequence", "", "editor", FileRelation::Command),
    ("pager", "", "*", FileRelation::Command),
    ("pager", "*", "*", FileRelation::Command),
    ("alias", "", "*", FileRelation::Command),
    ("alias", "*", "command", FileRelation::Command),
    ("interactive", "", "difffilter", FileRelation::Command),
    ("filter", "*", "clean", FileRelation::Command),
    ("filter", "*", "smudge", FileRelation::Command),
    ("filter", "*", "process", FileRelation::Command),
    ("diff", "", "external", FileRelation::Command),
    ("diff", "*", "command", FileRelation::Command),
    ("diff", "*", "textconv", FileRelation::Command),
    ("merge", "*", "driver", FileRelation::Command),
    ("difftool", "*", "cmd", FileRelation::Command),
    ("difftool", "*", "path", FileRelation::Command),
    ("mergetool", "*", "cmd", FileRelation::Command),
    ("mergetool", "*", "path", FileRelation::Command),
    ("guitool", "*", "cmd", FileRelation::Command),
    ("browser", "*", "cmd", FileRelation::Command),
    ("browser", "*", "path", FileRelation::Command),
    ("man", "*", "cmd", FileRelation::Command),
    ("man", "*", "path", FileRelation::Command),
    ("tar", "*", "command", FileRelation::Command),
    ("trailer", "*", "command", FileRelation::Command),
    ("trailer", "*", "cmd", FileRelation::Command),
    ("hook", "*", "command", FileRelation::Command),
    ("gpg", "", "program", FileRelation::Command),
    ("gpg", "*", "program", FileRelation::Command),
    ("gpg", "ssh", "defaultkeycommand", FileRelation::Command),
    ("credential", "", "helper", FileRelation::Command),
    ("credential", "*", "helper", FileRelation::Command),
    ("remote", "*", "uploadpack", FileRelation::Command),
    ("remote", "*", "receivepack", FileRelation::Command),
    ("remote", "*", "vcs", FileRelation::Command),
    ("remote", "*", "url", FileRelation::Command),
    ("remote", "*", "pushurl", FileRelation::Command),
    ("uploadpack", "", "packobjectshook", FileRelation::Command),
    ("submodule", "*", "update", FileRelation::Command),
    ("sendemail", "", "*cmd", FileRelation::Command),
    ("sendemail", "", "smtpserver", FileRelation::Command),
    ("sendemail", "*", "*cmd", FileRelation::Command),
    ("imap", "", "tunnel", FileRelation::Command),
    ("instaweb", "", "httpd", FileRelation::Command),
    ("web", "", "browser", FileRelation::Command),
    ("maintenance", "", "*command", FileRelation::Command),
    ("lfs", "customtransfer.*", "path", FileRelation::Command),
    ("lfs", "extension.*", "clean", FileRelation::Command),
    ("lfs", "extension.*", "smudge", FileRelation::Command),
    ("difftool", "", "*", FileRelation::Command),
    ("annex", "", "*command", FileRelation::Command),
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
    pub fn names(&self) -> Option<FileRelation> {
        let fits = |pattern: &str, text: &str| match pattern.split_once('*') {
            Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
            None => pattern == text,
        };
        let subsection = self.subsection.as_deref().unwrap_or_default();
        let is_it = |(section, sub, name, _): &&(&str, &str, &str, FileRelation)| {
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
            ("core.fsmonitor", "tools/mon  --now", FileRelation::Command),
            ("core.hookspath", ".githooks", FileRelation::Programs),
            ("filter.A.b.clean", "a", FileRelation::Command),
            ("filter.A.b.clean", "b", FileRelation::Command),
            ("alias.x", "!tools/x", FileRelation::Command),
            ("include.path", "../.gitconfig", FileRelation::Include),
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
