//! Applies changes to the project: completely, or not at all.
//!
//! New files are staged beside their targets. Then each operation is one rename that exchanges the staged file and the target, or one
//! rename without a target. The replaced file is verified after the rename: one that changed in between goes back, and so does everything
//! before it. The next silo finishes the decision of a killed command, see [`finish`](crate::finish).

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use silo_base::sanitize;
use silo_guard::git::dir_fd::{Dir, Kind};

use crate::changes::{Change, What};
use crate::choose::makes_dir;
use crate::contents;
use crate::copying;
use crate::decisions::{begin, decision, numbers};
use crate::error::{Error, at};
use crate::finish::{Caller, run};
use crate::plan::{Action, Id, Operation, Phase, Plan};
use crate::release;
use crate::session::Session;
use crate::view::View;
use crate::weigh::Weighed;

/// Result of a decision.
#[derive(Debug, Default)]
pub struct Applied {
    /// Number of the decision, to undo it.
    pub number: u64,
    /// Changed paths.
    pub paths: Vec<PathBuf>,
}

/// Applies the chosen changes. The command has locked the review and finished earlier decisions.
pub fn apply(view: &mut View, all: &[Weighed], chosen: &[usize], caller: &Caller<'_>) -> Result<Applied, Error> {
    let Some((number, dir, mut plan)) = prepare(view, all, chosen, caller.now)? else { return Ok(Applied::default()) };
    let upper = view.upper.again().map_err(at("open", view.session.upper()))?;
    run(view, &dir, &mut plan, &|plan, index, to, name| stage_from(&upper, plan, index, to, name), caller)?;
    Ok(Applied { number, paths: chosen.iter().map(|index| all[*index].change.path.clone()).collect() })
}

/// Copies the new file of an operation from the layer.
fn stage_from(upper: &Dir, plan: &Plan, index: usize, to: &Dir, name: &OsStr) -> Result<(), Error> {
    let operation = &plan.operations[index];
    let wants = |path: &Path| operation.parts.binary_search_by(|part| part.as_path().cmp(path)).is_ok();
    copying::copy(upper, &operation.path, to, Path::new(name), &wants)
}

/// Checks the chosen changes, and makes their plan; `None` if there is nothing to do.
fn prepare(view: &View, all: &[Weighed], chosen: &[usize], now: u64) -> Result<Option<(u64, PathBuf, Plan)>, Error> {
    let refused: Vec<String> = chosen.iter().filter_map(|index| refusal(&all[*index])).collect();
    if !refused.is_empty() {
        return Err(Error::Conflicts { lines: refused });
    }
    let operations = operations(view, all, chosen)?;
    if operations.is_empty() {
        return Ok(None);
    }
    enough_space(view, all, chosen)?;
    for index in chosen {
        release::open_around(&view.upper, &view.project, view.base.as_ref(), &all[*index].change.path)?;
    }
    let (number, dir) = begin(&view.session)?;
    Ok(Some((number, dir, Plan::new(&view.session.project(), id(number), now, None, operations))))
}

/// Undoes a finished decision.
pub fn undo(view: &mut View, number: u64, caller: &Caller<'_>) -> Result<Applied, Error> {
    let old = decision(&view.session, number);
    let before = Plan::read(&old).map_err(at("read", &old))?.filter(|plan| plan.phase == Phase::Finished);
    let before = before.ok_or(Error::NoDecision)?;
    let operations: Vec<Operation> = before.operations.iter().map(reversed).collect();
    let changed: Vec<String> = operations.iter().filter_map(|operation| changed_since(&view.project, operation)).collect();
    if !changed.is_empty() {
        return Err(Error::Conflicts { lines: changed });
    }
    let (next, dir) = begin(&view.session)?;
    let mut plan = Plan::new(&view.session.project(), id(next), caller.now, Some(number), operations);
    let from = Dir::open(&old.join("old")).map_err(at("open", &old))?;
    let stage = |_: &Plan, index: usize, to: &Dir, name: &OsStr| {
        copying::copy(&from, Path::new(&index.to_string()), to, Path::new(name), &|_| true)
    };
    run(view, &dir, &mut plan, &stage, caller)?;
    Ok(Applied { number: next, paths: plan.operations.iter().map(|operation| operation.path.clone()).collect() })
}

/// Returns the operation that undoes another one.
fn reversed(operation: &Operation) -> Operation {
    let path = &operation.path;
    match (operation.action, operation.before) {
        (Action::Put, None) => Operation::new(path, Action::Remove, operation.after, Vec::new()).over(operation.contents_after),
        (Action::Put, Some(_)) | (Action::Remove, _) => {
            Operation::new(path, Action::Put, operation.after, Vec::new()).over(operation.contents_after)
        }
        (Action::Mode(mode), Some(id)) => Operation::new(path, Action::Mode(id.mode), Some(id.with_mode(mode)), Vec::new()),
        (Action::Mode(mode), None) => Operation::new(path, Action::Mode(mode), None, Vec::new()),
    }
}

