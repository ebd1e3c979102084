//! The system calls of 32-bit programs, which have other numbers than those of 64-bit programs: i386 on x86-64, ARM (EABI) on aarch64.
//!
//! The rules for 64-bit programs also apply to these programs: each rule is repeated for all variants of its call, such as those for 16-bit
//! user ids and for 64-bit times. Calls that every 64-bit architecture lacks have rules of their own, as strict as those of the calls that
//! replaced them. Two multiplexers exist only on i386: `ipc` has no operation that a 64-bit program may not use, and PID 1 answers
//! `socketcall` where it makes sockets, because its arguments are in memory.

use libc::{AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, c_long};

use super::notice::Notice;
use super::seccomp_rule::{
    Action, CREATES, Condition, EXISTS, OfRun, ROOT_OR_SAME, Rule, SET_ID_BITS, Test, any_bit, none_of, one_of, when,
};

use Action::{Ask, Fail, Pretend};
use libc::EPERM;

/// The audit number of the calling convention.
#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: u32 = 0x4000_0003;
/// The audit number of the calling convention.
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: u32 = 0x4000_0028;

const IS_I386: bool = cfg!(target_arch = "x86_64");

/// ARM's own calls far above all others: `cacheflush` and `set_tls`, which programs need.
pub const BEYOND: &[u32] = if IS_I386 { &[] } else { &[0xf_0002, 0xf_0005] };

/// From this number on (Linux 5.1), new calls have the same number everywhere.
const SAME_FROM: u32 = 424;

/// The variants of a call by their numbers.
struct Variants {
    /// For 64-bit programs.
    native: c_long,
    i386: &'static [u32],
    arm: &'static [u32],
}

const fn call(native: c_long, i386: &'static [u32], arm: &'static [u32]) -> Variants {
    Variants { native, i386, arm }
}

/// The calls with rules.
static CALLS: &[Variants] = &[
    call(libc::SYS_clone, &[120], &[120]),
    call(libc::SYS_unshare, &[310], &[337]),
    call(libc::SYS_setns, &[346], &[375]),
    call(libc::SYS_mount, &[21], &[21]),
    call(libc::SYS_umount2, &[52], &[52]),
    call(libc::SYS_pivot_root, &[217], &[218]),
    call(libc::SYS_chroot, &[61], &[61]),
    call(libc::SYS_open_by_handle_at, &[342], &[371]),
    call(libc::SYS_add_key, &[286], &[309]),
    call(libc::SYS_request_key, &[287], &[310]),
    call(libc::SYS_keyctl, &[288], &[311]),
    call(libc::SYS_bpf, &[357], &[386]),
    call(libc::SYS_perf_event_open, &[336], &[364]),
    call(libc::SYS_userfaultfd, &[374], &[388]),
    call(libc::SYS_ioctl, &[54], &[54]),
    call(libc::SYS_socket, &[359], &[281]),
    call(libc::SYS_socketpair, &[360], &[288]),
    call(libc::SYS_personality, &[136], &[136]),
    call(libc::SYS_mknodat, &[297], &[324]),
    call(libc::SYS_kexec_load, &[283], &[347]),
    call(super::seccomp_rule::KEXEC_FILE_LOAD, &[], &[401]),
    call(libc::SYS_init_module, &[128], &[128]),
    call(libc::SYS_finit_module, &[350], &[379]),
    call(libc::SYS_delete_module, &[129], &[129]),
    call(libc::SYS_reboot, &[88], &[88]),
    call(libc::SYS_swapon, &[87], &[87]),
    call(libc::SYS_swapoff, &[115], &[115]),
    call(libc::SYS_settimeofday, &[79], &[79]),
    call(libc::SYS_clock_settime, &[264, 404], &[262, 404]),
    call(libc::SYS_quotactl, &[131], &[131]),
    call(libc::SYS_acct, &[51], &[51]),
    call(libc::SYS_syslog, &[103], &[103]),
    call(libc::SYS_vhangup, &[111], &[111]),
    call(libc::SYS_lookup_dcookie, &[253], &[249]),
    call(libc::SYS_nfsservctl, &[169], &[169]),
    call(libc::SYS_fchmod, &[94], &[94]),
    call(libc::SYS_fchmodat, &[306], &[333]),
    call(libc::SYS_openat, &[295], &[322]),
    call(libc::SYS_mq_open, &[277], &[274]),
    call(libc::SYS_unlinkat, &[301], &[328]),
    call(libc::SYS_faccessat, &[307], &[334]),
    call(libc::SYS_mkdirat, &[296], &[323]),
    call(libc::SYS_renameat, &[302], &[329]),
    call(libc::SYS_renameat2, &[353], &[382]),
    call(libc::SYS_fchown, &[207, FCHOWN16], &[207, FCHOWN16]),
    call(libc::SYS_fchownat, &[298], &[325]),
    call(libc::SYS_setuid, &[213, 23], &[213, 23]),
    call(libc::SYS_setgid, &[214, 46], &[214, 46]),
    call(libc::SYS_setreuid, &[203, 70], &[203, 70]),
    call(libc::SYS_setregid, &[204, 71], &[204, 71]),
    call(libc::SYS_setresuid, &[208, 164], &[208, 164]),
    call(libc::SYS_setresgid, &[210, 170], &[210, 170]),
    call(libc::SYS_setfsuid, &[215, 138], &[215, 138]),
    call(libc::SYS_setfsgid, &[216, 139], &[216, 139]),
    call(libc::SYS_setgroups, &[206, 81], &[206, 81]),
    call(libc::SYS_getrandom, &[355], &[384]),
    call(libc::SYS_sched_getaffinity, &[242], &[242]),
    call(libc::SYS_brk, &[45], &[45]),
    call(libc::SYS_mmap, &[192], &[192]),
    call(libc::SYS_getdents64, &[220], &[217]),
];

