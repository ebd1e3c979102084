//! Commits: the golden layer, and that only the tree determines the result.

use crate::support::{Home, file, meta, path};
use silo_store::archive::{self, Item};
use silo_store::{Meta, Record, Stage, compression, flock, layer, verify};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

type Step = fn(&mut Stage);

/// A tree with one entry of each kind; each step is independent of the others.
const STEPS: &[Step] = &[
    |s| s.add_dir(&path("usr"), &meta(0o755)).unwrap(),
    |s| s.add_dir(&path("usr/bin"), &Meta { mtime: 7, ..meta(0o2775) }).unwrap(),
    |s| {
        let mut capable = Meta { uid: 7, gid: 8, ..meta(0o4755) };
        let capability = [&[1, 0, 0, 3][..], &[0, 32, 0, 0], &[0; 12], &[1, 2, 3, 4]].concat();
        capable.xattrs.insert(b"security.capability".to_vec(), capability);
        capable.xattrs.insert(b"user.note".to_vec(), b"a b=\n".to_vec());
        capable.xattrs.insert(b"security.selinux".to_vec(), b"label".to_vec());
        s.add_file(&path("usr/bin/tool"), &capable, &mut &b"#!tool\n"[..], 7).unwrap();
        s.add_hardlink(&path("usr/bin/also"), &path("usr/bin/tool")).unwrap();
        s.add_hardlink(&path("usr/bin/zzz"), &path("usr/bin/also")).unwrap();
    },
    |s| s.add_symlink(&path("usr/bin/link"), &meta(0o644), b"../no where").unwrap(),
    |s| file(s, "usr/bin.d/empty", ""),
    |s| {
        let big = Meta { uid: 3_000_000, ..meta(0o600) };
        s.add_file(&path("usr/share/big owner"), &big, &mut &b"x"[..], 9).unwrap();
    },
    |s| {
        let long = format!("usr/share/{}/{}", "d".repeat(90), "f".repeat(200));
        file(s, &long, &"long\n".repeat(500));
        s.add_symlink(&path("usr/share/long"), &meta(0), "t/".repeat(100).as_bytes()).unwrap();
    },
    |s| {
        let odd = silo_store::LayerPath::parse(b"usr/share/\xff\xfe\n%").unwrap();
        s.add_file(&odd, &Meta { mtime: -5, ..meta(0o444) }, &mut &b"odd"[..], 9).unwrap();
    },
    |s| s.add_whiteout(&path("usr/lib/gone")).unwrap(),
    |s| {
        s.add_dir(&path("var"), &meta(0o000)).unwrap();
        s.set_opaque(&path("var")).unwrap();
    },
];

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a golden file; SILO_BLESS=1 writes it instead.
fn check_golden(name: &str, bytes: &[u8]) {
    if std::env::var_os("SILO_BLESS").is_some() {
        fs::write(golden(name), bytes).unwrap();
    }
    let expect = fs::read(golden(name)).unwrap();
    assert_eq!(String::from_utf8_lossy(bytes), String::from_utf8_lossy(&expect), "{name}");
}

#[test]
fn golden_layer() {
    let home = Home::new();
    let made = home.commit(|stage| STEPS.iter().for_each(|step| step(stage)));
    assert!(made.fresh);
    check_golden("layer.index", &fs::read(home.store.index(&made.id)).unwrap());
    check_golden("layer.id", format!("{}\n", made.id.oci()).as_bytes());
    assert_eq!(layer::read_index(&home.store, &made.id).unwrap(), made.index);
    assert!(verify::verify_layer(&home.store, &made.id).unwrap().is_empty());

    let tool = home.store.tree(&made.id).join("usr/bin/tool");
    let found = fs::metadata(&tool).unwrap();
    assert_eq!((found.nlink(), found.mtime()), (3, 1_000_000_000));
    let var = fs::metadata(home.store.tree(&made.id).join("var")).unwrap();
    assert_eq!((var.mode() & 0o7777, var.mtime()), (0o700, 315_532_800));
}

