//! Records of build steps with a network: what a step fetched is stored, and a rebuild without a network sees the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use silo_base::grant::MACHINE;

use crate::secrets::server::{BIG_BYTES, BOTH, Server};
use crate::support::{Done, Silo, done, has, is_root, pool, skip};

/// The answer of a server: status, headers, body.
type Answer = (u16, String, Vec<u8>);

/// A request: its line, and its headers with names in lower case.
struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// A web server on the loopback that counts its requests.
struct Web {
    port: u16,
    count: Arc<AtomicUsize>,
}

impl Web {
    fn start(answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, answer) = (Arc::clone(&count), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, answer) = (Arc::clone(&counted), Arc::clone(&answer));
                // A client may disconnect.
                std::thread::spawn(move || serve(&stream, &count, &*answer));
            }
        });
        Web { port, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

fn serve(stream: &TcpStream, count: &AtomicUsize, answer: &dyn Fn(&Request, usize) -> Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request = Request { method, target, headers, body };
        let (status, more, body) = answer(&request, count.fetch_add(1, Ordering::SeqCst));
        let head = format!("HTTP/1.1 {status} X\r\n{more}Content-Length: {}\r\n\r\n", body.len());
        let mut out = stream;
        out.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            out.write_all(&body)?;
        }
    }
}

/// A recipe with curl and one step.
fn recipe(step: &str, grants: &[String]) -> String {
    let steps = if grants.is_empty() { String::new() } else { format!("steps = [{{ run = {step:?}, network = {grants:?} }}]\n") };
    format!("version = \"1\"\ncommand = [\"sh\"]\n{steps}[debian]\npackages = [\"dash\", \"curl\", \"wget\", \"ca-certificates\"]\n")
}

/// A silo with the recipe `mine` and its layers without the step: a copy of a home that all tests here share, by hard links.
fn with_step(step: &str, grants: &[String]) -> Silo {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let home = pool("home-of-recordings");
        fs::create_dir_all(&home).expect("a directory");
        let silo = Silo::at(&home);
        silo.seed_downloads();
        silo.write(".silo/recipes/mine.toml", &recipe("", &[]));
        drop(silo.ok(["install", "--quiet", "mine"]));
        silo.offer_downloads();
        home
    });
    let silo = Silo::new();
    let copied = done(Command::new("cp").arg("-al").arg(shared.join(".silo")).arg(silo.home().join(".silo")));
    assert_eq!(copied.code, 0, "{copied:?}");
    for own in ["recipes", "tools", "journal", "logs"] {
        drop(fs::remove_dir_all(silo.path(own)));
    }
    fs::create_dir_all(silo.path("recipes")).expect("our own");
    fs::copy(shared.join(".silo/recipes/mine.lock"), silo.path("recipes/mine.lock")).expect("a lock");
    silo.write(".silo/recipes/mine.toml", &recipe(step, grants));
    silo
}

/// A home with the recipe and the lock of another one, and a vendored copy of its inputs as the only source.
fn elsewhere(other: &Silo, vendored: &Path) -> Silo {
    let silo = Silo::new();
    for file in ["mine.toml", "mine.lock"] {
        let text = fs::read_to_string(other.path(&format!("recipes/{file}"))).expect("the recipe");
        silo.write(&format!(".silo/recipes/{file}"), &text);
    }
    let caches = format!("[[caches]]\nlocation = \"{}\"\n[mirrors]\ndebian = [\"http://127.0.0.1:1\"]\n", vendored.display());
    silo.write(".silo/silo.toml", &caches);
    silo
}

/// A home with the layers below the step, and with the recipe and the lock of another one. It has the other one's records, or a cache.
fn again(other: &Silo, step: &str, grants: &[String], cache: Option<&Path>) -> Silo {
    let silo = with_step(step, grants);
    fs::remove_file(silo.path("recipes/mine.lock")).expect("our own");
    fs::copy(other.path("recipes/mine.lock"), silo.path("recipes/mine.lock")).expect("a lock");
    match cache {
        Some(cache) => silo.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{}\"\n", cache.display())),
        None => {
            for dir in ["downloads", "recorded"] {
                fs::create_dir_all(silo.path(dir)).expect("our own");
                for entry in fs::read_dir(other.path(dir)).into_iter().flatten().flatten().filter(|entry| entry.path().is_file()) {
                    // Those of packages are there.
                    let _ = fs::hard_link(entry.path(), silo.path(dir).join(entry.file_name()));
                }
            }
        }
    }
    silo
}

