//! install.sh installs a release only if each file has the digest that was published.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use silo_store::digest::Digest;

use crate::support::{Done, done};

/// A release with one program, in a directory.
struct Release {
    place: tempfile::TempDir,
}

impl Release {
    fn new() -> Release {
        let release = Release { place: tempfile::tempdir().expect("a directory") };
        let name = format!("silo-1.2.3-{}-unknown-linux", std::env::consts::ARCH);
        let bin = release.dir("made").join(&name).join("bin");
        fs::create_dir_all(&bin).expect("made");
        fs::write(bin.join("silo"), "#!/bin/sh\necho silo 1.2.3\n").expect("written");
        fs::set_permissions(bin.join("silo"), fs::Permissions::from_mode(0o755)).expect("set");
        fs::create_dir_all(release.dir("files")).expect("made");
        let packed = Command::new("tar").arg("-czf").arg(release.tarball()).arg("-C").arg(release.dir("made")).arg(&name).status();
        assert!(packed.expect("tar is essential").success());
        release.publish();
        release
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn tarball(&self) -> PathBuf {
        self.dir("files").join(format!("silo-1.2.3-{}-unknown-linux.tar.gz", std::env::consts::ARCH))
    }

    /// Writes SHA256SUMS for the current files.
    fn publish(&self) {
        let tarball = self.tarball();
        let digest = Digest::of(&fs::read(&tarball).expect("packed"));
        let name = tarball.file_name().expect("a file").to_string_lossy();
        fs::write(self.dir("files").join("SHA256SUMS"), format!("{digest}  {name}\n{digest}  silo-1.2.3-aarch64-apple-darwin.tar.gz\n"))
            .expect("written");
    }

    fn sums(&self) -> String {
        Digest::of(&fs::read(self.dir("files").join("SHA256SUMS")).expect("published")).to_string()
    }

    fn install(&self, more: &[&str]) -> Done {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh");
        let mut command = Command::new("sh");
        command.arg(script).arg("--base").arg(format!("file://{}", self.dir("files").display())).arg("--to").arg(self.dir("to"));
        done(command.args(more).env("HOME", self.place.path()).env_remove("SILO_BASE").env_remove("SILO_SUMS_SHA256"))
    }

    fn is_installed(&self) -> bool {
        self.dir("to").exists()
    }
}

#[test]
fn a_release_is_installed_and_replaced() {
    let release = Release::new();
    let installed = release.install(&["--sums", &release.sums()]);
    assert!(installed.code == 0 && installed.out.contains("silo 1.2.3 is in"), "{installed:?}");
    assert_eq!(done(&mut Command::new(release.dir("to").join("bin/silo"))).out, "silo 1.2.3\n");
    let again = release.install(&[]);
    assert!(again.code == 0 && again.err.contains(&release.sums()), "without a digest, the found one is printed: {again:?}");
    let names: Vec<_> = fs::read_dir(release.dir("to")).expect("installed").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["bin"], "nothing is left over");
}

#[test]
fn a_release_with_other_bytes_is_refused() {
    let release = Release::new();
    let sums = release.sums();
    fs::OpenOptions::new()
        .append(true)
        .open(release.tarball())
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"x"))
        .expect("changed");
    let refused = release.install(&["--sums", &sums]);
    assert!(refused.code == 1 && refused.err.contains("nothing was installed"), "{refused:?}");
    // A list that fits the other bytes has another digest.
    release.publish();
    let refused = release.install(&["--sums", &sums]);
    assert!(refused.code == 1 && refused.err.contains(&format!("not {sums}")), "{refused:?}");
    assert!(!release.is_installed());
}

#[test]
fn an_installer_without_a_fitting_release_fails_with_a_reason() {
    let release = Release::new();
    for (text, expect) in [("", "no file for"), ("00  ../x-unknown-linux.tar.gz\n", "no file for")] {
        fs::write(release.dir("files").join("SHA256SUMS"), text).expect("written");
        let refused = release.install(&[]);
        assert!(refused.code == 1 && refused.err.contains(expect), "{text:?}: {refused:?}");
    }
    let twice = format!("00  a/b-{0}-unknown-linux.tar.gz\n00  c-{0}-unknown-linux.tar.gz\n", std::env::consts::ARCH);
    fs::write(release.dir("files").join("SHA256SUMS"), twice).expect("written");
    let refused = release.install(&[]);
    assert!(refused.code == 1 && refused.err.contains("more than one file"), "{refused:?}");
    for (arguments, expect) in
        [(&["--base", "ftp://example.com"][..], "neither https"), (&["--base"], "needs a value"), (&["--x", "y"], "unknown")]
    {
        let refused = release.install(arguments);
        assert!(refused.code == 1 && refused.err.contains(expect), "{arguments:?}: {refused:?}");
    }
    assert!(!release.is_installed());
}
