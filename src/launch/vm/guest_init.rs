//! Silo as the first process of a VM: mounts the shares, launches one program, and reports its end.
//!
//! The program runs in a namespace sandbox, as it would on the host and by the same code. The VM with its own kernel is one more barrier
//! around it. This process copies the program's streams over the port and sends the final report; then the host ends the VM.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, Timespec, open, sync};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{Termios, tcsetwinsize};
use rustix::time::{ClockId, clock_settime};
use silo_wire::frame::{self, AFTER, BEFORE, Frame, INPUT, JOB, OUTPUT, TERMINAL, VERSION};

use super::drain::{Drain, LOOK};
use super::guest_paths::{CHANGES, DISK, IMAGE, LOWER, LOWER_TAG, PORT, SHARES};
use super::initramfs::{FIRST_MODULES, OTHER_MODULES};
use super::mux::{Mux, Source, SshAgentSocket};
use super::protocol::{Directions, End, Side};
use super::shared_dirs::tag;
use super::tty;
use super::upper_archive;
use super::vm_spec::{Errors, Job, Sharing};
use crate::failure::{Cause, Failure, StepContext, failed};
use crate::host::nonblocking::NonBlocking;
use crate::host::signal_escalation::Scope;
use crate::host::stdio::{Streams, Target, Terminal};
use crate::host::system::{self, Signals};
use crate::host::terminal::refresh;
use crate::kernel::sys;
use crate::native;
use crate::native::host_facts::{self, Plan};
use crate::native::init_messages::{self, Order, Report};
use crate::spec::{Identity, Upper};
use silo_wire::frame::StageFailure;

/// Interval, in nanoseconds, for polling a terminal that no process has open.
const DESERTED_NANOS: i64 = 50_000_000;
/// Processes in addition to the program's: this one, the sandbox's first one, and the network agent.
const OWN_TASKS: u64 = 3;
/// The share of the VM's memory that captured changes may use.
const UPPER_PER_CENT: u32 = 75;
/// Largest message between the kernel and QEMU for a share.
const SHARE_BYTES: u32 = 512 << 10;

/// True if this process is the first one of a VM; the kernel starts it only under this name.
pub fn is_first(argv0: &std::ffi::OsStr) -> bool {
    rustix::process::getpid().is_init() && argv0 == "/init"
}

