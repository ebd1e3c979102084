//! `silo uninstall`.

use std::process::ExitCode;

use silo_model::recipe::check::check_name;
use silo_tool::install;

use super::context::{Globals, setting_of_home};
use super::error::Failure;
use super::ui;

/// Remove an installed tool; `silo gc` frees the space it took
#[derive(clap::Args)]
pub struct Args {
    /// The tool
    tool: String,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    check_name(&args.tool).map_err(|error| Failure::usage(error.to_string(), "`silo list` shows the installed tools"))?;
    let setting = setting_of_home(globals)?;
    if !setting.with(|context| Ok(install::uninstall(context, &args.tool)?))? {
        return Err(Failure::found(format!("{} is not installed", args.tool), "`silo list` shows the installed tools"));
    }
    ui::data(&format!("{} uninstalled\n", args.tool))?;
    Ok(ExitCode::SUCCESS)
}