// Calls that only some architectures have, with the same numbers on i386 and ARM.
const OPEN: u32 = 5;
const CREAT: u32 = 8;
const MKNOD: u32 = 14;
const CHMOD: u32 = 15;
const LCHOWN16: u32 = 16;
const ACCESS: u32 = 33;
const RENAME: u32 = 38;
const MKDIR: u32 = 39;
const RMDIR: u32 = 40;
const FCHOWN16: u32 = 95;
const CHOWN16: u32 = 182;
const LCHOWN: u32 = 198;
const CHOWN: u32 = 212;

/// i386's multiplexer of socket calls.
pub const SOCKETCALL: u32 = 102;
/// Its operation that creates a socket.
pub const MAKES_SOCKET: u32 = 1;
/// Its operation that creates a connected pair of sockets.
pub const MAKES_PAIR: u32 = 8;

const fn rule(number: u32, when: &'static [Condition], action: Action, why: &'static str) -> Rule {
    Rule { number, when, action, why }
}

const DEVICE: Condition = when(1, libc::S_IFMT, Test::OneOf(&[libc::S_IFCHR, libc::S_IFBLK]));

/// For every sandbox.
static ALWAYS: &[Rule] = &[
    rule(MKNOD, &[DEVICE], Fail(EPERM), "devices and whiteouts"),
    rule(86, &[], Fail(EPERM), "uselib: obsolete"),
    rule(62, &[], Fail(EPERM), "ustat: obsolete"),
    rule(135, &[], Fail(EPERM), "sysfs: obsolete"),
    rule(149, &[], Fail(EPERM), "_sysctl: obsolete"),
    rule(134, &[], Fail(EPERM), "bdflush: obsolete"),
];

