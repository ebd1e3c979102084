//! Upper directories as layers; the rule is: lower layers + captured layer = the step's view.

use crate::support::{Home, file, meta, path};
use silo_store::capture::{Capture, CaptureError, Lower, Verdict, capture};
use silo_store::{Index, Kind, LayerPath, Meta, Record, Stage};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

const EPOCH: i64 = 1_500_000_000;

fn lower(stage: &mut Stage) {
    file(stage, "etc/same", "same");
    file(stage, "etc/edit", "before");
    file(stage, "etc/mode", "x");
    file(stage, "etc/gone", "x");
    file(stage, "etc/d/one", "1");
    file(stage, "etc/d/two", "2");
    file(stage, "etc/d/sub/deep", "3");
    file(stage, "etc/d/sub/deeper", "4");
    stage.add_symlink(&path("etc/link"), &meta(0), b"same").unwrap();
    let mut capable = meta(0o755);
    let capability = [&[1, 0, 0, 2][..], &[0; 16]].concat();
    capable.xattrs.insert(b"security.capability".to_vec(), capability);
    stage.add_file(&path("bin/ping"), &capable, &mut &b"ping"[..], 9).unwrap();
}

fn xattr(path: &Path, name: &str, value: &str) -> bool {
    rustix::fs::setxattr(path, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).is_ok()
}

/// Makes the overlay's marker for a removed path; an ordinary user may too.
fn whiteout(path: &Path) {
    let mode = rustix::fs::Mode::empty();
    let device = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, path, device, mode, 0).unwrap();
}

fn keep(_: &LayerPath, _: &Meta, _: Kind) -> Verdict {
    Verdict::Keep
}

/// Captures `upper` over the lower layer and returns the index's lines without digests.
fn lines(home: &Home, lower: &Index, upper: &Path, filter: &dyn Fn(&LayerPath, &Meta, Kind) -> Verdict) -> (Vec<String>, Vec<String>) {
    let what = Capture { upper, lower: Lower(&[lower]), epoch: EPOCH, filter };
    let captured = capture(&home.store, &home.shared(), &what).unwrap();
    let skipped = captured.skipped.iter().map(ToString::to_string).collect();
    let made = captured.stage.commit(&Record::default(), &home.shared()).unwrap();
    assert!(silo_store::verify::verify_layer(&home.store, &made.id).unwrap().is_empty());
    let text = String::from_utf8(made.index.to_text()).unwrap();
    let line = |line: &str| line.split(' ').filter(|word| word.len() != 64).collect::<Vec<_>>().join(" ");
    (text.lines().skip(1).map(line).collect(), skipped)
}

fn put(path: &Path, contents: &str, mode: u32, mtime: i64) {
    fs::write(path, contents).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime as u64);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn dir(path: &Path, mode: u32) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn only_changes_are_captured() {
    let home = Home::new();
    let lower = home.commit(lower);
    let upper = home.beside("upper");
    dir(&upper, 0o755);
    dir(&upper.join("etc"), 0o755);
    put(&upper.join("etc/same"), "same", 0o644, 2_000_000_000);
    put(&upper.join("etc/edit"), "after", 0o644, 2_000_000_000);
    put(&upper.join("etc/mode"), "x", 0o600, 1);
    put(&upper.join("etc/secret"), "s", 0o000, 5);
    fs::hard_link(upper.join("etc/secret"), upper.join("etc/again")).unwrap();
    symlink("same", upper.join("etc/link")).unwrap();
    symlink("x", upper.join("etc/link2")).unwrap();
    whiteout(&upper.join("etc/gone"));
    whiteout(&upper.join("etc/never"));
    dir(&upper.join("new"), 0o1777);
    dir(&upper.join("bin"), 0o755);
    put(&upper.join("bin/ping"), "ping", 0o711, 1);
    dir(&upper.join("tmp"), 0o755);
    put(&upper.join("tmp/dropped"), "x", 0o644, 1);
    assert!(Command::new("mkfifo").arg(upper.join("etc/fifo")).status().unwrap().success());
    let filter = |path: &LayerPath, _: &Meta, _: Kind| match path.as_bytes() {
        b"tmp" => Verdict::Drop,
        _ => Verdict::Keep,
    };
    let (found, skipped) = lines(&home, &lower.index, &upper, &filter);
    let capability = format!("security.capability=%01%00%00%02{}", "%00".repeat(16));
    assert_eq!(
        found,
        [
            &format!("f 0711 0 0 1 4 bin/ping {capability}"),
            "f 0000 0 0 5 1 etc/again",
            "f 0644 0 0 1500000000 5 etc/edit",
            "w etc/gone",
            "l 0 0 etc/link2 x",
            "f 0600 0 0 1 1 etc/mode",
            "h etc/secret etc/again",
            "d 1777 0 0 new",
        ]
    );
    assert_eq!(skipped, ["etc/fifo"]);
}

