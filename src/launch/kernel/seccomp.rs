//! Compiles the table of system calls to a filter program for the kernel.
//!
//! The program first refuses foreign calling conventions, and then finds the call's rules by binary search. When a filter is installed, the
//! kernel compiles it, and runs it once for each call number (to learn which calls it always allows). A long chain of comparisons, or a
//! leaf for each call, would slow down every start: neighbours with the same result share a leaf.

use super::compat;
use super::instruction::Instruction;
use super::seccomp_code::{
    ALLOW, ARCHITECTURE, ERRNO, IF_AT_LEAST, IF_EQUAL, KILL_PROCESS, LOAD, Leaf, NUMBER, RETURN, Spans, branch, instruction, jump, one,
    result,
};
use super::seccomp_rule::{self, Rule};

/// Builds a filter that allows calls without a matching rule; calls above `newest` fail with `ENOSYS`.
///
/// Rules of the same call are tried in the order of the table.
pub fn compile(rules: &[&Rule], architecture: u32, newest: u32) -> Vec<Instruction> {
    program(rules, Convention { architecture, newest, beyond: &[] }, ALLOW)
}

/// Builds a filter like [`compile`] for 64-bit and 32-bit programs, which have rules of their own.
pub fn compile_for_both(native: &[&Rule], compat: &[&Rule], newest: u32) -> Vec<Instruction> {
    let native = compile(native, seccomp_rule::ARCHITECTURE, newest);
    let architecture = compat::ARCHITECTURE;
    let compat = program(compat, Convention { architecture, newest, beyond: compat::BEYOND }, ALLOW);
    // The native program kills a process with any other convention.
    let head = [instruction(LOAD, ARCHITECTURE), branch(IF_EQUAL, architecture, 0, 1), jump(native.len())];
    [&head[..], &native, &compat].concat()
}

/// Builds a filter that refuses calls without a matching rule; calls above `newest` fail with `ENOSYS`.
pub fn compile_allowing(rules: &[&Rule], architecture: u32, newest: u32) -> Vec<Instruction> {
    program(rules, Convention { architecture, newest, beyond: &[] }, ERRNO | libc::EPERM as u32)
}

/// A calling convention.
#[derive(Clone, Copy)]
struct Convention {
    /// Its audit number.
    architecture: u32,
    /// The newest allowed call.
    newest: u32,
    /// Allowed calls with higher numbers.
    beyond: &'static [u32],
}

/// Builds a filter; `otherwise` is its return value for a call without a matching rule.
fn program(rules: &[&Rule], convention: Convention, otherwise: u32) -> Vec<Instruction> {
    let Convention { architecture, newest, beyond } = convention;
    let mut sorted = rules.to_vec();
    // Stable, since rules of the same call keep their order.
    sorted.sort_by_key(|rule| rule.number);
    let mut spans = Spans::default();
    spans.add(0, Leaf::Result(otherwise));
    for rules in sorted.chunk_by(|one, other| one.number == other.number).filter(|rules| rules[0].number <= newest) {
        let number = rules[0].number;
        spans.add(number, if rules[0].when.is_empty() { Leaf::Result(result(rules[0])) } else { Leaf::Rules(rules) });
        spans.add(number + 1, Leaf::Result(otherwise));
    }
    // The numbers of x32 are among these.
    let unknown = Leaf::Result(ERRNO | libc::ENOSYS as u32);
    spans.add(newest + 1, unknown);
    for number in beyond {
        spans.add(*number, Leaf::Result(ALLOW));
        spans.add(number + 1, unknown);
    }
    let mut program = Vec::with_capacity(512);
    program.extend([
        instruction(LOAD, ARCHITECTURE),
        branch(IF_EQUAL, architecture, 1, 0),
        // Another calling convention has other numbers for the same calls, so the table does not apply.
        instruction(RETURN, KILL_PROCESS),
        instruction(LOAD, NUMBER),
    ]);
    search(&spans.0, otherwise, &mut program);
    program
}

