//! Images that are pushed to registries and directories, signed, and pulled elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tar::EntryType::{Regular, Symlink};

use crate::support::between::{Between, Spoil};
use crate::support::http::Http;
use crate::support::images::{Layer, base, layout, tar, upper};
use crate::support::registry::Registry;
use crate::support::{Silo, done, has, skip};

/// A silo with the tool `greeter`, made from a layout that is gone.
fn greeter(layers: &[Layer]) -> Silo {
    let silo = Silo::new();
    let place = silo.project().join("layout");
    layout(&place, layers);
    drop(silo.ok(["install", "--quiet", "greeter", "--image", &format!("oci:{}:v1", place.display()), "--shim", "greet"]));
    silo_store::removal::remove_tree(&place).expect("our own");
    silo
}

/// A silo with the recipe and the lock of another one's tool, and with nothing that it made.
fn with_lock_of(other: &Silo) -> Silo {
    let silo = Silo::new();
    for file in ["greeter.toml", "greeter.lock"] {
        let text = fs::read_to_string(other.path(&format!("recipes/{file}"))).expect("the recipe");
        silo.write(&format!(".silo/recipes/{file}"), &text);
    }
    silo
}

/// Exports a silo's public key to a file.
fn key_of(silo: &Silo, name: &str) -> String {
    let path = silo.project().join(format!("{name}.pub"));
    fs::write(&path, silo.ok(["key", "export", name])).expect("our own");
    path.display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Two layers without a program that runs, for tests of transfers.
fn small() -> [Layer; 2] {
    [Layer::plain(upper()), Layer::plain(tar(&[(Regular, "opt/more", 0o644, "more\n")]))]
}

fn two() -> [Layer; 2] {
    [Layer::plain(base()), Layer::plain(upper())]
}

#[test]
fn an_image_is_pushed_to_a_registry_and_built_nowhere_else() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let (here, registry) = (greeter(&two()), Registry::start());
    let reference = format!("{}/team/greeter:v1", registry.host);
    drop(here.ok(["key", "new", "laptop"]));
    let first = json(&here.ok(["push", "--json", "greeter", &reference]));
    assert_eq!((&first["layers"], &first["sent"]), (&2.into(), &2.into()), "{first}");
    // Nothing is sent or signed twice.
    let again = json(&here.ok(["push", "--json", "greeter", &reference]));
    assert_eq!((&again["sent"], &again["digest"]), (&0.into(), &first["digest"]));
    let shown = json(&here.ok(["inspect", "--json", &reference]));
    assert_eq!(shown["signatures"].as_array().map(Vec::len), Some(4), "{shown}");
    let there = with_lock_of(&here);
    let refused = there.fails(["pull", &reference]);
    assert!(refused.err.contains("is not signed by a key that you trust") && refused.err.contains("silo key trust"), "{refused:?}");
    assert_eq!(there.fails(["verify", &reference]).code, 1);
    drop(there.ok(["key", "trust", &key_of(&here, "laptop")]));
    assert!(there.ok(["verify", &reference]).contains("proved      signed by laptop"));
    let pulled = json(&there.ok(["pull", "--json", &reference]));
    assert_eq!((&pulled["image"], &pulled["fetched"]), (&here.image_id("greeter").to_string().into(), &2.into()));
    // The layout that it was built from is gone, so nothing could be built.
    drop(there.ok(["install", "--frozen", "greeter"]));
    assert_eq!(there.ok(["greet"]), here.ok(["greet"]));
    assert!(there.ok(["verify", "--all"]).contains(" 0 faults"));
    // Only the blob of a changed layer moves, in both directions.
    let changed = greeter(&[Layer::plain(base()), Layer::plain(tar(&[(Regular, "usr/bin/greet", 0o755, "#!/bin/sh\necho other\n")]))]);
    let sent = json(&changed.ok(["push", "--json", "--no-sign", "greeter", &reference]));
    assert_eq!(sent["sent"], 1, "{sent}");
    let fetched = json(&there.ok(["pull", "--json", "--unsigned", &reference]));
    assert_eq!(fetched["fetched"], 1, "{fetched}");
    // The earlier image is still there by its digest.
    let by_digest = format!("{}/team/greeter@{}", registry.host, first["digest"].as_str().expect("a digest"));
    assert_eq!(json(&there.ok(["inspect", "--json", &by_digest]))["image"], pulled["image"]);
    // A revoked key counts no more.
    drop(there.ok(["key", "revoke", "laptop"]));
    assert_eq!(there.fails(["pull", &by_digest]).code, 1);
    let absent = there.fails(["pull", &format!("{}/team/greeter:v9", registry.host)]);
    assert!(absent.err.contains("has no v9"), "{absent:?}");
    let tagged = there.ok(["tag", &by_digest, "v2"]);
    assert!(tagged.contains(first["digest"].as_str().expect("a digest")), "{tagged}");
    assert_eq!(json(&there.ok(["inspect", "--json", &reference.replace(":v1", ":v2")]))["image"], pulled["image"]);
}

