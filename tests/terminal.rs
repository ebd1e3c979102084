//! Programs on a real terminal, in a sandbox and outside one: the same keys, the same picture.
//!
//! "Outside" is the same root file system by chroot, and the test's own terminal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::support::sandbox::{in_machines, until};
use crate::support::terminal::{Session, cooked, size};
use crate::support::{Silo, done, has, is_root, skip};

/// A tool with a REPL, a pager and an editor.
const RECIPE: &str = "command = [\"sh\"]\npassEnv = [\"LC_ALL\", \"PYTHON_HISTORY\", \"PYTHON_BASIC_REPL\"]\nshims = [\"python3\", \"less\", \"vi:vim.tiny\"]\n[debian]\npackages = [\"python3\", \"less\", \"vim-tiny\"]\nversionOf = \"less\"\n";

/// Becomes a program of a root file system, `$0`, that sees a project, `$1`, at /mnt: with no process in between, and on
/// the caller's own terminal.
const OUTSIDE: &str = r#"set -e
mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"
mount --rbind /dev "$0/dev"; mount --rbind /proc "$0/proc"; mount -t tmpfs tmp "$0/tmp"; mount --bind "$1" "$0/mnt"
root=$0; shift
exec chroot "$root" sh -c 'cd /mnt; exec "$0" "$@"' "$@""#;

pub struct Place {
    silo: Silo,
    root: PathBuf,
}

/// A project of the test's own, and a home with the tool, which is made once.
pub fn place() -> Place {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("silo-test-home-of-screens");
        silo_store::removal::remove_tree(&home).expect("an old home of ours");
        fs::create_dir_all(&home).expect("a directory for the home");
        let silo = Silo::at(&home);
        silo.seed_downloads();
        silo.seed_locks();
        silo.write(".silo/recipes/screen.toml", RECIPE);
        let tools = if in_machines() { &["screen", "vm"][..] } else { &["screen"] };
        let installed = silo.run(["install", "--quiet"].iter().chain(tools));
        assert_eq!(installed.code, 0, "{installed:?}");
        silo.offer_downloads();
        if in_machines() {
            // One-time messages must not appear on the tested screen.
            let _ = silo.ok(["run", "--tier", "vm", "--cold", "screen", "-c", "true"]);
        }
        home
    });
    let silo = Silo::at(home);
    let root = silo.image_root("screen");
    Place { silo, root }
}

/// The REPL that draws its line again at every key would look different each time.
const VARIABLES: [(&str, &str); 4] =
    [("TERM", "xterm"), ("LC_ALL", "C.UTF-8"), ("PYTHON_HISTORY", "/dev/null"), ("PYTHON_BASIC_REPL", "1")];

impl Place {
    /// The project.
    pub fn project(&self) -> PathBuf {
        self.silo.project()
    }

    /// The home.
    pub fn home(&self) -> &Path {
        self.silo.home()
    }

    /// A program of the tool, in a sandbox.
    pub fn inside(&self, program: &str, args: &[&str]) -> Command {
        let tier = if in_machines() { "vm" } else { "native" };
        let mut command = self.silo.command(["run", "--tier", tier, "--shim", program, "screen"].iter().chain(args));
        command.envs(VARIABLES);
        command
    }

