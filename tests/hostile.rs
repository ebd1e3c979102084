//! A hostile process in QEMU's place, in QEMU's own sandbox: a program that speaks the port's frames and arbitrary other bytes.
//!
//! No VM boots. The launch spec names the python image's root for the VM, with a test program under QEMU's name.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use silo_launch::spec::{Access, MachineTime, Mount, Network, Spec, VmFiles};

use crate::support::sandbox::{Bench, bench, hosts, until};

const QEMU: &str = if cfg!(target_arch = "x86_64") { "qemu-system-x86_64" } else { "qemu-system-aarch64" };

/// Common code: frames by letter, stream and payload.
const PORT: &str = r"#!/usr/bin/python3 -u
import os, socket, struct, sys, time
SHARE = '/silo/share/0/'
def frame(letter, stream=0, payload=b''): return letter.encode() + struct.pack('<II', stream, len(payload)) + payload
def send(data):
    data = memoryview(data)
    while data: data = data[os.write(0, data):]
have = b''
def recv():
    global have
    while len(have) < 9 or len(have) < 9 + struct.unpack('<I', have[5:9])[0]:
        more = os.read(0, 65536)
        if not more: sys.exit()
        have += more
    length = struct.unpack('<I', have[5:9])[0]
    one = (chr(have[0]), struct.unpack('<I', have[1:5])[0], have[9:9 + length])
    have = have[9 + length:]
    return one
def mark(name, text=''): open(SHARE + name, 'w').write(text)
def hello(): send(frame('H', 0, struct.pack('<H', 2)))
def begin():
    hello()
    while recv()[:2] != ('E', 0): pass
    send(frame('B'))
    mark('began')
def report(code=0, letter=b'E', text=b''): return frame('R', 0, letter + struct.pack('<i', code) + text)
def end(code): send(frame('E', 2) + frame('E', 3) + report(code))
";

/// A machine that is a program.
fn hostile(bench: &Bench, program: &str) -> Spec {
    let root = bench.path("machine");
    if !root.exists() {
        let linked = Command::new("cp").arg("-al").arg(bench.root()).arg(&root).status().expect("cp runs");
        // The image may be on another file system.
        if !linked.success() {
            drop(fs::remove_dir_all(&root));
            assert!(Command::new("cp").arg("-a").arg(bench.root()).arg(&root).status().expect("cp runs").success());
        }
    }
    let bin = root.join("usr/bin");
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).expect("ours");
    let qemu = bin.join(QEMU);
    drop(fs::remove_file(&qemu));
    fs::write(&qemu, format!("{PORT}{program}")).expect("written");
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).expect("ours");
    for name in ["kernel", "initial", "disk"] {
        fs::write(bench.path(name), name).expect("written");
    }
    let mut spec = bench.sh("true");
    spec.machine = Some(VmFiles {
        arch: silo_base::system::Arch::host(),
        root,
        kernel: bench.path("kernel"),
        initial: bench.path("initial"),
        disk: Some(bench.path("disk")),
        memory_bytes: 512 << 20,
        cpus: 1,
        time: MachineTime::Host,
        snapshots: None,
        warm_up: Vec::new(),
    });
    spec
}

fn run(program: &str) -> (Bench, Output) {
    let bench = bench();
    let spec = hostile(&bench, program);
    let done = bench.run(&spec, b"");
    (bench, done)
}

fn errors(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it is there");
}

/// Waits until a silo has ended; drops its output afterwards.
fn ended(what: &str, child: &mut Child) {
    until(what, || child.try_wait().expect("it is ours").is_some());
}

#[test]
fn a_machine_that_speaks_the_frames_is_one() {
    let (_bench, done) = run("begin(); send(frame('D', 2, b'out') + frame('D', 3, b'err')); end(7)");
    assert_eq!((done.status.code(), &done.stdout[..], errors(&done).as_str()), (Some(7), &b"out"[..], "err"));
    // The last word ends the streams that it has not ended.
    let (_bench, done) = run("begin(); send(frame('D', 2, b'out') + report(3)); time.sleep(1000)");
    assert_eq!((done.status.code(), &done.stdout[..]), (Some(3), &b"out"[..]));
}

