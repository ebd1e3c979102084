//! Compares the layers of a step's two runs, and guesses the cause of each difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use silo_store::difference::{Change, Difference, differences};
use silo_store::digest::LayerId;
use silo_store::entry::{Kind, Node};
use silo_store::path::LayerPath;

use super::check::{Check, Finding};
use super::context::{BuildContext, read_index};
use super::error::Error;
use super::select_packages::Unpacked;

/// Limit on the size of a file that is searched for a cause.
const MAX_LOOK_BYTES: u64 = 16 << 20;

/// A number this close to the time of the build is taken for a timestamp.
const NEAR_SECS: i64 = 2 * 86_400;

/// Compares the layers of a step's two runs.
pub(super) fn compare(
    check: &Check,
    ctx: &BuildContext<'_>,
    step: &str,
    (first, second): (LayerId, LayerId),
    present: &[Arc<Unpacked>],
) -> Result<(), Error> {
    check.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(step.to_owned());
    if first == second {
        return Ok(());
    }
    let (old, new) = (read_index(ctx, first)?, read_index(ctx, second)?);
    let trees = (ctx.store.tree(&first), ctx.store.tree(&second));
    let found = differences(&old, &new).into_iter().map(|difference| {
        let is_file = |index: &silo_store::index::Index| index.get(&difference.path).is_some_and(|entry| entry.node.kind() == Kind::File);
        let link = |index: &silo_store::index::Index| match index.get(&difference.path).map(|entry| entry.node.clone()) {
            Some(Node::Symlink { target }) => Some(target),
            _ => None,
        };
        let contents = match (link(&old), link(&new)) {
            (Some(old), Some(new)) => Some((old, new)),
            _ if is_file(&old) && is_file(&new) => look(&trees.0, &difference.path).zip(look(&trees.1, &difference.path)),
            _ => None,
        };
        let cause = cause(&difference, contents.as_ref().map(|(old, new)| (old.as_slice(), new.as_slice())), ctx.now);
        let package = package_of(ctx, present, &difference.path);
        Finding { step: step.to_owned(), difference, package, cause }
    });
    check.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(found);
    Ok(())
}

/// Waits for more than a second, so that timestamps in seconds differ between the runs.
pub(super) fn wait_for_another_second() {
    const SECOND: Duration = Duration::from_millis(1100);
    thread::sleep(SECOND);
}

fn look(tree: &Path, path: &LayerPath) -> Option<Vec<u8>> {
    let file = tree.join(path.as_path());
    let meta = fs::symlink_metadata(&file).ok()?;
    if meta.is_file() && meta.len() <= MAX_LOOK_BYTES { fs::read(file).ok() } else { None }
}

/// Returns the package that ships a path, or else one whose maintainer script names it.
fn package_of(ctx: &BuildContext<'_>, present: &[Arc<Unpacked>], path: &LayerPath) -> Option<String> {
    if let Some(owner) = present.iter().find(|package| package.index.get(path).is_some_and(|entry| entry.node.kind() != Kind::Dir)) {
        return Some(owner.name().to_owned());
    }
    let named = format!("/{path}");
    let scripts = ["postinst", "preinst"];
    let names_it = |package: &&Arc<Unpacked>| {
        let info = ctx.store.tree(&package.record.layer).join(silo_fetch::unpack::record::INFO);
        scripts.iter().filter(|script| package.record.members.contains(**script)).any(|script| {
            let text = fs::read(info.join(format!("{}.{script}", package.record.stanza.info_base()))).unwrap_or_default();
            text.windows(named.len()).any(|window| window == named.as_bytes())
        })
    };
    present.iter().find(names_it).map(|package| package.name().to_owned())
}

