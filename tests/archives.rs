//! Tools from image archives: the tar of an OCI layout, and the output of `docker save`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use silo_store::digest::Digest;
use tar::EntryType::{Block, Link, Regular, Symlink};

use crate::support::images::{Layer, base, documents, layout, podman_words, tar, upper};
use crate::support::{As, Done, Silo, done, has, skip};

/// A layer with one program.
fn small() -> Vec<u8> {
    tar(&[(Regular, "usr/bin/x-tool", 0o755, "#!/bin/sh\necho x\n")])
}

/// Packs a directory as tar does.
fn pack(dir: &Path, file: &Path) {
    let packed = done(Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(file).arg("."));
    assert_eq!(packed.code, 0, "{packed:?}");
}

/// Writes an archive of files by their names, past the library's own checks.
fn archive(path: &Path, files: &[(&str, &[u8])]) {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).expect("memory");
    }
    fs::write(path, builder.into_inner().expect("memory")).expect("our own");
}

fn compressed(bytes: &[u8], form: &str) -> Vec<u8> {
    match form {
        "gz" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).expect("memory");
            gzip.finish().expect("memory")
        }
        "zst" => zstd::encode_all(bytes, 1).expect("memory"),
        _ => bytes.to_vec(),
    }
}

/// Installs an image as the tool `xt` and takes it away again; returns its id.
fn image_of(silo: &Silo, reference: &str) -> String {
    let said = silo.ok(["install", "--quiet", "--json", "xt", "--image", reference]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    forget(silo);
    said[0]["image"].as_str().expect("an image").to_owned()
}

fn forget(silo: &Silo) {
    let _ = silo.ok(["uninstall", "xt"]);
    for file in ["xt.toml", "xt.lock"] {
        fs::remove_file(silo.path(&format!("recipes/{file}"))).expect("the recipe");
    }
}

fn other(program: &str, args: &[&str], dir: &Path) -> Done {
    done(Command::new(program).args(args).current_dir(dir).env("REGISTRY_AUTH_FILE", dir.join("logins.json")))
}

fn docker(bytes: &[(&str, &[u8])], path: &Path) -> String {
    archive(path, bytes);
    format!("docker-archive:{}", path.display())
}

#[test]
fn an_image_in_one_file_becomes_a_tool_and_stays_locked() {
    let silo = Silo::new();
    let (place, file) = (silo.project().join("layout"), silo.project().join("image.tar"));
    layout(&place, &[Layer::gzip(&base()), Layer::zstd(&upper())]);
    pack(&place, &file);
    let reference = format!("oci-archive:{}:v1", file.display());
    // A typed path is relative to the current directory.
    let said = silo.ok(["install", "--quiet", "greeter", "--image", "oci-archive:image.tar:v1"]);
    assert!(said.contains("greeter v1 installed") && said.contains("commands: greet hail salute x-tool\n"), "{said}");
    assert_eq!(silo.ok(["greet"]), "hello from an image\n");
    let lock = fs::read_to_string(silo.path("recipes/greeter.lock")).expect("a lock");
    assert!(lock.contains(&format!("image = \"{reference}\"")), "{lock}");
    // The locked image is built, as long as the archive has it.
    let image = silo.ok(["list"]);
    let again = |silo: &Silo| {
        let _ = silo.ok(["uninstall", "greeter"]);
        let _ = silo.ok(["gc", "--all"]);
        drop(fs::remove_dir_all(silo.path("downloads")));
    };
    again(&silo);
    let _ = silo.ok(["install", "--quiet", "--frozen", "greeter"]);
    assert_eq!(silo.ok(["list"]), image);
    again(&silo);
    silo_store::removal::remove_tree(&place).expect("our own");
    layout(&place, &[Layer::plain(small())]);
    pack(&place, &file);
    let done = silo.fails(["install", "--quiet", "--frozen", "greeter"]);
    assert!(done.err.contains("it does not have layer 1 any more, as it was locked"), "{done:?}");
    fs::remove_file(&file).expect("our own");
    let done = silo.fails(["install", "--quiet", "--frozen", "greeter"]);
    assert!(done.err.contains("image.tar") && done.err.contains("is the path right?"), "{done:?}");
    let left = |dir: &str| fs::read_dir(silo.path(dir)).map_or(0, |all| all.flatten().filter(|entry| entry.path().is_file()).count());
    assert_eq!((left("downloads"), left("downloads/partial")), (0, 0));
}

#[test]
fn plain_or_compressed_a_layout_gives_the_same_image() {
    let silo = Silo::new();
    let (place, file) = (silo.project().join("layout"), silo.project().join("image.tar"));
    layout(&place, &[Layer::gzip(&small()), Layer::plain(upper())]);
    pack(&place, &file);
    let image = image_of(&silo, &format!("oci:{}:v1", place.display()));
    let plain = fs::read(&file).expect("our own");
    for form in ["", "gz", "zst"] {
        fs::write(&file, compressed(&plain, form)).expect("our own");
        // One image needs no name.
        for name in ["", ":v1"] {
            assert_eq!(image_of(&silo, &format!("oci-archive:{}{name}", file.display())), image, "{form} {name}");
        }
    }
    let done = silo.fails(["install", "xt", "--image", &format!("oci-archive:{}:v2", file.display())]);
    assert!(done.err.contains("it has no \"v2\"; there are: v1"), "{done:?}");
    let digest = Digest::of(&documents(&[Layer::gzip(&small()), Layer::plain(upper())]).manifest);
    assert_eq!(image_of(&silo, &format!("oci-archive:{}@sha256:{digest}", file.display())), image);
    let wrong = Digest::of(b"another");
    let done = silo.fails(["install", "xt", "--image", &format!("oci-archive:{}@sha256:{wrong}", file.display())]);
    assert!(done.err.contains(&wrong.to_string()), "{done:?}");
}

#[test]
fn archives_of_skopeo_and_podman_are_taken() {
    if !has("skopeo") {
        return skip("there is no skopeo");
    }
    let silo = Silo::new();
    let dir = silo.project();
    layout(&dir.join("layout"), &[Layer::gzip(&small()), Layer::gzip(&upper())]);
    let image = image_of(&silo, &format!("oci:{}:v1", dir.join("layout").display()));
    for (to, reference) in [
        ("oci-archive:oci.tar:v1", "oci-archive:{}/oci.tar:v1"),
        ("docker-archive:docker.tar:localhost/team/greeter:v1", "docker-archive:{}/docker.tar:localhost/team/greeter:v1"),
        ("docker-archive:nameless.tar", "docker-archive:{}/nameless.tar"),
    ] {
        let copied = other("skopeo", &["copy", "--quiet", "--insecure-policy", "oci:layout:v1", to], &dir);
        assert_eq!(copied.code, 0, "{copied:?}");
        // Docker's format has other documents; the layers are the same.
        let made = image_of(&silo, &reference.replace("{}", dir.to_str().expect("plain")));
        assert_eq!(made, image, "{to}");
    }
    let done = silo.fails(["install", "xt", "--image", &format!("docker-archive:{}/docker.tar:other", dir.display())]);
    assert!(done.err.contains("it has no \"other:latest\"; there are: localhost/team/greeter:v1"), "{done:?}");
    if !has("podman") {
        return skip("there is no podman");
    }
    let podman = |args: &[&str]| other("podman", &podman_words(args), &dir);
    let loaded = podman(&["load", "--quiet", "--input", "docker.tar"]);
    assert_eq!(loaded.code, 0, "{loaded:?}");
    for form in ["oci-archive", "docker-archive"] {
        let file = format!("podman-{form}.tar");
        let saved = podman(&["save", "--quiet", "--format", form, "--output", &file, "localhost/team/greeter:v1"]);
        assert_eq!(saved.code, 0, "{saved:?}");
        assert_eq!(image_of(&silo, &format!("{form}:{}:localhost/team/greeter:v1", dir.join(&file).display())), image, "{form}");
        assert_eq!(image_of(&silo, &format!("{form}:{}", dir.join(&file).display())), image, "{form}");
    }
    let _ = podman(&["rmi", "--all", "--force"]);
}

#[test]
fn archives_of_umoci_and_tar_are_taken() {
    if !has("umoci") {
        return skip("there is no umoci");
    }
    let silo = Silo::new();
    silo.write("place/x-tool", "#!/bin/sh\n");
    let place = silo.home().join("place");
    let script = "umoci init --layout made && umoci new --image made:v1 && chmod 755 x-tool && umoci insert --rootless --image made:v1 x-tool /usr/bin/x-tool && tar -C made -czf made.tar.gz oci-layout index.json blobs";
    let made = done(Command::new("sh").args(["-c", script]).current_dir(&place));
    assert_eq!(made.code, 0, "{made:?}");
    let said = silo.ok(["install", "--quiet", "xt", "--image", &format!("oci-archive:{}:v1", place.join("made.tar.gz").display())]);
    assert!(said.contains("commands: x-tool"), "{said}");
}

#[test]
fn exported_images_can_be_imported() {
    let shared = Silo::shared(As::Me);
    let _ = shared.ok(["export", "sh", "--docker", "image.tar", "--name", "silo/sh:test"]);
    let _ = shared.ok(["export", "sh", "--oci", "layout", "--name", "test"]);
    let dir = shared.project();
    pack(&dir.join("layout"), &dir.join("layout.tar"));
    let silo = Silo::new();
    let docker = image_of(&silo, &format!("docker-archive:{}:silo/sh:test", dir.join("image.tar").display()));
    assert_eq!(image_of(&silo, &format!("oci-archive:{}:test", dir.join("layout.tar").display())), docker);
    let reference = format!("docker-archive:{}", dir.join("image.tar").display());
    let said = silo.ok(["install", "--quiet", "again", "--image", &reference, "--shim", "greet:echo hello,sh"]);
    assert!(said.contains("again latest installed"), "{said}");
    assert_eq!(silo.ok(["run", "--shim", "sh", "again", "-c", "echo $(cut -c 1-2 /etc/debian_version)"]), "13\n");
    assert_eq!((silo.ok(["greet"]), silo.ok(["run", "again"])), ("hello\n".to_owned(), "hello\n".to_owned()));
}

/// Older docker writes a layer that an image has twice as a link to the first.
#[test]
fn a_layer_that_is_a_link_is_found_in_the_archive() {
    let silo = Silo::new();
    let file = silo.project().join("old.tar");
    let layer = small();
    let made = documents(&[Layer::plain(layer.clone())]);
    let config = format!("{}.json", Digest::of(&made.config));
    let list = serde_json::json!([{ "Config": config, "RepoTags": ["x:1"], "Layers": ["b/layer.tar"] }]).to_string();
    let mut tar_bytes = {
        archive(&file, &[("a/layer.tar", &layer), (&config, &made.config), ("manifest.json", list.as_bytes())]);
        fs::read(&file).expect("our own")
    };
    tar_bytes.truncate(tar_bytes.len() - 1024);
    tar_bytes.extend(tar(&[(Symlink, "b/layer.tar", 0o777, "../a/layer.tar")]));
    fs::write(&file, tar_bytes).expect("our own");
    let said = silo.ok(["install", "--quiet", "xt", "--image", &format!("docker-archive:{}:x:1", file.display())]);
    assert!(said.contains("xt 1 installed") && said.contains("commands: x-tool"), "{said}");
}

#[test]
fn hostile_archives_are_refused_and_nothing_is_left() {
    let silo = Silo::new();
    let dir = silo.project();
    let outside = dir.join("outside");
    fs::create_dir(&outside).expect("our own");
    let layers = [Layer::plain(small())];
    let made = documents(&layers);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes));
    let (layer, config, manifest) = (blob(&layers[0].bytes), blob(&made.config), blob(&made.manifest));
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{}", Digest::of(&made.manifest)), "size": made.manifest.len(),
    }] });
    let index = index.to_string();
    let whole: Vec<(&str, &[u8])> =
        vec![("index.json", index.as_bytes()), (&layer, &layers[0].bytes), (&config, &made.config), (&manifest, &made.manifest)];
    let but = |name: &str| whole.iter().copied().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    let with = |more: (&'static str, &'static [u8])| whole.iter().copied().chain([more]).collect::<Vec<_>>();
    let changed =
        |name: &str| whole.iter().map(|(other, bytes)| (*other, if *other == name { &b"{}"[..] } else { bytes })).collect::<Vec<_>>();
    let deep: &'static str = "../../../../../../../../tmp/silo-was-here";
    let file = dir.join("image.tar");
    let reference = format!("oci-archive:{}", file.display());
    let refused = |expect: &str| {
        let done = silo.run(["install", "--quiet", "xt", "--image", &reference]);
        assert!(done.code == 1 && done.err.contains(expect) && done.err.contains("image.tar"), "{expect}: {done:?}");
        assert!(!silo.path("recipes/xt.toml").exists() && !silo.path("recipes/xt.lock").exists(), "{expect}");
    };
    for (files, expect) in [
        (but("index.json"), "it has no index.json"),
        (but(&layer), "it has no blobs/sha256/"),
        (but(&config), "it has no blobs/sha256/"),
        (but(&manifest), "it has no blobs/sha256/"),
        (changed(&config), "its sha-256 is"),
        (changed(&layer), "its sha-256 is"),
        (changed("index.json"), "index.json"),
        (with(("index.json", b"{}")), "index.json is there twice"),
        (with((deep, b"x")), ".."),
        (with(("/tmp/silo-was-here", b"x")), "/tmp/silo-was-here"),
        (with(("blobs/sha256/x", b"x")), "is named by no digest"),
    ] {
        archive(&file, &files);
        refused(expect);
    }
    for (kind, target, expect) in
        [(Symlink, "../../x", "outside the archive"), (Link, "/etc/passwd", "outside the archive"), (Block, "", "which no image needs")]
    {
        archive(&file, &whole);
        let mut bytes = fs::read(&file).expect("our own");
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(tar(&[(kind, "odd", 0o644, target)]));
        fs::write(&file, bytes).expect("our own");
        refused(expect);
    }
    // Bombs: of bytes, of entries, and of documents.
    archive(&file, &[("zeros", &vec![0; 300 << 20])]);
    fs::write(&file, compressed(&fs::read(&file).expect("our own"), "zst")).expect("our own");
    refused("out of proportion");
    let many: Vec<String> = (0..50_001).map(|at| at.to_string()).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    archive(&file, &many);
    refused("more than 50000 entries");
    let text = vec![b'['; 4 << 20];
    let names: Vec<String> = (0..17).map(|at| at.to_string()).collect();
    archive(&file, &names.iter().map(|name| (name.as_str(), text.as_slice())).collect::<Vec<_>>());
    refused("its documents have more than");
    fs::write(&file, b"no tar at all, and longer than one block".repeat(64)).expect("our own");
    refused("cannot read");
    // It is whole again, and it was the archive each time.
    archive(&file, &whole);
    let _ = silo.ok(["install", "--quiet", "xt", "--image", &reference]);
    assert_eq!(fs::read_dir(&outside).expect("our own").count(), 0);
    assert!(!PathBuf::from("/tmp/silo-was-here").exists());
}

