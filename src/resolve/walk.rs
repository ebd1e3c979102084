//! Reproduces apt's walk through the dependencies.
//!
//! apt does not search for a best set. It goes depth first from each wanted package and takes the first alternative that works; early
//! choices satisfy later dependencies. So the order of the walk *is* the policy, and only the same walk gives the same packages. The walk
//! hardly backtracks and may end in an inconsistent set; the solver checks its result.
//!
//! Three flags per package, named as in apt, control the policy:
//!
//! * *installed*: part of the proposed set;
//! * *protected*: the state was requested, and only its requester changes it;
//! * *candidate*: can still be installed. Lost for good if it conflicts with a protected package or cannot work.

use crate::packages::Error;
use crate::universe::{Clause, Id, Kind, Member, Universe};

/// Limit of the walk's depth. The deepest dependency in Debian's `main` was 16, for whole desktops. Each level uses stack, and a thread may
/// have only 2 MiB of it. The solver handles deeper dependencies.
const MAX_DEPTH: usize = 500;

/// Treatment of recommended packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recommends {
    /// Follow dependencies only.
    Ignore,
    /// Install recommended packages if possible.
    Install,
}

/// Returns the set that apt would choose for the wanted packages, sorted by id.
pub fn walk(universe: &Universe<'_>, wanted: &[Id], recommends: Recommends) -> Result<Vec<Id>, Error> {
    let mut walk = Walk { universe, states: vec![State::default(); universe.len()], clock: 0, recommends };
    for id in universe.ids() {
        walk.states[id.index()].candidate = universe.is_admitted(id);
    }
    let mut later = Vec::new();
    for id in wanted {
        walk.states[id.index()].protected = true;
        walk.mark(*id, Follow::Nothing, Asked::ByUser, 0)?;
        if walk.is_broken(*id)? {
            later.push(*id);
        }
    }
    for id in later {
        walk.mark(id, Follow::Dependencies, Asked::ByUser, 0)?;
    }
    walk.sweep(wanted)
}

/// Returns the installed packages with unsatisfied critical relations.
pub fn broken(universe: &Universe<'_>, set: &[Id]) -> Result<Vec<Id>, Error> {
    let mut walk = Walk { universe, states: vec![State::default(); universe.len()], clock: 0, recommends: Recommends::Ignore };
    for id in set {
        walk.states[id.index()].installed = true;
    }
    let mut broken = Vec::new();
    for id in set {
        if walk.is_broken(*id)? {
            broken.push(*id);
        }
    }
    Ok(broken)
}

/// Follows relations from the roots inside a set and returns all reached packages.
pub fn reachable(universe: &Universe<'_>, set: &[Id], roots: &[Id]) -> Result<Vec<Id>, Error> {
    let mut within = vec![false; universe.len()];
    for id in set {
        within[id.index()] = true;
    }
    let mut reached = vec![false; universe.len()];
    let mut queue: Vec<Id> = roots.to_vec();
    while let Some(id) = queue.pop() {
        if !within[id.index()] || std::mem::replace(&mut reached[id.index()], true) {
            continue;
        }
        let positive = universe.clauses(id)?.iter().filter(|clause| !clause.kind.is_negative());
        queue.extend(positive.flat_map(|clause| &clause.members).flat_map(|member| &member.targets));
    }
    Ok(universe.ids().filter(|id| reached[id.index()]).collect())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    Nothing,
    Dependencies,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    ByUser,
    ByDependency,
}

#[derive(Clone, Copy, Default)]
struct State {
    candidate: bool,
    installed: bool,
    protected: bool,
    /// Time at which the candidate was lost.
    lost: u32,
    /// Time at which `installed` last changed.
    changed: u32,
}

struct Walk<'u, 'a> {
    universe: &'u Universe<'a>,
    states: Vec<State>,
    clock: u32,
    recommends: Recommends,
}

