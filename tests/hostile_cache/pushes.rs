//! A hostile registry, to which an image is pushed: each wrong answer ends in a push or in an error, and no other server gets a byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use silo_model::oci::contents;
use silo_model::oci::location::Location;
use silo_sign::statement::Claim;

use super::faults::{Case, FAULTS, Honest, Weight};
use super::server::{Ask, Reply, Server};
use super::world::{Asking, Interface, World, answers, patient};
use super::{Counts, WORKERS, lock};
use crate::support::numbers::Numbers;

/// The kinds of requests of a push.
const KINDS: [&str; 7] =
    ["HEAD blobs", "POST uploads", "PUT uploads", "PUT manifests/sha256", "PUT manifests/sha256-", "PUT manifests/v1", "GET manifests/"];

/// The kind of a request.
fn kind(ask: &Ask) -> Option<usize> {
    let path = ask.target.strip_prefix("/v2/team/silo/").unwrap_or_default();
    let path = path.strip_prefix("blobs/").filter(|rest| rest.starts_with("uploads")).unwrap_or(path);
    let is_of = |kind: &str| {
        let (method, start) = kind.split_once(' ').expect("two words");
        ask.method == method && path.starts_with(start)
    };
    // The longest name counts.
    (0..KINDS.len()).filter(|at| is_of(KINDS[*at])).max_by_key(|at| KINDS[*at].len())
}

/// A registry that takes everything, but for requests of one kind.
struct State {
    /// The wrong kind, the fault and its variant.
    wrong: Option<(usize, usize, usize)>,
    count: usize,
    /// The written manifests, by target.
    manifests: BTreeMap<String, Vec<u8>>,
    kinds: BTreeSet<usize>,
    host: String,
}

impl State {
    fn reply(&mut self, ask: &Ask, others: &BTreeMap<String, Honest>, elsewhere: &str) -> Reply {
        let kind = kind(ask);
        self.kinds.extend(kind);
        let (status, headers) = match (ask.method.as_str(), ask.target.contains("/uploads/")) {
            ("POST", _) => (202, "Location: /v2/team/silo/blobs/uploads/1\r\n"),
            ("PATCH", _) => (202, "Location: /v2/team/silo/blobs/uploads/1\r\nRange: 0-0\r\n"),
            ("PUT", _) => (201, ""),
            ("GET", _) if self.manifests.contains_key(&ask.target) => (200, ""),
            _ => (404, ""),
        };
        let body = if status == 200 { self.manifests[&ask.target].clone() } else { Vec::new() };
        if ask.method == "PUT" {
            self.manifests.insert(ask.target.clone(), ask.body.clone());
        }
        let honest = Honest { status, kind: "application/json".into(), body };
        let Some((_, fault, variant)) = self.wrong.filter(|(wrong, ..)| Some(*wrong) == kind) else {
            return Reply::whole(status, headers, &honest.body);
        };
        self.count += 1;
        let numbers = Numbers::of((fault * 1000 + variant) as u64);
        let (target, host) = (ask.target.as_str(), self.host.as_str());
        (FAULTS[fault].make)(&mut Case { honest: &honest, target, others, old: others, host, elsewhere, variant, numbers })
    }
}

