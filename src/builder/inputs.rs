//! The input files of a build, for a copy of them elsewhere: package files, the layers of the base image, and the records of network steps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use silo_store::digest::{Digest, LayerId};

use silo_base::event::Event;

use silo_fetch::download::{self, Context, Request};
use silo_model::lock::Archive;
use silo_model::lock::base::BaseLayer;

use super::context::{BuildContext, Target};
use super::error::Error;
use super::{base_image, packages, record_files};

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
    for output in target.lock.steps.get(&arch).into_iter().flat_map(BTreeMap::values) {
        // A lock with several versions pins the steps of all of them.
        let Some(record) = output.record.filter(|_| ctx.store.has(&LayerId::new(output.layer.0))) else { continue };
        match of_record(ctx, &output.command, record.0) {
            Ok(found) => files.extend(found),
            // The output of the step is a copy's input, too.
            Err(error @ (Error::LostResponse { .. } | Error::NoRecord { .. })) => {
                (ctx.sink)(Event::Warning { text: format!("{error}, so the copy lacks the record") });
            }
            Err(error) => return Err(error),
        }
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(file.digest));
    ctx.check_stop()?;
    Ok(files)
}

/// Returns the files of a record: the list, and the bodies by their digests.
fn of_record(ctx: &BuildContext<'_>, command: &str, digest: Digest) -> Result<Vec<InputFile>, Error> {
    let no_record = |what: String| Error::NoRecord { command: command.to_owned(), what };
    let stored = record_files::load(ctx, command, digest)?.ok_or_else(|| no_record("it is not on this machine".to_owned()))?;
    let path = ctx.home.downloads().join(digest.to_string());
    let size = path.metadata().map_err(|error| no_record(format!("{}: {error}", path.display())))?.len();
    let list = InputFile { name: "the list of a record".to_owned(), path, digest, size };
    let bodies = record_files::bodies(ctx, command, &stored)?.into_iter();
    let body = |(digest, size, path): (Digest, u64, PathBuf)| InputFile {
        name: format!("response {:.12}", digest.to_string()),
        path,
        digest,
        size,
    };
    Ok([list].into_iter().chain(bodies.map(body)).collect())
}
