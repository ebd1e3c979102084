//! Unpacks packages of a distribution, and layers of foreign images, into layers of ours, without running their code.

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
