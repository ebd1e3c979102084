//! Instructions of a filter, the translation of one rule, and spans of calls with the same result.

use super::instruction::Instruction;
use super::seccomp_rule::{Action, Condition, Rule, Test};

// Instruction codes: load a word of the call's data, mask, compare, jump, return.
/// Loads a word of the call's data.
pub const LOAD: u16 = 0x20;
/// Masks.
pub const AND: u16 = 0x54;
/// Jumps.
pub const JUMP: u16 = 0x05;
/// Branches if the value equals the operand.
pub const IF_EQUAL: u16 = 0x15;
/// Branches if the value is at least the operand.
pub const IF_AT_LEAST: u16 = 0x35;
/// Ends the filter.
pub const RETURN: u16 = 0x06;

// Offsets in the kernel's struct seccomp_data.
/// The call's number.
pub const NUMBER: u32 = 0;
/// The calling convention.
pub const ARCHITECTURE: u32 = 4;
/// The first argument.
pub const ARGUMENTS: u32 = 16;

// Return values of a filter.
/// The call is made.
pub const ALLOW: u32 = 0x7fff_0000;
/// The call fails, with the error number in the low bits.
pub const ERRNO: u32 = 0x0005_0000;
/// PID 1 decides.
pub const NOTIFY: u32 = 0x7fc0_0000;
/// The process ends.
pub const KILL_PROCESS: u32 = 0x8000_0000;

/// The return value of a filter for a rule's action.
pub fn result(rule: &Rule) -> u32 {
    match rule.action {
        Action::Allow => ALLOW,
        Action::Fail(errno) => ERRNO | errno as u32,
        Action::Pretend => ERRNO,
        Action::Ask => NOTIFY,
    }
}

/// Returns the action if all conditions hold; otherwise continues after the rule.
pub fn one(rule: &Rule, program: &mut Vec<Instruction>) {
    let mut following: usize = 1 + rule.when.iter().map(length).sum::<usize>();
    for condition in rule.when {
        following -= length(condition);
        test(condition, following, program);
    }
    program.push(instruction(RETURN, result(rule)));
}

/// Number of instructions of a test.
fn length(condition: &Condition) -> usize {
    match condition.test {
        Test::AnyBit => 4,
        Test::OneOf(values) | Test::NoneOf(values) => values.len() + 3,
    }
}

/// Continues if the condition holds; otherwise jumps over the following instructions.
fn test(condition: &Condition, following: usize, program: &mut Vec<Instruction>) {
    // The low half of the 64-bit argument. The kernel reads no more of these arguments either, so setting higher bits cannot bypass a rule
    // (as `TIOCSTI + 2^32` once did).
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    program.extend([instruction(LOAD, ARGUMENTS + 8 * u32::from(condition.argument) + low_half), instruction(AND, condition.mask)]);
    match condition.test {
        Test::AnyBit => program.push(branch(IF_EQUAL, 0, 0, 1)),
        Test::OneOf(values) => {
            for (index, value) in values.iter().enumerate() {
                program.push(branch(IF_EQUAL, *value, (values.len() - index) as u8, 0));
            }
        }
        Test::NoneOf(values) => {
            // A hit jumps to the last instruction of the test; a miss of the last value skips it.
            for (index, value) in values.iter().enumerate() {
                let left = (values.len() - index - 1) as u8;
                program.push(branch(IF_EQUAL, *value, left, u8::from(left == 0)));
            }
        }
    }
    program.push(jump(following));
}

/// Builds an instruction that is no branch.
pub fn instruction(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// Builds a branch, with the instructions to skip in each case.
pub fn branch(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// Builds a jump over so many instructions.
pub fn jump(over: usize) -> Instruction {
    instruction(JUMP, over as u32)
}

/// The result for calls from a number up to the next span.
#[derive(Clone, Copy)]
pub enum Leaf<'a> {
    /// A return value of the filter.
    Result(u32),
    /// Rules of one call.
    Rules(&'a [&'a Rule]),
}

/// Spans of call numbers, each with its first number.
#[derive(Default)]
pub struct Spans<'a>(pub Vec<(u32, Leaf<'a>)>);

impl<'a> Spans<'a> {
    /// Adds the span from this number, which is not below the last one. Joins it with an equal neighbour.
    pub fn add(&mut self, start: u32, leaf: Leaf<'a>) {
        if self.0.last().is_some_and(|(last, _)| *last == start) {
            self.0.pop();
        }
        let is_same = matches!((self.0.last(), leaf), (Some((_, Leaf::Result(last))), Leaf::Result(this)) if *last == this);
        if !is_same {
            self.0.push((start, leaf));
        }
    }
}