/// Finds a call's span in a sorted list, and returns its result; `otherwise` if no rule of the call matches.
fn search(spans: &[(u32, Leaf)], otherwise: u32, program: &mut Vec<Instruction>) {
    match spans {
        [] => program.push(instruction(RETURN, otherwise)),
        [(_, Leaf::Result(result))] => program.push(instruction(RETURN, *result)),
        [(_, Leaf::Rules(rules))] => {
            rules.iter().for_each(|rule| one(rule, program));
            program.push(instruction(RETURN, otherwise));
        }
        _ => {
            let (low, high) = spans.split_at(spans.len() / 2);
            let at = program.len();
            program.push(branch(IF_AT_LEAST, high[0].0, 0, 0));
            search(low, otherwise, program);
            let length = program.len() - at - 1;
            // A conditional jump reaches 255 instructions, an unconditional one any number.
            match u8::try_from(length) {
                Ok(near) => program[at].jump_true = near,
                Err(_) => {
                    program[at].jump_false = 1;
                    program.insert(at + 1, jump(length));
                }
            }
            search(high, otherwise, program);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::seccomp_rules;
    use super::*;
    use crate::kernel::notice::Notice;
    use crate::kernel::seccomp_code::{AND, ARGUMENTS, JUMP, NOTIFY};
    use crate::kernel::seccomp_rule::Test;
    use crate::kernel::seccomp_rules::{Addition, OfRun};
    use crate::spec::{Abi, Identity};

    /// Call numbers from here on belong to the x32 convention on x86_64, and are unused elsewhere.
    const X32: u32 = 0x4000_0000;

    /// Interprets a filter like the kernel.
    fn judge(program: &[Instruction], architecture: u32, number: i64, args: &[u64]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number as u32,
            ARCHITECTURE => architecture,
            _ => {
                let at = (offset - ARGUMENTS) as usize;
                let whole = args.get(at / 8).copied().unwrap_or(0);
                (if at.is_multiple_of(8) { whole } else { whole >> 32 }) as u32
            }
        };
        let (mut at, mut value) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            let jump_if = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
            at += 1;
            match code {
                LOAD => value = word(operand),
                AND => value &= operand,
                JUMP => at += operand as usize,
                IF_EQUAL => at += jump_if(value == operand),
                IF_AT_LEAST => at += jump_if(value >= operand),
                RETURN => return operand,
                _ => unreachable!("the compiler makes no other instruction"),
            }
        }
    }

    #[test]
    fn the_table_means_what_it_says() {
        const NEW_USER: u64 = 0x1000_0000;
        let errno = |errno: i32| ERRNO | errno as u32;
        let eperm = errno(libc::EPERM);
        let cases: &[(&str, i64, &[u64], u32, u32)] = &[
            // (why, call, arguments, for the caller, for root)
            ("plain", libc::SYS_read, &[], ALLOW, ALLOW),
            ("fork", libc::SYS_clone, &[17], ALLOW, ALLOW),
            ("thread", libc::SYS_clone, &[0x3d_0f00], ALLOW, ALLOW),
            ("new user namespace", libc::SYS_clone, &[NEW_USER | 17], eperm, eperm),
            ("clone3", libc::SYS_clone3, &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
            ("unshare files", libc::SYS_unshare, &[0x400], ALLOW, ALLOW),
            ("unshare users", libc::SYS_unshare, &[NEW_USER], eperm, eperm),
            ("mount", libc::SYS_mount, &[], eperm, eperm),
            ("TIOCSTI", libc::SYS_ioctl, &[0, 0x5412], eperm, eperm),
            ("TIOCSTI + 2^32", libc::SYS_ioctl, &[0, 0x5412 + FAR], eperm, eperm),
            ("TIOCGWINSZ", libc::SYS_ioctl, &[0, 0x5413], ALLOW, ALLOW),
            ("unix", libc::SYS_socket, &[1, 1, 0], ALLOW, ALLOW),
            ("tcp", libc::SYS_socket, &[2, 1, 6], ALLOW, ALLOW),
            ("udp 6", libc::SYS_socket, &[10, 2 | 0x80000, 0], ALLOW, ALLOW),
            ("sctp", libc::SYS_socket, &[2, 1, 132], errno(libc::EPROTONOSUPPORT), errno(libc::EPROTONOSUPPORT)),
            ("vsock", libc::SYS_socket, &[40, 1, 0], errno(libc::EAFNOSUPPORT), errno(libc::EAFNOSUPPORT)),
            ("vsock + 2^32", libc::SYS_socket, &[40 + FAR, 1, 0], errno(libc::EAFNOSUPPORT), errno(libc::EAFNOSUPPORT)),
            ("rtnetlink", libc::SYS_socket, &[16, 3, 0], ALLOW, ALLOW),
            ("nfnetlink", libc::SYS_socket, &[16, 3, 12], errno(libc::EPROTONOSUPPORT), errno(libc::EPROTONOSUPPORT)),
            ("personality query", libc::SYS_personality, &[0xffff_ffff], ALLOW, ALLOW),
            ("personality exec heap", libc::SYS_personality, &[0x40_0000], eperm, eperm),
            ("chmod 755", libc::SYS_fchmodat, &[0, 0, 0o755], ALLOW, ALLOW),
            ("chmod u+s", libc::SYS_fchmodat, &[0, 0, 0o4755], NOTIFY, ALLOW),
            ("open with junk", libc::SYS_openat, &[0, 0, 0, 0o4755], ALLOW, ALLOW),
            ("create u+s", libc::SYS_openat, &[0, 0, 0o100, 0o4755], eperm, ALLOW),
            ("mknod fifo", libc::SYS_mknodat, &[0, 0, 0o10644], ALLOW, ALLOW),
            ("mknod device", libc::SYS_mknodat, &[0, 0, 0o20644], eperm, eperm),
            ("fchown", libc::SYS_fchown, &[], ALLOW, NOTIFY),
            ("setuid", libc::SYS_setuid, &[], ALLOW, ERRNO),
            ("x32", i64::from(X32), &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
            ("not reviewed", 1000, &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
        ];
        for (identity, column) in [(Identity::Caller, 0), (Identity::Root, 1)] {
            let program = seccomp_rules::filter(identity, Abi::Native);
            for (why, number, args, caller, root) in cases {
                let expect = if column == 0 { *caller } else { *root };
                let verdict = judge(&program, seccomp_rule::ARCHITECTURE, *number, args);
                assert_eq!(verdict, expect, "{why} as {identity:?}: {verdict:#x}");
            }
            assert_eq!(judge(&program, 0x4000_0003, 1, &[]), KILL_PROCESS, "i386");
            assert!(program.len() < 4096, "the kernel's limit");
        }
    }

    /// Above the 32 bits of an argument that the kernel reads.
    const FAR: u64 = 1 << 32;

    #[test]
    fn owners_that_root_cannot_give_here_are_ignored_for_root_alone() {
        const SAME: u64 = u32::MAX as u64;
        let older: &[(i64, usize)] = if cfg!(target_arch = "x86_64") { &[(92, 1), (94, 1)] } else { &[] };
        for (number, at) in [(libc::SYS_fchown, 1), (libc::SYS_fchownat, 2)].iter().chain(older) {
            for (owner, group, expect) in [
                (0, 0, ALLOW),
                (SAME, SAME, ALLOW),
                (0, SAME, ALLOW),
                (FAR, FAR, ALLOW),
                (1000, 1000, ERRNO),
                (1000, SAME, ERRNO),
                (0, 1000, ERRNO),
                (65534, 0, ERRNO),
            ] {
                let mut args = [0; 6];
                (args[*at], args[at + 1]) = (owner, group);
                for (as_root, expect) in [(true, expect), (false, ALLOW)] {
                    let run = OfRun { as_root, ..OfRun::default() };
                    let program = seccomp_rules::filter_of_run(Identity::Caller, run, Abi::Native);
                    let verdict = judge(&program, seccomp_rule::ARCHITECTURE, *number, &args);
                    assert_eq!(verdict, expect, "{number} {owner} {group} {as_root}");
                }
            }
        }
        assert_eq!(
            seccomp_rules::filter_of_run(Identity::Caller, OfRun::default(), Abi::WithCompat),
            seccomp_rules::filter(Identity::Caller, Abi::WithCompat)
        );
    }

    /// Arguments that match a rule, and arguments that do not.
    fn samples(rule: &Rule) -> [[u64; 6]; 2] {
        let mut matching = [0; 6];
        for condition in rule.when {
            let fitting = match condition.test {
                Test::AnyBit => condition.mask & condition.mask.wrapping_neg(),
                Test::OneOf(values) => values[0],
                Test::NoneOf(values) => {
                    (0..64).map(|shift| 1 << (shift % 32)).find(|value| !values.contains(&(value & condition.mask))).expect("a value")
                }
            };
            matching[usize::from(condition.argument)] |= u64::from(fitting);
        }
        [matching, [0; 6]]
    }

    #[test]
    fn each_rule_also_holds_for_32_bit_programs() {
        let caller = seccomp_rules::rules(Identity::Caller);
        holds_for_both("the caller", &caller, &|abi| seccomp_rules::filter(Identity::Caller, abi));
        for (as_root, removable, reviewed) in
            [(false, true, false), (false, false, true), (true, false, false), (true, true, false), (true, true, true)]
        {
            let run = OfRun { as_root, removable, reviewed };
            holds_for_both(&format!("{run:?}"), &caller, &|abi| seccomp_rules::filter_of_run(Identity::Caller, run, abi));
        }
        const ALL: [Addition; 4] = [Addition::OneId, Addition::Seeded, Addition::SortedDirs, Addition::ClockAhead];
        const FIXED: [Addition; 4] = [Addition::OneId, Addition::Seeded, Addition::SortedDirs, Addition::FixedClock];
        for additions in [&[][..], &[Addition::OneId], &[Addition::Seeded], &[Addition::OneId, Addition::Seeded], &ALL, &FIXED] {
            let rules = seccomp_rules::rules_of_step(additions);
            holds_for_both(&format!("{additions:?}"), &rules, &|abi| seccomp_rules::filter_of_step(additions, abi));
        }
        let one_id = seccomp_rules::filter_of_step(&[Addition::OneId], Abi::Native);
        assert_eq!(seccomp_rules::filter(Identity::Root, Abi::Native), one_id);
    }

    /// Compares the verdicts of a filter about calls of 64-bit and of 32-bit programs.
    fn holds_for_both(whose: &str, rules: &[&Rule], filter: &dyn Fn(Abi) -> Vec<Instruction>) {
        let (alone, both) = (filter(Abi::Native), filter(Abi::WithCompat));
        assert!(both.len() < 4096, "the kernel's limit");
        let mut covered = std::collections::BTreeSet::new();
        for args in rules.iter().flat_map(|rule| samples(rule)) {
            for number in 0..=seccomp_rule::NEWEST + 1 {
                let native = judge(&alone, seccomp_rule::ARCHITECTURE, number.into(), &args);
                let again = judge(&both, seccomp_rule::ARCHITECTURE, number.into(), &args);
                assert_eq!(again, native, "64-bit programs have the same rules");
                assert_eq!(judge(&alone, compat::ARCHITECTURE, number.into(), &args), KILL_PROCESS);
                let mut notice = Notice::default();
                (notice.call, notice.args) = (number as i32, args);
                let Some(same) = compat::native(&notice) else { continue };
                covered.insert(same.call as u32);
                let expect = judge(&alone, seccomp_rule::ARCHITECTURE, same.call.into(), &same.args);
                let verdict = judge(&both, compat::ARCHITECTURE, number.into(), &args);
                assert_eq!(verdict, expect, "call {number} of {whose}, natively {}, {args:x?}", same.call);
            }
        }
        // The older calls of x86-64 have newer names, or rules of their own below.
        let older = |number: u32| cfg!(target_arch = "x86_64") && (number == 320 || seccomp_rules::is_older(number));
        let is_exempt = |rule: &Rule| older(rule.number) || seccomp_rules::is_native_only(rule);
        let missing = rules.iter().filter(|rule| !covered.contains(&rule.number) && !is_exempt(rule));
        let missing: Vec<&str> = missing.map(|rule| rule.why).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_of_i386_alone_are_as_confined() {
        let errno = |errno: i32| ERRNO | errno as u32;
        let eperm = errno(libc::EPERM);
        let cases: &[(&str, i64, &[u64], u32, u32)] = &[
            ("exit", 1, &[], ALLOW, ALLOW),
            ("mmap2", 192, &[], ALLOW, ALLOW),
            ("set_thread_area", 243, &[], ALLOW, ALLOW),
            ("clone of a thread", 120, &[0x3d_0f00], ALLOW, ALLOW),
            ("clone with namespaces", 120, &[0x1000_0011], eperm, eperm),
            ("clone3", 435, &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
            ("socketcall: socket", 102, &[1], NOTIFY, NOTIFY),
            ("socketcall: bind", 102, &[2], ALLOW, ALLOW),
            ("socketcall: socketpair", 102, &[8], NOTIFY, NOTIFY),
            ("vsock", 359, &[40, 1, 0], errno(libc::EAFNOSUPPORT), errno(libc::EAFNOSUPPORT)),
            ("shmget by ipc", 117, &[23], ALLOW, ALLOW),
            ("umount", 22, &[], eperm, eperm),
            ("stime", 25, &[], eperm, eperm),
            ("clock_settime64", 404, &[], eperm, eperm),
            ("clock_gettime64", 403, &[], ALLOW, ALLOW),
            ("futex_time64", 422, &[], ALLOW, ALLOW),
            ("vm86", 166, &[], eperm, eperm),
            ("vm86old", 113, &[], eperm, eperm),
            ("modify_ldt", 123, &[], eperm, eperm),
            ("iopl", 110, &[], eperm, eperm),
            ("chmod u+s", 15, &[0, 0o4755], NOTIFY, ALLOW),
            ("creat u+s", 8, &[0, 0o4755], eperm, ALLOW),
            ("open u+s", 5, &[0, 0o100, 0o4755], eperm, ALLOW),
            ("mknod of a device", 14, &[0, 0o20644], eperm, eperm),
            ("16-bit chown", 182, &[], ALLOW, NOTIFY),
            ("16-bit setuid", 23, &[], ALLOW, ERRNO),
            ("x32", i64::from(X32), &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
            ("not reviewed", 1000, &[], errno(libc::ENOSYS), errno(libc::ENOSYS)),
        ];
        for (identity, column) in [(Identity::Caller, 0), (Identity::Root, 1)] {
            let program = seccomp_rules::filter(identity, Abi::WithCompat);
            for (why, number, args, caller, root) in cases {
                let expect = if column == 0 { *caller } else { *root };
                assert_eq!(judge(&program, compat::ARCHITECTURE, *number, args), expect, "{why} as {identity:?}");
            }
            assert_eq!(judge(&program, 0x4000_0028, 1, &[]), KILL_PROCESS, "ARM");
        }
        for (args, expect) in [
            ([1, 1, 0], Ok(())),
            ([2, 2, 17], Ok(())),
            ([40, 1, 0], Err(libc::EAFNOSUPPORT)),
            ([2, 1, 132], Err(libc::EPROTONOSUPPORT)),
            ([16, 3, 12], Err(libc::EPROTONOSUPPORT)),
        ] {
            assert_eq!(seccomp_rules::check_socket(libc::SYS_socket, &args), expect, "{args:?}");
        }
        assert_eq!(seccomp_rules::check_socket(libc::SYS_socketpair, &[2, 1, 0]), Err(libc::EAFNOSUPPORT));
    }

    #[test]
    fn the_vm_process_cannot_fork_and_has_accounted_memory() {
        let program = seccomp_rules::lone_filter();
        let eperm = ERRNO | libc::EPERM as u32;
        for (why, number, args, expect) in [
            ("fork", libc::SYS_clone, &[17, 0, 0, 0][..], eperm),
            ("thread", libc::SYS_clone, &[0x3d_0f00], ALLOW),
            ("memfd_create", libc::SYS_memfd_create, &[], eperm),
            ("shmget", libc::SYS_shmget, &[], eperm),
            ("shared and anonymous", libc::SYS_mmap, &[0, 0, 3, 0x21], eperm),
            ("shared and anonymous, by the other name", libc::SYS_mmap, &[0, 0, 3, 0x23], eperm),
            ("private and anonymous", libc::SYS_mmap, &[0, 0, 3, 0x22], ALLOW),
            ("a file", libc::SYS_mmap, &[0, 0, 3, 0x1], ALLOW),
            ("plain", libc::SYS_read, &[], ALLOW),
        ] {
            assert_eq!(judge(&program, seccomp_rule::ARCHITECTURE, number, args), expect, "{why}");
        }
    }

    #[test]
    fn the_broker_may_speak_to_the_network_and_nothing_else() {
        use super::super::broker_seccomp_rules::{self, Agent};
        let eperm = ERRNO | libc::EPERM as u32;
        let family = ERRNO | libc::EAFNOSUPPORT as u32;
        let anonymous = (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE) as u64;
        let cases: &[(&str, i64, &[u64], u32)] = &[
            ("read", libc::SYS_read, &[], ALLOW),
            ("tcp", libc::SYS_socket, &[2, 1 | 0x80800, 6], ALLOW),
            ("udp 6", libc::SYS_socket, &[10, 2 | 0x80000, 17], ALLOW),
            ("raw", libc::SYS_socket, &[2, 3, 1], family),
            ("packets", libc::SYS_socket, &[17, 3, 0], family),
            ("rtnetlink", libc::SYS_socket, &[16, 3, 0], ALLOW),
            ("nfnetlink", libc::SYS_socket, &[16, 3, 12], family),
            ("listen", libc::SYS_listen, &[], eperm),
            ("socket pair", libc::SYS_socketpair, &[1, 1, 0], eperm),
            ("read a file", libc::SYS_openat, &[0, 0, 0o2000000], ALLOW),
            ("write a file", libc::SYS_openat, &[0, 0, 1], eperm),
            ("make a file", libc::SYS_openat, &[0, 0, 0o100], eperm),
            ("memory", libc::SYS_mmap, &[0, 4096, 3, anonymous], ALLOW),
            ("executable memory", libc::SYS_mmap, &[0, 4096, 5, anonymous], eperm),
            ("a library", libc::SYS_mmap, &[0, 4096, 5, 2], ALLOW),
            ("a library to write to", libc::SYS_mmap, &[0, 4096, 7, 2], eperm),
            ("memory that becomes executable", libc::SYS_mprotect, &[0, 4096, 5], eperm),
            ("thread", libc::SYS_clone, &[0x3d_0f00], ALLOW),
            ("fork", libc::SYS_clone, &[17], eperm),
            ("clone3", libc::SYS_clone3, &[], ERRNO | libc::ENOSYS as u32),
            ("exec", libc::SYS_execve, &[], eperm),
            ("execveat", libc::SYS_execveat, &[], eperm),
            ("ptrace", libc::SYS_ptrace, &[], eperm),
            ("another's memory", libc::SYS_process_vm_readv, &[], eperm),
            ("another's descriptors", libc::SYS_pidfd_getfd, &[], eperm),
            ("kill", libc::SYS_kill, &[], eperm),
            ("kill a thread", libc::SYS_tgkill, &[], eperm),
            ("another's limits", libc::SYS_prlimit64, &[1, 7, 0, 8], eperm),
            ("mount", libc::SYS_mount, &[], eperm),
            ("namespaces", libc::SYS_unshare, &[], eperm),
            ("unlink", libc::SYS_unlinkat, &[], eperm),
            ("rename", libc::SYS_renameat2, &[], eperm),
            ("chmod", libc::SYS_fchmodat, &[], eperm),
            ("truncate", libc::SYS_ftruncate, &[], eperm),
            ("type into a terminal", libc::SYS_ioctl, &[0, 0x5412], eperm),
            ("io_uring", libc::SYS_io_uring_setup, &[], eperm),
            ("a file in memory", libc::SYS_memfd_create, &[], eperm),
            ("not reviewed", 1000, &[], ERRNO | libc::ENOSYS as u32),
            ("x32", i64::from(X32), &[], ERRNO | libc::ENOSYS as u32),
        ];
        for (agent, unix) in [(Agent::None, family), (Agent::Asked, ALLOW)] {
            let program = broker_seccomp_rules::filter(agent);
            for (why, number, args, expect) in cases {
                let verdict = judge(&program, seccomp_rule::ARCHITECTURE, *number, args);
                assert_eq!(verdict, *expect, "{why} with {agent:?}: {verdict:#x}");
            }
            assert_eq!(judge(&program, seccomp_rule::ARCHITECTURE, libc::SYS_socket, &[1, 1 | 0x80800, 0]), unix);
            assert_eq!(judge(&program, 0x4000_0003, 1, &[]), KILL_PROCESS, "i386");
            assert!(program.len() < 4096, "the kernel's limit");
        }
    }

    #[test]
    fn every_rule_is_reached() {
        for identity in [Identity::Caller, Identity::Root] {
            let program = seccomp_rules::filter(identity, Abi::Native);
            for rule in seccomp_rules::rules(identity).iter().filter(|rule| rule.when.is_empty()) {
                let verdict = judge(&program, seccomp_rule::ARCHITECTURE, i64::from(rule.number), &[]);
                assert_ne!(verdict, ALLOW, "{}", rule.why);
            }
        }
    }

    /// The result of a table for a call: that of the first matching rule.
    fn by_table(rules: &[&Rule], number: u32, args: &[u64], otherwise: u32) -> u32 {
        if number > seccomp_rule::NEWEST {
            return ERRNO | libc::ENOSYS as u32;
        }
        let words: Vec<u32> = args.iter().map(|arg| *arg as u32).collect();
        rules.iter().find(|rule| rule.number == number && rule.matches(&words)).map_or(otherwise, |rule| result(rule))
    }

    #[test]
    fn the_filter_decides_as_the_table_for_each_number() {
        const ALL: [Addition; 4] = [Addition::OneId, Addition::Seeded, Addition::SortedDirs, Addition::ClockAhead];
        for rules in
            [seccomp_rules::rules(Identity::Caller), seccomp_rules::rules(Identity::Root), seccomp_rules::rules_of_step(&ALL), Vec::new()]
        {
            for (program, otherwise) in [
                (compile(&rules, seccomp_rule::ARCHITECTURE, seccomp_rule::NEWEST), ALLOW),
                (compile_allowing(&rules, seccomp_rule::ARCHITECTURE, seccomp_rule::NEWEST), ERRNO | libc::EPERM as u32),
            ] {
                let samples: Vec<[u64; 6]> = rules.iter().flat_map(|rule| samples(rule)).chain([[0; 6], [u64::MAX; 6]]).collect();
                for number in (0..600).chain([X32 - 1, X32, X32 + 1, u32::MAX]) {
                    for args in &samples {
                        let verdict = judge(&program, seccomp_rule::ARCHITECTURE, i64::from(number), args);
                        assert_eq!(verdict, by_table(&rules, number, args, otherwise), "{number} {args:?}");
                    }
                }
            }
        }
    }

    /// The kernel compiles each instruction at every start.
    #[test]
    fn a_filter_is_short() {
        let lengths = [
            seccomp_rules::filter(Identity::Caller, Abi::Native).len(),
            seccomp_rules::filter_for_all().len(),
            seccomp_rules::filter(Identity::Caller, Abi::WithCompat).len(),
        ];
        assert!(lengths.iter().zip([360, 270, 760]).all(|(length, most)| *length <= most), "{lengths:?}");
    }
}