#[test]
fn docker_archives_are_verified_too() {
    let silo = Silo::new();
    let file = silo.project().join("image.tar");
    let layer = small();
    let made = documents(&[Layer::plain(layer.clone())]);
    let config = format!("{}.json", Digest::of(&made.config));
    let list = |config: &str, layers: &[&str]| serde_json::json!([{ "Config": config, "RepoTags": ["x:1"], "Layers": layers }]).to_string();
    let other_layer = tar(&[(Regular, "usr/bin/y-tool", 0o755, "#!/bin/sh\n")]);
    let right = list(&config, &["l.tar"]);
    let cases: Vec<(String, Vec<u8>, Vec<u8>, &str)> = vec![
        ("[]".to_owned(), made.config.clone(), layer.clone(), "it lists 0 images"),
        (list("../x", &["l.tar"]), made.config.clone(), layer.clone(), "it has no ../x"),
        (list(&config, &["m.tar"]), made.config.clone(), layer.clone(), "it has no m.tar"),
        (list(&config, &["l.tar", "l.tar"]), made.config.clone(), layer.clone(), "it names 1 layers, and manifest.json 2"),
        (right.clone(), b"{}".to_vec(), layer.clone(), "its sha-256 is"),
        (right.clone(), made.config.clone(), other_layer, "but the image has"),
    ];
    for (list, config_bytes, layer, expect) in cases {
        let reference = docker(&[("l.tar", &layer), (&config, &config_bytes), ("manifest.json", list.as_bytes())], &file);
        let done = silo.run(["install", "--quiet", "xt", "--image", &reference]);
        assert!(done.code == 1 && done.err.contains(expect), "{expect}: {done:?}");
        assert!(!silo.path("recipes/xt.toml").exists(), "{expect}");
    }
    let reference = docker(&[("l.tar", &layer), (&config, &made.config), ("manifest.json", right.as_bytes())], &file);
    let _ = silo.ok(["install", "--quiet", "xt", "--image", &reference]);
}
