//! Secrets by reference: real clients inside, a TLS server outside that records the requests, and the memory of the sandbox.

mod memory;
pub mod server;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use base64::Engine;
use silo_base::grant::MACHINE;
use silo_base::secret::Source;
use silo_launch::broker::authority::Authority;
use silo_launch::spec::secrets::{Secret, Secrets};
use silo_launch::spec::{Access, Bytes as FileBytes, File, GrantOrigin, Mount, Network, Spec};

use crate::support::machine;
use crate::support::sandbox::{Bench, bench, hosts, text};
use crate::support::{As, Done, Silo, done, is_root, outcome, skip};

use memory::{copy_memory, descendants};
use server::{BIG_BYTES, BOTH, Server, VALUE};

const OTHER_VALUE: &str = "v4lue-of-another-secret";
const PLACEHOLDER: &str = "silo-secret-00112233445566778899aabbccddeeff";

/// The user's settings, with secrets of each source for this server, and the network of python.
fn settings(silo: &Silo, server: &Server, more: &str) {
    let host = format!("{MACHINE}:{}", server.port);
    silo.write("token", &format!("{OTHER_VALUE}\n"));
    let secret = |name: &str, from: &str| format!("{name} = {{ from = \"{from}\", hosts = [\"{host}\"] }}\n");
    let secrets = [
        secret("API_TOKEN", "env:MY_TOKEN"),
        secret("FILE_TOKEN", "file:~/token"),
        secret("MADE_TOKEN", "command:printf made-%s by-command"),
    ];
    let text = format!("[secrets]\n{}[overrides.python.network]\nallow = [\"{host}\"{more}]\n", secrets.concat());
    silo.write(".silo/silo.toml", &text);
}

/// A silo with python installed and settings of its own: a copy of the shared home, by hard links.
fn python() -> Silo {
    let shared = Silo::shared(As::Me);
    let silo = Silo::new();
    // A run of another test may remove a file of its own meanwhile.
    let is_copied = || {
        silo_store::removal::remove_tree(&silo.path("")).expect("our own");
        done(Command::new("cp").arg("-al").arg(shared.path("")).arg(silo.path(""))).code == 0
    };
    assert!((0..20).any(|_| is_copied()), "the shared home cannot be copied");
    for own in ["silo.toml", "trust", "projects", "logs", "journal"] {
        let path = silo.path(own);
        drop(if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
    }
    silo
}

fn run(silo: &Silo, server: &Server, args: &[&str]) -> Done {
    done(silo.command(args).env("SSL_CERT_FILE", server.roots()).env("MY_TOKEN", VALUE))
}

fn fine(done: &Done) -> &str {
    assert_eq!(done.code, 0, "{done:?}");
    &done.out
}

#[test]
fn python_inside_has_placeholders_and_the_host_gets_the_values() {
    let (silo, server) = (python(), Server::start(BOTH));
    settings(&silo, &server, "");
    let script = format!(
        "import base64, os, urllib.request\n\
         from pip._vendor import requests\n\
         url = 'https://{MACHINE}:{}/plain'\n\
         token = os.environ['API_TOKEN']\n\
         print(token)\n\
         ask = urllib.request.Request(url, headers={{'Authorization': 'Bearer ' + token, 'X-File': os.environ['FILE_TOKEN']}})\n\
         with urllib.request.urlopen(ask) as got: print(got.read(), got.headers['x-echo'])\n\
         got = requests.post(url, data=b'x' * 300000, auth=('me', os.environ['MADE_TOKEN']))\n\
         print(got.text, base64.b64decode(got.headers['x-echo'].split()[1]))\n\
         session = requests.Session()\n\
         for at in range(20): assert session.get(url, headers={{'X-Token': token}}).status_code == 200\n",
        server.port
    );
    let done = run(&silo, &server, &["run", "python", "-c", &script]);
    let out = fine(&done).to_owned();
    let seen = server.seen();
    assert_eq!((seen[0].version.as_str(), seen[0].target.as_str()), ("HTTP/1.1", "/plain"));
    assert_eq!((seen[0].header("authorization"), seen[0].header("x-file")), (&*format!("Bearer {VALUE}"), OTHER_VALUE));
    let basic = seen[1].header("authorization").strip_prefix("Basic ").expect("basic");
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(basic).expect("base64"), b"me:made-by-command");
    assert_eq!(seen[1].body, 300_000);
    assert!(seen[2..].len() == 20 && seen[2..].iter().all(|seen| seen.header("x-token") == VALUE), "{seen:?}");
    // Inside are placeholders, also in what the server sent back.
    assert!(out.starts_with("silo-secret-") && out.matches("silo-secret-").count() == 3, "{out}");
    for value in [VALUE, OTHER_VALUE, "made-by-command"] {
        let log = silo.ok(["log", "--runs", "--json"]) + &silo.ok(["log", "--network", "--json"]);
        assert!(!format!("{done:?}{log}").contains(value), "{value}: {done:?}{log}");
        assert!(log.contains("API_TOKEN for host.silo.internal"), "{log}");
    }
}

