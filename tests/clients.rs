//! Real clients inside and real servers outside: databases, ssh, TLS with a private root, package registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::sandbox::until;
use crate::support::{As, Done, Silo, done, free_port, has, is_root, skip};

/// A server of somebody's on this machine's loopback.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGINT is PostgreSQL's fast shutdown; its files are temporary.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The account of servers: PostgreSQL and our sshd must not run as root.
pub(super) fn account() -> Option<String> {
    if !is_root() {
        let name = Command::new("id").arg("-un").output().ok()?;
        return Some(String::from_utf8_lossy(&name.stdout).trim().to_owned()).filter(|name| !name.is_empty());
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().any(|line| line.starts_with("postgres:")).then(|| "postgres".to_owned())
}

/// A command as that account.
fn as_account(account: &str, program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={account}"), &format!("--regid={account}"), "--clear-groups", "--"]).arg(program);
    command
}

fn directory(account: &str) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("silo-server-").tempdir().expect("a temporary directory");
    if is_root() {
        assert!(Command::new("chown").arg(account).arg(dir.path()).status().expect("chown starts").success());
    }
    dir
}

fn start(command: &mut Command, port: u16, dir: tempfile::TempDir) -> Server {
    let log = fs::File::create(dir.path().join("log")).expect("made");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
    let mut server = Server { child, port, dir };
    until("the server listens", || {
        let ended = server.child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "it ended: {}", fs::read_to_string(server.dir.path().join("log")).unwrap_or_default());
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    server
}

pub(super) fn postgres(account: &str) -> Option<Server> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let bin = found.pop()?;
    let (dir, port) = (directory(account), free_port());
    let data = dir.path().join("data");
    let mut make = as_account(account, &bin.join("initdb"));
    make.args(["-A", "trust", "-U", "silo", "-E", "UTF8", "--no-sync", "-D"]).arg(&data).current_dir("/").env("LC_ALL", "C");
    let made = done(&mut make);
    assert_eq!(made.code, 0, "{made:?}");
    let mut command = as_account(account, &bin.join("postgres"));
    command.arg("-D").arg(&data).args([
        "-p",
        &port.to_string(),
        "-F",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
    ]);
    let server = start(command.current_dir("/"), port, dir);
    // It listens before it takes connections.
    let log = server.dir.path().join("log");
    until("PostgreSQL is ready", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready to accept connections")));
    Some(server)
}

/// Starts an sshd that accepts the key at `key`.
fn sshd(account: &str, key: &Path) -> Option<Server> {
    let program = Path::new("/usr/sbin/sshd");
    if !program.exists() || !["ssh-keygen", "git"].into_iter().all(has) {
        return None;
    }
    let (dir, port) = (directory(account), free_port());
    let at = |name: &str| dir.path().join(name);
    for path in [key, &at("host_key")] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().expect("it starts");
        assert!(made.success());
    }
    fs::copy(key.with_extension("pub"), at("authorized")).expect("the key was made");
    let lines = [
        format!("Port {port}"),
        "ListenAddress 127.0.0.1".to_owned(),
        format!("HostKey {}", at("host_key").display()),
        format!("AuthorizedKeysFile {}", at("authorized").display()),
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n".to_owned(),
    ];
    fs::write(at("config"), lines.join("\n")).expect("written");
    for name in ["host_key", "authorized", "config"] {
        if is_root() {
            assert!(Command::new("chown").arg(account).arg(at(name)).status().expect("chown starts").success());
        }
    }
    let mut command = as_account(account, program);
    command.args(["-D", "-e", "-f"]).arg(at("config"));
    Some(start(command.current_dir("/"), port, dir))
}

/// Makes a repository with one file in the server's directory.
fn repository(account: &str, server: &Server) -> PathBuf {
    let path = server.dir.path().join("work");
    let script = "git init -q \"$0\" && cd \"$0\" && echo cloned > file && git add file && git -c user.name=t -c user.email=t@example.com commit -qm one";
    let mut command = as_account(account, Path::new("sh"));
    let made = done(command.args(["-c", script]).arg(&path).current_dir("/").env("HOME", server.dir.path()));
    assert_eq!(made.code, 0, "{made:?}");
    path
}

/// The host's apt sources, as one text.
fn apt_sources() -> String {
    let dir = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> = dir.filter(|path| path.extension().is_some_and(|kind| kind == "sources")).collect();
    let texts: Vec<String> = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    texts.join("\n\n")
}

