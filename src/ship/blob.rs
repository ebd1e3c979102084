//! Blobs of layers: the compressed archive of a layer, and its digest, which is remembered.
//!
//! A registry is asked for a blob by the digest of the compressed bytes. The digest of each compressed layer is kept in a small file, so that
//! a layer that the registry has already is not compressed again:
//!
//! ```text
//! silo-blob 1
//! <layer> <digest of the blob> <size of the blob>
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use silo_store::commit::TreeError;
use silo_store::compression;
use silo_store::digest::{Digest, HashingWriter, LayerId};
use silo_store::layer;
use silo_store::path_error::at;
use silo_store::private;

use silo_base::home::Home;
use silo_build::image::export;
use silo_model::oci::contents::Form;
use silo_model::oci::manifest::Pointer;

use crate::context::Context;
use crate::error::Error;

const HEADER: &str = "silo-blob 1\n";

/// A compressed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The layer inside.
    pub layer: LayerId,
    /// The digest and size of the compressed bytes.
    pub pointer: Pointer,
    /// The compression.
    pub form: Form,
}

/// Returns the remembered blob of a key, which is a layer or a list of merged ones. An unreadable memory counts as none.
pub fn remembered(home: &Home, key: Digest, form: Form) -> Option<Blob> {
    parse(&fs::read_to_string(memory(home, key, form)).ok()?, form)
}

/// Parses the text of a remembered blob.
pub fn parse(text: &str, form: Form) -> Option<Blob> {
    let mut words = text.strip_prefix(HEADER)?.strip_suffix('\n')?.split(' ');
    let (layer, digest, size) = (words.next()?, words.next()?, words.next()?);
    let pointer = Pointer { digest: Digest::parse(digest).ok()?, size: size.parse().ok()? };
    let blob = Blob { layer: LayerId::parse(layer).ok()?, pointer, form };
    // Each blob has one text: no signs, no leading zeros, no further words.
    (to_text(&blob) == text).then_some(blob)
}

/// Returns the text of a remembered blob.
pub fn to_text(blob: &Blob) -> String {
    format!("{HEADER}{} {} {}\n", blob.layer, blob.pointer.digest, blob.pointer.size)
}

/// Remembers the blob of a key.
pub fn remember(home: &Home, key: Digest, blob: &Blob) -> Result<(), Error> {
    private::make_dir(&home.blobs())?;
    let path = memory(home, key, blob.form);
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    private::write(&staged, to_text(blob).as_bytes()).map_err(at("write", &staged))?;
    fs::rename(&staged, &path).map_err(at("write", &path))?;
    Ok(())
}

/// Compresses a layer of the store into a file, and remembers its blob.
pub fn compress(context: &Context<'_>, layer: LayerId, form: Form, to: &Path) -> Result<Blob, Error> {
    compression::warm(context.store, context.lock, &[layer], &|_| {}).map_err(|error| Error::form(layer, error))?;
    let index = layer::read_index(context.store, &layer)?;
    let tree = context.store.tree(&layer);
    let archive = |out: &mut dyn Write| compression::write_layer(&tree, &index, layer, &mut &mut *out).map(|()| layer);
    let blob = write(&archive, form, to).map_err(|error| Error::form(layer, error))?;
    remember(context.home, layer.digest(), &blob)?;
    Ok(blob)
}

/// Writes the canonical archive of a tree, and returns its id.
pub type Archive<'a> = dyn Fn(&mut dyn Write) -> Result<LayerId, TreeError> + 'a;

/// Compresses an archive into a file.
pub fn write(archive: &Archive<'_>, form: Form, to: &Path) -> Result<Blob, TreeError> {
    let mut out = HashingWriter::new(private::create_new(to)?);
    let layer = match form {
        Form::Zstd => {
            let mut encoder = compression::zstd_encoder(&mut out)?;
            let layer = archive(&mut encoder)?;
            encoder.finish()?;
            layer
        }
        Form::Gzip => {
            let mut encoder = export::gzip_encoder(&mut out);
            let layer = archive(&mut encoder)?;
            encoder.finish()?;
            layer
        }
    };
    let (digest, size, _) = out.finish();
    Ok(Blob { layer, pointer: Pointer { digest, size }, form })
}

fn memory(home: &Home, key: Digest, form: Form) -> PathBuf {
    home.blobs().join(format!("{key}.{}", form.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_memories_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        let key = Digest::of(b"key");
        let pointer = Pointer { digest: Digest::of(b"blob"), size: 4 };
        let blob = Blob { layer: LayerId::new(key), pointer, form: Form::Zstd };
        assert_eq!(remembered(&home, key, Form::Zstd), None);
        remember(&home, key, &blob).expect("written");
        assert_eq!(remembered(&home, key, Form::Zstd), Some(blob));
        assert_eq!(remembered(&home, key, Form::Gzip), None);
        let path = memory(&home, key, Form::Zstd);
        let text = fs::read_to_string(&path).expect("written");
        for wrong in [String::new(), text.replace('1', "2"), text[..text.len() - 1].to_owned(), text.replace(" 4", " 4 4")] {
            fs::write(&path, wrong).expect("our own");
            assert_eq!(remembered(&home, key, Form::Zstd), None);
        }
    }
}
