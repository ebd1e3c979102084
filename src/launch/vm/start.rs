//! Starts a VM on Linux: QEMU boots it or restores it from a snapshot.

use rustix::net::SocketType;
use rustix::rand::{GetRandomFlags, getrandom};
use silo_wire::frame::{Frame, SEED_BYTES};

use super::guest_paths;
use super::kvm;
use super::mux::Mux;
use super::protocol::{Side, TimeLimits};
use super::qmp::{self, Qmp};
use super::running::Running;
use super::snapshot_key::Place;
use super::supervise::{AfterReport, StopEvent, Supervisor};
use super::unreported_end::UnreportedEnd;
use super::vm_spec::{self, GuestJob, Processor, Start, VmSpecs};
use crate::check::{Check, State};
use crate::error::{Error, host};
use crate::host::clock::host_time;
use crate::host::stdio::Streams;
use crate::host::system::{self, Signals};
use crate::native::{self, host_facts};
use crate::spec::{MachineTime, Spec, VmFiles};
use silo_base::sanitize;

/// Restores a VM, or boots one if there is no matching snapshot. The program does not start before the VM says hello. So a failed start can
/// be retried: first without the snapshot, and then with emulation (TCG), which works everywhere.
pub fn begin<'a>(spec: &Spec, machine: &VmFiles, signals: &Signals) -> Result<(Supervisor<'a>, GuestJob), Error> {
    start(spec, machine, signals).map(|(watch, made)| (watch, made.inside()))
}

fn start<'a>(spec: &Spec, machine: &VmFiles, signals: &Signals) -> Result<(Supervisor<'a>, VmSpecs), Error> {
    let processor = match machine.time {
        MachineTime::Host => kvm::processor(machine.arch),
        MachineTime::Counted => Processor::Counted,
    };
    if let Some(place) = Place::of(spec, machine, processor)
        && let Some(dir) = place.find(vm_spec::memory(spec, machine))
    {
        match boot(vm_spec::make(spec, machine, processor, Start::Restored { dir }), signals, StartMethod::Restored(awake()?)) {
            Err(StartError { error: interrupted @ Error::Interrupted { .. }, .. }) => return Err(interrupted),
            // A lack of memory, descriptors or processes on the host, or a kill, does not prove that the snapshot is bad.
            Err(StartError { blame: FailureCause::Snapshot, .. }) => place.remove(),
            Err(StartError { blame: FailureCause::Host, .. }) => {}
            Ok(restored) => return Ok(restored),
        }
    }
    match boot(vm_spec::make(spec, machine, processor, Start::Boot), signals, StartMethod::Booted) {
        Err(StartError { error: Error::Machine { .. }, .. }) if processor != Processor::Counted => {
            boot(vm_spec::make(spec, machine, Processor::Translated, Start::Boot), signals, StartMethod::Booted)
        }
        booted => booted,
    }
    .map_err(|unstarted| unstarted.error)
}

/// The reason why no VM started.
pub struct StartError {
    pub error: Error,
    blame: FailureCause,
}

/// The cause of a failed start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureCause {
    /// The host: it lacks memory, or the VM was killed from outside.
    Host,
    /// The snapshot, if the VM was restored from one.
    Snapshot,
}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        StartError { error, blame: FailureCause::Host }
    }
}

/// Words in QEMU's messages about a lack of resources on the host.
const LACKS: [&str; 5] = ["allocate", "temporarily unavailable", "Too many open files", "No space left", "Operation not permitted"];
/// Signals from a process's own faults, which hint at invalid input.
const OWN_SIGNALS: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP];

fn blame(gone: Option<&UnreportedEnd>, words: &str) -> FailureCause {
    let is_its_own = match gone {
        None | Some(UnreportedEnd::Failed(_)) => false,
        Some(UnreportedEnd::Killed(signal)) => OWN_SIGNALS.contains(&i32::from(*signal)),
        Some(UnreportedEnd::Exited(_) | UnreportedEnd::Ended(_) | UnreportedEnd::Misbehaved) => true,
    };
    if is_its_own && !LACKS.iter().any(|lack| words.contains(lack)) { FailureCause::Snapshot } else { FailureCause::Host }
}

/// Returns the frame that reseeds a restored VM's random number generator and sets its clock.
pub fn awake() -> Result<Frame, Error> {
    let mut seed = [0; SEED_BYTES];
    let got = host(getrandom(&mut seed, GetRandomFlags::empty()), "reading random numbers")?;
    if got != seed.len() {
        return Err(Error::Host { step: "reading random numbers".to_owned(), source: std::io::ErrorKind::UnexpectedEof.into() });
    }
    let (secs, nanos) = host_time();
    Ok(Frame::Awake { seed, secs, nanos })
}

