//! Tools from OCI images: from layouts and registries, complete, damaged and hostile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use silo_store::digest::Digest;
use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

use crate::support::between::{Between, Spoil};
use crate::support::http::{Fault, Http};
use crate::support::images::{Layer, base, documents, layout, tar, upper};
use crate::support::registry::Registry;
use crate::support::{As, Silo, done, has, is_root, skip};

#[test]
fn an_image_of_a_layout_becomes_a_tool() {
    let silo = Silo::new();
    let place = silo.project().join("layout");
    layout(&place, &[Layer::gzip(&base()), Layer::zstd(&upper())]);
    let reference = format!("oci:{}:v1", place.display());
    let said = silo.ok(["install", "--quiet", "greeter", "--image", &reference]);
    assert!(said.contains("greeter v1 installed") && said.contains("commands: greet hail salute x-tool\n"), "{said}");
    assert_eq!(silo.ok(["greet"]), "hello from an image\n");
    let mut shim = Command::new(silo.path("bin/greet"));
    assert_eq!(done(shim.current_dir(silo.project()).env("HOME", silo.home())).out, "hello from an image\n");
    assert_eq!(silo.ok(["salute"]), silo.ok(["hail"]));
    let seen = silo.ok(["greeter", "-c", "ls /usr/share/doc; test -e /etc/debian_version || echo gone; stat -c %a /tmp"]);
    assert_eq!(seen, "only\ngone\n1777\n");
    // The locked image is built, without the layout.
    let lock = fs::read_to_string(silo.path("recipes/greeter.lock")).expect("a lock");
    assert!(lock.contains("[tool.greeter.image.") && lock.contains("command = [\"sh\"]"), "{lock}");
    let image = silo.ok(["list"]);
    let _ = silo.ok(["uninstall", "greeter"]);
    let _ = silo.ok(["gc", "--all"]);
    let _ = silo.ok(["install", "--quiet", "--frozen", "greeter"]);
    assert_eq!(silo.ok(["list"]), image);
    let done = silo.fails(["install", "greeter", "--image", &reference]);
    assert!(done.err.contains("there is a recipe for greeter already"), "{done:?}");
    let done = silo.fails(["install", "other", "--image", &format!("oci:{}:v2", place.display())]);
    assert!(done.err.contains("it has no \"v2\"; there are: v1"), "{done:?}");
    assert!(!silo.path("recipes/other.toml").exists());
}

#[test]
fn an_image_takes_steps_and_shims_that_are_named() {
    let silo = Silo::new();
    let place = silo.project().join("layout");
    layout(&place, &[Layer::plain(base()), Layer::plain(upper())]);
    let reference = format!("oci:{}", place.display());
    let wish = ["--shim", "greet,hey:greet", "--setup", "echo made > /opt/made", "--cpus", "2", "--memory", "256M"];
    let said = silo.ok(["install", "--quiet", "greeter", "--image", &reference].iter().chain(&wish));
    assert!(said.contains("commands: greet hey:greet\n"), "{said}");
    assert_eq!(silo.ok(["hey"]), "hello from an image\n");
    assert_eq!(silo.ok(["run", "greeter"]), "hello from an image\n");
    let shown: serde_json::Value = serde_json::from_str(&silo.ok(["show", "greeter", "--json"])).expect("JSON");
    assert_eq!((&shown["cpus"], &shown["memoryMB"]), (&2.into(), &256.into()));
    assert_eq!(silo.fed(["shell", "greeter"], b"cat /opt/made\n").out, "made\n");
}

