//! Faulty disks, broken files, full disks, dead processes: a clear error, and never half a layer.

use crate::support::{Home, file, names, path};
use silo_store::compose::compose;
use silo_store::verify::{FaultKind, verify_layer};
use silo_store::{Record, Store, flock, layer, scratch};
use std::fs;
use std::process::Command;

#[test]
fn a_tampered_layer_is_found_and_replaced_by_the_next_commit() {
    let home = Home::new();
    type Tamper = fn(&Store, &silo_store::LayerId);
    let table: &[(Tamper, &str, FaultKind)] = &[
        (|s, id| fs::write(s.tree(id).join("d/a"), "XX").unwrap(), "d/a", FaultKind::Bytes),
        (|s, id| fs::remove_file(s.tree(id).join("d/a")).unwrap(), "d/a", FaultKind::Missing),
        (|s, id| fs::remove_dir_all(s.tree(id)).unwrap(), "tree", FaultKind::Missing),
        (|s, id| fs::write(s.tree(id).join("d/new"), "").unwrap(), "d/new", FaultKind::Extra),
        (
            |s, id| {
                let text = fs::read_to_string(s.index(id)).unwrap();
                fs::write(s.index(id), text.replace("1000000000", "1000000001")).unwrap();
            },
            "index",
            FaultKind::Identity,
        ),
    ];
    for (tamper, at, what) in table {
        let made = home.files(&[("d/a", "aa"), ("d/b", "bb")]);
        assert!(verify_layer(&home.store, &made.id).unwrap().is_empty());
        tamper(&home.store, &made.id);
        let found = verify_layer(&home.store, &made.id).unwrap();
        assert_eq!((found.len(), found[0].path.as_slice(), found[0].what), (1, at.as_bytes(), *what));
        // A commit compares sizes and names, not bytes, so remove the layer in these cases.
        if *what == FaultKind::Bytes || *what == FaultKind::Extra {
            fs::remove_dir_all(home.store.layer(&made.id)).unwrap();
        }
        let again = home.files(&[("d/a", "aa"), ("d/b", "bb")]);
        assert_eq!(again.id, made.id);
        assert!(verify_layer(&home.store, &made.id).unwrap().is_empty());
        assert!(names(&home.store.stages()).is_empty());
    }
}

#[test]
fn a_truncated_index_is_an_error_that_names_it() {
    let home = Home::new();
    let made = home.files(&[("a", "x"), ("b", "y")]);
    let text = fs::read(home.store.index(&made.id)).unwrap();
    for length in [0, 5, text.len() - 1, text.len() - 20] {
        fs::write(home.store.index(&made.id), &text[..length]).unwrap();
        let error = layer::read_index(&home.store, &made.id).unwrap_err().to_string();
        assert!(error.contains("index is broken"), "{error}");
        assert!(verify_layer(&home.store, &made.id).is_err());
        let into = home.beside("root");
        assert!(compose(&home.store, &home.shared(), &[made.id], &into, &|_| {}).is_err());
        assert!(!into.exists());
    }
}

#[test]
fn a_missing_file_stops_a_compose_and_leaves_nothing() {
    let home = Home::new();
    let made = home.files(&[("a", "x"), ("b", "y")]);
    fs::remove_file(home.store.tree(&made.id).join("b")).unwrap();
    let into = home.beside("root");
    let error = compose(&home.store, &home.shared(), &[made.id], &into, &|_| {}).unwrap_err();
    assert!(error.to_string().ends_with("tree/b"), "{error}");
    assert!(!into.exists());
    assert!(names(&home.store.stages()).is_empty());
}

#[test]
fn a_killed_commit_leaves_a_stage_that_is_swept() {
    let home = Home::new();
    let mut stage = home.store.stage().unwrap();
    file(&mut stage, "d/a", "x");
    assert!(scratch::sweep_stages(&home.store).unwrap().is_empty(), "stages of live processes are not swept");
    // State after a kill: the files, without a held lock.
    let left = names(&home.store.stages());
    let copy = home.beside("copy");
    assert!(Command::new("cp").arg("-a").arg(home.store.stages()).arg(&copy).status().unwrap().success());
    drop(stage);
    assert!(names(&home.store.stages()).is_empty());
    fs::remove_dir(home.store.stages()).unwrap();
    fs::rename(&copy, home.store.stages()).unwrap();
    assert_eq!(names(&home.store.stages()), left);
    assert_eq!(scratch::sweep_stages(&home.store).unwrap().len(), 1);
    assert!(names(&home.store.stages()).is_empty());
    assert!(layer::list(&home.store).unwrap().is_empty());
}

#[test]
fn a_file_that_shrinks_before_the_commit_is_an_error() {
    let home = Home::new();
    let mut stage = home.store.stage().unwrap();
    file(&mut stage, "d/a", "contents");
    let inside = home.store.stages().join(&names(&home.store.stages())[0]).join("tree/d/a");
    fs::write(inside, "less").unwrap();
    let error = stage.commit(&Record::default(), &home.shared()).unwrap_err();
    assert_eq!(error.to_string(), "the length of d/a changed from 8 bytes");
    assert!(layer::list(&home.store).unwrap().is_empty());
    assert!(names(&home.store.stages()).is_empty());
}

#[test]
fn a_link_put_into_a_stage_is_not_followed() {
    let home = Home::new();
    let outside = home.beside("outside");
    fs::create_dir(&outside).unwrap();
    let mut stage = home.store.stage().unwrap();
    let tree = home.store.stages().join(&names(&home.store.stages())[0]).join("tree");
    std::os::unix::fs::symlink(&outside, tree.join("d")).unwrap();
    let meta = crate::support::meta(0o644);
    assert!(stage.add_file(&path("d/x"), &meta, &mut &b"x"[..], 1).is_err());
    assert!(names(&outside).is_empty());
}

#[test]
fn a_full_disk_is_a_clear_error() {
    let home = Home::new();
    let mount = home.beside("small");
    fs::create_dir(&mount).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&mount).output().is_ok_and(|done| done.status.success());
    if !mounted {
        eprintln!("skipped: cannot mount a small tmpfs here");
        return;
    }
    let check = || {
        let store = Store::open(&mount.join("home")).unwrap();
        let mut stage = store.stage().unwrap();
        let meta = crate::support::meta(0o644);
        let error = stage.add_file(&path("big"), &meta, &mut std::io::repeat(1), 4 << 20).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        // A file that just fits, so that index and manifest do not.
        let mut size = 1 << 20;
        while stage.add_file(&path("fits"), &meta, &mut std::io::Read::take(std::io::repeat(1), size), size).is_err() {
            size -= 4096;
        }
        let commit = stage.commit(&Record::default(), &flock::share(&store).unwrap());
        let layers = layer::list(&store).unwrap().len();
        (error.to_string(), cause, commit.is_err(), layers, names(&store.stages()).len())
    };
    let result = std::panic::catch_unwind(check);
    let unmounted = Command::new("umount").arg(&mount).status().unwrap();
    assert!(unmounted.success());
    let (error, cause, commit_failed, layers, stages) = result.unwrap();
    assert!(error.contains("cannot write") && error.ends_with("tree/big"), "{error}");
    assert!(cause.contains("No space left"), "{cause}");
    assert_eq!((commit_failed, layers, stages), (true, 0, 0));
}
