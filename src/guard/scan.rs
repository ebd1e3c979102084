//! Finds the files of a project that host programs act on: by the list, by git's configuration, and by symlink targets.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::fingerprint::{Content, KnownPrints, Printer};
use super::guarded_paths::{self, GuardAction};
use super::guards::{Guards, Obeyed};
use super::symlink_targets;
use crate::git::dir_fd::{Dir, Kind};

/// Rounds of following symlinks, each from the paths found in the previous one.
const MAX_ROUNDS: usize = 8;

/// Additional paths to scan, and limits.
#[derive(Clone, Debug)]
pub struct ScanOptions<'a> {
    /// Recipe directory of the project, if silo reads one.
    pub recipes: Option<&'a str>,
    /// Paths in the project that git's configuration or index names, each with its source.
    pub named: &'a [(PathBuf, String)],
    /// Paths in subdirectories to compare, each with the program that acts on it.
    pub nested: &'a [(PathBuf, String)],
    /// Directories that the sandbox replaces by its own.
    pub excluded: &'a [PathBuf],
    /// Maximum number of paths.
    pub most: usize,
}

/// Scans the project at a canonical path.
pub fn scan_project(project: &Path, asked: &ScanOptions<'_>) -> Result<Guards, Error> {
    scan_since(project, asked, None)
}

/// Scans the project without reading files that are unchanged since `before` according to the kernel.
pub(super) fn scan_since(project: &Path, asked: &ScanOptions<'_>, before: Option<&Guards>) -> Result<Guards, Error> {
    let failed = |source| Error::Project { path: project.to_owned(), source };
    let dir = Dir::open(project).map_err(failed)?;
    let known = before.map_or(KnownPrints::Nothing, |before| KnownPrints::Since(&before.prints));
    let printer = Printer { project: &dir, known, most: asked.most };
    let mut guards = Guards::default();
    let top = lowered(dir.list(usize::MAX).map_err(failed)?);
    for line in guarded_paths::lines() {
        for path in matching(&dir, &top, line.pattern) {
            let whose = Obeyed { act: line.act, of: line.of.to_owned() };
            // If two patterns match the same path, the stricter action wins.
            guards.obeyed.entry(path).and_modify(|known| known.act = known.act.min(line.act)).or_insert(whose);
        }
    }
    guard_whole_directories(&dir, &mut guards);
    let guard = |of: &str| Obeyed { act: GuardAction::Guard, of: of.to_owned() };
    if let Some(recipes) = asked.recipes {
        guards.obeyed.insert(recipes.into(), guard("Silo"));
    }
    // A `.git` file names the repository, and a symlink can point anywhere. A `.git` directory has an overlay instead.
    if dir.stat(Path::new(".git")).ok().flatten().is_some_and(|stat| Kind::of(&stat) != Kind::Dir) {
        guards.obeyed.insert(".git".into(), guard("git"));
    }
    guards.obeyed.extend(asked.named.iter().map(|(path, of)| (path.clone(), guard(of))));
    for (path, of) in asked.nested {
        guards.obeyed.entry(path.clone()).or_insert_with(|| Obeyed { act: GuardAction::Report, of: of.clone() });
    }
    guards.obeyed.retain(|path, _| !asked.excluded.iter().any(|dir| path.starts_with(dir)));
    print_all(&printer, project, &mut guards)?;
    Ok(guards)
}

/// Fingerprints the paths, and repeats for the targets of symlinks in them.
fn print_all(printer: &Printer<'_>, project: &Path, guards: &mut Guards) -> Result<(), Error> {
    let mut todo: BTreeMap<PathBuf, Obeyed> = guards.obeyed.clone();
    for _ in 0..MAX_ROUNDS {
        let mut next: BTreeMap<PathBuf, Obeyed> = BTreeMap::new();
        for (path, obeyed) in &todo {
            let mut prints = BTreeMap::new();
            printer.add(path, &mut prints)?;
            for (path, _) in prints.iter().filter(|(_, print)| matches!(print.content, Content::Link(_))) {
                let led = symlink_targets::through(printer.project, project, path);
                let fresh = led.into_iter().filter(|path| !guards.obeyed.contains_key(path));
                next.extend(fresh.map(|path| (path, obeyed.clone())));
            }
            guards.prints.append(&mut prints);
            if guards.prints.len() > printer.most {
                return Err(Error::TooMany { most: printer.most });
            }
        }
        if next.is_empty() {
            break;
        }
        guards.obeyed.extend(next.clone());
        todo = next;
    }
    // A missing path is not guarded; if it appears, a later scan finds it.
    guards.obeyed.retain(|path, _| guards.prints.contains_key(path));
    Ok(())
}

/// Guards a directory as a whole if it contains only guarded files, because a directory mount survives replaced files.
fn guard_whole_directories(dir: &Dir, guards: &mut Guards) {
    let parents: BTreeSet<PathBuf> = guards.read_only().iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    for parent in parents.into_iter().filter(|parent| !parent.as_os_str().is_empty()) {
        let Ok(names) = dir.dir(&parent).and_then(|dir| dir.list(guards.obeyed.len())) else { continue };
        let guarded = |name: &OsString| guards.obeyed.get(&parent.join(name)).filter(|obeyed| obeyed.act == GuardAction::Guard);
        let all: Option<Vec<&Obeyed>> = names.iter().map(guarded).collect();
        if let Some(first) = all.and_then(|all| all.first().map(|first| (*first).clone())) {
            guards.obeyed.insert(parent, first);
        }
    }
}

/// Finds the paths that match a pattern, ignoring case, as some file systems do.
pub(super) fn matching(dir: &Dir, top: &[(OsString, Vec<u8>)], pattern: &str) -> Vec<PathBuf> {
    let mut parts = pattern.split('/').map(|part| part.to_ascii_lowercase());
    let fitting = |part: String, names: &[(OsString, Vec<u8>)]| -> Vec<PathBuf> {
        names.iter().filter(|(_, lower)| guarded_paths::fits(part.as_bytes(), lower)).map(|(name, _)| PathBuf::from(name)).collect()
    };
    let mut found = fitting(parts.next().unwrap_or_default(), top);
    for part in parts {
        let below = |path: &PathBuf| {
            let names = lowered(dir.dir(path).and_then(|dir| dir.list(usize::MAX)).unwrap_or_default());
            fitting(part.clone(), &names).into_iter().map(|name| path.join(name)).collect::<Vec<_>>()
        };
        found = found.iter().flat_map(below).collect();
    }
    found
}

/// Pairs each name with its lower-case form.
pub(super) fn lowered(names: Vec<OsString>) -> Vec<(OsString, Vec<u8>)> {
    names.into_iter().map(|name| (name.clone(), name.as_bytes().to_ascii_lowercase())).collect()
}
