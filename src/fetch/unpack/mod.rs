//! Unpacks packages of a distribution, and layers of foreign images, into layers of ours, without running their code.

pub mod ar_headers;
pub mod compressed;
pub mod deb;
mod header;
mod pax;
pub mod usr_merge;

mod sparse;

pub mod entries;
pub mod lower_layers;

pub mod differences;

pub mod layer;

pub mod package;

pub mod record;
