//! How a machine starts on Linux: QEMU boots it, or goes on from a snapshot.

use rustix::net::SocketType;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use silo_wire::frame::{Frame, SEED_BYTES};

use super::control::Control;
use super::machine::{self, Inside, Made, Processor, Start};
use super::mux::{Mux, Side};
use super::qemu::Running;
use super::{Until, Watch, kvm, snapshot};
use crate::launch::error::Error;
use crate::launch::host::streams::{Streams, host};
use crate::launch::host::system::{self, Signals};
use crate::launch::native::{self, plan};
use crate::launch::spec::{Machine, Spec};
use crate::launch::{Check, State};

/// Restores a machine, or boots one where there is no snapshot of such machines. Nothing of the program runs before it is
/// heard, so a machine that is not may be tried again, and at last by the way that works everywhere.
pub fn begin<'a>(spec: &Spec, machine: &Machine, signals: &Signals) -> Result<(Watch<'a>, Inside), Error> {
    start(spec, machine, signals).map(|(watch, made)| (watch, made.inside()))
}

fn start<'a>(spec: &Spec, machine: &Machine, signals: &Signals) -> Result<(Watch<'a>, Made), Error> {
    let processor = snapshot::processor();
    if let Some(place) = snapshot::Place::of(spec, machine, processor)
        && let Some(dir) = place.find()
    {
        match boot(machine::make(spec, machine, processor, Start::Restored { dir }), signals, Way::Restored(awake()?)) {
            Err(Error::Machine { .. } | Error::Setup { .. } | Error::Host { .. }) => place.remove(),
            restored => return restored,
        }
    }
    match boot(machine::make(spec, machine, processor, Start::Boot), signals, Way::Booted) {
        Err(Error::Machine { .. }) => boot(machine::make(spec, machine, Processor::Translated, Start::Boot), signals, Way::Booted),
        booted => booted,
    }
}

/// What makes one of several machines that were the same another one.
pub fn awake() -> Result<Frame, Error> {
    let mut seed = [0; SEED_BYTES];
    let got = host(getrandom(&mut seed, GetRandomFlags::empty()), "asking for random numbers")?;
    if got != seed.len() {
        return Err(Error::Host { step: "asking for random numbers".to_owned(), source: std::io::ErrorKind::UnexpectedEof.into() });
    }
    let now = clock_gettime(ClockId::Realtime);
    Ok(Frame::Awake { seed, secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) })
}

/// Starts a machine and waits until its first process is heard.
pub fn boot<'a>(made: Made, signals: &Signals, way: Way) -> Result<(Watch<'a>, Made), Error> {
    let step = "opening the way to the machine";
    let (ours, theirs) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&ours, true), step)?;
    // A socket pair also for what QEMU and the machine's kernel say: QEMU writes the latter to nothing else that is open.
    let (log, output) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&log, true), step)?;
    let (mut control, errors) = match &way {
        Way::Booted => (None, host(rustix::io::fcntl_dupfd_cloexec(&output, 3), step)?),
        Way::Observed | Way::Restored(_) => {
            let (ours, theirs) = host(system::pair(SocketType::STREAM), step)?;
            (Some(host(Control::new(ours), step)?), theirs)
        }
    };
    let plan = plan::make(&made.outer, signals.before(), Streams::Given { input: theirs, output, errors })?;
    let (sandbox, socket) = native::start(&made.outer, &plan)?;
    drop(plan);
    let mut mux = Mux::new(ours, Side::Host);
    if let Way::Restored(awake) = &way {
        mux.send(awake);
    }
    let mut watch = Watch::new(Running::new(sandbox, socket, control.take()), log, mux);
    if let Some(control) = watch.running.control() {
        let begun = control.begin().and_then(|()| match way {
            Way::Restored(_) => control.restore(&format!("{}/{}", machine::SNAPSHOT, machine::STATE)),
            Way::Booted | Way::Observed => Ok(()),
        });
        if let Err(source) = begun {
            let words = String::from_utf8_lossy(control.words()).trim().to_owned();
            return Err(watch.lost(&format!("could not be told what to do ({source}) {words}")));
        }
    }
    watch.run(signals, Until::Heard, &mut |_| {})?;
    Ok((watch, made))
}

/// How a machine starts.
pub enum Way {
    /// By its kernel.
    Booted,
    /// By its kernel, and a snapshot of it is taken.
    Observed,
    /// From a snapshot, with this as the first thing that it hears.
    Restored(Frame),
}

/// Says what the vm tier runs on here.
pub fn probe() -> Check {
    let name = "hardware virtualisation";
    match kvm::works() {
        Ok(()) => {
            Check { name, state: State::Ok, detail: "works; where vm is installed, tools run in machines".to_owned(), cure: String::new() }
        }
        Err(why) => {
            let detail = format!("{why}; tools run natively, and `--tier vm` works by translation, which is slow");
            Check { name, state: State::Degraded, detail, cure: String::new() }
        }
    }
}
