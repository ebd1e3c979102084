//! Asks for one item of a list on a terminal, with a search.

use std::io;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Modifier, Style};

use silo_base::home::Home;
use silo_base::sanitize;
use silo_review::browser::Key;

use super::env;
use super::error::Failure;
use super::full_screen::{FullScreen, Input};
use super::progress;
use super::ui;

/// Exit code after Ctrl-C, as of a program that SIGINT ends.
const INTERRUPTED: u8 = 130;

/// Longest search text.
const MAX_SEARCH: usize = 60;

/// Lines of the screen that are not the list.
const OTHER_LINES: usize = 4;

/// An item of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Name, which the search looks at first.
    pub name: String,
    /// Description.
    pub note: String,
}

/// The state of the view.
struct Picker<'a> {
    title: &'a str,
    items: &'a [Item],
    search: String,
    /// Position in the list of fitting items.
    at: usize,
}

/// Reaction to a key.
enum Reaction {
    None,
    Suspend,
    Chosen(usize),
    Leave,
}

/// True if a person can choose: the terminal can show the view.
pub fn has_terminal() -> bool {
    env::var("TERM").is_some_and(|term| term != "dumb") && ui::has_screen()
}

/// Shows a list until one item is chosen; returns its index. `hint` says how to choose without a terminal.
pub fn pick(home: &Home, title: &str, items: &[Item], hint: &str) -> Result<usize, Failure> {
    if !has_terminal() {
        return Err(Failure::usage("cannot ask, because this is not a terminal", hint));
    }
    // Nothing else may draw on the screen.
    progress::finish_command();
    let lost = |error: io::Error| Failure::found(format!("cannot show the list on this terminal: {error}"), hint);
    let nothing = || Failure::found("nothing was chosen", hint);
    let mut screen = FullScreen::open(home).map_err(lost)?;
    let mut picker = Picker { title, items, search: String::new(), at: 0 };
    loop {
        screen.draw(|buffer| picker.draw(buffer)).map_err(lost)?;
        let key = loop {
            match screen.wait().map_err(lost)? {
                Input::Key(key) => break Some(key),
                Input::Draw => break None,
                Input::Idle => {}
                Input::Ended(signal) => {
                    drop(screen);
                    // Ends the process as the signal does.
                    drop(signal_hook::low_level::emulate_default_handler(signal));
                    return Err(nothing().with_code(INTERRUPTED));
                }
            }
        };
        match key.map_or(Reaction::None, |key| picker.press(key, screen.rows())) {
            Reaction::None => {}
            Reaction::Suspend => screen.suspend().map_err(lost)?,
            Reaction::Chosen(index) => return Ok(index),
            Reaction::Leave => return Err(nothing().with_code(INTERRUPTED)),
        }
    }
}

