//! Imports a sandbox's changes from its repository layer: several times a second during the run, and once at its end.
//!
//! The order keeps the host's repository intact. First read the refs, HEAD and the index; then import objects; only then set the refs. So
//! the target of every ref exists, also after a power cut. Everything is compared with the host's state at the start of the run. If the
//! host has changed a ref too, its value stays, and the sandbox's commits are kept below `refs/silo/`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::Digest;

use silo_base::sanitize;

use super::dir_fd::{Dir, Kind, is_absent};
use super::index::{Index, MAX_INDEX_BYTES};
use super::lock_file::{HostRefs, Lock, Outcome, merge_log};
use super::objects::{ImportProgress, Objects, RunPhase, has};
use super::oid::{Format, Oid};
use super::reflog::MAX_LOG_BYTES;
use super::refs::{self, MAX_REF_BYTES, Name, Refs, Value};
use super::shallow::{self, Cut};
use super::start_state::{MAX_STATE_BYTES, STATE, StartState, print_of_index};
use super::view::{self, View};

/// Directories of an unfinished operation; their state includes commands.
const UNFINISHED: [&str; 2] = ["rebase-merge", "rebase-apply"];
/// State of the same kind that does not detach HEAD from its branch.
const NOT_BROUGHT: [&str; 4] = ["sequencer", "BISECT_LOG", "BISECT_START", "MERGE_AUTOSTASH"];

/// The surroundings of an imported ref.
#[derive(Clone, Copy)]
struct Bringing<'a> {
    layer: &'a Dir,
    host: &'a HostRefs<'a>,
    /// The refs of the host at the start.
    base: &'a Refs,
    when: RunPhase,
}

/// A repository with a sandbox's layer over it.
#[derive(Debug)]
pub struct Import {
    /// The host's directory with HEAD and the index.
    pub(super) own: Arc<Dir>,
    /// The host's directory with objects and refs.
    pub(super) common: Arc<Dir>,
    /// Path of `own` in the layer.
    pub(super) own_inside: PathBuf,
    /// Path of `common` in the layer.
    pub(super) common_inside: PathBuf,
    pub(super) format: Format,
    /// Last known state of the host.
    pub(super) begin: StartState,
    objects: Objects,
    run: String,
    /// Refs that the host moved, with the value last kept for each.
    moved: BTreeMap<Name, Option<Value>>,
    /// Last seen index.
    index: Option<Digest>,
    /// Last seen reflog of HEAD.
    log: Option<Digest>,
    /// Messages for the end of the run.
    told: BTreeSet<String>,
    /// Refs that this import set or removed on the host.
    brought: BTreeSet<String>,
    /// Files that were locked on the host in the last round.
    busy: BTreeSet<String>,
}

/// The sandbox's HEAD, index and state files at one moment.
struct SandboxState {
    head: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
    state: BTreeMap<&'static str, Option<Vec<u8>>>,
    is_unfinished: bool,
}

/// A repository's directories, on the host and in the layer.
#[derive(Debug)]
pub struct Place {
    /// The host's directory with HEAD and the index.
    pub own: Dir,
    /// The host's directory with objects and refs.
    pub common: Dir,
    /// Path of `own` in the layer.
    pub own_inside: PathBuf,
    /// Path of `common` in the layer.
    pub common_inside: PathBuf,
    /// Hash of object ids.
    pub format: Format,
}

impl Import {
    /// Starts from the host's state at the start of the run.
    pub fn new(place: Place, begin: StartState, run: &str) -> Import {
        let Place { own, common, own_inside, common_inside, format } = place;
        Import {
            own: Arc::new(own),
            common: Arc::new(common),
            own_inside,
            common_inside,
            format,
            begin,
            objects: Objects::new(format, run),
            run: run.to_owned(),
            moved: BTreeMap::new(),
            index: None,
            log: None,
            told: BTreeSet::new(),
            brought: BTreeSet::new(),
            busy: BTreeSet::new(),
        }
    }

