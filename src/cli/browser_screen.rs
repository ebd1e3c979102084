//! Draws the interactive view of a review. All its texts are escaped already, and no cell gets a control character.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::Span;

use silo_review::browser::{Browser, Chosen, Decision, Mode};
use silo_review::entries::{Entry, EntryKind};

use super::deciding::count;

/// Columns of the mark and the word before a name.
const LEAD: usize = 14;

/// The colours of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// Colours of the terminal.
    Colours,
    /// Bold and reversed text only.
    Plain,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        match self {
            Palette::Colours => Style::new().fg(colour),
            Palette::Plain => Style::new(),
        }
    }
}

/// One line of the screen.
struct Row {
    x: usize,
    y: usize,
    width: usize,
}

/// Draws the whole screen.
pub fn draw(buffer: &mut Buffer, browser: &Browser, palette: Palette) {
    let area = buffer.area;
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let row = |y: usize| Row { x: 0, y, width };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    text(buffer, &row(0), &browser.title, bold);
    text(buffer, &row(1), &status(browser), Style::new());
    if browser.mode == Mode::Help {
        for (line, y) in HELP.iter().zip(2..height) {
            text(buffer, &row(y), line, Style::new());
        }
        return;
    }
    let (list, details) = browser.panes();
    let (page, at) = browser.page();
    if page.is_empty() && list > 0 {
        text(buffer, &row(2), "  no entry fits the filter", Style::new());
    }
    for (place, (entry, chosen)) in page.iter().enumerate() {
        draw_entry(buffer, &row(2 + place), (entry, *chosen), palette);
        if place == at && browser.mode != Mode::Details {
            mark_row(buffer, 2 + place);
        }
    }
    let separator = 2 + list;
    if separator < height {
        text(buffer, &row(separator), &"─".repeat(width), palette.of(Color::DarkGray));
    }
    for (line, y) in browser.details.lines.iter().skip(browser.details.top).take(details).zip(separator + 1..) {
        let style = palette.of(line_colour(line));
        part(buffer, &row(y), line, browser.details.left, style);
    }
    if height >= 2 {
        text(buffer, &row(height - 2), &message(browser), bold);
        text(buffer, &row(height - 1), keys(browser.mode), palette.of(Color::DarkGray));
    }
}

fn draw_entry(buffer: &mut Buffer, row: &Row, (entry, chosen): (&Entry, Chosen), palette: Palette) {
    let mark = match chosen {
        Chosen::No => "[ ]",
        Chosen::Partly => "[-]",
        Chosen::Yes => "[x]",
    };
    let lead = format!("{mark} {:8}  ", entry.word);
    text(buffer, &Row { width: LEAD.min(row.width), ..*row }, &lead, Style::new());
    let left = row.width.saturating_sub(LEAD);
    let (note, colour) = match (&entry.refusal, entry.kind) {
        (Some(refusal), _) => (format!("not applicable: {refusal}"), Color::Red),
        (None, EntryKind::Obeyed) => (entry.note.clone(), Color::Yellow),
        (None, _) => (entry.note.clone(), Color::DarkGray),
    };
    let (name_width, note_width) = (Span::raw(&entry.name).width(), Span::raw(&note).width());
    // A long name leaves half of the line to a reason, and a short one more.
    let note_width = note_width.min((left / 2).max(left.saturating_sub(name_width + 2)));
    let gap = if note_width == 0 { 0 } else { note_width + 2 };
    let name_width = name_width.min(left.saturating_sub(gap));
    text(buffer, &Row { x: row.x + LEAD, y: row.y, width: name_width }, &entry.name, Style::new());
    let x = row.x + LEAD + name_width + 2;
    text(buffer, &Row { x, y: row.y, width: note_width }, &note, palette.of(colour));
}

/// Reverses a line.
fn mark_row(buffer: &mut Buffer, y: usize) {
    let area = buffer.area;
    let y = u16::try_from(y).unwrap_or(u16::MAX);
    if y < area.height {
        buffer.set_style(Rect::new(0, y, area.width, 1), Style::new().add_modifier(Modifier::REVERSED));
    }
}

fn text(buffer: &mut Buffer, row: &Row, line: &str, style: Style) {
    part(buffer, row, line, 0, style);
}

