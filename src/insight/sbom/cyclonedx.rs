//! Writes a bill of materials as CycloneDX 1.6.

use serde_json::{Value, json};

use super::{Bill, Item, MAKER, MAKER_VERSION, Maintainer, Origin, SUPPLIER, purl, uuid};

/// Renders a bill; equal bills give equal JSON.
pub fn write(bill: &Bill) -> Value {
    let refs: Vec<String> = bill.packages.iter().map(|item| purl::purl(&bill.distribution, item)).collect();
    let image = format!("sha256:{}", bill.image);
    let mut dependencies = vec![json!({ "ref": image, "dependsOn": refs })];
    for (item, own) in bill.packages.iter().zip(&refs) {
        let depends: Vec<&String> = item.depends.iter().filter_map(|other| refs.get(*other)).collect();
        dependencies.push(json!({ "ref": own, "dependsOn": depends }));
    }
    let components: Vec<Value> = bill.packages.iter().zip(&refs).map(|(item, own)| component(bill, item, own)).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid(&bill.image)),
        "version": 1,
        "metadata": {
            "timestamp": bill.date,
            "tools": { "components": [{ "type": "application", "name": MAKER, "version": MAKER_VERSION }] },
            "component": {
                "type": "container", "bom-ref": image, "name": bill.name, "supplier": { "name": SUPPLIER },
                "version": bill.version.clone().unwrap_or_else(|| bill.image.to_string()),
                "hashes": [{ "alg": "SHA-256", "content": bill.image.to_string() }],
                "properties": [{ "name": "silo:architecture", "value": bill.arch }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(bill: &Bill, item: &Item, own: &str) -> Value {
    let mut out = json!({ "type": "library", "bom-ref": own, "name": item.name, "version": item.version, "purl": own });
    match &item.origin {
        Origin::Distribution if !bill.distribution.name.is_empty() => out["supplier"] = json!({ "name": bill.distribution.name }),
        Origin::Elsewhere(Some(Maintainer { name, mail })) => {
            out["supplier"] = match mail {
                Some(mail) => json!({ "name": name, "contact": [{ "email": mail }] }),
                None => json!({ "name": name }),
            };
        }
        Origin::Distribution | Origin::Elsewhere(None) => {}
    }
    if let Some(summary) = &item.summary {
        out["description"] = json!(summary);
    }
    if let Some(license) = &item.license {
        out["licenses"] = json!([{ "expression": license.expression }]);
    }
    if let Some(digest) = &item.sha256 {
        out["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
    }
    if let Some(homepage) = &item.homepage {
        out["externalReferences"] = json!([{ "type": "website", "url": homepage }]);
    }
    if let Some((name, version)) = &item.source {
        out["properties"] = json!([{ "name": "silo:source", "value": format!("{name} {version}") }]);
    }
    out
}
