//! The network of a sandbox: granted and denied connections, learned hosts, and steps with a network.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Output;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use silo_launch::broker::upstream_proxy::Proxies;
use silo_launch::spec::{GrantOrigin, Learn, Network, Spec, VmFiles};

use crate::support::sandbox::{Bench, bench, hosts, text};
use crate::support::{Silo, skip};

/// Helper functions of the programs inside.
pub const PRELUDE: &str = "
import errno, hashlib, os, socket, sys, threading, time
def to(place):
    name, port = place.rsplit(':', 1)
    s = socket.create_connection((name.strip('[]'), int(port)), timeout=60)
    return s
def all(s):
    got = []
    while c := s.recv(1 << 16): got.append(c)
    return b''.join(got)
def why(place):
    try: to(place); return 'reached'
    except socket.gaierror as error: return 'no name'
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
";

pub fn sandbox(bench: &Bench, mut network: Network, program: &str) -> Spec {
    let mut spec = bench.python(&format!("{PRELUDE}{program}"));
    network.asker = GrantOrigin::Run;
    spec.files.push(network.file());
    spec.network = Some(network);
    spec
}

pub fn allowing(grants: &[&str]) -> Network {
    Network { allow: hosts(grants), ..Network::default() }
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Serves each connection in its own thread; returns the port.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = std::sync::Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Sends everything back, and the end after it.
pub fn echo() -> u16 {
    server(|stream| {
        let (mut from, mut to) = (&stream, &stream);
        drop(std::io::copy(&mut from, &mut to));
        drop(stream.shutdown(Shutdown::Write));
    })
}

/// Answers plain requests with a short text, and sends each request's head to the test.
fn web() -> (u16, Receiver<String>) {
    let (sender, heads) = channel();
    let port = server(move |mut stream| {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut piece = [0; 1024];
            match stream.read(&mut piece) {
                Ok(length) if length > 0 => head.extend_from_slice(&piece[..length]),
                _ => return,
            }
        }
        drop(sender.send(String::from_utf8_lossy(&head).into_owned()));
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"));
    });
    (port, heads)
}

#[test]
fn a_sandbox_without_network_has_no_resolver() {
    let bench = bench();
    let program = "
print(open('/proc/net/tcp').read().count('\\n'), open('/proc/net/udp').read().count('\\n'), open('/proc/net/route').read().count('\\n'))
print(why('host.silo.internal:80'), why('127.0.0.1:80'), why('192.0.2.1:80'))";
    let mut spec = sandbox(&bench, Network::default(), program);
    spec.network = None;
    assert_eq!(text(&bench.run(&spec, b"")), "1 1 1\nno name ECONNREFUSED ENETUNREACH\n");
    // Without grants the resolver knows no name.
    let spec = sandbox(&bench, Network::default(), "print(why('host.silo.internal:80'), why('192.0.2.1:80'), why('198.18.1.0:80'))");
    assert_eq!(text(&bench.run(&spec, b"")), "no name ENETUNREACH ECONNREFUSED\n");
}

#[test]
fn only_granted_hosts_are_reached() {
    let bench = bench();
    let (port, other) = (echo(), echo());
    let program = format!(
        "
s = to('Host.Silo.Internal.:{port}')
s.sendall(b'ping'); s.shutdown(socket.SHUT_WR)
print(all(s).decode())
for place in ('host.silo.internal:{other}', '127.0.0.1:{port}', '[::1]:{port}', '169.254.169.254:80', '[fd00:ec2::254]:80', '10.0.0.1:{port}', 'silo.internal:{port}', 'other.example:443'):
    began = time.monotonic()
    print(why(place), time.monotonic() - began < 20)
print(socket.getaddrinfo('host.silo.internal', {port}, socket.AF_INET) == socket.getaddrinfo('HOST.silo.internal', {port}, socket.AF_INET))
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("host.silo.internal:{port}")]), &program);
    let output = bench.run(&spec, b"");
    let refused = ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED", "ENETUNREACH", "ENETUNREACH", "ENETUNREACH", "no name", "no name"];
    let expect: String = refused.iter().map(|why| format!("{why} True\n")).collect();
    assert_eq!(text(&output), format!("ping\n{expect}True\n"), "{}", errors(&output));
    let told = errors(&output);
    // The first refusal is reported when its SYN arrives; the program does not wait for it.
    let line = |what: &str| format!("silo: {what} is not granted; `silo config network allow {what}` would grant it\n");
    let lines = [format!("host.silo.internal:{other}"), "silo.internal".to_owned(), "other.example".to_owned()];
    assert!(told.lines().count() == 3 && lines.iter().all(|what| told.contains(&line(what))), "{told}");
}

