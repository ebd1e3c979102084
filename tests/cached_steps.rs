//! Single layers from binary caches: after a change of one step or package, the others are not built again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::between::Between;
use crate::support::http::Http;
use crate::support::images::{Layer, base, layout, upper};
use crate::support::registry::Registry;
use crate::support::{Silo, has};

/// A silo with a tool of two layers from an image and these steps.
fn with_steps(origin: &Path, steps: &[&str]) -> Silo {
    let silo = Silo::new();
    let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
    let recipe = format!("version = \"1\"\ncommand = [\"cat\"]\nimage = \"oci:{}:v1\"\nsteps = [{}]\n", origin.display(), steps.join(", "));
    silo.write(".silo/recipes/mine.toml", &recipe);
    silo
}

fn use_cache(silo: &Silo, location: &str) {
    silo.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{location}\"\n[mirrors]\ndebian = [\"http://127.0.0.1:1\"]\n"));
}

/// Installs the tool, and returns the number of layers that were made, and the messages.
fn installed(silo: &Silo) -> (u64, String) {
    let done = silo.run(["install", "--json", "mine"]);
    assert_eq!(done.code, 0, "{done:?}");
    let all: Value = serde_json::from_str(&done.out).expect("JSON");
    let first = all.get(0).unwrap_or(&all);
    (first["layersMade"].as_u64().unwrap_or_else(|| panic!("{all}")), done.err)
}

/// Makes a key, and returns its public half in a file.
fn new_key(silo: &Silo) -> String {
    drop(silo.ok(["key", "new", "laptop"]));
    let path = silo.project().join("laptop.pub");
    fs::write(&path, silo.ok(["key", "export", "laptop"])).expect("our own");
    path.display().to_string()
}

fn served(dir: &Path) -> Http {
    let dir = dir.to_owned();
    Http::over(move |path| fs::read(dir.join(path.trim_start_matches('/'))).ok())
}

const STEPS: [&str; 3] = ["echo one > /opt/one", "echo two > /opt/two", "echo three > /opt/three"];
const CHANGED: [&str; 3] = ["echo one > /opt/one", "echo two > /opt/two", "echo changed > /opt/three"];

#[test]
fn one_changed_step_is_built_and_the_layers_below_it_come_from_the_cache() {
    let origin = tempfile::tempdir().expect("a directory");
    layout(origin.path(), &[Layer::plain(base()), Layer::plain(upper())]);
    let here = with_steps(origin.path(), &STEPS);
    assert_eq!(installed(&here).0, 5);
    let key = new_key(&here);
    let place = here.project().join("cache");
    drop(here.ok(["cache", "push", "--to", &place.display().to_string(), "mine"]));
    let server = served(&place);
    let registry = has("docker-registry").then(Registry::start);
    let between = registry.as_ref().map(|registry| Between::start(&registry.host));
    let mut locations = vec![place.display().to_string(), server.url("")];
    if let (Some(registry), Some(between)) = (&registry, &between) {
        drop(here.ok(["cache", "push", "--to", &format!("{}/team/silo", registry.host), "mine"]));
        locations.push(format!("{}/team/silo", between.host));
    }
    let expected = {
        let alone = with_steps(origin.path(), &CHANGED);
        assert_eq!(installed(&alone).0, 5);
        alone.image_id("mine")
    };
    // Without a trusted key, nothing of the cache counts.
    let there = with_steps(origin.path(), &CHANGED);
    use_cache(&there, &locations[0]);
    let (made, said) = installed(&there);
    assert!(made == 5 && said.contains("no key whose signatures count"), "{made} {said}");
    for location in &locations {
        let there = with_steps(origin.path(), &CHANGED);
        use_cache(&there, location);
        drop(there.ok(["key", "trust", &key]));
        let (made, said) = installed(&there);
        assert!(made == 1 && said.contains("single layers pulled from") && said.contains("signed by laptop"), "{location}: {made} {said}");
        assert_eq!(there.image_id("mine"), expected, "{location}");
        assert!(there.ok(["verify", "--all"]).contains(" 0 faults"));
    }
    // Nothing is asked for twice.
    let asked: Vec<String> = server.seen().into_iter().map(|seen| seen.target).filter(|target| target.contains("/blobs/")).collect();
    let distinct: BTreeSet<&String> = asked.iter().collect();
    assert_eq!(distinct.len(), asked.len(), "{asked:?}");
    if let Some(between) = &between {
        let seen = between.seen();
        let count = |part: &str| seen.iter().filter(|line| line.starts_with("GET ") && line.contains(part)).count();
        let steps: Vec<&String> = seen.iter().filter(|line| line.contains("/manifests/step-")).collect();
        // The first layer of the base and the changed step: the first answer names all other layers.
        assert_eq!(steps.len(), 2, "{steps:?}");
        // The contents of the image, its signature, and four layers.
        assert_eq!(count("/blobs/sha256:"), 6, "{seen:?}");
    }
}

