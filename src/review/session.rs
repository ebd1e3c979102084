//! The review of one project: its private layer, kept between runs until its changes are decided.
//!
//! ```text
//! reviews/<identity of the project>/lock           held by a run, or by a command that decides; its time is the start of the last run
//! reviews/<identity of the project>/session.json   project, start, tool
//! reviews/<identity of the project>/base           marks of the project's files, see `base`
//! reviews/<identity of the project>/upper, work    the layer, as overlayfs stores it
//! reviews/<identity of the project>/git            the layer of the project's repository, see `silo_guard::git::layer`
//! reviews/<identity of the project>/done           applied changes that can be undone, see `undo`
//! ```

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use serde::{Deserialize, Serialize};
use silo_store::locked_file::LockedFile;
use silo_store::{private, read_limited};

use silo_base::identity::DirectoryId;
use silo_guard::git::dir_fd::{Dir, is_absent};

use crate::base::{Base, Moments};
use crate::error::{Error, at};
use crate::mark;

/// Version of `session.json`.
const VERSION: u32 = 1;
/// Maximum size of `session.json`.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// A review of a project.
#[derive(Debug)]
pub struct Session {
    dir: PathBuf,
    record: Record,
    lock: Option<LockedFile>,
}

/// Contents of `session.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    /// Paths may have any bytes.
    project: Vec<u8>,
    identity: String,
    /// Nanoseconds since 1970; as text, because JSON numbers are shorter.
    began: String,
    /// Start of the run; of the one that wrote the record, in a record that was read.
    run: String,
    /// Tool of the last run.
    tool: String,
}

impl Session {
    /// Opens the review of a project for a run, and begins one if there is none. Fails if it is in use.
    pub fn begin(reviews: &Path, project: &Path, tool: &str) -> Result<Session, Error> {
        let identity = DirectoryId::of(project).map_err(at("read", project))?;
        let dir = reviews.join(identity.key());
        private::make_dir(&dir)?;
        let lock = lock(&dir, project)?;
        let now = now(&lock).map_err(at("write", dir.join("lock")))?;
        let before = read(&dir)?;
        let mode = fs::metadata(project).map_err(at("read", project))?.mode() & 0o777;
        for (name, mode) in [("upper", mode | 0o700), ("work", 0o700)] {
            let made = dir.join(name);
            match DirBuilder::new().mode(0o700).create(&made) {
                Ok(()) => fs::set_permissions(&made, Permissions::from_mode(mode)).map_err(at("make", &made))?,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(at("make", &made)(error)),
            }
        }
        let record = Record {
            version: VERSION,
            project: project.as_os_str().as_bytes().to_vec(),
            identity: identity.text(),
            began: before.as_ref().map_or_else(|| now.to_string(), |before| before.began.clone()),
            run: now.to_string(),
            tool: tool.to_owned(),
        };
        let is_recorded = before.is_some_and(|before| Record { run: record.run.clone(), ..before } == record);
        let session = Session { dir, record, lock: Some(lock) };
        if !is_recorded {
            session.write()?;
        }
        Ok(session)
    }

    /// Finds the review of a project, without locking it.
    pub fn find(reviews: &Path, project: &Path) -> Result<Option<Session>, Error> {
        let identity = match DirectoryId::of(project) {
            Ok(identity) => identity,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(at("read", project)(error)),
        };
        let mut found = Session::at(reviews.join(identity.key()))?;
        // The directory may have been moved since the last run.
        found.iter_mut().for_each(|session| session.record.project = project.as_os_str().as_bytes().to_vec());
        Ok(found)
    }

    /// Opens the review in a directory, without locking it.
    pub(crate) fn at(dir: PathBuf) -> Result<Option<Session>, Error> {
        Ok(read(&dir)?.map(|record| Session { dir, record, lock: None }))
    }

    /// Locks the review for a decision; fails if it is in use.
    pub fn lock(&mut self) -> Result<(), Error> {
        if self.lock.is_none() {
            self.lock = Some(lock(&self.dir, &self.project())?);
        }
        Ok(())
    }

    /// Releases the lock.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// True if a run or another command has locked the review.
    pub fn is_busy(&self) -> bool {
        self.lock.is_none() && matches!(lock(&self.dir, &self.project()), Err(Error::Busy { .. }))
    }

    /// Returns the directory of the review.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the project at the last run.
    pub fn project(&self) -> PathBuf {
        OsString::from_vec(self.record.project.clone()).into()
    }

    /// True if the project's directory is not at its path any more.
    pub fn is_gone(&self) -> bool {
        let recorded = DirectoryId::parse(&self.record.identity);
        match (DirectoryId::of(&self.project()), recorded) {
            (Ok(now), Some(recorded)) => !now.is_same(&recorded),
            (Ok(_), None) => false,
            // An unreadable directory may exist.
            (Err(error), _) => is_absent(&error),
        }
    }

    /// Returns the tool of the last run.
    pub fn tool(&self) -> &str {
        &self.record.tool
    }

    /// Returns the upper directory of the overlay.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Returns the work directory of the overlay.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Returns the directory with the layer of the project's repository.
    pub fn git(&self) -> PathBuf {
        self.dir.join("git")
    }

