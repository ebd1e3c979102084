//! Silo as the first process of a machine: mounts what it was given, launches one program, and tells how it ended.
//!
//! The program runs in a sandbox of namespaces, as it would on the host and by the same code; the machine is one more wall
//! around it, with a kernel of its own. This process carries its streams over the port and says its last word; then the
//! host ends the machine.

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

use super::changes;
use super::conversation::{End, Side, Ways};
use super::initial::{FIRST_MODULES, OTHER_MODULES};
use super::linger::{LOOK, Linger};
use super::machine::{CHANGES, DISK, Errors, IMAGE, Job, LOWER, LOWER_TAG, PORT, SHARES, Sharing};
use super::mux::{Keys, Mux, Source};
use super::shares::tag;
use super::tty;
use crate::launch::host::failure::{Cause, During, Failure, Stage, failed};
use crate::launch::host::no_wait::NoWait;
use crate::launch::host::streams::{Lead, Streams, Terminal};
use crate::launch::host::system::{self, Signals};
use crate::launch::host::terminal::refresh;
use crate::launch::native::plan::{self, Plan};
use crate::launch::native::wire::{self, Order, Report, Scope};
use crate::launch::native::{self, sys};
use crate::launch::spec::{Identity, Upper};

/// How often a terminal that nobody has open is looked at, in nanoseconds.
const DESERTED_NANOS: i64 = 50_000_000;
/// Processes besides the program's: this one, the sandbox's first one, and the network's agent.
const OWN_TASKS: u64 = 3;
/// Of the machine's memory, what changes that are kept may take.
const UPPER_PER_CENT: u32 = 75;
/// Bytes that the kernel and QEMU carry at once of a share.
const SHARE_BYTES: u32 = 512 << 10;

/// Whether this process is the first of a machine: the kernel starts it by this name and no other.
pub fn is_first(argv0: &std::ffi::OsStr) -> bool {
    rustix::process::getpid().is_init() && argv0 == "/init"
}

/// Does what a machine is for, and powers it off.
pub fn main() -> ! {
    // Whatever happens, this process must not end: the kernel would say that it has died of it.
    std::panic::set_hook(Box::new(|panic| log(&panic.to_string())));
    let done = std::panic::catch_unwind(|| {
        let (port, others) = prepare()?;
        serve(port, others)
    });
    if let Ok(Err(failure)) = done {
        // Before there is a port there is nobody to tell; the host has a deadline.
        log(&failed(failure).to_string());
    }
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Says something by the kernel's log, the one way out that there is before the port is open; at the one level that is shown.
fn log(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<0>silo: {text}\n"));
}

/// Mounts what a process expects, loads the modules, opens the port, and moves onto a root that can be changed.
fn prepare() -> Result<(OwnedFd, Loading), Failure> {
    let none = MountFlags::empty();
    mount("proc", "/proc", "proc", none, None).during("mounting /proc")?;
    mount("sysfs", "/sys", "sysfs", none, None).during("mounting /sys")?;
    mount("devtmpfs", "/dev", "devtmpfs", none, None).during("mounting /dev")?;
    fs::create_dir("/dev/pts").during("making /dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", none, None).during("mounting /dev/pts")?;
    load(&modules(FIRST_MODULES)?)?;
    let others = modules(OTHER_MODULES)?;
    // While the host hears and says what it has to; nothing else of this process runs meanwhile that would have to know.
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
    // What the kernel unpacked cannot be left, only covered.
    rustix::process::chdir("/new").during("entering the root")?;
    mount_move(".", "/").during("changing the root")?;
    rustix::process::chroot(".").during("changing the root")?;
    rustix::process::chdir("/").during("entering the root")?;
    if Path::new(DISK).exists() {
        mount(DISK, IMAGE, "erofs", MountFlags::RDONLY, None).during("mounting the image")?;
    }
    Ok((port, others))
}

/// Modules that are being loaded.
type Loading = std::thread::JoinHandle<Result<(), Failure>>;

/// Opens the modules of a directory, in the order of their names.
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
            // It is part of the kernel, or there already.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            loaded => loaded.during_this(|| format!("loading {}", path.display()))?,
        }
    }
    Ok(())
}