#[test]
fn a_push_to_a_hostile_registry_ends_and_no_other_server_gets_a_byte() {
    let world = World::new();
    let others = Arc::new(answers(&world.place, Interface::Tags));
    let written = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&written);
    let elsewhere = Server::start(move |ask| {
        if ask.method != "GET" && ask.method != "HEAD" {
            lock(&log).push(format!("{} {:.100}", ask.method, ask.target));
        }
        Reply::whole(201, "Location: /v2/team/silo/blobs/uploads/1\r\n", b"")
    });
    let light: Vec<usize> = (0..FAULTS.len()).filter(|at| FAULTS[*at].weight == Weight::Light).collect();
    let mut plans = Vec::new();
    for kind in 0..KINDS.len() {
        plans.extend(light.iter().flat_map(|fault| (0..FAULTS[*fault].variants).map(move |variant| (kind, *fault, variant))));
    }
    let (counts, next, wrong) = (Counts::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let kinds = Mutex::new(BTreeSet::new());
    let work = || {
        let state =
            Arc::new(Mutex::new(State { wrong: None, count: 0, manifests: BTreeMap::new(), kinds: BTreeSet::new(), host: String::new() }));
        let (shared, others, other_host) = (Arc::clone(&state), Arc::clone(&others), elsewhere.host.clone());
        let server = Server::start(move |ask| lock(&shared).reply(ask, &others, &other_host));
        lock(&state).host.clone_from(&server.host);
        let (transport, maker) = (patient(), Asking::of_maker(&world));
        while let Some((kind, fault, variant)) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            {
                let mut state = lock(&state);
                (state.wrong, state.manifests) = (Some((*kind, *fault, *variant)), BTreeMap::new());
            }
            let title = format!("{}: {} ({variant})", KINDS[*kind], FAULTS[*fault].name);
            let location = Location::Registry { host: server.host.clone(), repository: "team/silo".into() };
            let _ = counts.count(&title, || maker.push(location, &transport));
        }
        wrong.fetch_add(lock(&state).count, Ordering::Relaxed);
        lock(&kinds).extend(lock(&state).kinds.iter().copied());
    };
    thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    let failures = lock(&counts.failures);
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures[..failures.len().min(20)].join("\n"));
    assert_eq!(*lock(&written), Vec::<String>::new(), "another server was written to");
    // All kinds of requests were answered wrongly, with both results.
    let (pushed, refused) = (counts.taken.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
    writeln!(std::io::stdout(), "{} wrong answers: {pushed} pushes, {refused} errors", wrong.load(Ordering::Relaxed))
        .expect("standard output is open");
    assert_eq!(lock(&kinds).len(), KINDS.len());
    assert!(wrong.into_inner() >= 1000 && pushed > 20 && refused > 500, "{pushed} {refused}");
}

/// A document that a pull would refuse is not pushed, and nothing is sent before that is clear.
#[test]
fn an_image_whose_documents_nobody_could_read_is_refused_before_a_byte_is_sent() {
    let world = World::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = Server::start(move |ask| {
        lock(&log).push(format!("{} {:.60}", ask.method, ask.target));
        match ask.method.as_str() {
            "POST" | "PATCH" => Reply::whole(202, "Location: /v2/team/silo/blobs/uploads/1\r\n", b""),
            "PUT" => Reply::whole(201, "OCI-Subject: x\r\n", b""),
            _ => Reply::whole(404, "", b""),
        }
    });
    let location = || Location::Registry { host: server.host.clone(), repository: "team/silo".into() };
    let maker = Asking::of_maker(&world);
    let claim =
        |length: usize| Claim { predicate_type: "https://example.com/x", predicate: serde_json::json!({ "x": "y".repeat(length) }) };
    let refused = [
        maker.push_with(location(), &"x".repeat(16 << 20), &[]),
        // Each of these characters is six in the document.
        maker.push_with(location(), &"\u{1}".repeat(3 << 20), &[]),
        maker.push_with(location(), "", &[claim(4 << 20)]),
    ];
    for refused in refused {
        let text = silo_base::error_chain::of(&refused.expect_err("too long")).join(": ");
        assert!(text.contains("is not pushed") && text.contains("a pull reads at most"), "{text}");
    }
    assert_eq!(*lock(&seen), Vec::<String>::new());
    // A lock that is just short enough is pushed, and a pull reads it.
    let place = world.maker.project().join("long");
    let long = "x".repeat((16 << 20) - 40_000);
    let _ = maker.push_with(Location::Directory(place.clone()), &long, &[]).expect("short enough");
    let pushed = maker.push_with(location(), &long, &[]);
    assert!(pushed.is_ok() && !lock(&seen).is_empty(), "{pushed:?}");
    let documents = fs::read_dir(place.join("blobs/sha256")).expect("a layout").flatten();
    let read = documents.filter(|entry| entry.metadata().is_ok_and(|facts| facts.len() > 15 << 20));
    let read: Vec<_> = read.map(|entry| contents::read(&fs::read(entry.path()).expect("a blob"))).collect();
    assert!(matches!(&read[..], [Ok(contents)] if contents.lock.as_ref() == Some(&long)));
}