/// Copies an image with skopeo into a layout, and makes a tool of it.
fn copied(silo: &Silo, reference: &str, name: &str) {
    let place = silo.project().join(format!("copy-of-{name}"));
    let to = format!("oci:{}:v1", place.display());
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--insecure-policy", "--src-tls-verify=false", &format!("docker://{reference}"), &to]);
    let copied = done(copy.env("REGISTRY_AUTH_FILE", silo.home().join("logins.json")));
    assert_eq!(copied.code, 0, "{copied:?}");
    drop(silo.ok(["install", "--quiet", name, "--image", &to, "--shim", &format!("{name}:greet")]));
}

#[test]
fn other_programs_read_what_is_pushed_also_with_many_layers() {
    if !has("docker-registry") || !has("skopeo") {
        return skip("there is no docker-registry or no skopeo");
    }
    let registry = Registry::start();
    let file = |at: usize| {
        tar(&[(Regular, &format!("opt/files/{at}"), 0o644, &"x".repeat(at + 1)), (Symlink, "opt/last", 0o777, &at.to_string())])
    };
    let many: Vec<Layer> = two().into_iter().chain((0..177).map(|at| Layer::zstd(&file(at)))).collect();
    let silo = greeter(&many);
    let reference = format!("{}/many:v1", registry.host);
    let pushed = json(&silo.ok(["push", "--json", "greeter", &reference]));
    assert_eq!(pushed["layers"], 179, "{pushed}");
    assert_eq!(json(&silo.ok(["push", "--json", "greeter", &reference]))["sent"], 0);
    let shown = json(&silo.ok(["inspect", "--json", &reference]));
    assert_eq!((&shown["layersForOthers"], shown["layers"].as_array().map(Vec::len)), (&100.into(), Some(179)), "{shown}");
    copied(&silo, &reference, "other");
    drop(silo.ok(["diff", "--paths", "greeter", "other"]));
    let there = with_lock_of(&silo);
    let pulled = json(&there.ok(["pull", "--json", "--unsigned", &reference]));
    assert_eq!(pulled["image"], silo.image_id("greeter").to_string());
    // An ordinary image has its own layers, and podman and docker give it silo's id.
    let silo = greeter(&two());
    let reference = format!("{}/few:v1", registry.host);
    for form in [&["push", "greeter", &reference][..], &["push", "--gzip", "greeter", &reference]] {
        drop(silo.ok(form));
        let mut raw = Command::new("skopeo");
        let raw = done(raw.args(["inspect", "--raw", "--config", "--tls-verify=false", &format!("docker://{reference}")]));
        let config = silo_store::digest::Digest::of(raw.out.trim_end().as_bytes()).to_string();
        assert_eq!(config, silo.image_id("greeter").to_string(), "{raw:?}");
    }
    copied(&silo, &reference, "gzipped");
    drop(silo.ok(["diff", "--paths", "greeter", "gzipped"]));
}

#[test]
fn a_directory_is_a_repository() {
    let (here, place) = (greeter(&two()), tempfile::tempdir().expect("a directory"));
    let at = |tag: &str| format!("oci:{}:{tag}", place.path().join("shared").display());
    let pushed = json(&here.ok(["push", "--json", "greeter", &at("v1")]));
    assert_eq!(pushed["sent"], 2, "{pushed}");
    drop(here.ok(["tag", &at("v1"), "v2"]));
    let there = with_lock_of(&here);
    let pulled = json(&there.ok(["pull", "--json", "--unsigned", &at("v2")]));
    assert_eq!(pulled["image"], here.image_id("greeter").to_string());
    // It is also a layout for other programs.
    drop(there.ok(["install", "--quiet", "other", "--image", &at("v1"), "--shim", "other:greet"]));
    assert_eq!(there.ok(["other"]), here.ok(["greet"]));
    for (reference, expect) in
        [("oci:shared:v1", "must be absolute"), ("greeter:v1", "name the registry too"), ("oci-archive:/x.tar", "an archive is one file")]
    {
        let refused = here.fails(["push", "greeter", reference]);
        assert!(refused.code == 2 && refused.err.contains(expect) && refused.err.contains("hint:"), "{refused:?}");
    }
}

