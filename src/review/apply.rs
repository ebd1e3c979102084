//! Applies changes to the project: completely, or not at all.
//!
//! New files are staged beside their targets. Then each operation is one rename that exchanges the staged file and the target, or one
//! rename without a target. The replaced file is verified after the rename: one that changed in between goes back, and so does everything
//! before it. A killed decision is finished by the next silo, see [`Plan`].

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use silo_base::sanitize;
use silo_guard::git::dir_fd::{Dir, Kind};
use silo_store::removal;

use crate::changes::{Change, What};
use crate::choose::makes_dir;
use crate::copying;
use crate::decisions::{begin, decision, numbers};
use crate::error::{Error, at};
use crate::exchange::{change_mode, exchange, identity_of, move_new};
use crate::mark::Mark;
use crate::plan::{Action, Id, Operation, Phase, Plan};
use crate::release;
use crate::session::Session;
use crate::view::View;
use crate::weigh::Weighed;

/// Maximum number of decisions of a project that can be undone.
const MAX_KEPT: usize = 50;

/// Result of a decision.
#[derive(Debug, Default)]
pub struct Applied {
    /// Number of the decision, to undo it.
    pub number: u64,
    /// Changed paths.
    pub paths: Vec<PathBuf>,
}

/// Applies the chosen changes. The caller has locked the review and finished earlier decisions.
pub fn apply(view: &mut View, all: &[Weighed], chosen: &[usize], now: u64) -> Result<Applied, Error> {
    let Some((number, dir, mut plan)) = prepare(view, all, chosen, now)? else { return Ok(Applied::default()) };
    let upper = view.upper.again().map_err(at("open", view.session.upper()))?;
    run(view, &dir, &mut plan, &|plan, index, to, name| stage_from(&upper, plan, index, to, name))?;
    Ok(Applied { number, paths: chosen.iter().map(|index| all[*index].change.path.clone()).collect() })
}