/// Finds the port by its name.
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

/// Hears what is to be done, does it, and tells how it ended; then the host ends the machine, or takes a snapshot of it,
/// and whoever is restored of that is told what to do.
fn serve(port: OwnedFd, others: Loading) -> Result<(), Failure> {
    let mut others = Some(others);
    let mut mux = Mux::new(port, Side::Guest);
    mux.send(&Frame::Hello { version: VERSION });
    loop {
        mux.add_unattached(JOB, End::Kept, Ways::BACK);
        mux.add_unattached(INPUT, End::Own, Ways::BACK);
        mux.add_unattached(TERMINAL, End::Terminal, Ways::BOTH);
        mux.add_unattached(BEFORE, End::Kept, Ways::BACK);
        let report = match hear(&mut mux, &mut others).and_then(|job| run(&mut mux, &job)) {
            Ok(report) => report,
            Err(failure) => told(failure),
        };
        // What was written to the shares must be there when the host goes on.
        sync();
        mux.send(&Frame::Report(report));
    }
}

fn await_modules(others: Loading) -> Result<(), Failure> {
    others.join().unwrap_or_else(|_| Err(io::Error::other("it broke off")).during("loading modules"))
}

fn told(failure: Failure) -> frame::Report {
    let stage = match failure.stage {
        Stage::Setup => frame::Stage::Setup,
        Stage::Find => frame::Stage::Find,
        Stage::Execute => frame::Stage::Execute,
    };
    let (errno, step) = failure.to_parts();
    frame::Report::Failed { stage, errno, step }
}

/// Waits for what is to be done, and for the modules that it needs: the sandbox's first process is a copy of this one, which
/// must have one thread then.
fn hear(mux: &mut Mux, others: &mut Option<Loading>) -> Result<Job, Failure> {
    loop {
        turn(mux, None, None)?;
        while let Some(frame) = mux.next_frame() {
            if let Frame::Awake { seed, secs, nanos } = frame {
                others.take().map_or(Ok(()), await_modules)?;
                sys::reseed(&seed).during("mixing random numbers")?;
                set_clock(secs, i64::from(nanos))?;
                mux.send(&Frame::Hello { version: VERSION });
            }
        }
        if let Some(json) = mux.whole(JOB) {
            others.take().map_or(Ok(()), await_modules)?;
            return serde_json::from_slice(&json).map_err(io::Error::from).during("reading what is to be done");
        }
    }
}

/// Waits and carries once. Says whether the sandbox's socket can be read.
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
    mux.turn(&events).map_err(io::Error::other).during("talking to the host")?;
    Ok(said)
}

fn run(mux: &mut Mux, job: &Job) -> Result<frame::Report, Failure> {
    furnish(job)?;
    if let Upper::Kept { upper, work } = &job.spec.root.upper {
        begin_changes(mux, upper, work)?;
    }
    let step = |error: crate::launch::error::Error| io::Error::other(error.to_string());
    let signals = Signals::take_over().map_err(step).during("taking signals over")?;
    let streams = streams(mux, job)?;
    let mut terminal = Inside { settings: streams.terminal.as_ref().map(|terminal| (*terminal.settings).clone()) };
    let plan = plan(job, &signals, streams)?;
    let (sandbox, socket) = native::start(&job.spec, &plan).map_err(step).during("starting the sandbox")?;
    // The program's ends of its pipes: as long as they are open here, too, none of them ends.
    drop(plan);
    let end = attend(mux, &socket, &mut terminal)?;
    drop(sandbox);
    match &job.spec.root.upper {
        Upper::Kept { upper, .. } => finish_with_changes(mux, upper)?,
        Upper::Ephemeral { .. } => finish(mux)?,
    }
    Ok(match end {
        Some(Report::Exited(code)) => frame::Report::Exited(code),
        Some(Report::Killed(signal)) => frame::Report::Killed(signal),
        Some(Report::Failed(failure)) => told(failure),
        Some(Report::Terminal(_) | Report::Channel(_) | Report::Keys(_) | Report::Started | Report::Stopped(_)) | None => {
            told(Failure { stage: Stage::Setup, step: "hearing how the program ended".to_owned(), cause: Cause::Number(libc::EPIPE) })
        }
    })
}

