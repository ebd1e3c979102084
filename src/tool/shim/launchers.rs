//! The launchers in `~/.silo/bin`: one small file a shim, which starts silo with the shim's name.
//!
//! A launcher is a regular file and not a symlink, so that a write to it (`echo x > ~/.silo/bin/python`) destroys that file alone and never
//! the silo binary. Its `#!` line starts the binary directly; no shell runs in between. The file contains the name, so a symlink to a
//! launcher, or a copy of it, runs the same command.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;
use silo_store::private;

use silo_base::home::Home;

use super::search::{Identity, identity};
use super::table::{Table, is_shim_name};

/// The option that passes the shim's name from a launcher.
pub const CALLED_AS: &str = "--called-as=";

/// The second line of every launcher.
const MARK: &str = "# A command of a tool, made by silo: `silo shim list` lists them, `silo doctor --fix` restores them.";

/// Older versions made a symlink with this target instead of a launcher.
const OLDER_TARGET: &str = "../program";

/// The longest `#!` line that every kernel accepts: Linux before 5.1 truncates longer ones.
const MAX_FIRST_LINE_BYTES: usize = 127;

/// Limit on the size of a launcher. Launchers have a few hundred bytes, and a few thousand if the path of the home is very long.
const MAX_LAUNCHER_BYTES: u64 = 8 << 10;

/// Readable and executable by the owner; not writable, against accidents.
const MODE: u32 = 0o500;

/// Differences between the launchers and the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Names without a launcher, or with a launcher of another version or home.
    pub missing: BTreeSet<String>,
    /// Launchers of names that no tool has any more.
    pub stale: BTreeSet<String>,
    /// Files in place of a launcher that silo did not make.
    pub foreign: BTreeSet<String>,
    /// True if the symlink to the silo binary is missing or points elsewhere.
    pub program: bool,
}

impl Faults {
    /// Returns true if there are no differences.
    pub fn is_empty(&self) -> bool {
        self == &Faults::default()
    }
}

/// Maker of a file in the launchers' directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileOwner {
    /// This version of silo, for this home.
    Now,
    /// Silo, but another version, for another home, or an interrupted write.
    Before,
    /// Not silo.
    Elsewhere,
}

/// Compares the launchers with a table; they should start `program`.
pub fn faults(home: &Home, table: &Table, program: &Path) -> Result<Faults, PathError> {
    let names = table.names();
    let there = list_launchers(home)?;
    let mut faults = Faults::default();
    let leads_to = identity(&home.program());
    faults.program = leads_to.is_none() || leads_to != identity(program);
    if there.is_empty() && names.is_empty() {
        faults.program = false;
    }
    for (name, made) in &there {
        match (names.contains(name.as_str()), made) {
            (true, FileOwner::Now) | (false, FileOwner::Elsewhere) => {}
            (true, FileOwner::Before) => drop(faults.missing.insert(name.clone())),
            (true, FileOwner::Elsewhere) => drop(faults.foreign.insert(name.clone())),
            (false, FileOwner::Now | FileOwner::Before) => drop(faults.stale.insert(name.clone())),
        }
    }
    let missing = names.into_iter().filter(|name| there.iter().all(|(there, _)| there != name));
    faults.missing.extend(missing.map(str::to_owned));
    Ok(faults)
}

/// Returns the temporary paths of the symlink to the binary and of a launcher. Only the holder of the directory's lock may use them.
fn staged(home: &Home) -> [PathBuf; 2] {
    ["new", "launcher"].map(|name| home.program().with_extension(name))
}

/// Removes the temporary files of a killed command and returns their number. The caller holds the lock on the launchers' directory.
pub fn unstage(home: &Home) -> Result<usize, PathError> {
    let mut gone = 0;
    for path in staged(home) {
        match fs::remove_file(&path) {
            Ok(()) => gone += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PathError { doing: "remove", path, source }),
        }
    }
    Ok(gone)
}

