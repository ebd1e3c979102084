//! Translates the packages to a problem for the SAT solver.
//!
//! Each candidate is a name with a single version. A clause becomes a union of such names, in order of preference. Conflicts and Breaks
//! become constraints that the target's version does not satisfy.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;

use resolvo::utils::{Pool, VersionSet};
use resolvo::{
    Candidates, Condition, ConditionId, Dependencies, DependencyProvider, Interner, KnownDependencies, NameId, Problem, Requirement,
    SolvableId, Solver, SolverCache, StringId, UnsolvableOrCancelled, VersionSetId, VersionSetUnionId,
};

use crate::packages;
use crate::universe::{Clause, Id, Kind, Universe};
use crate::walk::Recommends;

/// Reason why there is no solution.
#[derive(Debug)]
pub enum Failure {
    /// The request cannot be satisfied; the text explains why.
    Unsolvable(String),
    /// An index is invalid.
    Index(packages::Error),
}

/// Solves for the wanted packages; prefers those in `preferred` among alternatives. The result is sorted by id.
pub fn solve(universe: &Universe<'_>, wanted: &[Id], preferred: &[Id], recommends: Recommends) -> Result<Vec<Id>, Failure> {
    let mut rank = vec![false; universe.len()];
    for id in preferred {
        rank[id.index()] = true;
    }
    let provider =
        Provider { universe, preferred: rank, recommends, pool: Pool::default(), known: RefCell::default(), error: RefCell::default() };
    let requirements = wanted.iter().map(|id| provider.version_set(*id, "", Sense::Wanted).into()).collect();
    let mut solver = Solver::new(provider);
    let outcome = solver.solve(Problem::new().requirements(requirements));
    if let Some(error) = solver.provider().error.take() {
        return Err(Failure::Index(error));
    }
    match outcome {
        Ok(solution) => {
            let pool = &solver.provider().pool;
            let mut ids: Vec<Id> = solution.iter().map(|solvable| pool.resolve_solvable(*solvable).record.id).collect();
            ids.sort();
            Ok(ids)
        }
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => Err(Failure::Unsolvable(conflict.display_user_friendly(&solver).to_string())),
        Err(UnsolvableOrCancelled::Cancelled(_)) => Err(Failure::Unsolvable("the search was cancelled".to_owned())),
    }
}

/// The only version of a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Version {
    id: Id,
    text: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sense {
    /// The version is in the set.
    Wanted,
    /// The version is not in the set.
    Unwanted,
}

/// A relation from the view of one of its targets; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bound {
    text: String,
    sense: Sense,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl VersionSet for Bound {
    type V = Version;
}

struct Provider<'u, 'a> {
    universe: &'u Universe<'a>,
    preferred: Vec<bool>,
    recommends: Recommends,
    pool: Pool<Bound>,
    /// The solvables of interned names. Only for lookups: its order is not stable.
    known: RefCell<HashMap<NameId, SolvableId>>,
    error: RefCell<Option<packages::Error>>,
}

impl Provider<'_, '_> {
    fn version_set(&self, id: Id, text: &str, sense: Sense) -> VersionSetId {
        let package = self.universe.package(id);
        let name = self.pool.intern_package_name(self.universe.label(id));
        let solvable = || self.pool.intern_solvable(name, Version { id, text: package.version.to_owned() });
        self.known.borrow_mut().entry(name).or_insert_with(solvable);
        self.pool.intern_version_set(name, Bound { text: text.to_owned(), sense })
    }

    /// Returns the union of all targets of a clause, or `None` if there are none.
    fn requirement(&self, clause: &Clause<'_>) -> Option<Requirement> {
        let mut targets: Vec<(Id, String)> = Vec::new();
        for member in &clause.members {
            for id in &member.targets {
                if targets.iter().any(|(seen, _)| seen == id) {
                    continue;
                }
                let text = match member.relation.bound {
                    _ if self.universe.package(*id).name != member.relation.name => format!("(as {})", member.relation.text),
                    Some((_, _)) => member.relation.text.split_once(' ').map_or("", |(_, bound)| bound).to_owned(),
                    None => String::new(),
                };
                targets.push((*id, text));
            }
        }
        // A stable sort, so equal ones stay in order of preference.
        targets.sort_by_key(|(id, _)| !self.preferred[id.index()]);
        let mut sets = targets.iter().map(|(id, text)| self.version_set(*id, text, Sense::Wanted));
        let first = sets.next()?;
        let rest: Vec<VersionSetId> = sets.collect();
        if rest.is_empty() {
            return Some(first.into());
        }
        Some(self.pool.intern_version_set_union(first, rest.into_iter()).into())
    }

