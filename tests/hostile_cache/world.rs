//! The honest cache: an image of small layers, its answers by target, and a home that asks for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use silo_base::error_chain;
use silo_base::event::{Event, Sink};
use silo_base::home::Home;
use silo_build::NoMachine;
use silo_build::host_network::HostNetwork;
use silo_build::image::{self, ImageId};
use silo_fetch::registry::repository::Repository;
use silo_fetch::retry::RetryPolicy;
use silo_fetch::transport::Transport;
use silo_model::config::{CacheSource, Settings};
use silo_model::lock::Lock;
use silo_model::oci::{self, location::Location};
use silo_model::recipe::catalog::RecipeSources;
use silo_ship::attach::Attach;
use silo_ship::push::{self, Options, Pushed, Subject};
use silo_sign::external::Signer;
use silo_sign::key::Secret;
use silo_sign::statement::Claim;
use silo_store::index::Index;
use silo_store::layout::Store;
use silo_store::{flock, layout, verify};
use silo_tool::definition::{self, Definition, Scope};
use silo_tool::lock_files;
use silo_tool::{Context, caches, share, shipping};
use tar::EntryType::{Directory, Regular, Symlink};

use super::faults::Honest;
use crate::support::Silo;
use crate::support::images::{Layer, layout as image_layout, tar};
use crate::support::numbers::Numbers;

/// The interface of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// A registry that lists referrers.
    Referrers,
    /// A registry that does not.
    Tags,
    /// A web server with the files of a layout.
    Web,
}

impl Interface {
    /// Returns the path of the repository on a server.
    pub fn base(self) -> &'static str {
        match self {
            Interface::Referrers | Interface::Tags => "/v2/team/silo",
            Interface::Web => "/cache",
        }
    }

    /// Returns the location of the cache on a server.
    pub fn location(self, host: &str) -> String {
        match self {
            Interface::Referrers | Interface::Tags => format!("{host}/team/silo"),
            Interface::Web => format!("http://{host}{}", self.base()),
        }
    }
}

/// An image, and a cache that holds it.
pub struct World {
    /// The silo that made the image, and that could build it.
    pub maker: Silo,
    /// The directory of the layout that it was made from.
    pub origin: PathBuf,
    /// The cache, as a directory.
    pub place: PathBuf,
    /// The same, with another image for another lock that the same key signed.
    pub old: PathBuf,
    /// The image.
    pub expected: ImageId,
    /// The index of its root.
    pub index: Vec<u8>,
    /// The public key, in PEM.
    pub key: String,
    /// The secret key, in PEM.
    pub secret: String,
    _other: Silo,
}

/// Some kilobytes that no compressor makes small.
fn noise(seed: u64) -> String {
    let mut numbers = Numbers::of(seed);
    (0..60_000).map(|_| char::from(b' ' + numbers.next(95) as u8)).collect()
}

fn layers(greeting: &str) -> Vec<Layer> {
    vec![
        Layer::plain(tar(&[
            (Directory, "usr/", 0o755, ""),
            (Regular, "usr/bin/greet", 0o755, greeting),
            (Regular, "etc/gone", 0o644, "gone\n"),
            (Regular, "etc/config", 0o600, "first\n"),
        ])),
        Layer::zstd(&tar(&[(Regular, "usr/share/noise", 0o644, &noise(1)), (Symlink, "usr/share/link", 0o777, "noise")])),
        Layer::gzip(&tar(&[(Regular, "etc/.wh.gone", 0o644, ""), (Regular, "etc/config", 0o644, "second\n")])),
    ]
}

fn greeter(greeting: &str) -> (Silo, PathBuf) {
    let silo = Silo::new();
    let origin = silo.project().join("layout");
    image_layout(&origin, &layers(greeting));
    drop(silo.ok(["install", "--quiet", "greeter", "--image", &format!("oci:{}:v1", origin.display()), "--shim", "greet"]));
    (silo, origin)
}

impl World {
    /// Makes the image and the cache.
    pub fn new() -> World {
        let (maker, origin) = greeter("#!/bin/sh\necho hello\n");
        let (other, _) = greeter("#!/bin/sh\necho something old\n");
        drop(maker.ok(["key", "new", "laptop"]));
        let secret = maker.path("keys/own/laptop.pem");
        let (place, old) = (maker.project().join("cache"), maker.project().join("old"));
        drop(maker.ok(["cache", "push", "--to", &place.display().to_string()]));
        drop(other.ok(["cache", "push", "--to", &old.display().to_string(), "--sign", &secret.display().to_string()]));
        let expected = maker.image_id("greeter");
        let index = fs::read(image::index_path(&Home::new(maker.path("")), expected)).expect("an index");
        let (key, secret) = (maker.ok(["key", "export", "laptop"]), fs::read_to_string(secret).expect("a key"));
        World { maker, origin, place, old, expected, index, key, secret, _other: other }
    }

