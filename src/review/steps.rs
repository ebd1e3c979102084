//! The steps of a plan on the project's files: stage, change, keep the old file, undo. A killed command can have done each of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use silo_guard::git::dir_fd::{Dir, Kind, is_absent};
use silo_store::removal;

use crate::contents;
use crate::copying;
use crate::error::{Error, at};
use crate::exchange::{change_mode, complete_exchange, exchange, identity_of, move_new};
use crate::plan::{Action, Id, Operation, Plan};

/// Stages the new file of an operation under a name in a directory.
pub type Stage<'a> = &'a dyn Fn(&Plan, usize, &Dir, &OsStr) -> Result<(), Error>;

/// Stages the new files of a plan beside their targets.
pub fn stage_all(project: &Dir, plan: &mut Plan, stage: Stage<'_>) -> Result<(), Error> {
    for index in 0..plan.operations.len() {
        if plan.operations[index].action != Action::Put {
            continue;
        }
        let path = plan.operations[index].path.clone();
        let (to, name) = plan.target(project, index).map_err(at("open", &path))?;
        let staged = plan.staged(index);
        stage(plan, index, &to, &staged)?;
        if let Some(old) = to.stat(Path::new(&name)).map_err(at("read", &path))? {
            copying::set_owner(&to, Path::new(&staged), old.st_uid, old.st_gid);
        }
        let stat = to.stat(Path::new(&staged)).map_err(at("read", &path))?;
        plan.operations[index].after = stat.map(|stat| Id::of(&stat));
        plan.operations[index].contents_after = contents::of(&to, Path::new(&staged)).map_err(at("read", &path))?;
    }
    // Once for everything.
    silo_store::system::sync_file_system_of(project).map_err(at("sync", "the project"))
}

/// Removes staged files.
pub fn unstage(project: &Dir, plan: &Plan) {
    for index in 0..plan.operations.len() {
        if let Ok((dir, _)) = plan.target(project, index) {
            // Usually there is none.
            let _ = removal::remove_at(dir.as_fd(), &plan.staged(index), Path::new("a staged file"));
        }
    }
}