#[test]
fn order_umask_and_history_do_not_matter() {
    let home = Home::new();
    let forth = home.commit(|stage| STEPS.iter().for_each(|step| step(stage)));
    let other = Home::new();
    let back = other.commit(|stage| STEPS.iter().rev().for_each(|step| step(stage)));
    assert_eq!(forth.id, back.id);

    // The umask is per process, so another process sets it.
    let test = std::env::current_exe().unwrap();
    let script = "umask 0077; exec \"$0\" --exact commit::golden_layer";
    let done = Command::new("sh").args(["-c", script]).arg(test).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));

    let detour = home.commit(|stage| {
        file(stage, "usr/bin/tool2", "x");
        stage.add_hardlink(&path("a"), &path("usr/bin/tool2")).unwrap();
        stage.add_dir(&path("junk/below"), &meta(0o700)).unwrap();
        file(stage, "junk/below/x", "x");
        stage.remove(&path("junk")).unwrap();
        STEPS.iter().for_each(|step| step(stage));
        stage.remove(&path("usr/bin/tool2")).unwrap();
        stage.remove(&path("a")).unwrap();
        stage.remove(&path("not/there")).unwrap();
    });
    assert_eq!(detour.id, forth.id);
    assert!(!detour.fresh);
}

#[test]
fn a_removed_file_lives_on_under_its_other_names() {
    let home = Home::new();
    let made = home.commit(|stage| {
        file(stage, "m", "x");
        stage.add_hardlink(&path("z"), &path("m")).unwrap();
        stage.add_hardlink(&path("n"), &path("m")).unwrap();
        stage.remove(&path("m")).unwrap();
    });
    let plain = home.commit(|stage| {
        file(stage, "n", "x");
        stage.add_hardlink(&path("z"), &path("n")).unwrap();
    });
    assert_eq!(made.id, plain.id);
}

#[test]
fn a_stage_refuses_what_no_layer_holds() {
    let home = Home::new();
    let mut stage = home.store.stage().unwrap();
    file(&mut stage, "d/file", "x");
    stage.add_symlink(&path("d/link"), &meta(0), b"/").unwrap();
    let mut add = |name: &str| {
        let error = stage.add_file(&path(name), &meta(0o644), &mut &b"12345"[..], 4);
        error.unwrap_err().to_string()
    };
    assert_eq!(add("d/file"), "d/file was added twice");
    assert_eq!(add("d"), "d was added twice");
    assert_eq!(add("d/link/x"), "d/link/x is below a path that is not a directory");
    assert_eq!(add("d/file/x"), "d/file/x is below a path that is not a directory");
    assert_eq!(add("long"), "long is longer than 4 bytes");
    assert!(stage.add_hardlink(&path("h"), &path("d")).is_err());
    assert!(stage.add_hardlink(&path("h"), &path("none")).is_err());
    assert!(stage.add_symlink(&path("l"), &meta(0), b"").is_err());
    assert!(stage.add_symlink(&path("l"), &meta(0), b"a\0b").is_err());
    assert!(stage.set_opaque(&path("d/file")).is_err());
    let fifo = home.beside("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(stage.adopt_file(&path("fifo"), &meta(0o644), &fifo).is_err());
    // The rejected entries left nothing behind.
    let made = stage.commit(&Record::default(), &home.shared()).unwrap();
    assert_eq!(made.index.entries().len(), 3);
    assert!(verify::verify_layer(&home.store, &made.id).unwrap().is_empty());
}

#[test]
fn adopted_files_are_as_if_added() {
    let home = Home::new();
    let from = home.beside("from");
    fs::write(&from, "contents").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o000)).unwrap();
    let adopted = home.commit(|stage| stage.adopt_file(&path("a/b"), &meta(0o444), &from).unwrap());
    assert!(!from.exists());
    let added = home.commit(|stage| stage.add_file(&path("a/b"), &meta(0o444), &mut &b"contents"[..], 8).unwrap());
    assert_eq!(adopted.id, added.id);
}

