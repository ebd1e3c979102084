//! System calls that rustix does not have, each behind a safe function; the only unsafe code of this module.
//!
//! Uses `libc` for calls that rustix lacks or does not export: `clone3`, `execve`, `seccomp` and its notifications, `keyctl`,
//! `mount_setattr`, `signalfd` and signal masks, `close_range`, Landlock, `process_vm_readv`, interface flags and `_exit`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::instruction::Instruction;
use super::notice::{Addition, Notice, Verdict};

/// Signals that a process of silo's in a sandbox blocks: a program that sends them to all processes of its session means its own ones.
pub const NOT_OURS: &[c_int] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];

/// Converts the result of a raw system call.
fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A new child process.
pub struct Child {
    /// Its PID.
    pub pid: i32,
    /// A file descriptor of the process, which never refers to another one.
    pub pidfd: OwnedFd,
}

/// Forks this process into new namespaces; returns `None` in the child.
///
/// Sound only for a process with one thread, because the child continues to run Rust code.
pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Child>> {
    // The libc crate's constant has a type that is too narrow.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args: every field is a number.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: `args` is a full clone_args and outlives the call. Without CLONE_VM the child has its
    // own copy of all memory, as after fork; the caller has one thread, so no lock is held by another.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has just stored a new descriptor there, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Child { pid: pid as i32, pidfd }))
}

/// Forks this process; returns `None` in the child and the child's PID in the parent.
///
/// Sound only for a process with one thread, like [`clone`].
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: one thread, so the child may go on running Rust code in its own copy of memory.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((pid != 0).then_some(pid))
}

/// Ends this process immediately, without destructors or exit handlers.
pub fn exit(code: u8) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// A list of strings in the form that `execve` takes.
pub struct Strings {
    // Owns the targets of `pointers`; moving a CString does not move its bytes.
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    /// Takes ownership of the strings.
    pub fn new(owned: Vec<CString>) -> Strings {
        let pointers = owned.iter().map(|one| one.as_ptr()).chain([ptr::null()]).collect();
        Strings { _owned: owned, pointers }
    }
}

/// Executes another program; returns the reason on failure only.
pub fn exec(path: &CStr, argv: &Strings, env: &Strings) -> io::Error {
    // SAFETY: all three are NUL-terminated, both lists end with a null pointer, and their strings
    // live as long as the `Strings` that are borrowed here.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from the first to the last number.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing cannot break memory safety; the callers never use an owner of a closed
    // descriptor again (they are in a fresh child that ends by exec or exit, dropping nothing).
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Drops the keys of the caller's session by joining a new, empty session keyring.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    let anonymous = ptr::null::<c_char>();
    // SAFETY: a null name is allowed and means an anonymous keyring.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// Changes the attributes of a mount, and of all mounts below it; makes them private.
pub fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a C string, `attr` a full mount_attr with its size; both outlive the call.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, ptr::from_ref(&attr), size_of_val(&attr))
    })
    .map(drop)
}

/// Loads a module into the running kernel.
pub fn load_module(file: BorrowedFd<'_>) -> io::Result<()> {
    const NO_FLAGS: c_int = 0;
    // SAFETY: the parameters are an empty C string, which outlives the call.
    checked(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), NO_FLAGS) }).map(drop)
}

/// Adds bytes to the kernel's random number generator, credits them as entropy, and forces a reseed.
pub fn reseed(seed: &[u8; 32]) -> io::Result<()> {
    /// The argument of `RNDADDENTROPY`: the number of random bits, the number of bytes, and the bytes.
    #[repr(C)]
    struct Entropy {
        bits: c_int,
        bytes: c_int,
        seed: [u8; 32],
    }
    const ADD: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;
    const RESEED: libc::Ioctl = 0x5207;
    let pool = std::fs::File::open("/dev/urandom")?;
    let entropy = Entropy { bits: 256, bytes: 32, seed: *seed };
    // SAFETY: Entropy is laid out as rand_pool_info with 32 bytes, which the kernel reads.
    checked(c_long::from(unsafe { libc::ioctl(pool.as_raw_fd(), ADD, ptr::from_ref(&entropy)) }))?;
    // SAFETY: this request has no parameter.
    checked(c_long::from(unsafe { libc::ioctl(pool.as_raw_fd(), RESEED) })).map(drop)
}