/// Does one operation, unless it is done; `false` if the target is not as expected. Also checks a replaced file after its rename.
pub fn step(project: &Dir, plan: &Plan, index: usize) -> io::Result<bool> {
    let operation = &plan.operations[index];
    let (dir, name) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if is_elsewhere(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let staged = plan.staged(index);
    complete_exchange(&dir, &staged, &name)?;
    let (now, aside) = (identity_of(&dir, &name)?, identity_of(&dir, &staged)?);
    match operation.action {
        Action::Put => {
            let after = operation.after.ok_or(io::ErrorKind::InvalidData)?;
            let is_new = |id: Option<Id>| id.is_some_and(|id| id.is_same_file(&after));
            if is_new(now) && !is_new(aside) {
                return if aside.is_some() { is_old(&dir, &staged, operation) } else { Ok(true) };
            }
            if now != operation.before {
                return Ok(false);
            }
            if operation.before.is_none() {
                return move_new(&dir, &staged, &name);
            }
            exchange(&dir, &staged, &name)?;
            if is_old(&dir, &staged, operation)? {
                return Ok(true);
            }
            exchange(&dir, &staged, &name)?;
            Ok(false)
        }
        Action::Remove => {
            if aside.is_some() {
                return is_old(&dir, &staged, operation);
            }
            if now != operation.before || !move_new(&dir, &name, &staged)? {
                return Ok(false);
            }
            if is_old(&dir, &staged, operation)? {
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

/// True if a name has the file that the operation replaces: with the same contents, if it is a directory.
fn is_old(dir: &Dir, name: &OsStr, operation: &Operation) -> io::Result<bool> {
    Ok(identity_of(dir, name)? == operation.before && contents::of(dir, Path::new(name))? == operation.contents_before)
}

/// True if a name has the new file of the operation, unchanged.
fn is_new(dir: &Dir, name: &OsStr, operation: &Operation) -> io::Result<bool> {
    let now = identity_of(dir, name)?;
    Ok(now.is_some() && now == operation.after && contents::of(dir, Path::new(name))? == operation.contents_after)
}

/// True if the directory of a target was removed, or replaced by a symlink.
fn is_elsewhere(error: &io::Error) -> bool {
    is_absent(error) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Moves the replaced file of a finished operation to the record of the decision.
pub fn keep(project: &Dir, record: &Path, plan: &Plan, index: usize) -> Result<(), Error> {
    let path = &plan.operations[index].path;
    let (dir, _) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if is_elsewhere(&error) => return Ok(()),
        Err(error) => return Err(at("open", path)(error)),
    };
    let staged = plan.staged(index);
    let Some(aside) = identity_of(&dir, &staged).map_err(at("read", path))? else { return Ok(()) };
    let old = record.join("old").join(index.to_string());
    removal::remove_tree(&old)?;
    let moved = || renameat_with(&dir, &staged, CWD, &old, RenameFlags::NOREPLACE);
    let moved = match moved() {
        // A directory without write permission cannot get another parent. A killed command has changed its permissions already.
        Err(Errno::ACCESS | Errno::PERM) => match dir.dir(Path::new(&staged)) {
            Ok(opened) => copying::set_mode(&opened, aside.mode | 0o700).map_or(Err(Errno::ACCESS), |()| {
                let moved = moved();
                let mode = plan.operations[index].before.map_or(aside.mode, |before| before.mode);
                // The record is private, so other permissions there harm nobody.
                let _ = copying::set_mode(&opened, mode);
                moved
            }),
            Err(_) => Err(Errno::ACCESS),
        },
        moved => moved,
    };
    match moved {
        Ok(()) => return Ok(()),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::ACCESS | Errno::PERM) => {}
        Err(error) => return Err(at("move", path)(error.into())),
    }
    let to = Dir::open(&record.join("old")).map_err(at("open", record))?;
    // A socket or a pipe has no content.
    let has_content = |inner: &Path| {
        dir.stat(inner).is_ok_and(|stat| stat.is_some_and(|stat| matches!(Kind::of(&stat), Kind::File | Kind::Dir | Kind::Link)))
    };
    copying::copy(&dir, Path::new(&staged), &to, Path::new(&index.to_string()), &has_content)?;
    Ok(removal::remove_at(dir.as_fd(), &staged, path)?)
}

/// Undoes one operation, if it is done and its target is still as the operation left it.
pub fn back(project: &Dir, plan: &Plan, index: usize) -> io::Result<()> {
    let operation = &plan.operations[index];
    let (dir, name) = match plan.target(project, index) {
        Ok(found) => found,
        Err(error) if is_elsewhere(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let staged = plan.staged(index);
    complete_exchange(&dir, &staged, &name)?;
    let (now, aside) = (identity_of(&dir, &name)?, identity_of(&dir, &staged)?);
    match operation.action {
        Action::Put if is_new(&dir, &name, operation)? => match (operation.before, aside) {
            (Some(_), Some(_)) => {
                exchange(&dir, &staged, &name)?;
                // Somebody has changed it in between.
                if is_new(&dir, &staged, operation)? { Ok(()) } else { exchange(&dir, &staged, &name) }
            }
            (None, None) => {
                move_new(&dir, &name, &staged)?;
                if is_new(&dir, &staged, operation)? { Ok(()) } else { move_new(&dir, &staged, &name).map(drop) }
            }
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

/// Removes staged new files, but neither replaced ones nor those that somebody has changed.
pub fn unstage_new(project: &Dir, plan: &Plan) {
    for (index, operation) in plan.operations.iter().enumerate() {
        let Ok((dir, name)) = plan.target(project, index) else { continue };
        let staged = plan.staged(index);
        if is_new(&dir, &staged, operation).unwrap_or(false) {
            // It is a copy.
            let _ = removal::remove_at(dir.as_fd(), &staged, Path::new("a staged file"));
        }
        // The name of the staged file is free for the old one.
        let _ = complete_exchange(&dir, &staged, &name);
    }
}