#[test]
fn a_machine_has_placeholders_and_the_host_gets_the_values() {
    // The image for machines is in the shared home from here on.
    drop(machine::silo(As::Me));
    let (silo, server) = (python(), Server::start(BOTH));
    settings(&silo, &server, "");
    let script = format!(
        "import os, urllib.request\n\
         ask = urllib.request.Request('https://{MACHINE}:{}/plain', headers={{'Authorization': 'Bearer ' + os.environ['API_TOKEN']}})\n\
         with urllib.request.urlopen(ask) as got: print(os.environ['API_TOKEN'], got.headers['x-echo'])\n",
        server.port
    );
    let done = run(&silo, &server, &["run", "--tier", "vm", "--cold", "python", "-c", &script]);
    let out = fine(&done);
    assert!(out.matches("silo-secret-").count() == 2 && !format!("{done:?}").contains(VALUE), "{done:?}");
    assert_eq!(server.only().header("authorization"), format!("Bearer {VALUE}"));
}

#[test]
fn another_host_gets_the_placeholder_and_so_does_another_name_in_a_request() {
    let (silo, server, other) = (python(), Server::start(BOTH), Server::start(BOTH));
    settings(&silo, &server, &format!(", \"{MACHINE}:{}\"", other.port));
    silo.write("long", &"v".repeat(2000));
    let text = fs::read_to_string(silo.path("silo.toml")).expect("written");
    let long = format!("[secrets.LONG_TOKEN]\nfrom = \"file:~/long\"\nhosts = [\"{MACHINE}:{}\"]\n", server.port);
    silo.write(".silo/silo.toml", &(text + &long));
    let script = format!(
        "import os, ssl, http.client\n\
         token = 'Bearer ' + os.environ['API_TOKEN']\n\
         insecure = ssl._create_unverified_context()\n\
         def ask(port, method='GET', host=None, target='/', token=token):\n\
         \x20   connection = http.client.HTTPSConnection('{MACHINE}', port, context=insecure)\n\
         \x20   connection.putrequest(method, target, skip_host=host is not None)\n\
         \x20   for name in host or []: connection.putheader('Host', name)\n\
         \x20   connection.putheader('Authorization', token)\n\
         \x20   connection.endheaders()\n\
         \x20   return connection.getresponse().status\n\
         own, other = {}, {}\n\
         print(ask(other))\n\
         print(ask(own, host=['evil.example']), ask(own, host=[]), ask(own, host=['{MACHINE}:%d' % own, 'evil.example']))\n\
         print(ask(own, target='https://evil.example/'), ask(own, method='TRACE'))\n\
         print(ask(own, token=os.environ['LONG_TOKEN'] * 100))\n\
         print(ask(own))\n",
        server.port, other.port
    );
    let done = run(&silo, &server, &["run", "python", "-c", &script]);
    // The headers of the last but one would have 200,000 bytes with the values in them.
    assert_eq!(fine(&done), "200\n421 421 421\n421 405\n431\n200\n", "{done:?}");
    assert!(other.only().header("authorization").starts_with("Bearer silo-secret-"));
    assert_eq!(server.only().header("authorization"), format!("Bearer {VALUE}"));
}

