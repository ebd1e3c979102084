//! Removes secrets and identities that packages generate when they are configured: keys, cookies, passwords, machine identities.
//!
//! All users of the image would share them, and no two builds of a lock would agree. Four rules find them among the files that a step made and
//! no package ships:
//!
//! * the file of a known secret ([`known_secrets`]), with any content: a random name may be short by chance;
//! * a private key in PEM form;
//! * a file that is not world-readable, if it is binary, or has a word that no input of the step has: no package's files, scripts or
//!   templates. A configuration file that a script copies or fills in consists of words from there; a key does not;
//! * a small text below /etc with a random UUID, or 32 hexadecimal digits, that no input has either.
//!
//! A certificate is removed with its key, and so are symlinks to either in the same directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::digest::LayerId;
use silo_store::layout::Store;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;
use silo_store::rewrite::rewrite;

use super::error::Error;
use super::known_secrets;
use super::scrub;
use super::select_packages::Unpacked;

/// Directories in which scripts generate files. Files below /usr belong to packages.
const PLACES: [&str; 5] = ["etc", "var", "root", "srv", "opt"];

/// Files that are not world-readable and have no generated content: accounts, logs, and the state of dpkg and debconf.
const KNOWN: [&str; 10] = [
    "etc/passwd-",
    "etc/group-",
    "etc/shadow",
    "etc/shadow-",
    "etc/gshadow",
    "etc/gshadow-",
    "var/log",
    "var/lib/dpkg",
    "var/cache/debconf",
    "var/mail",
];

/// Bytes of a file that are examined.
const LOOK_BYTES: u64 = 64 << 10;

/// Limit on the size of a text that may be an identity.
const IDENTITY_BYTES: usize = 4 << 10;

/// Shortest word that may be generated: the initiator names of iSCSI have twelve random hexadecimal digits.
const WORD_BYTES: usize = 12;

/// Limit on the size of a package's file that is searched for words.
const SOURCE_BYTES: u64 = 256 << 10;

/// Directories of packages without words that scripts use.
const PROSE: [&str; 4] = ["usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/"];

/// debconf's answers of type password.
const PASSWORDS: &str = "var/cache/debconf/passwords.dat";

/// Limit on their size; those of a whole distribution have a few KB.
const MAX_PASSWORDS_BYTES: u64 = 16 << 20;

/// Classification of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileClass {
    /// A private key.
    Key,
    /// A single certificate.
    Certificate,
    /// A text that is not world-readable; generated if no input has one of its words.
    Closed,
    /// A binary file that is not world-readable.
    Sealed,
    /// A text with identities; generated if no input has one of them.
    Identity,
    /// None of these.
    Plain,
}

