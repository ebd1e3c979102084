//! Lists the files that the new commits of a run add, change or remove, commit by commit: a file that a later commit removes is still in the
//! history. The objects come from a sandbox, so everything is counted and limited, and what cannot be read is a problem, never nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::dir_fd::Dir;
use super::import::{Import, beneath, resolved};
use super::index::{Index, MAX_INDEX_BYTES};
use super::object_store::ObjectStore;
use super::oid::{Format, Oid};
use super::refs::{self, MAX_REF_BYTES, Refs, Value};
use super::view;

/// Limits of one listing: some seconds of work.
const LIMITS: Limits = Limits { commits: 5_000, entries: 500_000, files: 20_000, bytes: 256 << 20 };
/// Maximum length of a path: system calls refuse longer ones.
const MAX_PATH_BYTES: usize = 4000;
/// Maximum depth of a path. Trees are opened one below the other.
const MAX_DEPTH: usize = 512;
/// Maximum number of tags that point to each other.
const MAX_TAGS: usize = 8;

/// Type bits of a directory.
const DIR: u32 = 0o040_000;

/// Amounts that a listing may still read.
#[derive(Clone, Copy, Debug)]
struct Limits {
    commits: usize,
    entries: usize,
    files: usize,
    bytes: u64,
}

/// New commits of one repository.
#[derive(Debug)]
pub struct History {
    /// Path of the working tree in the project; empty for the project's own repository.
    pub tree: PathBuf,
    /// Objects to which refs and HEAD lead now, as far as that is new.
    pub tips: Vec<Oid>,
    /// Number of new commits.
    pub commits: usize,
    /// Changed files.
    pub files: Vec<NewFile>,
    /// Entries of the index that differ from those here. `git checkout` and `git commit` write them.
    pub staged: Vec<NewFile>,
    /// Reasons why not all files are listed, and changes that are not files.
    pub problems: Vec<String>,
    store: Option<ObjectStore>,
}

/// A file that a commit changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewFile {
    /// Path in the working tree.
    pub path: PathBuf,
    /// Entry before the commit.
    pub before: Option<TreeEntry>,
    /// Entry after the commit.
    pub after: Option<TreeEntry>,
    /// The commit.
    pub commit: Oid,
}

/// An entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeEntry {
    /// Type and permissions, as git stores them.
    pub mode: u32,
    /// Object.
    pub oid: Oid,
}

impl TreeEntry {
    /// True for a directory.
    pub fn is_dir(self) -> bool {
        self.mode == DIR
    }
}

impl History {
    /// Lists the new commits of a repository.
    pub(super) fn of(tree: &Path, import: &Import, upper: &Dir) -> History {
        let mut history = History {
            tree: tree.to_owned(),
            tips: Vec::new(),
            commits: 0,
            files: Vec::new(),
            staged: Vec::new(),
            problems: Vec::new(),
            store: None,
        };
        match staged(import, upper) {
            Ok(staged) => history.staged = staged,
            Err(problem) => history.problems.push(problem),
        }
        let layer = match beneath(upper, &import.common_inside) {
            Ok(Some(layer)) => layer,
            Ok(None) => return history,
            Err(error) => {
                history.problems.push(format!("silo cannot read its changes: {error}"));
                return history;
            }
        };
        let store = ObjectStore::open(&layer, &import.common, import.format, LIMITS.bytes);
        let mut walk = Walk {
            store,
            format: import.format,
            left: LIMITS,
            seen: HashSet::new(),
            known: HashMap::new(),
            listed: HashSet::new(),
            history: &mut history,
        };
        if let Err(problem) = walk.all(import, &layer, upper) {
            walk.history.problems.push(problem);
        }
        let store = walk.store;
        history.store = Some(store);
        history
    }

    /// Reads the content of a file with at most this many bytes.
    pub fn content(&mut self, entry: &TreeEntry, most_bytes: u64) -> Option<Vec<u8>> {
        let (kind, content) = self.store.as_mut()?.read(&entry.oid)?;
        (kind == "blob" && content.len() as u64 <= most_bytes).then_some(content)
    }
}

/// Lists the entries of the layer's index that differ from those of the host's. An index that is not imported has none.
fn staged(import: &Import, upper: &Dir) -> Result<Vec<NewFile>, String> {
    let path = Path::new("index");
    let failed = |error: std::io::Error| format!("silo cannot read the index: {error}");
    let Some(own) = beneath(upper, &import.own_inside).map_err(failed)? else { return Ok(Vec::new()) };
    let Some(bytes) = own.read(path, MAX_INDEX_BYTES).map_err(failed)? else { return Ok(Vec::new()) };
    let host = import.own.read(path, MAX_INDEX_BYTES).map_err(failed)?;
    let known = host.as_ref().map_or_else(|| Ok(Index::default()), |bytes| Index::parse_own(bytes, import.format));
    let (Ok(new), Ok(known)) = (Index::parse(&bytes, import.format), known) else { return Ok(Vec::new()) };
    let entry = |(mode, oid)| TreeEntry { mode, oid };
    let known: BTreeMap<&[u8], TreeEntry> = known.entries.iter().map(|one| (one.path.as_slice(), entry(one.content()))).collect();
    let mut files = Vec::new();
    for one in &new.entries {
        let (before, after) = (known.get(one.path.as_slice()).copied(), entry(one.content()));
        if before == Some(after) {
            continue;
        }
        if files.len() >= LIMITS.files {
            return Err(too_many());
        }
        files.push(NewFile { path: PathBuf::from(OsStr::from_bytes(&one.path)), before, after: Some(after), commit: after.oid });
    }
    Ok(files)
}

