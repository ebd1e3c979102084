//! Restores the terminal after a run that was killed.
//!
//! While a program has a terminal of its own inside, the caller's terminal is in raw mode. Silo restores it on every exit except SIGKILL
//! and a crash. For these cases the settings are saved to a file per terminal for the length of a run. The next silo on this terminal finds
//! the file of a dead process and restores the settings.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::process::{Pid, getpgrp, getpid, test_kill_process};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

use silo_base::home::Home;
use silo_model::document;

/// First line of the file.
const HEAD: &str = "silo terminal 1";

/// A saved terminal state; its file is removed on drop.
pub struct SavedTty(Option<PathBuf>);

/// Saves the terminal's settings before a run changes them.
pub fn keep(home: &Home) -> SavedTty {
    let input = rustix::stdio::stdin();
    if !isatty(input) {
        return SavedTty(None);
    }
    let Some((path, settings)) = note_path(home).zip(tcgetattr(input).ok()) else { return SavedTty(None) };
    let pid = getpid().as_raw_nonzero().get();
    // If saving fails, only a crash leaves the terminal raw.
    let written = document::write(&path, &text(pid, started(pid), &settings));
    SavedTty(written.is_ok().then_some(path))
}

impl Drop for SavedTty {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A leftover file names a dead process and correct settings, so it does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

/// Restores the terminal's settings after a killed run.
pub fn give_back(home: &Home) {
    let input = rustix::stdio::stdin();
    // In the background, the terminal belongs to another program.
    if !isatty(input) || tcgetpgrp(input).is_ok_and(|group| group != getpgrp()) {
        return;
    }
    let Some(path) = note_path(home) else { return };
    let Ok(Some(text)) = document::text_of(&path) else { return };
    let note = parse(&text);
    if note.as_ref().is_some_and(|note| is_running(note.pid, note.started)) {
        return;
    }
    if let (Some(note), Ok(mut now)) = (note, tcgetattr(rustix::stdio::stdin()))
        && !now.local_modes.contains(LocalModes::ICANON)
    {
        note.lay_over(&mut now);
        // Ignore the error: the terminal stays unchanged.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &now);
    }
    let _ = fs::remove_file(&path);
}

/// Removes the files of dead runs; returns their number.
pub fn sweep(home: &Home) -> usize {
    let notes = fs::read_dir(home.terminals()).into_iter().flatten().flatten().map(|entry| entry.path());
    let gone = |path: &Path| {
        let note = document::text_of(path).ok().flatten().and_then(|text| parse(&text));
        note.is_none_or(|note| !is_running(note.pid, note.started))
    };
    notes.filter(|path| gone(path) && fs::remove_file(path).is_ok()).count()
}

/// Settings of a terminal, and the process that saved them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    pid: i32,
    /// Start time of the process as the kernel counts it, because process ids are reused.
    started: u64,
    modes: [u32; 4],
    codes: [u8; 2],
}

impl Note {
    /// Overwrites the settings that raw mode changes.
    fn lay_over(&self, now: &mut Termios) {
        let [input, output, control, local] = self.modes;
        now.input_modes = InputModes::from_bits_retain(input as _);
        now.output_modes = OutputModes::from_bits_retain(output as _);
        now.control_modes = ControlModes::from_bits_retain(control as _);
        now.local_modes = LocalModes::from_bits_retain(local as _);
        now.special_codes[SpecialCodeIndex::VMIN] = self.codes[0];
        now.special_codes[SpecialCodeIndex::VTIME] = self.codes[1];
    }
}

fn text(pid: i32, started: u64, settings: &Termios) -> String {
    let codes = &settings.special_codes;
    format!(
        "{HEAD}\n{pid} {started} {} {} {} {} {} {}\n",
        settings.input_modes.bits(),
        settings.output_modes.bits(),
        settings.control_modes.bits(),
        settings.local_modes.bits(),
        codes[SpecialCodeIndex::VMIN],
        codes[SpecialCodeIndex::VTIME],
    )
}

fn parse(text: &str) -> Option<Note> {
    let line = text.strip_prefix(HEAD)?.strip_prefix('\n')?;
    let mut words = line.split_whitespace();
    let mut next = || words.next();
    let pid = next()?.parse().ok()?;
    let started = next()?.parse().ok()?;
    let mut modes = [0; 4];
    for mode in &mut modes {
        *mode = next()?.parse().ok()?;
    }
    let codes = [next()?.parse().ok()?, next()?.parse().ok()?];
    Some(Note { pid, started, modes, codes })
}

/// Path of the file for the caller's terminal.
fn note_path(home: &Home) -> Option<PathBuf> {
    let terminal = fstat(rustix::stdio::stdin()).ok()?;
    Some(home.terminals().join(format!("{:x}", terminal.st_rdev)))
}

fn is_running(pid: i32, since: u64) -> bool {
    let alive = Pid::from_raw(pid).is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)));
    alive && started(pid) == since
}

/// Start time of a process; 0 if the system does not provide it.
fn started(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the program's name, which may contain anything; count the fields after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_their_writers_known() {
        let note = parse("silo terminal 1\n12 34 1 2 3 4 5 6\n").expect("a note");
        assert_eq!(note, Note { pid: 12, started: 34, modes: [1, 2, 3, 4], codes: [5, 6] });
        for wrong in ["", "silo terminal 1\n", "silo terminal 2\n12 34 1 2 3 4 5 6\n", "silo terminal 1\n12 34 1 2 3 4 5 666\n"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        let own = getpid().as_raw_nonzero().get();
        assert!(is_running(own, started(own)) && !is_running(own, 1) && started(own) > 0);
        assert!(!is_running(i32::MAX, 0));
    }
}
