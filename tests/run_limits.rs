//! Limits of time and of data over the network: silo ends the run, natively and in a machine, and says which limit it was.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::{As, Done, Silo, free_port, is_root};

/// The record of the last run in this project, and the number of later runs of other tests in the home.
fn last(silo: &Silo) -> (serde_json::Value, usize) {
    let project = fs::canonicalize(silo.project()).expect("there").display().to_string();
    let all: Vec<serde_json::Value> = serde_json::from_str(&silo.ok(["log", "--runs", "--json"])).expect("JSON");
    let later = all.iter().position(|entry| entry["run"]["project"] == *project).expect("the run is recorded");
    (all[later]["run"].clone(), later)
}

/// The record of the last run in this project.
fn record(silo: &Silo) -> serde_json::Value {
    last(silo).0
}

/// Checks the end of a run at a limit: the message, the exit code and the record.
fn limited(silo: &Silo, tried: &Done, [how, key, flag]: [&str; 3]) {
    assert_eq!(tried.code, 124, "{tried:?}");
    assert!(tried.err.contains("the run was ended at its") && tried.err.contains(key) && tried.err.contains(flag), "{tried:?}");
    let shown = silo.ok(["log", "--runs"]);
    let (run, later) = last(silo);
    assert_eq!((&run["ended"]["how"], &run["ended"]["code"]), (&how.into(), &124.into()), "{run}");
    // The text has the newest twenty.
    assert!(later >= 20 || shown.contains(&format!("ended at its {}", how.replace('-', " "))), "{shown}");
}

const TIME: [&str; 3] = ["time-limit", "timeSeconds", "--max-time"];
const NETWORK: [&str; 3] = ["network-limit", "networkMB", "--max-network"];

#[test]
fn a_run_is_ended_at_its_limit_of_time() {
    let silo = Silo::shared(As::Me);
    let tried = silo.run(["run", "--max-time", "3s", "sh", "-c", "echo up; exec sleep 1000"]);
    assert_eq!(tried.out, "up\n");
    limited(&silo, &tried, TIME);
    assert_eq!(record(&silo)["granted"]["time_seconds"], 3);
    // The program can end by itself, and its code is not that of the run.
    let tried = silo.run(["run", "--max-time", "3s", "sh", "-c", "trap 'echo ended; exit 0' TERM; while :; do sleep .1; done"]);
    assert_eq!(tried.out, "ended\n");
    limited(&silo, &tried, TIME);
    // One that ignores the signal is killed with its children.
    limited(&silo, &silo.run(["run", "--max-time", "3s", "sh", "-c", "trap '' TERM; sleep 1000 & while :; do sleep .1; done"]), TIME);
    assert_eq!(silo.run(["run", "--max-time", "1h", "sh", "-c", "exit 3"]).code, 3);
    for wrong in ["30", "0s", "1y", "-1s", "s"] {
        let tried = silo.run(["run", &format!("--max-time={wrong}"), "sh", "-c", "true"]);
        assert!(tried.code == 125 && tried.err.contains("90s"), "{wrong}: {tried:?}");
    }
}

#[test]
fn limits_of_settings_end_a_run_too() {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "[overrides.sh]\ntimeSeconds = 1\n").expect("our own project");
    drop(silo.ok(["trust", "--yes"]));
    limited(&silo, &silo.run(["sh", "-c", "exec sleep 1000"]), TIME);
    // The command line is the user's own decision.
    assert_eq!(silo.run(["run", "--max-time", "1h", "sh", "-c", "sleep 2; exit 3"]).code, 3);
    let shown = silo.ok(["config", "show"]);
    assert!(shown.contains("timeSeconds = 1"), "{shown}");
    fs::write(silo.project().join("silo.toml"), "[overrides.sh]\nnetworkMB = 0\n").expect("our own project");
    let tried = silo.run(["sh", "-c", "true"]);
    assert!(tried.code != 0 && tried.err.contains("networkMB must not be zero"), "{tried:?}");
}

/// Starts processes until the kernel refuses one.
const FORKS: &str = "import os, time\nstarted = 0\ntry:\n    while started < 200:\n        if os.fork() == 0: time.sleep(1000)\n        started += 1\nexcept BlockingIOError as error: print('stopped', error.errno)\nprint(started < 45)";

#[test]
fn limits_of_a_project_hold_for_every_tool() {
    let silo = Silo::shared(As::Me);
    let settings = |text: &str| {
        fs::write(silo.project().join("silo.toml"), text).expect("our own project");
        drop(silo.ok(["trust", "--yes"]));
    };
    settings("[limits]\ntimeSeconds = 1\n[overrides.sh]\ntimeSeconds = 600\n");
    limited(&silo, &silo.run(["sh", "-c", "exec sleep 1000"]), TIME);
    let program = ["run", "--shim", "python3", "python", "--", "-c", "import time; time.sleep(1000)"];
    limited(&silo, &silo.run(program), TIME);
    // The tool's own limit is the smaller one; the command line is the user's own decision.
    settings("[limits]\ntimeSeconds = 600\n[overrides.sh]\ntimeSeconds = 1\n");
    limited(&silo, &silo.run(["sh", "-c", "exec sleep 1000"]), TIME);
    assert_eq!(silo.run(["run", "--max-time", "1h", "sh", "-c", "sleep 2; exit 3"]).code, 3);
    // The user's settings and the project's: the smaller one of each.
    settings("[limits]\nmemoryMB = 300\nprocesses = 40\n");
    let tried = silo.run(["run", "--shim", "python3", "python", "--", "-c", FORKS]);
    if tried.out.contains("stopped") {
        assert_eq!(tried.out, "stopped 11\nTrue\n", "{tried:?}");
    } else {
        // The kernel counts PIDs, of which it reserves three hundred, if there is no cgroup, and root is exempt.
        crate::support::report("the limit of processes is coarse here: no cgroup is delegated");
    }
    assert_eq!(record(&silo)["granted"]["memory_bytes"], 300 << 20);
    for wrong in ["timeSeconds = 0", "processes = 0", "cpus = 2"] {
        fs::write(silo.project().join("silo.toml"), format!("[limits]\n{wrong}\n")).expect("our own project");
        let tried = silo.run(["sh", "-c", "true"]);
        assert!(tried.code != 0 && tried.err.contains("silo.toml"), "{wrong}: {tried:?}");
    }
}

