//! Verifies the signature of an InRelease file and returns exactly the signed text.
//!
//! The frame of a clearsigned message is parsed strictly: one block, nothing before it, only line ends after it, only `Hash` headers, every
//! line with a leading dash escaped. The returned text is built from the same lines as the hashed one, so no other reader can see a
//! different text.

use pgp::armor::Dearmor;
use pgp::packet::{Packet, PacketParser, Signature, SignatureType};

use crate::keyring::{Flaw, Keyring, Signer, hex, is_sound, is_strong};

/// Limit of an InRelease file's size. Debian's have 150 KB.
pub const MAX_INRELEASE_BYTES: usize = 10 * 1024 * 1024;

/// Limit of checked signatures. Debian has three; each costs time.
const MAX_SIGNATURES: usize = 32;

/// A text signed by a trusted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signed text, unescaped, with LF after each line except the last.
    pub text: String,
    /// The fingerprint of the signing key or subkey, in upper-case hexadecimal digits.
    pub fingerprint: String,
    /// The fingerprint of its primary key.
    pub primary_fingerprint: String,
    /// Signature time, in Unix seconds.
    pub signed_at_secs: u32,
}

/// Reason why a text is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The file is larger than [`MAX_INRELEASE_BYTES`].
    #[error("signed file of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// The file does not begin like a clearsigned message.
    #[error("file is not signed")]
    NotSigned,
    /// The frame is invalid, or there is text outside it.
    #[error("bad signed file, line {line}: {reason}")]
    Frame { line: usize, reason: &'static str },
    /// The signature block does not parse.
    #[error("bad signature block: {reason}")]
    Armour { reason: String },
    /// The signature block is empty.
    #[error("file has no signature")]
    NoSignature,
    /// All signing keys are missing from the keyring.
    #[error("no signature by a trusted key: signed by {}", ids.join(", "))]
    UnknownKey { ids: Vec<String> },
    /// A trusted key's signature does not match the text.
    #[error("bad signature by {key}: the text differs from the signed one")]
    BadSignature { key: String },
    /// The signature uses a weak hash.
    #[error("signature by {key} uses the weak hash {hash}")]
    WeakHash { key: String, hash: String },
    /// The key was not valid at the time of the signature.
    #[error("key {key} was expired or not yet created when it signed")]
    ExpiredKey { key: String },
    /// The key was revoked.
    #[error("key {key} is revoked")]
    RevokedKey { key: String },
    /// The key is not a signing key.
    #[error("key {key} is not for signing")]
    NotForSigning { key: String },
    /// The signature has expired.
    #[error("signature by {key} has expired")]
    ExpiredSignature { key: String },
    /// The signature is of another type, has no date, or has unknown critical parts.
    #[error("signature by {key} is of an unknown kind")]
    UnknownKind { key: String },
}

