//! The vm tier: real machines, by translation where the processor cannot run a guest.
//!
//! A VM takes seconds to start here, so one of each kind must be enough: inside, it runs the native
//! tier's code, which has tests of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use silo_build::image::boot;
use silo_launch::spec::VmFiles;

pub use crate::support::machine::{machine, silo};
use crate::support::sandbox::{bench, until};
use crate::support::terminal::Session;
use crate::support::{As, NOBODY, Silo, is_root, skip};

const RUN: [&str; 4] = ["run", "--cold", "--tier", "vm"];

fn words<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    RUN.into_iter().chain(rest.iter().copied()).collect()
}

/// A VM that runs until it receives a line, once its program runs.
fn started(silo: &Silo, marker: &str, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let script = format!("{script} # {marker}");
    let mut command = silo.command(words(&["sh", "-c", &script]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("it says something");
    assert_eq!(line, "ready\n");
    (child, out)
}

/// A process below another, held by a descriptor: numbers are used again.
struct Descendant {
    pid: Pid,
    held: OwnedFd,
}

impl Descendant {
    fn is_gone(&self) -> bool {
        matches!(poll(&mut [PollFd::new(&self.held, PollFlags::IN)], Some(&Timespec::default())), Ok(1))
    }

    fn is_qemu(&self) -> bool {
        fs::read(format!("/proc/{}/cmdline", self.pid.as_raw_nonzero())).is_ok_and(|line| line.starts_with(b"qemu-system-"))
    }

    /// The processor time that it has used, in hundredths of a second.
    fn used(&self) -> u64 {
        fields(self.pid.as_raw_nonzero().get()).map_or(0, |fields| fields[11] + fields[12])
    }

    fn kill(&self) {
        rustix::process::pidfd_send_signal(&self.held, Signal::KILL).expect("it is there");
    }
}

/// The numbers of a process from its state on, which is none: its parent's is the second.
fn fields(pid: i32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

/// Everything that a process has started, directly or not.
fn descendants(child: &Child) -> Vec<Descendant> {
    let pids = fs::read_dir("/proc").expect("it can be listed").flatten();
    let pids: Vec<i32> = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let parents: Vec<(i32, u64)> = pids.into_iter().filter_map(|pid| Some((pid, fields(pid)?[1]))).collect();
    let mut family = vec![u64::from(child.id())];
    let mut at = 0;
    while let Some(of) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| u64::try_from(*pid).expect("a process")));
        at += 1;
    }
    let hold = |pid: &u64| {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw)?;
        Some(Descendant { pid, held: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    };
    family[1..].iter().filter_map(hold).collect()
}

/// Waits for the QEMU of a silo.
fn qemu(child: &Child) -> Descendant {
    let mut found = None;
    until("there is a machine", || {
        found = descendants(child).into_iter().find(Descendant::is_qemu);
        found.is_some()
    });
    found.expect("it was found")
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it is there");
}

/// Memory that a program in a machine gives back is the host's again while the program goes on.
#[test]
fn memory_that_is_given_back_is_the_hosts_again() {
    const BYTES: u64 = 400 << 20;
    let silo = silo(As::Me);
    let script = format!("head -c {BYTES} /dev/zero > /tmp/big; echo ready; read next; rm /tmp/big; read next");
    let (mut child, _out) = started(&silo, "memory", &script);
    let machine = descendants(&child).into_iter().find(Descendant::is_qemu).expect("there is a machine");
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", machine.pid.as_raw_nonzero())).expect("it is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is told");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    let full = resident();
    assert!(full > BYTES, "{full}");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"next\n").expect("taken");
    until("the host has it", || resident() < full - BYTES / 4 * 3);
    drop(input);
    assert!(child.wait().expect("it ends").code().is_some());
}

