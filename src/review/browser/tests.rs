//! The state after keys, without a terminal.

use super::*;

fn entry(name: &str, kind: EntryKind, member: usize) -> Entry {
    let refusal = name.starts_with("conflict").then(|| "it changed here too".to_owned());
    let is_safe = kind != EntryKind::Obeyed;
    Entry { kind, word: "added", name: name.to_owned(), note: String::new(), refusal, is_safe, members: vec![member] }
}

fn browser() -> Browser {
    let mut entries = vec![entry(".envrc", EntryKind::Obeyed, 0), entry("conflict.py", EntryKind::Source, 1)];
    entries.extend((2..30).map(|number| entry(&format!("src/file{number}.py"), EntryKind::Source, number)));
    entries.push(Entry { members: vec![30, 31], ..entry("node_modules", EntryKind::Generated, 30) });
    Browser::new("title".to_owned(), entries)
}

/// Presses keys: a letter each, `\n` for Enter, `\x1b` for Escape, `\t` for Tab.
fn press(browser: &mut Browser, keys: &str) -> Effect {
    let key = |letter| match letter {
        '\n' => Key::Enter,
        '\t' => Key::Tab,
        '\x1b' => Key::Escape,
        '\x08' => Key::Backspace,
        letter => Key::Char(letter),
    };
    keys.chars().map(key).fold(Effect::None, |_, key| browser.press(key))
}

fn name(browser: &Browser) -> &str {
    browser.current().map_or("", |entry| entry.name.as_str())
}

#[test]
fn the_cursor_stays_in_the_list_and_on_the_screen() {
    let mut browser = browser();
    for rows in [0, 1, 5, 6, 11, 24, 80] {
        browser.resize(rows);
        for (keys, expect) in [("G", "node_modules"), ("k", "src/file29.py"), ("jjjj", "node_modules"), ("g", ".envrc"), ("kk", ".envrc")] {
            press(&mut browser, keys);
            assert_eq!(name(&browser), expect, "{keys} with {rows} lines");
            let (page, at) = browser.page();
            assert!(at < page.len() || page.is_empty() || browser.panes().0 == 0, "{at} of {} with {rows} lines", page.len());
        }
        let (list, details) = browser.panes();
        assert_eq!(list + details, rows.saturating_sub(FRAME_ROWS));
    }
    browser.resize(24);
    for (key, expect) in [(Key::PageDown, "src/file10.py"), (Key::Ctrl('d'), "src/file15.py"), (Key::Ctrl('u'), "src/file10.py")] {
        browser.press(key);
        assert_eq!(name(&browser), expect);
    }
    browser.press(Key::End);
    assert_eq!(browser.page().0.last().map(|(entry, _)| entry.name.as_str()), Some("node_modules"));
}

#[test]
fn the_list_is_filtered_by_text_and_by_kind() {
    let mut browser = browser();
    for (keys, listed, mode) in [
        ("/FILE1", 10, Mode::Filter),
        ("5", 1, Mode::Filter),
        ("\x08\n", 10, Mode::List),
        ("\t", 0, Mode::List),
        ("\x1b", 31, Mode::List),
        ("\t", 1, Mode::List),
        ("\t", 29, Mode::List),
        ("\t", 1, Mode::List),
        ("\t", 1, Mode::List),
        ("\t", 0, Mode::List),
        ("\t", 31, Mode::List),
        ("/nothing has this", 0, Mode::Filter),
        ("\n ad*\x1b", 31, Mode::List),
    ] {
        press(&mut browser, keys);
        assert_eq!((browser.counts().0, browser.mode), (listed, mode), "{keys:?}");
    }
    // A pasted key that acts on a terminal is no text.
    press(&mut browser, "/");
    browser.press(Key::Char('\u{202e}'));
    assert_eq!(browser.filter, "");
    press(&mut browser, &"x".repeat(1000));
    assert_eq!(browser.filter.len(), MAX_FILTER);
}

#[test]
fn chosen_changes_are_decided_after_a_question() {
    let mut browser = browser();
    assert_eq!(press(&mut browser, "a"), Effect::None);
    assert!(browser.message.contains("Space") && browser.mode == Mode::List);
    // The first entry is chosen and the cursor goes on.
    press(&mut browser, " ");
    assert_eq!((browser.counts().2, name(&browser), browser.chosen_obeyed()), (1, "conflict.py", 1));
    press(&mut browser, " a");
    assert!(browser.mode == Mode::List && browser.message.contains("cannot be applied"), "{}", browser.message);
    // It can be discarded.
    assert_eq!(press(&mut browser, "d"), Effect::None);
    assert_eq!(browser.mode, Mode::Confirm(Decision::Discard));
    assert_eq!((press(&mut browser, "\n"), browser.mode), (Effect::None, Mode::List));
    assert_eq!(press(&mut browser, "dy"), Effect::Decide(Decision::Discard));
    press(&mut browser, "gj ");
    assert_eq!(press(&mut browser, "ay"), Effect::Decide(Decision::Apply));
    assert_eq!(browser.chosen().iter().copied().collect::<Vec<_>>(), [0]);
    press(&mut browser, "*");
    assert_eq!(browser.counts().2, 32);
    press(&mut browser, "*");
    assert_eq!(browser.counts().2, 0);
    // Safe ones: neither obeyed nor in conflict.
    press(&mut browser, "s");
    assert_eq!((browser.counts().2, browser.chosen_obeyed()), (30, 0));
    browser.reload("title".to_owned(), vec![entry("left", EntryKind::Source, 0)]);
    assert_eq!((browser.counts(), name(&browser)), ((1, 1, 0), "left"));
    browser.reload("title".to_owned(), Vec::new());
    assert_eq!((press(&mut browser, "jk G\n*say"), browser.counts()), (Effect::None, (0, 0, 0)));
}

#[test]
fn details_are_read_for_the_current_entry_alone() {
    let mut browser = browser();
    assert_eq!(browser.wanted().map(|entry| entry.name.as_str()), Some(".envrc"));
    let lines: Vec<String> = (0..100).map(|number| format!("\t{number}")).collect();
    browser.set_details(&lines);
    assert!(browser.wanted().is_none() && browser.details.lines[7] == "    7");
    for (keys, top, left) in [("\nj", 1, 0), ("G", 99, 0), ("jj", 99, 0), ("g", 0, 0), ("ll", 0, 16), ("hhh", 0, 0)] {
        press(&mut browser, keys);
        assert_eq!((browser.details.top, browser.details.left), (top, left), "{keys:?}");
    }
    assert_eq!(browser.mode, Mode::List);
    press(&mut browser, "j");
    assert_eq!(browser.wanted().map(|entry| entry.name.as_str()), Some("conflict.py"));
    // A screen without room for details reads none.
    browser.resize(8);
    assert!(browser.wanted().is_none());
}

#[test]
fn keys_leave_in_every_mode() {
    for keys in ["", "/x", "?", " a", "\n"] {
        let mut browser = browser();
        press(&mut browser, keys);
        assert_eq!(browser.press(Key::Ctrl('c')), Effect::Interrupt, "{keys:?}");
        assert_eq!(browser.press(Key::Ctrl('z')), Effect::Suspend, "{keys:?}");
    }
    let mut browser = browser();
    assert_eq!(press(&mut browser, "?q"), Effect::None);
    assert_eq!(press(&mut browser, "\nq"), Effect::None);
    assert_eq!(press(&mut browser, "r"), Effect::Reload);
    assert_eq!(press(&mut browser, "q"), Effect::Leave);
}
