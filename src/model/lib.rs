//! Silo's file formats as types: text and bytes in, checked data out. Nothing here builds, downloads or launches.
//!
//! Usable alone: a program that reads or writes recipes, `silo.toml` or lock files needs only this package.

mod only_table;

pub mod derivation;
pub mod document;

pub mod oci;
pub mod review;

pub mod ecosystem;
pub mod recipe;

pub mod version_request;

pub mod script;

pub mod script_lock;

pub mod version_files;

pub mod config;
pub mod lock;

pub mod plan;
