//! EROFS images: another implementation reads back the index's entries.

use crate::support::{Home, file, meta, names, path};
use silo_store::erofs::{self, View};
use silo_store::index::Index;
use silo_store::{LayerId, Meta, compose};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree with entries of every kind, file sizes around a block, and a directory of many blocks.
fn tree(home: &Home) -> (Index, PathBuf) {
    let layer = home.commit(|stage| {
        for size in [0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 100_000] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            stage.add_file(&path(&format!("sizes/{size}")), &meta(0o644), &mut bytes.as_slice(), u64::MAX).unwrap();
        }
        for number in 0..1500 {
            file(stage, &format!("many/a-file-with-a-name-that-is-not-short-{number}"), "x");
        }
        for name in ["!", "-", ".hidden", "..two", "name", "\u{e4}"] {
            file(stage, &format!("names/{name}"), name);
        }
        stage.add_hardlink(&path("names/other"), &path("names/name")).unwrap();
        stage.add_hardlink(&path("z/third"), &path("names/name")).unwrap();
        stage.add_symlink(&path("link"), &meta(0), b"sizes/1").unwrap();
        stage.add_symlink(&path("long"), &meta(0), &[b'l'; 4000]).unwrap();
        stage.add_dir(&path("owned"), &Meta { uid: 5, gid: 6, ..meta(0o2755) }).unwrap();
        let mut attributes = Meta { uid: 70_000, ..meta(0o4711) };
        attributes.xattrs.insert(b"user.one".to_vec(), b"1".to_vec());
        attributes.xattrs.insert(b"user.empty".to_vec(), Vec::new());
        attributes.xattrs.insert(b"user.large".to_vec(), vec![7; 3900]);
        stage.add_file(&path("owned/file"), &attributes, &mut &b"bytes"[..], u64::MAX).unwrap();
        stage.add_dir(&path("empty/deep/deeper"), &meta(0o700)).unwrap();
    });
    let into = home.store.image(&layer.id.digest()).join("root");
    let layers: Vec<LayerId> = vec![layer.id];
    let composed = compose::compose(&home.store, &home.shared(), &layers, &into, &|_| {}).unwrap();
    (composed.merged.index, into)
}

fn image(home: &Home, index: &Index, tree: &Path) -> PathBuf {
    let mut bytes = Vec::new();
    let written = erofs::write(index, tree, View::Tree, &mut bytes).unwrap();
    assert_eq!(written, bytes.len() as u64);
    assert_eq!(bytes.len() % 4096, 0);
    let mut again = Vec::new();
    erofs::write(index, tree, View::Tree, &mut again).unwrap();
    assert!(bytes == again, "the same entries give the same bytes");
    let path = home.beside("image.erofs");
    fs::write(&path, bytes).unwrap();
    path
}