    fn outside(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(if is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] }).args(["sh", "-c", OUTSIDE]);
        command.arg(&self.root).arg(self.silo.project()).arg(program).args(args).current_dir(self.silo.project());
        command.env_clear().envs(VARIABLES).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
        command
    }

    /// Plays the same on both, and compares the screens.
    fn same(&self, program: &str, args: &[&str], play: impl Fn(Session) -> Vec<String>) {
        let inside = play(Session::controlled(&self.inside(program, args)));
        if !has("unshare") {
            return skip("unshare is not installed, so there is nothing to compare with");
        }
        let outside = play(Session::controlled(&self.outside(program, args)));
        assert_eq!(inside, outside, "{program} is seen otherwise in a sandbox");
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &std::ffi::OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

#[test]
fn a_repl_is_seen_as_outside() {
    let place = place();
    place.same("python3", &["-q"], |mut session| {
        let mut seen = vec![session.expect(">>> ")];
        for (keys, until) in [
            ("1+1\r", ">>> "),
            ("import time\r", ">>> "),
            // An interrupted command. (A line that is interrupted right after a key can hang in Python's own line editor.)
            ("print('be' + 'gins'); time.sleep(1000)\r", "begins\r\n"),
            ("\x03", ">>> "),
        ] {
            seen.push(session.expect_all(keys, until));
        }
        assert!(seen[1].contains("2\r\n") && seen[4].contains("KeyboardInterrupt"), "{seen:?}");
        // Where in the line it was interrupted is chance.
        let at = seen[4].rfind("KeyboardInterrupt").unwrap_or_default();
        seen[4] = seen[4].split_off(at);
        session.type_in("\x04");
        let (code, _, cooked) = session.end();
        // Python ends by the signal that came last; silo reports that as a shell does.
        seen.push(format!("{} {cooked}", code.unwrap_or(130)));
        seen
    });
}

#[test]
fn a_pager_and_an_editor_are_seen_as_outside() {
    let place = place();
    let text: String = (1..=500).map(|line| format!("line {line}\n")).collect();
    fs::write(place.silo.project().join("text"), &text).expect("our own project");
    place.same("less", &["text"], |mut session| {
        let mut seen = vec![session.expect("line 29\r\n")];
        // Back at the beginning it draws upwards, and its prompt comes last; it must have drawn all before there is another size.
        for (keys, until) in [(" ", "line 58\r\n"), ("G", "(END)"), ("/499\r", "line 499"), ("g", "line 1\r\n")] {
            seen.push(session.expect_all(keys, until));
        }
        seen.push(session.expect(":"));
        // less forgets a change of size that comes between two of its looks, so it is changed until it shows: each time to another
        // one, since a terminal that already has a size sends no signal.
        let drawn = (0..20).find_map(|which| {
            let rows = 40 + which % 2;
            session.resize_controlled(size(rows, 80));
            session.expect_soon(&format!("line {}\r\n", rows - 1))
        });
        assert!(drawn.is_some(), "it draws as many lines as there are");
        session.type_in("q");
        let (code, _, cooked) = session.end();
        seen.push(format!("{code:?} {cooked}"));
        seen
    });
    place.same("vim.tiny", &["-u", "NONE", "--noplugin", "-n", "note"], |mut session| {
        session.expect("~");
        session.type_in("ihello\x1b:wq\r");
        let (code, _, cooked) = session.end();
        let written = fs::read_to_string(place.silo.project().join("note")).unwrap_or_default();
        fs::remove_file(place.silo.project().join("note")).expect("it was written");
        vec![format!("{code:?} {cooked} {written:?}")]
    });
}

/// Ctrl-Z gives the caller's shell its prompt back, and `fg` the program its terminal.
#[test]
fn a_program_is_stopped_and_continued_as_outside() {
    let place = place();
    let play = |program: Command| {
        let mut shell = Command::new("bash");
        shell.args(["--norc", "--noprofile", "-i"]).current_dir(place.silo.project()).envs(VARIABLES).env("PS1", "shell> ");
        shell.env("HOME", place.silo.home()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HISTFILE", "/dev/null");
        // A file, since typed text should not be longer than a line of the terminal.
        let words: Vec<String> = std::iter::once(program.get_program()).chain(program.get_args()).map(quoted).collect();
        fs::write(place.silo.project().join("start"), format!("exec {}\n", words.join(" "))).expect("our own project");
        let mut session = Session::controlled(&shell);
        session.expect("shell> ");
        session.type_in("bash ./start\r");
        session.expect(">>> ");
        session.expect_all("print('o' + 'ne')\r", "one");
        session.expect(">>> ");
        // Short sleeps: Linux restarts one that a stop interrupted, and a key just after SIGCONT does not end it, in a sandbox or outside.
        session.type_in("import time; print('sl' + 'eeps'); any(time.sleep(.05) for _ in range(20000))\r");
        session.expect("sleeps\r\n");
        session.type_in("\x1a");
        session.expect("Stopped");
        session.expect("shell> ");
        // The shell has the terminal as it was before: it edits lines, and other jobs run.
        session.type_in("echo $((20 + 1))\r");
        session.expect("21\r\n");
        session.expect("shell> ");
        let shell = session.foreground();
        session.type_in("fg\r");
        session.expect("./start");
        // The shell reports it before it is done, and the shell would read a key that comes between.
        until("the program has the terminal", || session.foreground() != shell);
        session.type_in("\x03");
        session.expect("KeyboardInterrupt");
        session.expect(">>> ");
        session.expect_all("print('t' + 'wo')\r", "two");
        session.expect(">>> ");
        session.type_in("exit(7)\r");
        session.expect("shell> ");
        // A stopped and continued job has left the list; its code is that of `fg`.
        session.type_in("echo code $?; exit\r");
        session.expect("code 7\r\n");
        session.end().0
    };
    assert_eq!(play(place.inside("python3", &["-q"])), Some(0));
    match has("unshare") {
        true => assert_eq!(play(place.outside("python3", &["-q"])), Some(0)),
        false => skip("unshare is not installed, so there is nothing to compare with"),
    }
}

#[test]
fn closed_inputs_and_long_pipes_are_as_outside() {
    let place = place();
    let run = |command: Command, script: &str| {
        let mut shell = Command::new("bash");
        shell.args(["-c", script]).arg(command.get_program()).args(command.get_args()).current_dir(place.silo.project());
        let envs = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let done = done(shell.env_clear().envs(envs).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()));
        (done.code, done.out)
    };
    let both = |program: &str, args: &[&str], script: &str, expect: &str| {
        let inside = run(place.inside(program, args), script);
        assert_eq!(inside.1, expect, "{program} {args:?}: {script}");
        if has("unshare") {
            assert_eq!(inside, run(place.outside(program, args), script), "{program} {args:?}: {script}");
        }
    };
    both("cat", &[], "\"$0\" \"$@\" </dev/null; echo $?", "0\n");
    // A closed input is an empty one inside, where a native cat complains: no file of the host takes its number.
    assert_eq!(run(place.inside("cat", &[]), "\"$0\" \"$@\" <&-; echo $?"), (0, "0\n".to_owned()));
    both("sh", &["-c", "echo x >&2; cat"], "head -c 300000 /dev/zero | \"$0\" \"$@\" 2>/dev/null | wc -c", "300000\n");
    both("python3", &["-"], "echo 'print(6 * 7)' | \"$0\" \"$@\"", "42\n");
    both("yes", &[], "\"$0\" \"$@\" | head -n1; echo ${PIPESTATUS[0]}", "y\n141\n");
}

#[test]
fn repeated_ctrl_c_ends_a_hanging_program() {
    let place = place();
    // Output is a pipe, so the program has the caller's streams, and the keys' signals come through silo.
    let command = place.inside("sh", &["-c", "trap 'echo told' INT; trap '' TERM; echo up; while :; do sleep .05; done"]);
    let mut shell = Command::new("bash");
    let words: Vec<String> = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    shell.args(["-c", &format!("trap '' INT; (trap - INT; exec {}) | cat; echo code ${{PIPESTATUS[0]}}", words.join(" "))]);
    shell.current_dir(place.silo.project()).envs(VARIABLES).env("HOME", place.silo.home()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut session = Session::controlled(&shell);
    session.expect("up\r\n");
    session.type_in("\x03");
    session.expect("told\r\n");
    // Keys count as repeated within two seconds of each other, so they come until it ends.
    for _ in 0..100 {
        if session.has_ended() {
            break;
        }
        session.type_in("\x03");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    session.expect("code 137\r\n");
    session.end();
}

#[test]
fn a_terminal_that_a_killed_run_left_is_given_back_by_the_next() {
    let place = place();
    let script = "\"$0\" \"$@\"; echo killed; read line; \"$0\" list --json >/dev/null; echo again; read line";
    let command = place.inside("sh", &["-c", "echo up; exec sleep 1000"]);
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args()).current_dir(place.silo.project());
    shell.envs(VARIABLES).env("HOME", place.silo.home()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut session = Session::controlled(&shell);
    session.expect("up\r\n");
    until("it is raw", || !cooked(&session.slave));
    let number = rustix::fs::fstat(&session.slave).expect("a terminal").st_rdev;
    let note = place.silo.path("terminals").join(format!("{number:x}"));
    let text = fs::read_to_string(&note).expect("what the terminal was is written down");
    let pid = text.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a process").to_owned();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill starts").success());
    session.expect("killed");
    assert!(!cooked(&session.slave), "nobody has given it back yet");
    session.type_in("\n");
    session.expect("again");
    assert!(cooked(&session.slave), "the next silo has");
    assert!(!note.exists());
    session.type_in("\n");
    session.end();
}
