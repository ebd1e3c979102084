//! Signs of life: a command that works says so each second, also while a server stalls or another silo is waited for. No test asserts times;
//! each waits for several lines, which only come if the command goes on printing them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use silo_store::flock;
use silo_store::layout::Store;

use crate::support::Silo;
use crate::support::sandbox::until;
use crate::support::terminal::{Session, open};

/// Signs that a test waits for.
const ENOUGH: usize = 3;

/// A server that begins each answer and never ends it.
struct Stalled {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Stalled {
    fn new() -> Stalled {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let kept = Arc::clone(&open);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
                let _ = stream.write_all(&[b'x'; 2048]);
                kept.lock().expect("ours").push(stream);
            }
        });
        Stalled { port, open }
    }

    /// A silo with this mirror.
    fn silo(&self) -> Silo {
        let silo = Silo::new();
        let mirror = format!("mirrors.debian = [\"http://127.0.0.1:{}/debian\"]\n", self.port);
        silo.write(".silo/silo.toml", &mirror);
        silo.write(".silo/recipes/own.toml", "command = [\"sh\"]\n[debian]\npackages = [\"dash\"]\n");
        silo
    }
}

fn piped(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("silo starts")
}

/// Returns the first signs of life that a command prints, and leaves it running.
fn signs(child: &mut Child) -> Vec<String> {
    let err = BufReader::new(child.stderr.take().expect("it is piped"));
    let lines = err.lines().map(|line| line.expect("text"));
    lines.filter(|line| line.starts_with("still ")).take(ENOUGH).collect()
}

#[test]
fn a_stalled_server_is_waited_for_with_signs_of_life() {
    let stalled = Stalled::new();
    let silo = stalled.silo();
    let project = "tools = [\"own\"]\n";
    std::fs::write(silo.project().join("silo.toml"), project).expect("our own project");
    let commands: [&[&str]; 5] =
        [&["install", "own"], &["sync"], &["lock", "own"], &["add", "jq", "--for", "own"], &["build", "own", "true"]];
    for words in commands {
        let mut child = piped(silo.command(words.iter().copied()));
        let signs = signs(&mut child);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert_eq!(signs.len(), ENOUGH, "{words:?}: {signs:?}");
        assert!(signs.iter().all(|sign| sign.contains("fetching InRelease of ") && sign.contains("2.0 KiB")), "{words:?}: {signs:?}");
    }
    assert!(stalled.open.lock().expect("ours").len() >= commands.len(), "each of them asked the server");
}

#[test]
fn an_image_of_a_stalled_registry_is_waited_for_with_signs_of_life() {
    let stalled = Stalled::new();
    let silo = Silo::new();
    let image = format!("127.0.0.1:{}/some/image:1", stalled.port);
    let mut child = piped(silo.command(["install", "own", "--image", &image]));
    let signs = signs(&mut child);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(signs.len(), ENOUGH, "{signs:?}");
}

#[test]
fn another_silo_is_waited_for_with_signs_of_life() {
    let silo = Silo::seeded();
    let _ = silo.ok(["install", "--quiet", "sh"]);
    let store = Store::open(&silo.path("")).expect("a store");
    let tar = silo.project().with_file_name("root.tar");
    let tar = tar.to_str().expect("text");
    let commands: [&[&str]; 5] =
        [&["verify"], &["export", "sh", "--rootfs", tar], &["sbom", "sh"], &["install", "sh"], &["why", "sh", "/bin/sh"]];
    for words in commands {
        let collecting = flock::exclude(&store).expect("nobody uses it");
        let mut child = piped(silo.command(words.iter().copied()));
        let signs = signs(&mut child);
        drop(collecting);
        assert!(child.wait().expect("it ends").success(), "{words:?}");
        assert!(
            signs.len() == ENOUGH && signs.iter().all(|sign| sign.contains(words[0]) || sign.contains("verifying")),
            "{words:?}: {signs:?}"
        );
    }
    // Progress can be turned off.
    let collecting = flock::exclude(&store).expect("nobody uses it");
    let mut quiet = piped(silo.command(["--quiet", "verify"]));
    thread::sleep(std::time::Duration::from_secs(2));
    drop(collecting);
    let mut said = String::new();
    quiet.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
    assert!(quiet.wait().expect("it ends").success() && said.is_empty(), "{said}");
}

#[test]
fn bars_of_a_terminal_go_on_while_a_server_stalls() {
    let stalled = Stalled::new();
    let silo = stalled.silo();
    let mut command = silo.command(["lock", "own"]);
    let mut session = Session::of(command.env("TERM", "xterm"));
    session.expect("InRelease of ");
    session.expect("2.00 KiB");
    // The elapsed time of a bar is another one each second.
    session.expect(" 1s ");
    session.expect(" 2s ");
}

/// A process that waits for ever would keep its locks.
#[test]
fn a_command_ends_after_its_terminal_was_closed() {
    let stalled = Stalled::new();
    let silo = stalled.silo();
    let (master, slave) = open();
    let end = || Stdio::from(slave.try_clone().expect("copied"));
    let mut child =
        silo.command(["lock", "own"]).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().expect("silo starts");
    drop(slave);
    let mut terminal = File::from(master);
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("2.00 KiB") {
        let length = terminal.read(&mut piece).expect("bars are drawn");
        seen.extend_from_slice(&piece[..length]);
    }
    drop(terminal);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill starts").success());
    until("the command ends", || child.try_wait().expect("our own child").is_some());
}
