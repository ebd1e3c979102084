//! Pushes an image: the blobs that the repository lacks, then the documents, and the names last.
//!
//! A push that is cut off leaves blobs without a name, which nobody sees; the next push finds them there.

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::{Digest, LayerId};
use silo_store::manifest::Manifest;
use silo_store::{layer, realisation};

use silo_base::timestamp;
use silo_build::image::{self, Image, ImageId};
use silo_fetch::registry::repository::{Repository, step_tag};
use silo_model::derivation::DrvId;
use silo_model::oci::artifact::{self, Entry};
use silo_model::oci::contents::{self, ANNOTATION, CONTENTS, Contents, Form, Layer};
use silo_model::oci::manifest::Pointer;
use silo_model::oci::{self, Blob as Named};

use crate::attach::{self, Attach, Over};
use crate::blob::Blob;
use crate::blobs::{self, Moves, Source};
use crate::context::Context;
use crate::error::Error;
use crate::stack;
use crate::tag_index;

/// The annotation with the date of an image.
const CREATED: &str = "org.opencontainers.image.created";

/// An image to push.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The image.
    pub id: ImageId,
    /// Its configuration.
    pub image: Image,
    /// The name and version of its tool, for people.
    pub tool: Option<(String, String)>,
    /// The lock that it was built from, as text.
    pub lock: Option<String>,
}

/// Options of a push.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The tag; without one, only the tags of the derivations are written.
    pub tag: Option<String>,
    /// True to compress with gzip, for programs that do not know zstd.
    pub gzip: bool,
    /// Another repository of the same registry that may have the blobs.
    pub mount: Option<String>,
    /// True to name the image for each of its layers, so that a cache finds single layers.
    pub steps: bool,
}

/// The result of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The digest that the tag names.
    pub digest: Digest,
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// Number of layers.
    pub layers: usize,
    /// Number of blobs that were sent.
    pub sent: usize,
    /// Bytes of these blobs.
    pub bytes: u64,
    /// Number of blobs that the registry took from another repository.
    pub mounted: usize,
}

/// Pushes an image.
pub fn push(context: &Context<'_>, to: &Repository<'_>, subject: &Subject, options: &Options, attach: Attach<'_>) -> Result<Pushed, Error> {
    let form = if options.gzip { Form::Gzip } else { Form::Zstd };
    let stack = stack::choose(context, &subject.image.layers)?;
    check_contents(context, subject, form)?;
    let layers: BTreeSet<LayerId> = subject.image.layers.iter().copied().collect();
    let merged = (!stack.merged.is_empty()).then(|| Source::Merged(stack.merged.clone()));
    let sources: Vec<Source> = layers.into_iter().map(Source::Layer).chain(merged).collect();
    let moved = blobs::send(context, to, &sources, form, options.mount.as_deref())?;
    let of = |wanted: &Source| sources.iter().zip(&moved.blobs).find(|(source, _)| *source == wanted).map(|(_, blob)| *blob);
    let find = |layer: &LayerId| of(&Source::Layer(*layer));
    let blobs: Vec<Blob> = subject.image.layers.iter().filter_map(find).collect();
    let merged = of(&Source::Merged(stack.merged));
    let stacked: Vec<Blob> = merged.into_iter().chain(stack.single.iter().filter_map(find)).collect();
    let (manifest, silo) = documents(context, to, subject, &blobs, &stacked)?;
    to.put_manifest(oci::MANIFEST, &manifest)?;
    let all = (attach.make)(to, Over::Manifest, Digest::of(&manifest))?;
    attach::put(context, to, &Named::of(oci::MANIFEST, &manifest), &all, vec![(Entry::of_artifact(CONTENTS, &silo), silo)])?;
    let steps = if options.steps { steps(context, &subject.image)? } else { BTreeSet::new() };
    let drvs = derivations(context, subject.id)?;
    // A push that wrote a tag of the image wrote those of its layers before.
    let is_there = |drv: &DrvId| Ok::<_, Error>(to.tagged(&tag_of(drv))?.is_some_and(|bytes| bytes == manifest));
    if !steps.is_empty() && to.has_step_tags() && !drvs.iter().map(is_there).collect::<Result<Vec<_>, _>>()?.contains(&true) {
        let steps: Vec<Digest> = steps.iter().copied().collect();
        context.each_on(blobs::LEAST_TRANSFERS, &steps, |step| Ok(to.put_tag(&step_tag(*step), oci::MANIFEST, &manifest)?))?;
    }
    for drv in drvs {
        to.put_image_tag(&tag_of(&drv), &manifest, &steps)?;
    }
    let Moves { sent, bytes, mounted, .. } = moved;
    let mut pushed = Pushed { digest: Digest::of(&manifest), manifest: Digest::of(&manifest), layers: blobs.len(), sent, bytes, mounted };
    if let Some(tag) = &options.tag {
        pushed.digest = tag_index::put(context, to, tag, (subject.image.arch, &manifest), attach)?;
    }
    Ok(pushed)
}

