//! Tools and versions chosen on a real terminal (`silo use` and `silo install` without a tool).

use std::fs;

use crate::support::Silo;
use crate::support::terminal::Session;

#[test]
fn a_tool_and_its_version_are_chosen_on_a_terminal() {
    let silo = Silo::new();
    let settings = || fs::read_to_string(silo.project().join("silo.toml")).unwrap_or_default();
    fs::write(silo.project().join("silo.toml"), "").expect("our own project");
    let mut session = Session::controlled(silo.command(["use"]).env("TERM", "xterm"));
    session.expect("Use a tool");
    session.type_in("npm node");
    session.type_in("\r");
    session.expect("Use node in a version");
    session.type_in("22.");
    session.type_in("\r");
    session.expect("run `silo sync` next");
    assert_eq!(session.end().0, Some(0));
    assert!(settings().contains("tools = [\"node\"]") && settings().contains("version = \"22."), "{}", settings());
    // Escape leaves everything as it is, and Ctrl-C, too.
    let before = settings();
    for key in ["\x1b", "\x03"] {
        for verb in ["use", "install"] {
            let mut session = Session::controlled(silo.command([verb]).env("TERM", "xterm"));
            session.expect(" a tool");
            session.type_in(key);
            session.expect("nothing was chosen");
            assert_eq!(session.end().0, Some(130));
        }
    }
    assert_eq!(settings(), before);
}

#[test]
fn without_a_terminal_nothing_is_asked() {
    let silo = Silo::new();
    for verb in ["use", "install"] {
        let done = silo.run([verb]);
        assert!(done.code == 2 && done.err.contains("no tool is named") && done.err.contains("silo list --available"), "{done:?}");
    }
    // A terminal that cannot show the list.
    let mut session = Session::controlled(silo.command(["use"]).env("TERM", "dumb"));
    session.expect("no tool is named");
    assert_eq!(session.end().0, Some(2));
}
