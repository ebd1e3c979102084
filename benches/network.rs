//! The network by name, beside no sandbox at all: bytes a second, the time to connect, and what it adds to a start.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use silo::launch::spec::Network;

use crate::support::sandbox::bench;
use crate::support::{As, Silo};
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

/// What the sandbox and the host run alike: it prints how long it took, in nanoseconds.
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
        s.sendall(b'get'); s.shutdown(socket.SHUT_WR)
        piece = bytearray(1 << 20); left = count
        while left:
            got = s.recv_into(piece)
            if not got: break
            left -= got
        assert not left
    else:
        piece = b'x' * (1 << 20)
        for _ in range(count >> 20): s.sendall(piece)
        s.shutdown(socket.SHUT_WR); assert s.recv(3) == b'all'
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
        for _ in 0..rounds {
            table.add(there, direct(what, BYTES));
            table.add(here, inside(what, BYTES));
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
    start(rounds * 6) && kept
}

/// What a network adds to the start of a sandbox whose program asks for nothing.
fn start(rounds: usize) -> bool {
    let mut table = Table::new("warm start of `sh -c true`, with and without a network");
    let (without, with) = (table.row("no network"), table.row("three grants"));
    let bench = bench();
    let spec = bench.sh("true");
    let mut granted = spec.clone();
    let network = Network { allow: ["a.example", "*.b.example", "10.0.0.1:8000-8010"].map(str::to_owned).to_vec(), ..Network::default() };
    granted.files.push(network.file());
    granted.network = Some(network);
    for _ in 0..rounds {
        table.add(without, timed(&mut bench.command(&spec)));
        table.add(with, timed(&mut bench.command(&granted)));
    }
    table.print(without, &[Promise::Longer { row: with, by: START, than: without }])
}

/// Serves those who get and those who put; returns the port.
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
            while stream.read(&mut piece).is_ok_and(|length| length > 0) {}
            // A client that is gone is not told.
            drop(stream.write_all(b"all"));
        }
        _ => {}
    }
}
