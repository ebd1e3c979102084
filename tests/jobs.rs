//! A program as a shell job: each step runs in a real bash, zsh and fish with real keys, once in a sandbox and once outside, and the
//! results must be equal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::sandbox::{until, until_else};
use crate::support::{has, skip};
use crate::terminal::{Place, place, quoted};

/// The shells, and the arguments by which they read no settings.
const SHELLS: [(&str, &[&str]); 3] = [("bash", &["--norc", "--noprofile", "-i"]), ("zsh", &["-f", "-i"]), ("fish", &["--no-config", "-i"])];

/// Whether the program of a step runs in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Inside,
    Outside,
}

/// A shell in a window of tmux, and a directory where it starts programs.
struct Window {
    socket: PathBuf,
    dir: PathBuf,
}

impl Window {
    fn open(place: &Place, shell: &str, arguments: &[&str]) -> Window {
        let dir = place.project();
        let window = Window { socket: dir.join("tmux"), dir };
        let mut start = window.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "--", shell]);
        start.args(arguments).env("PS1", "> ").env("HOME", place.home()).env("HISTFILE", "/dev/null").env("TERM", "xterm");
        assert!(start.status().expect("tmux starts").success());
        // The shell reads its keys itself from here on.
        window.type_line("echo rea''dy");
        until("the shell is ready", || window.text().lines().any(|line| line.trim() == "ready"));
        window
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(arguments).current_dir(&self.dir).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn keys(&self, keys: &str) {
        assert!(self.tmux(&["send-keys", keys]).status().expect("tmux starts").success());
    }

    fn type_line(&self, line: &str) {
        assert!(self.tmux(&["send-keys", "-l", line]).status().expect("tmux starts").success());
        self.keys("Enter");
    }

    fn text(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p", "-S", "-100"]).output().expect("tmux starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a file of the directory has this content.
    fn expect_file(&self, name: &str, content: &str) {
        let read = || fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        until_else(|| read() == content, || format!("{name} has {:?}, not {content:?}; the window has {:?}", read(), self.text()));
    }

    /// Waits until the shell takes lines again. One that is typed before the program has ended is the program's.
    fn expect_prompt(&self) {
        let is_back = || {
            self.type_line("echo ag''ain");
            std::thread::sleep(std::time::Duration::from_millis(500));
            self.text().lines().any(|line| line.trim() == "again")
        };
        until_else(is_back, || format!("the shell is not back: {}", self.text()));
    }

    /// Waits until the terminal is another process group's than the shell's: earlier keys would be the shell's.
    fn expect_job(&self) {
        let output = self.tmux(&["display-message", "-p", "#{pane_pid}"]).output().expect("tmux starts");
        let shell = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let has_left = || {
            let stat = fs::read_to_string(format!("/proc/{shell}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            // Its own process group, and the terminal's.
            fields.len() > 5 && fields[2] != fields[5]
        };
        until_else(has_left, || format!("no job has the terminal: {}", self.text()));
    }

    fn close(&self) {
        let _ = self.tmux(&["kill-server"]).status();
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes the program of a step, and a script that becomes it.
fn write(place: &Place, which: Where, program: &str) {
    let dir = place.project();
    fs::write(dir.join("program"), program).expect("our own project");
    let command = match which {
        Where::Inside => {
            let command = place.inside("sh", &["./program"]);
            let variables = command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
            let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
            std::iter::once("env".to_owned()).chain(variables).chain(words).collect::<Vec<_>>().join(" ")
        }
        Where::Outside => "sh ./program".to_owned(),
    };
    fs::write(dir.join("start"), format!("echo $$ > pid; exec {command}\n")).expect("our own project");
}

/// Plays a step in each shell that is there, in a sandbox and outside of one.
fn in_each_shell(program: &str, play: impl Fn(&Window, &str)) {
    if !has("tmux") {
        return skip("tmux is not installed, so no shell can be typed into");
    }
    for (shell, arguments) in SHELLS {
        if !has(shell) {
            skip(&format!("{shell} is not installed"));
            continue;
        }
        for which in [Where::Outside, Where::Inside] {
            let place = place();
            write(&place, which, program);
            let window = Window::open(&place, shell, arguments);
            play(&window, shell);
        }
    }
}

fn pid(dir: &Path) -> i32 {
    let read = || fs::read_to_string(dir.join("pid")).unwrap_or_default().trim().parse().ok();
    until("the process has said its number", || read().is_some());
    read().unwrap_or_default()
}

fn kill(signal: &str, to: i32) {
    assert!(Command::new("kill").args([&format!("-{signal}"), "--", &to.to_string()]).status().expect("kill starts").success());
}

#[test]
fn a_job_in_the_background_runs() {
    in_each_shell("sleep .3; echo done >> result", |window, _| {
        window.type_line("sh ./start &");
        window.expect_file("result", "done\n");
    });
}

#[test]
fn a_job_in_the_background_that_reads_is_stopped_and_reads_in_the_foreground() {
    in_each_shell("read line; echo \"got $line\" >> result", |window, shell| {
        window.type_line("sh ./start &");
        until("it is stopped", || {
            window.type_line("jobs");
            std::thread::sleep(std::time::Duration::from_millis(200));
            let text = window.text().to_lowercase();
            if shell == "zsh" { text.contains("tty input") } else { text.contains("stopped") }
        });
        window.type_line("fg");
        window.expect_job();
        std::thread::sleep(std::time::Duration::from_millis(500));
        window.type_line("bob");
        window.expect_file("result", "got bob\n");
        // The shell edits lines as before.
        window.expect_prompt();
    });
}

#[test]
fn a_job_that_is_brought_to_the_foreground_while_it_runs_gets_the_keys() {
    in_each_shell(
        "touch up; while [ ! -e go ]; do sleep .1; done; stty -a > modes; read line; echo \"got $line\" >> result",
        |window, _| {
            window.type_line("sh ./start &");
            until("it runs", || window.dir.join("up").exists());
            window.type_line("fg");
            window.expect_job();
            std::thread::sleep(std::time::Duration::from_millis(500));
            fs::write(window.dir.join("go"), "").expect("our own project");
            until("it looks at its terminal", || fs::read_to_string(window.dir.join("modes")).is_ok_and(|text| text.contains("echo")));
            let modes = fs::read_to_string(window.dir.join("modes")).expect("written");
            for mode in ["icrnl", "icanon", "echo", "isig"] {
                assert!(modes.split_whitespace().any(|word| word.trim_end_matches(';') == mode), "{mode} is off: {modes}");
            }
            window.type_line("bob");
            window.expect_file("result", "got bob\n");
        },
    );
}

#[test]
fn a_stopped_job_goes_on_in_the_background() {
    in_each_shell("touch up; while [ ! -e stop ]; do sleep .1; echo x >> beat; done; echo ended >> result", |window, _| {
        window.type_line("sh ./start");
        until("it runs", || window.dir.join("beat").exists());
        window.keys("C-z");
        let beats = || fs::read_to_string(window.dir.join("beat")).unwrap_or_default().len();
        until("it stands still", || {
            let before = beats();
            std::thread::sleep(std::time::Duration::from_millis(400));
            before == beats()
        });
        window.type_line("bg");
        let before = beats();
        until("it goes on", || beats() > before);
        window.expect_prompt();
        fs::write(window.dir.join("stop"), "").expect("our own project");
        window.expect_file("result", "ended\n");
    });
}

#[test]
fn a_key_that_interrupts_a_script_ends_all_of_it() {
    in_each_shell("touch up; sleep 1000", |window, _| {
        fs::write(window.dir.join("script"), "sh ./start; echo after >> result\n").expect("our own project");
        window.type_line("sh ./script");
        until("it runs", || window.dir.join("up").exists());
        std::thread::sleep(std::time::Duration::from_millis(300));
        window.keys("C-c");
        window.expect_prompt();
        assert!(!window.dir.join("result").exists(), "the script went on");
    });
}

#[test]
fn a_program_behind_a_pipe_reads_the_terminal_by_its_name() {
    in_each_shell("read piped; read typed </dev/tty; echo \"$piped $typed\" >> result", |window, _| {
        window.type_line("echo piped | sh ./start | cat");
        pid(&window.dir);
        std::thread::sleep(std::time::Duration::from_millis(1500));
        window.type_line("typed");
        window.expect_file("result", "piped typed\n");
        window.expect_prompt();
    });
}

#[test]
fn a_signal_for_the_process_group_reaches_the_children_and_one_for_the_process_does_not() {
    const PROGRAM: &str = "
        trap 'echo program >> result' USR1; trap 'wait; echo program >> result; exit' TERM
        sh -c 'trap \"echo child >> result; exit\" TERM USR1; touch up; while :; do sleep .1; done' &
        while :; do sleep .1; done";
    in_each_shell(PROGRAM, |window, _| {
        window.type_line("sh ./start &");
        until("it runs", || window.dir.join("up").exists());
        let pid = pid(&window.dir);
        kill("USR1", pid);
        window.expect_file("result", "program\n");
        kill("TERM", -pid);
        window.expect_file("result", "program\nchild\nprogram\n");
    });
}

#[test]
fn a_window_that_is_closed_hangs_up_and_the_program_answers() {
    // The kernel and the shell both send SIGHUP, so a program can get it twice.
    in_each_shell("trap 'trap \"\" HUP; echo told >> result; exit' HUP; touch up; while :; do sleep .1; done", |window, _| {
        window.type_line("sh ./start");
        until("it runs", || window.dir.join("up").exists());
        std::thread::sleep(std::time::Duration::from_millis(300));
        window.close();
        window.expect_file("result", "told\n");
    });
}