/// The memory of the test guest: a few pages with a fixed address.
#[cfg(target_arch = "x86_64")]
#[derive(Default)]
pub struct GuestMemory(Box<Pages>);

#[cfg(target_arch = "x86_64")]
#[repr(C, align(4096))]
struct Pages([u8; 16 * 4096]);

#[cfg(target_arch = "x86_64")]
impl Default for Pages {
    fn default() -> Pages {
        Pages([0; 16 * 4096])
    }
}

#[cfg(target_arch = "x86_64")]
impl GuestMemory {
    /// Writes bytes at a guest address; ignores an address out of range.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let place = usize::try_from(at).ok().and_then(|at| self.0.0.get_mut(at..at + bytes.len()));
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    /// Maps the memory into the guest. It is never freed: the process that runs the test guest ends right after.
    pub fn give(self, machine: &kvm_ioctls::VmFd) -> io::Result<()> {
        let pages = Box::leak(self.0);
        let region = kvm_bindings::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: size_of_val(pages) as u64,
            userspace_addr: ptr::from_mut(pages) as u64,
        };
        // SAFETY: the pages are whole ones of this process, live as long as it does, and no reference to them is used again.
        unsafe { machine.set_user_memory_region(region) }.map_err(io::Error::from)
    }
}

/// Brings the loopback interface of this network namespace up.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    request.ifr_name[0] = b'l' as c_char;
    request.ifr_name[1] = b'o' as c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) };
    checked(c_long::from(result)).map(drop)
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Returns the set without one signal.
    pub fn without(mut self, signal: i32) -> SignalSet {
        // SAFETY: the set is initialised by construction; a number that is no signal's changes nothing.
        unsafe { libc::sigdelset(&mut self.0, signal) };
        self
    }
}

/// Blocks these signals in addition to the blocked ones; returns their set and the previous mask.
pub fn block_signals(signals: &[i32]) -> io::Result<(SignalSet, SignalSet)> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset makes `set` valid before sigaddset and sigprocmask read it; `before` is
    // written by a successful sigprocmask, and only then taken as initialised.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let result = libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
        checked(c_long::from(result))?;
        Ok((SignalSet(set.assume_init()), SignalSet(before.assume_init())))
    }
}

/// Sets the signal mask.
pub fn set_blocked_signals(signals: &SignalSet) -> io::Result<()> {
    // SAFETY: the set is initialised by construction; a null pointer asks for no old set.
    let result = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &signals.0, ptr::null_mut()) };
    checked(c_long::from(result)).map(drop)
}

/// Returns a descriptor that reads these blocked signals.
pub fn signalfd(signals: &SignalSet) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by construction; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &signals.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    checked(c_long::from(fd))?;
    // SAFETY: a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Requests `SIGIO` for each name that is created, deleted or renamed in an open directory, until the descriptor is closed.
pub fn notify(dir: BorrowedFd<'_>) -> io::Result<()> {
    // From linux/fcntl.h: the libc crate does not define them.
    const CREATE: c_int = 4;
    const DELETE: c_int = 8;
    const RENAME: c_int = 0x10;
    const UNTIL_CLOSED: c_int = 1 << 31;
    let changes = CREATE | DELETE | RENAME | UNTIL_CLOSED;
    // SAFETY: both arguments are numbers, and the descriptor is open.
    checked(c_long::from(unsafe { libc::fcntl(dir.as_raw_fd(), libc::F_NOTIFY, changes) })).map(drop)
}

/// Returns the next pending signal, if any: its number, and true if the kernel sent it.
pub fn next_signal(signals: BorrowedFd<'_>) -> io::Result<Option<(i32, bool)>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    // SAFETY: the buffer is as long as said; any bytes make a valid signalfd_siginfo.
    let (read, info) = unsafe {
        let size = size_of::<libc::signalfd_siginfo>();
        let read = libc::read(signals.as_raw_fd(), info.as_mut_ptr().cast::<c_void>(), size);
        (read, info.assume_init())
    };
    if read < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
    // SI_KERNEL; the libc crate does not define it for every target.
    Ok(Some((signal, info.ssi_code == 0x80)))
}

