//! Resolves a distribution's signed indexes to an exact list of packages. Pure: bytes in, data out.
//!
//! The steps are `keyring` and `signature` (verify the text), `release` (list its indexes), `packages` (parse them) and `solve` (select
//! packages as apt would). The `fetch` module downloads the files.

pub mod keyring;
pub mod version;

pub mod relation;
pub mod signature;

pub mod packages;

pub mod release;
pub mod universe;

mod walk;

mod provider;

pub mod opt_in_suites;

pub mod solve;