#[test]
fn hostile_images_are_refused_and_nothing_is_written_outside() {
    let silo = Silo::new();
    let outside = silo.project().join("outside");
    fs::create_dir(&outside).expect("our own");
    let up = format!("{}/x", outside.display());
    let deep = "../".repeat(12) + up.trim_start_matches('/');
    let zeros = tar(&[(Regular, "zeros", 0o644, &"\0".repeat(100 << 20))]);
    let many: Vec<(::tar::EntryType, &str, u32, &str)> = vec![(Directory, "d", 0o755, ""); 300_000];
    let mut pax = ::tar::Builder::new(Vec::new());
    let long = "x".repeat(2 << 20);
    pax.append_pax_extensions([("path", long.as_bytes())]).expect("memory");
    let cases: Vec<(&str, Layer, &str)> = vec![
        ("dots", Layer::plain(tar(&[(Regular, &deep, 0o644, "x")])), "layer"),
        ("a hard link to outside", Layer::plain(tar(&[(Link, "x", 0o644, "../../etc/passwd")])), "x"),
        ("a hard link to nothing", Layer::plain(tar(&[(Link, "x", 0o644, "etc/passwd")])), "which does not exist"),
        ("a file below a file", Layer::plain(tar(&[(Regular, "a", 0o644, "1"), (Regular, "a/b", 0o644, "2")])), "not a directory"),
        (
            "a loop of links",
            Layer::plain(tar(&[(Symlink, "a", 0o777, "b"), (Symlink, "b", 0o777, "a"), (Regular, "a/c", 0o644, "")])),
            "too many symlinks",
        ),
        ("a bomb", Layer::zstd(&zeros), "unpacks to more than"),
        ("many entries", Layer::zstd(&tar(&many)), "out of proportion"),
        ("a long header", Layer::gzip(&pax.into_inner().expect("memory")), "a header of more than"),
        ("no tar", Layer::plain(vec![b'x'; 2048]), "cannot read layer"),
        ("other contents", Layer { diff: Digest::of(b"other"), ..Layer::plain(tar(&[(Regular, "a", 0o644, "1")])) }, "but the image has"),
    ];
    for (name, layer, expect) in cases {
        let place = silo.project().join("layout");
        layout(&place, &[layer]);
        let done = silo.run(["install", "--quiet", "mine", "--image", &format!("oci:{}:v1", place.display())]);
        assert!(done.code == 1 && done.err.contains(expect) && done.err.contains("hint:"), "{name}: {done:?}");
        silo_store::removal::remove_tree(&place).expect("our own");
        assert!(!silo.path("recipes/mine.toml").exists() && !silo.path("recipes/mine.lock").exists(), "{name}");
    }
    // These stay inside too: the link's target is a path in the image.
    for (name, layer) in [
        ("absolute", tar(&[(Regular, &up, 0o644, "x")])),
        ("a parent that is a link", tar(&[(Symlink, "out", 0o777, outside.to_str().expect("plain")), (Regular, "out/x", 0o644, "x")])),
        ("a link upwards", tar(&[(Symlink, "out", 0o777, &deep[..deep.len() - 2]), (Regular, "out/x", 0o644, "x")])),
        ("a disk", tar(&[(Block, "dev/sda", 0o666, ""), (Char, "dev/null", 0o666, ""), (Fifo, "run/p", 0o666, "")])),
    ] {
        let place = silo.project().join("layout");
        layout(&place, &[Layer::plain(layer)]);
        let done = silo.run(["install", "--quiet", "mine", "--image", &format!("oci:{}:v1", place.display())]);
        assert_eq!(done.code, 0, "{name}: {done:?}");
        silo_store::removal::remove_tree(&place).expect("our own");
        remove_recipe(&silo);
    }
    assert_eq!(fs::read_dir(&outside).expect("our own").count(), 0);
    assert_eq!(silo.ok(["list"]), "");
}

/// Silo resolves paths of an image within its root, as a program inside would. An image chooses its symlinks, and files that silo reads get
/// into the sandbox.
#[test]
fn links_of_an_image_lead_to_nothing_of_the_machine() {
    // Only an ordinary user is added to the image's accounts.
    let silo = Silo::of(if is_root() { As::Nobody } else { As::Me });
    silo.write("secret", "a secret of this machine\n");
    let secret = silo.home().join("secret");
    let place = silo.project().join("layout");
    let links = tar(&[
        (Symlink, "etc/passwd", 0o777, secret.to_str().expect("plain")),
        (Symlink, "etc/group", 0o777, "/dev/zero"),
        (Directory, "etc/ssl/certs", 0o755, ""),
        (Symlink, "etc/ssl/certs/ca-certificates.crt", 0o777, secret.to_str().expect("plain")),
    ]);
    layout(&place, &[Layer::plain(base()), Layer::plain(links)]);
    let reference = format!("oci:{}:v1", place.display());
    drop(silo.ok(["install", "--quiet", "curious", "--image", &reference, "--shim", "curious:sh"]));
    // With a network, the sandbox trusts the host's certificates too.
    drop(silo.ok(["config", "network", "allow", "--global", "host.silo.internal:9"]));
    let done = silo.run(["run", "curious", "-c", "cat /etc/passwd /etc/group /etc/ssl/certs/ca-certificates.crt"]);
    assert!(done.out.contains(":/bin/sh\n") && !done.out.contains("secret"), "{done:?}");
}

