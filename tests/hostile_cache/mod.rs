//! A hostile cache: thousands of wrong answers, each of which gives the same image or an error.
//!
//! The answers come from a generator without a clock. A failure prints the names from which the same answer is made again.

mod faults;
mod forgeries;
mod pushes;
mod server;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use silo_base::system::Arch;
use silo_fetch::transport::Transport;
use silo_model::oci::artifact;
use silo_model::oci::contents::{self, ANNOTATION};
use silo_model::oci::manifest::digest;
use silo_model::oci::{self, Blob as Named};
use silo_sign::external::Signer;
use silo_sign::key::{Algorithm, Secret};
use silo_store::digest::Digest;

use crate::support::numbers::Numbers;
use crate::support::{Silo, outcome};
use faults::{Case, FAULTS, Honest, Weight};
use forgeries::{Expect, MANY_STATEMENTS, Parts};
use server::{Ask, Reply, Server};
use world::{Asked, Asking, Interface, World, answers, hurried, patient};

/// Set in the process whose memory is measured.
const INSIDE: &str = "SILO_TEST_HOSTILE_CACHE";
/// The least number of wrong answers.
const LEAST_ANSWERS: usize = 5_000;
/// The most memory of the process that asks, with the servers and all their answers.
const MAX_RESIDENT_BYTES: u64 = 640 << 20;
/// The most memory that it may reserve, so that a bomb hurts nobody else.
const MAX_RESERVED_BYTES: u64 = 8 << 30;
/// The most characters of a message about a wrong answer.
const MAX_MESSAGE_CHARS: usize = 2_000;
/// Requests that run at the same time; silent servers cost no processor.
const WORKERS: usize = 4;

/// A fault of one request: the target, the number of the fault and of its variant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrong {
    target: String,
    fault: usize,
    variant: usize,
    /// True if only the first such request is answered wrongly.
    is_once: bool,
}

/// One run: the interface of the cache, and its faults.
#[derive(Clone, Debug)]
struct Plan {
    interface: Interface,
    wrongs: Vec<Wrong>,
}

impl Plan {
    fn title(&self) -> String {
        let one = |wrong: &Wrong| {
            let once = if wrong.is_once { ", once" } else { "" };
            format!("{}: {} ({}{once})", wrong.target, FAULTS[wrong.fault].name, wrong.variant)
        };
        format!("{:?}: {}", self.interface, self.wrongs.iter().map(one).collect::<Vec<_>>().join("; "))
    }

    fn has(&self, weight: Weight) -> bool {
        self.wrongs.iter().any(|wrong| FAULTS[wrong.fault].weight == weight)
    }
}

/// The answers of a server, which its handler shares with the test.
#[derive(Default)]
struct State {
    answers: Arc<BTreeMap<String, Honest>>,
    old: Arc<BTreeMap<String, Honest>>,
    wrongs: Vec<Wrong>,
    elsewhere: String,
    host: String,
    /// Number of wrong answers.
    wrong: usize,
    /// The targets of all requests of this run.
    seen: Vec<String>,
}

