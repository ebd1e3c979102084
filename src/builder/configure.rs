//! Configure steps: run the packages' maintainer scripts in the sandbox, tier by tier, and capture their changes as a layer.
//!
//! The root of a step is composed of the layers of all packages that take part so far. In its dpkg database the packages of the tier are
//! unpacked but not configured. The step runs without network, as root of its own user namespace, with a fixed environment. The overlay's
//! upper directory catches its changes. If a tier's packages split into two independent halves, two steps configure it in parallel
//! (`split`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::digest::LayerId;
use silo_store::entry::Kind;
use silo_store::index::Index;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;
use silo_store::rewrite::rewrite;

use silo_base::event::Event;
use silo_base::system::Arch;
use silo_base::thread;
use silo_fetch::download::{self, Context};
use silo_fetch::unpack::usr_merge;
use silo_launch::spec::{Abi, Access, Mount, Root, Spec, Stdio};
use silo_model::derivation::{self, Derivation, DrvId, Repeats};
use silo_model::lock::{PackageTier, Sha256};
use silo_model::recipe::source;

use super::context::{BuildContext, PATH, read_index, realised_or_brought};
use super::dpkg_database::{ARCHITECTURES, STATUS, stanzas_of};
use super::error::Error;
use super::select_packages::{self, Candidates, EarlierTiers, Unpacked};
use super::split::{self, Parts};
use super::state::State;
use super::step::{self, Prepared, StepRun};
use super::workdir::Workdir;
use super::{conffiles, dpkg_status, generated_secrets, git_config, packages, script};

/// dpkg's list of diverted paths.
const DIVERSIONS: &str = "var/lib/dpkg/diversions";

/// Limit on the size of git's system configuration; packages write a few lines.
const MAX_GIT_CONFIG_BYTES: u64 = 64 << 10;

/// A tier to configure.
pub(super) struct Task<'a> {
    /// The tier.
    pub tier: PackageTier,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The packages of the tier.
    pub packages: Vec<Arc<Unpacked>>,
    /// The state after the earlier tiers.
    pub below: Option<&'a State>,
    /// Answers to debconf questions.
    pub answers: &'a [String],
}

/// Returns the state with the layers of a tier's configure steps; runs a step only if it has scripts to run and its layer is unknown.
pub(super) fn realise(ctx: &BuildContext<'_>, task: Task<'_>) -> Result<State, Error> {
    let mut state = task.below.map(State::for_later_node).unwrap_or_default();
    let mut candidates = state.plain.to_vec();
    candidates.extend(task.packages.iter().cloned());
    let below = EarlierTiers { present: &state.present, changes: &state.changes, diverted: &state.diverted };
    let choice = select_packages::choose(&below, &candidates);
    state.plain = Arc::new(choice.plain.clone());
    let step = |state, choice: &Candidates, which: &str| {
        let takes_part = |owner: &str| choice.present.iter().chain(&choice.by_dpkg).any(|package| package.name() == owner);
        let answers = task.answers.iter().map(String::as_str).filter(|answer| takes_part(source::owner(answer))).collect();
        Step { tier: task.tier, epoch: task.epoch, choice, which, answers }.realise(ctx, state)
    };
    // Essential packages depend on each other without declaring it.
    let parts = if task.tier == PackageTier::Base { None } else { split::split(&state.present, &choice) };
    let Some(Parts { first, halves: [one, other], last }) = parts else { return step(state, &choice, "") };
    let state = step(state, &first, ", first")?;
    let beside = state.beside();
    let (with_one, with_other) = std::thread::scope(|scope| {
        let beside = thread::beside(scope, || step(beside, &other, ", other half"));
        (step(state.for_later_node(), &one, ", one half"), beside.map(std::thread::ScopedJoinHandle::join))
    });
    let with_one = with_one?;
    let with_other = match with_other {
        Ok(joined) => joined.map_err(|_| Error::Worker)??,
        // Sequentially, if no thread can be started.
        Err(_) => step(state.beside(), &other, ", other half")?,
    };
    let changes = |state: &State| state.changes.last().cloned().unwrap_or_default();
    let both = match split::contended(&changes(&with_one), &changes(&with_other)) {
        None => with_one.and(with_other, &state),
        Some(path) => step(with_one, &other, &format!(", other half again because of /{path}"))?,
    };
    step(both, &last, ", last")
}

