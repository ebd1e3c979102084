//! PID 1 of a sandbox: the steps that set it up, and then a loop that supervises the program.
//!
//! PID 1 is a fork of the silo process, so it must not reveal anything to the program. First it overwrites its copy of the host's arguments
//! and environment. It is also undumpable, so the program can read only names and numbers in `/proc/1`.
//!
//! If there is a network, a second fork becomes its agent: at the first request of a run, and before the program of a build step. PID 1
//! reports the program's end to the agent first and to the host afterwards: the agent still forwards the program's last requests, so that
//! a refused one is reported.
//!
//! When PID 1 ends, the kernel kills all processes in its namespace. It ends when the program does, when the host closes its end of the
//! socket, and (by the parent-death signal) when silo is killed.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, getpid, getuid, ioctl_tiocsctty, set_dumpable_behavior, set_parent_process_death_signal,
    setpgid, setsid, test_kill_process_group, umask, wait,
};
use rustix::system::{setdomainname, sethostname};
use rustix::termios::{OptionalActions, tcgetpgrp, tcsetattr, tcsetpgrp, tcsetwinsize};
use rustix::thread::{set_name, set_no_new_privs};

use silo_init::agent::Agent;

use super::agent_process::NetworkAgent;
use super::excluded_dirs::{self, ExcludedDirs};
use super::host_facts::Plan;
use super::init_messages::{self, Order, Report};
use super::owners::{Changes, Owners};
use super::reviewed_renames::ReviewedRenames;
use super::step_calls::{self, Answers, StepCalls};
use super::syscall_path::CallHandler;
use super::{dev, exec, identity, remount_guard, rlimits, root, set_id_dirs};
use crate::failure::{Cause, Failure, StepContext};
use crate::host::job_control::Place;
use crate::host::signal_escalation::Scope;
use crate::host::stdio::{Streams, Target, Terminal};
use crate::kernel::seccomp_rules::{self, OfRun};
use crate::kernel::{step_filters, sys};
use crate::spec::{Identity, SSH_AGENT, Spec};
use silo_wire::frame::StageFailure;

/// Backlog of the ssh agent's socket.
const KEYS_BACKLOG: i32 = 64;

/// Sets up the sandbox around this new process and runs the program in it; never returns.
pub fn main(spec: &Spec, plan: &Plan, socket: &OwnedFd) -> ! {
    // A panic must not unwind into the copy of the caller's stack.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(spec, plan, socket.as_fd())));
    if let Ok(Err(failure)) = outcome {
        // Ignored if the host's end is closed.
        let _ = init_messages::report(socket.as_fd(), &Report::Failed(failure));
    }
    sys::exit(1)
}