    /// Imports the current changes. At the end of the run, imports everything possible.
    pub fn round(&mut self, upper: &Dir, when: RunPhase) -> io::Result<()> {
        self.busy.clear();
        let Some(layer) = beneath(upper, &self.common_inside)? else { return Ok(()) };
        let own_layer = beneath(upper, &self.own_inside)?;
        let view = view::read_view(&layer, &self.begin, self.format)?;
        let own = own_layer.as_ref().map(|layer| self.read_sandbox_state(layer)).transpose()?;
        if self.objects.bring(&layer, &self.common, when)? == ImportProgress::Some {
            return Ok(());
        }
        for path in &view.strange {
            self.told.insert(format!("{} is not a ref and was not imported", sanitize::path(path)));
        }
        self.shallow(&layer)?;
        self.refs(&layer, &view, when)?;
        if let (Some(own), Some(layer)) = (own, &own_layer) {
            self.state(layer, own, &view, when)?;
        }
        Ok(())
    }

    /// True if the host has removed the repository: nothing can be created in a removed directory.
    pub fn is_gone(&self) -> bool {
        self.common.own_stat().is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Returns the files that could not be imported in the last round, because another process holds their lock.
    pub fn busy(&self) -> &BTreeSet<String> {
        &self.busy
    }

    /// Returns the refs that were set or removed on the host.
    pub fn brought(&self) -> &BTreeSet<String> {
        &self.brought
    }

    /// Returns messages about everything that was not imported unchanged.
    pub fn messages(&self) -> BTreeSet<String> {
        let mut told = self.told.clone();
        for (path, refusal) in self.objects.refused.iter().take(8) {
            told.insert(format!("{} was not imported: {refusal}", sanitize::path(path)));
        }
        if self.objects.refused.len() > 8 {
            told.insert(format!("{} more objects were not imported", self.objects.refused.len() - 8));
        }
        for (name, kept) in self.moved.iter().filter(|(_, kept)| kept.is_some()) {
            let kept = kept.as_ref().and_then(|_| name.kept(&self.run));
            if let Some(kept) = kept {
                told.insert(format!("{} moved here during the run; the commits made inside are kept as {}", name.as_str(), kept.as_str()));
            }
        }
        told
    }

    fn read_sandbox_state(&self, layer: &Dir) -> io::Result<SandboxState> {
        let read = |name: &str, most: u64| -> io::Result<Option<Vec<u8>>> {
            match layer.read(Path::new(name), most) {
                // A whiteout, a symlink or a pipe is not imported.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput || error.kind() == io::ErrorKind::IsADirectory => Ok(None),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(None),
                read => read,
            }
        };
        let mut state = BTreeMap::new();
        for name in STATE {
            match layer.stat(Path::new(name))?.map(|stat| Kind::of(&stat)) {
                Some(Kind::File) => drop(read(name, MAX_STATE_BYTES)?.map(|bytes| state.insert(name, Some(bytes)))),
                Some(Kind::Whiteout) => drop(state.insert(name, None)),
                _ => {}
            }
        }
        let is_dir = |name: &str| layer.stat(Path::new(name)).is_ok_and(|stat| stat.is_some_and(|stat| Kind::of(&stat) == Kind::Dir));
        Ok(SandboxState {
            head: read("HEAD", MAX_REF_BYTES)?,
            index: read("index", MAX_INDEX_BYTES)?,
            state,
            is_unfinished: UNFINISHED.iter().any(|name| is_dir(name)),
        })
    }

    /// Sets and removes refs. Removals go first, because a new ref may need the name of a removed directory.
    fn refs(&mut self, layer: &Dir, view: &View, when: RunPhase) -> io::Result<()> {
        let base = self.begin.refs();
        if base == view.refs {
            return Ok(());
        }
        let common = Arc::clone(&self.common);
        let mut host = HostRefs::open(&common, self.format)?;
        let gone: Vec<(&Name, &Value)> = base.iter().filter(|(name, _)| !view.refs.contains_key(*name)).collect();
        for (name, old) in gone {
            if !name.may_come() || self.moved.contains_key(name) {
                continue;
            }
            match host.remove(name, old)? {
                Outcome::Done => {
                    self.begin.loose.remove(name);
                    self.begin.packed.remove(name);
                    self.brought.insert(name.as_str().to_owned());
                    if name.as_str().starts_with("refs/heads/") || name.as_str().starts_with("refs/tags/") {
                        self.told.insert(format!("{} was removed inside; it was {}", name.as_str(), refs::text(old).trim_end()));
                    }
                }
                Outcome::Moved => {
                    self.told.insert(format!("{} was removed inside and moved here; it stays", name.as_str()));
                    self.moved.insert(name.clone(), None);
                }
                Outcome::Busy => drop(self.busy.insert(name.as_str().to_owned())),
            }
        }
        for (name, new) in view.refs.iter().filter(|(name, new)| base.get(*name) != Some(new)) {
            self.bring_ref(Bringing { layer, host: &host, base: &base, when }, name, new)?;
        }
        Ok(())
    }

    fn bring_ref(&mut self, bringing: Bringing<'_>, name: &Name, new: &Value) -> io::Result<()> {
        let Bringing { layer, host, base, when } = bringing;
        if !name.may_come() {
            self.told.insert(format!("{} was not imported: git or silo uses such refs for a special purpose", name.as_str()));
            return Ok(());
        }
        let old = base.get(name);
        let is_there = match new {
            Value::Object(oid) => has(&self.common, oid, self.format),
            Value::Symbolic(_) => true,
        };
        if !is_there {
            if when == RunPhase::Ended {
                self.told.insert(format!("{} was not imported: its object is missing", name.as_str()));
            }
            return Ok(());
        }
        if !self.moved.contains_key(name) {
            let log = log(layer, &Path::new("logs").join(name.as_str()))?;
            match host.set(name, old, new, log.as_deref())? {
                Outcome::Done => {
                    self.begin.packed.remove(name);
                    self.begin.loose.insert(name.clone(), new.clone());
                    self.brought.insert(name.as_str().to_owned());
                    return Ok(());
                }
                Outcome::Busy => {
                    self.busy.insert(name.as_str().to_owned());
                    return Ok(());
                }
                Outcome::Moved => drop(self.moved.insert(name.clone(), None)),
            }
        }
        self.keep(host, name, new)
    }

    /// Keeps the sandbox's value of a ref that the host has moved, under `refs/silo/`.
    fn keep(&mut self, host: &HostRefs<'_>, name: &Name, new: &Value) -> io::Result<()> {
        let before = self.moved.get(name).cloned().flatten();
        if before.as_ref() == Some(new) {
            return Ok(());
        }
        let (Some(kept), Value::Object(_)) = (name.kept(&self.run), new) else { return Ok(()) };
        if host.set(&kept, before.as_ref(), new, None)? == Outcome::Done {
            self.moved.insert(name.clone(), Some(new.clone()));
            self.brought.insert(kept.as_str().to_owned());
        }
        Ok(())
    }

    /// Imports HEAD, the index and state files.
    fn state(&mut self, layer: &Dir, own: SandboxState, view: &View, when: RunPhase) -> io::Result<()> {
        if own.is_unfinished {
            if when == RunPhase::Ended {
                self.leave_unfinished(&own)?;
            }
            return Ok(());
        }
        if when == RunPhase::Ended {
            for name in NOT_BROUGHT {
                if layer.stat(Path::new(name))?.is_some_and(|stat| matches!(Kind::of(&stat), Kind::Dir | Kind::File)) {
                    self.told.insert(format!("{name} was not imported: git may run commands from it"));
                }
            }
        }
        self.head(layer, &own, view)?;
        let on_moved = own.head.as_deref().or(self.begin.head.as_deref()).and_then(|head| refs::parse(head, self.format));
        let is_apart = matches!(&on_moved, Some(Value::Symbolic(name)) if self.moved.contains_key(name)) || self.told.contains(HEAD_MOVED);
        if let Some(bytes) = &own.index {
            match is_apart {
                true => self.leave_index(bytes),
                false => self.index(bytes)?,
            }
        }
        if is_apart {
            return Ok(());
        }
        let dir = Arc::clone(&self.own);
        for (name, bytes) in &own.state {
            self.state_file(&dir, name, bytes.as_deref())?;
        }
        Ok(())
    }

    /// An unfinished rebase: its state includes commands, so only its commits are kept, and HEAD stays.
    fn leave_unfinished(&mut self, own: &SandboxState) -> io::Result<()> {
        self.told.insert("a rebase inside is not finished; HEAD, the index and its remaining steps were not imported".to_owned());
        let head = own.head.as_deref().and_then(|head| refs::parse(head, self.format));
        if let Some(Value::Object(oid)) = head
            && has(&self.common, &oid, self.format)
            && let Some(name) = Name::parse(format!("refs/silo/{}/HEAD", self.run).as_bytes())
        {
            let host = HostRefs::open(&self.common, self.format)?;
            if host.set(&name, None, &Value::Object(oid), None)? == Outcome::Done {
                self.told.insert(format!("its last commit is kept as {}", name.as_str()));
                self.brought.insert(name.as_str().to_owned());
            }
        }
        Ok(())
    }

    fn head(&mut self, layer: &Dir, own: &SandboxState, view: &View) -> io::Result<()> {
        let log = log(layer, Path::new("logs/HEAD"))?.filter(|log| self.log != Some(Digest::of(log)));
        let Some(head) = own.head.as_ref().or(self.begin.head.as_ref()).cloned() else { return Ok(()) };
        let is_new = Some(&head) != self.begin.head.as_ref();
        if !is_new && log.is_none() {
            return Ok(());
        }
        match refs::parse(&head, self.format) {
            Some(Value::Symbolic(name)) if name.as_str().starts_with("refs/heads/") => {}
            Some(Value::Object(oid)) if has(&self.common, &oid, self.format) => {}
            _ => {
                self.told.insert("HEAD was not imported: it names neither a branch nor an existing commit".to_owned());
                return Ok(());
            }
        }
        let Some(lock) = Lock::take(&self.own, OsStr::new("HEAD"), &head)? else {
            self.busy.insert("HEAD".to_owned());
            return Ok(());
        };
        if self.own.read(Path::new("HEAD"), MAX_REF_BYTES)? != self.begin.head {
            if is_new {
                self.told.insert(HEAD_MOVED.to_owned());
            }
            return Ok(());
        }
        if let Some(log) = &log {
            let last = self.begin.head.as_deref().and_then(|head| refs::parse(head, self.format));
            merge_log(&self.own, Path::new("logs/HEAD"), log, last.and_then(|value| resolved(&value, &view.refs)), self.format)?;
        }
        if is_new {
            lock.commit()?;
            self.begin.head = Some(head);
            self.brought.insert("HEAD".to_owned());
        }
        self.log = log.as_deref().map(Digest::of).or(self.log);
        Ok(())
    }

    /// Reports that the index is not imported, because HEAD moved on the host.
    fn leave_index(&mut self, bytes: &[u8]) {
        if self.index != Some(Digest::of(bytes)) {
            self.told.insert(INDEX_MOVED.to_owned());
        }
    }

    fn index(&mut self, bytes: &[u8]) -> io::Result<()> {
        let print = Digest::of(bytes);
        if self.index == Some(print) {
            return Ok(());
        }
        let mut index = match Index::parse(bytes, self.format) {
            Ok(index) => index,
            Err(error) => {
                self.told.insert(format!("the index was not imported: {error}"));
                return Ok(());
            }
        };
        let path = Path::new("index");
        let print_now = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| print_of_index(bytes, self.format));
        // git does not wait for this lock, so hold it only during the change.
        let host = self.own.read(path, MAX_INDEX_BYTES)?;
        if print_now(&host) != self.begin.index {
            self.told.insert(INDEX_MOVED.to_owned());
            return Ok(());
        }
        let known = host.as_ref().map_or_else(|| Ok(Index::default()), |bytes| Index::parse_own(bytes, self.format));
        let Ok(known) = known else {
            self.told.insert("the index was not imported: the one here is split or sparse".to_owned());
            return Ok(());
        };
        for path in index.hold_back_gitlinks(&known) {
            let path = sanitize::bytes(&path);
            self.told.insert(format!("{path} was not added to the index: it is another repository, and git would read its configuration"));
        }
        let Some(bytes) = index.to_bytes(self.format) else { return Ok(()) };
        let Some(lock) = Lock::take(&self.own, OsStr::new("index"), &bytes)? else {
            self.busy.insert("index".to_owned());
            return Ok(());
        };
        if print_now(&self.own.read(path, MAX_INDEX_BYTES)?) != self.begin.index {
            self.told.insert(INDEX_MOVED.to_owned());
            return Ok(());
        }
        lock.commit_unsynced()?;
        self.begin.index = Some(print_of_index(&bytes, self.format));
        self.index = Some(print);
        Ok(())
    }