#[test]
fn a_recreated_directory_yields_only_its_differences() {
    let home = Home::new();
    let lower = home.commit(lower);
    let upper = home.beside("upper");
    dir(&upper.join("etc/d/sub"), 0o755);
    dir(&upper.join("etc/d"), 0o755);
    dir(&upper.join("etc"), 0o755);
    if !xattr(&upper.join("etc/d"), "user.overlay.opaque", "y") {
        eprintln!("skipped: no user attributes on this file system");
        return;
    }
    put(&upper.join("etc/d/one"), "1", 0o644, 1);
    put(&upper.join("etc/d/sub/deep"), "changed", 0o444, 1);
    assert!(xattr(&upper.join("etc"), "user.overlay.impure", "y"));
    let (found, _) = lines(&home, &lower.index, &upper, &keep);
    assert_eq!(found, ["f 0444 0 0 1 7 etc/d/sub/deep", "w etc/d/sub/deeper", "w etc/d/two"]);
}

#[test]
fn owners_and_attributes_come_from_the_upper() {
    let home = Home::new();
    let upper = home.beside("upper");
    dir(&upper.join("d"), 0o755);
    put(&upper.join("d/f"), "x", 0o644, 1);
    put(&upper.join("d/w"), "", 0o644, 1);
    if !xattr(&upper.join("d/f"), "user.silo.owner", "33:34") {
        eprintln!("skipped: no user attributes on this file system");
        return;
    }
    assert!(xattr(&upper.join("d"), "user.silo.owner", "1:0"));
    assert!(xattr(&upper.join("d/f"), "user.overlay.origin", "x"));
    assert!(xattr(&upper.join("d/f"), "user.kept", "v"));
    assert!(xattr(&upper.join("d"), "user.overlay.opaque", "x"));
    assert!(xattr(&upper.join("d/w"), "user.overlay.whiteout", ""));
    let (found, _) = lines(&home, &Index::default(), &upper, &keep);
    assert_eq!(found, ["d 0755 1 0 d", "f 0644 33 34 1 1 d/f user.kept=v"]);
}

#[test]
fn refusals_leave_the_upper_as_it_was() {
    let home = Home::new();
    type Spoil = fn(&Path) -> bool;
    let table: &[(Spoil, &str)] = &[
        (|upper| xattr(&upper.join("d"), "user.overlay.redirect", "/x"), "d was redirected"),
        (|upper| xattr(&upper.join("d/f"), "user.overlay.metacopy", ""), "d/f was redirected"),
        (|upper| xattr(&upper.join("d/f"), "user.silo.owner", "root"), "d/f has a malformed"),
        (|upper| fs::write(upper.join("d/.wh.x"), "").is_ok(), "path d/.wh.x"),
        (
            |upper| Command::new("mknod").arg(upper.join("null")).args(["c", "1", "3"]).status().is_ok_and(|s| s.success()),
            "null is a device node",
        ),
    ];
    for (number, (spoil, expect)) in table.iter().enumerate() {
        let upper = home.beside(&format!("upper{number}"));
        dir(&upper.join("d"), 0o755);
        put(&upper.join("a"), "x", 0o644, 1);
        put(&upper.join("d/f"), "x", 0o644, 1);
        if !spoil(&upper) {
            eprintln!("skipped: cannot make what gives \"{expect}\" here");
            continue;
        }
        let what = Capture { upper: &upper, lower: Lower(&[&Index::default()]), epoch: EPOCH, filter: &keep };
        let error: CaptureError = capture(&home.store, &home.shared(), &what).unwrap_err();
        assert!(error.to_string().starts_with(expect), "{error}");
        assert_eq!(fs::metadata(upper.join("a")).unwrap().mode() & 0o777, 0o644);
    }
}
