//! What is noted of a run's network: one line of JSON for each name and connection.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use silo_wire::Outcome;

use super::Say;

/// The most lines of one run; a guest can ask as often as it likes.
const MAX_ENTRIES: usize = 10_000;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name or address that was asked for.
    pub name: String,
    /// The port; none where only the name was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What came of it.
    pub verdict: Verdict,
    /// Bytes from inside to outside.
    #[serde(default)]
    pub sent: u64,
    /// Bytes from outside to inside.
    #[serde(default)]
    pub received: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A conversation that came to its end.
    Reached,
    /// A conversation that was broken off, by whom it was with or because it was not what was granted.
    Broken,
    /// Nothing grants it.
    Denied,
    /// The other side refused.
    Refused,
    /// There was no way there.
    Unreachable,
    /// Nobody answered.
    TimedOut,
    /// The sandbox had as many connections as it may have at once. Noted once a run.
    Crowded,
    /// A connection from this machine to a port inside.
    Entered,
    /// A signature of the user's ssh agent.
    Signed,
}

impl Verdict {
    /// Returns its name, as records spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Reached => "reached",
            Verdict::Broken => "broken",
            Verdict::Denied => "denied",
            Verdict::Refused => "refused",
            Verdict::Unreachable => "unreachable",
            Verdict::TimedOut => "timed-out",
            Verdict::Crowded => "crowded",
            Verdict::Entered => "entered",
            Verdict::Signed => "signed",
        }
    }

    /// Returns what dialling came to, if it came to nothing.
    pub fn of(outcome: Outcome) -> Option<Verdict> {
        match outcome {
            Outcome::Open => None,
            Outcome::Denied => Some(Verdict::Denied),
            Outcome::Refused => Some(Verdict::Refused),
            Outcome::Unreachable => Some(Verdict::Unreachable),
            Outcome::TimedOut => Some(Verdict::TimedOut),
        }
    }
}

/// Takes the lines, up to as many as are kept.
pub struct Record {
    say: Say,
    entries: Cell<usize>,
}

impl Record {
    /// Hands lines to `say`.
    pub fn new(say: Say) -> Record {
        Record { say, entries: Cell::new(0) }
    }

    /// Notes one.
    pub fn note(&self, entry: &Entry) {
        if self.entries.get() >= MAX_ENTRIES {
            return;
        }
        self.entries.set(self.entries.get() + 1);
        if let Ok(line) = serde_json::to_string(entry) {
            (self.say)(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_line_reads_as_it_was_noted_and_there_is_an_end_of_them() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&lines);
        let record = Record::new(Box::new(move |line| taken.lock().expect("one thread").push(line.to_owned())));
        let entry = Entry { name: "a.example".to_owned(), port: Some(443), verdict: Verdict::TimedOut, sent: 1, received: 2 };
        for _ in 0..MAX_ENTRIES + 5 {
            record.note(&entry);
        }
        let lines = lines.lock().expect("one thread");
        assert_eq!(lines.len(), MAX_ENTRIES);
        assert_eq!(lines[0], r#"{"name":"a.example","port":443,"verdict":"timed-out","sent":1,"received":2}"#);
        assert_eq!(serde_json::from_str::<Entry>(&lines[0]).expect("one of ours"), entry);
    }
}