fn run(spec: &Spec, plan: &Plan, socket: BorrowedFd<'_>) -> Result<Infallible, Failure> {
    sys::scrub(&plan.strings);
    set_name(c"silo-init").during("naming PID 1")?;
    // If silo dies before this call, its end of the socket is closed, and the loop below detects that.
    set_parent_process_death_signal(Some(Signal::KILL)).during("binding PID 1 to silo")?;
    streams(&plan.streams)?;
    close_all_but(socket)?;
    let owners = map(plan, socket)?;
    umask(Mode::empty());
    isolate(spec)?;
    let network = network(plan, socket)?;
    let (no_files, changes) = root::enter(spec, owners)?;
    rlimits::bound_processes(&spec.limits)?;
    spec.conditions.last_pid.map_or(Ok(()), super::proc::start_pids_after)?;
    super::proc::mask(no_files, plan.uid)?;
    super::proc::fix(spec.seed.as_ref(), spec.conditions.processors)?;
    keys(spec, socket)?;
    let terminal = terminal(&plan.streams, socket)?;
    umask(spec.conditions.umask.map_or(plan.umask, Mode::from_raw_mode));
    rlimits::apply(&spec.limits)?;
    if plan.cgroup.is_none() {
        rlimits::apply_without_cgroup(&spec.limits)?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("making PID 1 undumpable")?;
    set_no_new_privs(true).during("setting no_new_privs")?;
    // Before another process starts: no process of the sandbox may be in silo's process group, because signals to it are for silo.
    begin_session(terminal.as_ref())?;
    // Must come first: Landlock forbids mounts.
    let guard = remount_guard::start(spec)?;
    let removable = excluded_dirs::start(spec)?;
    identity::confine()?;
    let mut peers = Peers { socket, agent: network, guard, changes: None };
    match spec.identity {
        Identity::Caller | Identity::Machine => start_caller(spec, plan, peers, removable, terminal),
        Identity::Root => {
            peers.changes = changes;
            peers.agent.as_mut().map_or(Ok(()), NetworkAgent::start)?;
            start_step(spec, plan, peers, terminal, owners)
        }
    }
}

/// Waits until the host has mapped the range of ids, or maps the caller's ids. Only a range gives real owners.
fn map(plan: &Plan, socket: BorrowedFd<'_>) -> Result<Owners, Failure> {
    let is_mapped =
        plan.range.is_some() && matches!(init_messages::next_order(socket).during("waiting for ids")?, Some(Order::Mapped(true)));
    if is_mapped {
        return Ok(Owners::Real);
    }
    identity::map(plan.inside, plan.uid, plan.gid)?;
    Ok(Owners::Recorded)
}

/// The peers of PID 1 while the program runs.
struct Peers<'a> {
    /// The host.
    socket: BorrowedFd<'a>,
    /// The network agent, if there is a network.
    agent: Option<NetworkAgent>,
    /// The guard process that restores mounts on files, if it is needed.
    guard: Option<i32>,
    /// The directories of a build step, if its owners are real.
    changes: Option<Changes>,
}

/// Confines PID 1 like the program, with two exceptions: it sets set-id bits of directories, and removes and creates excluded directories,
/// on behalf of the program.
fn start_caller(
    spec: &Spec,
    plan: &Plan,
    outside: Peers<'_>,
    removable: Option<ExcludedDirs>,
    terminal: Option<OwnedFd>,
) -> Result<Infallible, Failure> {
    let step = "filtering system calls";
    match outside.agent {
        Some(_) => identity::drop_capabilities_before_agent()?,
        None => identity::drop_capabilities(spec.identity)?,
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    match sys::fork().during("starting the program")? {
        None => {
            drop(ours);
            if outside.agent.is_some() {
                identity::drop_capabilities_of_agent_starter()?;
            }
            // The caller has the same id inside as outside.
            let as_root = spec.identity == Identity::Caller && getuid().is_root();
            let run = OfRun { as_root, removable: removable.is_some(), reviewed: spec.is_reviewed() };
            let listener = sys::filter_with_listener(&seccomp_rules::filter_of_run(spec.identity, run, spec.abi)).during(step)?;
            init_messages::hand_over(theirs.as_fd(), listener).during(step)?;
            become_program(spec, plan, terminal)
        }
        Some(pid) => {
            drop(theirs);
            sys::filter(&seccomp_rules::filter_for_all()).during(step)?;
            // `None` if the program could not start; it has reported the reason, and is reaped.
            let modes = init_messages::take_over(ours.as_fd())
                .during(step)?
                .map(|listener| set_id_dirs::Modes::new(listener, removable, ReviewedRenames::of(spec)))
                .transpose()?;
            // If silo is gone, the loop detects that.
            let _ = init_messages::report(outside.socket, &Report::Started);
            watch(pid, outside, terminal, modes.as_ref().map(|modes| modes as &dyn CallHandler))
        }
    }
}

/// Starts a build step. With a range of ids the kernel changes owners and users itself, and PID 1 keeps the step's capabilities to record
/// the owners after the step. Otherwise PID 1 records each change of an owner.
fn start_step(spec: &Spec, plan: &Plan, mut outside: Peers<'_>, terminal: Option<OwnedFd>, owners: Owners) -> Result<Infallible, Failure> {
    let step = "filtering system calls";
    outside.changes.as_mut().map_or(Ok(()), Changes::keep_streams)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    // Before the program can change files that the answers need.
    let answers = Answers::new(spec, owners)?;
    match sys::fork().during("starting the program")? {
        None => {
            drop((ours, outside, answers));
            match owners {
                Owners::Real => identity::drop_capabilities_in_range()?,
                Owners::Recorded => identity::drop_capabilities(spec.identity)?,
            }
            if spec.seed.is_some() {
                sys::fix_addresses().during("fixing addresses")?;
            }
            let filter = step_filters::of_step(&step_calls::additions(spec, owners), spec.abi);
            let listener = sys::filter_with_listener(&filter).during(step)?;
            init_messages::hand_over(theirs.as_fd(), listener).during(step)?;
            become_program(spec, plan, terminal)
        }
        Some(pid) => {
            drop(theirs);
            sys::filter(step_filters::of_first_process()).during(step)?;
            match owners {
                Owners::Real => identity::drop_capabilities_of_keeper()?,
                Owners::Recorded => identity::drop_capabilities_of_recorder()?,
            }
            // `None` if the program could not start; it has reported the reason, and is reaped.
            let listener = init_messages::take_over(ours.as_fd()).during(step)?;
            let judge = listener.map(|listener| StepCalls::new(listener, answers));
            watch(pid, outside, terminal, judge.as_ref().map(|judge| judge as &dyn CallHandler))
        }
    }
}

/// Replaces the standard streams with the prepared descriptors.
fn streams(streams: &Streams) -> Result<(), Failure> {
    for (number, lead) in streams.leads.iter().enumerate() {
        if let Target::To(fd) = lead {
            redirect(number, fd).during("redirecting output")?;
        }
    }
    Ok(())
}

/// Replaces a standard stream with a descriptor.
fn redirect(number: usize, fd: &OwnedFd) -> Result<(), Errno> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd),
        1 => rustix::stdio::dup2_stdout(fd),
        _ => rustix::stdio::dup2_stderr(fd),
    }
}

