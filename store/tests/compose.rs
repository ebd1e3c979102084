//! Composes trees and verifies them.

use crate::support::{Home, file, meta, names, path};
use silo_store::compose::{Base, Wanted, compose, recompose};
use silo_store::verify::{FaultKind, verify_root};
use silo_store::{LayerId, Meta};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn a_composed_tree_shares_its_layers_files() {
    let home = Home::new();
    let one = home.commit(|stage| {
        file(stage, "usr/bin/a", "a");
        file(stage, "usr/bin/b", "b");
        stage.add_hardlink(&path("usr/bin/a2"), &path("usr/bin/a")).unwrap();
        stage.add_hardlink(&path("usr/bin/a3"), &path("usr/bin/a")).unwrap();
        file(stage, "var/lib/x", "x");
        stage.add_symlink(&path("bin"), &meta(0), b"usr/bin").unwrap();
    });
    let two = home.commit(|stage| {
        file(stage, "usr/bin/a", "other");
        stage.add_whiteout(&path("var/lib")).unwrap();
        stage.add_dir(&path("usr/bin"), &Meta { uid: 5, gid: 6, ..meta(0o111) }).unwrap();
    });
    let layers: Vec<LayerId> = vec![one.id, two.id];
    let into = home.store.image(&one.id.digest()).join("root");
    let last = AtomicU64::new(0);
    let progress = |done| {
        last.fetch_max(done, Ordering::Relaxed);
    };
    let made = compose(&home.store, &home.shared(), &layers, &into, &progress).unwrap();
    assert!(made.fresh);
    assert_eq!(last.into_inner(), made.merged.index.entries().len() as u64);
    assert_eq!(names(&into), ["bin", "usr", "var"]);
    assert_eq!(names(&into.join("usr/bin")), ["a", "a2", "a3", "b"]);
    assert!(names(&into.join("var")).is_empty());
    assert_eq!(made.merged.conflicts.len(), 1);
    assert_eq!(made.merged.conflicts[0].path, path("usr/bin/a"));

    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(into.join("usr/bin/b")), inode(home.store.tree(&one.id).join("usr/bin/b")));
    assert_eq!(inode(into.join("usr/bin/a2")), inode(into.join("usr/bin/a3")));
    assert_eq!(fs::read_to_string(into.join("usr/bin/a")).unwrap(), "other");
    assert_eq!(fs::metadata(into.join("usr/bin")).unwrap().mode() & 0o777, 0o711);
    let mut owner = [0; 16];
    match rustix::fs::getxattr(into.join("usr/bin"), "user.silo.owner", &mut owner[..]) {
        Ok(length) => assert_eq!(&owner[..length], b"5:6"),
        Err(rustix::io::Errno::NOTSUP) => {
            eprintln!("skipped: no user attributes on this file system")
        }
        Err(error) => panic!("{error}"),
    }
    assert!(verify_root(&made.merged.index, &into).unwrap().is_empty());
    assert!(names(&home.store.stages()).is_empty());

    let again = compose(&home.store, &home.shared(), &layers, &into, &|_| {}).unwrap();
    assert!(!again.fresh);
    assert_eq!(again.merged.index, made.merged.index);
}