/// Restores SIGPIPE's default action, which the Rust runtime changed.
pub fn default_sigpipe() {
    // SAFETY: SIG_DFL is a valid disposition, and no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Sends a signal to a process, or to a process group if the number is negative. Unlike rustix, it takes any signal number.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: only numbers are passed.
    checked(c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// Ends this process by a signal's default action; returns if that does not end it.
pub fn end_by(signal: i32) {
    // SAFETY: SIG_DFL is a valid disposition, and no handler is involved; the kernel refuses odd numbers. The mask and the
    // signal are this process's own.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
}

/// Gives back the memory of this program's code and constants, which are pages of its file. The kernel maps them again at their next use.
pub fn release_code() {
    unsafe extern "C" fn release(program: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
        // SAFETY: the loader's list begins with this program; its description is valid during the call.
        let program = unsafe { &*program };
        // SAFETY: likewise its headers.
        let parts = unsafe { std::slice::from_raw_parts(program.dlpi_phdr, program.dlpi_phnum.into()) };
        for part in parts.iter().filter(|part| part.p_type == libc::PT_LOAD && part.p_flags & libc::PF_W == 0) {
            let start = (program.dlpi_addr + part.p_vaddr) & !4095;
            let size = program.dlpi_addr + part.p_vaddr + part.p_memsz - start;
            // SAFETY: a part that is not writable has no pages of its own, so they come back with the same bytes.
            unsafe { libc::madvise(start as *mut c_void, size as usize, libc::MADV_DONTNEED) };
        }
        1
    }
    // SAFETY: the callback has the right type, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(release), ptr::null_mut()) };
}

/// Overwrites a range of this process's memory with zeros.
///
/// Used for the argument and environment strings on the initial stack, which `/proc/<pid>/cmdline` shows. The caller must not read its
/// arguments or environment variables afterwards.
pub fn scrub(range: &Range<usize>) {
    if range.start == 0 || range.end <= range.start {
        return;
    }
    // SAFETY: the range comes from the kernel's own record of this process (/proc/self/stat) and is mapped writable for its whole life. No
    // Rust reference points into it. The strings in it are only accessible through `environ` and `std::env::args`, which the child never
    // uses.
    unsafe { ptr::write_bytes(range.start as *mut u8, 0, range.end - range.start) };
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

fn install(program: &[Instruction], flags: u32) -> io::Result<c_long> {
    const SET_MODE_FILTER: c_int = 1;
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: Program and Instruction are laid out as sock_fprog and sock_filter; both outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, ptr::from_ref(&program)) })
}

/// Applies a seccomp filter to this process and its descendants.
pub fn filter(program: &[Instruction]) -> io::Result<()> {
    install(program, 0).map(drop)
}

/// Like [`filter`], and returns the descriptor that receives the calls to be answered.
///
/// A signal that the caller handles waits until a received call is answered; before Linux 5.19, the kernel would make the call again. A
/// call that is not received yet can end with EINTR: nothing was done then. Since Linux 6.6 the receiver wakes at once: this is rare.
pub fn filter_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    const NEW_LISTENER: u32 = 1 << 3;
    const WAIT_KILLABLE: u32 = 1 << 5;
    let fd = match install(program, NEW_LISTENER | WAIT_KILLABLE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(program, NEW_LISTENER)?,
        installed => installed?,
    };
    // SAFETY: a new descriptor, which nothing else owns; the kernel's descriptors fit an int.
    let listener = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: the argument is a number, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP. Older kernels refuse it.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_FLAGS as libc::Ioctl, 1 as c_long) };
    Ok(listener)
}

/// The flag with which [`give`] also answers the call; since Linux 5.14.
pub const SEND: u32 = 1 << 1;

// _IOWR('!', 0, 80 bytes), _IOWR('!', 1, 24 bytes), _IOW('!', 2, 8 bytes), 4 the same, _IOW('!', 3, 24 bytes); equal on all our targets.
const NOTIFY_RECEIVE: u64 = 0xc050_2100;
const NOTIFY_SEND: u64 = 0xc018_2101;
const NOTIFY_VALID: u64 = 0x4008_2102;
const NOTIFY_FLAGS: u64 = 0x4008_2104;
const NOTIFY_ADD: u64 = 0x4018_2103;

/// Receives the next waiting call.
pub fn next_notice(listener: BorrowedFd<'_>) -> io::Result<Notice> {
    let mut notice = Notice::default();
    // SAFETY: Notice is laid out as seccomp_notif (80 bytes), zeroed as the kernel demands.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_RECEIVE as libc::Ioctl, ptr::from_mut(&mut notice)) };
    checked(c_long::from(result)).map(|_| notice)
}

