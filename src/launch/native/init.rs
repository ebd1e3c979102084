//! PID 1 of a sandbox: a list of steps that makes it, then a loop that watches over the program.
//!
//! PID 1 is a copy of the silo process, so it takes care to be nothing that the program could learn
//! from: its copy of the host's arguments and environment is overwritten first, and it is
//! undumpable, so that nothing of `/proc/1` but names and numbers can be read.
//!
//! Where there is a network, a second copy becomes its agent, before the program starts. The program's end is told to it
//! first, and to the host afterwards: what the program asked for last is still asked for, or a refusal would not be told.
//!
//! When PID 1 ends, the kernel kills everything in its namespace. It ends when the program does,
//! when the host side of its socket closes, and (by the parent-death signal) when silo is killed.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, listen, shutdown, socket_with, socketpair};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, getpid, ioctl_tiocsctty, set_dumpable_behavior, set_parent_process_death_signal, setpgid,
    setsid, test_kill_process_group, umask, wait,
};
use rustix::system::{setdomainname, sethostname};
use rustix::termios::{OptionalActions, tcgetpgrp, tcsetattr, tcsetpgrp, tcsetwinsize};
use rustix::thread::{set_name, set_no_new_privs};

use silo_init::agent::Agent;

use super::named::Judge;
use super::plan::Plan;
use super::wire::{self, Order, Report, Scope};
use super::{calls, device, identity, limits, modes, owner, program, reguard, root, sys};
use crate::launch::host::failure::{Cause, During, Failure, Stage};
use crate::launch::host::streams::{Lead, Streams, Terminal};
use crate::launch::spec::{Identity, SSH_AGENT, Spec};

/// Programs that wait to be heard by the ssh agent.
const KEYS_BACKLOG: i32 = 64;
/// How long the agent may take to ask what is left when the program has ended: it takes a fraction of a millisecond, unless
/// processes that are left behind flood it.
const LAST_WORDS: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Makes the sandbox around this new process and runs the program in it; never returns.
pub fn main(spec: &Spec, plan: &Plan, socket: &OwnedFd) -> ! {
    // A panic must not unwind into the copy of the caller's stack.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(spec, plan, socket.as_fd())));
    if let Ok(Err(failure)) = outcome {
        // When nobody listens any more there is nobody to tell.
        let _ = wire::report(socket.as_fd(), &Report::Failed(failure));
    }
    sys::exit(1)
}

fn run(spec: &Spec, plan: &Plan, socket: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    sys::scrub(&plan.strings);
    set_name(c"silo-init").during("naming PID 1")?;
    // If silo dies before this, its end of the socket is closed, and the loop below sees that.
    set_parent_process_death_signal(Some(Signal::KILL)).during("binding PID 1 to silo")?;
    streams(&plan.streams)?;
    close_all_but(socket)?;
    identity::map(plan.inside, plan.uid, plan.gid)?;
    umask(Mode::empty());
    isolate(spec)?;
    let network = network(plan, socket)?;
    let no_files = root::enter(spec)?;
    limits::bound_processes(&spec.limits)?;
    super::proc::mask(no_files, plan.uid)?;
    keys(spec, socket)?;
    let terminal = terminal(&plan.streams, socket)?;
    umask(plan.umask);
    limits::apply(&spec.limits, plan.cgroup.is_some())?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("shielding PID 1")?;
    set_no_new_privs(true).during("giving up new privileges")?;
    // Before there is another process: none of the sandbox's is of silo's process group, whose signals are silo's.
    begin_session(terminal.as_ref())?;
    // A process that Landlock confines mounts nothing.
    let guard = reguard::start(spec)?;
    identity::confine()?;
    let agent = network.map(|(agent, channel)| start_agent(agent, &channel)).transpose()?;
    match spec.identity {
        Identity::Caller | Identity::Machine => start_caller(spec, plan, Outside { socket, agent, guard }, terminal),
        Identity::Root => start_root(spec, plan, Outside { socket, agent, guard }, terminal),
    }
}

/// Whom PID 1 speaks with while the program runs.
struct Outside<'a> {
    /// The host.
    socket: BorrowedFd<'a>,
    /// The agent of the network, where there is one.
    agent: Option<OwnedFd>,
    /// The process that guards files again, where there are such files.
    guard: Option<i32>,
}

