//! OpenPGP public keys and the rules for their signatures.
//!
//! The crypto crate verifies single signatures. The rules for valid keys are here, as in gpgv. A primary key needs a self-signature. A
//! subkey needs one by the primary key *and* one back, otherwise anybody could claim another's signing key as a subkey. Both must be
//! signing keys, not revoked, and valid when the data was signed. Keys that expired later are accepted, so that snapshots of an archive
//! stay verifiable.

use pgp::composed::{Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{Fingerprint, KeyDetails, KeyId, Tag, VerifyingKey};

/// Limit of a keyring's size. Debian's has 34 KB.
pub const MAX_KEYRING_BYTES: usize = 10 * 1024 * 1024;

/// Trusted public keys.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// Reason why a file is not a keyring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The file is larger than [`MAX_KEYRING_BYTES`].
    #[error("keyring of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// A key does not parse.
    #[error("bad key in keyring: {reason}")]
    Bad { reason: String },
    /// The file has no keys.
    #[error("keyring has no keys")]
    Empty,
}

/// Reason why a key's signature is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No valid self-signature or binding allows signing.
    NotForSigning,
    /// The key or its primary key was revoked.
    Revoked,
    /// The key was created later, or had expired.
    NotAlive,
}

impl Keyring {
    /// Parses ASCII-armoured blocks, with any text between them, or binary keys.
    pub fn parse(file: &[u8]) -> Result<Keyring, Error> {
        if file.len() > MAX_KEYRING_BYTES {
            return Err(Error::TooLarge { bytes: file.len() });
        }
        let bad = |error: pgp::errors::Error| Error::Bad { reason: error.to_string() };
        let mut keys = Vec::new();
        match std::str::from_utf8(file) {
            Ok(text) => {
                for block in armoured_blocks(text)? {
                    let (parsed, _) = SignedPublicKey::from_armor_many(block.as_bytes()).map_err(bad)?;
                    keys.extend(parsed.collect::<Result<Vec<_>, _>>().map_err(bad)?);
                }
            }
            Err(_) => keys.extend(SignedPublicKey::from_bytes_many(file).map_err(bad)?.collect::<Result<Vec<_>, _>>().map_err(bad)?),
        }
        if keys.is_empty() { Err(Error::Empty) } else { Ok(Keyring { keys }) }
    }

    /// Lists every primary key and subkey.
    pub fn signers(&self) -> impl Iterator<Item = Signer<'_>> {
        self.keys.iter().flat_map(|primary| {
            let subkeys = primary.public_subkeys.iter().map(move |subkey| Signer { primary, subkey: Some(subkey) });
            std::iter::once(Signer { primary, subkey: None }).chain(subkeys)
        })
    }
}

/// Splits a text into its public key blocks.
fn armoured_blocks(text: &str) -> Result<Vec<&str>, Error> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let block = &rest[start..];
        let end = block.find(END).ok_or_else(|| Error::Bad { reason: "armour without an end".to_owned() })? + END.len();
        blocks.push(&block[..end]);
        rest = &block[end..];
    }
    Ok(blocks)
}

/// A primary key, or a subkey with its primary key.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'k> {
    primary: &'k SignedPublicKey,
    subkey: Option<&'k SignedPublicSubKey>,
}