/// A server whose answers can be changed.
struct Hostile {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Hostile {
    fn start(elsewhere: &str) -> Hostile {
        let state = Arc::new(Mutex::new(State { elsewhere: elsewhere.to_owned(), ..State::default() }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |ask| lock(&shared).reply(ask));
        lock(&state).host.clone_from(&server.host);
        Hostile { server, state }
    }

    fn host(&self) -> &str {
        &self.server.host
    }

    fn serve(&self, answers: impl Into<Arc<BTreeMap<String, Honest>>>, wrongs: &[Wrong]) {
        let mut state = lock(&self.state);
        state.answers = answers.into();
        state.wrongs = wrongs.to_vec();
        state.seen.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn reply(&mut self, ask: &Ask) -> Reply {
        let path = ask.target.split('?').next().unwrap_or_default().to_owned();
        self.seen.push(path.clone());
        let absent = Honest { status: 404, kind: "application/json".into(), body: b"{\"errors\":[]}".to_vec() };
        if path == "/token" {
            return Reply::whole(200, "", b"{\"token\":\"a.token\"}");
        }
        let honest = self.answers.get(&path).cloned().unwrap_or(absent);
        let Some(at) = self.wrongs.iter().position(|wrong| wrong.target == path) else { return honest.reply(ask.from) };
        let wrong = if self.wrongs[at].is_once { self.wrongs.remove(at) } else { self.wrongs[at].clone() };
        self.wrong += 1;
        let seed = Digest::of(format!("{path} {} {}", wrong.fault, wrong.variant).as_bytes());
        let seed = u64::from_le_bytes(seed.as_bytes()[..8].try_into().expect("eight bytes"));
        let mut case = Case {
            honest: &honest,
            target: &ask.target,
            others: &self.answers,
            old: &self.old,
            host: &self.host,
            elsewhere: &self.elsewhere,
            variant: wrong.variant,
            numbers: Numbers::of(seed),
        };
        (FAULTS[wrong.fault].make)(&mut case)
    }
}

/// All single faults of all requests, and many pairs.
fn plans(honest: &BTreeMap<Interface, Arc<BTreeMap<String, Honest>>>, endpoints: &BTreeMap<Interface, Vec<String>>) -> Vec<Plan> {
    let mut all = Vec::new();
    for (interface, targets) in endpoints {
        // One request of each kind gets the costly answers: a name, a list, a manifest, a document, a layer.
        let kind = |target: &String| {
            let is_document = honest[interface].get(target).is_none_or(|answer| answer.body.starts_with(b"{"));
            (target.trim_end_matches(|letter: char| letter.is_ascii_hexdigit()).to_owned(), is_document)
        };
        let kinds: BTreeMap<(String, bool), &String> = targets.iter().map(|target| (kind(target), target)).collect();
        for (number, fault) in FAULTS.iter().enumerate() {
            // The client is the same behind each interface, so one of them gets the costly answers.
            if fault.weight != Weight::Light && *interface != Interface::Referrers {
                continue;
            }
            let of_kinds = targets.iter().filter(|target| fault.weight != Weight::Heavy || kinds[&kind(target)] == *target);
            for (target, variant) in of_kinds.flat_map(|target| (0..fault.variants).map(move |variant| (target, variant))) {
                let wrong = Wrong { target: target.clone(), fault: number, variant, is_once: false };
                all.push(Plan { interface: *interface, wrongs: vec![wrong] });
            }
        }
    }
    let light: Vec<usize> = (0..FAULTS.len()).filter(|at| FAULTS[*at].weight == Weight::Light).collect();
    let mut numbers = Numbers::of(7);
    for _ in 0..800 {
        let (interface, targets) = endpoints.iter().nth(numbers.next(endpoints.len())).expect("one of them");
        let mut wrong = || {
            let fault = *numbers.one(&light);
            let (target, variant) = (numbers.one(targets).clone(), numbers.next(FAULTS[fault].variants));
            Wrong { target, fault, variant, is_once: numbers.next(2) == 0 }
        };
        all.push(Plan { interface: *interface, wrongs: vec![wrong(), wrong()] });
    }
    all
}

/// The counts of a run.
#[derive(Default)]
struct Counts {
    taken: AtomicUsize,
    refused: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    /// Calls `ask`, and counts its result; a panic is a failure.
    fn count(&self, title: &str, ask: impl FnOnce() -> Asked) -> Option<Asked> {
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let asked = ask();
            for text in &asked.warnings {
                assert!(text.chars().count() <= MAX_MESSAGE_CHARS, "a message of {} characters: {text:.300?}", text.chars().count());
            }
            asked
        }));
        match asked {
            Ok(asked) => {
                let counter = if asked.is_taken { &self.taken } else { &self.refused };
                counter.fetch_add(1, Ordering::Relaxed);
                Some(asked)
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.fail(format!("{title}: {}", text.unwrap_or_default()));
                None
            }
        }
    }