/// Compares two trees, entry by entry.
fn compare(wanted: &Path, found: &Path, attributes: bool) {
    assert_eq!(names(wanted), names(found), "{}", wanted.display());
    for name in names(wanted) {
        let (wanted, found) = (wanted.join(&name), found.join(&name));
        let (one, other) = (fs::symlink_metadata(&wanted).unwrap(), fs::symlink_metadata(&found).unwrap());
        assert_eq!(one.file_type(), other.file_type(), "{name}");
        assert!(!other.file_type().is_char_device());
        // Extracting drops the set-id bits; a mount shows everything.
        let bits = if attributes { 0o177_777 } else { 0o171_777 };
        assert_eq!(one.mode() & bits, other.mode() & bits, "{name}");
        assert_eq!(one.mtime(), other.mtime(), "{name}");
        if one.is_symlink() {
            assert_eq!(fs::read_link(&wanted).unwrap(), fs::read_link(&found).unwrap());
            continue;
        }
        if attributes {
            for attribute in ["user.one", "user.empty", "user.large", "user.silo.owner"] {
                let value = |path: &Path| {
                    let mut bytes = vec![0; 8192];
                    rustix::fs::getxattr(path, attribute, bytes.as_mut_slice()).ok().map(|length| bytes[..length].to_vec())
                };
                assert_eq!(value(&wanted), value(&found), "{attribute} of {name}");
            }
        }
        if one.is_dir() {
            compare(&wanted, &found, attributes);
        } else {
            assert!(fs::read(&wanted).unwrap() == fs::read(&found).unwrap(), "{name}");
        }
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

#[test]
fn fsck_finds_nothing_and_extracts_the_tree() {
    let home = Home::new();
    let (index, tree) = tree(&home);
    let image = image(&home, &index, &tree);
    if !has("fsck.erofs") {
        eprintln!("SKIPPED: no fsck.erofs (Debian: erofs-utils)");
        return;
    }
    let into = home.beside("extracted");
    let done =
        Command::new("fsck.erofs").arg("--preserve-perms").arg(format!("--extract={}", into.display())).arg(&image).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
    compare(&tree, &into, false);
}

#[test]
fn the_kernel_mounts_it_and_shows_the_tree() {
    let home = Home::new();
    let (index, tree) = tree(&home);
    let image = image(&home, &index, &tree);
    let at = home.beside("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(&image).arg(&at).output();
    if !mounted.as_ref().is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED: cannot mount EROFS here; tests/vm.rs mounts it in VMs");
        return;
    }
    let compared = std::panic::catch_unwind(|| {
        compare(&tree, &at, true);
        let (one, other) = (fs::metadata(at.join("names/name")).unwrap(), fs::metadata(at.join("z/third")).unwrap());
        assert_eq!((one.ino(), one.nlink()), (other.ino(), 3));
        assert_eq!(fs::metadata(at.join("empty")).unwrap().nlink(), 3);
        assert_eq!(fs::metadata(at.join("owned")).unwrap().permissions().mode() & 0o7777, 0o2755);
    });
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    if let Err(panic) = compared {
        std::panic::resume_unwind(panic);
    }
}

/// An image for other programs has the index's owners, modes and capabilities, as another program reads them.
#[test]
fn an_image_for_others_has_the_true_owners_modes_and_capabilities() {
    let home = Home::new();
    let capability: Vec<u8> = [&[1, 0, 0, 2][..], &[0, 4, 0, 0], &[0; 12]].concat();
    let layer = home.commit(|stage| {
        let mut can = meta(0o755);
        can.xattrs.insert(b"security.capability".to_vec(), capability.clone());
        stage.add_file(&path("can"), &can, &mut &b"x"[..], u64::MAX).unwrap();
        stage.add_file(&path("secret"), &Meta { uid: 33, gid: 70_000, ..meta(0o040) }, &mut &b"x"[..], u64::MAX).unwrap();
        stage.add_dir(&path("dir"), &Meta { uid: 5, gid: 6, ..meta(0o2050) }).unwrap();
        stage.add_symlink(&path("link"), &Meta { uid: 7, gid: 8, ..meta(0) }, b"can").unwrap();
    });
    let into = home.store.image(&layer.id.digest()).join("root");
    let composed = compose::compose(&home.store, &home.shared(), &[layer.id], &into, &|_| {}).unwrap();
    let mut bytes = Vec::new();
    erofs::write(&composed.merged.index, &into, View::True, &mut bytes).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(!holds(b"silo.owner"), "nothing of Silo's own is in it");
    let image = home.beside("true.erofs");
    fs::write(&image, &bytes).unwrap();
    if !has("dump.erofs") {
        eprintln!("SKIPPED: no dump.erofs (Debian: erofs-utils)");
        return;
    }
    for (name, owner, mode) in
        [("/can", (0, 0), "0755"), ("/secret", (33, 70_000), "0040"), ("/dir", (5, 6), "0050"), ("/link", (7, 8), "0777")]
    {
        let done = Command::new("dump.erofs").arg(format!("--path={name}")).arg(&image).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        let facts = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let expect = format!("Uid: {} Gid: {} Access: {mode}/", owner.0, owner.1);
        assert!(done.status.success() && facts.contains(&expect), "{name}: {said}");
    }
    assert!(Command::new("fsck.erofs").arg(&image).output().unwrap().status.success());
    let at = home.beside("mounted");
    fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(&image).arg(&at).output();
    if !mounted.as_ref().is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED: cannot mount EROFS here; dump.erofs checked the rest");
        return;
    }
    let mut value = vec![0; 100];
    let found = rustix::fs::getxattr(at.join("can"), "security.capability", value.as_mut_slice()).map(|length| value[..length].to_vec());
    let dir = fs::metadata(at.join("dir")).map(|found| found.mode() & 0o7777);
    let secret = fs::metadata(at.join("secret")).map(|found| (found.uid(), found.gid(), found.mode() & 0o7777));
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    assert_eq!(found, Ok(capability));
    assert_eq!((secret.unwrap(), dir.unwrap()), ((33, 70_000, 0o040), 0o2050));
}

#[test]
fn a_tree_that_is_not_as_indexed_is_refused() {
    let home = Home::new();
    let (index, tree) = tree(&home);
    let file = tree.join("sizes/4097");
    fs::remove_file(&file).unwrap();
    assert!(erofs::write(&index, &tree, View::Tree, &mut Vec::new()).unwrap_err().to_string().contains("sizes/4097"));
    fs::write(&file, "short").unwrap();
    assert!(erofs::write(&index, &tree, View::Tree, &mut Vec::new()).unwrap_err().to_string().contains("not as long"));
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("100000", &file).unwrap();
    assert!(erofs::write(&index, &tree, View::Tree, &mut Vec::new()).is_err(), "a link is not followed");
}