/// Guesses the cause of a difference.
fn cause(difference: &Difference, contents: Option<(&[u8], &[u8])>, now: i64) -> &'static str {
    let aspects = match &difference.change {
        Change::Added | Change::Removed => return "the file is created in some runs only, or its name changes",
        Change::Changed(aspects) => aspects,
    };
    if let Some((old, new)) = contents.filter(|(old, new)| old != new) {
        return cause_of_bytes(&difference.path.to_string(), old, new, now);
    }
    match aspects.first().map(|aspect| aspect.name) {
        Some("mode") => "its mode depends on the environment, such as the umask",
        Some("owner") => "its owner depends on the environment",
        Some("kind") => "the file type changes",
        Some("time") => "its mtime is set to a value that changes",
        _ => "unknown",
    }
}

fn cause_of_bytes(path: &str, old: &[u8], new: &[u8], now: i64) -> &'static str {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    if path.ends_with(".pyc") {
        return "compiled Python contains the mtime of its source; set SOURCE_DATE_EPOCH when compiling";
    }
    if old.starts_with(&GZIP) && new.starts_with(&GZIP) && old.len() >= 8 && new.len() >= 8 && old[4..8] != new[4..8] {
        return "the gzip header contains a timestamp; use gzip -n";
    }
    if is_log(path) {
        return "log file";
    }
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| byte.is_ascii_whitespace()).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    if old.len() == new.len() && sorted(old) == sorted(new) {
        return "directory or hash table order; sort it";
    }
    let (old_words, new_words) = (changed_words(old, new), changed_words(new, old));
    if old_words.iter().chain(&new_words).any(|word| is_near(word, now)) || has_clock(&old_words) && has_clock(&new_words) {
        return "it contains a timestamp; use SOURCE_DATE_EPOCH";
    }
    if old_words.iter().chain(&new_words).any(|word| has(word, "/tmp")) {
        return "it contains the path of a temporary file";
    }
    let numbers = |words: &[&[u8]]| !words.is_empty() && words.iter().all(|word| word.len() <= 20 && word.iter().all(u8::is_ascii_digit));
    if numbers(&old_words) && numbers(&new_words) {
        return "it contains a number from the system, such as a processor count, a process id, an inode or a memory size";
    }
    "random numbers, or an unknown cause"
}

fn is_log(path: &str) -> bool {
    path.starts_with("var/log/") || path.ends_with(".log")
}

/// Returns the words of one text that the other does not have.
fn changed_words<'a>(of: &'a [u8], other: &[u8]) -> Vec<&'a [u8]> {
    let split = |byte: &u8| !(byte.is_ascii_alphanumeric() || b"/._:+-".contains(byte));
    let mut there: BTreeMap<&[u8], ()> = BTreeMap::new();
    for word in other.split(split) {
        there.insert(word, ());
    }
    of.split(split).filter(|word| !word.is_empty() && !there.contains_key(word)).collect()
}

/// Returns true if a word is a timestamp near `now`, in seconds, milliseconds, microseconds or nanoseconds since 1970.
fn is_near(word: &[u8], now: i64) -> bool {
    let digits: String = word.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    let Ok(number) = digits.parse::<i64>() else { return false };
    [1, 1_000, 1_000_000, 1_000_000_000].iter().any(|unit| (number / unit - now).abs() < NEAR_SECS)
}

/// Returns true if a word is a time of day.
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
            ("var/log/x", "1", "2", "log file"),
            ("opt/list", "b\na\nc\n", "c\na\nb\n", "order; sort it"),
            ("opt/t", "made at 1795486000\n", "made at 1795486009\n", "timestamp"),
            ("opt/t", "1795486000123456789", "1795486009123456789", "timestamp"),
            ("opt/t", "Tue Nov 24 02:09:08 UTC 2026", "Tue Nov 24 02:09:11 UTC 2026", "timestamp"),
            ("opt/p", "built in /tmp/tmp.Ab12", "built in /tmp/tmp.Xy34", "the path of a temporary file"),
            ("opt/n", "2\n", "1\n", "a number"),
            ("opt/r", "a8f1c2", "77b0de", "random"),
        ] {
            let told = cause_of_bytes(path, old.as_bytes(), new.as_bytes(), now);
            assert!(told.contains(expect), "{path} {old:?}: {told}");
        }
    }
}