/// Closes every descriptor except the standard streams and the socket.
fn close_all_but(socket: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = "closing the host's files";
    let kept = u32::try_from(socket.as_raw_fd()).unwrap_or(u32::MAX);
    if kept > 3 {
        sys::close_range(3, kept - 1).during(step)?;
    }
    sys::close_range(kept + 1, u32::MAX).during(step)
}

/// Sets up the namespaces other than the mount namespace: host name, loopback interface, keyring.
fn isolate(spec: &Spec) -> Result<(), Failure> {
    sethostname(spec.hostname.as_bytes()).during("setting the host name")?;
    setdomainname(b"").during("setting the domain name")?;
    let any = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).during("opening a socket")?;
    // Programs that connect to themselves need it; it is not connected to any network.
    sys::loopback_up(any.as_fd()).during("bringing the loopback interface up")?;
    match sys::new_session_keyring() {
        // A kernel (or a container) without keyrings has no keys to hide.
        Err(error) if [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&error.raw_os_error()) => Ok(()),
        result => result.during("leaving the session's keyring"),
    }
}

/// Sets up name resolution in this network namespace, if there is a network, and passes the agent's channel to the host.
fn network(plan: &Plan, socket: BorrowedFd<'_>) -> Result<Option<NetworkAgent>, Failure> {
    let Some(layout) = &plan.layout else { return Ok(None) };
    let step = "opening the network channel";
    let (host, channel) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    let agent = Agent::prepare(layout).during(step)?;
    init_messages::report(socket, &Report::Channel(host)).during(step)?;
    Ok(Some(NetworkAgent::Waiting { agent: Box::new(agent), channel }))
}

/// Listens on the socket path of the user's ssh agent; the host accepts the connections.
fn keys(spec: &Spec, socket: BorrowedFd<'_>) -> Result<(), Failure> {
    if spec.network.as_ref().is_none_or(|network| network.ssh_agent.is_none()) {
        return Ok(());
    }
    let step = "opening the ssh agent's socket";
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during(step)?;
    bind(&listener, &SocketAddrUnix::new(SSH_AGENT).during(step)?).during(step)?;
    listen(&listener, KEYS_BACKLOG).during(step)?;
    init_messages::report(socket, &Report::Keys(listener)).during(step)
}

