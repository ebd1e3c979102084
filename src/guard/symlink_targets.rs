//! Resolves symlinks that host programs follow: the target of a symlink in a guarded directory needs a guard too.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::git::dir_fd::{Dir, Kind};

/// The kernel's limit.
const MAX_LINKS: usize = 40;

/// Returns the project paths on the way of a symlink: each further symlink and the final target, whether it exists or not. A symlink out of
/// the project, where no sandbox can write, adds nothing.
pub fn through(dir: &Dir, project: &Path, link: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<PathBuf> = vec![link.to_owned()];
    let mut left = MAX_LINKS;
    // The path so far, without symlinks.
    while let Some(path) = todo.pop() {
        let mut at = PathBuf::new();
        let mut parts = path.components().peekable();
        let mut led_away = false;
        while let Some(part) = parts.next() {
            at.push(part);
            let is_link = dir.stat(&at).ok().flatten().is_some_and(|stat| Kind::of(&stat) == Kind::Link);
            if !is_link {
                continue;
            }
            if at != link {
                found.insert(at.clone());
            }
            led_away = true;
            left = left.saturating_sub(1);
            if left == 0 {
                return found;
            }
            if let Ok(target) = dir.link(&at)
                && let Some(inner) = within(project, at.parent().unwrap_or_else(|| Path::new("")), &target)
            {
                todo.push(inner.join(parts.collect::<PathBuf>()));
            }
            break;
        }
        if !led_away && path != link {
            found.insert(path);
        }
    }
    found
}

/// Resolves a path named by a file in `from`; `None` if it is outside of the project.
pub fn within(project: &Path, from: &Path, target: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::from("/");
    for part in project.join(from).join(target).components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    let inner = whole.strip_prefix(project).ok()?;
    (!inner.as_os_str().is_empty()).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_what_is_guarded_besides() {
        let place = tempfile::tempdir().expect("a directory");
        let root = std::fs::canonicalize(place.path()).expect("there");
        std::fs::create_dir_all(root.join("conf/code")).expect("made");
        std::fs::create_dir_all(root.join("hooks")).expect("made");
        symlink(root.join("conf/code"), root.join(".vscode")).expect("made");
        symlink("../tools/hook", root.join("hooks/a")).expect("made");
        symlink("../hop/x", root.join("hooks/b")).expect("made");
        symlink("conf", root.join("hop")).expect("made");
        symlink("/etc/passwd", root.join("hooks/c")).expect("made");
        symlink("../../outside", root.join("hooks/d")).expect("made");
        symlink("e", root.join("hooks/e")).expect("made");
        let dir = Dir::open(&root).expect("there");
        for (link, expect) in [
            (".vscode", &["conf/code"][..]),
            ("hooks/a", &["tools/hook"]),
            ("hooks/b", &["conf/x", "hop"]),
            ("hooks/c", &[]),
            ("hooks/d", &[]),
            ("hooks/e", &[]),
        ] {
            let found: Vec<_> = through(&dir, &root, Path::new(link)).into_iter().collect();
            assert_eq!(found, expect.iter().map(PathBuf::from).collect::<Vec<_>>(), "{link}");
        }
    }
}
