//! Signs with a program of the user's: for keys in a key service or a hardware token, which silo never sees.
//!
//! The program reads the message on its standard input and prints the signature: its bytes, or their base64.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::key::{KeyError, Public, Secret};

/// The most bytes of an answer; a signature has about 72.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

/// Error of signing.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The program failed.
    #[error("the program {program} made no signature", program = .program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The program made a signature of another key.
    #[error("the program {program} made no signature of the key {fingerprint:.12}", program = .program.display())]
    Other {
        /// The program.
        program: PathBuf,
        /// The fingerprint of the expected key.
        fingerprint: String,
    },
}

/// A signer.
#[derive(Debug)]
pub enum Signer {
    /// With a secret key.
    Key(Box<Secret>),
    /// With a program.
    Program {
        /// The program.
        program: PathBuf,
        /// The public key of its signatures.
        public: Public,
    },
}

impl Signer {
    /// Returns the public key.
    pub fn public(&self) -> Public {
        match self {
            Signer::Key(secret) => secret.public(),
            Signer::Program { public, .. } => public.clone(),
        }
    }

    /// Signs a message. The signature of a program is verified.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match self {
            Signer::Key(secret) => Ok(secret.sign(message)?),
            Signer::Program { program, public } => {
                let answer = run(program, message).map_err(|source| SignError::Program { program: program.clone(), source })?;
                let decoded = STANDARD.decode(answer.trim_ascii()).ok();
                let found = [Some(answer), decoded].into_iter().flatten().find(|made| public.verifies(message, made));
                let fingerprint = public.fingerprint().to_string();
                found.ok_or_else(|| SignError::Other { program: program.clone(), fingerprint })
            }
        }
    }
}

fn run(program: &PathBuf, input: &[u8]) -> io::Result<Vec<u8>> {
    // Its messages on stderr are for the user.
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut to) = child.stdin.take() {
        // A message has less than the 64 KiB of a pipe. A program that does not read it fails by itself.
        drop(to.write_all(input));
    }
    let mut answer = Vec::new();
    let read = child.stdout.take().map(|from| from.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
    let status = child.wait()?;
    read.transpose()?;
    if status.success() { Ok(answer) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::key::Algorithm;

    #[test]
    fn only_a_signature_of_the_key_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let secret = Secret::new(Algorithm::Ed25519).expect("a key");
        // Ed25519 gives one message one signature, so a script can know it.
        let known = STANDARD.encode(secret.sign(b"message").expect("a signature"));
        let sign = |script: &str| {
            let program = dir.path().join("sign");
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("our own");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own");
            Signer::Program { program, public: secret.public() }.sign(b"message")
        };
        assert!(sign(&format!("test \"$(cat)\" = message && echo {known}")).is_ok());
        assert!(matches!(sign("echo bm9uZQ=="), Err(SignError::Other { .. })));
        assert!(matches!(sign(&format!("echo {known}; exit 1")), Err(SignError::Program { .. })));
    }
}
