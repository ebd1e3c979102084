//! What a sandbox with a grant reaches, and what it does not; what steps with a network come to.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Output;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use sha2::{Digest, Sha256};
use silo::broker::proxies::Proxies;
use silo::launch::spec::{Learn, Network, Spec};

use crate::support::sandbox::{Bench, bench, text};
use crate::support::{Silo, skip};

/// What programs inside speak to the proxy with.
const PRELUDE: &str = "
import hashlib, os, socket, sys, threading
def ask(line, rest=b''):
    s = socket.create_connection(('127.0.0.1', 3128)); s.settimeout(60)
    s.sendall(line.encode() + b'\\r\\n\\r\\n' + rest)
    return s
def head(s):
    got = b''
    while b'\\r\\n\\r\\n' not in got:
        c = s.recv(1)
        if not c: break
        got += c
    return got.decode()
def all(s):
    got = []
    while c := s.recv(1 << 16): got.append(c)
    return b''.join(got)
def status(s): return ' '.join(head(s).split('\\r\\n')[0].split(' ')[1:2])
def tunnel(place):
    s = ask(f'CONNECT {place} HTTP/1.1')
    return s, status(s)
";

fn sandbox(bench: &Bench, network: Network, program: &str) -> Spec {
    let mut spec = bench.python(&format!("{PRELUDE}{program}"));
    spec.network = Some(network);
    spec
}

fn allowing(grants: &[&str]) -> Network {
    Network { allow: grants.iter().map(|grant| (*grant).to_owned()).collect(), ..Network::default() }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Serves each connection in a thread of its own; returns the port.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
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
fn echo() -> u16 {
    server(|stream| {
        let (mut from, mut to) = (&stream, &stream);
        drop(std::io::copy(&mut from, &mut to));
        drop(stream.shutdown(Shutdown::Write));
    })
}

/// Answers plain requests with a few words, and tells each request's head.
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
fn without_a_grant_nobody_listens() {
    let bench = bench();
    let program = "
print(open('/proc/net/tcp').read().count('\\n'), open('/proc/net/tcp6').read().count('\\n'))
try: ask('CONNECT localhost:80 HTTP/1.1')
except ConnectionRefusedError: print('refused')";
    let mut spec = sandbox(&bench, Network::default(), program);
    spec.network = None;
    assert_eq!(text(&bench.run(&spec, b"")), "1 1\nrefused\n");
    // A network without grants is one proxy that refuses everything.
    let spec = sandbox(&bench, Network::default(), "print(tunnel('localhost:80')[1])");
    assert_eq!(text(&bench.run(&spec, b"")), "403\n");
}

#[test]
fn what_is_granted_is_reached_and_nothing_else() {
    let bench = bench();
    let (port, other) = (echo(), echo());
    let program = format!(
        "
s, code = tunnel('LocalHost.:{port}')
s.sendall(b'ping'); s.shutdown(socket.SHUT_WR)
print(code, all(s).decode())
for place in ('localhost:{other}', '127.0.0.1:{port}', '127.1:{port}', '2130706433:{port}', '[::1]:{port}', '169.254.169.254:80', 'a.localhost:{port}', 'other.example:443'):
    s, code = tunnel(place)
    print(code, all(s).decode().strip())
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("localhost:{port}")]), &program);
    let output = bench.run(&spec, b"");
    let said = text(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "200 ping");
    assert_eq!(lines.len(), 9, "{said}");
    assert!(lines[1..].iter().all(|line| line.starts_with("403 silo: ")), "{said}");
    let errors = errors(&output);
    assert_eq!(errors.lines().count(), 8, "each refusal is one line: {errors}");
    let expect = format!("silo: localhost:{other} is not granted; \"localhost:{other}\" under network would grant it");
    assert!(errors.contains(&expect) && errors.contains("\"other.example\" under network would grant it"), "{errors}");
}

