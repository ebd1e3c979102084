//! Words: every message of a first hour names the intended command.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{As, Silo, done, is_root, skip};

#[test]
fn words_of_other_programs_and_slips_lead_to_the_command() {
    let silo = Silo::new();
    assert_eq!(silo.ok(["help"]), silo.ok(["--help"]));
    assert_eq!(silo.ok(["help", "install"]), silo.ok(["install", "--help"]));
    assert_eq!(silo.ok(["version"]), silo.ok(["--version"]));
    for (typed, meant) in [
        ("instal", "install"),
        ("ls", "list"),
        ("update", "upgrade"),
        ("remove", "uninstall"),
        ("unistall", "uninstall"),
        ("shel", "shell"),
    ] {
        let refused = silo.run([typed, "x"]);
        assert!(refused.code == 125 && refused.err.contains(&format!("`silo {meant}`")), "{typed}: {refused:?}");
    }
    for (name, expect) in [
        ("kotlin", "silo add kotlin --for TOOL"),
        ("poetry", "silo add poetry --for TOOL"),
        ("uvx", "a command of the add-on uv"),
        ("npm", "a command of node: silo install node"),
        ("cargo", "a command of rust: silo install rust"),
        ("pyton", "did you mean \"python\"?"),
        ("jva", "did you mean \"java\"?"),
    ] {
        let refused = silo.fails(["install", name]);
        assert!(refused.err.contains(expect), "{name}: {refused:?}");
    }
    let outside = silo.fails(["sync"]);
    assert!(outside.err.contains("is not in a project") && outside.err.contains("silo init"), "{outside:?}");
}

/// A program's exit code 2 must not look like a wrong option of silo.
#[test]
fn wrong_options_of_commands_that_start_programs_have_a_code_of_their_own() {
    let silo = Silo::new();
    for words in
        [&["run", "--max-time", "x", "python"][..], &["run"], &["exec", "--nonsense"], &["shell", "--port", "x"], &["x", "--nonsense"]]
    {
        let refused = silo.run(words);
        assert!(refused.code == 125 && !refused.err.is_empty(), "{words:?}: {refused:?}");
    }
    for words in [&["run", "--help"][..], &["--version"], &["exec", "-h"]] {
        assert_eq!(silo.run(words).code, 0, "{words:?}");
    }
    for words in [&["list", "--nonsense"][..], &["install", "--nonsense"], &["--nonsense"]] {
        assert_eq!(silo.run(words).code, 2, "{words:?}");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    let silo = Silo::new();
    for words in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("a device");
        let refused = silo.command(words).stdout(full).stderr(Stdio::piped()).output().expect("silo");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("cannot write to standard output"), "{words:?}: {said}");
    }
}

#[test]
fn unknown_tools_in_silo_toml_are_errors() {
    let silo = Silo::new();
    let toml = silo.project().join("silo.toml");
    for (text, key) in [
        ("[overrides.pyhton.network]\ndeny = [\"example.com\"]\n", "overrides"),
        ("tools = [\"pyhton\"]\n", "tools"),
        ("tools = [\"pyhton@3.13\"]\n", "tools"),
    ] {
        fs::write(&toml, text).expect("our own project");
        for words in [&["sync"][..], &["trust", "--yes"], &["config", "show"], &["lock"]] {
            let refused = silo.fails(words);
            let expect = format!("{key} names \"pyhton\", but there is no such tool");
            assert!(refused.err.contains(&expect) && refused.err.contains("did you mean \"python\"?"), "{words:?}: {refused:?}");
        }
    }
    // It can be mended, and a recipe of one's own is a tool.
    fs::write(&toml, "tools = [\"mine\"]\n").expect("our own project");
    silo.write(".silo/recipes/mine.toml", "[debian]\npackages = [\"hello\"]\n");
    let _ = silo.ok(["trust", "--yes"]);
    for words in [&["config", "network", "allow", "--tool", "pyhton", "example.com"][..], &["config", "ports", "add", "pyhton", "3000"]] {
        let before = fs::read(&toml).expect("our own project");
        assert!(silo.fails(words).err.contains("did you mean \"python\"?"), "{words:?}");
        assert_eq!(fs::read(&toml).expect("our own project"), before, "nothing is written that cannot work");
    }
}

