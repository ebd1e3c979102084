//! The range of user and group ids of a build step.
//!
//! A step's user namespace has the ids 0 to 65535, as a Debian system has. Id 0 is the caller. The others are ids that belong to nobody: a
//! high range that no tool assigns if the caller is root, otherwise the caller's own range in `/etc/subuid` and `/etc/subgid`, which the
//! helpers `newuidmap` and `newgidmap` may map. So a file of a step never belongs to another account of the host, and the step's root has
//! no access to files of other accounts.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::proc_files::read_proc;

/// Number of ids beside 0.
pub const COUNT: u32 = 65_535;

/// The first of the ids that systemd's list of assignments leaves unused (0x70000000 to 0x7ffdffff).
const UNUSED: u32 = 0x7000_0000;

/// Directories of the helpers. The search path is not used, because the helpers are programs of the system.
const HELPERS: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/usr/sbin"];

/// A range of ids for one user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    uids: u32,
    gids: u32,
    /// The directory of the helpers; `None` for root, which needs none.
    helpers: Option<PathBuf>,
}

/// The reason for the lack of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The helpers are not installed.
    Helpers,
    /// The file assigns no range to the user.
    Assigned(&'static str),
    /// The process is root of a namespace with too few ids.
    Few,
}

impl fmt::Display for Lack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lack::Helpers => out.write_str("newuidmap and newgidmap are not installed"),
            Lack::Assigned(file) => write!(out, "{file} assigns fewer than {COUNT} ids to you"),
            Lack::Few => write!(out, "this container has fewer than {COUNT} ids beside root's"),
        }
    }
}

impl Range {
    /// Finds the range of the caller.
    pub fn find() -> Result<Range, Lack> {
        if rustix::process::geteuid().is_root() {
            let extents = |kind: &str| read_proc(&format!("/proc/self/{kind}_map")).unwrap_or_default();
            let free = |kind: &str| unassigned(&extents(kind)).ok_or(Lack::Few);
            return Ok(Range { uids: free("uid")?, gids: free("gid")?, helpers: None });
        }
        let is_there = |dir: &&&str| ["newuidmap", "newgidmap"].iter().all(|name| Path::new(dir).join(name).exists());
        let helpers = HELPERS.iter().find(is_there).ok_or(Lack::Helpers)?;
        let uid = rustix::process::getuid().as_raw();
        let names = [uid.to_string(), name_of(uid).unwrap_or_default()];
        let own = |file: &'static str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            assigned(&text, &names).ok_or(Lack::Assigned(file))
        };
        Ok(Range { uids: own("/etc/subuid")?, gids: own("/etc/subgid")?, helpers: Some(PathBuf::from(helpers)) })
    }

    /// Maps the ids into the user namespace of a new process, which waits for it. Returns false if the system refuses.
    pub fn map(&self, pid: i32, uid: u32, gid: u32) -> bool {
        let Some(helpers) = &self.helpers else {
            let write = |kind: &str, own: u32, first: u32| {
                fs::write(format!("/proc/{pid}/{kind}_map"), format!("0 {own} 1\n1 {first} {COUNT}\n")).is_ok()
            };
            return write("uid", uid, self.uids) && write("gid", gid, self.gids);
        };
        let run = |name: &str, own: u32, first: u32| {
            let numbers = [0, own, 1, 1, first, COUNT].map(|number| number.to_string());
            let mut helper = Command::new(helpers.join(name));
            helper.arg(pid.to_string()).args(numbers).env_clear();
            helper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            helper.status().is_ok_and(|status| status.success())
        };
        run("newuidmap", uid, self.uids) && run("newgidmap", gid, self.gids)
    }
}

/// Returns the first of enough ids that no account has, for root of a namespace with these ids. In a container with few ids these are the
/// container's own ones.
fn unassigned(map: &str) -> Option<u32> {
    let numbers = |line: &str| -> Option<(u64, u64)> {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let (inside, count) = (words.next()??, words.nth(1)??);
        Some((inside, inside.saturating_add(count)))
    };
    let extents: Vec<(u64, u64)> = map.lines().filter_map(numbers).collect();
    let (first, count) = (u64::from(UNUSED), u64::from(COUNT));
    if extents.iter().any(|(start, end)| *start <= first && first + count <= *end) {
        return Some(UNUSED);
    }
    let last =
        extents.iter().map(|(start, end)| ((*start).max(1), *end)).filter(|(start, end)| start + count <= *end).max_by_key(|(_, end)| *end);
    last.and_then(|(_, end)| u32::try_from(end - count).ok())
}

/// Returns the first id of the user's range in a file such as /etc/subuid, if the range is long enough.
fn assigned(text: &str, names: &[String; 2]) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, first, count) = (parts.next()?, parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u64>().ok()?);
        let is_own = !name.is_empty() && names.iter().any(|own| own == name);
        (is_own && first > 0 && count >= u64::from(COUNT) && first.checked_add(COUNT).is_some()).then_some(first)
    })
}

/// Returns the name of a user: from /etc/passwd, or from the system's other sources of accounts.
fn name_of(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let own = accounts.lines().find_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        (parts.nth(1)? == uid).then(|| name.to_owned())
    });
    own.or_else(|| {
        let told = Command::new("/usr/bin/id").arg("-un").env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        told.status.success().then(|| String::from_utf8_lossy(&told.stdout).trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_range_that_the_file_assigns() {
        let names = ["1000".to_owned(), "ann".to_owned()];
        for (text, expect) in [
            ("ann:100000:65536\n", Some(100_000)),
            ("bob:100000:65536\n1000:165536:65535\n", Some(165_536)),
            ("ann:100000:1000\nann:300000:65536\n", Some(300_000)),
            ("ann:100000:65534\n", None),
            ("ann:0:65536\n", None),
            ("ann:4294967000:65536\n", None),
            ("# ann\n:1:65536\nann:x:65536\nann\n", None),
            ("", None),
        ] {
            assert_eq!(assigned(text, &names), expect, "{text}");
        }
        let nameless = ["1000".to_owned(), String::new()];
        assert_eq!(assigned(":100000:65536\n", &nameless), None);
    }

    #[test]
    fn root_has_ids_that_no_account_has_if_there_are_any() {
        for (map, expect) in [
            ("0 0 4294967295\n", Some(UNUSED)),
            ("0 100000 65536\n", Some(1)),
            ("0 1000 1\n1 100000 65536\n", Some(2)),
            ("0 100000 65535\n", None),
            ("0 1000 1\n", None),
            ("0 0 99999999999999999999\n", None),
            ("", None),
        ] {
            assert_eq!(unassigned(map), expect, "{map}");
        }
    }
}