/// Writes a document as a blob of a directory; returns its digest and size.
fn add_blob(place: &Path, document: &Value) -> (String, usize) {
    let bytes = serde_json::to_vec(document).expect("JSON");
    let digest = silo_store::digest::Digest::of(&bytes);
    fs::write(place.join("blobs/sha256").join(digest.to_string()), &bytes).expect("our own");
    (format!("sha256:{digest}"), bytes.len())
}

fn blob(place: &Path, digest: &Value) -> Value {
    let digest = digest.as_str().expect("a digest").replace("sha256:", "");
    json(&fs::read_to_string(place.join("blobs/sha256").join(digest)).expect("our own"))
}

/// Lets the tag v1 name this document.
fn replace_top(place: &Path, document: &Value) {
    let (digest, size) = add_blob(place, document);
    let list = place.join("index.json");
    let mut named = json(&fs::read_to_string(&list).expect("our own"));
    for entry in named["manifests"].as_array_mut().expect("a list") {
        if entry["annotations"]["org.opencontainers.image.ref.name"] == "v1" {
            (entry["digest"], entry["size"]) = (digest.as_str().into(), size.into());
        }
    }
    fs::write(&list, named.to_string()).expect("our own");
}

/// Whoever can write the repository can add an image for another platform to a tag. The next push must not sign it with its own.
#[test]
fn a_push_signs_no_image_of_another_platform() {
    let here = greeter(&small());
    let place = here.project().join("shared");
    let reference = format!("oci:{}:v1", place.display());
    drop(here.ok(["key", "new", "laptop"]));
    let top = || -> Value {
        let list = json(&fs::read_to_string(place.join("index.json")).expect("our own"));
        let named = list["manifests"].as_array().expect("a list").iter();
        let mut tagged = named.filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "v1");
        blob(&place, &tagged.next().expect("the tag")["digest"])
    };
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let other = if own == "amd64" { "arm64" } else { "amd64" };
    let with_another = || {
        let mut document = top();
        let list = document["manifests"].as_array_mut().expect("a list");
        list.retain(|entry| entry["platform"]["architecture"] == own);
        let mut added = list[0].clone();
        added["platform"]["architecture"] = other.into();
        let mut manifest = blob(&place, &added["digest"]);
        manifest["annotations"]["com.example.note"] = "an image of somebody else".into();
        let (digest, size) = add_blob(&place, &manifest);
        (added["digest"], added["size"]) = (digest.into(), size.into());
        list.push(added);
        replace_top(&place, &document);
    };
    drop(here.ok(["push", "--no-sign", "greeter", &reference]));
    with_another();
    let refused = here.fails(["push", "greeter", &reference]);
    assert!(refused.err.contains(&format!("also names an image for {other}")) && refused.err.contains("--no-sign"), "{refused:?}");
    // Without a signature nobody is misled, and the other image stays.
    drop(here.ok(["push", "--no-sign", "greeter", &reference]));
    assert_eq!(top()["manifests"].as_array().map(Vec::len), Some(2));
}