/// PID 1 is confined as the program is, but for set-id bits of directories, which it sets for the program.
fn start_caller(spec: &Spec, plan: &Plan, outside: Outside<'_>, terminal: Option<OwnedFd>) -> Result<Infallible, Failure> {
    let step = "filtering system calls";
    identity::drop_capabilities(spec.identity)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    match sys::fork().during("starting the program")? {
        None => {
            drop(ours);
            let listener = sys::filter_with_listener(&calls::filter(spec.identity)).during(step)?;
            wire::hand_over(theirs.as_fd(), listener).during(step)?;
            become_program(spec, plan, terminal)
        }
        Some(pid) => {
            drop(theirs);
            sys::filter(&calls::filter_for_all()).during(step)?;
            // A program that could not be started has said why, and is reaped.
            let modes = wire::take_over(ours.as_fd()).during(step)?.map(modes::Modes::new).transpose()?;
            // If silo is gone, the loop sees that.
            let _ = wire::report(outside.socket, &Report::Started);
            watch(pid, &outside, terminal, modes.as_ref().map(|modes| modes as &dyn Judge))
        }
    }
}

/// PID 1 keeps what it needs to record owners; the program gives more up.
fn start_root(spec: &Spec, plan: &Plan, outside: Outside<'_>, terminal: Option<OwnedFd>) -> Result<Infallible, Failure> {
    // PID 1 has the filter, too, but makes none of the calls that it would have to judge itself.
    let listener = sys::filter_with_listener(&calls::filter(spec.identity)).during("filtering system calls")?;
    let recorder = owner::Recorder::new(listener)?;
    match sys::fork().during("starting the program")? {
        None => {
            drop(recorder);
            identity::drop_capabilities(spec.identity)?;
            become_program(spec, plan, terminal)
        }
        Some(pid) => {
            identity::drop_capabilities_of_recorder()?;
            watch(pid, &outside, terminal, Some(&recorder as &dyn Judge))
        }
    }
}

/// Puts what was opened for it in place of the standard streams.
fn streams(streams: &Streams) -> Result<(), Failure> {
    for (number, lead) in streams.leads.iter().enumerate() {
        if let Lead::To(fd) = lead {
            redirect(number, fd).during("redirecting output")?;
        }
    }
    Ok(())
}

/// Puts a descriptor in place of a standard stream.
fn redirect(number: usize, fd: &OwnedFd) -> Result<(), Errno> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd),
        1 => rustix::stdio::dup2_stdout(fd),
        _ => rustix::stdio::dup2_stderr(fd),
    }
}

/// Closes every descriptor but the standard streams and the socket.
fn close_all_but(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = "closing the host's files";
    let kept = u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX);
    if kept > 3 {
        sys::close_range(3, kept - 1).during(step)?;
    }
    sys::close_range(kept + 1, u32::MAX).during(step)
}

/// What the new namespaces hold besides mounts: names, an interface, keys.
fn isolate(spec: &Spec) -> Result<(), Failure> {
    sethostname(spec.hostname.as_bytes()).during("setting the host name")?;
    setdomainname(b"").during("setting the domain name")?;
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).during("opening a socket")?;
    // Programs that talk to themselves need it; it leads nowhere else.
    sys::loopback_up(any.as_fd()).during("bringing the loopback interface up")?;
    match sys::new_session_keyring() {
        // A kernel (or the container around us) without keyrings has no keys to hide.
        Err(error) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => Ok(()),
        result => result.during("leaving the session's keyring"),
    }
}

/// Makes this network namespace lead to names, if there is a network, and hands out the way to its agent.
fn network(plan: &Plan, socket: BorrowedFd<'_>) -> Result<Option<(Agent, OwnedFd)>, Failure> {
    let Some(layout) = &plan.layout else { return Ok(None) };
    let step = "opening the way to the network";
    let (host, ours) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    let agent = Agent::prepare(layout).during(step)?;
    wire::report(socket, &Report::Channel(host)).during(step)?;
    Ok(Some((agent, ours)))
}

/// Listens where the program looks for the user's ssh agent, for the host to answer there.
fn keys(spec: &Spec, socket: BorrowedFd<'_>) -> Result<(), Failure> {
    if spec.network.as_ref().is_none_or(|network| network.ssh_agent.is_none()) {
        return Ok(());
    }
    let step = "opening the way to the ssh agent";
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during(step)?;
    bind(&listener, &SocketAddrUnix::new(SSH_AGENT).during(step)?).during(step)?;
    listen(&listener, KEYS_BACKLOG).during(step)?;
    wire::report(socket, &Report::Keys(listener)).during(step)
}

