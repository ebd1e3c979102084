//! The canonical encoding of a derivation, field by field.
//!
//! `silo-derivation 1
//! `, then the kind, then each field as name and value. A string is its length (8 bytes, little-endian) and its bytes; a list is its count
//! (likewise) and its items. Fields are in alphabetical order, as below. A kind's `rules` number must be increased whenever a newer Silo
//! builds different bytes from the same inputs.

use std::collections::BTreeMap;
use std::fmt::Display;

use silo_store::digest::LayerId;

use super::types::{Blob, Configure, Database, Derivation, Image, Package, Repeats, Step};

/// Version of unpacking .debs (`unpack`).
const PACKAGE_RULES: u64 = 2;
/// Version of running maintainer scripts and capturing their changes (`build::configure`).
const CONFIGURE_RULES: u64 = 12;
/// Version of merging the database (`build::database`).
const DATABASE_RULES: u64 = 3;
/// Version of unpacking layers of images (`unpack::layer`).
pub(super) const BLOB_RULES: u64 = 3;
/// Version of running a command and capturing its changes (`build::command`).
const STEP_RULES: u64 = 1;
/// Version of assembling an image (`image`).
const IMAGE_RULES: u64 = 2;

/// Returns the versions of all rules.
pub fn rules() -> Vec<u64> {
    vec![PACKAGE_RULES, CONFIGURE_RULES, DATABASE_RULES, STEP_RULES, IMAGE_RULES, BLOB_RULES]
}

pub fn encode(derivation: &Derivation) -> Vec<u8> {
    let mut out = Encoder { bytes: b"silo-derivation 1\n".to_vec() };
    match derivation {
        Derivation::Package(Package { deb }) => {
            out.text("package");
            out.field("deb", deb.to_string().as_bytes());
            out.number("rules", PACKAGE_RULES);
        }
        Derivation::Configure(Configure { arch, epoch, layers, debs, answers }) => {
            out.text("configure");
            out.some("answers", answers);
            out.field("arch", arch.name().as_bytes());
            out.list("debs", debs);
            out.field("epoch", epoch.to_string().as_bytes());
            out.layers(layers);
            out.number("rules", CONFIGURE_RULES);
        }
        Derivation::Database(Database { configured, epoch, layers, triggers }) => {
            out.text("database");
            out.list("configured", configured);
            out.field("epoch", epoch.to_string().as_bytes());
            out.layers(layers);
            out.number("rules", DATABASE_RULES);
            out.list("triggers", triggers);
        }
        Derivation::Blob(Blob { blob, diff, over }) => {
            out.text("blob");
            out.field("blob", blob.to_string().as_bytes());
            out.field("diff", diff.to_string().as_bytes());
            out.list("over", over);
            out.number("rules", BLOB_RULES);
        }
        Derivation::Step(Step { arch, argv, env, epoch, layers, network, project, repeats }) => {
            out.text("step");
            out.field("arch", arch.name().as_bytes());
            out.list("argv", argv);
            out.list("env", &pairs(env));
            out.field("epoch", epoch.to_string().as_bytes());
            out.layers(layers);
            out.list("network", network);
            out.number("project", u64::from(*project));
            // Most steps repeat nothing; omitting the field keeps their ids.
            match repeats {
                Repeats::Nothing => {}
                Repeats::Random => out.field("repeats", b"random"),
                Repeats::Machine => out.field("repeats", b"machine"),
            }
            out.number("rules", STEP_RULES);
        }
        Derivation::Image(Image { arch, epoch, debs, command, arguments, env, tiers, steps, outputs, project, answers }) => {
            out.text("image");
            out.some("answers", answers);
            out.field("arch", arch.name().as_bytes());
            // Most images have no arguments; omitting the field keeps their ids.
            if let Some(arguments) = arguments {
                out.list("arguments", arguments);
            }
            out.list("command", command);
            out.list("debs", debs);
            out.list("env", &pairs(env));
            out.field("epoch", epoch.to_string().as_bytes());
            let project = project.iter().map(|key| format!("project={key}"));
            out.list("outputs", &pairs(outputs).into_iter().chain(project).collect::<Vec<_>>());
            // An image is looked up before its inputs are built, so its id must change with any of their rules.
            out.list("rules", &[PACKAGE_RULES, CONFIGURE_RULES, DATABASE_RULES, STEP_RULES, IMAGE_RULES]);
            out.list("steps", steps);
            out.list("tiers", tiers);
        }
    }
    out.bytes
}

/// Returns pairs as `NAME=value`, sorted by name.
fn pairs<K: Display, V: Display>(of: &BTreeMap<K, V>) -> Vec<String> {
    of.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn count(&mut self, count: usize) {
        self.bytes.extend((count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.value(text.as_bytes());
    }

    fn value(&mut self, value: &[u8]) {
        self.count(value.len());
        self.bytes.extend(value);
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.text(name);
        self.value(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.field(name, value.to_string().as_bytes());
    }

    /// Writes a list only if it is not empty: a field that was added later must not change existing ids.
    fn some(&mut self, name: &str, items: &[String]) {
        if !items.is_empty() {
            self.list(name, items);
        }
    }

    fn list<T: ToString>(&mut self, name: &str, items: &[T]) {
        self.text(name);
        self.count(items.len());
        for item in items {
            self.value(item.to_string().as_bytes());
        }
    }

    /// Writes a list of layers. The root of a step has up to thousands.
    fn layers(&mut self, items: &[LayerId]) {
        self.text("layers");
        self.count(items.len());
        for item in items {
            self.value(&item.digest().hex());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use silo_base::system::Arch;

    #[test]
    fn lists_do_not_run_into_one_another() {
        let image = |command: &[&str], answers: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
            let (tiers, steps, outputs, env) = (vec![], vec![], BTreeMap::new(), BTreeMap::new());
            let (command, answers) = (owned(command), owned(answers));
            let (epoch, debs, arguments, project) = (0, vec![], None, None);
            Derivation::Image(Image { arch: Arch::Amd64, epoch, debs, command, arguments, env, tiers, steps, outputs, project, answers })
                .id()
        };
        assert_ne!(image(&["a", "b"], &[]), image(&["ab"], &[]));
        assert_ne!(image(&["a\nb"], &[]), image(&["a", "b"], &[]));
        assert_ne!(image(&["a"], &["b"]), image(&["a", "b"], &[]));
        assert_ne!(image(&[], &["a"]), image(&["a"], &[]));
    }
}
