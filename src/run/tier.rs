//! The tier of a run, and the image, kernel and disk that a virtual machine needs.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use silo_store::lock::Pin;

use crate::config::Tier;
use crate::event::Event;
use crate::home::Home;
use crate::image::{self, boot};
use crate::launch::spec::Machine;
use crate::launch::{self, Check, State};
use crate::tool::record::{self, Installed};

use super::error::Error;
use super::image::Images;

/// The tool whose image machines are made of.
pub const VM: &str = "vm";
/// The tool whose kernel they boot, where it is installed; else it is that of the former.
const KERNEL: &str = "kernel";
/// A tool that was made of such an image, where nothing can be built before there are machines.
const FROM_IMAGE: &str = "machine";
/// Memory of a machine where nothing says otherwise; only what is used of it is taken from the host.
const MEMORY_BYTES: u64 = 2 << 30;
/// Processors of a machine where nothing says otherwise.
const CPUS: u32 = 2;

/// Keeps images from being collected.
pub type Pins = Vec<Pin>;

/// How a machine of a run starts.
#[derive(Clone, Copy, Debug)]
pub enum Boot<'a> {
    /// It boots, and no snapshot is taken.
    Cold,
    /// From a snapshot where there is one; it was taken after this command line had run once.
    Warm(&'a [String]),
}

/// Returns the tier of a run where none was asked for: a machine, where the processor runs guests and an image for machines
/// is installed, or where there is no other tier.
pub fn usual(home: &Home) -> Result<Tier, Error> {
    let has_machines = !launch::HAS_NATIVE || (found(home)?.is_some() && launch::runs_guests().is_ok());
    Ok(if has_machines { Tier::Vm } else { Tier::Native })
}

/// Makes the machine that build steps run in where nothing is said: none, or, where there is no native tier, one as soon as
/// an image for machines is installed.
pub fn usual_of_steps(images: Images<'_>) -> Result<Option<(Machine, Pins)>, Error> {
    if launch::HAS_NATIVE || found(images.home)?.is_none() { Ok(None) } else { of_steps(images).map(Some) }
}

/// Makes the machine that build steps run in: without a disk, because each step has another root.
pub fn of_steps(images: Images<'_>) -> Result<(Machine, Pins), Error> {
    let parts = parts(images)?;
    let snapshots = Some(boot::snapshots(images.home, parts.own.image));
    Ok((Machine { snapshots, ..machine(images, &parts, None, CPUS.min(processors()))? }, parts.pins))
}

/// Makes the machine that a tool runs in, for at most so many processors.
pub fn of_run(images: Images<'_>, tool: &Installed, boot: Boot<'_>, cpus: Option<u32>) -> Result<(Machine, Pins), Error> {
    let parts = parts(images)?;
    if !boot::has(images.home, tool.image, boot::DISK) {
        (images.sink)(Event::Note { text: format!("making a disk of {} for machines, once", tool.name) });
    }
    let disk = boot::disk(images.home, tool.image).map_err(|source| Error::Boot { tool: tool.name.clone(), source })?;
    let (snapshots, warm_up) = match boot {
        Boot::Cold => (None, &[][..]),
        Boot::Warm(warm_up) => (Some(boot::snapshots(images.home, tool.image)), warm_up),
    };
    let warm_up = warm_up.iter().map(Into::into).collect();
    let cpus = cpus.unwrap_or(CPUS).clamp(1, processors());
    Ok((Machine { snapshots, warm_up, ..machine(images, &parts, Some(disk), cpus)? }, parts.pins))
}

fn processors() -> u32 {
    thread::available_parallelism().map_or(1, |count: NonZero<usize>| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Finds the tool whose image machines are made of.
fn found(home: &Home) -> Result<Option<Installed>, Error> {
    match record::get(home, VM)? {
        Some(own) => Ok(Some(own)),
        None => Ok(record::get(home, FROM_IMAGE)?),
    }
}

/// The image that QEMU runs in, the one with the kernel, which may be the same, and the pins that keep them.
struct MachineImages {
    own: Installed,
    kernel: Installed,
    pins: Pins,
}

fn parts(images: Images<'_>) -> Result<MachineImages, Error> {
    let own = found(images.home)?;
    let own = own.ok_or_else(|| Error::missing("the vm tier needs the image that its machines are made of", how_to_have_it()))?;
    let mut pins = vec![images.pin(&own)?];
    let kernel = kernel_of(images.home, &own)?;
    if kernel.image != own.image {
        pins.push(images.pin(&kernel)?);
    }
    Ok(MachineImages { own, kernel, pins })
}

/// Finds the tool whose kernel machines boot.
fn kernel_of(home: &Home, own: &Installed) -> Result<Installed, Error> {
    Ok(record::get(home, KERNEL)?.unwrap_or_else(|| own.clone()))
}

/// Says which kernel machines boot, if an image for machines is installed.
pub fn check(home: &Home) -> Result<Option<Check>, Error> {
    let Some(own) = found(home)? else { return Ok(None) };
    let tool = kernel_of(home, &own)?;
    let release = boot::release(home, tool.image).unwrap_or_else(|| "not looked at, it is compressed".to_owned());
    let detail = format!("{release}, of `{}`", tool.name);
    Ok(Some(Check { name: "kernel of machines", state: State::Ok, detail, cure: String::new() }))
}

/// Where no step can run before there are machines, theirs must come as an image.
fn how_to_have_it() -> String {
    if launch::HAS_NATIVE {
        format!("silo install {VM}")
    } else {
        format!("silo install {FROM_IMAGE} --image IMAGE --shim {FROM_IMAGE}:true; docs/macos.md says which image")
    }
}

fn machine(images: Images<'_>, parts: &MachineImages, disk: Option<PathBuf>, cpus: u32) -> Result<Machine, Error> {
    let MachineImages { own, kernel: tool, .. } = parts;
    let home = images.home;
    if !boot::has(home, tool.image, boot::KERNEL) {
        (images.sink)(Event::Note { text: format!("unpacking the kernel of {}, once", tool.name) });
    }
    let failed = |source| Error::Boot { tool: tool.name.clone(), source };
    let kernel = boot::kernel(home, tool.image).map_err(failed)?;
    let program = launch::this_program()?;
    let name = launch::initial_name(&program)?;
    let initial = match boot::initial(home, tool.image, &name) {
        Some(initial) => initial,
        None => {
            let bytes = launch::initial(&program, &image::root(home, tool.image))?;
            boot::keep_initial(home, tool.image, &name, &bytes).map_err(failed)?
        }
    };
    for used in [own.image, tool.image] {
        image::touch(home, used);
    }
    let root = image::root(home, own.image);
    Ok(Machine { root, kernel, initial, disk, memory_bytes: MEMORY_BYTES, cpus, snapshots: None, warm_up: Vec::new() })
}
