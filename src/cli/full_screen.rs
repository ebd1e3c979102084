//! The whole terminal for one view: raw mode and the alternate screen, which end with the view in every way but SIGKILL.
//!
//! A panic, SIGTERM, SIGHUP, SIGINT and SIGQUIT end the view and restore the terminal. After Ctrl-Z and `fg` the view is drawn again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use crossterm::{cursor, execute};
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::{Rect, Size};
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, kill_current_process_group};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use silo_base::home::Home;
use silo_review::browser::Key;

use super::restore_tty::{self, SavedTty};
use super::ui::{self, ScreenOutput};

/// Time between two looks at signals.
const TICK: Duration = Duration::from_millis(100);

/// True while a view has the terminal.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// An event for the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Key),
    /// The screen has to be drawn.
    Draw,
    /// Nothing happened.
    Idle,
    /// A signal ends the program, or the terminal is gone.
    Ended(i32),
}

/// The terminal of a view.
pub struct FullScreen {
    terminal: Terminal<CrosstermBackend<ScreenOutput>>,
    /// The size at the last drawing. A SIGWINCH before the first wait is lost, so each wait compares the size.
    drawn: Option<Size>,
    /// The signal that ends the program, or 0.
    ending: Arc<AtomicUsize>,
    continued: Arc<AtomicBool>,
    _saved: SavedTty,
}

impl FullScreen {
    /// Takes the terminal.
    pub fn open(home: &Home) -> io::Result<FullScreen> {
        ui::before_panic_message(restore);
        let ending = Arc::new(AtomicUsize::new(0));
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            signal_hook::flag::register_usize(signal, Arc::clone(&ending), usize::try_from(signal).unwrap_or_default())?;
        }
        let continued = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGCONT, Arc::clone(&continued))?;
        let saved = restore_tty::keep(home);
        take()?;
        let terminal = Terminal::new(CrosstermBackend::new(ui::screen_output()))?;
        Ok(FullScreen { terminal, drawn: None, ending, continued, _saved: saved })
    }

    /// Returns the number of lines.
    pub fn rows(&self) -> usize {
        self.terminal.size().map_or(24, |size| usize::from(size.height))
    }

    /// Draws the screen.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.drawn = self.terminal.size().ok();
        self.terminal.draw(|frame| draw(frame.buffer_mut()))?;
        Ok(())
    }

    /// Draws the whole screen with the next one.
    pub fn forget(&mut self) -> io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::new(0, 0, size.width, size.height))
    }

    /// Gives the terminal back for a while.
    pub fn leave(&mut self) {
        restore();
    }

    /// Takes the terminal again.
    pub fn enter(&mut self) -> io::Result<()> {
        take()?;
        self.forget()
    }

    /// Stops the process group, as Ctrl-Z does in a shell, until it is continued.
    pub fn suspend(&mut self) -> io::Result<()> {
        restore();
        // Without a shell that could continue it, the kernel does nothing.
        kill_current_process_group(Signal::TSTP)?;
        self.continued.store(false, Ordering::Relaxed);
        self.enter()
    }

    /// True if a key waits.
    pub fn has_input(&self) -> bool {
        poll() != PollFlags::empty()
    }

    /// Waits a moment for the next event.
    pub fn wait(&mut self) -> io::Result<Input> {
        let ending = self.ending.load(Ordering::Relaxed);
        if ending != 0 {
            return Ok(Input::Ended(i32::try_from(ending).unwrap_or(SIGTERM)));
        }
        if self.continued.swap(false, Ordering::Relaxed) {
            // Another program may have had the terminal.
            restore();
            self.enter()?;
            return Ok(Input::Draw);
        }
        if poll().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(Input::Ended(SIGHUP));
        }
        if !event::poll(TICK)? {
            let is_resized = self.terminal.size().ok() != self.drawn;
            return Ok(if is_resized { Input::Draw } else { Input::Idle });
        }
        Ok(match event::read()? {
            Event::Key(key) => key_of(key).map_or(Input::Idle, Input::Key),
            Event::Resize(..) => Input::Draw,
            _ => Input::Idle,
        })
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> io::Result<()> {
    IS_OPEN.store(true, Ordering::Relaxed);
    let mut output = ui::screen_output();
    let taken = enable_raw_mode().and_then(|()| execute!(output, EnterAlternateScreen, cursor::Hide));
    if taken.is_err() {
        restore();
    }
    taken
}

/// Restores the terminal, if a view has it.
fn restore() {
    if IS_OPEN.swap(false, Ordering::Relaxed) {
        let mut output = ui::screen_output();
        // Fails only if the terminal is gone.
        drop(execute!(output, cursor::Show, LeaveAlternateScreen));
        drop(disable_raw_mode());
    }
}

/// Returns the state of standard input.
fn poll() -> PollFlags {
    let input = io::stdin();
    let mut inputs = [PollFd::new(&input, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut inputs, Some(&now)) {
        Ok(_) => inputs[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release || key.modifiers.contains(KeyModifiers::ALT) {
        return None;
    }
    Some(match key.code {
        KeyCode::Char(letter) if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Ctrl(letter.to_ascii_lowercase()),
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}