/// Starts a VM and waits for its hello.
pub fn boot<'a>(made: VmSpecs, signals: &Signals, way: StartMethod) -> Result<(Supervisor<'a>, VmSpecs), StartError> {
    let step = "connecting to the virtual machine";
    let (ours, theirs) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&ours, true), step)?;
    // The output of QEMU and the guest's kernel uses a socket pair, too: QEMU can write the latter only to an open socket.
    let (log, output) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&log, true), step)?;
    let (mut control, errors) = match &way {
        StartMethod::Booted => (None, host(rustix::io::fcntl_dupfd_cloexec(&output, 3), step)?),
        StartMethod::Observed | StartMethod::Restored(_) => {
            let (ours, theirs) = host(system::pair(SocketType::STREAM), step)?;
            (Some(host(Qmp::new(ours), step)?), theirs)
        }
    };
    let plan = host_facts::make(&made.outer, signals.before(), Streams::given(theirs, output, errors))?;
    let (sandbox, socket) = native::start(&made.outer, &plan)?;
    drop(plan);
    let mut mux = Mux::new(ours, Side::Host);
    if let StartMethod::Restored(awake) = &way {
        mux.send(awake);
    }
    let (patience, afterwards) = match way {
        StartMethod::Booted => (TimeLimits::BOOTED, AfterReport::Ends),
        StartMethod::Observed => (TimeLimits::BOOTED, AfterReport::Stays),
        StartMethod::Restored(_) => (TimeLimits::RESTORED, AfterReport::Ends),
    };
    let patience = patience.on(made.arch);
    let mut watch = Supervisor::new(Running::new(sandbox, socket, control.take()), log, mux, patience, afterwards);
    let begun = match watch.running().and_then(Running::control) {
        None => Ok(()),
        Some(control) => control.begin(signals).and_then(|()| match way {
            StartMethod::Restored(_) => control.restore(&format!("{}/{}", guest_paths::SNAPSHOT, guest_paths::STATE), signals),
            StartMethod::Booted | StartMethod::Observed => Ok(()),
        }),
    };
    let heard = match begun {
        Ok(()) => watch.run(signals, StopEvent::Heard, &mut |_| {}),
        Err(qmp::Error::Interrupted { signal }) => Err(Error::Interrupted { signal }),
        Err(error) => {
            let what = format!("did not accept commands ({error}) {}", String::from_utf8_lossy(&console_output(&mut watch)).trim());
            Err(watch.await_end(signals, &sanitize::line(&what)))
        }
    };
    match heard {
        Ok(()) => Ok((watch, made)),
        Err(error) => {
            let words = [watch.words().to_vec(), console_output(&mut watch)].concat();
            Err(StartError { blame: blame(watch.gone(), &String::from_utf8_lossy(&words)), error })
        }
    }
}

/// Returns QEMU's messages between its answers.
fn console_output(watch: &mut Supervisor<'_>) -> Vec<u8> {
    watch.running().and_then(Running::control).map_or_else(Vec::new, |control| control.words().to_vec())
}

/// The way in which a VM starts.
pub enum StartMethod {
    /// Booted by its kernel.
    Booted,
    /// Booted by its kernel, in order to take a snapshot.
    Observed,
    /// Restored from a snapshot; this is the first frame it receives.
    Restored(Frame),
}

/// Reports the virtualisation that the vm tier uses here.
pub fn probe() -> Check {
    let name = "hardware virtualisation";
    match kvm::works() {
        Ok(()) => {
            Check { name, state: State::Ok, detail: "works; once vm is installed, tools run inside VMs".to_owned(), cure: String::new() }
        }
        Err(why) => {
            let detail = format!("{why}; tools run natively, and `--tier vm` uses slow emulation (TCG)");
            Check { name, state: State::Degraded, detail, cure: String::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_blamed_on_the_snapshot_or_the_host() {
        let cases: [(Option<UnreportedEnd>, &str, FailureCause); 9] = [
            (Some(UnreportedEnd::Killed(9)), "", FailureCause::Host),
            (Some(UnreportedEnd::Killed(15)), "", FailureCause::Host),
            (Some(UnreportedEnd::Killed(7)), "", FailureCause::Snapshot),
            (Some(UnreportedEnd::Killed(6)), "qemu_thread_create: Resource temporarily unavailable", FailureCause::Host),
            (Some(UnreportedEnd::Exited(1)), "cannot set up guest memory 'memory': Cannot allocate memory", FailureCause::Host),
            (Some(UnreportedEnd::Exited(1)), "load of migration failed: Invalid argument", FailureCause::Snapshot),
            (Some(UnreportedEnd::Exited(0)), "", FailureCause::Snapshot),
            (Some(UnreportedEnd::Misbehaved), "", FailureCause::Snapshot),
            (None, "", FailureCause::Host),
        ];
        for (gone, words, expect) in cases {
            assert_eq!(blame(gone.as_ref(), words), expect, "{gone:?} {words}");
        }
    }
}
