//! Statements in the form of in-toto: something is true about the objects with these digests. The input is hostile.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use silo_store::digest::Digest;

/// The type of a statement.
const TYPE: &str = "https://in-toto.io/Statement/v1";
/// The media type of a statement in a signed envelope.
pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate of a plain signature, as cosign writes it.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// The predicate of provenance in SLSA, version 1.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// The predicate of a bill of materials in SPDX.
pub const SPDX: &str = "https://spdx.dev/Document";
/// The predicate of a bill of materials in CycloneDX.
pub const CYCLONEDX: &str = "https://cyclonedx.org/bom";
/// The most subjects of a statement that is read.
const MAX_SUBJECTS: usize = 1000;
/// The most bytes of the name of a claim's kind, which is an address.
const MAX_TYPE_BYTES: usize = 512;

/// A claim about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The kind of the claim.
    pub predicate_type: &'static str,
    /// The claim.
    pub predicate: Value,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The digests of its objects.
    pub subjects: Vec<Digest>,
    /// The kind of the claim.
    pub predicate_type: String,
    /// The claim.
    pub predicate: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<WrittenSubject>,
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct WrittenSubject {
    digest: BTreeMap<String, String>,
}

/// Encodes a statement about one digest, with sorted keys.
pub fn write(subject: Digest, predicate_type: &str, predicate: &Value) -> Vec<u8> {
    let subject = json!({ "digest": { "sha256": subject.to_string() } });
    json!({ "_type": TYPE, "subject": [subject], "predicateType": predicate_type, "predicate": predicate }).to_string().into_bytes()
}

/// Decodes a statement; the error says what is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Statement, String> {
    let written: Written = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if written.kind != TYPE {
        return Err("it is not a statement of a known version".to_owned());
    }
    if written.subject.len() > MAX_SUBJECTS {
        return Err(format!("it has {} subjects; at most {MAX_SUBJECTS} are taken", written.subject.len()));
    }
    if written.predicate_type.len() > MAX_TYPE_BYTES {
        return Err(format!("the kind of its claim has {} bytes; at most {MAX_TYPE_BYTES} are taken", written.predicate_type.len()));
    }
    let digest = |subject: &WrittenSubject| Digest::parse(subject.digest.get("sha256")?).ok();
    let subjects = written.subject.iter().filter_map(digest).collect();
    Ok(Statement { subjects, predicate_type: written.predicate_type, predicate: written.predicate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_read_back() {
        let digest = Digest::of(b"x");
        let text = write(digest, SIGNED, &json!({}));
        let statement = Statement { subjects: vec![digest], predicate_type: SIGNED.to_owned(), predicate: json!({}) };
        assert_eq!(read(&text), Ok(statement));
        let text = String::from_utf8(text).expect("JSON");
        let long = text.replace(SIGNED, &"x".repeat(MAX_TYPE_BYTES + 1));
        for wrong in [String::new(), text.replace("Statement/v1", "Statement/v2"), text.replace("subject", "object"), long] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        // A digest of another algorithm is no subject.
        assert_eq!(read(text.replace("sha256", "md5").as_bytes()).expect("a statement").subjects, []);
    }
}
