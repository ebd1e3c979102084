//! Images as other programs write them, one for each oddity: Silo unpacks the same tree as skopeo and umoci.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use silo_store::digest::Digest;

use crate::support::{Silo, done, has, is_root, skip};
use crate::tars::made::{self, Fact, Facts};

const OCI: &str = "application/vnd.oci.image";

/// One entry of a layer.
#[derive(Clone)]
struct Entry {
    name: &'static str,
    tag: u8,
    data: String,
    link: &'static str,
    mode: u64,
    owner: (u64, u64),
    mtime: u64,
    pax: Vec<(&'static str, String)>,
    global: bool,
    /// A size that the header says although nothing follows.
    size: Option<u64>,
}

fn entry(name: &'static str, tag: u8) -> Entry {
    let mode = if tag == b'0' { 0o644 } else { 0o755 };
    Entry {
        name,
        tag,
        data: String::new(),
        link: "",
        mode,
        owner: (0, 0),
        mtime: 1_700_000_000,
        pax: Vec::new(),
        global: false,
        size: None,
    }
}

fn f(name: &'static str) -> Entry {
    Entry { data: format!("contents of {name}"), ..entry(name, b'0') }
}

fn g(name: &'static str, data: &str) -> Entry {
    Entry { data: data.to_owned(), ..entry(name, b'0') }
}

fn d(name: &'static str) -> Entry {
    entry(name, b'5')
}

fn l(name: &'static str, link: &'static str) -> Entry {
    Entry { link, ..entry(name, b'2') }
}

fn h(name: &'static str, link: &'static str) -> Entry {
    Entry { link, ..entry(name, b'1') }
}

impl Entry {
    fn mode(self, mode: u64) -> Entry {
        Entry { mode, ..self }
    }

    fn owner(self, uid: u64, gid: u64) -> Entry {
        Entry { owner: (uid, gid), ..self }
    }

    fn pax(mut self, key: &'static str, value: &str) -> Entry {
        self.pax.push((key, value.to_owned()));
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        let records = |records: &[(&str, String)]| -> Vec<u8> {
            let one = |(key, value): &(&str, String)| {
                let rest = key.len() + value.len() + 3;
                let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).expect("there is one");
                format!("{length} {key}={value}\n")
            };
            records.iter().map(one).collect::<String>().into_bytes()
        };
        if self.global || !self.pax.is_empty() {
            header(out, &Entry { tag: if self.global { b'g' } else { b'x' }, ..entry("pax", b'x') }, &records(&self.pax));
        }
        if !self.global {
            header(out, self, self.data.as_bytes());
        }
    }
}

fn header(out: &mut Vec<u8>, entry: &Entry, data: &[u8]) {
    let mut header = [0; 512];
    header[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
    header[157..157 + entry.link.len()].copy_from_slice(entry.link.as_bytes());
    header[156] = entry.tag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let size = entry.size.unwrap_or(data.len() as u64);
    for (at, length, value) in [
        (100, 8, entry.mode),
        (108, 8, entry.owner.0),
        (116, 8, entry.owner.1),
        (124, 12, size),
        (136, 12, entry.mtime),
        (329, 8, 1),
        (337, 8, 3),
    ] {
        let text = format!("{value:0width$o}", width = length - 1);
        match text.len() < length {
            true => header[at..at + length - 1].copy_from_slice(text.as_bytes()),
            false => {
                header[at..at + length].copy_from_slice(&value.to_be_bytes()[8usize.saturating_sub(length)..]);
                header[at] |= 0x80;
            }
        }
    }
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(header);
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut out));
    out.extend([0; 1024]);
    out
}

/// Layers over one with `bin/x` and `opt`.
struct Row {
    name: &'static str,
    layers: Vec<Vec<Entry>>,
    /// Paths that differ with umoci, for the reason beside the row.
    otherwise: &'static [&'static str],
}

fn row<const N: usize>(name: &'static str, layers: [Vec<Entry>; N]) -> Row {
    Row { name, layers: layers.into(), otherwise: &[] }
}

impl Row {
    fn but(self, otherwise: &'static [&'static str]) -> Row {
        Row { otherwise, ..self }
    }
}