#[test]
fn every_change_to_a_tree_is_reported() {
    let home = Home::new();
    let made = home.commit(|stage| {
        for name in ["d/bytes", "d/gone", "d/mode", "d/size", "d/one", "kind"] {
            file(stage, name, "same");
        }
        stage.add_hardlink(&path("d/two"), &path("d/one")).unwrap();
        stage.add_symlink(&path("d/target"), &meta(0), b"here").unwrap();
    });
    let into = home.beside("root");
    let made = compose(&home.store, &home.shared(), &[made.id], &into, &|_| {}).unwrap();
    let replace = |name: &str, bytes: &str| {
        let mode = fs::metadata(into.join(name)).unwrap().permissions();
        fs::remove_file(into.join(name)).unwrap();
        fs::write(into.join(name), bytes).unwrap();
        fs::set_permissions(into.join(name), mode).unwrap();
    };
    replace("d/bytes", "SAME");
    replace("d/size", "longer");
    replace("d/two", "same");
    fs::remove_file(into.join("d/gone")).unwrap();
    fs::set_permissions(into.join("d/mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(into.join("kind")).unwrap();
    fs::create_dir(into.join("kind")).unwrap();
    fs::write(into.join("kind/below"), "").unwrap();
    fs::remove_file(into.join("d/target")).unwrap();
    std::os::unix::fs::symlink("there", into.join("d/target")).unwrap();
    fs::write(into.join("d/.wh.odd\u{1b}"), "").unwrap();
    let found = verify_root(&made.merged.index, &into).unwrap();
    let found: Vec<(String, FaultKind)> = found.iter().map(|d| (String::from_utf8(d.path.clone()).unwrap(), d.what)).collect();
    let expect = [
        ("d/.wh.odd\u{1b}", FaultKind::Extra),
        ("d/bytes", FaultKind::Bytes),
        ("d/gone", FaultKind::Missing),
        ("d/mode", FaultKind::Mode),
        ("d/size", FaultKind::Bytes),
        ("d/target", FaultKind::Target),
        ("d/two", FaultKind::Link),
        ("kind", FaultKind::Kind),
    ];
    assert_eq!(found, expect.map(|(path, what)| (path.to_string(), what)));
}

#[test]
fn a_derived_tree_equals_a_new_one() {
    let home = Home::new();
    let one = home.commit(|stage| {
        file(stage, "etc/a", "a");
        file(stage, "etc/gone/deep/b", "b");
        file(stage, "etc/same", "same");
        file(stage, "etc/twice", "twice");
        file(stage, "opt/file-then-dir", "x");
        stage.add_hardlink(&path("etc/zwice"), &path("etc/twice")).unwrap();
        stage.add_symlink(&path("bin"), &meta(0), b"usr/bin").unwrap();
        stage.add_symlink(&path("other"), &meta(0), b"usr/bin").unwrap();
        stage.add_dir(&path("var/owned"), &Meta { uid: 5, gid: 6, ..meta(0o711) }).unwrap();
    });
    let two = home.commit(|stage| {
        file(stage, "etc/a", "changed");
        file(stage, "etc/new/c", "c");
        file(stage, "opt/file-then-dir/y", "y");
        stage.add_whiteout(&path("etc/gone")).unwrap();
        stage.add_whiteout(&path("etc/twice")).unwrap();
        stage.add_symlink(&path("other"), &meta(0), b"usr/sbin").unwrap();
        stage.add_dir(&path("var/owned"), &meta(0o755)).unwrap();
    });
    let plain = home.commit(|stage| file(stage, "etc/same", "same"));
    let shared = home.shared();
    let place = |name: &str| home.store.root().join(name);
    let layers = [plain.id, one.id, two.id];
    // The base is a part of the layers, or those below the others.
    for (number, below) in [vec![one.id], vec![plain.id, one.id]].into_iter().enumerate() {
        let place = |name: &str| place(&format!("{name}-{number}"));
        let merged = Arc::new(compose(&home.store, &shared, &below, &place("base"), &|_| {}).unwrap().merged);
        let base = Base { tree: place("base"), layers: below, merged };
        let last = AtomicU64::new(0);
        let progress = |done| {
            last.fetch_max(done, Ordering::Relaxed);
        };
        let made = recompose(&home.store, &shared, &base, Wanted { layers: &layers, into: &place("again") }, &progress).unwrap();
        let anew = compose(&home.store, &shared, &layers, &place("anew"), &|_| {}).unwrap();
        assert_eq!(made.merged.index, anew.merged.index);
        assert_eq!(made.merged.sources, anew.merged.sources);
        assert_eq!(last.into_inner(), made.merged.index.entries().len() as u64);
        assert!(!base.tree.exists());
        for root in ["again", "anew"] {
            assert!(verify_root(&made.merged.index, &place(root)).unwrap().is_empty(), "{root}");
        }
        for entry in made.merged.index.entries() {
            let stat = |root: &str| fs::symlink_metadata(place(root).join(entry.path.as_path())).unwrap();
            let (again, anew) = (stat("again"), stat("anew"));
            assert_eq!((again.mode(), again.mtime()), (anew.mode(), anew.mtime()), "{}", entry.path);
            if again.is_file() {
                assert_eq!(again.ino(), anew.ino(), "{}: shares the layer's file", entry.path);
            }
            let owner = |root: &str| {
                let mut owner = [0; 16];
                rustix::fs::lgetxattr(place(root).join(entry.path.as_path()), "user.silo.owner", &mut owner[..])
                    .map(|length| owner[..length].to_vec())
            };
            assert_eq!(owner("again"), owner("anew"), "{}", entry.path);
        }
        assert_eq!(names(&place("again").join("etc")), ["a", "new", "same", "zwice"]);
    }
}