#[test]
fn files_of_people_keep_their_line_ends_and_comments() {
    let silo = Silo::new();
    let toml = silo.project().join("silo.toml");
    fs::write(&toml, "tools = [\r\n  \"python\", # ours\r\n]\r\n# a note\r\n[network]\r\nallow = [\"a.example\"]\r\n")
        .expect("our own project");
    let _ = silo.ok(["config", "network", "allow", "b.example"]);
    let _ = silo.ok(["use", "node"]);
    let text = fs::read_to_string(&toml).expect("our own project");
    let expect =
        "tools = [\r\n  \"python\", # ours\r\n  \"node\",\r\n]\r\n# a note\r\n[network]\r\nallow = [\"a.example\", \"b.example\"]\r\n";
    assert_eq!(text, expect);
    let _ = silo.ok(["trust", "--yes"]);
    let conflict = "<<<<<<< HEAD\nversion = 1\n=======\nversion = 2\n>>>>>>> other\n";
    fs::write(silo.project().join("silo.lock"), conflict).expect("our own project");
    let told = silo.fails(["sync"]);
    assert!(told.err.contains("silo.lock:1:1: unresolved merge conflict") && told.err.contains("`silo lock`"), "{told:?}");
    fs::write(&toml, conflict).expect("our own project");
    assert!(silo.fails(["config", "show"]).err.contains("choose between the two sides"));
}

#[test]
fn doctor_explains_an_unwritable_home() {
    let silo = Silo::new();
    let home = silo.home().join("closed");
    fs::create_dir(&home).expect("our own directory");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o555)).expect("our own directory");
    let mut command = silo.command(["doctor"]);
    let said = done(command.env("HOME", &home));
    // Root can still write there.
    assert!(said.out.contains("kernel") && said.out.contains("silo's home: "), "{said:?}");
    assert!(said.code == 0 || said.out.contains("missing  silo's home"), "{said:?}");
}

/// Commands that read work in a home on a read-only file system; the others name the cure, and write nothing.
#[test]
fn a_read_only_home_is_read_and_named() {
    let silo = Silo::seeded();
    let _ = silo.ok(["install", "--quiet", "sh"]);
    let flags = if is_root() { "-m" } else { "-rm" };
    let read_only = r#"mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99; shift; exec "$@""#;
    let in_it = |words: &[&str]| {
        let command = silo.command(words.iter().copied());
        let mut outer = Command::new("unshare");
        outer.args([flags, "sh", "-c", read_only, "sh"]).arg(silo.path("")).arg(command.get_program()).args(command.get_args());
        outer.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer.current_dir(command.get_current_dir().expect("a project"));
        done(&mut outer)
    };
    let first = in_it(&["list"]);
    if first.code == 99 || first.err.contains("unshare") {
        return skip("nobody may mount here");
    }
    let tar = silo.project().with_file_name("read-only.tar");
    let tar = tar.to_str().expect("text");
    let reading: [&[&str]; 14] = [
        &["list"],
        &["show", "sh"],
        &["current"],
        &["which", "sh"],
        &["why", "sh", "/bin/sh"],
        &["graph", "sh"],
        &["diff", "sh", "sh"],
        &["log", "sh"],
        &["sbom", "sh"],
        &["verify"],
        &["export", "sh", "--rootfs", tar],
        &["cache", "list"],
        &["projects", "ls"],
        &["config", "show"],
    ];
    for words in reading {
        let read = in_it(words);
        assert!(read.code == 0 && !read.err.contains("Read-only"), "{words:?}: {read:?}");
    }
    let doctor = in_it(&["doctor"]);
    assert!(doctor.out.contains("kernel") && doctor.out.contains("silo's home"), "{doctor:?}");
    let writing: [&[&str]; 8] = [
        &["sh", "-c", "true"],
        &["use", "python"],
        &["add", "jq", "--for", "sh"],
        &["install", "node"],
        &["uninstall", "sh"],
        &["gc"],
        &["init", "--tool", "sh", "--no-interactive"],
        &["doctor", "--fix"],
    ];
    for words in writing {
        let refused = in_it(words);
        assert!(refused.code != 0 && refused.err.contains("Read-only file system"), "{words:?}: {refused:?}");
        assert!(refused.err.contains("hint: ") && !refused.err.contains("internal error"), "{words:?}: {refused:?}");
    }
    assert_eq!(fs::read_dir(silo.project()).expect("our own project").count(), 0, "nothing was written by halves");
}

