//! Reads TOML written by people: strictly, with errors that name file, line, column and the nearest known key. Also writes small text files
//! atomically.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use silo_store::locked_file::LockedFile;
use silo_store::{private, read_limited};

/// Reason why a document could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The text is not valid TOML, or not of the expected shape.
    #[error("{path}:{line}:{column}: {message}\n  {line:>4} | {text}{hint}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The fault.
        message: String,
        /// The line's text.
        text: String,
        /// The suggested fix, with its own line break, or empty.
        hint: String,
    },
    /// The text is well-formed, but its values are invalid.
    #[error("{path}: {message}", path = .path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// The fault.
        message: String,
    },
}

/// Limit of a document's size: far above any real one, small enough to hold and quote.
pub const MAX_BYTES: u64 = 16 << 20;

/// Refuses a format that this version does not know; `next` says what to do.
pub fn check_format(path: &Path, format: u32, known: u32, next: &str) -> Result<(), Error> {
    let message = || format!("format {format} is unknown to this version of silo; {next}");
    if format == known { Ok(()) } else { Err(Error::Meaning { path: path.to_owned(), message: message() }) }
}

/// Reads the document at `path`, or `None` if there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match text_of(path)? {
        Some(text) => parse(&text, path).map(Some),
        None => Ok(None),
    }
}

/// Reads the text at `path`, or `None` if there is no such file.
pub fn text_of(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    match read_limited::read(path, MAX_BYTES) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| failed(io::Error::new(ErrorKind::InvalidData, error.utf8_error()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Writes a text to `path` by one rename and syncs it to disk; missing parent directories are made.
///
/// The temporary file has a single fixed name per target and is locked during the write: a leftover of a killed process is reused by the
/// next writer.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    private::make_dir(dir).map_err(|error| error.source)?;
    let staged = staged(path);
    let mut file = lock_document(&staged)?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(dir)?.sync_all()
}

/// Returns the name of the temporary file.
fn staged(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(STAGED);
    path.with_file_name(name)
}

/// Opens a file and locks it; waits for another holder.
fn lock_document(path: &Path) -> io::Result<LockedFile> {
    loop {
        let file = LockedFile::exclusive(private::open(path)?)?;
        let (ours, named) = (file.metadata()?, fs::symlink_metadata(path));
        // The previous holder has renamed the file in between.
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}

/// Removes temporary files of killed processes from a directory; returns their number.
pub fn sweep(dir: &Path) -> io::Result<usize> {
    let listing = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(0),
        listing => listing?,
    };
    let mut gone = 0;
    for path in listing.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !(name.starts_with(b".") && name.ends_with(STAGED.as_bytes())) {
            continue;
        }
        // A process that is about to lock the file will find it missing and create another.
        if File::open(&path).and_then(LockedFile::try_exclusive).is_ok_and(|held| held.is_some()) {
            fs::remove_file(&path)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Suffix of the names of temporary files.
const STAGED: &str = ".new";

/// Parses `text`, which came from `path`.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| syntax(text, path, &error))
}

/// The line with which git marks the first side of a conflict.
const CONFLICT: &str = "<<<<<<< ";

/// Finds a merge conflict of git in a text; the error describes the fix.
fn conflict(text: &str, path: &Path) -> Option<Error> {
    let at = text.lines().position(|line| line.starts_with(CONFLICT))?;
    let is_lock = path.extension().is_some_and(|extension| extension == "lock");
    let hint = match is_lock {
        true => "take one whole side (`git checkout --ours` or `--theirs` with this file), then `silo lock`",
        false => "choose between the two sides, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>",
    };
    Some(Error::Syntax {
        path: path.to_owned(),
        line: at + 1,
        column: 1,
        message: "unresolved merge conflict".to_owned(),
        text: text.lines().nth(at).unwrap_or_default().to_owned(),
        hint: format!("\n       = {hint}"),
    })
}

fn syntax(text: &str, path: &Path, error: &toml::de::Error) -> Error {
    if let Some(conflict) = conflict(text, path) {
        return conflict;
    }
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = plain(error.message().trim()).replace('\n', "; ");
    let hint = unknown_field(&message)
        .and_then(|(unknown, known)| nearest(unknown, &known))
        .map_or_else(String::new, |near| format!("\n       = did you mean \"{near}\"?"));
    Error::Syntax { path: path.to_owned(), line, column, text: text.lines().nth(line - 1).unwrap_or_default().to_owned(), message, hint }
}

/// Replaces serde's names of types, which are those of Rust, by TOML's.
fn plain(message: &str) -> String {
    let message = message
        .replace("expected a sequence", "expected a list, as in `[\"a\", \"b\"]`")
        .replace("invalid type: sequence", "invalid type: list");
    match message.split_once("expected struct ") {
        Some((before, rest)) if !rest.contains(' ') => format!("{before}expected a table, as in `{{ key = ... }}`"),
        _ => message,
    }
}

/// Splits serde's "unknown field `x`, expected one of `a`, `b`"; a test below checks the wording.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    Some((unknown, quoted.collect()))
}

/// Returns the known word nearest to `word`, if one is near enough.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let (distance, near) = known.iter().map(|candidate| (edits(&plain(word), &plain(candidate)), *candidate)).min()?;
    (distance <= near.len().div_ceil(3)).then_some(near)
}

/// Counts the single-character edits between two words (Levenshtein distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Sample {
        #[allow(dead_code)]
        pass_env: Vec<String>,
    }

    fn check(text: &str, expect: &str) {
        let error = parse::<Sample>(text, Path::new("silo.toml")).expect_err("the text is wrong");
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn conflicts_of_a_merge_are_named() {
        let text = "a = 1\n<<<<<<< HEAD\nb = 1\n=======\nb = 2\n>>>>>>> other\n";
        for (path, hint) in [("silo.toml", "choose between the two sides"), ("silo.lock", "then `silo lock`")] {
            let error = parse::<Sample>(text, Path::new(path)).expect_err("a conflict").to_string();
            assert!(error.starts_with(&format!("{path}:2:1: unresolved merge conflict")) && error.contains(hint), "{error}");
        }
    }

    #[test]
    fn errors_name_place_and_nearest_key() {
        check(
            "passEnv = []\npass_env = []\n",
            "silo.toml:2:1: unknown field `pass_env`, expected `passEnv`\n     2 | pass_env = []\n       = did you mean \"passEnv\"?",
        );
        check("\n\npassEnv = [1]\n", "silo.toml:3:12: invalid type: integer `1`, expected a string\n     3 | passEnv = [1]");
        check("zzzzzzzz = 1\n", "silo.toml:1:1: unknown field `zzzzzzzz`, expected `passEnv`\n     1 | zzzzzzzz = 1");
    }

    #[test]
    fn nearest_is_near() {
        for (word, expect) in [("pyton", Some("python")), ("pythn", Some("python")), ("node", Some("node")), ("zig", None)] {
            assert_eq!(nearest(word, &["python", "node", "sh"]), expect, "{word}");
        }
    }
}
