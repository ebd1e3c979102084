//! Faults, as a user meets them: tampered files, full disks, dropped connections, killed commands. Each ends
//! with a clear error or a clean resume, and never with a wrong or half image.

mod concurrent;
mod debs;
mod home;
mod injected;
mod killed;
mod mirror;
mod settings;
mod signed;
mod space;
mod stored;
mod tampered;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use silo_store::layout::Store;
use silo_store::{layer, verify};

use crate::support::http::Http;
use crate::support::{As, Done, Silo};

/// The longest wait of a test; far above the needs of a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A silo with an empty home that fetches from `http`.
fn silo_of(http: &Http) -> Silo {
    let silo = Silo::new();
    use_mirror(&silo, http);
    silo
}

/// Makes `silo` fetch from `http` and from nowhere else.
fn use_mirror(silo: &Silo, http: &Http) {
    let at = |path: &str| http.url(path);
    let text = format!(
        "[mirrors]\ndebian = [\"{}\"]\ndebianSecurity = [\"{}\"]\nsnapshot = \"{}\"\nsnapshotSecurity = \"{}\"\n",
        at("/debian"),
        at("/security"),
        at("/snapshot/debian"),
        at("/snapshot/security")
    );
    silo.write(".silo/silo.toml", &text);
    silo.seed_locks();
}

/// A silo with a copy of a home that has the tool `sh` and no fetched files.
pub fn silo_with_sh() -> Silo {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let shared = Silo::shared(As::Me);
        let silo = {
            let _alone = Silo::hold_store();
            copy_of(&shared.path(""))
        };
        // Tests of machines install `vm`, too.
        let records = fs::read_dir(silo.path("tools")).expect("tools are installed").flatten();
        let tools: Vec<_> = records.filter_map(|record| record.path().file_stem().map(ToOwned::to_owned)).collect();
        for tool in tools.iter().filter(|tool| *tool != "sh") {
            let _ = silo.ok(["uninstall".as_ref(), tool.as_os_str()]);
        }
        let _ = silo.ok(["gc", "--all"]);
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("silo-test-home-with-sh");
        silo_store::removal::remove_tree(&kept).expect("an old home of ours");
        copy(&silo.path(""), &kept);
        kept
    });
    copy_of(home)
}

/// A silo with a copy of the store in `from`.
fn copy_of(from: &Path) -> Silo {
    let silo = Silo::new();
    copy(from, &silo.path(""));
    silo
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("our own directory");
    // In one call: an image's files are other names of its layers' files.
    let parts = ["baked", "images", "made", "realisations", "roots", "tools"].map(|part| from.join(part));
    let copied = Command::new("cp").args(["-a", "--reflink=auto", "-t"]).arg(to).args(parts).status();
    assert!(copied.is_ok_and(|status| status.success()));
}

/// The image of `sh` as it is when nothing disturbs its making.
fn undisturbed() -> String {
    image(&Silo::shared(As::Me))
}

/// The image of the installed `sh`.
fn image(silo: &Silo) -> String {
    let record = fs::read_to_string(silo.path("tools/sh.toml")).expect("sh is installed");
    let line = record.lines().find_map(|line| line.strip_prefix("image = "));
    line.expect("a record names the image").trim_matches('"').to_owned()
}

/// Asserts that nothing is installed and that no layer is half or wrong.
fn assert_nothing(silo: &Silo) {
    assert_eq!(silo.ok(["list"]), "");
    let store = Store::open(&silo.path("")).expect("a store");
    for id in layer::list(&store).expect("the layers can be listed") {
        assert_eq!(verify::verify_layer(&store, &id).expect("a layer of the store can be read"), [], "layer {id}");
    }
}

/// Asserts that `sh` is installed, as if nothing had happened, and that nothing is left over.
fn assert_whole(silo: &Silo) {
    assert_eq!(image(silo), undisturbed());
    let done = silo.run(["verify"]);
    assert!(done.code == 0 && done.out.contains(" 0 faults"), "{done:?}");
    let _ = silo.ok(["gc"]);
    for empty in ["stage", "work"] {
        assert_eq!(names(&silo.path(empty)), [""; 0], "{empty} after gc");
    }
    let done = silo.run(["run", "--no-project", "sh", "-c", "echo works"]);
    assert_eq!((done.code, done.out.as_str()), (0, "works\n"), "{done:?}");
}

/// The names in a directory, sorted; none where it is not there.
fn names(dir: &Path) -> Vec<String> {
    let listing = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = listing.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The paths in a directory.
fn paths(dir: &Path) -> Vec<PathBuf> {
    names(dir).into_iter().map(|name| dir.join(name)).collect()
}

/// A running command of silo, killed if the test ends before it.
struct Running(Option<Child>);

/// Starts a command and keeps its output.
fn start<const N: usize>(silo: &Silo, args: [&str; N]) -> Running {
    Running(Some(silo.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts")))
}

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it is waited for once")
    }

    /// Waits until `seen`; false if the command ends before.
    fn until(&mut self, seen: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while !seen() {
            if self.child().try_wait().expect("our own child").is_some() {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "it never came to that");
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child().id()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("our own child, not waited for yet");
    }

    fn end(mut self) -> Done {
        let child = self.0.take().expect("it is waited for once");
        crate::support::outcome(child.wait_with_output().expect("silo ends"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // The test fails already; a process that cannot be killed has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