/// The kernel refuses such a port immediately, so the program may exit before the broker learns of it.
#[test]
fn the_last_refusal_of_a_program_is_reported() {
    let bench = bench();
    // Other processes keep the agent from the CPU in between.
    let program = "
why('host.silo.internal:8')
for _ in range(16):
    if not os.fork():
        while True: pass
why('host.silo.internal:7'); os._exit(0)";
    let spec = sandbox(&bench, allowing(&["host.silo.internal:9"]), program);
    for _ in 0..10 {
        let output = bench.run(&spec, b"");
        assert!(errors(&output).contains("silo: host.silo.internal:7 is not granted; "), "{output:?}");
    }
}

/// As outside a sandbox: the data of a program arrives, although the program and its sandbox have ended.
#[test]
fn the_last_bytes_of_a_program_arrive() {
    what_was_written_last_arrives(None, &[(1, 3 << 20), (8, 5)]);
}

/// Writes this many bytes to this many parallel connections, and exits.
pub fn what_was_written_last_arrives(machine: Option<VmFiles>, writes: &[(usize, usize)]) {
    let bench = bench();
    let (sender, arrived) = channel();
    let port = server(move |mut stream| {
        // Slower than the program, so that most of it is on its way when that ends.
        thread::sleep(Duration::from_millis(200));
        let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            all.extend_from_slice(&piece[..length]);
        }
        let _ = sender.send((all.len(), all.iter().all(|byte| *byte == b'x')));
    });
    for grant in [format!("host.silo.internal:{port}"), "host.silo.internal:*".to_owned()] {
        for (connections, bytes) in writes.iter().copied() {
            let program = format!(
                "
streams = [to('host.silo.internal:{port}') for _ in range({connections})]
for s in streams: s.sendall(b'x' * {bytes})
os._exit(7)"
            );
            let spec = Spec { machine: machine.clone(), ..sandbox(&bench, allowing(&[&grant]), &program) };
            let output = bench.run(&spec, b"");
            assert_eq!((output.status.code(), errors(&output)), (Some(7), String::new()), "{grant}");
            for _ in 0..connections {
                let (length, same) = arrived.recv_timeout(Duration::from_secs(60)).expect("each connection ends");
                assert!(length == bytes && same, "{grant}: {length} of {bytes}");
            }
        }
    }
}