#[test]
fn frames_out_of_turn_end_a_vm_in_every_phase() {
    for (program, expect) in [
        ("send(b'Q' * 100000)", "sent a malformed frame"),
        ("send(frame('H', 0, struct.pack('<H', 9)))", "uses version 9 of the protocol"),
        ("send(frame('D', 2, b'x'))", "sent a frame out of turn (data before hello)"),
        ("hello(); hello()", "sent a frame out of turn (hello before the program began)"),
        ("begin(); hello()", "sent a frame out of turn (hello while the program ran)"),
        ("begin(); send(b'Q' * 100000)", "sent a malformed frame"),
        ("begin(); send(frame('D', 1, b'x'))", "stream 1, which it may not use"),
        ("begin(); send(frame('K', 16))", "stream 16, which it may not use"),
        ("begin(); sys.exit(9)", "ended by itself (QEMU exited with 9)"),
        ("begin(); os.close(0); time.sleep(1000)", "closed its port without ending"),
        ("begin(); os.kill(os.getpid(), 9)", "was killed (signal 9)"),
    ] {
        let (_bench, done) = run(&format!("{program}\ntime.sleep(20)"));
        assert!(done.status.code() == Some(125) && errors(&done).contains(expect), "{program}: {done:?}");
    }
}

/// The memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

#[test]
fn frames_after_the_report_are_discarded() {
    let bench = bench();
    let spec = hostile(&bench, "begin(); send(frame('D', 2, b'x' * 32768) * 4 + report(3))\nwhile True: send(b'Q' * 65536)");
    // Its output is not read: it must be kept, and nothing else.
    let mut child = bench.start(&spec);
    until("it begins", || bench.project().join("began").exists());
    std::thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().expect("ours").is_none() && resident(child.id()) < 200 << 20, "{}", resident(child.id()));
    let mut said = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut said).expect("read");
    assert_eq!((said.len(), child.wait().expect("it ends").code()), (4 * 32768, Some(3)));
}

#[test]
fn messages_before_there_is_a_broker_and_streams_without_end_are_taken_in_turn() {
    let bench = bench();
    let burst = "begin()\nfor n in range(40): send(frame('M', 0, struct.pack('<I', 0) + b'x') * 1000)\nend(7)";
    let streams = "begin()\nfor n in range(5000): send(frame('M', 0, struct.pack('<I', 16 + n) + b'A' + struct.pack('<I', n)) \
                   + frame('D', 16 + n, b'x' * 1000))\nend(7)";
    for program in [burst, streams] {
        let mut spec = hostile(&bench, program);
        spec.network = Some(Network { allow: hosts(&["a.example"]), ..Network::default() });
        let done = bench.run(&spec, b"");
        assert_eq!(done.status.code(), Some(7), "{done:?}");
    }
}

