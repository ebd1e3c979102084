//! Test support: a `Silo` with its own home, and visible skips.

pub mod between;
pub mod engine;
pub mod http;
pub mod images;
pub mod machine;
pub mod mmdebstrap;
pub mod numbers;
pub mod registry;
pub mod sandbox;
pub mod terminal;
pub mod tls_front;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use silo_base::home::Home;
use silo_build::image::{self, Image, ImageId};
use silo_store::index::Index;
use tempfile::TempDir;

/// Says that a test cannot run here and why. The line is written past the test runner's capture, and
/// `.ci/run` counts it as skipped.
pub fn skip(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED {}: {why}", std::thread::current().name().unwrap_or("a test")).expect("standard error is open");
}

/// Prints a line past the test runner's capture.
pub fn report(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A port of this machine that nothing listens at now. It is below the ports that the kernel gives by itself, so no other program gets it
/// before it is used.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let at = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = 10_000 + u16::try_from(at).expect("it is small");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Copies a program that is started next. Another process copies it: a program that another test starts meanwhile would inherit the file,
/// open for writing, and the kernel refuses to execute such a file.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program can be copied");
}

/// Whether an entry is a file that nobody is still writing.
fn is_whole(entry: &fs::DirEntry) -> bool {
    entry.path().is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The program under test.
pub fn program() -> PathBuf {
    heed_keys();
    std::env::var_os(PROGRAM).map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_silo")), PathBuf::from)
}

/// Makes started programs obey Ctrl-C and Ctrl-\, however the tests were started: programs in the background of a shell
/// ignore both, and children inherit that. A signal that is handled here is an ordinary one to a started program.
fn heed_keys() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGQUIT] {
            let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, always).expect("both can be handled");
        }
    });
}

/// Names the program under test to a copy of this test program that runs as somebody else.
pub const PROGRAM: &str = "SILO_TEST_PROGRAM";
/// Names the home that [`Silo::shared`] gives to such a copy.
pub const SHARED_HOME: &str = "SILO_TEST_HOME";

/// The user that runs silo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// The user of the tests.
    Me,
    /// An ordinary user without an account, by number; only root can ask for it.
    Nobody,
    /// The same user with an account and a range of ids, in a mount namespace of its own; only root can ask for it.
    Ranged,
}

/// The accounts and ranges of [`As::Ranged`]: mounts files over the system's, and runs the command as the user.
const RANGED: &str = r#"set -e
for file in passwd group subuid subgid; do mount --bind "$0/$file" "/etc/$file"; done
exec "$@""#;

/// The number of [`As::Nobody`]: far above any account's.
pub const NOBODY: u32 = 54_321;

/// The first id of the range of [`As::Ranged`].
const FIRST_SUBORDINATE: u32 = 1_500_000_000;

/// A silo with a home and a project of its own.
pub struct Silo {
    dir: TempDir,
    home: PathBuf,
    who: As,
    program: PathBuf,
}

/// An installed tool's image.
pub struct Installed {
    /// Its configuration.
    pub image: Image,
    /// The files in it.
    pub index: Index,
    /// Its composed root.
    pub root: PathBuf,
}

