//! Suites with packages that are used only on request, such as backports: `name/suite`.
//!
//! As with `apt-get install name/suite`, the named package has the version of that suite. A dependency comes from it only if no other suite
//! has a suitable version.

use std::collections::{BTreeMap, BTreeSet};

use crate::packages::{Error, Index, MultiArch, Package};
use crate::relation::{Operator, Qualifier, Relation};
use crate::version;

/// An index with its suite.
#[derive(Clone, Debug)]
pub struct SuiteIndex<'a> {
    /// The suite.
    pub suite: &'a str,
    /// True if its packages are used only if they are named, or needed by named ones.
    pub is_withheld: bool,
    /// The packages.
    pub index: Index<'a>,
}

/// A package name with an architecture.
pub type Named<'a> = (&'a str, &'a str);

/// Returns the highest version of a wanted package in a suite that the relation admits. `own` is the root's own architecture.
pub fn version_in<'a>(offers: &[SuiteIndex<'a>], own: &str, wanted: &Relation<'_>, suite: &str) -> Option<&'a str> {
    let of_suite = offers.iter().filter(|offer| offer.suite == suite).flat_map(|offer| &offer.index.packages);
    let named = named(wanted, own);
    let fits = of_suite.filter(|package| (package.name, architecture_of(package, own)) == named && wanted.admits(Some(package.version)));
    fits.map(|package| package.version).max_by(|one, other| version::compare(one, other))
}

/// Returns the name and the architecture of a requested package.
pub fn named<'a>(wanted: &Relation<'a>, own: &'a str) -> Named<'a> {
    match wanted.qualifier {
        Qualifier::Named(architecture) if architecture != "native" => (wanted.name, architecture),
        Qualifier::Named(_) | Qualifier::Own | Qualifier::Any => (wanted.name, own),
    }
}

/// Removes all packages from the withheld indexes, except the named ones and their dependencies that no other suite satisfies.
/// `architectures` has the root's own first.
pub fn withhold(offers: &mut [SuiteIndex<'_>], architectures: &[&str], named: &BTreeSet<Named<'_>>) -> Result<(), Error> {
    if offers.iter().all(|offer| !offer.is_withheld) {
        return Ok(());
    }
    let own = architectures.first().copied().unwrap_or_default();
    let owned = |(name, architecture): &Named<'_>| (name.to_string(), architecture.to_string());
    let mut chosen: BTreeSet<(String, String)> = named.iter().map(owned).collect();
    {
        let of = |withheld: bool| {
            let offers = offers.iter().filter(move |offer| offer.is_withheld == withheld);
            offers.flat_map(|offer| &offer.index.packages).filter(|package| architectures.contains(&architecture_of(package, own)))
        };
        let (free, withheld) = (offered(of(false), own)?, offered(of(true), own)?);
        let mut queue: Vec<(String, String)> = chosen.iter().cloned().collect();
        while let Some((name, architecture)) = queue.pop() {
            for package in of(true).filter(|package| package.name == name && architecture_of(package, own) == architecture) {
                for (field, text) in [("Pre-Depends", package.pre_depends), ("Depends", package.depends)] {
                    for clause in package.relations(field, text)? {
                        let fitting = |offered, relation| fitting(offered, relation, &architecture, own);
                        let is_there = clause.iter().any(|relation| fitting(&free, relation).is_some());
                        let taken = clause.iter().filter_map(|relation| fitting(&withheld, relation)).collect::<Vec<_>>();
                        if is_there || taken.iter().any(|named| chosen.contains(&owned(named))) {
                            continue;
                        }
                        if let Some(first) = taken.first().filter(|first| chosen.insert(owned(first))) {
                            queue.push(owned(first));
                        }
                    }
                }
            }
        }
    }
    for offer in offers.iter_mut().filter(|offer| offer.is_withheld) {
        offer.index.packages.retain(|package| chosen.contains(&owned(&(package.name, architecture_of(package, own)))));
    }
    Ok(())
}

/// Names that packages have or provide.
type Offered<'a> = BTreeMap<&'a str, Vec<Provider<'a>>>;

/// A package, with the version in which it has or provides a name.
struct Provider<'a> {
    named: Named<'a>,
    multi_arch: MultiArch,
    version: Option<&'a str>,
}

