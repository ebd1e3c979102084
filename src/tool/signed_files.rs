//! Signatures of files, such as those of a release: a Sigstore bundle beside each file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::digest::{Digest, Hasher};
use silo_store::path_error::{PathError, at};
use silo_store::read_limited;

use silo_sign::bundle;
use silo_sign::external::{SignError, Signer};
use silo_sign::key::Public;
use silo_sign::statement::SIGNED;

use super::keys::Named;

/// The end of a bundle's name.
const END: &str = "sigstore.json";

/// Error of a signature of a file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The key failed.
    #[error("{file} was not signed", file = .file.display())]
    Sign {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: SignError,
    },
    /// The bundle is malformed.
    #[error("{path}: {what}", path = .path.display())]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// The bundle is about other bytes.
    #[error("{path} is about other bytes than those of the file", path = .path.display())]
    OtherBytes {
        /// The bundle.
        path: PathBuf,
    },
    /// The bundle is not signed by a trusted key.
    #[error("{path} is not signed by a key that you trust", path = .path.display())]
    Untrusted {
        /// The bundle.
        path: PathBuf,
    },
}

/// Returns the path of the bundle of a file.
pub fn bundle_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(END);
    PathBuf::from(name)
}

/// Signs a file; writes the bundle beside it, and returns its path.
pub fn sign(signer: &Signer, file: &Path) -> Result<PathBuf, Error> {
    let bytes = bundle::sign(signer, digest(file)?, SIGNED, &serde_json::json!({}));
    let bytes = bytes.map_err(|source| Error::Sign { file: file.to_owned(), source })?;
    let path = bundle_of(file);
    std::fs::write(&path, bytes).map_err(at("write", &path))?;
    Ok(path)
}

/// Returns the trusted key that signed a file, by the bundle beside it.
pub fn verify<'a>(trusted: &'a [Named], file: &Path) -> Result<&'a Named, Error> {
    let path = bundle_of(file);
    let bytes = read_limited::read(&path, bundle::MAX_BYTES).map_err(at("read", &path))?;
    let bundle = bundle::read(&bytes).map_err(|what| Error::Bundle { path: path.clone(), what })?;
    if !bundle.is_about(digest(file)?) {
        return Err(Error::OtherBytes { path });
    }
    // A statement of another kind, such as a test result, is no signature of the file.
    let is_signature = bundle.statement.predicate_type == SIGNED;
    let signer = |key: &Public| is_signature && bundle.signed_by([key]).is_some();
    trusted.iter().find(|key| signer(&key.public)).ok_or(Error::Untrusted { path })
}

fn digest(file: &Path) -> Result<Digest, Error> {
    let mut hasher = Hasher::new();
    let hashed = File::open(file).and_then(|mut from| io::copy(&mut from, &mut hasher));
    hashed.map_err(at("read", file))?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use silo_sign::key::{Algorithm, Secret};

    use super::*;
    use crate::keys::State;

    #[test]
    fn a_file_counts_with_a_signature_of_its_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("silo.tar.gz");
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            std::fs::write(&file, "bytes").expect("our own");
            let signer = Signer::Key(Box::new(Secret::new(algorithm).expect("a key")));
            let named = |public| Named { name: "release".to_owned(), public, state: State::Trusted };
            let (key, other) = (named(signer.public()), named(Secret::new(algorithm).expect("a key").public()));
            assert_eq!(sign(&signer, &file).expect("signed"), dir.path().join("silo.tar.gz.sigstore.json"));
            assert_eq!(verify(&[other.clone(), key.clone()], &file).expect("verified"), &key);
            assert!(matches!(verify(&[other], &file), Err(Error::Untrusted { .. })));
            let about_it = bundle::sign(&signer, digest(&file).expect("a file"), "https://example.com/test", &serde_json::json!({}));
            std::fs::write(bundle_of(&file), about_it.expect("signed")).expect("our own");
            assert!(matches!(verify(std::slice::from_ref(&key), &file), Err(Error::Untrusted { .. })));
            drop(sign(&signer, &file).expect("signed"));
            std::fs::write(&file, "other bytes").expect("our own");
            assert!(matches!(verify(std::slice::from_ref(&key), &file), Err(Error::OtherBytes { .. })));
            std::fs::write(bundle_of(&file), "{}").expect("our own");
            assert!(matches!(verify(&[key], &file), Err(Error::Bundle { .. })));
        }
        std::fs::remove_file(bundle_of(&file)).expect("our own");
        assert!(matches!(verify(&[], &file), Err(Error::File(_))));
    }
}