/// Opens the program's terminal, if it gets one, and passes the master side to the host.
fn terminal(streams: &Streams, socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Failure> {
    let Some(Terminal { settings, size, .. }) = &streams.terminal else { return Ok(None) };
    let step = "opening a terminal";
    let (host, program) = dev::open_terminal()?;
    tcsetattr(&program, OptionalActions::Now, settings).during(step)?;
    tcsetwinsize(&program, *size).during(step)?;
    init_messages::report(socket, &Report::Terminal(host)).during(step)?;
    Ok(Some(program))
}

/// Makes PID 1 a session leader, as a shell is, so that the program is a job that can be stopped and continued: the kernel does not stop an
/// orphaned process group. The session is never the caller's. There the guest could signal the caller's process group (`kill(0, ...)`
/// ignores pid namespaces) and read its terminal.
fn begin_session(terminal: Option<&OwnedFd>) -> Result<(), Failure> {
    setsid().during("starting a session")?;
    // The kernel signals the terminal's end to the session leader; the host decides if the program gets the signal. A background process
    // may change the foreground group only with SIGTTOU blocked.
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
        if let (Target::Terminal, Some(terminal)) = (lead, &terminal) {
            redirect(number, terminal).during(step)?;
        }
    }
    drop(terminal);
    dev::own_streams()?;
    rustix::process::chdir(&spec.cwd).during_this(|| format!("entering {}", spec.cwd.display()))?;
    sys::default_sigpipe();
    sys::set_blocked_signals(&plan.signals_before).during("unblocking signals")?;
    if spec.identity == Identity::Machine {
        rlimits::bound_address_space(&spec.limits)?;
        sys::filter(&seccomp_rules::lone_filter()).during("filtering system calls")?;
    }
    exec::exec(&plan.program)
}

/// Reaps processes, forwards signals, starts the network agent and answers calls from the filter until the program ends. Keeps the terminal
/// open, so that the host's side reads end of file only after all of the sandbox has ended.
fn watch(program: i32, mut outside: Peers<'_>, terminal: Option<OwnedFd>, judge: Option<&dyn CallHandler>) -> Result<Infallible, Failure> {
    let step = "watching the program";
    let socket = outside.socket;
    // PID 1 must not keep a stream open that the program closes.
    sys::close_range(0, 2).during(step)?;
    let (children, _) = sys::block_signals(&[libc::SIGCHLD, libc::SIGHUP]).during(step)?;
    let children = sys::signalfd(&children).during(step)?;
    let program = Pid::from_raw(program).ok_or(Errno::SRCH).during(step)?;
    // The program makes the same call; the first one wins. It may be gone or have executed already, so an error is ignored.
    let _ = setpgid(Some(program), Some(program));
    let mut job = Job { program, terminal, foreground: None };
    let mut is_asked = true;
    loop {
        reap(program, &mut outside)?;
        let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        let judge = judge.filter(|_| is_asked);
        fds.extend(judge.map(|judge| PollFd::from_borrowed_fd(judge.listener(), PollFlags::IN)));
        fds.extend(judge.into_iter().flat_map(|judge| judge.others()));
        let of_judge = fds.len();
        let waiting = outside.agent.iter().flat_map(NetworkAgent::watched);
        fds.extend(waiting.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
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
            // No process with the filter is left, and poll would report the hangup again and again.
            is_asked = !fds[2].revents().contains(PollFlags::HUP);
            judge.answer_one();
        }
        if let (true, Some(judge)) = ((3..of_judge).any(ready), judge) {
            judge.attend();
        }
        let is_requested = (of_judge..fds.len()).any(ready);
        drop(fds);
        if let (true, Some(agent)) = (is_requested, &mut outside.agent) {
            // Without it the sandbox has no network, which the program notices.
            let _ = agent.start();
            identity::drop_capabilities_of_agent_starter()?;
        }
    }
}

