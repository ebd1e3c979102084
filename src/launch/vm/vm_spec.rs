//! Builds the description of a VM from a launch spec. Pure: data in, data out.
//!
//! One spec becomes two. The *outer* one describes the namespace sandbox of QEMU: it contains the files that QEMU needs and the project,
//! and nothing else of the host. So a program that escapes from the VM is still in a sandbox like any other. The *inner* one is launched by
//! the VM's first process, with paths as they are inside.
//!
//! The rules for shares are enforced outside, where the guest's kernel cannot change them: a read-only mount is read-only in the outer
//! sandbox, and so are the protected paths.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use silo_base::system::Arch;

use super::guest_paths::{CHANGES, GIVEN, IMAGE, LOWER, LOWER_TAG, MEMORY, PORT, SNAPSHOT, STATE};
use super::shared_dirs::{SharedDirs, shared_dir, tag};
use super::tty::Terminal;
use crate::spec::{Abi, Access, Conditions, Dir, Identity, Limits, Mount, Root, Spec, Stdio, Upper, VmFiles};

/// Writable memory in QEMU's sandbox, in addition to shares: it holds only mount points.
const SCRATCH_BYTES: u64 = 64 << 20;
/// Threads of QEMU: a few for processors, at most 64 for files, and some of its own.
const TASKS: u64 = 256;
/// Open files of QEMU: one for each file of a share that the guest has open. QEMU closes some at half of this limit.
const OPEN_FILES: u64 = 4096;
/// Memory of QEMU in addition to the guest's: up to 1 GiB of translated code, half a GiB for the stacks of 64 file threads, half a GiB for
/// the stacks of requests, and its own heap. QEMU aborts if an allocation fails.
const QEMU_MEMORY_BYTES: u64 = 2560 << 20;
/// CPU time of QEMU in addition to the guest's: for files and channels.
const QEMU_CPU_THOUSANDTHS: u64 = 1000;
/// The fraction of the VM's memory that a program's files may use.
const UPPER_SHARE: (u64, u64) = (3, 4);
/// Memory for the guest's kernel and Silo, in addition to the program's.
const OWN_MEMORY_BYTES: u64 = 160 << 20;
/// The smallest memory size that boots with room for a program.
const LEAST_MEMORY_BYTES: u64 = 384 << 20;
/// The kernel command line of every guest. The kernel prints nothing until a panic, and then reboots, which ends QEMU. It does not check
/// timers and clocks for drift while the host is busy, and it trusts the processor's random number generator.
///
/// It skips features that no program in a sandbox can use and that take a sixth of a start under TCG. These are self-tests of ciphers, keys
/// for signatures of modules and files, BPF programs that only root may load, and security modules other than Landlock. The kernel passes
/// the last word, which it does not know, to its first process as a variable.
const COMMAND_LINE: &str = "console=hvc0 quiet loglevel=1 panic=-1 random.trust_cpu=on \
    cryptomgr.notests lsm=landlock rcupdate.rcu_expedited=1 initcall_blacklist=load_system_certificate_list,jent_mod_init,\
    crypto_kdf108_init,init_encrypted,platform_keyring_init,bpf_dummy_struct_ops_init,bpf_tcp_ca_kfunc_init,bpf_sockmap_iter_init \
    LD_LIBRARY_PATH=/silo/lib";

/// Words before [`COMMAND_LINE`]: the console for a panic before the virtio one exists, and clocks that the kernel must not measure.
fn first_words(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "earlyprintk=ttyS0 no_timer_check tsc=reliable",
        Arch::Arm64 => "earlycon=pl011,0x9000000",
    }
}

/// The implementation of a VM's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// Hardware virtualisation (KVM).
    Kvm,
    /// Emulation (TCG).
    Translated,
    /// Emulation of one processor, whose clock counts its instructions.
    Counted,
}

/// The starting point of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The kernel boots.
    Boot,
    /// The kernel boots, and the VM's memory is a file in a host directory, so that a snapshot can be taken.
    Observed {
        /// The directory.
        dir: PathBuf,
        /// The number of share devices to provide.
        shares: usize,
    },
    /// The VM is restored from a snapshot in a host directory.
    Restored {
        /// The directory.
        dir: PathBuf,
    },
}