fn offered<'a, 'p>(packages: impl Iterator<Item = &'p Package<'a>>, own: &'a str) -> Result<Offered<'a>, Error>
where
    'a: 'p,
{
    let mut offered = Offered::new();
    for package in packages {
        let provider = |version| Provider { named: (package.name, architecture_of(package, own)), multi_arch: package.multi_arch, version };
        offered.entry(package.name).or_default().push(provider(Some(package.version)));
        for provided in package.relations("Provides", package.provides)?.into_iter().flatten() {
            let version = provided.bound.filter(|(operator, _)| *operator == Operator::Equal).map(|(_, version)| version);
            offered.entry(provided.name).or_default().push(provider(version));
        }
    }
    Ok(offered)
}

/// Returns the first package that satisfies a relation of a package of this architecture.
fn fitting<'a>(offered: &Offered<'a>, relation: &Relation<'_>, architecture: &str, own: &str) -> Option<Named<'a>> {
    let is_suitable = |provider: &&Provider<'_>| match relation.qualifier {
        Qualifier::Own => provider.named.1 == architecture || provider.multi_arch == MultiArch::Foreign,
        Qualifier::Any => true,
        Qualifier::Named("native") => provider.named.1 == own,
        Qualifier::Named(other) => provider.named.1 == other,
    };
    let offers = offered.get(relation.name)?;
    offers.iter().filter(is_suitable).find(|provider| relation.admits(provider.version)).map(|provider| provider.named)
}

/// Returns a package's architecture; a package for all counts as one of the root's own.
fn architecture_of<'a>(package: &Package<'a>, own: &'a str) -> &'a str {
    if package.architecture == "all" { own } else { package.architecture }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::parse;
    use crate::relation::parse_one;

    fn text(lines: &str) -> String {
        let stanza = |line: &str| {
            let (head, depends) = line.split_once(" <- ").unwrap_or((line, ""));
            let (name, version) = head.split_once(' ').expect("name and version");
            let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
            let digest = "0".repeat(64);
            let (name, architecture) = name.split_once(':').unwrap_or((name, "amd64"));
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{depends}Filename: pool/x.deb\nSize: 1\nSHA256: {digest}\n\n"
            )
        };
        lines.lines().map(stanza).collect()
    }

    #[test]
    fn unused_packages_are_withheld() {
        let stable = text("a 1 <- lib\nlib 1\nother 1");
        let backports =
            text("a 2 <- lib (>= 2), other, new | lib\nlib 2 <- tool\ntool 2\nother 2\nnew 2\nmore 2\na:i386 2 <- lib (>= 2)\nlib:i386 2");
        for (named, expect) in [
            (&[("a", "amd64")][..], "a:amd64 lib:amd64 tool:amd64"),
            (&[("new", "amd64")], "new:amd64"),
            (&[("a", "i386")], "a:i386 lib:i386"),
            (&[], ""),
        ] {
            let offer = |suite, text: &'static str, is_withheld| SuiteIndex {
                suite,
                is_withheld,
                index: parse(text.as_bytes()).expect("well formed"),
            };
            let leak = |text: &String| &*Box::leak(text.clone().into_boxed_str());
            let mut offers = [offer("s", leak(&stable), false), offer("b", leak(&backports), true)];
            withhold(&mut offers, &["amd64", "i386"], &named.iter().copied().collect()).expect("well formed");
            let left: Vec<String> = offers[1].index.packages.iter().map(|p| format!("{}:{}", p.name, p.architecture)).collect();
            assert_eq!(left.join(" "), expect);
            assert_eq!(offers[0].index.packages.len(), 3);
        }
    }

    #[test]
    fn a_suite_has_a_package_in_its_highest_version() {
        let text = text("a 2\na 3\na 4\na:i386 5");
        let offers = [SuiteIndex { suite: "b", is_withheld: true, index: parse(text.as_bytes()).expect("well formed") }];
        for (wanted, suite, expect) in [
            ("a", "b", Some("4")),
            ("a:i386", "b", Some("5")),
            ("a (<< 4)", "b", Some("3")),
            ("a", "s", None),
            ("x", "b", None),
            ("a (>= 5)", "b", None),
        ] {
            assert_eq!(version_in(&offers, "amd64", &parse_one(wanted).expect("a relation"), suite), expect, "{wanted}");
        }
    }
}
