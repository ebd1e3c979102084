//! The caller's time zone, as data: images have no time zones, or their own.
//!
//! The zone is the one of `TZ`, or else the host's. Programs find it at `/etc/localtime`, by name in `/etc/timezone` and in
//! `/usr/share/zoneinfo`, and in `TZ` where the caller has that. A path of the host is never passed: only the name below
//! `zoneinfo`, and the file's bytes.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use silo_store::{read_limited, resolve_in_root};

use silo_launch::spec::{Bytes, File, SYMLINK};

use super::environment::Environment;

/// The most bytes of a zone's file; the largest has about 4,000.
const MAX_BYTES: u64 = 64 << 10;
/// The most bytes of a zone's name, or of a rule in `TZ`.
const MAX_NAME_BYTES: usize = 64;
/// The directory of zones of an image.
const ZONES: &str = "/usr/share/zoneinfo";
const VARIABLE: &str = "TZ";

/// The host's files about time zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The zone of the host.
    pub localtime: PathBuf,
    /// Directories with a file a zone.
    pub zones: Vec<PathBuf>,
}

/// Returns the files of the caller's zone, and sets `TZ` where the caller has it. A `TZ` that is set for the run counts instead.
pub fn zone_files(asked: Option<&OsStr>, host: &Host, root: &Path, env: &mut Environment) -> Vec<File> {
    if let Some(set) = env.get(OsStr::new(VARIABLE)) {
        let name = set.to_str().map(bare).filter(|name| is_name(name) && !has(root, name));
        return name.and_then(|name| Some(vec![zone(name, host.zone_file(name)?)])).unwrap_or_default();
    }
    let Some(asked) = asked else { return local(&host.localtime, root) };
    let Some(text) = asked.to_str().map(bare) else { return Vec::new() };
    let mut set = |text: &str| env.insert(VARIABLE.into(), OsString::from(text));
    if Path::new(text).is_absolute() {
        return local(Path::new(text), root);
    }
    match host.zone_file(text).filter(|_| is_name(text)) {
        Some(bytes) => {
            set(text);
            files(Some(text), bytes, root)
        }
        // A rule, such as CET-1CEST, needs no file; without one, an empty or unknown zone is UTC.
        None => {
            if text.is_empty() || is_rule(text) {
                set(text);
            }
            Vec::new()
        }
    }
}

impl Host {
    /// Reads the zone of a name, which the caller has checked.
    fn zone_file(&self, name: &str) -> Option<Vec<u8>> {
        self.zones.iter().filter(|_| is_name(name)).find_map(|dir| read(&dir.join(name)))
    }
}

/// Returns the files of a zone that is at a path; its name is the end of that path, or of the one to which its link leads.
fn local(path: &Path, root: &Path) -> Vec<File> {
    let Some(bytes) = read(path) else { return Vec::new() };
    let named = |path: &Path| path.to_str().and_then(|path| path.rsplit_once("/zoneinfo/")).map(|(_, name)| name.to_owned());
    let links = [Some(path.to_owned()), std::fs::read_link(path).ok(), std::fs::canonicalize(path).ok()];
    let name = links.iter().flatten().find_map(|path| named(path)).filter(|name| is_name(name));
    files(name.as_deref(), bytes, root)
}

fn files(name: Option<&str>, bytes: Vec<u8>, root: &Path) -> Vec<File> {
    let file = |guest: &str, bytes: Vec<u8>, mode| File { guest: guest.into(), bytes: Bytes(bytes), mode };
    let Some(name) = name else { return vec![file("/etc/localtime", bytes, 0o644)] };
    let link = file("/etc/localtime", format!("{ZONES}/{name}").into_bytes(), SYMLINK);
    let mut files = vec![link, file("/etc/timezone", format!("{name}\n").into_bytes(), 0o644)];
    if !has(root, name) {
        files.push(zone(name, bytes));
    }
    files
}

fn zone(name: &str, bytes: Vec<u8>) -> File {
    File { guest: Path::new(ZONES).join(name), bytes: Bytes(bytes), mode: 0o644 }
}

/// Says whether an image has a zone.
fn has(root: &Path, name: &str) -> bool {
    resolve_in_root::read(root, &Path::new(ZONES.trim_start_matches('/')).join(name), MAX_BYTES).is_ok()
}

/// Reads a file that is a compiled time zone, and nothing else.
fn read(path: &Path) -> Option<Vec<u8>> {
    read_limited::read(path, MAX_BYTES).ok().filter(|bytes| bytes.starts_with(b"TZif") && bytes.len() >= 44)
}

/// Returns the value of `TZ` without the colon that may come first.
fn bare(text: &str) -> &str {
    text.strip_prefix(':').unwrap_or(text)
}