/// The index of a tag may name images that silo does not know, and data of other programs. A push changes the entry of its platform only.
#[test]
fn a_push_of_one_platform_keeps_the_other_entries() {
    let here = greeter(&small());
    let place = here.project().join("shared");
    let reference = format!("oci:{}:v1", place.display());
    let top = || -> Value {
        let list = json(&fs::read_to_string(place.join("index.json")).expect("our own"));
        let named = list["manifests"].as_array().expect("a list").iter();
        let mut tagged = named.filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "v1");
        blob(&place, &tagged.next().expect("the tag")["digest"])
    };
    drop(here.ok(["push", "--no-sign", "greeter", &reference]));
    let mut document = top();
    let own = document["manifests"][0].clone();
    let (digest, size) = add_blob(&place, &serde_json::json!({ "schemaVersion": 2, "layers": [], "config": own }));
    let foreign = |platform: Value, annotations: Value| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size, "platform": platform, "annotations": annotations })
    };
    let about = serde_json::json!({ "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": own["digest"] });
    let others = [
        foreign(serde_json::json!({ "architecture": "riscv64", "os": "linux", "variant": "rva23" }), serde_json::json!({})),
        foreign(serde_json::json!({ "architecture": "unknown", "os": "unknown" }), about),
        foreign(
            serde_json::json!({ "architecture": "amd64", "os": "windows", "os.version": "10.0.20348.1" }),
            serde_json::json!({ "a": "b" }),
        ),
        serde_json::json!({ "mediaType": "a/b", "digest": digest, "size": size, "data": "e30=", "com.example.more": [1, null] }),
    ];
    document["manifests"].as_array_mut().expect("a list").splice(0..0, others.iter().cloned());
    document["annotations"] = serde_json::json!({ "com.example.note": "of somebody else" });
    replace_top(&place, &document);
    let check = || {
        let found = top();
        let all = found["manifests"].as_array().expect("a list");
        assert_eq!((all.len(), &found["annotations"]), (others.len() + 1, &document["annotations"]), "{found}");
        assert!(others.iter().chain([&own]).all(|entry| all.contains(entry)), "{found}");
    };
    drop(here.ok(["push", "--no-sign", "greeter", &reference]));
    check();
    // A signature of the index would cover what nobody knows, so the image alone is signed, and that is enough for a pull.
    drop(here.ok(["key", "new", "laptop"]));
    let done = here.run(["push", "greeter", &reference]);
    assert!(done.code == 0 && done.err.contains("the image is signed, and the tag is not"), "{done:?}");
    check();
    let there = with_lock_of(&here);
    drop(there.ok(["key", "trust", &key_of(&here, "laptop")]));
    let pulled = json(&there.ok(["pull", "--json", &reference]));
    assert_eq!(pulled["image"], here.image_id("greeter").to_string().as_str());
    // A list that cannot be read is not replaced, and a manifest is.
    document["manifests"] = vec![own.clone(); 1001].into();
    replace_top(&place, &document);
    assert!(here.fails(["push", "--no-sign", "greeter", &reference]).err.contains("1001"));
    replace_top(&place, &blob(&place, &own["digest"]));
    drop(here.ok(["push", "--no-sign", "greeter", &reference]));
    assert_eq!(top()["manifests"], serde_json::json!([own]));
}

/// Changes each byte of a pushed image in turn, or removes the file: the pull gives the same image or fails, and leaves nothing wrong.
#[test]
fn a_changed_repository_gives_the_same_image_or_an_error() {
    let here = greeter(&small());
    drop(here.ok(["key", "new", "laptop"]));
    let place = here.project().join("shared");
    let reference = format!("oci:{}:v1", place.display());
    drop(here.ok(["push", "greeter", &reference]));
    let expected = here.image_id("greeter").to_string();
    let key = key_of(&here, "laptop");
    let blobs = place.join("blobs/sha256");
    let mut files: Vec<_> = fs::read_dir(&blobs).expect("our own").flatten().map(|entry| entry.path()).collect();
    files.push(place.join("index.json"));
    let mut refusals = BTreeSet::new();
    for file in &files {
        let intact = fs::read(file).expect("our own");
        let half = intact.len() / 2;
        let flipped =
            |at: usize| intact.iter().enumerate().map(|(here, byte)| if here == at { byte ^ 1 } else { *byte }).collect::<Vec<u8>>();
        let changes = [flipped(half), intact[..half].to_vec(), [&intact[..], b" "].concat()];
        for changed in changes.iter().map(Some).chain([None]) {
            match changed {
                Some(bytes) => fs::write(file, bytes).expect("our own"),
                None => fs::remove_file(file).expect("our own"),
            }
            let there = with_lock_of(&here);
            drop(there.ok(["key", "trust", &key]));
            let done = there.run(["pull", "--json", &reference]);
            match done.code {
                0 => assert_eq!(json(&done.out)["image"], expected.as_str(), "{file:?}"),
                1 => {
                    refusals.insert(done.err.lines().next().unwrap_or_default().len());
                    assert!(done.err.starts_with("silo: ") && !there.path("made").exists(), "{file:?}: {done:?}");
                }
                _ => panic!("{file:?}: {done:?}"),
            }
            fs::write(file, &intact).expect("our own");
        }
    }
    assert!(!refusals.is_empty());
    let there = with_lock_of(&here);
    drop(there.ok(["key", "trust", &key]));
    drop(there.ok(["pull", &reference]));
    assert!(there.ok(["verify", "--all"]).contains(" 0 faults"));
}