#[test]
fn a_name_that_leads_home_needs_a_grant_of_its_own() {
    let bench = bench();
    let port = echo();
    let network = Network { public: vec![format!("localhost:{port}")], ..Network::default() };
    let output = bench.run(&sandbox(&bench, network, &format!("print(tunnel('localhost:{port}')[1])")), b"");
    assert_eq!(text(&output), "403\n");
    assert!(errors(&output).contains("is not public, and no grant names it exactly"), "{}", errors(&output));
    let literal = sandbox(&bench, allowing(&[&format!("127.0.0.1:{port}")]), &format!("print(tunnel('127.0.0.1:{port}')[1])"));
    assert_eq!(text(&bench.run(&literal, b"")), "200\n");
}

#[test]
fn what_does_not_answer_is_told() {
    let bench = bench();
    let dead = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("bound").port();
    let output =
        bench.run(&sandbox(&bench, allowing(&[&format!("localhost:{dead}")]), &format!("print(tunnel('localhost:{dead}')[1])")), b"");
    assert_eq!(text(&output), "502\n");
    assert!(errors(&output).contains(&format!("silo: localhost:{dead}: did not answer: ")), "{}", errors(&output));
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
s, code = tunnel('localhost:{source}')
data = all(s)
print(len(data), hashlib.sha256(data).hexdigest())
s, code = tunnel('localhost:{back}')
def send(): s.sendall(data); s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
print(hashlib.sha256(all(s)).hexdigest())
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("localhost:{source}"), &format!("localhost:{back}")]), &program);
    assert_eq!(text(&bench.run(&spec, b"")), format!("{BYTES} {expect}\n{expect}\n"));
}

#[test]
fn many_connections_do_not_mix() {
    let bench = bench();
    let port = echo();
    // All are open at once; more than are served at once wait, and none is lost. Some are open when the program ends.
    let program = format!(
        "
def one(n):
    s, code = tunnel('localhost:{port}')
    s.sendall(str(n).encode()); s.shutdown(socket.SHUT_WR)
    if code == '200' and all(s) == str(n).encode(): good.append(n)
    else: print(code)
good = []; threading.stack_size(256 << 10)
held = [tunnel('localhost:{port}')[0] for n in range(200)]
for n, s in enumerate(held): s.sendall(str(n).encode())
for n, s in enumerate(held): assert s.recv(10) == str(n).encode()
threads = [threading.Thread(target=one, args=(n,)) for n in range(200)]
for t in threads: t.start()
for s in held[:190]: s.close()
for t in threads: t.join()
print(len(good))
"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("localhost:{port}")]), &program), b"");
    assert_eq!(text(&output), "200\n", "{}", errors(&output));
}

#[test]
fn an_end_in_one_direction_leaves_the_other_open() {
    let bench = bench();
    // The guest ends first and is answered afterwards.
    let counting = server(|mut stream| {
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        thread::sleep(std::time::Duration::from_millis(200));
        drop(stream.write_all(format!("{} bytes", all.len()).as_bytes()));
    });
    // The world ends first and goes on listening.
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
s, _ = tunnel('localhost:{counting}')
s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)
print(all(s).decode())
s, _ = tunnel('localhost:{brief}')
print(all(s).decode())
s.sendall(b'still here'); s.close()
"
    );
    let spec = sandbox(&bench, allowing(&[&format!("localhost:{counting}"), &format!("localhost:{brief}")]), &program);
    assert_eq!(text(&bench.run(&spec, b"")), "100000 bytes\nonly this\n");
    assert_eq!(heard.recv().expect("it was heard"), "still here");
}

