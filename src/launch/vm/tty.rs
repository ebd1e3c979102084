//! A terminal's settings as data, to create a terminal with the same settings in a VM.

use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use crate::host::{stdio, system};

/// A terminal's settings in Linux's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Input, output, local and control modes.
    pub modes: [u32; 4],
    /// The special characters.
    pub codes: Vec<u8>,
    /// Rows and columns.
    pub size: (u16, u16),
    /// True if the program starts in its foreground.
    pub is_foreground: bool,
    /// For each stream (input, output, errors), true if it is on the terminal.
    pub on: [bool; 3],
}

impl Terminal {
    /// Copies the settings of the program's future terminal.
    pub fn of(terminal: &stdio::Terminal, on: [bool; 3]) -> Terminal {
        let (modes, codes) = system::terminal(&terminal.settings);
        let size = (terminal.size.ws_row, terminal.size.ws_col);
        Terminal { modes, codes, size, is_foreground: terminal.is_foreground, on }
    }
}

/// Converts a size to the kernel's form.
pub fn size((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
