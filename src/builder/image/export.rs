//! Exports images for other programs: an OCI layout, a `docker save` archive, and the root as a tar or an EROFS file system.
//!
//! The layers of an image are flattened to one, the canonical tar of the composed root, because other programs stack at most a hundred
//! layers. All dates are the image's own epoch, so every export of an image has the same bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use silo_store::commit::TreeError;
use silo_store::compression;
use silo_store::digest::{Digest, HashingWriter, LayerId};
use silo_store::erofs::{self, View};
use silo_store::index::Index;
use silo_store::path_error::{PathError, at};

use silo_base::home::Home;
use silo_model::oci::{self, Blob};

use super::{Image, ImageId};

/// Compression of layers: gzip's default.
const GZIP_LEVEL: u32 = 6;

/// "Unknown" in the OS byte of the gzip header, so that exports from different hosts are equal.
const GZIP_UNKNOWN_SYSTEM: u8 = 255;

/// Returns a gzip encoder whose bytes depend on its input alone.
pub fn gzip_encoder<W: Write>(out: W) -> GzEncoder<W> {
    GzBuilder::new().mtime(0).operating_system(GZIP_UNKNOWN_SYSTEM).write(out, Compression::new(GZIP_LEVEL))
}

/// Format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI layout directory.
    Oci,
    /// An archive for `docker load` and `podman load`.
    Docker,
    /// A tar of the root.
    Rootfs,
    /// A mountable EROFS file system of the root.
    Erofs,
}

/// Error of an export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output path exists.
    #[error("{path} already exists", path = .path.display())]
    Taken {
        /// The output path.
        path: PathBuf,
    },
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] super::Error),
    /// The root no longer matches its index.
    #[error("the root of image {id}")]
    Root {
        /// The image.
        id: ImageId,
        /// The difference.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Writing the export failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// An image to export.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The image's id.
    pub id: ImageId,
    /// The image.
    pub image: &'a Image,
    /// The format.
    pub form: Form,
    /// The name or tag in the export.
    pub name: &'a str,
    /// The path to write; it must not exist.
    pub place: &'a Path,
}

/// Exports an image; returns the digest that other programs know the result by.
pub fn export(home: &Home, export: &Export<'_>) -> Result<Digest, Error> {
    let Export { id, image, form, name, place } = *export;
    if fs::symlink_metadata(place).is_ok() {
        return Err(Error::Taken { path: place.to_owned() });
    }
    let mut staged = place.as_os_str().to_owned();
    staged.push(format!(".{}.part", std::process::id()));
    let staged = PathBuf::from(staged);
    let source = Source { id, image, index: index_of(home, id)?, root: super::root(home, id) };
    let written = match form {
        Form::Oci => source.layout(&staged, name),
        Form::Docker => source.docker(&staged, name),
        Form::Rootfs => source.rootfs(&staged),
        Form::Erofs => source.erofs(&staged),
    };
    let done = written.and_then(|digest| {
        fs::rename(&staged, place).map_err(at("rename to", place))?;
        Ok(digest)
    });
    if done.is_err() {
        // A partial export is useless. An error of the removal is dropped, because the first error matters more.
        drop(silo_store::removal::remove_tree(&staged));
        drop(fs::remove_file(layer_beside(&staged)));
    }
    done
}

fn index_of(home: &Home, id: ImageId) -> Result<Index, Error> {
    let path = super::index_path(home, id);
    let text = fs::read(&path).map_err(at("read", &path))?;
    Index::parse(&text).map_err(|source| Error::Root { id, source: Box::new(source) })
}

/// An image with its files.
struct Source<'a> {
    id: ImageId,
    image: &'a Image,
    index: Index,
    root: PathBuf,
}

