//! Replaces functions in the kernel's shared page (the vDSO) of a program that has just started. Programs read the clock there, without a
//! system call.
//!
//! The page is the same in all 64-bit programs of a kernel, but at another address. PID 1 reads it in the first program that it sees. A
//! write to it through `/proc/<pid>/mem` gives the program a copy, which its children inherit until they execute another program.

use std::cell::OnceCell;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::kernel::sys;

/// Entry of the auxiliary vector with the address of the shared page.
const AT_SYSINFO_EHDR: u64 = 33;
/// Most bytes of the shared page's ELF image.
const MAX_IMAGE_BYTES: usize = 32 << 10;
const PAGE_BYTES: usize = 4096;
/// Largest auxiliary vector that is read; the kernel's has about 24 entries.
const MAX_AUXV_BYTES: usize = 4096;

/// A function that reads the clock, and its system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `clock_gettime`.
    ClockGettime,
    /// `gettimeofday`.
    Gettimeofday,
    /// `time`, which only x86-64 has.
    Time,
}

impl Function {
    const ALL: [Function; 3] = [Function::ClockGettime, Function::Gettimeofday, Function::Time];

    fn name(self) -> &'static [u8] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Function::ClockGettime => b"__vdso_clock_gettime",
            #[cfg(target_arch = "aarch64")]
            Function::ClockGettime => b"__kernel_clock_gettime",
            #[cfg(target_arch = "x86_64")]
            Function::Gettimeofday => b"__vdso_gettimeofday",
            #[cfg(target_arch = "aarch64")]
            Function::Gettimeofday => b"__kernel_gettimeofday",
            Function::Time => b"__vdso_time",
        }
    }

    /// Returns code that makes the system call with the function's own arguments.
    #[cfg(target_arch = "x86_64")]
    fn call(self) -> Vec<u8> {
        let number = match self {
            Function::ClockGettime => libc::SYS_clock_gettime,
            Function::Gettimeofday => libc::SYS_gettimeofday,
            Function::Time => libc::SYS_time,
        };
        // mov eax, NUMBER; syscall; ret
        [&[0xb8][..], &(number as u32).to_le_bytes(), &[0x0f, 0x05, 0xc3]].concat()
    }

    /// Returns code that makes the system call with the function's own arguments.
    #[cfg(target_arch = "aarch64")]
    fn call(self) -> Vec<u8> {
        let number = match self {
            Function::ClockGettime | Function::Time => libc::SYS_clock_gettime,
            Function::Gettimeofday => libc::SYS_gettimeofday,
        };
        // bti c; mov x8, NUMBER; svc 0; ret
        words(&[0xd503_245f, 0xd280_0008 | (number as u32) << 5, 0xd400_0001, 0xd65f_03c0])
    }

    /// Returns code that stores the seconds at `distance` from its start, and no fraction. Every millionth time, by the processor's counter,
    /// it makes the system call instead; so it does for clocks without a date.
    #[cfg(target_arch = "x86_64")]
    fn constant(self, distance: i64) -> Option<Vec<u8>> {
        // rdtsc; imul eax, eax, 0x9e3779b1; shr eax, 12
        const SAMPLE: [u8; 11] = [0x0f, 0x31, 0x69, 0xc0, 0xb1, 0x79, 0x37, 0x9e, 0xc1, 0xe8, 0x0c];
        let (before, after): (&[u8], &[u8]) = match self {
            // cmp edi, 11; ja call; mov eax, (1 << 0 | 1 << 5 | 1 << 11); bt eax, edi; jnc call
            // SAMPLE; jz call; mov rax, [SECONDS]
            // mov [rsi], rax; mov qword [rsi + 8], 0; xor eax, eax; ret
            Function::ClockGettime => (
                &[0x83, 0xff, 0x0b, 0x77, 0x2c, 0xb8, 0x21, 0x08, 0, 0, 0x0f, 0xa3, 0xf8, 0x73, 0x22],
                &[0x74, 0x15, 0x48, 0x89, 0x06, 0x48, 0xc7, 0x46, 0x08, 0, 0, 0, 0, 0x31, 0xc0, 0xc3],
            ),
            // test rdi, rdi; jz zone; SAMPLE; jz call; mov rax, [SECONDS]; mov [rdi], rax; mov qword [rdi + 8], 0
            // zone: test rsi, rsi; jz end; mov qword [rsi], 0; end: xor eax, eax; ret
            Function::Gettimeofday => (
                &[0x48, 0x85, 0xff, 0x74, 0x1f],
                &[
                    0x74, 0x21, 0x48, 0x89, 0x07, 0x48, 0xc7, 0x47, 0x08, 0, 0, 0, 0, 0x48, 0x85, 0xf6, 0x74, 0x07, 0x48, 0xc7, 0x06, 0, 0,
                    0, 0, 0x31, 0xc0, 0xc3,
                ],
            ),
            // SAMPLE; jz call; mov rax, [SECONDS]; test rdi, rdi; jz end; mov [rdi], rax; end: ret
            Function::Time => (&[], &[0x74, 0x10, 0x48, 0x85, 0xff, 0x74, 0x03, 0x48, 0x89, 0x07, 0xc3]),
        };
        let (jump, rest) = after.split_at(2);
        let mut code = [before, &SAMPLE, jump, &[0x48, 0x8b, 0x05]].concat();
        let from = i64::try_from(code.len()).ok()? + 4;
        code.extend(i32::try_from(distance - from).ok()?.to_le_bytes());
        code.extend(rest);
        code.extend(self.call());
        Some(code)
    }

    /// Returns code that stores the seconds at `distance` from its start, and no fraction. Every millionth time, by the processor's counter,
    /// it makes the system call instead; so it does for clocks without a date.
    #[cfg(target_arch = "aarch64")]
    fn constant(self, distance: i64) -> Option<Vec<u8>> {
        // mrs x2, cntvct_el0; mov w3, 0x79b1; movk w3, 0x9e37, lsl 16; mul w2, w2, w3; lsr w2, w2, 12
        const SAMPLE: [u32; 5] = [0xd53b_e042, 0x528f_3623, 0x72b3_c6e3, 0x1b03_7c42, 0x530c_7c42];
        let (before, after): (&[u32], &[u32]) = match self {
            // bti c; cmp w0, 11; b.hi call; mov w2, (1 << 0 | 1 << 5 | 1 << 11); lsr w2, w2, w0; tbz w2, 0, call
            // SAMPLE; cbz w2, call; ldr x2, SECONDS; stp x2, xzr, [x1]; mov w0, 0; ret
            Function::ClockGettime => (
                &[0xd503_245f, 0x7100_2c1f, 0x5400_01c8, 0x5281_0422, 0x1ac0_2442, 0x3600_0162],
                &[0x3400_00a2, 0xa900_7c22, 0x5280_0000, 0xd65f_03c0],
            ),
            // bti c; cbz x0, zone; SAMPLE; cbz w2, call; ldr x2, SECONDS; stp x2, xzr, [x0]
            // zone: cbz x1, end; str xzr, [x1]; end: mov w0, 0; ret
            Function::Gettimeofday => {
                (&[0xd503_245f, 0xb400_0120], &[0x3400_00e2, 0xa900_7c02, 0xb400_0041, 0xf900_003f, 0x5280_0000, 0xd65f_03c0])
            }
            Function::Time => return None,
        };
        let mut code = [before, &SAMPLE, &after[..1]].concat();
        let words_to = (distance - i64::try_from(code.len()).ok()? * 4) / 4;
        let reach = i32::try_from(words_to).ok().filter(|words| (-(1 << 18)..1 << 18).contains(words))?;
        code.push(0x5800_0002 | (reach as u32 & 0x7_ffff) << 5);
        code.extend(&after[1..]);
        // The jumps go to the system call; its landing pad does no harm.
        Some([words(&code), self.call()[4..].to_vec()].concat())
    }
}

