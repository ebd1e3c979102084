//! Selects the tier of a run, and the image, kernel and disk of its VM.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use silo_store::flock::ImageLock;

use silo_base::event::Event;
use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::{self, boot};
use silo_launch::spec::{MachineTime, VmFiles};
use silo_launch::{Check, State};
use silo_model::config::Tier;
use silo_tool::record::{self, Installed};

use super::error::Error;
use super::image::Images;

/// Tool with the image for VMs.
pub const VM: &str = "vm";
/// Tool with QEMU and the kernel for VMs of the other architecture.
pub const EMULATOR: &str = "emulator";
/// Tool with the kernel for VMs, if installed; otherwise the kernel of [`VM`].
const KERNEL: &str = "kernel";
/// Tool made from a container image, for hosts where no build can run before there is a VM.
const FROM_IMAGE: &str = "machine";
/// Default memory of a VM; the host allocates only the used part.
const MEMORY_BYTES: u64 = 2 << 30;
/// Default number of CPUs of a VM.
const CPUS: u32 = 2;

/// Protect images from collection.
pub type ImageLocks = Vec<ImageLock>;

/// Boot mode of a VM.
#[derive(Clone, Copy, Debug)]
pub enum Boot<'a> {
    /// Boot without a snapshot, and take none.
    Cold,
    /// Restore a snapshot if there is one. It is taken after this command line has run once.
    Warm(&'a [String]),
}

/// Returns the default tier: `vm` if the processor supports VMs and an image for them is installed, or if there is no native tier.
pub fn usual(home: &Home) -> Result<Tier, Error> {
    let has_machines = !silo_launch::HAS_NATIVE || (found(home)?.is_some() && silo_launch::runs_guests().is_ok());
    Ok(if has_machines { Tier::Vm } else { Tier::Native })
}

/// Returns the tier of a run of an image of the home's platform. Programs of another architecture run only in a VM of it.
pub fn of_image(home: &Home, asked: Option<Tier>, settings: Option<Tier>) -> Result<Tier, Error> {
    let arch = home.arch();
    match asked {
        _ if arch == Arch::host() => asked.or(settings).map_or_else(|| usual(home), Ok),
        Some(Tier::Native) => Err(not_native(arch)),
        Some(Tier::Vm) | None => Ok(Tier::Vm),
    }
}

/// The error for `--tier native` with a platform of another architecture.
pub fn not_native(arch: Arch) -> Error {
    let what = format!("this machine's kernel runs programs for {}, and none for {}", Arch::host().platform(), arch.platform());
    Error::usage(what, "without --tier native they run in an emulated machine")
}

/// Returns the default VM for build steps: none, or, on hosts without a native tier, one as soon as an image for VMs is installed.
pub fn usual_of_steps(images: Images<'_>) -> Result<Option<(VmFiles, ImageLocks)>, Error> {
    if silo_launch::HAS_NATIVE || found(images.home)?.is_none() { Ok(None) } else { of_steps(images).map(Some) }
}

/// Returns the VM for steps whose owners a native run can only record: none if the system gives a range of ids, or without an image for
/// VMs.
pub fn second_of_steps(images: Images<'_>) -> Result<Option<(VmFiles, ImageLocks)>, Error> {
    if silo_launch::has_range() || found(images.home)?.is_none() { Ok(None) } else { of_steps(images).map(Some) }
}

/// Returns the VM for steps that count instructions in place of time, which QEMU alone can.
pub fn counted_of_steps(images: Images<'_>) -> Result<(VmFiles, ImageLocks), Error> {
    if silo_launch::HAS_NATIVE {
        return of_steps(images);
    }
    Err(Error::usage("this system's virtual machines cannot count instructions", "build the image on Linux, and pull it here"))
}

/// Makes the VM for build steps of the home's platform. It has no disk, because each step has another root.
pub fn of_steps(images: Images<'_>) -> Result<(VmFiles, ImageLocks), Error> {
    let parts = parts(images, images.home.arch())?;
    let snapshots = Some(boot::snapshots(images.home, parts.own.image));
    Ok((VmFiles { snapshots, ..machine(images, &parts, None, CPUS.min(processors()))? }, parts.image_locks))
}

/// Makes the VM for a tool with an image of the home's platform, with at most `cpus` CPUs.
pub fn of_run(images: Images<'_>, tool: &Installed, boot: Boot<'_>, cpus: Option<u32>) -> Result<(VmFiles, ImageLocks), Error> {
    let parts = parts(images, images.home.arch())?;
    if !boot::has(images.home, tool.image, boot::DISK) {
        (images.sink)(Event::Note { text: format!("creating a disk of {} for virtual machines, once", tool.name) });
    }
    let disk = boot::disk(images.home, tool.image).map_err(|source| Error::Boot { tool: tool.name.clone(), source })?;
    let (snapshots, warm_up) = match boot {
        Boot::Cold => (None, &[][..]),
        Boot::Warm(warm_up) => (Some(boot::snapshots(images.home, tool.image)), warm_up),
    };
    let warm_up = warm_up.iter().map(Into::into).collect();
    let cpus = cpus.unwrap_or(CPUS).clamp(1, processors());
    Ok((VmFiles { snapshots, warm_up, ..machine(images, &parts, Some(disk), cpus)? }, parts.image_locks))
}

