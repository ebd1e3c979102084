//! Inputs that are vendored, images that are built again from their lock, and repositories that are pruned.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::images::{Layer, layout, upper};
use crate::support::registry::Registry;
use crate::support::{Silo, has, skip};

/// A recipe with one step, whose output differs each time. A step with a network has its output pinned.
fn recipe(step: &str) -> String {
    format!("version = \"1\"\ncommand = [\"sh\"]\n[debian]\npackages = [\"dash\"]\n{step}")
}

/// A silo with the recipe and the lock of another one, and no mirror that answers.
fn elsewhere(other: &Silo, cache: Option<&Path>) -> Silo {
    let silo = Silo::new();
    for file in ["mine.toml", "mine.lock"] {
        let text = fs::read_to_string(other.path(&format!("recipes/{file}"))).expect("the recipe");
        silo.write(&format!(".silo/recipes/{file}"), &text);
    }
    let cache = cache.map(|cache| format!("[[caches]]\nlocation = \"{}\"\n", cache.display())).unwrap_or_default();
    silo.write(".silo/silo.toml", &format!("{cache}[mirrors]\ndebian = [\"http://127.0.0.1:1\"]\n"));
    silo
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// A silo with the project of another one, with a cache, and no mirror that answers.
fn same_project(other: &Silo, cache: Option<&Path>) -> Silo {
    let silo = Silo::new();
    for file in ["silo.toml", "silo.lock"] {
        fs::copy(other.project().join(file), silo.project().join(file)).expect("the project");
    }
    let cache = cache.map(|cache| format!("[[caches]]\nlocation = \"{}\"\n", cache.display())).unwrap_or_default();
    silo.write(".silo/silo.toml", &format!("{cache}[mirrors]\ndebian = [\"http://127.0.0.1:1\"]\n"));
    drop(silo.ok(["trust", "--yes"]));
    silo
}

#[test]
fn vendored_inputs_build_the_same_image_without_a_server() {
    let here = Silo::seeded();
    // The output differs each time, as that of a step with a network may. The lock pins it.
    let step = "{ run = [\"sh\", \"-c\", \"cat /proc/sys/kernel/random/uuid > /opt/id\"], network = [\"example.com\"], project = true }";
    let settings = format!("tools = [\"sh\"]\n[overrides.sh]\npostInstall = [{step}]\n");
    fs::write(here.project().join("silo.toml"), settings).expect("our own");
    drop(here.ok(["trust", "--yes"]));
    let image = |silo: &Silo, words: &[&str]| {
        let all = [&["sync", "--frozen", "--json"], words].concat();
        json(&silo.ok(all))[0]["image"].as_str().expect("an image").to_owned()
    };
    drop(here.ok(["sync", "--quiet"]));
    let expected = image(&here, &[]);
    drop(here.ok(["key", "new", "laptop"]));
    let place = here.project().join("vendored");
    let done = json(&here.ok(["vendor", "--json", &place.display().to_string()]));
    let files = done[0]["files"].as_u64().expect("a number");
    assert!(files > 50 && done[0]["outputs"] == 1 && done[0]["sent"] == files + 1, "{done}");
    // The second time nothing is sent.
    let again = json(&here.ok(["vendor", "--json", &place.display().to_string(), "sh"]));
    assert_eq!((&again[0]["sent"], &again[0]["bytes"]), (&0.into(), &0.into()), "{again}");
    let key = here.project().join("laptop.pub");
    fs::write(&key, here.ok(["key", "export", "laptop"])).expect("our own");

    let without = same_project(&here, None);
    let refused = without.fails(["sync", "--offline", "--frozen"]);
    assert!(refused.err.contains("not fetched, because of --offline") && refused.err.contains("silo vendor"), "{refused:?}");

    let there = same_project(&here, Some(&place));
    // Files count by their digest. The output of a step counts with a signature.
    let refused = there.fails(["sync", "--offline", "--frozen"]);
    assert!(refused.err.contains("steps with a network are not signed by a key that you trust"), "{refused:?}");
    assert!(refused.err.contains("needs the network, and --offline is set"), "{refused:?}");
    drop(there.ok(["key", "trust", &key.display().to_string()]));
    assert_eq!(image(&there, &["--offline"]), expected);
    assert_eq!(there.ok(["sh", "-c", "cat /opt/id"]), here.ok(["sh", "-c", "cat /opt/id"]));
    // A build that may ask servers asks the cache first, too.
    let online = same_project(&here, Some(&place));
    drop(online.ok(["key", "trust", &key.display().to_string()]));
    assert_eq!(image(&online, &[]), expected);
}

#[test]
fn a_changed_vendored_file_is_refused() {
    let here = Silo::seeded();
    here.write(".silo/recipes/mine.toml", &recipe(""));
    drop(here.ok(["install", "--quiet", "mine"]));
    let place = here.project().join("vendored");
    drop(here.ok(["vendor", &place.display().to_string(), "mine"]));
    let lock = fs::read_to_string(here.path("recipes/mine.lock")).expect("a lock");
    let line = lock.lines().find(|line| line.starts_with("\"dash\"")).expect("the package");
    let digest = line.split("sha256 = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a digest");
    let file = place.join("blobs/sha256").join(digest);
    let mut bytes = fs::read(&file).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).expect("our own");
    let there = elsewhere(&here, Some(&place));
    let refused = there.fails(["install", "--offline", "--frozen", "mine"]);
    assert!(refused.err.contains(&format!("expected sha256 {digest}")) && refused.err.contains("blobs/sha256"), "{refused:?}");
}

