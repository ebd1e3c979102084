//! Sandboxes of a machine that is made for them: with its own name server, with answers that point to forbidden addresses, and
//! with addresses of networks that this machine is not in. Only root can make one.

use std::fs;
use std::process::{Command, Output};

use serde::Deserialize;
use silo_launch::spec::Network;

use crate::network::{PRELUDE, allowing, errors, sandbox};
use crate::support::sandbox::{Bench, bench, hosts, text};
use crate::support::{has, is_root, skip};

/// The traffic seen outside.
#[derive(Deserialize)]
struct Report {
    queries: Vec<String>,
    packets: usize,
}

/// The test network.
struct World {
    bench: Bench,
    facts: serde_json::Value,
}

/// Makes a machine, if this one can.
fn world(names: &[(&str, &[&[&str]])], addresses: &[&str], servers: &[(&str, u16)]) -> Option<World> {
    if !is_root() || !["ip", "python3", "unshare", "mount"].into_iter().all(has) {
        skip("a machine of its own needs root, and ip, python3, unshare and mount");
        return None;
    }
    let bench = bench();
    let names: serde_json::Map<_, _> = names.iter().map(|(name, answers)| ((*name).to_owned(), serde_json::json!(answers))).collect();
    let facts = serde_json::json!({
        "names": names, "addresses": addresses, "servers": servers, "resolver": bench.path("resolv.conf"), "report": bench.path("report.json"),
    });
    fs::write(bench.path("world.py"), include_str!("world.py")).expect("written");
    Some(World { bench, facts })
}

impl World {
    fn run(&self, network: Network, program: &str) -> (Output, Report) {
        let silo = self.bench.command(&sandbox(&self.bench, network, program));
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "python3"]).arg(self.bench.path("world.py"));
        command.arg(self.facts.to_string()).arg(silo.get_program()).args(silo.get_args());
        let output = command.output().expect("unshare starts");
        let report = fs::read(self.bench.path("report.json")).unwrap_or_else(|error| panic!("{error}: {}", errors(&output)));
        (output, serde_json::from_slice(&report).expect("a report"))
    }
}

