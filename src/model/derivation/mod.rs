//! Derivations: build steps as data, named by the hash of their canonical encoding.
//!
//! A derivation refers to its inputs by content (the digest of a file, the id of a layer), not by the way they were built. So an input that
//! rebuilds to the same bytes stops the rebuild there. The fields are exactly the values that can change the result. `docs/derivation.md`
//! describes the encoding, and `tests/golden/derivation/` tests it.

mod types;

mod encode;

use silo_store::digest::Digest;

pub use types::{Blob, Configure, Database, Derivation, DrvId, Image, Package, Repeats, Step};

/// Returns the versions of all rules, in the order of an image's derivation, and last those of layers of images.
pub fn rules() -> Vec<u64> {
    encode::rules()
}

impl DrvId {
    /// Takes a digest that another machine computed from a derivation.
    pub fn of_digest(digest: Digest) -> DrvId {
        DrvId(digest)
    }
}

impl Blob {
    /// Returns the tier of a layer of an image's base.
    pub fn tier() -> String {
        format!("image {}", encode::BLOB_RULES)
    }
}

impl Derivation {
    /// Returns the derivation's canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode::encode(self)
    }

    /// Returns the derivation's id.
    pub fn id(&self) -> DrvId {
        DrvId(Digest::of(&self.encode()))
    }
}
