//! Layers that the store of a pool has. `silo gc` removes a layer together with its realisation; these records stay, so that a later build
//! fetches the layer from the pool and does not make it again.
//!
//! A record is a file of its own, named by the derivation. Only this user's builds write it, so it counts as much as a
//! realisation; a record that cannot be read counts as missing. The bytes of the layer come from the pool, and count only if they have the
//! digest that is the layer's id.
//!
//! ```text
//! silo-known-layer 1
//! <bytes of the layer's archive>
//! <the layer's manifest>
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::SharedLock;
use silo_store::import::{self, Source};
use silo_store::layer;
use silo_store::layout::Store;
use silo_store::manifest::Manifest;
use silo_store::private;
use silo_store::read_limited;
use silo_store::realisation::{self, Realisation};

use silo_base::error_chain;

use super::pool::{NotRun, Pool};
use super::realisation_writer::RealisationWriter;

const HEADER: &str = "silo-known-layer 1";
/// Limit on a record: a manifest with thousands of inputs.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// The most records; beyond it, the oldest quarter is removed.
const MAX_RECORDS: usize = 8192;

/// The records of a home.
#[derive(Debug)]
pub(super) struct KnownLayers {
    dir: PathBuf,
    /// Layers that have a record, or need none.
    noted: Mutex<BTreeSet<LayerId>>,
    /// Keys that the pool was asked for.
    asked: Mutex<BTreeSet<Digest>>,
    /// True after a failure: the pool is not asked again.
    is_lost: AtomicBool,
}

/// A layer of a record.
struct Known {
    size: u64,
    manifest: Manifest,
}

/// The store that layers are fetched into.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    /// The directory for archives that are not imported yet.
    pub work: &'a Path,
    pub store: &'a Store,
    pub lock: &'a SharedLock,
    pub stop: &'a AtomicBool,
}

impl KnownLayers {
    /// Returns the records in a directory.
    pub fn new(dir: PathBuf) -> KnownLayers {
        KnownLayers { dir, noted: Mutex::default(), asked: Mutex::default(), is_lost: AtomicBool::new(false) }
    }

    /// Notes layers that the pool's store has now, each with the bytes of its archive. A failure only costs the record.
    pub fn note(&self, store: &Store, unwritten: &RealisationWriter, layers: &[(LayerId, u64)]) {
        for (layer, size) in layers {
            if locked(&self.noted).contains(layer) {
                continue;
            }
            let Ok(manifest) = layer::read_manifest(store, layer) else { continue };
            // A layer of which no realisation is known yet is noted with a later step.
            let Some(key) = key_of(store, unwritten, &manifest) else { continue };
            if self.write(&key, &Known { size: *size, manifest }).is_ok() {
                locked(&self.noted).insert(*layer);
            }
        }
    }

    fn write(&self, key: &Digest, known: &Known) -> io::Result<()> {
        let path = self.dir.join(key.to_string());
        if path.exists() {
            return Ok(());
        }
        private::make_dir(&self.dir).map_err(io::Error::other)?;
        let temp = tempfile::NamedTempFile::new_in(&self.dir)?;
        let mut file = temp.as_file();
        write!(file, "{HEADER}\n{}\n{}", known.size, known.manifest.to_text())?;
        temp.persist(path)?;
        Ok(())
    }

