//! Marks of sandboxes that can write a directory: the file `runs` of its record.
//!
//! The file has the number of the last sandbox and a word: "ended" if all sandboxes have ended and their changes were compared, else
//! "open". Each silo that runs a sandbox holds a shared lock on the file, which the kernel releases however silo ends. So "open" without a
//! lock means that a silo was killed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;

use super::error::Error;

/// Digits of the number, so that a write in place always replaces all of it.
const DIGITS: usize = 20;
/// Attempts of an ended run to get the exclusive lock; a silo that only reads the file holds the lock for microseconds.
const TRIES: usize = 64;

/// State of the sandboxes of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// The number of the last one; 0 if there was none.
    pub last: u64,
    /// True if some have not ended, or were not compared.
    pub is_open: bool,
    /// True if one is running.
    pub is_live: bool,
}

/// A running sandbox that can write a directory.
#[derive(Debug)]
pub struct Running {
    file: LockedFile,
    number: u64,
}

/// Reads the file of a directory.
pub fn read_runs(path: &Path) -> Result<Runs, Error> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Runs::default()),
        Err(source) => return Err(PathError { doing: "open", path: path.to_owned(), source }.into()),
    };
    let failed = |source| PathError { doing: "read", path: path.to_owned(), source };
    let (last, is_open) = read(&file).map_err(failed)?;
    // Every running silo has written "open", so otherwise the lock needs no check.
    let is_live = is_open && LockedFile::try_exclusive(file).map_err(failed)?.is_none();
    Ok(Runs { last, is_open, is_live })
}

/// Marks the start of a run, in an existing directory.
pub fn begin(path: &Path) -> Result<Running, Error> {
    let failed = |doing| move |source| PathError { doing, path: path.to_owned(), source };
    let options = &mut File::options();
    let file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path).map_err(failed("open"))?;
    let file = LockedFile::shared(file).map_err(failed("lock"))?;
    let number = read(&file).map_err(failed("read"))?.0.saturating_add(1);
    write(&file, number, "open ").map_err(failed("write"))?;
    Ok(Running { file, number })
}

impl Running {
    /// Marks the end of a run whose files were compared; the last one writes "ended".
    pub fn end(self) -> io::Result<()> {
        for _ in 0..TRIES {
            if self.file.try_upgrade()? {
                let number = read(&self.file)?.0.max(self.number);
                return write(&self.file, number, "ended");
            }
            std::thread::yield_now();
        }
        // Another one is running; the last of them writes "ended".
        Ok(())
    }
}

/// Reads number and word. An invalid file counts as open.
fn read(file: &File) -> io::Result<(u64, bool)> {
    let mut bytes = [0; DIGITS + 6];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    let text = std::str::from_utf8(&bytes[..filled]).unwrap_or_default();
    let number = text.get(..DIGITS).and_then(|digits| digits.parse().ok());
    let unknown = u64::from(filled > 0);
    Ok((number.unwrap_or(unknown), number.is_none() || !text.ends_with("ended")))
}

fn write(file: &File, number: u64, word: &str) -> io::Result<()> {
    file.write_all_at(format!("{number:0DIGITS$} {word}").as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_seen_until_the_last_one_has_ended() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("runs");
        assert_eq!(read_runs(&path).expect("nothing"), Runs::default());
        let one = begin(&path).expect("begun");
        let two = begin(&path).expect("begun");
        assert_eq!(read_runs(&path).expect("read"), Runs { last: 2, is_open: true, is_live: true });
        one.end().expect("ended");
        assert!(read_runs(&path).expect("read").is_live);
        two.end().expect("ended");
        assert_eq!(read_runs(&path).expect("read"), Runs { last: 2, is_open: false, is_live: false });
        // As after a killed silo.
        drop(begin(&path).expect("begun"));
        assert_eq!(read_runs(&path).expect("read"), Runs { last: 3, is_open: true, is_live: false });
        std::fs::write(&path, "nonsense").expect("written");
        assert_eq!(read_runs(&path).expect("read"), Runs { last: 1, is_open: true, is_live: false });
    }
}
