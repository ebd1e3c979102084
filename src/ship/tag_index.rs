//! The index of a tag, with an image for each platform. A push replaces the entry of its platform, and keeps everything else: entries of
//! other platforms, also unknown ones, and of other programs.

use silo_store::digest::Digest;

use silo_base::event::Event;
use silo_base::system::Arch;
use silo_fetch::registry::repository::{INDEX_ATTEMPTS, Repository};
use silo_model::oci::artifact::Entry;
use silo_model::oci::kept_index::{self, KeptIndex};
use silo_model::oci::{self, Blob as Named};

use crate::attach::{self, Attach, Over};
use crate::context::Context;
use crate::error::Error;

/// Names the manifest of an image in the index of a tag, and attaches data to the index. Returns the digest of the index.
pub fn put(
    context: &Context<'_>,
    to: &Repository<'_>,
    tag: &str,
    (arch, manifest): (Arch, &[u8]),
    attach: Attach<'_>,
) -> Result<Digest, Error> {
    let place = format!("{}:{tag}", to.location());
    let entry = Entry { artifact_type: None, arch: Some(arch), ..Entry::of_artifact("", manifest) };
    let mut is_written = false;
    for _ in 0..=INDEX_ATTEMPTS {
        let before = to.tagged(tag)?;
        let mut index = read(&place, before.as_deref())?;
        // A push of another platform may replace the index in between, so it is read again after it was written.
        if let Some(before) = before.filter(|_| is_written && index.entries().any(|other| *other == entry)) {
            return Ok(Digest::of(&before));
        }
        index.retain(|other| other.arch != Some(arch));
        let is_covered = may_cover(to, &index, &place, attach)?;
        index.push(entry.clone());
        index.sort_by_key(|entry| (entry.arch.is_none(), entry.arch.map(|arch| arch.name())));
        let bytes = index.to_bytes().map_err(|what| Error::Document { place: place.clone(), what })?;
        if is_covered {
            let all = (attach.make)(to, Over::Index, Digest::of(&bytes))?;
            if !all.is_empty() {
                to.put_manifest(oci::INDEX, &bytes)?;
                attach::put(context, to, &Named::of(oci::INDEX, &bytes), &all, Vec::new())?;
            }
        } else if !is_written {
            let text = format!("{place} also names manifests without a signature that counts; the image is signed, and the tag is not");
            (context.sink)(Event::Warning { text });
        }
        to.put_tag(tag, oci::INDEX, &bytes)?;
        is_written = true;
    }
    Err(Error::Document { place, what: "others change the tag all the time".to_owned() })
}

/// Reads the index of a tag. Another thing with this tag is replaced.
fn read(place: &str, bytes: Option<&[u8]>) -> Result<KeptIndex, Error> {
    KeptIndex::read(bytes.filter(|bytes| kept_index::is_index(bytes))).map_err(|what| Error::Document { place: place.to_owned(), what })
}

/// Returns true if data about the index may cover its entries. An image that silo would pull must be signed by a trusted key; other entries
/// only prevent a signature.
fn may_cover(to: &Repository<'_>, index: &KeptIndex, place: &str, attach: Attach<'_>) -> Result<bool, Error> {
    let mut is_covered = true;
    for entry in index.entries() {
        match ((attach.may_cover)(to, entry.pointer.digest)?, entry.arch) {
            (true, _) => {}
            (false, Some(arch)) => return Err(Error::Unsigned { place: place.to_owned(), platform: arch.name() }),
            (false, None) => is_covered = false,
        }
    }
    Ok(is_covered)
}