/// Removes generated files from a step's changes; returns their paths, sorted.
pub(super) fn take_out(store: &Store, upper: &Path, packages: &[&Arc<Unpacked>]) -> Result<Vec<String>, Error> {
    blank_passwords(upper)?;
    let mut files = Vec::new();
    for place in PLACES {
        walk(upper, Path::new(place), &mut files)?;
    }
    let shipped = |path: &Path| {
        let path = LayerPath::parse(path.as_os_str().as_bytes()).ok();
        path.is_some_and(|path| packages.iter().any(|package| package.index.get(&path).is_some()))
    };
    // Files that are dropped anyway need no message.
    let is_kept = |path: &Path| scrub::judge(path.as_os_str().as_bytes()) == scrub::Verdict::Keep;
    files.retain(|path| is_kept(path) && !is_known(path) && !shipped(path));
    let has_secret =
        |path: &&PathBuf| known_secrets::ALL.iter().any(|known| **path == Path::new(known.path) && shipped(Path::new(known.marker)));
    let files_of_known_secrets = files.iter().filter(has_secret).cloned().collect();
    let mut guesses: BTreeMap<PathBuf, (FileClass, BTreeSet<Vec<u8>>)> = BTreeMap::new();
    for path in files {
        let whole = upper.join(&path);
        let meta = fs::symlink_metadata(&whole).map_err(|source| file_error("look at", &whole, source))?;
        let bytes = start_of(&whole).map_err(|source| file_error("read", &whole, source))?;
        let guess = guess(&path, meta.mode(), &bytes);
        if guess != FileClass::Plain {
            let words = if guess == FileClass::Identity { identities(&bytes) } else { words(&bytes) };
            guesses.insert(path, (guess, words));
        }
    }
    let wanted: BTreeSet<&[u8]> = guesses.values().flat_map(|(_, words)| words).map(Vec::as_slice).collect();
    let known = known_words(store, packages, &wanted);
    let has_unknown = |words: &BTreeSet<Vec<u8>>| words.iter().any(|word| !known.contains(word.as_slice()));
    let mut taken: BTreeSet<PathBuf> = files_of_known_secrets;
    for (path, (guess, words)) in &guesses {
        let is_made_up = match guess {
            FileClass::Sealed => true,
            FileClass::Key | FileClass::Closed | FileClass::Identity => has_unknown(words),
            FileClass::Certificate | FileClass::Plain => false,
        };
        if is_made_up {
            taken.insert(path.clone());
        }
    }
    if guesses.iter().any(|(path, (guess, _))| *guess == FileClass::Key && taken.contains(path)) {
        let certificates = guesses.iter().filter(|(_, (guess, words))| *guess == FileClass::Certificate && has_unknown(words));
        taken.extend(certificates.map(|(path, _)| path.clone()));
    }
    let links = links_to(upper, &taken)?;
    for path in taken.iter().chain(&links) {
        let whole = upper.join(path);
        fs::remove_file(&whole).map_err(|source| file_error("remove", &whole, source))?;
    }
    Ok(taken.iter().map(|path| format!("/{}", path.display())).collect())
}

/// Describes the removed files in one line.
pub(super) fn describe(paths: &[String]) -> String {
    const MOST: usize = 8;
    let more = if paths.len() > MOST { format!(" and {} more", paths.len() - MOST) } else { String::new() };
    format!(
        "not kept in the image: {}{more}; packages generated these keys and identities, and all users of the image would share them. `silo why` says which ones each sandbox gets at its start",
        paths[..paths.len().min(MOST)].join(", ")
    )
}

/// Removes the answers from debconf's passwords and keeps the questions.
fn blank_passwords(upper: &Path) -> Result<(), Error> {
    let failed = |source| file_error("change", &upper.join(PASSWORDS), source);
    let path = LayerPath::parse(PASSWORDS.as_bytes()).map_err(|error| failed(io::Error::other(error.to_string())))?;
    let blank = |line: &[u8]| if line.starts_with(b"Value: ") { b"Value: \n".to_vec() } else { line.to_vec() };
    let blanked = |text: &[u8]| Some(text.split_inclusive(|byte| *byte == b'\n').flat_map(blank).collect());
    rewrite(upper, &path, MAX_PASSWORDS_BYTES, blanked).map_err(failed)
}

/// Lists the regular, non-empty files below a directory of the changes.
fn walk(upper: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let whole = upper.join(dir);
    if !fs::symlink_metadata(&whole).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    let listing = match fs::read_dir(&whole) {
        Ok(listing) => listing,
        // The capture handles directories that cannot be read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(source) => return Err(file_error("list", &whole, source)),
    };
    for entry in listing {
        let entry = entry.map_err(|source| file_error("list", &whole, source))?;
        let meta = entry.metadata().map_err(|source| file_error("look at", &entry.path(), source))?;
        let path = dir.join(entry.file_name());
        if meta.is_dir() {
            walk(upper, &path, files)?;
        } else if meta.is_file() && meta.len() > 0 {
            files.push(path);
        }
    }
    Ok(())
}

fn is_known(path: &Path) -> bool {
    KNOWN.iter().any(|known| path.starts_with(known))
}

fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LOOK_BYTES).read_to_end(&mut bytes).map(|_| bytes),
        // The mode may keep even the owner out; then only the mode can be judged.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(bytes),
        Err(error) => Err(error),
    }
}

fn guess(path: &Path, mode: u32, bytes: &[u8]) -> FileClass {
    let count = |part: &[u8]| bytes.windows(part.len()).filter(|window| *window == part).count();
    // Only the start of a file is read, so its last character may be cut.
    let is_text = !bytes.contains(&0) && std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
    if is_text && count(b"PRIVATE KEY-----") > 0 {
        FileClass::Key
    } else if is_text && count(b"-----BEGIN CERTIFICATE-----") == 1 {
        FileClass::Certificate
    } else if mode & 0o004 == 0 {
        if is_text { FileClass::Closed } else { FileClass::Sealed }
    } else if is_text && bytes.len() <= IDENTITY_BYTES && path.starts_with("etc") && !identities(bytes).is_empty() {
        FileClass::Identity
    } else {
        FileClass::Plain
    }
}

/// Returns the words of a text that are long enough to be generated; none for a binary file. The padding of base64 at the end of a word
/// belongs to it; inside, `=` is between a key and its value, as in `dc=localdomain`.
fn words(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        return BTreeSet::new();
    }
    let words = bytes.split(|byte| !byte.is_ascii_alphanumeric() && !b"+=".contains(byte));
    let parts = words.flat_map(|word| {
        let value = word.iter().rposition(|byte| *byte != b'=').and_then(|end| word[..end].iter().rposition(|byte| *byte == b'='));
        let (keys, last) = value.map_or((&word[..0], word), |at| (&word[..at], &word[at + 1..]));
        keys.split(|byte| *byte == b'=').chain([last])
    });
    parts.filter(|word| word.len() >= WORD_BYTES).map(<[u8]>::to_vec).collect()
}

/// Returns the random UUIDs of a text, and its words of 32 hexadecimal digits.
fn identities(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    let words = bytes.split(|byte| !byte.is_ascii_hexdigit() && *byte != b'-');
    let is_identity = |word: &&[u8]| {
        let is_hex = |part: &[u8]| part.iter().all(u8::is_ascii_hexdigit);
        match word.len() {
            32 => is_hex(word) && word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic),
            36 => {
                let parts: Vec<&[u8]> = word.split(|byte| *byte == b'-').collect();
                parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(|part| is_hex(part)) && parts[2][0] == b'4'
            }
            _ => false,
        }
    };
    words.filter(is_identity).map(<[u8]>::to_vec).collect()
}

/// Returns those of the wanted words that occur in the packages' own files.
fn known_words<'w>(store: &Store, packages: &[&Arc<Unpacked>], wanted: &BTreeSet<&'w [u8]>) -> BTreeSet<&'w [u8]> {
    let mut known = BTreeSet::new();
    let mut layers: BTreeSet<LayerId> = BTreeSet::new();
    for package in packages.iter().filter(|package| layers.insert(package.record.layer)) {
        let tree = store.tree(&package.record.layer);
        for entry in package.index.entries() {
            let path = entry.path.as_bytes();
            if wanted.len() == known.len() {
                return known;
            }
            let silo_store::entry::Node::File { size, .. } = entry.node else { continue };
            if size > SOURCE_BYTES || PROSE.iter().any(|prose| path.starts_with(prose.as_bytes())) {
                continue;
            }
            // An unreadable file contributes no words.
            let Ok(bytes) = fs::read(tree.join(std::ffi::OsStr::from_bytes(path))) else { continue };
            let found = bytes.split(|byte| !byte.is_ascii_alphanumeric() && !b"+=-".contains(byte));
            for word in found.filter(|word| word.len() >= WORD_BYTES) {
                known.extend(wanted.get(word).copied());
                for part in word.split(|byte| *byte == b'-') {
                    known.extend(wanted.get(part).copied());
                }
            }
        }
    }
    known
}