/// Returns the number of the last decision that can be undone.
pub fn last(session: &Session) -> Result<Option<u64>, Error> {
    let mut last = None;
    for number in numbers(session)? {
        let dir = decision(session, number);
        if Plan::read(&dir).map_err(at("read", &dir))?.is_some_and(|plan| plan.phase == Phase::Finished) {
            last = Some(number);
        }
    }
    Ok(last)
}

fn refusal(one: &Weighed) -> Option<String> {
    let reason = one.conflict.as_ref().or(one.change.problem.as_ref())?;
    Some(format!("{}: {reason}", sanitize::path(&one.change.path)))
}

/// Groups the chosen changes: a new directory is one operation with everything chosen in it.
fn operations(view: &View, all: &[Weighed], chosen: &[usize]) -> Result<Vec<Operation>, Error> {
    // The first change of each operation, and all its paths. Changes have the order of paths: everything in a directory follows it directly.
    let mut grouped: Vec<(&Change, Vec<PathBuf>)> = Vec::new();
    for index in chosen {
        let change = &all[*index].change;
        match grouped.last_mut() {
            Some((first, parts)) if makes_dir(first) && change.path.starts_with(&first.path) => parts.push(change.path.clone()),
            _ => grouped.push((change, vec![change.path.clone()])),
        }
    }
    let mut operations = Vec::with_capacity(grouped.len());
    let mut changed = Vec::new();
    for (change, parts) in grouped {
        let path = &change.path;
        let now = view.project.stat(path).map_err(at("read", path))?;
        // The conflicts were found in the listed state.
        let is_listed = match (&change.before, &now) {
            (Some(before), Some(now)) => before.is_state_of(now),
            (None, None) => true,
            _ => false,
        };
        let action = match (change.what, &change.after) {
            (What::Mode, Some(after)) => Action::Mode(after.mode & 0o777),
            (_, Some(_)) => Action::Put,
            (_, None) => Action::Remove,
        };
        let contents =
            if matches!(action, Action::Mode(_)) { None } else { contents::of(&view.project, path).map_err(at("read", path))? };
        // The files in a directory may have changed since the search for conflicts: the state to compare with is the one of now.
        let conflict = if contents.is_some() { view.conflict(change) } else { None };
        if let Some(conflict) = conflict {
            changed.push(format!("{}: {conflict}", sanitize::path(path)));
        } else if !is_listed {
            changed.push(format!("{}: it changed here in between", sanitize::path(path)));
        }
        operations.push(Operation::new(path, action, now.map(|stat| Id::of(&stat)), parts).over(contents));
    }
    if changed.is_empty() { Ok(operations) } else { Err(Error::Conflicts { lines: changed }) }
}

fn enough_space(view: &View, all: &[Weighed], chosen: &[usize]) -> Result<(), Error> {
    let needed: u64 = chosen
        .iter()
        .filter_map(|index| all[*index].change.after.as_ref())
        .filter(|after| after.kind == Kind::File)
        .fold(0, |sum, after| sum.saturating_add(after.size));
    let found = rustix::fs::fstatvfs(&view.project).map_err(io::Error::from).map_err(at("read", view.session.project()))?;
    if needed > found.f_bavail.saturating_mul(found.f_frsize) {
        return Err(at("write to", view.session.project())(io::ErrorKind::StorageFull.into()));
    }
    Ok(())
}

/// Returns a line if the target of an operation is not as the operation expects it.
fn changed_since(project: &Dir, operation: &Operation) -> Option<String> {
    let path = &operation.path;
    let now = project.stat(path).ok().flatten().map(|stat| Id::of(&stat));
    if now != operation.before {
        return Some(format!("{}: it changed here since", sanitize::path(path)));
    }
    let is_same =
        matches!(operation.action, Action::Mode(_)) || contents::of(project, path).is_ok_and(|now| now == operation.contents_before);
    (!is_same).then(|| format!("{}: a file in it changed here since, or is new", sanitize::path(path)))
}

fn id(number: u64) -> String {
    format!("{}-{number}", std::process::id())
}

/// Begins a decision and stops in the middle, as a killed command does.
#[cfg(test)]
pub(crate) fn interrupted(view: &View, all: &[Weighed], chosen: &[usize], random: &mut dyn FnMut(usize) -> usize) -> Result<(), Error> {
    let Some((_, dir, mut plan)) = prepare(view, all, chosen, 0)? else { return Ok(()) };
    let stage = |plan: &Plan, index: usize, to: &Dir, name: &OsStr| stage_from(&view.upper, plan, index, to, name);
    crate::finish::interrupted(view, (&dir, &mut plan), &stage, random)
}
