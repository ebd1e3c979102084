//! Changed files in the home: `silo verify` names them, and silo runs no wrong file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{assert_whole, image, mirror::mirror, names, paths, silo_with_sh, use_mirror};
use crate::support::Silo;

/// The layer that holds `path`, and the path in it.
fn holder(silo: &Silo, path: &str) -> (String, PathBuf) {
    let layers = paths(&silo.path("baked"));
    let layer = layers.iter().find(|layer| layer.join("tree").join(path).is_file()).expect("a layer holds it");
    let name = layer.file_name().expect("a layer has a name").to_string_lossy().into_owned();
    (name, layer.join("tree").join(path))
}

/// Asserts that verifying fails and says each of `expect` on some line.
fn check_found(silo: &Silo, expect: &[String]) {
    let done = silo.run(["verify"]);
    assert_eq!(done.code, 1, "{done:?}");
    for text in expect {
        assert!(done.out.lines().any(|line| line.starts_with(text.as_str())), "{text}: {done:?}");
    }
    assert!(done.out.ends_with(&format!(" {} faults\n", done.out.lines().count() - 1)), "{done:?}");
    assert!(done.err.contains("silo: files in the store were changed") && done.err.contains("hint: "), "{done:?}");
}

/// Replaces a file by one of other bytes, so that its other names keep theirs.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("a file of our own");
    fs::write(path, bytes).expect("a directory of our own");
}

#[test]
fn each_change_is_named_with_layer_and_path() {
    let silo = silo_with_sh();
    let id = image(&silo);
    let (layer, dash) = holder(&silo, "usr/bin/dash");
    let index = silo.path("baked").join(&layer).join("index");
    let root = silo.path("images").join(&id).join("root");
    let (image_index, config) = (silo.path("images").join(&id).join("index"), silo.path("images").join(&id).join("config.json"));
    let (in_layer, in_root) = (format!("layer {layer}: "), format!("image {id}: root: "));

    // The bytes of a file, in place: the layer's file and the root's are one.
    let honest = fs::read(&dash).expect("a file of the layer");
    let mut wrong = honest.clone();
    wrong[1000] ^= 1;
    fs::write(&dash, &wrong).expect("a file of ours");
    check_found(&silo, &[format!("{in_layer}usr/bin/dash"), format!("{in_root}usr/bin/dash")]);
    fs::write(&dash, &honest).expect("a file of ours");

    // Its mode.
    fs::set_permissions(&dash, fs::Permissions::from_mode(0o4755)).expect("a file of ours");
    check_found(&silo, &[format!("{in_layer}usr/bin/dash"), format!("{in_root}usr/bin/dash")]);
    fs::set_permissions(&dash, fs::Permissions::from_mode(0o755)).expect("a file of ours");

    // A file too many in the layer.
    let extra = dash.with_file_name("evil");
    fs::write(&extra, "x").expect("a directory of ours");
    check_found(&silo, &[format!("{in_layer}usr/bin/evil")]);
    fs::remove_file(&extra).expect("a file of ours");

    // The layer's index: a wrong mode, then no index at all.
    let text = fs::read_to_string(&index).expect("the index is text");
    fs::write(&index, text.replacen("755", "4755", 1)).expect("a file of ours");
    check_found(&silo, std::slice::from_ref(&in_layer));
    fs::write(&index, &text[..text.len() / 2]).expect("a file of ours");
    check_found(&silo, std::slice::from_ref(&in_layer));
    fs::write(&index, &text).expect("a file of ours");

    // The composed root alone: a file, a file too many, a file too few, and its index with it.
    let composed = root.join("usr/bin/dash");
    fs::rename(&composed, root.join("usr/bin/dash2")).expect("a directory of ours");
    check_found(&silo, &[format!("{in_root}usr/bin/dash:"), format!("{in_root}usr/bin/dash2")]);
    fs::rename(root.join("usr/bin/dash2"), &composed).expect("a directory of ours");
    let honest_index = fs::read(&image_index).expect("a file of ours");
    fs::write(&image_index, String::from_utf8_lossy(&honest_index).replacen("755", "4755", 1)).expect("a file of ours");
    check_found(&silo, &[format!("{in_root}{} was changed", image_index.display())]);
    fs::write(&image_index, &honest_index).expect("a file of ours");

    // The image's configuration: it is not run either, and installing puts it right.
    let text = fs::read_to_string(&config).expect("the configuration is text");
    fs::write(&config, text.replace("\"sh\"", "\"rm\"")).expect("a file of ours");
    check_found(&silo, &[format!("image {id}: {} was changed", config.display())]);
    let done = silo.fails(["run", "--no-project", "sh", "-c", "echo ran"]);
    assert!(done.code == 125 && done.out.is_empty() && done.err.contains("config.json was changed"), "{done:?}");
    assert!(done.err.contains("hint: silo install sh"), "{done:?}");
    let _ = silo.ok(["install", "sh"]);
    assert_eq!(fs::read_to_string(&config).expect("it is there again"), text);
    assert_whole(&silo);
}

#[test]
fn the_advice_of_verify_repairs_a_changed_layer() {
    let silo = silo_with_sh();
    let http = mirror();
    use_mirror(&silo, &http);
    let (layer, dash) = holder(&silo, "usr/bin/dash");
    replace(&dash, b"#!/bin/sh\necho evil\n");
    check_found(&silo, &[format!("layer {layer}: usr/bin/dash")]);
    let _ = silo.ok(["uninstall", "sh"]);
    let _ = silo.ok(["gc", "--all"]);
    assert_eq!(names(&silo.path("baked")), [""; 0]);
    let _ = silo.ok(["install", "sh"]);
    assert_whole(&silo);
}

#[test]
fn a_malformed_record_is_reported() {
    let silo = silo_with_sh();
    let record = fs::read_to_string(silo.path("tools/sh.toml")).expect("sh is installed");
    let id = image(&silo);
    for (text, expect) in [
        (record.replace(&id, &"0".repeat(64)), "it is gone"),
        (record.replace(&id, "../../etc"), "is not a digest"),
        (record.replace("format = 1", "format = 99"), "format 99 is unknown to this version of silo"),
        (record.replace("version", "versoin"), "did you mean \"version\"?"),
        (String::new(), "missing field"),
    ] {
        fs::write(silo.path("tools/sh.toml"), text).expect("a file of ours");
        let done = silo.run(["verify"]);
        assert_eq!(done.code, 1, "{expect}: {done:?}");
        assert!(done.out.contains(expect) || done.err.contains(expect), "{expect}: {done:?}");
        let done = silo.fails(["run", "--no-project", "sh", "-c", "echo ran"]);
        assert!(done.code == 125 && done.out.is_empty(), "{expect}: {done:?}");
    }
}

#[test]
fn uninstalling_and_collecting_leave_nothing() {
    let silo = silo_with_sh();
    let _ = silo.ok(["uninstall", "sh"]);
    let _ = silo.ok(["gc", "--all"]);
    let mut left = Vec::new();
    let mut dirs = vec![silo.path("")];
    while let Some(dir) = dirs.pop() {
        for path in paths(&dir) {
            if path.is_dir() { dirs.push(path) } else { left.push(path) }
        }
    }
    assert_eq!(left, [silo.path("locks/store")]);
}
