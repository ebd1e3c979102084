//! Network of a build step: its grants as host names, proxies, trusted certificates and the user's registries.
//!
//! None of this is hashed. A derivation has the grants as written. The mirror that answers, the proxy, and the trusted CA certificates
//! differ between hosts; the lock pins the output of the step.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use silo_store::path_error::PathError;
use silo_store::{private, resolve_in_root};

use silo_base::event::{self, Activity, Event, Sink};
use silo_base::grant::{Grant, HostGrant};
use silo_base::home::Home;
use silo_base::system::Arch;
use silo_launch::Exit;
use silo_launch::broker::recording::document::Record;
use silo_launch::spec::{Bytes, Dir, File, GrantOrigin, Identity, Learn, Network, Root, Spec, Stdio, Upper, VmFiles};
use silo_model::ecosystem::registries::{self, Registry};
use silo_model::ecosystem::{self, Learned};
use silo_model::recipe::Recipe;

use super::context::{BuildContext, environment};
use super::error::Error;
use super::host_network::HostNetwork;
use super::{ca_certificates, java_keystore, log};
use silo_base::error_chain;

/// Path of the host's CA certificates in a step; files below `/run` never get into a layer.
const ROOTS: &str = "/run/silo/ca-certificates.crt";

/// Path of the same certificates as a Java keystore.
const JAVA_ROOTS: &str = "/run/silo/cacerts";

/// Path of wget's settings with these certificates.
const WGETRC: &str = "/run/silo/wgetrc";

/// Path of Debian's CA bundle in an image.
const IMAGE_ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";

/// Limit on the size of an image's CA bundle; Debian's has 0.2 MB.
const MAX_ROOTS_BYTES: u64 = 16 << 20;

/// Environment variables that set the path of the CA bundle for programs that do not use Debian's path.
const ROOTS_VARIABLES: [&str; 7] =
    ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO", "GIT_SSL_CAINFO"];

/// Limit on the bytes that a probe may write: a package client's cache and one small package.
const PROBE_BYTES: u64 = 512 << 20;

/// Held while the host names of an ecosystem are learned, so that parallel steps run a probe once.
static LEARNING: Mutex<()> = Mutex::new(());

/// Additions to a launch spec for a network.
#[derive(Debug)]
pub struct NetworkPatch {
    /// The allowed hosts.
    pub network: Option<Network>,
    /// Files that programs need for it.
    pub files: Vec<File>,
    /// Variables that programs need for it; existing variables are kept.
    pub env: Vec<(String, String)>,
}

impl NetworkPatch {
    /// Adds the network to a launch spec; existing variables are kept.
    pub fn furnish(self, spec: &mut Spec) {
        if let Some(network) = &self.network {
            let resolver = network.file();
            spec.files.retain(|file| file.guest != resolver.guest);
            spec.files.push(resolver);
        }
        spec.network = self.network;
        spec.files.extend(self.files);
        for (name, value) in self.env {
            spec.env.entry(name.into()).or_insert_with(|| value.into());
        }
    }
}

/// Returns the network of a step with these grants. `root` has the directories of its root, the topmost first; `authority` is a CA
/// certificate of this run alone, as PEM text.
pub(super) fn reach(
    ctx: &BuildContext<'_>,
    recipe: &Recipe,
    grants: &[Grant],
    root: &[PathBuf],
    authority: Option<&str>,
) -> Result<NetworkPatch, Error> {
    let learning =
        LearnContext { home: ctx.home, program: ctx.program, outside: ctx.outside, machine: ctx.machine, stop: ctx.stop, recipe, root };
    let names = EcosystemResolver::new(ctx.home, ctx.outside, ctx.ecosystems);
    let mut network = Network { proxies: ctx.outside.proxies.clone(), ..Network::default() };
    for grant in grants {
        match grant {
            Grant::Hosts(hosts) => network.allow.push(hosts.clone()),
            Grant::Ecosystem(ecosystem) => names.or_learned(&learning, ecosystem.name(), ctx.sink)?.grant(&mut network),
        }
    }
    Ok(surround(ctx.outside, network, names.registries(), authority, root))
}