fn is_name(name: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_+.".contains(letter);
    let is_part = |part: &str| part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.chars().all(is_plain);
    name.len() <= MAX_NAME_BYTES && name.split('/').all(is_part)
}

/// Says whether a value of `TZ` is a rule as in POSIX: it begins with a zone's abbreviation, and has a number.
fn is_rule(text: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "+-,./:<>".contains(letter);
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '<')
        && text.contains(|letter: char| letter.is_ascii_digit())
        && text.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A host in Europe/Paris that also knows Asia/Tokyo.
    fn host(dir: &Path) -> Host {
        let zones = dir.join("usr/share/zoneinfo");
        let zone = |name: &str| {
            let path = zones.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("our own directory");
            fs::write(path, format!("TZif2{:50}{name}", "")).expect("our own file");
        };
        zone("Europe/Paris");
        zone("Asia/Tokyo");
        fs::write(zones.join("secret"), "secret").expect("our own file");
        fs::create_dir(dir.join("etc")).expect("our own directory");
        symlink("../usr/share/zoneinfo/Europe/Paris", dir.join("etc/localtime")).expect("our own directory");
        Host { localtime: dir.join("etc/localtime"), zones: vec![zones] }
    }

    #[test]
    fn the_zone_is_that_of_the_caller() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, machine) = (dir.path().join("root"), dir.path().join("machine"));
        fs::create_dir(&root).expect("our own directory");
        let host = host(&machine);
        let outcome = |asked: Option<&str>, set: Option<&str>| {
            let mut env = Environment::new();
            env.extend(set.map(|set| (VARIABLE.into(), set.into())));
            let files = zone_files(asked.map(OsStr::new), &host, &root, &mut env);
            let text =
                |file: &File| format!("{} {}", file.guest.display(), String::from_utf8_lossy(&file.bytes.0).replace(' ', "").trim_end());
            (env.get(OsStr::new(VARIABLE)).map(|tz| tz.to_string_lossy().into_owned()), files.iter().map(text).collect::<Vec<_>>())
        };
        let of = |name: &str| {
            let lines = [("/etc/localtime", format!("{ZONES}/{name}")), ("/etc/timezone", name.to_owned())];
            let mut lines: Vec<String> = lines.iter().map(|(guest, text)| format!("{guest} {text}")).collect();
            lines.push(format!("{ZONES}/{name} TZif2{name}"));
            lines
        };
        let tz = |text: &str| Some(text.to_owned());
        assert_eq!(outcome(None, None), (None, of("Europe/Paris")));
        for asked in ["Asia/Tokyo", ":Asia/Tokyo"] {
            assert_eq!(outcome(Some(asked), None), (tz("Asia/Tokyo"), of("Asia/Tokyo")));
        }
        let path = machine.join("usr/share/zoneinfo/Asia/Tokyo");
        assert_eq!(outcome(path.to_str(), None), (None, of("Asia/Tokyo")), "no path of the host");
        // A file elsewhere has no name, and what is no zone is not passed.
        let own = machine.join("own");
        fs::write(&own, format!("TZif2{:50}own", "")).expect("our own file");
        assert_eq!(outcome(own.to_str(), None), (None, vec!["/etc/localtime TZif2own".to_owned()]));
        for asked in ["secret", "../zoneinfo/Asia/Tokyo", "/etc/passwd", "Mars/Base", "a b1", "-x1"] {
            assert_eq!(outcome(Some(asked), None), (None, vec![]), "{asked}");
        }
        for rule in ["CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT", "<+03>-3", ""] {
            assert_eq!(outcome(Some(rule), None), (tz(rule), vec![]));
        }
        // What the settings say counts, with the host's file where the image has none.
        assert_eq!(outcome(Some("Asia/Tokyo"), Some("UTC")), (tz("UTC"), vec![]));
        let tokyo = format!("{ZONES}/Asia/Tokyo TZif2Asia/Tokyo");
        assert_eq!(outcome(None, Some("Asia/Tokyo")), (tz("Asia/Tokyo"), vec![tokyo]));
        let in_image = root.join("usr/share/zoneinfo/Asia/Tokyo");
        fs::create_dir_all(in_image.parent().expect("it has one")).expect("our own directory");
        fs::write(in_image, "TZif of the image").expect("our own file");
        assert_eq!(outcome(None, Some("Asia/Tokyo")), (tz("Asia/Tokyo"), vec![]));
        assert_eq!(outcome(Some("Asia/Tokyo"), None).1, of("Asia/Tokyo")[..2]);
    }

    #[test]
    fn a_host_without_a_zone_has_none() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(zone_files(None, &Host::default(), dir.path(), &mut Environment::new()), []);
    }
}
