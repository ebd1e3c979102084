//! The broker process: its budget, its privileges, and the effects of its end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use silo_launch::spec::{Record, Spec};

use crate::network::{allowing, echo, errors, sandbox};
use crate::support::sandbox::{Bench, bench, text, until};
use crate::support::{has, skip};

/// The most memory of a broker under any load: its budget and the program itself.
const MOST_KIB: u64 = 80 << 10;

/// Finds the broker of a silo.
fn broker_of(silo: &Child) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", silo.id())).ok()?;
    let is_broker = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "silo-broker");
    children.split_whitespace().find(is_broker).and_then(|pid| pid.parse().ok())
}

/// Reads a line of a process's status.
fn status(pid: i32, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// Starts a program that does one part, waits until the test says so, and does the other.
fn in_two_parts(bench: &Bench, grants: &[&str], first: &str, second: &str) -> Child {
    let program = format!(
        "
{first}
open('first', 'w').close()
while not os.path.exists('second'): time.sleep(.01)
{second}"
    );
    bench.start(&many(sandbox(bench, allowing(grants), &program)))
}

/// Lets a program have thousands of descriptors.
fn many(mut spec: Spec) -> Spec {
    spec.limits.open_files = Some(8192);
    spec
}

fn end(pid: i32) {
    let pid = Pid::from_raw(pid).expect("a process");
    kill_process(pid, Signal::KILL).expect("it is ours");
}

/// A server that takes everybody, sends each as much as goes, and reads nothing.
fn crowd() -> (Child, u16) {
    let program = "
import resource, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(4096); print(s.getsockname()[1], flush=True)
kept = []
while True:
    c = s.accept()[0]; c.setblocking(False); kept.append(c)
    try:
        while c.send(bytes(1 << 18)): pass
    except OSError: pass
";
    let mut server = Command::new("python3").args(["-c", program]).stdout(Stdio::piped()).spawn().expect("python3 starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says its port");
    (server, line.trim().parse().expect("a port"))
}

#[test]
fn as_many_connections_as_the_budget_has_are_made_and_the_others_are_refused() {
    if !has("python3") {
        return skip("there is no python3");
    }
    let bench = bench();
    let (mut server, port) = crowd();
    let program = format!(
        "
import resource
kept, refused, other = [], 0, []
for _ in range(4096):
    try: kept.append(to('host.silo.internal:{port}'))
    except ConnectionRefusedError: refused += 1
    except OSError as error: other.append(str(error))
print(0 < len(kept) <= 2048, refused == 4096 - len(kept), other[:3])
# What is there goes on, and bytes that nobody reads wait at their sender.
print([c for c in kept[::50] if not c.recv(1000)])
for c in kept: c.close()
# What is closed can be had again.
while True:
    try: print(len(to('host.silo.internal:{port}').recv(10))); break
    except ConnectionRefusedError: time.sleep(.05)
open('first', 'w').close()
while not os.path.exists('second'): time.sleep(.01)"
    );
    let mut network = allowing(&[&format!("host.silo.internal:{port}")]);
    let record = bench.path("record");
    network.record = Some(Record { into: record.clone(), title: "title".to_owned() });
    let mut silo = bench.start(&many(sandbox(&bench, network, &program)));
    until("all was tried", || bench.project().join("first").exists() || silo.try_wait().is_ok_and(|ended| ended.is_some()));
    let peak = broker_of(&silo).map(|broker| status(broker, "VmHWM")).unwrap_or_default();
    fs::write(bench.project().join("second"), "").expect("written");
    let output = silo.wait_with_output().expect("silo ends");
    drop((server.kill(), server.wait()));
    let told = errors(&output);
    assert_eq!(text(&output), "True True []\n[]\n10\n", "{told}");
    assert_eq!(told.lines().filter(|line| line.contains("connections were refused: the limit is")).count(), 1, "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    let record = fs::read_to_string(record).expect("a record");
    assert_eq!(record.matches("\"crowded\"").count(), 1);
    let kib: u64 = peak.trim_end_matches(" kB").trim().parse().expect("a number of KiB");
    assert!(kib < MOST_KIB, "{kib} KiB");
}

#[test]
fn the_broker_is_a_process_of_its_own_that_may_do_little() {
    let bench = bench();
    let port = echo();
    let grant = format!("host.silo.internal:{port}");
    let silo = in_two_parts(&bench, &[&grant], &format!("s = to('{grant}'); s.sendall(b'x'); s.recv(1)"), "print('on')");
    until("it was reached", || bench.project().join("first").exists());
    let broker = broker_of(&silo).expect("a broker");
    assert_eq!([status(broker, "Seccomp"), status(broker, "NoNewPrivs")], ["2", "1"]);
    for set in ["CapEff", "CapPrm", "CapInh"] {
        assert!(status(broker, set).bytes().all(|digit| digit == b'0'), "{set}: {}", status(broker, set));
    }
    let limits = fs::read_to_string(format!("/proc/{broker}/limits")).expect("it is there");
    let limit =
        |name: &str| limits.lines().find(|line| line.starts_with(name)).expect(name).split_whitespace().rev().nth(1).map(str::to_owned);
    assert_eq!(limit("Max data size").as_deref(), Some("268435456"));
    assert_eq!(limit("Max core file size").as_deref(), Some("0"));
    // It has connections, and nothing of silo's own: no file but the one that is nothing.
    let null = fs::metadata("/dev/null").expect("it is there").rdev();
    let mut sockets = 0;
    if let Ok(list) = fs::read_dir(format!("/proc/{broker}/fd")) {
        for fd in list.flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let shown = target.to_string_lossy().into_owned();
            sockets += usize::from(shown.starts_with("socket:"));
            let is_null = fs::metadata(fd.path()).is_ok_and(|file| file.rdev() == null);
            assert!(shown.starts_with("socket:") || shown.starts_with("anon_inode:") || is_null, "{shown}");
        }
        assert!(sockets >= 3, "{sockets}");
    }
    fs::write(bench.project().join("second"), "").expect("written");
    let output = silo.wait_with_output().expect("silo ends");
    assert_eq!(text(&output), "on\n");
    assert_eq!(errors(&output), "");
    assert!(!fs::exists(format!("/proc/{broker}")).unwrap_or(true));
}

#[test]
fn a_broker_that_dies_is_a_clear_end_of_the_network() {
    let bench = bench();
    let port = echo();
    let grant = format!("host.silo.internal:{port}");
    let first = format!("s = to('{grant}'); s.sendall(b'x'); s.recv(1); s.settimeout(60)");
    let second = format!(
        "
try: ended = s.recv(1) == b''
except OSError: ended = True
print(ended, why('{grant}') != 'reached', why('other.example:443') != 'reached')
print('on')"
    );
    let silo = in_two_parts(&bench, &[&grant], &first, &second);
    until("it was reached", || bench.project().join("first").exists());
    end(broker_of(&silo).expect("a broker"));
    fs::write(bench.project().join("second"), "").expect("written");
    let output = silo.wait_with_output().expect("silo ends");
    assert_eq!(text(&output), "True True True\non\n", "{}", errors(&output));
    assert_eq!(errors(&output), "silo: this run has no network any more: its broker was killed by signal 9\n");
}

#[test]
fn a_broker_ends_with_silo() {
    let bench = bench();
    let port = echo();
    let grant = format!("host.silo.internal:{port}");
    let mut silo = in_two_parts(&bench, &[&grant], &format!("s = to('{grant}'); s.sendall(b'x'); s.recv(1)"), "");
    until("it was reached", || bench.project().join("first").exists());
    let broker = broker_of(&silo).expect("a broker");
    silo.kill().expect("it is ours");
    drop(silo.wait());
    until("the broker ended", || !fs::exists(format!("/proc/{broker}")).unwrap_or(true) || status(broker, "State").starts_with('Z'));
}
