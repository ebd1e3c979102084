//! Realisations: records of the layer that a derivation gave. One small file each, named by the derivation.
//!
//! ```text
//! silo-realisation 1
//! <LayerId>
//! ```
//!
//! Call [`Store::sync`](crate::Store::sync) between the commit and [`put`]; [`put_many`] does it itself.

use crate::digest::{Digest, LayerId};
use crate::durable;
use crate::flock::SharedLock;
use crate::layout::Store;
use crate::path_error::{PathError, at, if_present};
use std::fs;

const HEADER: &str = "silo-realisation 1";

/// Result of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Realisation {
    /// The derivation gave this layer; [`Store::has`] tests if the layer still exists.
    Known(LayerId),
    /// The derivation was never built, or its record was removed.
    Absent,
    /// The file is malformed; build again.
    Broken {
        /// The fault.
        reason: String,
    },
}

/// Looks up the layer of the derivation `key`.
pub fn get(store: &Store, key: &Digest) -> Result<Realisation, PathError> {
    let path = store.realisation(key);
    let bytes = if_present(fs::read(&path).map_err(at("read", &path)))?;
    Ok(match bytes.as_deref().map(parse) {
        None => Realisation::Absent,
        Some(Some(id)) => Realisation::Known(id),
        Some(None) => Realisation::Broken { reason: format!("{} is not a realisation", path.display()) },
    })
}

/// Returns the key of a layer of `derivation` that was made without an id range: the owners of its files were only recorded.
pub fn recorded_owners_key(derivation: &Digest) -> Digest {
    Digest::of(format!("silo recorded owners 1\n{derivation}\n").as_bytes())
}

/// Returns the key under which a layer counts as the result of a derivation here: the derivation, or its key with recorded owners; `None`
/// if it counts under neither.
pub fn key_of(store: &Store, derivation: &Digest, layer: &LayerId) -> Result<Option<Digest>, PathError> {
    for key in [*derivation, recorded_owners_key(derivation)] {
        if get(store, &key)? == Realisation::Known(*layer) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// Records the layer of one derivation.
pub fn put(store: &Store, _permission: &SharedLock, key: &Digest, id: &LayerId) -> Result<(), PathError> {
    durable::replace(&store.realisation(key), text(id).as_bytes())
}

/// Records the layers of many derivations; first syncs all earlier commits.
pub fn put_many(store: &Store, _permission: &SharedLock, pairs: &[(Digest, LayerId)]) -> Result<(), PathError> {
    let file = |(key, id): &(Digest, LayerId)| (key.to_string(), text(id).into_bytes());
    let files: Vec<_> = pairs.iter().map(file).collect();
    durable::replace_many(&store.realisations(), &files)
}

/// Returns all derivations that have a realisation, sorted.
pub fn list(store: &Store) -> Result<Vec<Digest>, PathError> {
    let dir = store.realisations();
    let mut keys = Vec::new();
    for item in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let name = item.map_err(at("list", &dir))?.file_name();
        keys.extend(name.to_str().and_then(|name| Digest::parse(name).ok()));
    }
    keys.sort();
    Ok(keys)
}

fn text(id: &LayerId) -> String {
    format!("{HEADER}\n{id}\n")
}

fn parse(bytes: &[u8]) -> Option<LayerId> {
    let text = std::str::from_utf8(bytes).ok()?;
    let id = text.strip_prefix(HEADER)?.strip_prefix('\n')?.strip_suffix('\n')?;
    LayerId::parse(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flock;

    #[test]
    fn a_broken_file_counts_as_absent_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shared = flock::share(&store).unwrap();
        let id = |text: &[u8]| LayerId::new(Digest::of(text));
        let keys: Vec<Digest> = (0..100).map(|n: u32| Digest::of(&n.to_le_bytes())).collect();
        let pairs: Vec<_> = keys.iter().map(|key| (*key, id(key.as_bytes()))).collect();
        put_many(&store, &shared, &pairs).unwrap();
        put(&store, &shared, &keys[0], &id(b"other")).unwrap();
        assert_eq!(list(&store).unwrap().len(), 100);
        assert_eq!(get(&store, &keys[0]).unwrap(), Realisation::Known(id(b"other")));
        assert_eq!(get(&store, &keys[99]).unwrap(), Realisation::Known(pairs[99].1));
        assert_eq!(get(&store, &Digest::of(b"no")).unwrap(), Realisation::Absent);
        for bad in ["", "silo-realisation 1\n", "silo-realisation 2\n", &text(&id(b"x"))[..70]] {
            fs::write(store.realisation(&keys[1]), bad).unwrap();
            assert!(matches!(get(&store, &keys[1]).unwrap(), Realisation::Broken { .. }), "{bad:?}");
        }
    }
}
