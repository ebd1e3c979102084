//! Resolves wanted packages to the exact set that apt would install on an empty system.
//!
//! Two parts work together. The *walk* follows apt's own policy and proposes a set. The *solver* proves that the proposed set is
//! consistent. If it is not, the solver searches all combinations for a consistent one and keeps as much of the proposal as possible. If
//! there is none, it explains why.

use std::collections::{BTreeMap, BTreeSet};

use crate::packages::{self, Index, Package};
use crate::provider::{self, Failure};
use crate::relation::{self, Qualifier, Relation};
use crate::universe::{Id, Kind, Origin, Universe};
use crate::version;
use crate::walk::{self, Recommends};
use silo_model::lock::PackageTier;
use silo_model::recipe::package_spec;

/// Input of a solve.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The Debian names of the architectures: the root's own, then the foreign ones.
    pub architectures: Vec<&'a str>,
    /// The packages, see [`wanted`]. Their order matters, as in apt: earlier choices constrain later ones.
    pub packages: Vec<Relation<'a>>,
    /// Additional packages, for example of a project.
    pub added: Vec<Relation<'a>>,
    /// Additional packages that are needed while steps run.
    pub build: Vec<Relation<'a>>,
    /// Install recommended packages if possible.
    pub recommends: bool,
    /// Install all `Essential: yes` packages of the root's own architecture first, as in every Debian root.
    pub include_essential: bool,
}

impl Request<'_> {
    /// Returns the architecture of a requested package.
    fn architecture_of(&self, requested: &Relation<'_>) -> String {
        match requested.qualifier {
            Qualifier::Named(architecture) => architecture.to_owned(),
            Qualifier::Own | Qualifier::Any => self.architectures.first().copied().unwrap_or_default().to_owned(),
        }
    }
}

/// The packages to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution<'a> {
    /// All packages, sorted by name and architecture (the root's own first), one version each, with their tier.
    pub packages: Vec<(&'a Package<'a>, PackageTier)>,
}

/// Reason why a request has no solution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// An index is invalid.
    #[error(transparent)]
    Index(#[from] packages::Error),
    /// A wanted package has invalid syntax.
    #[error("bad package `{text}`: expected `name`, `name=version` or `name (>= version)`")]
    Wanted { text: String },
    /// No index has the name.
    #[error("package {name} does not exist for {architecture}")]
    Unknown { name: String, architecture: String },
    /// No index has a suitable version.
    #[error("package {wanted} does not exist for {architecture}: the indexes have {available}")]
    NoSuchVersion { wanted: String, architecture: String, available: String },
    /// The named suite has no such package, or not in that version.
    #[error("{suite} has no package {wanted} for {architecture}")]
    NotInSuite { wanted: String, suite: String, architecture: String },
    /// Several packages provide the name, and none has it as its own.
    #[error("package {name} is virtual: choose one of {providers}")]
    Virtual { name: String, providers: String },
    /// The packages conflict.
    #[error("packages cannot be installed together:\n{text}")]
    Unsolvable { text: String },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Index(error) => Error::Index(error),
            Failure::Unsolvable(text) => Error::Unsolvable { text: text.trim_end().to_owned() },
        }
    }
}

/// Parses a wanted package: `name`, `name:i386`, `name=version` or `name (>= version)`. A suite is not part of the relation.
pub fn wanted(text: &str) -> Result<Relation<'_>, Error> {
    let bad = || Error::Wanted { text: text.to_owned() };
    let parsed = package_spec::parse(text.trim()).filter(|wanted| wanted.on.is_none()).ok_or_else(bad)?;
    let bound = match parsed.bound {
        None => None,
        Some((operator, version)) if version::is_valid(version) => Some((relation::operator(operator).ok_or_else(bad)?, version)),
        Some(_) => return Err(bad()),
    };
    Ok(Relation { name: parsed.name, qualifier: parsed.of.map_or(Qualifier::Own, Qualifier::Named), bound, text })
}