/// Runs the VM's job, and powers the VM off.
pub fn main() -> ! {
    // This process must never exit: the kernel would panic.
    std::panic::set_hook(Box::new(|panic| log(&panic.to_string())));
    let done = std::panic::catch_unwind(|| {
        let (port, others) = prepare()?;
        serve(port, others)
    });
    if let Ok(Err(failure)) = done {
        // Before the port is open, the kernel's log is the only output; the host has a time limit.
        log(&failed(failure).to_string());
    }
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Writes a message to the kernel's log, the only output before the port is open, at the one level that is shown.
fn log(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<0>silo: {text}\n"));
}

/// Mounts the basic file systems, loads modules, opens the port, and moves to a writable root.
fn prepare() -> Result<(OwnedFd, Loading), Failure> {
    let none = MountFlags::empty();
    mount("proc", "/proc", "proc", none, None).during("mounting /proc")?;
    mount("sysfs", "/sys", "sysfs", none, None).during("mounting /sys")?;
    mount("devtmpfs", "/dev", "devtmpfs", none, None).during("mounting /dev")?;
    fs::create_dir("/dev/pts").during("making /dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", none, None).during("mounting /dev/pts")?;
    load(&modules(FIRST_MODULES)?)?;
    let others = modules(OTHER_MODULES)?;
    // In parallel with the exchange with the host. No other code in this process depends on the modules until then.
    let others = std::thread::Builder::new().spawn(move || load(&others)).during("starting a thread")?;
    let port = open_port()?;
    mount("root", "/new", "tmpfs", none, Some(c"mode=0755")).during("mounting a root")?;
    for dir in ["proc", "sys", "dev", "image", "share", "tmp"] {
        let path = Path::new("/new").join(dir);
        fs::create_dir(&path).during_this(|| format!("making {}", path.display()))?;
        if matches!(dir, "proc" | "sys" | "dev") {
            mount_move(Path::new("/").join(dir), &path).during_this(|| format!("moving {}", path.display()))?;
        }
    }
    // The root that the kernel unpacked cannot be unmounted, only covered.
    rustix::process::chdir("/new").during("entering the root")?;
    mount_move(".", "/").during("changing the root")?;
    rustix::process::chroot(".").during("changing the root")?;
    rustix::process::chdir("/").during("entering the root")?;
    if Path::new(DISK).exists() {
        mount(DISK, IMAGE, "erofs", MountFlags::RDONLY, None).during("mounting the image")?;
    }
    Ok((port, others))
}

/// A thread that loads modules.
type Loading = std::thread::JoinHandle<Result<(), Failure>>;

/// Opens the modules of a directory, sorted by name.
fn modules(dir: &str) -> Result<Vec<(PathBuf, OwnedFd)>, Failure> {
    let listing = fs::read_dir(Path::new("/").join(dir)).during("listing the modules")?;
    let mut paths: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let open = |path: PathBuf| {
        let file = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during_this(|| format!("opening {}", path.display()))?;
        Ok((path, file))
    };
    paths.into_iter().map(open).collect()
}

fn load(modules: &[(PathBuf, OwnedFd)]) -> Result<(), Failure> {
    for (path, file) in modules {
        match sys::load_module(file.as_fd()) {
            // Built into the kernel, or loaded already.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            loaded => loaded.during_this(|| format!("loading {}", path.display()))?,
        }
    }
    Ok(())
}

/// Finds the port by its name, and opens it.
fn open_port() -> Result<OwnedFd, Failure> {
    let step = "opening the port";
    let listing = fs::read_dir("/sys/class/virtio-ports").during(step)?;
    for entry in listing.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            return open(Path::new("/dev").join(entry.file_name()), flags, Mode::empty()).during(step);
        }
    }
    Err(Errno::NOENT).during(step)
}

/// Receives a job, runs it, and reports the result. Then the host ends the VM, or takes a snapshot of it. A restored VM continues here with
/// its next job.
fn serve(port: OwnedFd, others: Loading) -> Result<(), Failure> {
    let mut others = Some(others);
    let mut mux = Mux::new(port, Side::Guest);
    mux.send(&Frame::Hello { version: VERSION });
    loop {
        mux.add_unattached(JOB, End::Kept, Directions::BACK);
        mux.add_unattached(INPUT, End::Own, Directions::BACK);
        mux.add_unattached(TERMINAL, End::Terminal, Directions::BOTH);
        mux.add_unattached(BEFORE, End::Kept, Directions::BACK);
        let report = match receive_job(&mut mux, &mut others).and_then(|job| run(&mut mux, &job)) {
            Ok(report) => report,
            Err(failure) => to_report(failure),
        };
        // Writes to the shares must be complete before the host continues.
        sync();
        mux.send(&Frame::Report(report));
    }
}

fn await_modules(others: Loading) -> Result<(), Failure> {
    others.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")).during("loading modules"))
}

fn to_report(failure: Failure) -> frame::Report {
    let (errno, step) = failure.to_parts();
    frame::Report::Failed { stage: failure.stage, errno, step }
}

/// Waits for the job, and for the modules that it needs. The sandbox's first process is a fork of this one, which must have only one thread
/// by then.
fn receive_job(mux: &mut Mux, others: &mut Option<Loading>) -> Result<Job, Failure> {
    loop {
        turn(mux, None, None)?;
        while let Some(frame) = mux.next_frame() {
            if let Frame::Awake { seed, secs, nanos } = frame {
                others.take().map_or(Ok(()), await_modules)?;
                sys::reseed(&seed).during("reseeding the random number generator")?;
                set_clock(secs, i64::from(nanos))?;
                mux.send(&Frame::Hello { version: VERSION });
            }
        }
        if let Some(json) = mux.whole(JOB) {
            others.take().map_or(Ok(()), await_modules)?;
            return serde_json::from_slice(&json).map_err(io::Error::from).during("reading the job");
        }
    }
}

