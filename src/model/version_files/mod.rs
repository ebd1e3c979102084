//! Files of a project that name versions of tools, as other programs have them: `.nvmrc`, `package.json`, `.tool-versions` and others.
//!
//! [`read::read`] turns the text of one file into findings, and [`decide::decide`] selects one version of a tool from all of them. Both are
//! pure. A finding decides only when `silo init` or `silo use` writes it into silo.toml.

pub mod findings;

mod devcontainer;
mod manifests;
mod plain;
mod tool_lists;

pub mod read;

pub mod decide;