impl Start {
    /// True if QEMU has a QMP socket.
    pub fn is_controlled(&self) -> bool {
        *self != Start::Boot
    }
}

/// The job for the VM's first process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The spec to launch, with paths inside the VM.
    pub spec: Spec,
    /// The ids by which the program sees the VM's root.
    pub user: (u32, u32),
    /// The umask of the program.
    pub umask: u32,
    /// True if there is a disk with the program's root.
    pub has_disk: bool,
    /// Number of shares to mount.
    pub shares: usize,
    /// The protocol of the shares.
    pub sharing: Sharing,
    /// The program's terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// The destination of its errors, if they are not on the terminal.
    pub errors: Errors,
    /// Most processes at once.
    pub tasks: Option<u64>,
    /// The host's clock: seconds since 1970, and nanoseconds.
    pub now: (i64, i64),
}

/// The protocol by which a VM mounts the host's shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// QEMU's built-in one, which needs no extra program.
    NineP,
    /// The only one of Apple's framework.
    Virtiofs,
}

/// The destination of a program's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errors {
    /// A separate stream.
    Apart,
    /// The stream of the output, which keeps the order of writes.
    WithOutput,
}

/// Both specs of one VM.
#[derive(Debug)]
pub struct VmSpecs {
    /// The VM's architecture.
    pub arch: Arch,
    /// QEMU's sandbox.
    pub outer: Spec,
    /// The spec that runs inside.
    pub inner: Spec,
    /// Number of shares.
    pub shares: usize,
    /// The VM's memory.
    pub memory_bytes: u64,
}

/// The data for the job that does not depend on the hypervisor.
#[derive(Debug)]
pub struct GuestJob {
    /// The spec to launch.
    pub spec: Spec,
    /// Number of shares.
    pub shares: usize,
    /// The protocol of the shares.
    pub sharing: Sharing,
    /// The VM's memory.
    pub memory_bytes: u64,
}

impl VmSpecs {
    /// Returns the data for the job.
    pub fn inside(self) -> GuestJob {
        GuestJob { spec: self.inner, shares: self.shares, sharing: Sharing::NineP, memory_bytes: self.memory_bytes }
    }
}

