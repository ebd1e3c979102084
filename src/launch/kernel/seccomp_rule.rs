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
    #[cfg_attr(not(test), expect(dead_code))]
    pub why: &'static str,
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
