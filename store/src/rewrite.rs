//! Changes a file in a directory that a step or an image filled: no symlink is followed, and only regular files are written.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::openat::Beneath;
use crate::path::LayerPath;
use crate::read_limited;

/// Replaces the content of a file by the result of `change`; `None` leaves it. Does nothing if the path is no regular file, or if one of
/// its directories is a symlink. A file of more than `most_bytes` bytes is an error.
pub fn rewrite(root: &Path, path: &LayerPath, most_bytes: u64, change: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut beneath = Beneath::open(root)?;
    let opened = beneath.parent(path).and_then(|dir| openat(dir, path.name(), flags, Mode::empty()));
    let mut file = match opened {
        Ok(file) => File::from(file),
        // A missing file, a symlink, a directory, or a fifo or device without another end.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let bytes = read_limited::whole(file.try_clone()?, most_bytes)?;
    if let Some(changed) = change(&bytes).filter(|changed| *changed != bytes) {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&changed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_changed_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::create_dir_all(place.path().join("out")).unwrap();
        for file in ["root/a/file", "out/file"] {
            fs::write(place.path().join(file), "12345").unwrap();
        }
        symlink("../../out", root.join("dir")).unwrap();
        symlink("../out/file", root.join("link")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(root.join("fifo")).status().unwrap().success());
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        for text in ["a/file", "dir/file", "link", "fifo", "a", "nothing", "nothing/file"] {
            rewrite(&root, &path(text), 5, |_| Some(b"new".to_vec())).unwrap();
        }
        assert_eq!(fs::read(root.join("a/file")).unwrap(), b"new");
        assert_eq!(fs::read(place.path().join("out/file")).unwrap(), b"12345");
        let error = rewrite(&root, &path("a/file"), 2, |_| None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