    /// Commits at which a shallow fetch cut off the history.
    fn shallow(&mut self, layer: &Dir) -> io::Result<()> {
        if layer.stat(Path::new("shallow"))?.is_none_or(|stat| Kind::of(&stat) != Kind::File) {
            return Ok(());
        }
        let bytes = layer.read(Path::new("shallow"), MAX_STATE_BYTES)?.unwrap_or_default();
        match shallow::judge(layer, &self.common, self.format, &bytes)? {
            Cut::OfNew => return self.state_file(&Arc::clone(&self.common), "shallow", Some(&bytes)),
            Cut::Hides => drop(self.told.insert("shallow was not imported: it would hide commits that are here".to_owned())),
            Cut::Invalid => {}
        }
        Ok(())
    }

    fn state_file(&mut self, dir: &Dir, name: &str, new: Option<&[u8]>) -> io::Result<()> {
        let path = Path::new(name);
        let known = self.begin.state.get(name).copied();
        if new.map(Digest::of) == known {
            return Ok(());
        }
        let host = dir.read(path, MAX_STATE_BYTES)?;
        let now = host.as_deref().map(Digest::of);
        if now != known && now != new.map(Digest::of) {
            // For COMMIT_EDITMSG and similar files, keep the host's version.
            return Ok(());
        }
        match new {
            Some(bytes) => {
                let Some(lock) = Lock::take(dir, path.as_os_str(), bytes)? else {
                    self.busy.insert(name.to_owned());
                    return Ok(());
                };
                lock.commit_unsynced()?;
                self.begin.state.insert(name.to_owned(), Digest::of(bytes));
            }
            None => {
                if host.is_some() {
                    dir.remove(path.as_os_str())?;
                }
                self.begin.state.remove(name);
            }
        }
        Ok(())
    }
}

const HEAD_MOVED: &str = "HEAD moved both here and inside; the one here stays";
const INDEX_MOVED: &str = "the index changed both here and inside; the one here stays";

/// Returns the object of a ref value.
pub(super) fn resolved(value: &Value, refs: &Refs) -> Option<Oid> {
    match value {
        Value::Object(oid) => Some(*oid),
        Value::Symbolic(name) => match refs.get(name)? {
            Value::Object(oid) => Some(*oid),
            Value::Symbolic(_) => None,
        },
    }
}

/// Reads a reflog of a layer, if it has one.
fn log(layer: &Dir, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match layer.stat(path)?.map(|stat| Kind::of(&stat)) {
        Some(Kind::File) => layer.read(path, MAX_LOG_BYTES).or(Ok(None)),
        _ => Ok(None),
    }
}

/// Opens a directory of a layer, if it exists.
pub(super) fn beneath(upper: &Dir, path: &Path) -> io::Result<Option<Dir>> {
    match upper.dir(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