#[test]
fn plain_requests_are_passed_on_one_by_one() {
    let bench = bench();
    let (port, heads) = web();
    let program = format!(
        "
s = ask('GET http://localhost:{port}/a?b HTTP/1.1\\r\\nHost: other.example\\r\\nX: y\\r\\nProxy-Authorization: secret\\r\\nConnection: keep-alive',
    b'GET http://other.example/ HTTP/1.1\\r\\n\\r\\nGET /c HTTP/1.1\\r\\nHost: other.example\\r\\n\\r\\n')
print(all(s).decode().split('\\r\\n\\r\\n')[1])
import urllib.request
print(urllib.request.urlopen('http://localhost:{port}/d').read().decode())
print(status(ask('GET http://other.example/ HTTP/1.1')))
"
    );
    let mut spec = sandbox(&bench, allowing(&[&format!("localhost:{port}")]), &program);
    spec.env.insert("http_proxy".into(), "http://127.0.0.1:3128".into());
    assert_eq!(text(&bench.run(&spec, b"")), "hello\nhello\n403\n");
    let first = heads.recv().expect("a request");
    assert_eq!(first, format!("GET /a?b HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\nX: y\r\n\r\n"));
    assert!(heads.recv().expect("a request").starts_with("GET /d HTTP/1.1\r\n"));
    assert!(heads.try_recv().is_err(), "nothing else was passed on");
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let bench = bench();
    let port = echo();
    let program = format!(
        "
def raw(data, end=True):
    s = socket.create_connection(('127.0.0.1', 3128)); s.settimeout(60)
    try:
        s.sendall(data)
        if end: s.shutdown(socket.SHUT_WR)
        return all(s).decode(errors='replace').split(' ')[1:2]
    except OSError as error: return [type(error).__name__]
print(raw(b''), raw(b'\\x16\\x03\\x01\\x02\\x00' + os.urandom(500)), raw(b'GET / HTTP/1.1\\r\\n\\r\\n'), raw(b'CONNECT localhost:{port} SSH\\r\\n\\r\\n'))
print(raw(b'CONNECT ' + b'a' * 300 + b':1 HTTP/1.1\\r\\n\\r\\n'), raw(b'CONNECT localhost:99999 HTTP/1.1\\r\\n\\r\\n'), raw(b'CONNECT a\\0b:1 HTTP/1.1\\r\\n\\r\\n'))
print(raw(b'GET http://a/ HTTP/1.1\\r\\n' + b'x: y\\r\\n' * 10000, False), raw(b'x' * 20000, False), raw(b'POST http://localhost:{port}/ HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'))
silent = [socket.create_connection(('127.0.0.1', 3128)) for _ in range(20)]
for _ in range(300): raw(b'CONNECT ' + os.urandom(4).hex().encode() + b'.example:443 HTTP/1.1\\r\\n\\r\\n')
print(tunnel('localhost:{port}')[1])
"
    );
    let output = bench.run(&sandbox(&bench, allowing(&[&format!("localhost:{port}")]), &program), b"");
    assert_eq!(text(&output), "[] [] ['400'] ['400']\n['400'] ['400'] ['400']\n['431'] ['431'] ['411']\n200\n");
    let told = errors(&output);
    assert!(told.ends_with("more names were refused than are told\n") && told.lines().count() == 201, "{told}");
}

