//! Imports objects. Each is copied, so that the sandbox cannot write it any more, then verified, then renamed to its final name. Existing
//! names are never replaced. Contents are synced before the rename, and file systems keep the order of renames, so a ref that is set later
//! never exists without its object.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use silo_store::system;

use super::budget::Budget;
use super::dir_fd::{Dir, Kind, is_absent};
use super::oid::{Format, Oid};
use super::{Refusal, loose_object, pack, pack_index};

/// Larger packs wait for the end of the run, because copying takes time in proportion to the size.
const LIVE_PACK_BYTES: u64 = 64 << 20;
/// At the end, larger files are hard-linked instead of copied, if possible.
const COPIED_BYTES: u64 = 256 << 20;
/// Maximum number of loose objects per round that are synced individually; for more, one sync of the file system is cheaper.
const SYNCED_ONE_BY_ONE: usize = 32;
/// Objects up to this size are verified in memory.
const SMALL_BYTES: u64 = 1 << 20;
/// Limit of decompressed data for one run: some minutes of work.
const MAX_UNPACKED_BYTES: u64 = 32 << 30;
/// Maximum number of files in one directory of a layer.
pub const MAX_FILES: usize = 1 << 20;
/// Maximum size of the alternates file.
const MAX_ALTERNATES_BYTES: u64 = 1 << 16;
/// Maximum number of object stores linked by alternates.
const MAX_STORES: usize = 8;

/// Phase of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// The sandbox runs and may write its layer.
    Live,
    /// The sandbox has ended.
    Ended,
}

/// Progress of the import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportProgress {
    /// All objects are imported or refused.
    All,
    /// Some wait for the end of the run.
    Some,
}

/// State of the import.
#[derive(Debug)]
pub struct Objects {
    format: Format,
    done: HashSet<Oid>,
    packs: BTreeSet<OsString>,
    budget: Budget,
    /// Refused files, each with the reason.
    pub refused: BTreeMap<PathBuf, Refusal>,
    run: String,
    count: u64,
    /// Loose objects of this round.
    fresh: usize,
}

impl Objects {
    /// Starts an import; `run` makes the names of temporary files unique.
    pub fn new(format: Format, run: &str) -> Objects {
        Objects {
            format,
            done: HashSet::new(),
            packs: BTreeSet::new(),
            budget: Budget::new(MAX_UNPACKED_BYTES),
            refused: BTreeMap::new(),
            run: run.to_owned(),
            count: 0,
            fresh: 0,
        }
    }

    /// Imports new objects of a layer.
    pub fn bring(&mut self, upper: &Dir, host: &Dir, when: RunPhase) -> io::Result<ImportProgress> {
        let dir = match upper.dir(Path::new("objects")) {
            Ok(dir) => dir,
            Err(error) if is_absent(&error) => return Ok(ImportProgress::All),
            // A symlink in place of git's directory.
            Err(_) => return Ok(ImportProgress::All),
        };
        let objects = host.dir(Path::new("objects"))?;
        let mut brought = ImportProgress::All;
        self.fresh = 0;
        for name in dir.list(MAX_FILES)? {
            let path = Path::new(&name);
            if dir.stat(path)?.is_none_or(|stat| Kind::of(&stat) != Kind::Dir) {
                continue;
            }
            let bytes = name.as_encoded_bytes();
            if name == "pack" {
                brought = self.packs(&dir.dir(path)?, &objects, when)?;
            } else if bytes.len() == 2 && bytes.iter().all(u8::is_ascii_hexdigit) {
                self.loose(&name, &dir, &objects)?;
            }
        }
        if self.fresh > SYNCED_ONE_BY_ONE {
            system::sync_file_system_of(&objects)?;
        }
        Ok(brought)
    }