/// One dpkg run over packages of a tier.
struct Step<'a> {
    tier: PackageTier,
    epoch: i64,
    choice: &'a Candidates,
    /// Suffix of the step's name: the part of the tier.
    which: &'a str,
    /// Answers to questions of its packages.
    answers: Vec<&'a str>,
}

impl Step<'_> {
    /// Returns the state with the step's layer; runs the step if it has packages and its layer is unknown.
    fn realise(&self, ctx: &BuildContext<'_>, mut state: State) -> Result<State, Error> {
        let choice = self.choice;
        if choice.present.is_empty() && choice.by_dpkg.is_empty() {
            return Ok(state);
        }
        let earlier = Arc::clone(&state.present);
        state.tiers.push(Arc::new(choice.present.clone()));
        state.present = Arc::new(earlier.iter().chain(&choice.present).chain(&choice.by_dpkg).cloned().collect());
        let drv = Derivation::Configure(derivation::Configure {
            arch: ctx.home.arch(),
            epoch: self.epoch,
            layers: state.seen(),
            debs: choice.by_dpkg.iter().map(|package| package.source.sha256.0).collect(),
            answers: self.answers.iter().map(|answer| (*answer).to_owned()).collect(),
        });
        let id = drv.id();
        let run = Run { step: self, id, earlier: &earlier, previous: std::mem::take(&mut state.heads) };
        let layers = state.seen();
        let runner = StepRun {
            kind: &run,
            drv: &drv,
            id,
            layers: &layers,
            epoch: self.epoch,
            title: &format!("configuring the packages ({}{})", self.tier.name(), self.which),
            name: "configuring the packages",
            recorded_name: format!("configure {}{}", self.tier.name(), self.which),
            inputs: &layers,
            sends_log: false,
            repeats: Repeats::Nothing,
            later: &[],
        };
        let layer = step::realise(ctx, &runner, &mut state)?;
        state.made_layers.insert(Sha256(id.digest()), Sha256(layer.digest()));
        state.configured.push(layer);
        state.heads = vec![layer];
        let index = read_index(ctx, layer)?;
        if let Some(text) = read_from(ctx, layer, &index, DIVERSIONS)? {
            state.diverted = Arc::new(diverted(&text));
        }
        state.changes.push(Arc::new(index));
        Ok(state)
    }
}

/// Reads a file of a layer, if the layer has it.
fn read_from(ctx: &BuildContext<'_>, layer: LayerId, index: &Index, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let at = LayerPath::parse(path.as_bytes()).expect("a constant path is plain");
    if index.get(&at).is_none_or(|entry| entry.node.kind() != Kind::File) {
        return Ok(None);
    }
    let path = ctx.store.tree(&layer).join(path);
    fs::read(&path).map(Some).map_err(|source| Error::File(PathError { doing: "read", path, source }))
}

/// Parses dpkg's diversions: three lines each, the path, its new path, and the package.
fn diverted(text: &[u8]) -> BTreeMap<Vec<u8>, String> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let relative = |path: &[u8]| usr_merge::place(path.strip_prefix(b"/").unwrap_or(path));
    lines.chunks_exact(3).map(|three| (relative(three[0]), String::from_utf8_lossy(three[2]).into_owned())).collect()
}

/// One run of a configure step.
struct Run<'a> {
    step: &'a Step<'a>,
    id: DrvId,
    /// Packages that are configured already.
    earlier: &'a [Arc<Unpacked>],
    /// The layers with the dpkg databases of those packages.
    previous: Vec<LayerId>,
}