impl Picker<'_> {
    /// Returns the fitting items; those whose name begins with the search come first.
    fn fitting(&self) -> Vec<usize> {
        let words: Vec<String> = self.search.split_whitespace().map(str::to_lowercase).collect();
        let fits = |index: &usize| {
            let text = format!("{} {}", self.items[*index].name, self.items[*index].note).to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        let mut found: Vec<usize> = (0..self.items.len()).filter(fits).collect();
        if let Some(first) = words.first() {
            found.sort_by_key(|index| !self.items[*index].name.to_lowercase().starts_with(first));
        }
        found
    }

    fn press(&mut self, key: Key, rows: usize) -> Reaction {
        let found = self.fitting();
        let last = found.len().saturating_sub(1);
        let page = rows.saturating_sub(OTHER_LINES).max(1);
        match key {
            Key::Enter => return found.get(self.at).map_or(Reaction::None, |index| Reaction::Chosen(*index)),
            Key::Escape | Key::Ctrl('c' | 'd') => return Reaction::Leave,
            Key::Ctrl('z') => return Reaction::Suspend,
            Key::Up | Key::BackTab | Key::Ctrl('p') => self.at = self.at.saturating_sub(1),
            Key::Down | Key::Tab | Key::Ctrl('n') => self.at = (self.at + 1).min(last),
            Key::PageUp => self.at = self.at.saturating_sub(page),
            Key::PageDown => self.at = (self.at + page).min(last),
            Key::Home => self.at = 0,
            Key::End => self.at = last,
            Key::Backspace => {
                self.search.pop();
                self.at = 0;
            }
            Key::Ctrl('u') => {
                self.search.clear();
                self.at = 0;
            }
            Key::Char(letter) if !letter.is_control() && self.search.chars().count() < MAX_SEARCH => {
                self.search.push(letter);
                self.at = 0;
            }
            Key::Char(_) | Key::Ctrl(_) | Key::Left | Key::Right => {}
        }
        Reaction::None
    }

    fn draw(&self, buffer: &mut Buffer) {
        let area = buffer.area;
        let (width, height) = (usize::from(area.width), usize::from(area.height));
        let mut line = |y: usize, text: &str, style: Style| {
            if let (true, Ok(y)) = (y < height, u16::try_from(y)) {
                buffer.set_stringn(0, y, sanitize::line(text), width, style);
            }
        };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        line(0, self.title, bold);
        line(1, &format!("Search: {}▏", self.search), Style::new());
        let found = self.fitting();
        let page = height.saturating_sub(OTHER_LINES).max(1);
        let top = self.at / page * page;
        let name_width = self.items.iter().map(|item| item.name.chars().count()).max().unwrap_or(0).min(30);
        for (place, index) in found.iter().skip(top).take(page).enumerate() {
            let item = &self.items[*index];
            line(2 + place, &format!("  {:name_width$}  {}", item.name, item.note), Style::new());
        }
        if found.is_empty() {
            line(2, "  nothing fits the search", Style::new());
        }
        line(height.saturating_sub(1), "type to search, arrows to move, Enter to choose, Esc to leave", Style::new());
        if let (false, Ok(y)) = (found.is_empty(), u16::try_from(2 + self.at - top)) {
            // A screen of one or two lines has no room for the mark.
            if y < area.height {
                buffer.set_style(Rect::new(0, y, area.width, 1), Style::new().add_modifier(Modifier::REVERSED));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let item = |name: &str, note: &str| Item { name: name.to_owned(), note: note.to_owned() };
        vec![item("go", "a language"), item("node", "Node.js with npm"), item("python", "Python; not go")]
    }

    #[test]
    fn a_search_narrows_the_list_and_enter_chooses() {
        let items = items();
        let mut picker = Picker { title: "x", items: &items, search: String::new(), at: 0 };
        for (keys, expect) in [("", 0), ("NPM", 1), ("go", 0), ("python go", 2)] {
            picker.press(Key::Ctrl('u'), 24);
            for letter in keys.chars() {
                picker.press(Key::Char(letter), 24);
            }
            assert!(matches!(picker.press(Key::Enter, 24), Reaction::Chosen(index) if index == expect), "{keys}");
        }
        picker.press(Key::Ctrl('u'), 24);
        for key in [Key::End, Key::Down, Key::Up] {
            picker.press(key, 24);
        }
        assert!(matches!(picker.press(Key::Enter, 24), Reaction::Chosen(1)));
        for _ in 0..3 {
            picker.press(Key::Char('z'), 24);
        }
        assert!(matches!(picker.press(Key::Enter, 24), Reaction::None));
        assert!(matches!(picker.press(Key::Escape, 24), Reaction::Leave));
    }

    #[test]
    fn every_size_of_a_screen_can_be_drawn() {
        let items = items();
        let picker = Picker { title: "x\u{1b}", items: &items, search: "o".to_owned(), at: 2 };
        for (width, height) in [(0, 0), (1, 1), (3, 2), (80, 3), (80, 24)] {
            let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
            picker.draw(&mut buffer);
        }
    }
}
