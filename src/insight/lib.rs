//! Inspects existing images: build graph, reasons for a path or package, differences between two images, bills of materials.
//!
//! All data comes from built objects (configurations, indexes, manifests, dpkg's database, logs) and not from plans. So the results are
//! true of the bytes, independent of the builder and the recipe.

pub mod display;
pub mod error;
pub mod symlinks;

pub mod change;
pub mod image_view;

pub mod diff;
pub mod graph;
pub mod log;
pub mod network;
pub mod owner;
pub mod runs;
pub mod why_installed;

pub mod sbom;
pub mod why;

pub mod provenance;
