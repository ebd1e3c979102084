//! Reads dpkg's data about an unpacked package back from its layer.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use silo_store::digest::LayerId;
use silo_store::entry::Node;
use silo_store::index::Index;
use silo_store::resolve_in_root;

use super::usr_merge;

/// dpkg's directory of files about each package.
pub const INFO: &str = "var/lib/dpkg/info";

/// Limit on a file of dpkg, and on a configuration file; the largest status file of the recipes has about a megabyte.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// A control stanza: its fields in order, values unchanged, including continuation lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    fields: Vec<(String, String)>,
}

impl Stanza {
    /// Returns the value of a field; names are case-insensitive, see deb822(5).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Sets a field; an existing one keeps its position.
    pub fn set(&mut self, name: &str, value: String) {
        match self.fields.iter_mut().find(|(field, _)| field.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value,
            None => self.fields.push((name.to_owned(), value)),
        }
    }

    /// Returns the fields in order.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// Returns the package's name.
    pub fn package(&self) -> &str {
        self.get("Package").unwrap_or_default()
    }

    /// Returns the package's architecture.
    pub fn architecture(&self) -> &str {
        self.get("Architecture").unwrap_or_default()
    }

    /// Returns the package's architecture, if it is foreign in a root of the architecture `own`.
    pub fn foreign(&self, own: &str) -> Option<&str> {
        Some(self.architecture()).filter(|architecture| ![own, "all", ""].contains(architecture))
    }

    /// Returns the package's name as in locks: with its architecture, if that is foreign in a root of the architecture `own`.
    pub fn label(&self, own: &str) -> String {
        self.foreign(own).map_or_else(|| self.package().to_owned(), |architecture| format!("{}:{architecture}", self.package()))
    }

    /// Returns the prefix of the names of dpkg's files about the package.
    pub fn info_base(&self) -> String {
        match self.get("Multi-Arch") {
            Some("same") => format!("{}:{}", self.package(), self.architecture()),
            _ => self.package().to_owned(),
        }
    }
}

/// Parses one control stanza. Values are kept byte for byte, because dpkg's database repeats them.
pub fn parse_stanza(bytes: &[u8]) -> Result<Stanza, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "control: not UTF-8".to_owned())?;
    let mut fields: Vec<(String, String)> = Vec::new();
    for (number, line) in text.trim_end().lines().enumerate() {
        let wrong = || format!("control:{}: \"{}\" is not a field", number + 1, line.escape_debug());
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut().ok_or_else(wrong)?;
            value.push('\n');
            value.push_str(line.trim_end());
        } else {
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    let stanza = Stanza { fields };
    for name in ["Package", "Version", "Architecture"] {
        let value = stanza.get(name).unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.~:".contains(c);
        if value.is_empty() || value.starts_with('.') || !value.chars().all(plain) {
            return Err(format!("control: {name} is \"{}\"", value.escape_debug()));
        }
    }
    Ok(stanza)
}

/// Splits the text of dpkg's status file into stanzas.
pub fn parse_stanzas(bytes: &[u8]) -> Result<Vec<Stanza>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "status: not UTF-8".to_owned())?;
    text.split("\n\n").filter(|part| !part.trim().is_empty()).map(|part| parse_stanza(part.trim_matches('\n').as_bytes())).collect()
}

/// One unpacked package.
#[derive(Clone, Debug)]
pub struct Record {
    /// The layer with its files.
    pub layer: LayerId,
    /// Its control stanza.
    pub stanza: Stanza,
    /// The types of its control files, such as `postinst`.
    pub members: BTreeSet<String>,
    /// The triggers in which it is interested.
    pub interests: Vec<Trigger>,
    /// The triggers that its unpacking activates.
    pub activates: Vec<String>,
    /// Its configuration files with their MD5s.
    pub conffiles: Vec<(String, String)>,
    /// Directories that its preinst removes, left over from an older version.
    pub swept: Vec<String>,
}

/// A trigger in which a package is interested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// A path, or a name without `/`.
    pub trigger: String,
    /// True if packages that activate it do not wait for it.
    pub noawait: bool,
}

/// Reason why a layer cannot be read as a package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the layer could not be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The layer contains no package.
    #[error("layer {layer}: {what}")]
    NoPackage {
        /// The layer.
        layer: LayerId,
        /// The fault.
        what: String,
    },
}

