//! The packages available to a solve: one candidate for each name, and the providers of each name.
//!
//! As in apt, only the *candidate* of a name can be installed: its highest version over all indexes (of equal ones, that of the earlier
//! index), unless the request pins another. All lookups by name happen here, so the walk and the solver only use ids.

use std::cell::OnceCell;
use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::packages::{Error, Index, MultiArch, Package};
use crate::relation::{Qualifier, Relation};
use crate::version;

/// The id of a candidate in its universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

impl Id {
    /// Returns the id as an index into a table of all candidates.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The relation fields in apt's processing order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Pre-Depends`
    PreDepends,
    /// `Depends`
    Depends,
    /// `Conflicts`
    Conflicts,
    /// `Breaks`
    Breaks,
    /// `Recommends`
    Recommends,
    /// `Suggests`: never installed for its own sake, but keeps an installed package.
    Suggests,
}

impl Kind {
    /// Returns true if the targets must be absent.
    pub fn is_negative(self) -> bool {
        matches!(self, Kind::Conflicts | Kind::Breaks)
    }

    /// Returns true if an unsatisfied clause breaks the package.
    pub fn is_critical(self) -> bool {
        !matches!(self, Kind::Recommends | Kind::Suggests)
    }
}

/// One clause of a package's relations.
#[derive(Debug)]
pub struct Clause<'a> {
    /// The field of the clause.
    pub kind: Kind,
    /// The alternatives, left to right; a negative clause has one.
    pub members: Vec<Member<'a>>,
}

/// One alternative and its targets.
#[derive(Debug)]
pub struct Member<'a> {
    /// The parsed relation.
    pub relation: Relation<'a>,
    /// The candidates that satisfy it, apt's first choice first.
    pub targets: Vec<Id>,
    /// The candidates that have or provide the name in any version.
    pub touching: Vec<Id>,
}

/// All candidates of one architecture.
pub struct Universe<'a> {
    indexes: &'a [Index<'a>],
    architecture: &'a str,
    candidates: Vec<Candidate<'a>>,
    by_name: Names<'a, Id>,
    providers: Providers<'a>,
    clauses: Vec<OnceCell<Vec<Clause<'a>>>>,
    mentions: OnceCell<Vec<u32>>,
}

/// A table by name. Only for lookups, so its order does not affect the result.
type Names<'a, T> = HashMap<&'a str, T, BuildHasherDefault<NameHasher>>;

/// The providers of a name, with the provided version.
type Providers<'a> = Names<'a, Vec<(Id, Option<&'a str>)>>;

/// A candidate, with flags set by any version of its name.
struct Candidate<'a> {
    package: &'a Package<'a>,
    admitted: bool,
    essential: bool,
    protected: bool,
}

