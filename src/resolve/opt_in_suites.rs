//! Suites with packages that are used only on request, such as backports: `name/suite`.
//!
//! As with `apt-get install name/suite`, the named package has the version of that suite. A dependency comes from it only if no other suite
//! has a suitable version.

use std::collections::{BTreeMap, BTreeSet};

use crate::packages::{Error, Index, Package};
use crate::relation::{Operator, Relation};
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

/// Returns the highest version of a wanted package in a suite that the relation admits.
pub fn version_in<'a>(offers: &[SuiteIndex<'a>], architecture: &str, wanted: &Relation<'_>, suite: &str) -> Option<&'a str> {
    let of_suite = offers.iter().filter(|offer| offer.suite == suite).flat_map(|offer| &offer.index.packages);
    let fits =
        of_suite.filter(|package| package.name == wanted.name && is_for(package, architecture) && wanted.admits(Some(package.version)));
    fits.map(|package| package.version).max_by(|one, other| version::compare(one, other))
}

/// Removes all packages from the withheld indexes, except the named ones and their dependencies that no other suite satisfies.
pub fn withhold(offers: &mut [SuiteIndex<'_>], architecture: &str, named: &BTreeSet<&str>) -> Result<(), Error> {
    if offers.iter().all(|offer| !offer.is_withheld) {
        return Ok(());
    }
    let mut chosen: BTreeSet<String> = named.iter().map(|name| (*name).to_owned()).collect();
    {
        let of = |withheld: bool| {
            let offers = offers.iter().filter(move |offer| offer.is_withheld == withheld);
            offers.flat_map(|offer| &offer.index.packages).filter(|package| is_for(package, architecture))
        };
        let (free, withheld) = (offered(of(false))?, offered(of(true))?);
        let mut queue: Vec<String> = chosen.iter().cloned().collect();
        while let Some(next) = queue.pop() {
            for package in of(true).filter(|package| package.name == next) {
                for (field, text) in [("Pre-Depends", package.pre_depends), ("Depends", package.depends)] {
                    for clause in package.relations(field, text)? {
                        let is_there = clause.iter().any(|relation| fitting(&free, relation).is_some());
                        let taken = clause.iter().filter_map(|relation| fitting(&withheld, relation)).collect::<Vec<_>>();
                        if is_there || taken.iter().any(|name| chosen.contains(*name)) {
                            continue;
                        }
                        if let Some(first) = taken.first().filter(|first| chosen.insert((**first).to_owned())) {
                            queue.push((*first).to_owned());
                        }
                    }
                }
            }
        }
    }
    for offer in offers.iter_mut().filter(|offer| offer.is_withheld) {
        offer.index.packages.retain(|package| chosen.contains(package.name));
    }
    Ok(())
}

/// Names that packages have or provide, with the package and the version.
type Offered<'a> = BTreeMap<&'a str, Vec<(&'a str, Option<&'a str>)>>;

fn offered<'a, 'p>(packages: impl Iterator<Item = &'p Package<'a>>) -> Result<Offered<'a>, Error>
where
    'a: 'p,
{
    let mut offered = Offered::new();
    for package in packages {
        offered.entry(package.name).or_default().push((package.name, Some(package.version)));
        for provided in package.relations("Provides", package.provides)?.into_iter().flatten() {
            let version = provided.bound.filter(|(operator, _)| *operator == Operator::Equal).map(|(_, version)| version);
            offered.entry(provided.name).or_default().push((package.name, version));
        }
    }
    Ok(offered)
}

/// Returns the first package that satisfies a relation.
fn fitting<'a>(offered: &Offered<'a>, relation: &Relation<'_>) -> Option<&'a str> {
    let offers = offered.get(relation.name)?;
    offers.iter().find(|(_, version)| relation.admits(*version)).map(|(by, _)| *by)
}

fn is_for(package: &Package<'_>, architecture: &str) -> bool {
    package.architecture == architecture || package.architecture == "all"
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
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{depends}Filename: pool/x.deb\nSize: 1\nSHA256: {digest}\n\n"
            )
        };
        lines.lines().map(stanza).collect()
    }

    #[test]
    fn unused_packages_are_withheld() {
        let stable = text("a 1 <- lib\nlib 1\nother 1");
        let backports = text("a 2 <- lib (>= 2), other, new | lib\nlib 2 <- tool\ntool 2\nother 2\nnew 2\nmore 2");
        for (named, expect) in [(&["a"][..], "a lib tool"), (&["new"], "new"), (&[], "")] {
            let offer = |suite, text: &'static str, is_withheld| SuiteIndex {
                suite,
                is_withheld,
                index: parse(text.as_bytes()).expect("well formed"),
            };
            let leak = |text: &String| &*Box::leak(text.clone().into_boxed_str());
            let mut offers = [offer("s", leak(&stable), false), offer("b", leak(&backports), true)];
            withhold(&mut offers, "amd64", &named.iter().copied().collect()).expect("well formed");
            let left: Vec<&str> = offers[1].index.packages.iter().map(|package| package.name).collect();
            assert_eq!(left.join(" "), expect);
            assert_eq!(offers[0].index.packages.len(), 3);
        }
    }

    #[test]
    fn a_suite_has_a_package_in_its_highest_version() {
        let text = text("a 2\na 3\na 4");
        let offers = [SuiteIndex { suite: "b", is_withheld: true, index: parse(text.as_bytes()).expect("well formed") }];
        for (wanted, suite, expect) in
            [("a", "b", Some("4")), ("a (<< 4)", "b", Some("3")), ("a", "s", None), ("x", "b", None), ("a (>= 5)", "b", None)]
        {
            assert_eq!(version_in(&offers, "amd64", &parse_one(wanted).expect("a relation"), suite), expect, "{wanted}");
        }
    }
}
