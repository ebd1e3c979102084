//! Reproducible Java keystore of certificates: sorted entries, dated with the build's epoch.
//!
//! ca-certificates-java writes `/etc/ssl/certs/java/cacerts` in the JKS format, which dates each entry with the time of its addition. The
//! format (OpenJDK's `sun.security.provider.JavaKeyStore`): magic, version, number of entries, entries, digest. An entry has a tag, a name,
//! milliseconds since 1970, and a certificate's type and bytes. The digest is the SHA-1 of a password, a fixed phrase and all preceding
//! bytes. Numbers are big-endian; strings have a two-byte length.

use sha1::{Digest, Sha1};

/// Path of the keystore of Debian's Java.
pub const PATH: &str = "etc/ssl/certs/java/cacerts";

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// The password of Debian's keystore: the documented default, which protects nothing.
const PASSWORD: &str = "changeit";
const PHRASE: &[u8] = b"Mighty Aphrodite";
const DIGEST_BYTES: usize = 20;
const KIND: &[u8] = b"X.509";

/// A certificate of a keystore.
struct Entry<'a> {
    name: &'a [u8],
    millis: u64,
    kind: &'a [u8],
    certificate: &'a [u8],
}

/// Rewrites a keystore with every entry dated `epoch`; `None` if it is not a certificate keystore with the default password.
pub fn dated(store: &[u8], epoch: i64) -> Option<Vec<u8>> {
    let millis = u64::try_from(epoch).ok()?.checked_mul(1000)?;
    let mut entries = read(store)?;
    entries.sort_by_key(|entry| (entry.name, entry.kind, entry.certificate));
    for entry in &mut entries {
        entry.millis = millis;
    }
    write(&entries)
}

/// Adds certificates to a keystore; `None` if it is not a certificate keystore with the default password.
pub fn with(store: &[u8], certificates: &[&[u8]]) -> Option<Vec<u8>> {
    let mut entries = read(store)?;
    let names: Vec<String> = (0..certificates.len()).map(|number| format!("silo-{number}")).collect();
    let added = names.iter().zip(certificates);
    entries.extend(added.map(|(name, certificate)| Entry { name: name.as_bytes(), millis: 0, kind: KIND, certificate }));
    write(&entries)
}

/// Returns an empty keystore.
#[cfg(test)]
pub fn empty() -> Vec<u8> {
    write(&[]).unwrap_or_default()
}

fn read(store: &[u8]) -> Option<Vec<Entry<'_>>> {
    let (body, digest) = store.split_at_checked(store.len().checked_sub(DIGEST_BYTES)?)?;
    if digest != seal(body) {
        return None;
    }
    let mut reader = Reader(body);
    if reader.number()? != MAGIC || reader.number()? != VERSION {
        return None;
    }
    let mut entries = Vec::new();
    for _ in 0..reader.number()? {
        if reader.number()? != TRUSTED_CERTIFICATE {
            return None;
        }
        let name = reader.text()?;
        let millis = reader.take(8)?.try_into().ok().map(u64::from_be_bytes)?;
        let kind = reader.text()?;
        let length = usize::try_from(reader.number()?).ok()?;
        entries.push(Entry { name, millis, kind, certificate: reader.take(length)? });
    }
    reader.0.is_empty().then_some(entries)
}

fn write(entries: &[Entry<'_>]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for number in [MAGIC, VERSION, u32::try_from(entries.len()).ok()?] {
        out.extend(number.to_be_bytes());
    }
    for entry in entries {
        out.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        push_text(&mut out, entry.name)?;
        out.extend(entry.millis.to_be_bytes());
        push_text(&mut out, entry.kind)?;
        out.extend(u32::try_from(entry.certificate.len()).ok()?.to_be_bytes());
        out.extend(entry.certificate);
    }
    let digest = seal(&out);
    out.extend(digest);
    Some(out)
}

fn seal(body: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hasher = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        hasher.update(unit.to_be_bytes());
    }
    hasher.update(PHRASE);
    hasher.update(body);
    hasher.finalize().into()
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    out.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend(text);
    Some(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.take(2)?.try_into().ok().map(u16::from_be_bytes)?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(entries: &[(&'static str, u64, &'static [u8])]) -> Vec<u8> {
        let entry = |(name, millis, certificate): &(&'static str, u64, &'static [u8])| Entry {
            name: name.as_bytes(),
            millis: *millis,
            kind: KIND,
            certificate,
        };
        let entries: Vec<Entry<'_>> = entries.iter().map(entry).collect();
        write(&entries).expect("short")
    }

    /// A keystore written by hand, in the form that Java's keytool reads.
    #[test]
    fn a_store_has_javas_form() {
        let body = b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\x01a\0\0\0\0\0\0\0\x07\0\x05X.509\0\0\0\x02cc";
        assert_eq!(store(&[("a", 7, b"cc")]), [&body[..], &seal(body)].concat());
    }

    #[test]
    fn certificates_are_added_behind_the_others() {
        let both = with(&store(&[("a", 1, b"A")]), &[b"B", b"C"]).expect("a store");
        assert_eq!(both, store(&[("a", 1, b"A"), ("silo-0", 0, b"B"), ("silo-1", 0, b"C")]));
    }

    #[test]
    fn order_and_dates_do_not_matter() {
        let one = dated(&store(&[("a", 1, b"A"), ("b", 2, b"B")]), 7).expect("a store");
        assert_eq!(one, dated(&store(&[("b", 9, b"B"), ("a", 8, b"A")]), 7).expect("a store"));
        assert_eq!(one, store(&[("a", 7000, b"A"), ("b", 7000, b"B")]));
        assert_ne!(one, dated(&store(&[("a", 1, b"A"), ("b", 2, b"C")]), 7).expect("a store"));
    }

    #[test]
    fn files_that_are_no_keystore_are_left_unchanged() {
        let good = store(&[("a", 1, b"A")]);
        for cut in 0..good.len() {
            assert_eq!(dated(&good[..cut], 7), None, "{cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(dated(&bad, 7), None, "{at}");
        }
    }
}
