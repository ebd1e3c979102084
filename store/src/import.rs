//! Imports a layer from its canonical archive, such as one that another machine made.
//!
//! Every byte is hashed while it is read, and the archive is compared with its canonical encoding header by header, and with the staged
//! entries. The layer is committed only if the hash is the expected id, so a source of archives can withhold a layer, but not change one.

use crate::commit::Committed;
use crate::compression::{self, FormError};
use crate::digest::LayerId;
use crate::flock::SharedLock;
use crate::layout::Store;
use crate::manifest::Record;
use crate::stage::Parents;
use std::io::Read;
use std::path::Path;

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
    let index = compression::read_layer(&mut stage, from, id, limit, Path::new(name))?;
    Ok(stage.place(*id, index, record, permission)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::write_archive;
    use crate::digest::Digest;
    use crate::entry::{Entry, Meta, Node};
    use crate::path::LayerPath;
    use crate::{archive, flock, layer};
    use std::io::Write;

    /// The headers are canonical one by one, but no layer has this order.
    #[test]
    fn an_archive_in_another_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shared = flock::share(&store).unwrap();
        let entry = |path: &str| {
            let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: 1, xattrs: Default::default() };
            Entry { path: LayerPath::parse(path.as_bytes()).unwrap(), meta, node: Node::File { size: 1, digest: Digest::of(b"x") } }
        };
        for (order, is_taken) in [(["a", "b"], true), (["b", "a"], false)] {
            let entries = order.map(entry);
            let mut tar = Vec::new();
            archive::write(&entries, &mut tar, &mut |_, out: &mut Vec<u8>| out.write_all(b"x")).unwrap();
            let id = LayerId::new(Digest::of(&tar));
            let source = Source { from: &mut tar.as_slice(), limit: 9, name: "a cache" };
            let done = import(&store, &shared, &id, &Record::default(), source);
            assert_eq!((done.is_ok(), store.has(&id)), (is_taken, is_taken), "{order:?}: {done:?}");
            assert!(is_taken || matches!(done, Err(FormError::Identity { found, .. }) if found != id), "{order:?}");
        }
    }

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
