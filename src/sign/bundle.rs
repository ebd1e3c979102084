//! Sigstore bundles, version 0.3, with a statement in a DSSE envelope. The input is hostile.
//!
//! The signature is over the pre-authentication encoding of the envelope, which holds the type and the length of the payload. A bundle names
//! its key by a hint, which proves nothing: the caller offers the keys that it trusts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use silo_store::digest::Digest;

use crate::external::{SignError, Signer};
use crate::key::Public;
use crate::statement::{self, Statement};

/// The media type of a bundle.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The most bytes of a bundle. A signature has 700, a statement of provenance a few thousand for each hundred packages.
pub const MAX_BYTES: u64 = 4 << 20;
/// The most signatures of an envelope.
const MAX_SIGNATURES: usize = 16;

/// A bundle whose signatures are not verified yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The statement.
    pub statement: Statement,
    /// The signed bytes.
    message: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    media_type: String,
    dsse_envelope: WrittenEnvelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Deserialize)]
struct WrittenSignature {
    sig: String,
}

/// Signs a statement about a digest; returns the bundle.
pub fn sign(signer: &Signer, subject: Digest, predicate_type: &str, predicate: &serde_json::Value) -> Result<Vec<u8>, SignError> {
    let payload = statement::write(subject, predicate_type, predicate);
    let signature = signer.sign(&encoding(statement::MEDIA_TYPE, &payload))?;
    let bundle = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": { "publicKey": { "hint": signer.public().hint() } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload), "payloadType": statement::MEDIA_TYPE,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
    });
    Ok(bundle.to_string().into_bytes())
}

/// Parses a bundle; the error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Bundle, String> {
    let Written { media_type, dsse_envelope: envelope } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if media_type != MEDIA_TYPE {
        return Err("it is not a bundle of version 0.3".to_owned());
    }
    if envelope.payload_type != statement::MEDIA_TYPE {
        return Err("it holds no statement".to_owned());
    }
    if envelope.signatures.is_empty() || envelope.signatures.len() > MAX_SIGNATURES {
        return Err(format!("it has {} signatures; 1 to {MAX_SIGNATURES} are taken", envelope.signatures.len()));
    }
    let decoded = |text: &str| STANDARD.decode(text).map_err(|_| "it has malformed base64".to_owned());
    let payload = decoded(&envelope.payload)?;
    Ok(Bundle {
        statement: statement::read(&payload)?,
        message: encoding(&envelope.payload_type, &payload),
        signatures: envelope.signatures.iter().map(|signature| decoded(&signature.sig)).collect::<Result<_, _>>()?,
    })
}

impl Bundle {
    /// Returns the first of these keys that signed the statement.
    pub fn signed_by<'a>(&self, keys: impl IntoIterator<Item = &'a Public>) -> Option<&'a Public> {
        keys.into_iter().find(|key| self.signatures.iter().any(|signature| key.verifies(&self.message, signature)))
    }

    /// Returns true if the statement is about a digest.
    pub fn is_about(&self, digest: Digest) -> bool {
        self.statement.subjects.contains(&digest)
    }
}

/// Returns the pre-authentication encoding.
fn encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let start = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [start.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Algorithm, Secret};

    /// Written by cosign 3.1.1 with the key below.
    const OF_COSIGN: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"+uWP+47z2p3B7uSjVTExQMffT4njLqk3OFuISUesviQ="}},"dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiZTBkNzllNzEzNDY2NjAyZDYzZDFjY2M3MmU1NGI3ZjI5ZjA1ODIxMjI4ZmFjMzQ5MmUxZGJmM2ZjNmMyM2Y0YyJ9LCJhbm5vdGF0aW9ucyI6e319XSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwicHJlZGljYXRlIjp7fX0=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MEQCIDr4R/3tghvcY0Cnf5Z1U/+XrQCXkjr4i/ER0K5WiCdSAiBoriSKxYYYn0/USy5cQOpqN3lTrf8iCLMUopQqAsZY3A=="}]}}"#;
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJQ5k4OL2K6HH6a25aNIydP/yIhDW\nCBm3oekA9xF9DGzAxLYasD39kVwMayEEU/AcE/+8fHWZ25OmHUXH0R84oQ==\n-----END PUBLIC KEY-----\n";
    const SUBJECT: &str = "e0d79e713466602d63d1ccc72e54b7f29f05821228fac3492e1dbf3fc6c23f4c";

    #[test]
    fn a_bundle_of_cosign_is_read() {
        let key = Public::parse(KEY).expect("a key");
        let bundle = read(OF_COSIGN.as_bytes()).expect("a bundle");
        assert!(bundle.is_about(Digest::parse(SUBJECT).expect("a digest")) && !bundle.is_about(Digest::of(b"x")));
        assert_eq!(bundle.statement.predicate_type, statement::SIGNED);
        assert_eq!(bundle.signed_by([&key]), Some(&key));
        assert!(OF_COSIGN.contains(&key.hint()));
        let other = Secret::new(Algorithm::P256).expect("a key").public();
        assert_eq!(bundle.signed_by([&other]), None);
    }

    #[test]
    fn changed_bundles_are_signed_by_nobody() {
        for algorithm in [Algorithm::P256, Algorithm::Ed25519] {
            let signer = Signer::Key(Box::new(Secret::new(algorithm).expect("a key")));
            let public = signer.public();
            let bytes = sign(&signer, Digest::of(b"x"), statement::SIGNED, &json!({})).expect("a bundle");
            assert_eq!(read(&bytes).expect("our own").signed_by([&public]), Some(&public));
            let intact = read(&bytes).expect("our own");
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                // The hint is not signed, and says nothing.
                let read = read(&changed).ok().filter(|bundle| *bundle != intact);
                assert!(read.is_none_or(|bundle| bundle.signed_by([&public]).is_none()), "{at}");
            }
        }
    }

    #[test]
    fn other_texts_are_no_bundles() {
        for wrong in [
            String::new(),
            OF_COSIGN.replace("v0.3", "v0.1"),
            OF_COSIGN.replace("in-toto", "in-foto"),
            OF_COSIGN.replace("eyJf", "****"),
            OF_COSIGN.replace(r#"{"sig":"#, r#"{"sag":"#),
            OF_COSIGN[..OF_COSIGN.len() - 9].to_owned(),
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
