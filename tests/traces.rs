//! Traces of where and when an image was built that other builders of Debian roots leave: not in ours.

use std::fs;

use silo_store::entry::{Kind, Node};

use crate::support::{As, Installed, Silo};

#[test]
fn no_compiled_python_is_stale() {
    let Installed { index, root, .. } = Silo::shared(As::Me).installed("python");
    let (mut by_hash, mut by_time) = (0, 0);
    for entry in index.entries() {
        let host = root.join(entry.path.as_path());
        if host.extension().is_none_or(|kind| kind != "pyc") {
            continue;
        }
        let bytes = fs::read(&host).expect("a file of the image");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        // PEP 552: bit 0 says that the source is known by its hash, bit 1 that it is looked at.
        match word(4) {
            0 => {
                let stem = host.file_name().and_then(|name| name.to_str()?.split('.').next()).expect("a plain name");
                let source = host.parent().and_then(|dir| dir.parent()).expect("below __pycache__").join(format!("{stem}.py"));
                let time = fs::metadata(&source).expect("the source").modified().expect("a time");
                let time = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
                assert_eq!(u64::from(word(8)), time, "{}: python would compile it again at every start", entry.path);
                by_time += 1;
            }
            3 => by_hash += 1,
            other => panic!("{}: flags {other}", entry.path),
        }
    }
    assert!(by_hash > 100, "{by_hash} compiled files know their source by its hash, {by_time} by its time");
}

#[test]
fn nothing_is_younger_than_the_image_and_nothing_says_where_it_was_built() {
    let Installed { image, index, root } = Silo::shared(As::Me).installed("python");
    for entry in index.entries() {
        assert!(entry.meta.mtime <= image.epoch, "{} is of {}", entry.path, entry.meta.mtime);
        assert!(!matches!(entry.node.kind(), Kind::Whiteout), "{}", entry.path);
    }
    let home = Silo::shared(As::Me).home().to_string_lossy().into_owned();
    for entry in index.entries().iter().filter(|entry| matches!(entry.node, Node::File { .. })) {
        let bytes = fs::read(root.join(entry.path.as_path())).expect("a file of the image");
        let found = bytes.windows(home.len()).any(|part| part == home.as_bytes());
        assert!(!found, "{} names {home}", entry.path);
    }
}

#[test]
fn files_private_to_a_machine_are_left_out() {
    let Installed { index, root, .. } = Silo::shared(As::Me).installed("python");
    let absent = [
        "etc/hostname",
        "etc/machine-id",
        "etc/resolv.conf",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dbus/machine-id",
        "var/lib/dpkg/lock",
        "var/lib/dpkg/status-old",
        "var/lib/systemd/random-seed",
        "var/log/alternatives.log",
        "var/log/dpkg.log",
        "usr/sbin/policy-rc.d",
    ];
    for path in absent {
        assert!(!root.join(path).exists(), "{path}");
    }
    for empty in ["dev", "proc", "run", "sys", "tmp", "var/tmp"] {
        let dir = silo_store::path::LayerPath::parse(empty.as_bytes()).expect("a plain path");
        assert!(index.get(&dir).is_some(), "{empty} is there to be mounted on");
        assert!(index.below(&dir).is_empty(), "{empty} is empty");
    }
    assert_eq!(fs::metadata(root.join("var/cache/debconf/passwords.dat")).map_or(0, |meta| meta.len()), 0);
}
