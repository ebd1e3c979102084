//! A full disk: the error says so and names the file, nothing is left half-written, and with room it continues.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::mirror::mirror;
use super::{assert_nothing, assert_whole, use_mirror};
use crate::support::{Silo, skip};

/// A small file system in memory, let go even when the test fails.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Small> {
        mount(&["-t", "tmpfs", "-o", "mode=755,size=2m", "tmpfs"], &at).then_some(Small(at))
    }

    fn resize(&self, mebibytes: u64) {
        assert!(mount(&["-o", &format!("remount,size={mebibytes}m")], &self.0), "a tmpfs can grow");
    }

    /// The used MiB.
    fn mebibytes(&self) -> u64 {
        let usage = rustix::fs::statvfs(&self.0).expect("our own file system");
        ((usage.f_blocks - usage.f_bfree) * usage.f_frsize) >> 20
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_is_reported_and_leaves_no_partial_files() {
    let http = mirror();
    let silo = Silo::new();
    let Some(small) = Small::mount(silo.home().to_owned()) else {
        return skip("no permission to mount a tmpfs here");
    };
    use_mirror(&silo, &http);
    small.resize(1024);
    let _ = silo.ok(["install", "sh"]);
    let needed = small.mebibytes();
    let _ = silo.ok(["uninstall", "sh"]);
    let _ = silo.ok(["gc", "--all"]);
    let empty = small.mebibytes();
    // Full while fetching, while unpacking, and near the end.
    for part in [1, 4, 7] {
        let room = empty + (needed - empty) * part / 8;
        small.resize(room);
        let done = silo.run(["install", "sh"]);
        assert_eq!(done.code, 1, "{room} of {needed} MiB: {done:?}");
        assert!(done.err.contains("No space left on device"), "{room} of {needed} MiB: {done:?}");
        assert!(done.err.contains(&silo.home().display().to_string()), "{room} of {needed} MiB: {done:?}");
        // The message of a step's program about the full disk is shown unchanged.
        let by_program = done.err.contains("configuring the packages failed");
        assert!(
            by_program || done.err.contains("hint: free some space, then run the same command again"),
            "{room} of {needed} MiB: {done:?}"
        );
        // Looking needs a little room of its own.
        small.resize(room + 1);
        assert_nothing(&silo);
    }
    small.resize(1024);
    let _ = silo.ok(["install", "sh"]);
    assert_whole(&silo);
}