#[test]
fn a_secret_without_a_value_and_a_host_without_a_valid_certificate_are_reported() {
    let (silo, server) = (python(), Server::start(BOTH));
    let host = format!("{MACHINE}:{}", server.port);
    let network = format!("[overrides.python.network]\nallow = [\"{host}\"]\n");
    let script = format!(
        "import os, ssl, urllib.request\n\
         ask = urllib.request.Request('https://{host}/', headers={{'Authorization': os.environ['TOKEN']}})\n\
         urllib.request.urlopen(ask, context=ssl._create_unverified_context())\n"
    );
    for (from, why) in [
        ("env:NOT_SET_HERE", "the variable NOT_SET_HERE is not set"),
        ("file:/no/such/token", "cannot read /no/such/token"),
        ("command:echo s3cr3t; exit 3", "the command failed (exit status: 3)"),
    ] {
        silo.write(".silo/silo.toml", &format!("[secrets]\nTOKEN = {{ from = \"{from}\", hosts = [\"{host}\"] }}\n{network}"));
        let done = run(&silo, &server, &["run", "python", "-c", &script]);
        let _ = fine(&done);
        assert!(done.err.contains(&format!("the secret TOKEN has no value: {why}")), "{from}: {done:?}");
        assert!(server.only().header("authorization").starts_with("silo-secret-"), "{from}");
    }
    silo.write(".silo/silo.toml", &format!("[secrets]\nTOKEN = {{ from = \"env:MY_TOKEN\", hosts = [\"{host}\"] }}\n{network}"));
    // Not the root of this server: nobody gets the value.
    let wrong = Server::start(BOTH);
    let done = run(&silo, &wrong, &["run", "python", "-c", &script]);
    assert!(done.code != 0 && done.err.contains("no TLS with the host") && server.seen().is_empty(), "{done:?}");
    // A client that trusts only certificates of its own.
    let pinned = script.replace("ssl._create_unverified_context()", "ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)");
    let done = run(&silo, &server, &["run", "python", "-c", &pinned]);
    // The answer may be lost if the program closes at the same moment.
    let expect = |why: &str| format!("{host}: the program does not accept the certificate of this run ({why}), so it cannot use TOKEN");
    let is_named =
        ["its answer was UnknownCA", "it closed the connection in the handshake"].iter().any(|why| done.err.contains(&expect(why)));
    assert!(done.code != 0 && is_named && server.seen().is_empty(), "{done:?}");
    // Not TLS.
    let plain = format!(
        "import socket; s = socket.create_connection(('{MACHINE}', {})); s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); s.recv(1)",
        server.port
    );
    let done = run(&silo, &server, &["run", "python", "-c", &plain]);
    assert!(done.err.contains("not TLS at a host of a secret"), "{done:?}");
}

#[test]
fn only_the_users_own_settings_have_secrets() {
    let silo = python();
    for (text, key) in [
        ("[secrets]\nT = { from = \"env:X\", hosts = [\"a.example\"] }\n", "secrets"),
        ("[overrides.python.secrets]\nT = { from = \"command:x\", hosts = [\"a.example\"] }\n", "overrides.<tool>.secrets"),
    ] {
        fs::write(silo.project().join("silo.toml"), text).expect("our own project");
        for command in [&["trust", "--yes"][..], &["run", "python", "-c", ""], &["config", "show"]] {
            let failed = silo.fails(command);
            assert!(failed.err.contains(&format!("{key} is a user setting")), "{command:?}: {failed:?}");
        }
    }
    fs::remove_file(silo.project().join("silo.toml")).expect("our own project");
    for (text, expect) in [
        ("T = { from = \"X\", hosts = [\"a.example\"] }", "is not a source of a secret"),
        ("T = { from = \"env:X\", hosts = [\"*.example\"] }", "is not a host of a secret"),
        ("T = { from = \"env:X\", hosts = [] }", "has 0 hosts"),
        ("T = { from = \"env:X\", hosts = [\"a.example:80\"] }", "a secret needs TLS"),
        ("\"A=B\" = { from = \"env:X\", hosts = [\"a.example\"] }", "is not a variable name"),
    ] {
        silo.write(".silo/silo.toml", &format!("[secrets]\n{text}\n"));
        let failed = silo.fails(["run", "python", "-c", ""]);
        assert!(failed.err.contains(expect), "{text}: {failed:?}");
    }
}

/// The network of a launch spec with one secret.
fn network(server: &Server, authority: &Authority) -> Network {
    let host = format!("{MACHINE}:{}", server.port);
    let secret = Secret {
        name: "TOKEN".to_owned(),
        placeholder: PLACEHOLDER.to_owned(),
        from: Source::parse(&format!("command:printf %s {VALUE}")).expect("a source"),
        hosts: vec![host.clone()],
    };
    let secrets = Secrets { authority: authority.clone(), roots: Some(server.roots()), list: vec![secret] };
    Network { allow: hosts(&[&host]), asker: GrantOrigin::Run, secrets: Some(secrets), ..Network::default() }
}