fn rows() -> Vec<Row> {
    let old = || vec![d("opt/d"), f("opt/d/old"), f("opt/d/keep")];
    let merged = || vec![d("usr"), d("usr/lib"), f("usr/lib/a"), l("lib", "usr/lib"), l("abs", "/usr/lib"), l("up", "usr/../usr/lib")];
    vec![
        row("hard link to a symbolic link", [vec![f("opt/t"), l("opt/s", "t"), h("opt/s2", "opt/s")]]),
        // A copy, since a layer of Silo's is whole in itself.
        row("hard link into a lower layer", [vec![f("opt/a").mode(0o600)], vec![h("opt/b", "opt/a").mode(0o600)]]).but(&["opt/a", "opt/b"]),
        row("hard link to a lower symbolic link", [vec![f("opt/t"), l("opt/s", "t")], vec![h("opt/s2", "opt/s")]]),
        row("hard links in a chain", [vec![f("opt/a"), h("opt/b", "opt/a"), h("opt/c", "opt/b")]]),
        row("hard link with a slash", [vec![f("opt/a"), h("opt/b", "/opt/a"), h("opt/c", "./opt/a")]]),
        row("hard link through a link", [vec![d("opt/d"), f("opt/d/a"), l("opt/l", "d"), h("opt/b", "opt/l/a")]]),
        row("hard link with a size", [vec![f("opt/a"), Entry { size: Some(700), ..h("opt/b", "opt/a") }, f("opt/c")]]),
        row("directory with a size", [vec![Entry { size: Some(1024), ..d("opt/q") }, f("opt/a"), f("opt/b")]]),
        row("symbolic link with a size", [vec![Entry { size: Some(1024), ..l("opt/q", "a") }, f("opt/a")]]),
        row("first name replaced", [vec![f("opt/a"), h("opt/b", "opt/a"), g("opt/a", "new")]]),
        row("name with a slash", [vec![f("/opt/a"), d("/opt/d")]]),
        row("name with two slashes", [vec![f("opt//a"), f("opt///b")]]),
        row("name with a dot", [vec![f("opt/./a"), f("./opt/b"), d("./")]]),
        row("name with two dots", [vec![d("opt/d"), f("opt/d/../a")]]),
        row("directory with a slash", [vec![d("opt/d/"), d("opt/e//"), f("opt/d/a")]]),
        row("name that is not UTF-8", [vec![f("opt/a").pax("path", "opt/\u{e4}\u{1F980}")]]),
        row("long name", [vec![f("opt/a").pax("path", Box::leak(format!("opt/{}", "n".repeat(200)).into_boxed_str()))]]),
        // Nodes are left out; rootless umoci writes empty files.
        row("device", [vec![d("dev"), entry("dev/null", b'3'), f("opt/a")]]).but(&["dev/null"]),
        row("console", [vec![entry("dev/console", b'3')]]).but(&["dev/console"]),
        row("disk", [vec![entry("opt/sda", b'4'), f("opt/a")]]).but(&["opt/sda"]),
        row("pipe", [vec![entry("opt/p", b'6'), f("opt/a")]]).but(&["opt/p"]),
        row("node over a file", [vec![f("opt/p")], vec![entry("opt/p", b'6')]]).but(&["opt/p"]),
        row("global header", [vec![Entry { global: true, ..entry("g", b'g') }.pax("comment", "of git"), f("opt/a")]]),
        row("opaque without a directory", [old(), vec![g("opt/d/.wh..wh..opq", ""), f("opt/d/new")]]),
        row("opaque and nothing", [old(), vec![g("opt/d/.wh..wh..opq", "")]]),
        row("opaque with a directory", [old(), vec![d("opt/d").mode(0o700), g("opt/d/.wh..wh..opq", ""), f("opt/d/new")]]),
        row("opaque root", [vec![f("opt/old"), d("var")], vec![g(".wh..wh..opq", ""), d("bin"), f("bin/x").mode(0o755)]]),
        row("opaque that is moot", [old(), vec![g("opt/d/.wh.old", ""), l("opt/d", "e"), d("opt/e")]]),
        row("opaque of nothing", [vec![f("opt/a")], vec![d("opt/n"), g("opt/n/.wh..wh..opq", ""), f("opt/n/x")]]),
        row("whiteout", [old(), vec![g("opt/d/.wh.old", "")]]),
        row("whiteout of a directory", [old(), vec![g("opt/.wh.d", "")]]),
        row("whiteout of nothing", [old(), vec![g("opt/.wh.nothing", ""), f("opt/a")]]),
        row("whiteout and a new directory", [old(), vec![g("opt/.wh.d", ""), d("opt/d"), f("opt/d/new")]]),
        row("whiteout and an implied directory", [old(), vec![g("opt/.wh.d", ""), f("opt/d/new")]]),
        row("whiteout and a new file", [old(), vec![g("opt/.wh.d", ""), f("opt/d")]]),
        row("whiteout below a link", [merged(), vec![g("lib/.wh.a", "")]]),
        row("below a link", [merged(), vec![f("lib/b")]]),
        row("below an absolute link", [merged(), vec![f("abs/b"), d("abs/c"), f("abs/c/d")]]),
        row("below a link upwards", [merged(), vec![f("up/b")]]),
        row("below a link of the same layer", [vec![d("usr"), d("usr/lib"), l("lib", "usr/lib"), f("lib/b")]]),
        row("below a link to nothing", [vec![l("opt/l", "n")], vec![f("opt/l/b")]]),
        row("directory over a link", [merged(), vec![d("lib"), f("lib/b")]]),
        row("link over a directory", [old(), vec![l("opt/d", "e")]]),
        row("file over a directory", [old(), vec![f("opt/d")]]),
        row("a file twice", [vec![g("opt/a", "1"), g("opt/a", "2").mode(0o600)]]),
        row("a directory twice", [vec![d("opt/d").mode(0o700), f("opt/d/a"), d("opt/d").mode(0o750)]]),
        row("a directory, then a file", [vec![d("opt/d"), f("opt/d/a"), f("opt/d")]]),
        row("a file, then a directory", [vec![f("opt/d"), d("opt/d"), f("opt/d/a")]]),
        row("a link, then a file", [vec![f("opt/t"), l("opt/a", "t"), g("opt/a", "new")]]),
        // umoci takes them for whiteouts and files; Docker and podman leave them out.
        row("leftovers of aufs", [vec![d(".wh..wh.plnk"), g(".wh..wh.aufs", ""), d(".wh..wh.orph"), f("opt/a")]])
            .but(&[".wh..wh.plnk", ".wh..wh.orph"]),
        row("owners", [vec![f("opt/a").owner(1000, 1000), d("opt/d").owner(65_534, 5), l("opt/l", "a").owner(7, 8)]]),
        row("large owners", [vec![f("opt/a").owner(2_097_152, 3), f("opt/b").pax("uid", "3000000").pax("gid", "70000")]]),
        row("modes", [vec![f("opt/a").mode(0o4755), d("opt/d").mode(0o1777), f("opt/b").mode(0o000), d("opt/e").mode(0o2755)]]),
        row(
            "times",
            [vec![Entry { mtime: 0, ..f("opt/a") }, f("opt/b").pax("mtime", "1700000000.9"), Entry { mtime: (1 << 33) - 1, ..f("opt/c") }]],
        ),
        row(
            "holes",
            [vec![
                Entry { data: "0123".to_owned(), ..f("opt/h") }
                    .pax("GNU.sparse.size", "4100")
                    .pax("GNU.sparse.numblocks", "1")
                    .pax("GNU.sparse.map", "4096,4"),
            ]],
        ),
    ]
}

