//! Generates dpkg's database files `dpkg_status` and `triggers/*`, in the form that dpkg itself writes.

use std::collections::{BTreeMap, BTreeSet};

use silo_base::system::Arch;
use silo_fetch::unpack::record::{Record, Stanza};

/// The order in which dpkg writes its known fields (its `lib/dpkg/parse.c`); other fields follow in their original order.
const ORDER: [&str; 24] = [
    "Package",
    "Essential",
    "Protected",
    "Status",
    "Priority",
    "Section",
    "Installed-Size",
    "Origin",
    "Maintainer",
    "Bugs",
    "Architecture",
    "Multi-Arch",
    "Source",
    "Version",
    "Config-Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
    "Breaks",
    "Conflicts",
    "Enhances",
];
/// The fields that dpkg writes after the relations.
const LATE: [&str; 2] = ["Conffiles", "Description"];

/// dpkg's word for the MD5 of a configuration file that it has not put in its place yet.
const NEW: &str = "newconffile";

/// Returns the stanza of an installed package, with its configuration files.
pub fn installed(record: &Record) -> Stanza {
    stanza(record, "install ok installed", &|_| false)
}

/// Returns the stanza of a package that is unpacked and not configured. `is_new` names the configuration files that are not in their place.
pub fn unpacked(record: &Record, is_new: &dyn Fn(&str) -> bool) -> Stanza {
    stanza(record, "install ok unpacked", is_new)
}

fn stanza(record: &Record, state: &str, is_new: &dyn Fn(&str) -> bool) -> Stanza {
    let mut stanza = record.stanza.clone();
    stanza.set("Status", state.to_owned());
    if !record.conffiles.is_empty() {
        let line = |(path, md5): &(String, String)| format!("\n {path} {}", if is_new(path) { NEW } else { md5 });
        let lines: Vec<String> = record.conffiles.iter().map(line).collect();
        stanza.set("Conffiles", lines.concat());
    }
    stanza
}

/// Generates a status file of `stanzas`, ordered by name and architecture as dpkg does.
pub fn write(mut stanzas: Vec<Stanza>) -> String {
    stanzas.sort_by(|a, b| (a.package(), a.architecture()).cmp(&(b.package(), b.architecture())));
    let mut text = String::new();
    for stanza in &stanzas {
        for name in ORDER.iter().chain(&LATE) {
            if let Some(value) = stanza.get(name) {
                push_field(&mut text, name, value);
            }
        }
        for (name, value) in stanza.fields() {
            if !ORDER.iter().chain(&LATE).any(|known| known.eq_ignore_ascii_case(name)) {
                push_field(&mut text, name, value);
            }
        }
        text.push('\n');
    }
    text
}

fn push_field(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push(':');
    if !value.starts_with('\n') && !value.is_empty() {
        text.push(' ');
    }
    text.push_str(value);
    text.push('\n');
}

/// Returns dpkg's list of a root's architectures; `None` if there are no foreign ones.
pub fn architectures(own: Arch, foreign: &BTreeSet<&str>) -> Option<String> {
    let lines = std::iter::once(own.name()).chain(foreign.iter().copied()).map(|name| format!("{name}\n"));
    (!foreign.is_empty()).then(|| lines.collect())
}

/// Returns the files of `triggers/`, by name; they list the packages that await each trigger. As in the names of dpkg's other files, a package
/// that may have several instances (`Multi-Arch: same`) has its architecture in its name.
pub fn triggers(records: &[&Record]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for record in records {
        for interest in &record.interests {
            let waiter = record.stanza.info_base();
            let suffix = if interest.noawait { "/noawait" } else { "" };
            if interest.trigger.starts_with('/') {
                files.entry("File".to_owned()).or_default().push_str(&format!("{} {waiter}{suffix}\n", interest.trigger));
            } else if !interest.trigger.contains('/') {
                files.entry(interest.trigger.clone()).or_default().push_str(&format!("{waiter}{suffix}\n"));
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use silo_fetch::unpack::record::{Trigger, parse_stanza};
    use silo_store::digest::LayerId;

    use super::*;

    #[test]
    fn a_package_with_several_instances_awaits_triggers_under_its_full_name() {
        let record = |stanza: &str, trigger: &str| Record {
            layer: LayerId::parse(&"0".repeat(64)).expect("a layer"),
            stanza: parse_stanza(stanza.as_bytes()).expect("a stanza"),
            members: Default::default(),
            interests: vec![Trigger { trigger: trigger.to_owned(), noawait: true }],
            activates: Vec::new(),
            conffiles: Vec::new(),
            swept: Vec::new(),
        };
        let library = record("Package: libselinux1\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n", "/usr/lib/a.so.0");
        let program = record("Package: man-db\nVersion: 1\nArchitecture: amd64\nMulti-Arch: foreign\n", "/usr/share/man");
        let named = record("Package: liba\nVersion: 1\nArchitecture: arm64\nMulti-Arch: same\n", "update-a");
        let files = triggers(&[&library, &program, &named]);
        let expect =
            [("File", "/usr/lib/a.so.0 libselinux1:amd64/noawait\n/usr/share/man man-db/noawait\n"), ("update-a", "liba:arm64/noawait\n")];
        assert_eq!(files, expect.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    }
}