#[test]
fn claims_are_signed_and_compared() {
    let silo = greeter(&small());
    let place = silo.project().join("shared");
    let reference = format!("oci:{}:v1", place.display());
    // Without a key, the bills of materials are there for programs that read no signatures.
    drop(silo.ok(["push", "greeter", &reference]));
    let kinds = || -> Vec<String> {
        let read = |entry: fs::DirEntry| serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok();
        let documents: Vec<Value> = fs::read_dir(place.join("blobs/sha256")).expect("our own").flatten().filter_map(read).collect();
        let mut kinds: Vec<String> = documents
            .iter()
            .filter(|document| document["subject"].is_object())
            .filter_map(|document| document["artifactType"].as_str().map(str::to_owned))
            .collect();
        kinds.sort();
        kinds
    };
    let plain = ["application/spdx+json", "application/vnd.cyclonedx+json", "application/vnd.silo.image.v1+json"];
    assert_eq!(kinds(), plain);
    assert!(silo.run(["verify", &reference]).out.contains("not proved  nobody signed it"));
    drop(silo.ok(["key", "new", "laptop"]));
    drop(silo.ok(["push", "greeter", &reference]));
    let predicates = || {
        let shown = json(&silo.ok(["inspect", "--json", &reference]));
        let all = shown["signatures"].as_array().expect("a list").iter();
        all.map(|one| (one["predicateType"].as_str().expect("a type").to_owned(), one["by"] == "laptop")).collect::<Vec<_>>()
    };
    let types =
        ["https://cyclonedx.org/bom", "https://sigstore.dev/cosign/sign/v1", "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"];
    let expect: Vec<(String, bool)> = types.iter().map(|kind| ((*kind).to_owned(), true)).collect();
    assert_eq!(predicates(), expect);
    let count = kinds().len();
    // The signature and the provenance are over the index too.
    assert_eq!(count, plain.len() + 4 + 2);
    let verified = silo.ok(["verify", &reference]);
    let lock = silo.ok(["inspect", "--lock", &reference]);
    let stated = format!("proved      the signer states a build from the lock sha256:{}", silo_store::digest::Digest::of(lock.as_bytes()));
    assert!(verified.matches(&stated).count() == 1 && verified.contains("silo challenge"), "{verified}");
    // The same push again changes nothing.
    drop(silo.ok(["push", "greeter", &reference]));
    assert_eq!((kinds().len(), predicates()), (count, expect));
    // What somebody else signs is shown, and proves nothing.
    let there = Silo::new();
    let done = there.run(["verify", &reference]);
    assert!(done.code == 1 && !done.out.contains("the signer states") && done.out.contains("by a key that you do not trust"), "{done:?}");
}

#[test]
fn uploads_survive_broken_connections() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        char::from(b' ' + u8::try_from(state % 90).expect("it is small"))
    };
    // Some megabytes that no compressor makes small, for several pieces.
    let noise: String = (0..12 << 20).map(|_| next()).collect();
    let silo = greeter(&[Layer::plain(base()), Layer::plain(upper()), Layer::plain(tar(&[(Regular, "opt/noise", 0o644, &noise)]))]);
    let registry = Registry::start();
    let between = Between::start(&registry.host);
    let reference = format!("{}/noise:v1", between.host);
    between.spoil("PATCH", [Spoil::Refuse, Spoil::Answer(503, "Retry-After: 0\r\n", "")]);
    let pushed = json(&silo.ok(["push", "--json", "greeter", &reference]));
    assert_eq!(pushed["sent"], 3, "{pushed}");
    let seen = between.seen();
    let asked = seen.iter().any(|line| line.starts_with("GET ") && line.contains("/blobs/uploads/"));
    assert!(asked && seen.iter().filter(|line| line.starts_with("PATCH ")).count() > 3, "{seen:?}");
    let there = with_lock_of(&silo);
    drop(there.ok(["pull", "--unsigned", &reference]));
    // A push that is refused at its end leaves no name.
    between.spoil("PUT /v2/denied/manifests/", vec![Spoil::Answer(403, "", "{\"errors\":[{\"message\":\"not for you\"}]}"); 9]);
    let denied = format!("{}/denied:v1", between.host);
    let done = silo.fails(["push", "greeter", &denied]);
    assert!(done.err.contains("403: not for you") && done.err.contains("podman login"), "{done:?}");
    assert!(silo.fails(["inspect", &denied]).err.contains("has no v1"));
    between.spoil("x", []);
    assert_eq!(json(&silo.ok(["push", "--json", "greeter", &denied]))["sent"], 0);
}