/// Each unread descriptor of a run: an output, a link, a log. Signals must still work.
#[test]
fn signals_work_with_any_unread_descriptor() {
    for (program, why) in [
        ("begin()\nwhile True: send(frame('D', 2, b'x' * 32768))", "its output is not read"),
        ("begin()\ntime.sleep(1000)", "its link is not read"),
        ("begin(); send(frame('D', 2, b'x' * 32768) * 8 + report(0))\ntime.sleep(1000)", "its output is not read after the report"),
        ("begin(); send(frame('Z') * 1000000)\ntime.sleep(1000)", "it is stopped again and again"),
        ("hello()\ntime.sleep(1000)", "it does not begin"),
        ("time.sleep(1000)", "it does not start"),
    ] {
        let bench = bench();
        let mut spec = hostile(&bench, &format!("mark('there'); {program}"));
        spec.network = Some(Network { allow: hosts(&["a.example"]), ..Network::default() });
        let mut child = bench.start(&spec);
        // More input than a machine that reads nothing takes.
        let mut input = child.stdin.take().expect("piped");
        let feeding = std::thread::spawn(move || drop(input.write_all(&vec![b'x'; 4 << 20])));
        until("it is there", || bench.project().join("there").exists());
        std::thread::sleep(Duration::from_millis(300));
        // Those that come before silo has looked at the one before are one.
        for _ in 0..100 {
            if child.try_wait().expect("ours").is_none() {
                signal(&child, Signal::TERM);
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        ended(&format!("a silo ends when {why}"), &mut child);
        feeding.join().expect("its reader is gone");
    }
}

/// The same of a terminal and of a socket that others use as well.
#[test]
fn an_output_that_others_share_is_never_waited_for() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    for (out, _held) in [(OwnedFd::from(theirs), OwnedFd::from(ours)), (OwnedFd::from(writer), OwnedFd::from(reader))] {
        let bench = bench();
        let spec = hostile(&bench, "begin()\nwhile True: send(frame('D', 2, b'x' * 32768))");
        let mut command = bench.command(&spec);
        let mut child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().expect("silo starts");
        until("it begins", || bench.project().join("began").exists());
        std::thread::sleep(Duration::from_millis(300));
        for _ in 0..100 {
            signal(&child, Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
            if child.try_wait().expect("ours").is_some() {
                break;
            }
        }
        ended("it hears", &mut child);
    }
}

#[test]
fn the_text_of_a_report_moves_no_terminal() {
    let hostile = r"'\x1b]0;title\x07\x1b[2J\x9b31m\u202egnihton\u200b failed\r\nsilo: all is well'.encode()";
    for (letter, errno) in [("S", 1), ("S", 0), ("X", 2), ("F", 2)] {
        let (_bench, done) = run(&format!("begin(); send(report({errno}, b'{letter}', {hostile}))\ntime.sleep(20)"));
        let said = errors(&done);
        assert!(!done.status.success() && said.contains("gnihton"), "{said:?}");
        let odd = |letter: char| letter.is_control() && letter != '\n';
        assert!(!said.contains(odd) && said.lines().filter(|line| !line.starts_with("  hint: ")).count() == 1, "{said:?}");
    }
    // The same for its log.
    let (_bench, done) = run("os.write(1, b'\\x1b[2Jkernel\\x07 panic\\x9b'); sys.exit(3)");
    assert!(errors(&done).contains("panic") && !errors(&done).contains(|letter: char| letter.is_control() && letter != '\n'), "{done:?}");
}

#[test]
fn a_process_in_qemus_place_has_its_own_limits() {
    let program = r"
import mmap, resource
tried = {}
def attempt(name, what):
    try: what(); tried[name] = 'done'
    except (OSError, MemoryError) as error: tried[name] = getattr(error, 'errno', None) or 'refused'
def fill():
    kept = []
    for n in range(64): kept.append(b'x' * (256 << 20))
def fill_shared():
    kept = []
    for n in range(64):
        kept.append(mmap.mmap(-1, 256 << 20)); kept[-1].write(b'x' * (256 << 20))
def fill_zero():
    zero = os.open('/dev/zero', os.O_RDWR); kept = []
    for n in range(64): kept.append(mmap.mmap(zero, 256 << 20))
def fill_file():
    with open('/tmp/big', 'wb') as file:
        for n in range(64): file.write(b'x' * (16 << 20))
def open_many(): kept = [open('/dev/null') for n in range(5000)]
attempt('memory', fill); attempt('shared', fill_shared); attempt('zero', fill_zero); attempt('memfd', lambda: os.memfd_create('x'))
attempt('file', fill_file); attempt('fork', os.fork); attempt('files', open_many)
begin(); send(frame('D', 2, repr(tried).encode())); end(0)
";
    let (_bench, done) = run(program);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && said.matches(':').count() == 7 && !said.contains("done"), "{said} {done:?}");
}

/// Once the host has put another file at its place, too.
#[test]
fn a_share_that_is_read_only_is_so_in_qemus_place() {
    let bench = bench();
    let mut spec = hostile(&bench, "begin()\ntry: open('/silo/share/1/x', 'w'); code = 1\nexcept OSError: code = 0\nend(code)");
    fs::create_dir(bench.path("given")).expect("made");
    spec.mounts.push(Mount { host: bench.path("given").into(), guest: "/given".into(), access: Access::ReadOnly });
    let done = bench.run(&spec, b"");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert_eq!(fs::read_dir(bench.path("given")).expect("there").count(), 0);
}

/// Descriptors and names: the process sees only shared parts of the host.
#[test]
fn a_process_in_qemus_place_has_three_streams_and_no_egress() {
    let bench = bench();
    let socket = bench.path("socket");
    let listener = UnixListener::bind(&socket).expect("it listens");
    let program = format!(
        "begin()\nfound = [n for n in os.listdir('/proc/self/fd') if n not in '012' and os.path.exists('/proc/self/fd/' + n)]\n\
         try: socket.socket(socket.AF_UNIX).connect({:?}); found.append('socket')\nexcept OSError: pass\n\
         try: socket.create_connection(('127.0.0.1', 1), 1)\nexcept ConnectionRefusedError: pass\nexcept OSError as e: found.append(str(e))\n\
         send(frame('D', 2, repr(found).encode())); end(0)",
        Path::new(&socket)
    );
    let done = bench.run(&hostile(&bench, &program), b"");
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stdout).as_ref()), (Some(0), "[]"), "{done:?}");
    drop(listener);
}