/// Starts the agent of the network, which may do less than PID 1 and nothing that the program may not; returns how the
/// program's end is told to it.
fn start_agent(agent: Agent, channel: &OwnedFd) -> Result<OwnedFd, Failure> {
    let step = "starting the network's agent";
    let (ours, end) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during(step)?;
    if sys::fork().during(step)?.is_some() {
        return Ok(ours);
    }
    drop(ours);
    let serve = || -> Result<(), Failure> {
        set_name(c"silo-agent").during(step)?;
        sys::close_range(0, 2).during(step)?;
        identity::drop_capabilities_of_agent()?;
        sys::filter(&calls::filter(Identity::Caller)).during(step)?;
        agent.serve(channel, end.as_fd()).during(step)
    };
    // A sandbox without its agent has no network, and its program finds out; there is nobody else to tell.
    let _ = serve();
    sys::exit(0)
}

/// Opens the program's terminal, if it is to have one, and hands the other end to the host.
fn terminal(streams: &Streams, socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    let Some(Terminal { settings, size, .. }) = &streams.terminal else { return Ok(None) };
    let step = "opening a terminal";
    let (host, program) = device::open_terminal()?;
    tcsetattr(&program, OptionalActions::Now, settings).during(step)?;
    tcsetwinsize(&program, *size).during(step)?;
    wire::report(socket, &Report::Terminal(host)).during(step)?;
    Ok(Some(program))
}

/// Makes PID 1 the leader of a session, as a shell is, so that the program is a job in it that can be stopped and continued:
/// the kernel does not stop what has no parent in its session. It is never the caller's session. In that one, the guest
/// could signal the caller's process group (`kill(0, ...)` does not look at pid namespaces) and read its terminal.
fn begin_session(terminal: Option<&OwnedFd>) -> Result<(), Failure> {
    setsid().during("starting a session")?;
    // The terminal's end is told to the leader; whether the program hears of it, the host says. Who is in the background
    // may give the foreground away only while it does not mind the other signal.
    sys::block_signals(&[libc::SIGHUP, libc::SIGTTOU]).during("blocking signals")?;
    terminal.map_or(Ok(()), |terminal| ioctl_tiocsctty(terminal).during("taking the terminal"))
}

fn become_program(spec: &Spec, plan: &Plan, terminal: Option<OwnedFd>) -> Result<Infallible, Failure> {
    let step = "taking the terminal";
    setpgid(None, None).during(step)?;
    if let (Some(terminal), Some(plan)) = (&terminal, &plan.streams.terminal)
        && plan.is_foreground
    {
        tcsetpgrp(terminal, getpid()).during(step)?;
    }
    for (number, lead) in plan.streams.leads.iter().enumerate() {
        if let (Lead::Terminal, Some(terminal)) = (lead, &terminal) {
            redirect(number, terminal).during(step)?;
        }
    }
    drop(terminal);
    device::own_streams()?;
    rustix::process::chdir(&spec.cwd).during_this(|| format!("entering {}", spec.cwd.display()))?;
    sys::default_sigpipe();
    sys::set_blocked_signals(&plan.signals_before).during("unblocking signals")?;
    if spec.identity == Identity::Machine {
        limits::bound_address_space(&spec.limits)?;
        sys::filter(&calls::lone_filter()).during("filtering system calls")?;
    }
    program::exec(&plan.program)
}

