//! Rules for system calls: a call, conditions on its arguments, and the action.

/// A system call, its action, and the reason.
pub struct Rule {
    /// The call's number on this architecture.
    pub number: u32,
    /// All conditions must hold; an empty list always matches.
    pub when: &'static [Condition],
    /// The result for the caller.
    pub action: Action,
    /// The reason, for readers and tests.
    pub why: &'static str,
}

impl Rule {
    /// Returns true if the conditions hold for these arguments.
    pub fn matches(&self, args: &[u32]) -> bool {
        self.when.iter().all(|condition| {
            let value = args.get(usize::from(condition.argument)).copied().unwrap_or(0) & condition.mask;
            match condition.test {
                Test::AnyBit => value != 0,
                Test::OneOf(values) => values.contains(&value),
                Test::NoneOf(values) => !values.contains(&value),
            }
        })
    }
}

/// The result of a matching call for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The call is made. Useful in a list that refuses other calls.
    Allow,
    /// The call fails with this error.
    Fail(i32),
    /// The call succeeds without effect.
    Pretend,
    /// PID 1 decides.
    Ask,
}

/// A test of the low 32 bits of an argument.
pub struct Condition {
    /// The argument's index, from 0.
    pub argument: u8,
    /// The bits to compare.
    pub mask: u32,
    /// The comparison.
    pub test: Test,
}

/// A comparison of the masked bits.
pub enum Test {
    /// At least one is set.
    AnyBit,
    /// They equal one of these.
    OneOf(&'static [u32]),
    /// They equal none of these.
    NoneOf(&'static [u32]),
}

/// The audit number of this architecture's calling convention.
#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: u32 = 0xc000_003e;
/// The audit number of this architecture's calling convention.
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: u32 = 0xc000_00b7;

/// The newest call reviewed: `file_setattr`, of Linux 6.17. New calls have the same number everywhere.
pub const NEWEST: u32 = 469;

/// The set-user-id and set-group-id bits of a mode.
pub const SET_ID_BITS: u32 = 0o6000;
/// The flags of `open` that create a file.
pub const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// The mode with which `access` checks if a path exists.
pub const EXISTS: &[u32] = &[libc::F_OK as u32];
/// Owners that a caller who is root can give a file: root, and -1 for no change.
pub const ROOT_OR_SAME: &[u32] = &[0, u32::MAX];
/// The number of `kexec_file_load`, which the libc crate does not define for every C library.
pub const KEXEC_FILE_LOAD: libc::c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// Rules that a run has in addition to those of its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfRun {
    /// The caller is root.
    pub as_root: bool,
    /// There are excluded directories, which the program may remove.
    pub removable: bool,
    /// The project is the lower layer of an overlay.
    pub reviewed: bool,
}

/// Tests the bits of an argument that `mask` has.
pub const fn when(argument: u8, mask: u32, test: Test) -> Condition {
    Condition { argument, mask, test }
}

/// Matches if an argument has any of these bits.
pub const fn any_bit(argument: u8, mask: u32) -> Condition {
    when(argument, mask, Test::AnyBit)
}

/// Matches if an argument is one of these values.
pub const fn one_of(argument: u8, values: &'static [u32]) -> Condition {
    when(argument, u32::MAX, Test::OneOf(values))
}

/// Matches if an argument is none of these values.
pub const fn none_of(argument: u8, values: &'static [u32]) -> Condition {
    when(argument, u32::MAX, Test::NoneOf(values))
}

/// Builds one rule.
pub const fn rule(number: libc::c_long, when: &'static [Condition], action: Action, why: &'static str) -> Rule {
    Rule { number: number as u32, when, action, why }
}