impl Signer<'_> {
    /// Returns the fingerprint of the key itself.
    pub fn fingerprint(&self) -> String {
        hex(self.raw_fingerprint().as_bytes())
    }

    /// Returns the fingerprint of the primary key.
    pub fn primary_fingerprint(&self) -> String {
        hex(self.primary.primary_key.fingerprint().as_bytes())
    }

    /// Returns true if the signature names this key as its issuer.
    pub fn is_claimed_by(&self, signature: &Signature) -> bool {
        let (fingerprint, id) = (self.raw_fingerprint(), self.id());
        let fingerprints = signature.issuer_fingerprint();
        // Compare the full fingerprint if it is given; the 64 bits of a key id can be forged.
        if fingerprints.is_empty() { signature.issuer_key_id().contains(&&id) } else { fingerprints.contains(&&fingerprint) }
    }

    /// Verifies a signature over a text; checks only the cryptography.
    pub fn verify(&self, signature: &Signature, text: &[u8]) -> bool {
        match self.subkey {
            Some(subkey) => signature.verify(&subkey.key, text).is_ok(),
            None => signature.verify(&self.primary.primary_key, text).is_ok(),
        }
    }

    /// Checks if the key was allowed to sign data at the given Unix time.
    pub fn may_sign(&self, at: u32) -> Result<(), Flaw> {
        let key = &self.primary.primary_key;
        if self.primary.details.revocation_signatures.iter().any(|revocation| revocation.verify_key(key).is_ok()) {
            return Err(Flaw::Revoked);
        }
        let own = latest(self.self_signatures()).ok_or(Flaw::NotForSigning)?;
        if !is_alive(key, own, at) {
            return Err(Flaw::NotAlive);
        }
        match self.subkey {
            None if may_sign_data(own).unwrap_or(true) => Ok(()),
            None => Err(Flaw::NotForSigning),
            Some(subkey) => self.subkey_may_sign(subkey, at),
        }
    }

    fn subkey_may_sign(&self, subkey: &SignedPublicSubKey, at: u32) -> Result<(), Flaw> {
        let key = &self.primary.primary_key;
        let of_type = |typ: SignatureType| subkey.signatures.iter().filter(move |signature| signature.typ() == Some(typ));
        if of_type(SignatureType::SubkeyRevocation).any(|signature| signature.verify_subkey_binding(key, &subkey.key).is_ok()) {
            return Err(Flaw::Revoked);
        }
        let bound = of_type(SignatureType::SubkeyBinding)
            .filter(|signature| is_sound(signature) && signature.verify_subkey_binding(key, &subkey.key).is_ok());
        let binding = latest(bound).filter(|binding| may_sign_data(binding) == Some(true)).ok_or(Flaw::NotForSigning)?;
        let back = binding.embedded_signature().ok_or(Flaw::NotForSigning)?;
        if !is_sound(back) || back.verify_primary_key_binding(&subkey.key, key).is_err() {
            return Err(Flaw::NotForSigning);
        }
        if is_alive(&subkey.key, binding, at) { Ok(()) } else { Err(Flaw::NotAlive) }
    }

    /// Lists the valid self-signatures of the primary key.
    fn self_signatures(&self) -> impl Iterator<Item = &Signature> {
        let key = &self.primary.primary_key;
        let direct = self.primary.details.direct_signatures.iter().filter(|signature| signature.verify_key(key).is_ok());
        let certified = self.primary.details.users.iter().flat_map(move |user| {
            let valid = move |signature: &&Signature| signature.verify_certification(key, Tag::UserId, &user.id).is_ok();
            let revoked = user.signatures.iter().any(|s| s.typ() == Some(SignatureType::CertRevocation) && valid(&s));
            user.signatures.iter().filter(|s| s.typ() != Some(SignatureType::CertRevocation)).filter(valid).filter(move |_| !revoked)
        });
        direct.chain(certified).filter(|signature| is_sound(signature))
    }

    fn raw_fingerprint(&self) -> Fingerprint {
        self.subkey.map_or_else(|| self.primary.primary_key.fingerprint(), |subkey| subkey.key.fingerprint())
    }

    fn id(&self) -> KeyId {
        self.subkey.map_or_else(|| self.primary.primary_key.legacy_key_id(), |subkey| subkey.key.legacy_key_id())
    }
}

/// Returns true if a hash is still collision resistant.
pub fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha224
            | HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

/// Returns true if a signature has a date and a strong hash, and no unknown critical subpacket.
pub fn is_sound(signature: &Signature) -> bool {
    let Some(config) = signature.config() else { return false };
    let understood =
        |data: &SubpacketData| !matches!(data, SubpacketData::Notation(_) | SubpacketData::Experimental(..) | SubpacketData::Other(..));
    is_strong(config.hash_alg)
        && config.created().is_some()
        && config.hashed_subpackets().all(|sub| !sub.is_critical || understood(&sub.data))
}

