//! Project files in a run: modes, owners, paths; as root and as an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::{As, NOBODY, Silo, done, is_root, skip};

/// The user of the tests, and an ordinary user if that is root.
fn everybody() -> Vec<As> {
    if is_root() { vec![As::Me, As::Nobody] } else { vec![As::Me] }
}

/// The mode of a file of the project.
fn mode(silo: &Silo, name: &str) -> u32 {
    fs::metadata(silo.project().join(name)).unwrap_or_else(|error| panic!("{name}: {error}")).mode() & 0o7777
}

#[test]
fn new_files_have_the_callers_umask() {
    for who in everybody() {
        let silo = Silo::shared(who);
        for (umask, file, dir) in [("077", 0o600, 0o700), ("002", 0o664, 0o775), ("022", 0o644, 0o755)] {
            let command = silo.command(["sh", "-c", "umask; touch file; mkdir dir"]);
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
            shell.current_dir(silo.project()).env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let ran = done(&mut shell);
            assert_eq!((ran.code, ran.out.trim_end().trim_start_matches('0')), (0, umask.trim_start_matches('0')), "{ran:?}");
            assert_eq!((mode(&silo, "file"), mode(&silo, "dir")), (file, dir), "umask {umask}");
            fs::remove_file(silo.project().join("file")).expect("our own project");
            fs::remove_dir(silo.project().join("dir")).expect("our own project");
        }
    }
}

