//! Atomic writes of small files, and syncs against power loss.

use crate::path_error::{PathError, at};
use crate::private;
use crate::system;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of the names of temporary files; gc removes them.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

/// Returns a number that is unique in this process.
pub(crate) fn next_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Replaces the file at `path`: write, sync, rename, sync the directory.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), PathError> {
    let dir = path.parent().expect("store files lie in a directory");
    let temp = write_temp(dir, bytes)?;
    let synced = File::open(&temp).and_then(|file| file.sync_all()).map_err(at("sync", &temp));
    let renamed = synced.and_then(|()| fs::rename(&temp, path).map_err(at("replace", path)));
    if renamed.is_err() {
        // Report the first error; gc removes the temporary file if this fails.
        let _ = fs::remove_file(&temp);
    }
    renamed?;
    sync_dir(dir)
}

/// Replaces many files of one directory with one sync of the whole file system.
pub(crate) fn replace_many(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<(), PathError> {
    let mut temps: Vec<PathBuf> = Vec::with_capacity(files.len());
    for (_, bytes) in files {
        temps.push(write_temp(dir, bytes)?);
    }
    system::sync_file_system(dir)?;
    for (temp, (name, _)) in temps.iter().zip(files) {
        let path = dir.join(name);
        fs::rename(temp, &path).map_err(at("replace", &path))?;
    }
    sync_dir(dir)
}

/// Syncs a directory, so that its names survive a power loss.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), PathError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(at("sync", dir))
}

fn write_temp(dir: &Path, bytes: &[u8]) -> Result<PathBuf, PathError> {
    loop {
        let name = format!("{TEMP_PREFIX}{}-{}", std::process::id(), next_number());
        let temp = dir.join(name);
        let mut file = match private::create_new(&temp) {
            // Left by a dead process with the same pid.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(at("create", &temp))?,
        };
        let written = file.write_all(bytes).map_err(at("write", &temp));
        if written.is_err() {
            // Report the first error; gc removes the temporary file if this fails.
            let _ = fs::remove_file(&temp);
        }
        return written.map(|()| temp);
    }
}