fn vendored(silo: &Silo, tool: &str) -> PathBuf {
    let place = silo.project().join("vendored");
    drop(silo.ok(["vendor", "--no-sign", &place.display().to_string(), tool]));
    place
}

/// Installs a tool without a network: in a network namespace without interfaces, if the system allows one.
fn cut_off(silo: &Silo, words: &[&str]) -> Done {
    if !is_root() || !has("unshare") {
        skip("unshare needs root, so only --offline cuts the network off");
        return silo.run([&["install", "--frozen", "--offline"], words].concat());
    }
    let inner = silo.command([&["install", "--frozen", "--offline"], words].concat());
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(inner.get_program()).args(inner.get_args()).current_dir(silo.project()).env_clear();
    for (name, value) in inner.get_envs() {
        command.envs(value.map(|value| (name, value)));
    }
    done(&mut command)
}

fn fine(done: &Done) -> &str {
    assert_eq!(done.code, 0, "{done:?}");
    &done.out
}

/// The digest of the record in the lock of a home.
fn record_of(silo: &Silo, lock: &str) -> String {
    let lock = fs::read_to_string(silo.path(lock)).expect("a lock");
    let record = lock.split("record = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("no record: {lock}"));
    record.to_owned()
}

#[test]
fn a_step_is_rebuilt_from_its_record_with_the_network_cut_off() {
    let site = |name: &'static str| {
        Web::start(move |request, count| match request.target.as_str() {
            "/moved" => (302, "Location: /page\r\n".into(), Vec::new()),
            "/zipped" => {
                assert!(request.headers["accept-encoding"].contains("gzip"));
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(b"unzipped\n").expect("memory");
                (200, "Content-Encoding: gzip\r\n".into(), gzip.finish().expect("memory"))
            }
            "/part" => match request.headers.get("range") {
                Some(range) => (206, "Content-Range: bytes 2-4/10\r\n".into(), format!("part {range}\n").into()),
                None => (200, String::new(), b"whole\n".to_vec()),
            },
            "/twice" => (200, String::new(), format!("answer {count}\n").into()),
            "/posted" => (200, String::new(), [b"got ", &request.body[..], b"\n"].concat()),
            "/secret" => {
                assert_eq!(request.headers["authorization"], "Bearer hush-of-the-request");
                (200, "Set-Cookie: a=hush-of-the-answer\r\n".into(), b"known\n".to_vec())
            }
            "/gone" => (404, String::new(), b"no\n".to_vec()),
            _ => (200, "X-Site: a\r\n".into(), format!("{name}{}\n", request.target).into()),
        })
    };
    let (one, two) = (site("one"), site("two"));
    let (at, other) = (format!("http://localhost:{}", one.port), format!("http://localhost:{}", two.port));
    let step = format!(
        "set -e; cd /opt; get='curl -sS'; $get -L {at}/moved > moved; $get {at}/same > one; $get {other}/same > two; \
         $get --compressed {at}/zipped > zipped; $get -r 2-4 {at}/part > part; $get {at}/part > whole; \
         $get {at}/twice > first; $get {at}/twice > second; $get -d asked {at}/posted > posted; $get -d else {at}/posted > other; \
         $get -H 'Authorization: Bearer hush-of-the-request' {at}/secret > secret; $get -I {at}/head | grep -i x-site > head; \
         $get -o /dev/null -w '%{{http_code}}' {at}/gone > gone; \
         mkdir many; $get -Z --parallel-max 8 '{at}/many/[1-40]' -o 'many/#1'"
    );
    let grants = [format!("localhost:{}", one.port), format!("localhost:{}", two.port)];
    let here = with_step(&step, &grants);
    let installed = here.run(["install", "mine"]);
    assert_eq!(installed.code, 0, "{installed:?}");
    let image = here.image_id("mine");
    let root = here.image_root("mine");
    for (file, text) in [
        ("moved", "one/page\n"),
        ("one", "one/same\n"),
        ("two", "two/same\n"),
        ("zipped", "unzipped\n"),
        ("part", "part bytes=2-4\n"),
        ("whole", "whole\n"),
        ("posted", "got asked\n"),
        ("other", "got else\n"),
        ("secret", "known\n"),
        ("gone", "404"),
        ("many/17", "one/many/17\n"),
    ] {
        assert_eq!(fs::read_to_string(root.join("opt").join(file)).expect(file), text, "{file}");
    }
    assert_ne!(fs::read(root.join("opt/first")).expect("made"), fs::read(root.join("opt/second")).expect("made"));
    let asked = (one.count(), two.count());
    assert_eq!(asked.1, 1);

    // The list is a file of its own, and has no credentials.
    let list = fs::read_to_string(here.path(&format!("downloads/{}", record_of(&here, "recipes/mine.lock")))).expect("the list");
    assert!(list.contains(&format!("{at}/zipped")) && list.contains("\"content-encoding\"") && !list.contains("hush"), "{list}");

    let place = vendored(&here, "mine");
    let there = elsewhere(&here, &place);
    fine(&cut_off(&there, &["mine"]));
    assert_eq!(there.image_id("mine"), image);
    // A home that may use the network asks nobody either.
    let online = again(&here, &step, &grants, Some(&place));
    drop(online.ok(["install", "--frozen", "mine"]));
    assert_eq!((online.image_id("mine"), (one.count(), two.count())), (image, asked));
    // A second copy has the same files.
    let again = online.project().join("again");
    let told = online.ok(["vendor", "--no-sign", "--json", &again.display().to_string(), "mine"]);
    let first = here.ok(["vendor", "--no-sign", "--json", &place.display().to_string(), "mine"]);
    let files = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")[0]["files"].clone();
    assert_eq!(files(&told), files(&first));
}