/// Ten million entries, each a header alone. They are compressed as one piece that is repeated, so that making them takes no time.
#[test]
fn a_layer_of_ten_million_entries_is_refused() {
    const PIECES: usize = 1_000;
    let silo = Silo::new();
    let place = silo.project().join("layout");
    // Deletions of one name: nothing of them is written until the end, so nothing but their number stops them.
    let entries: Vec<(::tar::EntryType, &str, u32, &str)> = vec![(Regular, "d/.wh.x", 0o644, ""); 10_000];
    let mut piece = tar(&entries);
    piece.truncate(10_000 * 512);
    let piece = Layer::gzip(&piece).bytes;
    layout(&place, &[Layer { bytes: piece.repeat(PIECES), diff: Digest::of(b"not looked at") }]);
    let done = silo.run(["install", "--quiet", "mine", "--image", &format!("oci:{}:v1", place.display())]);
    assert!(done.code == 1 && done.err.contains("the layer has more than 1000000 entries"), "{done:?}");
    assert!(!silo.path("recipes/mine.toml").exists());
}

/// A global header gives its attributes to each entry, so a small layer could fill memory.
#[test]
fn attributes_of_a_global_header_are_bounded() {
    let silo = Silo::new();
    let place = silo.project().join("layout");
    let record = format!(" SCHILY.xattr.user.a={}\n", "v".repeat(3000));
    let record = format!("{}{record}", record.len() + 4);
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::XGlobalHeader);
    header.set_size(record.len() as u64);
    header.set_cksum();
    let mut global = ::tar::Builder::new(Vec::new());
    global.append(&header, record.as_bytes()).expect("memory");
    let names: Vec<String> = (0..25_000).map(|number| format!("d/{number}")).collect();
    let entries: Vec<(::tar::EntryType, &str, u32, &str)> = names.iter().map(|name| (Regular, name.as_str(), 0o644, "")).collect();
    // Without the end of the archive, two blocks.
    let mut bytes = global.into_inner().expect("memory");
    bytes.truncate(bytes.len() - 1024);
    layout(&place, &[Layer::gzip(&[bytes, tar(&entries)].concat())]);
    let done = silo.run(["install", "--quiet", "mine", "--image", &format!("oci:{}:v1", place.display())]);
    assert!(done.code == 1 && done.err.contains("the layer has more than 67108864 bytes of extended attributes"), "{done:?}");
}

/// Puts an image into a server that answers as a registry does.
fn served(server: &Http, layers: &[Layer], faults: &[Fault]) -> String {
    let documents = documents(layers);
    let digest = Digest::of(&documents.manifest);
    server.put("/v2/x/manifests/v1", &documents.manifest, []);
    server.put(&format!("/v2/x/manifests/sha256:{digest}"), &documents.manifest, []);
    server.put(&format!("/v2/x/blobs/sha256:{}", Digest::of(&documents.config)), &documents.config, []);
    for layer in layers {
        server.put(&format!("/v2/x/blobs/sha256:{}", Digest::of(&layer.bytes)), &layer.bytes, faults.to_vec());
    }
    format!("{}/x:v1", server.url("").trim_start_matches("http://"))
}