#[cfg(target_arch = "aarch64")]
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A replaced function.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    /// Offset from the image's start.
    offset: u64,
    code: Vec<u8>,
    /// True if it makes its system call only every millionth time.
    has_constant: bool,
}

impl Part {
    fn call(offset: u64, function: Function) -> Part {
        Part { offset, code: function.call(), has_constant: false }
    }

    /// Returns the offset behind its system call, which the instruction to return follows.
    fn behind_call(&self) -> u64 {
        let last = if cfg!(target_arch = "x86_64") { 1 } else { 4 };
        (self.offset + self.code.len() as u64).saturating_sub(last)
    }
}

/// The replaced functions.
#[derive(Debug, Default)]
struct Patch {
    parts: Vec<Part>,
    /// Offset of the constant, if there is one.
    seconds: Option<u64>,
}

impl Patch {
    /// Makes each function a system call.
    fn calls(image: &[u8]) -> Patch {
        let found = Function::ALL.into_iter().filter_map(|one| Some((symbol(image, one.name())?, one)));
        Patch { parts: found.map(|(at, one)| Part::call(at.start, one)).collect(), seconds: None }
    }

    /// Makes each function return a constant. Those without room for it, or all if the constant has no place, are system calls.
    fn constant(image: &[u8]) -> Patch {
        let calls = Patch::calls(image);
        let Some(room) = symbol(image, Function::ClockGettime.name()) else { return calls };
        // Behind the code, so that one write changes it for all functions; aligned, so that a program never sees half of it.
        let length = Function::ClockGettime.constant(0).map_or(0, |code| code.len() as u64);
        let seconds = (room.start + length).next_multiple_of(8);
        if seconds + 8 > room.end {
            return calls;
        }
        let part = |one: Function| {
            let at = symbol(image, one.name())?;
            let distance = i64::try_from(seconds).ok()?.checked_sub(i64::try_from(at.start).ok()?)?;
            match one.constant(distance).filter(|code| at.start + code.len() as u64 <= at.end) {
                Some(code) => Some(Part { offset: at.start, code, has_constant: true }),
                None => Some(Part::call(at.start, one)),
            }
        };
        Patch { parts: Function::ALL.into_iter().filter_map(part).collect(), seconds: Some(seconds) }
    }

