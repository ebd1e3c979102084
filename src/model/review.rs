//! Review of the changes that a tool makes to a project, as recipes and settings decide it.

use schemars::JsonSchema;
use serde::Deserialize;

/// Decision about the changes that a tool makes to a project. The later value lets less through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Review {
    /// The tool changes the project directly.
    Never,
    /// Changes stay in a private layer, as with `always`.
    Risky,
    /// Changes stay in a private layer.
    Always,
}

impl Review {
    /// The values as in a `silo.toml`.
    pub const WORDS: [(&'static str, Review); 3] = [("never", Review::Never), ("risky", Review::Risky), ("always", Review::Always)];

    /// Returns the value as in a `silo.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Review::Never => "never",
            Review::Risky => "risky",
            Review::Always => "always",
        }
    }
}
