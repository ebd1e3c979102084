//! Hostile .debs: each is refused with an error that names it, and nothing is written outside the stage.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use silo_fetch::unpack::package;
use silo_fetch::unpack::record::{self, Record};
use silo_store::digest::Digest;
use silo_store::flock;
use silo_store::layout::Store;
use tar::{Builder, EntryType, Header};

const CONTROL: &str = "Package: evil\nVersion: 1\nArchitecture: all\nMaintainer: X <x@example.com>\nDescription: hostile\n";

/// An entry of an archive, its path and target written as they are, however wrong.
struct Entry<'a> {
    kind: EntryType,
    path: &'a [u8],
    target: &'a [u8],
    size: u64,
    body: &'a [u8],
}

fn entry<'a>(kind: EntryType, path: &'a str, target: &'a str) -> Entry<'a> {
    Entry { kind, path: path.as_bytes(), target: target.as_bytes(), size: 0, body: b"" }
}

fn file<'a>(path: &'a str, body: &'a str) -> Entry<'a> {
    Entry { size: body.len() as u64, body: body.as_bytes(), ..entry(EntryType::Regular, path, "") }
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(entry.size);
        // The crate's own setters refuse the tested values.
        let old = header.as_old_mut();
        old.name[..entry.path.len()].copy_from_slice(entry.path);
        old.linkname[..entry.target.len()].copy_from_slice(entry.target);
        header.set_cksum();
        builder.append(&header, entry.body).expect("writing to memory");
    }
    builder.into_inner().expect("writing to memory")
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        builder.append(&ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64), *bytes).expect("writing to memory");
    }
    builder.into_inner().expect("writing to memory")
}

fn control() -> Vec<u8> {
    archive(&[file("./control", CONTROL)])
}

