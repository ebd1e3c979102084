//! Differences between a layer of somebody else's image and ours: device nodes that are left out, times that are moved.

use super::entries::shown;

/// Most paths that are named of those left out.
const MAX_NAMED: usize = 3;

/// Differences between a layer and what Silo makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// How many device nodes and pipes were left out.
    pub nodes: usize,
    /// The paths of the first of them.
    pub named: Vec<String>,
    /// How many files have a time before 1970 or after 2242, which became the nearest of those.
    pub times: usize,
    /// How many entries have an owner, a time or an attribute from a global pax header.
    pub by_global: usize,
}

impl Differences {
    /// Notes a device node or a pipe.
    pub fn leave_out(&mut self, path: &[u8]) {
        self.nodes += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(shown(path));
        }
    }

    /// Says them, one in a line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.nodes > 0 {
            let more = if self.nodes > self.named.len() { ", ..." } else { "" };
            lines.push(format!("left out {} device nodes and pipes: {}{more}", self.nodes, self.named.join(", ")));
        }
        if self.times > 0 {
            lines.push(format!("moved the times of {} files into the years 1970 to 2242", self.times));
        }
        if self.by_global > 0 {
            lines.push(format!("took the owner, time or attributes of {} entries from a global pax header", self.by_global));
        }
        lines
    }
}