#[test]
fn a_damaged_or_foreign_cache_of_layers_costs_time_only() {
    let origin = tempfile::tempdir().expect("a directory");
    layout(origin.path(), &[Layer::plain(base()), Layer::plain(upper())]);
    let here = with_steps(origin.path(), &STEPS);
    drop(installed(&here));
    let key = new_key(&here);
    let place = here.project().join("cache");
    drop(here.ok(["cache", "push", "--to", &place.display().to_string(), "mine"]));
    let expected = {
        let alone = with_steps(origin.path(), &CHANGED);
        drop(installed(&alone));
        alone.image_id("mine")
    };
    let blobs: Vec<_> = fs::read_dir(place.join("blobs/sha256")).expect("a layout").flatten().map(|entry| entry.path()).collect();
    let mut failures = 0;
    for blob in blobs.iter().step_by(3) {
        let intact = fs::read(blob).expect("a blob");
        let mut bytes = intact.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(blob, bytes).expect("our own");
        let there = with_steps(origin.path(), &CHANGED);
        use_cache(&there, &place.display().to_string());
        drop(there.ok(["key", "trust", &key]));
        let (made, said) = installed(&there);
        assert_eq!(there.image_id("mine"), expected, "{blob:?}");
        failures += usize::from(made > 1 && said.contains("failed: "));
        fs::write(blob, intact).expect("our own");
    }
    assert!(failures > 0, "{failures} of {}", blobs.len());
    // Another key than the trusted one signed the layers.
    let there = with_steps(origin.path(), &CHANGED);
    use_cache(&there, &place.display().to_string());
    drop(there.ok(["key", "new", "own"]));
    let (made, said) = installed(&there);
    assert!(made == 5 && said.contains("single layers is not signed by a key that you trust"), "{made} {said}");
}

#[test]
fn one_more_package_costs_its_own_layers_only() {
    let recipe = |packages: &str| format!("version = \"1\"\ncommand = [\"sh\"]\n[debian]\npackages = [{packages}]\n");
    let here = Silo::seeded();
    here.write(".silo/recipes/mine.toml", &recipe("\"dash\""));
    let (cold, _) = installed(&here);
    let key = new_key(&here);
    let place = here.project().join("cache");
    drop(here.ok(["cache", "push", "--to", &place.display().to_string(), "mine"]));
    let more = Silo::seeded();
    more.write(".silo/recipes/mine.toml", &recipe("\"dash\", \"jq\""));
    drop(installed(&more));
    let lock = |silo: &Silo| fs::read_to_string(silo.path("recipes/mine.lock")).expect("a lock");
    let digests = |lock: &str| -> BTreeSet<String> {
        lock.lines().filter_map(|line| Some(line.split("sha256 = \"").nth(1)?.split('"').next()?.to_owned())).collect()
    };
    let (before, after) = (digests(&lock(&here)), digests(&lock(&more)));
    let there = Silo::new();
    for file in ["mine.toml", "mine.lock"] {
        there.write(&format!(".silo/recipes/{file}"), &fs::read_to_string(more.path(&format!("recipes/{file}"))).expect("the recipe"));
    }
    use_cache(&there, &place.display().to_string());
    drop(there.ok(["key", "trust", &key]));
    // Only the files of the new packages are here, and no mirror answers.
    fs::create_dir_all(there.path("downloads")).expect("our own");
    let new: Vec<&String> = after.difference(&before).filter(|digest| more.path("downloads").join(digest).exists()).collect();
    assert!((1..10).contains(&new.len()), "{new:?}");
    for digest in &new {
        fs::copy(more.path("downloads").join(digest), there.path("downloads").join(digest)).expect("a file");
    }
    let done = there.run(["install", "--frozen", "--json", "mine"]);
    assert_eq!(done.code, 0, "{done:?}");
    let all: Value = serde_json::from_str(&done.out).expect("JSON");
    let made = all.get(0).unwrap_or(&all)["layersMade"].as_u64().expect("a number");
    // The new packages, and the steps above them.
    assert!(made <= new.len() as u64 + 4 && made < cold / 4, "{made} of {cold}");
    assert_eq!(there.image_id("mine"), more.image_id("mine"));
}
