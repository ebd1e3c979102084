//! Shared by the commands of a review: opens it, weighs its changes, and decides at the end of a run.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use silo_base::{error_chain, sanitize};
use silo_guard::MAX_GUARDED;
use silo_model::config::Review;
use silo_review::apply::{self, Applied};
use silo_review::choose::{self, Choice};
use silo_review::commits::{self, Commits, CommittedFile};
use silo_review::finish::{self, Caller};
use silo_review::lookalike;
use silo_review::session::Session;
use silo_review::view::{self, Repository, View};
use silo_review::weigh::{self, Weighed, Weight};

use crate::run::reviewing::{Reviewing, arrivals};
use crate::run::watch_project;

use super::context::Setting;
use super::env;
use super::error::Failure;
use super::ui;

/// Opens the review of the project, and finishes decisions of killed commands if nobody uses it.
pub fn open(setting: &Setting) -> Result<Option<View>, Failure> {
    let session = Session::find(&setting.home.reviews(), &setting.project).map_err(failure)?;
    let Some(mut session) = session else { return Ok(None) };
    let is_free = finish::is_unfinished(&session).map_err(failure)? && session.lock().is_ok();
    let mut view = View::open(session).map_err(failure)?;
    if is_free {
        finish_interrupted(setting, &mut view)?;
        view.session.unlock();
    }
    Ok(Some(view))
}

/// Opens the review of the project for a decision.
pub fn locked(setting: &Setting) -> Result<Option<View>, Failure> {
    let session = Session::find(&setting.home.reviews(), &setting.project).map_err(failure)?;
    let Some(mut session) = session else { return Ok(None) };
    session.lock().map_err(failure)?;
    let mut view = View::open(session).map_err(failure)?;
    finish_interrupted(setting, &mut view)?;
    Ok(Some(view))
}

fn finish_interrupted(setting: &Setting, view: &mut View) -> Result<(), Failure> {
    let arrive = arrivals(&setting.home, view.session.project());
    let lines = finish::finish_interrupted(view, &Caller { now: now(), arrive: &arrive }).map_err(failure)?;
    lines.iter().for_each(|line| ui::note(line));
    Ok(())
}

/// Weighs the changes of a review.
pub fn weighed(setting: &Setting, view: &View) -> Result<Vec<Weighed>, Failure> {
    let guarded = guarded(setting)?;
    weigh::weigh(view, &|path| guarded.iter().any(|guarded| path.starts_with(guarded))).map_err(failure)
}

/// Weighs the new commits of a review.
pub fn commits(setting: &Setting, view: &View) -> Result<Commits, Failure> {
    if !view.repository.has_changes() {
        return Ok(Commits::default());
    }
    let guarded = guarded(setting)?;
    Ok(commits::weigh(view, &|path| guarded.iter().any(|guarded| path.starts_with(guarded))))
}

/// Returns the paths that a program acts on according to the host's own files and links.
fn guarded(setting: &Setting) -> Result<Vec<PathBuf>, Failure> {
    let most = setting.settings.mount.max_guarded.map_or(MAX_GUARDED, |most| most as usize);
    let guards = watch_project::obeyed(&setting.project, &env::home()?, most)?;
    Ok(guards.read_only().into_iter().map(Path::to_owned).collect())
}

/// Converts paths of the command line to paths in the project.
pub fn inside(setting: &Setting, paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let cwd = env::cwd()?;
    let inside = |path: &PathBuf| {
        let mut plain = PathBuf::new();
        // Without the file system: the path may exist in the layer only.
        for part in cwd.join(path).components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                Component::CurDir => {}
                part => plain.push(part),
            }
        }
        let inner = plain.strip_prefix(&setting.project).map(Path::to_owned);
        inner.map_err(|_| Failure::usage(format!("{} is not in the project", sanitize::path(path)), "name paths of this project"))
    };
    paths.iter().map(inside).collect()
}

/// The treatment of changes that cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Apply nothing.
    Refuse,
    /// Leave them out.
    Skip,
}

impl OnConflict {
    /// Converts the flag `--skip-conflicts`.
    pub fn of_flag(skip: bool) -> OnConflict {
        if skip { OnConflict::Skip } else { OnConflict::Refuse }
    }
}

/// Applies a choice. Imports the repository with all changes, and with safe ones if nothing here executes the files of its new commits.
pub fn apply(setting: &Setting, view: &mut View, choice: &Choice, on_conflict: OnConflict) -> Result<Applied, Failure> {
    let all = weighed(setting, view)?;
    let mut chosen = choose::choose(&all, choice).map_err(unchosen)?;
    if on_conflict == OnConflict::Skip {
        let skipped: HashSet<&Path> =
            chosen.iter().map(|index| &all[*index]).filter(|one| !one.is_applicable()).map(|one| one.change.path.as_path()).collect();
        chosen.retain(|index| !all[*index].change.path.ancestors().any(|path| skipped.contains(path)));
    }
    let arrive = arrivals(&setting.home, setting.project.clone());
    let applied = apply::apply(view, &all, &chosen, &Caller { now: now(), arrive: &arrive }).map_err(failure)?;
    match choice {
        Choice::All => import(view),
        Choice::Safe if commits(setting, view)?.is_safe() => import(view),
        Choice::Safe | Choice::Paths(_) | Choice::Seen(_) => {}
    }
    Ok(applied)
}