/// Returns the network of a step whose record answers: the places and the registries of the record, whatever this host has.
pub(super) fn replay(ctx: &BuildContext<'_>, record: &Record, root: &[PathBuf], authority: &str) -> NetworkPatch {
    let places: BTreeSet<String> = record
        .responses
        .iter()
        .filter_map(|response| response.request.place())
        .map(|(host, port)| format!("{}:{port}", host.as_str()))
        .collect();
    let network = Network { allow: places.iter().filter_map(|place| HostGrant::parse(place)).collect(), ..Network::default() };
    let registries: Vec<Registry> = record.settings.iter().filter_map(|(variable, value)| Registry::recorded(variable, value)).collect();
    surround(ctx.outside, network, &registries, Some(authority), root)
}

/// Returns the settings of the host's registries, for a record.
pub(super) fn registries_of(outside: &HostNetwork) -> Vec<(String, String)> {
    let registries = registries::read(&outside.variables, &outside.user_home);
    registries.into_iter().map(|registry| (registry.variable.to_owned(), registry.value)).collect()
}

/// Returns the CA certificates that a step's programs trust without a record: the image's and the host's.
pub(super) fn roots(outside: &HostNetwork, root: &[PathBuf]) -> Vec<u8> {
    let image = root.iter().find_map(|tree| resolve_in_root::read(tree, Path::new(IMAGE_ROOTS), MAX_ROOTS_BYTES).ok());
    let host = outside.bundle().map(|path| fs::read(path).unwrap_or_default());
    [image.unwrap_or_default(), host.unwrap_or_default()].join(&b'\n')
}

/// Network options of a run.
pub struct NetworkOptions<'a> {
    /// Allowed: host names, or ecosystems such as `@pypi`.
    pub allow: &'a [Grant],
    /// Denied, in the same form.
    pub deny: &'a [Grant],
    /// Host names of ecosystems in `silo.toml`.
    pub ecosystems: &'a BTreeMap<String, Vec<Grant>>,
    /// Path of the file that records the contacted hosts, if the run is open in order to learn them.
    pub learn: Option<PathBuf>,
    /// A CA certificate of this run alone, as PEM text.
    pub authority: Option<String>,
}

/// Returns the network of a run. Unknown ecosystems are reported and skipped: the run may not need them, and must not wait for a probe.
pub fn for_run(home: &Home, outside: &HostNetwork, root: &[PathBuf], wish: NetworkOptions<'_>, sink: Sink<'_>) -> NetworkPatch {
    let names = EcosystemResolver::new(home, outside, wish.ecosystems);
    let mut network = Network {
        proxies: outside.proxies.clone(),
        asker: GrantOrigin::Run,
        learn: wish.learn.map(|into| Learn { into }),
        ..Network::default()
    };
    for grant in wish.allow {
        let name = match grant {
            Grant::Ecosystem(ecosystem) => ecosystem.name(),
            Grant::Hosts(hosts) => {
                network.allow.push(hosts.clone());
                continue;
            }
        };
        match names.of(name) {
            Ok(Some(ecosystem)) => ecosystem.grant(&mut network),
            Ok(None) => {
                sink(Event::Note { text: format!("@{name} has no known hosts yet; `silo config network learn @{name}` learns them") });
            }
            Err(error) => sink(unreached(name, &error)),
        }
    }
    for grant in wish.deny {
        match grant {
            Grant::Hosts(hosts) => network.deny.push(hosts.clone()),
            // An ecosystem that was never learned was never granted.
            Grant::Ecosystem(ecosystem) => {
                network.deny.extend(names.of(ecosystem.name()).ok().flatten().into_iter().flat_map(Ecosystem::all))
            }
        }
    }
    // A program without a network cannot use a registry.
    let registries = if reaches(&network) { names.registries() } else { &[] };
    surround(outside, network, registries, wish.authority.as_deref(), root)
}