/// For every sandbox on x86-64.
static I386_ALWAYS: &[Rule] = &[
    rule(SOCKETCALL, &[one_of(0, &[MAKES_SOCKET, MAKES_PAIR])], Ask, "the family of a socket is in memory"),
    rule(22, &[], Fail(EPERM), "umount: uncovers masked files"),
    rule(25, &[], Fail(EPERM), "stime: sets the host's clock"),
    rule(101, &[], Fail(EPERM), "ioperm: accesses the host's I/O ports"),
    rule(110, &[], Fail(EPERM), "iopl: accesses the host's I/O ports"),
    rule(113, &[], Fail(EPERM), "vm86old: 16-bit mode, a history of kernel exploits"),
    rule(123, &[], Fail(EPERM), "modify_ldt: 16-bit segments, a history of kernel exploits"),
    rule(166, &[], Fail(EPERM), "vm86: 16-bit mode, a history of kernel exploits"),
    rule(127, &[], Fail(EPERM), "create_module: loads kernel code"),
    rule(130, &[], Fail(EPERM), "get_kernel_syms: removed from the kernel"),
    rule(167, &[], Fail(EPERM), "query_module: removed from the kernel"),
];

/// For programs of the caller.
static CALLER: &[Rule] = &[
    rule(CHMOD, &[any_bit(1, SET_ID_BITS)], Ask, "makes set-id files"),
    rule(OPEN, &[any_bit(1, CREATES), any_bit(2, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(CREAT, &[any_bit(1, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
    rule(MKNOD, &[any_bit(1, SET_ID_BITS)], Fail(EPERM), "makes set-id files"),
];

/// For programs of a caller that is root.
static AS_ROOT: &[Rule] = &[
    rule(CHOWN, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(CHOWN, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
    rule(LCHOWN, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(LCHOWN, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
    rule(CHOWN16, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(CHOWN16, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
    rule(LCHOWN16, &[none_of(1, ROOT_OR_SAME)], Pretend, "there is one user"),
    rule(LCHOWN16, &[none_of(2, ROOT_OR_SAME)], Pretend, "there is one group"),
];

/// For sandboxes with excluded directories.
static REMOVABLE: &[Rule] = &[
    rule(RMDIR, &[], Ask, "a mount point cannot be removed"),
    rule(ACCESS, &[one_of(1, EXISTS)], Ask, "a removed directory does not exist"),
    rule(OPEN, &[any_bit(1, libc::O_PATH as u32)], Ask, "a removed directory does not exist"),
    rule(MKDIR, &[], Ask, "creates a removed directory again"),
    rule(RENAME, &[], Ask, "a mount point cannot be renamed"),
];

/// For review mode.
static REVIEWED: &[Rule] = &[rule(RENAME, &[], Ask, "the kernel does not rename a directory of a lower layer")];

/// For build steps.
static ROOT: &[Rule] = &[
    rule(CHOWN, &[], Ask, "records the owner"),
    rule(LCHOWN, &[], Ask, "records the owner"),
    rule(CHOWN16, &[], Ask, "records the owner"),
    rule(LCHOWN16, &[], Ask, "records the owner"),
];

/// The programs of a sandbox, which decide about the rules for calls that 64-bit programs lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of a run.
    Run(OfRun),
    /// Those of a build step.
    Step,
    /// Those of a build step with a range of ids, in which the kernel changes owners and users itself.
    StepInRange,
}

/// Returns the rules for 32-bit programs: those for 64-bit programs, translated, and those for older calls.
pub fn rules(native: &[&'static Rule], whose: Whose) -> Vec<Rule> {
    let again = |rule: &&'static Rule| {
        let Rule { when, action, why, .. } = **rule;
        numbers(rule.number).into_iter().map(move |number| Rule { number, when, action, why })
    };
    let older: &[(bool, &[Rule])] = match whose {
        Whose::Run(run) => &[(true, CALLER), (run.as_root, AS_ROOT), (run.removable, REMOVABLE), (run.reviewed, REVIEWED)],
        Whose::Step => &[(true, ROOT)],
        Whose::StepInRange => &[],
    };
    let older = older.iter().filter(|(is_there, _)| *is_there).map(|(_, rules)| *rules);
    let older = [ALWAYS, if IS_I386 { I386_ALWAYS } else { &[] }].into_iter().chain(older).flatten();
    let older = older.map(|Rule { number, when, action, why }| Rule { number: *number, when, action: *action, why });
    native.iter().flat_map(again).chain(older).collect()
}

/// Returns the numbers of a call for 32-bit programs.
fn numbers(native: u32) -> Vec<u32> {
    if native >= SAME_FROM {
        return vec![native];
    }
    let variants = CALLS.iter().find(|call| call.native as u32 == native);
    variants.map_or_else(Vec::new, |call| here(call).to_vec())
}

fn here(call: &Variants) -> &'static [u32] {
    if IS_I386 { call.i386 } else { call.arm }
}

/// Clears the upper halves of the arguments, which the kernel ignores: a 64-bit program can make these calls too, with any upper halves.
pub fn narrow(notice: &mut Notice) {
    notice.args = notice.args.map(|argument| argument & u64::from(u32::MAX));
}

/// Returns the same call as a 64-bit program makes it; `None` if there is none. Calls with a path become those with a directory and a path.
pub fn native(notice: &Notice) -> Option<Notice> {
    let number = u32::try_from(notice.call).ok()?;
    let [a, b, c, ..] = notice.args;
    let cwd = u64::from(AT_FDCWD as u32);
    let (call, args) = match number {
        CHMOD => (libc::SYS_fchmodat, [cwd, a, b, 0, 0, 0]),
        CHOWN => (libc::SYS_fchownat, [cwd, a, b, c, 0, 0]),
        CHOWN16 => (libc::SYS_fchownat, [cwd, a, wide(b), wide(c), 0, 0]),
        LCHOWN => (libc::SYS_fchownat, [cwd, a, b, c, AT_SYMLINK_NOFOLLOW as u64, 0]),
        LCHOWN16 => (libc::SYS_fchownat, [cwd, a, wide(b), wide(c), AT_SYMLINK_NOFOLLOW as u64, 0]),
        FCHOWN16 => (libc::SYS_fchown, [a, wide(b), wide(c), 0, 0, 0]),
        RMDIR => (libc::SYS_unlinkat, [cwd, a, AT_REMOVEDIR as u64, 0, 0, 0]),
        ACCESS => (libc::SYS_faccessat, [cwd, a, b, 0, 0, 0]),
        OPEN => (libc::SYS_openat, [cwd, a, b, c, 0, 0]),
        CREAT => (libc::SYS_openat, [cwd, a, CREATES.into(), b, 0, 0]),
        MKDIR => (libc::SYS_mkdirat, [cwd, a, b, 0, 0, 0]),
        MKNOD => (libc::SYS_mknodat, [cwd, a, b, c, 0, 0]),
        RENAME => (libc::SYS_renameat, [cwd, a, cwd, b, 0, 0]),
        SAME_FROM.. => (number.into(), notice.args),
        _ => (CALLS.iter().find(|call| here(call).contains(&number))?.native, notice.args),
    };
    let mut same = *notice;
    (same.call, same.args) = (i32::try_from(call).ok()?, args);
    Some(same)
}

/// Widens a 16-bit user or group id; the highest one means no change.
fn wide(id: u64) -> u64 {
    if id as u16 == u16::MAX { u32::MAX.into() } else { id & u64::from(u16::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_halves_of_arguments_do_not_count() {
        const JUNK: u64 = 0xabcd << 32;
        let mut notice = Notice::default();
        (notice.call, notice.args) = (CHMOD as i32, [JUNK | 0xffff_f000, JUNK | 0o4755, JUNK, 0, 0, JUNK | 7]);
        narrow(&mut notice);
        assert_eq!(notice.args, [0xffff_f000, 0o4755, 0, 0, 0, 7]);
        let same = native(&notice).expect("chmod has a successor");
        assert_eq!(same.args[..3], [u64::from(AT_FDCWD as u32), 0xffff_f000, 0o4755]);
    }
}