    /// Writes the recipe, the lock and the trusted key into a home.
    pub fn furnish(&self, home: &Path) {
        for file in ["greeter.toml", "greeter.lock"] {
            let text = fs::read(self.maker.path(&format!("recipes/{file}"))).expect("the recipe");
            fs::create_dir_all(home.join("recipes")).expect("our own");
            fs::write(home.join("recipes").join(file), text).expect("our own");
        }
        fs::create_dir_all(home.join("keys/trusted")).expect("our own");
        fs::write(home.join("keys/trusted/laptop.pem"), &self.key).expect("our own");
    }
}

/// Returns all answers of a cache by target.
pub fn answers(place: &Path, interface: Interface) -> BTreeMap<String, Honest> {
    let base = interface.base();
    let answer = |kind: &str, body: &[u8]| Honest { status: 200, kind: kind.to_owned(), body: body.to_vec() };
    let mut all = BTreeMap::new();
    let list = fs::read(place.join("index.json")).expect("an index");
    let blobs = place.join("blobs/sha256");
    if interface == Interface::Web {
        all.insert(format!("{base}/index.json"), answer("application/json", &list));
    }
    for entry in fs::read_dir(&blobs).expect("a layout").flatten() {
        let (name, body) = (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a blob"));
        if interface == Interface::Web {
            all.insert(format!("{base}/blobs/sha256/{name}"), answer("application/octet-stream", &body));
            continue;
        }
        if oci::artifact::read(&body).is_ok() {
            let kind = oci::artifact::media_type(&body).expect("a document");
            all.insert(format!("{base}/manifests/sha256:{name}"), answer(kind, &body));
        }
        all.insert(format!("{base}/blobs/sha256:{name}"), answer("application/octet-stream", &body));
    }
    let index: Value = serde_json::from_slice(&list).expect("an index");
    for entry in index["manifests"].as_array().into_iter().flatten().filter(|_| interface != Interface::Web) {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().expect("a name");
        let digest = entry["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
        let found = answer(entry["mediaType"].as_str().expect("a type"), &fs::read(blobs.join(digest)).expect("a blob"));
        let target = match (interface, name.strip_prefix("sha256-")) {
            (Interface::Referrers, Some(about)) => format!("{base}/referrers/sha256:{about}"),
            _ => format!("{base}/manifests/{name}"),
        };
        all.insert(target, found);
    }
    all
}

/// The patience of a client that waits for an honest server, however busy this machine is.
pub fn patient() -> Transport {
    Transport::new(RetryPolicy { attempts: 2, first_pause: Duration::from_millis(1), ..RetryPolicy::default() })
}

/// The patience of a client that gives up quickly.
pub fn hurried() -> Transport {
    let short = Duration::from_millis(120);
    let policy =
        RetryPolicy { idle: short, answer: 2 * short, document: 3 * short, window: short, least: 10 << 10, ..patient().patience() };
    Transport::new(policy)
}

/// A home that asks caches for the image.
pub struct Asking<'a> {
    world: &'a World,
    dir: tempfile::TempDir,
    store: Store,
    home: Home,
    definition: Definition,
    lock: Lock,
    settings: Settings,
    stop: AtomicBool,
}

/// The result of asking a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// True if the image came.
    pub is_taken: bool,
    /// The warnings.
    pub warnings: Vec<String>,
    /// The notes.
    pub notes: Vec<String>,
}

/// A directory for many small files that need not survive the test.
pub fn temporary() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let made = tempfile::Builder::new().prefix("silo-hostile-").tempdir_in(shared);
    made.or_else(|_| tempfile::tempdir()).expect("a directory")
}

