//! The configure step: maintainer scripts run once in the sandbox, and what they change becomes a layer.
//!
//! The step sees the layers of the packages that take part, composed into one root, and the dpkg database
//! in which they are unpacked but not configured. It runs without a network, as root of its own user
//! namespace, with a fixed environment; its changes are caught as the overlay's upper directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use silo_store::capture::{self, Capture, Verdict};
use silo_store::compose::{self, Base};
use silo_store::digest::{Digest, LayerId};
use silo_store::entry::{Kind, Meta};
use silo_store::lock::BuildLock;
use silo_store::manifest::Record as Manifest;
use silo_store::path::LayerPath;

use crate::derivation::{self, Derivation};
use crate::event::Activity;
use crate::fetch::download::{self, Context};
use crate::launch::spec::{Access, Identity, Limits, Mount, Root, Spec, Stdio, Upper};
use crate::launch::{self, Exit};
use crate::lock::Lock;
use crate::system::Arch;

use super::scripted::Choice;
use super::{Error, Workshop, packages, realised, record, script, scrub, status};

/// Between two tries at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The lines of a failed step's log that are shown.
const TAIL_LINES: usize = 20;

/// The packages' scripts have run.
pub(super) struct Configured {
    /// What they changed.
    pub layer: LayerId,
    /// Where they ran, if it was now. It goes with this value, so drop it late: for each new inode ext4 searches past
    /// all those that were freed a moment ago.
    pub base: Option<Bench>,
}

/// Makes the layer of what the packages' scripts change, unless it is known.
pub(super) fn realise(shop: &Workshop<'_>, choice: &Choice<'_>, lock: &Lock, arch: Arch) -> Result<Configured, Error> {
    let by_dpkg = debs(choice, lock, arch)?;
    let layers = choice.root_order();
    let drv = Derivation::Configure(derivation::Configure {
        arch,
        epoch: lock.epoch,
        layers: layers.clone(),
        debs: by_dpkg.values().copied().collect(),
    });
    if let Some(layer) = realised(shop, &drv) {
        return Ok(Configured { layer, base: None });
    }
    let key = drv.id().digest();
    let _ours = ours(shop, &key)?;
    // Another process may have done it while we waited.
    if let Some(layer) = realised(shop, &drv) {
        return Ok(Configured { layer, base: None });
    }
    shop.check_stop()?;
    let bench = Bench::new(shop, &drv, layers)?;
    let deb_files = fetch_debs(shop, choice, lock, arch)?;
    let layer = shop.activity(Activity::Step, "configuring the packages", None, |_| run(shop, choice, lock, &drv, &bench, &deb_files))?;
    record(shop, &[(key, layer)])?;
    Ok(Configured { layer, base: Some(bench) })
}

/// Waits until no other process makes this step's layer; the user may stop the waiting.
fn ours(shop: &Workshop<'_>, key: &Digest) -> Result<BuildLock, Error> {
    loop {
        shop.check_stop()?;
        let locked = silo_store::lock::try_build(shop.store, shop.lock, key);
        match locked.map_err(|source| Error::store("locking the step", source))? {
            Some(ours) => return Ok(ours),
            None => thread::sleep(LOCK_PAUSE),
        }
    }
}

/// The .debs that dpkg unpacks itself, by package.
fn debs(choice: &Choice<'_>, lock: &Lock, arch: Arch) -> Result<BTreeMap<String, Digest>, Error> {
    let mut debs = BTreeMap::new();
    for package in &choice.by_dpkg {
        let name = package.record.stanza.package();
        let locked = lock.packages.get(&arch).and_then(|packages| packages.get(name));
        let locked = locked
            .ok_or_else(|| Error::Database { layer: package.record.layer, what: format!("it holds {name}, which the lock does not") })?;
        debs.insert(name.to_owned(), locked.sha256.0);
    }
    Ok(debs)
}

/// Sees to it that the files of the packages that dpkg unpacks itself are here.
fn fetch_debs(shop: &Workshop<'_>, choice: &Choice<'_>, lock: &Lock, arch: Arch) -> Result<Vec<(String, PathBuf)>, Error> {
    let locked = |name: &str| lock.packages.get(&arch).and_then(|packages| packages.get(name));
    let names: Vec<&str> = choice.by_dpkg.iter().map(|package| package.record.stanza.package()).collect();
    let requests: Vec<_> = names.iter().filter_map(|name| Some(packages::request(shop, lock, name, locked(name)?))).collect();
    let context = Context { transport: shop.transport, dir: &shop.home.downloads(), jobs: 8, sink: shop.sink, cancel: shop.stop };
    let paths = download::fetch_checked(&context, &requests)?;
    Ok(names.into_iter().map(str::to_owned).zip(paths).collect())
}

/// The directories that one step works in; removed with it.
pub(super) struct Bench {
    dir: PathBuf,
    log: PathBuf,
    /// The layers of the root that the step sees, lowest first.
    layers: Vec<LayerId>,
}

impl Bench {
    fn new(shop: &Workshop<'_>, drv: &Derivation, layers: Vec<LayerId>) -> Result<Bench, Error> {
        let name = drv.id().to_string();
        // The lock on the derivation is ours, so what lies here is the rest of a step that was killed.
        let bench = Bench { dir: shop.home.work().join(&name), log: shop.home.logs().join(format!("{name}.log")), layers };
        remove_tree(&bench.dir)?;
        for dir in [bench.upper(), bench.dir.join("work"), shop.home.logs()] {
            fs::create_dir_all(&dir).map_err(|source| Error::File { doing: "create", path: dir, source })?;
        }
        match fs::remove_file(&bench.log) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::File { doing: "remove", path: bench.log.clone(), source })
            }
            _ => Ok(bench),
        }
    }

    /// The root that the step saw, for the image's to be made of.
    pub(super) fn root(&self) -> Base {
        Base { tree: self.lower(), layers: self.layers.clone() }
    }

    fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    fn lower(&self) -> PathBuf {
        self.dir.join("lower")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What cannot be removed now is swept by `silo gc`; the build's own outcome matters more.
        drop(remove_tree(&self.dir));
    }
}

