//! Packages of a distribution, and layers of other people's images, into layers of ours, without running anything of theirs.

pub mod compressed;
pub mod deb;

pub mod entries;

pub mod layer;

pub mod package;

pub mod record;
