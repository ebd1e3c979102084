//! Writes a bill of materials as SPDX 2.3.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::{Bill, Item, MAKER, MAKER_VERSION, Maintainer, Origin, SUPPLIER, purl, uuid};

/// SPDX's value for unknown fields.
const NOTHING: &str = "NOASSERTION";
/// The image's id in the document.
const IMAGE: &str = "SPDXRef-Image";

/// Renders a bill; equal bills give equal JSON.
pub fn write(bill: &Bill) -> Value {
    let ids: Vec<String> = bill.packages.iter().map(id).collect();
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE)];
    relationships.extend(ids.iter().map(|id| relationship(IMAGE, "CONTAINS", id)));
    for (item, id) in bill.packages.iter().zip(&ids) {
        relationships.extend(item.depends.iter().filter_map(|other| ids.get(*other)).map(|other| relationship(id, "DEPENDS_ON", other)));
    }
    let packages = bill.packages.iter().zip(&ids).map(|(item, id)| package(bill, item, id));
    let packages: Vec<Value> = std::iter::once(image(bill)).chain(packages).collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.name,
        "documentNamespace": format!("urn:uuid:{}", uuid(&bill.image)),
        "creationInfo": { "created": bill.date, "creators": [format!("Tool: {MAKER}-{MAKER_VERSION}")] },
        "packages": packages,
        "hasExtractedLicensingInfos": references(bill),
        "relationships": relationships,
    })
}

fn image(bill: &Bill) -> Value {
    json!({
        "SPDXID": IMAGE,
        "name": bill.name,
        "versionInfo": bill.version.clone().unwrap_or_else(|| bill.image.to_string()),
        "supplier": format!("Organization: {SUPPLIER}"),
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        // As in OCI, the id is the digest of the image's configuration.
        "checksums": [{ "algorithm": "SHA256", "checksumValue": bill.image.to_string() }],
        "comment": format!("OCI image configuration, architecture {}", bill.arch),
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
    })
}

fn package(bill: &Bill, item: &Item, id: &str) -> Value {
    let mut out = json!({
        "SPDXID": id,
        "name": item.name,
        "versionInfo": item.version,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": item.license.as_ref().map_or(NOTHING, |license| license.expression.as_str()),
        "copyrightText": NOTHING,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl::purl(&bill.distribution, item),
        }],
    });
    out["supplier"] = json!(supplier(bill, item));
    if let Some((name, version)) = &item.source {
        out["sourceInfo"] = json!(format!("built from the source package {name} {version}"));
    }
    if let Some(digest) = &item.sha256 {
        out["checksums"] = json!([{ "algorithm": "SHA256", "checksumValue": digest }]);
    }
    for (key, value) in [("summary", &item.summary), ("homepage", &item.homepage)] {
        if let Some(value) = value {
            out[key] = json!(value);
        }
    }
    out
}

/// Returns the supplier of a package: the distribution, or the maintainer.
fn supplier(bill: &Bill, item: &Item) -> String {
    match &item.origin {
        Origin::Distribution if !bill.distribution.name.is_empty() => format!("Organization: {}", bill.distribution.name),
        Origin::Elsewhere(Some(Maintainer { name, mail: Some(mail) })) => format!("Person: {name} ({mail})"),
        Origin::Elsewhere(Some(Maintainer { name, mail: None })) => format!("Person: {name}"),
        Origin::Distribution | Origin::Elsewhere(None) => NOTHING.to_owned(),
    }
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to })
}

/// Lists the licenses that SPDX does not have; their texts are in the packages.
fn references(bill: &Bill) -> Vec<Value> {
    let mut packages: BTreeMap<&(String, String), Vec<&str>> = BTreeMap::new();
    for item in &bill.packages {
        for reference in item.license.iter().flat_map(|license| &license.references) {
            packages.entry(reference).or_default().push(&item.name);
        }
    }
    // Different names can give the same reference; it is listed once.
    let mut told: BTreeMap<&str, Value> = BTreeMap::new();
    for ((reference, name), packages) in packages {
        let files: Vec<String> = packages.iter().map(|package| format!("/usr/share/doc/{package}/copyright")).collect();
        let text = format!("The text is in the image: {}", files.join(", "));
        told.entry(reference).or_insert_with(|| json!({ "licenseId": reference, "name": name, "extractedText": text }));
    }
    told.into_values().collect()
}

/// Returns the id of a package in the document: letters, digits, `.` and `-` only.
fn id(item: &Item) -> String {
    let mut out = String::from("SPDXRef-Package-");
    for byte in format!("{}-{}", item.name, item.architecture.as_deref().unwrap_or("other")).bytes() {
        if byte.is_ascii_alphanumeric() || b".-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, ".{byte:02X}");
        }
    }
    out
}