impl<'u, 'a> Walk<'u, 'a> {
    /// Marks a package for installation and, depending on `follow`, its dependencies. Returns true on success.
    fn mark(&mut self, id: Id, follow: Follow, asked: Asked, depth: usize) -> Result<bool, Error> {
        let state = self.states[id.index()];
        let forbidden = asked == Asked::ByDependency && state.protected && !state.installed;
        if depth > MAX_DEPTH || forbidden || !state.candidate {
            return Ok(false);
        }
        if !state.protected && state.installed && !self.is_broken(id)? {
            return Ok(true);
        }
        if follow == Follow::Nothing {
            self.install(id);
            return Ok(true);
        }
        if !self.can_be_satisfied(id)? {
            if !state.protected {
                self.uninstall(id);
                self.lose_candidate(id);
            }
            return Ok(false);
        }
        if asked == Asked::ByUser {
            self.install(id);
        }
        let fail_early = !state.protected && asked == Asked::ByDependency;
        let (to_install, to_remove) = self.collect(id, state)?;
        let removed = self.remove_conflicts(&to_remove, state, asked);
        if !removed && fail_early {
            return Ok(false);
        }
        self.install(id);
        // Nothing may remove the package while its dependencies are installed.
        self.states[id.index()].protected = true;
        let installed = self.install_dependencies(&to_install, state, asked, depth)?;
        if !installed && fail_early {
            self.uninstall(id);
            self.lose_candidate(id);
        }
        self.states[id.index()].protected = state.protected;
        Ok(removed && installed)
    }

    /// Lists the clauses to act on: all of a protected package, otherwise the unsatisfied ones.
    fn collect(&self, id: Id, of: State) -> Result<(Vec<&'u Clause<'a>>, Vec<&'u Clause<'a>>), Error> {
        let wanted = |clause: &&Clause<'_>| self.is_important(clause.kind) && (of.protected || !self.is_satisfied(clause));
        let universe: &'u Universe<'a> = self.universe;
        let (negative, positive) = universe.clauses(id)?.iter().filter(wanted).partition(|clause| clause.kind.is_negative());
        Ok((positive, negative))
    }