#[test]
fn families_of_names_lead_nowhere_but_to_the_world() {
    let own = "203.0.113.80";
    let names: &[(&str, &[&[&str]])] = &[
        ("loop.example", &[&["127.0.0.1"]]),
        ("metadata.example", &[&["169.254.169.254"]]),
        ("cloud.example", &[&["168.63.129.16"]]),
        ("private.example", &[&["10.99.0.1"]]),
        ("shared.example", &[&["100.64.0.1"]]),
        ("own.example", &[&[own]]),
        ("six.example", &[&["::1"]]),
        ("mapped.example", &[&["::ffff:127.0.0.1"]]),
        ("nat64.example", &[&["64:ff9b::a9fe:a9fe"]]),
        ("unique.example", &[&["fd00:51::1"]]),
        ("public.example", &[&["198.51.100.7"]]),
        ("named.inner.test", &[&["10.99.0.1"]]),
        ("granted.example", &[&["10.98.0.1"]]),
        ("both.example", &[&["198.51.100.7", "10.99.0.1"]]),
        ("other.example", &[&["10.97.0.5"]]),
    ];
    let addresses = [own, "10.99.0.1", "10.98.0.1", "fd00:51::1", "169.254.169.254", "168.63.129.16", "100.64.0.1"];
    let Some(world) = world(names, &addresses, &[("0.0.0.0", 7000), ("::1", 7000), ("fd00:51::1", 7000)]) else { return };
    let program = format!("for name in {:?}: print(name, why(name + ':7000'))", names.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let network = allowing(&["*:7000", "10.98.0.1:7000"]);
    let (output, _) = world.run(network.clone(), &program);
    let told = errors(&output);
    for line in text(&output).lines() {
        let (name, came_to) = line.split_once(' ').expect("two words");
        let expect = if name == "granted.example" { "reached" } else { "EHOSTUNREACH" };
        assert_eq!(came_to, expect, "{name}: {told}");
        // Only public addresses are dialled.
        let why = match name {
            "public.example" | "both.example" => "did not answer",
            "other.example" => "is not public, and no grant names it exactly",
            "loop.example" | "six.example" | "mapped.example" => "own loopback; grant host.silo.internal:7000",
            _ => "needs a grant of",
        };
        let line = told.lines().find(|line| line.contains(&format!("silo: {name}:7000: ")));
        assert!(expect == "reached" || line.is_some_and(|line| line.contains(why)), "{name}: {told}");
    }
    // A denied network is denied behind every name.
    let denied = Network { deny: hosts(&["10.99.0.0/16"]), ..network };
    let (output, _) = world.run(denied, "print(why('named.inner.test:7000'))");
    assert_eq!(text(&output), "EHOSTUNREACH\n");
    assert!(errors(&output).contains("named.inner.test:7000: it resolves to 10.99.0.1, which is denied"), "{}", errors(&output));
}

/// The owner of a name controls its addresses. So a grant of the name does not open this machine, nor a cloud's metadata service.
#[test]
fn a_granted_name_reaches_this_machine_only_by_an_explicit_grant() {
    let own = "203.0.113.80";
    let names: &[(&str, &[&[&str]])] = &[
        ("loop.example", &[&["127.0.0.1"]]),
        ("loop8.example", &[&["127.8.8.8"]]),
        ("six.example", &[&["::1"]]),
        ("mapped.example", &[&["::ffff:127.0.0.1"]]),
        ("compatible.example", &[&["::7f00:1"]]),
        ("nowhere.example", &[&["0.0.0.0"]]),
        ("nowhere6.example", &[&["::"]]),
        ("metadata.example", &[&["169.254.169.254"]]),
        ("cloud.example", &[&["168.63.129.16"]]),
        ("cloud6.example", &[&["fd00:ec2::254"]]),
        ("nat64.example", &[&["64:ff9b::7f00:1"]]),
        ("sixtofour.example", &[&["2002:7f00:1::1"]]),
        ("local.example", &[&["fe80::1"]]),
        ("many.example", &[&["224.0.0.1"]]),
        ("own.example", &[&[own]]),
        ("inner.example", &[&["10.99.0.1"]]),
        ("unique.example", &[&["fd00:51::1"]]),
        ("rebind.example", &[&["198.51.100.7"], &["127.0.0.1"]]),
    ];
    let addresses = [own, "10.99.0.1", "fd00:51::1", "169.254.169.254", "168.63.129.16", "fd00:ec2::254"];
    let Some(world) = world(names, &addresses, &[("0.0.0.0", 7000), ("::", 7000)]) else { return };
    let list: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    let program = format!("for name in {list:?} + ['rebind.example']: print(name, why(name + ':7000'))");
    let by_name: Vec<String> = list.iter().map(|name| format!("{name}:7000")).collect();
    let by_name: Vec<&str> = by_name.iter().map(String::as_str).collect();
    let (output, _) = world.run(allowing(&by_name), &program);
    let told = errors(&output);
    for line in text(&output).lines() {
        assert!(line.ends_with(" EHOSTUNREACH"), "{line}: {told}");
    }
    for (name, why) in [
        ("loop.example", "it resolves to 127.0.0.1, which is this machine's own loopback; grant host.silo.internal:7000"),
        ("mapped.example", "it resolves to 127.0.0.1, which is this machine's own loopback"),
        ("rebind.example", "it resolves to 127.0.0.1, which is this machine's own loopback"),
        ("own.example", "it resolves to 203.0.113.80, which needs a grant of 203.0.113.80:7000 itself"),
        ("inner.example", "it resolves to 10.99.0.1, which needs a grant of 10.99.0.1:7000 itself"),
        ("unique.example", "it resolves to fd00:51::1, which needs a grant of [fd00:51::1]:7000 itself"),
        ("metadata.example", "it resolves to 169.254.169.254, which needs a grant of 169.254.169.254:7000 itself"),
    ] {
        assert!(told.contains(&format!("silo: {name}:7000: {why}")), "{name}: {told}");
    }
    // Its network does not name the machine, and another port is another grant.
    let wider = ["10.99.0.0/16:7000", "203.0.113.80:7001", "host.silo.internal:7001", "169.254.169.254:7001"];
    let program = "for name in ('inner.example', 'own.example', 'loop.example', 'metadata.example'): print(why(name + ':7000'))";
    let (output, _) = world.run(allowing(&[&by_name[..], &wider].concat()), program);
    assert_eq!(text(&output), "EHOSTUNREACH\n".repeat(4), "{}", errors(&output));
    // Granted as such, by its address or as loopback, and at this port.
    let such = ["10.99.0.1:7000", "203.0.113.80:7000", "host.silo.internal:7000", "169.254.169.254:7000", "[fd00:51::1]:7000"];
    let program = "
for name in ('inner.example', 'own.example', 'loop.example', 'six.example', 'metadata.example', 'unique.example'): print(why(name + ':7000'))";
    let (output, _) = world.run(allowing(&[&by_name[..], &such].concat()), program);
    assert_eq!(text(&output), "reached\n".repeat(6), "{}", errors(&output));
}

/// Requests to the machine's proxy are checked as far as the machine itself can resolve the names.
#[test]
fn names_of_this_machine_are_not_sent_to_a_proxy() {
    let names: &[(&str, &[&[&str]])] = &[("loop.example", &[&["127.0.0.1"]]), ("metadata.example", &[&["169.254.169.254"]])];
    let Some(world) = world(names, &["169.254.169.254"], &[("0.0.0.0", 7000)]) else { return };
    let program = "print(why('loop.example:7000'), why('metadata.example:7000'), why('loop.example:80'))";
    let mut network = allowing(&["loop.example:7000", "metadata.example:7000", "loop.example:80"]);
    let proxy = Some("http://127.0.0.1:7000".to_owned());
    network.proxies = silo_launch::broker::upstream_proxy::Proxies { http: proxy.clone(), https: proxy, direct: None };
    let (output, _) = world.run(network, program);
    assert_eq!(text(&output), "EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH\n", "{}", errors(&output));
    assert!(!errors(&output).contains("proxy"), "{}", errors(&output));
}

#[test]
fn dns_rebinding_to_this_machine_is_refused() {
    let names: &[(&str, &[&[&str]])] = &[("rebind.example", &[&["198.51.100.7"], &["127.0.0.1"]])];
    let Some(world) = world(names, &[], &[("127.0.0.1", 7000)]) else { return };
    let program = "for _ in range(3): print(why('rebind.example:7000'))";
    let (output, report) = world.run(allowing(&["*:7000"]), program);
    assert_eq!(text(&output), "EHOSTUNREACH\nEHOSTUNREACH\nEHOSTUNREACH\n");
    let told = errors(&output);
    assert!(told.contains("rebind.example:7000: did not answer: "), "the first time it was dialled: {told}");
    assert!(told.contains("rebind.example:7000: it resolves to 127.0.0.1, which is this machine's own loopback"), "{told}");
    assert!(report.queries.iter().all(|name| name == "rebind.example"), "{:?}", report.queries);
}

#[test]
fn names_that_carry_words_send_no_packet() {
    let Some(world) = world(&[("a.granted.example", &[&["198.51.100.7"]])], &[], &[]) else { return };
    let program = "
def lookup(name):
    try: socket.getaddrinfo(name, 443); return True
    except OSError: return False
found = 0
for n in range(50):
    secret = os.urandom(20).hex()
    found += lookup(secret + '.example') + lookup(secret + '.granted.invalid')
    # A name of a granted family is known at once: nobody is asked before somebody connects.
    assert lookup(secret + '.granted.example')
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for place in (('198.51.100.53', 53), ('127.0.0.1', 53), ('198.18.0.2', 53), ('198.18.1.0', 53)):
    try: u.sendto(b'\\0\\1\\1\\0\\0\\1' + bytes(6) + b'\\6secret\\7example\\0\\0\\x10\\0\\1', place)
    except OSError: pass
for place in ('198.51.100.7:53', '127.0.0.1:53', '198.18.0.2:53', 'secret.example:53'): why(place)
for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
    try: socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).sendto(bytes(8) + b'secret', ('198.51.100.7', 0))
    except OSError: pass
time.sleep(.3)
print(found)";
    let (output, report) = world.run(allowing(&["*.granted.example"]), program);
    assert_eq!(text(&output), "0\n", "{}", errors(&output));
    assert_eq!((report.queries, report.packets), (vec![], 0));
    // The path of the counted packets: a connection looks its name up.
    let (output, report) = world.run(allowing(&["*.granted.example"]), "print(why('a.granted.example:443'))");
    assert_eq!(text(&output), "EHOSTUNREACH\n", "{}", errors(&output));
    assert!(report.packets > 0 && report.queries.contains(&"a.granted.example".to_owned()), "{:?}", report.queries);
}