fn set_clock(secs: i64, nanos: i64) -> Result<(), Failure> {
    clock_settime(ClockId::Realtime, Timespec { tv_sec: secs, tv_nsec: nanos }).during("setting the clock")
}

/// Mounts the shares, and the program's root where it is one of them, and sets what belongs to the whole machine.
fn furnish(job: &Job) -> Result<(), Failure> {
    let (secs, nanos) = job.now;
    set_clock(secs, nanos)?;
    if !job.has_disk {
        // Nobody changes them, so whatever was read is true for ever.
        share(job.sharing, LOWER_TAG, Path::new(LOWER), "loose", MountFlags::RDONLY | MountFlags::NODEV)?;
    }
    for number in 0..job.shares {
        // Programs that map files to write to them need that one cache; nothing else is kept.
        let at = Path::new(SHARES).join(number.to_string());
        share(job.sharing, &tag(number), &at, "mmap", MountFlags::NOSUID | MountFlags::NODEV)?;
    }
    if let Some(tasks) = job.tasks {
        limit_tasks(tasks).during("limiting the number of processes")?;
    }
    Ok(())
}

/// Mounts what the host shares.
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

/// Makes the directory that catches changes, with what it begins with.
fn begin_changes(mux: &mut Mux, upper: &Path, work: &Path) -> Result<(), Failure> {
    let step = "unpacking what the step begins with";
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
    changes::unpack(&mut &before[..], upper).during(step)
}

/// Sends what the step has changed, beside the rest of what it said.
fn finish_with_changes(mux: &mut Mux, upper: &Path) -> Result<(), Failure> {
    let step = "packing what the step changed";
    let (ours, theirs) = channel().during(step)?;
    mux.add(AFTER, NoWait::own(ours), End::Own, Ways::OUT);
    let upper = upper.to_owned();
    let pack = move || changes::pack(&upper, io::BufWriter::with_capacity(1 << 16, fs::File::from(theirs)));
    let packing = std::thread::Builder::new().spawn(pack).during(step)?;
    finish(mux)?;
    packing.join().unwrap_or_else(|_| Err(io::Error::other("it broke off"))).during(step)
}

/// Limits how many processes there are at once, by a cgroup: whoever is root of the machine is exempt from limits of users.
fn limit_tasks(tasks: u64) -> io::Result<()> {
    let place = Path::new("/sys/fs/cgroup");
    mount("cgroup", place, "cgroup2", MountFlags::empty(), None)?;
    fs::write(place.join("cgroup.subtree_control"), "+pids")?;
    let own = place.join("silo");
    fs::create_dir(&own)?;
    fs::write(own.join("pids.max"), tasks.saturating_add(OWN_TASKS).to_string())?;
    // This process, and all that come of it.
    fs::write(own.join("cgroup.procs"), "0")
}