/// A server that does not read does not delay the exit; the kernel's buffers bound the unread bytes.
#[test]
fn a_server_that_takes_nothing_does_not_keep_a_run() {
    let bench = bench();
    let (sender, held) = channel();
    let sender = std::sync::Mutex::new(sender);
    let port = server(move |stream| drop(sender.lock().expect("not poisoned").send(stream)));
    let program = format!(
        "
s = to('host.silo.internal:{port}'); s.setblocking(False)
try:
    while True: s.send(bytes(1 << 20))
except BlockingIOError: os._exit(7)"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("host.silo.internal:{port}")]), &program), b"");
    assert_eq!((output.status.code(), errors(&output)), (Some(7), String::new()));
    // Only now is the connection let go.
    drop(held.recv().expect("it came"));
}

#[test]
fn denied_names_do_not_resolve() {
    let bench = bench();
    let port = echo();
    let mut network = allowing(&[&format!("localhost:{port}-{}", port + 1), "*"]);
    network.deny = hosts(&[&format!("localhost:{port}"), "*.denied.example"]);
    let program = format!("print(why('localhost:{port}'), why('a.denied.example:443'))");
    let output = bench.run(&sandbox(&bench, network, &program), b"");
    assert_eq!(text(&output), "EHOSTUNREACH no name\n", "{}", errors(&output));
    assert!(errors(&output).contains(&format!("silo: localhost:{port} is not granted")), "{}", errors(&output));
}

#[test]
fn this_machine_is_reached_by_a_grant_of_its_loopback_and_by_no_name() {
    let bench = bench();
    if !leads_somewhere(&this_machine()) {
        return skip("this machine cannot resolve its own name, so no name leads home");
    }
    let port = echo();
    let home = |network| {
        let output = bench.run(&sandbox(&bench, network, &format!("print(why('{}:{port}'))", this_machine())), b"");
        (text(&output), errors(&output))
    };
    let grant = format!("{}:{port}", this_machine());
    for network in [Network { public: hosts(&[&grant]), ..Network::default() }, allowing(&[&grant])] {
        let (said, told) = home(network);
        let why = ["own loopback; grant host.silo.internal", "needs a grant of"].into_iter().any(|why| told.contains(why));
        assert!(said == "EHOSTUNREACH\n" && why, "{said}{told}");
    }
    for literal in ["127.0.0.1", "localhost"] {
        let program = format!("print(why('{literal}:{port}'))");
        let output = bench.run(&sandbox(&bench, allowing(&[&format!("{literal}:{port}")]), &program), b"");
        assert_eq!(text(&output), "reached\n", "{literal}: {}", errors(&output));
    }
}

fn leads_somewhere(name: &str) -> bool {
    std::net::ToSocketAddrs::to_socket_addrs(&(name, 1)).is_ok_and(|mut found| found.next().is_some())
}

/// The host's name, which resolves to no public address.
fn this_machine() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").expect("a name").trim().to_owned()
}

#[test]
fn connect_errors_match_those_of_the_host() {
    let bench = bench();
    let dead = crate::support::free_port();
    let program = format!(
        "
print(why('host.silo.internal:{dead}'), why('nowhere.invalid:80'))
s = socket.socket(); s.setblocking(False)
print(errno.errorcode[s.connect_ex(('host.silo.internal', {dead}))])
import select; select.select([], [s], [], 60)
print(errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('host.silo.internal', 443)); u.send(b'quic'); u.settimeout(10)
try: u.recv(10)
except OSError as error: print(errno.errorcode[error.errno])
"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("host.silo.internal:{dead}"), "nowhere.invalid"]), &program), b"");
    assert_eq!(text(&output), "ECONNREFUSED EHOSTUNREACH\nEINPROGRESS\nECONNREFUSED\nECONNREFUSED\n", "{}", errors(&output));
    assert!(errors(&output).contains("silo: nowhere.invalid:80: cannot be resolved: "), "{}", errors(&output));
}

#[test]
fn tls_must_ask_for_the_name_that_was_connected_to() {
    let bench = bench();
    // Echoes received bytes.
    let listener = match TcpListener::bind(("127.0.0.1", 443)) {
        Ok(listener) => listener,
        Err(error) => return skip(&format!("port 443 cannot be listened at here: {error}")),
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(std::io::copy(&mut (&stream), &mut (&stream))));
        }
    });
    let program = "
import ssl
def hello(name):
    context = ssl.create_default_context(); context.check_hostname = False
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_hostname=name)
    try: tls.do_handshake()
    except ssl.SSLWantReadError: return out.read()
def sent(place, data):
    s = to(place); s.sendall(data)
    try: return s.recv(len(data), socket.MSG_WAITALL) == data
    except OSError: return False