/// Learns the host names of all unknown ecosystems among some grants; failures are reported.
pub fn learn_new(learning: &LearnContext<'_>, said: &BTreeMap<String, Vec<Grant>>, grants: &[Grant], sink: Sink<'_>) {
    let names = EcosystemResolver::new(learning.home, learning.outside, said);
    for name in grants.iter().filter_map(Grant::ecosystem) {
        if let Err(error) = names.or_learned(learning, name.name(), sink) {
            sink(unreached(name.name(), &error));
        }
    }
}

/// True if a network has any place to reach.
fn reaches(network: &Network) -> bool {
    !network.allow.is_empty() || !network.public.is_empty() || network.learn.is_some()
}

/// Returns the ecosystems among some grants that have no known host names.
pub fn unknown(home: &Home, outside: &HostNetwork, said: &BTreeMap<String, Vec<Grant>>, grants: &[Grant]) -> BTreeSet<String> {
    let names = EcosystemResolver::new(home, outside, said);
    let wanted = grants.iter().filter_map(Grant::ecosystem).map(|ecosystem| ecosystem.name());
    wanted.filter(|name| matches!(names.of(name), Ok(None))).map(str::to_owned).collect()
}

fn unreached(name: &str, error: &(dyn std::error::Error + 'static)) -> Event {
    let why = error_chain::of(error).into_iter().next().unwrap_or_default();
    Event::Note { text: format!("@{name} is not reachable: {}", why.lines().next().unwrap_or_default()) }
}

/// Resolves `@ecosystem` to host names.
struct EcosystemResolver<'a> {
    home: &'a Home,
    /// From `silo.toml`.
    said: &'a BTreeMap<String, Vec<Grant>>,
    outside: &'a HostNetwork,
    /// The user's own registries, once something needs them.
    registries: OnceCell<Vec<Registry>>,
}

/// Host names of an ecosystem.
struct Ecosystem {
    /// Named by the user.
    allow: Vec<HostGrant>,
    /// Contacted by the client in a probe; allowed only at public addresses.
    public: Vec<HostGrant>,
}

impl Ecosystem {
    fn grant(self, network: &mut Network) {
        network.allow.extend(self.allow);
        network.public.extend(self.public);
    }

    fn all(self) -> impl Iterator<Item = HostGrant> {
        self.allow.into_iter().chain(self.public)
    }
}

impl<'a> EcosystemResolver<'a> {
    fn new(home: &'a Home, outside: &'a HostNetwork, said: &'a BTreeMap<String, Vec<Grant>>) -> EcosystemResolver<'a> {
        EcosystemResolver { home, said, outside, registries: OnceCell::new() }
    }

    fn registries(&self) -> &[Registry] {
        self.registries.get_or_init(|| registries::read(&self.outside.variables, &self.outside.user_home))
    }

    /// Returns the host names of an ecosystem, if they are configured, or were learned under the current settings.
    fn of(&self, name: &str) -> Result<Option<Ecosystem>, ecosystem::Error> {
        if let Some(names) = self.said.get(name) {
            let hosts = |grant: &Grant| match grant {
                Grant::Hosts(hosts) => Some(hosts.clone()),
                // Settings refuse an ecosystem here.
                Grant::Ecosystem(_) => None,
            };
            return Ok(Some(Ecosystem { allow: names.iter().filter_map(hosts).collect(), public: Vec::new() }));
        }
        let settings = settings(name, self.registries());
        let learned = ecosystem::get(self.home, name)?.filter(|learned| learned.settings == settings);
        Ok(learned.map(|learned| self.with(name, learned)))
    }

    /// Returns the host names of an ecosystem, and learns them if they are unknown.
    fn or_learned(&self, learning: &LearnContext<'_>, name: &str, sink: Sink<'_>) -> Result<Ecosystem, Error> {
        let _one = LEARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = self.of(name)? {
            return Ok(known);
        }
        let learned = asked(learning, name, sink)?;
        let file = self.home.ecosystem(name);
        let text = format!("learned @{name} from its client: {}; stored in {}", learned.listed(), file.display());
        sink(Event::Note { text });
        Ok(self.with(name, learned))
    }

    fn with(&self, name: &str, learned: Learned) -> Ecosystem {
        Ecosystem { allow: of(name, self.registries()).flat_map(Registry::grants).collect(), public: learned.names }
    }
}

/// Returns the registries of one ecosystem.
fn of<'a>(name: &str, registries: &'a [Registry]) -> impl Iterator<Item = &'a Registry> {
    registries.iter().filter(move |registry| registry.ecosystem == name)
}