    /// Removes the oldest records if there are too many.
    fn shorten(&self) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            all.push((entry.metadata()?.modified()?, entry.path()));
        }
        if all.len() > MAX_RECORDS {
            all.sort();
            let surplus = all.len() - MAX_RECORDS / 4 * 3;
            all[..surplus].iter().try_for_each(|(_, path)| fs::remove_file(path))?;
        }
        Ok(())
    }

    fn read(&self, key: &Digest) -> Option<Known> {
        let text = String::from_utf8(read_limited::read(&self.dir.join(key.to_string()), MAX_RECORD_BYTES).ok()?).ok()?;
        parse(&text)
    }

    /// Fetches the layers of realisations from the pool, as far as records name them and the pool has them. A pin is the only layer that is
    /// taken. Returns the fetched ones; `warn` gets the reason why the pool is not asked again.
    pub fn bring(
        &self,
        pool: &dyn Pool,
        into: Destination<'_>,
        wanted: &[(Digest, Option<LayerId>)],
        warn: &dyn Fn(String),
    ) -> Vec<(Digest, LayerId)> {
        let mut brought = Vec::new();
        for (key, pin) in wanted {
            if self.is_lost.load(Ordering::Relaxed) || !locked(&self.asked).insert(*key) {
                continue;
            }
            let Some(known) = self.read(key).filter(|known| pin.is_none_or(|pin| pin == known.manifest.layer)) else { continue };
            let layer = known.manifest.layer;
            match fetch(pool, into, &known) {
                Ok(true) => brought.push((*key, layer)),
                Ok(false) => {}
                Err(NotRun::Stopped) => break,
                Err(NotRun::Unfit(why)) => self.lose(layer, &why, warn),
                Err(NotRun::Failed(error)) => self.lose(layer, &error_chain::of(&*error).join(": "), warn),
            }
        }
        brought
    }

    fn lose(&self, layer: LayerId, why: &str, warn: &dyn Fn(String)) {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            warn(format!("layer {:.12} is not fetched from the pool: {why}; it and the next ones are made again", layer.to_string()));
        }
    }
}

impl Drop for KnownLayers {
    fn drop(&mut self) {
        if !locked(&self.noted).is_empty() {
            // The next build tries again.
            drop(self.shorten());
        }
    }
}

/// Fetches a layer into the store; returns false if the pool does not have it.
fn fetch(pool: &dyn Pool, into: Destination<'_>, known: &Known) -> Result<bool, NotRun> {
    let layer = known.manifest.layer;
    if into.store.has(&layer) {
        return Ok(true);
    }
    let failed = |error: io::Error| NotRun::Failed(error.into());
    private::make_dir(into.work).map_err(|error| failed(io::Error::other(error)))?;
    let temp = tempfile::NamedTempFile::new_in(into.work).map_err(failed)?;
    if !pool.fetch((layer, known.size), &mut temp.as_file(), into.stop)? {
        return Ok(false);
    }
    let mut file = BufReader::with_capacity(1 << 17, File::open(temp.path()).map_err(failed)?);
    let source = Source { from: &mut file, limit: known.manifest.bytes, name: "the archive from the pool" };
    let imported = import::import(into.store, into.lock, &layer, &known.manifest.record, source);
    imported.map(|_| true).map_err(|error| NotRun::Failed(Box::new(error)))
}

/// Returns the derivation of a layer, if the layer counts as its result. One that only recorded owners does not.
fn key_of(store: &Store, unwritten: &RealisationWriter, manifest: &Manifest) -> Option<Digest> {
    let derivation = Digest::parse(&manifest.record.derivation).ok()?;
    let is_unwritten = unwritten.get(&derivation) == Some(manifest.layer);
    let is_written = || realisation::get(store, &derivation).is_ok_and(|known| known == Realisation::Known(manifest.layer));
    (is_unwritten || is_written()).then_some(derivation)
}

fn parse(text: &str) -> Option<Known> {
    let (size, manifest) = text.strip_prefix(HEADER)?.strip_prefix('\n')?.split_once('\n')?;
    Some(Known { size: size.parse().ok()?, manifest: Manifest::parse(manifest).ok()? })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use silo_store::manifest::Record;

    #[test]
    fn records_read_back_and_torn_ones_count_as_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = KnownLayers::new(dir.path().join("known"));
        let layer = LayerId::new(Digest::of(b"layer"));
        let record = Record { name: "step x".to_owned(), removed: vec!["/etc/a.key".to_owned()], ..Record::default() };
        let manifest = Manifest { layer, entries: 1, bytes: 2, record };
        let key = Digest::of(b"key");
        assert!(records.read(&key).is_none());
        records.write(&key, &Known { size: 10240, manifest: manifest.clone() }).expect("our own directory");
        let known = records.read(&key).expect("a record");
        assert_eq!((known.size, &known.manifest), (10240, &manifest));
        let path = dir.path().join("known").join(key.to_string());
        let text = fs::read_to_string(&path).expect("our own file");
        for bad in ["", &text[..text.len() - 3], &text.replace("10240", "-1"), &text.replace("layer 1", "layer 2")] {
            fs::write(&path, bad).expect("our own file");
            assert!(records.read(&key).is_none(), "{bad}");
        }
    }
}