/// The result of a command.
#[must_use]
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit code; 128+n for a signal.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Silo {
    /// A silo with an empty home.
    pub fn new() -> Silo {
        Silo::of(As::Me)
    }

    /// A silo with an empty home that belongs to this user.
    pub fn of(who: As) -> Silo {
        let dir = tempfile::Builder::new().prefix("silo-test-").tempdir().expect("a temporary directory");
        let (home, project) = (dir.path().join("home"), dir.path().join("project"));
        for made in [&home, &project] {
            fs::create_dir(made).expect("a directory in our own");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        let mut program = program();
        if who == As::Ranged {
            let accounts = dir.path().join("accounts");
            fs::create_dir(&accounts).expect("a directory in our own");
            for (file, line) in [
                ("passwd", format!("ranged:x:{NOBODY}:{NOBODY}::/:/bin/sh\n")),
                ("group", format!("ranged:x:{NOBODY}:\n")),
                ("subuid", format!("ranged:{FIRST_SUBORDINATE}:65536\n")),
                ("subgid", format!("ranged:{FIRST_SUBORDINATE}:65536\n")),
            ] {
                let system = fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
                fs::write(accounts.join(file), format!("{system}{line}")).expect("our own directory");
            }
        }
        if who != As::Me {
            // The build directory may be where only its owner can look.
            let copy = dir.path().join("silo");
            copy_program(&program, &copy);
            program = copy;
            for owned in [&home, &project] {
                std::os::unix::fs::chown(owned, Some(NOBODY), Some(NOBODY)).expect("root may give a directory away");
            }
        }
        Silo { dir, home, who, program }
    }

    /// A silo with only the downloads, locks and learned hosts of other tests.
    pub fn seeded() -> Silo {
        let silo = Silo::new();
        silo.seed_downloads();
        silo.seed_locks();
        silo
    }

    /// A silo with this home and a project of its own.
    pub fn at(home: &Path) -> Silo {
        let mut silo = Silo::new();
        silo.home = home.to_owned();
        silo
    }

    /// A silo with a home that all tests share that only run tools; the tools are installed in it, again by
    /// each run of the tests. Projects are not shared.
    pub fn shared(who: As) -> Silo {
        static MINE: OnceLock<PathBuf> = OnceLock::new();
        static NOBODYS: OnceLock<PathBuf> = OnceLock::new();
        let home = match who {
            As::Me => MINE.get_or_init(|| match std::env::var_os(SHARED_HOME) {
                Some(home) => home.into(),
                None => installed(As::Me, Path::new(env!("CARGO_TARGET_TMPDIR")), &[]),
            }),
            As::Ranged => unreachable!("no test shares a home with a range of ids"),
            // The other home is made under other circumstances: its images must be the same.
            As::Nobody => NOBODYS.get_or_init(|| {
                let _ = Silo::shared(As::Me);
                // Where its owner can look; of this build directory alone, since others may run their tests beside.
                let of = rustix::fs::stat(env!("CARGO_TARGET_TMPDIR")).expect("it is there");
                installed(
                    As::Nobody,
                    &std::env::temp_dir().join(format!("silo-test-{}", of.st_ino)),
                    &[("LC_ALL", "tr_TR.UTF-8"), ("TZ", "Asia/Kathmandu"), ("SOURCE_DATE_EPOCH", "1")],
                )
            }),
        };
        let mut silo = Silo::of(who);
        silo.home.clone_from(home);
        silo
    }

    /// Keeps other tests from installing or collecting in a shared home: either would find the store in use.
    pub fn hold_store() -> MutexGuard<'static, ()> {
        static STORE: Mutex<()> = Mutex::new(());
        // A test that failed in between leaves an intact store.
        STORE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The composed root of an installed tool's image.
    pub fn image_root(&self, tool: &str) -> PathBuf {
        image::root(&Home::new(self.path("")), self.image_id(tool))
    }

    /// The id of an installed tool's image.
    pub fn image_id(&self, tool: &str) -> ImageId {
        let list: serde_json::Value = serde_json::from_str(&self.ok(["list", "--json"])).expect("list --json prints JSON");
        let tools = list.as_array().expect("a list");
        let found = tools.iter().find(|entry| entry["tool"] == tool).unwrap_or_else(|| panic!("{tool} is not installed: {list}"));
        ImageId::parse(found["image"].as_str().expect("an image")).expect("an image id")
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The project directory, which commands run in.
    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    /// A path in silo's own directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.home.join(".silo").join(below)
    }

    /// Writes a file below the home directory.
    pub fn write(&self, below: &str, text: &str) {
        let path = self.home.join(below);
        fs::create_dir_all(path.parent().expect("a file below the home")).expect("our own directory");
        fs::write(&path, text).expect("our own file");
        self.give(&path);
    }

    /// Gives a file, and the directories above it in the home, to the user that runs silo.
    fn give(&self, path: &Path) {
        if self.who != As::Me {
            for path in path.ancestors().take_while(|path| path.starts_with(&self.home)) {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give a file away");
            }
        }
    }

    /// Makes the files that other tests have fetched already available.
    ///
    /// Used files are verified against a lock; the others come from the network.
    pub fn seed_downloads(&self) {
        self.copy_in(&pool("downloads"), "downloads");
    }

    /// Uses the locks that this run had to write again, because mirrors drop superseded packages, and the ecosystems
    /// that were learned.
    pub fn seed_locks(&self) {
        self.copy_in(&pool("recipe-locks"), "recipe-locks");
        self.copy_in(&pool("ecosystems"), "ecosystems");
    }

    fn copy_in(&self, from: &Path, below: &str) {
        let Ok(listing) = fs::read_dir(from) else { return };
        let dir = self.path(below);
        fs::create_dir_all(&dir).expect("our own directory");
        self.give(&dir);
        for entry in listing.flatten().filter(is_whole) {
            let to = dir.join(entry.file_name());
            fs::copy(entry.path(), &to).expect("a file of the pool");
            self.give(&to);
        }
    }

    /// Offers this silo's fetched files and locks to other tests.
    pub fn offer_downloads(&self) {
        // Two tests may offer the same file at the same time.
        static OFFER: Mutex<()> = Mutex::new(());
        let _alone = OFFER.lock().unwrap_or_else(PoisonError::into_inner);
        for of in ["downloads", "recipe-locks", "ecosystems"] {
            let pool = pool(of);
            fs::create_dir_all(&pool).expect("a directory for the pool");
            for entry in fs::read_dir(self.path(of)).into_iter().flatten().flatten() {
                let to = pool.join(entry.file_name());
                if is_whole(&entry) && !to.exists() {
                    let staged = pool.join(format!(".{}-{}", std::process::id(), entry.file_name().to_string_lossy()));
                    fs::copy(entry.path(), &staged).expect("our own file");
                    fs::rename(&staged, &to).expect("our own file");
                }
            }
        }
    }

    /// The image of a tool that is installed.
    pub fn installed(&self, tool: &str) -> Installed {
        let id = self.image_id(tool);
        let home = Home::new(self.path(""));
        let image = image::get(&home, id).expect("a configuration").expect("an image");
        let index = Index::parse(&fs::read(image::index_path(&home, id)).expect("an index")).expect("an index");
        Installed { image, index, root: image::root(&home, id) }
    }

    /// A command of silo in this home and project, not yet run.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = match self.who {
            As::Me => Command::new(&self.program),
            As::Nobody | As::Ranged => {
                let mut command = Command::new(if self.who == As::Ranged { "unshare" } else { "setpriv" });
                if self.who == As::Ranged {
                    command.args(["--mount", "--propagation", "private", "sh", "-c", RANGED]).arg(self.dir.path().join("accounts"));
                    command.arg("setpriv");
                }
                command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]).arg(&self.program);
                command
            }
        };
        command.args(args).current_dir(self.project()).env_clear().env("HOME", &self.home).stdin(Stdio::null());
        for kept in
            ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy"]
        {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        // Servers of the tests themselves are reached directly, without the machine's proxy.
        let direct = std::env::var("NO_PROXY").map_or_else(|_| "127.0.0.1".to_owned(), |names| format!("{names},127.0.0.1"));
        command.env("NO_PROXY", &direct).env("no_proxy", &direct);
        command
    }

    /// Runs a command of silo to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        done(&mut self.command(args))
    }

    /// Runs a command that must succeed; returns its output.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let done = self.run(args);
        assert_eq!(done.code, 0, "{done:?}");
        done.out
    }

    /// Runs a command that must fail; returns its output.
    pub fn fails<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        let done = self.run(args);
        assert_ne!(done.code, 0, "{done:?}");
        done
    }

    /// Runs a command with `input` on its standard input.
    pub fn fed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Done {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
        // A program need not read all its input.
        drop(child.stdin.take().expect("it is piped").write_all(input));
        outcome(child.wait_with_output().expect("silo ends"))
    }
}