#[test]
fn a_request_that_the_record_lacks_is_named() {
    let web = Web::start(|_, _| (200, String::new(), b"x".to_vec()));
    let at = format!("http://localhost:{}", web.port);
    let step = format!("curl -sSf {at}/$(cat /proc/sys/kernel/random/uuid) > /dev/null; curl -sSf {at}/x > /opt/x");
    let step = format!("set -e; {step}");
    let grants = [format!("localhost:{}", web.port)];
    let here = with_step(&step, &grants);
    drop(here.ok(["install", "--quiet", "mine"]));
    let (image, asked) = (here.image_id("mine"), web.count());
    assert_eq!(asked, 2);
    let there = again(&here, &step, &grants, None);
    let refused = there.fails(["install", "--frozen", "--offline", "mine"]);
    assert!(refused.err.contains(&format!("asks for GET {at}/")) && refused.err.contains("which its record lacks"), "{refused:?}");
    assert!(refused.err.contains("hint: run the same command without --offline"), "{refused:?}");
    assert_eq!(web.count(), asked);
    // With a network the step runs again, and must give the locked output.
    let online = there.run(["install", "--frozen", "mine"]);
    fine(&online);
    assert!(online.err.contains("so it runs again with the network"), "{online:?}");
    assert_eq!((there.image_id("mine"), web.count()), (image, asked + 2));
}

