//! Adds the host's CA certificates to the image's PEM bundle and Java keystore.

use std::collections::HashSet;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::java_keystore;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Returns an image's bundle with the host's additional certificates appended; `None` if it has them all.
pub fn merged(image: &[u8], machine: &[u8]) -> Option<Vec<u8>> {
    let added = lacking(image, machine);
    if added.is_empty() {
        return None;
    }
    let mut bundle = image.to_vec();
    if !bundle.is_empty() && !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle.extend(added.concat().into_bytes());
    Some(bundle)
}

/// Returns an image's Java keystore with the host's certificates that the image's bundle lacks; `None` if there are none, or the keystore
/// has an unknown format.
pub fn merged_store(store: &[u8], image: &[u8], machine: &[u8]) -> Option<Vec<u8>> {
    let added = lacking(image, machine);
    // An invalid certificate is skipped, as Java's own importer does.
    let certificates: Vec<CertificateDer<'_>> =
        added.iter().filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()).collect();
    let certificates: Vec<&[u8]> = certificates.iter().map(|certificate| certificate.as_ref()).collect();
    if certificates.is_empty() { None } else { java_keystore::with(store, &certificates) }
}

/// Returns the certificates of one bundle that another lacks, in their original text.
fn lacking(image: &[u8], machine: &[u8]) -> Vec<String> {
    if image == machine {
        // A shortcut for the many hosts that have the same bundle as the image.
        return Vec::new();
    }
    let (image, machine) = (String::from_utf8_lossy(image), String::from_utf8_lossy(machine));
    let mut known: HashSet<String> = certificates(&image).map(body).collect();
    certificates(&machine).filter(|text| known.insert(body(text))).map(|text| format!("{text}\n")).collect()
}

/// Finds the certificates of a bundle, from BEGIN to END line.
fn certificates(bundle: &str) -> impl Iterator<Item = &str> {
    bundle.match_indices(BEGIN).filter_map(|(at, _)| {
        let rest = &bundle[at..];
        Some(&rest[..rest.find(END)? + END.len()])
    })
}

/// Returns the text of a certificate without line breaks, for comparison.
fn body(certificate: &str) -> String {
    certificate.split_ascii_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn only_missing_certificates_are_added() {
        let (one, other) = (pem("AAAA\nBBBB"), pem("CCCC"));
        let image = format!("# a comment\n{one}");
        assert_eq!(merged(image.as_bytes(), one.replace("AAAA\nBBBB", "AAAABBBB").as_bytes()), None);
        assert_eq!(merged(image.as_bytes(), b""), None);
        let both = merged(image.as_bytes(), format!("{other}{one}{other}").as_bytes()).expect("one is lacking");
        assert_eq!(String::from_utf8(both).expect("text"), format!("{image}{other}"));
        assert_eq!(merged(b"", other.as_bytes()).as_deref(), Some(other.as_bytes()));
        // A certificate without an END line is ignored.
        assert_eq!(merged(b"", b"-----BEGIN CERTIFICATE-----\nAAAA"), None);
    }

    #[test]
    fn javas_store_gets_the_same() {
        let store = java_keystore::empty();
        let machine = pem("AAAA");
        let merged = merged_store(&store, b"", machine.as_bytes()).expect("one is lacking");
        assert!(merged.len() > store.len() && java_keystore::dated(&merged, 0).is_some());
        assert_eq!(merged_store(&store, machine.as_bytes(), machine.as_bytes()), None);
        assert_eq!(merged_store(b"no store", b"", machine.as_bytes()), None);
    }
}