/// Copies the new file of an operation from the layer.
fn stage_from(upper: &Dir, plan: &Plan, index: usize, to: &Dir, name: &OsStr) -> Result<(), Error> {
    let operation = &plan.operations[index];
    let parts = operation.parts();
    let wants = |path: &Path| parts.binary_search_by(|part| part.as_path().cmp(path)).is_ok();
    copying::copy(upper, &operation.path(), to, Path::new(name), &wants)
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
pub fn undo(view: &mut View, number: u64, now: u64) -> Result<Applied, Error> {
    let old = decision(&view.session, number);
    let before = Plan::read(&old).map_err(at("read", &old))?.filter(|plan| plan.phase == Phase::Finished);
    let before = before.ok_or(Error::NoDecision)?;
    let reversed = |operation: &Operation| {
        let path = operation.path();
        match (operation.action, operation.before) {
            (Action::Put, None) => Operation::new(&path, Action::Remove, operation.after, Vec::new()),
            (Action::Put, Some(_)) | (Action::Remove, _) => Operation::new(&path, Action::Put, operation.after, Vec::new()),
            (Action::Mode(mode), Some(id)) => Operation::new(&path, Action::Mode(id.mode), Some(id.with_mode(mode)), Vec::new()),
            (Action::Mode(mode), None) => Operation::new(&path, Action::Mode(mode), None, Vec::new()),
        }
    };
    let operations: Vec<Operation> = before.operations.iter().map(reversed).collect();
    let changed: Vec<String> = operations.iter().filter_map(|operation| changed_since(&view.project, operation)).collect();
    if !changed.is_empty() {
        return Err(Error::Conflicts { lines: changed });
    }
    let (next, dir) = begin(&view.session)?;
    let mut plan = Plan::new(&view.session.project(), id(next), now, Some(number), operations);
    let from = Dir::open(&old.join("old")).map_err(at("open", &old))?;
    run(view, &dir, &mut plan, &|_, index, to, name| copying::copy(&from, Path::new(&index.to_string()), to, Path::new(name), &|_| true))?;
    Ok(Applied { number: next, paths: plan.operations.iter().map(Operation::path).collect() })
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

/// Finishes the decisions of killed commands, and removes old ones. Returns messages about files that changed here in between.
pub fn finish_interrupted(view: &mut View, now: u64) -> Result<Vec<String>, Error> {
    let mut lines = Vec::new();
    let all = numbers(&view.session)?;
    for (place, number) in all.iter().enumerate() {
        let dir = decision(&view.session, *number);
        let Some(mut plan) = Plan::read(&dir).map_err(at("read", &dir))? else {
            removal::remove_tree(&dir)?;
            continue;
        };
        match plan.phase {
            Phase::Staging => {
                unstage(&view.project, &plan);
                removal::remove_tree(&dir)?;
            }
            Phase::Ready => match finish(view, &dir, &mut plan) {
                Err(Error::Conflicts { lines: changed }) => lines.extend(changed),
                done => done?,
            },
            Phase::Undoing => roll_back(view, &dir, &mut plan)?,
            Phase::Finished | Phase::Undone => {
                if plan.is_expired(now) || place + MAX_KEPT < all.len() {
                    removal::remove_tree(&dir)?;
                }
            }
        }
    }
    Ok(lines)
}

/// True if a killed command left a decision unfinished.
pub fn is_unfinished(session: &Session) -> Result<bool, Error> {
    for number in numbers(session)? {
        let dir = decision(session, number);
        let plan = Plan::read(&dir).map_err(at("read", &dir))?;
        if plan.is_none_or(|plan| !matches!(plan.phase, Phase::Finished | Phase::Undone)) {
            return Ok(true);
        }
    }
    Ok(false)
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
        let now = view.project.stat(&change.path).map_err(at("read", &change.path))?;
        // The conflicts were found in the listed state.
        let is_listed = match (&change.before, &now) {
            (Some(before), Some(now)) => before.is_state_of(now),
            (None, None) => true,
            _ => false,
        };
        if !is_listed {
            changed.push(format!("{}: it changed here in between", sanitize::path(&change.path)));
        }
        let action = match (change.what, &change.after) {
            (What::Mode, Some(after)) => Action::Mode(after.mode & 0o777),
            (_, Some(_)) => Action::Put,
            (_, None) => Action::Remove,
        };
        operations.push(Operation::new(&change.path, action, now.map(|stat| Id::of(&stat)), parts));
    }
    if changed.is_empty() { Ok(operations) } else { Err(Error::Conflicts { lines: changed }) }
}

fn enough_space(view: &View, all: &[Weighed], chosen: &[usize]) -> Result<(), Error> {
    let needed: u64 = chosen
        .iter()
        .filter_map(|index| all[*index].change.after.as_ref())
        .filter(|after| after.kind == Kind::File)
        .map(|after| after.size)
        .sum();
    let found = rustix::fs::fstatvfs(&view.project).map_err(io::Error::from).map_err(at("read", view.session.project()))?;
    if needed > found.f_bavail.saturating_mul(found.f_frsize) {
        return Err(at("write to", view.session.project())(io::ErrorKind::StorageFull.into()));
    }
    Ok(())
}

/// Returns a line if the target of an operation is not as the operation expects it.
fn changed_since(project: &Dir, operation: &Operation) -> Option<String> {
    let path = operation.path();
    let now = project.stat(&path).ok().flatten().map(|stat| Id::of(&stat));
    (now != operation.before).then(|| format!("{}: it changed here since", sanitize::path(&path)))
}

fn id(number: u64) -> String {
    format!("{}-{number}", std::process::id())
}

/// Stages the new file of an operation under a name in a directory.
type Stage<'a> = &'a dyn Fn(&Plan, usize, &Dir, &OsStr) -> Result<(), Error>;

/// Runs a plan from its start to its end.
fn run(view: &mut View, dir: &Path, plan: &mut Plan, stage: Stage<'_>) -> Result<(), Error> {
    plan.write(dir).map_err(at("write", dir))?;
    let staged = stage_all(&view.project, plan, stage);
    if let Err(error) = staged {
        unstage(&view.project, plan);
        removal::remove_tree(dir)?;
        return Err(error);
    }
    plan.phase = Phase::Ready;
    plan.write(dir).map_err(at("write", dir))?;
    finish(view, dir, plan)
}

fn stage_all(project: &Dir, plan: &mut Plan, stage: Stage<'_>) -> Result<(), Error> {
    for index in 0..plan.operations.len() {
        if plan.operations[index].action != Action::Put {
            continue;
        }
        let path = plan.operations[index].path();
        let (to, name) = plan.target(project, index).map_err(at("open", &path))?;
        let staged = plan.staged(index);
        stage(plan, index, &to, &staged)?;
        if let Some(old) = to.stat(Path::new(&name)).map_err(at("read", &path))? {
            copying::set_owner(&to, Path::new(&staged), old.st_uid, old.st_gid);
        }
        let stat = to.stat(Path::new(&staged)).map_err(at("read", &path))?;
        plan.operations[index].after = stat.map(|stat| Id::of(&stat));
    }
    // Once for everything.
    silo_store::system::sync_file_system_of(project).map_err(at("sync", "the project"))
}

/// Removes staged files.
fn unstage(project: &Dir, plan: &Plan) {
    for index in 0..plan.operations.len() {
        if let Ok((dir, _)) = plan.target(project, index) {
            // Usually there is none.
            let _ = removal::remove_at(dir.as_fd(), &plan.staged(index), Path::new("a staged file"));
        }
    }
}

/// Finishes a plan whose files are staged. If a file changed here in between, undoes everything.
fn finish(view: &mut View, dir: &Path, plan: &mut Plan) -> Result<(), Error> {
    for index in 0..plan.operations.len() {
        let path = plan.operations[index].path();
        let done = step(&view.project, dir, plan, index).map_err(at("change", &path));
        let is_done = match done {
            Ok(is_done) => is_done,
            Err(error) => {
                plan.phase = Phase::Undoing;
                plan.write(dir).map_err(at("write", dir))?;
                roll_back(view, dir, plan)?;
                return Err(error);
            }
        };
        if !is_done {
            plan.phase = Phase::Undoing;
            plan.write(dir).map_err(at("write", dir))?;
            roll_back(view, dir, plan)?;
            return Err(Error::Conflicts { lines: vec![format!("{}: it changed here in between", sanitize::path(&path))] });
        }
    }
    for index in 0..plan.operations.len() {
        keep(&view.project, dir, plan, index)?;
    }
    let mut base = view.base.take().or(view.session.base()?);
    for operation in &plan.operations {
        let paths = operation.parts();
        if plan.undoes.is_none() {
            release::remove(&view.upper, &view.project, &paths)?;
        }
        if let Some(base) = &mut base {
            base.forget(&operation.path());
            for path in paths.iter().chain([&operation.path()]) {
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
    plan.phase = Phase::Finished;
    plan.write(dir).map_err(at("write", dir))
}

/// Does one operation, unless it is done; `false` if the target is not as expected.
fn step(project: &Dir, record: &Path, plan: &Plan, index: usize) -> io::Result<bool> {
    let operation = &plan.operations[index];
    let (dir, name) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if silo_guard::git::dir_fd::is_absent(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let staged = plan.staged(index);
    let now = identity_of(&dir, &name)?;
    match operation.action {
        Action::Put => {
            let after = operation.after.ok_or(io::ErrorKind::InvalidData)?;
            if now.is_some_and(|now| now.is_same_file(&after))
                && identity_of(&dir, &staged)?.is_none_or(|staged| !staged.is_same_file(&after))
            {
                return Ok(true);
            }
            if now != operation.before {
                return Ok(false);
            }
            match operation.before {
                None => move_new(&dir, &staged, &name),
                Some(before) => {
                    exchange(&dir, &staged, &name)?;
                    if identity_of(&dir, &staged)? == Some(before) {
                        return Ok(true);
                    }
                    exchange(&dir, &staged, &name)?;
                    Ok(false)
                }
            }
        }
        Action::Remove => {
            if let Some(gone) = identity_of(&dir, &staged)? {
                return Ok(operation.before == Some(gone));
            }
            if record.join("old").join(index.to_string()).symlink_metadata().is_ok() {
                // A killed command has removed it and kept the old file already.
                return Ok(true);
            }
            if now != operation.before {
                return Ok(false);
            }
            if !move_new(&dir, &name, &staged)? {
                return Ok(false);
            }
            if identity_of(&dir, &staged)? == operation.before {
                return Ok(true);
            }
            move_new(&dir, &staged, &name)?;
            Ok(false)
        }
        Action::Mode(mode) => {
            let Some(before) = operation.before else { return Ok(false) };
            if now == Some(before.with_mode(mode)) {
                return Ok(true);
            }
            if now != Some(before) {
                return Ok(false);
            }
            change_mode(&dir, &name, before, mode)
        }
    }
}

/// Moves the replaced file of a finished operation to the record of the decision.
fn keep(project: &Dir, record: &Path, plan: &Plan, index: usize) -> Result<(), Error> {
    let path = plan.operations[index].path();
    let (dir, _) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if silo_guard::git::dir_fd::is_absent(&error) => return Ok(()),
        Err(error) => return Err(at("open", &path)(error)),
    };
    let staged = plan.staged(index);
    if identity_of(&dir, &staged).map_err(at("read", &path))?.is_none() {
        return Ok(());
    }
    let old = record.join("old").join(index.to_string());
    removal::remove_tree(&old)?;
    match renameat_with(&dir, &staged, CWD, &old, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS) => {}
        Err(error) => return Err(at("move", &path)(error.into())),
    }
    let to = Dir::open(&record.join("old")).map_err(at("open", record))?;
    copying::copy(&dir, Path::new(&staged), &to, Path::new(&index.to_string()), &|_| true)?;
    Ok(removal::remove_at(dir.as_fd(), &staged, &path)?)
}

/// Undoes the operations that are done. A file that changed here afterwards stays, and the replaced one is kept in the record.
fn roll_back(view: &View, record: &Path, plan: &mut Plan) -> Result<(), Error> {
    for index in (0..plan.operations.len()).rev() {
        let path = plan.operations[index].path();
        back(&view.project, plan, index).map_err(at("change", &path))?;
    }
    unstage_new(&view.project, plan);
    for index in 0..plan.operations.len() {
        keep(&view.project, record, plan, index)?;
    }
    let is_empty = fs::read_dir(record.join("old")).is_ok_and(|mut old| old.next().is_none());
    if is_empty {
        return Ok(removal::remove_tree(record)?);
    }
    plan.phase = Phase::Undone;
    plan.write(record).map_err(at("write", record))
}

/// Undoes one operation, if it is done and its target is still as the operation left it.
fn back(project: &Dir, plan: &Plan, index: usize) -> io::Result<()> {
    let operation = &plan.operations[index];
    let (dir, name) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if silo_guard::git::dir_fd::is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let staged = plan.staged(index);
    let (now, aside) = (identity_of(&dir, &name)?, identity_of(&dir, &staged)?);
    match operation.action {
        Action::Put if now.is_some() && now == operation.after => match (operation.before, aside) {
            (Some(_), Some(_)) => exchange(&dir, &staged, &name),
            (None, None) => move_new(&dir, &name, &staged).map(drop),
            _ => Ok(()),
        },
        Action::Remove if now.is_none() && aside.is_some() => move_new(&dir, &staged, &name).map(drop),
        Action::Mode(mode) => match operation.before {
            Some(before) if now == Some(before.with_mode(mode)) => change_mode(&dir, &name, before.with_mode(mode), before.mode).map(drop),
            _ => Ok(()),
        },
        Action::Put | Action::Remove => Ok(()),
    }
}

/// Removes staged new files, but not replaced ones.
fn unstage_new(project: &Dir, plan: &Plan) {
    for index in 0..plan.operations.len() {
        let Ok((dir, _)) = plan.target(project, index) else { continue };
        let staged = plan.staged(index);
        let aside = identity_of(&dir, &staged).ok().flatten();
        if aside.is_some_and(|aside| plan.operations[index].after.is_some_and(|after| aside.is_same_file(&after))) {
            // It is a copy.
            let _ = removal::remove_at(dir.as_fd(), &staged, Path::new("a staged file"));
        }
    }
}

/// Begins a decision and stops in the middle, as a killed command does.
#[cfg(test)]
pub(crate) fn interrupted(view: &View, all: &[Weighed], chosen: &[usize], random: &mut dyn FnMut(usize) -> usize) -> Result<(), Error> {
    let Some((_, dir, mut plan)) = prepare(view, all, chosen, 0)? else { return Ok(()) };
    plan.write(&dir).map_err(at("write", &dir))?;
    let (moment, some) = (random(4), random(plan.operations.len() + 1));
    if moment > 0 || random(2) == 0 {
        stage_all(&view.project, &mut plan, &|plan, index, to, name| stage_from(&view.upper, plan, index, to, name))?;
    }
    if moment == 0 {
        return Ok(());
    }
    plan.phase = Phase::Ready;
    plan.write(&dir).map_err(at("write", &dir))?;
    for index in 0..if moment == 1 { some } else { plan.operations.len() } {
        assert!(step(&view.project, &dir, &plan, index).expect("done"));
    }
    for index in 0..if moment == 2 {
        some
    } else if moment == 3 {
        plan.operations.len()
    } else {
        0
    } {
        keep(&view.project, &dir, &plan, index)?;
    }
    if moment == 3 {
        for operation in &plan.operations[..some] {
            release::remove(&view.upper, &view.project, &operation.parts())?;
        }
    }
    Ok(())
}
