//! Packages into layers: those missing are fetched together and unpacked as they arrive.

use std::cmp::Reverse;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Instant;

use silo_store::digest::{Digest, LayerId};
use silo_store::index::Index;
use silo_store::manifest::Record as Manifest;

use crate::derivation::{self, Derivation};
use crate::event::{self, Activity, Event};
use crate::fetch::download::{self, Context, Request};
use crate::fetch::error::Size;
use crate::lock::{self, Lock};
use crate::plan::{self, Step};
use crate::system::Arch;
use crate::unpack::{package, record};

use super::scripted::Unpacked;
use super::{Error, Workshop, realised};

/// Connections to the mirrors at a time.
const FETCHES: usize = 8;

/// A package of the plan and the layer it has become, if it has.
struct Item {
    name: String,
    package: lock::Package,
    drv: Derivation,
    layer: Option<LayerId>,
}

/// The packages of a lock, unpacked.
pub(super) struct Packages {
    /// By name.
    pub unpacked: Vec<Unpacked>,
    /// The derivations that had to be made, which are to be recorded.
    pub made: Vec<(Digest, LayerId)>,
}

/// Makes the layers of all packages of a lock. What had to be made is not recorded yet, so that the disk can take it in
/// while the next step runs.
pub(super) fn realise(shop: &Workshop<'_>, lock: &Lock, arch: Arch) -> Result<Packages, Error> {
    let plan = plan::plan(lock, arch);
    let mut items: Vec<Item> = Vec::new();
    for step in plan.graph.node_weights() {
        let Step::Package { name, package } = step else { continue };
        let drv = Derivation::Package(derivation::Package { deb: package.sha256.0 });
        let layer = realised(shop, &drv);
        items.push(Item { name: name.clone(), package: package.clone(), drv, layer });
    }
    let mut missing: Vec<usize> = (0..items.len()).filter(|index| items[*index].layer.is_none()).collect();
    // The largest first, or one processor would end with it while the others have nothing left to do.
    missing.sort_by_key(|index| Reverse(items[*index].package.size));
    let mut made = Vec::with_capacity(missing.len());
    if !missing.is_empty() {
        for (index, layer) in fetch_and_unpack(shop, lock, &items, &missing)? {
            items[index].layer = Some(layer);
            made.push((items[index].drv.id().digest(), layer));
        }
    }
    let mut unpacked = Vec::with_capacity(items.len());
    for item in &items {
        let layer = item.layer.ok_or(Error::Worker)?;
        unpacked.push(read(shop, layer)?);
    }
    Ok(Packages { unpacked, made })
}

/// Reads back what a package's layer holds.
fn read(shop: &Workshop<'_>, layer: LayerId) -> Result<Unpacked, Error> {
    let path = shop.store.index(&layer);
    let text = std::fs::read(&path).map_err(|source| Error::File { doing: "read", path, source })?;
    let index = Index::parse(&text).map_err(|source| Error::store(format!("reading the index of layer {layer}"), source))?;
    let record = record::read(layer, &shop.store.tree(&layer), &index)?;
    Ok(Unpacked { record, index })
}

/// The file names and addresses to fetch a package from.
pub(super) fn request(shop: &Workshop<'_>, lock: &Lock, name: &str, package: &lock::Package) -> Request {
    Request {
        name: name.to_owned(),
        size: Size::Exactly(package.size),
        sha256: *package.sha256.0.as_bytes(),
        candidates: shop.mirrors.candidates(package.archive, &package.path, Some(&lock::snapshot_time(lock))),
    }
}

fn fetch_and_unpack(shop: &Workshop<'_>, lock: &Lock, items: &[Item], missing: &[usize]) -> Result<Vec<(usize, LayerId)>, Error> {
    let requests: Vec<Request> = missing.iter().map(|index| request(shop, lock, &items[*index].name, &items[*index].package)).collect();
    let (arrived, waiting) = mpsc::channel::<(usize, PathBuf)>();
    let waiting = Mutex::new(waiting);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    // Set on the first failure or when the user wants to stop: both end fetching and unpacking.
    let cancel = AtomicBool::new(false);
    let done = Mutex::new(Vec::with_capacity(missing.len()));
    let counted = AtomicU64::new(0);
    let activity = event::next_id();
    (shop.sink)(Event::Started { id: activity, kind: Activity::Unpack, name: "packages".to_owned(), total: Some(missing.len() as u64) });
    let fail = |error: Error| {
        cancel.store(true, Ordering::Relaxed);
        let mut failure = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failure.get_or_insert(error);
    };
    let unpack_all = || {
        loop {
            let next = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
            let Ok((index, path)) = next else { return };
            if shop.stop.load(Ordering::Relaxed) || cancel.load(Ordering::Relaxed) {
                return;
            }
            match unpack_one(shop, &items[index], &path) {
                Ok(layer) => {
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, layer));
                    let count = counted.fetch_add(1, Ordering::Relaxed) + 1;
                    (shop.sink)(Event::Progress { id: activity, done: count });
                }
                Err(error) => fail(error),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..shop.jobs.max(1)).map(|_| scope.spawn(unpack_all)).collect();
        let watch = scope.spawn(|| {
            while !cancel.load(Ordering::Relaxed) {
                if shop.stop.load(Ordering::Relaxed) {
                    cancel.store(true, Ordering::Relaxed);
                }
                thread::park_timeout(std::time::Duration::from_millis(50));
            }
        });
        let context = Context { transport: shop.transport, dir: &shop.home.downloads(), jobs: FETCHES, sink: shop.sink, cancel: &cancel };
        let send = Mutex::new(arrived);
        let fetched = download::fetch_all(&context, &requests, &|at, path: &Path| {
            let send = send.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // Nobody receives any more after a failure, which is told by then.
            drop(send.send((missing[at], path.to_owned())));
        });
        drop(send);
        if let Err(error) = fetched {
            fail(error.into());
        }
        for worker in workers {
            if worker.join().is_err() {
                fail(Error::Worker);
            }
        }
        cancel.store(true, Ordering::Relaxed);
        watch.thread().unpark();
    });
    (shop.sink)(Event::Finished { id: activity });
    shop.check_stop()?;
    if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort();
    Ok(done)
}

fn unpack_one(shop: &Workshop<'_>, item: &Item, path: &Path) -> Result<LayerId, Error> {
    let began = Instant::now();
    let doing = |what: &str| format!("{what} {}", item.name);
    let file = File::open(path).map_err(|source| Error::File { doing: "open", path: path.to_owned(), source })?;
    let mut stage = shop.store.stage().map_err(|source| Error::store(doing("staging"), source))?;
    let name = item.package.path.rsplit('/').next().unwrap_or(&item.name);
    let expected = item.package.sha256.0;
    if let Err(error) = package::unpack(name, file, expected, &mut stage) {
        if matches!(error, crate::unpack::deb::Error::Digest { .. }) {
            // The file is of no use to anybody: the next attempt fetches it again.
            drop(std::fs::remove_file(path));
        }
        return Err(error.into());
    }
    let manifest = Manifest {
        derivation: item.drv.id().to_string(),
        name: item.name.clone(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs: vec![expected.to_string()],
        packages: vec![format!("{} {}", item.name, item.package.version)],
    };
    let committed = stage.commit(&manifest, shop.lock).map_err(|source| Error::store(doing("committing"), source))?;
    Ok(committed.id)
}