/// Debian's own again, as somebody else's kernel: the small one takes minutes to build (docs/vm.md).
#[test]
fn machines_boot_the_kernel_that_is_installed() {
    let silo = Silo::seeded();
    silo.write(
        ".silo/recipes/kernel.toml",
        "steps = []\n[debian]\npackages = [\"linux-image-amd64 [amd64]\", \"linux-image-arm64 [arm64]\", \"tiny-initramfs\"]\n\
         buildPackages = []\nversionOf = \"base-files\"\n",
    );
    let _ = silo.ok(["install", "--quiet", "vm", "sh"]);
    let told = || {
        let checks: serde_json::Value = serde_json::from_str(&silo.run(["doctor", "--json"]).out).expect("a list");
        let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "kernel of machines").expect("it is told");
        check["detail"].as_str().expect("a text").to_owned()
    };
    assert!(told().ends_with(", of `vm`"), "{}", told());
    let _ = silo.ok(["install", "--quiet", "kernel"]);
    let release = silo.ok(["run", "--cold", "--no-project", "--tier", "vm", "sh", "-c", "uname -r"]);
    assert_eq!(told(), format!("{}, of `kernel`", release.trim_end()));
    // The boot files were made beside their own image, and none beside the other.
    let ready = |tool: &str| {
        let dir = silo.installed(tool).root.parent().expect("it lies in its image").to_owned();
        (dir.join(boot::KERNEL).exists(), dir.join("initial").exists())
    };
    assert_eq!((ready("kernel"), ready("vm")), ((true, true), (false, false)));
    let _ = silo.ok(["uninstall", "kernel"]);
    assert!(told().ends_with(", of `vm`"), "{}", told());
}

/// Without a setting, tools run in VMs if the CPU can run guests, and natively otherwise.
#[test]
fn a_run_that_names_no_tier_has_the_one_that_is_quick_here() {
    let silo = silo(As::Me);
    let checks: serde_json::Value = serde_json::from_str(&silo.run(["doctor", "--json"]).out).expect("a list");
    let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "hardware virtualisation").expect("it was tried");
    let host = rustix::system::uname().release().to_string_lossy().into_owned();
    let inside = silo.ok(["run", "--no-project", "sh", "-c", "uname -r"]);
    assert_eq!(inside.trim_end() == host, check["state"] != "ok", "{host} {inside} {check}");
    assert_eq!(silo.ok(["run", "--no-project", "--tier", "native", "sh", "-c", "uname -r"]).trim_end(), host);
}

#[test]
fn a_program_runs_under_a_kernel_of_its_own() {
    let silo = silo(As::Me);
    let project = silo.project();
    fs::create_dir_all(project.join(".git/hooks")).expect("made");
    fs::write(project.join(".git/hooks/pre-commit"), "safe").expect("written");
    fs::write(project.join("given"), "given").expect("written");
    let program = r#"
import os, platform, sys
print(platform.release())
print(sys.stdin.read(), open("given").read(), open("/workspace/given").read(), os.getcwd())
sys.stderr.write("errors\n")
open("made", "w").write("made"); os.chmod("made", 0o640)
os.symlink("made", "link"); os.mkdir("dir"); os.rename("made", "dir/made")
for at in [".git/hooks/pre-commit", "/workspace/.git/hooks/pre-commit"]:
    try: open(at, "w"); print("open")
    except OSError as error: print(error.errno)
try: os.rename(".git", "git"); print("moved")
except OSError as error: print(error.errno)
sys.stdout.write("x" * 1000000); sys.stdout.flush()
sys.exit(7)
"#;
    let done = silo.fed(words(&["python", "-c", program]), b"input");
    assert_eq!(done.code, 7, "{done:?}");
    let mut lines = done.out.lines();
    let release = lines.next().expect("a release");
    assert_ne!(release, fs::read_to_string("/proc/sys/kernel/osrelease").expect("this machine has one").trim());
    let kernels = fs::read_dir(silo.image_root("vm").join("usr/lib/modules")).expect("the image has modules");
    assert!(kernels.flatten().any(|kernel| kernel.file_name() == release), "{release}");
    let here = fs::canonicalize(&project).expect("our own");
    assert_eq!(lines.next(), Some(format!("input given given {}", here.display()).as_str()));
    assert_eq!([lines.next(), lines.next(), lines.next()], [Some("30"), Some("30"), Some("16")], "read-only twice, and busy");
    assert_eq!(lines.next().map(str::len), Some(1_000_000));
    assert!(done.err.ends_with("is read-only inside: it is not a complete repository\nerrors\n"), "{}", done.err);
    let made = project.join("dir/made");
    assert_eq!(fs::read_to_string(&made).expect("it stays"), "made");
    assert_eq!(fs::metadata(&made).expect("there").permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(&made).expect("there").uid(), rustix::process::geteuid().as_raw());
    assert_eq!(fs::read_link(project.join("link")).expect("a link").to_str(), Some("made"));
    assert_eq!(fs::read_to_string(project.join(".git/hooks/pre-commit")).expect("there"), "safe");
}