fn settings(name: &str, registries: &[Registry]) -> Vec<String> {
    of(name, registries).map(|registry| format!("{}={}", registry.variable, registry.value)).collect()
}

/// Adds the host's registries and CA certificates to a network, and the CA certificate of a run.
fn surround(outside: &HostNetwork, network: Network, registries: &[Registry], authority: Option<&str>, root: &[PathBuf]) -> NetworkPatch {
    let reaches = reaches(&network);
    let asker = network.asker;
    let mut reach = NetworkPatch { network: Some(network), files: Vec::new(), env: Vec::new() };
    for registry in registries {
        match registry.file() {
            Some((place, text)) => reach.files.push(File { guest: place.into(), bytes: Bytes(text.into_bytes()), mode: 0o644 }),
            None => reach.env.push((registry.variable.to_owned(), registry.value.clone())),
        }
    }
    // Without a network there is nothing to trust.
    if reaches {
        // An unreadable file adds no certificates; the program's own certificate error then explains the failure.
        let mut own = outside.bundle().map(|path| fs::read(path).unwrap_or_default()).unwrap_or_default();
        own.extend(authority.into_iter().flat_map(|pem| ["\n", pem]).flat_map(str::bytes));
        if !own.is_empty() {
            trust(&own, root, asker, &mut reach);
        }
    }
    reach
}

/// Adds the host's CA certificates that the image lacks, as a PEM bundle and a Java keystore.
///
/// In a run they replace the image's files. In a step they must not: a file derived from them, such as a regenerated bundle, would get into
/// the image. So a step gets them at paths outside of any layer, named by environment variables.
fn trust(own: &[u8], root: &[PathBuf], asker: GrantOrigin, reach: &mut NetworkPatch) {
    let image = |path: &str| root.iter().find_map(|tree| resolve_in_root::read(tree, Path::new(path), MAX_ROOTS_BYTES).ok());
    let theirs = image(IMAGE_ROOTS).unwrap_or_default();
    let Some(merged) = ca_certificates::merged(&theirs, own) else { return };
    let store = image(java_keystore::PATH).and_then(|image| ca_certificates::merged_store(&image, &theirs, own));
    let is_step = asker == GrantOrigin::Step;
    let (roots, java) =
        if is_step { (PathBuf::from(ROOTS), JAVA_ROOTS.into()) } else { (absolute(IMAGE_ROOTS), absolute(java_keystore::PATH)) };
    if is_step && store.is_some() {
        let value = format!("-Djavax.net.ssl.trustStore={JAVA_ROOTS}");
        reach.env.push(("JAVA_TOOL_OPTIONS".to_owned(), value));
    }
    reach.env.extend(ROOTS_VARIABLES.iter().map(|name| ((*name).to_owned(), roots.to_string_lossy().into_owned())));
    let file = |guest, bytes| File { guest, bytes: Bytes(bytes), mode: 0o644 };
    if is_step {
        // wget has no variable for certificates, but one for its settings.
        reach.env.push(("WGETRC".to_owned(), WGETRC.to_owned()));
        reach.files.push(file(WGETRC.into(), format!("ca_certificate = {ROOTS}\n").into_bytes()));
    }
    reach.files.push(file(roots, merged));
    reach.files.extend(store.map(|bytes| file(java, bytes)));
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

/// Context of learning an ecosystem.
pub struct LearnContext<'a> {
    /// The home to store the host names in.
    pub home: &'a Home,
    /// Path of the silo binary.
    pub program: &'a Path,
    /// The host's network configuration.
    pub outside: &'a HostNetwork,
    /// The VM to run the probe in, which needs one if its root is for another architecture.
    pub machine: Option<&'a VmFiles>,
    /// Set when the user stops the command.
    pub stop: &'a AtomicBool,
    /// The recipe with the probe.
    pub recipe: &'a Recipe,
    /// The directories of a root with the ecosystem's client, the topmost first.
    pub root: &'a [PathBuf],
}