    fn fail(&self, failure: String) {
        lock(&self.failures).push(failure);
    }
}

/// Asks an honest cache, and returns the targets of its requests.
fn targets(hostile: &Hostile, asking: &Asking<'_>, interface: Interface, all: &Arc<BTreeMap<String, Honest>>) -> Vec<String> {
    hostile.serve(Arc::clone(all), &[]);
    let asked = asking.ask(&interface.location(hostile.host()), &patient());
    assert!(asked.is_taken && asked.warnings.is_empty() && asked.notes.len() == 1, "{asked:?}");
    let seen: BTreeSet<String> = lock(&hostile.state).seen.iter().cloned().collect();
    seen.into_iter().collect()
}

/// A hostile cache can make a build slow, and never change it.
#[test]
fn each_wrong_answer_gives_the_same_image_or_an_error() {
    if std::env::var_os(INSIDE).is_some() {
        return ask_all();
    }
    // A process of its own, whose memory is that of this test alone.
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "hostile_cache::each_wrong_answer_gives_the_same_image_or_an_error", "--nocapture"]).env(INSIDE, "1");
    let done = outcome(child.stdin(Stdio::null()).output().expect("this program starts"));
    let counts = done.out.lines().filter(|line| line.contains("wrong answers")).collect::<Vec<_>>().join("\n");
    assert!(done.code == 0 && !counts.is_empty(), "{}\n{}", done.out, done.err);
    writeln!(std::io::stdout(), "{counts}").expect("standard output is open");
}

/// Counts panics, also those that a thread of silo hides.
fn count_panics() -> &'static AtomicUsize {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(info);
    }));
    &PANICS
}

fn ask_all() {
    let reserved = rustix::process::Rlimit { current: Some(MAX_RESERVED_BYTES), maximum: Some(MAX_RESERVED_BYTES) };
    rustix::process::setrlimit(rustix::process::Resource::As, reserved).expect("a limit may be lowered");
    let (world, panics) = (World::new(), count_panics());
    let places = [Interface::Referrers, Interface::Tags, Interface::Web];
    let honest = BTreeMap::from(places.map(|interface| (interface, Arc::new(answers(&world.place, interface)))));
    let everything: BTreeMap<String, Honest> =
        honest.values().flat_map(|all| all.iter()).map(|(target, answer)| (target.clone(), answer.clone())).collect();
    let elsewhere = Server::start(move |ask| match everything.get(&ask.target) {
        Some(answer) => answer.reply(ask.from),
        None => Reply::whole(404, "", b""),
    });
    let first = Hostile::start(&elsewhere.host);
    let endpoints: BTreeMap<Interface, Vec<String>> =
        honest.iter().map(|(interface, all)| (*interface, targets(&first, &Asking::new(&world), *interface, all))).collect();
    let plans = plans(&honest, &endpoints);
    let (counts, next, wrong) = (Counts::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    // Few bombs at a time, so that the peak is that of one or two of them.
    let (heavy, rest): (Vec<&Plan>, Vec<&Plan>) = plans.iter().partition(|plan| plan.has(Weight::Heavy));
    let work = |plans: &[&Plan]| {
        let hostile = Hostile::start(&elsewhere.host);
        lock(&hostile.state).old = Arc::new(answers(&world.old, Interface::Referrers));
        let (patient, hurried) = (patient(), hurried());
        let mut asking = Asking::new(&world);
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            hostile.serve(Arc::clone(&honest[&plan.interface]), &plan.wrongs);
            let transport = if plan.has(Weight::Silent) { &hurried } else { &patient };
            let asked = ask_one(&counts, &hostile, &asking, plan, transport);
            if asked.is_none_or(|asked| asked.is_taken) {
                asking = Asking::new(&world);
            }
        }
        // Whatever the wrong answers left behind, an honest cache still gives the image.
        let interface = Interface::Tags;
        hostile.serve(Arc::clone(&honest[&interface]), &[]);
        let asked = counts.count("honest again", || asking.ask(&interface.location(hostile.host()), &patient));
        if asked.is_none_or(|asked| !asked.is_taken) {
            counts.fail("an honest answer was refused".to_owned());
        }
        wrong.fetch_add(lock(&hostile.state).wrong, Ordering::Relaxed);
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(|| work(&heavy)))));
    let peak_of_bombs = peak();
    next.store(0, Ordering::Relaxed);
    thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(|| work(&rest)))));
    let peak_of_rest = peak();
    let forged = ask_forgeries(&world, &honest[&Interface::Referrers], &counts);
    let damaged = ask_directories(&world, &counts);
    let failures = lock(&counts.failures);
    let (wrong, peak) = (wrong.into_inner(), peak());
    let (taken, refused) = (counts.taken.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
    writeln!(
        std::io::stdout(),
        "{wrong} wrong answers, {forged} forged caches, {damaged} damaged directories: {taken} times the image, {refused} errors; \
         {} MiB at most ({} for bombs, {} for all faults)",
        peak >> 20,
        peak_of_bombs >> 20,
        peak_of_rest >> 20,
    )
    .expect("standard output is open");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
    assert_eq!(panics.load(Ordering::Relaxed), 0, "panics");
    assert!(wrong >= LEAST_ANSWERS && taken > 100 && refused > 1000, "{wrong} {taken} {refused}");
    assert!(peak <= MAX_RESIDENT_BYTES, "{} MiB", peak >> 20);
}

