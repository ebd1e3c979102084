//! A requested package as written: `name`, with a version (`name=1.2`, `name (>= 1.2)`), from one suite only (`name/trixie-backports`), for
//! a foreign architecture (`name:i386`), or on one architecture only (`name [arm64]`).

use silo_base::system::Arch;

/// Version operators, longer ones first.
const OPERATORS: [&str; 5] = ["<<", "<=", ">=", ">>", "="];

/// Debian's architectures.
const ARCHITECTURES: [&str; 9] = ["amd64", "arm64", "armel", "armhf", "i386", "mips64el", "ppc64el", "riscv64", "s390x"];

/// The parts of a requested package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageSpec<'a> {
    /// Package name.
    pub name: &'a str,
    /// Architecture of the package, if it is not the root's own.
    pub of: Option<&'a str>,
    /// Required suite.
    pub suite: Option<&'a str>,
    /// Operator and version of the bound.
    pub bound: Option<(&'a str, &'a str)>,
    /// Architecture of the root on which the package is requested; `None` for all.
    pub on: Option<&'a str>,
}

impl PackageSpec<'_> {
    /// Returns true if a root of this architecture gets the package. One of a foreign architecture is only for roots that may have it, see
    /// [`Arch::foreign`].
    pub fn is_for(&self, arch: Arch) -> bool {
        // One of the other 64-bit architecture is that root's own, so it must name the root that has it as a foreign one.
        let is_named = |of: &str| self.on.is_some() || of.parse::<Arch>().is_err();
        self.on.is_none_or(|on| on == arch.name()) && self.of.is_none_or(|of| arch.foreign().contains(&of) && is_named(of))
    }
}

/// Parses a requested package; `None` if the text is invalid.
pub fn parse(text: &str) -> Option<PackageSpec<'_>> {
    let (text, on) = for_arch(text);
    if on.is_some_and(|on| Arch::ALL.iter().all(|known| known.name() != on)) {
        return None;
    }
    let end = text.find([' ', '(', '<', '>', '=']).unwrap_or(text.len());
    let (head, bound) = text.split_at(end);
    let (head, suite) = head.split_once('/').map_or((head, None), |(head, suite)| (head, Some(suite)));
    let (name, of) = head.split_once(':').map_or((head, None), |(name, of)| (name, Some(of)));
    let bound = match bound.trim() {
        "" => None,
        bound => Some(parse_bound(bound)?),
    };
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && name.chars().all(rest);
    let is_suite = suite.is_none_or(|suite| suite.starts_with(|c: char| c.is_ascii_alphanumeric()) && suite.chars().all(plain));
    let is_known = of.is_none_or(|of| ARCHITECTURES.contains(&of));
    (is_name && is_suite && is_known).then_some(PackageSpec { name, of, suite, bound, on })
}

fn parse_bound(text: &str) -> Option<(&str, &str)> {
    let inside = match text.strip_prefix('(') {
        Some(inside) => inside.strip_suffix(')')?.trim(),
        None => text,
    };
    let (operator, version) = OPERATORS.iter().find_map(|operator| Some((*operator, inside.strip_prefix(operator)?.trim())))?;
    let versions = |c: char| c.is_ascii_alphanumeric() || ".+-~:".contains(c);
    (version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(versions)).then_some((operator, version))
}

/// Splits the architecture off a requested package, if there is one: `name [arm64]`.
pub fn for_arch(text: &str) -> (&str, Option<&str>) {
    match text.strip_suffix(']').and_then(|rest| rest.split_once(" [")) {
        Some((package, arch)) => (package, Some(arch)),
        None => (text, None),
    }
}

/// True if a text is a requested package.
pub fn is_package(text: &str) -> bool {
    // Debian policy requires at least two characters.
    parse(text).is_some_and(|wanted| wanted.name.len() >= 2)
}

/// Returns the name of a requested package as in locks: with its architecture, if foreign.
pub fn name(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.:".contains(c)).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_packages_are_parted() {
        let wanted = PackageSpec { name: "jq", of: None, suite: None, bound: None, on: None };
        for (text, expect) in [
            ("jq", wanted),
            ("jq=1.6-2.1", PackageSpec { bound: Some(("=", "1.6-2.1")), ..wanted }),
            ("jq (>= 1:1.6~rc1)", PackageSpec { bound: Some((">=", "1:1.6~rc1")), ..wanted }),
            ("jq >= 1.6", PackageSpec { bound: Some((">=", "1.6")), ..wanted }),
            ("jq<<2", PackageSpec { bound: Some(("<<", "2")), ..wanted }),
            ("jq [arm64]", PackageSpec { on: Some("arm64"), ..wanted }),
            ("jq/trixie-backports", PackageSpec { suite: Some("trixie-backports"), ..wanted }),
            (
                "jq:i386/sid (<= 2) [amd64]",
                PackageSpec { of: Some("i386"), suite: Some("sid"), bound: Some(("<=", "2")), on: Some("amd64"), ..wanted },
            ),
        ] {
            assert_eq!(parse(text), Some(expect), "{text}");
        }
        let archs = |text: &str| Arch::ALL.into_iter().filter(|arch| parse(text).is_some_and(|wanted| wanted.is_for(*arch))).count();
        for (text, expect) in [
            ("jq", 2),
            ("jq [arm64]", 1),
            ("jq:i386", 1),
            ("jq:armhf", 1),
            ("jq:i386 [arm64]", 0),
            ("jq:amd64", 0),
            ("jq:arm64 [amd64]", 1),
            ("jq:arm64 [arm64]", 0),
            ("jq:s390x", 0),
        ] {
            assert_eq!(archs(text), expect, "{text}");
        }
        for wrong in ["", "-o", "a b", "jq=", "jq= a", "jq (1)", "jq (>= 1", "jq >> ", "jq [vax]", "jq:vax", "jq/", "jq/../x", "../x", "JQ"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        for (text, expect) in [("jq:i386/sid", "jq:i386"), ("g++=1", "g++"), ("lua5.3 (>= 1)", "lua5.3"), ("jq [arm64]", "jq")] {
            assert_eq!(name(text), expect);
        }
    }
}