struct Layout<'a>(&'a Path);

impl Layout<'_> {
    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let blobs = self.0.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("our own");
        fs::write(blobs.join(digest.to_string()), bytes).expect("our own");
        json!({ "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }

    fn typed(&self, kind: &str, value: &Value) -> Value {
        let mut entry = self.blob(value.to_string().as_bytes());
        entry["mediaType"] = kind.into();
        entry
    }

    fn image(&self, layers: &[Vec<Entry>], change: impl FnOnce(&mut Value)) -> Value {
        let mut layers: Vec<Vec<u8>> = layers.iter().map(|layer| tar(layer)).collect();
        layers.insert(0, tar(&[d("bin"), f("bin/x").mode(0o755), d("opt")]));
        let diffs: Vec<String> = layers.iter().map(|bytes| format!("sha256:{}", Digest::of(bytes))).collect();
        let mut config = json!({
            "architecture": silo_base::system::Arch::host().name(), "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/x"] },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        change(&mut config);
        let config = self.typed(&format!("{OCI}.config.v1+json"), &config);
        let layer = |bytes: &Vec<u8>| {
            let mut entry = self.blob(bytes);
            entry["mediaType"] = format!("{OCI}.layer.v1.tar").into();
            entry
        };
        let layers: Vec<Value> = layers.iter().map(layer).collect();
        let kind = format!("{OCI}.manifest.v1+json");
        self.typed(&kind, &json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers }))
    }

    fn list(&self, entries: Vec<Value>) -> Value {
        let kind = format!("{OCI}.index.v1+json");
        self.typed(&kind, &json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries }))
    }

    fn top(&self, entries: Vec<Value>) {
        let named = |mut entry: Value| {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "t" });
            entry
        };
        let entries: Vec<Value> = entries.into_iter().map(named).collect();
        fs::write(self.0.join("index.json"), json!({ "schemaVersion": 2, "manifests": entries }).to_string()).expect("our own");
        fs::write(self.0.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("our own");
    }
}

