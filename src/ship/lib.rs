//! Images in repositories: pushed as blobs of layers with the documents around them, and pulled into the store.
//!
//! A pull trusts nothing on the way: every byte is hashed, and a layer enters the store only by [`silo_store::import`]. The caller decides if
//! a pulled image counts as the result of its derivations.

pub mod error;

pub mod context;

pub mod blob;

pub mod stack;

pub mod blobs;

pub mod attach;

pub mod tag_index;

pub mod push;

pub mod find;

pub mod signatures;

pub mod pull;

pub mod vendor;

pub mod prune;

pub use context::Context;
pub use error::Error;
