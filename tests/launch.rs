//! A sandboxed program and its caller: arguments, streams, exit codes, signals, terminals.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio as Pipe};

use crate::support::sandbox::{bench, text, until};
use crate::support::terminal::{self, Session, cooked, size};
use silo_launch::spec::{Access, Mount, Spec, Stdio};

#[test]
fn exit_codes_are_the_programs() {
    let bench = bench();
    for code in [0, 1, 42, 255] {
        let status = bench.run(&bench.sh(&format!("exit {code}")), b"").status;
        assert_eq!(status.code(), Some(code));
    }
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("INT", 130)] {
        let status = bench.run(&bench.sh(&format!("kill -{signal} $$")), b"").status;
        assert_eq!(status.code(), Some(code), "{signal}");
    }
}

#[test]
fn start_failures_name_the_reason() {
    let bench = bench();
    fs::write(bench.project().join("data"), "no program").expect("written");
    fs::write(bench.project().join("lost"), "#!/no/interpreter\n").expect("written");
    let set = |name| {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bench.project().join(name), mode).expect("set");
    };
    set("lost");
    let mut elsewhere = bench.sh("true");
    elsewhere.cwd = "/nowhere".into();
    let mut absent = bench.sh("true");
    absent.mounts[0].host = "/no/such/dir".into();
    for (spec, code, words) in [
        (bench.spec(&["no-such-program"]), 127, "no-such-program: not found in the image"),
        (bench.spec(&[""]), 127, "not found"),
        (bench.spec(&["./data"]), 126, "./data: cannot be executed: Permission denied"),
        (bench.spec(&["/etc"]), 126, "/etc: cannot be executed"),
        (bench.spec(&["./lost"]), 126, "./lost: cannot be executed: No such file"),
        (elsewhere, 125, "entering /nowhere: No such file"),
        (absent, 125, "opening /no/such/dir: No such file"),
    ] {
        let output = bench.run(&spec, b"");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
}

#[test]
fn arguments_and_variables_arrive_byte_by_byte() {
    let bench = bench();
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let program = "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]], os.environb[b'ODD'])";
    let mut spec = bench.python(program);
    spec.argv.extend([odd(b""), odd(b"\xff\x80"), odd(b" a\n'\"\\$x"), odd("ü".as_bytes())]);
    spec.env.insert("ODD".into(), odd(b"\xfe="));
    let said = text(&bench.run(&spec, b""));
    let expect = r#"[b'', b'\xff\x80', b' a\n\'"\\$x', b'\xc3\xbc'] b'\xfe='"#;
    assert_eq!(said.trim_end(), expect);
}

#[test]
fn streams_carry_everything() {
    let bench = bench();
    assert_eq!(text(&bench.run(&bench.python("print(input())"), b"x\n")), "x\n");
    let much: Vec<u8> = (0..10 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761) as u8).collect();
    let output = bench.run(&bench.spec(&["cat"]), &much);
    assert!(output.status.success() && output.stdout == much, "10 MB through both pipes");

    let closed = |script: &str, spec: &Spec| {
        let silo = bench.command(spec);
        let mut shell = Command::new("bash");
        shell.args(["-c", script]).arg(silo.get_program()).args(silo.get_args());
        shell.output().expect("it starts")
    };
    let end = bench.sh("cat; echo end");
    assert_eq!(text(&closed("\"$0\" \"$@\" <&-", &end)), "end\n", "a closed input is an empty one");
    let endless = bench.spec(&["yes"]);
    let output = closed("\"$0\" \"$@\" | head -n1; echo ${PIPESTATUS[0]}", &endless);
    assert_eq!(text(&output), "y\n141\n", "a closed output ends the program");
}

#[test]
fn a_log_takes_output_and_errors() {
    let bench = bench();
    let log = bench.path("log");
    fs::write(&log, "before\n").expect("written");
    let mut spec = bench.sh("echo out; echo err >&2; echo again >/dev/stderr; cat; exit 3");
    spec.stdio = Stdio::Log { path: log.clone() };
    let output = bench.run(&spec, b"not to be seen");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
    // `>/dev/stderr` reopens the file and truncates it, as outside a sandbox.
    assert!(fs::read_to_string(&log).expect("there").contains("again\n"));
}

