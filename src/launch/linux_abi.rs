//! Linux's numbers for errors, signals and terminal settings, for hosts that number them differently.
//!
//! A VM always runs Linux, so the wire carries Linux's numbers. On Linux each table is the identity; the tests there check the numbers.

use std::io;

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios};

/// Signals that are forwarded, with Linux's number.
const SIGNALS: [(i32, u8); 13] = [
    (libc::SIGHUP, 1),
    (libc::SIGINT, 2),
    (libc::SIGQUIT, 3),
    (libc::SIGKILL, 9),
    (libc::SIGUSR1, 10),
    (libc::SIGUSR2, 12),
    (libc::SIGTERM, 15),
    (libc::SIGCONT, 18),
    (libc::SIGSTOP, 19),
    (libc::SIGTSTP, 20),
    (libc::SIGTTIN, 21),
    (libc::SIGTTOU, 22),
    (libc::SIGWINCH, 28),
];

/// Error numbers up to this one are the same on all systems, except [`DIFFERENT_ERROR`].
const LAST_SAME_ERROR: i32 = 34;
/// EAGAIN on Linux, EDEADLK elsewhere.
const DIFFERENT_ERROR: i32 = 11;

const INPUT: [(InputModes, u32); 13] = [
    (InputModes::IGNBRK, 0o1),
    (InputModes::BRKINT, 0o2),
    (InputModes::IGNPAR, 0o4),
    (InputModes::PARMRK, 0o10),
    (InputModes::INPCK, 0o20),
    (InputModes::ISTRIP, 0o40),
    (InputModes::INLCR, 0o100),
    (InputModes::IGNCR, 0o200),
    (InputModes::ICRNL, 0o400),
    (InputModes::IXON, 0o2000),
    (InputModes::IXANY, 0o4000),
    (InputModes::IXOFF, 0o10000),
    (InputModes::IUTF8, 0o40000),
];

const OUTPUT: [(OutputModes, u32); 5] = [
    (OutputModes::OPOST, 0o1),
    (OutputModes::ONLCR, 0o4),
    (OutputModes::OCRNL, 0o10),
    (OutputModes::ONOCR, 0o20),
    (OutputModes::ONLRET, 0o40),
];

const LOCAL: [(LocalModes, u32); 10] = [
    (LocalModes::ISIG, 0o1),
    (LocalModes::ICANON, 0o2),
    (LocalModes::ECHO, 0o10),
    (LocalModes::ECHOE, 0o20),
    (LocalModes::ECHOK, 0o40),
    (LocalModes::ECHONL, 0o100),
    (LocalModes::NOFLSH, 0o200),
    (LocalModes::TOSTOP, 0o400),
    (LocalModes::ECHOCTL, 0o1000),
    (LocalModes::IEXTEN, 0o100_000),
];

const CONTROL: [(ControlModes, u32); 4] =
    [(ControlModes::CSTOPB, 0o100), (ControlModes::CREAD, 0o200), (ControlModes::PARENB, 0o400), (ControlModes::HUPCL, 0o2000)];
/// Eight data bits (`CS8`) and a baud rate that has no meaning for a pseudo-terminal.
const USUAL_CONTROL: u32 = 0o60 | 0o17;

/// The special characters on the wire, in this order; one exists only on Linux.
const CODES: [Option<SpecialCodeIndex>; 17] = [
    Some(SpecialCodeIndex::VINTR),
    Some(SpecialCodeIndex::VQUIT),
    Some(SpecialCodeIndex::VERASE),
    Some(SpecialCodeIndex::VKILL),
    Some(SpecialCodeIndex::VEOF),
    Some(SpecialCodeIndex::VTIME),
    Some(SpecialCodeIndex::VMIN),
    None,
    Some(SpecialCodeIndex::VSTART),
    Some(SpecialCodeIndex::VSTOP),
    Some(SpecialCodeIndex::VSUSP),
    Some(SpecialCodeIndex::VEOL),
    Some(SpecialCodeIndex::VREPRINT),
    Some(SpecialCodeIndex::VDISCARD),
    Some(SpecialCodeIndex::VWERASE),
    Some(SpecialCodeIndex::VLNEXT),
    Some(SpecialCodeIndex::VEOL2),
];
/// The value other systems use for an unset special character; Linux uses 0.
const NO_CHARACTER: u8 = 0xff;