/// Learns the host names of an ecosystem by running the recipe's probe, and stores them.
///
/// The probe sees the root, no files of the host, and may contact any name with a public address.
pub fn learn(learning: &LearnContext<'_>, name: &str, sink: Sink<'_>) -> Result<Learned, Error> {
    let _one = LEARNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    asked(learning, name, sink)
}

/// Runs the probe with progress events, because it takes seconds. The caller must hold [`LEARNING`].
fn asked(learning: &LearnContext<'_>, name: &str, sink: Sink<'_>) -> Result<Learned, Error> {
    let id = event::next_id();
    sink(Event::Started { id, kind: Activity::Resolve, name: format!("@{name}"), total: None });
    let learned = probe(learning, name);
    sink(Event::Finished { id });
    learned
}

/// Runs the probe and stores the host names. The caller must hold [`LEARNING`].
fn probe(learning: &LearnContext<'_>, name: &str) -> Result<Learned, Error> {
    let Some(probe) = learning.recipe.ecosystems.get(name) else {
        return Err(Error::Ecosystem { name: name.to_owned(), recipe: learning.recipe.name.clone() });
    };
    let place = format!("ecosystem-{name}-{}", std::process::id());
    let (notes, log) = (learning.home.work().join(&place), learning.home.logs().join(format!("ecosystem-{name}.log")));
    for dir in [learning.home.work(), learning.home.logs()] {
        private::make_dir(&dir)?;
    }
    for old in [&notes, &log] {
        match fs::remove_file(old) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::File(PathError { doing: "remove", path: old.clone(), source }));
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
    surround(learning.outside, network, &registries, None, learning.root).furnish(&mut spec);
    let exit = silo_launch::reexec::run(
        learning.program,
        &spec,
        silo_launch::reexec::ProcessSettings::Usual,
        &mut silo_launch::reexec::until(learning.stop),
    );
    let names = ecosystem::noted(&notes);
    // Temporary file, already read.
    let _ = fs::remove_file(&notes);
    let exit = match exit {
        Err(silo_launch::error::Error::NotFound { program }) => {
            return Err(Error::NoClient { name: name.to_owned(), program: program.display().to_string() });
        }
        exit => exit?,
    };
    if learning.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    let names = names?;
    if exit != Exit::Code(0) || names.is_empty() {
        let exit = if names.is_empty() && exit == Exit::Code(0) { "it contacted no host".to_owned() } else { log::describe_exit(exit) };
        return Err(Error::Probe { name: name.to_owned(), exit, tail: log::tail(&log), log });
    }
    let learned = Learned { names, settings: settings(name, &registries) };
    ecosystem::put(learning.home, name, &learned)?;
    Ok(learned)
}

fn probe_spec(learning: &LearnContext<'_>, argv: &[String], log: &Path) -> Spec {
    let own = environment(learning.recipe.run.env.clone());
    let mut env: BTreeMap<String, String> = BTreeMap::from([("LC_ALL".to_owned(), "C.UTF-8".to_owned())]);
    env.extend(own);
    env.insert("HOME".to_owned(), "/tmp".to_owned());
    let root = Root { lower: learning.root.to_vec(), upper: Upper::Ephemeral { size_bytes: PROBE_BYTES } };
    Spec {
        dirs: vec![Dir { guest: "/tmp/project".into(), mode: 0o777 }],
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: "/tmp/project".into(),
        identity: Identity::Caller,
        stdio: Stdio::Log { path: log.to_owned() },
        machine: learning.machine.filter(|machine| machine.arch != Arch::host()).cloned(),
        ..Spec::new(root, argv.iter().map(Into::into).collect())
    }
}
