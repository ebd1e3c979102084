//! The oracle: from the same packages mmdebstrap, which is Debian's own tools and nothing else, makes the same root.
//!
//! Every entry is compared: path, kind, mode, owner, link target, contents, names of one file, capabilities and other
//! attributes, and a file's time. `oracle/differences.toml` lists the allowed differences with reasons; a rule there that matches
//! nothing any more fails the test too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use silo_store::digest::Digest;
use silo_store::entry::{Kind, Node};
use silo_store::index::Index;
use silo_store::normal;
use silo_store::path::LayerPath;

use crate::support::mmdebstrap::{Mirror, Order, Way};
use crate::support::{self, As, Silo};

/// An entry, in terms that both sides can express.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    /// A file's time; those of directories and links are constant in Silo.
    time: Option<i64>,
    content: Option<Digest>,
    target: Option<String>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of a file that has several.
    first: Option<LayerPath>,
}

/// The property in which two entries differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    OnlySilo,
    OnlyMmdebstrap,
    Kind,
    Mode,
    Owner,
    Time,
    Content,
    Target,
    Attributes,
    Names,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Differences {
    difference: Vec<Difference>,
}

/// Differences that are as they should be.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Paths; `*` matches any part of one name, `/**` at the end everything inside.
    paths: Vec<String>,
    how: How,
    reason: String,
    /// The suites, tools or sets (`SUITE/PACKAGE`) that it is about; `sets` means all sets. Without any, it is about all.
    #[serde(default)]
    suites: Vec<String>,
}

type Entries = BTreeMap<LayerPath, Seen>;

#[test]
fn mmdebstrap_makes_the_same_root() {
    if !can_compare() {
        return;
    }
    let silo = Silo::shared(As::Me);
    let used = compare(&silo, "python", &[]);
    let rules = rules();
    let is_about = |rule: &Difference| rule.suites.is_empty() || rule.suites.iter().any(|of| of == "python");
    let unused = rules.difference.iter().enumerate().filter(|(number, rule)| is_about(rule) && !used.contains(number));
    let unused: Vec<&str> = unused.map(|(_, rule)| rule.reason.as_str()).collect();
    assert!(unused.is_empty(), "differences that are no more: {unused:#?}");
}

#[test]
fn mmdebstrap_makes_the_same_root_of_bookworm() {
    same_root_of("bookworm");
}

#[test]
fn mmdebstrap_makes_the_same_root_of_bullseye() {
    same_root_of("bullseye");
}

/// Links into /usr with which mmdebstrap begins a root of a suite before trixie.
pub const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