/// Polls and copies data once. Returns true if the sandbox's socket is readable.
fn turn(mux: &mut Mux, sandbox: Option<&OwnedFd>, patience: Option<&Timespec>) -> Result<bool, Failure> {
    let interest = mux.interest();
    let mut fds: Vec<PollFd<'_>> = interest.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    fds.extend(sandbox.map(|socket| PollFd::new(socket, PollFlags::IN)));
    match poll(&mut fds, patience) {
        Err(Errno::INTR) => return Ok(false),
        polled => polled.during("waiting")?,
    };
    let said = sandbox.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
    let events: Vec<(Source, PollFlags)> = interest.iter().zip(&fds).map(|((source, ..), fd)| (*source, fd.revents())).collect();
    mux.turn(&events).map_err(io::Error::other).during("exchanging data with the host")?;
    Ok(said)
}

fn run(mux: &mut Mux, job: &Job) -> Result<frame::Report, Failure> {
    mount_shares(job)?;
    if let Upper::Kept { upper, work } = &job.spec.root.upper {
        begin_changes(mux, upper, work)?;
    }
    let step = |error: crate::error::Error| io::Error::other(error.to_string());
    let signals = Signals::take_over().map_err(step).during("taking signals over")?;
    let streams = streams(mux, job)?;
    let mut terminal = GuestTerminal { settings: streams.terminal.as_ref().map(|terminal| (*terminal.settings).clone()) };
    let plan = plan(job, &signals, streams)?;
    let (sandbox, socket) = native::start(&job.spec, &plan).map_err(step).during("starting the sandbox")?;
    // Closes the program's ends of its pipes: while they are open here, too, no pipe ends.
    drop(plan);
    if job.spec.identity == Identity::Root {
        // The sandbox of a build step reports no start, and a step may take hours: the host's time limit for a start ends here.
        mux.send(&Frame::Started);
    }
    let end = attend(mux, &socket, &mut terminal)?;
    drop(sandbox);
    match &job.spec.root.upper {
        Upper::Kept { upper, .. } => finish_with_changes(mux, upper)?,
        Upper::Ephemeral { .. } => finish(mux)?,
    }
    Ok(match end {
        Some(Report::Exited(code)) => frame::Report::Exited(code),
        Some(Report::Killed(signal)) => frame::Report::Killed(signal),
        Some(Report::Failed(failure)) => to_report(failure),
        // `attend` returns no other report.
        _ => to_report(Failure {
            stage: StageFailure::Setup,
            step: "receiving the program's exit status".to_owned(),
            cause: Cause::Number(libc::EPIPE),
        }),
    })
}

fn set_clock(secs: i64, nanos: i64) -> Result<(), Failure> {
    clock_settime(ClockId::Realtime, Timespec { tv_sec: secs, tv_nsec: nanos }).during("setting the clock")
}

/// Mounts the shares, with the program's root if it is one of them, and applies settings of the whole VM.
fn mount_shares(job: &Job) -> Result<(), Failure> {
    let (secs, nanos) = job.now;
    set_clock(secs, nanos)?;
    if !job.has_disk {
        // These files never change, so cached data stays valid.
        share(job.sharing, LOWER_TAG, Path::new(LOWER), "loose", MountFlags::RDONLY | MountFlags::NODEV)?;
    }
    for number in 0..job.shares {
        // Programs need this cache mode for writable mappings; it caches nothing else.
        let at = Path::new(SHARES).join(number.to_string());
        share(job.sharing, &tag(number), &at, "mmap", MountFlags::NOSUID | MountFlags::NODEV)?;
    }
    if let Some(tasks) = job.tasks {
        limit_tasks(tasks).during("limiting the number of processes")?;
    }
    Ok(())
}

/// Mounts a share of the host.
fn share(sharing: Sharing, tag: &str, at: &Path, cache: &str, flags: MountFlags) -> Result<(), Failure> {
    let step = || format!("mounting {}", at.display());
    fs::create_dir(at).during_this(step)?;
    if sharing == Sharing::Virtiofs {
        return mount(tag, at, "virtiofs", flags, None).during_this(step);
    }
    let options = format!("trans=virtio,version=9p2000.L,cache={cache},msize={SHARE_BYTES},access=any");
    let options = std::ffi::CString::new(options).during_this(step)?;
    mount(tag, at, "9p", flags, Some(options.as_c_str())).during_this(step)
}