/// A tool of such clients, with this machine's own apt sources.
fn clients() -> Option<Silo> {
    let silo = Silo::seeded();
    let sources = apt_sources();
    let step = format!(
        "steps = ['''\nmkdir -p /etc/apt/sources.list.d\ncat > /etc/apt/sources.list.d/machine.sources <<'END'\n{sources}\nEND\n''']\n"
    );
    let recipe = format!(
        "description = \"clients\"\ncommand = [\"sh\"]\n{}[debian]\nsuite = \"trixie\"\n\
         packages = [\"apt\", \"curl\", \"git\", \"openssh-client\", \"postgresql-client\", \"debian-archive-keyring\", \"ca-certificates\"]\n\
         [network]\nallow = [\"@debian\"]\n[ecosystems.debian]\nprobe = \"apt-get -o APT::Sandbox::User=root update\"\n",
        if sources.is_empty() { "" } else { &step }
    );
    silo.write(".silo/recipes/clients.toml", &recipe);
    let made = silo.run(["install", "clients"]);
    if made.code != 0 && ["cannot be resolved", "did not answer", "no index"].iter().any(|why| made.err.contains(why)) {
        skip(&format!("Debian's archive cannot be reached from here: {}", made.err.trim()));
        return None;
    }
    assert_eq!(made.code, 0, "{made:?}");
    silo.offer_downloads();
    Some(silo)
}

fn sh(silo: &Silo, script: &str) -> Done {
    silo.run(["run", "clients", "-c", script])
}

#[test]
fn databases_ssh_and_apt_work_without_a_proxy_once_they_are_granted() {
    let Some(account) = account() else { return skip("there is no account for servers: install postgresql") };
    let Some(silo) = clients() else { return };
    database(&silo, &account);
    clone(&silo, &account);
    dead_end(&silo);
    packages(&silo);
}

fn database(silo: &Silo, account: &str) {
    let Some(server) = postgres(account) else { return skip("PostgreSQL is not installed") };
    let port = server.port;
    let ask = |host: &str| sh(silo, &format!("psql -h {host} -p {port} -U silo -d postgres -Atc 'select 6 * 7'"));
    let before = ask("host.silo.internal");
    let told = "silo: host.silo.internal is not granted; `silo config network allow host.silo.internal:PORT` would grant it\n";
    assert!(before.code == 2 && before.err.contains(told), "{before:?}");
    let _ = silo.ok(["config", "network", "allow", "host.silo.internal:1"]);
    let other = ask("host.silo.internal");
    let told =
        format!("silo: host.silo.internal:{port} is not granted; `silo config network allow host.silo.internal:{port}` would grant it\n");
    assert!(other.code == 2 && other.err.contains(&told), "{other:?}");
    let _ = silo.ok(["config", "network", "allow", &format!("host.silo.internal:{port}")]);
    assert_eq!(ask("host.silo.internal").out, "42\n");
    let local = ask("localhost");
    assert!(local.code == 2 && local.err.contains("Connection refused"), "{local:?}");
    let _ = silo.ok(["config", "network", "allow", &format!("localhost:{port}")]);
    assert_eq!(ask("localhost").out, "42\n");
}

fn clone(silo: &Silo, account: &str) {
    let key = silo.project().join("key");
    let Some(server) = sshd(account, &key) else { return skip("openssh-server or git is not installed") };
    let (port, work) = (server.port, repository(account, &server));
    let ssh = "ssh -i key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
    let url = format!("ssh://{account}@host.silo.internal:{port}{}", work.display());
    let ask = || sh(silo, &format!("GIT_SSH_COMMAND='{ssh}' git clone -q {url} /tmp/clone && cat /tmp/clone/file"));
    let before = ask();
    let told =
        format!("silo: host.silo.internal:{port} is not granted; `silo config network allow host.silo.internal:{port}` would grant it\n");
    assert!(before.code != 0 && before.err.contains(&told), "{before:?}");
    let _ = silo.ok(["config", "network", "allow", &format!("host.silo.internal:{port}")]);
    let after = ask();
    let log = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
    assert_eq!(after.out, "cloned\n", "{after:?} {log}");
}

/// A granted server that is down refuses connections as on the host.
fn dead_end(silo: &Silo) {
    let dead = format!("host.silo.internal:{}", free_port());
    let _ = silo.ok(["config", "network", "allow", &dead]);
    let refused = sh(silo, &format!("curl -sv --max-time 20 http://{dead}/"));
    assert!(refused.code == 7 && refused.err.contains("Connection refused"), "{refused:?}");
}

fn packages(silo: &Silo) {
    if !silo.path("ecosystems/debian.toml").exists() {
        return skip("this machine's apt has no sources that a client inside could ask");
    }
    let updated = sh(silo, "apt-get -o APT::Sandbox::User=root update");
    assert!(updated.code == 0 && updated.out.contains("Reading package lists"), "{updated:?}");
    assert!(!updated.err.contains("silo: "), "only its registry was asked: {updated:?}");
    // And nothing else: neither by name nor by address, neither by a client that honours proxies nor by one that does not.
    let other = sh(silo, "curl -sS --max-time 20 https://other.example/; echo $?; curl -sS --max-time 20 http://203.0.113.1/; echo $?");
    assert_eq!(other.out, "6\n7\n", "{other:?}");
    assert!(other.err.contains("silo: other.example is not granted; "), "{other:?}");
}