/// Draws a part of a line, from a column on. A mark at the end shows that the line goes on.
fn part(buffer: &mut Buffer, row: &Row, line: &str, from: usize, style: Style) {
    let (Ok(x), Ok(y)) = (u16::try_from(row.x), u16::try_from(row.y)) else { return };
    let area = buffer.area;
    if x >= area.width || y >= area.height || row.width == 0 {
        return;
    }
    let width = row.width.min(usize::from(area.width - x));
    let mut letters = line.chars().skip(from);
    // One more than fits; no letter of a line takes less than one column, except marks on others.
    let shown: String = letters.by_ref().take(width + 1).collect();
    let is_cut = letters.next().is_some() || Span::raw(&shown).width() > width;
    if is_cut {
        buffer.set_stringn(x, y, &shown, width - 1, style);
        let end = x + u16::try_from(width - 1).unwrap_or(0);
        buffer.set_stringn(end, y, "›", 1, Style::new().add_modifier(Modifier::REVERSED));
    } else {
        buffer.set_stringn(x, y, &shown, width, style);
    }
}

fn line_colour(line: &str) -> Color {
    match line.chars().next() {
        Some('+') => Color::Green,
        Some('-') => Color::Red,
        Some('@') => Color::Cyan,
        _ => Color::Reset,
    }
}

fn status(browser: &Browser) -> String {
    let (listed, all, chosen) = browser.counts();
    let filter = match (browser.mode, browser.filter.is_empty()) {
        (Mode::Filter, _) => format!("   filter: {}_", browser.filter),
        (_, true) => String::new(),
        (_, false) => format!("   filter: {}", browser.filter),
    };
    format!("{listed} of {all} entries   {chosen} chosen   shown: {}{filter}", browser.shown.word())
}

fn message(browser: &Browser) -> String {
    let Mode::Confirm(decision) = browser.mode else { return browser.message.clone() };
    let (_, _, chosen) = browser.counts();
    let number = count(chosen, "change");
    match (decision, browser.chosen_obeyed()) {
        (Decision::Discard, _) => format!("Discard {number}? [y/N]"),
        (Decision::Apply, 0) => format!("Apply {number}? [y/N]"),
        (Decision::Apply, obeyed) => format!("Apply {number}? This machine executes or obeys {obeyed} of them. [y/N]"),
    }
}

/// The keys of a mode, for the last line.
fn keys(mode: Mode) -> &'static str {
    match mode {
        Mode::List => "q leave  ? help  Space choose  a apply  d discard  / filter  Tab kind  Enter details",
        Mode::Details => "Esc back  j/k scroll  h/l sideways  Space choose  ? help",
        Mode::Filter => "Enter keep the filter  Esc remove it",
        Mode::Help => "any key: back",
        Mode::Confirm(_) => "y yes  any other key: no",
    }
}

const HELP: [&str; 21] = [
    "",
    "j k  Down Up         next and previous line",
    "Ctrl-D Ctrl-U        half a page",
    "PageDown PageUp      a page; also Ctrl-F, Ctrl-B",
    "g G  Home End        first and last line",
    "Space                choose an entry, or take it out",
    "*                    choose all listed entries, or take them out",
    "s                    choose all listed entries that nothing here executes by itself",
    "Enter l Right        scroll the details of an entry; Esc goes back",
    "/                    list the entries with this text in their path, reason or kind",
    "Tab Shift-Tab        list one kind: obeyed, sources, generated, not applicable, chosen",
    "Esc                  list all entries",
    "a                    apply the chosen changes, after a question",
    "d                    discard the chosen changes, after a question",
    "r                    read the changes again",
    "Ctrl-L               draw the screen again",
    "Ctrl-Z               stop; fg continues",
    "q  Ctrl-C            leave",
    "",
    "Letters that act or hide, and letters that look like others, are numbers: \\u{202e}.",
    "Any key goes back.",
];

#[cfg(test)]
mod tests {
    use ratatui_core::backend::TestBackend;
    use ratatui_core::terminal::Terminal;

    use silo_review::browser::Key;

    use super::*;

    fn entry(word: &'static str, name: &str, note: &str, kind: EntryKind) -> Entry {
        let refusal = (word == "changed").then(|| "it changed here too".to_owned());
        let members = vec![name.len()];
        Entry { kind, word, name: name.to_owned(), note: note.to_owned(), refusal, is_safe: kind != EntryKind::Obeyed, members }
    }