fn processors() -> u32 {
    thread::available_parallelism().map_or(1, |count: NonZero<usize>| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Finds the tool with the image for VMs of this machine's architecture. Its programs always run here, whatever platform the home is for.
fn found(home: &Home) -> Result<Option<Installed>, Error> {
    let home = &home.of_platform(Arch::host());
    match record::get(home, VM)? {
        Some(own) => Ok(Some(own)),
        None => Ok(record::get(home, FROM_IMAGE)?),
    }
}

/// The image with QEMU, the image with the kernel (may be the same), and their locks.
struct MachineImages {
    arch: Arch,
    own: Installed,
    kernel: Installed,
    image_locks: ImageLocks,
}

fn parts(images: Images<'_>, arch: Arch) -> Result<MachineImages, Error> {
    if arch != Arch::host() {
        return emulated(images, arch);
    }
    let own = found(images.home)?;
    let own = own.ok_or_else(|| Error::missing("the vm tier needs an image for virtual machines", remedy()))?;
    let mut image_locks = vec![images.lock(&own)?];
    let kernel = kernel_of(images.home, &own)?;
    if kernel.image != own.image {
        image_locks.push(images.lock(&kernel)?);
    }
    Ok(MachineImages { arch, own, kernel, image_locks })
}

/// Finds the image for VMs of another architecture, which has QEMU's program for this machine and the kernel for the other one.
fn emulated(images: Images<'_>, arch: Arch) -> Result<MachineImages, Error> {
    if !silo_launch::HAS_NATIVE {
        let what = format!("this system cannot run programs for {}", arch.platform());
        return Err(Error::usage(what, format!("without --platform it runs those for {}", Arch::host().platform())));
    }
    let own = record::get(&images.home.of_platform(Arch::host()), EMULATOR)?;
    let missing = || Error::missing(format!("programs for {} run in an emulated machine", arch.platform()), install_emulator());
    let own = own.ok_or_else(missing)?;
    let image_locks = vec![images.lock(&own)?];
    Ok(MachineImages { arch, kernel: own.clone(), own, image_locks })
}

/// The command that installs the image for VMs of another architecture.
fn install_emulator() -> String {
    format!("silo install {EMULATOR}")
}

/// Finds the tool with the kernel for VMs.
fn kernel_of(home: &Home, own: &Installed) -> Result<Installed, Error> {
    let home = &home.of_platform(Arch::host());
    Ok(record::get(home, KERNEL)?.unwrap_or_else(|| own.clone()))
}

/// Reports the kernel of VMs, if an image for VMs is installed.
pub fn check(home: &Home) -> Result<Option<Check>, Error> {
    let Some(own) = found(home)? else { return Ok(None) };
    let tool = kernel_of(home, &own)?;
    let release = boot::release(home, tool.image).unwrap_or_else(|| "unknown, the image is compressed".to_owned());
    let detail = format!("{release}, of `{}`", tool.name);
    Ok(Some(Check { name: "kernel of machines", state: State::Ok, detail, cure: String::new() }))
}

/// Reports whether VMs of the other architecture can start, if the image for them is installed.
pub fn check_emulator(home: &Home) -> Result<Option<Check>, Error> {
    let Some(own) = record::get(&home.of_platform(Arch::host()), EMULATOR)? else { return Ok(None) };
    let others = Arch::ALL.into_iter().filter(|arch| *arch != Arch::host());
    let program = silo_launch::this_program()?;
    let name = "machines of another platform";
    let failure = others.clone().find_map(|arch| silo_launch::initial_name(&program, arch).err());
    let platforms: Vec<String> = others.map(Arch::platform).collect();
    Ok(Some(match failure {
        None => Check { name, state: State::Ok, detail: format!("{}, of `{}`", platforms.join(", "), own.name), cure: String::new() },
        Some(error) => Check { name, state: State::Degraded, detail: error.to_string(), cure: String::new() },
    }))
}

/// Without a native tier, no build can run before there is a VM, so the image must be imported.
fn remedy() -> String {
    if silo_launch::HAS_NATIVE {
        format!("silo install {VM}")
    } else {
        format!("silo install {FROM_IMAGE} --image IMAGE --shim {FROM_IMAGE}:true; docs/macos.md names the image")
    }
}

fn machine(images: Images<'_>, parts: &MachineImages, disk: Option<PathBuf>, cpus: u32) -> Result<VmFiles, Error> {
    let MachineImages { arch, own, kernel: tool, .. } = parts;
    let arch = *arch;
    let home = images.home;
    if !boot::has(home, tool.image, boot::KERNEL) {
        (images.sink)(Event::Note { text: format!("unpacking the kernel of {}, once", tool.name) });
    }
    let failed = |source| Error::Boot { tool: tool.name.clone(), source };
    let kernel = boot::kernel(home, tool.image).map_err(failed)?;
    let program = silo_launch::this_program()?;
    let name = silo_launch::initial_name(&program, arch)?;
    let initial = match boot::initial(home, tool.image, &name) {
        Some(initial) => initial,
        None => {
            let bytes = silo_launch::initial(&program, &image::root(home, tool.image), arch)?;
            boot::keep_initial(home, tool.image, &name, &bytes).map_err(failed)?
        }
    };
    for used in [own.image, tool.image] {
        image::touch(home, used);
    }
    let root = image::root(home, own.image);
    Ok(VmFiles {
        arch,
        root,
        kernel,
        initial,
        disk,
        memory_bytes: MEMORY_BYTES,
        cpus,
        time: MachineTime::Host,
        snapshots: None,
        warm_up: Vec::new(),
    })
}
