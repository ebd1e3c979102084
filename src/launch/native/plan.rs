//! What a launch needs to know of the host, gathered before the sandbox's first process exists.

use std::fs;
use std::ops::Range;

use rustix::fs::Mode;
use silo_init::agent::Layout;

use super::cgroup::Cgroup;
use super::layout;
use super::program::{self, Program};
use super::sys::SignalSet;
use crate::launch::error::Error;
use crate::launch::host::streams::{Streams, host};
use crate::launch::host::system;
use crate::launch::spec::{Identity, Spec};

/// Everything that PID 1 inherits with its copy of memory.
pub struct Plan {
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The user and group as which the caller appears inside.
    pub inside: (u32, u32),
    /// Where the kernel keeps this process's arguments and environment.
    pub strings: Range<usize>,
    /// The program, ready for `execve`.
    pub program: Program,
    /// Where its streams lead.
    pub streams: Streams,
    /// Its cgroup, where one can be made.
    pub cgroup: Option<Cgroup>,
    /// What of the network is reached by address, if there is a network.
    pub layout: Option<Layout>,
    /// The permissions that the program's new files lack: the caller's choice, but for steps, which come to the same everywhere.
    pub umask: Mode,
    /// The signals that were blocked before the launch.
    pub signals_before: SignalSet,
}

/// Looks at the host and prepares what can be prepared.
pub fn make(spec: &Spec, signals_before: SignalSet, streams: Streams) -> Result<Plan, Error> {
    let nul = || Error::Spec { reason: "a string holds a NUL byte".to_owned() };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(Plan {
        uid,
        gid,
        inside: match spec.identity {
            Identity::Caller => (uid, gid),
            Identity::Root | Identity::Machine => (0, 0),
        },
        strings: strings(&host(fs::read_to_string("/proc/self/stat"), "reading /proc/self/stat")?),
        program: program::prepare(spec).ok_or_else(nul)?,
        streams,
        cgroup: Cgroup::make(&spec.limits),
        layout: spec.network.as_ref().map(layout::layout).transpose()?,
        umask: match spec.identity {
            Identity::Caller => system::mode(system::umask()),
            Identity::Root | Identity::Machine => Mode::from_raw_mode(0o022),
        },
        signals_before,
    })
}

/// Finds the initial stack's strings in `/proc/self/stat`: fields 48 to 51, arguments then environment.
fn strings(stat: &str) -> Range<usize> {
    // The second field is the program's name, which may hold anything; fields are counted after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field = |number: usize| after.split_whitespace().nth(number - 3).and_then(|text| text.parse::<usize>().ok());
    match (field(48), field(51)) {
        (Some(start), Some(end)) if start < end => start..end,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_strings_whatever_the_name() {
        let fields: Vec<String> = (3..=52).map(|number| (number * 10).to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(super::strings(&stat), 480..510);
        assert_eq!(super::strings("1 (x) S 1"), 0..0);
        assert_eq!(super::strings(""), 0..0);
    }
}