/// Reaps, forwards signals and answers what the filter asks until the program ends. The terminal stays open here, so that
/// the host's end is at its end only when all of the sandbox is.
fn watch(program: i32, outside: &Outside<'_>, terminal: Option<OwnedFd>, judge: Option<&dyn Judge>) -> Result<Infallible, Failure> {
    let step = "watching the program";
    let socket = outside.socket;
    // A stream that the program closes is closed: PID 1 must not hold it open.
    sys::close_range(0, 2).during(step)?;
    let (children, _) = sys::block_signals(&[libc::SIGCHLD, libc::SIGHUP]).during(step)?;
    let children = sys::signalfd(&children).during(step)?;
    let program = Pid::from_raw(program).ok_or(Errno::SRCH).during(step)?;
    // It does the same: whoever is first. It may be gone, or another program by now.
    let _ = setpgid(Some(program), Some(program));
    let mut job = Job { program, terminal, foreground: None };
    let mut is_asked = true;
    loop {
        reap(program, outside)?;
        let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        let judge = judge.filter(|_| is_asked);
        fds.extend(judge.map(|judge| PollFd::from_borrowed_fd(judge.listener(), PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            result => result.during(step)?,
        };
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        if ready(0) {
            job.obey(socket)?;
        }
        if ready(1) {
            while sys::next_signal(children.as_fd()).during(step)?.is_some() {}
        }
        if let (true, Some(judge)) = (ready(2), judge) {
            // Nobody who has the filter is left: it would be told again and again.
            is_asked = !fds[2].revents().contains(PollFlags::HUP);
            judge.answer_one();
        }
    }
}

/// Reaps every dead process; when the program is among them, says how it ended and ends.
fn reap(program: Pid, outside: &Outside<'_>) -> Result<(), Failure> {
    let socket = outside.socket;
    loop {
        let (pid, status) = match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some(dead)) => dead,
            Ok(None) | Err(Errno::CHILD) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).during("waiting for processes"),
        };
        if Some(pid.as_raw_nonzero().get()) == outside.guard {
            let cause = Cause::Words("a program inside stopped the process that does it, so the sandbox ended".to_owned());
            let failure = Failure { stage: Stage::Setup, step: "guarding the project's files".to_owned(), cause };
            // If silo is gone nobody wants to know; the end is the same.
            let _ = wire::report(socket, &Report::Failed(failure));
            sys::exit(1);
        }
        if pid != program {
            continue;
        }
        let low = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
        let report = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Report::Exited(low(code)),
            (None, Some(signal)) => Report::Killed(low(signal)),
            (None, None) => {
                if let Some(signal) = status.stopping_signal() {
                    // If silo is gone, the loop sees that.
                    let _ = wire::report(socket, &Report::Stopped(low(signal)));
                }
                continue;
            }
        };
        if let Some(agent) = &outside.agent {
            dismiss(agent);
        }
        // If silo is gone nobody wants to know; the end is the same.
        let _ = wire::report(socket, &report);
        sys::exit(0);
    }
}

/// Tells the agent that the program has ended, and waits until it has asked what is left to ask.
fn dismiss(agent: &OwnedFd) {
    // One that is gone has nothing to ask.
    let _ = shutdown(agent, Shutdown::Write);
    let mut fds = [PollFd::new(agent, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&LAST_WORDS));
}

/// The program as a job in the sandbox's session.
struct Job {
    program: Pid,
    terminal: Option<OwnedFd>,
    /// The process group that was in the foreground when the job lost it: a shell inside has jobs of its own.
    foreground: Option<Pid>,
}

impl Job {
    /// Does what the host says; ends when the host side is gone.
    fn obey(&mut self, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        match wire::next_order(socket) {
            Ok(Some(Order::Signal { signal, scope })) => self.signal(i32::from(signal), scope),
            Ok(Some(Order::Foreground)) => {
                self.show(true);
                Ok(())
            }
            Ok(Some(Order::Background)) => {
                self.show(false);
                Ok(())
            }
            Ok(None) | Err(_) => sys::exit(0),
        }
    }

    fn signal(&self, signal: i32, scope: Scope) -> Result<(), Failure> {
        let program = self.program.as_raw_nonzero().get();
        let to = match scope {
            Scope::Program => program,
            Scope::Group => -program,
        };
        match sys::kill(to, signal) {
            // A signal that is none here; or a program that is gone, whose end is told next.
            Err(error) if [Some(libc::EINVAL), Some(libc::ESRCH)].contains(&error.raw_os_error()) => Ok(()),
            sent => sent.during("signalling the program"),
        }
    }

    /// Puts the job into the foreground of its terminal, or this process: then the kernel stops whoever uses it.
    fn show(&mut self, is_foreground: bool) {
        let Some(terminal) = &self.terminal else { return };
        let own = getpid();
        let now = tcgetpgrp(terminal).ok();
        let next = match (is_foreground, now == Some(own)) {
            (true, true) => self.foreground.take().filter(|group| test_kill_process_group(*group).is_ok()).unwrap_or(self.program),
            (false, false) => {
                self.foreground = now;
                own
            }
            _ => return,
        };
        // A group that is gone by now has no need of it, and the host's end may be gone.
        let _ = tcsetpgrp(terminal, next);
    }
}
