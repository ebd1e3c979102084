//! `silo review` on a real terminal: a list to scroll, filter and choose from.

use std::fs;
use std::process::Command;

use crate::support::sandbox::until;
use crate::support::terminal::{Session, cooked, size};
use crate::support::{As, Silo};

/// The alternate screen, and its end.
const OPENED: &str = "\x1b[?1049h";
const CLOSED: &str = "\x1b[?1049l";

/// A project with changes that wait for a decision.
fn changed(program: &str) -> Silo {
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("kept.py"), "kept\n").expect("our own project");
    let done = silo.run(["run", "--review", "--shim", "python3", "python", "--", "-c", program]);
    assert_eq!(done.code, 0, "{done:?}");
    silo
}

const CHANGES: &str = r#"
open("one.py", "w").write("first\n")
open("two.py", "w").write("second\n")
open("kept.py", "w").write("changed\n")
open(".envrc", "w").write("echo surprise\n")
open("\x1b]0;title\x07\u202ename.py", "w").write("\x1b[31mred\u202e\n")
"#;

fn review(silo: &Silo, term: &str) -> Command {
    let mut command = silo.command(["review"]);
    command.env("TERM", term);
    command
}

fn files(silo: &Silo) -> Vec<String> {
    let listing = fs::read_dir(silo.project()).expect("our own project");
    let mut names: Vec<String> = listing.map(|entry| entry.expect("ours").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn one_chosen_entry_is_applied_and_no_other() {
    let silo = changed(CHANGES);
    let mut session = Session::controlled(&review(&silo, "xterm"));
    session.expect(OPENED);
    // The first entry is one that this machine obeys, with its difference.
    let first = session.expect("surprise");
    assert!(first.contains(".envrc") && first.contains("direnv"), "{first:?}");
    for hostile in ["\x1b]0;", "\u{202e}", "\x1b[31mred", "\x07"] {
        assert!(!first.contains(hostile), "{first:?}");
    }
    assert!(first.contains(r"\u{1b}]0;title\u{7}\u{202e}name.py"), "{first:?}");
    // Resized, filtered by text, chosen, and the question about it.
    session.resize_controlled(size(40, 120));
    session.expect("\x1b[2J");
    session.type_in("/tw");
    session.expect("second");
    session.type_in("\r a");
    session.expect("Apply");
    session.type_in("y");
    session.expect(CLOSED);
    session.expect("applied 1 change");
    session.expect(OPENED);
    assert_eq!(files(&silo), ["kept.py", "two.py"]);
    assert_eq!(fs::read_to_string(silo.project().join("kept.py")).expect("ours"), "kept\n");
    // The next one is discarded: the text of the filter goes first.
    session.type_in("\x1b");
    session.expect("surprise");
    session.type_in(" d");
    session.expect("Discard");
    session.type_in("y");
    session.expect("discarded 1 change");
    session.expect(OPENED);
    session.type_in("q");
    session.expect(CLOSED);
    let (code, _, cooked) = session.end();
    assert_eq!((code, cooked), (Some(0), true));
    let left = silo.ok(["review", "--list"]);
    assert!(left.contains("one.py") && left.contains("kept.py") && !left.contains("two.py") && !left.contains(".envrc"), "{left}");
    assert_eq!(files(&silo), ["kept.py", "two.py"]);
}

#[test]
fn a_change_that_is_another_one_since_it_was_shown_is_not_applied() {
    let silo = changed(r#"open("one.py", "w").write("first\n")"#);
    let mut session = Session::controlled(&review(&silo, "xterm"));
    session.expect("first");
    let again = silo.run(["run", "--review", "--shim", "python3", "python", "--", "-c", r#"open("one.py", "w").write("again\n")"#]);
    assert_eq!(again.code, 0, "{again:?}");
    session.type_in(" ay");
    session.expect("changed again since you saw it");
    session.expect(OPENED);
    session.expect("again");
    assert_eq!(files(&silo), ["kept.py"]);
    session.type_in(" ay");
    // Nothing is left to review.
    session.expect("applied 1 change");
    assert_eq!(session.end().0, Some(0));
    assert_eq!(fs::read_to_string(silo.project().join("one.py")).expect("applied"), "again\n");
}

#[test]
fn the_terminal_is_as_before_after_every_end() {
    let silo = changed(CHANGES);
    for (end, expect) in [("\x03", Some(130)), ("TERM", None), ("HUP", None), ("INT", None), ("q", Some(0))] {
        let mut session = Session::controlled(&review(&silo, "xterm"));
        session.expect("surprise");
        assert!(!cooked(&session.slave), "{end:?}");
        match end {
            "\x03" | "q" => session.type_in(end),
            signal => session.signal(signal),
        }
        let last = session.expect(CLOSED);
        assert!(last.contains("\x1b[?25h"), "the cursor is hidden after {end:?}: {last:?}");
        let (code, _, cooked) = session.end();
        assert_eq!((code, cooked), (expect, true), "{end:?}");
    }
}

#[test]
fn the_view_is_stopped_and_continued_by_a_shell() {
    let silo = changed(CHANGES);
    let review = review(&silo, "xterm");
    let mut shell = Command::new("bash");
    shell
        .args(["--norc", "--noprofile", "-i"])
        .current_dir(silo.project())
        .env_clear()
        .envs(review.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PS1", "shell> ").env("HISTFILE", "/dev/null");
    fs::write(silo.project().join("start"), format!("exec {} review\n", crate::terminal::quoted(review.get_program())))
        .expect("our own project");
    let mut session = Session::controlled(&shell);
    session.expect("shell> ");
    session.type_in("bash ./start\r");
    session.expect("surprise");
    session.type_in("\x1a");
    session.expect(CLOSED);
    session.expect("Stopped");
    session.expect("shell> ");
    session.type_in("echo $((20 + 1))\r");
    session.expect("21\r\n");
    session.expect("shell> ");
    let shell = session.foreground();
    session.type_in("fg\r");
    session.expect(OPENED);
    session.expect("surprise");
    until("the view has the terminal", || session.foreground() != shell);
    session.type_in("q");
    session.expect(CLOSED);
    session.expect("shell> ");
    session.type_in("echo code $?; exit\r");
    session.expect("code 0\r\n");
    session.end();
}

#[test]
fn a_terminal_without_a_screen_and_a_flag_get_a_listing() {
    let silo = changed(CHANGES);
    let mut plain = silo.command(["review", "--plain"]);
    plain.env("TERM", "xterm");
    let mut list = silo.command(["review", "--list"]);
    list.env("TERM", "xterm");
    for command in [&review(&silo, "dumb"), &plain, &list] {
        let mut session = Session::controlled(command);
        let before = session.expect("`silo apply` applies all changes");
        assert!(before.contains("one.py") && !before.contains('\x1b'), "{before:?}");
        assert_eq!(session.end().0, Some(0));
    }
}

#[test]
fn colours_are_left_out_on_request() {
    let silo = changed(CHANGES);
    for (value, has_colours) in [("1", false), ("", true)] {
        let mut command = review(&silo, "xterm");
        command.env("NO_COLOR", value);
        let mut session = Session::controlled(&command);
        session.expect(OPENED);
        let first = session.expect("surprise");
        assert_eq!(first.contains("\x1b[38;5"), has_colours, "{first:?}");
        session.type_in("q");
        session.end();
    }
}
