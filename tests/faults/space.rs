//! A full disk: the error says so and names the file, nothing is left half-written, and with room it continues.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use silo_base::system::Arch;

use super::mirror::{lock_of_sh, mirror};
use super::{assert_nothing, assert_whole, silo_with_sh, use_mirror};
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
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The MiB that everything below a directory takes, each file counted once.
fn mebibytes(dir: &Path) -> u64 {
    let output = Command::new("du").arg("-sm").arg(dir).output().expect("du is essential");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("du prints a number")
}

#[test]
fn a_full_disk_is_reported_and_leaves_no_partial_files() {
    let http = mirror();
    let fetched = lock_of_sh().packages[&Arch::host()].values().map(|package| package.size).sum::<u64>() >> 20;
    let made = mebibytes(silo_with_sh().home());
    let silo = Silo::new();
    let Some(small) = Small::mount(silo.home().to_owned()) else {
        return skip("no permission to mount a tmpfs here");
    };
    use_mirror(&silo, &http);
    // Full while fetching, while unpacking, and near the end; a file system in memory takes a tenth less than one on disk.
    for room in [fetched / 2, fetched + made / 2, fetched + made * 3 / 4] {
        small.resize(room);
        let done = silo.run(["install", "sh"]);
        assert_eq!(done.code, 1, "{room}: {done:?}");
        assert!(done.err.contains("No space left on device"), "{room}: {done:?}");
        assert!(done.err.contains(&silo.home().display().to_string()), "{room}: {done:?}");
        // The message of a step's program about the full disk is shown unchanged.
        let by_program = done.err.contains("configuring the packages failed");
        assert!(by_program || done.err.contains("hint: free some space, then run the same command again"), "{room}: {done:?}");
        // Looking needs a little room of its own.
        small.resize(room + 1);
        assert_nothing(&silo);
    }
    small.resize(1024);
    let _ = silo.ok(["install", "sh"]);
    assert_whole(&silo);
}
