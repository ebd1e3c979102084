//! The entries of a review as a person chooses them: one for each file, and one for each directory of generated files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use silo_base::{sanitize, units};

use crate::changes::What;
use crate::choose::makes_dir;
use crate::commits::Commits;
use crate::difference::Comparison;
use crate::lookalike;
use crate::view::{Repository, View};
use crate::weigh::{Weighed, Weight, groups};

/// Maximum number of files that the details of a directory list.
const MAX_LISTED: usize = 2_000;

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind of the entry.
    pub kind: EntryKind,
    /// Word for the change.
    pub word: &'static str,
    /// Escaped path, with the target of a symlink.
    pub name: String,
    /// Escaped reason, or the number and size of generated files.
    pub note: String,
    /// Reason why it cannot be applied, escaped.
    pub refusal: Option<String>,
    /// True if nothing on this machine executes it by itself.
    pub is_safe: bool,
    /// Indexes of the changes. The repository has the index after the last change.
    pub members: Vec<usize>,
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// This machine executes or obeys the file.
    Obeyed,
    /// A file that people read and write.
    Source,
    /// A directory of generated files.
    Generated,
    /// Commits and other changes of the git repository.
    Repository,
}

/// Lists the entries: obeyed files, sources, generated directories, the repository.
pub fn entries(all: &[Weighed], repository: Repository, commits: &Commits) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (weight, kind) in [(Weight::Obeyed, EntryKind::Obeyed), (Weight::Source, EntryKind::Source)] {
        let of_weight = (0..all.len()).filter(|index| all[*index].weight == weight);
        entries.extend(of_weight.filter(|index| !is_implied(all, *index)).map(|index| of_change(all, index, kind)));
    }
    let mut members: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (index, one) in all.iter().enumerate().filter(|(_, one)| one.weight == Weight::Generated) {
        members.entry(one.top.clone().unwrap_or_default()).or_default().push(index);
    }
    for (path, group) in groups(all) {
        let programs = if group.is_safe { "" } else { ", not only data" };
        let members = members.remove(&path).unwrap_or_default();
        entries.push(Entry {
            kind: EntryKind::Generated,
            word: "files",
            name: lookalike::name(&path),
            note: format!("{} files, {}{programs}", group.files, units::size(group.bytes)),
            refusal: members.iter().find_map(|index| refusal(&all[*index])),
            is_safe: group.is_safe,
            members,
        });
    }
    if repository.has_changes() {
        entries.push(Entry {
            kind: EntryKind::Repository,
            word: "git",
            name: ".git".to_owned(),
            note: match commits.obeyed.len() {
                0 => "commits and other changes of the repository".to_owned(),
                1 => "commits: this machine executes or obeys 1 file of them".to_owned(),
                files => format!("commits: this machine executes or obeys {files} files of them"),
            },
            refusal: None,
            is_safe: commits.is_safe(),
            members: vec![all.len()],
        });
    }
    entries
}

fn of_change(all: &[Weighed], index: usize, kind: EntryKind) -> Entry {
    let one = &all[index];
    let mut name = lookalike::name(&one.change.path);
    if let Some(target) = one.change.after.as_ref().and_then(|after| after.target.as_deref()) {
        name += &format!(" -> {}", lookalike::name(target));
    }
    let mut members = vec![index];
    if makes_dir(&one.change) {
        members.extend(below(all, index));
    }
    Entry {
        kind,
        word: one.change.what.word(),
        name,
        note: one.reason.as_deref().map(sanitize::line).unwrap_or_default(),
        refusal: refusal(one),
        is_safe: one.is_safe,
        members,
    }
}

fn refusal(one: &Weighed) -> Option<String> {
    one.conflict.as_ref().or(one.change.problem.as_ref()).map(|reason| sanitize::line(reason))
}

/// Returns the changes below a changed directory. Changes have the order of paths, so they follow it directly.
fn below(all: &[Weighed], index: usize) -> impl Iterator<Item = usize> {
    (index + 1..all.len()).take_while(move |inner| all[*inner].change.path.starts_with(&all[index].change.path))
}

/// True for a new directory with other changes in it: it comes and goes with them.
fn is_implied(all: &[Weighed], index: usize) -> bool {
    let one = &all[index];
    one.change.what == What::Added && makes_dir(&one.change) && one.change.problem.is_none() && below(all, index).next().is_some()
}