/// A .deb with this data archive.
fn deb(data: &[Entry<'_>]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&control())), ("data.tar.xz", &xz(&archive(data)))])
}

/// A .deb with this control archive and a harmless file.
fn deb_of_control(entries: &[Entry<'_>]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&archive(entries))), ("data.tar.xz", &xz(&archive(&[file("./a", "a")])))])
}

/// Unpacks a .deb next to a file that must not change; returns the error.
fn refused(deb: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).expect("our own directory");
    fs::write(outside.join("secret"), "secret").expect("our own file");
    let store = Store::open(&dir.path().join("store")).expect("a store");
    // An escape by name meets this link at the top of the file systems that tests run on.
    symlink(&outside, dir.path().join("store/stage/escape")).expect("our own directory");
    let mut stage = store.stage().expect("a stage");
    let result = package::unpack("evil_1_all.deb", deb, Digest::of(deb), &mut stage);
    let mut told = result.as_ref().err().map(|error| error.to_string()).unwrap_or_default();
    let mut next = result.as_ref().err().and_then(std::error::Error::source);
    while let Some(source) = next {
        told = format!("{told}: {source}");
        next = source.source();
    }
    drop(stage);
    let names = |path: &Path| fs::read_dir(path).expect("our own directory").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert_eq!(fs::read_to_string(outside.join("secret")).expect("it is there"), "secret");
    assert_eq!(names(&outside), ["secret"], "{told}");
    assert_eq!(names(&dir.path().join("store/stage")), ["escape"], "the stage leaves nothing: {told}");
    assert_eq!(names(dir.path()).len(), 2, "{told}");
    told
}

fn check(what: &str, deb: &[u8], expect: &str) {
    let told = refused(deb);
    assert!(told.starts_with("evil_1_all.deb: ") && told.contains(expect), "{what}: \"{expect}\" is not in \"{told}\"");
}

#[test]
fn an_honest_one_is_unpacked() {
    let honest = deb(&[entry(EntryType::Directory, "./", ""), file("./usr/a", "a"), entry(EntryType::Link, "./usr/b", "./usr/a")]);
    assert_eq!(refused(&honest), "");
}

#[test]
fn paths_that_lead_out_are_refused() {
    use EntryType::{Directory, Link, Symlink};
    let long = "a/".repeat(49);
    for (what, data, expect) in [
        ("up", vec![file("../escape/x", "x")], "../escape/x"),
        ("up from below", vec![file("./usr/../../escape/x", "x")], "usr/../../escape/x"),
        ("up as a directory", vec![entry(Directory, "./..", "")], ".."),
        ("up as a link", vec![entry(Symlink, "./usr/../../x", "y")], "usr/../../x"),
        ("a line break", vec![file("./a\nb", "x")], "a line break in a name"),
        ("below a link", vec![entry(Symlink, "./a", "/"), file("./a/x", "x")], "not a directory"),
        ("below a link out", vec![entry(Symlink, "./a", "../../escape"), file("./a/x", "x")], "not a directory"),
        ("a directory over a link", vec![entry(Symlink, "./a", "/etc"), entry(Directory, "./a", "")], "twice"),
        ("a file over a link", vec![entry(Symlink, "./a", "../../escape/secret"), file("./a", "x")], "twice"),
        ("below a file", vec![file("./a", "x"), file("./a/b", "x")], "not a directory"),
        ("a hard link out", vec![entry(Link, "./a", "../../escape/secret")], "../../escape/secret"),
        ("a hard link to the host", vec![entry(Link, "./a", "/etc/passwd")], "hard link to etc/passwd"),
        ("a hard link to a link", vec![entry(Symlink, "./b", "/etc/passwd"), entry(Link, "./a", "./b")], "hard link to b"),
        ("a hard link to nothing", vec![entry(Link, "./a", "./b")], "hard link to b"),
        ("a hard link to a later file", vec![entry(Link, "./a", "./b"), file("./b", "x")], "hard link to b"),
        ("a hard link to a directory", vec![entry(Directory, "./b", ""), entry(Link, "./a", "./b")], "hard link to b"),
        ("a hard link to the root", vec![entry(Link, "./a", "./")], "hard link to the root"),
        ("a hard link to itself", vec![entry(Link, "./a", "./a")], "hard link to a"),
        ("a link to nothing", vec![entry(Symlink, "./a", "")], "a link target that is empty"),
        ("the same file twice", vec![file("./a", "1"), file("./a", "2")], "twice"),
        ("the same by another spelling", vec![file("./a", "1"), file("a", "2")], "twice"),
        ("the same by merged directories", vec![file("./bin/a", "1"), file("./usr/bin/a", "2")], "twice"),
        ("dpkg's own list", vec![file("./var/lib/dpkg/info/evil.list", "x")], "twice"),
        ("a name too long below", vec![file(&format!("{long}b"), "x"), file("./a", "1"), file("./a", "2")], "twice"),
    ] {
        check(what, &deb(&data), expect);
    }
}

/// Spellings that dpkg takes, too: they mean a place below the root.
#[test]
fn other_spellings_of_paths_stay_inside() {
    for data in [vec![file("/etc/passwd", "x")], vec![file("//etc/passwd", "x")], vec![file("./usr/./a", "x")], vec![file("./usr//a", "x")]]
    {
        assert_eq!(refused(&deb(&data)), "");
    }
}

#[test]
fn entries_that_no_package_has_are_refused() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::new(b'Z')] {
        check("a device", &deb(&[entry(kind, "./dev/evil", "")]), "dev/evil");
    }
    for name in ["../../escape", "a/b", ".", "..", ".hidden", "post inst", "postinst\n"] {
        check("a control file's name", &deb_of_control(&[file("./control", CONTROL), file(name, "x")]), "not a name that dpkg gives");
    }
    check("no control file", &deb_of_control(&[file("./postinst", "x")]), "no control file");
    check("two control files", &deb_of_control(&[file("./control", CONTROL), file("./control", CONTROL)]), "twice");
    for stanza in [
        "",
        "Package: ../evil\nVersion: 1\nArchitecture: all\n",
        "Package: evil\nVersion: 1\nArchitecture: ../../x\nMulti-Arch: same\n",
        "Version: 1\n",
        "Package: evil\nPackage: live\n",
        "\u{0}",
    ] {
        assert!(!refused(&deb_of_control(&[file("./control", stanza)])).is_empty(), "{stanza:?}");
    }
}