fn platform(mut entry: Value, arch: &str, variant: &str) -> Value {
    entry["platform"] = json!({ "architecture": arch, "os": "linux" });
    if !variant.is_empty() {
        entry["platform"]["variant"] = variant.into();
    }
    entry
}

type Written = Box<dyn Fn(&Layout<'_>)>;

/// Images that are odd beside their layers. All of them have `opt/right`.
fn written() -> Vec<(&'static str, Written)> {
    let host = silo_base::system::Arch::host().name();
    let other = if host == "amd64" { "arm64" } else { "amd64" };
    let right = |layout: &Layout<'_>| layout.image(&[vec![f("opt/right")]], |_| {});
    let wrong = |layout: &Layout<'_>| layout.image(&[vec![f("opt/wrong")]], |_| {});
    let absent =
        || json!({ "mediaType": format!("{OCI}.manifest.v1+json"), "digest": format!("sha256:{}", Digest::of(b"nothing")), "size": 300 });
    let artifact = |layout: &Layout<'_>| {
        let (config, mut layer) = (layout.blob(b"{}"), layout.blob(b"{\"_type\":\"x\"}"));
        layer["mediaType"] = "application/vnd.in-toto+json".into();
        let mut empty = config;
        empty["mediaType"] = "application/vnd.oci.empty.v1+json".into();
        let kind = format!("{OCI}.manifest.v1+json");
        layout.typed(&kind, &json!({ "schemaVersion": 2, "mediaType": kind, "artifactType": "application/vnd.in-toto+json", "config": empty, "layers": [layer] }))
    };
    let config = |change: fn(&mut Value)| -> Written {
        Box::new(move |layout: &Layout<'_>| layout.top(vec![layout.image(&[vec![f("opt/right")]], change)]))
    };
    vec![
        (
            "an index that names what is not there",
            Box::new(move |layout| {
                layout.top(vec![layout.list(vec![platform(right(layout), host, ""), platform(absent(), other, "")])]);
            }),
        ),
        (
            "what is not there comes first",
            Box::new(move |layout| {
                layout.top(vec![layout.list(vec![platform(absent(), other, ""), platform(right(layout), host, "")])]);
            }),
        ),
        (
            "variants",
            Box::new(move |layout| {
                layout.top(vec![layout.list(vec![platform(wrong(layout), host, "v9"), platform(right(layout), host, "")])]);
            }),
        ),
        (
            "an artifact without a platform, first",
            Box::new(move |layout| {
                layout.top(vec![layout.list(vec![artifact(layout), platform(right(layout), host, "")])]);
            }),
        ),
        (
            "an artifact without a platform, last",
            Box::new(move |layout| {
                layout.top(vec![layout.list(vec![platform(right(layout), host, ""), artifact(layout)])]);
            }),
        ),
        ("an index without platforms", Box::new(move |layout| layout.top(vec![layout.list(vec![right(layout)])]))),
        (
            "a configuration without an architecture",
            config(|config| drop(config.as_object_mut().map(|fields| fields.remove("architecture")))),
        ),
        ("a variable without a name", config(|config| config["config"]["Env"] = json!(["=C:=C:\\x", "PATH=/bin"]))),
        ("words that are no list", config(|config| config["config"]["Cmd"] = json!("/bin/x"))),
        ("a configuration without words", config(|config| config["config"] = Value::Null)),
    ]
}

/// The trees of skopeo and umoci for an image, if they accept it.
fn theirs(dir: &Path) -> Option<Facts> {
    let run = |program: &str, args: &[&str]| done(Command::new(program).args(args).current_dir(dir)).code == 0;
    let mut unpack = vec!["unpack", "--image", "flat:t", "bundle"];
    if !is_root() {
        unpack.insert(1, "--rootless");
    }
    let is_well = run("skopeo", &["copy", "--quiet", "--insecure-policy", "oci:layout:t", "oci:flat:t"]) && run("umoci", &unpack);
    is_well.then(|| made::tree(&dir.join("bundle/rootfs")))
}

/// Reduces a fact to the parts that must be equal; hard links are compared by their names within a tree.
fn told(path: &[u8], fact: &Fact, facts: &Facts) -> String {
    let mode = if fact.what.starts_with("symlink") { 0 } else { fact.mode };
    let owner = if is_root() { format!("{:?}", fact.owner) } else { String::new() };
    let mtime = if fact.what.starts_with("file") { fact.mtime } else { 0 };
    let is_link = fact.what.starts_with("symlink");
    let names: Vec<_> = facts
        .iter()
        .filter(|(other, fellow)| !is_link && fellow.first == fact.first && other.as_slice() != path)
        .map(|(name, _)| String::from_utf8_lossy(name))
        .collect();
    format!("{} {mode:o} {owner} {mtime} {names:?}", fact.what)
}

/// Mount points that every root of Silo has.
const SKELETON: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "root", "etc", "var"];

