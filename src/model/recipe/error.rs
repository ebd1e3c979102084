//! What is wrong with a recipe whose text can be read.

use super::kept;

/// What is wrong with a recipe whose shape is right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name that cannot be typed as a command.
    #[error("\"{0}\" is not a tool name: use lower-case letters, digits and \"-\", beginning with a letter")]
    Name(String),
    /// A package that Debian's grammar does not allow.
    #[error(
        "{key}: \"{value}\" is not a package name; write name, name=version, name (>= version) or name/suite, and \" [amd64]\" behind it for one architecture alone"
    )]
    Package {
        /// The key.
        key: &'static str,
        /// The name.
        value: String,
    },
    /// A suite or component that is not one word of the usual letters.
    #[error("{key}: \"{value}\" is not a plain word")]
    Word {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A package of another architecture than the root's.
    #[error("{key}: \"{value}\" is of a foreign architecture, and a root has packages of its own one alone; leave \":architecture\" out")]
    Foreign {
        /// The key.
        key: &'static str,
        /// The package.
        value: String,
    },
    /// An apt archive that cannot be used.
    #[error("debian.sources: \"{value}\": expected {what}")]
    Source {
        /// The value.
        value: String,
        /// What is expected instead.
        what: &'static str,
    },
    /// A key file that is not there or not beside the recipe.
    #[error(
        "debian.sources.keyFile: \"{0}\" is no file beside the recipe; name an ASCII-armoured key as NAME.asc there, or write the key itself as `key`"
    )]
    KeyFile(String),
    /// A .deb that is not below the recipe's directory.
    #[error("debian.debs: \"{0}\" is not a .deb below the recipe's directory; write a path like debs/name_1.0_amd64.deb")]
    Deb(String),
    /// An answer that debconf would not take.
    #[error(
        "debian.debconf: \"{0}\" is not an answer; write: package question type value, as in \"postfix postfix/main_mailer_type select Local only\" (no passwords: everybody with the image would have them)"
    )]
    Answer(String),
    /// A shim without a name or a program.
    #[error("shims: \"{0}\" is not a shim; write name, or name:program and arguments")]
    Shim(String),
    /// A variable name with `=`, NUL or nothing in it.
    #[error("{key}: \"{value}\" is not a variable name")]
    Variable {
        /// The key.
        key: &'static str,
        /// The name.
        value: String,
    },
    /// A grant that is not a name, a name with a port, or an ecosystem.
    #[error("{key}: \"{value}\" is not a name; write name, name:port, *.name, an address, a network like 192.0.2.0/24, or @ecosystem")]
    Grant {
        /// The key.
        key: &'static str,
        /// The grant.
        value: String,
    },
    /// A grant by which nothing can be reached.
    #[error("{key}: nothing can be reached by \"{value}\": {why}")]
    DeadGrant {
        /// The key.
        key: &'static str,
        /// The grant.
        value: String,
        /// Why, and what to write instead.
        why: String,
    },
    /// A version that could not be typed after an `@`.
    #[error("{key}: \"{value}\" is not a version")]
    Version {
        /// The key.
        key: &'static str,
        /// The version.
        value: String,
    },
    /// A pattern of names that has its star elsewhere than at its end.
    #[error("activate.madeBy: \"{0}\" is not the beginning of a path with one * at its end; write it as lib/python3.*")]
    Pattern(String),
    /// A path that is not one below a directory.
    #[error("{key}: \"{value}\" is not a path below a directory; write it without a leading / and without ..")]
    Below {
        /// The key.
        key: &'static str,
        /// The path.
        value: String,
    },
    /// A directory that cannot outlive a run.
    #[error(transparent)]
    Kept(#[from] kept::Error),
    /// An image whose name cannot be read.
    #[error("image: \"{image}\": {what}")]
    Image {
        /// The name.
        image: String,
        /// What is wrong with it.
        what: String,
    },
    /// A root that is to be two things.
    #[error("a tool is made of an image or of packages; this one has {0} too")]
    Both(&'static str),
    /// Packages for steps that there are not.
    #[error("debian.buildPackages are there while steps run, and there are none; write steps, or name them in debian.packages")]
    NoSteps,
    /// Something that must not be empty or zero.
    #[error("{0} must not be empty or zero")]
    Empty(&'static str),
}