/// Makes the launchers of a table. Files that silo did not make are left alone and returned. The caller holds the lock on the launchers'
/// directory.
pub fn make(home: &Home, table: &Table, program: &Path) -> Result<BTreeSet<String>, PathError> {
    let faults = faults(home, table, program)?;
    if faults.is_empty() {
        return Ok(BTreeSet::new());
    }
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| PathError { doing, path, source }
    };
    let bin = home.bin();
    private::make_dir(&bin)?;
    unstage(home)?;
    let [program_staged, launcher_staged] = staged(home);
    if faults.program {
        // One rename, so that a launcher started at this moment finds the old or the new binary.
        let placed = symlink(program, &program_staged).and_then(|()| fs::rename(&program_staged, home.program()));
        placed.map_err(failed("write", &home.program()))?;
    }
    for name in &faults.stale {
        let launcher = home.shim(name);
        fs::remove_file(&launcher).map_err(failed("remove", &launcher))?;
    }
    for name in &faults.missing {
        let launcher = home.shim(name);
        write(&text(home, name), &launcher_staged, &launcher).map_err(failed("write", &launcher))?;
    }
    Ok(faults.foreign)
}

/// Puts a launcher in place by one rename, which replaces an older symlink and never its target.
fn write(text: &[u8], staged: &Path, launcher: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(staged)?;
    io::Write::write_all(&mut file, text)?;
    // Set the mode explicitly, because the umask limits the mode of `open`.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    fs::rename(staged, launcher)
}

/// Returns the text of a launcher: a `#!` line with the binary and the name as its only argument; the kernel appends the arguments of the
/// call.
fn text(home: &Home, name: &str) -> Vec<u8> {
    // The canonical path, so that a home reachable by several names gives one text.
    let root = fs::canonicalize(home.root()).unwrap_or_else(|_| home.root().to_owned());
    let program = Home::new(root).program();
    let program = program.as_os_str().as_bytes();
    let plain = |byte: &u8| !byte.is_ascii_whitespace() && !byte.is_ascii_control();
    let first = [b"#!", program, b" ", CALLED_AS.as_bytes(), name.as_bytes()].concat();
    if program.iter().all(plain) && first.len() <= MAX_FIRST_LINE_BYTES {
        return [&first, "\n".as_bytes(), MARK.as_bytes(), b"\n"].concat();
    }
    // A `#!` line cannot hold a path with a blank or a very long path; such a launcher is a shell script.
    let quoted: Vec<u8> = program.iter().flat_map(|byte| if *byte == b'\'' { b"'\\''".to_vec() } else { vec![*byte] }).collect();
    [b"#!/bin/sh\n", MARK.as_bytes(), b"\nexec '", &quoted, b"' '", CALLED_AS.as_bytes(), name.as_bytes(), b"' \"$0\" \"$@\"\n"].concat()
}

/// Returns true if a file starts silo: it is `this` binary, or a launcher of any home.
pub fn starts_silo(file: &Path, this: Option<Identity>) -> bool {
    (this.is_some() && identity(file) == this) || read(file).is_ok_and(|text| is_launcher(&text))
}

fn is_launcher(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').nth(1) == Some(MARK.as_bytes())
}

/// Reads at most the maximum size of a launcher; anything but a regular file is not opened and gives no text.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    fs::File::open(file)?.take(MAX_LAUNCHER_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// Lists the launchers' directory, with the maker of each file.
fn list_launchers(home: &Home) -> Result<Vec<(String, FileOwner)>, PathError> {
    let bin = home.bin();
    let listing = match fs::read_dir(&bin) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PathError { doing: "list", path: bin, source }),
    };
    let mut there = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|source| PathError { doing: "list", path: bin.clone(), source })?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_shim_name(&name) {
            let made = owner_of(home, &name);
            there.push((name, made));
        }
    }
    Ok(there)
}

