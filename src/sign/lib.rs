//! Signatures of images: keys, statements about digests, and the Sigstore bundles that hold them.
//!
//! Nothing here reads a repository or a directory. The formats are those of cosign, so each reads what the other wrote.

pub mod key;
pub mod statement;

pub mod external;

pub mod bundle;
