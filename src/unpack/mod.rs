//! Packages of a distribution, and layers of other people's images, into layers of ours, without running anything of theirs.

pub mod compressed;
pub mod deb;
mod header;
pub mod merged;
mod pax;

mod sparse;

pub mod below;
pub mod entries;

pub mod differences;

pub mod layer;

pub mod package;

pub mod record;
