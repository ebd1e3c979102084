//! Images: ordered layers plus a run configuration, composed into one read-only root.
//!
//! An image is an OCI image configuration, and its id is the digest of that configuration, as in OCI. Its directory also holds the
//! *composed* root: one tree of hard links to the layers' files. The root is made once, so that a run mounts a single overlay lower
//! directory however many layers the image has.

pub mod boot;
pub mod compressed;
mod config;
pub mod export;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use silo_store::compose::{ComposeError, Composed};
use silo_store::digest::Digest;
use silo_store::layout::Store;
use silo_store::path_error::PathError;
use silo_store::{private, removal};

use silo_base::home::Home;
use silo_model::derivation::DrvId;

pub use config::Image;

/// Image id: the digest of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(Digest);

impl ImageId {
    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<ImageId> {
        Digest::parse(text).ok().map(ImageId)
    }

    /// Returns the digest.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl std::fmt::Display for ImageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Error of reading or writing an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file of the image failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The configuration was changed, or is not one that Silo wrote.
    #[error("image {id}: {what}")]
    Config {
        /// The image.
        id: String,
        /// The fault.
        what: String,
    },
    /// Composing the root failed.
    #[error("cannot compose the root of image {id}")]
    Compose {
        /// The image.
        id: ImageId,
        /// The cause, from the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Decodes an image's configuration; the error says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Image, String> {
    config::read(bytes)
}

/// Encodes an image's configuration; returns it with its id.
pub fn configuration(image: &Image) -> (ImageId, Vec<u8>) {
    let bytes = config::write(image);
    (ImageId(Digest::of(&bytes)), bytes)
}

/// Stores an image; `compose` makes the root at the given path. Does nothing if the image exists.
pub fn put(
    home: &Home,
    store: &Store,
    image: &Image,
    drv: DrvId,
    compose: impl FnOnce(&Path) -> Result<Composed, ComposeError>,
) -> Result<ImageId, Error> {
    let id = self::store(home, store, image, compose)?;
    remember(home, drv, id)?;
    Ok(id)
}

/// Stores an image that counts for no derivation yet.
pub fn store(
    home: &Home,
    store: &Store,
    image: &Image,
    compose: impl FnOnce(&Path) -> Result<Composed, ComposeError>,
) -> Result<ImageId, Error> {
    let (id, bytes) = configuration(image);
    let dir = home.image(&id.to_string());
    if !is_intact(home, id) {
        let staged = unique_dir(home, "image-")?;
        // Sync before the name appears: a whole configuration must not stand for an image with missing bytes.
        let synced = || store.sync_images().map_err(|source| Error::Compose { id, source: Box::new(source) });
        let result = write(id, &bytes, &staged, compose).and_then(|()| synced()).and_then(|()| publish(home, id, &staged, &dir));
        if let Err(error) = result {
            // A partial directory is never taken for an image; a leftover is swept by `silo gc`.
            drop(remove(&staged));
            return Err(error);
        }
        // Sync before the id is returned or recorded: the name must survive a power cut from then on.
        let images = home.images();
        std::fs::File::open(&images).and_then(|dir| dir.sync_all()).map_err(failed("sync", &images))?;
    }
    Ok(id)
}

/// Makes an empty directory in the home's work directory, with a name that no other process or thread uses. A killed process leaves it to
/// `silo gc`.
pub fn unique_dir(home: &Home, prefix: &str) -> Result<PathBuf, Error> {
    let work = home.work();
    make_dir(&work)?;
    let owner_only = std::fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().prefix(prefix).permissions(owner_only).tempdir_in(&work);
    Ok(made.map_err(failed("create a directory in", &work))?.keep())
}

fn write(id: ImageId, bytes: &[u8], dir: &Path, compose: impl FnOnce(&Path) -> Result<Composed, ComposeError>) -> Result<(), Error> {
    make_dir(dir)?;
    let outcome = compose(&dir.join(ROOT)).map_err(|source| Error::Compose { id, source: Box::new(source) })?;
    let index = dir.join("index");
    private::write(&index, &outcome.merged.index.to_text()).map_err(failed("write", &index))?;
    let config = config_path(dir);
    private::write(&config, bytes).map_err(failed("write", &config))
}

fn publish(home: &Home, id: ImageId, staged: &Path, dir: &Path) -> Result<(), Error> {
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    if dir.exists() {
        // Either another process was faster, or the existing configuration is damaged and is replaced.
        if is_intact(home, id) {
            return remove(staged);
        }
        remove(dir)?;
    }
    std::fs::rename(staged, dir).map_err(failed("rename to", dir))
}

/// Removes an image's directory, even if its root has read-only directories.
fn remove(dir: &Path) -> Result<(), Error> {
    removal::remove_tree(dir).map_err(Error::from)
}

/// Reads an image; `None` if it does not exist. A configuration that does not match its id's digest is an error.
pub fn get(home: &Home, id: ImageId) -> Result<Option<Image>, Error> {
    let path = config_path(&home.image(&id.to_string()));
    match std::fs::read(&path) {
        Ok(bytes) if Digest::of(&bytes) != id.0 => {
            Err(Error::Config { id: id.to_string(), what: format!("{} was changed", path.display()) })
        }
        Ok(bytes) => config::read(&bytes).map(Some).map_err(|what| Error::Config { id: id.to_string(), what }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Returns true if an image exists and its configuration matches its id.
fn is_intact(home: &Home, id: ImageId) -> bool {
    matches!(get(home, id), Ok(Some(_)))
}

/// Name of the composed root in an image's directory.
pub const ROOT: &str = "root";

/// Returns the path of an image's composed root.
pub fn root(home: &Home, id: ImageId) -> PathBuf {
    home.image(&id.to_string()).join(ROOT)
}

/// Returns the path of the index of the composed root.
pub fn index_path(home: &Home, id: ImageId) -> PathBuf {
    home.image(&id.to_string()).join("index")
}

/// Returns true if an image exists, cold or not; does not verify it.
pub fn is_there(home: &Home, id: ImageId) -> bool {
    config_path(&home.image(&id.to_string())).exists()
}

/// Records that an image is used now, as the modification time of its directory: one system call, no extra file.
pub fn touch(home: &Home, id: ImageId) {
    stamp(&home.image(&id.to_string()));
}

/// Sets a path's times to now. An error is ignored: it only makes the path look older to gc.
pub fn stamp(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    let _ = utimensat(CWD, path, &times, AtFlags::empty());
}

/// Returns the time of an image's last use in seconds since 1970, or of its creation if it was never used.
pub fn last_used(home: &Home, id: ImageId) -> Option<i64> {
    std::fs::metadata(home.image(&id.to_string())).ok().map(|found| found.mtime())
}

/// Finds the existing image that a derivation made.
pub fn made_by(home: &Home, drv: DrvId) -> Option<ImageId> {
    let text = std::fs::read_to_string(memory(home, drv)).ok()?;
    let id = ImageId::parse(text.trim())?;
    is_intact(home, id).then_some(id)
}

/// Lists all images.
pub fn list(home: &Home) -> Result<Vec<ImageId>, Error> {
    let dir = home.images();
    let listing = match std::fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", &dir)(error)),
    };
    let mut ids = Vec::new();
    for entry in listing {
        let name = entry.map_err(failed("list", &dir))?.file_name();
        ids.extend(name.to_str().and_then(ImageId::parse));
    }
    ids.sort();
    Ok(ids)
}

/// Lists the derivations that made an image.
pub fn derivations(home: &Home, id: ImageId) -> Result<BTreeSet<DrvId>, Error> {
    let dir = home.made();
    let listing = match std::fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(failed("list", &dir)(error)),
    };
    let mut found = BTreeSet::new();
    for entry in listing {
        let name = entry.map_err(failed("list", &dir))?.file_name();
        let drv = name.to_str().and_then(|name| Digest::parse(name).ok()).map(DrvId::of_digest);
        found.extend(drv.filter(|drv| made_by(home, *drv) == Some(id)));
    }
    Ok(found)
}

/// Records that a derivation made an image.
pub fn remember(home: &Home, drv: DrvId, id: ImageId) -> Result<(), Error> {
    let dir = home.made();
    make_dir(&dir)?;
    let path = memory(home, drv);
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    private::write(&staged, format!("{id}\n").as_bytes()).map_err(failed("write", &staged))?;
    std::fs::rename(&staged, &path).map_err(failed("write", &path))
}

/// Returns the path of the file that records the image a derivation made.
fn memory(home: &Home, drv: DrvId) -> PathBuf {
    home.made().join(drv.to_string())
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("config.json")
}

/// Creates a directory in Silo's home.
fn make_dir(dir: &Path) -> Result<(), Error> {
    Ok(private::make_dir(dir)?)
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File(PathError { doing, path: path.to_owned(), source })
}