/// Formats bytes as upper-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn latest<'s>(signatures: impl Iterator<Item = &'s Signature>) -> Option<&'s Signature> {
    signatures.max_by_key(|signature| signature.created().map(|created| created.as_secs()))
}

/// Returns true if a key existed and had not expired at a Unix time.
fn is_alive(key: &impl VerifyingKey, statement: &Signature, at: u32) -> bool {
    let created = key.created_at().as_secs();
    // A lifetime of zero means unlimited, RFC 9580 §5.2.3.13.
    let lifetime = statement.key_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    created <= at && (lifetime == 0 || u64::from(at) < u64::from(created) + u64::from(lifetime))
}

/// Returns the key flag for signing data; `None` if there are no flags.
fn may_sign_data(statement: &Signature) -> Option<bool> {
    let flags = |data: &SubpacketData| match data {
        SubpacketData::KeyFlags(flags) => Some(flags.sign()),
        _ => None,
    };
    statement.config()?.hashed_subpackets().find_map(|sub| flags(&sub.data))
}

#[cfg(test)]
mod tests {
    use super::{Error, Flaw, Keyring};
    use pgp::packet::SubpacketData;

    const KEYRING: &[u8] = include_bytes!("../../tests/golden/signature/keyring.asc");
    /// 2021-01-01.
    const AT: u32 = 1_609_459_200;

    #[test]
    fn judges_each_key() {
        let keyring = Keyring::parse(KEYRING).expect("fixture");
        let verdicts: Vec<_> = keyring.signers().map(|signer| signer.may_sign(AT)).collect();
        let (no, dead) = (Err(Flaw::NotForSigning), Err(Flaw::NotAlive));
        assert_eq!(verdicts, [Ok(()), no, Ok(()), Ok(()), Err(Flaw::Revoked), no], "plain, split, its subkey, mortal, revoked, certifier");
        let before: Vec<_> = keyring.signers().map(|signer| signer.may_sign(AT - 400 * 86_400)).collect();
        assert_eq!(before, [dead, dead, dead, dead, Err(Flaw::Revoked), dead], "before they were made");
    }

    #[test]
    fn a_subkey_must_sign_back() {
        let mut keyring = Keyring::parse(KEYRING).expect("fixture");
        let foreign = keyring.keys[1].public_subkeys[0].clone();
        keyring.keys[0].public_subkeys.push(foreign);
        let binding = &mut keyring.keys[1].public_subkeys[0].signatures[0];
        let config = binding.config().expect("known version");
        let at = config.unhashed_subpackets().position(|sub| matches!(sub.data, SubpacketData::EmbeddedSignature(_)));
        binding.unhashed_subpacket_remove(at.expect("made by GnuPG")).expect("it is there");
        let verdicts: Vec<_> = keyring.signers().map(|signer| signer.may_sign(AT)).collect();
        assert_eq!(verdicts[1], Err(Flaw::NotForSigning), "another's subkey");
        assert_eq!(verdicts[3], Err(Flaw::NotForSigning), "the back-signature is gone");
    }

    #[test]
    fn refuses_files_that_are_no_keyring() {
        assert_eq!(Keyring::parse(b"").err(), Some(Error::Empty));
        assert_eq!(Keyring::parse(b"no key here").err(), Some(Error::Empty));
        assert!(matches!(Keyring::parse(&KEYRING[..300]), Err(Error::Bad { .. })));
        assert!(Keyring::parse(b"\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn the_shipped_keyring_may_sign() {
        let keyring = Keyring::parse(include_bytes!("../../recipes/keyrings/debian.asc")).expect("in the tree");
        // 2026-11-21, when all of them were valid.
        assert_eq!(keyring.signers().filter(|signer| signer.may_sign(1_795_252_544).is_ok()).count(), 10);
        assert_eq!(keyring.signers().count(), 10);
    }
}
