//! The keys of the interactive view, and the actions that they ask for.

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A letter.
    Char(char),
    /// A letter with Ctrl.
    Ctrl(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Tab.
    Tab,
    /// Shift-Tab.
    BackTab,
    /// Backspace.
    Backspace,
    /// Up arrow.
    Up,
    /// Down arrow.
    Down,
    /// Left arrow.
    Left,
    /// Right arrow.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
}

/// Action that a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// None.
    None,
    /// Leave the view.
    Leave,
    /// Leave the view as Ctrl-C does.
    Interrupt,
    /// Stop, as Ctrl-Z does.
    Suspend,
    /// Draw the whole screen.
    Redraw,
    /// Read the review again.
    Reload,
    /// Decide the chosen changes.
    Decide(Decision),
}

/// Decision about chosen changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Apply them.
    Apply,
    /// Discard them.
    Discard,
}
