//! Packages of a distribution into layers, without running anything of theirs.

pub mod deb;

pub mod package;

pub mod record;
