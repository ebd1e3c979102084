//! Writes into a directory with an OCI layout: blobs by their digest, and the index of names.
//!
//! The user named the directory, so its files have the usual permissions: a team or a web server reads them. A file appears by one rename,
//! and the index is changed under a lock, so that two pushes do not lose each other's names.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use silo_store::digest::{Digest, Hasher};
use silo_store::locked_file::LockedFile;
use silo_store::read_limited;
use tempfile::{Builder, NamedTempFile};

use silo_model::oci::artifact::{self, Document, Entry};
use silo_model::oci::kept_index::KeptIndex;
use silo_model::oci::manifest::MAX_DOCUMENT_BYTES;
use silo_model::oci::{self};

use super::error::Error;
use super::layout::{NAME, blob};

/// The index of a layout.
pub const INDEX: &str = "index.json";
/// The file whose lock a writer holds.
const LOCK: &str = ".lock";
/// The age from which a blob without a name is no part of a push that is running.
const SWEPT_AGE: Duration = Duration::from_secs(3600);
/// The end of the name of a file that is not complete.
const PARTIAL: &str = ".part";
/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes a blob, unless it is there; its bytes must have the digest.
pub fn put_blob(dir: &Path, digest: Digest, from: &mut dyn Read) -> Result<(), Error> {
    let path = dir.join(blob(digest));
    if has_blob(dir, digest)? {
        return Ok(());
    }
    prepare(dir)?;
    let mut file = temporary(&path)?;
    let failed = |source| Error::Write { path: path.clone(), source };
    let (mut hasher, mut piece) = (Hasher::new(), vec![0; CHUNK_BYTES]);
    loop {
        let count = from.read(&mut piece).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        file.write_all(&piece[..count]).map_err(failed)?;
    }
    match hasher.finish() {
        got if got == digest => file.as_file().sync_all().map_err(failed)?,
        got => return Err(Error::Digest { url: path.display().to_string(), expected: digest, got }),
    }
    file.persist(&path).map(drop).map_err(|error| failed(error.error))
}

/// Returns true if a blob is there, and makes it a young one: a sweep that runs at the same time does not remove it, even though nothing
/// names it yet.
pub fn has_blob(dir: &Path, digest: Digest) -> Result<bool, Error> {
    let path = dir.join(blob(digest));
    if !path.exists() {
        return Ok(false);
    }
    let _alone = alone(dir)?;
    let failed = |source| Error::Write { path: path.clone(), source };
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(failed)?,
    };
    match opened.set_modified(SystemTime::now()) {
        // The blob of another user of a shared directory; that one, too, sweeps only old blobs.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        done => done.map(|()| true).map_err(failed),
    }
}

/// Reads the entries of the index; a directory without one has none.
pub fn entries(dir: &Path) -> Result<Vec<Entry>, Error> {
    let path = dir.join(INDEX);
    text(&path)?.map_or(Ok(Vec::new()), |bytes| index(&path.display().to_string(), &bytes))
}

fn text(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read_limited::read(path, MAX_DOCUMENT_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Parses the entries of an index.
pub fn index(url: &str, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let document: Document = artifact::read(bytes).map_err(|what| Error::Document { url: url.to_owned(), what })?;
    Ok(document.manifests)
}

/// Gives a manifest a name, which another one may have had.
pub fn set_name(dir: &Path, name: &str, mut entry: Entry) -> Result<(), Error> {
    prepare(dir)?;
    entry.annotations.insert(NAME.to_owned(), name.to_owned());
    change(dir, |all| {
        all.retain(|other| other.annotations.get(NAME).map(String::as_str) != Some(name));
        all.push(entry);
        all.sort_by_key(|entry| entry.annotations.get(NAME).cloned());
    })
}

/// Lists the names.
pub fn names(dir: &Path) -> Result<Vec<String>, Error> {
    Ok(entries(dir)?.into_iter().filter_map(|mut entry| entry.annotations.remove(NAME)).collect())
}

/// Removes all names of a manifest.
pub fn remove_names(dir: &Path, digest: Digest) -> Result<(), Error> {
    change(dir, |all| all.retain(|entry| entry.pointer.digest != digest))
}

/// Changes the index, which other programs write too.
fn change(dir: &Path, change: impl FnOnce(&mut KeptIndex)) -> Result<(), Error> {
    let _alone = alone(dir)?;
    let path = dir.join(INDEX);
    let wrong = |what| Error::Document { url: path.display().to_string(), what };
    let mut all = KeptIndex::read(text(&path)?.as_deref()).map_err(wrong)?;
    change(&mut all);
    replace(&path, &all.to_bytes().map_err(wrong)?)
}

/// Removes blobs that nothing names and that are older than an hour; returns their number and bytes.
pub fn sweep(dir: &Path, named: &BTreeSet<Digest>) -> Result<(usize, u64), Error> {
    let _alone = alone(dir)?;
    let blobs = dir.join("blobs/sha256");
    let failed = |source| Error::Read { path: blobs.clone(), source };
    let (mut count, mut bytes) = (0, 0);
    for entry in fs::read_dir(&blobs).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // A killed push leaves files of its own; files with other names are not ours.
        let Some(name) = name.to_str() else { continue };
        let digest = Digest::parse(name).ok();
        let is_partial = name.starts_with('.') && name.ends_with(PARTIAL);
        let facts = entry.metadata().map_err(failed)?;
        let is_young = facts.modified().ok().and_then(|at| at.elapsed().ok()).is_none_or(|age| age < SWEPT_AGE);
        if digest.map_or(!is_partial, |digest| named.contains(&digest)) || is_young || !facts.is_file() {
            continue;
        }
        fs::remove_file(entry.path()).map_err(|source| Error::Write { path: entry.path(), source })?;
        count += 1;
        bytes += facts.len();
    }
    Ok((count, bytes))
}

/// Waits until no other writer changes the index.
fn alone(dir: &Path) -> Result<LockedFile, Error> {
    let lock = dir.join(LOCK);
    let failed = |source| Error::Write { path: lock.clone(), source };
    let file = File::options().create(true).append(true).open(&lock).map_err(failed)?;
    LockedFile::exclusive(file).map_err(failed)
}

/// Makes the directories and the marker of a layout.
fn prepare(dir: &Path) -> Result<(), Error> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|source| Error::Write { path: blobs.clone(), source })?;
    let marker = dir.join(oci::LAYOUT.0);
    if marker.exists() { Ok(()) } else { replace(&marker, oci::LAYOUT.1.as_bytes()) }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut file = temporary(path)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// Creates the file that gets the name `path` once it is complete. Its name is random, so another writer has another one.
