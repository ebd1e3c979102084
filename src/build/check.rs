//! Building again in other circumstances, and saying what came out otherwise, where, and probably why.
//!
//! The second run has one processor, another umask, time zone and locale of the host, later clocks, and
//! changes that are caught in memory, where directories list in another order. What the sandbox hides from a step cannot
//! show; what it cannot hide must not show.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use silo_store::difference::{Change, Difference, differences};
use silo_store::digest::LayerId;
use silo_store::entry::{Kind, Node};
use silo_store::path::LayerPath;

use super::scripted::Unpacked;
use super::{Error, Workshop, read_index};

/// Largest file that is looked into for a cause.
const MAX_LOOK_BYTES: u64 = 16 << 20;

/// How far a number may be from the time of a build to be taken for it.
const NEAR_SECS: i64 = 2 * 86_400;

/// What a check finds out.
#[derive(Debug)]
pub struct Check {
    /// A directory in memory for the second run's changes, where there is one.
    pub memory: Option<PathBuf>,
    /// What was run twice.
    pub ran: Mutex<Vec<String>>,
    /// What came out otherwise.
    pub findings: Mutex<Vec<Finding>>,
}

/// A path that came out otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was run.
    pub step: String,
    /// The path and how it differs.
    pub difference: Difference,
    /// The package whose file it is or whose script names it.
    pub package: Option<String>,
    /// Why, probably.
    pub cause: &'static str,
}

impl Check {
    /// Prepares a check; `memory` is a directory of a file system in memory, if the machine has one.
    pub fn new(memory: Option<PathBuf>) -> Check {
        Check { memory, ran: Mutex::default(), findings: Mutex::default() }
    }

    /// Compares what a step came to the first and the second time.
    pub(super) fn compare(
        &self,
        shop: &Workshop<'_>,
        step: &str,
        (first, second): (LayerId, LayerId),
        present: &[Arc<Unpacked>],
    ) -> Result<(), Error> {
        self.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(step.to_owned());
        if first == second {
            return Ok(());
        }
        let (old, new) = (read_index(shop, first)?, read_index(shop, second)?);
        let trees = (shop.store.tree(&first), shop.store.tree(&second));
        let found = differences(&old, &new).into_iter().map(|difference| {
            let is_file =
                |index: &silo_store::index::Index| index.get(&difference.path).is_some_and(|entry| entry.node.kind() == Kind::File);
            let link = |index: &silo_store::index::Index| match index.get(&difference.path).map(|entry| entry.node.clone()) {
                Some(Node::Symlink { target }) => Some(target),
                _ => None,
            };
            let contents = match (link(&old), link(&new)) {
                (Some(old), Some(new)) => Some((old, new)),
                _ if is_file(&old) && is_file(&new) => look(&trees.0, &difference.path).zip(look(&trees.1, &difference.path)),
                _ => None,
            };
            let cause = cause(&difference, contents.as_ref().map(|(old, new)| (old.as_slice(), new.as_slice())), shop.now);
            let package = package_of(shop, present, &difference.path);
            Finding { step: step.to_owned(), difference, package, cause }
        });
        self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(found);
        Ok(())
    }
}

/// Waits until a clock that shows seconds shows another one than now, when the first run has ended.
pub(super) fn wait_for_another_second() {
    const SECOND: Duration = Duration::from_millis(1100);
    thread::sleep(SECOND);
}

fn look(tree: &Path, path: &LayerPath) -> Option<Vec<u8>> {
    let file = tree.join(path.as_path());
    let meta = fs::symlink_metadata(&file).ok()?;
    if meta.is_file() && meta.len() <= MAX_LOOK_BYTES { fs::read(file).ok() } else { None }
}

/// The package that holds a path, else the one whose maintainer script names it.
fn package_of(shop: &Workshop<'_>, present: &[Arc<Unpacked>], path: &LayerPath) -> Option<String> {
    if let Some(owner) = present.iter().find(|package| package.index.get(path).is_some_and(|entry| entry.node.kind() != Kind::Dir)) {
        return Some(owner.name().to_owned());
    }
    let named = format!("/{path}");
    let scripts = ["postinst", "preinst"];
    let names_it = |package: &&Arc<Unpacked>| {
        let info = shop.store.tree(&package.record.layer).join(crate::unpack::record::INFO);
        scripts.iter().filter(|script| package.record.members.contains(**script)).any(|script| {
            let text = fs::read(info.join(format!("{}.{script}", package.record.stanza.info_base()))).unwrap_or_default();
            text.windows(named.len()).any(|window| window == named.as_bytes())
        })
    };
    present.iter().find(names_it).map(|package| package.name().to_owned())
}

