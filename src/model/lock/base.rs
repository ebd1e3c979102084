//! The pinned foreign base image of a tool: its layers by digest, and its run configuration.

use serde::Deserialize;

use super::text::{Sha256, list, push};

/// One image, for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The digest of its manifest.
    pub manifest: Sha256,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Its program and first arguments.
    pub command: Vec<String>,
    /// Default arguments of a run. Without this list, `command` itself is only a default.
    #[serde(default)]
    pub arguments: Option<Vec<String>>,
    /// Its layers, lowest first.
    pub layers: Vec<BaseLayer>,
}

/// One layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseLayer {
    /// The digest of the downloaded layer.
    pub sha256: Sha256,
    /// The size of the downloaded layer.
    pub size: u64,
    /// Its digest when decompressed.
    pub diff: Sha256,
}

/// Writes an image below its table's name.
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
