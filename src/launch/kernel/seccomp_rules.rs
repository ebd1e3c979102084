//! The system calls that a sandbox may not make, as data: one rule per line, with its reason.
//!
//! This is a deny list: other calls are allowed, up to the newest call that was reviewed. A newer call does not exist inside (`ENOSYS`),
//! and libraries fall back.
//!
//! 32-bit programs may run only in the sandbox of an image with packages of a foreign architecture. The same rules apply to them
//! ([`compat`](super::compat)); elsewhere their first call kills them.
//!
//! The mount, pid, network and user namespaces and the lack of capabilities already confine a guest. This list covers resources without a
//! namespace (the terminal, keyrings, some socket families), and removes access to kernel code with a history of exploits.
//!
//! **Allowed on purpose.** `ptrace`, `process_vm_readv` and `pidfd_getfd`: debuggers are everyday tools, the pid namespace has only the
//! sandbox's own processes, and its PID 1 cannot be traced (undumpable). From Linux 4.8 on (we need 5.12) this filter also checks a call
//! after a tracer has changed it. `name_to_handle_at`: file watchers need it, and a handle opens nothing while `open_by_handle_at` is
//! refused. `seccomp`, `landlock_*`: further confinement is welcome.

use super::compat::{self, Whose};
use super::instruction::Instruction;
use super::seccomp::{compile, compile_for_both};
use super::seccomp_rule::{
    ARCHITECTURE, Action, CREATES, Condition, EXISTS, KEXEC_FILE_LOAD, NEWEST, ROOT_OR_SAME, Rule, SET_ID_BITS, Test, any_bit, none_of,
    one_of, rule, when,
};

pub use super::seccomp_rule::OfRun;
use crate::spec::{Abi, Identity};

/// Every flag of `clone` and `unshare` that creates a namespace, except for the time namespace.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// The flag of `unshare` that creates a time namespace; in `clone` these bits are the exit signal.
const NEW_TIME: u32 = 0x80;

/// Matches the ioctl requests of one type, which is the second byte.
const fn of_kind(kind: u8) -> Condition {
    // One value for each type in use, because the list must be static.
    let values: &'static [u32] = match kind {
        b'f' => &[0x6600],
        b'X' => &[0x5800],
        _ => &[0x9400],
    };
    when(1, 0xff00, Test::OneOf(values))
}

const UNIX: u32 = libc::AF_UNIX as u32;
const INET: u32 = libc::AF_INET as u32;
const INET6: u32 = libc::AF_INET6 as u32;
const NETLINK: u32 = libc::AF_NETLINK as u32;
/// The default, TCP, UDP, and the two ICMP protocols of `ping`.
const INET_PROTOCOLS: &[u32] = &[0, 6, 17, 1, 58];
/// Linux, Linux on 32 bits, both with an old release name, no address randomisation (for debuggers), and a query.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, u32::MAX];
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TIOCSETD: u32 = 0x5423;
/// Reads of file attributes (for both word sizes), of a file's extents, and of the state of encryption and verity.
const READS_OF_F: &[u32] = &[0x8008_6601, 0x8004_6601, 0xc020_660b, 0x400c_6615, 0xc009_6616, 0xc080_661a, 0xc004_6686, 0xc028_6687];
/// `FS_IOC_FSGETXATTR`.
const READS_OF_X: &[u32] = &[0x801c_581f];
/// `FICLONE`, `FICLONERANGE`, `FIDEDUPERANGE`, `FS_IOC_GETFSLABEL`.
const CLONES: &[u32] = &[0x4004_9409, 0x4020_940d, 0xc018_9436, 0x8100_9431];
/// `FS_IOC_SETVERSION` for both word sizes.
const SETS_VERSION: &[u32] = &[0x4008_7602, 0x4004_7602];
const FILE_TYPE: u32 = libc::S_IFMT;
#[cfg(target_arch = "x86_64")]
const DEVICE: Condition = when(1, FILE_TYPE, Test::OneOf(&[libc::S_IFCHR, libc::S_IFBLK]));
const DEVICE_AT: Condition = when(2, FILE_TYPE, Test::OneOf(&[libc::S_IFCHR, libc::S_IFBLK]));

