//! The inputs of a build in a repository: a build with the same lock takes them from there, and asks no other server.
//!
//! The tag `inputs-<derivation>` of the image names a manifest with all input files as blobs. A file counts by the digest in the lock, so it
//! needs no signature. The output of a step with a network is pinned by the lock too, but a lock may name any layer; so an output counts only
//! with a signature.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use silo_store::digest::{Digest, LayerId};
use silo_store::layer;
use silo_store::path_error::PathError;

use silo_base::event::{Activity, Event};
use silo_base::system::Arch;
use silo_fetch::registry::repository::{Bytes, Moved, Repository};
use silo_model::derivation::DrvId;
use silo_model::oci::artifact;
use silo_model::oci::contents::{Form, Layer};
use silo_model::oci::inputs::{self, FILE, INPUTS, Inputs, Output};
use silo_model::oci::manifest::Pointer;
use silo_model::oci::{self, Blob as Named};
use silo_sign::external::Signer;

use crate::attach::{self, Over};
use crate::blob::{self, Blob};
use crate::context::Context;
use crate::error::Error;
use crate::pull;
use crate::push;
use crate::signatures;

/// An input file of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name, for people.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its digest and size.
    pub pointer: Pointer,
}

/// The inputs to push.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The derivation of the image.
    pub drv: DrvId,
    /// The architecture.
    pub arch: Arch,
    /// The files.
    pub files: Vec<File>,
    /// The steps with a network, and their layers.
    pub outputs: Vec<(Digest, LayerId)>,
    /// The name and version of the tool.
    pub tool: Option<(String, String)>,
    /// The text of the lock.
    pub lock: Option<String>,
}

/// The result of a push of inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendored {
    /// The digest of the manifest.
    pub manifest: Digest,
    /// Number of files.
    pub files: usize,
    /// Number of outputs of steps.
    pub outputs: usize,
    /// Number of blobs that were sent.
    pub sent: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// Inputs in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The digest of their manifest.
    pub manifest: Digest,
    /// The inputs.
    pub inputs: Inputs,
}

/// Returns the tag of the inputs of an image.
pub fn tag_of(drv: &DrvId) -> String {
    format!("inputs-{drv}")
}

