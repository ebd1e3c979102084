//! What a step with a network sees: its grants as names, the way to them, and the machine's own settings.
//!
//! None of this is hashed. A derivation holds the grants as they were written; which mirror answers for them, through
//! which proxy, and whose certificates are believed meanwhile, differs from machine to machine, and what comes of it
//! is pinned by the lock.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::broker::proxies::Proxies;
use crate::ecosystem::registries::{self, Registry};
use crate::ecosystem::{self, Learned};
use crate::event::{Event, Sink};
use crate::home::Home;
use crate::launch::spec::{Access, Asker, Dir, Identity, Learn, Limits, Mount, Network, Root, Spec, Stdio, Upper};
use crate::launch::{self, Exit};
use crate::recipe::Recipe;

use super::{Error, Workshop, bench};

/// Where a step finds the machine's own trusted roots; nothing below `/run` gets into a layer.
const ROOTS: &str = "/run/silo/ca-certificates.crt";

/// Where Debian's programs look for trusted roots.
const IMAGE_ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";

/// The variables by which programs are told of other roots, where they do not ask Debian's place anyway.
const ROOTS_VARIABLES: [&str; 7] =
    ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO", "GIT_SSL_CAINFO"];

/// What a probe may write; a package client's cache and one small package.
const PROBE_BYTES: u64 = 512 << 20;

/// Held while an ecosystem is learned: steps of two tools that need the same one ask once.
static LEARNING: Mutex<()> = Mutex::new(());

/// What this machine's own programs know of the network.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// The machine's proxies.
    pub proxies: Proxies,
    /// Where the machine's trusted roots may be; the first file that is there counts.
    pub roots: Vec<PathBuf>,
    /// Variables that name the user's own registries, those of [`registries::ASKED`] that are set.
    pub variables: BTreeMap<String, String>,
    /// The user's home directory, where package clients keep their settings.
    pub user_home: PathBuf,
}

/// What a launch spec needs for a network.
pub struct Reach {
    network: Network,
    mounts: Vec<Mount>,
    env: Vec<(String, String)>,
}

impl Reach {
    /// Lays it over a spec; a variable that is set already stays.
    pub fn furnish(self, spec: &mut Spec) {
        let resolver = self.network.file();
        spec.files.retain(|file| file.guest != resolver.guest);
        spec.files.push(resolver);
        spec.network = Some(self.network);
        spec.mounts.extend(self.mounts);
        for (name, value) in self.env {
            spec.env.entry(name.into()).or_insert_with(|| value.into());
        }
    }
}

/// Finds out what a step with these grants sees, on a root that these directories make, the topmost first.
pub(super) fn reach(shop: &Workshop<'_>, recipe: &Recipe, grants: &[String], root: &[PathBuf]) -> Result<Option<Reach>, Error> {
    if grants.is_empty() {
        return Ok(None);
    }
    let learning = Learning { home: shop.home, program: shop.program, outside: shop.outside, stop: shop.stop, recipe, root };
    let registries = registries::read(&shop.outside.variables, &shop.outside.user_home);
    let mut network = Network { proxies: shop.outside.proxies.clone(), ..Network::default() };
    for grant in grants {
        match grant.strip_prefix('@') {
            None => network.allow.push(grant.clone()),
            Some(name) => add(&mut network, &learning, shop.ecosystems, &registries, name, shop.sink)?,
        }
    }
    Ok(Some(surround(shop.outside, network, &registries, root)))
}

/// What a run is to reach.
pub struct Wish<'a> {
    /// What is granted: names, or ecosystems such as `@pypi`.
    pub allow: &'a [String],
    /// What is not, the same way.
    pub deny: &'a [String],
    /// Which names ecosystems are by `silo.toml`.
    pub ecosystems: &'a BTreeMap<String, Vec<String>>,
    /// Where what was reached is noted, when everything is open to be learned.
    pub learn: Option<PathBuf>,
    /// Whether an ecosystem that nobody has learned yet is learned now; it takes a moment, and a network.
    pub ask: bool,
}