/// Finds symlinks in the directory of a removed file that point to it by its bare name.
fn links_to(upper: &Path, taken: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let mut links = Vec::new();
    let dirs: BTreeSet<&Path> = taken.iter().filter_map(|path| path.parent()).collect();
    for dir in dirs {
        let whole = upper.join(dir);
        for entry in fs::read_dir(&whole).map_err(|source| file_error("list", &whole, source))? {
            let entry = entry.map_err(|source| file_error("list", &whole, source))?;
            let target = fs::read_link(entry.path()).ok().filter(|target| taken.contains(&dir.join(target)));
            links.extend(target.map(|_| dir.join(entry.file_name())));
        }
    }
    Ok(links)
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File(PathError { doing, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_kinds_are_guessed_by_contents() {
        for (path, mode, text, expect) in [
            ("etc/x.key", 0o644, "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n", FileClass::Key),
            ("etc/x.pem", 0o644, "-----BEGIN CERTIFICATE-----\nMIIEvQIBADANBgkq\n", FileClass::Certificate),
            ("etc/bundle", 0o644, "-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n", FileClass::Plain),
            ("etc/x.conf", 0o640, "anything", FileClass::Closed),
            ("etc/x.conf", 0o644, "anything", FileClass::Plain),
            ("etc/munge/munge.key", 0o400, "\0\u{1}", FileClass::Sealed),
            ("etc/nvme/hostid", 0o644, "2cd2c43b-a90a-4af1-a8cd-86b9f50d6d00\n", FileClass::Identity),
            ("etc/fixed", 0o644, "2cd2c43b-a90a-1af1-a8cd-86b9f50d6d00\n", FileClass::Plain),
            ("etc/popcon.conf", 0o644, "MY_HOSTID=\"0123456789abcdef0123456789abcdef\"\n", FileClass::Identity),
            ("var/lib/ucf/hashfile", 0o644, "0123456789abcdef0123456789abcdef  /etc/x\n", FileClass::Plain),
        ] {
            assert_eq!(guess(Path::new(path), mode, text.as_bytes()), expect, "{path} {text}");
        }
    }

    #[test]
    fn words_are_long_runs_of_letters_and_digits() {
        let all = |text: &str| words(text.as_bytes()).into_iter().map(|word| String::from_utf8(word).expect("ASCII")).collect::<Vec<_>>();
        assert_eq!(all("secret \"q1w2e3r4t5y6u7i8o9p0+=\"; short; a-long-name-of-parts"), ["q1w2e3r4t5y6u7i8o9p0+="]);
        assert_eq!(all("iqn.1993-08.org.debian:01:4d2a5b6c7d8e"), ["4d2a5b6c7d8e"]);
        assert!(all("base dc=localdomain\nbase ou=dc=localdomain").is_empty());
        assert_eq!(all("password=q1w2e3r4t5y6u7== == ="), ["q1w2e3r4t5y6u7=="]);
        assert!(all("password = \nuser = nobody\n").is_empty());
        assert!(words(b"\0\x01binary0123456789").is_empty());
    }

    #[test]
    fn passwords_are_blank_and_their_questions_stay() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join(PASSWORDS);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, "Name: a/b\nTemplate: a/b\nValue: hunter2\nOwners: a\n\nName: c/d\nValue: \n").expect("written");
        blank_passwords(place.path()).expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("there"), "Name: a/b\nTemplate: a/b\nValue: \nOwners: a\n\nName: c/d\nValue: \n");
        // A script that puts a symlink in place of the directory changes no file elsewhere.
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("made");
        fs::write(elsewhere.join("passwords.dat"), "Value: hunter2\n").expect("written");
        fs::remove_dir_all(path.parent().expect("a parent")).expect("removed");
        std::os::unix::fs::symlink(&elsewhere, path.parent().expect("a parent")).expect("linked");
        blank_passwords(place.path()).expect("nothing to change");
        assert_eq!(fs::read_to_string(elsewhere.join("passwords.dat")).expect("there"), "Value: hunter2\n");
    }
}
