//! A terminal's settings as data: what the host's terminal is like, for one inside a machine to be like it.

use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

use crate::launch::host::{streams, system};

/// A terminal's settings, as Linux's kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Modes of input, output, line and conversation.
    pub modes: [u32; 4],
    /// The special characters.
    pub codes: Vec<u8>,
    /// Rows and columns.
    pub size: (u16, u16),
    /// Whether the program begins in its foreground.
    pub is_foreground: bool,
    /// Which of the program's streams lead there: input, output, errors.
    pub on: [bool; 3],
}

impl Terminal {
    /// Takes the settings of the terminal that a program is to have.
    pub fn of(terminal: &streams::Terminal, on: [bool; 3]) -> Terminal {
        let (modes, codes) = system::terminal(&terminal.settings);
        let size = (terminal.size.ws_row, terminal.size.ws_col);
        Terminal { modes, codes, size, is_foreground: terminal.is_foreground, on }
    }
}

/// A size as the kernel takes it.
pub fn size((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
