//! The sandbox network, compared with no sandbox and with other rootless sandboxes: throughput, time to connect and to be refused, and the
//! added start time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use silo_launch::spec::Network;

use crate::support::sandbox::{bench, hosts};
use crate::support::{As, Silo, has, is_root};
use crate::table::{Promise, Table, timed};

/// Bytes of one transfer.
const BYTES: usize = 2 << 30;
/// Connections made one after the other.
const CONNECTIONS: u32 = 200;
/// Most that a transfer may take, in times of the same without a sandbox: 70 % of its speed.
const TIMES_DIRECT: f64 = 1.0 / 0.7;
/// Most that a connection may take longer than one without a sandbox.
const LONGER: Duration = Duration::from_millis(1);
/// Most that a network may add to the start of a run.
const START: Duration = Duration::from_millis(3);

/// Rounds in which neighbours take part: they need ten times as long.
const PEERS: usize = 2;
/// The timeout of a neighbour, in timeout(1) arguments; its children end with it.
const PATIENCE: [&str; 2] = ["--kill-after=1", "60"];
/// Most that a denied name may take.
const DENIED: Duration = Duration::from_millis(10);

/// Runs its arguments in a network namespace of their own, behind slirp4netns.
const SLIRP: &str = r#"
dir=$(mktemp -d); mkfifo "$dir/ready" "$dir/go"
unshare --user --map-root-user --net sh -c 'read -r _ < "$0"; exec "$@"' "$dir/go" "$@" &
program=$!
until [ "$(readlink /proc/$program/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep .01; done
slirp4netns --configure --mtu=65520 --disable-dns --ready-fd=3 $program tap0 3> "$dir/ready" > /dev/null 2>&1 &
slirp=$!
head -c 1 "$dir/ready" > /dev/null; echo > "$dir/go"
wait $program; code=$?
kill $slirp; rm -r "$dir"; exit $code
"#;

/// Requests ungranted names: prints the time of the first in nanoseconds, or of each of the others.
const ASK: &str = "
import socket, sys, time
def ask(n):
    began = time.perf_counter_ns()
    try: socket.getaddrinfo(f'n{n}.denied.example', 443); sys.exit(1)
    except socket.gaierror: return time.perf_counter_ns() - began
times = [ask(n) for n in range(100)]
print(times[0] if sys.argv[1] == 'first' else sorted(times[1:])[50])
";

/// Runs in the sandbox and on the host; prints its time in nanoseconds.
const PROGRAM: &str = "
import socket, sys, time
host, port, what, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
socket.create_connection((host, port)).close()
began = time.perf_counter_ns()
if what == 'connect':
    for _ in range(count):
        s = socket.create_connection((host, port)); s.close()
else:
    s = socket.create_connection((host, port))
    if what == 'get':
        s.sendall(b'get')
        piece = bytearray(1 << 20); left = count
        while left:
            got = s.recv_into(piece)
            if not got: break
            left -= got
        assert not left
    else:
        piece = b'x' * (1 << 20)
        for _ in range(count >> 20): s.sendall(piece)
        assert s.recv(3) == b'all'
print(time.perf_counter_ns() - began)
";

pub fn run(rounds: usize) -> bool {
    let silo = Silo::shared(As::Me);
    let port = server();
    silo.ok(["config", "network", "allow", &format!("host.silo.internal:{port}")]);
    let measured = |command: &mut Command| {
        let done = crate::support::done(command);
        assert_eq!(done.code, 0, "{done:?}");
        Duration::from_nanos(done.out.trim().parse().expect("nanoseconds"))
    };
    let inside = |what: &str, count: usize| {
        let words = ["run", "python", "-c", PROGRAM, "host.silo.internal", &port.to_string(), what, &count.to_string()].map(str::to_owned);
        measured(&mut silo.command(words))
    };
    let direct = |what: &str, count: usize| {
        let words = ["-c", PROGRAM, "127.0.0.1", &port.to_string(), what, &count.to_string()].map(str::to_owned);
        measured(Command::new("python3").args(words))
    };
    let mut kept = true;
    for (title, what) in [("2 GiB from a server of the host", "get"), ("2 GiB to a server of the host", "put")] {
        let mut table = Table::new(title);
        let (there, here) = (table.row("python on the host"), table.row("python in a sandbox, by name"));
        let peers = peers(&mut table, port);
        for round in 0..rounds {
            table.add(there, direct(what, BYTES));
            table.add(here, inside(what, BYTES));
            for (row, address, command) in peers.iter().filter(|_| round < PEERS) {
                let words = ["python3", "-c", PROGRAM, address, &port.to_string(), what, &BYTES.to_string()].map(str::to_owned);
                // A neighbour that loses bytes or hangs, as old ones do, is reported and skipped.
                let done = crate::support::done(command().args(words));
                match done.out.trim().parse() {
                    Ok(took) if done.code == 0 => table.add(*row, Duration::from_nanos(took)),
                    _ => eprintln!("  {address}: not done ({})", done.code),
                }
            }
        }
        kept &= table.print(there, &[Promise::AtMost { row: here, times: TIMES_DIRECT, of: there }]);
    }
    let mut table = Table::new("one connection");
    let (there, here) = (table.row("python on the host"), table.row("python in a sandbox, by name"));
    for _ in 0..rounds {
        let one = |took: Duration| took / CONNECTIONS;
        let host = one(direct("connect", CONNECTIONS as usize));
        table.add(there, host);
        table.add(here, one(inside("connect", CONNECTIONS as usize)));
    }
    kept &= table.print(there, &[Promise::Longer { row: here, by: LONGER, than: there }]);
    kept &= refusals(&silo, rounds, measured);
    start(rounds * 6) && kept
}

/// A row, the address of the host's loopback there, and a command that takes the program to run there.
type Peer = (usize, &'static str, Box<dyn Fn() -> Command>);

/// Other rootless sandboxes, if installed.
fn peers(table: &mut Table, port: u16) -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    if has("slirp4netns") {
        let command = || {
            let mut command = Command::new("timeout");
            command.args(PATIENCE).args(["bash", "-c", SLIRP, "bash"]);
            command
        };
        peers.push((table.row("python behind slirp4netns"), "10.0.2.2", Box::new(command)));
    } else {
        table.absent("python behind slirp4netns", "slirp4netns is not installed");
    }
    if has("pasta") {
        let command = move || {
            let mut command = Command::new("timeout");
            command.args(PATIENCE).arg("pasta");
            // As root it would switch to an unprivileged user that cannot do this.
            let who: &[&str] = if is_root() { &["--runas", "0"] } else { &[] };
            command.args(who).args(["--quiet", "--config-net", "-T", &port.to_string(), "--"]);
            command
        };
        peers.push((table.row("python behind pasta, its spliced loopback"), "127.0.0.1", Box::new(command)));
    } else {
        table.absent("python behind pasta", "passt is not installed");
    }
    peers
}

/// The time of a lookup of an ungranted name.
fn refusals(silo: &Silo, rounds: usize, measured: impl Fn(&mut Command) -> Duration) -> bool {
    let mut table = Table::new("a name that is denied");
    let (first, others) = (table.row("the first of a run, which starts the broker"), table.row("the median of 99 others"));
    for _ in 0..rounds {
        for (row, what) in [(first, "first"), (others, "others")] {
            table.add(row, measured(&mut silo.command(["run", "python", "-c", ASK, what])));
        }
    }
    table.print(first, &[Promise::Within { row: first, limit: DENIED }, Promise::Within { row: others, limit: DENIED }])
}

/// The start time that a network adds, for a program that does not use it.
fn start(rounds: usize) -> bool {
    let mut table = Table::new("warm start of `sh -c true`, with and without a network");
    let (without, with) = (table.row("no network"), table.row("three grants"));
    let bench = bench();
    let spec = bench.sh("true");
    let mut granted = spec.clone();
    let network = Network { allow: hosts(&["a.example", "*.b.example", "10.0.0.1:8000-8010"]), ..Network::default() };
    granted.files.push(network.file());
    granted.network = Some(network);
    for _ in 0..rounds {
        table.add(without, timed(&mut bench.command(&spec)));
        table.add(with, timed(&mut bench.command(&granted)));
    }
    table.print(without, &[Promise::Longer { row: with, by: START, than: without }])
}

/// Serves downloads and uploads; returns the port.
fn server() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    port
}

fn serve(mut stream: TcpStream) {
    let mut piece = vec![0; 1 << 20];
    match stream.read(&mut piece) {
        Ok(3) if piece.starts_with(b"get") => {
            for _ in 0..BYTES >> 20 {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        }
        Ok(length) if length > 0 => {
            // Counted, since not every neighbour passes the end of one direction on.
            let mut left = BYTES.saturating_sub(length);
            while left > 0 {
                match stream.read(&mut piece) {
                    Ok(length) if length > 0 => left = left.saturating_sub(length),
                    _ => return,
                }
            }
            // The client may be gone.
            drop(stream.write_all(b"all"));
        }
        _ => {}
    }
}