    fn browser() -> Browser {
        let entries = vec![
            entry("added", ".envrc", "direnv acts on it", EntryKind::Obeyed),
            entry("changed", "src/a.py", "", EntryKind::Source),
            entry("added", &"long/".repeat(30), "", EntryKind::Source),
            entry("files", "node_modules", "340 files, 2.0 MiB, not only data", EntryKind::Generated),
        ];
        let mut browser = Browser::new("Changes in ~/agent".to_owned(), entries);
        browser.set_details(&["added .envrc".to_owned(), "+\techo \\u{1b}[31m".to_owned(), format!("-{}", "x".repeat(100))]);
        browser
    }

    fn screen(browser: &mut Browser, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("never fails");
        browser.resize(usize::from(height));
        terminal.draw(|frame| draw(frame.buffer_mut(), browser, Palette::Plain)).expect("never fails");
        let lines = terminal.backend().buffer().content.chunks(usize::from(width.max(1)));
        lines.map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn the_list_and_the_details_of_an_entry_are_on_one_screen() {
        let mut browser = browser();
        browser.press(Key::Char(' '));
        browser.press(Key::Up);
        let expect = [
            "Changes in ~/agent",
            "4 of 4 entries   1 chosen   shown: all",
            "[x] added     .envrc  direnv acts on it",
            "[ ] changed   src/a.py  not applicable: it changed here too",
            "[ ] added     long/long/long/long/long/long/long/long/long/›",
            "[ ] files     node_modules  340 files, 2.0 MiB, not only da›",
            "────────────────────────────────────────────────────────────",
            "added .envrc",
            "+    echo \\u{1b}[31m",
            "-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx›",
            "",
            "q leave  ? help  Space choose  a apply  d discard  / filter›",
        ];
        assert_eq!(screen(&mut browser, 60, 12), expect);
        browser.press(Key::Char('a'));
        let lines = screen(&mut browser, 80, 12);
        assert_eq!(lines[10], "Apply 1 change? This machine executes or obeys 1 of them. [y/N]");
        browser.press(Key::Escape);
        browser.press(Key::Char('/'));
        browser.press(Key::Char('z'));
        let lines = screen(&mut browser, 80, 12);
        assert_eq!(
            (lines[1].as_str(), lines[2].as_str()),
            ("0 of 4 entries   1 chosen   shown: all   filter: z_", "  no entry fits the filter")
        );
        browser.press(Key::Escape);
        browser.press(Key::Char('?'));
        assert!(screen(&mut browser, 80, 30).iter().any(|line| line.starts_with("Ctrl-Z")));
    }

    #[test]
    fn details_are_scrolled_to_the_side() {
        let mut browser = browser();
        let _ = screen(&mut browser, 40, 12);
        browser.press(Key::Enter);
        for _ in 0..9 {
            browser.press(Key::Right);
        }
        let lines = screen(&mut browser, 40, 12);
        assert_eq!(lines[6], "x".repeat(29), "{lines:?}");
    }

    #[test]
    fn every_size_of_a_screen_is_drawn() {
        for width in [1, 2, 13, 14, 15, 20, 300] {
            for height in [1, 2, 3, 5, 7, 11, 80] {
                for keys in ["", "\n", "/", "?"] {
                    let mut browser = browser();
                    for key in keys.chars() {
                        browser.press(if key == '\n' { Key::Enter } else { Key::Char(key) });
                    }
                    assert_eq!(screen(&mut browser, width, height).len(), usize::from(height));
                }
            }
        }
    }

    #[test]
    fn wide_and_combined_letters_stay_in_their_line() {
        let mut browser = browser();
        browser.set_details(&["日本".repeat(40), "e\u{301}".repeat(200), format!("a{}", "\u{301}".repeat(500))]);
        let lines = screen(&mut browser, 21, 12);
        for line in &lines[7..10] {
            assert!(line.ends_with('›'), "{line:?}");
        }
    }

    #[test]
    fn without_colours_only_weight_and_direction_change() {
        let mut browser = browser();
        browser.resize(12);
        for (palette, has_colours) in [(Palette::Plain, false), (Palette::Colours, true)] {
            let mut buffer = Buffer::empty(Rect::new(0, 0, 60, 12));
            draw(&mut buffer, &browser, palette);
            assert_eq!(buffer.content.iter().any(|cell| cell.fg != Color::Reset), has_colours);
        }
    }
}
