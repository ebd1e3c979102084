//! Errors of a recipe that is valid TOML.

use silo_base::grant::NotAGrant;

use super::kept_dirs;

/// An invalid value in a recipe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An invalid tool name.
    #[error("\"{0}\" is not a tool name: use lower-case letters, digits and \"-\", beginning with a letter")]
    Name(String),
    /// Not a package in Debian's grammar.
    #[error(
        "{key}: \"{value}\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only"
    )]
    Package {
        /// Key.
        key: &'static str,
        /// Value.
        value: String,
    },
    /// A suite or component with unusual characters.
    #[error("{key}: \"{value}\" is not a plain word")]
    Word {
        /// Key.
        key: &'static str,
        /// Value.
        value: String,
    },
    /// A package of an architecture that no root can have.
    #[error(
        "{key}: \"{value}\" is for no root: foreign packages are i386 or arm64 on amd64, and armhf, armel or amd64 on arm64; for one architecture only, write \"name [amd64]\""
    )]
    Foreign {
        /// Key.
        key: &'static str,
        /// Package.
        value: String,
    },
    /// An unusable apt archive.
    #[error("debian.sources: \"{value}\": expected {what}")]
    Source {
        /// Value.
        value: String,
        /// Expected value.
        what: &'static str,
    },
    /// A missing key file, or one outside of the recipe's directory.
    #[error(
        "debian.sources.keyFile: \"{0}\" is no file in the recipe's directory; put an ASCII-armoured key there as NAME.asc, or write the key itself as `key`"
    )]
    KeyFile(String),
    /// A .deb outside of the recipe's directory.
    #[error("debian.debs: \"{0}\" is not a .deb below the recipe's directory; write a path like debs/name_1.0_amd64.deb")]
    Deb(String),
    /// An invalid debconf answer.
    #[error(
        "debian.debconf: \"{0}\" is not an answer; write: package question type value, as in \"postfix postfix/main_mailer_type select Local only\" (no passwords: every user of the image could read them)"
    )]
    Answer(String),
    /// A shim without a name or a program.
    #[error("shims: \"{0}\" is not a shim; write name, or name:program and arguments")]
    Shim(String),
    /// An invalid variable name: empty, or with `=` or NUL.
    #[error("{key}: \"{value}\" is not a variable name")]
    Variable {
        /// Key.
        key: &'static str,
        /// Name.
        value: String,
    },
    /// Neither a host, a host with a port, nor an ecosystem.
    #[error("{key}: {wrong}")]
    Grant {
        /// Key.
        key: &'static str,
        /// The text.
        wrong: NotAGrant,
    },
    /// A grant that matches no possible connection.
    #[error("{key}: \"{value}\" allows no connection: {why}")]
    DeadGrant {
        /// Key.
        key: &'static str,
        /// Grant.
        value: String,
        /// Reason, and the correct spelling.
        why: String,
    },
    /// A version that cannot be typed after an `@`.
    #[error("{key}: \"{value}\" is not a version")]
    Version {
        /// Key.
        key: &'static str,
        /// Version.
        value: String,
    },
    /// A pattern without exactly one star at its end.
    #[error("activate.madeBy: \"{0}\" is not a path with one * at its end; write it as lib/python3.*")]
    Pattern(String),
    /// A path outside of its directory.
    #[error("{key}: \"{value}\" is not a relative path within its directory; write it without a leading / and without ..")]
    Below {
        /// Key.
        key: &'static str,
        /// Path.
        value: String,
    },
    /// An invalid persistent directory.
    #[error(transparent)]
    Kept(#[from] kept_dirs::Error),
    /// An invalid image reference.
    #[error("image: \"{image}\": {what}")]
    Image {
        /// Reference.
        image: String,
        /// Fault in it.
        what: String,
    },
    /// A root file system with two sources.
    #[error("a tool is made of an image or of packages; this one has {0} too")]
    Both(&'static str),
    /// Build packages without steps.
    #[error("debian.buildPackages are for steps, but the recipe has none; add steps, or use debian.packages")]
    NoSteps,
    /// A deterministic step with a network.
    #[error("{0}: a step with `deterministic` may have no `network`; fetch the files in a step before it")]
    DeterministicNetwork(&'static str),
    /// An empty or zero value.
    #[error("{0} must not be empty or zero")]
    Empty(&'static str),
}