#[test]
fn mmdebstrap_makes_the_same_root_with_a_foreign_architecture() {
    if !can_compare() || !cfg!(target_arch = "x86_64") {
        return;
    }
    for (suites, links) in [(&["trixie", "sid"][..], &[][..]), (&["bookworm"], &MERGED[..])] {
        let silo = Silo::new();
        silo.seed_downloads();
        // Libraries of both architectures with scripts, triggers and shared files, and a program.
        let glib = if suites == ["bookworm"] { "libglib2.0-0" } else { "libglib2.0-0t64" };
        let packages = format!(r#"["hello:i386", "zlib1g", "zlib1g:i386", "{glib}", "{glib}:i386", "libpam-modules:i386"]"#);
        if crate::foreign::install_i386(&silo, "i386", suites, &packages, "") {
            compare(&silo, "i386", links);
            let lists = fs::read_to_string(silo.image_root("i386").join("var/lib/dpkg/arch")).expect("dpkg's list of architectures");
            assert_eq!(lists, "amd64\ni386\n");
        }
    }
}

/// Compares a root of a suite with packages that ship files in /bin, /sbin and /lib. mmdebstrap merges /usr only through a hook that
/// creates the links, as its own hooks and debootstrap do.
fn same_root_of(suite: &'static str) {
    if !can_compare() {
        return;
    }
    let silo = Silo::new();
    silo.seed_downloads();
    // Scripts, alternatives, triggers, questions and caches, in a few packages.
    let packages = r#"["python3", "ca-certificates", "locales", "tzdata", "vim-tiny", "kmod", "iproute2"]"#;
    silo.write(
        &format!(".silo/recipes/{suite}.toml"),
        &format!("command = [\"sh\"]\n[debian]\nsuite = \"{suite}\"\npackages = {packages}\n"),
    );
    silo.ok(["install", "--quiet", suite]);
    silo.offer_downloads();
    let used = compare(&silo, suite, &MERGED);
    let rules = rules();
    let unused =
        rules.difference.iter().enumerate().filter(|(number, rule)| rule.suites.iter().any(|of| of == suite) && !used.contains(number));
    let unused: Vec<&str> = unused.map(|(_, rule)| rule.reason.as_str()).collect();
    assert!(unused.is_empty(), "differences that are no more: {unused:#?}");
}

pub fn can_compare() -> bool {
    if !support::has("mmdebstrap") {
        support::skip("mmdebstrap is not installed");
        return false;
    }
    if !support::is_root() {
        support::skip("mmdebstrap's root mode, in which owners are true, needs root");
        return false;
    }
    true
}

fn rules() -> Differences {
    toml::from_str(include_str!("oracle/differences.toml")).expect("the list of differences")
}

/// Fails where an image differs from mmdebstrap's root of the same packages in a way that no rule allows; returns the rules that were
/// needed. mmdebstrap begins with `links` into /usr.
fn compare(silo: &Silo, tool: &str, links: &[&str]) -> BTreeSet<usize> {
    let (used, left) = compared(silo, tool, &[tool], Order::Together, links);
    assert!(left.is_empty(), "silo's root differs from mmdebstrap's:\n{left}");
    used
}

/// Takes a file apart into lines that are compared as a set.
type Lines = fn(&str) -> Vec<String>;

/// Lists in which a rule allows other contents; the function returns the lines that must be equal.
const LISTS: [(&str, Lines); 6] = [
    // The order of awaited paths is that of unpacking.
    ("var/lib/dpkg/triggers/File", sorted),
    ("var/lib/dpkg/status", stanzas),
    // The order of accounts is that of configuring, and each tool adds a line at another place.
    ("etc/passwd", sorted),
    ("etc/group", sorted),
    ("etc/shadow", sorted),
    ("etc/gshadow", sorted),
];

fn sorted(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

/// dpkg's stanzas, without spaces at the ends of lines and configuration files that packages no longer have.
fn stanzas(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.ends_with(" newconffile remove-on-upgrade")).collect()
}

/// Compares the roots; `about` selects the rules. Returns the rules that were needed, and the differences that none allows. If mmdebstrap
/// fails, its errors are the difference.
pub fn compared(silo: &Silo, tool: &str, about: &[&str], order: Order, links: &[&str]) -> (BTreeSet<usize>, String) {
    let installed = silo.installed(tool);
    let place = Silo::new();
    let root = place.project().join("root");
    let mut command = Mirror::of(silo, &installed, &place.project()).mmdebstrap(&root, Way::Copied, order, links);
    let made = support::done(&mut command);
    if made.code != 0 {
        return (BTreeSet::new(), format!("mmdebstrap failed with exit code {}:\n{}", made.code, errors(&made.err)));
    }
    let mut left = String::new();
    for (path, lines) in LISTS {
        // A root may have no awaited paths or accounts.
        let text = |root: &Path| fs::read_to_string(root.join(path)).unwrap_or_default();
        let (ours, theirs) = (text(&installed.root), text(&root));
        let (ours, theirs) = (lines(&ours), lines(&theirs));
        if ours != theirs {
            let only = |ours: &[String], theirs: &[String]| ours.iter().find(|line| !theirs.contains(line)).cloned();
            let told = format!("{:?} / {:?}", only(&ours, &theirs), only(&theirs, &ours));
            writeln!(left, "{path}: other lines, {told}").expect("writing to a string cannot fail");
        }
    }
    let (ours, theirs) = (composed(&installed.index), walked(&root, installed.image.epoch));
    let rules = rules();
    let mut used = BTreeSet::new();
    for (path, how, told) in differences(&ours, &theirs) {
        let allowed = |rule: &Difference| rule.suites.is_empty() || rule.suites.iter().any(|of| about.contains(&of.as_str()));
        let fits = |rule: &Difference| allowed(rule) && rule.how == how && rule.paths.iter().any(|pattern| matches(pattern, &path));
        match rules.difference.iter().position(fits) {
            Some(rule) => drop(used.insert(rule)),
            None => writeln!(left, "{path}: {how:?} {told}").expect("writing to a string cannot fail"),
        }
    }
    if let Some(keep) = std::env::var_os("SILO_ORACLE_KEEP").filter(|_| !left.is_empty()) {
        keep_root(&root, &Path::new(&keep).join(tool));
    }
    (used, left)
}

/// Moves mmdebstrap's root to a place of its own, to look at its differences.
fn keep_root(root: &Path, to: &Path) {
    // The root of an earlier run, if there is one.
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to.parent().expect("a directory for roots")).expect("a directory for roots");
    fs::rename(root, to).expect("a directory on the same disk");
}