/// Verifies a clearsigned message and returns the signed text. `now_unix` only applies to signatures with an expiry time; keys are judged
/// by the time of the signature.
pub fn verify(inrelease: &[u8], keyring: &Keyring, now_unix: i64) -> Result<Verified, Error> {
    if inrelease.len() > MAX_INRELEASE_BYTES {
        return Err(Error::TooLarge { bytes: inrelease.len() });
    }
    let (text, armour) = split(inrelease)?;
    let signatures = parse_signatures(armour)?;
    let mut good = None;
    let mut first_error = None;
    let mut unknown = Vec::new();
    for signature in &signatures {
        let mut known = false;
        for signer in keyring.signers().filter(|signer| signer.is_claimed_by(signature)) {
            known = true;
            match judge(signature, &signer, text.as_bytes(), now_unix) {
                Ok(signed_at_secs) => {
                    let (fingerprint, primary_fingerprint) = (signer.fingerprint(), signer.primary_fingerprint());
                    good.get_or_insert((fingerprint, primary_fingerprint, signed_at_secs));
                }
                // As in apt: if the signature of a trusted key is bad, another good one does not help.
                Err(error @ Error::BadSignature { .. }) => return Err(error),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        if !known {
            unknown.push(issuer(signature));
        }
    }
    match (good, first_error) {
        (Some((fingerprint, primary_fingerprint, signed_at_secs)), _) => {
            Ok(Verified { text, fingerprint, primary_fingerprint, signed_at_secs })
        }
        (None, Some(error)) => Err(error),
        (None, None) if signatures.is_empty() => Err(Error::NoSignature),
        (None, None) => Err(Error::UnknownKey { ids: unknown }),
    }
}

/// Verifies one signature with one key; returns the signature time.
fn judge(signature: &Signature, signer: &Signer<'_>, text: &[u8], now_unix: i64) -> Result<u32, Error> {
    let key = signer.fingerprint();
    if let Some(hash) = signature.hash_alg().filter(|hash| !is_strong(*hash)) {
        return Err(Error::WeakHash { key, hash: hash.to_string() });
    }
    let Some(created) = signature.created().filter(|_| is_sound(signature) && signature.typ() == Some(SignatureType::Text)) else {
        return Err(Error::UnknownKind { key });
    };
    if !signer.verify(signature, text) {
        return Err(Error::BadSignature { key });
    }
    let created = created.as_secs();
    match signer.may_sign(created) {
        Ok(()) => {}
        Err(Flaw::Revoked) => return Err(Error::RevokedKey { key }),
        Err(Flaw::NotAlive) => return Err(Error::ExpiredKey { key }),
        Err(Flaw::NotForSigning) => return Err(Error::NotForSigning { key }),
    }
    let lifetime = signature.signature_expiration_time().map_or(0, |lifetime| lifetime.as_secs());
    if lifetime != 0 && now_unix >= i64::from(created) + i64::from(lifetime) {
        return Err(Error::ExpiredSignature { key });
    }
    Ok(created)
}

/// Returns the claimed issuer of a signature, as precisely as known.
fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(|fingerprint| hex(fingerprint.as_bytes()));
    let id = || signature.issuer_key_id().first().map(|id| hex(id.as_ref()));
    fingerprint.or_else(id).unwrap_or_else(|| "(unnamed)".to_owned())
}

/// Splits a clearsigned message into its unescaped text and the armoured signatures.
fn split(message: &[u8]) -> Result<(String, &str), Error> {
    let message = std::str::from_utf8(message).map_err(|error| {
        let line = message[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        Error::Frame { line, reason: "not UTF-8" }
    })?;
    let mut lines = Lines { rest: message, number: 0 };
    if lines.next() != Some("-----BEGIN PGP SIGNED MESSAGE-----") {
        return Err(Error::NotSigned);
    }
    loop {
        match lines.next() {
            Some("") => break,
            Some(header) if header.starts_with("Hash: ") => {}
            _ => return Err(lines.error("expected a `Hash` header or an empty line")),
        }
    }
    let mut text: Vec<&str> = Vec::new();
    let armour = loop {
        let armour = lines.rest;
        let line = lines.next().ok_or(Error::NoSignature)?;
        if line == "-----BEGIN PGP SIGNATURE-----" {
            break armour;
        }
        if line.contains(['\r', '\0']) {
            return Err(lines.error("control character"));
        }
        match line.strip_prefix("- ") {
            Some(escaped) => text.push(escaped),
            None if line.starts_with('-') => return Err(lines.error("dash without escape")),
            None => text.push(line),
        }
    };
    loop {
        let line = lines.next().ok_or_else(|| Error::Armour { reason: "no end".to_owned() })?;
        if line == "-----END PGP SIGNATURE-----" {
            break;
        }
        if line.starts_with('-') {
            return Err(lines.error("unexpected block"));
        }
    }
    let armour = &armour[..armour.len() - lines.rest.len()];
    if lines.any(|line| !line.is_empty()) {
        return Err(lines.error("text after the signature"));
    }
    Ok((text.join("\n"), armour))
}

/// Iterates over lines without line ends and without trailing blanks, which the signature does not cover.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl Lines<'_> {
    fn error(&self, reason: &'static str) -> Error {
        Error::Frame { line: self.number, reason }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.number += 1;
        Some(line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t']))
    }
}

/// Parses the signature packets of an armoured block.
fn parse_signatures(armour: &str) -> Result<Vec<Signature>, Error> {
    let bad = |error: pgp::errors::Error| Error::Armour { reason: error.to_string() };
    let mut dearmor = Dearmor::new(armour.as_bytes());
    dearmor.read_header().map_err(bad)?;
    let mut signatures = Vec::new();
    for packet in PacketParser::new(std::io::BufReader::new(dearmor)) {
        match packet.map_err(bad)? {
            Packet::Signature(signature) => signatures.push(signature),
            _ => return Err(Error::Armour { reason: "a packet that is not a signature".to_owned() }),
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(Error::Armour { reason: format!("more than {MAX_SIGNATURES} signatures") });
        }
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use super::{Error, Verified, verify};
    use crate::keyring::Keyring;

    const KEYRING: &[u8] = include_bytes!("../../tests/golden/signature/keyring.asc");
    const PLAIN: &str = include_str!("../../tests/golden/signature/plain.asc");
    const TEXT: &str = "Origin: Test\nSuite: tiny\n- dashed\n-----BEGIN PGP SIGNATURE-----\ntrailing blanks\n\nCodename: tiny";
    /// 2026-01-01.
    const NOW: i64 = 1_767_225_600;

    fn check(message: &str) -> Result<Verified, Error> {
        verify(message.as_bytes(), &Keyring::parse(KEYRING).expect("fixture"), NOW)
    }

    #[test]
    fn returns_what_was_signed() {
        for message in [
            PLAIN,
            include_str!("../../tests/golden/signature/split.asc"),
            include_str!("../../tests/golden/signature/both.asc"),
            include_str!("../../tests/golden/signature/mortal.asc"),
            &PLAIN.replace('\n', "\r\n"),
            &PLAIN.replace("tiny\n", "tiny  \t\n"),
            &format!("{PLAIN}\n\n"),
        ] {
            let verified = check(message).expect(message);
            assert_eq!((verified.text.as_str(), verified.signed_at_secs / 86_400), (TEXT, 18_628), "{message}");
        }
        let split = check(include_str!("../../tests/golden/signature/split.asc")).expect("fixture");
        assert_ne!(split.fingerprint, split.primary_fingerprint, "a subkey has signed");
        let binary = Keyring::parse(include_bytes!("../../tests/golden/signature/keyring.bin")).expect("fixture");
        let verified = verify(PLAIN.as_bytes(), &binary, NOW).expect("fixture");
        assert_eq!((verified.fingerprint.len(), &verified.fingerprint), (40, &verified.primary_fingerprint));
    }

    #[test]
    fn judges_the_key() {
        let kind = |message: &str| match check(message).expect_err(message) {
            Error::UnknownKey { ids } if ids.len() == 1 && ids[0].len() == 40 => "unknown key",
            Error::ExpiredKey { .. } => "expired key",
            Error::RevokedKey { .. } => "revoked",
            Error::NotForSigning { .. } => "not for signing",
            Error::WeakHash { hash, .. } if hash == "SHA1" => "weak hash",
            Error::ExpiredSignature { .. } => "expired signature",
            error => panic!("{error:?}"),
        };
        for (message, expect) in [
            (include_str!("../../tests/golden/signature/stranger.asc"), "unknown key"),
            (include_str!("../../tests/golden/signature/late.asc"), "expired key"),
            (include_str!("../../tests/golden/signature/revoked.asc"), "revoked"),
            (include_str!("../../tests/golden/signature/certifier.asc"), "not for signing"),
            (include_str!("../../tests/golden/signature/weak.asc"), "weak hash"),
            (include_str!("../../tests/golden/signature/brief.asc"), "expired signature"),
        ] {
            assert_eq!(kind(message), expect);
        }
        let brief = include_bytes!("../../tests/golden/signature/brief.asc");
        assert!(verify(brief, &Keyring::parse(KEYRING).expect("fixture"), 1_610_000_000).is_ok(), "in its year");
    }

    #[test]
    fn refuses_any_tampering() {
        let (head, _) = PLAIN.split_once("-----BEGIN PGP SIGNATURE-----\n\n").expect("fixture");
        let signature = &PLAIN[head.len()..];
        let begin = "-----BEGIN PGP SIGNED MESSAGE-----\n";
        // Change, result, and the first words of the error message.
        for (what, message, expect) in [
            ("a word", PLAIN.replace("tiny", "tine"), "bad signature by "),
            ("a case", PLAIN.replace("Suite", "suite"), "bad signature by "),
            ("a line more", PLAIN.replace("Suite", "X: y\nSuite"), "bad signature by "),
            ("a line less", PLAIN.replace("Suite: tiny\n", ""), "bad signature by "),
            ("an empty line at the end", PLAIN.replace("Codename: tiny\n", "Codename: tiny\n\n"), "bad signature by "),
            ("a blank before", PLAIN.replace("Suite", " Suite"), "bad signature by "),
            ("escape doubled", PLAIN.replace("- - dashed", "- - - dashed"), "bad signature by "),
            ("escape taken", PLAIN.replace("- - dashed", "- dashed"), "bad signature by "),
            ("escape of a block taken", PLAIN.replace("- -----BEGIN", "-----BEGIN"), "bad signed file, line 11: unexpected block"),
            ("unescaped dash", PLAIN.replace("Suite", "-Suite"), "bad signed file, line 5: dash without escape"),
            ("a lone carriage return", PLAIN.replace("Suite", "Su\rite"), "bad signed file, line 5: control character"),
            ("text before", format!("X: y\n{PLAIN}"), "file is not signed"),
            ("an empty line before", format!("\n{PLAIN}"), "file is not signed"),
            ("text after", format!("{PLAIN}X: y\n"), "bad signed file, line 18: text after the signature"),
            ("two messages", format!("{PLAIN}{PLAIN}"), "bad signed file, line 18: text after the signature"),
            (
                "a second text inside",
                PLAIN.replace(begin, &format!("{begin}Hash: SHA256\n\nX: y\n{begin}")),
                "bad signed file, line 5: dash without escape",
            ),
            ("text as header", PLAIN.replacen("Hash:", "Origin: x\nHash:", 1), "bad signed file, line 2: expected"),
            ("no text", format!("{begin}\n{signature}"), "bad signature by "),
            ("no signature", head.to_owned(), "file has no signature"),
            ("plain text", TEXT.to_owned(), "file is not signed"),
            ("nothing", String::new(), "file is not signed"),
            ("empty armour", format!("{head}-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"), ""),
            ("no end of armour", PLAIN.replace("-----END PGP SIGNATURE-----\n", ""), "bad signature block: no end"),
            ("another's signature", include_str!("../../tests/golden/signature/both.asc").replace("tiny", "tine"), "bad signature by "),
        ] {
            let error = check(&message).expect_err(what).to_string();
            assert!(error.starts_with(expect), "{what}: {error}");
        }
        assert!(matches!(
            verify(b"-----BEGIN PGP SIGNED MESSAGE-----\n\n\xff", &Keyring::parse(KEYRING).expect("fixture"), NOW),
            Err(Error::Frame { line: 3, .. })
        ));
    }

    #[test]
    fn refuses_any_changed_byte_of_the_signature() {
        let start = PLAIN.find("-----BEGIN PGP SIGNATURE-----\n\n").expect("fixture") + 31;
        let end = PLAIN.find("\n-----END").expect("fixture");
        for at in start..end {
            let mut message = PLAIN.as_bytes().to_vec();
            message[at] = if message[at] == b'A' { b'B' } else { b'A' };
            // Unhashed parts are not covered by the signature. Some changes there only make the key unknown, or have no effect: then the
            // text must be the signed one.
            if let Ok(verified) = verify(&message, &Keyring::parse(KEYRING).expect("fixture"), NOW) {
                assert_eq!(verified.text, TEXT, "byte {at}");
            }
        }
    }
}
