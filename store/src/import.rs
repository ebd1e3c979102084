//! Imports a layer from its canonical archive, such as one that another machine made.
//!
//! Every byte is hashed while it is read, and the archive is compared with its canonical encoding header by header. The layer is committed
//! only if the hash is the expected id, so a source of archives can withhold a layer, but not change one.

use crate::archive;
use crate::commit::Committed;
use crate::compression::{self, FormError, ReadError};
use crate::digest::{HashingReader, LayerId};
use crate::flock::SharedLock;
use crate::layout::Store;
use crate::manifest::Record;
use crate::stage::Parents;
use std::io::Read;
use std::path::PathBuf;

/// The archive of a layer.
pub struct Source<'a> {
    /// The uncompressed archive.
    pub from: &'a mut dyn Read,
    /// Most bytes of files.
    pub limit: u64,
    /// The name in errors.
    pub name: &'a str,
}

/// Reads the archive of layer `id`, and commits it.
pub fn import(store: &Store, permission: &SharedLock, id: &LayerId, record: &Record, source: Source<'_>) -> Result<Committed, FormError> {
    let Source { from, limit, name } = source;
    // As for a compressed layer: parents may be entries of lower layers only.
    let mut stage = store.stage_with(Parents::OnDiskOnly)?;
    let mut from = HashingReader::new(from);
    let read = archive::read(&mut from, &mut |item, contents| compression::add(&mut stage, item, contents, limit));
    read.map_err(|error| match error {
        ReadError::Archive(source) => FormError::Archive { path: PathBuf::from(name), source },
        ReadError::Stage(error) => FormError::Stage(error),
    })?;
    let found = LayerId::new(from.finish().0);
    if found != *id {
        return Err(FormError::Identity { path: PathBuf::from(name), id: *id, found });
    }
    Ok(stage.commit(record, permission)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::write_archive;
    use crate::digest::Digest;
    use crate::entry::Meta;
    use crate::path::LayerPath;
    use crate::{flock, layer};

    #[test]
    fn an_archive_becomes_its_layer_and_another_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let here = Store::open(&dir.path().join("here")).unwrap();
        let shared = flock::share(&here).unwrap();
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 1, xattrs: Default::default() };
        // A difference: the parent of its file is in a lower layer.
        let mut stage = here.stage_difference().unwrap();
        stage.add_file(&path("etc/x"), &meta(0o644), &mut &b"text"[..], 9).unwrap();
        stage.add_dir(&path("opt"), &meta(0o755)).unwrap();
        stage.add_whiteout(&path("opt/gone")).unwrap();
        let made = stage.commit(&Record { name: "x".into(), ..Record::default() }, &shared).unwrap();
        let mut tar = Vec::new();
        assert_eq!(write_archive(&here.tree(&made.id), &made.index, &mut tar).unwrap(), made.id);
        let there = Store::open(&dir.path().join("there")).unwrap();
        let shared = flock::share(&there).unwrap();
        let import = |id: &LayerId, tar: &[u8], limit| {
            import(&there, &shared, id, &Record::default(), Source { from: &mut &*tar, limit, name: "a cache" })
        };
        let other = LayerId::new(Digest::of(b"other"));
        let error = import(&other, &tar, 9).unwrap_err();
        assert!(matches!(error, FormError::Identity { .. }), "{error}");
        for at in [0, 100, 600, tar.len() - 1] {
            let mut changed = tar.clone();
            changed[at] ^= 1;
            assert!(import(&made.id, &changed, 9).is_err(), "{at}");
            assert!(import(&made.id, &tar[..at], 9).is_err(), "{at}");
        }
        assert!(import(&made.id, &tar, 3).is_err());
        assert_eq!(layer::list(&there).unwrap(), []);
        assert!(import(&made.id, &tar, 9).unwrap().fresh);
        assert_eq!(layer::read_index(&there, &made.id).unwrap().to_text(), made.index.to_text());
    }
}