/// The last lines of a program's output that tell of an error, shortened.
fn errors(output: &str) -> String {
    let tells = |line: &&str| ["error", "E: ", "failed", "returned"].iter().any(|word| line.contains(word));
    let lines: Vec<String> = output.lines().filter(tells).map(|line| line.chars().take(200).collect()).collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// The reasons of the rules that are about a set alone, and whether such a rule was not needed.
pub fn reasons_of(set: &str, used: &BTreeSet<usize>) -> (Vec<String>, Vec<String>) {
    let of_set = rules().difference.into_iter().enumerate().filter(|(_, rule)| rule.suites.iter().any(|of| of == set));
    let (needed, unneeded): (Vec<_>, Vec<_>) = of_set.partition(|(number, _)| used.contains(number));
    let texts = |rules: Vec<(usize, Difference)>| rules.into_iter().map(|(_, rule)| rule.reason).collect();
    (texts(needed), texts(unneeded))
}

/// The entries of an image.
fn composed(index: &Index) -> Entries {
    let mut names: BTreeMap<&LayerPath, usize> = BTreeMap::new();
    for entry in index.entries() {
        if let Node::Hardlink { to } = &entry.node {
            *names.entry(to).or_insert(1) += 1;
        }
    }
    let seen = index.entries().iter().map(|entry| {
        let file = index.resolve(&entry.path).expect("the entry is there");
        let is_file = file.node.kind() == Kind::File;
        let seen = Seen {
            kind: match file.node.kind() {
                Kind::Dir => "directory",
                Kind::Symlink => "link",
                Kind::File | Kind::Hardlink => "file",
                Kind::Whiteout => "whiteout",
            },
            mode: entry.meta.mode,
            owner: (entry.meta.uid, entry.meta.gid),
            time: is_file.then_some(entry.meta.mtime),
            content: if let Node::File { digest, .. } = &file.node { Some(*digest) } else { None },
            target: if let Node::Symlink { target } = &file.node { Some(String::from_utf8_lossy(target).into_owned()) } else { None },
            attributes: entry.meta.xattrs.clone(),
            first: names.contains_key(&file.path).then(|| file.path.clone()),
        };
        (entry.path.clone(), seen)
    });
    seen.collect()
}

/// Reads a root on disk.
fn walked(root: &Path, epoch: i64) -> Entries {
    let mut entries = Entries::new();
    let mut inodes: BTreeMap<LayerPath, u64> = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the root") {
            let host = entry.expect("a directory of the root").path();
            let below = host.strip_prefix(root).expect("below the root");
            let path = LayerPath::parse(below.as_os_str().as_bytes()).expect("a plain path");
            let meta = fs::symlink_metadata(&host).expect("an entry of the root");
            if meta.is_dir() {
                dirs.push(host.clone());
            }
            if meta.is_file() && meta.nlink() > 1 {
                inodes.insert(path.clone(), meta.ino());
            }
            entries.insert(path, look(&host, &meta, epoch));
        }
    }
    let mut first: BTreeMap<u64, &LayerPath> = BTreeMap::new();
    for (path, inode) in &inodes {
        let name = *first.entry(*inode).or_insert(path);
        entries.get_mut(path).expect("it was seen").first = Some(name.clone());
    }
    entries
}

