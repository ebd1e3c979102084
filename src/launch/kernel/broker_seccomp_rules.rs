//! The system calls that the broker may make, as data: one rule per line, with its reason. All other calls are refused.

use super::instruction::Instruction;
use super::seccomp::compile_allowing;
use super::seccomp_rule::{ARCHITECTURE, Action, Condition, NEWEST, Rule, Test, any_bit, one_of, rule, when};

use Action::{Allow, Fail};

/// The broker's access to the user's ssh agent, which listens on a socket path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It uses the agent.
    Asked,
    /// There is no agent.
    None,
}

const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const NETLINK: u32 = libc::AF_NETLINK as u32;
/// The default, TCP, UDP.
const PROTOCOLS: &[u32] = &[0, 6, 17];
/// Stream or datagram sockets; the other bits of this argument are flags.
const KINDS: Condition = when(1, 0xf, Test::OneOf(&[libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32]));
const EXECUTABLE: u32 = libc::PROT_EXEC as u32;
const WRITABLE: u32 = libc::PROT_WRITE as u32;
const ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
const THREAD: u32 = libc::CLONE_THREAD as u32;
/// Flags that open a file for more than reading.
const WRITES: u32 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
const FIONBIO: u32 = 0x5421;
const FIONREAD: u32 = 0x541b;
const F_DUPFD_CLOEXEC: u32 = 1030;
/// `PR_SET_NAME` and `PR_GET_NAME` for threads, and `PR_SET_VMA` for memory.
const NAMES: &[u32] = &[15, 16, 0x5356_4d41];

static ALWAYS: &[Rule] = &[
    // I/O on open descriptors.
    rule(libc::SYS_read, &[], Allow, "reads"),
    rule(libc::SYS_write, &[], Allow, "writes"),
    rule(libc::SYS_readv, &[], Allow, "reads"),
    rule(libc::SYS_writev, &[], Allow, "writes"),
    rule(libc::SYS_pread64, &[], Allow, "reads parts of libraries"),
    rule(libc::SYS_lseek, &[], Allow, "reads settings of name lookups again"),
    rule(libc::SYS_close, &[], Allow, "closes"),
    rule(libc::SYS_fcntl, &[one_of(1, &[0, 1, 2, 3, 4, F_DUPFD_CLOEXEC])], Allow, "copies descriptors, and makes them non-blocking"),
    rule(libc::SYS_ioctl, &[one_of(1, &[FIONBIO, FIONREAD])], Allow, "makes descriptors non-blocking; counts readable bytes"),
    // Connections.
    rule(libc::SYS_socket, &[one_of(0, &[INET, INET6]), KINDS, one_of(2, PROTOCOLS)], Allow, "TCP, and UDP for name lookups"),
    rule(
        libc::SYS_socket,
        &[one_of(0, &[NETLINK]), one_of(2, &[0])],
        Allow,
        "lists the host's addresses, to sort the results of name lookups",
    ),
    rule(libc::SYS_socket, &[], Fail(libc::EAFNOSUPPORT), "no others: programs at local sockets are as powerful as the user"),
    rule(libc::SYS_connect, &[], Allow, "dials"),
    rule(libc::SYS_bind, &[], Allow, "sets a source address; without listen it accepts nothing"),
    rule(libc::SYS_accept4, &[], Allow, "accepts connections to forwarded ports"),
    rule(libc::SYS_getsockname, &[], Allow, "checks that a passed descriptor is a connection"),
    rule(libc::SYS_getpeername, &[], Allow, "checks that a passed descriptor is a connection"),
    rule(libc::SYS_getsockopt, &[], Allow, "result of a connect"),
    rule(libc::SYS_setsockopt, &[], Allow, "disables Nagle's algorithm"),
    rule(libc::SYS_shutdown, &[], Allow, "forwards the end of a stream"),
    rule(libc::SYS_sendto, &[], Allow, "sends"),
    rule(libc::SYS_recvfrom, &[], Allow, "receives"),
    rule(libc::SYS_sendmsg, &[], Allow, "sends"),
    rule(libc::SYS_recvmsg, &[], Allow, "receives messages with connections"),
    rule(libc::SYS_sendmmsg, &[], Allow, "asks a name server for both kinds of addresses"),
    // Waiting.
    rule(libc::SYS_epoll_create1, &[], Allow, "waits for many descriptors"),
    rule(libc::SYS_epoll_ctl, &[], Allow, "waits for many descriptors"),
    rule(libc::SYS_epoll_pwait, &[], Allow, "waits for many descriptors"),
    rule(441, &[], Allow, "epoll_pwait2: waits for many descriptors"),
    rule(libc::SYS_eventfd2, &[], Allow, "is woken by threads for name lookups"),
    rule(libc::SYS_ppoll, &[], Allow, "waits for a name server"),
    rule(libc::SYS_futex, &[], Allow, "threads wait for one another"),
    rule(libc::SYS_nanosleep, &[], Allow, "waits"),
    rule(libc::SYS_clock_nanosleep, &[], Allow, "waits"),
    rule(libc::SYS_restart_syscall, &[], Allow, "resumes a wait after a signal"),
    // Clocks and random numbers.
    rule(libc::SYS_clock_gettime, &[], Allow, "deadlines"),
    rule(libc::SYS_clock_getres, &[], Allow, "deadlines"),
    rule(libc::SYS_gettimeofday, &[], Allow, "deadlines"),
    rule(libc::SYS_getrandom, &[], Allow, "query ids"),
    // Memory that is not executable. The C library's lookup modules are files, mapped executable but not writable.
    rule(libc::SYS_mmap, &[when(2, EXECUTABLE, Test::OneOf(&[0]))], Allow, "memory"),
    rule(
        libc::SYS_mmap,
        &[when(2, WRITABLE, Test::OneOf(&[0])), when(3, ANONYMOUS, Test::OneOf(&[0]))],
        Allow,
        "libraries for name lookups",
    ),
    rule(libc::SYS_mprotect, &[when(2, EXECUTABLE, Test::OneOf(&[0]))], Allow, "memory"),
    rule(libc::SYS_munmap, &[], Allow, "memory"),
    rule(libc::SYS_mremap, &[], Allow, "memory"),
    rule(libc::SYS_madvise, &[], Allow, "memory"),
    rule(libc::SYS_brk, &[], Allow, "memory"),
    // Threads, and no processes.
    rule(libc::SYS_clone, &[any_bit(0, THREAD)], Allow, "threads for name lookups"),
    rule(libc::SYS_clone3, &[], Fail(libc::ENOSYS), "its flags are in memory; libc falls back to clone"),
    rule(libc::SYS_set_robust_list, &[], Allow, "threads"),
    rule(libc::SYS_rseq, &[], Allow, "threads"),
    rule(libc::SYS_sched_yield, &[], Allow, "threads"),
    rule(libc::SYS_sched_getaffinity, &[], Allow, "number of processors"),
    rule(libc::SYS_prctl, &[one_of(0, NAMES)], Allow, "names of threads and of memory"),
    rule(libc::SYS_prlimit64, &[one_of(0, &[0]), one_of(2, &[0])], Allow, "reads its own limits"),
    rule(libc::SYS_getrlimit, &[], Allow, "reads its own limits"),
    rule(libc::SYS_exit, &[], Allow, "ends"),
    rule(libc::SYS_exit_group, &[], Allow, "ends"),
    rule(libc::SYS_rt_sigaction, &[], Allow, "reports a stack overflow"),
    rule(libc::SYS_rt_sigprocmask, &[], Allow, "blocks signals"),
    rule(libc::SYS_rt_sigreturn, &[], Allow, "returns from a signal"),
    rule(libc::SYS_sigaltstack, &[], Allow, "reports a stack overflow"),
    // The process's ids and system information, read by the C library.
    rule(libc::SYS_getpid, &[], Allow, "own id"),
    rule(libc::SYS_gettid, &[], Allow, "own id"),
    rule(libc::SYS_getuid, &[], Allow, "own id"),
    rule(libc::SYS_geteuid, &[], Allow, "own id"),
    rule(libc::SYS_getgid, &[], Allow, "own id"),
    rule(libc::SYS_getegid, &[], Allow, "own id"),
    rule(libc::SYS_uname, &[], Allow, "the host name's domain"),
    rule(libc::SYS_sysinfo, &[], Allow, "memory size"),
    // Files, for reading; Landlock limits the paths.
    rule(libc::SYS_openat, &[when(2, WRITES, Test::OneOf(&[0]))], Allow, "settings of name lookups"),
    rule(libc::SYS_newfstatat, &[], Allow, "detects changed settings"),
    rule(libc::SYS_fstat, &[], Allow, "detects changed settings"),
    rule(libc::SYS_statx, &[], Allow, "detects changed settings"),
    rule(libc::SYS_faccessat, &[], Allow, "finds settings"),
    rule(439, &[], Allow, "faccessat2: finds settings"),
    rule(libc::SYS_readlinkat, &[], Allow, "finds libraries"),
];