/// Builds both specs from one.
pub fn make(spec: &Spec, machine: &VmFiles, processor: Processor, start: Start) -> VmSpecs {
    let given = Path::new(GIVEN);
    let read_only = |host: &Path, name: &str| Mount { host: host.into(), guest: given.join(name), access: Access::ReadOnly };
    let mut mounts = vec![read_only(&machine.kernel, "kernel"), read_only(&machine.initial, "initial")];
    match &machine.disk {
        Some(disk) => mounts.push(read_only(disk, "disk")),
        None => mounts.extend(spec.root.lower.iter().enumerate().map(|(number, dir)| read_only(dir, &format!("lower/{number}")))),
    }
    if processor == Processor::Kvm {
        mounts.push(Mount { host: "/dev/kvm".into(), guest: "/dev/kvm".into(), access: Access::ReadWrite });
    }
    let shares = SharedDirs::of(spec);
    mounts.extend(shares.hosts.iter().enumerate().map(|(number, share)| Mount {
        host: share.host.clone(),
        guest: share.outside(number),
        access: share.access,
    }));
    let memory = memory(spec, machine);
    let mut dirs = Vec::new();
    let mut count = shares.hosts.len();
    match &start {
        Start::Boot => {}
        Start::Observed { dir, shares, .. } => {
            mounts.extend(snapshot(dir, Access::ReadWrite));
            count = *shares;
            let places = (0..count).map(shared_dir).chain(machine.disk.is_none().then(|| given.join("lower")));
            dirs.extend(places.map(|guest| Dir { guest, mode: 0o755 }));
        }
        Start::Restored { dir } => mounts.extend(snapshot(dir, Access::ReadOnly)),
    }
    let argv = qemu(machine, processor, memory, count, &start);
    VmSpecs {
        arch: machine.arch,
        outer: Spec {
            root: Root { lower: vec![machine.root.clone()], upper: Upper::Ephemeral { size_bytes: SCRATCH_BYTES } },
            mounts,
            dirs,
            files: Vec::new(),
            read_only: shares.protected(&spec.read_only, spec),
            overlays: shares.overlays(spec),
            hidden: shares.protected(&spec.hidden, spec),
            removable: Vec::new(),
            argv,
            env: BTreeMap::from([
                ("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into()),
                ("TMPDIR".into(), "/tmp".into()),
                ("MALLOC_ARENA_MAX".into(), "4".into()),
            ]),
            cwd: "/".into(),
            hostname: "silo-vm".to_owned(),
            identity: Identity::Machine,
            abi: Abi::Native,
            stdio: Stdio::Auto,
            // The limits also bind a compromised QEMU, with or without a cgroup.
            limits: Limits {
                memory_bytes: Some(memory.saturating_add(QEMU_MEMORY_BYTES)),
                tasks: Some(TASKS.saturating_add(machine.cpus.into())),
                open_files: Some(OPEN_FILES),
                cpu_thousandths: Some(u64::from(machine.cpus).saturating_mul(1000).saturating_add(QEMU_CPU_THOUSANDTHS)),
                time_seconds: None,
            },
            network: None,
            machine: None,
            owners: Vec::new(),
            owners_at: None,
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
        },
        inner: inner(spec, machine, &shares, memory),
        shares: shares.hosts.len(),
        memory_bytes: memory,
    }
}

/// Returns mounts of a snapshot's two files, without their directory, so that they cannot be replaced.
fn snapshot(dir: &Path, access: Access) -> [Mount; 2] {
    [MEMORY, STATE].map(|name| Mount { host: dir.join(name).into(), guest: Path::new(SNAPSHOT).join(name), access })
}

/// Returns the VM's memory: the program's limit, and the VM's own needs.
pub(super) fn memory(spec: &Spec, machine: &VmFiles) -> u64 {
    let wanted = spec.limits.memory_bytes.map_or(machine.memory_bytes, |bytes| bytes.saturating_add(OWN_MEMORY_BYTES));
    wanted.max(LEAST_MEMORY_BYTES).next_multiple_of(1 << 20)
}

pub(super) fn inner(spec: &Spec, machine: &VmFiles, shares: &SharedDirs, memory: u64) -> Spec {
    let mut inner = spec.clone();
    // A path of the host. The VM's disk is used once.
    inner.owners_at = None;
    inner.machine = None;
    // Overlays are part of the shares already: a share cannot be the upper directory of an overlay.
    inner.overlays = Vec::new();
    inner.root.lower = match machine.disk {
        Some(_) => vec![IMAGE.into()],
        None => (0..spec.root.lower.len()).map(|number| Path::new(LOWER).join(number.to_string())).collect(),
    };
    match &mut inner.root.upper {
        Upper::Ephemeral { size_bytes } => *size_bytes = (*size_bytes).min(memory / UPPER_SHARE.1 * UPPER_SHARE.0),
        Upper::Kept { upper, work } => {
            *upper = Path::new(CHANGES).join("upper");
            *work = Path::new(CHANGES).join("work");
        }
    }
    for mount in &mut inner.mounts {
        mount.host = shares.inside(&mount.host).into();
    }
    // The VM has only as many processors as the program may use.
    inner.limits.cpu_thousandths = None;
    inner
}

/// Returns QEMU's command line. Comments give the reasons for unusual options.
fn qemu(machine: &VmFiles, processor: Processor, memory: u64, shares: usize, start: &Start) -> Vec<OsString> {
    let mut words: Vec<String> = Vec::new();
    let mut put = |line: &str| words.extend(line.split(' ').map(str::to_owned));
    put(&program(machine.arch));
    // No default devices, and no configuration files.
    put("-nodefaults -no-user-config -display none -no-reboot");
    match processor {
        Processor::Kvm => put("-accel kvm -cpu host"),
        Processor::Translated => put(&format!("-accel {} -cpu {}", accelerator(machine.arch), emulated_cpu(machine.arch))),
        // An instruction takes 2 ns. The seed is that of the processor's random numbers.
        Processor::Counted => put(&format!(
            "-accel tcg,thread=single -cpu {} -icount shift=1 -rtc base=1970-01-01T00:00:00,clock=vm -seed 1",
            emulated_cpu(machine.arch)
        )),
    }
    let backed = |how: &str| {
        format!(",memory-backend=memory -object memory-backend-file,id=memory,size={memory},mem-path={SNAPSHOT}/{MEMORY},{how}")
    };
    put(&match start {
        Start::Boot => board(machine.arch).to_owned(),
        Start::Observed { .. } => board(machine.arch).to_owned() + &backed("share=on"),
        // Private mapping: each VM has its own copy of the pages that it changes.
        Start::Restored { .. } => board(machine.arch).to_owned() + &backed("share=off,readonly=on,rom=off"),
    });
    put(&format!("-m {}M -smp {}", memory >> 20, machine.cpus));
    // A restored VM needs the same firmware, which is chosen by the kind of kernel.
    put("-kernel /silo/kernel");
    if !matches!(start, Start::Restored { .. }) {
        put("-initrd /silo/initial");
        words.extend(["-append".to_owned(), format!("{} {COMMAND_LINE}", first_words(machine.arch))]);
    }
    let mut put = |line: &str| words.extend(line.split(' ').map(str::to_owned));
    if start.is_controlled() {
        put("-chardev socket,id=control,fd=2 -mon chardev=control,mode=control");
    }
    if let Start::Restored { .. } = start {
        put("-incoming defer");
    }
    match machine.disk {
        Some(_) => {
            put("-drive id=disk,file=/silo/disk,format=raw,if=none,readonly=on,file.locking=off -device virtio-blk-pci,drive=disk");
        }
        // One share for all of them: the number of device slots is limited.
        None => {
            put(&format!("-fsdev local,id=lower,path={GIVEN}/lower,security_model=none,readonly=on,multidevs=remap"));
            put(&format!("-device virtio-9p-pci,fsdev=lower,mount_tag={LOWER_TAG}"));
        }
    }
    if processor != Processor::Counted {
        put("-device virtio-rng-pci");
    }
    if *start == Start::Boot {
        // Returns free guest memory to the host. Memory of a snapshot's file cannot be returned.
        put("-device virtio-balloon-pci,free-page-reporting=on");
    }
    // Output of the kernel, only after a panic.
    put("-chardev socket,id=log,fd=1,mux=on -serial chardev:log -device virtio-serial-pci -device virtconsole,chardev=log");
    // The port's other end is this process's standard input: no socket on disk, and no other process can connect.
    put(&format!("-chardev socket,id=silo,fd=0 -device virtserialport,chardev=silo,name={PORT}"));
    for number in 0..shares {
        // Ownership is not stored: every file belongs to the writer, which is always the caller. File systems may share inode numbers.
        let dir = shared_dir(number);
        put(&format!("-fsdev local,id=f{number},path={},security_model=none,multidevs=remap", dir.display()));
        put(&format!("-device virtio-9p-pci,fsdev=f{number},mount_tag={}", tag(number)));
    }
    // A second sandbox within the namespaces: no new processes and no obsolete system calls.
    put("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    words.into_iter().map(OsString::from).collect()
}

/// QEMU's program for an architecture.
fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.machine())
}