fn compare(name: &str, ours: &Facts, theirs: &Facts, otherwise: &[&str]) -> Option<String> {
    let list = |facts: &Facts, other: &Facts| -> BTreeMap<String, String> {
        let is_compared = |path: &[u8], fact: &Fact| {
            let text = String::from_utf8_lossy(path).into_owned();
            let is_own = fact.what == "dir" && SKELETON.contains(&text.as_str()) && !other.contains_key(path);
            !is_own && !otherwise.contains(&text.as_str())
        };
        facts
            .iter()
            .filter(|(path, fact)| is_compared(path, fact))
            .map(|(path, fact)| (String::from_utf8_lossy(path).into_owned(), told(path, fact, facts)))
            .collect()
    };
    let (ours, theirs) = (list(ours, theirs), list(theirs, ours));
    (ours != theirs).then(|| format!("{name}:\nsilo {ours:#?}\numoci {theirs:#?}"))
}

/// Installs the image of `layout` and returns its tree.
fn ours(silo: &Silo, name: &str) -> Facts {
    let dir = silo.project();
    let done = silo.run(["install", "--quiet", "xt", "--image", "oci:layout:t", "--shim", "x"]);
    assert_eq!(done.code, 0, "{name}: {done:?}");
    let _ = silo.ok(["export", "xt", "--rootfs", "x.tar"]);
    let bytes = fs::read(dir.join("x.tar")).expect("an export");
    let _ = silo.ok(["uninstall", "xt"]);
    for file in ["xt.toml", "xt.lock"] {
        fs::remove_file(silo.path(&format!("recipes/{file}"))).expect("the recipe");
    }
    made::theirs("tar", &bytes, &dir).unwrap_or_else(|| panic!("{name}: tar cannot unpack it"))
}

fn clear(dir: &Path) {
    for name in ["layout", "flat", "bundle"] {
        drop(silo_store::removal::remove_tree(&dir.join(name)));
    }
    drop(fs::remove_file(dir.join("x.tar")));
}

