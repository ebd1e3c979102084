//! Weighs the files of new commits as the files of the working tree: by the path of each, and by what the commit makes of it.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use silo_guard::git::dir_fd::Kind;
use silo_guard::git::history::{History, NewFile, TreeEntry};
use silo_guard::git::leftover_layers;

use crate::changes::{Change, Entry, What};
use crate::ignored::Ignored;
use crate::view::View;
use crate::weigh::{Weigher, is_data, is_of_programs, made};

/// Maximum size of the target of a symlink, as the kernel has it.
const MAX_LINK_BYTES: u64 = 4096;
/// Length of the shown part of an id, as git shows it in a large repository.
const SHOWN_ID: usize = 12;

/// Shown in place of a commit for an entry of the index.
const INDEX: &str = "the index";

/// Type bits of git's entries.
const TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// The new commits of a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// Ids of the objects to which refs lead now, as far as that is new: other commits have other ones.
    pub tips: Vec<String>,
    /// Number of new commits.
    pub number: usize,
    /// Files in them that this machine executes or obeys, by path.
    pub obeyed: Vec<CommittedFile>,
    /// Number of other files in them.
    pub others: usize,
    /// Reasons why the repository waits for a decision in addition to its files.
    pub problems: Vec<String>,
}

/// A file of a commit that this machine executes or obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedFile {
    /// Path in the project.
    pub path: PathBuf,
    /// Kind of the change.
    pub what: What,
    /// Reason of the weight.
    pub reason: String,
    /// First part of the commit's id.
    pub commit: String,
}

impl Commits {
    /// True if nothing on this machine executes a file of the commits by itself.
    pub fn is_safe(&self) -> bool {
        self.obeyed.is_empty() && self.problems.is_empty()
    }
}

/// Weighs the new commits of a review. `guarded` is true for a path that a program acts on according to the host's own files and links.
pub fn weigh(view: &View, guarded: &dyn Fn(&Path) -> bool) -> Commits {
    let mut commits = Commits::default();
    if !view.repository.has_changes() {
        return commits;
    }
    let layers = leftover_layers::of_project(&view.session.git(), &view.session.project());
    if layers.is_empty() {
        commits.problems.push("a tool uses the repository, or silo cannot read its layer, so its commits are not compared".to_owned());
    }
    for layer in &layers {
        if layer.is_replaced() {
            commits.problems.push("the repository was replaced here since the review began".to_owned());
        }
        for mut history in layer.histories() {
            one(view, guarded, &mut history, &mut commits);
        }
    }
    commits
}

fn one(view: &View, guarded: &dyn Fn(&Path) -> bool, history: &mut History, commits: &mut Commits) {
    commits.tips.extend(history.tips.iter().map(ToString::to_string));
    commits.number += history.commits;
    commits.problems.append(&mut history.problems);
    let mut obeyed: BTreeMap<PathBuf, CommittedFile> = BTreeMap::new();
    let mut others: Option<PathBuf> = None;
    let (files, staged) = (std::mem::take(&mut history.files), std::mem::take(&mut history.staged));
    for (file, change, reason) in weighed(view, guarded, files, history) {
        match reason {
            Some(reason) => {
                let commit = file.commit.to_string().chars().take(SHOWN_ID).collect();
                let found = CommittedFile { path: change.path.clone(), what: change.what, reason, commit };
                obeyed.entry(change.path).or_insert(found);
            }
            None => {
                commits.others += usize::from(others.as_ref() != Some(&change.path));
                others = Some(change.path);
            }
        }
    }
    for (_, change, reason) in weighed(view, guarded, staged, history) {
        let Some(reason) = reason else { continue };
        let found = CommittedFile { path: change.path.clone(), what: change.what, reason, commit: INDEX.to_owned() };
        obeyed.entry(change.path).or_insert(found);
    }
    commits.obeyed.extend(obeyed.into_values());
}

/// Weighs files; returns each with the reason why this machine executes or obeys it.
fn weighed(
    view: &View,
    guarded: &dyn Fn(&Path) -> bool,
    mut files: Vec<NewFile>,
    history: &mut History,
) -> Vec<(NewFile, Change, Option<String>)> {
    // The rules of ignored files are read in the order of paths. A commit that makes a file comes before one that removes it.
    files.sort_by(|one, other| (&one.path, one.after.is_none()).cmp(&(&other.path, other.after.is_none())));
    let changes: Vec<Change> = files.iter().map(|file| change(file, history)).collect();
    let weigher = Weigher::new(view, guarded, &changes);
    let mut ignored = Ignored::new(&view.project);
    let reasons: Vec<_> =
        files.iter().zip(&changes).map(|(file, change)| reason(file, change, (&weigher, &mut ignored), history)).collect();
    drop(weigher);
    files.into_iter().zip(changes).zip(reasons).map(|((file, change), reason)| (file, change, reason)).collect()
}

fn reason(file: &NewFile, change: &Change, (weigher, ignored): (&Weigher<'_>, &mut Ignored<'_>), history: &mut History) -> Option<String> {
    let entries = [file.before, file.after];
    if entries.iter().flatten().any(|entry| entry.mode & TYPE == SUBMODULE) {
        return Some("submodule: a repository of its own".to_owned());
    }
    if file.after.is_some_and(|after| !matches!(after.mode & TYPE, FILE | LINK)) {
        return Some("entry of a type that silo does not know".to_owned());
    }
    let kind = change.after.as_ref().or(change.before.as_ref()).map_or(Kind::File, |entry| entry.kind);
    let top = made(&change.path).or_else(|| ignored.top(&change.path, kind));
    let reason = weigher.reason(change, top.as_deref(), &mut |most| {
        let mut read = |entry: Option<TreeEntry>| history.content(&entry?, most);
        (read(file.before), read(file.after))
    });
    let is_generated = top.is_some() && (is_of_programs(top.as_deref()) || !is_data(change));
    reason.or_else(|| is_generated.then(|| "generated or ignored file that is not only data".to_owned()))
}

fn change(file: &NewFile, history: &mut History) -> Change {
    let (before, after) = (file.before.map(|before| entry(before, history)), file.after.map(|after| entry(after, history)));
    let what = match (&before, &after) {
        (None, _) => What::Added,
        (_, None) => What::Removed,
        (Some(before), Some(after)) if before.kind != after.kind => What::Replaced,
        (Some(_), Some(after)) if after.kind == Kind::Link => What::Link,
        (Some(_), Some(_)) if file.before.map(|before| before.oid) == file.after.map(|after| after.oid) => What::Mode,
        (Some(_), Some(_)) => What::Changed,
    };
    Change { path: history.tree.join(&file.path), what, before, after, problem: None }
}

fn entry(entry: TreeEntry, history: &mut History) -> Entry {
    let kind = match entry.mode & TYPE {
        FILE => Kind::File,
        LINK => Kind::Link,
        _ if entry.is_dir() || entry.mode & TYPE == SUBMODULE => Kind::Dir,
        _ => Kind::Other,
    };
    let target = if kind == Kind::Link { history.content(&entry, MAX_LINK_BYTES) } else { None };
    let target = target.map(|target| PathBuf::from(std::ffi::OsString::from_vec(target)));
    Entry { kind, mode: entry.mode & 0o7777, size: 0, links: 1, inode: 0, changed: 0, target }
}