/// Calls that only this architecture has: older ones that a C library may still use.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_ALWAYS: &[Rule] = &[
    rule(libc::SYS_epoll_wait, &[], Allow, "waits for many descriptors"),
    rule(libc::SYS_poll, &[], Allow, "waits for a name server"),
    rule(libc::SYS_time, &[], Allow, "deadlines"),
    rule(libc::SYS_open, &[when(1, WRITES, Test::OneOf(&[0]))], Allow, "settings of name lookups"),
    rule(libc::SYS_stat, &[], Allow, "detects changed settings"),
    rule(libc::SYS_lstat, &[], Allow, "detects changed settings"),
    rule(libc::SYS_access, &[], Allow, "finds settings"),
    rule(libc::SYS_readlink, &[], Allow, "finds libraries"),
];
/// Calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_ALWAYS: &[Rule] = &[];

/// For access to the user's ssh agent. These come first, because the first matching rule applies.
static ASKS_AGENT: &[Rule] =
    &[rule(libc::SYS_socket, &[one_of(0, &[UNIX]), KINDS, one_of(2, &[0])], Allow, "the ssh agent listens at a path")];

/// Returns all rules, in order.
fn rules(agent: Agent) -> Vec<&'static Rule> {
    let asks = if agent == Agent::Asked { ASKS_AGENT } else { &[] };
    [asks, ALWAYS, ARCHITECTURE_ALWAYS].into_iter().flatten().collect()
}

/// Returns the filter program.
pub fn filter(agent: Agent) -> Vec<Instruction> {
    compile_allowing(&rules(agent), ARCHITECTURE, NEWEST)
}
