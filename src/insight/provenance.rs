//! The provenance of an image as a predicate of SLSA, version 1: the inputs of its build by digest.
//!
//! The predicate follows from the image and its lock, so the same image gives the same bytes. A reader's input is hostile.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use silo_store::digest::Digest;

use silo_model::derivation::{self, DrvId};
use silo_sign::statement::{CYCLONEDX, Claim, PROVENANCE, SPDX};

use super::error::Error;
use super::image_view::ImageView;
use super::sbom::{self, Bill, cyclonedx, purl, spdx};

/// The type of Silo's builds. The parameters and dependencies have the meaning that docs/pushed-images.md describes.
const BUILD_TYPE: &str = "urn:silo:build:1";
/// The builder: Silo on a machine of the signer.
const BUILDER: &str = "urn:silo:builder";

/// The readable part of a provenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The digest of the lock.
    pub lock: Option<Digest>,
    /// The derivations of which the image is the result.
    pub derivations: BTreeSet<Digest>,
    /// Number of inputs.
    pub inputs: usize,
}

/// Returns the claims about an image: its bills of materials and its provenance.
pub fn claims(inside: &ImageView, lock: Option<&str>, derivations: &BTreeSet<DrvId>) -> Result<Vec<Claim>, Error> {
    let bill = sbom::bill(inside)?;
    Ok(vec![
        Claim { predicate_type: PROVENANCE, predicate: write(&bill, lock, derivations) },
        Claim { predicate_type: SPDX, predicate: spdx::write(&bill) },
        Claim { predicate_type: CYCLONEDX, predicate: cyclonedx::write(&bill) },
    ])
}

/// Renders the predicate.
fn write(bill: &Bill, lock: Option<&str>, derivations: &BTreeSet<DrvId>) -> Value {
    let mut parameters = json!({ "platform": format!("linux/{}", bill.arch), "tool": bill.name });
    if let Some(version) = &bill.version {
        parameters["version"] = json!(version);
    }
    let mut inputs = Vec::new();
    if let Some(lock) = lock {
        let digest = Digest::of(lock.as_bytes()).to_string();
        parameters["lock"] = json!({ "sha256": digest });
        inputs.push(json!({ "name": "silo.lock", "digest": { "sha256": digest } }));
    }
    inputs.extend(bill.packages.iter().map(|item| {
        let mut input = json!({ "name": item.name, "uri": purl::purl(&bill.distribution, item) });
        if let Some(digest) = &item.sha256 {
            input["digest"] = json!({ "sha256": digest });
        }
        input
    }));
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": parameters,
            "internalParameters": {
                "derivations": derivations.iter().map(DrvId::to_string).collect::<Vec<_>>(),
                "rules": derivation::rules(),
            },
            "resolvedDependencies": inputs,
        },
        "runDetails": { "builder": { "id": BUILDER, "version": { "silo": env!("CARGO_PKG_VERSION") } } },
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    build_definition: WrittenBuild,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenBuild {
    build_type: String,
    external_parameters: WrittenParameters,
    internal_parameters: WrittenInternals,
    resolved_dependencies: Vec<Value>,
}

#[derive(Deserialize)]
struct WrittenParameters {
    lock: Option<WrittenDigest>,
}

#[derive(Deserialize)]
struct WrittenDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct WrittenInternals {
    derivations: Vec<String>,
}

/// Parses the provenance of a build by Silo; `None` for other builds.
pub fn read(predicate: &Value) -> Option<Provenance> {
    let Written { build_definition: build } = Written::deserialize(predicate).ok()?;
    if build.build_type != BUILD_TYPE {
        return None;
    }
    Some(Provenance {
        lock: build.external_parameters.lock.map(|lock| Digest::parse(&lock.sha256)).transpose().ok()?,
        derivations: build.internal_parameters.derivations.iter().map(|text| Digest::parse(text)).collect::<Result<_, _>>().ok()?,
        inputs: build.resolved_dependencies.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provenance_is_read_back() {
        let bill = Bill {
            name: "x".to_owned(),
            version: None,
            image: Digest::of(b"image"),
            arch: "amd64".to_owned(),
            date: String::new(),
            distribution: sbom::Distribution::default(),
            packages: Vec::new(),
        };
        let drv = Digest::of(b"drv");
        let derivations = BTreeSet::from([DrvId::of_digest(drv)]);
        let predicate = write(&bill, Some("lock"), &derivations);
        let expect = Provenance { lock: Some(Digest::of(b"lock")), derivations: BTreeSet::from([drv]), inputs: 1 };
        assert_eq!(read(&predicate), Some(expect));
        assert_eq!(read(&write(&bill, None, &derivations)), Some(Provenance { lock: None, derivations: BTreeSet::from([drv]), inputs: 0 }));
        let mut other = predicate.clone();
        other["buildDefinition"]["buildType"] = json!("https://example.com/build");
        let mut wrong = predicate.clone();
        wrong["buildDefinition"]["externalParameters"]["lock"]["sha256"] = json!("no digest");
        let mut short = predicate;
        short["buildDefinition"].as_object_mut().expect("an object").remove("internalParameters");
        for text in [other, wrong, short, Value::Null, json!([])] {
            assert_eq!(read(&text), None, "{text}");
        }
    }
}