#[test]
fn archives_of_other_owners_are_unpacked_and_only_root_may_name_an_owner() {
    for who in everybody() {
        let silo = Silo::shared(who);
        fs::write(silo.path("a"), "text\n").expect("our own directory");
        let archive = silo.project().join("t.tar");
        let mut tar = Command::new("tar");
        tar.args(["--owner=1234", "--group=1234", "-C"]).arg(silo.path("")).arg("-cf").arg(&archive).arg("a");
        assert_eq!(done(&mut tar).code, 0);
        let ran = silo.run(["sh", "-c", "tar xf t.tar && cp -a a b && tar xpf t.tar --same-permissions"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
        // Root gets success, as outside, and the one owner that there is.
        let is_root = who == As::Me && is_root();
        let ran = silo.run(["sh", "-c", "chown 1234:1234 a && chown -h :1234 b && install -o 1234 -g 1234 a c"]);
        assert_eq!((ran.code == 0, ran.err.is_empty()), (is_root, is_root), "{ran:?}");
        for name in ["a", "b"].iter().chain(if is_root { &["c"][..] } else { &[] }) {
            let file = fs::metadata(silo.project().join(name)).expect("unpacked");
            let project = fs::metadata(silo.project()).expect("there");
            assert_eq!((file.uid(), file.gid()), (project.uid(), project.gid()), "{name}");
        }
        let ran = silo.run(["python", "-c", "import os; os.chown('missing', 0, 0)"]);
        assert!(ran.err.contains("FileNotFoundError"), "{ran:?}");
    }
}

#[test]
fn directories_keep_their_group_and_files_get_no_such_bit() {
    for who in everybody() {
        let silo = Silo::shared(who);
        fs::set_permissions(silo.project(), fs::Permissions::from_mode(0o2775)).expect("our own project");
        let script = "set -e; mkdir a; echo x > a/file; cp -a a b; chmod -R g+w a; tar cf t a; mkdir c; tar xpf t -C c; chmod 2755 b
            mkdir plain; chmod g-s plain; chmod g+s plain; cd plain; chmod 2750 .";
        let ran = silo.run(["sh", "-c", script]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for (name, expect) in [("a", 0o2775), ("b", 0o2755), ("c/a", 0o2775), ("plain", 0o2750), ("a/file", 0o664)] {
            assert_eq!(mode(&silo, name), expect, "{name}");
        }
        // No name and no call gives a file the bits; a symlink and a race reach the changed file.
        let attempts = r#"
import os
open("file", "w").close(); os.mkdir("dir"); os.symlink("file", "link")
fd = os.open("file", os.O_RDONLY)
directory = os.open(".", os.O_RDONLY)
for attempt in [lambda: os.chmod("file", 0o2755), lambda: os.chmod("link", 0o4755), lambda: os.fchmod(fd, 0o6755),
                lambda: os.chmod("file", 0o4755, dir_fd=directory), lambda: os.chmod(f"/proc/self/fd/{fd}", 0o4755),
                lambda: os.chmod(os.path.abspath("file"), 0o2711)]:
    try: attempt(); print("set")
    except PermissionError: print("refused")
for attempt in [lambda: os.chmod("none", 0o2755), lambda: os.fchmod(99, 0o2755)]:
    try: attempt(); print("set")
    except OSError as error: print(error.errno)
os.fchmod(os.open("dir", os.O_RDONLY), 0o2711); os.chmod(os.path.abspath("dir"), 0o2700); os.chmod("dir", 0o2750, dir_fd=directory)
print(oct(os.stat("file").st_mode & 0o7000), oct(os.stat("dir").st_mode & 0o7777))
"#;
        let seen = silo.ok(["python", "-c", attempts]);
        assert_eq!(seen, format!("{}2\n9\n0o0 0o2750\n", "refused\n".repeat(6)));
    }
}

#[test]
fn a_project_behind_a_symlink_has_both_paths_inside() {
    for who in everybody() {
        let silo = Silo::shared(who);
        let real = fs::canonicalize(silo.project()).expect("our own project");
        let place = real.parent().expect("it has one").join("link");
        std::os::unix::fs::symlink(&real, &place).expect("our own directory");
        fs::create_dir(real.join("inner")).expect("our own project");
        fs::write(real.join("inner/file"), "seen").expect("our own project");
        let script = "cat \"$1\" \"$2\"; pwd; pwd -P; echo made > \"$3\"";
        let (typed, made) = (place.join("inner/file"), place.join("inner/made"));
        let words = ["sh", "-c", script, "x"].map(std::ffi::OsString::from).into_iter();
        let paths = [typed.as_os_str(), real.join("inner/file").as_os_str(), made.as_os_str()].map(ToOwned::to_owned);
        let mut command = silo.command(words.chain(paths));
        fs::set_permissions(real.join("inner"), fs::Permissions::from_mode(0o777)).expect("our own project");
        let ran = done(command.current_dir(real.join("inner")).env("PWD", place.join("inner")));
        let expect = format!("seenseen{}\n{}\n", place.join("inner").display(), real.join("inner").display());
        assert_eq!((ran.code, ran.out), (0, expect), "{}", ran.err);
        assert!(real.join("inner/made").exists());
        // A variable that is left of another directory says nothing.
        let ran = done(silo.command(["sh", "-c", "pwd"]).current_dir(&real).env("PWD", "/usr"));
        assert_eq!(ran.out, format!("{}\n", real.display()), "{ran:?}");
    }
}

#[test]
fn a_variable_that_is_set_and_empty_is_handed_in() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "passEnv = [\"EMPTY\", \"UNSET\"]\n").expect("our own project");
    silo.ok(["trust", "--yes"]);
    let mut command = silo.command(["sh", "-c", "echo \"${EMPTY-unset} ${UNSET-unset}\""]);
    assert_eq!(done(command.env("EMPTY", "").env_remove("UNSET")).out, " unset\n");
}

#[test]
fn root_is_warned_about_the_project_of_another_user() {
    if !is_root() {
        return skip("only root has projects of other users");
    }
    let silo = Silo::shared(As::Me);
    std::os::unix::fs::chown(silo.project(), Some(NOBODY), Some(NOBODY)).expect("root may");
    let told = |silo: &Silo| silo.run(["sh", "-c", "ls > /dev/null; echo x > made"]);
    let ran = told(&silo);
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.contains("root inside")).collect();
    assert!(ran.code != 0 && lines.len() == 1, "{ran:?}");
    assert!(
        lines[0].starts_with("silo: ") && lines[0].contains("can read, but not write,") && lines[0].contains("sudo -u '#54321'"),
        "{lines:?}"
    );
    // A user with write access gets no warning.
    fs::set_permissions(silo.project(), fs::Permissions::from_mode(0o777)).expect("root may");
    let ran = told(&silo);
    assert!(ran.code == 0 && !ran.err.contains("root inside"), "{ran:?}");
}