/// Serves an image with one program, after a challenge.
fn guarded(server: &Http, challenge: String) -> String {
    let layers = [Layer::plain(tar(&[(Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\n")]))];
    let reference = served(server, &layers, &[]);
    server.put("/v2/x/manifests/v1", &documents(&layers).manifest, [Fault::Challenge(challenge)]);
    reference
}

#[test]
fn errors_of_a_registry_are_retried_or_reported() {
    let silo = Silo::new();
    let server = Http::start();
    let small = || tar(&[(Regular, "usr/bin/x-tool", 0o755, &"#!/bin/sh\n".repeat(4000))]);
    let install = |reference: &str| silo.run(["install", "--quiet", "mine", "--image", reference]);
    let reference = served(&server, &[Layer::plain(small())], &[Fault::Drop(9_000), Fault::Status(503)]);
    let done = install(&reference);
    assert!(done.code == 0 && done.out.contains("commands: x-tool"), "{done:?}");
    assert!(server.ranges().iter().any(|range| range == "bytes=9000-"), "{:?}", server.ranges());
    let _ = silo.ok(["uninstall", "mine"]);
    for file in ["mine.toml", "mine.lock"] {
        fs::remove_file(silo.path(&format!("recipes/{file}"))).expect("the recipe");
    }
    let broken = served(&server, &[Layer::gzip(&small())], &[Fault::WrongBytes]);
    let done = install(&broken);
    assert!(done.code == 1 && done.err.contains("expected sha256"), "{done:?}");
    for (status, expect) in [(404, "is the name right"), (403, "podman login"), (429, "limits how often"), (500, "in trouble")] {
        server.put("/v2/x/manifests/v1", b"", std::iter::repeat_n(Fault::Wait(status, 0), 9));
        let done = install(&broken);
        assert!(done.code == 1 && done.err.contains(&status.to_string()) && done.err.contains(expect), "{status}: {done:?}");
    }
    server.put("/v2/x/manifests/v1", b"<html>", []);
    assert_eq!(install(&broken).code, 1);
    let done = install("python:3.14");
    assert!(done.err.contains("name the registry too"), "{done:?}");
}

#[test]
fn a_registry_challenge_is_answered_with_a_token() {
    let silo = Silo::new();
    let server = Http::start();
    let reference = guarded(&server, format!("Bearer realm=\"{}\",service=\"the service\"", server.url("/token")));
    server.put("/token?service=the%20service&scope=repository:x:pull", b"{\"token\":\"the-token\"}", []);
    let host = reference.split('/').next().expect("a host");
    silo.write(".docker/config.json", &format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}"));
    let done = silo.run(["install", "--quiet", "mine", "--image", &reference]);
    assert_eq!(done.code, 0, "{done:?}");
    let seen = server.seen();
    let pass = |part: &str| seen.iter().rev().find(|seen| seen.target.contains(part)).and_then(|seen| seen.pass.clone());
    assert_eq!(pass("/token").as_deref(), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(pass("/blobs/").as_deref(), Some("Bearer the-token"));
}

/// Another server may be where a registry's answers are, but it may not ask for the registry's login.
#[test]
fn a_login_is_shown_to_the_registry_alone_and_to_the_token_service_it_names() {
    let layers = [Layer::plain(tar(&[(Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\n")]))];
    let silo = Silo::new();
    let login = |reference: &str| {
        let host = reference.split('/').next().expect("a host");
        silo.write(".docker/config.json", &format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}"));
    };
    let install = |reference: &str| silo.run(["install", "--quiet", "mine", "--image", reference]);
    let shown = |server: &Http| server.seen().into_iter().filter_map(|seen| seen.pass).collect::<Vec<_>>();

    // The challenge of a server that it redirects to.
    let (registry, other) = (Http::start(), Http::start());
    let reference = served(&registry, &layers, &[]);
    login(&reference);
    for scheme in ["Bearer", "Basic"] {
        registry.put("/v2/x/manifests/v1", b"x", [Fault::Redirect(other.url("/x")), Fault::Redirect(other.url("/x"))]);
        other.put("/x", b"x", vec![Fault::Challenge(format!("{scheme} realm=\"{}\"", other.url("/token"))); 2]);
        let done = install(&reference);
        assert!(done.code == 1 && done.err.contains("silo sends logins to the registry only"), "{scheme}: {done:?}");
    }
    assert_eq!(shown(&other), Vec::<String>::new());
    assert!(!other.seen().iter().any(|seen| seen.target.starts_with("/token")), "its realm was asked");

    // A token service that redirects: the other server may answer, but never receives the login.
    let (registry, service, other) = (Http::start(), Http::start(), Http::start());
    let reference = guarded(&registry, format!("Bearer realm=\"{}\"", service.url("/token")));
    login(&reference);
    let asked = "/token?scope=repository:x:pull";
    service.put(asked, b"{}", [Fault::Redirect(other.url("/other"))]);
    other.put("/other", b"{\"token\":\"the-token\"}", []);
    let done = install(&reference);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!((shown(&service), shown(&other)), (vec!["Basic bWU6c2VjcmV0".to_owned()], vec![]));
    remove_recipe(&silo);

    // Parts of the image that the registry redirects to a store: the store sees neither login nor token.
    let (registry, store) = (Http::start(), Http::start());
    // Another layer than before, which is there already.
    let layers = [Layer::plain(tar(&[(Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\n# another\n")]))];
    let reference = served(&registry, &layers, &[]);
    registry.put("/v2/x/manifests/v1", &documents(&layers).manifest, [Fault::Challenge("Basic realm=\"x\"".to_owned())]);
    login(&reference);
    let blob = format!("/v2/x/blobs/sha256:{}", Digest::of(&layers[0].bytes));
    registry.put(&blob, b"x", [Fault::Redirect(store.url("/blob"))]);
    store.put("/blob", &layers[0].bytes, []);
    let done = install(&reference);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!store.seen().is_empty());
    assert_eq!(shown(&store), Vec::<String>::new());
    assert!(shown(&registry).iter().all(|pass| pass == "Basic bWU6c2VjcmV0") && !shown(&registry).is_empty());
    remove_recipe(&silo);
}

fn remove_recipe(silo: &Silo) {
    let _ = silo.ok(["uninstall", "mine"]);
    for file in ["mine.toml", "mine.lock"] {
        fs::remove_file(silo.path(&format!("recipes/{file}"))).expect("the recipe");
    }
}

#[test]
fn a_token_service_is_asked_only_where_a_login_is_safe() {
    let silo = Silo::new();
    let bait = Http::start();
    let port = bait.url("").rsplit(':').next().expect("a port").to_owned();
    for realm in [
        "http://token.example.com/token",
        "http://169.254.169.254/token",
        &format!("http://me:pw@127.0.0.1:{port}/token"),
        &format!("http://0.0.0.0:{port}/token"),
        "file:///etc/passwd",
        "",
    ] {
        let registry = Http::start();
        let reference = guarded(&registry, format!("Bearer realm=\"{realm}\""));
        let host = reference.split('/').next().expect("a host");
        silo.write(".docker/config.json", &format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}"));
        let done = silo.run(["install", "--quiet", "mine", "--image", &reference]);
        assert!(done.code == 1 && done.err.contains("the registry wants"), "{realm}: {done:?}");
    }
    assert_eq!(bait.seen(), vec![]);
    // A malformed challenge is shown shortened.
    let registry = Http::start();
    let reference = guarded(&registry, format!("Bearer {}", "a=b, ".repeat(1000)));
    let done = silo.run(["install", "--quiet", "mine", "--image", &reference]);
    assert!(done.code == 1 && done.err.contains("it cannot be read") && done.err.len() < 1000, "{done:?}");
}

/// An index may name as many images as fit into it; silo asks for the few that it can use.
#[test]
fn as_many_documents_are_asked_for_as_there_are_architectures() {
    let silo = Silo::new();
    let server = Http::start();
    let layers = [Layer::plain(tar(&[(Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\n")]))];
    let reference = served(&server, &layers, &[]);
    let manifest = documents(&layers).manifest;
    let nested = b"{\"schemaVersion\":2,\"manifests\":[]}";
    server.put(&format!("/v2/x/manifests/sha256:{}", Digest::of(nested)), nested, []);
    let entry = |bytes: &[u8]| {
        format!(
            "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:{}\",\"size\":{},\"platform\":{{\"architecture\":\"{}\",\"os\":\"linux\"}}}}",
            Digest::of(bytes),
            bytes.len(),
            silo_base::system::Arch::host()
        )
    };
    let index = |entries: Vec<String>| format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    let asked = |server: &Http| server.seen().len();
    for (entries, expect) in [(vec![entry(nested); 17_000], "17000 images"), (vec![entry(nested); 900], "of the first 32 entries")] {
        let before = asked(&server);
        server.put("/v2/x/manifests/v1", index(entries).as_bytes(), []);
        let done = silo.run(["install", "--quiet", "mine", "--image", &reference]);
        assert!(done.code == 1 && done.err.contains(expect), "{done:?}");
        assert!(asked(&server) - before <= 33, "{}", asked(&server) - before);
    }
    // The first image of an architecture is the one, however many follow.
    let before = asked(&server);
    server.put("/v2/x/manifests/v1", index([vec![entry(nested)], vec![entry(&manifest); 900]].concat()).as_bytes(), []);
    let done = silo.run(["install", "--quiet", "mine", "--image", &reference]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(asked(&server) - before < 10, "{:?}", server.seen());
}

#[test]
fn a_login_is_asked_of_the_helper_that_the_user_names() {
    let silo = Silo::new();
    let server = Http::start();
    let reference = guarded(&server, "Basic realm=\"x\"".to_owned());
    let host = reference.split('/').next().expect("a host");
    silo.write(".docker/config.json", &format!("{{\"credHelpers\":{{\"{host}\":\"of-the-test\"}}}}"));
    // The helper receives the registry and prints it as the user name.
    silo.write(
        "bin/docker-credential-of-the-test",
        "#!/bin/sh\n[ \"$1\" = get ] && printf '{\"Username\":\"%s\",\"Secret\":\"s\"}' \"$(cat)\"\n",
    );
    let helper = silo.home().join("bin/docker-credential-of-the-test");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("our own file");
    let mut install = silo.command(["install", "--quiet", "mine", "--image", &reference]);
    let path = format!("{}:{}", silo.home().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let done = crate::support::done(install.env("PATH", path));
    assert_eq!(done.code, 0, "{done:?}");
    let seen = server.seen();
    let pass = seen.iter().rev().find(|seen| seen.target.contains("/blobs/")).and_then(|seen| seen.pass.clone());
    let login = pass.as_deref().and_then(|pass| pass.strip_prefix("Basic ")).unwrap_or_default();
    let mut plain = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("base64 starts");
    plain.stdin.take().expect("it is piped").write_all(login.as_bytes()).expect("it reads");
    let plain = plain.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&plain.stdout), format!("{host}:s"));
}

/// umoci leaves out the zeros at the end of a layer's archive.
#[test]
fn an_image_that_umoci_makes_is_taken() {
    if !has("umoci") {
        return skip("there is no umoci");
    }
    let silo = Silo::new();
    silo.write("place/x-tool", "#!/bin/sh\n");
    let place = silo.home().join("place");
    let script = "umoci init --layout made && umoci new --image made:v1 && chmod 755 x-tool && umoci insert --rootless --image made:v1 x-tool /usr/bin/x-tool";
    let made = done(Command::new("sh").args(["-c", script]).current_dir(&place));
    assert_eq!(made.code, 0, "{made:?}");
    let said = silo.ok(["install", "--quiet", "mine", "--image", &format!("oci:{}:v1", place.join("made").display())]);
    assert!(said.contains("commands: x-tool"), "{said}");
}

#[test]
fn an_image_of_a_real_registry_is_pulled_locked_and_kept() {
    if !has("docker-registry") || !has("skopeo") {
        return skip("there is no docker-registry or no skopeo");
    }
    let silo = Silo::new();
    let registry = Registry::start();
    let push = |layers: &[Layer], form: &str| {
        let place: PathBuf = silo.project().join("layout");
        layout(&place, layers);
        let (from, to) = (format!("oci:{}:v1", place.display()), format!("docker://{}/team/greeter:v1", registry.host));
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--format", form, &from, &to]);
        // The account's own logins must not matter here.
        let copied = done(copy.env("REGISTRY_AUTH_FILE", silo.home().join("logins.json")));
        assert_eq!(copied.code, 0, "{copied:?}");
        silo_store::removal::remove_tree(&place).expect("our own");
    };
    // As Docker writes images, compressed by skopeo.
    push(&[Layer::plain(base()), Layer::plain(upper())], "v2s2");
    let reference = format!("{}/team/greeter:v1", registry.host);
    let _ = silo.ok(["install", "--quiet", "greeter", "--image", &reference]);
    assert_eq!(silo.ok(["greet"]), "hello from an image\n");
    let image = silo.ok(["list"]);
    // The tag moves, and the locked image stays the same.
    push(&[Layer::plain(base()), Layer::plain(tar(&[(Regular, "opt/greet2", 0o755, "#!/bin/sh\n")]))], "oci");
    let _ = silo.ok(["uninstall", "greeter"]);
    let _ = silo.ok(["gc", "--all"]);
    drop(fs::remove_dir_all(silo.path("downloads")));
    let _ = silo.ok(["install", "--quiet", "--frozen", "greeter"]);
    assert_eq!(silo.ok(["list"]), image);
    let _ = silo.ok(["lock", "greeter", "--update"]);
    let _ = silo.ok(["install", "--quiet", "greeter"]);
    assert_ne!(silo.ok(["list"]), image);
    let done = silo.fails(["install", "none", "--image", &format!("{}/team/none:v1", registry.host)]);
    assert!(done.err.contains("404") && done.err.contains("is the name right"), "{done:?}");
}

/// Corrupts a real registry's answers: transient errors are retried, others reported in the registry's own words.
#[test]
fn registry_failures_are_retried_or_reported() {
    if !has("docker-registry") || !has("skopeo") {
        return skip("there is no docker-registry or no skopeo");
    }
    let silo = Silo::new();
    let registry = Registry::start();
    // Incompressible data.
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        char::from(b'a' + u8::try_from(state % 26).expect("it is small"))
    };
    let noise: String = (0..40_000).map(|_| next()).collect();
    let place = silo.project().join("layout");
    layout(&place, &[Layer::plain(tar(&[(Regular, "usr/bin/x-tool", 0o755, &noise)]))]);
    let (from, to) = (format!("oci:{}:v1", place.display()), format!("docker://{}/x:v1", registry.host));
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to]);
    let copied = done(copy.env("REGISTRY_AUTH_FILE", silo.home().join("logins.json")));
    assert_eq!(copied.code, 0, "{copied:?}");
    let between = Between::start(&registry.host);
    let reference = format!("{}/x:v1", between.host);
    let install = || silo.run(["install", "--quiet", "mine", "--image", &reference]);
    let denied = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"not for you\"}]}";
    let unknown = "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}";
    let basic = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    for (spoil, expect) in [
        (Spoil::Answer(401, basic, ""), &["wants", "podman login"][..]),
        (Spoil::Answer(401, "", denied), &["401: not for you", "podman login"]),
        (Spoil::Answer(403, "", denied), &["403: not for you", "podman login"]),
        (Spoil::Answer(404, "", unknown), &["404: manifest unknown", "is the name right"]),
        (Spoil::Answer(429, "Retry-After: 0\r\n", ""), &["429", "limits how often"]),
        (Spoil::Answer(500, "", ""), &["500"]),
        (Spoil::Answer(503, "Retry-After: 0\r\n", ""), &["503"]),
        (Spoil::Refuse, &["x/manifests/v1"]),
        (Spoil::Answer(200, "", "<html>hello</html>"), &["x/manifests/v1"]),
    ] {
        between.spoil("/manifests/v1", vec![spoil.clone(); 9]);
        let done = install();
        let told = expect.iter().all(|text| done.err.contains(text));
        assert!(done.code == 1 && told && !silo.path("recipes/mine.toml").exists(), "{spoil:?}: {done:?}");
    }
    // The layer itself: a permanent cut is reported, and the partial file stays for the next run.
    between.spoil("/blobs/", vec![Spoil::Refuse; 90]);
    let lost = install();
    assert!(lost.code == 1 && lost.err.contains("/blobs/"), "{lost:?}");
    between.spoil("GET", [Spoil::Answer(503, "Retry-After: 0\r\n", ""), Spoil::Refuse]);
    let locked = install();
    assert_eq!(locked.code, 0, "{locked:?}");
    let _ = silo.ok(["uninstall", "mine"]);
    let _ = silo.ok(["gc", "--all"]);
    drop(fs::remove_dir_all(silo.path("downloads")));
    between.spoil("/blobs/", [Spoil::Cut(12_000), Spoil::Answer(429, "Retry-After: 0\r\n", "")]);
    let _ = silo.ok(["install", "--quiet", "--frozen", "mine"]);
    let resumed = between.seen().iter().any(|line| line.contains("/blobs/") && line.to_ascii_lowercase().contains("range: bytes="));
    assert!(resumed, "{:?}", between.seen());
}