    fn loose(&mut self, first: &OsStr, dir: &Dir, objects: &Dir) -> io::Result<()> {
        let Ok(from) = dir.dir(Path::new(first)) else { return Ok(()) };
        for name in from.list(MAX_FILES)? {
            let whole = [first.as_encoded_bytes(), name.as_encoded_bytes()].concat();
            let Some(oid) = self.format.parse(&whole).filter(|oid| !self.done.contains(oid)) else { continue };
            let path = Path::new("objects").join(first).join(&name);
            if self.refused.contains_key(&path) {
                continue;
            }
            match self.one(oid, &from, &name, (objects, first)) {
                Ok(Ok(())) => drop(self.done.insert(oid)),
                Ok(Err(refusal)) => drop(self.refused.insert(path, refusal)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Copies one loose object into the directory `first` of the host's objects.
    fn one(&mut self, oid: Oid, from: &Dir, name: &OsStr, (objects, first): (&Dir, &OsStr)) -> io::Result<Result<(), Refusal>> {
        let inner = Path::new(first).join(name);
        match from.stat(Path::new(name))?.map(|stat| Kind::of(&stat)) {
            Some(Kind::File) => {}
            // A whiteout does not remove the host's object.
            None | Some(Kind::Whiteout) => return Ok(Ok(())),
            Some(_) => return Ok(Err(Refusal("is not a regular file"))),
        }
        if objects.stat(&inner)?.is_some() {
            return Ok(Ok(()));
        }
        let (mut file, stat) = from.file(Path::new(name))?;
        let into = objects.make(Path::new(first))?;
        if u64::try_from(stat.st_size).is_ok_and(|size| size <= SMALL_BYTES) {
            let mut bytes = Vec::new();
            file.take(SMALL_BYTES + 1).read_to_end(&mut bytes)?;
            if let Err(refusal) = loose_object::verify(&bytes[..], oid, self.format, &mut self.budget) {
                return Ok(Err(refusal));
            }
            let staged = self.name("obj");
            into.write_new(&staged, &bytes, 0o444)?;
            return place_if_verified(self.sync(&into, &staged).map(Ok), &into, &staged, name);
        }
        let staged = self.name("obj");
        let verified = copy(&mut file, &into, &staged).map(|copy| loose_object::verify(copy, oid, self.format, &mut self.budget));
        let verified = verified.and_then(|verified| self.sync(&into, &staged).map(|()| verified));
        place_if_verified(verified, &into, &staged, name)
    }

    /// Syncs a loose object to disk, unless there are so many that the whole file system is synced once.
    fn sync(&mut self, dir: &Dir, staged: &OsStr) -> io::Result<()> {
        self.fresh += 1;
        if self.fresh > SYNCED_ONE_BY_ONE { Ok(()) } else { dir.sync(Path::new(staged)) }
    }

    fn packs(&mut self, from: &Dir, objects: &Dir, when: RunPhase) -> io::Result<ImportProgress> {
        let mut brought = ImportProgress::All;
        for name in from.list(MAX_FILES)? {
            let Some(stem) = pack_stem(&name).filter(|_| !self.packs.contains(&name)) else { continue };
            // git writes the index of a pack last.
            let index = format!("{stem}.idx");
            let is_there = |name: &OsStr| Ok::<_, io::Error>(from.stat(Path::new(name))?.is_some_and(|stat| Kind::of(&stat) == Kind::File));
            if !is_there(&name)? || !is_there(OsStr::new(&index))? {
                continue;
            }
            let (mut file, stat) = from.file(Path::new(&name))?;
            let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
            if when == RunPhase::Live && size > LIVE_PACK_BYTES {
                brought = ImportProgress::Some;
                continue;
            }
            let into = objects.make(Path::new("pack"))?;
            let staged = self.name("pack");
            let linked = when == RunPhase::Ended && size > COPIED_BYTES && into.link_from(from, &name, &staged).is_ok();
            let copied = if linked { into.file(Path::new(&staged)).map(|(file, _)| file) } else { copy(&mut file, &into, &staged) };
            let done = copied.and_then(|copy| self.pack(&copy, &into, &staged));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => {
                    self.refused.insert(Path::new("objects/pack").join(&name), refusal);
                }
                Err(error) => {
                    let _ = into.remove(&staged);
                    return Err(error);
                }
            }
            self.packs.insert(name);
        }
        Ok(brought)
    }

    /// Verifies a pack under its temporary name, and gives it its final name, with a newly made index.
    fn pack(&mut self, file: &File, into: &Dir, staged: &OsStr) -> io::Result<Result<(), Refusal>> {
        let verified = pack::verify(file, file.metadata()?.len(), self.format, &mut self.budget);
        let pack = match verified {
            Ok(pack) => pack,
            Err(refusal) => {
                into.remove(staged)?;
                return Ok(Err(refusal));
            }
        };
        let Some(index) = pack_index::write(&pack, self.format) else {
            into.remove(staged)?;
            return Ok(Err(Refusal("is a SHA-1 collision attack")));
        };
        file.sync_data()?;
        rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o444))?;
        place(into, staged, OsStr::new(&format!("pack-{}.pack", pack.checksum)))?;
        let staged = self.name("idx");
        into.write_new(&staged, &index, 0o444)?;
        into.sync(Path::new(&staged))?;
        place(into, &staged, OsStr::new(&format!("pack-{}.idx", pack.checksum)))?;
        Ok(Ok(()))
    }

    /// A temporary name that git recognizes as garbage.
    fn name(&mut self, kind: &str) -> OsString {
        self.count += 1;
        format!("tmp_{kind}_silo-{}-{}", self.run, self.count).into()
    }
}

/// Gives a file its final name, unless the name exists.
fn place(dir: &Dir, staged: &OsStr, name: &OsStr) -> io::Result<()> {
    let placed = match dir.link_from(dir, staged, name) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        placed => placed,
    };
    dir.remove(staged)?;
    placed
}