/// Asks a cache with these faults.
fn ask_one(counts: &Counts, hostile: &Hostile, asking: &Asking<'_>, plan: &Plan, transport: &Transport) -> Option<Asked> {
    let title = plan.title();
    let location = plan.interface.location(hostile.host());
    let asked = counts.count(&title, || asking.ask(&location, transport))?;
    let names_place = asked.warnings.iter().all(|text| text.starts_with(&format!("the cache {location} failed: ")));
    // A cache without the image needs no message, and one that withholds the name looks the same.
    let may_be_silent = plan.wrongs.iter().any(|wrong| wrong.target.contains("/manifests/drv-") || wrong.target.ends_with("/index.json"));
    if !names_place || (!asked.is_taken && asked.warnings.is_empty() && !may_be_silent) {
        counts.fail(format!("{title}: {asked:?}"));
    }
    Some(asked)
}

/// The peak of this process's memory.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("our own process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Calls `take` with each cache whose documents fit together.
fn forge(world: &World, honest: &BTreeMap<String, Honest>, take: &mut forgeries::Take<'_>) {
    let base = Interface::Referrers.base();
    let tag = honest.keys().find_map(|target| target.strip_prefix(&format!("{base}/manifests/drv-"))).expect("a name");
    let tag = format!("drv-{tag}");
    let manifest = &honest[&format!("{base}/manifests/{tag}")].body;
    let document = artifact::read(manifest).expect("our own");
    let config = document.config.expect("a configuration").pointer;
    let named = digest(&document.annotations[ANNOTATION]).expect("a digest");
    let contents = contents::read(&honest[&format!("{base}/blobs/sha256:{named}")].body).expect("our own");
    assert_eq!(contents.arch, Arch::host());
    let trusted = Signer::Key(Box::new(Secret::parse(&world.secret).expect("our own")));
    let stranger = Signer::Key(Box::new(Secret::new(Algorithm::Ed25519).expect("a key")));
    let stacked = Named { media_type: oci::CONFIG, digest: config.digest, size: config.size };
    let parts = Parts { answers: honest, base, tag: &tag, contents: &contents, manifest, stacked, trusted: &trusted, stranger: &stranger };
    forgeries::each(&parts, take);
}