/// Makes the program's streams and gives their other ends to the port.
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
        Lead::Terminal
    } else {
        let (input, ours) = pipe_with(PipeFlags::CLOEXEC).during(step)?;
        rustix::io::ioctl_fionbio(&ours, true).during(step)?;
        mux.attach(INPUT, ours);
        Lead::To(input)
    };
    let mut to_host = |number: u32| -> Result<OwnedFd, Failure> {
        let (ours, theirs) = channel().during(step)?;
        mux.add(number, NoWait::own(ours), End::Own, Ways::OUT);
        Ok(theirs)
    };
    let output = if on[1] { Lead::Terminal } else { Lead::To(to_host(OUTPUT)?) };
    let errors = match (job.errors, &output) {
        _ if on[2] => Lead::Terminal,
        (Errors::WithOutput, Lead::To(output)) => Lead::To(rustix::io::fcntl_dupfd_cloexec(output, 3).during(step)?),
        (Errors::WithOutput | Errors::Apart, _) => Lead::To(to_host(frame::ERRORS)?),
    };
    Ok(Streams { terminal, leads: [input, output, errors], console: None })
}

/// A pipe whose end to read from does not wait.
fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

fn plan(job: &Job, signals: &Signals, streams: Streams) -> Result<Plan, Failure> {
    let made = plan::make(&job.spec, signals.before(), streams).map_err(io::Error::other);
    let mut plan = made.during("planning the sandbox")?;
    if job.spec.identity == Identity::Caller {
        // The machine's root is the host's caller, under the caller's own number.
        plan.inside = job.user;
        plan.umask = system::mode(job.umask);
    }
    Ok(plan)
}

/// Carries until the sandbox's first process has said its last word.
fn attend(mux: &mut Mux, socket: &OwnedFd, inside: &mut Inside) -> Result<Option<Report>, Failure> {
    loop {
        let while_deserted = Timespec { tv_sec: 0, tv_nsec: DESERTED_NANOS };
        let patience = mux.is_deserted().then_some(&while_deserted);
        let said = turn(mux, Some(socket), patience)?;
        mux.look_again();
        while let Some(frame) = mux.next_frame() {
            inside.obey(&frame, socket, mux.descriptor(TERMINAL));
        }
        if !said {
            continue;
        }
        match wire::next_report(socket.as_fd()).during("listening to the sandbox")? {
            Some(Report::Terminal(fd)) => {
                rustix::io::ioctl_fionbio(&fd, true).during("connecting the terminal")?;
                mux.attach(TERMINAL, fd);
            }
            Some(Report::Channel(fd)) => mux.take_messenger(fd),
            Some(Report::Started) => mux.send(&Frame::Started),
            Some(Report::Stopped(signal)) => mux.send(&Frame::Stopped { signal }),
            Some(Report::Keys(fd)) => {
                rustix::io::ioctl_fionbio(&fd, true).during("listening for the ssh agent")?;
                mux.take_keys(Keys::Listener(fd.into()));
            }
            end => return Ok(end),
        }
    }
}

/// The program's terminal, if it has one.
struct Inside {
    /// The settings that it was given last.
    settings: Option<Termios>,
}

impl Inside {
    fn obey(&mut self, frame: &Frame, socket: &OwnedFd, terminal: Option<BorrowedFd<'_>>) {
        // A sandbox that is gone has said so, and is heard next.
        let order = |order: Order| {
            let _ = wire::order(socket.as_fd(), order);
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
                    // The program sees the size before.
                    let _ = tcsetwinsize(terminal, tty::size((*rows, *columns)));
                }
            }
            // An honest host says nothing else.
            _ => {}
        }
    }
}

/// Carries what the program left in its streams, and what it asked of the network, and wrote to it, last.
fn finish(mux: &mut Mux) -> Result<(), Failure> {
    mux.remove(INPUT);
    let mut linger = Linger::default();
    loop {
        let open = [OUTPUT, frame::ERRORS, AFTER].iter().any(|number| mux.has(*number)) || (mux.has(TERMINAL) && !mux.is_deserted());
        let is_done = !open && !mux.has_messenger() && mux.conversation().is_flushed();
        if is_done && (!mux.conversation().owes() || linger.is_over(mux.conversation().moved(), Instant::now())) {
            return Ok(());
        }
        turn(mux, None, is_done.then_some(&LOOK))?;
    }
}