/// A spec that runs a program of this machine, which sees this machine's programs.
fn of_machine(bench: &Bench, server: &Server, script: &str) -> Spec {
    let authority = Authority::new().expect("made");
    let mut spec = bench.spec(&["/bin/sh", "-c", script]);
    let programs = ["/usr", "/etc/alternatives"].map(PathBuf::from);
    spec.mounts.extend(programs.map(|path| Mount { host: path.clone().into(), guest: path, access: Access::ReadOnly }));
    let network = network(server, &authority);
    spec.files.push(network.file());
    spec.network = Some(network);
    spec.files.push(File { guest: "/run/roots.pem".into(), bytes: FileBytes(authority.pem().into_bytes()), mode: 0o644 });
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"] {
        spec.env.insert(name.into(), "/run/roots.pem".into());
    }
    spec.env.insert("TOKEN".into(), PLACEHOLDER.into());
    spec.env.insert("URL".into(), OsString::from(format!("https://{MACHINE}:{}", server.port)));
    spec
}

#[test]
fn curl_node_and_git_use_a_secret_by_both_versions_of_http() {
    let bench = bench();
    for (versions, expect) in [(BOTH, "HTTP/2.0"), (&BOTH[1..], "HTTP/1.1")] {
        let server = Server::start(versions);
        if Path::new("/usr/bin/curl").exists() {
            let script = "curl -sS -H \"Authorization: Bearer $TOKEN\" $URL/one -D - && curl -sS -u \"me:$TOKEN\" $URL/two --data-binary @/usr/bin/env";
            let out = text(&bench.run(&of_machine(&bench, &server, script), b""));
            assert!(out.contains(PLACEHOLDER) && !out.contains(VALUE) && out.ends_with("fine\n"), "{out}");
            let seen = server.seen();
            assert_eq!(seen[0].header("authorization"), format!("Bearer {VALUE}"));
            assert_eq!(
                seen[1].header("authorization"),
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{VALUE}")))
            );
            assert!(seen.iter().all(|seen| seen.version == expect) && seen[1].body > 10_000, "{seen:?}");
        } else {
            skip("this machine has no curl");
        }
        if Path::new("/usr/bin/node").exists() {
            let script = "node -e \"fetch(process.env.URL + '/node', { headers: { authorization: 'token ' + process.env.TOKEN } })\
                          .then(got => { console.log(got.status, got.headers.get('x-echo')) })\"";
            let out = text(&bench.run(&of_machine(&bench, &server, script), b""));
            assert_eq!(out, format!("200 token {PLACEHOLDER}\n"));
            assert_eq!(server.only().header("authorization"), format!("token {VALUE}"));
        } else {
            skip("this machine has no node");
        }
        let files = server.dir.path().join("files");
        let git = |dir: &Path, args: &[&str]| {
            let mut command = Command::new("git");
            command
                .args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"])
                .args(args)
                .current_dir(dir);
            let done = done(&mut command);
            assert_eq!(done.code, 0, "{done:?}");
        };
        git(&files, &["init", "-q", "work"]);
        git(&files.join("work"), &["commit", "-q", "--allow-empty", "-m", "from the server"]);
        git(&files, &["clone", "-q", "--bare", "work", "repo.git"]);
        git(&files.join("repo.git"), &["update-server-info"]);
        let script = "git clone -q https://me:$TOKEN@${URL#https://}/git/repo.git /tmp/clone && git -C /tmp/clone log --format=%s";
        let out = text(&bench.run(&of_machine(&bench, &server, script), b""));
        assert_eq!(out, "from the server\n");
        assert!(server.seen().iter().any(|seen| seen.target.ends_with("/HEAD")));
    }
}