/// Asks caches whose documents fit together; returns their number.
fn ask_forgeries(world: &World, honest: &BTreeMap<String, Honest>, counts: &Counts) -> usize {
    let (hostile, transport) = (Hostile::start(""), patient());
    let mut asking = Asking::new(world);
    let mut count = 0;
    forge(world, honest, &mut |name, expect, answers| {
        count += 1;
        hostile.serve(answers, &[]);
        let location = Interface::Referrers.location(hostile.host());
        let asked = counts.count(name, || asking.ask(&location, &transport));
        match asked {
            Some(asked) if asked.is_taken == (expect == Expect::Same) => {}
            asked => counts.fail(format!("{name}: {asked:?}")),
        }
        if expect == Expect::Same {
            asking = Asking::new(world);
        }
    });
    count
}

/// Asks directories with damaged files; returns their number.
fn ask_directories(world: &World, counts: &Counts) -> usize {
    let (dir, transport) = (world::temporary(), patient());
    let place = dir.path().join("cache");
    fs::create_dir_all(place.join("blobs/sha256")).expect("our own");
    let mut files: Vec<String> = fs::read_dir(world.place.join("blobs/sha256"))
        .expect("our own")
        .flatten()
        .map(|entry| format!("blobs/sha256/{}", entry.file_name().to_string_lossy()))
        .collect();
    files.sort();
    files.push("index.json".to_owned());
    for file in &files {
        fs::copy(world.place.join(file), place.join(file)).expect("our own");
    }
    let damages: &[(&str, Damage)] = &[
        ("is missing", |_| {}),
        ("is empty", |path| fs::write(path, "").expect("our own")),
        ("is a directory", |path| fs::create_dir(path).expect("our own")),
        ("is a pipe", |path| rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("our own")),
        ("is a socket", |path| drop(std::os::unix::net::UnixListener::bind(path))),
        ("is an endless device", |path| symlink("/dev/zero", path).expect("our own")),
        ("is a symlink to itself", |path| symlink(path, path).expect("our own")),
        ("is another file", |path| symlink("/etc/passwd", path).expect("our own")),
        ("is huge", |path| fs::File::create(path).and_then(|file| file.set_len(1 << 40)).expect("our own")),
        ("is text", |path| fs::write(path, "[".repeat(1 << 20)).expect("our own")),
    ];
    let mut asking = Asking::new(world);
    for (file, (name, damage)) in files.iter().flat_map(|file| damages.iter().map(move |damage| (file, damage))) {
        let path = place.join(file);
        fs::remove_file(&path).expect("our own");
        damage(&path);
        let title = format!("{file} {name}");
        let asked = counts.count(&title, || asking.ask(&place.display().to_string(), &transport));
        if asked.as_ref().is_some_and(|asked| !asked.is_taken && asked.warnings.is_empty() && file != "index.json") {
            counts.fail(format!("{title}: {asked:?}"));
        }
        if asked.is_none_or(|asked| asked.is_taken) {
            asking = Asking::new(world);
        }
        drop(fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)));
        fs::copy(world.place.join(file), &path).expect("our own");
    }
    files.len() * damages.len()
}

/// A cache that lists many statements, and sends each of them just fast enough, gets the time of one document for all of them.
#[test]
fn many_slow_statements_get_the_time_of_one_document() {
    let world = World::new();
    let honest = answers(&world.place, Interface::Referrers);
    let mut slow = BTreeMap::new();
    forge(&world, &honest, &mut |name, _, answers| {
        if name == MANY_STATEMENTS {
            slow = answers;
        }
    });
    let is_new = |target: &&String| target.contains("/manifests/sha256:") && !honest.contains_key(*target);
    let late: BTreeSet<String> = slow.keys().filter(is_new).cloned().collect();
    let asked_for = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked_for);
    let listed = late.len();
    let server = Server::start(move |ask| {
        if late.contains(&ask.target) {
            count.fetch_add(1, Ordering::Relaxed);
            thread::sleep(std::time::Duration::from_millis(60));
        }
        slow.get(&ask.target).map_or_else(|| Reply::whole(404, "", b""), |answer| answer.reply(ask.from))
    });
    let asked = Asking::new(&world).ask(&Interface::Referrers.location(&server.host), &hurried());
    assert!(!asked.is_taken && asked.warnings.len() == 1, "{asked:?}");
    // On a busy machine one of them alone may take too long.
    let count = asked_for.load(Ordering::Relaxed);
    assert!(listed >= 20 && count < listed, "{count} of {listed} were asked for");
}

