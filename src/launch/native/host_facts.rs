//! Information about the host that a launch gathers before the sandbox's first process exists.

use std::ops;
use std::sync::OnceLock;

use rustix::fs::Mode;
use silo_init::agent::Layout;

use super::cgroup::Cgroup;
use super::exec::{self, Program};
use super::id_map::Range;
use super::network_layout;
use super::proc_files::read_proc;
use crate::error::{Error, host};
use crate::host::stdio::Streams;
use crate::host::system;
use crate::kernel::sys::SignalSet;
use crate::spec::{Identity, Spec};

/// The data that PID 1 inherits by the fork.
pub struct Plan {
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The caller's user and group inside.
    pub inside: (u32, u32),
    /// The range of ids of a build step, if the system allows one.
    pub range: Option<Range>,
    /// The address range of this process's arguments and environment.
    pub strings: ops::Range<usize>,
    /// The program, ready for `execve`.
    pub program: Program,
    /// The program's streams.
    pub streams: Streams,
    /// The sandbox's cgroup, if one can be created.
    pub cgroup: Option<Cgroup>,
    /// The part of the network that is reached by address, if there is a network.
    pub layout: Option<Layout>,
    /// The program's umask: the caller's, but a fixed one for build steps, so that their results are the same on every host.
    pub umask: Mode,
    /// The signal mask from before the launch.
    pub signals_before: SignalSet,
}

/// Gathers the information and prepares the program.
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
        range: if spec.identity == Identity::Root { range() } else { None },
        strings: own_strings()?,
        program: exec::prepare(spec).ok_or_else(nul)?,
        streams,
        cgroup: Cgroup::make(&spec.limits),
        layout: spec.network.as_ref().map(network_layout::layout).transpose()?,
        umask: match spec.identity {
            Identity::Caller => system::mode(system::umask()),
            Identity::Root | Identity::Machine => Mode::from_raw_mode(0o022),
        },
        signals_before,
    })
}

/// Returns the range of ids of build steps. A process that launches many steps looks for it once.
fn range() -> Option<Range> {
    static FOUND: OnceLock<Option<Range>> = OnceLock::new();
    FOUND.get_or_init(|| Range::find().ok()).clone()
}

/// Returns the address range of this process's arguments and environment, which does not change.
fn own_strings() -> Result<ops::Range<usize>, Error> {
    static FOUND: OnceLock<ops::Range<usize>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let stat = host(read_proc("/proc/self/stat"), "reading /proc/self/stat")?;
    Ok(FOUND.get_or_init(|| strings(&stat)).clone())
}

/// Finds the range of the initial stack's strings in `/proc/self/stat`: fields 48 to 51, arguments and then environment.
fn strings(stat: &str) -> ops::Range<usize> {
    // The second field is the program's name, which may contain any character; fields are counted after it.
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
