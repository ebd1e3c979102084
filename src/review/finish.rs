//! Finishes a decision, or undoes it: after its files are staged, after a conflict, and after a killed command.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use silo_base::{error_chain, sanitize};
use silo_store::removal;

use crate::decisions::{decision, numbers};
use crate::error::{Error, at};
use crate::mark::Mark;
use crate::plan::{Phase, Plan};
use crate::release;
use crate::session::Session;
use crate::steps::{Stage, back, keep, stage_all, step, unstage, unstage_new};
use crate::view::View;

/// Maximum number of decisions of a project that can be undone.
const MAX_KEPT: usize = 50;

/// Inputs of a decision from the command that makes or finishes it.
pub struct Caller<'a> {
    /// Seconds since 1970; 0 removes no old decision.
    pub now: u64,
    /// Notes that these paths of the project arrive from a sandbox. Called before the first one changes, and after the last.
    pub arrive: &'a dyn Fn(&[PathBuf]) -> io::Result<()>,
}

impl Caller<'_> {
    fn note(&self, plan: &Plan) -> Result<(), Error> {
        (self.arrive)(&plan.paths()).map_err(at("note the changes of", "the project"))
    }
}

/// Runs a plan from its start to its end.
pub fn run(view: &mut View, dir: &Path, plan: &mut Plan, stage: Stage<'_>, caller: &Caller<'_>) -> Result<(), Error> {
    let staged = plan.write(dir).map_err(at("write", dir)).and_then(|()| stage_all(&view.project, plan, stage));
    if let Err(error) = staged.and_then(|()| caller.note(plan)) {
        unstage(&view.project, plan);
        removal::remove_tree(dir)?;
        return Err(error);
    }
    plan.phase = Phase::Ready;
    plan.write(dir).map_err(at("write", dir))?;
    finish(view, dir, plan, caller)
}

/// Finishes the decisions of killed commands, and removes old ones. Returns messages about decisions that were undone or are unfinished.
pub fn finish_interrupted(view: &mut View, caller: &Caller<'_>) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let all = numbers(&view.session)?;
    for (place, number) in all.iter().enumerate() {
        let dir = decision(&view.session, *number);
        let Some(mut plan) = Plan::read(&dir).map_err(at("read", &dir))? else {
            removal::remove_tree(&dir)?;
            continue;
        };
        if matches!(plan.phase, Phase::Ready | Phase::Keeping | Phase::Undoing) {
            caller.note(&plan)?;
        }
        let done = match plan.phase {
            Phase::Staging => {
                unstage(&view.project, &plan);
                removal::remove_tree(&dir)?;
                continue;
            }
            Phase::Ready => finish(view, &dir, &mut plan, caller),
            Phase::Keeping => complete(view, &dir, &mut plan, caller),
            Phase::Undoing => roll_back(view, &dir, &mut plan, caller),
            Phase::Finished | Phase::Undone => {
                if plan.is_expired(caller.now) || place + MAX_KEPT < all.len() {
                    removal::remove_tree(&dir)?;
                }
                continue;
            }
        };
        // One decision does not stop the others. The next silo tries an unfinished one again.
        if let Err(error) = done {
            let end = if is_done(&dir)? { "was undone" } else { "is not finished yet" };
            let reasons = match error {
                Error::Conflicts { lines } => lines,
                error => vec![sanitize::line(&error_chain::of(&error).join(": "))],
            };
            lines.extend(reasons.iter().map(|reason| format!("a decision of a killed command {end}: {reason}")));
        }
    }
    Ok(lines)
}

