//! The state of the interactive view of a review, and the effect of each key on it. Nothing here draws, reads or decides.

mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use silo_base::sanitize;

use crate::entries::{Entry, EntryKind};
pub use keys::{Decision, Effect, Key};

/// Columns of one step to the side.
const STEP: usize = 8;
/// Maximum length of a filter in characters.
const MAX_FILTER: usize = 200;
/// Lines of the screen that are neither the list nor the details.
const FRAME_ROWS: usize = 5;
/// Least number of lines for a screen with both panes.
const MIN_SPLIT_ROWS: usize = 6;

/// Place of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The list.
    List,
    /// The details of one entry.
    Details,
    /// The text of the filter.
    Filter,
    /// The help.
    Help,
    /// The question before a decision.
    Confirm(Decision),
}

/// The listed kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All entries.
    All,
    /// Files that this machine executes or obeys.
    Obeyed,
    /// Sources.
    Source,
    /// Generated files.
    Generated,
    /// Entries that cannot be applied.
    Refused,
    /// Chosen entries.
    Chosen,
}

impl Shown {
    const ORDER: [Shown; 6] = [Shown::All, Shown::Obeyed, Shown::Source, Shown::Generated, Shown::Refused, Shown::Chosen];

    /// Returns the word for a person.
    pub fn word(self) -> &'static str {
        match self {
            Shown::All => "all",
            Shown::Obeyed => "executed or obeyed here",
            Shown::Source => "sources",
            Shown::Generated => "generated",
            Shown::Refused => "not applicable",
            Shown::Chosen => "chosen",
        }
    }

    fn moved(self, by: usize) -> Shown {
        let at = Shown::ORDER.iter().position(|one| *one == self).unwrap_or(0);
        Shown::ORDER[(at + by) % Shown::ORDER.len()]
    }
}

/// Whether the changes of an entry are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// None of them.
    No,
    /// Some of them.
    Partly,
    /// All of them.
    Yes,
}

/// Details of an entry, and the part of them on the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Escaped lines without tabs.
    pub lines: Vec<String>,
    /// First line on the screen.
    pub top: usize,
    /// First column on the screen.
    pub left: usize,
    of: Option<usize>,
}

/// The interactive view.
#[derive(Clone, Debug)]
pub struct Browser {
    /// Escaped text of the first line.
    pub title: String,
    /// Message about the last decision or key; escaped.
    pub message: String,
    /// Place of the keys.
    pub mode: Mode,
    /// Text that listed entries have.
    pub filter: String,
    /// Listed kinds.
    pub shown: Shown,
    /// Details of the current entry.
    pub details: Details,
    entries: Vec<Entry>,
    /// Indexes of listed entries.
    listed: Vec<usize>,
    /// Place of the cursor in `listed`.
    at: usize,
    /// Place of the first line on the screen in `listed`.
    top: usize,
    chosen: BTreeSet<usize>,
    rows: usize,
}

impl Browser {
    /// Makes a view of these entries.
    pub fn new(title: String, entries: Vec<Entry>) -> Browser {
        let listed = (0..entries.len()).collect();
        Browser {
            title,
            message: String::new(),
            mode: Mode::List,
            filter: String::new(),
            shown: Shown::All,
            details: Details::default(),
            entries,
            listed,
            at: 0,
            top: 0,
            chosen: BTreeSet::new(),
            rows: 24,
        }
    }

    /// Replaces the entries after a decision; nothing is chosen then.
    pub fn reload(&mut self, title: String, entries: Vec<Entry>) {
        self.title = title;
        self.entries = entries;
        self.chosen.clear();
        self.list();
    }

    /// Sets the number of lines of the screen.
    pub fn resize(&mut self, rows: usize) {
        self.rows = rows;
        self.scroll();
    }

    /// Returns the number of lines of the list and of the details.
    pub fn panes(&self) -> (usize, usize) {
        let rows = self.rows.saturating_sub(FRAME_ROWS);
        let is_details = self.mode == Mode::Details;
        if rows < MIN_SPLIT_ROWS {
            return if is_details { (0, rows) } else { (rows, 0) };
        }
        let list = if is_details { (rows / 4).min(4) } else { rows.div_ceil(2) };
        (list, rows - list)
    }

    /// Returns the entries on the screen, with the place of the cursor among them.
    pub fn page(&self) -> (Vec<(&Entry, Chosen)>, usize) {
        let lines = self.listed.iter().skip(self.top).take(self.panes().0);
        (lines.map(|index| (&self.entries[*index], self.choice(&self.entries[*index]))).collect(), self.at.saturating_sub(self.top))
    }