#[test]
fn a_changed_or_lost_body_is_never_seen() {
    let web = Web::start(|request, _| (200, String::new(), format!("body of {}\n", request.target).into()));
    let at = format!("http://localhost:{}", web.port);
    let (step, grants) = (format!("curl -sSf {at}/x > /opt/x"), [format!("localhost:{}", web.port)]);
    let here = with_step(&step, &grants);
    drop(here.ok(["install", "--quiet", "mine"]));
    let image = here.image_id("mine");
    let place = vendored(&here, "mine");
    let digest = silo_store::digest::Digest::of(b"body of /x\n").to_string();
    let list = record_of(&here, "recipes/mine.lock");
    for (file, expect) in [(&digest, format!("GET {at}/x")), (&list, "needs the network, and --offline is set".to_owned())] {
        let blob = place.join("blobs/sha256").join(file);
        let intact = fs::read(&blob).expect("a blob");
        let mut bytes = intact.clone();
        bytes[0] ^= 1;
        fs::write(&blob, &bytes).expect("our own");
        let there = again(&here, &step, &grants, Some(&place));
        let refused = there.fails(["install", "--frozen", "--offline", "mine"]);
        assert!(refused.err.contains(&format!("expected sha256 {file}")), "{refused:?}");
        fs::write(&blob, &intact).expect("our own");
        // A file that changes on this machine is not used either.
        drop(there.ok(["install", "--frozen", "--offline", "mine"]));
        assert_eq!(there.image_id("mine"), image);
        let changed = again(&here, &step, &grants, Some(&place));
        fs::write(changed.path("downloads").join(file), &bytes).expect("our own");
        drop(changed.ok(["install", "--frozen", "--offline", "mine"]));
        assert_eq!(changed.image_id("mine"), image);
        // Without a copy, the error names the request.
        let without = again(&here, &step, &grants, None);
        fs::remove_file(without.path("downloads").join(file)).expect("our own");
        let refused = without.fails(["install", "--frozen", "--offline", "mine"]);
        assert!(refused.err.contains(&expect), "{refused:?}");
    }
    assert_eq!(web.count(), 1);
}

#[test]
fn tls_of_both_versions_is_recorded_and_a_program_with_its_own_certificates_still_works() {
    let server = Server::start(BOTH);
    let url = format!("https://{MACHINE}:{}", server.port);
    let grants = [format!("{MACHINE}:{}", server.port)];
    let with_roots = |silo: &Silo, words: &[&str]| done(silo.command(words).env("SSL_CERT_FILE", server.roots()));
    let step = format!(
        "set -e; cd /opt; curl -sS --http2 {url}/big | sha256sum > two; curl -sS --http1.1 {url}/big | sha256sum > one; \
         curl -sS --http2 -o /dev/null -w '%{{http_version}}' {url}/version > version; curl -sS --data-binary @/bin/dash {url}/posted > posted; wget -q -O got {url}/got"
    );
    let here = with_step(&step, &grants);
    fine(&with_roots(&here, &["install", "mine"]));
    let root = here.image_root("mine");
    let sum = silo_store::digest::Digest::of(&vec![b'b'; BIG_BYTES]).to_string();
    for file in ["one", "two"] {
        assert!(fs::read_to_string(root.join("opt").join(file)).expect("made").starts_with(&sum), "{file}");
    }
    assert_eq!(fs::read_to_string(root.join("opt/version")).expect("made"), "2");
    assert_eq!(fs::read_to_string(root.join("opt/got")).expect("made"), "fine\n");
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|seen| seen.version == "HTTP/2.0").count(), 3, "{seen:?}");
    let there = again(&here, &step, &grants, None);
    fine(&cut_off(&there, &["mine"]));
    assert_eq!(there.image_id("mine"), here.image_id("mine"));
    assert!(server.seen().is_empty());

    // A program that trusts one certificate alone refuses that of the run: the step runs again without the inspection.
    let pem = fs::read_to_string(server.roots()).expect("a certificate");
    let step = format!("set -e; echo '{pem}' > /tmp/own.pem; curl -sS --cacert /tmp/own.pem {url}/x > /opt/x");
    let here = with_step(&step, &grants);
    let done = with_roots(&here, &["install", "mine"]);
    fine(&done);
    assert!(done.err.contains("cannot be recorded") && done.err.contains("runs again without that"), "{done:?}");
    assert_eq!(fs::read_to_string(here.image_root("mine").join("opt/x")).expect("made"), "fine\n");
    assert!(!fs::read_to_string(here.path("recipes/mine.lock")).expect("a lock").contains("record = "));
}

#[test]
fn both_runs_of_a_check_see_the_same_bytes() {
    let web = Web::start(|_, count| (200, String::new(), format!("answer {count}\n").into()));
    let step = format!("curl -sSf http://localhost:{}/x > /opt/x", web.port);
    let here = with_step(&step, &[format!("localhost:{}", web.port)]);
    drop(here.ok(["install", "--quiet", "mine"]));
    assert_eq!(web.count(), 1);
    let checked = here.run(["build", "--check", "mine"]);
    assert_eq!((checked.code, web.count()), (0, 1), "{checked:?}");
}