#[test]
fn options_of_one_run_count_for_that_run() {
    let silo = Silo::shared(As::Me);
    let mut command =
        silo.command(["run", "--env", "A=1 2", "-e", "B", "-e", "NONE", "--env", "C=", "--memory", "64M", "--cpus", "1", "sh", "-c"]);
    let said = done(command.arg("echo \"$A-$B-${NONE-none}-${C-none}\"; ulimit -v; nproc").env("B", "b"));
    assert!(said.code == 0 && said.out.starts_with("1 2-b-none-\n"), "{said:?}");
    let over = silo.run(["run", "--memory", "64M", "python", "-c", "x = bytearray(512 << 20); print(len(x))"]);
    assert!(over.code != 0 && !over.out.contains("536870912"), "{over:?}");
    for words in [["run", "--memory", "1K", "sh"], ["run", "--cpus", "0", "sh"]] {
        assert_eq!(silo.run(words).code, 125, "{words:?}");
    }
    let grant = silo.run(["run", "--allow", "no such", "sh", "-c", "true"]);
    assert_eq!(grant.code, 125, "{grant:?}");
    let asked = "import socket\ntry: socket.getaddrinfo('granted.example', 443)\nexcept OSError: pass";
    let named = |words: &[&str]| silo.run(words.iter().chain(&["python", "-c", asked])).err.contains("granted.example is not granted");
    assert!(named(&["run"]) && !named(&["run", "--allow", "granted.example"]));
}

#[test]
fn messages_of_a_program_that_failed_are_explained() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "").expect("our own project");
    let refused = silo.run(["python", "-c", "import socket; socket.create_connection((\"localhost\", 18765), 3)"]);
    assert!(refused.code == 1 && refused.err.contains("ConnectionRefusedError"), "{refused:?}");
    assert!(
        refused.err.lines().any(|line| line.starts_with("silo: ") && line.contains("inside, localhost is the sandbox itself")),
        "{refused:?}"
    );
    let missing = silo.run(["sh", "-c", "jq ."]);
    assert!(missing.code == 127 && missing.err.contains("try: silo add jq --for sh"), "{missing:?}");
    // Both streams to one place keep their order, and all of it arrives.
    let script = "i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i + 1)); done; jq";
    let mut command = std::process::Command::new("sh");
    let program = silo.command(["x"]).get_program().to_owned();
    command.args(["-c", "\"$0\" sh -c \"$1\" 2>&1"]).arg(program).arg(script).current_dir(silo.project()).stdin(Stdio::null());
    command.env_clear().envs(silo.command(["x"]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let both = done(&mut command);
    let expect: String = (0..3000).map(|at| format!("out {at}\nerr {at}\n")).collect();
    assert!(both.out.starts_with(&expect), "{}", both.out.len());
    assert!(both.out.ends_with("try: silo add jq --for sh\n"), "{}", &both.out[expect.len()..]);
    // A program that goes well is left alone.
    let fine = silo.run(["sh", "-c", "echo 'jq: command not found' >&2"]);
    assert_eq!(fine.err, "jq: command not found\n");
}

#[test]
fn a_closed_error_stream_ends_the_program_as_without_silo() {
    let silo = Silo::shared(As::Me);
    let mut command = silo.command(["sh", "-c", "while echo x >&2; do :; done; exit 3"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("silo starts");
    drop(child.stderr.take());
    let status = child.wait().expect("it ends");
    // By the program's own signal, as a shell would see it, or by the code that comes after.
    assert!(status.signal() == Some(Signal::PIPE.as_raw()) || status.code() == Some(3), "{status:?}");
}