    /// Returns the numbers of listed entries, of all entries, and of chosen changes.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.listed.len(), self.entries.len(), self.chosen.len())
    }

    /// Returns the indexes of the chosen changes.
    pub fn chosen(&self) -> &BTreeSet<usize> {
        &self.chosen
    }

    /// Returns the number of chosen entries that this machine executes or obeys.
    pub fn chosen_obeyed(&self) -> usize {
        let is_obeyed = |entry: &&Entry| entry.kind == EntryKind::Obeyed && self.choice(entry) != Chosen::No;
        self.entries.iter().filter(is_obeyed).count()
    }

    /// Returns the current entry.
    pub fn current(&self) -> Option<&Entry> {
        self.listed.get(self.at).map(|index| &self.entries[*index])
    }

    /// Returns the current entry if its details are to be read.
    pub fn wanted(&self) -> Option<&Entry> {
        let has_room = self.panes().1 > 0;
        self.current().filter(|_| has_room && self.details.of != self.listed.get(self.at).copied())
    }

    /// Sets the details of the current entry.
    pub fn set_details(&mut self, lines: &[String]) {
        let lines = lines.iter().map(|line| line.replace('\t', "    ")).collect();
        self.details = Details { lines, top: 0, left: 0, of: self.listed.get(self.at).copied() };
    }

    /// Handles a key.
    pub fn press(&mut self, key: Key) -> Effect {
        match key {
            Key::Ctrl('c') => return Effect::Interrupt,
            Key::Ctrl('z') => return Effect::Suspend,
            Key::Ctrl('l') => return Effect::Redraw,
            _ => {}
        }
        let effect = match self.mode {
            Mode::List => self.in_list(key),
            Mode::Details => self.in_details(key),
            Mode::Filter => self.in_filter(key),
            Mode::Help => {
                self.mode = Mode::List;
                Effect::None
            }
            Mode::Confirm(decision) => {
                self.mode = Mode::List;
                if matches!(key, Key::Char('y' | 'Y')) {
                    Effect::Decide(decision)
                } else {
                    self.message = "nothing was decided".to_owned();
                    Effect::None
                }
            }
        };
        self.scroll();
        effect
    }

    fn in_list(&mut self, key: Key) -> Effect {
        self.message.clear();
        let page = self.panes().0.max(1);
        match key {
            Key::Up | Key::Char('k') => self.go(self.at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.go(self.at + 1),
            Key::PageUp | Key::Ctrl('b') => self.go(self.at.saturating_sub(page)),
            Key::PageDown | Key::Ctrl('f') => self.go(self.at + page),
            Key::Ctrl('u') => self.go(self.at.saturating_sub(page.div_ceil(2))),
            Key::Ctrl('d') => self.go(self.at + page.div_ceil(2)),
            Key::Home | Key::Char('g') => self.go(0),
            Key::End | Key::Char('G') => self.go(usize::MAX),
            Key::Enter | Key::Right | Key::Char('l') if self.current().is_some() => self.mode = Mode::Details,
            Key::Char(' ') => {
                self.toggle();
                self.go(self.at + 1);
            }
            Key::Char('*') => self.toggle_listed(),
            Key::Char('s') => self.choose_safe(),
            Key::Char('/') => self.mode = Mode::Filter,
            Key::Tab => self.show(self.shown.moved(1)),
            Key::BackTab => self.show(self.shown.moved(Shown::ORDER.len() - 1)),
            Key::Escape => {
                self.filter.clear();
                self.show(Shown::All);
            }
            Key::Char('a') => self.ask(Decision::Apply),
            Key::Char('d') => self.ask(Decision::Discard),
            Key::Char('r') => return Effect::Reload,
            Key::Char('?') => self.mode = Mode::Help,
            Key::Char('q') => return Effect::Leave,
            _ => {}
        }
        Effect::None
    }

    fn in_details(&mut self, key: Key) -> Effect {
        let page = self.panes().1.max(1);
        let most = self.details.lines.len().saturating_sub(1);
        let top = self.details.top;
        match key {
            Key::Up | Key::Char('k') => self.details.top = top.saturating_sub(1),
            Key::Down | Key::Char('j') => self.details.top = (top + 1).min(most),
            Key::PageUp | Key::Ctrl('b') => self.details.top = top.saturating_sub(page),
            Key::PageDown | Key::Ctrl('f') => self.details.top = (top + page).min(most),
            Key::Ctrl('u') => self.details.top = top.saturating_sub(page.div_ceil(2)),
            Key::Ctrl('d') => self.details.top = (top + page.div_ceil(2)).min(most),
            Key::Home | Key::Char('g') => self.details.top = 0,
            Key::End | Key::Char('G') => self.details.top = most,
            Key::Right | Key::Char('l') => self.details.left = self.details.left.saturating_add(STEP),
            Key::Left | Key::Char('h') if self.details.left > 0 => self.details.left = self.details.left.saturating_sub(STEP),
            Key::Char(' ') => self.toggle(),
            Key::Char('?') => self.mode = Mode::Help,
            Key::Left | Key::Char('h' | 'q') | Key::Enter | Key::Escape => self.mode = Mode::List,
            _ => {}
        }
        Effect::None
    }

    fn in_filter(&mut self, key: Key) -> Effect {
        match key {
            Key::Char(letter) if sanitize::is_plain(letter) && self.filter.chars().count() < MAX_FILTER => self.filter.push(letter),
            Key::Backspace => drop(self.filter.pop()),
            Key::Ctrl('u') => self.filter.clear(),
            Key::Enter => {
                self.mode = Mode::List;
                return Effect::None;
            }
            Key::Escape => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            _ => return Effect::None,
        }
        self.at = 0;
        self.list();
        Effect::None
    }

    fn go(&mut self, to: usize) {
        self.at = to.min(self.listed.len().saturating_sub(1));
    }

    fn show(&mut self, shown: Shown) {
        self.shown = shown;
        self.at = 0;
        self.list();
    }

    /// Lists the entries that fit the filter and the kind.
    fn list(&mut self) {
        let wanted = self.filter.to_lowercase();
        let fits = |entry: &Entry| {
            let is_kind = match self.shown {
                Shown::All => true,
                Shown::Obeyed => entry.kind == EntryKind::Obeyed,
                Shown::Source => entry.kind == EntryKind::Source,
                Shown::Generated => entry.kind == EntryKind::Generated,
                Shown::Refused => entry.refusal.is_some(),
                Shown::Chosen => self.choice(entry) != Chosen::No,
            };
            let has = |text: &str| text.to_lowercase().contains(&wanted);
            is_kind && (wanted.is_empty() || has(&entry.name) || has(&entry.note) || has(entry.word))
        };
        self.listed = (0..self.entries.len()).filter(|index| fits(&self.entries[*index])).collect();
        self.details = Details::default();
        self.go(self.at);
        self.scroll();
    }

    /// Keeps the cursor on the screen.
    fn scroll(&mut self) {
        let page = self.panes().0.max(1);
        self.top = self.top.min(self.at).max((self.at + 1).saturating_sub(page)).min(self.listed.len().saturating_sub(page));
        self.top = self.top.max((self.at + 1).saturating_sub(page));
    }

    fn choice(&self, entry: &Entry) -> Chosen {
        match entry.members.iter().filter(|member| self.chosen.contains(member)).count() {
            0 => Chosen::No,
            number if number == entry.members.len() => Chosen::Yes,
            _ => Chosen::Partly,
        }
    }

    fn toggle(&mut self) {
        let Some(entry) = self.listed.get(self.at).map(|index| &self.entries[*index]) else { return };
        match self.choice(entry) {
            Chosen::Yes => self.chosen.retain(|chosen| entry.members.binary_search(chosen).is_err()),
            Chosen::No | Chosen::Partly => self.chosen.extend(&entry.members),
        }
    }

    /// Chooses all listed entries, or none of them if all are chosen.
    fn toggle_listed(&mut self) {
        let entries: Vec<&Entry> = self.listed.iter().map(|index| &self.entries[*index]).collect();
        let members: Vec<usize> = entries.iter().flat_map(|entry| entry.members.iter().copied()).collect();
        if members.iter().all(|member| self.chosen.contains(member)) {
            let members: BTreeSet<usize> = members.into_iter().collect();
            self.chosen.retain(|chosen| !members.contains(chosen));
        } else {
            self.chosen.extend(members);
        }
    }

    /// Chooses the listed entries that nothing on this machine executes by itself.
    fn choose_safe(&mut self) {
        let safe = self.listed.iter().map(|index| &self.entries[*index]).filter(|entry| entry.is_safe && entry.refusal.is_none());
        let members: Vec<usize> = safe.flat_map(|entry| entry.members.iter().copied()).collect();
        self.message = format!("chose {} safe changes of the list", members.len());
        self.chosen.extend(members);
    }

    fn ask(&mut self, decision: Decision) {
        let refused = self.entries.iter().filter(|entry| entry.refusal.is_some() && self.choice(entry) != Chosen::No).count();
        if self.chosen.is_empty() {
            self.message = "choose entries with Space first, or all of the list with *".to_owned();
        } else if decision == Decision::Apply && refused > 0 {
            self.message = format!("{refused} of the chosen entries cannot be applied; Tab lists them, Space takes one out");
        } else {
            self.mode = Mode::Confirm(decision);
        }
    }
}
