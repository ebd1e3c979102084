//! Package URLs (ECMA-427), the package names that scanners use.

use std::fmt::Write;

use super::{Distribution, Item, Origin};

/// Returns the package URL of a package. Packages from outside the distribution's archive are of type `generic`, since no registry has
/// them.
pub fn purl(distribution: &Distribution, item: &Item) -> String {
    let (name, version) = (escaped(&item.name), escaped(&item.version));
    let Some(architecture) = &item.architecture else { return format!("pkg:generic/{name}@{version}") };
    if item.origin != Origin::Distribution || distribution.id.is_empty() {
        return format!("pkg:generic/{name}@{version}?arch={}", escaped(architecture));
    }
    let mut out = format!("pkg:deb/{}/{name}@{version}?arch={}", escaped(&distribution.id), escaped(architecture));
    if !distribution.codename.is_empty() {
        out.push_str("&distro=");
        out.push_str(&escaped(&distribution.codename));
    }
    out
}

/// Percent-encodes every byte except letters, digits, `.`, `-`, `_`, `~` and `:`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn reserved_characters_are_escaped() {
        for (text, expect) in [
            ("libstdc++6", "libstdc%2B%2B6"),
            ("1:2.0~rc1+dfsg-1", "1:2.0~rc1%2Bdfsg-1"),
            ("@scope/name", "%40scope%2Fname"),
            ("ä b%", "%C3%A4%20b%25"),
        ] {
            assert_eq!(escaped(text), expect);
        }
    }
}
