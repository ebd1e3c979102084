//! `manifest.toml`: the origin of a layer. It is not part of the layer's identity.
//!
//! The file is TOML, so that people and tools can read it. The reader accepts only the writer's format: these keys, in this order, one
//! value or list item per line. Version 1 has no list of removed files; version 2 has one that is not empty. Version 3 has such a list, which
//! may be empty, and the place of the build, if that was another machine.

use crate::digest::LayerId;
use std::fmt::Write;

/// The version of a manifest without removed files.
const WITHOUT_REMOVED: &str = "1";
/// The version of a manifest with removed files.
const WITH_REMOVED: &str = "2";
/// The version of a manifest with removed files and a place.
const WITH_PLACE: &str = "3";

/// The origin of a layer, as reported by its builder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Name of the layer, for people.
    pub name: String,
    /// The derivation that was built, in hex; empty if there is none.
    pub derivation: String,
    /// Creation time, in seconds since 1970.
    pub created: u64,
    /// Build time in milliseconds.
    pub duration_ms: u64,
    /// Digests and ids of the inputs, in the derivation's order.
    pub inputs: Vec<String>,
    /// The packages inside, as `name version`.
    pub packages: Vec<String>,
    /// Secrets and identities that the builder removed, as absolute paths.
    pub removed: Vec<String>,
    /// The worker that ran the step, with the address of its engine; empty if this machine ran it.
    pub place: String,
}

/// A layer's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The layer.
    pub layer: LayerId,
    /// Number of entries.
    pub entries: u64,
    /// Total size of the files in bytes.
    pub bytes: u64,
    /// The origin of the layer.
    pub record: Record,
}

/// Text that is not a manifest.
#[derive(Debug, thiserror::Error)]
#[error("manifest line {line}: {why}")]
pub struct ManifestError {
    /// The number of the line; the first is 1.
    pub line: usize,
    /// The fault.
    pub why: &'static str,
}

impl Manifest {
    /// Returns the text.
    pub fn to_text(&self) -> String {
        let Manifest { layer, entries, bytes, record } = self;
        let mut out = String::new();
        // Writing to a string cannot fail.
        let version = match (record.place.is_empty(), record.removed.is_empty()) {
            (true, true) => WITHOUT_REMOVED,
            (true, false) => WITH_REMOVED,
            (false, _) => WITH_PLACE,
        };
        let _ = writeln!(out, "version = {version}");
        let _ = writeln!(out, "layer = \"{layer}\"\nentries = {entries}\nbytes = {bytes}");
        let _ = writeln!(out, "name = {}", quoted(&record.name));
        let _ = writeln!(out, "derivation = {}", quoted(&record.derivation));
        let _ = writeln!(out, "created = {}\nduration_ms = {}", record.created, record.duration_ms);
        let removed = (version != WITHOUT_REMOVED).then_some(("removed", &record.removed));
        for (key, list) in [("inputs", &record.inputs), ("packages", &record.packages)].into_iter().chain(removed) {
            let _ = writeln!(out, "{key} = [");
            for item in list {
                let _ = writeln!(out, "    {},", quoted(item));
            }
            out.push_str("]\n");
        }
        if version == WITH_PLACE {
            let _ = writeln!(out, "place = {}", quoted(&record.place));
        }
        out
    }

    /// Parses the output of [`Manifest::to_text`].
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut lines = Lines { lines: text.lines(), number: 0 };
        let version = lines.value("version")?;
        if ![WITHOUT_REMOVED, WITH_REMOVED, WITH_PLACE].contains(&version) {
            return Err(lines.bad("has an unknown version"));
        }
        let layer = lines.string("layer")?;
        let manifest = Manifest {
            layer: LayerId::parse(&layer).map_err(|_| lines.bad("is not a layer id"))?,
            entries: lines.number("entries")?,
            bytes: lines.number("bytes")?,
            record: Record {
                name: lines.string("name")?,
                derivation: lines.string("derivation")?,
                created: lines.number("created")?,
                duration_ms: lines.number("duration_ms")?,
                inputs: lines.list("inputs")?,
                packages: lines.list("packages")?,
                removed: if version == WITHOUT_REMOVED { Vec::new() } else { lines.list("removed")? },
                place: if version == WITH_PLACE { lines.string("place")? } else { String::new() },
            },
        };
        if version == WITH_REMOVED && manifest.record.removed.is_empty() {
            return Err(lines.bad("ends an empty list"));
        }
        if version == WITH_PLACE && manifest.record.place.is_empty() {
            return Err(lines.bad("has an empty place"));
        }
        match lines.lines.next() {
            None => Ok(manifest),
            Some(_) => Err(lines.bad("is followed by unexpected text")),
        }
    }
}

