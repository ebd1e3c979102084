//! Tests if the host's processor can run guests, by running one: opening `/dev/kvm` is no proof.
//!
//! Some hosts are VMs themselves and offer a KVM that emulates every instruction of a guest's kernel. Each call succeeds, but no kernel
//! boots within a minute. So this test runs a guest of two instructions in a loop and measures the time. It takes some milliseconds. The
//! result is not cached on disk, because a cached result can become wrong.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, Timespec, access};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use silo_base::system::Arch;

use super::vm_spec::Processor;
use crate::kernel::sys;

/// The device file.
const DEVICE: &str = "/dev/kvm";
/// Number of loop rounds in the guest.
const ROUNDS: u32 = 20_000;
/// Time limit for the loop: a hundred times the time on a real processor, a fifth of the time measured under emulation.
const MOST: Duration = Duration::from_millis(2);
/// Time limit for a guest that does not return.
const DEADLINE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Most bytes read of /proc/cpuinfo; the first processor's entry has about 1,500.
const MAX_CPUINFO_BYTES: u64 = 4096;

const FAST: u8 = 0;
const SLOW: u8 = 1;
const FAILED: u8 = 2;

/// Returns the reason if no guest can run. The result is cached in the process. Needs a process with one thread.
pub fn works() -> Result<(), &'static str> {
    static HERE: OnceLock<Result<(), String>> = OnceLock::new();
    match HERE.get_or_init(probe) {
        Ok(()) => Ok(()),
        Err(why) => Err(why),
    }
}

/// Returns the type of processor for VMs of an architecture on this host; the test takes some milliseconds.
pub fn processor(arch: Arch) -> Processor {
    if arch == Arch::host() && works().is_ok() { Processor::Kvm } else { Processor::Translated }
}

fn probe() -> Result<(), String> {
    if access(DEVICE, Access::EXISTS).is_err() {
        return Err(format!("{DEVICE} does not exist"));
    }
    if access(DEVICE, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Err(format!("this user may not open {DEVICE}"));
    }
    if cfg!(target_arch = "x86_64") && !has_extensions(&cpuinfo()) {
        return Err(format!(
            "{DEVICE} opens, but the processor has no virtualisation instructions (neither vmx nor svm), so guests are emulated"
        ));
    }
    let failed = |what: &str, error: io::Error| format!("{DEVICE} cannot be tested: {what}: {error}");
    // A guest may never return; then only its process can be killed.
    let Some(child) = sys::fork().map_err(|error| failed("starting a process", error))? else { sys::exit(attempt()) };
    let child = Pid::from_raw(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let child = child.ok_or_else(|| format!("{DEVICE} cannot be tested"))?;
    let came_back = matches!(poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&DEADLINE)), Ok(1));
    if !came_back {
        // The process may have ended already.
        let _ = pidfd_send_signal(&child, Signal::KILL);
    }
    let status = waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(&child)), WaitIdOptions::EXITED);
    let code = status.ok().flatten().and_then(|status| status.exit_status());
    match code.and_then(|code| u8::try_from(code).ok()).filter(|_| came_back) {
        Some(FAST) => Ok(()),
        Some(SLOW) => Err(format!(
            "{DEVICE} opens, but guests are emulated, not run by the processor: {ROUNDS} steps of one took more than {} ms",
            MOST.as_millis()
        )),
        Some(_) => Err(format!("{DEVICE} opens, but cannot run a guest")),
        None => Err(format!("{DEVICE} opens, but a guest of two instructions did not return within a second")),
    }
}

/// Reads the kernel's description of the first processor; there may be hundreds.
fn cpuinfo() -> String {
    let mut text = Vec::new();
    // Without it, the test of a guest decides.
    let _ = File::open("/proc/cpuinfo").and_then(|file| file.take(MAX_CPUINFO_BYTES).read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// True if an x86 processor supports virtualisation, or if its flags are unknown.
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

/// Runs a guest that counts down, and measures its time.
#[cfg(target_arch = "x86_64")]
fn run() -> io::Result<Duration> {
    use kvm_ioctls::{Kvm, VcpuExit};

    /// The guest address of the code.
    const CODE_AT: u64 = 0x1000;
    let mut code = [&b"\xb9\0\0\0\0"[..], b"\xff\xc9", b"\x75\xfc", b"\xe6\x10", b"\xf4"].concat();
    // mov ecx, ROUNDS; dec ecx; jnz back; out 0x10, al; hlt
    code[1..5].copy_from_slice(&ROUNDS.to_le_bytes());
    let system = Kvm::new().map_err(io::Error::from)?;
    let machine = system.create_vm().map_err(io::Error::from)?;
    // Memory that the kernel needs for real mode on some processors; any address outside the guest's memory.
    machine.set_tss_address(0xfffb_d000).map_err(io::Error::from)?;
    let mut memory = sys::GuestMemory::default();
    memory.write(CODE_AT, &code);
    memory.give(&machine)?;
    let mut processor = machine.create_vcpu(0).map_err(io::Error::from)?;
    let mut special = processor.get_sregs().map_err(io::Error::from)?;
    // Flat segments in protected mode, as in a kernel.
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

/// Creates a VM with one processor. On this architecture KVM always needs hardware support.
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
        assert!(of("fpu vmx sse") && of("svm") && super::has_extensions(""), "unknown processors are tested");
        assert!(!of("fpu sse hypervisor") && !of("vmxnet"));
    }

    /// Every host gives an answer, and a failure has a message.
    #[test]
    fn there_is_an_answer() {
        // The launcher uses a child process; the tests call it directly, because they have threads.
        match super::run() {
            Ok(took) => assert!(took > std::time::Duration::ZERO),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
