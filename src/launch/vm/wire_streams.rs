//! Connects the caller's streams and the network broker to the port of a VM.

use std::fs::File;
use std::io::{BufReader, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::net::SocketType;
use silo_wire::frame::{AFTER, BEFORE, ERRORS, INPUT, JOB, OUTPUT, TERMINAL};

use super::mux::{Mux, SshAgentSocket};
use super::protocol::{Directions, End};
use super::supervise::Supervisor;
use super::tty::Terminal;
use super::upper_archive;
use super::vm_spec::{Errors, GuestJob, Job};
use crate::error::{Error, host};
use crate::host::clock::host_time;
use crate::host::network::{SandboxNetwork, SshAgentSource};
use crate::host::nonblocking::{Direction, NonBlocking};
use crate::host::stdio::{Streams, Target};
use crate::host::system;
use crate::host::terminal::Screen;
use crate::spec::{MachineTime, Spec, Upper};

const STEP: &str = "connecting the virtual machine's streams";

/// Connects the program's streams, and sends the job to the VM. Returns the file that receives the program's changes.
pub fn program(watch: &mut Supervisor<'_>, spec: &Spec, inside: GuestJob, given: &Streams) -> Result<Option<File>, Error> {
    let (terminal, errors) = streams(&mut watch.mux, watch.around.screen.as_mut(), given)?;
    if let Some(outlet) = &mut watch.around.network {
        network(&mut watch.mux, outlet)?;
    }
    let after = match &spec.root.upper {
        Upper::Kept { upper, .. } => Some(changes(&mut watch.mux, upper, inside.memory_bytes)?),
        Upper::Ephemeral { .. } => None,
    };
    let counts = spec.machine.as_ref().is_some_and(|machine| machine.time == MachineTime::Counted);
    let now = match spec.fixed_time.filter(|_| counts) {
        Some(fixed) => (fixed, 0),
        None => {
            let (secs, nanos) = host_time();
            (secs, nanos.into())
        }
    };
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let tasks = spec.limits.tasks;
    let has_disk = spec.machine.as_ref().is_some_and(|machine| machine.disk.is_some());
    let GuestJob { spec, shares, sharing, .. } = inside;
    let umask = system::umask();
    let job = Job { spec, user, umask, has_disk, shares, sharing, terminal, errors, tasks, now };
    send_job(&mut watch.mux, &serde_json::to_vec(&job)?)?;
    Ok(after)
}

/// Connects the program's streams; returns the description of its terminal, if it gets one, and the destination of its errors.
fn streams(mux: &mut Mux, screen: Option<&mut Screen>, streams: &Streams) -> Result<(Option<Terminal>, Errors), Error> {
    let terminal = streams.terminal.as_ref().map(|terminal| Terminal::of(terminal, streams.on_terminal()));
    if terminal.is_some() {
        let (inside, outside) = host(system::pair(SocketType::STREAM), STEP)?;
        host(rustix::io::ioctl_fionbio(&inside, true), STEP)?;
        mux.add(TERMINAL, NonBlocking::own(inside), End::Own, Directions::BOTH);
        if let Some(screen) = screen {
            screen.connect(outside)?;
        }
    }
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let [input, output, apart] = [0, 1, 2].map(|number| match &streams.leads[number] {
        Target::Caller => Some(own[number]),
        Target::To(fd) => Some(fd.as_fd()),
        Target::Terminal => None,
    });
    if let Some(input) = input {
        mux.add(INPUT, shared(input, Direction::Read)?, End::Shared, Directions::OUT);
    }
    if let Some(output) = output {
        mux.add(OUTPUT, shared(output, Direction::Write)?, End::Shared, Directions::BACK);
    }
    let errors = match (output, apart) {
        (_, None) => Errors::WithOutput,
        (Some(output), Some(apart)) if is_one_file(output, apart) => Errors::WithOutput,
        (_, Some(apart)) => {
            mux.add(ERRORS, shared(apart, Direction::Write)?, End::Shared, Directions::BACK);
            Errors::Apart
        }
    };
    Ok((terminal, errors))
}

/// Connects the network agent inside to the broker, and ssh agent clients to the user's ssh agent.
fn network(mux: &mut Mux, outlet: &mut SandboxNetwork<'_>) -> Result<(), Error> {
    let (agent, broker) = host(system::pair(system::MESSAGES), STEP)?;
    mux.take_messenger(agent);
    outlet.take_channel(broker)?;
    // Before threads of the program's start.
    outlet.start()?;
    if outlet.has_keys() {
        let (inside, outside) = host(system::pair(system::MESSAGES), STEP)?;
        mux.take_keys(SshAgentSocket::Broker(inside));
        outlet.take_keys(SshAgentSource::Handed(outside))?;
    }
    Ok(())
}

/// Sends the initial content of the directory for changes; returns the file that receives the result.
fn changes(mux: &mut Mux, upper: &Path, memory_bytes: u64) -> Result<File, Error> {
    let step = || format!("packing {}", upper.display());
    let mut before = Vec::new();
    host(upper_archive::pack(upper, &mut before), &step())?;
    mux.add(BEFORE, NonBlocking::own(host(in_memory(&before), STEP)?), End::Shared, Directions::OUT);
    let after = host(system::nameless(upper), &step())?;
    mux.add(AFTER, shared(&after, Direction::Write)?, End::Own, Directions::BACK);
    mux.bound(AFTER, upper_archive::most(memory_bytes));
    Ok(after.into())
}

/// Unpacks the received changes into the directory.
pub fn changed(mut after: File, upper: &Path) -> Result<(), Error> {
    let mut put = || {
        after.rewind()?;
        upper_archive::clear(upper)?;
        upper_archive::unpack(&mut BufReader::new(&after), upper)
    };
    host(put(), &format!("unpacking the step's changes into {}", upper.display()))
}

/// Sends the job.
fn send_job(mux: &mut Mux, job: &[u8]) -> Result<(), Error> {
    let file = host(in_memory(job), STEP)?;
    mux.add(JOB, NonBlocking::own(file), End::Shared, Directions::OUT);
    Ok(())
}

fn shared(fd: impl AsFd, way: Direction) -> Result<NonBlocking, Error> {
    host(NonBlocking::shared(fd.as_fd(), way), STEP)
}

/// True if two descriptors are of one file: then the order of writes to both must be kept.
fn is_one_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Writes bytes to a file in memory.
fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = system::in_memory()?;
    file.write_all(bytes)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}
