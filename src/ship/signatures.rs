//! Signatures of a pushed image: the bundles that are attached to its manifest or to the index that names it.

use std::collections::BTreeMap;
use std::time::Instant;

use silo_store::digest::Digest;

use silo_fetch::registry::repository::Repository;
use silo_model::oci::artifact::{self, Entry};
use silo_sign::bundle::{self, Bundle};
use silo_sign::external::Signer;
use silo_sign::key::Public;
use silo_sign::statement::SIGNED;

use crate::error::Error;
use crate::find::Found;
use crate::push::Attachment;

/// The most manifests about an image that are read. A hostile repository could list many; those of honest ones have a few.
const MAX_READ: usize = 64;
/// The annotations by which cosign knows the content of a bundle.
const CONTENT: (&str, &str) = ("dev.sigstore.bundle.content", "dsse-envelope");
const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";

/// A signed statement about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// The digest that it is about.
    pub over: Digest,
    /// The kind of the claim.
    pub predicate_type: String,
    /// The key that made it, if it is one of the offered keys.
    pub signer: Option<Public>,
}

impl Signature {
    /// True if one of the offered keys signed the manifest or index itself, not a statement about it.
    pub fn is_by_a_trusted_key(&self) -> bool {
        self.predicate_type == SIGNED && self.signer.is_some()
    }
}

/// Reads the signed statements about a manifest or index. What is malformed, or about something else, is no signature.
///
/// A hostile repository could list many statements, and send each of them just fast enough. So all of them together get the time of one
/// document.
pub fn of(from: &Repository<'_>, over: Digest, keys: &[Public]) -> Result<Vec<Signature>, Error> {
    let mut found = Vec::new();
    // The list may give the type of the configuration, as cosign writes it for registries without a list of their own.
    let kinds = [bundle::MEDIA_TYPE, artifact::EMPTY.0];
    let may_be_one = |entry: &Entry| entry.artifact_type.as_deref().is_none_or(|kind| kinds.contains(&kind));
    let listed = from.referrers(over)?.into_iter().filter(may_be_one);
    let (began, time) = (Instant::now(), from.patience().document);
    for entry in listed.take(MAX_READ) {
        if began.elapsed() > time {
            return Err(Error::Slow { place: format!("{}@sha256:{over}", from.location()), time });
        }
        for bundle in bundles(from, entry.pointer.digest)?.iter().filter(|bundle| bundle.is_about(over)) {
            let predicate_type = bundle.statement.predicate_type.clone();
            found.push(Signature { over, predicate_type, signer: bundle.signed_by(keys).cloned() });
        }
    }
    Ok(found)
}

fn bundles(from: &Repository<'_>, manifest: Digest) -> Result<Vec<Bundle>, Error> {
    let document = from.manifest(manifest)?.and_then(|bytes| artifact::read(&bytes).ok());
    let layers = document.map(|document| document.layers).unwrap_or_default();
    let mut all = Vec::new();
    for layer in layers.iter().filter(|layer| layer.media_type == bundle::MEDIA_TYPE && layer.pointer.size <= bundle::MAX_BYTES).take(4) {
        all.extend(from.blob(layer.pointer.digest, bundle::MAX_BYTES)?.and_then(|bytes| bundle::read(&bytes).ok()));
    }
    Ok(all)
}

/// Returns the keys that signed an image: its manifest, or the index that names the manifest.
pub fn signers(from: &Repository<'_>, found: &Found, keys: &[Public]) -> Result<Vec<Public>, Error> {
    let mut signers = Vec::new();
    for over in std::iter::once(found.manifest).chain(found.index) {
        let signed = of(from, over, keys)?.into_iter().filter(|signature| signature.predicate_type == SIGNED);
        signers.extend(signed.filter_map(|signature| signature.signer));
    }
    signers.sort();
    signers.dedup();
    Ok(signers)
}

/// Signs a manifest or index, unless the key signed it before; returns the bundle to attach.
pub fn sign(to: &Repository<'_>, over: Digest, signer: &Signer) -> Result<Option<Attachment>, Error> {
    if of(to, over, &[signer.public()])?.iter().any(Signature::is_by_a_trusted_key) {
        return Ok(None);
    }
    let bytes = bundle::sign(signer, over, SIGNED, &serde_json::json!({}))?;
    let notes = [CONTENT, (PREDICATE_TYPE, SIGNED)];
    let annotations = notes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>();
    Ok(Some(Attachment { kind: bundle::MEDIA_TYPE, bytes, annotations }))
}