impl<'a> Universe<'a> {
    /// Selects the candidates. `pins` restrict the versions of single names.
    pub fn new(indexes: &'a [Index<'a>], architecture: &'a str, pins: &[Relation<'a>]) -> Result<Universe<'a>, Error> {
        let total = indexes.iter().map(|index| index.packages.len()).sum();
        let mut candidates: Vec<Candidate<'a>> = Vec::with_capacity(total);
        let mut by_name = Names::with_capacity_and_hasher(total, BuildHasherDefault::default());
        for package in indexes.iter().flat_map(|index| &index.packages) {
            if package.architecture != architecture && package.architecture != "all" {
                continue;
            }
            // MAX_INDEX_BYTES limits the number of stanzas, so this stays far below u32::MAX.
            let id = *by_name.entry(package.name).or_insert(Id(candidates.len() as u32));
            let admitted = pins.iter().all(|pin| pin.name != package.name || pin.admits(Some(package.version)));
            let Some(held) = candidates.get_mut(id.index()) else {
                candidates.push(Candidate { package, admitted, essential: package.essential, protected: package.protected });
                continue;
            };
            held.essential |= package.essential;
            held.protected |= package.protected;
            let newer = || version::compare(package.version, held.package.version) == Ordering::Greater;
            if (admitted && !held.admitted) || (admitted == held.admitted && newer()) {
                (held.package, held.admitted) = (package, admitted);
            }
        }
        // usrmerge converts an unmerged system; here every root is merged before its first package, as with debootstrap.
        let converter = by_name.get("usrmerge").filter(|_| by_name.contains_key("usr-is-merged"));
        if let Some(converter) = converter.filter(|_| pins.iter().all(|pin| pin.name != "usrmerge")) {
            candidates[converter.index()].admitted = false;
        }
        let clauses = candidates.iter().map(|_| OnceCell::new()).collect();
        let providers = providers(&candidates)?;
        Ok(Universe { indexes, architecture, candidates, by_name, providers, clauses, mentions: OnceCell::new() })
    }

    /// Returns the number of candidates.
    pub fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Returns true if there are no candidates.
    pub fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Returns a candidate's package.
    pub fn package(&self, id: Id) -> &'a Package<'a> {
        self.candidates[id.index()].package
    }

    /// Lists the versions of a name in the indexes, highest first.
    pub fn versions(&self, name: &str) -> Vec<&'a str> {
        let packages = self.indexes.iter().flat_map(|index| &index.packages).filter(|package| package.name == name);
        let own = packages.filter(|package| package.architecture == self.architecture || package.architecture == "all");
        let mut versions: Vec<&str> = own.map(|package| package.version).collect();
        versions.sort_by(|one, other| version::compare(other, one));
        versions.dedup();
        versions
    }

    /// Returns the candidate of a name, and true if the pins admit it.
    pub fn by_name(&self, name: &str) -> Option<(Id, bool)> {
        let id = *self.by_name.get(name)?;
        Some((id, self.candidates[id.index()].admitted))
    }

    /// Returns true if the pins admit a candidate's version.
    pub fn is_admitted(&self, id: Id) -> bool {
        self.candidates[id.index()].admitted
    }

    /// Returns all ids.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.candidates.len() as u32).map(Id)
    }

    /// Returns true if any version of the candidate's name is essential.
    pub fn is_essential(&self, id: Id) -> bool {
        self.candidates[id.index()].essential
    }

    /// Returns true if any version of the candidate's name is protected.
    pub fn is_protected(&self, id: Id) -> bool {
        self.candidates[id.index()].protected
    }

    /// Returns a candidate's relations with their targets; parsed on first use.
    pub fn clauses(&self, id: Id) -> Result<&[Clause<'a>], Error> {
        let cell = &self.clauses[id.index()];
        if let Some(clauses) = cell.get() {
            return Ok(clauses);
        }
        let clauses = self.resolve_clauses(id)?;
        Ok(cell.get_or_init(|| clauses))
    }

    /// Returns the candidates that satisfy a relation, apt's first choice first. `owner` is the package with the relation. A negative
    /// relation never applies to its own package: a self-conflict through `Provides` means that only one such package may be installed.
    pub fn targets(&self, relation: &Relation<'_>, owner: Option<Id>) -> Vec<Id> {
        let mut targets: Vec<Id> = self.bearers(relation).filter(|(_, v)| relation.admits(*v)).map(|(id, _)| id).collect();
        targets.retain(|target| Some(*target) != owner);
        targets.sort_by(|a, b| self.prefer(relation, *a, *b));
        targets.dedup();
        targets
    }

    fn resolve_clauses(&self, id: Id) -> Result<Vec<Clause<'a>>, Error> {
        let package = self.package(id);
        let fields = [
            (Kind::PreDepends, "Pre-Depends", package.pre_depends),
            (Kind::Depends, "Depends", package.depends),
            (Kind::Conflicts, "Conflicts", package.conflicts),
            (Kind::Breaks, "Breaks", package.breaks),
            (Kind::Recommends, "Recommends", package.recommends),
            (Kind::Suggests, "Suggests", package.suggests),
        ];
        let mut clauses = Vec::new();
        for (kind, field, text) in fields {
            let owner = kind.is_negative().then_some(id);
            for alternatives in package.relations(field, text)? {
                let members = alternatives.into_iter().map(|relation| self.member(relation, owner));
                clauses.push(Clause { kind, members: members.collect() });
            }
        }
        Ok(clauses)
    }

    fn member(&self, relation: Relation<'a>, owner: Option<Id>) -> Member<'a> {
        let touching = self.bearers(&relation).map(|(id, _)| id).collect();
        Member { relation, targets: self.targets(&relation, owner), touching }
    }

    /// Returns every candidate that has or provides the relation's name, with the version.
    fn bearers(&self, relation: &Relation<'_>) -> impl Iterator<Item = (Id, Option<&'a str>)> {
        let any = relation.qualifier == Qualifier::Any;
        let foreign = match relation.qualifier {
            Qualifier::Named(architecture) => architecture != "native" && architecture != self.architecture,
            Qualifier::Own | Qualifier::Any => false,
        };
        let admissible = move |id: &Id| !foreign && (!any || self.package(*id).multi_arch == MultiArch::Allowed);
        let real = self.by_name.get(relation.name).filter(|id| self.candidates[id.index()].admitted);
        let real = real.map(|id| (*id, Some(self.package(*id).version)));
        let virtuals = self.providers.get(relation.name).into_iter().flatten().copied();
        real.into_iter().chain(virtuals).filter(move |(id, _)| admissible(id))
    }

    /// Orders two providers as apt does: the real package, essential, protected, priority; finally the name that the indexes mention later.
    fn prefer(&self, relation: &Relation<'_>, left: Id, right: Id) -> Ordering {
        if left == right {
            return Ordering::Equal;
        }
        // For apt, `name:any` is a separate name, which no package has as its own.
        let own_name = |id: Id| relation.qualifier != Qualifier::Any && self.package(id).name == relation.name;
        let key = |id: Id| {
            let candidate = &self.candidates[id.index()];
            (Reverse(own_name(id)), Reverse(candidate.essential), Reverse(candidate.protected), candidate.package.priority)
        };
        let by_key: Ordering = key(left).cmp(&key(right));
        by_key.then_with(|| self.mention(right).cmp(&self.mention(left)))
    }

    /// Returns the position at which the indexes first mention a candidate's name, in its own stanza or in any relation.
    ///
    /// apt breaks ties by the id of a package in its cache, which has this order. The order has no meaning, but makes the choice the same
    /// as apt's. Ties are rare, so the order is computed on first use.
    fn mention(&self, id: Id) -> u32 {
        self.mentions.get_or_init(|| self.order_of_mention())[id.index()]
    }

    fn order_of_mention(&self) -> Vec<u32> {
        let mut order = vec![u32::MAX; self.candidates.len()];
        let mut next = 0;
        let mut mention = |name: &str| {
            if let Some(id) = self.by_name.get(name)
                && order[id.index()] == u32::MAX
            {
                order[id.index()] = next;
                next += 1;
            }
        };
        for package in self.indexes.iter().flat_map(|index| &index.packages) {
            mention(package.name);
            let fields = [
                package.pre_depends,
                package.depends,
                package.conflicts,
                package.breaks,
                package.recommends,
                package.suggests,
                package.replaces,
                package.enhances,
                package.provides,
            ];
            fields.iter().for_each(|field| each_name(field, &mut mention));
        }
        order
    }
}