#[test]
fn bodies_of_any_form_and_size_pass_unchanged() {
    if !Path::new("/usr/bin/curl").exists() {
        return skip("this machine has no curl");
    }
    let bench = bench();
    for (versions, newest) in [(BOTH, "HTTP/2.0"), (&BOTH[1..], "HTTP/1.1")] {
        let server = Server::start(versions);
        let script = format!(
            "head -c 5000000 /dev/zero > /tmp/zeros && curl() {{ command curl -sS -H \"X-Token: $TOKEN\" \"$@\"; }} &&\n\
             curl -H 'Expect: 100-continue' --data-binary @/tmp/zeros $URL/known &&\n\
             cat /tmp/zeros | curl -T - $URL/unknown &&\n\
             curl $URL/big | tr -d b | wc -c && curl $URL/big --limit-rate 20M | wc -c &&\n\
             curl -I $URL/big | grep -ci '^content-length: {BIG_BYTES}' &&\n\
             curl --http1.0 $URL/old"
        );
        let out = text(&bench.run(&of_machine(&bench, &server, &script), b""));
        assert_eq!(out, format!("fine\nfine\n0\n{BIG_BYTES}\n1\nfine\n"));
        let seen = server.seen();
        assert!(seen.iter().all(|seen| seen.header("x-token") == VALUE), "{seen:?}");
        assert!(seen[..5].iter().all(|seen| seen.version == newest), "{seen:?}");
        assert_eq!(seen.iter().map(|seen| seen.body).collect::<Vec<_>>(), [5_000_000, 5_000_000, 0, 0, 0, 0]);
    }
}

#[test]
fn a_connection_changes_its_protocol_after_a_request_with_the_value() {
    let (silo, server) = (python(), Server::start(&BOTH[1..]));
    settings(&silo, &server, "");
    let script = format!(
        "import os, ssl, socket\n\
         s = ssl.create_default_context().wrap_socket(socket.create_connection(('{MACHINE}', {0})), server_hostname='{MACHINE}')\n\
         head = 'GET /socket HTTP/1.1\\r\\nHost: {MACHINE}:{0}\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\nX-Token: %s\\r\\n\\r\\n'\n\
         s.sendall((head % os.environ['API_TOKEN']).encode())\n\
         read = s.makefile('rb')\n\
         print(read.readline())\n\
         while read.readline() != b'\\r\\n': pass\n\
         text = (os.environ['API_TOKEN'] + '\\n').encode() * 1000\n\
         s.sendall(text)\n\
         print(read.read(len(text)) == text)\n",
        server.port
    );
    let done = run(&silo, &server, &["run", "python", "-c", &script]);
    assert_eq!(fine(&done), "b'HTTP/1.1 101 Switching Protocols\\r\\n'\nTrue\n", "{done:?}");
    assert_eq!(server.only().header("x-token"), VALUE);
}

#[test]
fn the_keyring_is_asked_for_service_and_account() {
    use std::os::unix::fs::PermissionsExt;

    let (silo, server) = (python(), Server::start(BOTH));
    let host = format!("{MACHINE}:{}", server.port);
    let text = format!(
        "[secrets]\nTOKEN = {{ from = \"keyring:registry/a/b\", hosts = [\"{host}\"] }}\n[overrides.python.network]\nallow = [\"{host}\"]\n"
    );
    silo.write(".silo/silo.toml", &text);
    let dir = server.dir.path().join("bin");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("secret-tool"), "#!/bin/sh\nprintf 'asked for %s' \"$*\"\n").expect("written");
    fs::set_permissions(dir.join("secret-tool"), fs::Permissions::from_mode(0o755)).expect("our own file");
    let script = format!(
        "import os, urllib.request\nurllib.request.urlopen(urllib.request.Request('https://{host}/', headers={{'X-Token': os.environ['TOKEN']}}))"
    );
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").expect("a PATH"));
    let done = done(silo.command(["run", "python", "-c", &script]).env("SSL_CERT_FILE", server.roots()).env("PATH", path));
    let _ = fine(&done);
    assert_eq!(server.only().header("x-token"), "asked for lookup service registry account a/b");
}

#[test]
fn many_requests_of_one_connection_do_not_mix() {
    if !Path::new("/usr/bin/curl").exists() {
        return skip("this machine has no curl");
    }
    let (bench, server) = (bench(), Server::start(BOTH));
    let script = "for at in $(seq 60); do printf 'next\\nurl = \"%s/%s\"\\nheader = \"X-At: %s %s\"\\noutput = /dev/null\\n' $URL $at $at $TOKEN; done > /tmp/list\n\
                  curl -sS -Z --http2 -K /tmp/list";
    let _ = text(&bench.run(&of_machine(&bench, &server, script), b""));
    let seen = server.seen();
    assert_eq!(seen.len(), 60);
    for seen in seen {
        assert_eq!(seen.header("x-at"), format!("{} {VALUE}", &seen.target[1..]));
    }
}

#[test]
fn the_value_is_in_no_memory_of_the_sandbox() {
    let (inside, outside) = search_memory(&["run", "python"]);
    // PID 1, its agent and python; outside the broker, which has the values.
    assert!(inside >= 3 && outside >= 1, "{inside} {outside}");
}