/// The machine type. On x86 it is more robust under TCG than the smaller `microvm`, which must calibrate against the host's clock; five per
/// cent slower.
fn board(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "-machine q35,graphics=off,vmport=off,smbus=off,sata=off,hpet=off,usb=off",
        Arch::Arm64 => "-machine virt,gic-version=max",
    }
}

/// Each processor of a VM has a thread of its own, unless the host's processor reorders memory accesses that the VM's keeps in order.
fn accelerator(arch: Arch) -> &'static str {
    match (arch, Arch::host()) {
        (Arch::Amd64, Arch::Arm64) => "tcg",
        (Arch::Amd64 | Arch::Arm64, _) => "tcg,thread=multi",
    }
}

/// The emulated processor.
fn emulated_cpu(arch: Arch) -> &'static str {
    match arch {
        // Translated code must not use 16-byte compare-and-exchange: older versions corrupt flags with it. Fast byte copies of a real
        // processor take one emulated step per byte. A fifth page table level makes each TLB miss slower.
        Arch::Amd64 => "max,-cx16,-erms,-fsrm,-la57",
        // Signed pointers by QEMU's own function, because Arm's takes many times longer.
        Arch::Arm64 => "max,pauth-impdef=on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Conditions, Fallback, MachineTime, Overlay};

    fn spec() -> Spec {
        let mount = |host: &str, guest: &str, access| Mount { host: host.into(), guest: guest.into(), access };
        Spec {
            root: Root { lower: vec!["/h/images/a/root".into()], upper: Upper::Ephemeral { size_bytes: 4 << 30 } },
            mounts: vec![
                mount("/home/me/p", "/home/me/p", Access::ReadWrite),
                mount("/home/me/p", "/workspace", Access::ReadWrite),
                mount("/srv/shared", "/srv/shared", Access::ReadOnly),
                mount("/etc/hostname", "/etc/name", Access::ReadOnly),
            ],
            dirs: vec![],
            files: vec![],
            read_only: vec!["/home/me/p/.git/hooks".into(), "/workspace/.git/hooks".into(), "/not/mounted".into()],
            overlays: vec![Overlay {
                lower: "/home/me/p/.jj".into(),
                upper: "/h/upper".into(),
                work: "/h/work".into(),
                guests: vec!["/home/me/p/.jj".into(), "/workspace/.jj".into()],
                fallback: Fallback::ReadOnly,
            }],
            hidden: vec!["/workspace/socket".into()],
            removable: Vec::new(),
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            cwd: "/home/me/p".into(),
            hostname: "silo".to_owned(),
            identity: Identity::Caller,
            abi: crate::spec::Abi::Native,
            stdio: Stdio::Auto,
            limits: Limits { memory_bytes: Some(1 << 30), cpu_thousandths: Some(1500), ..Limits::default() },
            network: None,
            machine: None,
            owners: Vec::new(),
            owners_at: None,
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
        }
    }

    fn machine() -> VmFiles {
        VmFiles {
            arch: Arch::Amd64,
            root: "/h/vm".into(),
            kernel: "/h/vmlinux".into(),
            initial: "/h/initial".into(),
            disk: Some("/h/disk".into()),
            memory_bytes: 2 << 30,
            cpus: 2,
            time: MachineTime::Host,
            snapshots: None,
            warm_up: Vec::new(),
        }
    }

    #[test]
    fn the_command_line_is_the_golden_one() {
        let observed = Start::Observed { dir: "/h/snapshot".into(), shares: 2 };
        let restored = Start::Restored { dir: "/h/snapshot".into() };
        let (amd64, arm64) = (Arch::Amd64, Arch::Arm64);
        for (arch, processor, start, golden) in [
            (amd64, Processor::Translated, Start::Boot, include_str!("../../../tests/golden/qemu/x86_64-translated.argv")),
            (amd64, Processor::Kvm, Start::Boot, include_str!("../../../tests/golden/qemu/x86_64-kvm.argv")),
            (amd64, Processor::Translated, observed, include_str!("../../../tests/golden/qemu/x86_64-observed.argv")),
            (amd64, Processor::Translated, restored.clone(), include_str!("../../../tests/golden/qemu/x86_64-restored.argv")),
            (amd64, Processor::Counted, Start::Boot, include_str!("../../../tests/golden/qemu/x86_64-counted.argv")),
            (arm64, Processor::Translated, Start::Boot, include_str!("../../../tests/golden/qemu/aarch64-translated.argv")),
            (arm64, Processor::Translated, restored, include_str!("../../../tests/golden/qemu/aarch64-restored.argv")),
        ] {
            let made = make(&spec(), &VmFiles { arch, ..machine() }, processor, start);
            let words: String = made.outer.argv.iter().map(|word| format!("{}\n", word.display())).collect();
            // The files are those of an x86-64 host.
            let golden = golden.replace("\ntcg,thread=multi\n", &format!("\n{}\n", accelerator(arch)));
            assert_eq!(words, golden, "{arch} {processor:?}\n{words}");
        }
    }

    #[test]
    fn the_outer_sandbox_sees_the_shares_by_their_rules() {
        let made = make(&spec(), &machine(), Processor::Translated, Start::Boot);
        assert_eq!(made.shares, 3);
        let seen: Vec<String> =
            made.outer.mounts.iter().map(|m| format!("{} {} {:?}", m.host.path().display(), m.guest.display(), m.access)).collect();
        let expect = [
            "/h/vmlinux /silo/kernel ReadOnly",
            "/h/initial /silo/initial ReadOnly",
            "/h/disk /silo/disk ReadOnly",
            "/home/me/p /silo/share/0 ReadWrite",
            "/srv/shared /silo/share/1 ReadOnly",
            "/etc/hostname /silo/share/2/hostname ReadOnly",
        ];
        assert_eq!(seen, expect);
        assert_eq!(made.outer.read_only, [PathBuf::from("/silo/share/0/.git/hooks")]);
        // The overlay is outside, where the guest's kernel cannot change it, and is mounted once.
        assert_eq!(made.outer.overlays.len(), 1);
        assert_eq!(made.outer.overlays[0].guests, [PathBuf::from("/silo/share/0/.jj")]);
        assert_eq!(made.outer.hidden, [PathBuf::from("/silo/share/0/socket")]);
        assert!(made.inner.overlays.is_empty() && made.inner.hidden == spec().hidden);
        assert_eq!((made.outer.identity, made.outer.network, made.outer.machine), (Identity::Machine, None, None));
        assert_eq!(made.outer.root.lower, [PathBuf::from("/h/vm")]);
        let memory = made.memory_bytes + QEMU_MEMORY_BYTES;
        let limits = Limits {
            memory_bytes: Some(memory),
            tasks: Some(258),
            open_files: Some(4096),
            cpu_thousandths: Some(3000),
            time_seconds: None,
        };
        assert_eq!(made.outer.limits, limits, "a compromised QEMU is limited, too");
    }

    #[test]
    fn a_step_has_its_layers_shared_and_its_changes_in_the_machine() {
        let mut spec = spec();
        spec.root.lower.push("/h/images/b/root".into());
        spec.root.upper = Upper::Kept { upper: "/h/step/upper".into(), work: "/h/step/again".into() };
        let made = make(&spec, &VmFiles { disk: None, ..machine() }, Processor::Translated, Start::Boot);
        let lower: Vec<_> = made.outer.mounts.iter().filter(|mount| mount.guest.starts_with("/silo/lower")).collect();
        assert!(lower.len() == 2 && lower.iter().all(|mount| mount.access == Access::ReadOnly), "{lower:?}");
        assert!(made.outer.mounts.iter().all(|mount| !mount.host.path().starts_with("/h/step")), "nothing of the host is written to");
        assert_eq!(made.inner.root.lower, [PathBuf::from("/lower/0"), PathBuf::from("/lower/1")]);
        assert_eq!(made.inner.root.upper, Upper::Kept { upper: "/changes/upper".into(), work: "/changes/work".into() });
        assert!(made.outer.argv.iter().all(|word| word != "virtio-blk-pci,drive=disk"));
    }

    #[test]
    fn the_inner_sandbox_is_the_one_that_was_asked_for() {
        let (spec, machine) = (spec(), machine());
        let inner = make(&spec, &machine, Processor::Translated, Start::Boot).inner;
        let hosts: Vec<String> = inner.mounts.iter().map(|mount| mount.host.path().display().to_string()).collect();
        assert_eq!(hosts, ["/share/0", "/share/0", "/share/1", "/share/2/hostname"]);
        let undone = Spec {
            root: spec.root.clone(),
            overlays: spec.overlays.clone(),
            mounts: spec.mounts.clone(),
            limits: Limits { cpu_thousandths: Some(1500), ..inner.limits.clone() },
            ..inner.clone()
        };
        assert_eq!(undone, spec, "everything else is as it was");
        let memory = memory(&spec, &machine);
        assert!(memory > 1 << 30);
        assert_eq!(inner.root.upper, Upper::Ephemeral { size_bytes: memory / 4 * 3 }, "its files fit into its memory");
    }
}