#[test]
fn one_request_asks_for_a_small_blob_and_begins_its_upload() {
    if !has("docker-registry") {
        return skip("there is no docker-registry");
    }
    let silo = greeter(&small());
    let registry = Registry::start();
    let between = Between::start(&registry.host);
    let count = |start: &str, part: &str| between.seen().iter().filter(|line| line.starts_with(start) && line.contains(part)).count();
    let push = |name: &str| json(&silo.ok(["push", "--json", "greeter", &format!("{}/{name}:v1", between.host)]));
    let sent = push("one")["sent"].as_u64().expect("a number");
    let begun = count("POST /v2/one/blobs/uploads/?mount=", "&from=one");
    assert_eq!((sent, count("HEAD", "")), (2, 0), "{:?}", between.seen());
    assert_eq!(count("PUT /v2/one/blobs/uploads/", "digest="), begun);
    // A home that remembers no blob sends none again.
    fs::remove_dir_all(silo.path("blobs")).expect("blobs that were pushed");
    assert_eq!(push("one")["sent"], 0);
    assert_eq!((count("HEAD", ""), count("PUT /v2/one/blobs/uploads/", "digest=")), (0, begun));
    // A registry that refuses such a request is asked first.
    fs::remove_dir_all(silo.path("blobs")).expect("blobs that were pushed");
    between.spoil("/v2/two/blobs/uploads/?mount=", vec![Spoil::Answer(405, "", ""); begun]);
    assert_eq!(push("two")["sent"], sent);
    assert_eq!((count("HEAD /v2/two/blobs/", ""), count("PUT /v2/two/blobs/uploads/", "digest=")), (begun, begun));
}

#[test]
fn keys_sign_from_files_variables_and_programs() {
    let silo = greeter(&small());
    let place = silo.project().join("shared");
    let reference = format!("oci:{}:v1", place.display());
    drop(silo.ok(["key", "new", "one"]));
    drop(silo.ok(["key", "new", "two", "--ed25519"]));
    let several = silo.fails(["push", "greeter", &reference]);
    assert!(several.err.contains("several keys: one, two") && several.err.contains("--sign"), "{several:?}");
    let secret = silo.path("keys/own/one.pem");
    let text = fs::read_to_string(&secret).expect("a key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&secret).expect("a key").permissions());
    assert_eq!(mode & 0o077, 0);
    let signers = |silo: &Silo| {
        let shown = json(&silo.ok(["inspect", "--json", &reference]));
        let all = shown["signatures"].as_array().expect("a list").iter();
        let signed = all.filter(|one| one["predicateType"] == "https://sigstore.dev/cosign/sign/v1");
        signed.map(|one| one["by"].as_str().unwrap_or("?").to_owned()).collect::<Vec<_>>()
    };
    let mut push = silo.command(["push", "--quiet", "greeter", &reference]);
    let pushed = done(push.env("SILO_SIGNING_KEY", &text));
    assert_eq!((pushed.code, signers(&silo)), (0, vec!["one".to_owned()]), "{pushed:?}");
    drop(silo.ok(["push", "--quiet", "greeter", &reference, "--sign", "two"]));
    assert_eq!(signers(&silo), ["one", "two"]);
    let mut push = silo.command(["push", "--quiet", "greeter", &reference]);
    let wrong = done(push.env("SILO_SIGNING_KEY", "no key"));
    assert!(wrong.code == 1 && wrong.err.contains("SILO_SIGNING_KEY") && !wrong.err.contains("no key"), "{wrong:?}");
    if !has("openssl") {
        return skip("there is no openssl to sign with");
    }
    let program = silo.project().join("sign");
    fs::write(&program, format!("#!/bin/sh\nexec openssl dgst -sha256 -sign {}\n", secret.display())).expect("our own");
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own");
    let other = format!("oci:{}:v2", silo.project().join("other").display());
    let by_program =
        |key: &str| silo.run(["push", "--quiet", "greeter", &other, "--sign", key, "--sign-program", &program.display().to_string()]);
    let refused = by_program("two");
    assert!(refused.code == 1 && refused.err.contains("made no signature of the key"), "{refused:?}");
    assert_eq!(by_program("one").code, 0);
    assert!(silo.ok(["verify", &other]).contains("proved      signed by one"));
}

/// Writes the user's settings with one cache.
fn use_cache(silo: &Silo, location: &str) {
    silo.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{location}\"\n"));
}

