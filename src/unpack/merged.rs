//! The merged /usr: which top directories are symlinks into /usr, and where a package's paths lie because of that.
//!
//! Every root that Silo makes has a merged /usr from its first layer on, as debootstrap and the hooks of mmdebstrap make it. From
//! Debian 13 on, base-files ships the symlinks; before, packages ship files below /bin, /sbin and /lib themselves, and the tool that
//! makes the root makes the symlinks.

use crate::system::Arch;

/// The top directories that are symlinks into /usr wherever they exist.
const TOP: [&[u8]; 7] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libo32", b"libx32"];

/// Lists the symlinks that a root of an architecture has, as debootstrap's `setup_merged_usr` does.
pub fn links(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &["bin", "sbin", "lib", "lib32", "lib64", "libx32"],
        Arch::Arm64 => &["bin", "sbin", "lib"],
    }
}

/// Returns where a path, relative to the root, lies when the top directories are symlinks. A top name that is no directory stays: it
/// is the symlink.
pub fn place(path: &[u8], is_dir: bool) -> Vec<u8> {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    if TOP.contains(&first) && (is_dir || first.len() < path.len()) { [b"usr/", path].concat() } else { path.to_vec() }
}

/// Tells whether a symlink at `place` points to its own place: a package that has a file in /bin and a symlink to it in /usr/bin means
/// one file when both are one directory.
pub fn is_own_place(place: &[u8], target: &[u8]) -> bool {
    let mut parts: Vec<&[u8]> = Vec::new();
    if !target.starts_with(b"/") {
        parts.extend(place.split(|byte| *byte == b'/'));
        parts.pop();
    }
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    self::place(&parts.join(&b'/'), false) == place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_directories_are_below_usr() {
        for (path, is_dir, expect) in [
            ("lib/x86_64-linux-gnu/libc.so.6", false, "usr/lib/x86_64-linux-gnu/libc.so.6"),
            ("lib", true, "usr/lib"),
            ("lib", false, "lib"),
            ("lib64/ld-linux-x86-64.so.2", false, "usr/lib64/ld-linux-x86-64.so.2"),
            ("bin/sh", false, "usr/bin/sh"),
            ("libexec/x", false, "libexec/x"),
            ("usr/lib/x", false, "usr/lib/x"),
            ("etc", true, "etc"),
        ] {
            assert_eq!(place(path.as_bytes(), is_dir), expect.as_bytes());
        }
    }

    #[test]
    fn a_symlink_to_its_own_place_is_told() {
        for (place, target, expect) in [
            ("usr/bin/which", "/bin/which", true),
            ("usr/bin/which", "../../bin/which", true),
            ("usr/bin/which", "which", true),
            ("usr/bin/which", "../../../../bin/./which", true),
            ("usr/lib/terminfo", "/lib/terminfo", true),
            ("usr/bin/sh", "dash", false),
            ("usr/bin/sh", "/bin/dash", false),
            ("usr/bin/x", "/", false),
            ("bin", "usr/bin", false),
        ] {
            assert_eq!(is_own_place(place.as_bytes(), target.as_bytes()), expect, "{place} -> {target}");
        }
    }
}