/// Creates the directory for captured changes, with the initial content.
fn begin_changes(mux: &mut Mux, upper: &Path, work: &Path) -> Result<(), Failure> {
    let step = "unpacking the step's initial files";
    let before = loop {
        match mux.whole(BEFORE) {
            Some(before) => break before,
            None => turn(mux, None, None)?,
        };
    };
    fs::create_dir(CHANGES).during(step)?;
    let size = format!("mode=0755,size={UPPER_PER_CENT}%");
    let size = std::ffi::CString::new(size).during(step)?;
    mount("changes", CHANGES, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(size.as_c_str())).during(step)?;
    for dir in [upper, work] {
        fs::create_dir(dir).during(step)?;
    }
    upper_archive::unpack(&mut &before[..], upper).during(step)
}

/// Sends the step's changes, in parallel with the rest of its output.
fn finish_with_changes(mux: &mut Mux, upper: &Path) -> Result<(), Failure> {
    let step = "packing the step's changes";
    let (ours, theirs) = channel().during(step)?;
    mux.add(AFTER, NonBlocking::own(ours), End::Own, Directions::OUT);
    let upper = upper.to_owned();
    let pack = move || upper_archive::pack(&upper, io::BufWriter::with_capacity(1 << 16, fs::File::from(theirs)));
    let packing = std::thread::Builder::new().spawn(pack).during(step)?;
    finish(mux)?;
    packing.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))).during(step)
}

/// Limits the number of processes by a cgroup, because root of the VM is exempt from limits per user.
fn limit_tasks(tasks: u64) -> io::Result<()> {
    let place = Path::new("/sys/fs/cgroup");
    mount("cgroup", place, "cgroup2", MountFlags::empty(), None)?;
    fs::write(place.join("cgroup.subtree_control"), "+pids")?;
    let own = place.join("silo");
    fs::create_dir(&own)?;
    fs::write(own.join("pids.max"), tasks.saturating_add(OWN_TASKS).to_string())?;
    // This process and all its descendants.
    fs::write(own.join("cgroup.procs"), "0")
}

/// Creates the program's streams, and connects their other ends to the port.
fn streams(mux: &mut Mux, job: &Job) -> Result<Streams, Failure> {
    let step = "making the program's streams";
    let on = job.terminal.as_ref().map_or([false; 3], |terminal| terminal.on);
    let terminal = match &job.terminal {
        None => {
            mux.remove(TERMINAL);
            None
        }
        Some(terminal) => Some(Terminal {
            settings: Box::new(system::new_terminal(terminal.modes, &terminal.codes).during(step)?),
            size: tty::size(terminal.size),
            is_foreground: terminal.is_foreground,
        }),
    };
    let input = if on[0] {
        mux.remove(INPUT);
        Target::Terminal
    } else {
        let (input, ours) = pipe_with(PipeFlags::CLOEXEC).during(step)?;
        rustix::io::ioctl_fionbio(&ours, true).during(step)?;
        mux.attach(INPUT, ours);
        Target::To(input)
    };
    let mut to_host = |number: u32| -> Result<OwnedFd, Failure> {
        let (ours, theirs) = channel().during(step)?;
        mux.add(number, NonBlocking::own(ours), End::Own, Directions::OUT);
        Ok(theirs)
    };
    let output = if on[1] { Target::Terminal } else { Target::To(to_host(OUTPUT)?) };
    let errors = match (job.errors, &output) {
        _ if on[2] => Target::Terminal,
        (Errors::WithOutput, Target::To(output)) => Target::To(rustix::io::fcntl_dupfd_cloexec(output, 3).during(step)?),
        (Errors::WithOutput | Errors::Apart, _) => Target::To(to_host(frame::ERRORS)?),
    };
    Ok(Streams { terminal, leads: [input, output, errors], console: None })
}