at = 'host.silo.internal:443'
print(sent(at, hello('host.silo.internal')), sent(at, hello('other.example')), sent(at, hello(None)), sent(at, b'GET / HTTP/1.1'))
print(sent('localhost:443', b'SSH-2.0'))
";
    let output = bench.run(&sandbox(&bench, allowing(&["host.silo.internal", "localhost:443/tcp"]), program), b"");
    assert_eq!(text(&output), "True False False False\nTrue\n", "{}", errors(&output));
    for line in [
        "host.silo.internal:443: TLS SNI other.example does not match the host connected to\n",
        "host.silo.internal:443: TLS without SNI on port 443; \"host.silo.internal:443/tcp\" would grant it\n",
        "host.silo.internal:443: not TLS on port 443; ",
    ] {
        assert!(errors(&output).contains(line), "{}", errors(&output));
    }
}

#[test]
fn much_is_carried_both_ways_unchanged() {
    const BYTES: usize = 100 << 20;
    let bench = bench();
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut hash = Sha256::new();
    for _ in 0..BYTES >> 20 {
        hash.update(&block);
    }
    let expect: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let source = server(move |mut stream| {
        for _ in 0..BYTES >> 20 {
            if stream.write_all(&block).is_err() {
                return;
            }
        }
    });
    let back = echo();
    let program = format!(
        "
s = to('host.silo.internal:{source}')
data = all(s)
print(len(data), hashlib.sha256(data).hexdigest())
s = to('host.silo.internal:{back}')
def send(): s.sendall(data); s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
print(hashlib.sha256(all(s)).hexdigest())
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("host.silo.internal:{source}"), &format!("host.silo.internal:{back}")]), &program);
    assert_eq!(text(&bench.run(&spec, b"")), format!("{BYTES} {expect}\n{expect}\n"));
}

#[test]
fn many_connections_do_not_mix() {
    let bench = bench();
    let port = echo();
    // All are open at the same time, and some still are when the program ends.
    let program = format!(
        "
def one(n):
    s = to('host.silo.internal:{port}')
    s.sendall(str(n).encode()); s.shutdown(socket.SHUT_WR)
    if all(s) == str(n).encode(): good.append(n)
good = []; threading.stack_size(256 << 10)
held = [to('host.silo.internal:{port}') for n in range(400)]
for n, s in enumerate(held): s.sendall(str(n).encode())
for n, s in enumerate(held): assert s.recv(10) == str(n).encode()
threads = [threading.Thread(target=one, args=(n,)) for n in range(100)]
for t in threads: t.start()
for t in threads: t.join()
print(len(good))
"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("host.silo.internal:{port}")]), &program), b"");
    assert_eq!(text(&output), "100\n", "{}", errors(&output));
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open() {
    let bench = bench();
    // The guest ends first and is answered afterwards.
    let counting = server(|mut stream| {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        thread::sleep(Duration::from_millis(200));
        drop(stream.write_all(format!("{} bytes", all.len()).as_bytes()));
    });
    // The server ends first and continues to read.
    let (sender, heard) = channel();
    let brief = server(move |mut stream| {
        drop(stream.write_all(b"only this"));
        drop(stream.shutdown(Shutdown::Write));
        let mut all = String::new();
        drop(stream.read_to_string(&mut all));
        drop(sender.send(all));
    });
    let program = format!(
        "
s = to('host.silo.internal:{counting}')
s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)
print(all(s).decode())
s = to('host.silo.internal:{brief}')
print(all(s).decode())
s.sendall(b'still here'); s.close()
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("host.silo.internal:{counting}"), &format!("host.silo.internal:{brief}")]), &program);
    assert_eq!(text(&bench.run(&spec, b"")), "100000 bytes\nonly this\n");
    assert_eq!(heard.recv().expect("it was heard"), "still here");
}