/// Pushes inputs, and signs them.
pub fn push(context: &Context<'_>, to: &Repository<'_>, subject: &Subject, signer: Option<&Signer>) -> Result<Vendored, Error> {
    let work = context.home.work();
    let temp = tempfile::Builder::new().prefix("vendor-").tempdir_in(&work);
    let temp = temp.map_err(|source| PathError { doing: "make a directory in", path: work, source })?;
    let pack = |(step, layer): &(Digest, LayerId)| {
        let known = blob::remembered(context.home, layer.digest(), Form::Zstd);
        let path = temp.path().join(layer.to_string());
        let there = known.map(|blob| to.has_blob(blob.pointer.digest)).transpose()?.unwrap_or(false);
        let blob = match known.filter(|_| there) {
            Some(blob) => blob,
            None => blob::compress(context, *layer, Form::Zstd, &path)?,
        };
        Ok::<(Digest, Blob, PathBuf), Error>((*step, blob, path))
    };
    let outputs = context.each(&subject.outputs, pack)?;
    let files = subject.files.iter().map(|file| (file.pointer, file.path.clone()));
    let all: Vec<(Pointer, PathBuf)> = files.chain(outputs.iter().map(|(_, blob, path)| (blob.pointer, path.clone()))).collect();
    let document = inputs::write(&Inputs {
        arch: subject.arch,
        files: subject.files.iter().map(|file| inputs::File { name: file.name.clone(), pointer: file.pointer }).collect(),
        outputs: outputs.iter().map(|(step, blob, _)| output(context, *step, blob)).collect::<Result<_, _>>()?,
        tool: subject.tool.clone(),
        lock: subject.lock.clone(),
    });
    // A list that nobody could read is refused before anything is sent.
    push::check_length("the list of its inputs", document.len(), inputs::MAX_BYTES)?;
    inputs::read(&document).map_err(Error::Unreadable)?;
    let (sent, bytes) = send(context, to, &all)?;
    let config = Named::of(INPUTS, &document);
    to.put_blob(Pointer { digest: config.digest, size: config.size }, &Bytes::Here(&document), None, &|_| {})?;
    let named = |(pointer, media_type): (Pointer, &'static str)| Named { media_type, digest: pointer.digest, size: pointer.size };
    let files = subject.files.iter().map(|file| (file.pointer, FILE));
    let outputs = outputs.iter().map(|(_, blob, _)| (blob.pointer, blob.form.media_type()));
    let manifest = artifact::alone(INPUTS, &config, &files.chain(outputs).map(named).collect::<Vec<_>>());
    let digest = Digest::of(&manifest);
    to.put_manifest(oci::MANIFEST, &manifest)?;
    if let Some(signer) = signer {
        let all = signatures::sign(to, (Over::Manifest, digest), signer, &[])?;
        attach::put(context, to, &Named::of(oci::MANIFEST, &manifest), &all, Vec::new())?;
    }
    to.put_tag(&tag_of(&subject.drv), oci::MANIFEST, &manifest)?;
    Ok(Vendored { manifest: digest, files: subject.files.len(), outputs: subject.outputs.len(), sent, bytes })
}

fn output(context: &Context<'_>, step: Digest, blob: &Blob) -> Result<Output, Error> {
    let mut manifest = layer::read_manifest(context.store, &blob.layer)?;
    // It is the user's own.
    manifest.record.place.clear();
    Ok(Output { step, layer: Layer { manifest, blob: blob.pointer, form: blob.form } })
}

/// Sends the files that the repository lacks; returns their number and bytes.
fn send(context: &Context<'_>, to: &Repository<'_>, files: &[(Pointer, PathBuf)]) -> Result<(usize, u64), Error> {
    let there = context.each(files, |(pointer, _)| Ok(to.has_blob(pointer.digest)?))?;
    let missing: Vec<&(Pointer, PathBuf)> = files.iter().zip(there).filter(|(_, there)| !there).map(|(file, _)| file).collect();
    if missing.is_empty() {
        return Ok((0, 0));
    }
    let total: u64 = missing.iter().map(|(pointer, _)| pointer.size).sum();
    let name = format!("{} files to {}", missing.len(), to.location());
    let done = AtomicU64::new(0);
    let sent = context.activity(Activity::Send, &name, Some(total), |id| {
        context.each(&missing, |(pointer, path)| {
            let moved = to.put_blob(*pointer, &Bytes::File(path), None, &|_| {})?;
            let done = done.fetch_add(pointer.size, Ordering::Relaxed) + pointer.size;
            (context.sink)(Event::Progress { id, done });
            Ok(if moved == Moved::Sent { Some(pointer.size) } else { None })
        })
    })?;
    Ok((sent.iter().flatten().count(), sent.iter().flatten().sum()))
}

/// Finds the inputs of an image.
pub fn find(from: &Repository<'_>, drv: &DrvId) -> Result<Option<Found>, Error> {
    let tag = tag_of(drv);
    let Some(bytes) = from.tagged(&tag)? else { return Ok(None) };
    let wrong = |what: String| Error::Document { place: format!("{}:{tag}", from.location()), what };
    let manifest = artifact::read(&bytes).map_err(wrong)?;
    let config = manifest.config.filter(|config| config.media_type == INPUTS).ok_or_else(|| wrong("it has no inputs".to_owned()))?;
    let absent = || Error::Absent { place: from.location().to_string(), name: format!("sha256:{}", config.pointer.digest) };
    let document = from.blob(config.pointer.digest, inputs::MAX_BYTES)?.ok_or_else(absent)?;
    Ok(Some(Found { manifest: Digest::of(&bytes), inputs: inputs::read(&document).map_err(wrong)? }))
}

/// Fetches the outputs of steps into the store. They count for no step yet.
pub fn fetch_outputs(context: &Context<'_>, from: &Repository<'_>, outputs: &[&Output]) -> Result<(), Error> {
    let missing: Vec<&Layer> = outputs.iter().map(|output| &output.layer).filter(|layer| !pull::is_here(context, layer)).collect();
    pull::fetch(context, from, &missing)?;
    Ok(context.store.sync()?)
}
