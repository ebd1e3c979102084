//! Exported images in other programs: `silo export`, read by skopeo, umoci, podman and tar.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::images::podman_words;
use crate::support::{As, Done, Silo, done, has, skip};

fn digest(silo: &Silo, args: &[&str]) -> String {
    let said: serde_json::Value = serde_json::from_str(&silo.ok(["export", "sh", "--json"].iter().chain(args))).expect("JSON");
    said["digest"].as_str().expect("a digest").to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", silo_store::digest::Digest::of(bytes))
}

fn other(program: &str, args: &[&str], dir: &Path) -> Done {
    done(Command::new(program).args(args).current_dir(dir))
}

#[test]
fn an_image_is_exported_alike_each_time_and_nothing_is_overwritten() {
    let silo = Silo::shared(As::Me);
    for form in ["--oci", "--docker", "--rootfs", "--erofs"] {
        assert_eq!(digest(&silo, &[form, "one"]), digest(&silo, &[form, "two"]), "{form}");
        let done = silo.fails(["export", "sh", form, "one"]);
        assert!(done.err.contains("one already exists"), "{done:?}");
        if form != "--oci" {
            let bytes = |name: &str| sha256(&std::fs::read(silo.project().join(name)).expect("an archive"));
            assert_eq!(bytes("one"), bytes("two"), "{form}");
        }
        for name in ["one", "two"] {
            let path = silo.project().join(name);
            match path.is_dir() {
                true => silo_store::removal::remove_tree(&path).expect("our own"),
                false => std::fs::remove_file(&path).expect("our own"),
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(silo.project()).expect("our own").collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(silo.fails(["export", "sh"]).code, 2);
    let done = silo.fails(["export", "rust", "--rootfs", "x"]);
    assert!(done.err.contains("rust is not installed"), "{done:?}");
}

#[test]
fn the_digest_of_a_root_is_that_of_its_tar() {
    let silo = Silo::shared(As::Me);
    let said = digest(&silo, &["--rootfs", "root.tar"]);
    let sum = other("sha256sum", &["root.tar"], &silo.project());
    assert_eq!(said, format!("sha256:{}", sum.out.split(' ').next().unwrap_or_default()));
    let listed = other("tar", &["tf", "root.tar"], &silo.project());
    let names: BTreeSet<&str> = listed.out.lines().collect();
    assert!(names.contains("usr/bin/dash") && names.contains("etc/passwd"), "{}", names.len());
}

#[test]
fn a_file_system_holds_the_same_root() {
    if !has("fsck.erofs") {
        return skip("there is no fsck.erofs");
    }
    let silo = Silo::shared(As::Me);
    let said = digest(&silo, &["--erofs", "root.erofs"]);
    assert_eq!(said, sha256(&std::fs::read(silo.project().join("root.erofs")).expect("it was written")));
    let checked = other("fsck.erofs", &["--extract=root", "root.erofs"], &silo.project());
    assert_eq!(checked.code, 0, "{checked:?}");
    let root = silo.image_root("sh");
    let compared = other("diff", &["-r", "--no-dereference", "root", root.to_str().expect("a plain path")], &silo.project());
    assert_eq!((compared.code, compared.out.as_str()), (0, ""), "{compared:?}");
}

#[test]
fn skopeo_reads_exports() {
    if !has("skopeo") {
        return skip("there is no skopeo");
    }
    let silo = Silo::shared(As::Me);
    let manifest = digest(&silo, &["--oci", "layout", "--name", "latest"]);
    let config = digest(&silo, &["--docker", "image.tar", "--name", "silo/sh:test"]);
    let seen = other("skopeo", &["inspect", "oci:layout:latest"], &silo.project());
    let seen: serde_json::Value = serde_json::from_str(&seen.out).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
    assert_eq!(seen["Digest"], manifest.as_str());
    assert_eq!((&seen["Os"], seen["Layers"].as_array().map(Vec::len)), (&"linux".into(), Some(1)));
    let raw = other("skopeo", &["inspect", "--config", "--raw", "docker-archive:image.tar"], &silo.project());
    assert_eq!(sha256(raw.out.as_bytes()), config, "{raw:?}");
    // Both formats verify every digest.
    for source in ["oci:layout:latest", "docker-archive:image.tar"] {
        let copied = other("skopeo", &["copy", "--insecure-policy", source, &format!("dir:copy-{}", &source[..3])], &silo.project());
        assert_eq!(copied.code, 0, "{copied:?}");
    }
}

#[test]
fn umoci_unpacks_exports_to_the_same_root() {
    if !has("umoci") {
        return skip("there is no umoci");
    }
    let silo = Silo::shared(As::Me);
    let _ = digest(&silo, &["--oci", "layout", "--name", "latest"]);
    let unpacked = other("umoci", &["unpack", "--rootless", "--image", "layout:latest", "bundle"], &silo.project());
    assert_eq!(unpacked.code, 0, "{unpacked:?}");
    let root = silo.image_root("sh");
    let compared = other("diff", &["-r", "--no-dereference", "bundle/rootfs", root.to_str().expect("a plain path")], &silo.project());
    assert_eq!((compared.code, compared.out.as_str()), (0, ""), "{compared:?}");
    let config = std::fs::read_to_string(silo.project().join("bundle/config.json")).expect("a runtime configuration");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["process"]["args"], serde_json::json!(["sh"]));
}

#[test]
fn podman_loads_and_runs_exports() {
    if !has("podman") {
        return skip("there is no podman");
    }
    let silo = Silo::shared(As::Me);
    let _ = digest(&silo, &["--docker", "image.tar", "--name", "silo/sh:test"]);
    let podman = |args: &[&str]| other("podman", &podman_words(args), &silo.project());
    let loaded = podman(&["load", "--quiet", "--input", "image.tar"]);
    assert!(loaded.code == 0 && loaded.out.contains("silo/sh:test"), "{loaded:?}");
    let run = podman(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--cgroups",
        "disabled",
        "silo/sh:test",
        "sh",
        "-c",
        "echo in $(cat /etc/debian_version)",
    ]);
    if run.code == 0 {
        assert!(run.out.starts_with("in 13"), "{run:?}");
    } else {
        skip(&format!("podman loads the image, and cannot run any here: {}", run.err.lines().last().unwrap_or_default()));
    }
    let _ = podman(&["rmi", "--all", "--force"]);
}
