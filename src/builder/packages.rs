//! Makes layers of packages: fetches missing ones in parallel and unpacks each as it arrives.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;
use silo_store::digest::LayerId;
use silo_store::manifest::Record as Manifest;
use silo_store::path_error::PathError;

use silo_base::thread;
use silo_fetch::download::{self, Context, Request};
use silo_fetch::error::Size;
use silo_fetch::unpack::{package, record};
use silo_model::derivation::{self, Derivation};
use silo_model::lock;

use super::context::{BuildContext, Target, read_index, realised};
use super::error::Error;
use super::select_packages::Unpacked;

/// Returns the packages of a target. The archive of a local package becomes the directory of its file.
pub(super) fn of(target: &Target<'_>) -> BTreeMap<String, lock::Package> {
    let mut packages = target.lock.packages_of(target.arch).cloned().unwrap_or_default();
    for package in packages.values_mut().filter(|package| package.archive == lock::Archive::Local) {
        if let Some(deb) = target.recipe.debian.debs.iter().find(|deb| deb.name == package.path) {
            package.archive = lock::Archive::Source(deb.dir.display().to_string());
        }
    }
    packages
}

/// Parallel connections to the mirrors.
const FETCHES: usize = 8;

/// Interval of the checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);

/// A package of the plan.
pub(super) struct Item<'a> {
    pub node: NodeIndex,
    pub name: &'a str,
    pub package: &'a lock::Package,
    pub epoch: i64,
    pub drv: Derivation,
    /// The layer from an earlier build.
    pub known: Option<LayerId>,
}

impl<'a> Item<'a> {
    /// Creates the item of a package and looks up its layer.
    pub fn new(ctx: &BuildContext<'_>, node: NodeIndex, name: &'a str, package: &'a lock::Package, epoch: i64) -> Item<'a> {
        let drv = Derivation::Package(derivation::Package { deb: package.sha256.0 });
        let known = realised(ctx, &drv);
        Item { node, name, package, epoch, drv, known }
    }
}

/// Paths of the downloaded package files, by node.
pub(super) type Arrived = Mutex<BTreeMap<NodeIndex, PathBuf>>;

/// Fetches the files of packages and calls `arrived` for each. Stops when `over` returns true, since then nothing waits for them.
pub(super) fn fetch(
    ctx: &BuildContext<'_>,
    missing: &[&Item<'_>],
    over: &(dyn Fn() -> bool + Sync),
    arrived: &(dyn Fn(NodeIndex, PathBuf) + Sync),
) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let requests: Vec<Request> = missing.iter().map(|item| request(ctx, item.name, item.package, item.epoch)).collect();
    let cancel = AtomicBool::new(false);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = thread::beside(scope, || {
            while !ended.load(Ordering::Relaxed) {
                if ctx.stop.load(Ordering::Relaxed) || over() {
                    cancel.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(LOOK);
            }
        })?;
        let context = Context { transport: ctx.transport, dir: &ctx.home.downloads(), jobs: FETCHES, sink: ctx.sink, cancel: &cancel };
        let fetched = download::fetch_all(&context, &requests, &|at, path: &Path| arrived(missing[at].node, path.to_owned()));
        ended.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        fetched.map(|_| ()).map_err(Error::from)
    })
}

/// Unpacks a package's layer, unless it is known, and reads its record. Returns true with it if the layer was made.
pub(super) fn realise(ctx: &BuildContext<'_>, item: &Item<'_>, file: Option<&Path>) -> Result<(Arc<Unpacked>, bool), Error> {
    let (layer, made) = match (item.known, file) {
        (Some(layer), _) => (layer, false),
        (None, Some(path)) => (unpack(ctx, item, path)?, true),
        (None, None) => return Err(Error::fault(format!("the archive of {} was not fetched", item.name))),
    };
    let index = read_index(ctx, layer)?;
    let record = record::read(layer, &ctx.store.tree(&layer), &index)?;
    Ok((Arc::new(Unpacked { record, arch: ctx.home.arch(), index, source: item.package.clone(), epoch: item.epoch }), made))
}

/// Returns the download request of a package.
pub(super) fn request(ctx: &BuildContext<'_>, name: &str, package: &lock::Package, epoch: i64) -> Request {
    Request {
        name: name.to_owned(),
        size: Size::Exactly(package.size),
        sha256: *package.sha256.0.as_bytes(),
        candidates: ctx.mirrors.candidates(&package.archive, &package.path, Some(&lock::snapshot_time(epoch))),
    }
}

fn unpack(ctx: &BuildContext<'_>, item: &Item<'_>, path: &Path) -> Result<LayerId, Error> {
    let began = Instant::now();
    let doing = |what: &str| format!("{what} {}", item.name);
    let file = File::open(path).map_err(|source| Error::File(PathError { doing: "open", path: path.to_owned(), source }))?;
    let mut stage = ctx.store.stage().map_err(|source| Error::store(doing("staging"), source))?;
    let name = item.package.path.rsplit('/').next().unwrap_or(item.name);
    let expected = item.package.sha256.0;
    if let Err(error) = package::unpack(name, file, expected, &mut stage) {
        if matches!(error, silo_fetch::unpack::deb::Error::Digest { .. }) {
            // The file is corrupt: remove it, so that the next attempt fetches it again.
            drop(std::fs::remove_file(path));
        }
        return Err(error.into());
    }
    let manifest = Manifest {
        derivation: item.drv.id().to_string(),
        name: item.name.to_owned(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: ctx.created(),
        inputs: vec![expected.to_string()],
        packages: vec![format!("{} {}", item.name, item.package.version)],
        removed: Vec::new(),
        place: String::new(),
    };
    let committed = stage.commit(&manifest, ctx.lock).map_err(|source| Error::store(doing("committing"), source))?;
    Ok(committed.id)
}