/// Commits a .deb with these configuration files, and reads dpkg's data about it back from the layer.
fn recorded(conffiles: &str, data: &[Entry<'_>]) -> Result<Record, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a store");
    let control = archive(&[file("./control", CONTROL), file("./conffiles", conffiles)]);
    let deb = ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&control)), ("data.tar.xz", &xz(&archive(data)))]);
    let mut stage = store.stage().expect("a stage");
    package::unpack("evil_1_all.deb", &deb[..], Digest::of(&deb), &mut stage).expect("it is unpacked");
    let shared = flock::share(&store).expect("nobody collects");
    let made = stage.commit(&Default::default(), &shared).expect("a layer");
    record::read(made.id, &store.tree(&made.id), &made.index).map_err(|error| error.to_string())
}

#[test]
fn links_of_a_package_lead_to_no_file_of_the_host() {
    use EntryType::Symlink;
    for target in ["/dev/zero", "/etc/hostname", "../../../../../../../../../../../../etc/hostname", "y", "."] {
        let told = recorded("/etc/x\n", &[entry(Symlink, "./etc/x", target)]).expect_err("it has no such file");
        assert!(told.contains("cannot read") && told.contains("etc/x"), "{target}: {told}");
    }
    // A link within the package is followed, as dpkg does.
    let read = recorded("/etc/x\n", &[file("./etc/y", "a"), entry(Symlink, "./etc/x", "/etc/y")]).expect("a file");
    assert_eq!(read.conffiles, [("/etc/x".to_owned(), "0cc175b9c0f1b6a831c399e269772661".to_owned())]);
    let info = |name: &str| format!("./var/lib/dpkg/info/{name}");
    let read = recorded("", &[entry(Symlink, &info("zzz.control"), "/dev/zero"), file(&info("zzz.postinst"), "x")]).expect("one package");
    assert_eq!((read.stanza.package(), read.members.contains("postinst")), ("evil", false));
    let told = recorded("", &[file(&info("zzz.control"), CONTROL)]).expect_err("which is it?");
    assert!(told.contains("two packages, evil and zzz"), "{told}");
}

#[test]
fn broken_containers_are_refused() {
    let (control, data) = (xz(&control()), xz(&archive(&[file("./a", &"x".repeat(100_000))])));
    let binary: (&str, &[u8]) = ("debian-binary", b"2.0\n");
    let whole = ar(&[binary, ("control.tar.xz", &control), ("data.tar.xz", &data)]);
    for (what, members, expect) in [
        ("nothing", vec![], "cannot read the container"),
        ("no data", vec![binary, ("control.tar.xz", &control)], "is missing"),
        ("no control", vec![binary, ("data.tar.xz", &data)], "unexpected member"),
        ("data first", vec![binary, ("data.tar.xz", &data), ("control.tar.xz", &control)], "unexpected member"),
        ("two datas", vec![binary, ("control.tar.xz", &control), ("data.tar.xz", &data), ("data.tar.xz", &data)], "unexpected member"),
        ("no version", vec![("control.tar.xz", &control), ("data.tar.xz", &data)], "not a .deb"),
        ("another version", vec![("debian-binary", b"3.0\n"), ("control.tar.xz", &control)], "format 3.0 is not 2.x"),
        ("a version of bytes", vec![("debian-binary", b"\xff\xfe\n"), ("control.tar.xz", &control)], "debian-binary"),
        ("another compression", vec![binary, ("control.tar.lz4", &control)], "cannot decompress"),
        ("a lie about compression", vec![binary, ("control.tar.gz", &control)], "control"),
        ("no compression after all", vec![binary, ("control.tar", &control)], "control"),
        ("something else", vec![binary, ("../../escape", b"x")], "unexpected member"),
    ] {
        check(what, &ar(&members), expect);
    }
    for (what, bytes) in [("no ar", &b"hello"[..]), ("nothing", b""), ("only the magic word", b"!<arch>\n")] {
        assert!(!refused(bytes).is_empty(), "{what}");
    }
    // Cut anywhere, and with any byte of its first headers changed: never unpacked, never a panic.
    for len in [60, 70, 130, 200, whole.len() / 2, whole.len() - 100, whole.len() - 2] {
        assert!(!refused(&whole[..len]).is_empty(), "cut after {len} bytes");
    }
    for at in 0..132 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        refused(&bytes);
    }
    let mut huge = whole.clone();
    huge[8 + 48..8 + 58].copy_from_slice(b"9999999999");
    assert!(!refused(&huge).is_empty(), "a member larger than the file");
}