/// Makes a home with every built-in tool installed.
fn installed(who: As, place: &Path, env: &[(&str, &str)]) -> PathBuf {
    let name = if who == As::Me { "me" } else { "nobody" };
    let home = place.join(format!("silo-test-home-of-{name}"));
    silo_store::removal::remove_tree(&home).expect("an old home of ours");
    fs::create_dir_all(&home).expect("a directory for the shared home");
    let mut silo = Silo::of(who);
    silo.home.clone_from(&home);
    silo.give(&home);
    silo.seed_downloads();
    silo.seed_locks();
    let done = done(silo.command(["install", "--quiet", "python", "sh"]).envs(env.iter().copied()));
    assert_eq!(done.code, 0, "{done:?}");
    if who == As::Me {
        silo.offer_downloads();
    }
    home
}

/// The directory of fetched files and new locks, for other tests and other runs.
pub fn pool(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(of)
}

/// Runs a command to its end.
pub fn done(command: &mut Command) -> Done {
    outcome(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Converts the output of an ended command.
pub fn outcome(output: Output) -> Done {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Done { code, out: String::from_utf8_lossy(&output.stdout).into_owned(), err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// Compares a text with a file of `tests/golden`, or writes the file where `SILO_BLESS` is set.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("SILO_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a file below golden")).expect("the source tree can be written");
        fs::write(&path, text).expect("the source tree can be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{name} differs; SILO_BLESS=1 writes it anew\n--- expected\n{expected}\n--- got\n{text}");
}