#[test]
fn pip_reaches_its_registry_and_nothing_else() {
    let silo = Silo::shared(As::Me);
    let got =
        silo.run(["run", "python", "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d", "/tmp/got", "six"]);
    if got.code != 0 && ["cannot be resolved", "did not answer", "has no known hosts yet"].iter().any(|why| got.err.contains(why)) {
        return skip(&format!("the package index cannot be reached from here: {}", got.err.trim()));
    }
    assert_eq!(got.code, 0, "{got:?}");
    assert!(!got.err.contains("silo: "), "only its registry was asked: {got:?}");
    let other = silo.run(["run", "python", "-m", "pip", "download", "-q", "--retries", "0", "-i", "https://other.example/simple", "six"]);
    assert!(other.code != 0 && other.err.contains("silo: other.example is not granted; "), "{other:?}");
}

#[test]
fn npm_and_cargo_reach_their_registries_and_nothing_else() {
    let silo = Silo::seeded();
    let made = silo.run(["install", "node", "rust"]);
    if made.code != 0 && ["cannot be resolved", "did not answer", "no index"].iter().any(|why| made.err.contains(why)) {
        return skip(&format!("Debian's archive cannot be reached from here: {}", made.err.trim()));
    }
    assert_eq!(made.code, 0, "{made:?}");
    silo.offer_downloads();
    for (ecosystem, words, expect) in [
        ("npm", &["npm", "view", "left-pad@1.3.0", "version"][..], "1.3.0\n"),
        ("crates", &["cargo", "info", "--quiet", "cfg-if@1.0.0"], "version: 1.0.0"),
    ] {
        if !silo.path(&format!("ecosystems/{ecosystem}.toml")).exists() {
            skip(&format!("the registry of @{ecosystem} cannot be reached from here"));
            continue;
        }
        let got = silo.run(words);
        assert!(got.code == 0 && got.out.contains(expect), "{got:?}");
        assert!(!got.err.contains("silo: "), "only its registry was asked: {got:?}");
    }
    let other = silo.run([
        "run",
        "node",
        "-e",
        "fetch('https://other.example/').then(() => console.log('reached'), error => console.log(error.cause.code))",
    ]);
    assert_eq!(other.out, "ENOTFOUND\n", "{other:?}");
    assert!(other.err.contains("silo: other.example is not granted; "), "{other:?}");
}

/// Starts a TLS server with a private root certificate; returns both.
fn tls() -> Option<(Server, PathBuf)> {
    if !has("openssl") {
        return None;
    }
    let dir = tempfile::Builder::new().prefix("silo-tls-").tempdir().expect("a temporary directory");
    let at = |name: &str| dir.path().join(name);
    let script = "
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=silo test root' -addext keyUsage=critical,keyCertSign,cRLSign -keyout root.key -out root.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem
printf 'subjectAltName=DNS:localhost,DNS:host.silo.internal' > names
openssl x509 -req -in request.pem -CA root.pem -CAkey root.key -CAcreateserial -days 30 -extfile names -out cert.pem";
    let made = done(Command::new("sh").args(["-e", "-c", script]).current_dir(dir.path()));
    assert_eq!(made.code, 0, "{made:?}");
    let (port, root) = (free_port(), at("root.pem"));
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-www", "-port", &port.to_string(), "-cert"]).arg(at("cert.pem")).arg("-key").arg(at("key.pem"));
    Some((start(&mut command, port, dir), root))
}

#[test]
fn roots_of_this_machine_are_trusted_inside() {
    let Some((server, root)) = tls() else { return skip("openssl is not installed") };
    let silo = Silo::shared(As::Me);
    let place = format!("localhost:{}", server.port);
    let _ = silo.ok(["config", "network", "allow", &place]);
    // By the variables that programs know, and without any by the store of the image.
    let program = format!(
        "
import os, subprocess, sys, urllib.request
get = 'import urllib.request as u, ssl; print(u.urlopen(\"https://{place}/\").status, len(ssl.create_default_context().get_ca_certs()) > 50)'
for env in (dict(os.environ), {{'PATH': os.environ['PATH']}}):
    done = subprocess.run([sys.executable, '-c', get], env=env, capture_output=True, text=True)
    print(done.stdout.strip() or done.stderr.strip().splitlines()[-1])
places = {{os.environ.get(name) for name in ('SSL_CERT_FILE', 'REQUESTS_CA_BUNDLE', 'PIP_CERT', 'NODE_EXTRA_CA_CERTS', 'CARGO_HTTP_CAINFO', 'CURL_CA_BUNDLE', 'GIT_SSL_CAINFO')}}
print(places)"
    );
    let with = |roots: &Path| done(silo.command(["run", "python", "-c", &program]).env("SSL_CERT_FILE", roots));
    let trusted = with(&root);
    let bundle = "{'/etc/ssl/certs/ca-certificates.crt'}\n";
    assert_eq!(trusted.out, format!("200 True\n200 True\n{bundle}"), "{trusted:?}");
    // The root is this machine's; one that it does not trust is not trusted inside either.
    let image = silo.image_root("python").join("etc/ssl/certs/ca-certificates.crt");
    let untrusted = with(&image);
    assert!(untrusted.out.ends_with("\n{None}\n") && untrusted.out.matches("CERTIFICATE_VERIFY_FAILED").count() == 2, "{untrusted:?}");
    let _ = silo.ok(["config", "network", "remove", &place]);
}
