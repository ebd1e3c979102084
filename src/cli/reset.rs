//! `silo reset`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_tool::clean;

use super::error::Failure;
use super::{env, ui};

/// Remove all of Silo's data: tools, images, fetched files, and your settings and recipes in its directory
///
/// Projects are not touched. Fails while a sandbox or a build runs.
#[derive(clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let home = env::silo_home()?;
    let root = sanitize::path(home.root());
    let question = format!("This will delete {root}, with your settings and recipes in it. Type YES to confirm: ");
    if !args.force && !ui::ask(&question, "yes", "--force does it without asking")? {
        ui::data("nothing was removed\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let was = clean::reset(&home)?;
    ui::data(&if was { format!("{root} removed\n") } else { format!("there is no {root}\n") })?;
    Ok(ExitCode::SUCCESS)
}