/// True if this system's numbers are Linux's.
const IS_LINUX: bool = matches!(std::env::consts::OS.as_bytes(), b"linux");

/// Returns Linux's number of one of this system's signals, or 0 for a signal that is not forwarded.
pub fn signal(own: i32) -> u8 {
    if IS_LINUX {
        return u8::try_from(own).unwrap_or(0);
    }
    SIGNALS.iter().find(|(signal, _)| *signal == own).map_or(0, |(_, number)| *number)
}

/// Returns this system's number of one of Linux's stop signals; an unknown number is returned unchanged.
pub fn stop(number: u8) -> i32 {
    SIGNALS.iter().find(|(_, linux)| *linux == number).map_or_else(|| i32::from(number), |(own, _)| *own)
}

/// Returns the error with this Linux error number.
pub fn error(number: i32) -> io::Error {
    if IS_LINUX || number <= LAST_SAME_ERROR && number != DIFFERENT_ERROR {
        return io::Error::from_raw_os_error(number);
    }
    io::Error::other(format!("error {number} of Linux"))
}

/// Returns a terminal's modes (input, output, local, control) and special characters in Linux's numbers, as far as both systems have them.
pub fn terminal(settings: &Termios) -> ([u32; 4], Vec<u8>) {
    let input = INPUT.iter().filter(|(mode, _)| settings.input_modes.contains(*mode)).map(|(_, bit)| bit);
    let output = OUTPUT.iter().filter(|(mode, _)| settings.output_modes.contains(*mode)).map(|(_, bit)| bit);
    let local = LOCAL.iter().filter(|(mode, _)| settings.local_modes.contains(*mode)).map(|(_, bit)| bit);
    let control = CONTROL.iter().filter(|(mode, _)| settings.control_modes.contains(*mode)).map(|(_, bit)| bit);
    let modes = [input.sum(), output.sum(), local.sum(), control.sum::<u32>() | USUAL_CONTROL];
    let character = |code| match settings.special_codes[code] {
        NO_CHARACTER => 0,
        character => character,
    };
    (modes, CODES.into_iter().map(|code| code.map_or(0, character)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares as numbers, because the types differ between systems.
    fn same<T: Into<i128>>(own: T, linux: u32) {
        assert_eq!(own.into(), i128::from(linux));
    }

    #[test]
    fn on_linux_every_table_is_the_identity() {
        if !IS_LINUX {
            return;
        }
        SIGNALS.into_iter().for_each(|(own, linux)| same(own, u32::from(linux)));
        INPUT.into_iter().for_each(|(own, linux)| same(own.bits(), linux));
        OUTPUT.into_iter().for_each(|(own, linux)| same(own.bits(), linux));
        LOCAL.into_iter().for_each(|(own, linux)| same(own.bits(), linux));
        CONTROL.into_iter().for_each(|(own, linux)| same(own.bits(), linux));
        same(ControlModes::CS8.bits(), USUAL_CONTROL & 0o60);
    }

    #[test]
    fn signals_that_cannot_be_forwarded_are_refused() {
        assert_eq!((signal(libc::SIGTERM), signal(-1), stop(20)), (15, 0, libc::SIGTSTP));
        assert_eq!(error(2).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_terminal_travels_as_linux_has_it() {
        use rustix::pty::{OpenptFlags, openpt};
        let new = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        let settings = rustix::termios::tcgetattr(&new).expect("its settings");
        let (modes, codes) = terminal(&settings);
        same(
            settings.local_modes.bits() & LOCAL.into_iter().map(|(own, _)| own).fold(LocalModes::empty(), |all, one| all | one).bits(),
            modes[2],
        );
        assert_eq!((codes[0], codes[7]), (3, 0), "Ctrl-C, and the character that only Linux has");
    }
}