/// Adds the new directories whose changes are all chosen.
pub fn with_emptied_dirs(all: &[Weighed], chosen: &BTreeSet<usize>) -> BTreeSet<usize> {
    let is_emptied =
        |index: &usize| is_implied(all, *index) && below(all, *index).all(|inner| chosen.contains(&inner) || is_implied(all, inner));
    chosen.iter().copied().chain((0..all.len()).filter(is_emptied)).collect()
}

/// Describes an entry: its whole name, its reason, and its difference, one escaped line each.
pub fn details(view: &View, (all, commits): (&[Weighed], &Commits), entry: &Entry) -> Vec<String> {
    let mut lines = vec![format!("{} {}", entry.word, entry.name)];
    if !entry.note.is_empty() {
        lines.push(entry.note.clone());
    }
    if let Some(refusal) = &entry.refusal {
        lines.push(format!("not applicable: {refusal}"));
    }
    lines.push(String::new());
    match entry.kind {
        EntryKind::Repository => {
            lines.push("Its commits come as branches, and its objects are checked. Its configuration does not come.".to_owned());
            lines.extend(commits.problems.iter().take(MAX_LISTED).map(|problem| lookalike::line(problem)));
            for one in commits.obeyed.iter().take(MAX_LISTED) {
                let (name, reason) = (lookalike::name(&one.path), sanitize::line(&one.reason));
                lines.push(format!("{:8} {name}  ({reason}; commit {})", one.what.word(), one.commit));
            }
            if commits.obeyed.len() > MAX_LISTED {
                lines.push(format!("… and {} more", commits.obeyed.len() - MAX_LISTED));
            }
        }
        EntryKind::Generated => {
            for one in entry.members.iter().take(MAX_LISTED).map(|index| &all[*index]) {
                let bytes = one.change.after.as_ref().map_or_else(String::new, |after| format!("  {}", units::size(after.size)));
                lines.push(format!("{:8} {}{bytes}", one.change.what.word(), lookalike::name(&one.change.path)));
            }
            if entry.members.len() > MAX_LISTED {
                lines.push(format!("… and {} more", entry.members.len() - MAX_LISTED));
            }
        }
        EntryKind::Obeyed | EntryKind::Source => {
            lines.extend(entry.members.first().map(|index| Comparison::default().lines(view, &all[*index].change)).unwrap_or_default())
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use silo_guard::git::dir_fd::Kind;

    use super::*;
    use crate::changes::{Change, Entry as State};

    fn one(path: &str, kind: Kind, weight: Weight) -> Weighed {
        let after = State { kind, mode: 0o644, size: 3, links: 1, inode: 1, changed: 1, target: None };
        let change = Change { path: path.into(), what: What::Added, before: None, after: Some(after), problem: None };
        let top = (weight == Weight::Generated).then(|| PathBuf::from("made"));
        Weighed { change, weight, reason: None, conflict: None, top, is_safe: true }
    }

    fn all() -> Vec<Weighed> {
        vec![
            one("made", Kind::Dir, Weight::Generated),
            one("made/.envrc", Kind::File, Weight::Obeyed),
            one("made/x", Kind::File, Weight::Generated),
            one("new", Kind::Dir, Weight::Source),
            one("new/deep", Kind::Dir, Weight::Source),
            one("new/deep/a", Kind::File, Weight::Source),
            one("new/empty", Kind::Dir, Weight::Source),
            one("news", Kind::File, Weight::Source),
        ]
    }

    #[test]
    fn entries_are_files_empty_directories_and_generated_directories() {
        let found = entries(&all(), Repository::Changed, &Commits::default());
        let found: Vec<(&str, &[usize])> = found.iter().map(|entry| (entry.name.as_str(), entry.members.as_slice())).collect();
        // A generated directory is chosen without the obeyed files in it.
        let expect: [(&str, &[usize]); 6] =
            [("made/.envrc", &[1]), ("new/deep/a", &[5]), ("new/empty", &[6]), ("news", &[7]), ("made", &[0, 2]), (".git", &[8])];
        assert_eq!(found, expect);
    }

    #[test]
    fn a_new_directory_goes_with_its_last_change() {
        for (chosen, expect) in [(&[5][..], &[4, 5][..]), (&[5, 6], &[3, 4, 5, 6]), (&[7], &[7]), (&[], &[])] {
            let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
            let found: Vec<usize> = with_emptied_dirs(&all(), &chosen).into_iter().collect();
            assert_eq!(found, expect);
        }
    }
}