    /// True if the program at this address has the replaced functions already.
    fn is_in(&self, pid: i32, base: u64) -> bool {
        let is_same = |part: &Part| {
            let mut there = vec![0; part.code.len()];
            sys::read_memory(pid, base.saturating_add(part.offset), &mut there).is_ok_and(|length| there[..length] == part.code)
        };
        self.parts.first().is_some_and(is_same)
    }
}

/// The functions that a sandbox's programs get.
pub struct Vdso {
    kind: fn(&[u8]) -> Patch,
    patch: OnceCell<Patch>,
}

impl Vdso {
    /// Programs ask the kernel for the time, and so PID 1.
    pub fn calls() -> Vdso {
        Vdso { kind: Patch::calls, patch: OnceCell::new() }
    }

    /// Programs get a constant.
    pub fn constant() -> Vdso {
        Vdso { kind: Patch::constant, patch: OnceCell::new() }
    }

    /// Replaces the functions of a program that has just started, unless they are replaced already. If that fails, it sees the true time.
    pub fn replace(&self, pid: u32, auxiliary: &Auxiliary, seconds: i64, still_waits: &dyn Fn() -> bool) {
        let (Ok(pid), Some(base)) = (i32::try_from(pid), auxiliary.entry(AT_SYSINFO_EHDR)) else { return };
        let patch = self.patch.get_or_init(|| (self.kind)(&read(pid, base)));
        if patch.is_in(pid, base) {
            return;
        }
        let Ok(memory) = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")) else { return };
        if !still_waits() {
            return;
        }
        if let Some(offset) = patch.seconds {
            let _ = memory.write_all_at(&seconds.to_le_bytes(), base.saturating_add(offset));
        }
        for part in &patch.parts {
            let _ = memory.write_all_at(&part.code, base.saturating_add(part.offset));
        }
    }

