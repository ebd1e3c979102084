//! Normalisation of entries: values that a build's clock, user or file system could change are constant or have one form.
//!
//! * directories: mtime is constant, because it would couple a layer to neighbouring layers;
//! * symlinks: mode and mtime are constant, without extended attributes: no tool can set them everywhere;
//! * files: mtime is clamped by the caller (see [`clamp`]) and limited to an octal tar field;
//! * extended attributes: an allow-list, see [`xattr`].

use crate::entry::{Kind, Meta};

/// The mtime of every directory, symlink and whiteout: 1980-01-01, the first date that a zip file can store, so that zipping files of a
/// root works. A change here changes every LayerId.
pub const CONSTANT_MTIME_SECS: i64 = 315_532_800;
/// The latest mtime an octal ustar field can hold (year 2242).
pub const MAX_MTIME_SECS: i64 = 0o77_777_777_777;
/// The longest extended attribute that Linux stores.
pub const MAX_XATTR_BYTES: usize = 65_536;
/// The extended attribute for an owner other than 0:0 on disk, as `uid:gid`.
pub const OWNER_XATTR: &str = "user.silo.owner";
/// The extended attribute for a file's capabilities, in the changes of a step.
pub const RECORDED_CAPABILITY_XATTR: &str = "user.silo.capability";
/// The extended attribute of the changes of a step that had real owners and capabilities.
pub const TRUE_XATTR: &str = "user.silo.true";
/// The extended attribute for a file's capabilities.
pub const CAPABILITY_XATTR: &[u8] = b"security.capability";

/// Returns the normalised form of `meta` for an entry of this kind.
pub fn meta(kind: Kind, meta: &Meta) -> Meta {
    match kind {
        Kind::Dir => Meta { mode: meta.mode & 0o7777, mtime: CONSTANT_MTIME_SECS, xattrs: xattrs(kind, meta), ..*meta },
        Kind::File | Kind::Hardlink => {
            Meta { mode: meta.mode & 0o7777, mtime: meta.mtime.clamp(0, MAX_MTIME_SECS), xattrs: xattrs(kind, meta), ..*meta }
        }
        Kind::Symlink => Meta { mode: 0o777, mtime: CONSTANT_MTIME_SECS, xattrs: Default::default(), ..*meta },
        Kind::Whiteout => whiteout(),
    }
}

/// Returns the metadata of every whiteout.
pub fn whiteout() -> Meta {
    Meta { mtime: CONSTANT_MTIME_SECS, ..Meta::default() }
}

/// Returns the metadata of a directory without an entry: 0:0, 0755.
pub fn implied_dir() -> Meta {
    Meta { mode: 0o755, mtime: CONSTANT_MTIME_SECS, ..Meta::default() }
}

/// Returns `mtime`, or `epoch` if that is earlier: a build's `SOURCE_DATE_EPOCH`.
pub fn clamp(mtime: i64, epoch: i64) -> i64 {
    mtime.min(epoch)
}

/// Returns the normalised value of an extended attribute, or `None` to drop it.
///
/// Two kinds are kept: file capabilities, without the user-namespace root that version 3 adds, and `user.*` except the private attributes
/// of overlayfs and Silo. Labels, ACLs and the rest belong to the host that made them. A name with `=` or a control byte does not fit into
/// a PAX record and is dropped too.
pub fn xattr(kind: Kind, name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let is_file = matches!(kind, Kind::File | Kind::Hardlink);
    if value.len() > MAX_XATTR_BYTES || name.len() > 255 {
        return None;
    }
    if name == CAPABILITY_XATTR {
        return if is_file { capability(value) } else { None };
    }
    let rest = name.strip_prefix(b"user.")?;
    let private = rest.starts_with(b"silo.") || rest.starts_with(b"overlay.");
    let plain = !rest.is_empty() && rest.iter().all(|byte| *byte > b' ' && *byte != b'=' && *byte != 0x7f);
    ((is_file || kind == Kind::Dir) && !private && plain).then(|| value.to_vec())
}

/// Returns a capability set as the 20 bytes of version 2, or `None` for anything else.
fn capability(value: &[u8]) -> Option<Vec<u8>> {
    // The magic is little-endian: one flag in the low byte, the version in the top one.
    let (body, version) = match value.len() {
        20 => (value, 2),
        24 => (&value[..20], 3),
        _ => return None,
    };
    if value[0] > 1 || value[1..4] != [0, 0, version] {
        return None;
    }
    let mut normal = body.to_vec();
    normal[3] = 2;
    Some(normal)
}

fn xattrs(kind: Kind, meta: &Meta) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    let normal = |(name, value): (&Vec<u8>, &Vec<u8>)| Some((name.clone(), xattr(kind, name, value)?));
    meta.xattrs.iter().filter_map(normal).collect()
}

/// Returns the text of the owner attribute, or `None` for 0:0.
pub(crate) fn owner_text(meta: &Meta) -> Option<String> {
    (meta.uid != 0 || meta.gid != 0).then(|| format!("{}:{}", meta.uid, meta.gid))
}

/// Parses the text of the owner attribute.
pub(crate) fn parse_owner(text: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    Some((number(uid)?, number(gid)?))
}

/// Returns an entry's permissions on disk: always readable by us, and writable if it is a directory.
pub(crate) fn disk_mode(kind: Kind, mode: u32) -> u32 {
    match kind {
        Kind::Dir => mode | 0o700,
        Kind::File | Kind::Hardlink | Kind::Symlink | Kind::Whiteout => mode | 0o400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattr_allow_list() {
        let v2 = |flag| [&[flag, 0, 0, 2][..], &[7; 16]].concat();
        let v3 = [&[1, 0, 0, 3][..], &[7; 16], &[9; 4]].concat();
        type Row<'a> = (Kind, &'a [u8], &'a [u8], Option<Vec<u8>>);
        let table: &[Row<'_>] = &[
            (Kind::File, b"security.capability", &v2(1), Some(v2(1))),
            (Kind::File, b"security.capability", &v3, Some(v2(1))),
            (Kind::File, b"security.capability", b"junk", None),
            (Kind::Dir, b"security.capability", &v2(0), None),
            (Kind::File, b"security.selinux", b"x", None),
            (Kind::File, b"system.posix_acl_access", b"x", None),
            (Kind::File, b"trusted.overlay.origin", b"x", None),
            (Kind::File, b"user.mime", b"", Some(vec![])),
            (Kind::Dir, b"user.mime", b"a", Some(b"a".to_vec())),
            (Kind::Symlink, b"user.mime", b"a", None),
            (Kind::File, b"user.silo.owner", b"1:1", None),
            (Kind::File, b"user.overlay.opaque", b"y", None),
            (Kind::File, b"user.a=b", b"", None),
            (Kind::File, b"user.", b"", None),
        ];
        for (kind, name, value, expect) in table {
            assert_eq!(&xattr(*kind, name, value), expect, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn owners_are_strict() {
        for (text, expect) in [
            ("5:7", Some((5, 7))),
            ("0:4294967295", Some((0, u32::MAX))),
            ("5", None),
            ("+5:7", None),
            ("5:7 ", None),
            (":", None),
            ("4294967296:0", None),
        ] {
            assert_eq!(parse_owner(text.as_bytes()), expect, "{text}");
        }
    }
}