impl<'a> Asking<'a> {
    /// Makes an empty home with the recipe, the lock and the key.
    pub fn new(world: &'a World) -> Asking<'a> {
        let dir = temporary();
        let root = dir.path().join(".silo");
        let (store, home) = (Store::open(&root).expect("a store"), Home::new(root.clone()));
        layout::make_workplace(&home.work()).expect("our own");
        world.furnish(&root);
        let (definition, lock) = defined(&home);
        Asking { world, dir, store, home, definition, lock, settings: Settings::default(), stop: AtomicBool::new(false) }
    }

    /// Returns a copy of the home in which the image was made.
    pub fn of_maker(world: &'a World) -> Asking<'a> {
        let dir = temporary();
        let root = dir.path().join(".silo");
        let copied = Command::new("cp").arg("-a").arg(world.maker.path("")).arg(&root).status().expect("cp starts");
        assert!(copied.success());
        let (store, home) = (Store::open(&root).expect("a store"), Home::new(root));
        let (definition, lock) = defined(&home);
        Asking { world, dir, store, home, definition, lock, settings: Settings::default(), stop: AtomicBool::new(false) }
    }

    /// Pushes the image with the tag v1; an error is a warning.
    pub fn push(&self, location: Location, transport: &Transport) -> Asked {
        let to = share::Target { location, tag: "v1".to_owned(), digest: None };
        let options = Options { tag: Some(to.tag.clone()), ..Options::default() };
        let source = share::Source { id: self.world.expected, tool: None, claims: &[] };
        let pushed = share::push(&self.context(transport, &|_| {}), source, &to, &options, None);
        let warnings = pushed.as_ref().err().map(|error| error_chain::of(error).join(": "));
        Asked { is_taken: pushed.is_ok(), warnings: warnings.into_iter().collect(), notes: Vec::new() }
    }

    /// Pushes the image with a lock of this text and these claims.
    pub fn push_with(&self, location: Location, lock: &str, claims: &[Claim]) -> Result<Pushed, silo_tool::share::Error> {
        let (transport, key) = (patient(), Signer::Key(Box::new(Secret::parse(&self.world.secret).expect("a key"))));
        let context = self.context(&transport, &|_| {});
        if claims.is_empty() {
            let shared = flock::share(&self.store).expect("the store's lock");
            let shipping = shipping::shipping(&context, &shared);
            let image = image::get(&self.home, self.world.expected).expect("it can be read").expect("an image");
            let subject = Subject { id: self.world.expected, image, tool: None, lock: Some(lock.to_owned()) };
            let (make, may_cover) = (|_: &Repository<'_>, _, _| Ok(Vec::new()), |_: &Repository<'_>, _| Ok(true));
            let attach = Attach { make: &make, may_cover: &may_cover };
            return Ok(push::push(&shipping, &shipping.repository(location), &subject, &Options::default(), attach)?);
        }
        let to = share::Target { location, tag: "v1".to_owned(), digest: None };
        let source = share::Source { id: self.world.expected, tool: None, claims };
        share::push(&context, source, &to, &Options::default(), Some(&key))
    }

    /// Asks a cache; fails unless the result is the image, or nothing.
    pub fn ask(&self, location: &str, transport: &Transport) -> Asked {
        let said = Mutex::new(Asked { is_taken: false, warnings: Vec::new(), notes: Vec::new() });
        let sink = |event: Event| {
            let mut said = said.lock().expect("nobody panics here");
            match event {
                Event::Warning { text } => said.warnings.push(text),
                Event::Note { text } => said.notes.push(text),
                _ => {}
            }
        };
        let target = self.definition.target(&self.lock);
        let cache = CacheSource { location: location.to_owned(), push: false };
        {
            let context = self.context(transport, &sink);
            let shared = flock::share(&self.store).expect("the store's lock");
            drop(caches::take(&context, &shared, std::slice::from_ref(&cache), &[target]));
        }
        let mut asked = said.into_inner().expect("nobody panics here");
        let found = silo_build::known(&self.home, &target);
        asked.is_taken = found.is_some();
        match found {
            Some(id) => self.check(id),
            None => assert!(fs::read_dir(self.home.made()).map_or(0, Iterator::count) == 0, "an image counts for another derivation"),
        }
        asked
    }

    fn context<'b>(&'b self, transport: &'b Transport, sink: Sink<'b>) -> Context<'b> {
        static PLACES: RecipeSources = RecipeSources { user: None, project: None, draft: None };
        static FILES: std::sync::LazyLock<silo_model::config::project::ProjectFiles> = std::sync::LazyLock::new(Default::default);
        Context {
            home: &self.home,
            store: &self.store,
            places: std::borrow::Cow::Borrowed(&PLACES),
            files: &FILES,
            settings: &self.settings,
            user_settings: &self.settings,
            project_settings: &self.settings,
            project: self.dir.path(),
            keep_failed: false,
            check: None,
            pool: None,
            machine: None,
            no_machine: None,
            second_machine: None,
            counted_machine: &|| Err(NoMachine { why: "no step needs one".to_owned(), hint: None }),
            realisations: silo_build::RealisationWriter::default(),
            apt_dir: PathBuf::from("/nowhere"),
            transport,
            outside: HostNetwork { user_home: self.dir.path().to_owned(), ..HostNetwork::default() },
            program: PathBuf::from("/nowhere/silo"),
            found_as: PathBuf::from("/nowhere/silo"),
            now: 0,
            jobs: 2,
            sink,
            stop: &self.stop,
            learn_client: |_, _, _| false,
        }
    }

    /// Fails unless an image is the expected one, file by file.
    fn check(&self, id: ImageId) {
        assert_eq!(id, self.world.expected, "another image");
        let index = fs::read(image::index_path(&self.home, id)).expect("an index");
        assert!(index == self.world.index, "another root");
        let index = Index::parse(&index).expect("an index");
        let differences = verify::verify_root(&index, &image::root(&self.home, id)).expect("it can be read");
        assert!(differences.is_empty(), "{differences:?}");
    }
}

/// Reads the definition and the lock of the tool.
fn defined(home: &Home) -> (Definition, Lock) {
    let (settings, places) = (Settings::default(), RecipeSources { user: Some(home.recipes()), ..RecipeSources::default() });
    let view = silo_tool::View {
        home,
        places: &places,
        settings: &settings,
        user_settings: &settings,
        project_settings: &settings,
        project: Path::new("/"),
        files: None,
    };
    let definition = definition::of(view, "greeter", Scope::Global).expect("a definition");
    let lock = lock_files::existing(view, &definition).expect("it can be read").expect("a lock");
    (definition, lock)
}
