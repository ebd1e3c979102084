//! A terminal's settings as data: what the host's terminal is like, for one inside a machine to be like it.

use rustix::termios::{Termios, Winsize};
use serde::{Deserialize, Serialize};

use crate::launch::host::system;

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
}

impl Terminal {
    /// Takes a terminal's settings.
    pub fn of(settings: &Termios, size: Winsize) -> Terminal {
        let (modes, codes) = system::terminal(settings);
        Terminal { modes, codes, size: (size.ws_row, size.ws_col) }
    }
}

/// A size as the kernel takes it.
pub fn size((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
