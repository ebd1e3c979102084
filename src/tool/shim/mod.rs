//! Shims: commands on the user's PATH that run tools.
//!
//! A shim is a small file in `~/.silo/bin` that starts silo with the shim's name. A [`table`] maps each name to its tools. For a call by
//! such a name, silo makes a [`choice`]. A pinned tool always gets the call; another tool gets it only if the project or the user's
//! settings claim it. Otherwise the call goes to the next program of that name on PATH, found by [`search`], as if there were no shim.
//! [`launchers`] makes the files.
//!
//! **No shim calls itself for ever.** The search for the next program skips the directory of the shims, every other launcher, and the silo
//! binary (by device and inode). Each call that is passed on increments a counter in [`HANDED_ON`], which the next program inherits. If
//! scripts still return to the shim, the counter ends the loop.

pub mod table;

pub mod claims;
pub mod fall_through;
pub mod search;

pub mod launchers;
pub mod scripts;

/// Environment variable that counts the times a call was passed on to the next program on PATH.
pub const HANDED_ON: &str = "_SILO_HANDED_ON";

/// Prefix of silo's internal environment variables; only [`HANDED_ON`] is passed on.
pub const INTERNAL: &str = "_SILO_";

/// Limit on passing a call on. Shims of other version managers pass a call on once or twice; more is a loop.
pub const MOST_HANDED_ON: u32 = 8;

/// Programs that systems and scripts depend on. A tool with such a command gets no shim for it by default: a sandboxed `sh` in place of the
/// host's would break every program that finds it on PATH.
const SYSTEMS_OWN: &[&str] = &[
    "ash",
    "at",
    "awk",
    "base64",
    "basename",
    "bash",
    "bunzip2",
    "bzip2",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "chroot",
    "chsh",
    "cmp",
    "command",
    "cp",
    "csh",
    "cut",
    "dash",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "du",
    "echo",
    "egrep",
    "env",
    "expand",
    "expr",
    "false",
    "fgrep",
    "file",
    "find",
    "fish",
    "fold",
    "getent",
    "grep",
    "groups",
    "gunzip",
    "gzip",
    "halt",
    "head",
    "hostname",
    "id",
    "init",
    "install",
    "ip",
    "join",
    "kill",
    "killall",
    "ksh",
    "ln",
    "login",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "mount",
    "mv",
    "nice",
    "nl",
    "nohup",
    "nproc",
    "od",
    "passwd",
    "paste",
    "pgrep",
    "ping",
    "pkexec",
    "pkill",
    "poweroff",
    "printenv",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reboot",
    "reset",
    "rev",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "service",
    "sh",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shutdown",
    "sleep",
    "sort",
    "stat",
    "stty",
    "su",
    "sudo",
    "sync",
    "systemctl",
    "tac",
    "tail",
    "tar",
    "tcsh",
    "tee",
    "test",
    "time",
    "timeout",
    "touch",
    "tput",
    "tr",
    "true",
    "tty",
    "type",
    "umount",
    "uname",
    "uniq",
    "unxz",
    "wc",
    "which",
    "who",
    "whoami",
    "xargs",
    "xz",
    "yes",
    "zcat",
    "zsh",
];

/// Returns true if a name is one of the programs that get no shim by default.
pub fn is_systems_own(name: &str) -> bool {
    name == silo_base::home::PROGRAM || SYSTEMS_OWN.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_system_are_sorted_and_get_no_shim() {
        assert!(SYSTEMS_OWN.is_sorted());
        for (name, expect) in [("sh", true), ("silo", true), ("cat", true), ("python", false), ("npm", false)] {
            assert_eq!(is_systems_own(name), expect, "{name}");
        }
    }
}
