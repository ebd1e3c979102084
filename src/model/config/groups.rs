//! Checks whether a group has a single member, as the private group that many systems make for each user.

use std::path::Path;

use silo_store::read_limited;

/// Maximum size of `/etc/passwd` or `/etc/group`; machines with more accounts use a directory service.
const MAX_BYTES: u64 = 4 << 20;

/// True if only this user and root are in the group.
pub fn is_of_one(gid: u32, uid: u32) -> bool {
    let read = |path: &str| read_limited::read(Path::new(path), MAX_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match (read("/etc/passwd"), read("/etc/group")) {
        (Ok(passwd), Ok(group)) => is_alone(&passwd, &group, gid, uid),
        _ => gid == uid,
    }
}

fn is_alone(passwd: &str, group: &str, gid: u32, uid: u32) -> bool {
    let users = || passwd.lines().filter_map(user);
    let is_one = |of: u32| of == 0 || of == uid;
    if users().any(|(_, of, primary)| primary == gid && !is_one(of)) {
        return false;
    }
    let mut entries = group.lines().filter_map(|line| entry(line).filter(|(_, of, _)| *of == gid)).peekable();
    if entries.peek().is_none() {
        // A group of a directory service, or without a name: it is private only if its id is the user's id.
        return gid == uid;
    }
    let names: Vec<&str> = users().filter(|(_, of, _)| is_one(*of)).map(|(name, ..)| name).collect();
    entries.all(|(name, _, members)| names.contains(&name) && members.split(',').all(|member| member.is_empty() || names.contains(&member)))
}

fn user(line: &str) -> Option<(&str, u32, u32)> {
    let mut parts = line.split(':');
    let name = parts.next()?;
    let (uid, gid) = (parts.nth(1)?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((name, uid, gid))
}

fn entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut parts = line.split(':');
    let name = parts.next()?;
    Some((name, parts.nth(1)?.parse().ok()?, parts.next().unwrap_or_default().trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_users_private_group_is_of_one() {
        let passwd = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nyou:x:1001:100::/home/you:/bin/sh\n";
        let group = "root:x:0:\nme:x:1000:\nusers:x:100:\nteam:x:200:me,you\nmine:x:201:me\nshared:x:1000:you\n";
        let of = |group: &str, gid| is_alone(passwd, group, gid, 1000);
        let plain = group.replace("shared:x:1000:you\n", "");
        for (gid, expect) in [(1000, true), (0, true), (100, false), (200, false), (201, false), (300, false)] {
            assert_eq!(of(&plain, gid), expect, "{gid}");
        }
        assert!(!of(group, 1000), "a second entry counts, too");
        assert!(is_alone("", "", 54_321, 54_321) && !is_alone("", "", 54_321, 54_322));
    }
}