/// Reads the record of the package in `layer`; `tree` has the layer's files. No symlink of the layer leads out of it.
pub fn read(layer: LayerId, tree: &Path, index: &Index) -> Result<Record, Error> {
    let wrong = |what: String| Error::NoPackage { layer, what };
    // By package and type. Anything but a file is not dpkg's.
    let mut all = BTreeMap::new();
    let prefix = format!("{INFO}/");
    for entry in index.entries().iter().filter(|entry| matches!(entry.node, Node::File { .. } | Node::Hardlink { .. })) {
        let Some(name) = entry.path.as_bytes().strip_prefix(prefix.as_bytes()) else { continue };
        let name = String::from_utf8_lossy(name).into_owned();
        if let Some((package, member)) = name.rsplit_once('.') {
            all.insert((package.to_owned(), member.to_owned()), Path::new(&prefix).join(&name));
        }
    }
    let mut controls = all.keys().filter(|(_, member)| member == "control").map(|(package, _)| package.clone());
    let package = controls.next().ok_or_else(|| wrong("it contains no package".to_owned()))?;
    if let Some(other) = controls.next() {
        return Err(wrong(format!("it contains the control files of two packages, {package} and {other}")));
    }
    let members: BTreeMap<String, PathBuf> =
        all.into_iter().filter(|((of, _), _)| *of == package).map(|((_, member), path)| (member, path)).collect();
    let read = |path: &Path| {
        let failed = |source| Error::Read { path: tree.join(path), source };
        resolve_in_root::read(tree, path, MAX_FILE_BYTES).map_err(failed)
    };
    let text = |member: &str| -> Result<String, Error> {
        members.get(member).map_or_else(|| Ok(String::new()), |path| read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let stanza = parse_stanza(&read(&Path::new(&prefix).join(format!("{package}.control")))?).map_err(wrong)?;
    let mut conffiles = Vec::new();
    for path in conffile_paths(&text("conffiles")?) {
        let place = usr_merge::place(path.trim_start_matches('/').as_bytes());
        let bytes = read(Path::new(OsStr::from_bytes(&place)))?;
        conffiles.push((path, md5_hex(&bytes)));
    }
    let (triggers, swept) = (text("triggers")?, swept(&text("preinst")?));
    let (interests, activates) = (interests(&triggers), activates(&triggers));
    Ok(Record { layer, interests, activates, members: members.into_keys().collect(), stanza, conffiles, swept })
}

/// Lists the configuration files that a `conffiles` member names (deb-conffiles(5)).
fn conffile_paths(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with('/'));
    lines.filter(|path| !path.split('/').any(|part| part == "..")).map(str::to_owned).collect()
}

/// Reads the directives of a `triggers` member (deb-triggers(5)).
fn directives(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    })
}

/// Lists the triggers that a `triggers` member activates.
fn activates(text: &str) -> Vec<String> {
    directives(text).filter(|(directive, _)| directive.starts_with("activate")).map(|(_, trigger)| trigger.to_owned()).collect()
}

/// Lists the triggers in which a `triggers` member declares interest.
fn interests(text: &str) -> Vec<Trigger> {
    directives(text)
        .filter(|(directive, _)| directive.starts_with("interest"))
        .map(|(directive, trigger)| Trigger { trigger: trigger.to_owned(), noawait: directive == "interest-noawait" })
        .collect()
}

/// Lists the literal absolute paths that a script removes with `rm -r`.
fn swept(script: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for command in script.lines().flat_map(|line| line.split([';', '&', '|'])) {
        let mut words = command.split_whitespace().skip_while(|word| *word != "rm").skip(1);
        let recursive = |word: &str| word.starts_with('-') && word.contains(['r', 'R']);
        if words.next().is_some_and(recursive) {
            let named = words.map(|word| word.trim_matches(['"', '\'']).trim_end_matches('/'));
            paths.extend(named.filter(|word| word.starts_with('/') && !word.contains(['$', '*', '?', '['])).map(str::to_owned));
        }
    }
    paths
}

fn md5_hex(bytes: &[u8]) -> String {
    use md5::Digest as _;
    use std::fmt::Write as _;
    md5::Md5::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_keep_their_text() {
        let text = "Package: a\nVersion: 1:2~rc-1\nArchitecture: all\nDescription: short\n long\n .\n  more\n";
        let stanza = parse_stanza(text.as_bytes()).expect("a stanza");
        assert_eq!(stanza.get("description"), Some("short\n long\n .\n  more"));
        for wrong in
            ["", " x", "Package", "Package: ../x\nVersion: 1\nArchitecture: all", "Package: a\nVersion: 1 2\nArchitecture: all", "\u{0}"]
        {
            parse_stanza(wrong.as_bytes()).expect_err(wrong);
        }
    }

    #[test]
    fn removals_of_a_preinst_are_parsed() {
        let got = swept("if true; then\n\trm -rf /usr/lib/a/ '/usr/lib/b'; rm -f /c\nfi\n# rm -rf\n[ -L /d ] || rm -r /d $x/e /f*\n");
        assert_eq!(got, ["/usr/lib/a", "/usr/lib/b", "/d"]);
        assert!(swept("rm -f /x\nrm /y\nfarm -r /z\n").is_empty());
    }

    #[test]
    fn triggers_are_read() {
        assert_eq!(activates("activate-noawait ldconfig\nactivate y # z\ninterest x\n"), ["ldconfig", "y"]);
        let got = interests("# c\ninterest /usr/share/man\ninterest-noawait ldconfig # x\nactivate y\ninterest\n");
        let interest = |trigger: &str, noawait| Trigger { trigger: trigger.into(), noawait };
        assert_eq!(got, [interest("/usr/share/man", false), interest("ldconfig", true)]);
    }
}