/// Answers a call: it returns 0, or fails with this error number.
pub fn answer(listener: BorrowedFd<'_>, id: u64, errno: i32) -> io::Result<()> {
    reply(listener, Verdict { id, value: 0, error: -errno, flags: 0 })
}

/// Lets the kernel make a waiting call.
pub fn let_through(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    const CONTINUE: u32 = 1;
    reply(listener, Verdict { id, value: 0, error: 0, flags: CONTINUE })
}

/// Answers a call: it returns this value.
pub fn answer_with(listener: BorrowedFd<'_>, id: u64, value: i64) -> io::Result<()> {
    reply(listener, Verdict { id, value, error: 0, flags: 0 })
}

fn reply(listener: BorrowedFd<'_>, mut verdict: Verdict) -> io::Result<()> {
    // SAFETY: Verdict is laid out as seccomp_notif_resp (24 bytes).
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_SEND as libc::Ioctl, ptr::from_mut(&mut verdict)) };
    checked(c_long::from(result)).map(drop)
}

/// Gives the caller of a waiting call a copy of a descriptor, and returns its number there. With [`SEND`], the number is the call's result.
pub fn give(listener: BorrowedFd<'_>, id: u64, own: BorrowedFd<'_>, flags: u32, flags_there: c_int) -> io::Result<u32> {
    let mut addition = Addition { id, flags, own: own.as_raw_fd(), there: 0, flags_there };
    // SAFETY: Addition is laid out as seccomp_notif_addfd (24 bytes).
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_ADD as libc::Ioctl, ptr::from_mut(&mut addition)) };
    checked(c_long::from(result)).map(|number| number as u32)
}

/// Returns true if the caller still waits, which means that its PID still refers to the same process.
pub fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: NOTIFY_VALID reads one u64, which outlives the call.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFY_VALID as libc::Ioctl, ptr::from_ref(&id)) };
    result == 0
}

/// Copies memory of another process; returns the number of bytes read.
pub fn read_memory(pid: i32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast::<c_void>(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: into.len() };
    // SAFETY: the local range is `into`; the remote one is only an address for the kernel to check.
    let read = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    checked(read as c_long).map(|read| read as usize)
}

/// Copies bytes to the memory of another process; returns the number of bytes written.
pub fn write_memory(pid: i32, address: u64, bytes: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    // SAFETY: the local range is `bytes`, which the call only reads; the remote one is only an address for the kernel to check.
    let written = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    checked(written as c_long).map(|written| written as usize)
}

/// Turns the randomisation of addresses off for programs that this process executes.
pub fn fix_addresses() -> io::Result<()> {
    const NO_RANDOMIZE: libc::c_ulong = 0x4_0000;
    // SAFETY: only a number is passed.
    checked(c_long::from(unsafe { libc::personality(NO_RANDOMIZE) })).map(drop)
}

/// Returns the version of Landlock, if it is enabled in the kernel.
pub fn landlock_version() -> Option<u32> {
    const VERSION: u32 = 1;
    let none = ptr::null::<c_void>();
    // SAFETY: a null attribute of size 0 with this flag only asks for the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// The accesses that a Landlock ruleset restricts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Ruleset {
    /// File access rights that need a rule.
    pub files: u64,
    /// Network access rights that need a rule.
    pub network: u64,
    /// The scopes confined to this domain.
    pub scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// Restricts this process and its descendants to these rights below these paths.
pub fn landlock(ruleset: &Ruleset, rules: &[(BorrowedFd<'_>, u64)]) -> io::Result<()> {
    const PATH_BENEATH: c_int = 1;
    // SAFETY: Ruleset is laid out as landlock_ruleset_attr, given with its size.
    let fd = checked(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(ruleset), size_of::<Ruleset>(), 0u32) })?;
    // SAFETY: a new descriptor, which nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    for (parent, allowed) in rules {
        let rule = PathBeneath { allowed: *allowed, parent: parent.as_raw_fd() };
        // SAFETY: PathBeneath is laid out as landlock_path_beneath_attr and outlives the call.
        checked(unsafe { libc::syscall(libc::SYS_landlock_add_rule, fd.as_raw_fd(), PATH_BENEATH, ptr::from_ref(&rule), 0u32) })?;
    }
    // SAFETY: only numbers are passed.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_fd().as_raw_fd(), 0u32) }).map(drop)
}