#[test]
fn malformed_packets_and_messages_are_refused() {
    let bench = bench();
    let port = echo();
    let program = format!(
        "
at = ('198.18.0.2', 53)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for data in (b'', b'x', os.urandom(12), os.urandom(500), b'\\0' * 1400, b'\\0\\1\\1\\0\\0\\1' + b'\\0' * 6 + b'\\xc0\\x0c\\0\\1\\0\\1'): u.sendto(data, at)
def lookup(name):
    try: socket.getaddrinfo(name, 443); return True
    except OSError: return False
# Words in names: none leaves, whatever their number.
print(any(lookup(os.urandom(4).hex() + '.example') for _ in range(300)))
# Questions without end, whose answers nobody reads.
for n in range(20000):
    label = b'%x' % n
    u.sendto(b'\\0\\1\\1\\0\\0\\1' + b'\\0' * 6 + bytes([len(label)]) + label + b'\\x07example\\0\\0\\1\\0\\1', at)
flood = []
for _ in range(200):
    s = socket.socket(); s.setblocking(False); s.connect_ex(('host.silo.internal', {port})); flood.append(s)
for s in flood: s.close()
print(why('host.silo.internal:{port}'))
"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("host.silo.internal:{port}")]), &program), b"");
    assert_eq!(text(&output), "False\nreached\n", "{}", errors(&output));
    let told = errors(&output);
    assert!(told.ends_with("further refusals are not shown\n") && told.lines().count() == 201, "{told}");
}

#[test]
fn reached_hosts_are_learned() {
    let bench = bench();
    let (port, dead) = (echo(), 1);
    let notes = bench.path("names");
    let mut network = allowing(&[&format!("host.silo.internal:{port}"), &format!("host.silo.internal:{dead}")]);
    network.learn = Some(Learn { into: notes.clone() });
    let program = format!("print([why(f'host.silo.internal:{{port}}') for port in ({port}, {port}, {dead})])");
    assert_eq!(text(&bench.run(&sandbox(&bench, network.clone(), &program), b"")), "['reached', 'reached', 'ECONNREFUSED']\n");
    assert_eq!(fs::read_to_string(&notes).expect("noted"), format!("host.silo.internal:{port}\n"));
    // Learning opens the world, and not this machine.
    network.allow.clear();
    let program = format!("print(why('host.silo.internal:{port}'), why('{}:443'))", this_machine());
    let output = bench.run(&sandbox(&bench, network, &program), b"");
    assert_eq!(text(&output), "no name EHOSTUNREACH\n", "{}", errors(&output));
    let why = ["own loopback", "needs a grant of"].into_iter().any(|why| errors(&output).contains(why));
    assert!(!leads_somewhere(&this_machine()) || why, "{}", errors(&output));
}

#[test]
fn the_machines_proxy_is_used() {
    let bench = bench();
    let (sender, asked) = channel();
    let proxy = server(move |mut stream| {
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).unwrap_or(0);
        let head = String::from_utf8_lossy(&piece[..length]).into_owned();
        let refused = head.contains("refused.invalid");
        drop(sender.send(head));
        let answer: &[u8] = if refused { b"HTTP/1.1 407 Who are you\r\n\r\n" } else { b"HTTP/1.1 200 OK\r\n\r\nthrough" };
        drop(stream.write_all(answer));
    });
    let url = format!("http://me:pw@127.0.0.1:{proxy}");
    let mut network = allowing(&["granted.invalid:22", "granted.invalid", "refused.invalid"]);
    network.proxies = Proxies { http: Some(url.clone()), https: Some(url), direct: None };
    let program = "
print(all(to('granted.invalid:22')).decode())
def plain(rest):
    s = to('granted.invalid:80'); s.sendall(b'GET /x HTTP/1.1\\r\\n' + rest + b'\\r\\n\\r\\nGET /y HTTP/1.1\\r\\n\\r\\n')
    try: return all(s).decode().endswith('through')
    except OSError: return False
print(plain(b'Host: granted.invalid\\r\\nProxy-Authorization: secret'), plain(b'Host: other.invalid'))
print(why('refused.invalid:443'), why('other.invalid:443'))";
    let output = bench.run(&sandbox(&bench, network, program), b"");
    assert_eq!(text(&output), "through\nTrue False\nEHOSTUNREACH no name\n", "{}", errors(&output));
    let heads: Vec<String> = asked.try_iter().filter(|head| !head.is_empty()).collect();
    assert!(
        heads[0].starts_with("CONNECT granted.invalid:22 HTTP/1.1\r\n") && heads[0].contains("\r\nProxy-Authorization: Basic bWU6cHc=\r\n"),
        "{heads:?}"
    );
    let plain = "GET http://granted.invalid/x HTTP/1.1\r\nHost: granted.invalid\r\nConnection: close\r\nProxy-Authorization: Basic bWU6cHc=\r\n\r\n";
    assert_eq!(heads[1], plain, "one request, and nothing of the guest's own for the proxy");
    assert!(
        heads.len() == 3 && errors(&output).contains("the machine's proxy refused: HTTP/1.1 407 Who are you"),
        "{heads:?} {}",
        errors(&output)
    );
}

