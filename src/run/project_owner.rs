//! Notes, before the program starts, the limits of root in a sandbox on another user's project.
//!
//! Root inside has no power over other users' files, so the project's permission bits apply.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use silo_base::sanitize;
use silo_launch::spec::Access;

use super::user::User;

/// Describes the access of root to another user's project, unless it is full access.
pub fn note(user: &User, project: &Path, access: Access) -> Option<String> {
    let found = fs::metadata(project).ok().filter(|found| user.uid == 0 && found.uid() != 0)?;
    let is_of_group =
        found.gid() == user.gid || rustix::process::getgroups().is_ok_and(|all| all.iter().any(|gid| gid.as_raw() == found.gid()));
    let can = can(if is_of_group { found.mode() >> 3 } else { found.mode() }, access)?;
    let (path, owner) = (sanitize::path(project), found.uid());
    Some(format!(
        "{path} belongs to user {owner}: root inside has no power over other users' files and can {can} there; to write, run silo as that user (sudo -u '#{owner}' silo ...)"
    ))
}

/// Describes the access that the last three bits of a mode give, unless it is full access.
fn can(bits: u32, access: Access) -> Option<&'static str> {
    match (bits & 5 == 5, bits & 2 == 2 && access == Access::ReadWrite) {
        (true, true) => None,
        (true, false) if access == Access::ReadOnly => None,
        (true, false) => Some("read, but not write,"),
        (false, _) => Some("neither read nor write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_others_or_of_the_group_say_what_root_can_do() {
        let (all, read) = (Access::ReadWrite, Access::ReadOnly);
        for (mode, is_of_group, access, expect) in [
            (0o755, false, all, Some("read, but not write,")),
            (0o700, false, all, Some("neither read nor write")),
            (0o775, true, all, None),
            (0o775, false, all, Some("read, but not write,")),
            (0o755, false, read, None),
            (0o777, false, all, None),
        ] {
            assert_eq!(can(if is_of_group { mode >> 3 } else { mode }, access), expect, "{mode:o}");
        }
    }
}
