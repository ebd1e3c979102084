//! What can be told of an image that is there: how it was made, why something is in it, how two differ.
//!
//! Everything is read from what is built (configurations, indexes, manifests, dpkg's database, logs), nothing from the
//! plan that led to it. So what is told is true of the bytes, whoever made them and by whichever recipe.

pub mod error;
pub mod figures;
pub mod way;

pub mod change;
pub mod inside;

pub mod asked;
pub mod diff;
pub mod graph;
pub mod log;
pub mod network;
pub mod owner;

pub mod sbom;
pub mod why;
