//! Which tier a run has, and what the vm tier needs for it.

use std::path::PathBuf;

use silo_store::lock::{self, Pin};

use crate::config::Tier;
use crate::image::{self, boot, cold};
use crate::launch::spec::{Machine, Spec};
use crate::launch::{self, Check, State};
use crate::tool::record::{self, Installed};

use super::context::Setting;
use super::error::Failure;
use super::run;

/// The tool whose image is what virtual machines are made of.
const VM: &str = "vm";
/// The tool whose kernel they boot, where it is installed; else it is that of the former.
const KERNEL: &str = "kernel";
/// A tool that was made of such an image, where nothing can be built before there are machines.
const FROM_IMAGE: &str = "machine";
/// Memory of a machine where nothing says otherwise; only what is used of it is taken from the host.
const MEMORY_BYTES: u64 = 2 << 30;
/// Processors of a machine where nothing says otherwise.
const CPUS: u32 = 2;

/// What keeps images from being collected.
pub type Pins = Vec<Pin>;

/// Reads a tier from the command line.
pub fn parse(text: &str) -> Result<Tier, String> {
    match text {
        "native" => Ok(Tier::Native),
        "vm" => Ok(Tier::Vm),
        _ => Err("write native or vm".to_owned()),
    }
}

/// Where the steps of a build run.
#[derive(clap::Args)]
pub struct OfSteps {
    /// Where the steps of a build run; by default natively
    #[arg(long, value_name = "native|vm", value_parser = parse)]
    tier: Option<Tier>,
}

impl OfSteps {
    /// Has the steps run there. The pins keep the images that machines are made of meanwhile.
    pub fn prepare(&self, setting: &mut Setting) -> Result<Option<Pins>, Failure> {
        if self.tier != Some(Tier::Vm) {
            return Ok(None);
        }
        let (machine, pins) = of_steps(setting)?;
        setting.machine = Some(machine);
        Ok(Some(pins))
    }
}

/// Returns the tier of a run where none was asked for: a machine, where the processor runs guests and there is what machines
/// are made of, or where there is no other tier.
fn usual(setting: &Setting) -> Result<Tier, Failure> {
    let has_machines = !launch::HAS_NATIVE || (found(setting)?.is_some() && launch::runs_guests().is_ok());
    Ok(if has_machines { Tier::Vm } else { Tier::Native })
}

/// Says, once there is what machines are made of, which tier runs have from now on.
pub fn tell(setting: &Setting, tool: &str) {
    if tool != VM || !launch::HAS_NATIVE {
        return;
    }
    let text = match launch::runs_guests() {
        Ok(()) => "tools run in machines from now on, unless --tier native is typed or silo.toml says `tier = \"native\"`".to_owned(),
        Err(why) => format!(
            "tools still run natively, under this machine's own kernel, unless --tier vm is typed or silo.toml says `tier = \"vm\"`: {why}"
        ),
    };
    setting.note(text);
}

/// Gives a run the tier that was asked for, or else the usual one.
///
/// The pins keep the images that the machine is made of meanwhile. Without something to warm it up with, a machine starts cold.
pub fn choose(
    setting: &Setting,
    asked: Option<Tier>,
    warm_up: Option<&[String]>,
    tool: &Installed,
    spec: &mut Spec,
) -> Result<Option<Pins>, Failure> {
    match asked.map_or_else(|| usual(setting), Ok)? {
        Tier::Native => Ok(None),
        Tier::Vm => machine(setting, warm_up, tool, spec).map(Some),
    }
}

/// What steps of a build run in where nothing is said: nothing besides this system, or, where it has no native tier, a
/// machine, once there is what machines are made of.
pub fn usual_of_steps(setting: &Setting) -> Result<Option<(Machine, Pins)>, Failure> {
    if launch::HAS_NATIVE || found(setting)?.is_none() { Ok(None) } else { of_steps(setting).map(Some) }
}

/// What steps of a build run in: a machine without a disk, because each step has another root.
pub fn of_steps(setting: &Setting) -> Result<(Machine, Pins), Failure> {
    let here = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    let parts = parts(setting)?;
    let snapshots = Some(boot::snapshots(&setting.home, parts.own.image));
    Ok((Machine { snapshots, ..made(setting, &parts, None, CPUS.min(here))? }, parts.pins))
}