#[test]
fn a_step_reaches_what_it_is_granted() {
    let silo = Silo::seeded();
    let (port, heads) = web();
    let fetch = format!(
        "python3 -c 'import urllib.request, sys; sys.stdout.buffer.write(urllib.request.urlopen(\"http://localhost:{port}/\" + sys.argv[1]).read())'"
    );
    // The probe learns the registry of the user's own client, and the step may reach it.
    let recipe = format!(
        "steps = [\n  {{ run = '''{fetch} given > /opt/given; env > /opt/env''', network = [\"@toy\"] }},\n  {{ run = '''python3 -c \"import os, urllib.request as u; print(u.urlopen(os.environ['PIP_INDEX_URL']).read())\" > /opt/learned''', network = [\"@pypi\"] }},\n]\n\
         [ecosystems.pypi]\nprobe = ['python3', '-c', 'import os, urllib.request as u; assert not os.listdir(\".\"); u.urlopen(os.environ[\"PIP_INDEX_URL\"])']\n"
    );
    silo.write(".silo/recipes/python.toml", &recipe);
    silo.write(".silo/silo.toml", &format!("[ecosystems]\ntoy = [\"localhost:{port}\"]\n"));
    let run = || {
        crate::support::done(
            silo.command(["install", "python"]).env("PIP_INDEX_URL", format!("http://user:secret@localhost:{port}/simple")),
        )
    };
    let done = run();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains(&format!("learned @pypi from its client: localhost:{port}")), "{done:?}");
    let root = silo.image_root("python");
    assert_eq!(fs::read_to_string(root.join("opt/given")).expect("made"), "hello");
    assert_eq!(fs::read_to_string(root.join("opt/learned")).expect("made"), "b'hello'\n");
    assert!(!root.join("run/silo").exists(), "the host's certificates are in the image");
    let env = fs::read_to_string(root.join("opt/env")).expect("made");
    assert!(!env.contains("PROXY") && !env.contains("secret"), "{env}");
    let paths: Vec<String> = heads.try_iter().map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    assert_eq!(paths, ["/given", "/simple", "/simple"]);
    let kept = fs::read_to_string(silo.path("ecosystems/pypi.toml")).expect("learned");
    assert!(kept.contains(&format!("names = [\"localhost:{port}\"]")) && !kept.contains("secret"), "{kept}");
    fs::remove_file(silo.path("ecosystems/pypi.toml")).expect("it was kept");
    let mut learn = silo.command(["config", "network", "learn", "@pypi"]);
    let learned = crate::support::done(learn.env("PIP_INDEX_URL", format!("http://localhost:{port}/simple")));
    assert_eq!((learned.code, learned.out), (0, format!("@pypi is localhost:{port}\n")), "{}", learned.err);
    assert_eq!(fs::read_to_string(silo.path("ecosystems/pypi.toml")).expect("learned anew"), kept);

    // Without a grant the same command has no registry, and its log names the missing grant.
    silo.write(".silo/recipes/python.toml", "steps = [{ run = \"python3 -c 'import urllib.request as u; u.urlopen(\\\"http://denied.invalid/\\\")'\", network = [\"other.invalid\"] }]\n");
    let refused = run();
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("silo: denied.invalid is not granted; \"denied.invalid\" under network would grant it"), "{refused:?}");
    // An unknown ecosystem is an error that names the setting.
    silo.write(".silo/recipes/python.toml", "steps = [{ run = 'true', network = ['@nosuch'] }]\n");
    let unknown = run();
    assert!(
        unknown.err.contains("set ecosystems.nosuch = [\"name\", …] in silo.toml, or ecosystems.nosuch.probe in the recipe"),
        "{unknown:?}"
    );
}