fn owner_of(home: &Home, name: &str) -> FileOwner {
    let file = home.shim(name);
    match fs::read_link(&file) {
        Ok(to) if to == Path::new(OLDER_TARGET) => return FileOwner::Before,
        Ok(_) => return FileOwner::Elsewhere,
        Err(_) => {}
    }
    match read(&file) {
        Ok(found) if found == text(home, name) && is_executable(&file) => FileOwner::Now,
        // A power cut can leave an empty file.
        Ok(found) if is_launcher(&found) || (found.is_empty() && file.is_file()) => FileOwner::Before,
        Ok(_) | Err(_) => FileOwner::Elsewhere,
    }
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o100 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::table::parse;

    #[test]
    fn launchers_become_what_the_table_asks_for() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join(".silo"));
        let table = |text: &str| parse(&format!("silo shims 1\n{text}")).expect("a table");
        let names = |home: &Home| {
            let mut names: Vec<String> = list_launchers(home).expect("listed").into_iter().map(|(name, _)| name).collect();
            names.sort();
            names
        };
        let [one, two] = ["one", "two"].map(|name| place.path().join(name));
        for program in [&one, &two] {
            fs::write(program, "the program").expect("written");
        }
        assert!(faults(&home, &Table::default(), &one).expect("looked").is_empty(), "an empty table needs no launchers");
        let first = table("tool python pinned\nshim pip\nshim python\n");
        assert!(make(&home, &first, &one).expect("made").is_empty());
        assert_eq!(names(&home), ["pip", "python"]);
        assert_eq!(fs::read_link(home.program()).expect("a link"), one);
        assert!(starts_silo(&home.shim("pip"), None) && !starts_silo(&one, None) && starts_silo(&one, identity(&one)));
        // The binary moved, one name was removed, one was added, and the user has an own file.
        fs::write(home.shim("mine"), "mine").expect("written");
        let second = table("tool python free\nhidden pip\nshim python\nalias mine python\nalias x python\n");
        let found = faults(&home, &second, &two).expect("looked");
        assert!(found.program && found.missing.contains("x") && found.stale.contains("pip"), "{found:?}");
        assert_eq!(make(&home, &second, &two).expect("made"), ["mine".to_owned()].into());
        assert_eq!(names(&home), ["mine", "python", "x"]);
        assert_eq!(fs::read_link(home.program()).expect("a link"), two);
        assert_eq!(fs::read(home.shim("mine")).expect("it stays"), b"mine");
    }

    #[test]
    fn older_symlinks_are_replaced_and_never_written_through() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join(".silo"));
        let program = place.path().join("silo");
        fs::write(&program, "the program").expect("written");
        let table = parse("silo shims 1\ntool python pinned\nshim a\nshim b\nshim c\nshim d\n").expect("a table");
        assert!(make(&home, &table, &program).expect("made").is_empty());
        for (name, is_of) in [("a", "a symlink"), ("b", "an empty file"), ("c", "another home")] {
            fs::remove_file(home.shim(name)).expect("it was made");
            match is_of {
                "a symlink" => symlink(OLDER_TARGET, home.shim(name)).expect("made"),
                "an empty file" => fs::write(home.shim(name), "").expect("made"),
                _ => fs::write(home.shim(name), text(&Home::new("/another".into()), name)).expect("made"),
            }
        }
        let found = faults(&home, &table, &program).expect("looked");
        assert_eq!(found.missing, ["a", "b", "c"].map(str::to_owned).into());
        assert!(make(&home, &table, &program).expect("made").is_empty());
        assert!(faults(&home, &table, &program).expect("looked").is_empty());
        for name in ["a", "b", "c", "d"] {
            let found = fs::symlink_metadata(home.shim(name)).expect("it is there");
            assert!(found.is_file() && found.permissions().mode() & 0o777 == MODE, "{name}: {found:?}");
        }
        assert_eq!(fs::read(&program).expect("it is there"), b"the program");
    }

    #[test]
    fn homes_that_cannot_stand_in_a_first_line_are_quoted_for_a_shell() {
        let line = |home: &str| String::from_utf8(text(&Home::new(home.into()), "python")).expect("text");
        assert!(line("/h/.silo").starts_with("#!/h/.silo/program --called-as=python\n# A command"));
        for home in ["/a b/.silo", "/it's/.silo", &format!("/{}/.silo", "x".repeat(120))] {
            let is_plain = home == "/it's/.silo";
            assert_eq!(line(home).starts_with("#!/bin/sh\n"), !is_plain, "{home}");
        }
        assert!(line("/it's a/.silo").ends_with("exec '/it'\\''s a/.silo/program' '--called-as=python' \"$0\" \"$@\"\n"));
    }
}