/// Selects the packages that apt would install for a request. The indexes are in the order of the sources (base, updates, security).
pub fn solve<'a>(indexes: &'a [Index<'a>], request: &'a Request<'a>) -> Result<Solution<'a>, Error> {
    let pins: Vec<Relation<'_>> = request.packages.iter().chain(&request.added).chain(&request.build).copied().collect();
    let universe = Universe::new(indexes, &request.architectures, &pins)?;
    let recommends = if request.recommends { Recommends::Install } else { Recommends::Ignore };
    let roots = all_wanted(&universe, request)?;
    let wanted: Vec<Id> = roots.concat();
    let proposed = walk::walk(&universe, &wanted, recommends)?;
    let sound = wanted.iter().all(|id| proposed.binary_search(id).is_ok()) && walk::broken(&universe, &proposed)?.is_empty();
    let goal = if sound { &proposed } else { &wanted };
    let chosen = provider::solve(&universe, goal, &proposed, recommends)?;
    let tiers = tiers(&universe, &chosen, &roots, recommends)?;
    let mut packages: Vec<_> = tiers.into_iter().map(|(id, tier)| (!universe.is_own(id), universe.package(id), tier)).collect();
    packages.sort_by_key(|(is_foreign, package, _)| (package.name, *is_foreign, package.architecture));
    Ok(Solution { packages: packages.into_iter().map(|(_, package, tier)| (package, tier)).collect() })
}

/// Lists the ids of the wanted packages by tier, each once: the essential packages by name, then the request's in order.
fn all_wanted(universe: &Universe<'_>, request: &Request<'_>) -> Result<[Vec<Id>; 4], Error> {
    let mut essential: Vec<Id> = Vec::new();
    if request.include_essential {
        essential.extend(universe.ids().filter(|id| universe.package(*id).essential && universe.is_own(*id)));
        essential.sort_by_key(|id| universe.package(*id).name);
    }
    let mut roots = [essential, Vec::new(), Vec::new(), Vec::new()];
    for (tier, relations) in [(1, &request.packages), (2, &request.added), (3, &request.build)] {
        for relation in relations {
            let id = one_wanted(universe, request, relation)?;
            if !roots.iter().any(|ids| ids.contains(&id)) {
                roots[tier].push(id);
            }
        }
    }
    Ok(roots)
}

/// Returns the tier of every chosen package: the first tier whose wanted packages need it.
fn tiers(universe: &Universe<'_>, chosen: &[Id], roots: &[Vec<Id>; 4], recommends: Recommends) -> Result<BTreeMap<Id, PackageTier>, Error> {
    let chosen: BTreeSet<Id> = chosen.iter().copied().collect();
    let mut tiers = BTreeMap::new();
    for (tier, roots) in PackageTier::ALL.into_iter().zip(roots) {
        let mut queue = roots.clone();
        while let Some(id) = queue.pop() {
            if !chosen.contains(&id) || tiers.contains_key(&id) {
                continue;
            }
            tiers.insert(id, tier);
            let leads =
                |kind| matches!(kind, Kind::PreDepends | Kind::Depends) || (recommends == Recommends::Install && kind == Kind::Recommends);
            for clause in universe.clauses(id)?.iter().filter(|clause| leads(clause.kind)) {
                queue.extend(clause.members.iter().flat_map(|member| &member.targets));
            }
        }
    }
    // A package that no tier needs was chosen by the solver for its own reasons; it belongs to the last tier.
    let wanted = PackageTier::ALL.into_iter().zip(roots).filter(|(_, roots)| !roots.is_empty());
    let last = wanted.map(|(tier, _)| tier).max().unwrap_or(PackageTier::Recipe).max(PackageTier::Recipe);
    for id in chosen {
        tiers.entry(id).or_insert(last);
    }
    Ok(tiers)
}

/// Returns the candidate for one wanted package; a virtual name needs a single provider.
fn one_wanted(universe: &Universe<'_>, request: &Request<'_>, relation: &Relation<'_>) -> Result<Id, Error> {
    let architecture = request.architecture_of(relation);
    match universe.by_name(relation) {
        Some((id, true)) => return Ok(id),
        Some((id, false)) => {
            let mut available = universe.versions(relation);
            if available.is_empty() {
                available.push(universe.package(id).version);
            }
            let available = available.join(", ");
            return Err(Error::NoSuchVersion { wanted: relation.text.to_owned(), architecture, available });
        }
        None => {}
    }
    let providers = universe.targets(relation, Origin::Request);
    match providers[..] {
        [only] => Ok(only),
        [] => Err(Error::Unknown { name: relation.name.to_owned(), architecture }),
        _ => {
            let names: Vec<String> = providers.iter().map(|id| universe.label(*id)).collect();
            Err(Error::Virtual { name: relation.name.to_owned(), providers: names.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Request, solve, wanted};
    use crate::packages::{Index, Package, parse};

    /// Makes an index from short lines: `name version; Field: value; ...`.
    fn text(lines: &str) -> String {
        let stanza = |line: &str| {
            let line = line.trim();
            let (head, fields) = line.split_once(';').unwrap_or((line, ""));
            let (name, version) = head.split_once(' ').expect("name and version");
            let fields: String =
                fields.split(';').map(str::trim).filter(|field| !field.is_empty()).map(|field| format!("{field}\n")).collect();
            let digest = "0".repeat(64);
            let (name, architecture) = name.split_once(':').unwrap_or((name, "amd64"));
            format!(
                "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{fields}Filename: pool/{name}.deb\nSize: 1\nSHA256: {digest}\n\n"
            )
        };
        lines.lines().filter(|line| !line.trim().is_empty()).map(stanza).collect()
    }

    /// Solves for the wanted packages and writes the result in one line.
    fn run(index: &str, packages: &str, recommends: bool) -> String {
        run_for(&["amd64"], index, packages, recommends)
    }

    fn run_for(architectures: &[&str], index: &str, packages: &str, recommends: bool) -> String {
        let text = text(index);
        let indexes: [Index<'_>; 1] = [parse(text.as_bytes()).expect("well formed")];
        let packages = match packages.split(", ").map(wanted).collect() {
            Ok(packages) => packages,
            Err(error) => return error.to_string(),
        };
        let request = Request {
            architectures: architectures.to_vec(),
            packages,
            added: Vec::new(),
            build: Vec::new(),
            recommends,
            include_essential: true,
        };
        let label = |package: &Package<'_>| match package.architecture {
            "amd64" => package.name.to_owned(),
            other => format!("{}:{other}", package.name),
        };
        match solve(&indexes, &request) {
            Ok(solution) => solution.packages.iter().map(|(p, _)| format!("{}={}", label(p), p.version)).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn chooses_as_apt() {
        // Case, index, wanted packages, result. Each was compared with apt 2.6, except version bounds in the request, which apt lacks.
        for (what, index, packages, expect) in [
            ("essential", "base 1; Essential: yes; Depends: lib\nlib 1\na 1", "a", "a=1 base=1 lib=1"),
            ("left to right", "a 1; Depends: b | c\nb 1\nc 1", "a", "a=1 b=1"),
            ("one that is there", "a 1; Depends: b | c\nb 1\nc 1", "c, a", "a=1 c=1"),
            ("one that is wanted later", "a 1; Depends: b | c\nb 1\nc 1", "a, c", "a=1 c=1"),
            ("a dead alternative", "a 1; Depends: b | c\nb 1; Depends: gone\nc 1", "a", "a=1 c=1"),
            ("a deep dead alternative", "a 1; Depends: b | c\nb 1; Depends: d, e\nd 1\ne 1; Depends: gone\nc 1", "a", "a=1 c=1"),
            ("highest version", "a 1; Depends: b\nb 1\nb 3\nb 2", "a", "a=1 b=3"),
            ("no lower version for a bound", "a 1; Depends: b (<< 2) | c\nb 1\nb 3\nc 1", "a", "a=1 c=1"),
            ("exact", "a 1; Depends: b\nb 1\nb 3", "b=1, a", "a=1 b=1"),
            ("bounded", "b1 1\nb1 3\nb1 4", "b1 (<< 4)", "b1=3"),
            ("at least", "b1 1\nb1 3", "b1 >= 2", "b1=3"),
            ("not high enough", "b1 1\nb1 3", "b1 (>= 4)", "package b1 (>= 4) does not exist for amd64: the indexes have 3, 1"),
            ("real before virtual", "a 1; Depends: v\nv 1; Priority: optional\np 1; Provides: v; Priority: required", "a", "a=1 v=1"),
            (
                "priority among providers",
                "a 1; Depends: v\np 1; Provides: v; Priority: optional\nq 1; Provides: v; Priority: standard",
                "a",
                "a=1 q=1",
            ),
            (
                "the later mentioned of equals",
                "p 1; Provides: v\na 1; Depends: v; Suggests: q\nr 1; Provides: v\nq 1; Provides: v",
                "a",
                "a=1 r=1",
            ),
            ("the only provider by name", "p 1; Provides: v", "v", "p=1"),
            ("conflict with a chosen one", "a 1; Depends: b | c\nb 1; Conflicts: d\nc 1\nd 1", "a, d", "a=1 c=1 d=1"),
            ("conflict the other way", "a 1; Depends: b | c\nb 1\nc 1\nd 1; Conflicts: b", "a, d", "a=1 c=1 d=1"),
            ("versioned conflict", "a 1; Depends: b | c\nb 2\nc 1\nd 1; Breaks: b (<< 2)", "a, d", "a=1 b=2 d=1"),
            ("conflict with a provided name", "a 1; Depends: b | c\nb 1; Provides: v\nc 1\nd 1; Conflicts: v", "a, d", "a=1 c=1 d=1"),
            ("self-conflict", "a 1; Provides: v; Conflicts: v", "a", "a=1"),
            ("a circle", "a 1; Depends: b\nb 1; Depends: a", "a", "a=1 b=1"),
            ("pre-depends", "a 1; Pre-Depends: b\nb 1", "a", "a=1 b=1"),
            ("any", "a 1; Depends: b:any\nb 1; Multi-Arch: allowed", "a", "a=1 b=1"),
            ("any of none", "a 1; Depends: b:any\nb 1", "a", "packages cannot be installed together:"),
            (
                "no conversion of what is merged",
                "a 1; Depends: usrmerge | usr-is-merged\nusrmerge 1\nusr-is-merged 1",
                "a",
                "a=1 usr-is-merged=1",
            ),
            ("a conversion that is wanted", "usrmerge 1\nusr-is-merged 1", "usrmerge", "usrmerge=1"),
            ("a conversion where nothing else will do", "a 1; Depends: usrmerge\nusrmerge 1", "a", "a=1 usrmerge=1"),
            ("no recommends", "a 1; Recommends: b\nb 1", "a", "a=1"),
            ("virtual", "p 1; Provides: v\nq 1; Provides: v", "v", "package v is virtual: choose one of q, p"),
            ("unknown", "a 1", "b", "package b does not exist for amd64"),
            ("no such version", "a 1", "a=2", "package a=2 does not exist for amd64: the indexes have 1"),
            ("two that conflict", "a 1; Conflicts: b\nb 1", "a, b", "packages cannot be installed together:"),
            ("nothing to depend on", "a 1; Depends: b\nb 1; Depends: c (>= 2)\nc 1", "a", "packages cannot be installed together:"),
            ("bad wish", "a 1", "a b", "bad package `a b`: expected `name`, `name=version` or `name (>= version)`"),
            ("bad relation", "a 1; Depends: b (>= )", "a", "package a in line 1: bad Depends `b (>= )`"),
        ] {
            assert_eq!(run(index, packages, false), expect, "{what}");
        }
    }

    #[test]
    fn foreign_architectures_follow_the_multiarch_specification() {
        let together = "packages cannot be installed together:";
        // Case, index, wanted packages, result.
        for (case, index, packages, expect) in [
            ("a foreign package", "a 1\na:i386 1", "a:i386", "a:i386=1"),
            ("both", "a 1; Multi-Arch: same\na:i386 1; Multi-Arch: same", "a, a:i386", "a=1 a:i386=1"),
            ("the own architecture by name", "a 1\na:i386 1", "a:amd64", "a=1"),
            ("no foreign essential packages", "base 1; Essential: yes\nbase:i386 1; Essential: yes\na:i386 1", "a:i386", "a:i386=1 base=1"),
            ("a dependency of the same architecture", "a:i386 1; Depends: b\nb 1\nb:i386 1", "a:i386", "a:i386=1 b:i386=1"),
            ("no library of another architecture", "a:i386 1; Depends: b\nb 1; Multi-Arch: same", "a:i386", together),
            ("a tool of any architecture", "a:i386 1; Depends: b\nb 1; Multi-Arch: foreign", "a:i386", "a:i386=1 b=1"),
            (
                "the own tool first",
                "a:i386 1; Depends: b\nb:i386 1; Multi-Arch: foreign\nb 1; Multi-Arch: foreign",
                "a:i386",
                "a:i386=1 b=1",
            ),
            ("a tool that is there", "a:i386 1; Depends: b | c\nb:i386 1\nc 1; Multi-Arch: foreign", "c, a:i386", "a:i386=1 c=1"),
            ("a package for all is one of the root's own", "a:i386 1; Depends: d\nd:all 1", "a:i386", together),
            ("a foreign package for all", "a:i386 1; Depends: d\nd:all 1; Multi-Arch: foreign", "a:i386", "a:i386=1 d:all=1"),
            ("one for all needs the root's own", "d:all 1; Depends: b\nb 1\nb:i386 1", "d", "b=1 d:all=1"),
            ("any", "a:i386 1; Depends: p:any\np 1; Multi-Arch: allowed\np:i386 1; Multi-Arch: allowed", "a:i386", "a:i386=1 p=1"),
            ("allowed, without any", "a:i386 1; Depends: p\np 1; Multi-Arch: allowed", "a:i386", together),
            ("any of a tool that is not allowed", "a:i386 1; Depends: p:any\np 1; Multi-Arch: foreign", "a:i386", together),
            ("a named architecture", "a 1; Depends: b:i386\nb 1\nb:i386 1", "a", "a=1 b:i386=1"),
            ("a named architecture, exactly", "a 1; Depends: b:i386\nb 1; Multi-Arch: foreign", "a", together),
            ("native", "a:i386 1; Depends: b:native\nb 1\nb:i386 1", "a:i386", "a:i386=1 b=1"),
            ("one version of all architectures", "a 1; Multi-Arch: same\na:i386 2; Multi-Arch: same", "a, a:i386", together),
            (
                "one version, by a pin",
                "a 1; Multi-Arch: same\na 2; Multi-Arch: same\na:i386 1; Multi-Arch: same",
                "a=1, a:i386",
                "a=1 a:i386=1",
            ),
            ("a pin is for one architecture", "a 1\na:i386 1\na:i386 2", "a:i386=1", "a:i386=1"),
            ("not for two architectures", "a 1\na:i386 1", "a, a:i386", together),
            ("not for two architectures, foreign", "a 1; Multi-Arch: foreign\na:i386 1; Multi-Arch: foreign", "a, a:i386", together),
            ("a conflict with all architectures", "a 1; Conflicts: b\nb:i386 1", "a, b:i386", together),
            ("the other way", "a 1\nb:i386 1; Breaks: a (<< 2)", "a, b:i386", together),
            ("no conflict with a later version", "a 2\nb:i386 1; Breaks: a (<< 2)", "a, b:i386", "a=2 b:i386=1"),
            (
                "no conflict with its own name",
                "a 1; Multi-Arch: same; Conflicts: a; Provides: v\na:i386 1; Multi-Arch: same; Conflicts: a, v; Provides: v",
                "a, a:i386",
                "a=1 a:i386=1",
            ),
            (
                "a virtual name of the same architecture",
                "a:i386 1; Depends: v\np 1; Provides: v\np:i386 1; Provides: v",
                "a:i386",
                "a:i386=1 p:i386=1",
            ),
            ("a virtual name of a tool", "a:i386 1; Depends: v\np 1; Provides: v; Multi-Arch: foreign", "a:i386", "a:i386=1 p=1"),
            ("a virtual name for one architecture", "a:i386 1; Depends: v\np 1; Provides: v:i386", "a:i386", "a:i386=1 p=1"),
            ("an alternative", "a:i386 1; Depends: b | c\nb 1\nc:i386 1", "a:i386", "a:i386=1 c:i386=1"),
            ("unknown", "a 1", "a:i386", "package a does not exist for i386"),
            ("another version", "a 1\na:i386 3", "a:i386=1", "package a:i386=1 does not exist for i386: the indexes have 3"),
        ] {
            assert_eq!(run_for(&["amd64", "i386"], index, packages, false), expect, "{case}");
        }
        assert_eq!(run("a 1\na:i386 1", "a:i386", false), "package a does not exist for i386", "an architecture that the root lacks");
    }

    #[test]
    fn searches_where_the_walk_fails() {
        // The walk takes b for a, then for d it takes f, which conflicts with b. The solver goes back to c, as does apt's second stage.
        let index = "a 1; Depends: b | c\nb 1\nc 1\nd 1; Depends: e\ne 1; Depends: f\nf 1; Conflicts: b";
        assert_eq!(run(index, "a, d", false), "a=1 c=1 d=1 e=1 f=1");
    }

    #[test]
    fn tiers_are_the_first_that_lead_there() {
        let text = text(
            "base 1; Essential: yes; Depends: lib\nlib 1\na 1; Depends: lib, x\nx 1\nb 1; Depends: x, y\ny 1; Provides: v\nc 1; Depends: y, z\nz 1",
        );
        let indexes = [parse(text.as_bytes()).expect("well formed")];
        let wish = |text| vec![wanted(text).expect("well formed")];
        let request = Request {
            architectures: vec!["amd64"],
            packages: wish("a"),
            added: wish("b"),
            build: wish("c"),
            recommends: false,
            include_essential: true,
        };
        let solution = solve(&indexes, &request).expect("all is there");
        let told: Vec<String> = solution.packages.iter().map(|(package, tier)| format!("{} {}", package.name, tier.name())).collect();
        assert_eq!(told, ["a recipe", "b added", "base base", "c build", "lib base", "x recipe", "y added", "z build"]);
    }

    #[test]
    fn recommends() {
        let index = "a 1; Recommends: b, gone, c\nb 1; Depends: d\nd 1\nc 1; Conflicts: a";
        assert_eq!(run(index, "a", true), "a=1 b=1 d=1");
    }

    #[test]
    fn says_why_not() {
        let text = text("a 1; Depends: b (>= 2)\nb 2; Depends: c\nc 1; Breaks: d (<< 3)\nd 2\ne 1; Depends: gone");
        let indexes = [parse(text.as_bytes()).expect("well formed")];
        let why = |packages: &[&'static str]| {
            let packages = packages.iter().map(|text| wanted(text).expect("well formed")).collect();
            solve(
                &indexes,
                &Request {
                    architectures: vec!["amd64"],
                    packages,
                    added: Vec::new(),
                    build: Vec::new(),
                    recommends: false,
                    include_essential: true,
                },
            )
            .expect_err("no way")
            .to_string()
        };
        let conflict = why(&["a", "d"]);
        assert!(["a=1", "b=2", "c=1", "d (<< 3)"].iter().all(|part| conflict.contains(part)), "{conflict}");
        let missing = why(&["e"]);
        assert!(missing.contains("gone is not available"), "{missing}");
        assert_eq!(conflict, why(&["a", "d"]), "the same text each time");
    }

    #[test]
    fn a_long_chain_needs_little_stack() {
        let mut lines: Vec<String> = (0..1_000).map(|n| format!("p{n} 1; Depends: p{}", n + 1)).collect();
        lines.push("p1000 1".to_owned());
        let index = lines.join("\n");
        // Deeper than the walk's limit: the solver does the rest.
        assert_eq!(run(&index, "p0", false).split(' ').count(), 1_001);
    }
}