struct Walk<'a> {
    store: ObjectStore,
    format: Format,
    left: Limits,
    /// Visited new commits.
    seen: HashSet<Oid>,
    /// Tree and parents of read commits.
    known: HashMap<Oid, (Oid, Vec<Oid>)>,
    /// Listed changes, without their commits.
    listed: HashSet<(PathBuf, Option<TreeEntry>, Option<TreeEntry>)>,
    history: &'a mut History,
}

impl Walk<'_> {
    fn all(&mut self, import: &Import, layer: &Dir, upper: &Dir) -> Result<(), String> {
        let view = view::read_view(layer, &import.begin, self.format).map_err(|error| format!("silo cannot read its refs: {error}"))?;
        let base = import.begin.refs();
        let at = |head: Option<&[u8]>, refs: &Refs| resolved(&refs::parse(head?, self.format)?, refs);
        let head_before = at(import.begin.head.as_deref(), &base);
        for (name, value) in base.iter().filter(|(name, _)| !view.refs.contains_key(*name) && name.may_come()) {
            if name.as_str().starts_with("refs/heads/") || name.as_str().starts_with("refs/tags/") {
                self.history.problems.push(format!("{} is removed; it was {}", name.as_str(), refs::text(value).trim_end()));
            }
        }
        let mut moves = Vec::new();
        for (name, new) in view.refs.iter().filter(|(name, new)| base.get(*name) != Some(new) && name.may_come()) {
            match new {
                Value::Object(oid) => moves.push((base.get(name).and_then(|old| resolved(old, &base)), *oid)),
                Value::Symbolic(_) if name.as_str().starts_with("refs/remotes/") && name.as_str().ends_with("/HEAD") => {}
                Value::Symbolic(target) => self.history.problems.push(format!("{} follows {}", name.as_str(), target.as_str())),
            }
        }
        let own = beneath(upper, &import.own_inside).ok().flatten();
        let head = own.and_then(|own| own.read(Path::new("HEAD"), MAX_REF_BYTES).ok().flatten());
        if head.is_some() && head != import.begin.head {
            moves.extend(at(head.as_deref(), &view.refs).map(|new| (None, new)));
        }
        self.history.tips.extend(moves.iter().map(|(_, new)| *new));
        for (_, new) in &moves {
            self.commits(*new)?;
        }
        for (old, new) in moves {
            self.moved(old.or(head_before), new)?;
        }
        Ok(())
    }

    /// Lists the changes of a new commit and of all new ones before it.
    fn commits(&mut self, tip: Oid) -> Result<(), String> {
        let Some(tip) = self.peeled(tip)? else { return Ok(()) };
        let mut stack = vec![tip];
        while let Some(oid) = stack.pop() {
            if self.store.is_on_host(&oid) || !self.seen.insert(oid) {
                continue;
            }
            self.left.commits = self.left.commits.checked_sub(1).ok_or_else(too_many)?;
            self.history.commits += 1;
            let (tree, parents) = self.commit(oid)?;
            if parents.is_empty() {
                self.compare(None, tree, oid)?;
            }
            for parent in &parents {
                // A fetch with a depth leaves commits without their parents.
                let before = self.commit(*parent).ok().map(|(tree, _)| tree);
                self.compare(before, tree, oid)?;
            }
            stack.extend(parents);
        }
        Ok(())
    }

    /// Lists the changes of a ref from one commit to another: they need not be new.
    fn moved(&mut self, old: Option<Oid>, new: Oid) -> Result<(), String> {
        let before = old.and_then(|old| self.peeled(old).ok().flatten()).and_then(|old| self.commit(old).ok()).map(|(tree, _)| tree);
        match self.peeled(new)? {
            Some(commit) => {
                let (tree, _) = self.commit(commit)?;
                self.compare(before, tree, commit)
            }
            // A tag of a tree or a file.
            None => match self.object(new)?.0 {
                "tree" => self.compare(None, new, new),
                _ => Ok(()),
            },
        }
    }

    fn object(&mut self, oid: Oid) -> Result<(&'static str, Vec<u8>), String> {
        self.store.read(&oid).ok_or_else(|| format!("silo cannot read the object {oid}, or too much is new"))
    }

    /// Returns the commit to which tags lead; `None` for a tree or a file.
    fn peeled(&mut self, oid: Oid) -> Result<Option<Oid>, String> {
        let mut at = oid;
        for _ in 0..MAX_TAGS {
            if self.known.contains_key(&at) {
                return Ok(Some(at));
            }
            match self.object(at)? {
                ("commit", _) => return Ok(Some(at)),
                ("tag", content) => at = self.named(&content, b"object ").ok_or_else(|| format!("the tag {at} is damaged"))?.0,
                _ => return Ok(None),
            }
        }
        Err(format!("the tag {oid} leads to too many others"))
    }

    /// Parses a line with an id at the start of a text; returns the rest, too.
    fn named<'t>(&self, text: &'t [u8], word: &[u8]) -> Option<(Oid, &'t [u8])> {
        let (oid, rest) = text.strip_prefix(word)?.split_at_checked(self.format.bytes() * 2)?;
        Some((self.format.parse(oid)?, rest.strip_prefix(b"\n")?))
    }

    fn commit(&mut self, oid: Oid) -> Result<(Oid, Vec<Oid>), String> {
        if let Some(known) = self.known.get(&oid) {
            return Ok(known.clone());
        }
        let (kind, content) = self.object(oid)?;
        let damaged = || format!("the commit {oid} is damaged");
        let (tree, mut rest) = self.named(&content, b"tree ").filter(|_| kind == "commit").ok_or_else(damaged)?;
        let mut parents = Vec::new();
        while let Some((parent, after)) = self.named(rest, b"parent ") {
            parents.push(parent);
            rest = after;
        }
        if rest.starts_with(b"parent ") {
            return Err(damaged());
        }
        self.known.insert(oid, (tree, parents.clone()));
        Ok((tree, parents))
    }

    /// Lists the differences of two trees.
    fn compare(&mut self, before: Option<Oid>, after: Oid, commit: Oid) -> Result<(), String> {
        let mut stack = vec![(PathBuf::new(), before, after)];
        while let Some((path, before, after)) = stack.pop() {
            if before == Some(after) {
                continue;
            }
            let mut old = before.map(|before| self.tree(before)).transpose()?.unwrap_or_default();
            for (name, new) in self.tree(after)? {
                let was = old.remove(&name);
                if was == Some(new) {
                    continue;
                }
                let inner = path.join(OsStr::from_bytes(&name));
                if inner.as_os_str().len() > MAX_PATH_BYTES || inner.components().count() > MAX_DEPTH {
                    return Err(format!("the commit {commit} has a too long path"));
                }
                if !new.is_dir() {
                    self.list(inner, was, Some(new), commit)?;
                    continue;
                }
                if let Some(was) = was.filter(|was| !was.is_dir()) {
                    self.list(inner.clone(), Some(was), None, commit)?;
                }
                stack.push((inner, was.filter(|was| was.is_dir()).map(|was| was.oid), new.oid));
            }
            for (name, was) in old {
                self.list(path.join(OsStr::from_bytes(&name)), Some(was), None, commit)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, path: PathBuf, before: Option<TreeEntry>, after: Option<TreeEntry>, commit: Oid) -> Result<(), String> {
        if self.listed.insert((path.clone(), before, after)) {
            self.left.files = self.left.files.checked_sub(1).ok_or_else(too_many)?;
            self.history.files.push(NewFile { path, before, after, commit });
        }
        Ok(())
    }

    fn tree(&mut self, oid: Oid) -> Result<BTreeMap<Vec<u8>, TreeEntry>, String> {
        let (kind, content) = self.object(oid)?;
        let damaged = || format!("the tree {oid} is damaged");
        if kind != "tree" {
            return Err(damaged());
        }
        let mut entries = BTreeMap::new();
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            self.left.entries = self.left.entries.checked_sub(1).ok_or_else(too_many)?;
            let (name, entry, after) = self.entry(rest).ok_or_else(damaged)?;
            // git refuses such names, and takes one of two equal ones.
            let is_wrong = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
            if is_wrong || entries.insert(name.to_owned(), entry).is_some() {
                return Err(damaged());
            }
            rest = after;
        }
        Ok(entries)
    }

    /// Parses an entry of a tree; returns the rest, too.
    fn entry<'t>(&self, text: &'t [u8]) -> Option<(&'t [u8], TreeEntry, &'t [u8])> {
        let blank = text.iter().take(8).position(|byte| *byte == b' ')?;
        let mode = u32::from_str_radix(std::str::from_utf8(&text[..blank]).ok()?, 8).ok()?;
        let text = &text[blank + 1..];
        let end = text.iter().position(|byte| *byte == 0)?;
        let (oid, rest) = text[end + 1..].split_at_checked(self.format.bytes())?;
        Some((&text[..end], TreeEntry { mode, oid: self.format.raw(oid)? }, rest))
    }
}

fn too_many() -> String {
    "there are more new commits and files than silo compares".to_owned()
}
