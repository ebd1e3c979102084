//! The packages available to a solve: one candidate for each name and architecture, and the providers of each name.
//!
//! As in apt, only the *candidate* of a name can be installed: its highest version over all indexes (of equal ones, that of the earlier
//! index), unless the request pins another. All lookups by name happen here, so the walk and the solver only use ids.
//!
//! A root may have packages of foreign architectures, see Debian's multiarch specification. A package for all architectures counts as one of
//! the root's own. A dependency is satisfied by a package of the same architecture, or by a `Multi-Arch: foreign` one of any. A conflict
//! concerns all architectures. Packages of one name and several architectures exclude each other, unless all are `Multi-Arch: same` and of
//! one version.

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

/// The origin of a relation: it decides the architectures of the targets.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// A request: the root's own architecture, unless the relation names another.
    Request,
    /// A dependency of this package.
    Dependency(Id),
    /// A conflict of this package. It never applies to packages of the same name: a self-conflict through `Provides` means that only one
    /// provider may be installed.
    Conflict(Id),
}

/// All candidates of a root's architectures.
pub struct Universe<'a> {
    indexes: &'a [Index<'a>],
    architectures: &'a [&'a str],
    candidates: Vec<Candidate<'a>>,
    /// The candidates by name, for each architecture.
    by_name: Vec<Names<'a, Id>>,
    providers: Providers<'a>,
    clauses: Vec<OnceCell<Vec<Clause<'a>>>>,
    mentions: OnceCell<Vec<u32>>,
}

/// A table by name. Only for lookups, so its order does not affect the result.
type Names<'a, T> = HashMap<&'a str, T, BuildHasherDefault<NameHasher>>;

/// The providers of each name.
type Providers<'a> = Names<'a, Vec<Provider<'a>>>;

/// A package that has or provides a name.
#[derive(Clone, Copy)]
struct Provider<'a> {
    id: Id,
    version: Option<&'a str>,
    /// The position of the architecture for which the name is provided, if `Provides` names one.
    only_for: Option<usize>,
}

/// A candidate, with flags set by any version of its name.
struct Candidate<'a> {
    package: &'a Package<'a>,
    /// The position of its architecture.
    slot: usize,
    admitted: bool,
    essential: bool,
    protected: bool,
}