/// True if a killed command left a decision unfinished.
pub fn is_unfinished(session: &Session) -> Result<bool, Error> {
    for number in numbers(session)? {
        let dir = decision(session, number);
        if !is_done(&dir)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if a decision has ended. A rollback without kept files removes its record.
fn is_done(dir: &Path) -> Result<bool, Error> {
    let plan = Plan::read(dir).map_err(at("read", dir))?;
    Ok(plan.map_or_else(|| !dir.exists(), |plan| matches!(plan.phase, Phase::Finished | Phase::Undone)))
}

/// Finishes a plan whose files are staged. If a file changed here in between, undoes everything.
fn finish(view: &mut View, dir: &Path, plan: &mut Plan, caller: &Caller<'_>) -> Result<(), Error> {
    for index in 0..plan.operations.len() {
        let path = &plan.operations[index].path;
        let failed = match step(&view.project, plan, index) {
            Ok(true) => continue,
            Ok(false) => Error::Conflicts { lines: vec![format!("{}: it changed here in between", sanitize::path(path))] },
            Err(error) => at("change", path)(error),
        };
        plan.phase = Phase::Undoing;
        plan.write(dir).map_err(at("write", dir))?;
        // The first error is returned. The next silo continues a rollback that failed.
        let _ = roll_back(view, dir, plan, caller);
        return Err(failed);
    }
    // From here on, the replaced files leave their places, so nothing can be rolled back.
    plan.phase = Phase::Keeping;
    plan.write(dir).map_err(at("write", dir))?;
    complete(view, dir, plan, caller)
}

/// Completes a plan whose files are all in place.
fn complete(view: &mut View, dir: &Path, plan: &mut Plan, caller: &Caller<'_>) -> Result<(), Error> {
    let mut failed = None;
    for index in 0..plan.operations.len() {
        if let Err(error) = keep(&view.project, dir, plan, index) {
            failed.get_or_insert(error);
        }
    }
    let mut base = view.base.take().or(view.session.base()?);
    for operation in &plan.operations {
        if plan.undoes.is_none() {
            release::remove(&view.upper, &view.project, &operation.parts)?;
        }
        if let Some(base) = &mut base {
            base.forget(&operation.path);
            for path in operation.parts.iter().chain([&operation.path]) {
                let stat = view.project.stat(path).map_err(at("read", path))?;
                base.set(path, stat.map(|stat| Mark::of(&stat, i128::MAX)));
            }
        }
    }
    if let Some(base) = &base {
        view.session.write_base(base)?;
    }
    view.base = base;
    if let Some(number) = plan.undoes {
        let old = decision(&view.session, number);
        if let Some(mut undone) = Plan::read(&old).map_err(at("read", &old))? {
            undone.phase = Phase::Undone;
            undone.write(&old).map_err(at("write", &old))?;
        }
    }
    caller.note(plan)?;
    match failed {
        Some(error) => Err(error),
        None => end(dir, plan, Phase::Finished, caller),
    }
}

/// Ends a plan. Its replaced files are kept from now on.
fn end(dir: &Path, plan: &mut Plan, phase: Phase, caller: &Caller<'_>) -> Result<(), Error> {
    plan.phase = phase;
    plan.at = plan.at.max(caller.now);
    plan.write(dir).map_err(at("write", dir))
}

/// Undoes the operations that are done. A file that changed here afterwards stays, and the replaced one is kept in the record. An error of
/// one operation does not stop the others.
fn roll_back(view: &View, record: &Path, plan: &mut Plan, caller: &Caller<'_>) -> Result<(), Error> {
    let mut failed = None;
    let mut stuck = Vec::new();
    for index in (0..plan.operations.len()).rev() {
        if let Err(error) = back(&view.project, plan, index) {
            stuck.push(index);
            failed.get_or_insert_with(|| at("restore", &plan.operations[index].path)(error));
        }
    }
    unstage_new(&view.project, plan);
    // The next rollback needs the old file of an operation that failed.
    for index in (0..plan.operations.len()).filter(|index| !stuck.contains(index)) {
        if let Err(error) = keep(&view.project, record, plan, index) {
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let is_empty = fs::read_dir(record.join("old")).is_ok_and(|mut old| old.next().is_none());
    if is_empty {
        return Ok(removal::remove_tree(record)?);
    }
    end(record, plan, Phase::Undone, caller)
}

/// Begins a decision and stops in the middle, as a killed command does.
#[cfg(test)]
pub(crate) fn interrupted(
    view: &View,
    (dir, plan): (&Path, &mut Plan),
    stage: Stage<'_>,
    random: &mut dyn FnMut(usize) -> usize,
) -> Result<(), Error> {
    plan.write(dir).map_err(at("write", dir))?;
    let (moment, some) = (random(4), random(plan.operations.len() + 1));
    if moment > 0 || random(2) == 0 {
        stage_all(&view.project, plan, stage)?;
    }
    if moment == 0 {
        return Ok(());
    }
    plan.phase = Phase::Ready;
    plan.write(dir).map_err(at("write", dir))?;
    for index in 0..if moment == 1 { some } else { plan.operations.len() } {
        assert!(step(&view.project, plan, index).expect("done"));
    }
    if moment == 1 {
        return Ok(());
    }
    plan.phase = Phase::Keeping;
    plan.write(dir).map_err(at("write", dir))?;
    for index in 0..if moment == 2 { some } else { plan.operations.len() } {
        keep(&view.project, dir, plan, index)?;
    }
    if moment == 3 {
        for operation in &plan.operations[..some] {
            release::remove(&view.upper, &view.project, &operation.parts)?;
        }
    }
    Ok(())
}
