//! Grants of more ports, addresses and names than get a listener from the start.

use crate::network::{allowing, echo, errors, sandbox, server};
use crate::support::sandbox::{bench, hosts, text};

#[test]
fn a_name_is_reached_at_all_ports_or_at_thousands() {
    let bench = bench();
    let (one, other) = (echo(), echo());
    let dead = crate::support::free_port();
    let hello = server(|stream| drop(std::io::Write::write_all(&mut &stream, b"hello")));
    for grant in ["host.silo.internal:*", "host.silo.internal:1024-65535"] {
        let program = format!(
            "
def talk(port, size=10):
    s = to(f'host.silo.internal:{{port}}'); data = os.urandom(size)
    t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))); t.start()
    return all(s) == data
# Many to ports that nobody has asked for before, at once.
good = []
threads = [threading.Thread(target=lambda port=port: good.append(talk(port))) for port in ({one}, {other}) * 20]
for t in threads: t.start()
for t in threads: t.join()
print(good == [True] * 40, talk({one}, 3 << 20))
print(all(to('host.silo.internal:{hello}')).decode(), why('host.silo.internal:{dead}'), why('host.silo.internal:{dead}'))
s = socket.socket(); s.setblocking(False)
print(errno.errorcode[s.connect_ex(('host.silo.internal', {hello}))])
import select; select.select([], [s], [], 60)
print(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getpeername()[1] == {hello})
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('host.silo.internal', {one})); u.send(b'quic'); u.settimeout(10)
try: u.recv(10)
except OSError as error: print(errno.errorcode[error.errno])
# What listens inside is reached as ever, and an address that is no name's leads nowhere.
own = socket.create_server(('127.0.0.1', {dead})); to('127.0.0.1:{dead}').close()
print(own.accept()[1][0], why('198.19.250.1:80'), why('198.18.250.1:80'), why('127.0.0.1:{one}'))
"
        );
        let output = bench.run(&sandbox(&bench, allowing(&[grant]), &program), b"");
        let expect = "True True\nhello ECONNREFUSED ECONNREFUSED\nEINPROGRESS\n0 True\nECONNREFUSED\n127.0.0.1 ECONNREFUSED ECONNREFUSED ECONNREFUSED\n";
        assert_eq!(text(&output), expect, "{grant}: {}", errors(&output));
    }
}

#[test]
fn a_port_outside_a_wide_grant_is_refused_with_a_word() {
    let bench = bench();
    let port = echo();
    let denied = 22;
    let program = format!("print(why('host.silo.internal:{port}'), why('host.silo.internal:{denied}'))");
    let mut network = allowing(&["host.silo.internal:*"]);
    network.deny = hosts(&[&format!("host.silo.internal:{denied}")]);
    let output = bench.run(&sandbox(&bench, network, &program), b"");
    // A denial of the same name wins.
    assert_eq!(text(&output), "reached EHOSTUNREACH\n", "{}", errors(&output));
    assert!(errors(&output).contains(&format!("silo: host.silo.internal:{denied} is not granted")), "{}", errors(&output));
    // The sandbox's own loopback is not given away.
    let spec = sandbox(&bench, allowing(&["localhost:*"]), "");
    let output = bench.run(&spec, b"");
    let told = errors(&output);
    assert!(output.status.code() == Some(125) && told.contains("grant host.silo.internal:* and connect to it"), "{told}");
}