#[test]
fn an_image_is_built_again_and_compared() {
    let here = Silo::seeded();
    here.write(".silo/recipes/mine.toml", &recipe(""));
    drop(here.ok(["install", "--quiet", "mine"]));
    let reference = |tag: &str| format!("oci:{}:{tag}", here.project().join("shared").display());
    drop(here.ok(["push", "--quiet", "--no-sign", "mine", &reference("same")]));
    let same = here.ok(["challenge", "--quiet", &reference("same")]);
    assert!(same.contains("built again from its lock: the same "), "{same}");
    // Its own home is gone.
    let left = fs::read_dir(here.path("work"))
        .expect("our own")
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"challenge"));
    assert_eq!(left.count(), 0);
    let step = "steps = [\"cat /proc/sys/kernel/random/uuid > /opt/id\"]\n";
    here.write(".silo/recipes/mine.toml", &recipe("").replace("[debian]", &format!("{step}[debian]")));
    let other = here.run(["challenge", "--quiet", &reference("same")]);
    assert!(other.code == 1 && other.err.contains("another recipe of mine") && other.err.contains("hint:"), "{other:?}");
    drop(here.ok(["install", "--quiet", "mine"]));
    drop(here.ok(["push", "--quiet", "--no-sign", "mine", &reference("random")]));
    let differs = here.run(["challenge", "--quiet", &reference("random")]);
    assert!(differs.code == 1 && differs.out.contains("opt/id") && differs.out.contains("1 of "), "{differs:?}");
    let told = json(&here.run(["challenge", "--quiet", "--json", &reference("random")]).out);
    assert_eq!(told["different"].as_array().map(Vec::len), Some(1), "{told}");
}

/// A silo with two tools of one small layer each.
fn two_tools() -> Silo {
    let silo = Silo::new();
    let more = crate::support::images::tar(&[(tar::EntryType::Regular, "opt/more", 0o644, "more\n")]);
    for (name, layers) in [("one", vec![Layer::plain(upper())]), ("two", vec![Layer::plain(upper()), Layer::plain(more)])] {
        let place = silo.project().join(format!("layout-{name}"));
        layout(&place, &layers);
        drop(silo.ok(["install", "--quiet", name, "--image", &format!("oci:{}:v1", place.display()), "--shim", &format!("{name}:greet")]));
    }
    silo
}