    /// True if a call at this address is probably one of a million readings.
    pub fn is_sample(&self, instruction_pointer: u64) -> bool {
        let in_page = |address: u64| address % PAGE_BYTES as u64;
        let parts = self.patch.get().map(|patch| patch.parts.as_slice()).unwrap_or_default();
        parts.iter().any(|part| part.has_constant && in_page(part.behind_call()) == in_page(instruction_pointer))
    }

    /// Changes the constant of all programs that have it.
    pub fn change(&self, seconds: i64) {
        let Some((patch, offset)) = self.patch.get().and_then(|patch| Some((patch, patch.seconds?))) else { return };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            let Some(base) = u32::try_from(pid).ok().and_then(|pid| Auxiliary::read(pid, 8)?.entry(AT_SYSINFO_EHDR)) else { continue };
            if patch.is_in(pid, base)
                && let Ok(memory) = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))
            {
                // A process that ends now needs no clock.
                let _ = memory.write_all_at(&seconds.to_le_bytes(), base.saturating_add(offset));
            }
        }
    }
}

/// The auxiliary vector of a program: addresses that the kernel gives it at its start.
pub struct Auxiliary {
    words: Vec<u64>,
}

impl Auxiliary {
    /// Reads the vector of a program with words of so many bytes.
    pub fn read(pid: u32, word_bytes: usize) -> Option<Auxiliary> {
        let vector = fs::read(format!("/proc/{pid}/auxv")).ok()?;
        let vector = &vector[..vector.len().min(MAX_AUXV_BYTES)];
        // All our targets are little-endian.
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(Auxiliary { words: vector.chunks_exact(word_bytes).map(word).collect() })
    }

    /// Returns an entry.
    pub fn entry(&self, key: u64) -> Option<u64> {
        self.words.chunks_exact(2).find(|pair| pair[0] == key).map(|pair| pair[1])
    }
}

/// Reads the image.
fn read(pid: i32, base: u64) -> Vec<u8> {
    let mut image = vec![0; MAX_IMAGE_BYTES];
    let mut length = 0;
    while length < MAX_IMAGE_BYTES
        && sys::read_memory(pid, base.saturating_add(length as u64), &mut image[length..length + PAGE_BYTES]).is_ok()
    {
        length += PAGE_BYTES;
    }
    image.truncate(length);
    image
}

/// Finds a function in an ELF image of 64 bits, by its dynamic symbols. The names follow the symbols.
fn symbol(image: &[u8], name: &[u8]) -> Option<Range<u64>> {
    const DYNAMIC: u64 = 2;
    const STRINGS: u64 = 5;
    const SYMBOLS: u64 = 6;
    const SYMBOL_BYTES: usize = 24;
    let number = |at: usize, bytes: usize| {
        let part = image.get(at..at.checked_add(bytes)?)?;
        Some(part.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let place = |value: u64| usize::try_from(value).ok().filter(|at| *at <= MAX_IMAGE_BYTES);
    let (headers, size, count) = (place(number(32, 8)?)?, place(number(54, 2)?)?, place(number(56, 2)?)?);
    let header = (0..count).map(|at| headers + at * size).find(|at| number(*at, 4) == Some(DYNAMIC))?;
    let (start, bytes) = (place(number(header + 8, 8)?)?, place(number(header + 40, 8)?)?);
    let entry = |tag| (0..bytes / 16).map(|at| start + at * 16).find(|at| number(*at, 8) == Some(tag)).and_then(|at| number(at + 8, 8));
    let (symbols, strings) = (place(entry(SYMBOLS)?)?, place(entry(STRINGS)?)?);
    let found = (symbols..strings).step_by(SYMBOL_BYTES).find(|at| {
        let named = number(*at, 4).and_then(place).and_then(|offset| image.get(strings.checked_add(offset)?..));
        named.is_some_and(|named| named.starts_with(name) && named.get(name.len()) == Some(&0))
    })?;
    let start = number(found + 8, 8).filter(|at| *at != 0)?;
    let end = start.checked_add(number(found + 16, 8)?)?;
    (end <= image.len() as u64).then_some(start..end)
}