#[test]
fn a_hidden_repository_that_the_host_replaces_stays_hidden_in_a_machine() {
    let silo = silo(As::Me);
    let project = silo.project();
    let make = || {
        fs::create_dir_all(project.join(".git/objects")).expect("our own project");
        fs::write(project.join(".git/HEAD"), "ref: refs/heads/main\n").expect("our own project");
    };
    make();
    fs::write(project.join("silo.toml"), "[mount]\ngit = \"hidden\"\n").expect("our own project");
    let script = "echo ready; read go; for top in . /workspace; do ls $top/.git; echo EVIL > $top/.git/config || echo refused; done";
    let (mut child, mut out) = started(&silo, "hidden", script);
    fs::rename(project.join(".git"), project.join("old")).expect("our own project");
    make();
    // The guard is mounted again within a millisecond or two of a processor that has other work, too.
    thread::sleep(std::time::Duration::from_secs(5));
    child.stdin.take().expect("it is piped").write_all(b"go\n").expect("it reads");
    let mut said = String::new();
    out.read_to_string(&mut said).expect("text");
    let end = child.wait_with_output().expect("it ends");
    assert_eq!(said, "refused\n".repeat(2), "{}", String::from_utf8_lossy(&end.stderr));
    assert_eq!(fs::read_dir(project.join(".git")).expect("there").count(), 2);
}

#[test]
fn an_ordinary_user_has_machines_too() {
    if !is_root() {
        return skip("only root can be two users");
    }
    let silo = silo(As::Nobody);
    let done = silo.run(words(&["sh", "-c", "id -u; echo x > made; echo y > /usr/share/own && cat /usr/share/own; kill -9 $$"]));
    assert_eq!((done.code, done.out.as_str()), (137, "54321\ny\n"), "{done:?}");
    assert_eq!(fs::metadata(silo.project().join("made")).expect("it stays").uid(), NOBODY);
}

#[test]
fn nothing_is_left_however_it_ends() {
    let silo = silo(As::Me);
    let marker = format!("silo-vm-{}", std::process::id());
    // Silo is killed.
    let (mut child, _out) = started(&silo, &marker, "echo ready; sleep 1000");
    let family = descendants(&child);
    assert!(family.iter().any(Descendant::is_qemu));
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    until("the machine of a silo that was killed is gone", || family.iter().all(Descendant::is_gone));
    // A signal goes to the program, which answers it.
    let (mut child, mut out) = started(&silo, &marker, "trap 'echo heard; exit 5' TERM; echo ready; read line");
    signal(&child, Signal::TERM);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("it ends");
    assert_eq!((rest.as_str(), child.wait().expect("it ends").code()), ("heard\n", Some(5)));
    // Input ends, and so does the program.
    let (mut child, mut out) = started(&silo, &marker, "echo ready; cat; echo end");
    child.stdin.take().expect("it is piped").write_all(b"last").expect("taken");
    rest.clear();
    out.read_to_string(&mut rest).expect("it ends");
    assert_eq!((rest.as_str(), child.wait().expect("it ends").code()), ("lastend\n", Some(0)));
    // Before there is a program, silo itself obeys.
    let child = silo.command(words(&["sh", "-c", "sleep 1000"])).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("silo starts");
    let machine = qemu(&child);
    signal(&child, Signal::INT);
    assert_eq!(crate::support::outcome(child.wait_with_output().expect("it ends")).code, 130);
    until("the machine is gone", || machine.is_gone());
    until("its work is gone", || fs::read_dir(silo.path("work")).map_or(0, Iterator::count) == 0);
}

#[test]
fn silo_may_be_killed_at_any_point_of_a_start() {
    let silo = silo(As::Me);
    let start =
        || silo.command(words(&["sh", "-c", "sleep 1000"])).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
    for point in ["it begins", "there is a sandbox", "there is a machine", "a kernel starts"] {
        let mut child = start();
        let mut family = Vec::new();
        until(point, || {
            family = descendants(&child);
            match point {
                "it begins" => true,
                "there is a sandbox" => !family.is_empty(),
                "there is a machine" => family.iter().any(Descendant::is_qemu),
                _ => family.iter().any(|one| one.is_qemu() && one.used() > 100),
            }
        });
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        until(&format!("nothing is left of a silo that was killed when {point}"), || family.iter().all(Descendant::is_gone));
    }
    assert_eq!(fs::read_dir(silo.project()).expect("our own").count(), 0);
    let sockets = fs::read_to_string("/proc/net/unix").expect("they are listed");
    let home = silo.path("").display().to_string();
    assert!(!sockets.lines().any(|line| line.contains(&home)), "{sockets}");
}

