//! A Java key store of certificates with the same bytes each time: entries in order, dated with the build's epoch.
//!
//! ca-certificates-java writes `/etc/ssl/certs/java/cacerts` in the JKS format, in which each entry is dated with the
//! moment it was added. The format (OpenJDK's `sun.security.provider.JavaKeyStore`): magic, version, count; then for each
//! entry a tag, a name, milliseconds since 1970, and a certificate's type and bytes; then a SHA-1 of a password, a fixed
//! phrase and all that. Every number is big-endian; texts have a length of two bytes.

use sha1::{Digest, Sha1};

/// Where Debian's Java looks for certificates.
pub const PATH: &str = "etc/ssl/certs/java/cacerts";

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// The password of Debian's store, which protects nothing: it is the documented default.
const PASSWORD: &str = "changeit";
const PHRASE: &[u8] = b"Mighty Aphrodite";
const DIGEST_BYTES: usize = 20;

/// Rewrites a store with every entry dated `epoch`; `None` where it is not a store of certificates with the usual password.
pub fn dated(store: &[u8], epoch: i64) -> Option<Vec<u8>> {
    let (body, digest) = store.split_at_checked(store.len().checked_sub(DIGEST_BYTES)?)?;
    if digest != seal(body) {
        return None;
    }
    let mut reader = Reader(body);
    if reader.number()? != MAGIC || reader.number()? != VERSION {
        return None;
    }
    let count = reader.number()?;
    let millis = u64::try_from(epoch).ok()?.checked_mul(1000)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        if reader.number()? != TRUSTED_CERTIFICATE {
            return None;
        }
        let name = reader.text()?;
        reader.take(8)?;
        let kind = reader.text()?;
        let length = usize::try_from(reader.number()?).ok()?;
        entries.push((name, kind, reader.take(length)?));
    }
    if !reader.0.is_empty() {
        return None;
    }
    entries.sort();
    let mut out = Vec::with_capacity(store.len());
    for number in [MAGIC, VERSION, count] {
        out.extend(number.to_be_bytes());
    }
    for (name, kind, certificate) in entries {
        out.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        push_text(&mut out, name)?;
        out.extend(millis.to_be_bytes());
        push_text(&mut out, kind)?;
        out.extend(u32::try_from(certificate.len()).ok()?.to_be_bytes());
        out.extend(certificate);
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

    fn store(entries: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [MAGIC, VERSION, entries.len() as u32] {
            out.extend(number.to_be_bytes());
        }
        for (name, millis, certificate) in entries {
            out.extend(TRUSTED_CERTIFICATE.to_be_bytes());
            push_text(&mut out, name.as_bytes()).expect("short");
            out.extend(millis.to_be_bytes());
            push_text(&mut out, b"X.509").expect("short");
            out.extend((certificate.len() as u32).to_be_bytes());
            out.extend(*certificate);
        }
        let digest = seal(&out);
        out.extend(digest);
        out
    }

    #[test]
    fn order_and_dates_do_not_matter() {
        let one = dated(&store(&[("a", 1, b"A"), ("b", 2, b"B")]), 7).expect("a store");
        assert_eq!(one, dated(&store(&[("b", 9, b"B"), ("a", 8, b"A")]), 7).expect("a store"));
        assert_eq!(one, store(&[("a", 7000, b"A"), ("b", 7000, b"B")]));
        assert_ne!(one, dated(&store(&[("a", 1, b"A"), ("b", 2, b"C")]), 7).expect("a store"));
    }

    #[test]
    fn what_is_no_store_is_left_alone() {
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
