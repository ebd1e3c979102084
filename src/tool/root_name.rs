//! Names of GC roots of records: the record's name, and the architecture if the record belongs to another platform than this machine's.

use silo_store::gc_roots::{RootError, RootName};

use silo_base::home::Home;
use silo_base::system::Arch;

/// Separates the name of a record from the architecture. No name of a tool and no id of a project contains it.
const OF_PLATFORM: char = '@';

/// Returns the name of the GC root of a record in a home.
pub fn of(home: &Home, kind: &str, record: &str) -> Result<RootName, RootError> {
    let arch = home.arch();
    if arch == Arch::host() { RootName::new(kind, record) } else { RootName::new(kind, &format!("{record}{OF_PLATFORM}{arch}")) }
}

/// Splits the name of a GC root into the name of its record and the architecture; `None` for an architecture of a newer Silo.
pub fn split(name: &RootName) -> Option<(&str, Arch)> {
    match name.name().rsplit_once(OF_PLATFORM) {
        Some((record, arch)) => Some((record, arch.parse().ok()?)),
        None => Some((name.name(), Arch::host())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_every_platform_are_told_apart_by_their_roots() {
        let home = Home::new("/h".into());
        let mut seen = std::collections::BTreeSet::new();
        for arch in Arch::ALL {
            for record in ["python", "vm.0123456789abcdef"] {
                let name = of(&home.of_platform(arch), "tool", record).expect("a plain name");
                assert_eq!(split(&name), Some((record, arch)));
                assert!(seen.insert(name));
            }
        }
        let newer = RootName::new("tool", "python@riscv64").expect("a plain name");
        assert_eq!(split(&newer), None);
    }
}