#[test]
fn a_killed_vm_is_retried_and_then_reported() {
    let silo = silo(As::Me);
    let mut child = silo
        .command(words(&["sh", "-c", "echo ready; read line"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("silo starts");
    let first = qemu(&child);
    first.kill();
    until("the first machine is gone", || first.is_gone());
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says something");
    assert_eq!(line, "ready\n", "nothing of the program had run, so it is tried again");
    let family = descendants(&child);
    family.iter().find(|one| one.is_qemu()).expect("there is another").kill();
    let done = crate::support::outcome(child.wait_with_output().expect("it ends"));
    assert!(done.code == 125 && done.err.contains("was killed (signal 9)"), "{done:?}");
    until("its processes are gone", || family.iter().all(Descendant::is_gone));
}

#[test]
fn a_program_has_a_terminal_there() {
    let bench = bench();
    let mut spec = bench
        .sh("trap 'echo interrupted' INT; tty; stty size; stty -a | grep -o 'intr = ..'; { sleep 1; echo ready; } & until test \"$a\" = one; do read a; done; echo end; exit 3");
    spec.machine = Some(machine());
    let mut session = Session::start(&bench, &spec);
    let before = session.expect("ready");
    assert!(before.contains("/dev/pts/0") && before.contains("30 100") && before.contains("intr = ^C"), "{before}");
    session.type_in("\x03");
    session.expect("interrupted");
    session.type_in("one\r");
    session.expect("end");
    assert_eq!(session.end().0, Some(3));
}

#[test]
fn the_terminals_description_and_the_time_zone_arrive_in_machines_too() {
    let silo = silo(As::Me);
    let script = "find /etc/terminfo -type f | sort | xargs cksum; tput colors; date +%Z; readlink /etc/localtime; cat /etc/timezone";
    for (terminal, file) in [("xterm-kitty", "/etc/terminfo/x/xterm-kitty"), ("ghostty", "/etc/terminfo/g/ghostty")] {
        let said = |words: &[&str]| {
            let mut command = silo.command(words.iter().chain(&["sh", "-c", script]));
            let done = crate::support::done(command.env("TERM", terminal).env("TZ", "Asia/Kathmandu"));
            assert_eq!(done.code, 0, "{done:?}");
            done.out
        };
        let native = said(&["run", "--tier", "native"]);
        assert!(native.contains(file) && native.ends_with("256\n+0545\n/usr/share/zoneinfo/Asia/Kathmandu\nAsia/Kathmandu\n"), "{native}");
        assert_eq!(said(&RUN), native, "{terminal}");
    }
}

#[test]
fn names_are_reached_from_a_machine_and_nothing_else() {
    let silo = silo(As::Me);
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("bound").port();
    let served = thread::spawn(move || {
        let (mut client, _) = server.accept().expect("somebody connects");
        let mut asked = vec![0; 300_000];
        client.read_exact(&mut asked).expect("it asks");
        client.write_all(&asked).expect("it is answered");
        asked.len()
    });
    drop(silo.ok(["config", "network", "allow", "--global", &format!("host.silo.internal:{port}")]));
    let program = format!(
        r#"
import os, socket, sys
with socket.create_connection(("host.silo.internal", {port})) as there:
    there.sendall(b"x" * 300000); there.shutdown(socket.SHUT_WR)
    got = b""
    while piece := there.recv(65536): got += piece
print(len(got), got == b"x" * 300000)
for name, port in [("other.example", 80), ("host.silo.internal", 1), ("192.0.2.1", 80)]:
    try: socket.create_connection((name, port), 5); print("open")
    except OSError as error: print(type(error).__name__)
sys.stdout.flush()
try: socket.create_connection(("host.silo.internal", 7), 5)
finally: os._exit(0)
"#
    );
    let done = silo.run(words(&["python", "-c", &program]));
    assert_eq!(done.out, "300000 True\ngaierror\nConnectionRefusedError\nOSError\n", "{done:?}");
    assert!(done.err.contains("silo: host.silo.internal:7 is not granted; "), "what it asks for last is told: {done:?}");
    assert_eq!(served.join().expect("it serves"), 300_000);
}

/// It is in the machine's kernel, in the port and in this program when the program ends.
#[test]
fn the_last_bytes_of_a_program_in_a_vm_arrive() {
    crate::network::what_was_written_last_arrives(Some(machine()), &[(2, 3 << 20)]);
}

#[test]
fn doors_lead_into_a_machine_that_is_as_large_as_was_asked() {
    let silo = silo(As::Me);
    // An agent with a list of keys that is none; it is asked for that, and for nothing else.
    let socket = silo.project().with_file_name("agent");
    let agent = UnixListener::bind(&socket).expect("bound");
    let asked = thread::spawn(move || {
        let (mut guest, _) = agent.accept().expect("somebody asks");
        let mut request = [0; 5];
        guest.read_exact(&mut request).expect("a request");
        guest.write_all(b"\0\0\0\x05\x0c\0\0\0\0").expect("it is answered");
        let mut rest = Vec::new();
        guest.read_to_end(&mut rest).expect("it ends");
        (request, rest)
    });
    let settings = "[overrides.python]\nmemoryMB = 700\ncpus = 1\npassSshAgent = true\n";
    fs::write(silo.project().join("silo.toml"), settings).expect("our own project");
    drop(silo.ok(["trust", "--yes"]));
    let program = r#"
import os, socket, struct
def ask(body):
    s.sendall(struct.pack(">I", len(body)) + body)
    return s.recv(struct.unpack(">I", s.recv(4, socket.MSG_WAITALL))[0], socket.MSG_WAITALL)
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"])
print(ask(b"\x0b"), ask(b"\x13")); s.close()
total = int(next(line for line in open("/proc/meminfo") if line.startswith("MemTotal")).split()[1])
print(os.cpu_count(), 700 << 10 < total < 860 << 10)
server = socket.create_server(("127.0.0.1", 8000)); print("ready", flush=True)
with server.accept()[0] as guest: guest.sendall(guest.recv(5, socket.MSG_WAITALL)[::-1])
"#;
    let port = crate::support::free_port();
    let pair = format!("{port}:8000");
    let mut command = silo.command(words(&["--port", &pair, "python", "-c", program]));
    let mut child = command.env("SSH_AUTH_SOCK", &socket).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("silo starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped")).lines().map(|line| line.expect("text"));
    assert_eq!(out.next().as_deref(), Some(r"b'\x0c\x00\x00\x00\x00' b'\x05'"));
    assert_eq!(out.next().as_deref(), Some("1 True"));
    assert_eq!(out.next().as_deref(), Some("ready"));
    let mut door = TcpStream::connect(("127.0.0.1", port)).expect("the port is there");
    door.write_all(b"hello").expect("taken");
    let mut back = String::new();
    door.read_to_string(&mut back).expect("it answers, and ends");
    assert_eq!(back, "olleh");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(asked.join().expect("it serves"), ([0, 0, 0, 1, 11], Vec::new()));
}

#[test]
fn a_step_built_in_a_vm_and_natively_gives_the_same_layer() {
    let silo = silo(As::Me);
    fs::write(silo.project().join("given"), "given").expect("our own project");
    // Changes and removals that a layer can record.
    let script = "set -e; uname -r; cd /etc; cat /workspace/given > made; chmod 640 made; chown 33:44 made; touch -d 2001-02-03 old; \
        ln made /usr/share/again; ln -s ../etc/made /usr/share/link; mkdir -p /opt/dir/closed; chown 7:8 /opt/dir; \
        echo x > /opt/dir/closed/x; chmod 500 /opt/dir/closed; chmod 755 /opt/dir/closed/x; chown 9:9 passwd; \
        rm issue; rm -r /usr/share/base-files; mkdir /usr/share/base-files; echo new > /usr/share/base-files/new; \
        for number in $(seq 200); do echo $number > /opt/$number; done; head -c 3000000 /dev/zero > /opt/zero";
    drop(silo.ok(["build", "sh", "--script", script]));
    let lock = || fs::read_to_string(silo.project().join("silo.lock")).expect("there is a lock");
    let natively = lock();
    let layers = |lock: &str| lock.lines().filter(|line| line.contains("layer")).map(str::to_owned).collect::<Vec<_>>();
    drop(silo.ok(["build", "--rerun", "--tier", "vm", "sh"]));
    assert!(!layers(&natively).is_empty());
    assert_eq!(layers(&lock()), layers(&natively));
    let logs = fs::read_dir(silo.path("logs")).expect("steps have logs").flatten();
    assert!(logs.filter_map(|log| fs::read_to_string(log.path()).ok()).any(|log| log.contains("+deb13-")), "it ran in a machine");
    // A failing step fails the build, and its output is shown.
    let failed = silo.fails(["build", "--tier", "vm", "sh", "--script", "uname -r; echo why; exit 3"]);
    assert!(failed.err.contains("  why\n") && failed.err.contains("+deb"), "{failed:?}");
}

#[test]
fn several_machines_run_at_once() {
    let silo = silo(As::Me);
    let children: Vec<Child> = (0..3)
        .map(|number| {
            let script = format!("echo {number}; exit {number}");
            silo.command(words(&["sh", "-c", &script])).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts")
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let done = crate::support::outcome(child.wait_with_output().expect("it ends"));
        assert_eq!((done.code, done.out.trim()), (number as i32, number.to_string().as_str()), "{done:?}");
    }
}

#[test]
fn doctor_says_whether_the_processor_runs_guests() {
    let silo = Silo::new();
    let checks: serde_json::Value = serde_json::from_str(&silo.run(["doctor", "--json"]).out).expect("JSON");
    let check = checks.as_array().into_iter().flatten().find(|check| check["name"] == "hardware virtualisation").expect("it is tried");
    match check["state"].as_str() {
        Some("ok") => assert!(fs::metadata("/dev/kvm").is_ok()),
        state => {
            assert_eq!(state, Some("degraded"));
            assert!(check["detail"].as_str().is_some_and(|why| why.contains("/dev/kvm")), "{check}");
        }
    }
}

#[test]
fn a_machine_that_cannot_be_is_refused_in_words() {
    let bench = bench();
    let silo = Silo::shared(As::Me);
    // Specs that no VM can run.
    let mut spec = bench.sh("true");
    spec.machine = Some(VmFiles { kernel: bench.path("nothing"), ..machine() });
    let output = bench.run(&spec, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nothing"), "{said}");
    let wrong = silo.fails(["run", "--tier", "moon", "sh"]);
    assert!(wrong.err.contains("native or vm"), "{wrong:?}");
}

#[test]
fn memory_and_processors_of_one_run_are_those_that_are_asked_for() {
    let silo = silo(As::Me);
    let script = "nproc; read -r _ total _ </proc/meminfo; echo $((total >> 10))";
    let seen = |memory: &str, cpus: &str| {
        let said = silo.ok(words(&["--memory", memory, "--cpus", cpus, "sh", "-c", script]));
        let numbers: Vec<u64> = said.lines().map(|line| line.parse().expect("a number")).collect();
        (numbers[0], numbers[1])
    };
    let (cpus, memory) = seen("700M", "1");
    assert!(cpus == 1 && (700..860).contains(&memory), "{cpus} {memory}");
    // No more processors than this machine has.
    let here = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let (cpus, memory) = seen("1500M", "2");
    assert!(cpus == here.min(2) && (1500..1700).contains(&memory), "{cpus} {memory}");
}

#[test]
fn excluded_directories_are_removed_and_made_again_in_machines_too() {
    let silo = silo(As::Me);
    fs::write(silo.project().join("silo.toml"), "[mount]\nexclude = [\"node_modules\"]\n").expect("our own project");
    fs::create_dir(silo.project().join("node_modules")).expect("our own project");
    fs::write(silo.project().join("node_modules/hosts"), "mine").expect("our own project");
    drop(silo.ok(["trust", "--yes"]));
    let script = "mkdir -p node_modules/a/b && rm -rf node_modules && test ! -e /workspace/node_modules && mkdir node_modules && \
                  touch node_modules/c && mv node_modules old && test ! -e node_modules && mv old node_modules && ls node_modules";
    assert_eq!(silo.ok(words(&["sh", "-c", script])), "c\n");
    let names: Vec<_> =
        fs::read_dir(silo.project().join("node_modules")).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["hosts"], "the host's own is not touched");
}
