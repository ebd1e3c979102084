//! Running tools as a user types it: output, input, and visible files.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{As, NOBODY, Silo, is_root, skip};

#[test]
fn codes_and_streams_are_the_programs() {
    let silo = Silo::shared(As::Me);
    assert_eq!(silo.fed(["run", "python", "-c", "print(input())"], b"x\n").out, "x\n");
    assert_eq!(silo.run(["run", "python", "-c", "import sys; sys.exit(42)"]).code, 42);
    assert_eq!(silo.run(["run", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(silo.run(["run", "--no-project", "sh", "-c", "exec /no/such"]).code, 127);
    let big = silo.run(["run", "python", "-c", "import sys; sys.stdout.write('x' * 10_000_000)"]);
    assert_eq!((big.code, big.out.len()), (0, 10_000_000));
    let apart = silo.run(["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((apart.out.as_str(), apart.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn everything_after_the_tool_is_the_tools() {
    let silo = Silo::shared(As::Me);
    let argv = "import sys; print(sys.argv[1:])";
    for (words, expect) in [
        (vec!["run", "python", "-c", argv, "--help", "-h", "--quiet"], "['--help', '-h', '--quiet']\n"),
        (vec!["python", "-c", argv, "--", "x", "--", "y"], "['--', 'x', '--', 'y']\n"),
        (vec!["python", "--", "-c", argv, "x"], "['x']\n"),
        (vec!["python", "-c", argv, ""], "['']\n"),
        (vec!["python3", "-c", argv, "a b"], "['a b']\n"),
    ] {
        assert_eq!(silo.ok(&words), expect, "{words:?}");
    }
    assert!(silo.ok(["python", "--help"]).starts_with("usage: "), "--help is python's");
    assert!(silo.ok(["pip", "--version"]).starts_with("pip "), "a shim is a command too");
    assert_eq!(silo.ok(["run", "--shim", "sh", "python", "-c", "echo $0 $1", "a", "--shim"]), "a --shim\n");
    assert_eq!(silo.run(["run", "--bogus", "python"]).code, 125);
}

#[test]
fn a_tool_sees_the_project_and_nothing_else() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("mine.txt"), "mine").expect("our own project");
    fs::create_dir_all(silo.home().join(".ssh")).expect("our own home");
    let _canary = fs::write(silo.home().join(".ssh/id_canary"), "secret");
    let seen = silo.ok([
        "python",
        "-c",
        "import os; print(os.getcwd(), open('mine.txt').read(), open('/workspace/mine.txt').read(), os.path.exists(os.path.expanduser('~/.ssh')), os.environ.get('SECRET'), [name for name in os.listdir('/home') if not (os.path.expanduser('~') + '/').startswith('/home/' + name + '/')])",
    ]);
    let project = fs::canonicalize(silo.project()).expect("our own project");
    assert_eq!(seen, format!("{} mine mine False None []\n", project.display()));
}

#[test]
fn new_project_files_stay_and_belong_to_the_caller() {
    for who in [As::Me, As::Nobody] {
        if who == As::Nobody && !is_root() {
            skip("only root can be two users");
            continue;
        }
        let silo = Silo::shared(who);
        let _ = silo.ok(["sh", "-c", "echo made > made; echo gone > /gone; echo gone > ~/gone"]);
        let made = fs::metadata(silo.project().join("made")).expect("it was made");
        let expect = if who == As::Me { rustix::process::getuid().as_raw() } else { NOBODY };
        assert_eq!(made.uid(), expect);
        assert!(!silo.home().join("gone").exists());
        let again = silo.run(["sh", "-c", "cat /gone ~/gone"]);
        assert_ne!(again.code, 0, "{again:?}");
    }
}

#[test]
fn variables_are_handed_in_by_name() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "passEnv = [\"TOKEN\"]\n[overrides.sh]\nenv = { MODE = \"test\" }\nworkdir = \"/\"\n")
        .expect("our own project");
    let asked = silo.run(["sh", "-c", "true"]);
    assert!(asked.code == 125 && asked.err.contains("every tool sees the variable TOKEN"), "{asked:?}");
    silo.ok(["trust", "--yes"]);
    let mut command = silo.command(["sh", "-c", "echo \"$TOKEN $MODE $SECRET $PWD\""]);
    let done = crate::support::done(command.env("TOKEN", "t").env("SECRET", "s"));
    assert_eq!(done.out, "t test  /\n", "{done:?}");
}

#[test]
fn a_home_is_no_project() {
    let silo = Silo::shared(As::Me);
    let mut command = silo.command(["sh", "-c", "echo seen"]);
    let done = crate::support::done(command.current_dir(silo.home()));
    assert_eq!(done.code, 125, "{done:?}");
    assert!(done.err.contains("it holds your home directory") && done.err.contains("--no-project"), "{done:?}");
    let mut command = silo.command(["run", "--no-project", "sh", "-c", "pwd; ls -A"]);
    let done = crate::support::done(command.current_dir(silo.home()));
    assert_eq!(done.out, format!("{}\n", silo.home().display()), "{done:?}");
    // Through a shim the user sees the REPL or a version, not a silo option.
    let mut shim = std::process::Command::new(silo.path("bin/python"));
    let done = crate::support::done(shim.args(["-c", "print(1)"]).current_dir(silo.home()).env_clear().env("HOME", silo.home()));
    assert_eq!((done.code, done.out.as_str()), (0, "1\n"), "{done:?}");
    assert!(done.err.contains("it holds your home directory"), "{done:?}");
}

#[test]
fn there_is_no_network() {
    let silo = Silo::shared(As::Me);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let script = format!(
        "import socket, os\nfor address in [('127.0.0.1', {port}), ('192.0.2.1', 80)]:\n    try:\n        socket.create_connection(address, 3); print('open')\n    except OSError: print('closed')\nprint(sorted(name for _, name in socket.if_nameindex()))"
    );
    assert_eq!(silo.ok(["python", "-c", &script]), "closed\nclosed\n['lo']\n");
}

#[test]
fn a_tools_grants_work_after_approval() {
    let silo = Silo::shared(As::Me);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let place = format!("host.silo.internal:{port}");
    let ask = format!(
        "import socket\ntry: socket.create_connection(('host.silo.internal', {port}), 60); print('open')\nexcept OSError as error: print(error)"
    );
    let ask = || silo.run(["python", "-c", &ask]);
    let before = ask();
    assert_eq!(before.out, "[Errno -2] Name or service not known\n", "{before:?}");
    let told = "silo: host.silo.internal is not granted; `silo config network allow host.silo.internal:PORT` would grant it\n";
    assert!(before.err.ends_with(told), "{before:?}");

    // One port of it, and another is refused with the command that would grant it.
    silo.ok(["config", "network", "allow", "host.silo.internal"]);
    let other = ask();
    assert_eq!(other.out, "[Errno 111] Connection refused\n", "{other:?}");
    let told = format!("silo: {place} is not granted; `silo config network allow {place}` would grant it\n");
    assert!(other.err.ends_with(&told), "{other:?}");
    silo.ok(["config", "network", "remove", "host.silo.internal"]);
    silo.ok(["config", "network", "allow", &place]);
    assert_eq!(ask().out, "open\n");
    assert!(silo.ok(["config", "network", "show", "python"]).starts_with(&format!("python may reach @pypi, {place}\n")));
    silo.ok(["config", "network", "deny", "--tool", "python", &place]);
    assert!(ask().out.contains("not known"), "denied by name as closely as it is allowed");
    silo.ok(["config", "network", "remove", "--tool", "python", &place]);
    assert_eq!(ask().out, "open\n");
    assert_eq!(silo.run(["config", "network", "remove", "other.example"]).code, 1);
    assert_eq!(silo.run(["config", "network", "allow", "a b"]).code, 2);

    let script = format!("import socket; socket.create_connection(('host.silo.internal', {port}), 60)");
    let learned = silo.run(["run", "--learn", "python", "-c", &script]);
    let told = format!("silo: the run reached {place}\n  try: silo config network allow {place}\n");
    assert!(learned.code == 0 && learned.err.contains(&told), "{learned:?}");

    // New permissions in silo.toml need approval; removed ones do not.
    let settings = silo.project().join("silo.toml");
    let opened = fs::read_to_string(&settings).expect("it was written") + "\n[ecosystems]\npypi = [\"evil.example\"]\n";
    fs::write(&settings, opened).expect("our own project");
    let refused = ask();
    assert!(refused.code == 125 && refused.err.contains(" @pypi means evil.example\n"), "{refused:?}");
    assert!(silo.run(["trust"]).code != 0, "nobody is there to be asked");
    assert_eq!(ask().code, 125);
    silo.ok(["trust", "--yes"]);
    assert_eq!(ask().out, "open\n");
    assert!(silo.ok(["trust"]).contains("everything is approved"));
    silo.ok(["config", "network", "remove", &place]);
    assert!(ask().out.contains("not known"));

    // Learning grants everything public, but not this machine.
    let learned = silo.run(["run", "--learn", "python", "-c", "import socket; socket.getaddrinfo('host.silo.internal', 1)"]);
    assert!(learned.code == 1 && learned.err.contains("silo: the run reached no host that needs a grant\n"), "{learned:?}");
}

#[test]
fn a_virtual_environment_is_active_wherever_a_run_starts() {
    let silo = Silo::shared(As::Me);
    let project = fs::canonicalize(silo.project()).expect("our own project");
    let _ = silo.ok(["python", "-m", "venv", "--without-pip", ".venv"]);
    fs::create_dir_all(project.join("a/b")).expect("our own project");
    let asked = "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['PATH'].split(':')[0])";
    let venv = project.join(".venv").display().to_string();
    let active = format!("{venv} {venv} {venv}/bin\n");
    for (program, args, dir) in [
        (None, &["python", "-c", asked][..], ""),
        (None, &["python", "-c", asked], "a/b"),
        (Some("python"), &["-c", asked], "a"),
        (None, &["run", "--shim", "python3", "python", "-c", asked], "a"),
    ] {
        let mut command = silo.command(args);
        if let Some(shim) = program {
            command = std::process::Command::new(silo.path("bin").join(shim));
            command.args(args).env_clear().env("HOME", silo.home());
        }
        // The markers of a project around the subdirectories.
        fs::write(project.join("silo.toml"), "").expect("our own project");
        let done = crate::support::done(command.current_dir(project.join(dir)));
        assert_eq!(done.out, active, "{args:?} in {dir:?}: {done:?}");
    }
    // One that was made outside leads to a python that is not here: it is not activated, and a line says so.
    fs::remove_file(project.join(".venv/bin/python")).expect("a link");
    std::os::unix::fs::symlink("/opt/python/bin/python3.99", project.join(".venv/bin/python")).expect("our own project");
    let lost = silo.run(["python", "-c", "import os, sys; print(sys.prefix, os.environ.get('VIRTUAL_ENV'))"]);
    assert_eq!(lost.out, "/usr None\n", "{lost:?}");
    assert!(lost.err.contains(&format!("{venv} is not activated")), "{lost:?}");
    // Without the project there is nothing to activate.
    assert!(silo.ok(["run", "--no-project", "python", "-c", "import sys; print(sys.prefix)"]).starts_with("/usr"));
}

#[test]
fn arguments_of_a_run_are_any_bytes() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let silo = Silo::shared(As::Me);
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let program = "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]])";
    let words = ["python", "-c", program].map(OsString::from).into_iter().chain([odd(b""), odd(b"\xff="), odd(b" a\n'&")]);
    assert_eq!(silo.ok(words), "[b'', b'\\xff=', b\" a\\n'&\"]\n");
}
