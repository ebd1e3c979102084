//! `silo export`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_store::flock;

use silo_base::sanitize;
use silo_build::image::export::{self, Export, Form};
use silo_build::image::{self, compressed};
use silo_tool::definition;
use silo_tool::record;

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// Export a tool's image for other programs
///
/// All layers become one. Every export of an image is byte-for-byte identical.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("form").required(true).args(["oci", "docker", "rootfs", "erofs"])))]
pub struct Args {
    /// The tool
    tool: String,
    /// Write an OCI image layout directory, for skopeo, umoci, podman and buildah
    #[arg(long, value_name = "DIR")]
    oci: Option<PathBuf>,
    /// Write an archive for docker load and podman load
    #[arg(long, value_name = "FILE")]
    docker: Option<PathBuf>,
    /// Write a tar of the root file system
    #[arg(long, value_name = "FILE")]
    rootfs: Option<PathBuf>,
    /// Write an EROFS image of the root file system, which the kernel can mount
    #[arg(long, value_name = "FILE")]
    erofs: Option<PathBuf>,
    /// The image's name; by default silo/TOOL:VERSION, and VERSION in an OCI layout
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let tool = definition::current(setting.view(), &args.tool)?.ok_or_else(|| {
        Failure::found(record::not_installed(&setting.home, &args.tool), record::install_command(&setting.home, &args.tool))
    })?;
    let named = |usual: String| args.name.clone().unwrap_or(usual);
    let (form, place, name) = match (&args.oci, &args.docker, &args.rootfs, &args.erofs) {
        (Some(place), ..) => (Form::Oci, place, named(tool.version.clone())),
        (_, Some(place), ..) => (Form::Docker, place, named(format!("silo/{}:{}", tool.name, tool.version))),
        (_, _, Some(place), _) => (Form::Rootfs, place, String::new()),
        (_, _, _, Some(place)) => (Form::Erofs, place, String::new()),
        (None, None, None, None) => {
            return Err(Failure::usage("no output format is given", "--oci DIR, --docker FILE, --rootfs FILE or --erofs FILE"));
        }
    };
    let digest = setting.with(|context| {
        let shared = flock::share(context.store).map_err(Failure::other)?;
        let image = image::get(context.home, tool.image).map_err(Failure::other)?.ok_or_else(|| {
            Failure::found(format!("the image of {} is gone", tool.name), record::install_command(context.home, &tool.name))
        })?;
        let warm = compressed::Place { home: context.home, store: context.store, shared: &shared };
        compressed::warm(warm, tool.image, &image, &|_| {}).map_err(Failure::other)?;
        let export = Export { id: tool.image, image: &image, form, name: &name, place };
        export::export(context.home, &export).map_err(Failure::from)
    })?;
    match args.json {
        true => ui::json(
            &serde_json::json!({ "tool": tool.name, "version": tool.version, "path": place, "digest": format!("sha256:{digest}") }),
        )?,
        false => ui::data(&format!("{} {} written to {}: sha256:{digest}\n", tool.name, tool.version, sanitize::path(place)))?,
    }
    Ok(ExitCode::SUCCESS)
}