impl<'a> Universe<'a> {
    /// Selects the candidates of `architectures`, the root's own first. `pins` restrict the versions of single names.
    pub fn new(indexes: &'a [Index<'a>], architectures: &'a [&'a str], pins: &[Relation<'a>]) -> Result<Universe<'a>, Error> {
        let total = indexes.iter().map(|index| index.packages.len()).sum();
        let mut candidates: Vec<Candidate<'a>> = Vec::with_capacity(total);
        let by_one = || Names::with_capacity_and_hasher(total / architectures.len().max(1), BuildHasherDefault::default());
        let mut by_name: Vec<Names<'a, Id>> = architectures.iter().map(|_| by_one()).collect();
        for package in indexes.iter().flat_map(|index| &index.packages) {
            let Some(slot) = slot_of(architectures, package.architecture) else { continue };
            // MAX_INDEX_BYTES limits the number of stanzas, so this stays far below u32::MAX.
            let id = *by_name[slot].entry(package.name).or_insert(Id(candidates.len() as u32));
            let is_pinned = |pin: &Relation<'_>| pin.name == package.name && requested_slot(architectures, pin) == Some(slot);
            let admitted = pins.iter().all(|pin| !is_pinned(pin) || pin.admits(Some(package.version)));
            let Some(held) = candidates.get_mut(id.index()) else {
                candidates.push(Candidate { package, slot, admitted, essential: package.essential, protected: package.protected });
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
        let own = by_name.first();
        let converter = own.and_then(|own| own.get("usrmerge").filter(|_| own.contains_key("usr-is-merged")));
        if let Some(converter) = converter.filter(|_| pins.iter().all(|pin| pin.name != "usrmerge")) {
            candidates[converter.index()].admitted = false;
        }
        let clauses = candidates.iter().map(|_| OnceCell::new()).collect();
        let providers = providers(&candidates, architectures)?;
        Ok(Universe { indexes, architectures, candidates, by_name, providers, clauses, mentions: OnceCell::new() })
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

    /// Returns a candidate's name, with its architecture if that is foreign: `libc6:i386`.
    pub fn label(&self, id: Id) -> String {
        let package = self.package(id);
        if self.is_own(id) { package.name.to_owned() } else { format!("{}:{}", package.name, package.architecture) }
    }

    /// Returns true if a candidate is of the root's own architecture, or for all.
    pub fn is_own(&self, id: Id) -> bool {
        self.slot(id) == 0
    }

    fn slot(&self, id: Id) -> usize {
        self.candidates[id.index()].slot
    }

    /// Lists the versions of a requested name in the indexes, highest first.
    pub fn versions(&self, requested: &Relation<'_>) -> Vec<&'a str> {
        let slot = requested_slot(self.architectures, requested);
        let packages = self.indexes.iter().flat_map(|index| &index.packages).filter(|package| package.name == requested.name);
        let fitting = packages.filter(|package| slot.is_some() && slot_of(self.architectures, package.architecture) == slot);
        let mut versions: Vec<&str> = fitting.map(|package| package.version).collect();
        versions.sort_by(|one, other| version::compare(other, one));
        versions.dedup();
        versions
    }

    /// Returns the candidate of a requested name, and true if the pins admit it.
    pub fn by_name(&self, requested: &Relation<'_>) -> Option<(Id, bool)> {
        let slot = requested_slot(self.architectures, requested)?;
        let id = *self.by_name[slot].get(requested.name)?;
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

    /// Returns the candidates that satisfy a relation, apt's first choice first.
    pub fn targets(&self, relation: &Relation<'_>, origin: Origin) -> Vec<Id> {
        let fitting = self.providers_of(relation, origin).filter(|bearer| relation.admits(bearer.version));
        let mut targets: Vec<Id> = fitting.map(|bearer| bearer.id).collect();
        if let Origin::Conflict(owner) = origin {
            targets.retain(|target| self.package(*target).name != self.package(owner).name);
        }
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
            let origin = if kind.is_negative() { Origin::Conflict(id) } else { Origin::Dependency(id) };
            for alternatives in package.relations(field, text)? {
                let members = alternatives.into_iter().map(|relation| self.member(relation, origin));
                clauses.push(Clause { kind, members: members.collect() });
            }
        }
        clauses.extend(self.excluded_twins(id));
        Ok(clauses)
    }

    /// Lists the packages of the same name and another architecture that a package excludes without declaring it.
    fn excluded_twins(&self, id: Id) -> impl Iterator<Item = Clause<'a>> {
        let package = self.package(id);
        let others = self.by_name.iter().filter_map(|names| names.get(package.name).copied());
        others.filter(move |other| *other != id && self.is_admitted(*other)).filter_map(move |other| {
            let is_same_version = || version::compare(package.version, self.package(other).version) == Ordering::Equal;
            let (kind, text) = match package.multi_arch {
                MultiArch::Same if is_same_version() => return None,
                MultiArch::Same => (Kind::Breaks, "other architectures in another version"),
                _ => (Kind::Conflicts, "the same package of another architecture"),
            };
            let relation = Relation { name: package.name, qualifier: Qualifier::Own, bound: None, text };
            Some(Clause { kind, members: vec![Member { relation, targets: vec![other], touching: vec![other] }] })
        })
    }

    fn member(&self, relation: Relation<'a>, origin: Origin) -> Member<'a> {
        let touching = self.providers_of(&relation, origin).map(|bearer| bearer.id).collect();
        Member { relation, targets: self.targets(&relation, origin), touching }
    }

    /// Returns every candidate that has or provides the relation's name for a suitable architecture.
    fn providers_of(&self, relation: &Relation<'_>, origin: Origin) -> impl Iterator<Item = Provider<'a>> {
        let real = self.by_name.iter().filter_map(|names| names.get(relation.name).copied()).filter(|id| self.is_admitted(*id));
        let real = real.map(|id| Provider { id, version: Some(self.package(id).version), only_for: None });
        let virtuals = self.providers.get(relation.name).into_iter().flatten().copied();
        let qualifier = relation.qualifier;
        real.chain(virtuals).filter(move |bearer| self.is_of_suitable_architecture(bearer, qualifier, origin))
    }

    fn is_of_suitable_architecture(&self, bearer: &Provider<'_>, qualifier: Qualifier<'_>, origin: Origin) -> bool {
        let slot = bearer.only_for.unwrap_or_else(|| self.slot(bearer.id));
        let multi_arch = self.package(bearer.id).multi_arch;
        match (qualifier, origin) {
            (Qualifier::Any, _) => multi_arch == MultiArch::Allowed,
            // dpkg accepts exactly this architecture, even of a `Multi-Arch: foreign` package.
            (Qualifier::Named("native"), _) | (Qualifier::Own, Origin::Request) => slot == 0,
            (Qualifier::Named(architecture), _) => self.architectures.get(slot) == Some(&architecture),
            (Qualifier::Own, Origin::Dependency(owner)) => slot == self.slot(owner) || multi_arch == MultiArch::Foreign,
            (Qualifier::Own, Origin::Conflict(_)) => true,
        }
    }

    /// Orders two providers as apt does: the real package, essential, protected, priority, the root's own architecture; finally the name that
    /// the indexes mention later.
    fn prefer(&self, relation: &Relation<'_>, left: Id, right: Id) -> Ordering {
        if left == right {
            return Ordering::Equal;
        }
        // For apt, `name:any` is a separate name, which no package has as its own.
        let own_name = |id: Id| relation.qualifier != Qualifier::Any && self.package(id).name == relation.name;
        let key = |id: Id| {
            let candidate = &self.candidates[id.index()];
            (Reverse(own_name(id)), Reverse(candidate.essential), Reverse(candidate.protected), candidate.package.priority, candidate.slot)
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
        let mut mention = |name: &str, slot: usize| {
            if let Some(id) = self.by_name[slot].get(name)
                && order[id.index()] == u32::MAX
            {
                order[id.index()] = next;
                next += 1;
            }
        };
        for package in self.indexes.iter().flat_map(|index| &index.packages) {
            // Packages of other architectures are not mentioned, but their relations are, as for a single architecture.
            let slot = slot_of(self.architectures, package.architecture).unwrap_or(0);
            mention(package.name, slot);
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
            fields.iter().for_each(|field| each_name(field, |name| mention(name, slot)));
        }
        order
    }
}

/// Returns the position of a package's architecture; one for all architectures belongs to the root's own.
fn slot_of(architectures: &[&str], architecture: &str) -> Option<usize> {
    if architecture == "all" { Some(0) } else { architectures.iter().position(|known| *known == architecture) }
}

/// Returns the position of a requested package's architecture.
fn requested_slot(architectures: &[&str], requested: &Relation<'_>) -> Option<usize> {
    match requested.qualifier {
        Qualifier::Named(architecture) if architecture != "native" => slot_of(architectures, architecture),
        Qualifier::Named(_) | Qualifier::Own | Qualifier::Any => Some(0),
    }
}

/// Lists the providers of each name, with the provided version.
fn providers<'a>(candidates: &[Candidate<'a>], architectures: &[&str]) -> Result<Providers<'a>, Error> {
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
            let only_for = match relation.qualifier {
                Qualifier::Named(_) => match requested_slot(architectures, &relation) {
                    None => continue,
                    known => known,
                },
                Qualifier::Own | Qualifier::Any => None,
            };
            providers.entry(relation.name).or_default().push(Provider { id: Id(number as u32), version, only_for });
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
    use super::{Origin, Universe};
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
            let universe = Universe::new(&indexes, &["amd64"], &pins).expect("well formed");
            let targets = universe.targets(&parse_one(relation).expect("well formed"), Origin::Request);
            let names: Vec<_> =
                targets.iter().map(|id| universe.package(*id)).map(|p: &Package| format!("{}={}", p.name, p.version)).collect();
            assert_eq!(names.join(" "), expect, "{relation} {pins:?}");
        }
        assert!(Priority::Required < Priority::Optional);
    }
}
