//! The merged /usr: top directories that are symlinks into /usr, and the resulting paths of a package's files.
//!
//! Every root of Silo has a merged /usr from its first layer on, as made by debootstrap and mmdebstrap's hooks. Since Debian 13, base-files
//! contains the symlinks; before, packages contain files below /bin, /sbin and /lib, and the tool that creates the root makes the symlinks.

use silo_base::system::Arch;

/// The top directories that are symlinks into /usr wherever they exist.
const TOP: [&[u8]; 7] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libo32", b"libx32"];

/// Lists the symlinks in a root of an architecture, as made by debootstrap's `setup_merged_usr`.
pub fn links(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Amd64 => &["bin", "sbin", "lib", "lib32", "lib64", "libx32"],
        Arch::Arm64 => &["bin", "sbin", "lib"],
    }
}

/// Maps the path of a file, relative to the root, to its path in a merged /usr. A top name is unchanged: it is the symlink.
pub fn place(path: &[u8]) -> Vec<u8> {
    if path.contains(&b'/') { place_of_dir(path) } else { path.to_vec() }
}

/// Maps the path of a directory, relative to the root, to its path in a merged /usr.
pub fn place_of_dir(path: &[u8]) -> Vec<u8> {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    if TOP.contains(&first) { [b"usr/", path].concat() } else { path.to_vec() }
}

/// Returns true if a symlink at `place` points to itself. A package with a file in /bin and a symlink to it in /usr/bin gives one file if
/// both are one directory.
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
    self::place(&parts.join(&b'/')) == place
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
            let got = if is_dir { place_of_dir(path.as_bytes()) } else { place(path.as_bytes()) };
            assert_eq!(got, expect.as_bytes());
        }
    }

    #[test]
    fn a_symlink_to_itself_is_reported() {
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