use Action::{Ask, Fail, Pretend};
use libc::{EAFNOSUPPORT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, EPROTONOSUPPORT};

/// For every sandbox.
static ALWAYS: &[Rule] = &[
    // Namespaces: in a new user namespace a guest would have every capability again, and so access to the mount, netfilter and file system
    // code behind most privilege escalations.
    rule(libc::SYS_clone, &[any_bit(0, NEW_NAMESPACES)], Fail(EPERM), "makes namespaces"),
    rule(libc::SYS_unshare, &[any_bit(0, NEW_NAMESPACES | NEW_TIME)], Fail(EPERM), "makes namespaces"),
    rule(libc::SYS_clone3, &[], Fail(ENOSYS), "its flags are in memory; libc falls back to clone"),
    rule(libc::SYS_setns, &[], Fail(EPERM), "enters namespaces"),
    // Mounts.
    rule(libc::SYS_mount, &[], Fail(EPERM), "changes the visible files"),
    rule(libc::SYS_umount2, &[], Fail(EPERM), "uncovers masked files"),
    rule(libc::SYS_pivot_root, &[], Fail(EPERM), "changes the root"),
    rule(libc::SYS_chroot, &[], Fail(EPERM), "changes the root; a common jail escape"),
    rule(libc::SYS_open_tree, &[], Fail(EPERM), "new mount interface"),
    rule(467, &[], Fail(EPERM), "open_tree_attr: new mount interface"),
    rule(libc::SYS_move_mount, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_fsopen, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_fsconfig, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_fsmount, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_fspick, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_mount_setattr, &[], Fail(EPERM), "new mount interface"),
    rule(libc::SYS_open_by_handle_at, &[], Fail(EPERM), "opens files without a path; the escape from early containers"),
    // Keys: keyrings are per user, not per namespace.
    rule(libc::SYS_add_key, &[], Fail(EPERM), "keyrings are shared with the host's user"),
    rule(libc::SYS_request_key, &[], Fail(EPERM), "keyrings are shared with the host's user"),
    rule(libc::SYS_keyctl, &[], Fail(EPERM), "keyrings are shared with the host's user"),
    // Kernel code that no tool here needs and that has a history of exploits.
    rule(libc::SYS_bpf, &[], Fail(EPERM), "runs code in the kernel"),
    rule(libc::SYS_perf_event_open, &[], Fail(EPERM), "observes other processes' timing; large attack surface"),
    rule(libc::SYS_userfaultfd, &[], Fail(EPERM), "pauses the kernel at a chosen point, which makes races exploitable"),
    rule(libc::SYS_io_uring_setup, &[], Fail(ENOSYS), "makes calls that bypass this filter; programs fall back"),
    rule(libc::SYS_io_uring_enter, &[], Fail(ENOSYS), "makes calls that bypass this filter"),
    rule(libc::SYS_io_uring_register, &[], Fail(ENOSYS), "makes calls that bypass this filter"),
    // The terminal. A separate pty and session keep a guest off the host's terminal, but a redirected start may still pass it as one of
    // three streams.
    rule(libc::SYS_ioctl, &[one_of(1, &[TIOCSTI])], Fail(EPERM), "types into the host's terminal"),
    rule(libc::SYS_ioctl, &[one_of(1, &[TIOCLINUX])], Fail(EPERM), "pastes into the host's console"),
    rule(libc::SYS_ioctl, &[one_of(1, &[TIOCSETD])], Fail(EPERM), "loads line disciplines, many of them unmaintained"),
    // File systems. A layer or a project does not record the state that these calls change, and they run file-system-specific code that is
    // large and seldom used. Programs take the error for a file system without the feature.
    rule(libc::SYS_ioctl, &[of_kind(b'f'), none_of(1, READS_OF_F)], Fail(EOPNOTSUPP), "attributes, encryption keys, verity, resizing"),
    rule(libc::SYS_ioctl, &[of_kind(b'X'), none_of(1, READS_OF_X)], Fail(EOPNOTSUPP), "project quotas, freezing, trimming, XFS's own"),
    rule(libc::SYS_ioctl, &[of_kind(0x94), none_of(1, CLONES)], Fail(EOPNOTSUPP), "subvolumes, all btrfs calls except cloning"),
    rule(libc::SYS_ioctl, &[one_of(1, SETS_VERSION)], Fail(EOPNOTSUPP), "sets inode generations"),
    rule(469, &[], Fail(EOPNOTSUPP), "file_setattr: attributes and project quotas"),
    // Sockets. Families without a network namespace give direct access to the host.
    rule(
        libc::SYS_socket,
        &[none_of(0, &[UNIX, INET, INET6, NETLINK])],
        Fail(EAFNOSUPPORT),
        "vsock reaches the hypervisor; others are attack surface",
    ),
    rule(
        libc::SYS_socket,
        &[one_of(0, &[INET, INET6]), none_of(2, INET_PROTOCOLS)],
        Fail(EPROTONOSUPPORT),
        "rare protocols load kernel modules",
    ),
    rule(libc::SYS_socket, &[one_of(0, &[NETLINK]), none_of(2, &[0])], Fail(EPROTONOSUPPORT), "only rtnetlink, which lists interfaces"),
    rule(libc::SYS_socketpair, &[none_of(0, &[UNIX])], Fail(EAFNOSUPPORT), "other families do not support it"),
    // Weaker memory protection.
    rule(libc::SYS_personality, &[none_of(0, PERSONALITIES)], Fail(EPERM), "odd personalities weaken memory protection"),
    // Device nodes: the kernel refuses them except for 0:0, which is a whiteout for overlayfs.
    rule(libc::SYS_mknodat, &[DEVICE_AT], Fail(EPERM), "devices and whiteouts"),
    // The host. All of these need capabilities that a guest lacks; the filter refuses them before they reach kernel code.
    rule(libc::SYS_kexec_load, &[], Fail(EPERM), "replaces the kernel"),
    rule(KEXEC_FILE_LOAD, &[], Fail(EPERM), "replaces the kernel"),
    rule(libc::SYS_init_module, &[], Fail(EPERM), "loads kernel code"),
    rule(libc::SYS_finit_module, &[], Fail(EPERM), "loads kernel code"),
    rule(libc::SYS_delete_module, &[], Fail(EPERM), "unloads kernel code"),
    rule(libc::SYS_reboot, &[], Fail(EPERM), "stops the host"),
    rule(libc::SYS_swapon, &[], Fail(EPERM), "changes the host's swap space"),
    rule(libc::SYS_swapoff, &[], Fail(EPERM), "changes the host's swap space"),
    rule(libc::SYS_settimeofday, &[], Fail(EPERM), "sets the host's clock"),
    rule(libc::SYS_clock_settime, &[], Fail(EPERM), "sets the host's clock"),
    rule(libc::SYS_quotactl, &[], Fail(EPERM), "the host's quotas"),
    rule(443, &[], Fail(EPERM), "quotactl_fd: the host's quotas"),
    rule(libc::SYS_acct, &[], Fail(EPERM), "writes accounting records to a chosen file"),
    rule(libc::SYS_syslog, &[], Fail(EPERM), "the host's kernel log"),
    rule(libc::SYS_vhangup, &[], Fail(EPERM), "hangs up terminals"),
    rule(libc::SYS_lookup_dcookie, &[], Fail(EPERM), "finds paths for a profiler"),
    rule(libc::SYS_nfsservctl, &[], Fail(EPERM), "removed from the kernel"),
];