#[test]
fn images_are_the_trees_that_umoci_makes() {
    if !has("skopeo") || !has("umoci") {
        return skip("there is no skopeo or no umoci");
    }
    let silo = Silo::new();
    let dir = silo.project();
    let (mut compared, mut wrong) = (0, Vec::new());
    for row in rows() {
        clear(&dir);
        let layout = Layout(&dir.join("layout"));
        layout.top(vec![layout.image(&row.layers, |_| {})]);
        let own = ours(&silo, row.name);
        match theirs(&dir) {
            Some(theirs) => wrong.extend(compare(row.name, &own, &theirs, row.otherwise)),
            // podman takes these.
            None if UMOCI_REFUSES.contains(&row.name) => continue,
            None => wrong.push(format!("umoci cannot unpack {:?}", row.name)),
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 50, "{compared}");
}

/// Images that some versions of umoci refuse.
const UMOCI_REFUSES: [&str; 1] = ["global header"];

#[test]
fn documents_of_images_are_read_as_skopeo_reads_them() {
    if !has("skopeo") || !has("umoci") {
        return skip("there is no skopeo or no umoci");
    }
    let silo = Silo::new();
    let dir = silo.project();
    for (name, write) in written() {
        clear(&dir);
        write(&Layout(&dir.join("layout")));
        let own = ours(&silo, name);
        assert!(own.contains_key(&b"opt/right"[..]) && !own.contains_key(&b"opt/wrong"[..]), "{name}: {own:#?}");
        // Of variants skopeo takes the first.
        if let Some(theirs) = theirs(&dir).filter(|_| name != "variants") {
            assert_eq!(compare(name, &own, &theirs, &[]), None);
        }
    }
}

/// Omitted entries are reported.
#[test]
fn omitted_image_entries_are_reported() {
    let silo = Silo::new();
    let dir = silo.project();
    let layout = Layout(&dir.join("layout"));
    layout.top(vec![layout.image(&[vec![entry("dev/null", b'3'), entry("opt/p", b'6'), f("opt/a").pax("mtime", "-5")]], |_| {})]);
    let done = silo.run(["install", "xt", "--image", "oci:layout:t", "--shim", "x"]);
    assert!(done.code == 0 && done.err.contains("left out 2 device nodes and pipes: dev/null, opt/p"), "{done:?}");
    assert!(done.err.contains("clamped the times of 1 files"), "{done:?}");
}

/// The command of an image's run, for each form in a Dockerfile.
#[test]
fn entry_points_and_commands_are_what_docker_means() {
    let silo = Silo::new();
    let dir = silo.project();
    let base = crate::support::images::base();
    for (number, (entrypoint, cmd, words, expect)) in [
        (json!(["/bin/echo", "a"]), json!(["b", "c"]), &[][..], "a b c\n"),
        (json!(["/bin/echo", "a"]), json!(["b", "c"]), &["d"], "a d\n"),
        (json!(["/bin/echo", "a"]), Value::Null, &["d"], "a d\n"),
        (json!("/bin/pwd"), Value::Null, &[], "/"),
        // The shell form: arguments are those of the shell.
        (json!(["/bin/sh", "-c", "echo $0 shell"]), json!(["b"]), &[], "b shell\n"),
        (json!(["/bin/sh", "-c", "echo $0 shell"]), json!(["b"]), &["d"], "d shell\n"),
        (Value::Null, json!(["/bin/sh", "-c", "echo shell"]), &[], "shell\n"),
        (Value::Null, json!(["/bin/sh", "-c", "echo shell"]), &["/bin/echo", "d"], "d\n"),
        (Value::Null, json!(["sh", "-c", "echo shell"]), &["sh", "-c", "echo other"], "other\n"),
        (json!([]), json!(["sh"]), &["-c", "echo added"], "added\n"),
    ]
    .into_iter()
    .enumerate()
    {
        clear(&dir);
        let layout = Layout(&dir.join("layout"));
        let diff = format!("sha256:{}", Digest::of(&base));
        let config = json!({
            "architecture": silo_base::system::Arch::host().name(), "os": "linux", "rootfs": { "type": "layers", "diff_ids": [diff] },
            "config": { "Env": ["PATH=/usr/bin:/bin"], "Entrypoint": entrypoint, "Cmd": cmd },
        });
        let (config, mut layer) = (layout.typed(&format!("{OCI}.config.v1+json"), &config), layout.blob(&base));
        layer["mediaType"] = format!("{OCI}.layer.v1.tar").into();
        let kind = format!("{OCI}.manifest.v1+json");
        layout.top(vec![layout.typed(&kind, &json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] }))]);
        let tool = format!("tool{number}");
        let _ = silo.ok(["install", "--quiet", &tool, "--image", "oci:layout:t"]);
        let said = silo.ok(["run", tool.as_str()].iter().chain(words));
        assert!(said.contains(expect), "{entrypoint} {cmd} {words:?}: {said}");
    }
}
