//! Shims: commands on the user's PATH that lead to tools.
//!
//! A shim is a small file in `~/.silo/bin` that starts the program and says its name. One small [`table`] says which tools
//! have which names. Called by such a name, the program makes a [`choice`]: a pinned tool always gets
//! the call, one that is not pinned only where a project or the user's settings claim it; otherwise the next program of
//! that name on PATH gets it, found by [`search`], as if there were no shim. [`launchers`] makes the files.
//!
//! **No shim calls itself for ever.** The next program on PATH is looked for without the directory of the shims. It is never
//! the same file (device and inode) as the program itself, and never another launcher. A call that is handed on is counted in
//! [`HANDED_ON`], which the program that gets it inherits: where scripts lead back to the shim all the same, the count ends it.

pub mod table;

pub mod choice;
pub mod claims;
pub mod search;

pub mod launchers;
pub mod scripts;

/// The variable that counts how often a call was handed on to the next program on PATH.
pub const HANDED_ON: &str = "_SILO_HANDED_ON";

/// What variables of the program itself begin with; none but [`HANDED_ON`] is handed on.
pub const INTERNAL: &str = "_SILO_";

/// How often a call may be handed on. Other version managers' shims come to one or two; more is a circle.
pub const MOST_HANDED_ON: u32 = 8;

/// Programs that systems and scripts are made of. A tool that has such a command gets no shim for it by itself: `sh` in a
/// sandbox instead of the machine's would break whatever looks for it on PATH.
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

/// Says whether a name is one of the programs that get no shim by themselves.
pub fn is_systems_own(name: &str) -> bool {
    name == crate::home::PROGRAM || SYSTEMS_OWN.binary_search(&name).is_ok()
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
