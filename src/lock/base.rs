//! An image of somebody else's that a tool is made of, pinned: its layers by digest, and how it is run.

use serde::Deserialize;

use super::{Sha256, list, push};

/// One image, for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The digest of its manifest.
    pub manifest: Sha256,
    /// The environment that it says, as `NAME=value`.
    pub env: Vec<String>,
    /// The program that it says, and its first arguments.
    pub command: Vec<String>,
    /// The arguments that follow where a run has none. Without such a list `command` itself is no more than a default.
    #[serde(default)]
    pub arguments: Option<Vec<String>>,
    /// Its layers, lowest first.
    pub layers: Vec<BaseLayer>,
}

/// One layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLayer {
    /// Its digest as it is fetched.
    pub sha256: Sha256,
    /// Its size as it is fetched.
    pub size: u64,
    /// Its digest when decompressed.
    pub diff: Sha256,
}

/// Writes what a lock says of an image, below its table's name.
pub(super) fn write(text: &mut String, base: &Base) {
    push(text, format_args!("manifest = \"{}\"\n", base.manifest.0));
    push(text, format_args!("env = {}\ncommand = {}\n", list(&base.env), list(&base.command)));
    if let Some(arguments) = &base.arguments {
        push(text, format_args!("arguments = {}\n", list(arguments)));
    }
    push(text, format_args!("layers = [\n"));
    for BaseLayer { sha256, size, diff } in &base.layers {
        push(text, format_args!("    {{ sha256 = \"{}\", size = {size}, diff = \"{}\" }},\n", sha256.0, diff.0));
    }
    push(text, format_args!("]\n"));
}