fn place_if_verified(
    verified: io::Result<Result<(), Refusal>>,
    dir: &Dir,
    staged: &OsStr,
    name: &OsStr,
) -> io::Result<Result<(), Refusal>> {
    match verified {
        Ok(Ok(())) => place(dir, staged, name).map(Ok),
        refused => {
            // The first error is returned.
            let _ = dir.remove(staged);
            refused
        }
    }
}

/// Copies a file, and returns the copy, opened at its start.
fn copy(from: &mut File, into: &Dir, staged: &OsStr) -> io::Result<File> {
    let mut copy = into.create(staged, 0o444)?;
    io::copy(from, &mut copy)?;
    copy.flush()?;
    let (mut copy, _) = into.file(Path::new(staged))?;
    copy.seek(SeekFrom::Start(0))?;
    Ok(copy)
}

/// Parses `pack-<hex>.pack`.
fn pack_stem(name: &OsStr) -> Option<&str> {
    let stem = name.to_str()?.strip_suffix(".pack")?;
    let hex = stem.strip_prefix("pack-")?;
    (matches!(hex.len(), 40 | 64) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(stem)
}

/// True if the host has an object, in its own store or one of its alternates.
pub fn has(host: &Dir, oid: &Oid, format: Format) -> bool {
    let text = oid.to_string();
    let inner = Path::new(&text[..2]).join(&text[2..]);
    stores(host).any(|objects| {
        if objects.stat(&inner).is_ok_and(|stat| stat.is_some()) {
            return true;
        }
        let pack = objects.dir(Path::new("pack"));
        let indexes = pack.iter().flat_map(|pack| pack.list(MAX_FILES).unwrap_or_default());
        indexes.filter(|name| name.as_encoded_bytes().ends_with(b".idx")).any(|name| {
            let file = pack.as_ref().ok().and_then(|pack| pack.file(Path::new(&name)).ok());
            file.is_some_and(|(file, _)| pack_index::has(&file, oid, format))
        })
    })
}

/// Opens the object stores of the host: its own, and its alternates.
pub fn stores(host: &Dir) -> impl Iterator<Item = Dir> {
    let mut stores: Vec<Dir> = host.dir(Path::new("objects")).into_iter().collect();
    let mut seen = 0;
    std::iter::from_fn(move || {
        let objects = stores.pop()?;
        seen += 1;
        let alternates = objects.read(Path::new("info/alternates"), MAX_ALTERNATES_BYTES).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&alternates);
        stores.extend(
            text.lines()
                .filter(|line| line.starts_with('/'))
                .take(MAX_STORES - seen.min(MAX_STORES))
                .flat_map(|line| Dir::open(Path::new(line))),
        );
        Some(objects)
    })
}
