//! `--tier` on the command line.

use crate::config::Tier;
use crate::launch;
use crate::run::tier::{self, Pins, VM};

use super::context::Setting;
use super::error::Failure;

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
        let (machine, pins) = setting.images(tier::of_steps)?;
        setting.machine = Some(machine);
        Ok(Some(pins))
    }
}

/// Says, once an image for machines is installed, which tier runs have from now on.
pub fn announce(setting: &Setting, tool: &str) {
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