#[test]
fn other_protocols_pass_and_are_named_as_not_recorded() {
    // The server speaks first.
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"220 hello\r\n");
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let _ = stream.write_all(format!("got {line}").as_bytes());
        }
    });
    let web = Web::start(|_, _| (200, String::new(), b"x".to_vec()));
    let step =
        format!("set -e; curl -sS http://localhost:{}/x > /opt/x; echo asked | curl -sS telnet://localhost:{port} > /opt/told", web.port);
    let grants = [format!("localhost:{port}"), format!("localhost:{}", web.port)];
    let here = with_step(&step, &grants);
    drop(here.ok(["install", "--quiet", "mine"]));
    let told = fs::read_to_string(here.image_root("mine").join("opt/told")).expect("made");
    assert_eq!(told, "220 hello\r\ngot asked\n");
    // An incomplete record is not pinned; the error without a network says what it lacks.
    assert!(!fs::read_to_string(here.path("recipes/mine.lock")).expect("a lock").contains("record = "));
    let there = again(&here, &step, &grants, None);
    let refused = there.fails(["install", "--frozen", "--offline", "mine"]);
    assert!(refused.err.contains(&format!("it lacks the connections to localhost:{port} (the connection speaks no HTTP)")), "{refused:?}");
}

/// Installs a tool with a step, copies its inputs, and builds them again with the network cut off.
fn client_again(tool: &str, step: &str, proof: &[&str]) {
    let here = Silo::seeded();
    here.write(&format!(".silo/recipes/{tool}.toml"), step);
    let installed = here.run(["install", tool]);
    if installed.code != 0 && ["cannot be resolved", "did not answer"].iter().any(|why| installed.err.contains(why)) {
        return skip(&format!("the registry cannot be reached from here: {}", installed.err.trim()));
    }
    assert_eq!(installed.code, 0, "{installed:?}");
    here.offer_downloads();
    let told = here.ok(proof);
    let lock = if here.path(&format!("recipes/{tool}.lock")).exists() { "recipes" } else { "recipe-locks" };
    let lock = format!("{lock}/{tool}.lock");
    let list = fs::read_to_string(here.path(&format!("downloads/{}", record_of(&here, &lock)))).expect("the list");
    assert!(list.lines().count() > 2 && list.contains("https://"), "{list}");
    let place = vendored(&here, tool);
    let there = Silo::new();
    for file in [format!("recipes/{tool}.toml"), lock] {
        there.write(&format!(".silo/{file}"), &fs::read_to_string(here.path(&file)).expect("the recipe"));
    }
    there.write(".silo/silo.toml", &format!("[[caches]]\nlocation = \"{}\"\n", place.display()));
    fine(&cut_off(&there, &[tool]));
    assert_eq!(there.image_id(tool), here.image_id(tool));
    assert_eq!(there.ok(proof), told);
}

#[test]
fn pip_installs_again_with_the_network_cut_off() {
    let step = "steps = [{ run = [\"pip\", \"install\", \"requests\", \"flask\"], network = [\"@pypi\"] }]\n";
    client_again("python", step, &["run", "python", "-c", "import requests, flask; print(requests.__version__)"]);
}

#[test]
fn npm_installs_again_with_the_network_cut_off() {
    let step = "steps = [{ run = \"cd /opt && npm install express@4 left-pad\", network = [\"@npm\"] }]\n";
    client_again("node", step, &["run", "node", "-e", "require('/opt/node_modules/express'); console.log('loaded')"]);
}

#[test]
fn cargo_fetches_again_with_the_network_cut_off() {
    let step = "steps = [{ run = \"cd /opt && cargo new --quiet --vcs none app && cd app && cargo add --quiet serde_json regex itertools && \
                cargo fetch --quiet && cp -r ${CARGO_HOME:-/root/.cargo}/registry/cache /opt/cache && rm -rf ${CARGO_HOME:-/root/.cargo}\", \
                network = [\"@crates\"] }]\n";
    client_again("rust", step, &["run", "rust", "--version"]);
}