#[test]
fn signals_reach_the_program_once() {
    let bench = bench();
    let program = "import signal, time, sys\ncount = 0\ndef take(n, f):\n global count\n count += 1\nfor s in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP): signal.signal(s, take)\nprint('up', flush=True)\nend = time.time() + 10\nwhile count == 0 and time.time() < end: time.sleep(.05)\ntime.sleep(.3)\nprint(count)";
    for signal in ["INT", "USR1", "HUP"] {
        let mut silo = bench.start(&bench.python(program));
        let mut output = silo.stdout.take().expect("it is piped");
        let mut up = [0; 3];
        output.read_exact(&mut up).expect("it says so");
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(silo.id().to_string()).status();
        assert!(sent.expect("kill starts").success());
        let mut rest = String::new();
        output.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "1\n", "{signal}");
        assert!(silo.wait().expect("it ends").success());
    }
    let mut silo = bench.start(&bench.sh("trap 'exit 7' TERM; echo up; while :; do sleep .05; done"));
    let mut up = [0; 3];
    silo.stdout.as_mut().expect("it is piped").read_exact(&mut up).expect("it says so");
    Command::new("kill").arg(silo.id().to_string()).status().expect("kill starts");
    assert_eq!(silo.wait().expect("it ends").code(), Some(7));
}

#[test]
fn orphans_are_reaped() {
    let bench = bench();
    let program = "
import os, time
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
for _ in range(50): os.wait()
def state(p):
    try: return open(f'/proc/{p}/stat').read().rsplit(')')[1].split()[0]
    except OSError: return 'gone'
for _ in range(600):
    states = [state(p) for p in os.listdir('/proc') if p.isdigit()]
    if len(states) == 2 and 'Z' not in states: break
    time.sleep(.05)
print(len(states), 'Z' in states)";
    assert_eq!(text(&bench.run(&bench.python(program), b"")), "2 False\n");
}

#[test]
fn files_belong_to_the_caller() {
    let bench = bench();
    let _ = text(&bench.run(&bench.sh("umask; mkdir -p a/b; echo x > a/b/c"), b""));
    let made = fs::metadata(bench.project().join("a/b/c")).expect("there");
    let own = fs::metadata(bench.project()).expect("there");
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (own.uid(), own.gid(), 0o644));
}

#[test]
fn a_mount_may_lie_in_a_mount() {
    let bench = bench();
    let (cache, file) = (bench.path("cache"), bench.path("file"));
    fs::create_dir(&cache).expect("made");
    fs::write(cache.join("inner"), "inner").expect("written");
    fs::write(&file, "file").expect("written");
    let mut spec = bench.sh("cat node_modules/inner deep/er/file /opt/x/file; echo y > node_modules/y");
    let add = |host: &std::path::Path, guest: std::path::PathBuf, access| Mount { host: host.into(), guest, access };
    spec.mounts.push(add(&cache, bench.project().join("node_modules"), Access::ReadWrite));
    spec.mounts.push(add(&file, bench.project().join("deep/er/file"), Access::ReadOnly));
    spec.mounts.push(add(&file, "/opt/x/file".into(), Access::ReadOnly));
    assert_eq!(text(&bench.run(&spec, b"")), "innerfilefile");
    assert_eq!(fs::read_to_string(cache.join("y")).expect("there"), "y\n");
    assert_eq!(fs::read_dir(bench.project().join("node_modules")).expect("made").count(), 0);
}

#[test]
fn a_terminal_is_the_sandboxs_own() {
    let bench = bench();
    let program = "tty; stty size; stty -a | grep -c -- -echo; read line; echo got:$line; stty size; exit 5";
    let mut session = Session::start(&bench, &bench.sh(program));
    session.expect("/dev/pts/0\r\n30 100\r\n");
    session.resize(size(40, 120));
    session.type_in("hello\n");
    session.expect("got:hello\r\n40 120\r\n");
    assert_eq!(session.end().0, Some(5));
}