fn temporary(path: &Path) -> Result<NamedTempFile, Error> {
    let dir = path.parent().unwrap_or(path);
    let permissions = Permissions::from_mode(0o666);
    let made = Builder::new().prefix(".").suffix(PARTIAL).permissions(permissions).tempfile_in(dir);
    made.map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_have_their_digest_and_names_are_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let digest = Digest::of(b"x");
        let wrong = put_blob(dir.path(), digest, &mut &b"y"[..]).expect_err("another digest");
        assert!(matches!(wrong, Error::Digest { .. }), "{wrong}");
        assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).expect("made").count(), 0);
        put_blob(dir.path(), digest, &mut &b"x"[..]).expect("written");
        put_blob(dir.path(), digest, &mut &b"not read"[..]).expect("it is there");
        // A sweep removes old files without a name, those of killed pushes too, but no blob that a push has just found.
        let blobs = dir.path().join("blobs/sha256");
        fs::write(blobs.join(".killed.part"), "x").expect("written");
        fs::write(blobs.join("note"), "x").expect("written");
        let age = |name: &str| {
            let long_ago = SystemTime::now() - Duration::from_secs(7200);
            File::options().write(true).open(blobs.join(name)).and_then(|file| file.set_modified(long_ago)).expect("our own");
        };
        [".killed.part", "note", &digest.to_string()].into_iter().for_each(age);
        assert!(has_blob(dir.path(), digest).expect("read"));
        assert_eq!(sweep(dir.path(), &BTreeSet::new()).expect("swept"), (1, 1));
        assert!(blobs.join("note").exists() && blobs.join(digest.to_string()).exists());
        age(&digest.to_string());
        assert_eq!(sweep(dir.path(), &BTreeSet::from([digest])).expect("swept"), (0, 0));
        assert_eq!(sweep(dir.path(), &BTreeSet::new()).expect("swept"), (1, 1));
        assert!(!has_blob(dir.path(), digest).expect("read"));
        let entry = |text: &[u8]| Entry::of_artifact("x/y", text);
        for (name, text) in [("b", &b"1"[..]), ("a", b"2"), ("b", b"3")] {
            set_name(dir.path(), name, entry(text)).expect("named");
        }
        let all = entries(dir.path()).expect("an index");
        let names: Vec<(&str, Digest)> = all.iter().map(|entry| (entry.annotations[NAME].as_str(), entry.pointer.digest)).collect();
        assert_eq!(names, [("a", Digest::of(b"2")), ("b", Digest::of(b"3"))]);
        // Another program adds fields that silo does not know.
        let path = dir.path().join(INDEX);
        let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("an index")).expect("JSON");
        index["com.example.note"] = "kept".into();
        index["manifests"][0]["urls"] = serde_json::json!(["https://example.com/x"]);
        fs::write(&path, index.to_string()).expect("our own");
        set_name(dir.path(), "c", entry(b"4")).expect("named");
        remove_names(dir.path(), Digest::of(b"3")).expect("removed");
        let index: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("an index")).expect("JSON");
        assert_eq!((&index["com.example.note"], &index["manifests"][0]["urls"][0]), (&"kept".into(), &"https://example.com/x".into()));
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2), "{index}");
    }
}
