//! Converts the licenses of a machine-readable copyright file (DEP-5) to an SPDX expression.
//!
//! Debian's short names differ from SPDX's. Names with a known equivalent are translated. Every other name becomes a `LicenseRef-`, which
//! states only that the text is in the package.

use std::collections::BTreeSet;

/// An SPDX expression, with its names that SPDX does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    /// The expression.
    pub expression: String,
    /// The `LicenseRef-` names, each with Debian's name.
    pub references: BTreeSet<(String, String)>,
}

/// Debian's names with a different SPDX name; GNU's licenses are translated by rule.
const NAMES: [(&str, &str); 14] = [
    ("apache-2", "Apache-2.0"),
    ("artistic", "Artistic-1.0"),
    ("artistic-2", "Artistic-2.0"),
    ("bsd-2", "BSD-2-Clause"),
    ("bsd-3", "BSD-3-Clause"),
    ("bsd-4-clause-uc", "BSD-4-Clause-UC"),
    ("cc0", "CC0-1.0"),
    ("expat", "MIT"),
    ("mit/x11", "MIT"),
    ("mpl-2", "MPL-2.0"),
    ("psf-2", "PSF-2.0"),
    ("python-2", "Python-2.0"),
    ("unicode-dfs-2016", "Unicode-DFS-2016"),
    ("zlib/libpng", "Zlib"),
];

/// Parses a copyright file; `None` if it is not machine-readable, or has no license.
pub fn read(text: &str) -> Option<License> {
    let header = text.trim_start().lines().next()?;
    let is_for_machines = header.starts_with("Format:") || header.starts_with("Format-Specification:");
    if !is_for_machines {
        return None;
    }
    let mut references = BTreeSet::new();
    let mut parts = BTreeSet::new();
    for paragraph in text.split("\n\n") {
        // Paragraphs without files only quote the texts of licenses.
        let fields = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if fields("Files:").is_none() && fields("Format:").is_none() {
            continue;
        }
        if let Some(license) = fields("License:").filter(|license| !license.is_empty()) {
            parts.insert(expression(license, &mut references));
        }
    }
    // Parenthesise alternatives if several licenses hold together.
    let is_several = parts.len() > 1;
    let parts = parts.into_iter().map(|part| if is_several && part.contains(" OR ") { format!("({part})") } else { part });
    let expression = parts.collect::<Vec<_>>().join(" AND ");
    (!expression.is_empty()).then_some(License { expression, references })
}

/// Translates Debian's `A and B or C`; `and` binds more closely than `or`, and a comma less closely than both.
fn expression(license: &str, references: &mut BTreeSet<(String, String)>) -> String {
    let words: Vec<&str> = license.split_whitespace().collect();
    let alternatives = words.split(|word| word.eq_ignore_ascii_case("or"));
    let one = |words: &[&str], references: &mut BTreeSet<(String, String)>| -> Option<String> {
        let name = words.join(" ");
        let name = name.trim_matches(',').trim();
        (!name.is_empty()).then(|| id(name, references))
    };
    // A comma changes the grouping, so the whole phrase is kept as one name.
    if license.contains(',') {
        return id(license, references);
    }
    let alternatives: Vec<String> = alternatives
        .filter_map(|words| {
            let all: Vec<String> =
                words.split(|word| word.eq_ignore_ascii_case("and")).filter_map(|words| one(words, references)).collect();
            (!all.is_empty()).then(|| all.join(" AND "))
        })
        .collect();
    alternatives.join(" OR ")
}

/// Translates one name.
fn id(name: &str, references: &mut BTreeSet<(String, String)>) -> String {
    let lower = name.to_ascii_lowercase();
    let known = NAMES.iter().find(|(debian, _)| *debian == lower).map(|(_, spdx)| (*spdx).to_owned());
    if let Some(id) = known.or_else(|| gnu(&lower)).filter(|id| listed(id).is_some()).or_else(|| listed(name).map(str::to_owned)) {
        return id;
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let reference: String = name.chars().map(plain).take(80).collect();
    let reference = format!("LicenseRef-Debian-{}", reference.trim_matches('-'));
    references.insert((reference.clone(), name.to_owned()));
    reference
}

/// Translates a GNU license: `gpl-2+` is `GPL-2.0-or-later`, `gfdl-niv-1.3` is `GFDL-1.3-no-invariants-only`.
fn gnu(name: &str) -> Option<String> {
    let (name, suffix) = match name.strip_suffix('+').or_else(|| name.strip_suffix("-or-later")) {
        Some(name) => (name, "or-later"),
        None => (name.strip_suffix("-only").unwrap_or(name), "only"),
    };
    let (family, version) = name.rsplit_once('-')?;
    let version = if version.contains('.') { version.to_owned() } else { format!("{version}.0") };
    let family = match family {
        "gpl" | "lgpl" | "agpl" => family.to_ascii_uppercase(),
        "gfdl" => "GFDL".to_owned(),
        "gfdl-niv" => return Some(format!("GFDL-{version}-no-invariants-{suffix}")),
        _ => return None,
    };
    Some(format!("{family}-{version}-{suffix}"))
}

/// Returns SPDX's spelling of an id, if it is listed and not deprecated.
fn listed(name: &str) -> Option<&'static str> {
    let found = spdx::identifiers::LICENSES.iter().find(|license| license.name.eq_ignore_ascii_case(name))?;
    let id = spdx::license_id(found.name)?;
    (!id.is_deprecated()).then_some(id.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        for (debian, expect) in [
            ("GPL-2+", "GPL-2.0-or-later"),
            ("GPL-3.0", "GPL-3.0-only"),
            ("LGPL-2.1+", "LGPL-2.1-or-later"),
            ("GPL-1+ or Artistic", "GPL-1.0-or-later OR Artistic-1.0"),
            ("Expat", "MIT"),
            ("BSD-3-clause and GPL-2 or zlib", "BSD-3-Clause AND GPL-2.0-only OR Zlib"),
            ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
            ("public-domain", "LicenseRef-Debian-public-domain"),
            ("GPL-3+ with Bison exception", "LicenseRef-Debian-GPL-3--with-Bison-exception"),
            ("GPL", "LicenseRef-Debian-GPL"),
            ("a, and b", "LicenseRef-Debian-a--and-b"),
        ] {
            let mut references = BTreeSet::new();
            let got = expression(debian, &mut references);
            assert_eq!(got, expect);
            spdx::Expression::parse(&got).unwrap_or_else(|error| panic!("{got}: {error}"));
        }
    }

    #[test]
    fn only_machine_readable_copyright_files_are_parsed() {
        assert_eq!(read("This is free software.\nLicense: GPL-2+\n"), None);
        let text = "Format: https://example.com/copyright-format/1.0/\n\nFiles: *\nCopyright: x\nLicense: GPL-2+ or Expat\n text\n\n\
            Files: a\nLicense: ISC\n\nLicense: Apache-2.0\n text\n";
        let license = read(text).expect("licenses");
        assert_eq!(license.expression, "(GPL-2.0-or-later OR MIT) AND ISC");
        assert_eq!(read("Format: x\n\nFiles: *\nCopyright: x\n"), None);
    }
}
