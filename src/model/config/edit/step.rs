//! A command to add to `postInstall`.

use silo_base::grant::Grant;
use toml_edit::{InlineTable, Value};

/// A command to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStep {
    /// One shell command line if `shell` is set, else program and arguments.
    pub run: Vec<String>,
    /// True if `run` is a shell command line.
    pub shell: bool,
    /// Hosts that the command may connect to.
    pub network: Vec<Grant>,
    /// True if the command sees the project's files.
    pub project: bool,
}

impl NewStep {
    /// Returns the command as a value, in the shortest spelling.
    pub(super) fn value(&self) -> Value {
        let words = |words: &[String]| Value::Array(words.iter().map(String::as_str).collect());
        let run = match self.run.as_slice() {
            [text] if self.shell => Value::from(text.as_str()),
            list => words(list),
        };
        if self.network.is_empty() && !self.project {
            return run;
        }
        let mut table = InlineTable::new();
        table.insert("run", run);
        if !self.network.is_empty() {
            table.insert("network", Value::Array(self.network.iter().map(Grant::as_str).collect()));
        }
        if self.project {
            table.insert("project", Value::from(true));
        }
        Value::InlineTable(table)
    }
}