/// Finds out what a run sees. An ecosystem that cannot be learned is told and left out: the run may not need it.
pub fn for_run(learning: &Learning<'_>, wish: Wish<'_>, sink: Sink<'_>) -> Reach {
    let registries = registries::read(&learning.outside.variables, &learning.outside.user_home);
    let mut network = Network {
        proxies: learning.outside.proxies.clone(),
        asker: Asker::Run,
        learn: wish.learn.map(|into| Learn { into }),
        ..Network::default()
    };
    for grant in wish.allow {
        let Some(name) = grant.strip_prefix('@') else {
            network.allow.push(grant.clone());
            continue;
        };
        if !wish.ask && !wish.ecosystems.contains_key(name) && !ecosystem::get(learning.home, name).is_ok_and(|learned| learned.is_some()) {
            sink(Event::Note { text: format!("@{name} is not known here yet; `silo config network learn @{name}` asks its client") });
            continue;
        }
        if let Err(error) = add(&mut network, learning, wish.ecosystems, &registries, name, sink) {
            let why = crate::causes::of(&error).into_iter().next().unwrap_or_default();
            let why = why.lines().next().unwrap_or_default();
            sink(Event::Note { text: format!("@{name} is not reached: {why}") });
        }
    }
    for grant in wish.deny {
        match grant.strip_prefix('@') {
            None => network.deny.push(grant.clone()),
            // What was never learned was never granted.
            Some(name) => {
                let learned = ecosystem::get(learning.home, name).ok().flatten().unwrap_or_default();
                let own = of(name, &registries).flat_map(Registry::grants);
                network.deny.extend(wish.ecosystems.get(name).cloned().unwrap_or(learned.names).into_iter().chain(own));
            }
        }
    }
    surround(learning.outside, network, &registries, learning.root)
}

/// Adds what an ecosystem is to a network; learns it where nobody has yet.
fn add(
    network: &mut Network,
    learning: &Learning<'_>,
    known: &BTreeMap<String, Vec<String>>,
    registries: &[Registry],
    name: &str,
    sink: Sink<'_>,
) -> Result<(), Error> {
    if let Some(names) = known.get(name) {
        network.allow.extend_from_slice(names);
        return Ok(());
    }
    network.allow.extend(of(name, registries).flat_map(Registry::grants));
    let settings = settings(name, registries);
    let _one = LEARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let learned = match ecosystem::get(learning.home, name)?.filter(|learned| learned.settings == settings) {
        Some(learned) => learned,
        None => {
            let learned = probe(learning, name)?;
            let file = learning.home.ecosystem(name);
            let text = format!("@{name} is {}, as its client shows; kept in {}", learned.names.join(", "), file.display());
            sink(Event::Note { text });
            learned
        }
    };
    network.public.extend(learned.names);
    Ok(())
}

/// The settings of one ecosystem's clients.
fn of<'a>(name: &str, registries: &'a [Registry]) -> impl Iterator<Item = &'a Registry> {
    registries.iter().filter(move |registry| registry.ecosystem == name)
}

fn settings(name: &str, registries: &[Registry]) -> Vec<String> {
    of(name, registries).map(|registry| format!("{}={}", registry.variable, registry.value)).collect()
}

/// Adds to a network what makes programs use it as the machine's own would.
fn surround(outside: &Outside, network: Network, registries: &[Registry], root: &[PathBuf]) -> Reach {
    let mut env: Vec<(String, String)> = registries.iter().map(|registry| (registry.variable.to_owned(), registry.value.clone())).collect();
    let mut mounts = Vec::new();
    if let Some(host) = outside.roots.iter().find(|path| path.is_file())
        && fs::read(host).ok() != root.iter().find_map(|tree| fs::read(tree.join(IMAGE_ROOTS)).ok())
    {
        mounts.push(Mount { host: host.clone(), guest: ROOTS.into(), access: Access::ReadOnly });
        env.extend(ROOTS_VARIABLES.iter().map(|name| ((*name).to_owned(), ROOTS.to_owned())));
    }
    Reach { network, mounts, env }
}

