//! Differences between a foreign image's layer and ours: omitted device nodes, clamped times.

use super::entries::shown;

/// Limit of omitted paths in a message.
const MAX_NAMED: usize = 3;

/// Differences between a foreign layer and Silo's version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Number of omitted device nodes and pipes.
    pub nodes: usize,
    /// The first omitted paths.
    pub named: Vec<String>,
    /// Number of files with a time before 1970 or after 2242, which was clamped.
    pub times: usize,
    /// Number of entries with an owner, a time or an attribute from a global pax header.
    pub by_global: usize,
}

impl Differences {
    /// Records an omitted device node or pipe.
    pub fn leave_out(&mut self, path: &[u8]) {
        self.nodes += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(shown(path));
        }
    }

    /// Returns the messages, one per difference.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.nodes > 0 {
            let more = if self.nodes > self.named.len() { ", ..." } else { "" };
            lines.push(format!("left out {} device nodes and pipes: {}{more}", self.nodes, self.named.join(", ")));
        }
        if self.times > 0 {
            lines.push(format!("clamped the times of {} files to the years 1970 to 2242", self.times));
        }
        if self.by_global > 0 {
            lines.push(format!("took the owner, time or attributes of {} entries from a global pax header", self.by_global));
        }
        lines
    }
}