/// Says why a path probably differs.
fn cause(difference: &Difference, contents: Option<(&[u8], &[u8])>, now: i64) -> &'static str {
    let aspects = match &difference.change {
        Change::Added | Change::Removed => return "it is made only sometimes, or under a name that changes",
        Change::Changed(aspects) => aspects,
    };
    if let Some((old, new)) = contents.filter(|(old, new)| old != new) {
        return cause_of_bytes(&difference.path.to_string(), old, new, now);
    }
    match aspects.first().map(|aspect| aspect.name) {
        Some("mode") => "its permissions follow something that changes, such as the umask",
        Some("owner") => "its owner follows something that changes",
        Some("kind") => "it is another kind of file each time",
        Some("time") => "its time is set to something that changes",
        _ => "unknown",
    }
}

fn cause_of_bytes(path: &str, old: &[u8], new: &[u8], now: i64) -> &'static str {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    if path.ends_with(".pyc") {
        return "compiled Python knows the time of its source; set SOURCE_DATE_EPOCH where it is compiled";
    }
    if old.starts_with(&GZIP) && new.starts_with(&GZIP) && old.len() >= 8 && new.len() >= 8 && old[4..8] != new[4..8] {
        return "gzip writes the time into its header; use gzip -n";
    }
    if is_log(path) {
        return "it is a log";
    }
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| byte.is_ascii_whitespace()).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    if old.len() == new.len() && sorted(old) == sorted(new) {
        return "the order of a directory or a table; sort it";
    }
    let (old_words, new_words) = (changed_words(old, new), changed_words(new, old));
    if old_words.iter().chain(&new_words).any(|word| is_near(word, now)) || has_clock(&old_words) && has_clock(&new_words) {
        return "it holds the time; use SOURCE_DATE_EPOCH";
    }
    if old_words.iter().chain(&new_words).any(|word| has(word, "/tmp")) {
        return "it holds a path that is another one each time";
    }
    let numbers = |words: &[&[u8]]| !words.is_empty() && words.iter().all(|word| word.len() <= 20 && word.iter().all(u8::is_ascii_digit));
    if numbers(&old_words) && numbers(&new_words) {
        return "a number that the machine gives, such as of processors, processes, inodes or memory";
    }
    "random numbers, or something that was not thought of"
}

fn is_log(path: &str) -> bool {
    path.starts_with("var/log/") || path.ends_with(".log")
}

/// The words of one text that the other one does not have.
fn changed_words<'a>(of: &'a [u8], other: &[u8]) -> Vec<&'a [u8]> {
    let split = |byte: &u8| !(byte.is_ascii_alphanumeric() || b"/._:+-".contains(byte));
    let mut there: BTreeMap<&[u8], ()> = BTreeMap::new();
    for word in other.split(split) {
        there.insert(word, ());
    }
    of.split(split).filter(|word| !word.is_empty() && !there.contains_key(word)).collect()
}

/// Whether a word is a number of seconds, milli-, micro- or nanoseconds since 1970 near a moment.
fn is_near(word: &[u8], now: i64) -> bool {
    let digits: String = word.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    let Ok(number) = digits.parse::<i64>() else { return false };
    [1, 1_000, 1_000_000, 1_000_000_000].iter().any(|unit| (number / unit - now).abs() < NEAR_SECS)
}

/// Whether a word is a time of day.
fn has_clock(words: &[&[u8]]) -> bool {
    words.iter().any(|word| {
        let parts: Vec<&[u8]> = word.split(|byte| *byte == b':').collect();
        parts.len() >= 3 && parts[1..].iter().all(|part| part.len() >= 2 && part[..2].iter().all(u8::is_ascii_digit))
    })
}

#[cfg(test)]
mod tests {
    use super::cause_of_bytes;

    #[test]
    fn causes() {
        let now = 1_795_486_000;
        for (path, old, new, expect) in [
            ("opt/a.pyc", "1", "2", "compiled Python"),
            ("opt/x.gz", "\u{1f}\u{8b}", "\u{1f}\u{8b}2", "random"),
            ("var/log/x", "1", "2", "a log"),
            ("opt/list", "b\na\nc\n", "c\na\nb\n", "the order"),
            ("opt/t", "made at 1795486000\n", "made at 1795486009\n", "the time"),
            ("opt/t", "1795486000123456789", "1795486009123456789", "the time"),
            ("opt/t", "Tue Nov 24 02:09:08 UTC 2026", "Tue Nov 24 02:09:11 UTC 2026", "the time"),
            ("opt/p", "built in /tmp/tmp.Ab12", "built in /tmp/tmp.Xy34", "a path"),
            ("opt/n", "2\n", "1\n", "a number"),
            ("opt/r", "a8f1c2", "77b0de", "random"),
        ] {
            let told = cause_of_bytes(path, old.as_bytes(), new.as_bytes(), now);
            assert!(told.contains(expect), "{path} {old:?}: {told}");
        }
    }
}