#[test]
fn keys_make_signals_inside() {
    let bench = bench();
    let mut session = Session::start(&bench, &bench.sh("trap 'echo caught; exit 9' INT; echo up; while :; do sleep .1; done"));
    session.expect("up\r\n");
    session.type_in("\x03");
    session.expect("caught\r\n");
    assert_eq!(session.end().0, Some(9));

    let mut session = Session::start(&bench, &bench.spec(&["bash", "--norc", "-i"]));
    session.type_in("PS1='ready> '\n");
    session.expect("\r\nready> ");
    // It says itself when it is in the foreground, where keys reach it.
    session.type_in("sh -c 'echo he''re; exec cat'\n");
    session.expect("here\r\n");
    session.type_in("one\n");
    session.expect("one\r\none\r\n");
    session.type_in("\x1a");
    session.expect("Stopped");
    session.expect("ready> ");
    session.type_in("fg\n");
    session.expect("exec cat'\r\n");
    session.type_in("two\n");
    session.expect("two\r\ntwo\r\n");
    session.type_in("\x03");
    // Only at its prompt does it read keys one by one; before, the terminal takes the key as the end of a line.
    session.expect("ready> ");
    session.type_in("\x04");
    session.end();

    let mut session = Session::start(&bench, &bench.spec(&["cat"]));
    session.type_in("line\n");
    session.expect("line\r\nline\r\n");
    session.type_in("\x04");
    assert_eq!(session.end().0, Some(0), "Ctrl-D is the end of input");

    // Between closing its terminal and its end a program is not hung up on.
    let mut session = Session::start(&bench, &bench.sh("exec <&- >&- 2>&-; sleep .3; echo back >/dev/tty; exit 6"));
    session.expect("back\r\n");
    assert_eq!(session.end().0, Some(6));
}

#[test]
fn a_terminal_shows_everything_and_is_left_as_it_was() {
    let bench = bench();
    let much = "import sys; sys.stdout.write('x' * 3000000); sys.stdout.flush(); sys.exit(4)";
    let session = Session::start(&bench, &bench.python(much));
    assert_eq!(session.end(), (Some(4), 3_000_000, true));

    let mut session = Session::start(&bench, &bench.sh("echo up; exec sleep 1000"));
    session.expect("up\r\n");
    assert!(!cooked(&session.slave), "raw while it runs");
    session.signal("TERM");
    let (code, _, cooked) = session.end();
    assert_eq!((code, cooked), (Some(143), true), "restored after a signal");
}

#[test]
fn the_callers_terminal_stays_outside_and_its_keys_count_once() {
    let bench = bench();
    // Input is a controlling terminal, output a pipe: the program's terminal is the sandbox's own, and silo reads no key of the
    // caller's, which another program of the pipeline may wait for.
    let program = "
import os, signal, sys, time
got = []
signal.signal(signal.SIGINT, lambda n, f: got.append(n))
os.open('/dev/tty', os.O_RDWR); print(os.ttyname(0))
print('up', flush=True)
end = time.time() + 10
while not got and time.time() < end: time.sleep(.05)
time.sleep(.3); print(len(got), flush=True)";
    let (master, slave) = terminal::open();
    let silo = bench.command(&bench.python(program));
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(silo.get_program())
        .args(silo.get_args())
        .stdin(slave)
        .stdout(Pipe::piped())
        .spawn()
        .expect("setsid starts");
    let mut output = child.stdout.take().expect("it is piped");
    let mut said = [0; 14];
    output.read_exact(&mut said).expect("it says so");
    assert_eq!(String::from_utf8_lossy(&said), "/dev/pts/0\nup\n");
    fs::File::from(master.try_clone().expect("copied")).write_all(b"\x03").expect("written");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "1\n");
    child.wait().expect("it ends");
}

#[test]
fn many_at_once_do_not_meet() {
    let bench = bench();
    let mut all: Vec<Child> = (0..8).map(|_| bench.start(&bench.sh("echo $$ >> pids; ls /proc | grep -c '^[0-9]'"))).collect();
    for child in &mut all {
        assert!(child.wait().expect("it ends").success());
    }
    until("all wrote", || fs::read_to_string(bench.project().join("pids")).is_ok_and(|t| t == "2\n".repeat(8)));
}

/// A terminal stopped by Ctrl-S accepts no output: silo still handles signals, while the program prints and after it.
#[test]
fn a_stopped_terminal_does_not_block_signals() {
    let bench = bench();
    for script in ["while :; do echo printing; done", "echo printing; head -c 200000 /dev/zero | tr '\\0' x; sleep 1000"] {
        let mut session = Session::start(&bench, &bench.sh(script));
        let _ = session.expect("printing");
        session.stop();
        std::thread::sleep(std::time::Duration::from_millis(300));
        until("it ends", || {
            session.signal("TERM");
            std::thread::sleep(std::time::Duration::from_millis(200));
            session.has_ended()
        });
    }
}