#[test]
fn the_archive_is_what_tar_reads_and_unpacks_to_the_same_layer() {
    let home = Home::new();
    let made = home.commit(|stage| STEPS.iter().for_each(|step| step(stage)));
    compression::pack(&home.store, &home.shared(), &made.id).unwrap();
    let packed = fs::File::open(home.store.packed(&made.id)).unwrap();
    let tar = zstd::decode_all(packed).unwrap();
    let mut items = 0;
    archive::read(&mut tar.as_slice(), &mut |item, contents| {
        items += 1;
        if let Item::File(..) = item {
            std::io::copy(contents, &mut std::io::sink()).unwrap();
        }
        Ok::<(), archive::ArchiveError>(())
    })
    .unwrap();
    // The opaque directory has two items.
    assert_eq!(items, made.index.entries().len() + 1);

    fs::remove_dir_all(home.store.tree(&made.id)).unwrap();
    fs::remove_file(home.store.index(&made.id)).unwrap();
    compression::unpack(&home.store, &home.shared(), &made.id).unwrap();
    assert!(verify::verify_layer(&home.store, &made.id).unwrap().is_empty());
    compression::unpack(&home.store, &home.shared(), &made.id).unwrap();

    let file = home.beside("layer.tar");
    fs::write(&file, &tar).unwrap();
    match Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&file).env("TZ", "UTC").env("LC_ALL", "C").output() {
        Ok(listed) => {
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
            assert!(listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
            for expect in [
                "-rwsr-xr-x 7/8               7 2001-09-09 01:46 usr/bin/also",
                "usr/bin/zzz link to usr/bin/also",
                "usr/bin/link -> ../no where",
                "3000000/0",
                "usr/lib/.wh.gone",
                "var/.wh..wh..opq",
                &"f".repeat(200),
            ] {
                assert!(text.contains(expect), "{expect}: {text}");
            }
        }
        Err(_) => eprintln!("skipped: no tar on this machine"),
    }
}

#[test]
fn a_strange_archive_is_refused() {
    let home = Home::new();
    let made = home.files(&[("a", "12345"), ("b", "")]);
    compression::pack(&home.store, &home.shared(), &made.id).unwrap();
    let tar = zstd::decode_all(fs::File::open(home.store.packed(&made.id)).unwrap()).unwrap();
    type Change = fn(&mut Vec<u8>);
    let changes: &[Change] = &[
        |tar| tar[512] = b'X',               // contents: another layer
        |tar| tar[0] = b'.',                 // name, checksum not mended
        |tar| tar[517] = 1,                  // padding
        |tar| tar[329] = b'7',               // device number, checksum not mended
        |tar| tar.truncate(600),             // inside a file's padding
        |tar| tar.truncate(514),             // inside a file
        |tar| tar.truncate(100),             // inside a header
        |tar| tar.truncate(tar.len() - 1),   // inside the end
        |tar| tar.push(0),                   // after the end
        |tar| tar.truncate(tar.len() - 512), // one zero block
        |tar| tar.clear(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut bad = tar.clone();
        change(&mut bad);
        let packed = zstd::encode_all(bad.as_slice(), 3).unwrap();
        fs::write(home.store.packed(&made.id), packed).unwrap();
        let error = compression::unpack(&home.store, &home.shared(), &made.id);
        assert!(error.is_err(), "change {number}");
    }
    drop(flock::exclude(&home.store).unwrap());
    assert!(!verify::verify_layer(&home.store, &made.id).unwrap().is_empty());
}

#[test]
fn manifests_are_kept() {
    let home = Home::new();
    let mut stage = home.store.stage().unwrap();
    file(&mut stage, "a", "abc");
    let record = Record {
        name: "package a".into(),
        derivation: "00".repeat(32),
        created: 1,
        duration_ms: 2,
        inputs: vec!["x".into()],
        packages: vec!["a 1.0".into()],
        removed: vec!["/etc/a.key".into()],
        place: "a worker".into(),
    };
    let made = stage.commit(&record, &home.shared()).unwrap();
    let manifest = layer::read_manifest(&home.store, &made.id).unwrap();
    assert_eq!((manifest.record, manifest.entries, manifest.bytes), (record, 1, 3));
}