    /// Removes packages that conflict with one of this state. If it is protected, they lose their candidates for good.
    fn remove_conflicts(&mut self, clauses: &[&Clause<'_>], of: State, asked: Asked) -> bool {
        let mut failed = false;
        for target in clauses.iter().flat_map(|clause| &clause.members).flat_map(|member| &member.targets) {
            let state = self.states[target.index()];
            if !state.candidate {
                continue;
            }
            if state.installed && state.protected {
                failed = true;
                if !of.protected && asked == Asked::ByDependency {
                    break;
                }
                continue;
            }
            if state.installed {
                self.uninstall(*target);
            }
            if of.protected {
                self.lose_candidate(*target);
                self.states[target.index()].protected = true;
            }
        }
        !failed
    }

    /// Installs the first working solution of each clause. Returns true if all critical clauses have one.
    fn install_dependencies(&mut self, clauses: &[&'u Clause<'a>], of: State, asked: Asked, depth: usize) -> Result<bool, Error> {
        let mut failed = false;
        for clause in clauses {
            if self.is_satisfied(clause) {
                if of.protected && clause.kind.is_critical() {
                    failed |= !self.protect_only_solution(clause, depth)?;
                }
                continue;
            }
            let found = self.install_one_of(clause, of, depth)?;
            if !found && clause.kind.is_critical() {
                failed = true;
                if !of.protected && asked == Asked::ByDependency {
                    break;
                }
            }
        }
        Ok(!failed)
    }

    /// Protects a dependency that has no alternative.
    fn protect_only_solution(&mut self, clause: &Clause<'_>, depth: usize) -> Result<bool, Error> {
        let mut solutions = self.solutions(clause);
        solutions.sort();
        solutions.dedup();
        let [only] = solutions[..] else { return Ok(true) };
        if self.states[only.index()].protected {
            return Ok(true);
        }
        self.states[only.index()].protected = true;
        self.mark(only, Follow::Dependencies, Asked::ByDependency, depth + 1)
    }

    fn install_one_of(&mut self, clause: &Clause<'_>, of: State, depth: usize) -> Result<bool, Error> {
        let mut solutions = self.solutions(clause);
        solutions.dedup();
        for id in &solutions {
            if !self.states[id.index()].candidate {
                continue;
            }
            if of.protected && clause.kind.is_critical() && solutions.len() == 1 {
                if !self.mark(*id, Follow::Nothing, Asked::ByDependency, depth + 1)? {
                    continue;
                }
                self.states[id.index()].protected = true;
            }
            if self.mark(*id, Follow::Dependencies, Asked::ByDependency, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists the candidates that satisfy a clause, left to right; for each alternative the protected ones first, without those whose
    /// absence is protected.
    fn solutions(&self, clause: &Clause<'_>) -> Vec<Id> {
        let mut solutions = Vec::new();
        for member in &clause.members {
            let mut targets: Vec<Id> = member.targets.clone();
            targets.retain(|id| self.states[id.index()].candidate);
            targets.sort_by_key(|id| !self.states[id.index()].protected);
            solutions.extend(targets);
        }
        solutions.retain(|id| !self.states[id.index()].protected || self.states[id.index()].installed);
        solutions
    }

    /// Returns true if each dependency has a candidate. As in apt, a lost candidate still counts until a package that has or provides the
    /// name changes.
    fn can_be_satisfied(&self, id: Id) -> Result<bool, Error> {
        let believed = |member: &Member<'_>| {
            let seen = member.touching.iter().map(|id| self.states[id.index()].changed).max().unwrap_or(0);
            member.targets.iter().map(|id| &self.states[id.index()]).any(|s| s.candidate || s.installed || s.lost > seen)
        };
        let dependencies = |clause: &&Clause<'_>| clause.kind.is_critical() && !clause.kind.is_negative();
        Ok(self.universe.clauses(id)?.iter().filter(dependencies).all(|clause| clause.members.iter().any(believed)))
    }

    /// Returns true if an installed package has an unsatisfied important relation.
    fn is_broken(&self, id: Id) -> Result<bool, Error> {
        let unsatisfied = |clause: &Clause<'_>| self.is_important(clause.kind) && !self.is_satisfied(clause);
        Ok(self.states[id.index()].installed && self.universe.clauses(id)?.iter().any(unsatisfied))
    }

    fn is_important(&self, kind: Kind) -> bool {
        kind.is_critical() || (kind == Kind::Recommends && self.recommends == Recommends::Install)
    }

    fn is_satisfied(&self, clause: &Clause<'_>) -> bool {
        let mut targets = clause.members.iter().flat_map(|member| &member.targets);
        targets.any(|id| self.states[id.index()].installed) != clause.kind.is_negative()
    }

    fn install(&mut self, id: Id) {
        self.clock += 1;
        let state = &mut self.states[id.index()];
        if !state.installed {
            (state.installed, state.changed) = (true, self.clock);
        }
    }

    fn uninstall(&mut self, id: Id) {
        self.clock += 1;
        let state = &mut self.states[id.index()];
        if state.installed {
            (state.installed, state.changed) = (false, self.clock);
        }
    }

    fn lose_candidate(&mut self, id: Id) {
        self.clock += 1;
        let state = &mut self.states[id.index()];
        // An installed package keeps its version.
        state.candidate = state.installed;
        state.lost = self.clock;
    }

    /// Drops the leftovers of abandoned alternatives.
    fn sweep(&self, wanted: &[Id]) -> Result<Vec<Id>, Error> {
        let installed: Vec<Id> = self.universe.ids().filter(|id| self.states[id.index()].installed).collect();
        let rooted = |id: &&Id| self.universe.is_essential(**id) || self.universe.is_protected(**id);
        let roots: Vec<Id> = wanted.iter().chain(installed.iter().filter(rooted)).copied().collect();
        reachable(self.universe, &installed, &roots)
    }
}