    fn dependencies(&self, id: Id) -> Result<Dependencies, packages::Error> {
        let mut known = KnownDependencies::default();
        for clause in self.universe.clauses(id)? {
            match clause.kind {
                Kind::PreDepends | Kind::Depends => match self.requirement(clause) {
                    Some(requirement) => known.requirements.push(requirement.into()),
                    None => return Ok(Dependencies::Unknown(self.pool.intern_string(format!("{} is not available", clause_text(clause))))),
                },
                Kind::Conflicts | Kind::Breaks => {
                    for (member, target) in clause.members.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t))) {
                        let field = if clause.kind == Kind::Breaks { "Breaks" } else { "Conflicts" };
                        let text = format!("to be absent ({field}: {})", member.relation.text);
                        known.constrains.push(self.version_set(*target, &text, Sense::Unwanted));
                    }
                }
                // A missing recommended package is not a failure: keep only a clause that the walk could satisfy.
                Kind::Recommends if self.recommends == Recommends::Install => {
                    let kept = clause.members.iter().flat_map(|member| &member.targets).any(|id| self.preferred[id.index()]);
                    if kept && let Some(requirement) = self.requirement(clause) {
                        known.requirements.push(requirement.into());
                    }
                }
                Kind::Recommends | Kind::Suggests => {}
            }
        }
        Ok(Dependencies::Known(known))
    }
}

/// Formats a clause as in its field.
fn clause_text(clause: &Clause<'_>) -> String {
    let members: Vec<&str> = clause.members.iter().map(|member| member.relation.text).collect();
    members.join(" | ")
}

impl Interner for Provider<'_, '_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl fmt::Display + '_ {
        let solvable = self.pool.resolve_solvable(solvable);
        format!("{}={}", self.pool.resolve_package_name(solvable.name), solvable.record)
    }

    fn display_merged_solvables(&self, solvables: &[SolvableId]) -> impl fmt::Display + '_ {
        let mut texts: Vec<String> = solvables.iter().map(|solvable| self.display_solvable(*solvable).to_string()).collect();
        texts.sort();
        texts.dedup();
        texts.join(" | ")
    }

    fn display_name(&self, name: NameId) -> impl fmt::Display + '_ {
        self.pool.resolve_package_name(name).clone()
    }

    fn display_version_set(&self, version_set: VersionSetId) -> impl fmt::Display + '_ {
        self.pool.resolve_version_set(version_set).clone()
    }

    fn display_string(&self, string: StringId) -> impl fmt::Display + '_ {
        self.pool.resolve_string(string).to_owned()
    }

    fn version_set_name(&self, version_set: VersionSetId) -> NameId {
        self.pool.resolve_version_set_package_name(version_set)
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        self.pool.resolve_solvable(solvable).name
    }

    fn version_sets_in_union(&self, union: VersionSetUnionId) -> impl Iterator<Item = VersionSetId> {
        self.pool.resolve_version_set_union(union)
    }

    fn resolve_condition(&self, condition: ConditionId) -> Condition {
        self.pool.resolve_condition(condition).clone()
    }
}

impl DependencyProvider for Provider<'_, '_> {
    async fn filter_candidates(&self, candidates: &[SolvableId], version_set: VersionSetId, inverse: bool) -> Vec<SolvableId> {
        let inside = self.pool.resolve_version_set(version_set).sense == Sense::Wanted;
        if inside == inverse { Vec::new() } else { candidates.to_vec() }
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates> {
        let solvable = *self.known.borrow().get(&name)?;
        Some(Candidates { candidates: vec![solvable], ..Candidates::default() })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, _: &mut [SolvableId]) {
        // There is never more than one.
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        match self.dependencies(self.pool.resolve_solvable(solvable).record.id) {
            Ok(dependencies) => dependencies,
            Err(error) => {
                let text = self.pool.intern_string(error.to_string());
                self.error.borrow_mut().get_or_insert(error);
                Dependencies::Unknown(text)
            }
        }
    }
}