#[test]
fn a_directory_is_pruned_to_the_kept_tags() {
    let silo = two_tools();
    let place = silo.project().join("shared");
    let at = place.display().to_string();
    drop(silo.ok(["key", "new", "laptop"]));
    for (tool, tag) in [("one", "v1"), ("two", "old"), ("two", "older")] {
        drop(silo.ok(["push", "--quiet", tool, &format!("oci:{at}:{tag}")]));
    }
    let none = silo.fails(["cache", "prune", &at]);
    assert_eq!(none.code, 2, "{none:?}");
    let before = fs::read(place.join("index.json")).expect("an index");
    let plan = json(&silo.ok(["cache", "prune", &at, "--keep", "v*", "--dry-run", "--json"]));
    let tags = |key: &str| plan[key].as_array().expect("a list").iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let gone = tags("removed");
    assert!(gone.contains(&"old".to_owned()) && gone.contains(&"older".to_owned()) && !gone.contains(&"v1".to_owned()), "{plan}");
    assert_eq!(
        (gone.iter().filter(|tag| tag.starts_with("drv-")).count(), tags("kept").iter().filter(|tag| tag.starts_with("drv-")).count()),
        (1, 1)
    );
    assert_eq!(fs::read(place.join("index.json")).expect("an index"), before);
    let kept = json(&silo.ok(["cache", "prune", &at, "--keep-installed", "--dry-run", "--json"]));
    assert_eq!(kept["removed"], serde_json::json!([]), "{kept}");
    let blobs = || fs::read_dir(place.join("blobs/sha256")).expect("our own").flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let count = blobs().len();
    // Young blobs may be part of a push that is running.
    let pruned = json(&silo.ok(["cache", "prune", &at, "--keep", "v1", "--json"]));
    assert!(pruned["blobs"] == 0 && blobs().len() == count, "{pruned}");
    assert!(silo.fails(["inspect", &format!("oci:{at}:old")]).err.contains("has no old"));
    let hours_ago = SystemTime::now() - Duration::from_secs(7200);
    for blob in blobs() {
        let times = FileTimes::new().set_modified(hours_ago);
        File::options().write(true).open(blob).and_then(|file| file.set_times(times)).expect("our own");
    }
    let swept = json(&silo.ok(["cache", "prune", &at, "--keep", "v1", "--json"]));
    assert!(swept["blobs"].as_u64().is_some_and(|blobs| blobs > 5) && blobs().len() < count, "{swept}");
    let there = Silo::new();
    let key = silo.project().join("laptop.pub");
    fs::write(&key, silo.ok(["key", "export", "laptop"])).expect("our own");
    drop(there.ok(["key", "trust", &key.display().to_string()]));
    drop(there.ok(["pull", &format!("oci:{at}:v1")]));
    let signatures = json(&there.ok(["inspect", "--json", &format!("oci:{at}:v1")]));
    assert_eq!(signatures["signatures"].as_array().map(Vec::len), Some(4), "{signatures}");
}

#[test]
fn a_registry_is_pruned_to_the_kept_tags() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let (silo, registry) = (two_tools(), Registry::start());
    let at = format!("{}/team/tools", registry.host);
    drop(silo.ok(["key", "new", "laptop"]));
    for (tool, tag) in [("one", "v1"), ("two", "old")] {
        drop(silo.ok(["push", "--quiet", tool, &format!("{at}:{tag}")]));
    }
    let pruned = silo.ok(["cache", "prune", &at, "--keep", "v1"]);
    assert!(pruned.contains("old\n") && pruned.contains("tags removed"), "{pruned}");
    assert!(silo.fails(["inspect", &format!("{at}:old")]).err.contains("has no old"));
    assert!(silo.ok(["verify", &format!("{at}:v1")]).contains("signed by laptop"));
    let again = json(&silo.ok(["cache", "prune", &at, "--keep", "v1", "--json"]));
    assert_eq!(again["removed"], serde_json::json!([]), "{again}");
}