/// Reaps every dead process; if the program is among them, reports its end and exits.
fn reap(program: Pid, outside: &mut Peers<'_>) -> Result<(), Failure> {
    let socket = outside.socket;
    loop {
        let (pid, status) = match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some(dead)) => dead,
            Ok(None) | Err(Errno::CHILD) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).during("waiting for processes"),
        };
        if Some(pid.as_raw_nonzero().get()) == outside.guard {
            let cause = Cause::Words("a program inside stopped the guard process, so the sandbox ended".to_owned());
            let failure = Failure { stage: StageFailure::Setup, step: "guarding the project's files".to_owned(), cause };
            // Ignored if silo is gone: the sandbox ends in any case.
            let _ = init_messages::report(socket, &Report::Failed(failure));
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
                    // If silo is gone, the loop detects that.
                    let _ = init_messages::report(socket, &Report::Stopped(low(signal)));
                }
                continue;
            }
        };
        outside.agent.iter_mut().for_each(NetworkAgent::end);
        let report = match outside.changes.as_ref().map(end_step) {
            Some(Err(failure)) => Report::Failed(failure),
            Some(Ok(())) | None => report,
        };
        if matches!(wait(WaitOptions::NOHANG), Err(Errno::CHILD)) {
            let _ = init_messages::report(socket, &Report::Last);
        }
        // Ignored if silo is gone: the sandbox ends in any case.
        let _ = init_messages::report(socket, &report);
        sys::exit(0);
    }
}

/// Ends all processes of a build step, and gives its files to the caller.
fn end_step(changes: &Changes) -> Result<(), Failure> {
    const EVERY: i32 = -1;
    loop {
        // ESRCH: none is left. A process that was just forked is killed in a later pass.
        let _ = sys::kill(EVERY, libc::SIGKILL);
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => break,
            Err(error) => return Err(error).during("ending the step's processes"),
        }
    }
    changes.rest()
}

/// The program as a job in the sandbox's session.
struct Job {
    program: Pid,
    terminal: Option<OwnedFd>,
    /// The foreground process group when the job was moved to the background: a shell inside has jobs of its own.
    foreground: Option<Pid>,
}

impl Job {
    /// Executes the host's next order; exits when the host's end is closed.
    fn obey(&mut self, socket: BorrowedFd<'_>) -> Result<(), Failure> {
        match init_messages::next_order(socket) {
            Ok(Some(Order::Signal { signal, scope })) => self.signal(i32::from(signal), scope),
            // Only the first order has this meaning.
            Ok(Some(Order::Mapped(_))) => Ok(()),
            Ok(Some(order @ (Order::Foreground | Order::Background))) => {
                self.show(if order == Order::Foreground { Place::Foreground } else { Place::Background });
                // If silo is gone, the next order says so.
                let _ = init_messages::report(socket, &Report::Placed);
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
            // The signal number does not exist here, or the program is gone; its end is reported next.
            Err(error) if [Some(libc::EINVAL), Some(libc::ESRCH)].contains(&error.raw_os_error()) => Ok(()),
            sent => sent.during("signalling the program"),
        }
    }

    /// Moves the job or this process to the foreground of the terminal. With PID 1 in the foreground, the kernel stops jobs that use it.
    fn show(&mut self, place: Place) {
        let Some(terminal) = &self.terminal else { return };
        let own = getpid();
        let now = tcgetpgrp(terminal).ok();
        let next = match (place, now == Some(own)) {
            (Place::Foreground, true) => {
                self.foreground.take().filter(|group| test_kill_process_group(*group).is_ok()).unwrap_or(self.program)
            }
            (Place::Background, false) => {
                self.foreground = now;
                own
            }
            _ => return,
        };
        // The group, or the host's side of the terminal, may be gone.
        let _ = tcsetpgrp(terminal, next);
    }
}