/// Serves a directory, without faults.
fn served(dir: &Path) -> Http {
    let dir = dir.to_owned();
    Http::over(move |path| fs::read(dir.join(path.trim_start_matches('/'))).ok())
}

#[test]
fn a_cache_is_asked_before_a_build() {
    let here = greeter(&two());
    drop(here.ok(["key", "new", "laptop"]));
    let key = key_of(&here, "laptop");
    let place = here.project().join("cache");
    let none = here.fails(["cache", "push"]);
    assert!(none.code == 2 && none.err.contains("push = true"), "{none:?}");
    here.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{}\"\npush = true\n", place.display()));
    let pushed = json(&here.ok(["cache", "push", "--json"]));
    assert_eq!((&pushed[0]["tool"], &pushed[0]["sent"]), (&"greeter".into(), &2.into()), "{pushed}");
    // A build pushes by itself to such a cache.
    let mine = "version = \"1\"\ncommand = [\"greet\"]\nimage = \"IMAGE\"\nsteps = [\"echo > /opt/mine\"]\n";
    let layout_of = here.project().join("again");
    layout(&layout_of, &two());
    here.write(".silo/recipes/mine.toml", &mine.replace("IMAGE", &format!("oci:{}:v1", layout_of.display())));
    let built = here.run(["install", "mine"]);
    assert!(built.code == 0 && built.err.contains(&format!("mine to oci:{}: 3 layers, 1 blobs sent", place.display())), "{built:?}");
    let server = served(&place);
    let mut locations = vec![place.display().to_string(), server.url("")];
    let registry = has("docker-registry").then(Registry::start);
    if let Some(registry) = &registry {
        locations.push(format!("{}/team/silo", registry.host));
        drop(here.ok(["cache", "push", "--to", &locations[2], "greeter"]));
    }
    for location in &locations {
        // The layout that the image was made of is gone: what is installed came from the cache.
        let there = with_lock_of(&here);
        use_cache(&there, location);
        let refused = there.fails(["install", "--frozen", "greeter"]);
        assert!(refused.err.contains("no key whose signatures count"), "{refused:?}");
        drop(there.ok(["key", "trust", &key]));
        let taken = there.run(["install", "--frozen", "greeter"]);
        let told = format!("greeter: 2 of 2 layers pulled from {location} (");
        assert!(taken.code == 0 && taken.err.contains(&told) && taken.err.contains("signed by laptop"), "{taken:?}");
        assert_eq!((there.image_id("greeter"), there.ok(["greet"])), (here.image_id("greeter"), here.ok(["greet"])));
        drop(there.ok(["key", "revoke", "laptop"]));
        drop(there.ok(["uninstall", "greeter"]));
        drop(there.ok(["gc", "--all"]));
        assert_eq!(there.fails(["install", "--frozen", "greeter"]).code, 1);
    }
}

#[test]
fn a_project_may_name_a_cache_but_neither_trust_it_nor_fill_it() {
    let silo = Silo::new();
    let settings = silo.project().join("silo.toml");
    fs::write(&settings, "tools = [\"sh\"]\n[[caches]]\nlocation = \"cache.example.com/team/silo\"\n").expect("our own");
    assert!(silo.fails(["sync"]).err.contains("images come from the cache cache.example.com/team/silo"));
    fs::write(&settings, "[[caches]]\nlocation = \"cache.example.com/team/silo\"\npush = true\n").expect("our own");
    assert!(silo.fails(["sync"]).err.contains("caches.push is a user setting"));
    fs::write(&settings, "[[caches]]\nlocation = \"nonsense\"\n").expect("our own");
    assert!(silo.fails(["sync"]).err.contains("name the registry too"));
}
