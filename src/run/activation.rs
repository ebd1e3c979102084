//! Activates project directories such as `.venv` for a run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use silo_base::sanitize;
use silo_model::recipe::Run;

use super::activate::{self, Active};

/// Limit of followed symlinks, as in the kernel.
const MAX_LINKS: usize = 40;

/// Limit of compared version names; a real environment has one or two.
const MAX_NAMES: usize = 8;

/// The image's root, and a function that maps a visible project path to its host path.
type Seen<'a> = (&'a Path, &'a dyn Fn(&Path) -> Option<PathBuf>);

/// Sets the variables of the tool's active directories. Returns a message for each directory that cannot be used.
pub fn activate(run: &Run, project: &Path, cwd: &Path, seen: Seen<'_>, env: &mut BTreeMap<OsString, OsString>) -> Vec<String> {
    let is_there = |path: &Path| seen.1(path).is_some_and(|real| real.symlink_metadata().is_ok());
    let found = activate::find(&run.activate, project, cwd, is_there);
    let mut lost = Vec::new();
    let usable: Vec<Active<'_>> = found
        .into_iter()
        .filter(|active| {
            let why = why_unusable(active, seen);
            let dir = sanitize::path(&active.dir);
            lost.extend(why.iter().map(|why| format!("{dir} is not activated: {why}\n  try: make {dir} again with silo")));
            why.is_none()
        })
        .collect();
    activate::apply(&usable, env);
    lost
}

/// Returns why a directory cannot be used with this image.
fn why_unusable(active: &Active<'_>, seen: Seen<'_>) -> Option<String> {
    let mark = active.mark();
    if !is_inside(&mark, seen) {
        return Some(format!("{} is a broken symlink in the sandbox", sanitize::path(&mark)));
    }
    let (above, start) = made_by(active)?;
    let own = names(&seen.1(&active.dir.join(above))?, start);
    let of_image: Vec<String> = ["usr/local", "usr"].iter().flat_map(|top| names(&seen.0.join(top).join(above), start)).collect();
    let fits = own.is_empty() || of_image.is_empty() || own.iter().any(|name| of_image.contains(name));
    (!fits).then(|| format!("it was made by {}, and this image has {}", own.join(" and "), of_image.join(" and ")))
}

/// Splits the rule's pattern into the directory and the prefix of the names in it.
fn made_by<'a>(active: &Active<'a>) -> Option<(&'a str, &'a str)> {
    let start = active.rule.made_by.as_deref()?.strip_suffix('*')?;
    Some(start.rsplit_once('/').unwrap_or(("", start)))
}

/// Lists up to `MAX_NAMES` names in a directory that begin with `start`.
fn names(dir: &Path, start: &str) -> Vec<String> {
    let listing = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        listing.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(start)).collect();
    names.sort();
    names.truncate(MAX_NAMES);
    names
}

/// True if a project path resolves, over symlinks, to an existing file in the project or the image. A virtual environment made outside
/// links to the host's own python.
fn is_inside(path: &Path, (root, on_host): Seen<'_>) -> bool {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let real = on_host(&at).unwrap_or_else(|| root.join(at.strip_prefix("/").unwrap_or(&at)));
        match fs::read_link(&real) {
            Ok(to) => at = plain(&at.parent().unwrap_or(&at).join(to)),
            Err(_) => return real.symlink_metadata().is_ok(),
        }
    }
    false
}

/// Removes `.` and `..` from a path.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => plain.push(part),
        }
    }
    plain
}
