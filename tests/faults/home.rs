//! Owner and modes of a home under any umask, and a missing HOME.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::images::{self, Layer};
use crate::support::{As, Done, NOBODY, Silo, done, is_root, skip};

/// Writes an image with one program, and returns its name.
fn image(silo: &Silo) -> String {
    let dir = silo.home().join("layout");
    let program = (tar::EntryType::Regular, "bin/tool", 0o755, "#!/bin/sh\n");
    images::layout(&dir, &[Layer::plain(images::tar(&[(tar::EntryType::Directory, "bin/", 0o755, ""), program]))]);
    format!("oci:{}:v1", dir.display())
}

/// Runs a command of silo with this umask.
fn under(umask: &str, silo: &Silo, args: &[&str]) -> Done {
    let whole = silo.command(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask \"$0\"; exec \"$@\"", umask]).arg(whole.get_program()).args(whole.get_args());
    shell.env_clear().current_dir(silo.project());
    shell.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    done(&mut shell)
}

/// Finds files that another user may read or change, except files of layers and images, which have the guest's modes.
fn loose(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("our own").flatten() {
            let (path, data) = (entry.path(), entry.metadata().expect("there"));
            let is_guests = path.ends_with("tree") || path.ends_with("root");
            if data.is_dir() && !is_guests {
                dirs.push(path.clone());
            }
            if !data.is_symlink() && data.mode() & 0o077 != 0 && !is_guests {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_home_is_private_for_any_umask() {
    for (umask, mode) in [("000", 0o777), ("077", 0o755), ("002", 0o775)] {
        let silo = Silo::new();
        let home = silo.path("");
        fs::create_dir_all(silo.path("recipes")).expect("our own");
        for dir in ["", "recipes"] {
            fs::set_permissions(silo.path(dir), Permissions::from_mode(mode)).expect("our own");
        }
        for args in [
            &["install", "box", "--image", &image(&silo), "--shim", "tool"][..],
            &["config", "network", "allow", "--global", "n.example"],
            &["use", "box"],
            &["config", "network", "allow", "x.example"],
            &["trust"],
            &["sync"],
            &["gc"],
        ] {
            let done = under(umask, &silo, args);
            assert_eq!(done.code, 0, "umask {umask}: {args:?}: {done:?}");
        }
        assert_eq!(fs::metadata(&home).expect("there").mode() & 0o7777, 0o700, "umask {umask}");
        assert_eq!(loose(&home), [""; 0].map(PathBuf::from), "umask {umask}");
        let of_project = fs::metadata(silo.project().join("silo.toml")).expect("written").mode() & 0o777;
        assert_eq!(of_project & 0o022, 0, "umask {umask}: {of_project:o}");
    }
}

#[test]
fn a_home_may_be_a_link_to_a_directory_of_ones_own() {
    let silo = Silo::new();
    let real = silo.home().join("elsewhere");
    fs::create_dir(&real).expect("our own");
    fs::set_permissions(&real, Permissions::from_mode(0o777)).expect("our own");
    symlink(&real, silo.home().join(".silo")).expect("our own");
    assert_eq!(silo.ok(["list"]), "");
    assert_eq!((fs::metadata(&real).expect("there").mode() & 0o7777, loose(&real)), (0o700, Vec::new()));
}

#[test]
fn a_home_that_is_another_users_is_refused() {
    if !is_root() {
        return skip("only root can be two users");
    }
    let silo = Silo::of(As::Nobody);
    fs::create_dir(silo.path("")).expect("our own");
    let done = silo.run(["list"]);
    assert!(done.code != 0 && done.err.contains("belongs to another user (0)") && done.err.contains("set HOME"), "{done:?}");
    chown(silo.path(""), Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    assert_eq!(silo.ok(["list"]), "");
    // Files of another user in a formerly open home are not obeyed.
    let planted = silo.path("recipes/planted.toml");
    silo.write(".silo/recipes/planted.toml", "");
    chown(&planted, Some(NOBODY + 1), None).expect("root may give it away");
    assert_eq!(silo.run(["list"]).code, 0, "nobody could have written there");
    fs::set_permissions(silo.path("recipes"), Permissions::from_mode(0o777)).expect("our own");
    let done = silo.run(["list"]);
    assert!(done.code != 0 && done.err.contains("planted.toml") && done.err.contains("chown"), "{done:?}");
}

#[test]
fn a_home_directory_that_is_not_there_is_not_made() {
    let silo = Silo::new();
    let nowhere = silo.home().join("nowhere");
    for args in [&["list"][..], &["install", "sh"], &["doctor"], &["gc"], &["config", "network", "allow", "--global", "x.example"]] {
        let done = done(silo.command(args).env("HOME", &nowhere));
        let told = format!("{}{}", done.out, done.err);
        assert!(done.code != 0 && told.contains("nowhere"), "{args:?}: {done:?}");
        assert!(!nowhere.exists(), "{args:?}");
    }
}

#[test]
fn persistent_directories_are_removed_with_any_modes() {
    let silo = Silo::new();
    let secret = silo.home().join(".ssh");
    fs::create_dir(&secret).expect("our own");
    fs::write(secret.join("id"), "secret").expect("our own");
    fs::set_permissions(&secret, Permissions::from_mode(0o500)).expect("our own");
    let home = silo_base::home::Home::new(silo.path(""));
    let keeper = silo_tool::kept_dirs::Keeper::new(&home, None, None);
    drop(keeper);
    let project = silo.project();
    let keeper = silo_tool::kept_dirs::Keeper::new(&home, Some(&project), None);
    let excluded = keeper.excluded("node_modules").expect("a project");
    drop(keeper.open(std::slice::from_ref(&excluded)).expect("made"));
    fs::create_dir_all(excluded.join("closed/deep")).expect("our own");
    fs::write(excluded.join("closed/deep/file"), "").expect("our own");
    symlink(&secret, excluded.join("closed/deep/link")).expect("our own");
    symlink(&secret, excluded.join("link")).expect("our own");
    deepen(&excluded, 3_000);
    fs::set_permissions(excluded.join("closed/deep"), Permissions::from_mode(0o000)).expect("our own");
    fs::set_permissions(excluded.join("closed"), Permissions::from_mode(0o500)).expect("our own");
    let said = silo.ok(["cache", "report"]);
    assert!(said.contains("kept"), "{said}");
    let _ = silo.ok(["gc", "--max-size", "1G"]);
    let _ = silo.ok(["clean", "--force"]);
    assert!(!excluded.exists());
    assert_eq!(fs::read_to_string(secret.join("id")).expect("there"), "secret");
    assert_eq!(fs::metadata(&secret).expect("there").mode() & 0o777, 0o500);
}

/// Makes directories in one another, more than a path can name.
fn deepen(dir: &Path, levels: usize) {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = open(dir, flags, Mode::empty()).expect("our own");
    for _ in 0..levels {
        mkdirat(&here, "d", Mode::RWXU).expect("made");
        here = openat(&here, "d", flags, Mode::empty()).expect("our own");
    }
}