/// A damage to a file.
type Damage = fn(&Path);

/// Faults that a client need not repeat its request for, so that an install is quick.
const LASTING: [&str; 7] = [
    "bits are flipped",
    "the body is long",
    "the answer is that of another request",
    "the answer is an older one",
    "values of the document are changed",
    "a login is demanded",
    "the document is another one",
];

/// An install asks a hostile cache, reports its faults, and builds the same image.
#[test]
fn an_install_from_a_hostile_cache_takes_or_builds_the_same_image() {
    let world = World::new();
    let honest: BTreeMap<Interface, Arc<BTreeMap<String, Honest>>> =
        [Interface::Referrers, Interface::Web].map(|interface| (interface, Arc::new(answers(&world.place, interface)))).into();
    let hostile = Hostile::start("");
    let endpoints: BTreeMap<Interface, Vec<String>> =
        honest.iter().map(|(interface, all)| (*interface, targets(&hostile, &Asking::new(&world), *interface, all))).collect();
    let mut plans = Vec::new();
    for (number, (interface, target)) in
        endpoints.iter().flat_map(|(interface, all)| all.iter().map(move |target| (interface, target))).enumerate()
    {
        for pick in 0..2 {
            let name = LASTING[(number * 2 + pick) % LASTING.len()];
            let fault = FAULTS.iter().position(|fault| fault.name == name).expect("there is one of that name");
            let wrong = Wrong { target: target.clone(), fault, variant: number % FAULTS[fault].variants, is_once: false };
            plans.push(Plan { interface: *interface, wrongs: vec![wrong] });
        }
    }
    let (next, results) = (AtomicUsize::new(0), Mutex::new((0, 0)));
    let work = || {
        let hostile = Hostile::start("");
        lock(&hostile.state).old = Arc::new(answers(&world.old, Interface::Referrers));
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            hostile.serve(Arc::clone(&honest[&plan.interface]), &plan.wrongs);
            let silo = Silo::new();
            world.furnish(&silo.path(""));
            let location = plan.interface.location(hostile.host());
            silo.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{location}\"\n"));
            let done = silo.run(["install", "--frozen", "greeter"]);
            let title = plan.title();
            assert_eq!(done.code, 0, "{title}: {done:?}");
            assert_eq!(silo.image_id("greeter"), world.expected, "{title}");
            assert!(silo.ok(["verify", "--all"]).contains(" 0 faults"), "{title}");
            // Single layers may still count after a fault of a document about the image, and the image is built from them.
            let is_taken = done.err.lines().any(|line| line.contains(" layers pulled from") && !line.contains(" single layers "));
            let is_told = done.err.contains(&format!("the cache {location} failed: "));
            let may_be_silent = plan.wrongs[0].target.contains("/manifests/drv-") || plan.wrongs[0].target.ends_with("/index.json");
            assert!(is_taken != is_told || may_be_silent, "{title}: {done:?}");
            let mut results = lock(&results);
            *if is_taken { &mut results.0 } else { &mut results.1 } += 1;
        }
    };
    thread::scope(|scope| {
        let workers = [0; WORKERS].map(|_| scope.spawn(work));
        workers.into_iter().for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    let (taken, built) = *lock(&results);
    assert!(taken > 0 && built > plans.len() / 2, "{taken} taken, {built} built");
    // The layout that it was built from is really needed.
    fs::remove_dir_all(&world.origin).expect("our own");
    let silo = Silo::new();
    world.furnish(&silo.path(""));
    assert_eq!(silo.fails(["install", "--frozen", "greeter"]).code, 1);
}
