//! Adds the host's CA certificates to the image's PEM bundle and Java keystore.

use std::collections::HashMap;

use memchr::memmem;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::java_keystore;

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";
/// Number of bytes at the end of a certificate's text that are compared first. They are of its signature, so they differ.
const TAIL_BYTES: usize = 32;

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
    for certificate in added {
        bundle.extend_from_slice(certificate);
        bundle.push(b'\n');
    }
    Some(bundle)
}

/// Returns an image's Java keystore with the host's certificates that the image's bundle lacks; `None` if there are none, or the keystore
/// has an unknown format.
pub fn merged_store(store: &[u8], image: &[u8], machine: &[u8]) -> Option<Vec<u8>> {
    let added = lacking(image, machine);
    // An invalid certificate is skipped, as Java's own importer does.
    let certificates: Vec<CertificateDer<'_>> = added.iter().filter_map(|pem| CertificateDer::from_pem_slice(pem).ok()).collect();
    let certificates: Vec<&[u8]> = certificates.iter().map(|certificate| certificate.as_ref()).collect();
    if certificates.is_empty() { None } else { java_keystore::with(store, &certificates) }
}

/// Returns the certificates of one bundle that another lacks, in their original text. Each start of a program with a network compares two
/// bundles of 200 KiB.
fn lacking<'a>(image: &'a [u8], machine: &'a [u8]) -> Vec<&'a [u8]> {
    if image == machine {
        // A shortcut for the many hosts that have the same bundle as the image.
        return Vec::new();
    }
    let mut known: HashMap<[u8; TAIL_BYTES], Vec<&[u8]>> = HashMap::new();
    for certificate in certificates(image) {
        known.entry(tail(certificate)).or_default().push(certificate);
    }
    let mut lacking = Vec::new();
    for certificate in certificates(machine) {
        let alike = known.entry(tail(certificate)).or_default();
        if !alike.iter().any(|other| is_same(other, certificate)) {
            alike.push(certificate);
            lacking.push(certificate);
        }
    }
    lacking
}

/// Finds the certificates of a bundle, from BEGIN to END line.
fn certificates(bundle: &[u8]) -> impl Iterator<Item = &[u8]> {
    memmem::find_iter(bundle, BEGIN).filter_map(|at| {
        let rest = &bundle[at..];
        Some(&rest[..memmem::find(rest, END)? + END.len()])
    })
}

/// Returns the end of a certificate's text, before the END line and without line breaks.
fn tail(certificate: &[u8]) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    let text = certificate[..certificate.len() - END.len()].iter().rev();
    for (to, from) in tail.iter_mut().zip(text.filter(|byte| !byte.is_ascii_whitespace())) {
        *to = *from;
    }
    tail
}

/// True if two certificates differ at most in their line breaks.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let letters = |text: &'_ [u8]| text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<u8>>();
    one == other || letters(one) == letters(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
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
        // The same end, another certificate; the same certificate with other line breaks, after it.
        let (long, alike) = (pem(&"A".repeat(70)), pem(&format!("B{}", "A".repeat(69))));
        assert_eq!(merged(long.as_bytes(), alike.as_bytes()).map(|all| all.len()), Some(long.len() + alike.len()));
        let both = format!("{long}{alike}");
        assert_eq!(merged(both.as_bytes(), pem(&format!("B{}\r\n{}", "A".repeat(9), "A".repeat(60))).as_bytes()), None);
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
