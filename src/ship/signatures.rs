//! Signatures and other claims about a pushed image, which are attached to its manifest or to the index that names it.

use std::collections::BTreeMap;
use std::time::Instant;

use silo_store::digest::Digest;

use silo_fetch::registry::repository::Repository;
use silo_model::oci::artifact::{self, Entry};
use silo_sign::bundle::{self, Bundle};
use silo_sign::external::Signer;
use silo_sign::key::Public;
use silo_sign::statement::{CYCLONEDX, Claim, PROVENANCE, SIGNED, SPDX};

use crate::attach::{Attachment, Over};
use crate::error::Error;
use crate::find::Found;
use crate::push;

/// The most manifests about an image that are read. A hostile repository could list many; those of honest ones have a few.
const MAX_READ: usize = 64;
/// The most bytes of bundles about an image that are read.
const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// The most bytes of a bundle around a claim.
const MAX_AROUND_BYTES: usize = 16 << 10;
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
    /// The claim.
    pub predicate: serde_json::Value,
    /// The key that made it, if it is one of the offered keys.
    pub signer: Option<Public>,
}

impl Signature {
    /// True if one of the offered keys signed the manifest or index itself, not a statement about it.
    pub fn is_by_a_trusted_key(&self) -> bool {
        self.predicate_type == SIGNED && self.signer.is_some()
    }
}

/// Reads the plain signatures of a manifest or index. What is malformed, or about something else, is no signature.
pub fn plain(from: &Repository<'_>, over: Digest, keys: &[Public]) -> Result<Vec<Signature>, Error> {
    let is_wanted = |entry: &Entry| entry.annotations.get(PREDICATE_TYPE).is_none_or(|kind| kind == SIGNED);
    let found = read(from, over, keys, is_wanted)?;
    Ok(found.into_iter().filter(|signature| signature.predicate_type == SIGNED).collect())
}

/// Reads all signed statements about a manifest or index.
pub fn all(from: &Repository<'_>, over: Digest, keys: &[Public]) -> Result<Vec<Signature>, Error> {
    read(from, over, keys, |_| true)
}

/// Reads signed statements.
///
/// A hostile repository could list many statements, and send each of them just fast enough. So all of them together get the time of one
/// document.
fn read(from: &Repository<'_>, over: Digest, keys: &[Public], is_wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Signature>, Error> {
    let mut found = Vec::new();
    let mut budget = MAX_TOTAL_BYTES;
    // The list may give the type of the configuration, as cosign writes it for registries without a list of their own.
    let kinds = [bundle::MEDIA_TYPE, artifact::EMPTY.0];
    let may_be_one = |entry: &Entry| entry.artifact_type.as_deref().is_none_or(|kind| kinds.contains(&kind));
    let (began, time) = (Instant::now(), from.patience().document);
    let listed = from.referrers(over)?.into_iter().filter(may_be_one).filter(is_wanted);
    for entry in listed.take(MAX_READ) {
        if began.elapsed() > time {
            return Err(Error::Slow { place: format!("{}@sha256:{over}", from.location()), time });
        }
        for bundle in bundles(from, entry.pointer.digest, &mut budget)?.into_iter().filter(|bundle| bundle.is_about(over)) {
            let signer = bundle.signed_by(keys).cloned();
            found.push(Signature { over, predicate_type: bundle.statement.predicate_type, predicate: bundle.statement.predicate, signer });
        }
    }
    Ok(found)
}

fn bundles(from: &Repository<'_>, manifest: Digest, budget: &mut u64) -> Result<Vec<Bundle>, Error> {
    let document = from.manifest(manifest)?.and_then(|bytes| artifact::read(&bytes).ok());
    let layers = document.map(|document| document.layers).unwrap_or_default();
    let mut all = Vec::new();
    for layer in layers.iter().filter(|layer| layer.media_type == bundle::MEDIA_TYPE && layer.pointer.size <= bundle::MAX_BYTES).take(4) {
        let Some(left) = budget.checked_sub(layer.pointer.size) else { break };
        *budget = left;
        all.extend(from.blob(layer.pointer.digest, layer.pointer.size)?.and_then(|bytes| bundle::read(&bytes).ok()));
    }
    Ok(all)
}

/// Returns the keys that signed an image: its manifest, or the index that names the manifest.
pub fn signers(from: &Repository<'_>, found: &Found, keys: &[Public]) -> Result<Vec<Public>, Error> {
    let mut signers = Vec::new();
    for over in std::iter::once(found.manifest).chain(found.index) {
        signers.extend(plain(from, over, keys)?.into_iter().filter_map(|signature| signature.signer));
    }
    signers.sort();
    signers.dedup();
    Ok(signers)
}

/// Signs a manifest or index and the claims about it; returns the bundles to attach, without those that the key made before.
///
/// An index gets the signature and the provenance, and the manifest of each platform all claims.
pub fn sign(to: &Repository<'_>, (over, digest): (Over, Digest), signer: &Signer, claims: &[Claim]) -> Result<Vec<Attachment>, Error> {
    let there = all(to, digest, &[signer.public()])?;
    let signature = Claim { predicate_type: SIGNED, predicate: serde_json::json!({}) };
    let fits = |claim: &&Claim| over == Over::Manifest || claim.predicate_type == PROVENANCE;
    let is_there = |claim: &Claim| {
        let is_same = |old: &Signature| old.predicate_type == claim.predicate_type && old.predicate == claim.predicate;
        there.iter().any(|old| old.signer.is_some() && is_same(old))
    };
    let mut attachments = Vec::new();
    for claim in std::iter::once(&signature).chain(claims.iter().filter(fits)).filter(|claim| !is_there(claim)) {
        let bytes = bundle::sign(signer, digest, claim.predicate_type, &claim.predicate)?;
        let notes = [CONTENT, (PREDICATE_TYPE, claim.predicate_type)];
        let annotations = notes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        attachments.push(Attachment { kind: bundle::MEDIA_TYPE, bytes, annotations });
    }
    Ok(attachments)
}

/// Fails if a claim about an image is too long for a bundle that a pull reads.
pub fn check(claims: &[Claim]) -> Result<(), Error> {
    // A bundle has its payload in base64, and a few hundred bytes around it.
    let length = |claim: &Claim| claim.predicate.to_string().len().saturating_add(MAX_AROUND_BYTES).saturating_mul(4) / 3;
    let longest = claims.iter().map(length).max().unwrap_or(0);
    push::check_length("a statement about it", longest, bundle::MAX_BYTES)
}

/// Returns the bills of materials among claims as attachments of their own, for programs that read no bundles.
pub fn bills(claims: &[Claim]) -> Vec<Attachment> {
    let bill = |claim: &Claim| {
        let kind = match claim.predicate_type {
            SPDX => "application/spdx+json",
            CYCLONEDX => "application/vnd.cyclonedx+json",
            _ => return None,
        };
        Some(Attachment { kind, bytes: claim.predicate.to_string().into_bytes(), annotations: BTreeMap::new() })
    };
    claims.iter().filter_map(bill).collect()
}
