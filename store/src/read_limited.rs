//! Size-limited reads of untrusted files: regular files only, because a device or pipe may block or never end.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Limits of the memory that is taken before a file is read: the stated size may be wrong.
const LEAST_EXPECTED_BYTES: usize = 4096;
const MOST_EXPECTED_BYTES: usize = 1 << 20;

/// Reads the regular file at `path`, following symlinks. More than `most_bytes` bytes, or another kind of file, is an error.
pub fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    // Without NONBLOCK, opening a fifo would block.
    whole(OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?, most_bytes)
}

/// Like [`read`], for an open file, which must be opened with NONBLOCK.
pub fn whole(file: File, most_bytes: u64) -> io::Result<Vec<u8>> {
    let found = file.metadata()?;
    let kind = found.file_type();
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file, nor a link to one"));
    }
    // One read for the content and one for its end. Files of /proc state no size.
    let expected = usize::try_from(found.len().min(most_bytes)).unwrap_or(MOST_EXPECTED_BYTES);
    let mut bytes = Vec::with_capacity(expected.clamp(LEAST_EXPECTED_BYTES, MOST_EXPECTED_BYTES) + 1);
    file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (file, link, fifo) = (place.path().join("file"), place.path().join("link"), place.path().join("fifo"));
        std::fs::write(&file, "12345").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read(&link, 5).unwrap(), b"12345");
        for (path, most, kind) in [
            (file.as_path(), 4, ErrorKind::FileTooLarge),
            (place.path(), 5, ErrorKind::IsADirectory),
            (&fifo, 5, ErrorKind::InvalidInput),
            (Path::new("/dev/zero"), 5, ErrorKind::InvalidInput),
            (&place.path().join("nothing"), 5, ErrorKind::NotFound),
        ] {
            assert_eq!(read(path, most).unwrap_err().kind(), kind, "{}", path.display());
        }
    }
}