/// Returns the tag under which the image of a derivation is found.
pub fn tag_of(drv: &DrvId) -> String {
    format!("drv-{drv}")
}

/// Returns the derivations of an image's layers.
fn steps(context: &Context<'_>, image: &Image) -> Result<BTreeSet<Digest>, Error> {
    let read = |layer: &LayerId| Ok::<_, Error>(manifest_of(context, layer)?.record.derivation);
    let all: Vec<String> = image.layers.iter().map(read).collect::<Result<_, _>>()?;
    Ok(all.iter().filter_map(|drv| Digest::parse(drv).ok()).collect())
}

/// Reads the manifest of a layer. It names a derivation only if the layer counts as its result here: a layer whose owners were only
/// recorded has the key of these, and an imported layer has none. The place of its build is the user's own.
pub(crate) fn manifest_of(context: &Context<'_>, layer: &LayerId) -> Result<Manifest, Error> {
    let mut manifest = layer::read_manifest(context.store, layer)?;
    manifest.record.place.clear();
    if let Ok(derivation) = Digest::parse(&manifest.record.derivation) {
        let key = realisation::key_of(context.store, &derivation, layer)?;
        manifest.record.derivation = key.map(|key| key.to_string()).unwrap_or_default();
    }
    Ok(manifest)
}

fn derivations(context: &Context<'_>, id: ImageId) -> Result<BTreeSet<DrvId>, Error> {
    Ok(image::derivations(context.home, id)?)
}

/// Fails if nobody could read the contents of the image: if they are too long, or name too much.
///
/// Digests have one length, and the sizes here are the longest, so the real document is not longer.
fn check_contents(context: &Context<'_>, subject: &Subject, form: Form) -> Result<(), Error> {
    let longest = Pointer { digest: Digest::of(b""), size: contents::MAX_LAYER_BYTES };
    let blobs: Vec<Blob> = subject.image.layers.iter().map(|layer| Blob { layer: *layer, pointer: longest, form }).collect();
    let bytes = contents::write(&contents_of(context, subject, &blobs)?);
    check_length("the list of its layers, with their origins and the lock", bytes.len(), contents::MAX_BYTES)?;
    contents::read(&bytes).map_err(Error::Unreadable).map(drop)
}

/// Fails if a document is longer than a pull reads.
pub(crate) fn check_length(name: &'static str, length: usize, most: u64) -> Result<(), Error> {
    match length as u64 {
        bytes if bytes > most => Err(Error::TooLong { name, bytes, most }),
        _ => Ok(()),
    }
}

fn contents_of(context: &Context<'_>, subject: &Subject, blobs: &[Blob]) -> Result<Contents, Error> {
    let layer = |blob: &Blob| {
        let manifest = manifest_of(context, &blob.layer)?;
        Ok::<_, Error>(Layer { manifest, blob: blob.pointer, form: blob.form })
    };
    Ok(Contents {
        arch: subject.image.arch,
        config: pointer(&image::configuration(&subject.image).1),
        layers: blobs.iter().map(layer).collect::<Result<_, _>>()?,
        derivations: derivations(context, subject.id)?.into_iter().map(|drv| drv.digest()).collect(),
        tool: subject.tool.clone(),
        lock: subject.lock.clone(),
    })
}

/// Writes the small blobs; returns the manifest of the image for other programs, and the one for silo.
fn documents(
    context: &Context<'_>,
    to: &Repository<'_>,
    subject: &Subject,
    blobs: &[Blob],
    stacked: &[Blob],
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let (_, config) = image::configuration(&subject.image);
    let stacked_image = Image { layers: stacked.iter().map(|blob| blob.layer).collect(), ..subject.image.clone() };
    let (_, stacked_config) = image::configuration(&stacked_image);
    let contents = contents::write(&contents_of(context, subject, blobs)?);
    // Images with few layers have one configuration for silo and for others.
    let mut small = vec![config.as_slice(), &contents];
    small.extend(Some(stacked_config.as_slice()).filter(|other| *other != config));
    attach::put_blobs(context, to, &small)?;
    let named = |blob: &Blob| Named { media_type: blob.form.media_type(), digest: blob.pointer.digest, size: blob.pointer.size };
    let annotations = BTreeMap::from([
        (ANNOTATION.to_owned(), format!("sha256:{}", Digest::of(&contents))),
        (CREATED.to_owned(), timestamp::rfc3339(subject.image.epoch)),
    ]);
    let stacked: Vec<Named> = stacked.iter().map(named).collect();
    let manifest = artifact::image(&Named::of(oci::CONFIG, &stacked_config), &stacked, &annotations);
    let all: Vec<Named> = std::iter::once(Named::of(oci::CONFIG, &config)).chain(blobs.iter().map(named)).collect();
    let about = Named::of(oci::MANIFEST, &manifest);
    let silo = artifact::artifact(CONTENTS, &Named::of(CONTENTS, &contents), &all, &about, &BTreeMap::new());
    Ok((manifest, silo))
}

fn pointer(bytes: &[u8]) -> Pointer {
    Pointer { digest: Digest::of(bytes), size: bytes.len() as u64 }
}
