//! Attaches data, such as signatures, to the manifest of an image or to the index of a tag.

use std::collections::BTreeMap;

use silo_store::digest::Digest;

use silo_fetch::registry::repository::{Bytes, Repository};
use silo_model::oci::Blob as Named;
use silo_model::oci::artifact::{self, Entry};
use silo_model::oci::manifest::Pointer;

use crate::blobs::LEAST_TRANSFERS;
use crate::context::Context;
use crate::error::Error;

/// Data about a manifest, which is attached to it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The type of the artifact, and the media type of its data.
    pub kind: &'static str,
    /// The data.
    pub bytes: Vec<u8>,
    /// Annotations of its manifest.
    pub annotations: BTreeMap<String, String>,
}

/// The object that gets attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The manifest of an image.
    Manifest,
    /// The index of a tag, which names a manifest for each platform.
    Index,
}

/// Makes the attachments of a manifest or index from its digest.
pub type AttachmentsOf<'a> = dyn Fn(&Repository<'_>, Over, Digest) -> Result<Vec<Attachment>, Error> + 'a;

/// The attachments of a push, such as signatures.
#[derive(Clone, Copy)]
pub struct Attach<'a> {
    /// Makes them.
    pub make: &'a AttachmentsOf<'a>,
    /// Returns true if the attachments of an index may cover this manifest, which was in the index before: the image of another platform.
    /// Whoever can write the repository chose it.
    pub may_cover: &'a dyn Fn(&Repository<'_>, Digest) -> Result<bool, Error>,
}

/// A manifest about another one, with its entry in a list of those.
pub type Referrer = (Entry, Vec<u8>);

/// Writes attachments of a manifest or index, and further manifests about it whose blobs are there.
pub fn put(
    context: &Context<'_>,
    to: &Repository<'_>,
    about: &Named,
    attachments: &[Attachment],
    others: Vec<Referrer>,
) -> Result<(), Error> {
    let data = attachments.iter().map(|attachment| attachment.bytes.as_slice());
    let empty = (!attachments.is_empty()).then_some(artifact::EMPTY.1);
    put_blobs(context, to, &data.chain(empty).collect::<Vec<_>>())?;
    let all: Vec<Referrer> = others.into_iter().chain(attachments.iter().map(|attachment| referrer(about, attachment))).collect();
    // One change of the list for all of them: each would read and write it.
    let unlisted = context.each_on(LEAST_TRANSFERS, &all, |(entry, bytes)| Ok((!to.put_about(bytes)?).then(|| entry.clone())))?;
    Ok(to.list_about(about.digest, &unlisted.into_iter().flatten().collect::<Vec<_>>())?)
}

/// Writes small blobs, unless they are there.
pub fn put_blobs(context: &Context<'_>, to: &Repository<'_>, blobs: &[&[u8]]) -> Result<(), Error> {
    let put = |bytes: &&[u8]| {
        let pointer = Pointer { digest: Digest::of(bytes), size: bytes.len() as u64 };
        to.put_blob(pointer, &Bytes::Here(bytes), None, &|_| {})?;
        Ok(())
    };
    context.each_on(LEAST_TRANSFERS, blobs, put).map(drop)
}

fn referrer(about: &Named, attachment: &Attachment) -> Referrer {
    let (empty_type, empty) = artifact::EMPTY;
    let data = Named::of(attachment.kind, &attachment.bytes);
    let bytes = artifact::artifact(attachment.kind, &Named::of(empty_type, empty), &[data], about, &attachment.annotations);
    (Entry { annotations: attachment.annotations.clone(), ..Entry::of_artifact(attachment.kind, &bytes) }, bytes)
}