/// Removes a directory in which a step may have made directories that cannot be entered.
fn remove_tree(dir: &Path) -> Result<(), Error> {
    silo_store::scratch::remove_tree(dir).map_err(|source| Error::store("clearing the step's directory", source))
}

fn run(
    shop: &Workshop<'_>,
    choice: &Choice<'_>,
    lock: &Lock,
    drv: &Derivation,
    bench: &Bench,
    debs: &[(String, PathBuf)],
) -> Result<LayerId, Error> {
    let began = Instant::now();
    let composed = compose::compose(shop.store, shop.lock, &bench.layers, &bench.lower(), &|_| {})
        .map_err(|source| Error::store("composing the step's root", source))?;
    seed(choice, &bench.upper())?;
    let exit = launch::again::run(shop.program, &spec(choice, lock, bench, debs), shop.stop);
    shop.check_stop()?;
    let exit = exit?;
    if exit != Exit::Code(0) {
        return Err(Error::Step { exit: told(exit), log: bench.log.clone(), tail: tail(&bench.log) });
    }
    refuse_secrets(&bench.upper())?;
    let filter = |path: &LayerPath, _: &Meta, _: Kind| match scrub::judge(path.as_bytes()) {
        scrub::Verdict::Keep => Verdict::Keep,
        scrub::Verdict::Drop => Verdict::Drop,
    };
    let what = Capture { upper: &bench.upper(), lower: &composed.index, epoch: lock.epoch, filter: &filter };
    let captured = capture::capture(shop.store, shop.lock, &what).map_err(|source| Error::store("capturing the step's changes", source))?;
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: "configure".to_owned(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs: bench.layers.iter().map(LayerId::to_string).collect(),
        packages: Vec::new(),
    };
    Ok(captured.stage.commit(&manifest, shop.lock).map_err(|source| Error::store("committing the step's changes", source))?.id)
}

/// Fails if the step left a file that everybody with the image would share and nobody should.
fn refuse_secrets(upper: &Path) -> Result<(), Error> {
    let left = scrub::SECRETS.iter().find(|secret| fs::symlink_metadata(upper.join(secret.path)).is_ok_and(|meta| meta.len() > 0));
    left.map_or(Ok(()), |secret| Err(Error::Refused { path: secret.path.to_owned(), why: secret.why }))
}

/// Writes the dpkg database that the step begins with.
fn seed(choice: &Choice<'_>, upper: &Path) -> Result<(), Error> {
    const DPKG: &str = "var/lib/dpkg";
    set_mode(upper, 0o755)?;
    for dir in ["var", "var/lib", DPKG, "var/lib/dpkg/triggers", "var/lib/dpkg/updates", "usr", "usr/sbin"] {
        let dir = upper.join(dir);
        fs::create_dir(&dir).map_err(|source| Error::File { doing: "create", path: dir.clone(), source })?;
        set_mode(&dir, 0o755)?;
    }
    let write = |path: String, text: &str, mode| {
        let path = upper.join(path);
        fs::write(&path, text).map_err(|source| Error::File { doing: "write", path: path.clone(), source })?;
        set_mode(&path, mode)
    };
    let stanzas = choice.present.iter().map(|package| {
        let scripted =
            ["preinst", "postinst", "config", "triggers", "templates"].iter().any(|member| package.record.members.contains(*member));
        // What has nothing to run is configured by saying so.
        status::stanza(&package.record, if scripted { "install ok unpacked" } else { "install ok installed" })
    });
    write(format!("{DPKG}/status"), &status::write(stanzas.collect()), 0o644)?;
    let records: Vec<_> = choice.present.iter().map(|package| &package.record).collect();
    for (name, text) in status::triggers(&records) {
        write(format!("{DPKG}/triggers/{name}"), &text, 0o644)?;
    }
    write(format!("{DPKG}/triggers/Unincorp"), "", 0o644)?;
    // Debian's word for "start no service": there is nothing to start one for (invoke-rc.d(8)).
    write("usr/sbin/policy-rc.d".to_owned(), "#!/bin/sh\nexit 101\n", 0o755)
}

/// Sets a mode, whatever the caller's umask made of it: it would show in the layer.
fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|source| Error::File {
        doing: "change the mode of",
        path: path.to_owned(),
        source,
    })
}

fn spec(choice: &Choice<'_>, lock: &Lock, bench: &Bench, debs: &[(String, PathBuf)]) -> Spec {
    let env = [
        ("PATH", super::PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true".to_owned()),
        ("SOURCE_DATE_EPOCH", lock.epoch.to_string()),
    ];
    Spec {
        root: Root { lower: vec![bench.lower()], upper: Upper::Kept { upper: bench.upper(), work: bench.dir.join("work") } },
        mounts: debs
            .iter()
            .map(|(name, path)| Mount {
                host: path.clone(),
                guest: format!("{}/{name}.deb", script::DEBS).into(),
                access: Access::ReadOnly,
            })
            .collect(),
        dirs: Vec::new(),
        files: Vec::new(),
        read_only: Vec::new(),
        argv: vec!["/bin/sh".into(), "-c".into(), script::script(choice).into()],
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: "/".into(),
        hostname: "silo".to_owned(),
        identity: Identity::Root,
        stdio: Stdio::Log { path: bench.log.clone() },
        limits: Limits::default(),
    }
}

fn told(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}