impl Source<'_> {
    fn rootfs(&self, place: &Path) -> Result<Digest, Error> {
        let mut out = Output::create(place)?;
        let layer = self.archive(&mut out)?;
        out.close()?;
        Ok(layer.digest())
    }

    fn erofs(&self, place: &Path) -> Result<Digest, Error> {
        let mut out = Output::create(place)?;
        erofs::write(&self.index, &self.root, View::True, &mut out)
            .map_err(|source| Error::Root { id: self.id, source: Box::new(source) })?;
        Ok(out.close()?.0)
    }

    fn layout(&self, place: &Path, name: &str) -> Result<Digest, Error> {
        let blobs = place.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(at("create", &blobs))?;
        let staged = blobs.join("layer");
        let out = Output::create(&staged)?;
        let mut gzip = gzip_encoder(out);
        let diff_id = self.archive(&mut gzip)?;
        let (digest, size) = gzip.finish().map_err(at("write", &staged))?.close()?;
        let path = blobs.join(digest.to_string());
        fs::rename(&staged, &path).map_err(at("rename to", &path))?;
        let put = |media_type: &'static str, bytes: &[u8]| -> Result<Blob, Error> {
            let blob = Blob::of(media_type, bytes);
            write(&blobs.join(blob.digest.to_string()), bytes)?;
            Ok(blob)
        };
        let config = put(oci::CONFIG, &self.configuration(diff_id))?;
        let manifest = put(oci::MANIFEST, &oci::manifest(&config, &[Blob { media_type: oci::LAYER_GZIP, digest, size }]))?;
        write(&place.join("index.json"), &oci::index(&manifest, self.image.arch, name))?;
        write(&place.join(oci::LAYOUT.0), oci::LAYOUT.1.as_bytes())?;
        Ok(manifest.digest)
    }

    fn docker(&self, place: &Path, name: &str) -> Result<Digest, Error> {
        let staged = layer_beside(place);
        let mut out = Output::create(&staged)?;
        let diff_id = self.archive(&mut out)?;
        out.close()?;
        let config = self.configuration(diff_id);
        let id = Digest::of(&config);
        let (config_name, layer_name) = (format!("{id}.json"), format!("{}/layer.tar", diff_id.digest()));
        let layer = File::open(&staged).map_err(at("open", &staged))?;
        let size = layer.metadata().map_err(at("read", &staged))?.len();
        let list = oci::docker_manifest(&config_name, name, &layer_name);
        let file = File::create_new(place).map_err(at("create", place))?;
        let mut tar = tar::Builder::new(BufWriter::new(file));
        let mut add = |name: &str, size: u64, data: &mut dyn io::Read| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(size);
            header.set_mtime(u64::try_from(self.image.epoch).unwrap_or(0));
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, name, data).map_err(at("write", place))
        };
        add(&layer_name, size, &mut { layer })?;
        add(&config_name, config.len() as u64, &mut config.as_slice())?;
        add("manifest.json", list.len() as u64, &mut list.as_slice())?;
        let buffered = tar.into_inner().map_err(at("write", place))?;
        let file = buffered.into_inner().map_err(|error| at("write", place)(error.into_error()))?;
        file.sync_all().map_err(at("sync", place))?;
        fs::remove_file(&staged).map_err(at("remove", &staged))?;
        Ok(id)
    }

    /// Writes the root as one layer.
    fn archive(&self, out: &mut impl Write) -> Result<LayerId, Error> {
        compression::write_archive(&self.root, &self.index, out).map_err(|source| match source {
            TreeError::Write(source) => PathError { doing: "write", path: PathBuf::from("the export"), source }.into(),
            other => Error::Root { id: self.id, source: Box::new(other) },
        })
    }

    /// Returns the configuration of the image with this one layer.
    fn configuration(&self, layer: LayerId) -> Vec<u8> {
        super::configuration(&Image { layers: vec![layer], ..self.image.clone() }).1
    }
}

/// Returns the path of a temporary file for the layer: the archive needs the layer's digest before its bytes.
fn layer_beside(place: &Path) -> PathBuf {
    let mut path = place.as_os_str().to_owned();
    path.push(".layer");
    path.into()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PathError> {
    fs::write(path, bytes).map_err(at("write", path))
}

/// A file that is being written.
struct Output {
    path: PathBuf,
    file: HashingWriter<BufWriter<File>>,
}

impl Output {
    fn create(path: &Path) -> Result<Output, Error> {
        let file = File::create_new(path).map_err(at("create", path))?;
        Ok(Output { path: path.to_owned(), file: HashingWriter::new(BufWriter::with_capacity(1 << 20, file)) })
    }

    fn close(self) -> Result<(Digest, u64), Error> {
        let (digest, bytes, file) = self.file.finish();
        let file = file.into_inner().map_err(|error| at("write", &self.path)(error.into_error()))?;
        file.sync_all().map_err(at("sync", &self.path))?;
        Ok((digest, bytes))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