/// A version may have a root without the ecosystem's client, as node's newest: the client of the usual version is asked.
#[test]
fn a_version_without_a_client_of_its_own_reaches_what_it_is_granted() {
    let silo = Silo::seeded();
    let (port, heads) = web();
    let recipe = "command = [\"sh\"]\n[debian]\npackages = [\"python3\"]\nversionOf = \"python3\"\n\
        [versions.\"2.0\"]\ndebian = { packages = [\"ca-certificates\"], versionOf = \"ca-certificates\" }\n\
        steps = [{ run = 'env > /opt/env', network = [\"@pypi\"] }]\n\
        [ecosystems.pypi]\nprobe = ['python3', '-c', 'import os, urllib.request as u; u.urlopen(os.environ[\"PIP_INDEX_URL\"])']\n";
    silo.write(".silo/recipes/toy.toml", recipe);
    let run = |words: &[&str]| {
        crate::support::done(silo.command(words).env("PIP_INDEX_URL", format!("http://user:secret@localhost:{port}/simple")))
    };
    let done = run(&["install", "toy@2.0"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains(&format!("learned @pypi from the client of toy: localhost:{port}")), "{done:?}");
    assert!(silo.image_root("toy").join("opt/env").exists(), "the step ran");
    assert_eq!(heads.try_iter().count(), 1, "one probe");
    // A project's build, too; and no build asks for ever.
    drop(silo.ok(["uninstall", "toy"]));
    fs::remove_file(silo.path("ecosystems/pypi.toml")).expect("it was kept");
    fs::write(silo.project().join("silo.toml"), "tools = [\"toy@2.0\"]\n").expect("our own project");
    silo.write(".silo/recipes/toy.toml", &recipe.replace("/opt/env", "/opt/other"));
    let done = run(&["sync"]);
    assert!(done.code == 0 && done.err.contains("learned @pypi from the client of toy"), "{done:?}");
    fs::remove_file(silo.path("ecosystems/pypi.toml")).expect("it was kept");
    silo.write(".silo/recipes/toy.toml", &recipe.replace("/opt/env", "/opt/third").replace("['python3', ", "['nosuch', "));
    let done = run(&["sync"]);
    assert!(done.code != 0 && done.err.contains("nosuch is not in the image before this step"), "{done:?}");
}

#[test]
fn pip_installs_the_same_layer_in_every_home() {
    let mut layers = Vec::new();
    for _ in 0..2 {
        let silo = Silo::seeded();
        silo.write(".silo/recipes/python.toml", "steps = [{ run = [\"pip\", \"install\", \"six==1.17.0\"], network = [\"@pypi\"] }]\n");
        let done = silo.run(["install", "python"]);
        if done.code != 0 && ["cannot be resolved", "did not answer"].iter().any(|why| done.err.contains(why)) {
            return skip(&format!("the package index cannot be reached from here: {}", done.err.trim()));
        }
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(silo.ok(["run", "python", "-c", "import six; print(six.__version__)"]), "1.17.0\n");
        layers.push(silo.installed("python").image.layers.last().copied());
    }
    assert_eq!(layers[0], layers[1]);
}
