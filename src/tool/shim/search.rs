//! Finds programs along PATH, without the shims.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Identity of a file: device and inode, which do not depend on its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// Returns the identity of a path's target, following symlinks.
pub fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity { device: found.dev(), inode: found.ino() })
}

/// Returns PATH without the directory of the shims, also where PATH names it by a symlink. The rest is unchanged, byte for byte.
pub fn without(path: &OsStr, bin: &Path) -> OsString {
    let shims = identity(bin);
    let is_bin = |part: &[u8]| {
        let dir = Path::new(OsStr::from_bytes(part));
        dir == bin || (shims.is_some() && !part.is_empty() && identity(dir) == shims)
    };
    let kept: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b':').filter(|part| !is_bin(part)).collect();
    OsString::from_vec(kept.join(&b':'))
}

/// Returns true if PATH has a directory, also by a symlink.
pub fn contains(path: &OsStr, dir: &Path) -> bool {
    without(path, dir).len() != path.len()
}

/// Finds every program called `name` along PATH, in order, as a shell would.
pub fn all<'a>(name: &'a OsStr, path: &'a OsStr) -> impl Iterator<Item = PathBuf> + 'a {
    // An empty part of PATH is the working directory, as in a shell; an empty PATH has no parts.
    let path = Some(path).filter(|path| !path.is_empty()).into_iter();
    let dirs = path.flat_map(|path| path.as_bytes().split(|byte| *byte == b':')).map(|part| if part.is_empty() { &b"."[..] } else { part });
    dirs.map(move |dir| Path::new(OsStr::from_bytes(dir)).join(name)).filter(|file| is_program(file))
}

/// Finds the first program called `name` along PATH that is not one of silo's own.
pub fn next(name: &OsStr, path: &OsStr, is_own: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    all(name, path).find(|file| !is_own(file))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file()) && access(file, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_next_program_is_neither_a_shim_nor_this_one() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = |name: &str| place.path().join(name);
        for name in ["bin", "a", "b", "c"] {
            fs::create_dir(dir(name)).expect("made");
        }
        let program = |path: &Path, mode: u32| {
            fs::write(path, "#!/bin/sh\n").expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        };
        let this = dir("silo");
        program(&this, 0o755);
        symlink(&this, dir("bin/tool")).expect("made");
        symlink(dir("bin"), dir("other-name")).expect("made");
        // A link to silo elsewhere, a file that is not executable, and last a program.
        symlink(&this, dir("a/tool")).expect("made");
        program(&dir("b/tool"), 0o644);
        program(&dir("c/tool"), 0o755);
        let join = |names: &[&str]| names.iter().map(|name| dir(name).display().to_string()).collect::<Vec<_>>().join(":");
        let path = OsString::from(join(&["bin", "a", "other-name", "b", "c"]));
        let clean = without(&path, &dir("bin"));
        assert_eq!(clean, OsString::from(join(&["a", "b", "c"])));
        assert!(contains(&path, &dir("bin")) && !contains(&clean, &dir("bin")));
        let is_own = |file: &Path| identity(file) == identity(&this);
        assert_eq!(next(OsStr::new("tool"), &clean, is_own), Some(dir("c/tool")));
        assert_eq!(without(dir("bin").as_os_str(), &dir("bin")), "");
        assert_eq!(next(OsStr::new("none"), &clean, is_own), None);
        assert_eq!(without(OsStr::new(":/x::"), &dir("bin")), ":/x::", "other entries are unchanged");
    }
}