#[test]
fn bombs_are_bounded() {
    // A header that wants gigabytes of memory for a name: 64 MiB of nothing take a few KiB.
    let zeros = vec![0; 64 << 20];
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let long = Entry { size: zeros.len() as u64, body: &zeros, ..entry(kind, "././@LongLink", "") };
        check("a long name", &deb(&[long, file("./a", "x")]), "a header of more than 1048576 bytes");
    }
    // A control archive larger than any.
    let big = Entry { size: zeros.len() as u64, body: &zeros, ..entry(EntryType::Regular, "./md5sums", "") };
    check("a large control file", &deb_of_control(&[file("./control", CONTROL), big]), "evil_1_all.deb");
    // A file of holes that claims a petabyte.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_path("holes").expect("a plain name");
    let gnu = header.as_gnu_mut().expect("it is one");
    gnu.set_real_size(1 << 50);
    gnu.sparse[0].set_offset(1 << 50);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, &b""[..]).expect("writing to memory");
    let data = builder.into_inner().expect("writing to memory");
    let bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", &xz(&control())), ("data.tar.xz", &xz(&data))]);
    check("a file of holes", &bytes, "unpacks to more than");
    // A size that the archive does not have.
    let short = Entry { size: 1 << 40, body: b"x", ..entry(EntryType::Regular, "./a", "") };
    check("a size without bytes", &deb(&[short]), "");
}

/// A file of zeros in an archive of its own, written piece by piece, and compressed.
fn zeros(form: &str, gib: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path("./big").expect("a short path");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(gib << 30);
    header.set_cksum();
    let mut tar = header.as_bytes().chain(std::io::Read::take(std::io::repeat(0), (gib << 30) + 1024));
    match form {
        "zst" => zstd::encode_all(tar, 1).expect("memory"),
        _ => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::copy(&mut tar, &mut encoder).expect("memory");
            encoder.finish().expect("memory")
        }
    }
}

#[test]
fn a_package_out_of_all_proportion_to_its_file_is_refused() {
    let control = xz(&control());
    let bomb = zeros("zst", 1);
    let deb_of = |control: &[u8], data: (&str, &[u8])| ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", control), data]);
    check("a bomb of zstd", &deb_of(&control, ("data.tar.zst", &bomb)), "unpacks to more than");
    let bomb = ar(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &bomb), ("data.tar.xz", &xz(&archive(&[file("./a", "a")])))]);
    check("a bomb of control files", &bomb, "it is longer than");
    // The ratio of gzip is allowed: real files of zeros have it.
    let honest = refused(&deb_of(&control, ("data.tar.gz", &zeros("gz", 1)[..])));
    assert_eq!(honest, "");
    // A file with holes has no bytes to show for its size.
    let mut holes = Header::new_gnu();
    holes.set_entry_type(EntryType::GNUSparse);
    holes.set_path("./holes").expect("a short path");
    holes.set_mode(0o644);
    holes.set_uid(0);
    holes.set_gid(0);
    holes.set_mtime(0);
    holes.set_size(0);
    let gnu = holes.as_gnu_mut().expect("a GNU header");
    gnu.realsize.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].offset.copy_from_slice(b"77777777777\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    holes.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&holes, &[][..]).expect("memory");
    let holes = builder.into_inner().expect("memory");
    check("a file with holes", &deb_of(&control, ("data.tar.xz", &xz(&holes))), "unpacks to more than");
}