fn look(host: &Path, meta: &fs::Metadata, epoch: i64) -> Seen {
    let (kind, layer_kind) = match () {
        () if meta.is_dir() => ("directory", Kind::Dir),
        () if meta.is_symlink() => ("link", Kind::Symlink),
        () if meta.is_file() => ("file", Kind::File),
        () => ("device, pipe or socket", Kind::Whiteout),
    };
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(host, &mut names[..]).expect("the names of attributes");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let attributes = names.filter_map(|name| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(host, name, &mut value[..]).expect("an attribute");
        // Labels and the like are the machine's, not the packages'.
        Some((name.to_vec(), normal::xattr(layer_kind, name, &value[..length])?))
    });
    Seen {
        kind,
        mode: if meta.is_symlink() { 0o777 } else { meta.mode() & 0o7777 },
        owner: (meta.uid(), meta.gid()),
        time: meta.is_file().then(|| normal::clamp(meta.mtime(), epoch)),
        content: meta.is_file().then(|| Digest::of(&fs::read(host).expect("a file of the root"))),
        target: meta.is_symlink().then(|| fs::read_link(host).expect("a link of the root").to_string_lossy().into_owned()),
        attributes: attributes.collect(),
        first: None,
    }
}

fn differences(ours: &Entries, theirs: &Entries) -> Vec<(String, How, String)> {
    let mut found = Vec::new();
    let paths: BTreeSet<&LayerPath> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let mut tell = |how, told: String| found.push((path.to_string(), how, told));
        let (a, b) = match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) => (a, b),
            (Some(a), None) => {
                tell(How::OnlySilo, a.kind.to_owned());
                continue;
            }
            (_, b) => {
                tell(How::OnlyMmdebstrap, b.map_or("", |b| b.kind).to_owned());
                continue;
            }
        };
        let mut compare = |how, same: bool, told: String| {
            if !same {
                tell(how, told);
            }
        };
        compare(How::Kind, a.kind == b.kind, format!("{} / {}", a.kind, b.kind));
        compare(How::Mode, a.mode == b.mode, format!("{:o} / {:o}", a.mode, b.mode));
        compare(How::Owner, a.owner == b.owner, format!("{:?} / {:?}", a.owner, b.owner));
        compare(How::Time, a.time == b.time, format!("{:?} / {:?}", a.time, b.time));
        compare(How::Content, a.content == b.content, format!("{:?} / {:?}", a.content, b.content));
        compare(How::Target, a.target == b.target, format!("{:?} / {:?}", a.target, b.target));
        compare(How::Attributes, a.attributes == b.attributes, format!("{:?} / {:?}", a.attributes, b.attributes));
        compare(How::Names, a.first == b.first, format!("{:?} / {:?}", a.first, b.first));
    }
    found
}

fn matches(pattern: &str, path: &str) -> bool {
    if let Some(dir) = pattern.strip_suffix("/**") {
        return path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    }
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) => {
                let same = match pattern.split_once('*') {
                    None => pattern == part,
                    Some((head, tail)) => part.len() >= head.len() + tail.len() && part.starts_with(head) && part.ends_with(tail),
                };
                if !same {
                    return false;
                }
            }
            _ => return false,
        }
    }
}