    /// Returns the start of the review and of its last run.
    pub fn moments(&self) -> Moments {
        let parse = |text: &str| text.parse().unwrap_or(0);
        Moments { review: parse(&self.record.began), run: parse(&self.record.run) }
    }

    /// Opens the upper directory.
    pub fn open_upper(&self) -> Result<Dir, Error> {
        Dir::open(&self.upper()).map_err(at("open", self.upper()))
    }

    /// Reads the marks of the project's files; `None` if a killed run took none.
    pub fn base(&self) -> Result<Option<Base>, Error> {
        Base::read(&self.base_path()).map_err(at("read", self.base_path()))
    }

    /// Marks the project's files for the current run.
    pub fn mark_files(&self) -> Result<(), Error> {
        let project = self.project();
        let project = Dir::open(&project).map_err(at("open", &project))?;
        let before = self.base()?;
        let base = Base::mark(&project, &self.open_upper()?, before.as_ref(), self.moments());
        if before.as_ref() == Some(&base) { Ok(()) } else { self.write_base(&base) }
    }

    /// Writes the marks.
    pub fn write_base(&self, base: &Base) -> Result<(), Error> {
        base.write(&self.base_path()).map_err(at("write", self.base_path()))
    }

    /// Returns the state that a thread needs to mark the project's files.
    pub fn observer(&self) -> Observer {
        Observer(Session { dir: self.dir.clone(), record: self.record.clone(), lock: None })
    }

    fn base_path(&self) -> PathBuf {
        self.dir.join("base")
    }

    fn write(&self) -> Result<(), Error> {
        let path = self.dir.join("session.json");
        let text = serde_json::to_vec(&self.record).map_err(|error| at("write", &path)(error.into()))?;
        let new = self.dir.join("session.new");
        private::write(&new, &text).and_then(|()| fs::rename(&new, &path)).map_err(at("write", &path))
    }
}

/// Marks the project's files while a program runs.
#[derive(Debug)]
pub struct Observer(Session);

impl Observer {
    /// Marks the files.
    pub fn mark_files(&self) -> Result<(), Error> {
        self.0.mark_files()
    }
}

/// Locks the review in a directory.
pub(crate) fn lock(dir: &Path, project: &Path) -> Result<LockedFile, Error> {
    let path = dir.join("lock");
    let busy = || Error::Busy { project: project.to_owned() };
    let file = private::open_lock(&path).map_err(at("lock", &path))?;
    let lock = LockedFile::try_exclusive(file).map_err(at("lock", &path))?.ok_or_else(busy)?;
    // The review may have been removed between both calls.
    let (ours, now) = (lock.metadata().map_err(at("lock", &path))?, fs::metadata(&path));
    match now {
        Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => Ok(lock),
        _ => Err(busy()),
    }
}

/// Returns the current time of the file system's clock: that of a change of the lock file, whose content need not be written to disk.
fn now(lock: &File) -> std::io::Result<i128> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(lock, &Timestamps { last_access: now, last_modification: now })?;
    Ok(mark::changed(&rustix::fs::fstat(lock)?))
}

fn read(dir: &Path) -> Result<Option<Record>, Error> {
    let path = dir.join("session.json");
    let bytes = match read_limited::read(&path, MAX_RECORD_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(at("read", &path)(error)),
    };
    let refused = |reason: String| Error::Record { path: path.clone(), reason };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    match record.version {
        VERSION => Ok(Some(record)),
        version => Err(refused(format!("its version is {version}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_belongs_to_one_directory_and_one_run_at_a_time() {
        let place = tempfile::tempdir().expect("a directory");
        let (reviews, project) = (place.path().join("reviews"), place.path().join("p"));
        fs::create_dir(&project).expect("made");
        assert!(Session::find(&reviews, &project).expect("looked").is_none());
        let first = Session::begin(&reviews, &project, "sh").expect("begun");
        assert!(matches!(Session::begin(&reviews, &project, "sh"), Err(Error::Busy { .. })));
        let mut found = Session::find(&reviews, &project).expect("looked").expect("there");
        assert!(found.is_busy() && found.lock().is_err());
        let began = first.moments().review;
        drop(first);
        found.lock().expect("free");
        drop(found);
        // The directory is the same after a rename, and another one at its path is not.
        let moved = place.path().join("q");
        fs::rename(&project, &moved).expect("renamed");
        fs::create_dir(&project).expect("made");
        assert!(Session::find(&reviews, &project).expect("looked").is_none());
        let again = Session::begin(&reviews, &moved, "sh").expect("begun");
        assert_eq!((again.moments().review, again.project()), (began, moved.clone()));
        assert!(again.moments().run >= began && !again.is_gone());
        drop(again);
        fs::remove_dir(&project).expect("made");
        fs::rename(&moved, &project).expect("renamed");
        let found = Session::find(&reviews, &project).expect("looked").expect("there");
        assert!(found.project() == project && !found.is_gone());
        fs::rename(&project, &moved).expect("renamed");
        assert!(found.is_gone());
        fs::create_dir(&project).expect("made");
        assert!(found.is_gone());
    }
}