/// Lists the providers of each name, with the provided version.
fn providers<'a>(candidates: &[Candidate<'a>]) -> Result<Providers<'a>, Error> {
    let mut providers = Providers::default();
    for (number, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.admitted) {
        let package = candidate.package;
        if package.provides.is_empty() {
            continue;
        }
        for relation in package.relations("Provides", package.provides)?.into_iter().flatten() {
            let version = match relation.bound {
                None => None,
                Some((crate::relation::Operator::Equal, version)) => Some(version),
                // dpkg and apt ignore such a bound.
                Some(_) => continue,
            };
            providers.entry(relation.name).or_default().push((Id(number as u32), version));
        }
    }
    Ok(providers)
}

/// Calls back for each name in a relation field, without bounds. `name:any` is a separate name, so the colon stays.
fn each_name<'a>(field: &'a str, mut call: impl FnMut(&'a str)) {
    let mut rest = field;
    while !rest.is_empty() {
        let separator = rest.bytes().position(|b| b == b',' || b == b'|').unwrap_or(rest.len());
        let relation = rest[..separator].trim_ascii_start();
        let end = relation.bytes().position(|b| b == b'(' || b.is_ascii_whitespace()).unwrap_or(relation.len());
        call(&relation[..end]);
        rest = rest.get(separator + 1..).unwrap_or("");
    }
}

/// A fast hash for names. A solve does a million lookups, and an attacker who could choose colliding names could also sign any other index.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::Universe;
    use crate::packages::{Index, Package, Priority, parse};
    use crate::relation::parse_one;

    fn index(stanzas: &str) -> Index<'static> {
        // Stanzas in short form, separated by a blank line; fields without influence are added.
        let text: String = stanzas
            .split("\n\n")
            .map(|stanza| format!("{stanza}\nFilename: pool/x.deb\nSize: 1\nSHA256: {}\n\n", "0".repeat(64)))
            .collect();
        parse(Box::leak(text.into_boxed_str()).as_bytes()).expect("well formed")
    }

    #[test]
    fn candidates_and_providers() {
        let base = index(
            "Package: a\nVersion: 1\nArchitecture: all\n\nPackage: a\nVersion: 3\nArchitecture: arm64\n\n\
             Package: p\nVersion: 1\nArchitecture: amd64\nPriority: optional\nProvides: v\nSuggests: q\n\n\
             Package: q\nVersion: 2\nArchitecture: amd64\nPriority: optional\nProvides: v (= 5)\nMulti-Arch: allowed\n\n\
             Package: r\nVersion: 2\nArchitecture: amd64\nPriority: required\nProvides: v (= 4), a (= 0)",
        );
        let updates = index("Package: a\nVersion: 2\nArchitecture: amd64\n\nPackage: a\nVersion: 1\nArchitecture: amd64");
        let indexes = [base, updates];
        // Relation, pins, names that satisfy it in order of preference.
        for (relation, pins, expect) in [
            ("a", &[][..], "a=2 r=2"),
            ("a", &["a (= 1)"], "a=1 r=2"),
            ("a", &["a (= 9)"], "r=2"),
            ("a (>= 1)", &[], "a=2"),
            ("v", &[], "r=2 q=2 p=1"),
            ("v (>= 5)", &[], "q=2"),
            ("q:any", &[], "q=2"),
            ("p:any", &[], ""),
            ("v:any", &[], "q=2"),
            ("p:native", &[], "p=1"),
            ("p:arm64", &[], ""),
            ("nothing", &[], ""),
        ] {
            let pins: Vec<_> = pins.iter().map(|pin| parse_one(pin).expect("well formed")).collect();
            let universe = Universe::new(&indexes, "amd64", &pins).expect("well formed");
            let targets = universe.targets(&parse_one(relation).expect("well formed"), None);
            let names: Vec<_> =
                targets.iter().map(|id| universe.package(*id)).map(|p: &Package| format!("{}={}", p.name, p.version)).collect();
            assert_eq!(names.join(" "), expect, "{relation} {pins:?}");
        }
        assert!(Priority::Required < Priority::Optional);
    }
}