/// What an ecosystem is learned with.
pub struct Learning<'a> {
    /// The home that what is learned is kept in.
    pub home: &'a Home,
    /// The program itself.
    pub program: &'a Path,
    /// The machine's own settings.
    pub outside: &'a Outside,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// The recipe that says how.
    pub recipe: &'a Recipe,
    /// The directories of a root with the ecosystem's client, the topmost first.
    pub root: &'a [PathBuf],
}

/// Learns which names an ecosystem is, by running the recipe's probe, and keeps them.
///
/// The probe sees the root, nothing of the host, and every name with a public address.
pub fn learn(learning: &Learning<'_>, name: &str) -> Result<Learned, Error> {
    let _one = LEARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    probe(learning, name)
}

/// The same, for who holds [`LEARNING`].
fn probe(learning: &Learning<'_>, name: &str) -> Result<Learned, Error> {
    let Some(probe) = learning.recipe.ecosystems.get(name) else {
        return Err(Error::Ecosystem { name: name.to_owned(), recipe: learning.recipe.name.clone() });
    };
    let place = format!("ecosystem-{name}-{}", std::process::id());
    let (notes, log) = (learning.home.work().join(&place), learning.home.logs().join(format!("ecosystem-{name}.log")));
    for dir in [learning.home.work(), learning.home.logs()] {
        fs::create_dir_all(&dir).map_err(|source| Error::File { doing: "create", path: dir, source })?;
    }
    for old in [&notes, &log] {
        match fs::remove_file(old) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::File { doing: "remove", path: old.clone(), source });
            }
            _ => {}
        }
    }
    let registries = registries::read(&learning.outside.variables, &learning.outside.user_home);
    let network = Network {
        allow: of(name, &registries).flat_map(Registry::grants).collect(),
        learn: Some(Learn { into: notes.clone() }),
        proxies: learning.outside.proxies.clone(),
        ..Network::default()
    };
    let mut spec = probe_spec(learning, &probe.run, &log);
    surround(learning.outside, network, &registries, learning.root).furnish(&mut spec);
    let exit = launch::again::run(learning.program, &spec, launch::again::Circumstances::Usual, learning.stop);
    let names = ecosystem::noted(&notes);
    // It was read; nobody else looks at it.
    let _ = fs::remove_file(&notes);
    let exit = exit?;
    if learning.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    let names = names?;
    if exit != Exit::Code(0) || names.is_empty() {
        let exit = if names.is_empty() && exit == Exit::Code(0) { "it asked for no name".to_owned() } else { bench::told(exit) };
        return Err(Error::Probe { name: name.to_owned(), exit, tail: bench::tail(&log), log });
    }
    let learned = Learned { names, settings: settings(name, &registries) };
    ecosystem::put(learning.home, name, &learned)?;
    Ok(learned)
}

fn probe_spec(learning: &Learning<'_>, argv: &[String], log: &Path) -> Spec {
    let own = super::environment(learning.recipe);
    let mut env: BTreeMap<String, String> = BTreeMap::from([("LC_ALL".to_owned(), "C.UTF-8".to_owned())]);
    env.extend(own.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.insert("HOME".to_owned(), "/tmp".to_owned());
    Spec {
        root: Root { lower: learning.root.to_vec(), upper: Upper::Ephemeral { size_bytes: PROBE_BYTES } },
        mounts: Vec::new(),
        dirs: vec![Dir { guest: "/tmp/project".into(), mode: 0o777 }],
        files: Vec::new(),
        read_only: Vec::new(),
        argv: argv.iter().map(Into::into).collect(),
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: "/tmp/project".into(),
        hostname: "silo".to_owned(),
        identity: Identity::Caller,
        stdio: Stdio::Log { path: log.to_owned() },
        limits: Limits::default(),
        network: None,
    }
}
