//! Parses `--tier`.

use crate::run::tier::{self, ImageLocks, VM};
use silo_base::system::Arch;
use silo_model::config::Tier;

use super::context::Setting;
use super::error::Failure;

/// Parses a tier.
pub fn parse(text: &str) -> Result<Tier, String> {
    match text {
        "native" => Ok(Tier::Native),
        "vm" => Ok(Tier::Vm),
        _ => Err("write native or vm".to_owned()),
    }
}

/// The tier of build steps.
#[derive(clap::Args)]
pub struct StepTier {
    /// The tier of build steps; by default native
    #[arg(long, value_name = "native|vm", value_parser = parse)]
    tier: Option<Tier>,
}

impl StepTier {
    /// Selects the VM for build steps, if `--tier vm` is set. Keep the locks: they protect the VM's images from collection.
    pub fn prepare(&self, setting: &mut Setting) -> Result<Option<ImageLocks>, Failure> {
        let arch = setting.home.arch();
        match self.tier {
            Some(Tier::Native) if arch != Arch::host() => return Err(tier::not_native(arch).into()),
            Some(Tier::Vm) => {}
            Some(Tier::Native) | None => return Ok(None),
        }
        let (machine, image_locks) = setting.images(tier::of_steps)?;
        setting.machine = Some(machine);
        Ok(Some(image_locks))
    }
}

/// Notes the tier of later runs after the image for VMs is installed.
pub fn announce(setting: &Setting, tool: &str) {
    if tool != VM || !silo_launch::HAS_NATIVE {
        return;
    }
    let text = match silo_launch::runs_guests() {
        Ok(()) => {
            "tools run in virtual machines from now on, unless you pass --tier native or set `tier = \"native\"` in silo.toml".to_owned()
        }
        Err(why) => format!(
            "tools still run natively, on this machine's kernel, unless you pass --tier vm or set `tier = \"vm\"` in silo.toml: {why}"
        ),
    };
    setting.note(text);
}
