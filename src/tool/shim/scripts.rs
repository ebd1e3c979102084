//! Finds host scripts with an interpreter that a pinned shim would replace: `#!/usr/bin/env python3` in a directory on PATH.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::search;

/// Limit of a `#!` line in the kernel.
const MAX_FIRST_LINE_BYTES: u64 = 256;
/// Limit on the number of files that are read. No ordinary PATH has more, and a PATH with network directories must not take minutes.
const MAX_FILES: usize = 20_000;

/// Finds the scripts on PATH, except those in `bin`, whose `#!` line finds one of these names through `env`; returns each with the name.
pub fn of(names: &BTreeSet<&str>, path: &OsStr, bin: &Path) -> Vec<(PathBuf, String)> {
    let path = search::without(path, bin);
    let dirs = path.as_bytes().split(|byte| *byte == b':').map(|dir| Path::new(OsStr::from_bytes(dir))).filter(|dir| dir.is_absolute());
    let mut seen = BTreeSet::new();
    let dirs: Vec<PathBuf> = dirs.filter_map(|dir| fs::canonicalize(dir).ok()).filter(|dir| seen.insert(dir.clone())).collect();
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten()).map(|entry| entry.path());
    let mut found: Vec<(PathBuf, String)> = files
        .take(MAX_FILES)
        .filter_map(|file| interpreter(&file).filter(|name| names.contains(name.as_str())).map(|name| (file, name)))
        .collect();
    found.sort();
    found
}

/// Returns the name that a script's `#!` line finds through `env`.
fn interpreter(file: &Path) -> Option<String> {
    let found = fs::metadata(file).ok()?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let mut head = Vec::new();
    fs::File::open(file).ok()?.take(MAX_FIRST_LINE_BYTES).read_to_end(&mut head).ok()?;
    named(head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?)
}

/// Parses a `#!` line: `/usr/bin/env NAME`, also with options or variables before the name.
fn named(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    if Path::new(words.next()?).file_name() != Some(OsStr::new("env")) {
        return None;
    }
    words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_that_look_for_a_shim_are_found() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(place.path()).expect("a directory");
        for (name, text, mode) in [
            ("plain", "#!/usr/bin/env python3\n", 0o755),
            ("words", "#! /usr/bin/env -S python3 -u\n", 0o755),
            ("own", "#!/usr/bin/python3\n", 0o755),
            ("other", "#!/usr/bin/env perl\n", 0o755),
            ("data", "#!/usr/bin/env python3\n", 0o644),
            ("binary", "\u{7f}ELF", 0o755),
            ("empty", "", 0o755),
        ] {
            fs::write(dir.join(name), text).expect("written");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("set");
        }
        let found = of(&BTreeSet::from(["python3", "pip"]), dir.as_os_str(), Path::new("/nowhere"));
        let names: Vec<&OsStr> = found.iter().filter_map(|(file, _)| file.file_name()).collect();
        assert_eq!(names, ["plain", "words"]);
        assert!(of(&BTreeSet::from(["python3"]), dir.as_os_str(), &dir).is_empty(), "silo's own directory does not count");
    }
}