#[test]
fn what_is_reached_is_learned() {
    let bench = bench();
    let (port, dead) = (echo(), 1);
    let notes = bench.path("names");
    let mut network = allowing(&[&format!("localhost:{port}"), &format!("localhost:{dead}")]);
    network.learn = Some(Learn { into: notes.clone() });
    let program =
        format!("print([tunnel(place)[1] for place in ('LOCALHOST:{port}', 'localhost:{port}', 'localhost:{dead}', '127.0.0.1:{port}')])");
    assert_eq!(text(&bench.run(&sandbox(&bench, network.clone(), &program), b"")), "['200', '200', '502', '403']\n");
    assert_eq!(fs::read_to_string(&notes).expect("noted"), format!("localhost:{port}\n"));
    // Learning opens the world, and not this machine.
    network.allow.clear();
    let output = bench.run(&sandbox(&bench, network, &format!("print(tunnel('localhost:{port}')[1])")), b"");
    assert_eq!(text(&output), "403\n");
    assert!(errors(&output).contains("is not public"), "{}", errors(&output));
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
    let mut network = allowing(&["granted.invalid", "refused.invalid"]);
    network.proxies = Proxies { http: Some(url.clone()), https: Some(url), direct: None };
    let program = "
s, code = tunnel('granted.invalid:443'); print(code, all(s).decode())
print(all(ask('GET http://granted.invalid/x HTTP/1.1')).decode().endswith('through'))
print(tunnel('refused.invalid:443')[1])
print(tunnel('other.invalid:443')[1])";
    let output = bench.run(&sandbox(&bench, network, program), b"");
    assert_eq!(text(&output), "200 through\nTrue\n502\n403\n");
    let heads: Vec<String> = asked.try_iter().collect();
    assert!(
        heads[0].starts_with("CONNECT granted.invalid:443 HTTP/1.1\r\n")
            && heads[0].contains("\r\nProxy-Authorization: Basic bWU6cHc=\r\n"),
        "{heads:?}"
    );
    assert!(heads[1].starts_with("GET http://granted.invalid/x HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads.len() == 3 && errors(&output).contains("the machine's proxy refused: HTTP/1.1 407 Who are you"), "{}", errors(&output));
}

/// A silo with what others have fetched.
fn seeded() -> Silo {
    let silo = Silo::new();
    silo.seed_downloads();
    silo.seed_locks();
    silo
}

#[test]
fn a_step_reaches_what_it_is_granted() {
    let silo = seeded();
    let (port, heads) = web();
    let fetch = format!(
        "python3 -c 'import urllib.request, sys; sys.stdout.buffer.write(urllib.request.urlopen(\"http://localhost:{port}/\" + sys.argv[1]).read())'"
    );
    // What the user's own client is told to ask is what the probe learns, and what the step may reach.
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
    assert!(done.err.contains(&format!("@pypi is localhost:{port}, as its client shows")), "{done:?}");
    let root = silo.image_root("python");
    assert_eq!(fs::read_to_string(root.join("opt/given")).expect("made"), "hello");
    assert_eq!(fs::read_to_string(root.join("opt/learned")).expect("made"), "b'hello'\n");
    assert!(!root.join("run/silo").exists(), "the host's certificates are in the image");
    let env = fs::read_to_string(root.join("opt/env")).expect("made");
    assert!(env.contains("HTTPS_PROXY=http://127.0.0.1:3128\n") && !env.contains("secret"), "{env}");
    let paths: Vec<String> = heads.try_iter().map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect();
    assert_eq!(paths, ["/given", "/simple", "/simple"]);
    let kept = fs::read_to_string(silo.path("ecosystems/pypi.toml")).expect("learned");
    assert!(kept.contains(&format!("names = [\"localhost:{port}\"]")) && !kept.contains("secret"), "{kept}");

    // Without a grant the same command has nobody to ask, and its log says what would help.
    silo.write(".silo/recipes/python.toml", "steps = [{ run = \"python3 -c 'import urllib.request as u; u.urlopen(\\\"http://denied.invalid/\\\")'\", network = [\"other.invalid\"] }]\n");
    let refused = run();
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("silo: denied.invalid:80 is not granted; \"denied.invalid\" under network would grant it"), "{refused:?}");
    // An ecosystem that nobody knows is an error that says what to set.
    silo.write(".silo/recipes/python.toml", "steps = [{ run = 'true', network = ['@nosuch'] }]\n");
    let unknown = run();
    assert!(
        unknown.err.contains("set ecosystems.nosuch = [\"name\", …] in silo.toml, or ecosystems.nosuch.probe in the recipe"),
        "{unknown:?}"
    );
}

#[test]
fn pip_installs_the_same_layer_in_every_home() {
    let mut layers = Vec::new();
    for _ in 0..2 {
        let silo = seeded();
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