impl step::Kind for Run<'_> {
    fn known(&self, ctx: &BuildContext<'_>) -> Option<LayerId> {
        realised_or_brought(ctx, self.id.digest())
    }

    fn prepare(&self, ctx: &BuildContext<'_>, workdir: &Workdir, root: Root) -> Result<Prepared, Error> {
        let debs = self.fetch_debs(ctx)?;
        self.seed(ctx, &workdir.upper())?;
        Ok(Prepared { spec: self.spec(workdir, root, &debs), project: None })
    }

    fn reads_root(&self) -> bool {
        false
    }

    fn check_changes(&self, ctx: &BuildContext<'_>, upper: &Path) -> Result<Vec<String>, Error> {
        let choice = self.step.choice;
        let packages: Vec<_> = self.earlier.iter().chain(&choice.present).chain(&choice.by_dpkg).collect();
        let taken = generated_secrets::take_out(ctx.store, upper, &packages)?;
        if !taken.is_empty() {
            (ctx.sink)(Event::Note { text: generated_secrets::describe(&taken) });
        }
        sort_git_config(upper)?;
        Ok(taken)
    }
}

impl Run<'_> {
    /// Fetches the .deb files of packages that dpkg itself unpacks.
    fn fetch_debs(&self, ctx: &BuildContext<'_>) -> Result<Vec<(String, PathBuf)>, Error> {
        let by_dpkg = &self.step.choice.by_dpkg;
        let requests: Vec<_> =
            by_dpkg.iter().map(|package| packages::request(ctx, &package.label(), &package.source, package.epoch)).collect();
        let context = Context { transport: ctx.transport, dir: &ctx.home.downloads(), jobs: 8, sink: ctx.sink, cancel: ctx.stop };
        let paths = download::fetch_checked(&context, &requests)?;
        Ok(by_dpkg.iter().map(|package| package.label()).zip(paths).collect())
    }

    /// Lists the configuration files that are not in their place until dpkg configures their packages.
    fn unconfigured_files(&self) -> BTreeMap<&str, &str> {
        conffiles::unconfigured(self.step.tier, self.earlier, self.step.choice)
    }

    /// Lists the foreign architectures of the step's packages.
    fn foreign(&self) -> BTreeSet<&str> {
        let choice = self.step.choice;
        select_packages::foreign(self.earlier.iter().chain(&choice.present).chain(&choice.by_dpkg))
    }

    /// Writes the dpkg database at the start of the step.
    fn seed(&self, ctx: &BuildContext<'_>, upper: &Path) -> Result<(), Error> {
        const DPKG: &str = "var/lib/dpkg";
        for dir in ["var", "var/lib", DPKG, "var/lib/dpkg/triggers", "var/lib/dpkg/updates", "usr", "usr/sbin"] {
            let dir = upper.join(dir);
            fs::create_dir(&dir).map_err(|source| Error::File(PathError { doing: "create", path: dir.clone(), source }))?;
            set_mode(&dir, 0o755)?;
        }
        let write = |path: String, text: &str, mode| {
            let path = upper.join(path);
            fs::write(&path, text).map_err(|source| Error::File(PathError { doing: "write", path: path.clone(), source }))?;
            set_mode(&path, mode)
        };
        self.merge_usr(ctx.home.arch(), upper)?;
        let mut stanzas = stanzas_of(ctx, &self.previous)?;
        let new = self.unconfigured_files();
        stanzas.extend(self.step.choice.present.iter().map(|package| match conffiles::is_scripted(package) {
            true => dpkg_status::unpacked(&package.record, &|path| new.contains_key(path)),
            false => dpkg_status::installed(&package.record),
        }));
        write(STATUS.to_owned(), &dpkg_status::write(stanzas), 0o644)?;
        let there = || self.earlier.iter().chain(&self.step.choice.present);
        let records: Vec<_> = there().map(|package| &package.record).collect();
        if let Some(text) = dpkg_status::architectures(ctx.home.arch(), &self.foreign()) {
            write(ARCHITECTURES.to_owned(), &text, 0o644)?;
        }
        for (name, text) in dpkg_status::triggers(&records) {
            write(format!("{DPKG}/triggers/{name}"), &text, 0o644)?;
        }
        // Configured packages with file triggers must learn of the new files.
        let awaited = select_packages::awaited_paths(self.earlier);
        let fired = awaited.into_iter().filter(|path| self.step.choice.present.iter().any(|package| select_packages::fires(package, path)));
        let fired: BTreeSet<String> = fired.map(|path| format!("{path} -\n")).collect();
        write(format!("{DPKG}/triggers/Unincorp"), &fired.into_iter().collect::<String>(), 0o644)?;
        // Exit code 101 forbids starting services, as none run during a build (invoke-rc.d(8)).
        write("usr/sbin/policy-rc.d".to_owned(), "#!/bin/sh\nexit 101\n", 0o755)
    }

    /// Makes the symlinks of the merged /usr, and their target directories, if no package ships them. The first step of a root does this,
    /// because nothing runs without `/bin/sh`.
    fn merge_usr(&self, arch: Arch, upper: &Path) -> Result<(), Error> {
        let packages = || self.step.choice.present.iter().chain(&self.step.choice.by_dpkg);
        let ships = |path: &str| {
            let path = LayerPath::parse(path.as_bytes()).expect("a constant path is plain");
            packages().any(|package| package.index.get(&path).is_some())
        };
        if !self.earlier.is_empty() || ships("bin") {
            return Ok(());
        }
        for name in usr_merge::links(arch) {
            let (link, target) = (upper.join(name), format!("usr/{name}"));
            let dir = upper.join(&target);
            if !ships(&target) && !dir.exists() {
                fs::create_dir(&dir).map_err(|source| Error::File(PathError { doing: "create", path: dir.clone(), source }))?;
                set_mode(&dir, 0o755)?;
            }
            symlink(&target, &link).map_err(|source| Error::File(PathError { doing: "make the symlink", path: link, source }))?;
        }
        Ok(())
    }

    fn spec(&self, workdir: &Workdir, root: Root, debs: &[(String, PathBuf)]) -> Spec {
        let env = [
            ("PATH", PATH.to_owned()),
            ("HOME", "/root".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("TZ", "UTC".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true".to_owned()),
            ("SOURCE_DATE_EPOCH", self.step.epoch.to_string()),
            // TeX writes the date of its formats from SOURCE_DATE_EPOCH only with this.
            ("FORCE_SOURCE_DATE", "1".to_owned()),
            // Fixes the order of sets in files compiled by Python before 3.11.
            ("PYTHONHASHSEED", "0".to_owned()),
        ];
        let mount = |(name, path): &(String, PathBuf)| Mount {
            host: path.clone().into(),
            guest: format!("{}/{name}.deb", script::DEBS).into(),
            access: Access::ReadOnly,
        };
        let packages = script::Packages { choice: self.step.choice, earlier: self.earlier, unconfigured_files: &self.unconfigured_files() };
        let script = script::script(&packages, &self.step.answers);
        Spec {
            mounts: debs.iter().map(mount).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            stdio: Stdio::Log { path: workdir.log.clone() },
            seed: Some(workdir.seed(&self.id.digest())),
            fixed_time: Some(self.step.epoch),
            abi: Abi::of(self.foreign()),
            ..Spec::new(root, vec!["/bin/sh".into(), "-c".into(), script.into()])
        }
    }
}

/// Sorts the keys of git's system configuration, if a script wrote it.
fn sort_git_config(upper: &Path) -> Result<(), Error> {
    let path = LayerPath::parse(git_config::PATH.as_bytes()).expect("a constant path is plain");
    match rewrite(upper, &path, MAX_GIT_CONFIG_BYTES, git_config::sorted) {
        // No package writes a file of this size.
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Ok(()),
        done => done.map_err(|source| Error::File(PathError { doing: "change", path: upper.join(git_config::PATH), source })),
    }
}

/// Sets a mode explicitly: otherwise the caller's umask would show in the layer.
fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| Error::File(PathError { doing: "change the mode of", path: path.to_owned(), source }))
}