struct Lines<'a> {
    lines: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn bad(&self, why: &'static str) -> ManifestError {
        ManifestError { line: self.number, why }
    }

    fn next(&mut self) -> Result<&'a str, ManifestError> {
        self.number += 1;
        self.lines.next().ok_or_else(|| self.bad("is missing"))
    }

    fn value(&mut self, key: &str) -> Result<&'a str, ManifestError> {
        let line = self.next()?;
        let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(" = "));
        value.ok_or_else(|| self.bad("has an unexpected key"))
    }

    fn number(&mut self, key: &str) -> Result<u64, ManifestError> {
        let value = self.value(key)?;
        value.parse().map_err(|_| self.bad("has a malformed number"))
    }

    fn string(&mut self, key: &str) -> Result<String, ManifestError> {
        let value = self.value(key)?;
        unquoted(value).ok_or_else(|| self.bad("has a malformed string"))
    }

    fn list(&mut self, key: &str) -> Result<Vec<String>, ManifestError> {
        let mut list = Vec::new();
        if self.value(key)? != "[" {
            return Err(self.bad("does not start a list"));
        }
        loop {
            let line = self.next()?;
            if line == "]" {
                return Ok(list);
            }
            let item = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(','));
            list.push(item.and_then(unquoted).ok_or_else(|| self.bad("has a malformed list item"))?);
        }
    }
}

/// Returns `text` as a TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn unquoted(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut out = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        match c {
            '"' => return None,
            '\\' => match chars.next()? {
                c @ ('"' | '\\') => out.push(c),
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    out.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                }
                _ => return None,
            },
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let manifest = Manifest {
            layer: LayerId::new(Digest::of(b"x")),
            entries: 3,
            bytes: u64::MAX,
            record: Record {
                name: "a \"name\"\\ \n\u{1b}[31m \u{85} é".into(),
                derivation: String::new(),
                created: 1,
                duration_ms: 2,
                inputs: vec!["one".into(), "]".into()],
                packages: vec![],
                removed: vec![],
                place: String::new(),
            },
        };
        let text = manifest.to_text();
        assert!(!text.contains('\u{1b}'));
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        let record = Record { removed: vec!["/etc/munge/munge.key".into()], ..manifest.record.clone() };
        let with = Manifest { record, ..manifest.clone() };
        assert_eq!(Manifest::parse(&with.to_text()).unwrap(), with);
        for bad in [with.to_text().replace("version = 2", "version = 1"), with.to_text().replace("    \"/etc/munge/munge.key\",\n", "")] {
            assert!(Manifest::parse(&bad).is_err(), "{bad}");
        }
        for removed in [vec![], vec!["/etc/a.key".into()]] {
            let record = Record { removed, place: "a \"worker\" of http://x\n".into(), ..manifest.record.clone() };
            let with = Manifest { record, ..manifest.clone() };
            let text = with.to_text();
            assert_eq!(Manifest::parse(&text).unwrap(), with);
            let (start, _) = text.split_once("place = ").unwrap();
            for bad in [start, &format!("{start}place = \"\"\n"), &text.replace("version = 3", "version = 2")] {
                assert!(Manifest::parse(bad).is_err(), "{bad}");
            }
        }
        for bad in [
            text.replace("version = 1", "version = 2"),
            text.replace("entries = 3", "entries = x"),
            text.replace("    \"one\",", "    one,"),
            format!("{text}more = 1\n"),
            text[..text.len() - 2].to_string(),
            String::new(),
        ] {
            assert!(Manifest::parse(&bad).is_err(), "{bad}");
        }
    }
}