#[test]
fn the_value_is_in_no_memory_of_a_machine() {
    // The image for machines is in the shared home from here on.
    drop(machine::silo(As::Me));
    let (inside, outside) = search_memory(&["run", "--tier", "vm", "--cold", "python"]);
    assert!(inside >= 1 && outside >= 1, "{inside} {outside}");
}

/// Searches the memory of each process of a run for the values of its secrets. Returns the numbers of processes inside and outside: those of
/// a sandbox have another namespace, and the memory of a machine is that of its emulator..
fn search_memory(words: &[&str]) -> (usize, usize) {
    if !is_root() {
        skip("only root may read the memory of PID 1");
        return (usize::MAX, usize::MAX);
    }
    let (silo, server) = (python(), Server::start(BOTH));
    settings(&silo, &server, "");
    let script = format!(
        "import os, sys, urllib.request\n\
         for name in ['API_TOKEN', 'FILE_TOKEN', 'MADE_TOKEN']:\n\
         \x20   ask = urllib.request.Request('https://{MACHINE}:{}/', headers={{'Authorization': os.environ[name]}})\n\
         \x20   print(name, os.environ[name], urllib.request.urlopen(ask).headers['x-echo'])\n\
         sys.stdout.flush()\n\
         sys.stdin.read()\n",
        server.port
    );
    let mut command = silo.command(words.iter().copied().chain(["-c", &script]));
    command.env("SSL_CERT_FILE", server.roots()).env("MY_TOKEN", VALUE);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = String::new();
    for _ in 0..3 {
        let _ = output.read_line(&mut lines).expect("a line");
    }
    let placeholder = lines.split_whitespace().nth(1).map(str::to_owned);
    let own = fs::read_link("/proc/self/ns/pid").expect("there");
    let (mut inside, mut outside) = (0, 0);
    let (mut has_placeholder, mut has_value) = (false, false);
    for pid in descendants(child.id()) {
        let copy = server.dir.path().join("memory");
        copy_memory(pid, &copy);
        let holds = |text: &str| Command::new("grep").args(["-aqF", "-e", text]).arg(&copy).status().is_ok_and(|found| found.success());
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.starts_with("qemu") || fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|other| other != own) {
            inside += 1;
            has_placeholder |= placeholder.as_deref().is_some_and(holds);
            for value in [VALUE, OTHER_VALUE, "made-by-command"] {
                assert!(!holds(value), "{value} is in the memory of {pid}: {name}");
            }
        } else {
            outside += 1;
            has_value |= holds(OTHER_VALUE);
        }
        let _ = fs::remove_file(copy);
    }
    drop(child.stdin.take());
    let done = outcome(child.wait_with_output().expect("silo ends"));
    assert_eq!(done.code, 0, "{done:?} {lines}");
    assert!(has_placeholder && has_value, "{inside} {outside} {has_placeholder} {has_value}");
    assert_eq!(server.seen().len(), 3);
    (inside, outside)
}

#[test]
fn a_program_that_ends_with_its_request_loses_no_answer_and_no_run_hangs() {
    let (silo, server) = (python(), Server::start(&BOTH[1..]));
    settings(&silo, &server, "");
    // Connections that stay open, half open, or never begin, do not delay the end of the run.
    let script = format!(
        "import os, ssl, socket\n\
         context = ssl._create_unverified_context()\n\
         def connect(): return socket.create_connection(('{MACHINE}', {}))\n\
         silent = [connect() for _ in range(5)]\n\
         idle = [context.wrap_socket(connect(), server_hostname='{MACHINE}') for _ in range(5)]\n\
         half = context.wrap_socket(connect(), server_hostname='{MACHINE}')\n\
         half.sendall(b'POST / HTTP/1.1\\r\\nHost: {MACHINE}:{}\\r\\nContent-Length: 100\\r\\n\\r\\nx')\n\
         os.kill(os.getpid(), 9)\n",
        server.port, server.port
    );
    let (send, receive) = mpsc::channel();
    let mut command = silo.command(["run", "python", "-c", &script]);
    command.env("SSL_CERT_FILE", server.roots()).env("MY_TOKEN", VALUE);
    std::thread::spawn(move || send.send(done(&mut command)));
    let done = receive.recv_timeout(std::time::Duration::from_secs(120)).expect("the run ends");
    assert_eq!(done.code, 137, "{done:?}");
}
