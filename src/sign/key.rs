//! Keys: ECDSA on P-256 and Ed25519, as PEM: PKCS#8 for a secret, SubjectPublicKeyInfo for a public key.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use silo_store::digest::Digest;

/// The start of a public key on P-256; the point follows, 65 bytes.
const P256_PUBLIC: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];
/// The start of a public Ed25519 key; 32 bytes follow.
const ED25519_PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The start of a secret Ed25519 key in the first version of PKCS#8; 32 bytes follow. OpenSSL reads no later version.
const ED25519_SECRET: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const P256_POINT_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
/// Characters of a line of PEM.
const PEM_LINE: usize = 64;

/// Error of a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not a key.
    #[error("it is not a {0} in PEM")]
    Pem(&'static str),
    /// The key is of an unknown kind, or malformed.
    #[error("it is not a key on P-256 or an Ed25519 key")]
    Kind,
    /// A secret key is encrypted.
    #[error("the key is encrypted; silo reads unencrypted PKCS#8, as `openssl pkcs8 -topk8 -nocrypt` writes it")]
    Encrypted,
    /// The system gives no random numbers, or the signature failed.
    #[error("the signature failed")]
    Failed,
}

/// The algorithm of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// ECDSA on the curve P-256 with SHA-256.
    P256,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::P256 => "P-256",
            Algorithm::Ed25519 => "Ed25519",
        }
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Public {
    algorithm: Algorithm,
    /// The point, or the 32 bytes of Ed25519.
    bytes: Vec<u8>,
}

impl Public {
    /// Parses a public key in PEM.
    pub fn parse(text: &str) -> Result<Public, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Pem("public key"))?;
        let of = |start: &[u8], length: usize| der.strip_prefix(start).filter(|rest| rest.len() == length).map(<[u8]>::to_vec);
        if let Some(bytes) = of(&P256_PUBLIC, P256_POINT_BYTES) {
            return Ok(Public { algorithm: Algorithm::P256, bytes });
        }
        let bytes = of(&ED25519_PUBLIC, ED25519_BYTES).ok_or(KeyError::Kind)?;
        Ok(Public { algorithm: Algorithm::Ed25519, bytes })
    }

    /// Returns the key in PEM.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    /// Returns the algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the digest of the key, which names it.
    pub fn fingerprint(&self) -> Digest {
        Digest::of(&self.der())
    }

    /// Returns the name of the key in a bundle.
    pub fn hint(&self) -> String {
        STANDARD.encode(self.fingerprint().as_bytes())
    }

    /// Returns true if this key made the signature of a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.bytes).verify(message, signature),
            Algorithm::Ed25519 => UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature),
        }
        .is_ok()
    }

    fn der(&self) -> Vec<u8> {
        let start: &[u8] = match self.algorithm {
            Algorithm::P256 => &P256_PUBLIC,
            Algorithm::Ed25519 => &ED25519_PUBLIC,
        };
        [start, &self.bytes].concat()
    }
}

/// A secret key.
pub struct Secret {
    pair: Pair,
    /// The key as PKCS#8.
    der: Vec<u8>,
}

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret key of {:.12}", self.public().fingerprint().to_string())
    }
}

impl Secret {
    /// Makes a new key.
    pub fn new(algorithm: Algorithm) -> Result<Secret, KeyError> {
        let random = SystemRandom::new();
        let der = match algorithm {
            Algorithm::P256 => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).map_err(|_| KeyError::Failed)?;
                made.as_ref().to_vec()
            }
            Algorithm::Ed25519 => {
                let mut seed = [0; ED25519_BYTES];
                ring::rand::SecureRandom::fill(&random, &mut seed).map_err(|_| KeyError::Failed)?;
                [&ED25519_SECRET[..], &seed].concat()
            }
        };
        Secret::of_der(der)
    }

    /// Parses a secret key in PEM.
    pub fn parse(text: &str) -> Result<Secret, KeyError> {
        if text.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Pem("secret key"))?;
        Secret::of_der(der.secret_pkcs8_der().to_vec())
    }

    fn of_der(der: Vec<u8>) -> Result<Secret, KeyError> {
        let random = SystemRandom::new();
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &random) {
            return Ok(Secret { pair: Pair::P256(pair), der });
        }
        // The first version of PKCS#8 has no public key to compare with.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| KeyError::Kind)?;
        Ok(Secret { pair: Pair::Ed25519(pair), der })
    }

    /// Returns the key in PEM.
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", &self.der)
    }

    /// Returns the public key.
    pub fn public(&self) -> Public {
        match &self.pair {
            Pair::P256(pair) => Public { algorithm: Algorithm::P256, bytes: pair.public_key().as_ref().to_vec() },
            Pair::Ed25519(pair) => Public { algorithm: Algorithm::Ed25519, bytes: pair.public_key().as_ref().to_vec() },
        }
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::P256(pair) => pair.sign(&SystemRandom::new(), message).map(|made| made.as_ref().to_vec()).map_err(|_| KeyError::Failed),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(PEM_LINE).map(|at| &text[at..text.len().min(at + PEM_LINE)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_only_their_own_signatures_count() {
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let secret = Secret::new(algorithm).expect("a key");
            let again = Secret::parse(&secret.to_pem()).expect("our own");
            let public = Public::parse(&secret.public().to_pem()).expect("our own");
            assert_eq!((again.public(), public.algorithm()), (public.clone(), algorithm));
            let signature = again.sign(b"message").expect("a signature");
            assert!(public.verifies(b"message", &signature));
            assert!(!public.verifies(b"massage", &signature));
            for at in 0..signature.len() {
                let mut changed = signature.clone();
                changed[at] ^= 1;
                assert!(!public.verifies(b"message", &changed), "{at}");
                assert!(!public.verifies(b"message", &signature[..at]), "{at}");
            }
            assert!(!Secret::new(algorithm).expect("a key").public().verifies(b"message", &signature));
            assert!(!format!("{secret:?}").contains("BEGIN"));
        }
    }

    #[test]
    fn other_texts_are_no_keys() {
        let pem = Secret::new(Algorithm::P256).expect("a key").public().to_pem();
        for wrong in ["", "x", &pem.replace("PUBLIC", "PRIVATE"), &pem[..80], &pem.replacen("MFkw", "MFkx", 1)] {
            assert!(Public::parse(wrong).is_err(), "{wrong}");
            assert!(Secret::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Secret::parse("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----").expect_err("encrypted"), KeyError::Encrypted);
    }
}
