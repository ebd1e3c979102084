//! The state of a repository at the start of a run; changes of the sandbox and of the host are compared with it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use silo_store::Digest;

use super::dir_fd::{Dir, Kind};
use super::index::MAX_INDEX_BYTES;
use super::oid::Format;
use super::refs::{self, MAX_PACKED_BYTES, MAX_REF_BYTES, Name, Refs, Value};

/// Maximum number of loose refs, and of their directories.
pub const MAX_LOOSE: usize = 500_000;
/// Maximum size of a state file.
pub const MAX_STATE_BYTES: u64 = 16 << 20;

/// Files with git's current state (merge, cherry-pick, ...) that are pure data.
///
/// State files with commands that git runs are not listed: the remaining steps of a rebase, a cherry-pick series or `git am`
/// (`rebase-merge`, `rebase-apply`, `sequencer`), the terms and paths of a bisection (`BISECT_*`), and the changes that git writes into the
/// working tree at the end of a merge (`MERGE_AUTOSTASH`).
pub const STATE: [&str; 15] = [
    "AUTO_MERGE",
    "CHERRY_PICK_HEAD",
    "COMMIT_EDITMSG",
    "FETCH_HEAD",
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "MERGE_RR",
    "NOTES_EDITMSG",
    "NOTES_MERGE_REF",
    "ORIG_HEAD",
    "REBASE_HEAD",
    "REVERT_HEAD",
    "SQUASH_MSG",
    "TAG_EDITMSG",
];

/// A repository at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartState {
    /// Loose refs.
    pub loose: Refs,
    /// Packed refs.
    pub packed: Refs,
    /// Contents of HEAD.
    pub head: Option<Vec<u8>>,
    /// The index, if there is one.
    pub index: Option<Digest>,
    /// Existing files of [`STATE`], and `shallow`.
    pub state: BTreeMap<String, Digest>,
}

/// JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartStateFile {
    loose: BTreeMap<String, String>,
    packed: BTreeMap<String, String>,
    head: Option<String>,
    index: Option<String>,
    state: BTreeMap<String, String>,
}

impl StartState {
    /// Reads the state of a host repository.
    pub fn read(own: &Dir, common: &Dir, format: Format) -> io::Result<StartState> {
        let packed = common.read(Path::new("packed-refs"), MAX_PACKED_BYTES)?.unwrap_or_default();
        let mut state = BTreeMap::new();
        for (dir, name) in STATE.iter().map(|name| (own, *name)).chain([(common, "shallow")]) {
            if let Some(bytes) = dir.read(Path::new(name), MAX_STATE_BYTES)? {
                state.insert(name.to_owned(), Digest::of(&bytes));
            }
        }
        Ok(StartState {
            loose: loose(common, format)?,
            packed: refs::parse_packed(&packed, format).0,
            head: own.read(Path::new("HEAD"), MAX_REF_BYTES)?,
            index: own.read(Path::new("index"), MAX_INDEX_BYTES)?.map(|bytes| print_of_index(&bytes, format)),
            state,
        })
    }

    /// Returns all refs; a loose ref overrides a packed one.
    pub fn refs(&self) -> Refs {
        let mut refs = self.packed.clone();
        refs.extend(self.loose.clone());
        refs
    }

    /// Serializes the state to JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let text = |refs: &Refs| refs.iter().map(|(name, value)| (name.as_str().to_owned(), refs::text(value))).collect();
        let written = StartStateFile {
            loose: text(&self.loose),
            packed: text(&self.packed),
            head: self.head.as_ref().map(|head| String::from_utf8_lossy(head).into_owned()),
            index: self.index.map(|digest| digest.to_string()),
            state: self.state.iter().map(|(name, digest)| (name.clone(), digest.to_string())).collect(),
        };
        // Serializing maps of strings cannot fail.
        serde_json::to_value(&written).unwrap_or_default()
    }

    /// Parses the output of [`StartState::to_json`].
    pub fn from_json(json: &serde_json::Value, format: Format) -> Option<StartState> {
        let written = StartStateFile::deserialize(json).ok()?;
        let refs = |texts: BTreeMap<String, String>| -> Option<Refs> {
            texts.iter().map(|(name, text)| Some((Name::parse(name.as_bytes())?, refs::parse(text.as_bytes(), format)?))).collect()
        };
        let digest = |text: String| Digest::parse(&text).ok();
        Some(StartState {
            loose: refs(written.loose)?,
            packed: refs(written.packed)?,
            head: written.head.map(String::into_bytes),
            index: written.index.and_then(digest),
            state: written.state.into_iter().filter_map(|(name, text)| Some((name, digest(text)?))).collect(),
        })
    }
}

/// Identifies an index: by its checksum if git wrote one.
pub fn print_of_index(bytes: &[u8], format: Format) -> Digest {
    let sum = bytes.len().checked_sub(format.bytes()).map_or(&[][..], |at| &bytes[at..]);
    if sum.iter().all(|byte| *byte == 0) { Digest::of(bytes) } else { Digest::of(&[sum, &bytes.len().to_be_bytes()].concat()) }
}

/// Reads the loose refs.
fn loose(common: &Dir, format: Format) -> io::Result<Refs> {
    let mut found = Refs::new();
    let mut dirs = vec![PathBuf::from("refs")];
    let mut left = MAX_LOOSE;
    while let Some(path) = dirs.pop() {
        let dir = common.dir(&path)?;
        for name in dir.list(left)? {
            left = left.saturating_sub(1);
            let (inner, whole) = (Path::new(&name), path.join(&name));
            match dir.stat(inner)?.map(|stat| Kind::of(&stat)) {
                Some(Kind::Dir) => dirs.push(whole),
                Some(Kind::File) => found.extend(value(&dir, inner, &whole, format)),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Reads one loose ref, if the file is one.
pub fn value(dir: &Dir, name: &Path, whole: &Path, format: Format) -> Option<(Name, Value)> {
    let bytes = dir.read(name, MAX_REF_BYTES).ok()??;
    Some((Name::parse(whole.as_os_str().as_encoded_bytes())?, refs::parse(&bytes, format)?))
}
