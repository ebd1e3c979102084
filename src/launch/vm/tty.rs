//! A terminal's settings as data: what the host's terminal is like, for one inside a machine to be like it.

use std::io;

use rustix::pty::{OpenptFlags, openpt};
use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, Winsize, tcgetattr};
use serde::{Deserialize, Serialize};

/// The special characters that travel, in this order.
const CODES: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

/// A terminal's settings, as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Modes of input, output, line and conversation.
    modes: [u32; 4],
    /// The special characters.
    codes: Vec<u8>,
    /// Rows and columns.
    pub size: (u16, u16),
}

impl Terminal {
    /// Takes a terminal's settings.
    pub fn of(settings: &Termios, size: Winsize) -> Terminal {
        let modes = [settings.input_modes.bits(), settings.output_modes.bits(), settings.local_modes.bits(), settings.control_modes.bits()];
        let codes = CODES.into_iter().map(|code| settings.special_codes[code]).collect();
        Terminal { modes, codes, size: (size.ws_row, size.ws_col) }
    }

    /// Lays them over those of a terminal that is new.
    pub fn settings(&self) -> io::Result<Termios> {
        let new = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let mut settings = tcgetattr(&new)?;
        let [input, output, local, control] = self.modes;
        settings.input_modes = InputModes::from_bits_retain(input);
        settings.output_modes = OutputModes::from_bits_retain(output);
        settings.local_modes = LocalModes::from_bits_retain(local);
        settings.control_modes = ControlModes::from_bits_retain(control);
        for (code, value) in CODES.into_iter().zip(&self.codes) {
            settings.special_codes[code] = *value;
        }
        Ok(settings)
    }
}

/// A size as the kernel takes it.
pub fn size((rows, columns): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