/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_ALWAYS: &[Rule] = &[
    rule(libc::SYS_mknod, &[DEVICE], Fail(EPERM), "devices and whiteouts"),
    rule(libc::SYS_iopl, &[], Fail(EPERM), "accesses the host's I/O ports"),
    rule(libc::SYS_ioperm, &[], Fail(EPERM), "accesses the host's I/O ports"),
    rule(libc::SYS_modify_ldt, &[], Fail(EPERM), "16-bit segments: a history of kernel exploits"),
    rule(libc::SYS_uselib, &[], Fail(EPERM), "obsolete"),
    rule(libc::SYS_ustat, &[], Fail(EPERM), "obsolete"),
    rule(libc::SYS_sysfs, &[], Fail(EPERM), "obsolete"),
    rule(libc::SYS__sysctl, &[], Fail(EPERM), "obsolete"),
];
/// Calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_ALWAYS: &[Rule] = &[];

/// For [`Identity::Caller`] and [`Identity::Machine`]: no set-user-id files. On the host they would belong to the caller. If the caller is
/// root, any host user with access to the project could become root by running one. PID 1 sets these bits on directories, where they are
/// harmless.
static CALLER: &[Rule] = &[
    rule(libc::SYS_fchmod, &[any_bit(1, SET_ID_BITS)], Ask, "makes set-id files"),
    rule(libc::SYS_fchmodat, &[any_bit(2, SET_ID_BITS)], Ask, "makes set-id files"),
    rule(452, &[any_bit(2, SET_ID_BITS)], Ask, "fchmodat2: makes set-id files"),
    rule(libc::SYS_openat, &[any_bit(2, CREATES), any_bit(3, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(libc::SYS_mknodat, &[any_bit(2, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(libc::SYS_openat2, &[], Fail(ENOSYS), "its mode is in memory; programs fall back to openat"),
    rule(libc::SYS_mq_open, &[any_bit(2, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_CALLER: &[Rule] = &[
    rule(libc::SYS_chmod, &[any_bit(1, SET_ID_BITS)], Ask, "makes set-id files"),
    rule(libc::SYS_open, &[any_bit(1, CREATES), any_bit(2, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(libc::SYS_creat, &[any_bit(1, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(libc::SYS_mknod, &[any_bit(1, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_CALLER: &[Rule] = &[];

/// Added for a caller that is root. Only root's own id is mapped, so the kernel refuses every other owner with EINVAL, but programs that
/// run as root expect success: tar and npm take the owners of an archive. Such a call succeeds without effect.
static AS_ROOT: &[Rule] = &[
    rule(libc::SYS_fchown, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(libc::SYS_fchown, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
    rule(libc::SYS_fchownat, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(libc::SYS_fchownat, &[none_of(3, ROOT_OR_SAME)], Pretend, "there is one group"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_AS_ROOT: &[Rule] = &[
    rule(libc::SYS_chown, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(libc::SYS_chown, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
    rule(libc::SYS_lchown, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(libc::SYS_lchown, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_AS_ROOT: &[Rule] = &[];

/// Added if the sandbox has excluded directories in a project, which are mounts. PID 1 answers calls on them, and lets the kernel make all
/// other calls. Removing files by a path relative to an open directory (`rm -rf`) is not included.
static REMOVABLE: &[Rule] = &[
    rule(libc::SYS_unlinkat, &[any_bit(2, libc::AT_REMOVEDIR as u32)], Ask, "a mount point cannot be removed"),
    rule(libc::SYS_unlinkat, &[one_of(0, &[libc::AT_FDCWD as u32])], Ask, "a removed directory does not exist"),
    rule(libc::SYS_openat, &[any_bit(2, libc::O_PATH as u32)], Ask, "a removed directory does not exist"),
    rule(libc::SYS_faccessat, &[one_of(2, EXISTS)], Ask, "a removed directory does not exist"),
    rule(libc::SYS_faccessat2, &[one_of(2, EXISTS)], Ask, "a removed directory does not exist"),
    rule(libc::SYS_mkdirat, &[], Ask, "creates a removed directory again"),
    rule(libc::SYS_renameat, &[], Ask, "a mount point cannot be renamed"),
    rule(libc::SYS_renameat2, &[], Ask, "a mount point cannot be renamed"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_REMOVABLE: &[Rule] = &[
    rule(libc::SYS_rmdir, &[], Ask, "a mount point cannot be removed"),
    rule(libc::SYS_access, &[one_of(1, EXISTS)], Ask, "a removed directory does not exist"),
    rule(libc::SYS_open, &[any_bit(1, libc::O_PATH as u32)], Ask, "a removed directory does not exist"),
    rule(libc::SYS_mkdir, &[], Ask, "creates a removed directory again"),
    rule(libc::SYS_rename, &[], Ask, "a mount point cannot be renamed"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_REMOVABLE: &[Rule] = &[];

/// Added in review mode. PID 1 renames directories, and lets the kernel rename all other files.
static REVIEWED: &[Rule] = &[
    rule(libc::SYS_renameat, &[], Ask, "the kernel does not rename a directory of a lower layer"),
    rule(libc::SYS_renameat2, &[], Ask, "the kernel does not rename a directory of a lower layer"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_REVIEWED: &[Rule] = &[rule(libc::SYS_rename, &[], Ask, "the kernel does not rename a directory of a lower layer")];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_REVIEWED: &[Rule] = &[];

/// For [`Identity::Root`] without a range of ids: only one user id is mapped, so the kernel can neither give a file to another user nor switch users. PID 1
/// records changes of ownership; changes of the own user succeed without effect.
static ROOT: &[Rule] = &[
    rule(libc::SYS_fchown, &[], Ask, "records the owner"),
    rule(libc::SYS_fchownat, &[], Ask, "records the owner"),
    rule(libc::SYS_setuid, &[], Pretend, "there is one user"),
    rule(libc::SYS_setgid, &[], Pretend, "there is one group"),
    rule(libc::SYS_setreuid, &[], Pretend, "there is one user"),
    rule(libc::SYS_setregid, &[], Pretend, "there is one group"),
    rule(libc::SYS_setresuid, &[], Pretend, "there is one user"),
    rule(libc::SYS_setresgid, &[], Pretend, "there is one group"),
    rule(libc::SYS_setfsuid, &[], Pretend, "there is one user"),
    rule(libc::SYS_setfsgid, &[], Pretend, "there is one group"),
    rule(libc::SYS_setgroups, &[], Pretend, "there is one group"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_ROOT: &[Rule] =
    &[rule(libc::SYS_chown, &[], Ask, "records the owner"), rule(libc::SYS_lchown, &[], Ask, "records the owner")];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_ROOT: &[Rule] = &[];

/// Added if the random numbers of a build step follow from a seed. PID 1 answers, or only looks at a program that has just started.
static SEEDED: &[Rule] = &[
    rule(libc::SYS_getrandom, &[], Ask, "follows from the seed"),
    rule(libc::SYS_sched_getaffinity, &[], Ask, "one processor is visible"),
    rule(libc::SYS_brk, &[one_of(0, &[0])], Ask, "a program has started"),
    rule(libc::SYS_mmap, &[when(3, libc::MAP_TYPE as u32, Test::OneOf(&[MAP_DROPPABLE]))], Fail(EINVAL), "the C library's own generator"),
];
/// The type of mappings for the state of the C library's generator of random numbers, from Linux 6.11 on.
const MAP_DROPPABLE: u32 = 8;
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_SEEDED: &[Rule] = &[rule(libc::SYS_arch_prctl, &[one_of(0, &[SET_THREAD_POINTER])], Ask, "a program has started")];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_SEEDED: &[Rule] = &[];
/// `ARCH_SET_FS`.
#[cfg(target_arch = "x86_64")]
const SET_THREAD_POINTER: u32 = 0x1002;

/// Added if the order of directories is not that of the file system. PID 1 reads the directory.
static SORTED_DIRS: &[Rule] = &[rule(libc::SYS_getdents64, &[], Ask, "lists names in a fixed order")];

/// Added in a reproducibility check that varies the date. PID 1 answers, corrects a time to wait for, or makes a program that has just
/// started ask the kernel for the time. 32-bit programs see the true time.
static CLOCK_AHEAD: &[Rule] = &[
    rule(libc::SYS_clock_gettime, &[one_of(0, CALENDAR_CLOCKS)], Ask, "another date"),
    rule(libc::SYS_gettimeofday, &[], Ask, "another date"),
    rule(libc::SYS_futex, &[any_bit(1, libc::FUTEX_CLOCK_REALTIME as u32)], Ask, "a time to wait for is of the other date"),
    rule(
        libc::SYS_clock_nanosleep,
        &[one_of(0, CALENDAR_CLOCKS), any_bit(1, libc::TIMER_ABSTIME as u32)],
        Ask,
        "a time to wait for is of the other date",
    ),
    rule(libc::SYS_brk, &[one_of(0, &[0])], Ask, "a program has started"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_time, &[], Ask, "another date"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_arch_prctl, &[one_of(0, &[SET_THREAD_POINTER])], Ask, "a program has started"),
];
/// `CLOCK_REALTIME` and `CLOCK_REALTIME_COARSE`.
const CALENDAR_CLOCKS: &[u32] = &[0, 5];

/// Added if the clock of a build step stands still. PID 1 answers, translates a time to wait for, counts a sleep, or gives a program that
/// has just started a constant time. 32-bit programs see the true time.
static FIXED_CLOCK: &[Rule] = &[
    rule(libc::SYS_clock_gettime, &[one_of(0, DATE_CLOCKS)], Ask, "a constant date"),
    rule(libc::SYS_gettimeofday, &[], Ask, "a constant date"),
    rule(libc::SYS_futex, &[any_bit(1, libc::FUTEX_CLOCK_REALTIME as u32)], Ask, "a time to wait for is of the shown clock"),
    rule(libc::SYS_futex, &[when(1, 0x7f, Test::OneOf(FUTEX_LOCKS))], Ask, "a time to wait for is of the shown clock"),
    rule(libc::SYS_clock_nanosleep, &[], Ask, "a time to wait for is of the shown clock, and sleeps are counted"),
    rule(libc::SYS_timerfd_settime, &[any_bit(1, TFD_TIMER_ABSTIME)], Ask, "a time to wait for is of the shown clock"),
    rule(libc::SYS_mq_timedsend, &[any_bit(4, u32::MAX)], Ask, "a time to wait for is of the shown clock"),
    rule(libc::SYS_mq_timedreceive, &[any_bit(4, u32::MAX)], Ask, "a time to wait for is of the shown clock"),
    rule(libc::SYS_pselect6, &[one_of(0, &[0])], Ask, "sleeps are counted"),
    rule(libc::SYS_ppoll, &[one_of(1, &[0])], Ask, "sleeps are counted"),
    rule(libc::SYS_brk, &[one_of(0, &[0])], Ask, "a program has started"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_time, &[], Ask, "a constant date"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_select, &[one_of(0, &[0])], Ask, "sleeps are counted"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_poll, &[one_of(1, &[0])], Ask, "sleeps are counted"),
    #[cfg(target_arch = "x86_64")]
    rule(libc::SYS_arch_prctl, &[one_of(0, &[SET_THREAD_POINTER])], Ask, "a program has started"),
];
/// `CLOCK_REALTIME`, `CLOCK_REALTIME_COARSE` and `CLOCK_TAI`.
const DATE_CLOCKS: &[u32] = &[0, 5, 11];
/// `FUTEX_LOCK_PI`, whose time is of `CLOCK_REALTIME` without a flag.
const FUTEX_LOCKS: &[u32] = &[libc::FUTEX_LOCK_PI as u32];
const TFD_TIMER_ABSTIME: u32 = 1;

/// True for a rule that only 64-bit programs have.
#[cfg(test)]
pub fn is_native_only(rule: &Rule) -> bool {
    CLOCK_AHEAD.iter().chain(FIXED_CLOCK).any(|clock| std::ptr::eq(clock, rule))
}

/// Rules that a build step has in addition to those for every sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// Only one id is mapped, and PID 1 records owners.
    OneId,
    /// Random numbers follow from a seed.
    Seeded,
    /// Directories list their names in a fixed order.
    SortedDirs,
    /// The clock is ahead.
    ClockAhead,
    /// The clock stands still.
    FixedClock,
}

impl Addition {
    /// Returns the rules for calls of all architectures, and those for calls that only this one has.
    fn rules(self) -> [&'static [Rule]; 2] {
        match self {
            Addition::OneId => [ROOT, ARCHITECTURE_ROOT],
            Addition::Seeded => [SEEDED, ARCHITECTURE_SEEDED],
            Addition::SortedDirs => [SORTED_DIRS, &[]],
            Addition::ClockAhead => [&[], CLOCK_AHEAD],
            Addition::FixedClock => [&[], FIXED_CLOCK],
        }
    }
}

const MAP_TYPE_AND_ANONYMOUS: u32 = (libc::MAP_TYPE | libc::MAP_ANONYMOUS) as u32;
const SHARED_ANONYMOUS: u32 = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32;
const SHARED_VALIDATE_ANONYMOUS: u32 = (libc::MAP_SHARED_VALIDATE | libc::MAP_ANONYMOUS) as u32;
const THREAD: u32 = libc::CLONE_THREAD as u32;

/// For the program of [`Identity::Machine`] alone, QEMU, which is a single process. Resource limits apply per process, and memory that
/// belongs to no process is not counted.
static LONE: &[Rule] = &[
    rule(libc::SYS_clone, &[when(0, THREAD, Test::OneOf(&[0]))], Fail(EPERM), "makes another process, with limits of its own"),
    rule(libc::SYS_memfd_create, &[], Fail(EPERM), "memory outside every limit"),
    rule(447, &[], Fail(EPERM), "memfd_secret: memory outside every limit"),
    rule(libc::SYS_shmget, &[], Fail(EPERM), "memory outside every limit"),
    rule(
        libc::SYS_mmap,
        &[when(3, MAP_TYPE_AND_ANONYMOUS, Test::OneOf(&[SHARED_ANONYMOUS, SHARED_VALIDATE_ANONYMOUS]))],
        Fail(EPERM),
        "memory outside every limit",
    ),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
static ARCHITECTURE_LONE: &[Rule] = &[
    rule(libc::SYS_fork, &[], Fail(EPERM), "makes another process, with limits of its own"),
    rule(libc::SYS_vfork, &[], Fail(EPERM), "makes another process, with limits of its own"),
];
/// The same, for calls that only this architecture has.
#[cfg(target_arch = "aarch64")]
static ARCHITECTURE_LONE: &[Rule] = &[];

/// Returns the second filter for a program that must stay a single process.
pub fn lone_filter() -> Vec<Instruction> {
    let rules: Vec<&Rule> = [LONE, ARCHITECTURE_LONE].into_iter().flatten().collect();
    compile(&rules, ARCHITECTURE, NEWEST)
}

/// Returns all rules for an identity.
pub fn rules(identity: Identity) -> Vec<&'static Rule> {
    let own = match identity {
        Identity::Caller | Identity::Machine => [CALLER, ARCHITECTURE_CALLER],
        Identity::Root => [ROOT, ARCHITECTURE_ROOT],
    };
    [ALWAYS, ARCHITECTURE_ALWAYS, own[0], own[1]].into_iter().flatten().collect()
}

/// Returns the filter for a PID 1 that answers calls of its program, and for a process without a PID 1 to ask.
pub fn filter_for_all() -> Vec<Instruction> {
    let rules: Vec<&Rule> = [ALWAYS, ARCHITECTURE_ALWAYS].into_iter().flatten().collect();
    compile(&rules, ARCHITECTURE, NEWEST)
}

/// Returns the additional rules of a run: those for calls of all architectures, and those for calls that only this one has.
fn rules_of_run(run: OfRun) -> [Vec<&'static Rule>; 2] {
    let both: [(bool, [&'static [Rule]; 2]); 3] = [
        (run.as_root, [AS_ROOT, ARCHITECTURE_AS_ROOT]),
        (run.removable, [REMOVABLE, ARCHITECTURE_REMOVABLE]),
        (run.reviewed, [REVIEWED, ARCHITECTURE_REVIEWED]),
    ];
    [0, 1].map(|which| both.iter().filter(|(is_there, _)| *is_there).flat_map(|(_, rules)| rules[which]).collect())
}

/// Returns the filter for the program of a run.
pub fn filter_of_run(identity: Identity, run: OfRun, abi: Abi) -> Vec<Instruction> {
    let [everywhere, here] = rules_of_run(run);
    let all: Vec<&Rule> = rules(identity).into_iter().chain(everywhere.iter().copied()).chain(here).collect();
    let common: Vec<&'static Rule> = common(identity).into_iter().chain(everywhere).collect();
    whole(&all, abi, || compat::rules(&common, Whose::Run(run)))
}

/// Returns the filter of a build step.
pub fn filter_of_step(additions: &[Addition], abi: Abi) -> Vec<Instruction> {
    let older = if additions.contains(&Addition::OneId) { Whose::Step } else { Whose::StepInRange };
    let common: Vec<&'static Rule> = ALWAYS.iter().chain(additions.iter().flat_map(|addition| addition.rules()[0])).collect();
    whole(&rules_of_step(additions), abi, || compat::rules(&common, older))
}

/// Returns all rules of a build step.
pub fn rules_of_step(additions: &[Addition]) -> Vec<&'static Rule> {
    let own = additions.iter().flat_map(|addition| addition.rules());
    [ALWAYS, ARCHITECTURE_ALWAYS].into_iter().chain(own).flatten().collect()
}

/// Returns the filter program for an identity.
pub fn filter(identity: Identity, abi: Abi) -> Vec<Instruction> {
    let whose = if identity == Identity::Root { Whose::Step } else { Whose::Run(OfRun::default()) };
    whole(&rules(identity), abi, || compat::rules(&common(identity), whose))
}

/// Returns the rules for calls that all architectures have.
fn common(identity: Identity) -> Vec<&'static Rule> {
    let own = match identity {
        Identity::Caller | Identity::Machine => CALLER,
        Identity::Root => ROOT,
    };
    ALWAYS.iter().chain(own).collect()
}

fn whole(rules: &[&Rule], abi: Abi, compat: impl Fn() -> Vec<Rule>) -> Vec<Instruction> {
    match abi {
        Abi::Native => compile(rules, ARCHITECTURE, NEWEST),
        Abi::WithCompat => compile_for_both(rules, &compat().iter().collect::<Vec<_>>(), NEWEST),
    }
}

/// Applies the rules of `socket` or `socketpair` to arguments that a filter cannot read. Fails with the error number of the call.
pub fn check_socket(call: libc::c_long, args: &[u32]) -> Result<(), i32> {
    match ALWAYS.iter().find(|rule| rule.number == call as u32 && rule.matches(args)).map(|rule| rule.action) {
        None | Some(Action::Allow) => Ok(()),
        Some(Fail(errno)) => Err(errno),
        Some(Pretend | Ask) => Err(EPERM),
    }
}

/// Returns true for a call that only this architecture has.
#[cfg(test)]
pub fn is_older(number: u32) -> bool {
    let older = [ARCHITECTURE_ALWAYS, ARCHITECTURE_CALLER, ARCHITECTURE_AS_ROOT, ARCHITECTURE_ROOT, ARCHITECTURE_SEEDED];
    older.into_iter().flatten().any(|rule| rule.number == number)
}
