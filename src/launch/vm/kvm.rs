//! Whether the host's processor can run a guest, found by running one: a `/dev/kvm` that opens is no proof.
//!
//! Some hosts, themselves guests, offer a KVM that translates every instruction of a guest's kernel: each call succeeds,
//! and no kernel boots in a minute. So a guest of two instructions is run for a while and its time is taken. That costs
//! some milliseconds, which is why nothing is remembered of it: what is remembered can be wrong.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, Timespec, access};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::launch::native::sys;

/// The device.
const DEVICE: &str = "/dev/kvm";
/// How often the guest counts.
const ROUNDS: u32 = 20_000;
/// The most that this may take: a hundred times what a processor needs, a fifth of what was seen where it is translated.
const MOST: Duration = Duration::from_millis(2);
/// How long a guest that does not come back is waited for.
const DEADLINE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What is read of the kernel's account of processors: the first has about 1,500 bytes.
const MAX_CPUINFO_BYTES: u64 = 4096;

const FAST: u8 = 0;
const SLOW: u8 = 1;
const FAILED: u8 = 2;

/// Says why no guest can be run, if none can; found out once in a process. To be called from one with one thread.
pub fn works() -> Result<(), &'static str> {
    static HERE: OnceLock<Result<(), String>> = OnceLock::new();
    match HERE.get_or_init(probe) {
        Ok(()) => Ok(()),
        Err(why) => Err(why),
    }
}

fn probe() -> Result<(), String> {
    if access(DEVICE, Access::EXISTS).is_err() {
        return Err(format!("there is no {DEVICE}"));
    }
    if access(DEVICE, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Err(format!("{DEVICE} may not be used by this user"));
    }
    if cfg!(target_arch = "x86_64") && !has_extensions(&cpuinfo()) {
        return Err(format!(
            "{DEVICE} opens, but the processor has no instructions for guests (neither vmx nor svm), so they are translated"
        ));
    }
    let failed = |what: &str, error: io::Error| format!("{DEVICE} cannot be tried: {what}: {error}");
    // A guest may never come back, and then only its process can be ended.
    let Some(child) = sys::fork().map_err(|error| failed("starting a process", error))? else { sys::exit(attempt()) };
    let child = Pid::from_raw(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let child = child.ok_or_else(|| format!("{DEVICE} cannot be tried"))?;
    let came_back = matches!(poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&DEADLINE)), Ok(1));
    if !came_back {
        // Just ended is ended, too.
        let _ = pidfd_send_signal(&child, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&child)), WaitIdOptions::EXITED);
    let code = status.ok().flatten().and_then(|status| status.exit_status());
    match code.and_then(|code| u8::try_from(code).ok()).filter(|_| came_back) {
        Some(FAST) => Ok(()),
        Some(SLOW) => Err(format!(
            "{DEVICE} opens, but guests are translated, not run by the processor: {ROUNDS} steps of one took more than {} ms",
            MOST.as_millis()
        )),
        Some(_) => Err(format!("{DEVICE} opens, but a guest cannot be run")),
        None => Err(format!("{DEVICE} opens, but a guest of two instructions did not come back within a second")),
    }
}

/// Reads what the kernel says of the first processor; there may be hundreds.
fn cpuinfo() -> String {
    let mut text = Vec::new();
    // Without it, the attempt says what is true.
    let _ = File::open("/proc/cpuinfo").and_then(|file| file.take(MAX_CPUINFO_BYTES).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether a processor of x86 can run guests by itself, unless nothing is known of it.
fn has_extensions(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.is_none_or(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

fn attempt() -> u8 {
    match std::panic::catch_unwind(run) {
        Ok(Ok(took)) if took <= MOST => FAST,
        Ok(Ok(_)) => SLOW,
        Ok(Err(_)) | Err(_) => FAILED,
    }
}

/// Runs a guest that counts down, and takes its time.
#[cfg(target_arch = "x86_64")]
fn run() -> io::Result<Duration> {
    use kvm_ioctls::{Kvm, VcpuExit};

    /// Where the guest's code lies in its memory.
    const CODE_AT: u64 = 0x1000;
    let mut code = [&b"\xb9\0\0\0\0"[..], b"\xff\xc9", b"\x75\xfc", b"\xe6\x10", b"\xf4"].concat();
    // mov ecx, ROUNDS; dec ecx; jnz back; out 0x10, al; hlt
    code[1..5].copy_from_slice(&ROUNDS.to_le_bytes());
    let system = Kvm::new().map_err(io::Error::from)?;
    let machine = system.create_vm().map_err(io::Error::from)?;
    // Where the kernel keeps what some processors need for real mode; anywhere that is not memory.
    machine.set_tss_address(0xfffb_d000).map_err(io::Error::from)?;
    let mut memory = sys::GuestMemory::default();
    memory.write(CODE_AT, &code);
    memory.give(&machine)?;
    let mut processor = machine.create_vcpu(0).map_err(io::Error::from)?;
    let mut special = processor.get_sregs().map_err(io::Error::from)?;
    // Flat segments in protected mode, as a kernel has them.
    let flat = |selector: u16, kind: u8| kvm_bindings::kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    special.cs = flat(8, 11);
    [special.ds, special.es, special.fs, special.gs, special.ss] = [flat(16, 3); 5];
    special.cr0 |= 1;
    processor.set_sregs(&special).map_err(io::Error::from)?;
    let registers = kvm_bindings::kvm_regs { rip: CODE_AT, rflags: 2, rsp: 0x8000, ..Default::default() };
    processor.set_regs(&registers).map_err(io::Error::from)?;
    let began = Instant::now();
    match processor.run().map_err(io::Error::from)? {
        VcpuExit::IoOut(..) => Ok(began.elapsed()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Makes a machine with one processor. There is no such KVM without the processor's own help here.
#[cfg(target_arch = "aarch64")]
fn run() -> io::Result<Duration> {
    let began = Instant::now();
    let system = kvm_ioctls::Kvm::new().map_err(io::Error::from)?;
    system.create_vm().and_then(|machine| machine.create_vcpu(0)).map_err(io::Error::from)?;
    let _ = began;
    Ok(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_without_instructions_for_guests_is_known_by_its_flags() {
        let of = |flags: &str| super::has_extensions(&format!("processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: vmx\n"));
        assert!(of("fpu vmx sse") && of("svm") && super::has_extensions(""), "and what is not known is tried");
        assert!(!of("fpu sse hypervisor") && !of("vmxnet"));
    }

    /// Whatever this machine is, there is an answer, and one that says why.
    #[test]
    fn there_is_an_answer() {
        // In a process of its own: the tests have threads.
        match super::run() {
            Ok(took) => assert!(took > std::time::Duration::ZERO),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