#[test]
fn no_process_is_started_beyond_the_limit() {
    let who = if is_root() { As::Nobody } else { As::Me };
    let silo = Silo::shared(who);
    fs::write(silo.project().join("silo.toml"), "[limits]\nprocesses = 40\n").expect("our own project");
    drop(silo.ok(["trust", "--yes"]));
    // Root is exempt from the kernel's limit for a user.
    let tried = silo.run(["run", "python", "-c", FORKS]);
    assert_eq!(tried.out, "stopped 11\nTrue\n", "{tried:?}");
}

/// A server that sends without end to clients that say nothing, and reads without end from those that send.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut reader = client.try_clone().expect("copied");
            thread::spawn(move || while reader.read(&mut [0; 65536]).is_ok_and(|length| length > 0) {});
            thread::spawn(move || {
                let mut client = client;
                while client.write_all(&[b'x'; 65536]).is_ok() {}
            });
        }
    });
    port
}

/// Reads or sends a number of bytes.
const CLIENT: &str = r#"
import socket, sys, time
way, most = sys.argv[2], int(sys.argv[3])
s = socket.create_connection(("host.silo.internal", int(sys.argv[1]))); done = 0
try:
    while done < most: done += len(s.recv(min(65536, most - done))) if way == "read" else s.send(b"y" * min(65536, most - done))
except OSError: pass
s.close()
if done < most: time.sleep(1000)
print("done", flush=True)
"#;

#[test]
fn a_run_is_ended_at_its_limit_of_data() {
    let silo = Silo::shared(As::Me);
    let port = server().to_string();
    let allow = format!("host.silo.internal:{port}");
    let run =
        |way: &str, bytes: &str| silo.run(["run", "--max-network", "2M", "--allow", &allow, "python", "-c", CLIENT, &port, way, bytes]);
    for way in ["read", "send"] {
        limited(&silo, &run(way, "1000000000000"), NETWORK);
        assert_eq!(record(&silo)["granted"]["network_bytes"], 2 << 20);
    }
    // The server may have sent more than the program has read.
    let within = silo.run(["run", "--max-network", "100M", "--allow", &allow, "python", "-c", CLIENT, &port, "read", "100000"]);
    assert_eq!((within.code, within.out.as_str()), (0, "done\n"), "{within:?}");
}

#[test]
fn a_port_forward_does_not_count_for_the_limit_of_data() {
    let silo = Silo::shared(As::Me);
    let port = free_port();
    let script = "import socket\nserver = socket.create_server(('127.0.0.1', 8000)); print('ready', flush=True)\n\
        with server.accept()[0] as guest: guest.sendall(b'x' * (3 << 20))";
    let mut command = silo.command(["run", "--max-network", "1M", "--port", &format!("{port}:8000"), "python", "-c", script]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("silo starts");
    let mut out = child.stdout.take().expect("piped");
    let mut word = [0; 6];
    out.read_exact(&mut word).expect("it says something");
    assert_eq!(&word, b"ready\n");
    let mut all = Vec::new();
    TcpStream::connect(("127.0.0.1", port)).and_then(|mut client| client.read_to_end(&mut all)).expect("everything arrives");
    assert_eq!((all.len(), child.wait().expect("it ends").code()), (3 << 20, Some(0)));
}

#[test]
fn a_machine_is_ended_at_its_limits() {
    let silo = crate::vm::silo(As::Me);
    const RUN: [&str; 4] = ["run", "--cold", "--tier", "vm"];
    let words = |rest: &[&str]| silo.run(RUN.iter().chain(rest));
    let tried = words(&["--max-time", "8s", "sh", "-c", "echo up; exec sleep 1000"]);
    assert_eq!(tried.out, "up\n");
    limited(&silo, &tried, TIME);
    limited(&silo, &words(&["--max-time", "3s", "sh", "-c", "trap '' TERM; while :; do sleep .1; done"]), TIME);
    fs::write(silo.project().join("silo.toml"), "[limits]\nprocesses = 40\n").expect("our own project");
    drop(silo.ok(["trust", "--yes"]));
    let tried = words(&["python", "-c", FORKS]);
    assert_eq!(tried.out, "stopped 11\nTrue\n", "{tried:?}");
    let port = server().to_string();
    let allow = format!("host.silo.internal:{port}");
    let tried = words(&["--max-network", "2M", "--allow", &allow, "python", "-c", CLIENT, &port, "read", "1000000000000"]);
    limited(&silo, &tried, NETWORK);
    assert_eq!(words(&["--max-time", "1h", "--max-network", "2M", "sh", "-c", "exit 3"]).code, 3);
}