#[test]
fn networks_and_addresses_of_version_6_are_reached_by_grants_of_their_own() {
    let addresses = ["10.99.0.1", "203.0.113.80", "2001:db8::80"];
    let servers =
        [("10.99.0.1", 7000), ("10.99.0.1", 7001), ("203.0.113.80", 7000), ("2001:db8::80", 7000), ("127.0.0.1", 7000), ("::1", 7000)];
    let Some(world) = world(&[], &addresses, &servers) else { return };
    let program = format!(
        "{PRELUDE}
def talk(place):
    s = to(place); data = os.urandom(1 << 20)
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    return all(s) == data
for place in ('10.99.0.1:7000', '10.99.0.1:7001', '10.99.0.1:7000', '203.0.113.80:7000', '[2001:db8::80]:7000', '[2001:db8::80]:7000'): print(talk(place), end=' ')
print()
for place in ('10.99.0.1:7002', '10.99.7.7:1', '[2001:db8::80]:7001', '[2001:db8:1::5]:80', '[2001:db8:1::5]:81', '10.98.0.1:7000', '[2001:db9::1]:80', '127.0.0.1:7000', '[::1]:7000'): print(why(place), end=' ')
own = socket.create_server(('::1', 8000), family=socket.AF_INET6); to('[::1]:8000').close()
own = socket.create_server(('127.0.0.1', 8000)); to('127.0.0.1:8000').close()
"
    );
    let grants = ["10.99.0.0/16:*", "10.99.0.1:7000-7001", "203.0.113.80:1-65535", "[2001:db8::80]:7000", "[2001:db8:1::/48]"];
    let (output, _) = world.run(allowing(&grants), &program);
    let reached = "True True True True True True \n";
    let not = "EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ENETUNREACH ENETUNREACH ECONNREFUSED ECONNREFUSED ";
    assert_eq!(text(&output), format!("{reached}{not}"), "{}", errors(&output));
    for line in [
        "[2001:db8::80]:7001 is not granted; `silo config network allow [2001:db8::80]:7001` would grant it",
        "[2001:db8:1::5]:81 is not granted",
    ] {
        assert!(errors(&output).contains(line), "{}", errors(&output));
    }
    // Everything there is, and yet not this machine.
    let (output, _) = world.run(
        allowing(&["0.0.0.0/0:*", "[::/0]:*"]),
        "print(*(why(p) for p in ('10.99.0.1:7000', '203.0.113.80:7000', '[2001:db8::80]:7000', '127.0.0.1:7000', '198.51.100.7:80')))",
    );
    assert_eq!(text(&output), "EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH ECONNREFUSED EHOSTUNREACH\n", "{}", errors(&output));
}
