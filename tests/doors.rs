//! Port forwards into a sandbox, ssh agent forwarding, and the network record of a run.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use silo_base::grant::Port;
use silo_launch::spec::{Dir, GrantOrigin, Network, SSH_AGENT, Spec, SshAgent};

use crate::support::sandbox::{Bench, bench, text, until};
use crate::support::terminal::Session;
use crate::support::{As, Silo, done, free_port, has, skip};

fn with(bench: &Bench, network: Network, program: &str) -> Spec {
    let mut spec = bench.python(program);
    spec.files.push(network.file());
    spec.network = Some(Network { asker: GrantOrigin::Run, ..network });
    spec
}

/// Connects once something answers.
fn knock(port: u16) -> TcpStream {
    let mut found = None;
    until("the port answers", || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        // The server inside may not listen yet, and then the connection is reset.
        let mut hello = [0; 2];
        match stream.read_exact(&mut hello) {
            Ok(()) => found = Some(stream),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}"),
        }
        found.is_some()
    });
    found.expect("it was found")
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn ports_of_this_machine_lead_to_servers_inside() {
    let bench = bench();
    // One server for each way of listening: to this machine alone, to all, and by the other protocol.
    let program = "
import asyncio, socket
async def talk(reader, writer):
    writer.write(b'hi')
    while piece := await reader.read(1 << 16):
        writer.write(piece); await writer.drain()
    writer.write(b'end'); writer.close()
async def main():
    servers = []
    for family, address, port in ((socket.AF_INET, '127.0.0.1', 8000), (socket.AF_INET, '0.0.0.0', 8001), (socket.AF_INET6, '::1', 8002)):
        servers.append(await asyncio.start_server(talk, address, port, family=family))
    await asyncio.gather(*(server.serve_forever() for server in servers))
asyncio.run(main())
";
    let hosts = [free_port(), free_port(), free_port(), free_port()];
    let ports = hosts.iter().zip(8000..).map(|(host, guest)| Port::parse(&format!("{host}:{guest}")).expect("ports")).collect();
    let spec = with(&bench, Network { ports, ..Network::default() }, program);
    let _running = Running(bench.start(&spec));
    let large = vec![b'x'; 3 << 20];
    for host in &hosts[..3] {
        let mut stream = knock(*host);
        let mut writer = stream.try_clone().expect("one more descriptor");
        let sent = thread::spawn({
            let large = large.clone();
            move || {
                writer.write_all(&large).expect("taken");
                writer.shutdown(Shutdown::Write).expect("open");
            }
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("all of it");
        sent.join().expect("sent");
        assert!(got == [&large[..], b"end"].concat(), "{} bytes through {host}", got.len());
    }
    // Many connections, all open before the first is used.
    let mut many: Vec<TcpStream> = (0..300).map(|_| knock(hosts[0])).collect();
    for (number, stream) in many.iter_mut().enumerate() {
        let word = format!("{number:04}");
        stream.write_all(word.as_bytes()).expect("open");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("it comes back");
        assert_eq!(back, word.as_bytes());
    }
    // A port without a listener inside resets the connection.
    let mut stream = TcpStream::connect(("127.0.0.1", hosts[3])).expect("the port of this machine is there");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    assert_eq!(stream.read(&mut [0; 1]).expect_err("nobody is there").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_port_forward_grants_no_egress_and_needs_a_free_port() {
    let bench = bench();
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let program = format!(
        "
import socket
for place in (('host.silo.internal', {port}), ('127.0.0.1', {port}), ('example.com', 443), ('192.0.2.1', 80)):
    try: socket.create_connection(place, 5); print('open')
    except OSError: print('closed')"
    );
    let ports = vec![Port::parse(&free_port().to_string()).expect("a port")];
    let spec = with(&bench, Network { ports, ..Network::default() }, &program);
    assert_eq!(text(&bench.run(&spec, b"")), "closed\n".repeat(4));

    let silo = Silo::shared(As::Me);
    let refused = silo.run(["run", "--port", &port.to_string(), "sh", "-c", "echo ran"]);
    let told = format!("silo: port {port} of this machine: ");
    assert!(refused.code == 125 && refused.out.is_empty() && refused.err.contains(&told), "{refused:?}");
    assert!(refused.err.contains("map another port"), "{refused:?}");
    assert_eq!(silo.run(["run", "--port", "0", "sh"]).code, 125);
}

#[test]
fn ports_in_silo_toml_are_kept_shown_and_approved() {
    let silo = Silo::shared(As::Me);
    let port = free_port();
    let pair = format!("{port}:8000");
    silo.ok(["config", "ports", "add", "python", &pair]);
    let line = format!("python answers at port {port} of this machine, from its port 8000\n");
    assert_eq!(silo.ok(["config", "ports", "show"]), line);
    let script = "import socket; s = socket.create_server(('', 8000)); c, _ = s.accept(); c.sendall(b'hi')";
    let mut running = Running(silo.command(["python", "-c", script]).stdin(Stdio::null()).spawn().expect("silo starts"));
    drop(knock(port));
    assert!(running.0.wait().expect("it ends").success());
    silo.ok(["config", "ports", "remove", "python", &pair]);
    assert_eq!(silo.run(["config", "ports", "remove", "python", &pair]).code, 1);
    fs::write(silo.project().join("silo.toml"), format!("[[overrides.python.ports]]\nhost = {port}\nguest = 1\n"))
        .expect("our own project");
    let asked = silo.run(["python", "-c", "1"]);
    assert!(asked.code == 125 && asked.err.contains(&format!("python answers at port {port}")), "{asked:?}");
    for (text, expect) in [("host = 0\nguest = 1", "host"), ("host = 1", "guest"), ("host = 1\nguest = 70000", "guest")] {
        fs::write(silo.project().join("silo.toml"), format!("[[overrides.python.ports]]\n{text}\n")).expect("our own project");
        let wrong = silo.run(["python", "-c", "1"]);
        assert!(wrong.code == 125 && wrong.err.contains("silo.toml") && wrong.err.contains(expect), "{wrong:?}");
    }
}

/// An ssh agent with one key, as the user would have it.
struct Keys {
    agent: Child,
    place: tempfile::TempDir,
}

impl Keys {
    fn start() -> Keys {
        let place = tempfile::tempdir().expect("a directory");
        let socket = place.path().join("agent");
        let agent = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn().expect("it is there");
        until("the agent listens", || socket.exists());
        let key = place.path().join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "of the test", "-f"]).arg(&key).status();
        assert!(made.expect("it is there").success());
        let keys = Keys { agent, place };
        assert!(keys.add(&[key.as_os_str()]).0);
        keys
    }

    fn socket(&self) -> std::path::PathBuf {
        self.place.path().join("agent")
    }

    fn add(&self, args: &[&std::ffi::OsStr]) -> (bool, String) {
        let output = Command::new("ssh-add").args(args).env("SSH_AUTH_SOCK", self.socket()).output().expect("it is there");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        drop(self.agent.kill());
        drop(self.agent.wait());
    }
}

/// An ssh agent client: lists the keys, has data signed, and sends requests that must not be forwarded.
const CLIENT: &str = "
import os, socket, struct
def say(body):
    s.sendall(struct.pack('>I', len(body)) + body)
    size = struct.unpack('>I', s.recv(4, socket.MSG_WAITALL))[0]
    return s.recv(size, socket.MSG_WAITALL)
def string(b): return struct.pack('>I', len(b)) + b
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK'])
keys = say(b'\\x0b')
count, size = struct.unpack('>II', keys[1:9])
blob = keys[9:9 + size]
print(keys[0], count, b'of the test' in keys)
signed = say(b'\\x0d' + string(blob) + string(b'to be signed') + struct.pack('>I', 0))
print(signed[0], b'ssh-ed25519' in signed)
print([say(body)[0] for body in (b'\\x13', b'\\x12' + string(blob), b'\\x16' + string(b'x'), b'\\x11' + string(b'ssh-ed25519'), b'\\x0bx', b'\\x1b' + string(b'x'))])
print(say(b'\\x0b') == keys)
other = socket.socket(socket.AF_UNIX); other.connect(os.environ['SSH_AUTH_SOCK'])
other.sendall(b'\\xff\\xff\\xff\\xff'); print(other.recv(1))
";

/// The network record of python runs in this project.
fn network_of_this_project(silo: &Silo) -> serde_json::Value {
    let json: serde_json::Value = serde_json::from_str(&silo.ok(["log", "--network", "--json", "python"])).expect("JSON");
    let of_this = json.as_array().into_iter().flatten().find(|run| run["run"]["project"] == silo.project().display().to_string());
    of_this.expect("it is there").clone()
}

#[test]
fn the_ssh_agent_signs_and_does_nothing_else() {
    if !["ssh-agent", "ssh-add", "ssh-keygen"].into_iter().all(has) {
        return skip("OpenSSH's client is not installed");
    }
    let keys = Keys::start();
    let silo = Silo::shared(As::Me);
    let run = |args: &[&str], socket: &Path| {
        let mut command = silo.command(args);
        done(command.env("SSH_AUTH_SOCK", socket))
    };
    let done = run(&["run", "--ssh-agent", "python", "-c", CLIENT], &keys.socket());
    assert_eq!(done.out, "12 1 True\n14 True\n[5, 5, 5, 5, 5, 5]\nTrue\nb''\n", "{done:?}");
    assert!(keys.add(&["-l".as_ref()]).1.contains("of the test"), "the key is still there");
    // Other tests run python in this home, too: the last run need not be this one.
    let run_here = network_of_this_project(&silo);
    let signed = run_here["entries"].as_array().into_iter().flatten().find(|entry| entry["verdict"] == "signed");
    assert!(signed.is_some_and(|entry| entry.to_string().contains("ssh-agent")), "{run_here}");

    // Not without being asked for; silo.toml can ask, and is asked about.
    let look = "import os; print(os.environ.get('SSH_AUTH_SOCK'), os.path.exists('/run/silo/ssh-agent.sock'))";
    assert_eq!(run(&["python", "-c", look], &keys.socket()).out, "None False\n");
    fs::write(silo.project().join("silo.toml"), "[overrides.python]\npassSshAgent = true\n").expect("our own project");
    let asked = run(&["python", "-c", look], &keys.socket());
    assert!(asked.code == 125 && asked.err.contains("python may ask your ssh agent for signatures"), "{asked:?}");
    silo.ok(["trust", "--yes"]);
    assert_eq!(run(&["python", "-c", look], &keys.socket()).out, format!("{SSH_AGENT} True\n"));
    assert_eq!(run(&["sh", "-c", "echo $SSH_AUTH_SOCK"], &keys.socket()).out, "\n");

    // Without an agent the run continues with a warning.
    let without = run(&["python", "-c", look], &silo.path("nowhere"));
    assert!(without.out == "None False\n" && without.err.contains("there is no ssh agent to pass"), "{without:?}");
}

#[test]
fn an_ssh_agent_that_goes_away_is_an_end_and_no_hang() {
    let bench = bench();
    let socket = bench.path("agent");
    let listener = UnixListener::bind(&socket).expect("bound");
    drop(listener);
    let program = "
import os, socket
s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK'])
try: s.sendall(b'\\0\\0\\0\\1\\x0b'); print(s.recv(9))
except (ConnectionResetError, BrokenPipeError): print(b'')";
    let mut spec = with(&bench, Network { ssh_agent: Some(SshAgent { socket }), ..Network::default() }, program);
    spec.dirs.push(Dir { guest: "/run/silo".into(), mode: 0o755 });
    spec.env.insert("SSH_AUTH_SOCK".into(), SSH_AGENT.into());
    let output = bench.run(&spec, b"");
    assert_eq!(text(&output), "b''\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the ssh agent at"), "{output:?}");
}

#[test]
fn requests_of_a_run_are_recorded() {
    let silo = Silo::shared(As::Me);
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).expect("a line");
        (&stream).write_all(b"0123456789").expect("taken");
    });
    silo.ok(["config", "network", "allow", &format!("host.silo.internal:{port}")]);
    let dead = free_port();
    silo.ok(["config", "network", "allow", &format!("host.silo.internal:{dead}")]);
    let program = format!(
        "
import socket
def to(name, port):
    try: return socket.create_connection((name, port), 60)
    except OSError: pass
s = to('host.silo.internal', {port}); s.sendall(b'hello\\n'); s.shutdown(1)
while s.recv(99): pass
to('host.silo.internal', {dead}); to('secret.example', 443); to('secret.example', 443)"
    );
    assert_eq!(silo.run(["python", "-c", &program]).code, 0);
    serving.join().expect("served");
    let log = silo.ok(["log", "--network", "python"]);
    let title = format!("python in {}, ", silo.project().display());
    assert!(log.starts_with(&title), "{log}");
    for line in [
        format!("  reached        1x  host.silo.internal:{port}  6 bytes out, 10 bytes in\n"),
        format!("  refused        1x  host.silo.internal:{dead}\n"),
        // By either protocol, twice.
        "  denied         4x  secret.example\n".to_owned(),
    ] {
        assert!(log.contains(&line), "{log} lacks {line}");
    }
    assert_eq!(network_of_this_project(&silo)["entries"][0]["verdict"], "reached");
    // A run without requests records nothing, and a run of another project does not count here.
    silo.ok(["python", "-c", "1"]);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let asks = "import socket\ntry: socket.create_connection(('other.example', 80))\nexcept OSError: pass";
    assert_eq!(done(silo.command(["python", "-c", asks]).current_dir(elsewhere.path())).code, 0);
    assert_eq!(silo.ok(["log", "--network", "python"]), log);
}

#[test]
fn lines_stay_out_of_programs_that_use_the_whole_screen() {
    let bench = bench();
    let program = "
import socket
def ask(name):
    try: socket.getaddrinfo(name, 80)
    except OSError: pass
ask('before.example'); input()
print('\\x1b[?1049h' + 'editor', flush=True); input()
ask('during.example'); print('typed', flush=True); input()
print('\\x1b[?1049l' + 'shell', flush=True); input()
";
    let mut session = Session::start(&bench, &with(&bench, Network::default(), program));
    session.expect("silo: before.example is not granted");
    session.type_in("\n");
    session.expect("editor");
    session.type_in("\n");
    session.expect("typed\r\n");
    session.type_in("\n");
    let between = session.expect("shell");
    assert!(!between.contains("during.example"), "{between:?}");
    session.expect("silo: during.example is not granted");
    session.type_in("\n");
    assert_eq!(session.end().0, Some(0));
}