/// Converts the reason why a choice selects nothing.
pub fn unchosen(error: choose::Error) -> Failure {
    let hint = match &error {
        choose::Error::Nothing(_) | choose::Error::Part(..) => "`silo review --list` lists the changes",
        choose::Error::Changed(_) => "look at the changes again, then decide",
    };
    Failure::usage(error_chain::of(&error).join(": "), hint)
}

/// Imports the changes of the repository.
pub fn import(view: &mut View) {
    if view.repository == Repository::None {
        return;
    }
    let lines = view::import(&view.session);
    if !lines.is_empty() {
        ui::note(&format!("of the repository in {}\n  {}", sanitize::path(&view.session.project()), lines.join("\n  ")));
    }
    view.repository = Repository::None;
}

/// Converts an error of a review.
pub fn failure(error: silo_review::Error) -> Failure {
    use silo_review::Error as E;
    let hint = match &error {
        E::Busy { .. } => Some("wait for its end, then run the same command again"),
        E::Conflicts { .. } => {
            Some("`silo review` shows both versions; `silo apply --skip-conflicts` applies the rest, `silo discard PATH` drops one")
        }
        E::TooMany { .. } | E::TooLong | E::TooDeep => Some("`silo discard` without paths drops all changes"),
        E::NoDecision => Some("an applied change can be undone for a day"),
        E::File { .. } | E::Path(_) | E::Record { .. } => None,
    };
    let failure = Failure::other(error);
    match hint {
        Some(hint) => failure.with_hint(hint.to_owned()),
        None => failure,
    }
}

/// Decides at the end of a run, or says that changes wait.
pub fn after_run(setting: &Setting, reviewing: Reviewing) {
    let review = reviewing.review;
    let (session, reports) = reviewing.end();
    reports.iter().for_each(|report| ui::note(report));
    if let Err(failure) = decide(setting, session, review) {
        ui::note(&format!("the changes of this run wait for a decision: {}\n  try: silo review", failure.message()));
    }
}

fn decide(setting: &Setting, session: Session, review: Review) -> Result<(), Failure> {
    if view::is_unchanged(&session).map_err(failure)? {
        return Ok(());
    }
    let project = session.project();
    let mut view = View::open(session).map_err(failure)?;
    let all = weighed(setting, &view)?;
    let has_commits = view.repository.has_changes();
    if all.is_empty() && !has_commits {
        return Ok(());
    }
    let commits = commits(setting, &view)?;
    let is_waiting = |one: &&Weighed| one.weight == Weight::Obeyed || !one.is_applicable();
    let waiting = all.iter().filter(is_waiting).map(describe).chain(commits.obeyed.iter().map(committed));
    let obeyed: Vec<String> = waiting.chain(commits.problems.iter().map(|problem| repository_line(problem))).collect();
    if review == Review::Risky && obeyed.is_empty() {
        let applied = apply(setting, &mut view, &Choice::Safe, OnConflict::Refuse)?;
        let left = all.len().saturating_sub(applied.paths.len());
        let rest = if left > 0 {
            format!("; {left} generated files, which are not only data, stay in the layer (`silo review`)")
        } else {
            String::new()
        };
        let files = count(applied.paths.len(), "change");
        // An undo is of files.
        let (with, undone) = match commits.number {
            0 => (String::new(), "it"),
            number => (format!(" and {}", count(number, "commit")), "the changes of files"),
        };
        ui::note(&format!("applied {files}{with} of this run{rest}; `silo apply --undo` undoes {undone}"));
        return Ok(());
    }
    let repository = if has_commits { " and of the repository" } else { "" };
    let mut text = format!("{} of files{repository} in {} wait for a decision", count(all.len(), "change"), sanitize::path(&project));
    if !obeyed.is_empty() {
        text += "; this machine would execute or obey these:";
        for line in obeyed.iter().take(MAX_LINES) {
            text += &format!("\n  {line}");
        }
        if obeyed.len() > MAX_LINES {
            text += &format!("\n  … and {} more", obeyed.len() - MAX_LINES);
        }
    }
    ui::note(&format!("{text}\n  try: silo review, silo apply, silo apply --safe, silo discard"));
    if review == Review::Risky && ui::is_asking() && ui::ask("Apply all of them now? [y/N] ", "y", "")? {
        let applied = apply(setting, &mut view, &Choice::All, OnConflict::Refuse)?;
        ui::note(&format!("applied {}; `silo apply --undo` undoes it", count(applied.paths.len(), "change")));
    }
    Ok(())
}

/// Maximum number of files in the message at the end of a run.
const MAX_LINES: usize = 20;

fn describe(one: &Weighed) -> String {
    let reason = one.reason.as_ref().or(one.conflict.as_ref()).or(one.change.problem.as_ref());
    // A reason can have texts of the sandbox, such as the name of a script.
    let reason = reason.map(|reason| sanitize::line(reason)).unwrap_or_default();
    format!("{} ({}; {reason})", lookalike::name(&one.change.path), one.change.what.word())
}

/// Describes a file of a new commit.
pub fn committed(one: &CommittedFile) -> String {
    let (name, reason) = (lookalike::name(&one.path), sanitize::line(&one.reason));
    format!("{name} ({} in commit {}; {reason})", one.what.word(), one.commit)
}

/// Describes another reason why the repository waits.
pub fn repository_line(problem: &str) -> String {
    format!(".git ({})", lookalike::line(problem))
}

/// Formats a number of things.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Returns the current time in seconds since 1970.
pub fn now() -> u64 {
    u64::try_from(env::now()).unwrap_or_default()
}