/// The index of a registry without a list of referrers belongs to all programs that write it.
#[test]
fn a_push_keeps_what_others_wrote_into_the_index_of_referrers() {
    let world = World::new();
    let written: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    let held = Arc::clone(&written);
    let server = Server::start(move |ask| {
        let mut held = lock(&held);
        match ask.method.as_str() {
            "POST" => Reply::whole(202, "Location: /v2/team/silo/blobs/uploads/1\r\n", b""),
            "PUT" => {
                held.insert(ask.target.clone(), ask.body.clone());
                Reply::whole(201, "", b"")
            }
            _ => held.get(&ask.target).map_or_else(|| Reply::whole(404, "", b""), |body| Reply::whole(200, "", body)),
        }
    });
    let location = || Location::Registry { host: server.host.clone(), repository: "team/silo".into() };
    let maker = Asking::of_maker(&world);
    let pushed = maker.push_with(location(), "a lock", &[]).expect("an honest registry");
    let target = format!("/v2/team/silo/manifests/sha256-{}", pushed.manifest);
    let mut index: serde_json::Value = serde_json::from_slice(&lock(&written)[&target]).expect("JSON");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
    let foreign = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", "a".repeat(64)), "size": 5,
        "artifactType": "application/vnd.example.scan", "urls": ["https://example.com/scan"], "com.example.own": { "x": [1, null] },
        "platform": { "architecture": "riscv64", "os": "plan9", "variant": "v9" },
    });
    index["annotations"] = serde_json::json!({ "com.example.by": "somebody" });
    index["com.example.note"] = serde_json::json!(true);
    // Another program wrote the index with its entry alone; the push adds its own.
    index["manifests"] = serde_json::json!([foreign]);
    lock(&written).insert(target.clone(), index.to_string().into_bytes());
    let _ = maker.push_with(location(), "a lock", &[]).expect("an honest registry");
    let after: serde_json::Value = serde_json::from_slice(&lock(&written)[&target]).expect("JSON");
    assert_eq!((&after["annotations"], &after["com.example.note"]), (&index["annotations"], &index["com.example.note"]));
    assert_eq!((&after["manifests"][0], after["manifests"].as_array().map(Vec::len)), (&foreign, Some(2)));
    // An index that silo cannot read is not replaced.
    lock(&written).insert(target.clone(), b"{\"schemaVersion\":2,\"config\":null}".to_vec());
    assert!(maker.push_with(location(), "a lock", &[]).is_err());
    assert_eq!(lock(&written)[&target], b"{\"schemaVersion\":2,\"config\":null}");
}

/// A push asks for each layer once, and sends each lacking blob by two requests; the first one asks for a small document, too.
#[test]
fn a_push_costs_few_requests_for_each_blob() {
    let world = World::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let server = Server::start(move |ask| {
        lock(&log).push((ask.method.clone(), ask.target.clone()));
        match ask.method.as_str() {
            "POST" => Reply::whole(202, "Location: /v2/team/silo/blobs/uploads/1\r\n", b""),
            "PUT" => Reply::whole(201, "OCI-Subject: x\r\n", b""),
            _ => Reply::whole(404, "", b""),
        }
    });
    let location = Location::Registry { host: server.host.clone(), repository: "team/silo".into() };
    let pushed = Asking::of_maker(&world).push_with(location, "a lock", &[]).expect("an honest registry");
    let count = |method: &str, part: &str| lock(&seen).iter().filter(|(how, target)| how == method && target.contains(part)).count();
    // The layers, and two documents: the configuration, which silo and others share, and the contents.
    let blobs = pushed.layers + 2;
    assert_eq!(
        (count("HEAD", "/blobs/"), count("POST", "/uploads/"), count("PUT", "/uploads/")),
        (pushed.layers, blobs, blobs),
        "{:?}",
        lock(&seen)
    );
}