/// Creates a pipe with a non-blocking read end.
fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

fn plan(job: &Job, signals: &Signals, streams: Streams) -> Result<Plan, Failure> {
    let made = host_facts::make(&job.spec, signals.before(), streams).map_err(io::Error::other);
    let mut plan = made.during("planning the sandbox")?;
    if job.spec.identity == Identity::Caller {
        // The VM's root is the host's caller, and appears under the caller's own ids.
        plan.inside = job.user;
        plan.umask = system::mode(job.umask);
    }
    Ok(plan)
}

/// Copies data until the sandbox's first process sends its final report.
fn attend(mux: &mut Mux, socket: &OwnedFd, inside: &mut GuestTerminal) -> Result<Option<Report>, Failure> {
    loop {
        let while_deserted = Timespec { tv_sec: 0, tv_nsec: DESERTED_NANOS };
        let patience = mux.is_deserted().then_some(&while_deserted);
        let said = turn(mux, Some(socket), patience)?;
        mux.poll_deserted();
        while let Some(frame) = mux.next_frame() {
            inside.obey(&frame, socket, mux.descriptor(TERMINAL));
        }
        if !said {
            continue;
        }
        match init_messages::next_report(socket.as_fd()).during("receiving from the sandbox")? {
            Some(Report::Terminal(fd)) => {
                rustix::io::ioctl_fionbio(&fd, true).during("connecting the terminal")?;
                mux.attach(TERMINAL, fd);
            }
            Some(Report::Channel(fd)) => mux.take_messenger(fd),
            Some(Report::Started) => mux.send(&Frame::Started),
            Some(Report::Stopped(signal)) => mux.send(&Frame::Stopped { signal }),
            Some(Report::Placed) => mux.send(&Frame::Placed),
            Some(Report::Last) => {}
            Some(Report::Keys(fd)) => {
                rustix::io::ioctl_fionbio(&fd, true).during("opening the ssh agent's socket")?;
                mux.take_keys(SshAgentSocket::Listener(fd.into()));
            }
            end => return Ok(end),
        }
    }
}

/// The program's terminal, if it has one.
struct GuestTerminal {
    /// The settings last applied.
    settings: Option<Termios>,
}

impl GuestTerminal {
    fn obey(&mut self, frame: &Frame, socket: &OwnedFd, terminal: Option<BorrowedFd<'_>>) {
        // A failure means that the sandbox is gone; its report is read next.
        let order = |order: Order| {
            let _ = init_messages::order(socket.as_fd(), order);
        };
        match frame {
            Frame::Signal { signal, to_group } => {
                order(Order::Signal { signal: *signal, scope: if *to_group { Scope::Group } else { Scope::Program } });
            }
            Frame::Foreground { is_foreground } => order(if *is_foreground { Order::Foreground } else { Order::Background }),
            Frame::Settings { modes, codes } => {
                if let (Some(before), Some(terminal), Ok(new)) = (&self.settings, terminal, system::new_terminal(*modes, codes)) {
                    refresh(terminal, before, &new);
                    self.settings = Some(new);
                }
            }
            Frame::Window { rows, columns } => {
                if let Some(terminal) = terminal {
                    // On failure the program sees the old size.
                    let _ = tcsetwinsize(terminal, tty::size((*rows, *columns)));
                }
            }
            // The host sends no other frames here.
            _ => {}
        }
    }
}

/// Copies the remaining output of the program, and its last network requests and data.
fn finish(mux: &mut Mux) -> Result<(), Failure> {
    mux.remove(INPUT);
    let mut linger = Drain::default();
    loop {
        let open = [OUTPUT, frame::ERRORS, AFTER].iter().any(|number| mux.has(*number)) || (mux.has(TERMINAL) && !mux.is_deserted());
        let is_done = !open && !mux.has_messenger() && mux.conversation().is_flushed();
        if is_done && (!mux.conversation().owes() || linger.is_over(mux.conversation().moved(), Instant::now())) {
            return Ok(());
        }
        turn(mux, None, is_done.then_some(&LOOK))?;
    }
}
