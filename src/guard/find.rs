//! Finds what of a project is obeyed: by the list, by git's configuration, and by where links lead.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::list::{self, Act};
use super::print::{Content, Known, Printer};
use super::{Error, Guards, Obeyed, links};
use crate::git::dir::{Dir, Kind};

/// Rounds of following links, each from what the one before found.
const MAX_ROUNDS: usize = 8;

/// What else than the list is looked for, and how far.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The project's directory of recipes, where silo reads one.
    pub recipes: Option<&'a str>,
    /// Paths within the project that git's configuration or its index names, each with what names it.
    pub named: &'a [(PathBuf, String)],
    /// Paths in directories of the project that are compared, each with the program that obeys it.
    pub nested: &'a [(PathBuf, String)],
    /// Directories of the project that a sandbox has of its own.
    pub excluded: &'a [PathBuf],
    /// Most paths.
    pub most: usize,
}

/// Looks at the project at a canonical path.
pub fn look(project: &Path, asked: &Asked<'_>) -> Result<Guards, Error> {
    look_since(project, asked, None)
}

/// The same; files that the kernel has not noted a change of since `before` are not read again.
pub(super) fn look_since(project: &Path, asked: &Asked<'_>, before: Option<&Guards>) -> Result<Guards, Error> {
    let failed = |source| Error::Project { path: project.to_owned(), source };
    let dir = Dir::open(project).map_err(failed)?;
    let known = before.map_or(Known::Nothing, |before| Known::Since(&before.prints));
    let printer = Printer { project: &dir, known, most: asked.most };
    let mut guards = Guards::default();
    let top = lowered(dir.list(usize::MAX).map_err(failed)?);
    for line in list::lines() {
        for path in matching(&dir, &top, line.pattern) {
            let whose = Obeyed { act: line.act, of: line.of.to_owned() };
            // Where two patterns have the same path, the stricter one counts.
            guards.obeyed.entry(path).and_modify(|known| known.act = known.act.min(line.act)).or_insert(whose);
        }
    }
    whole_directories(&dir, &mut guards);
    let guard = |of: &str| Obeyed { act: Act::Guard, of: of.to_owned() };
    if let Some(recipes) = asked.recipes {
        guards.obeyed.insert(recipes.into(), guard("Silo"));
    }
    // A file leads to the repository; a link may lead anywhere. A directory has a layer of its own.
    if dir.stat(Path::new(".git")).ok().flatten().is_some_and(|stat| Kind::of(&stat) != Kind::Dir) {
        guards.obeyed.insert(".git".into(), guard("git"));
    }
    guards.obeyed.extend(asked.named.iter().map(|(path, of)| (path.clone(), guard(of))));
    for (path, of) in asked.nested {
        guards.obeyed.entry(path.clone()).or_insert_with(|| Obeyed { act: Act::Report, of: of.clone() });
    }
    guards.obeyed.retain(|path, _| !asked.excluded.iter().any(|dir| path.starts_with(dir)));
    print_all(&printer, project, &mut guards)?;
    Ok(guards)
}

/// Prints what is obeyed, follows the links in it, and goes on with where they lead.
fn print_all(printer: &Printer<'_>, project: &Path, guards: &mut Guards) -> Result<(), Error> {
    let mut todo: BTreeMap<PathBuf, Obeyed> = guards.obeyed.clone();
    for _ in 0..MAX_ROUNDS {
        let mut next: BTreeMap<PathBuf, Obeyed> = BTreeMap::new();
        for (path, obeyed) in &todo {
            let mut prints = BTreeMap::new();
            printer.add(path, &mut prints)?;
            for (path, _) in prints.iter().filter(|(_, print)| matches!(print.content, Content::Link(_))) {
                let led = links::through(printer.project, project, path);
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
    // What is not there is not guarded; if it comes it is found then.
    guards.obeyed.retain(|path, _| guards.prints.contains_key(path));
    Ok(())
}

/// Makes directories of files: one that holds nothing but guarded files is guarded as a whole, since that mount stays.
fn whole_directories(dir: &Dir, guards: &mut Guards) {
    let parents: BTreeSet<PathBuf> = guards.read_only().iter().filter_map(|path| path.parent()).map(Path::to_owned).collect();
    for parent in parents.into_iter().filter(|parent| !parent.as_os_str().is_empty()) {
        let Ok(names) = dir.dir(&parent).and_then(|dir| dir.list(guards.obeyed.len())) else { continue };
        let guarded = |name: &OsString| guards.obeyed.get(&parent.join(name)).filter(|obeyed| obeyed.act == Act::Guard);
        let all: Option<Vec<&Obeyed>> = names.iter().map(guarded).collect();
        if let Some(first) = all.and_then(|all| all.first().map(|first| (*first).clone())) {
            guards.obeyed.insert(parent, first);
        }
    }
}

/// Finds the paths that fit a pattern, whatever the case of their letters: not every file system tells it apart.
pub(super) fn matching(dir: &Dir, top: &[(OsString, Vec<u8>)], pattern: &str) -> Vec<PathBuf> {
    let mut parts = pattern.split('/').map(|part| part.to_ascii_lowercase());
    let fitting = |part: String, names: &[(OsString, Vec<u8>)]| -> Vec<PathBuf> {
        names.iter().filter(|(_, lower)| list::fits(part.as_bytes(), lower)).map(|(name, _)| PathBuf::from(name)).collect()
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

/// Names, each with itself in small letters.
pub(super) fn lowered(names: Vec<OsString>) -> Vec<(OsString, Vec<u8>)> {
    names.into_iter().map(|name| (name.clone(), name.as_bytes().to_ascii_lowercase())).collect()
}
