//! `silo schema`.

use std::process::ExitCode;

use silo_model::config::Settings;
use silo_model::recipe::addon::AddonFile;
use silo_model::recipe::file::RecipeFile;

use super::error::Failure;
use super::ui;

/// Print the JSON schema of a configuration file, for editors
#[derive(clap::Args)]
pub struct Args {
    /// The kind of file
    #[arg(value_enum)]
    of: SchemaKind,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SchemaKind {
    /// Add-on: recipes/addons/<name>.toml
    Addon,
    /// Recipe
    Recipe,
    /// silo.toml
    Silo,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let schema = match args.of {
        SchemaKind::Addon => schemars::schema_for!(AddonFile),
        SchemaKind::Recipe => schemars::schema_for!(RecipeFile),
        SchemaKind::Silo => schemars::schema_for!(Settings),
    };
    ui::json(schema.as_value())?;
    Ok(ExitCode::SUCCESS)
}
