//! The network record of a run: one line of JSON for each name and connection.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use silo_wire::Outcome;

/// Takes a line, from any thread.
pub type Say = Box<dyn Fn(&str) + Send + Sync>;

/// The most entries of one run; a guest can send any number of requests.
const MAX_ENTRIES: usize = 10_000;

/// One entry of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The requested name or address.
    pub name: String,
    /// The port; `None` for a DNS lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The result.
    pub verdict: Verdict,
    /// Bytes sent from the sandbox.
    #[serde(default)]
    pub sent: u64,
    /// Bytes received by the sandbox.
    #[serde(default)]
    pub received: u64,
}

/// The result of a lookup or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The connection closed normally.
    Reached,
    /// The connection broke, or the broker cut it because it did not match its grant.
    Broken,
    /// No grant covers it.
    Denied,
    /// The peer refused the connection.
    Refused,
    /// No route to the host.
    Unreachable,
    /// The connection timed out.
    TimedOut,
    /// The sandbox had its maximum of open connections. Recorded once a run.
    Crowded,
    /// A port forward from this machine to a port in the sandbox.
    Entered,
    /// A signature by the user's ssh agent.
    Signed,
}

impl Verdict {
    /// Returns the name that records use.
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

    /// Returns the verdict of a failed dial; `None` for a success.
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

/// Writes entries, up to a maximum.
pub struct Record {
    say: Say,
    entries: Cell<usize>,
}

impl Record {
    /// Creates a record that passes each line to `say`.
    pub fn new(say: Say) -> Record {
        Record { say, entries: Cell::new(0) }
    }

    /// Writes one entry.
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
