//! The input files of a build: package files and the layers of the base image, for a copy of them elsewhere.

use std::path::PathBuf;

use silo_store::digest::Digest;

use silo_fetch::download::{self, Context, Request};
use silo_model::lock::Archive;
use silo_model::lock::base::BaseLayer;

use super::context::{BuildContext, Target};
use super::error::Error;
use super::{base_image, packages};

/// An input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Its name.
    pub name: String,
    /// Its path in the directory of downloads.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Fetches all input files of a tool, and verifies their digests. Files beside the recipe are not among them.
pub fn fetch(ctx: &BuildContext<'_>, target: &Target<'_>) -> Result<Vec<InputFile>, Error> {
    let arch = target.arch;
    let fetched = target.lock.packages.get(&arch).into_iter().flatten().filter(|(_, package)| package.archive != Archive::Local);
    let (names, requests): (Vec<String>, Vec<Request>) = fetched
        .map(|(name, package)| {
            let file = package.path.rsplit('/').next().unwrap_or(name).to_owned();
            (file, packages::request(ctx, name, package, target.lock.epoch))
        })
        .unzip();
    let context =
        Context { transport: ctx.transport, dir: &ctx.home.downloads(), jobs: download::MAX_JOBS, sink: ctx.sink, cancel: ctx.stop };
    let paths = download::fetch_checked(&context, &requests)?;
    let file = |((name, request), path): ((String, &Request), PathBuf)| InputFile {
        name,
        path,
        digest: Digest::from_bytes(request.sha256),
        size: request.size.bound(),
    };
    let mut files: Vec<InputFile> = names.into_iter().zip(&requests).zip(paths).map(file).collect();
    if let Some(base) = target.lock.images.get(&arch) {
        let layers = base.layers.iter().enumerate().zip(base_image::files(ctx, target)?);
        let layer = |((at, layer), path): ((usize, &BaseLayer), PathBuf)| InputFile {
            name: format!("layer {}", at + 1),
            path,
            digest: layer.sha256.0,
            size: layer.size,
        };
        files.extend(layers.map(layer));
    }
    ctx.check_stop()?;
    Ok(files)
}
