//! From a distribution's signed indexes to an exact list of packages: all pure, bytes in, data out.
//!
//! The way is `keyring` and `signature` (whose text is it), `release` (which indexes belong to it), `packages` (what there
//! is), `solve` (what apt would install). Fetching is somebody else's work.

pub mod keyring;
pub mod version;

pub mod relation;
pub mod signature;

pub mod packages;

pub mod release;
pub mod universe;

mod walk;

mod provider;

pub mod withheld;

pub mod solve;
