//! The links in `~/.silo/bin`: one a name, all to one link that leads to the program.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;
use silo_store::private;

use crate::home::Home;

use super::search::identity;
use super::table::{Table, is_shim_name};

/// Where each shim leads, relative to the directory of the shims.
const TARGET: &str = "../program";

/// What is not as it should be with the links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Names that have no link, or one that leads elsewhere.
    pub missing: BTreeSet<String>,
    /// Links of ours that no tool answers to any more.
    pub stale: BTreeSet<String>,
    /// Files that stand where a link should be, and are not ours.
    pub foreign: BTreeSet<String>,
    /// Whether the link to the program leads to another one, or nowhere.
    pub program: bool,
}

impl Faults {
    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self == &Faults::default()
    }
}

/// Compares the links with a table; shims should lead to `program`.
pub fn faults(home: &Home, table: &Table, program: &Path) -> Result<Faults, PathError> {
    let names = table.names();
    let there = listed(home)?;
    let mut faults = Faults::default();
    let leads_to = identity(&home.program());
    faults.program = leads_to.is_none() || leads_to != identity(program);
    if there.is_empty() && names.is_empty() {
        faults.program = false;
    }
    for (name, ours) in &there {
        match (names.contains(name.as_str()), ours) {
            (true, true) | (false, false) => {}
            (true, false) => drop(faults.foreign.insert(name.clone())),
            (false, true) => drop(faults.stale.insert(name.clone())),
        }
    }
    let missing = names.into_iter().filter(|name| there.iter().all(|(there, _)| there != name));
    faults.missing = missing.map(str::to_owned).collect();
    Ok(faults)
}

/// The link to the program until it takes its place. Whoever makes it holds the directory of the shims.
fn staged(home: &Home) -> PathBuf {
    home.program().with_extension("new")
}

/// Removes the link that a killed command was making, and returns whether there was one. The caller holds the directory of the
/// shims.
pub fn unstage(home: &Home) -> Result<bool, PathError> {
    let path = staged(home);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PathError { doing: "remove", path, source }),
    }
}

/// Makes the links what the table says. A file of the user's own is left, and returned. The caller holds the directory of the
/// shims.
pub fn make(home: &Home, table: &Table, program: &Path) -> Result<BTreeSet<String>, PathError> {
    let faults = faults(home, table, program)?;
    if faults.is_empty() {
        return Ok(BTreeSet::new());
    }
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| PathError { doing, path, source }
    };
    let bin = home.bin();
    private::make_dir(&bin)?;
    if faults.program {
        // By one rename, so that a shim that is called meanwhile finds the one or the other.
        let staged = staged(home);
        unstage(home)?;
        symlink(program, &staged).and_then(|()| fs::rename(&staged, home.program())).map_err(failed("write", &home.program()))?;
    }
    for name in &faults.stale {
        let link = home.shim(name);
        fs::remove_file(&link).map_err(failed("remove", &link))?;
    }
    for name in &faults.missing {
        let link = home.shim(name);
        match symlink(TARGET, &link) {
            // Another silo was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed("write", &link))?,
        }
    }
    Ok(faults.foreign)
}

/// Lists what is in the directory of the shims, and whether it is a link of ours.
fn listed(home: &Home) -> Result<Vec<(String, bool)>, PathError> {
    let bin = home.bin();
    let listing = match fs::read_dir(&bin) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PathError { doing: "list", path: bin, source }),
    };
    let mut there = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|source| PathError { doing: "list", path: bin.clone(), source })?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_shim_name(&name) {
            there.push((name, fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(TARGET))));
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::table::parse;

    #[test]
    fn links_become_what_the_table_says() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join(".silo"));
        let table = |text: &str| parse(&format!("silo shims 1\n{text}")).expect("a table");
        let names = |home: &Home| {
            let mut names: Vec<String> = listed(home).expect("listed").into_iter().map(|(name, _)| name).collect();
            names.sort();
            names
        };
        let [one, two] = ["one", "two"].map(|name| place.path().join(name));
        for program in [&one, &two] {
            fs::write(program, "").expect("written");
        }
        assert!(faults(&home, &Table::default(), &one).expect("looked").is_empty(), "nothing is needed for nothing");
        let first = table("tool python pinned\nshim pip\nshim python\n");
        assert!(make(&home, &first, &one).expect("made").is_empty());
        assert_eq!(names(&home), ["pip", "python"]);
        assert_eq!(fs::read_link(home.program()).expect("a link"), one);
        // The program moved, a name went, one came, and the user has a file of their own.
        fs::write(home.shim("mine"), "").expect("written");
        let second = table("tool python free\nhidden pip\nshim python\nalias mine python\nalias x python\n");
        let found = faults(&home, &second, &two).expect("looked");
        assert!(found.program && found.missing.contains("x") && found.stale.contains("pip"), "{found:?}");
        assert_eq!(make(&home, &second, &two).expect("made"), ["mine".to_owned()].into());
        assert_eq!(names(&home), ["mine", "python", "x"]);
        assert_eq!(fs::read_link(home.program()).expect("a link"), two);
        assert!(fs::read_link(home.shim("mine")).is_err(), "the user's own file stays");
    }
}