fn machine(setting: &Setting, warm_up: Option<&[String]>, tool: &Installed, spec: &mut Spec) -> Result<Pins, Failure> {
    let parts = parts(setting)?;
    if !boot::has(&setting.home, tool.image, boot::DISK) {
        setting.note(format!("making a disk of {} for machines, once", tool.name));
    }
    let disk = boot::disk(&setting.home, tool.image).map_err(|error| Failure::other(error).with_hint(again(&tool.name)))?;
    let here = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    let cpus = spec.limits.cpu_thousandths.map_or(CPUS, |thousandths| u32::try_from(thousandths.div_ceil(1000)).unwrap_or(u32::MAX));
    let snapshots = warm_up.is_some().then(|| boot::snapshots(&setting.home, tool.image));
    let warm_up = warm_up.into_iter().flatten().map(Into::into).collect();
    spec.machine = Some(Machine { snapshots, warm_up, ..made(setting, &parts, Some(disk), cpus.clamp(1, here))? });
    Ok(parts.pins)
}

/// Finds what machines are made of.
fn found(setting: &Setting) -> Result<Option<Installed>, Failure> {
    match record::get(&setting.home, VM)? {
        Some(own) => Ok(Some(own)),
        None => Ok(record::get(&setting.home, FROM_IMAGE)?),
    }
}

/// What machines are made of: the image that QEMU runs in, the one with the kernel, which may be the same, and what keeps them.
struct Parts {
    own: Installed,
    kernel: Installed,
    pins: Pins,
}

/// Finds what machines are made of, and keeps it meanwhile.
fn parts(setting: &Setting) -> Result<Parts, Failure> {
    let own = found(setting)?;
    let own = own.ok_or_else(|| Failure::found("the vm tier needs what its machines are made of", how_to_have_it()))?;
    let mut pins = vec![kept(setting, &own)?];
    let kernel = kernel_of(setting, &own)?;
    if kernel.image != own.image {
        pins.push(kept(setting, &kernel)?);
    }
    Ok(Parts { own, kernel, pins })
}

/// Keeps an image, and makes its root ready where it is compressed.
fn kept(setting: &Setting, tool: &Installed) -> Result<Pin, Failure> {
    let pin = {
        let shared = lock::share(&setting.store).map_err(Failure::other)?;
        lock::pin(&setting.store, &shared, &tool.image.digest()).map_err(Failure::other)?
    };
    if image::is_there(&setting.home, tool.image) && cold::is_cold(&setting.home, tool.image) {
        run::restore(false, tool)?;
    }
    Ok(pin)
}

/// Finds the tool whose kernel machines boot.
fn kernel_of(setting: &Setting, own: &Installed) -> Result<Installed, Failure> {
    Ok(record::get(&setting.home, KERNEL)?.unwrap_or_else(|| own.clone()))
}

/// Says which kernel machines boot, if there is anything to make machines of.
pub fn check(setting: &Setting) -> Result<Option<Check>, Failure> {
    let Some(own) = found(setting)? else { return Ok(None) };
    let tool = kernel_of(setting, &own)?;
    let release = boot::release(&setting.home, tool.image).unwrap_or_else(|| "not looked at, it is compressed".to_owned());
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

fn made(setting: &Setting, parts: &Parts, disk: Option<PathBuf>, cpus: u32) -> Result<Machine, Failure> {
    let Parts { own, kernel: tool, .. } = parts;
    if !boot::has(&setting.home, tool.image, boot::KERNEL) {
        setting.note(format!("unpacking the kernel of {}, once", tool.name));
    }
    let kernel = boot::kernel(&setting.home, tool.image).map_err(|error| Failure::other(error).with_hint(again(&tool.name)))?;
    let program = launch::this_program().map_err(Failure::other)?;
    let name = launch::initial_name(&program).map_err(|error| Failure::other(error).with_hint(again(&own.name)))?;
    let initial = match boot::initial(&setting.home, tool.image, &name) {
        Some(initial) => initial,
        None => {
            let bytes = launch::initial(&program, &image::root(&setting.home, tool.image)).map_err(Failure::other)?;
            boot::keep_initial(&setting.home, tool.image, &name, &bytes).map_err(Failure::other)?
        }
    };
    for used in [own.image, tool.image] {
        image::touch(&setting.home, used);
    }
    let root = image::root(&setting.home, own.image);
    Ok(Machine { root, kernel, initial, disk, memory_bytes: MEMORY_BYTES, cpus, snapshots: None, warm_up: Vec::new() })
}

fn again(name: &str) -> String {
    format!("silo uninstall {name}, then silo install {name}")
}
