//! The part of `silo doctor` about reviews: decisions of killed commands, and reviews of projects that are gone.

use silo_base::home::Home;
use silo_base::{sanitize, units};
use silo_launch::{Check, State as Health};
use silo_review::finish::{self, Caller};
use silo_review::session::Session;
use silo_review::stored_reviews::{self, State, StoredReview};
use silo_review::view::View;

use crate::run::reviewing::arrivals;

use super::deciding;
use super::error::Failure;
use super::ui;

/// Checks the reviews of all projects; `None` if there are none.
pub fn check(home: &Home) -> Option<Check> {
    let name = "reviews";
    let found = match stored_reviews::list_all(&home.reviews()) {
        Ok(found) => found,
        Err(error) => {
            let cure = "make the directory readable".to_owned();
            return Some(Check { name, state: Health::Degraded, detail: deciding::failure(error).message(), cure });
        }
    };
    let lines: Vec<String> = found.iter().filter_map(describe).collect();
    if lines.is_empty() {
        return None;
    }
    let has = |state: State| found.iter().any(|one| one.state == state);
    let mut cures = Vec::new();
    if has(State::Unfinished) {
        cures.push("silo doctor --fix".to_owned());
    }
    if has(State::Gone) {
        cures.push("`silo clean --orphaned` removes the reviews of projects that are gone".to_owned());
    }
    if has(State::Unreadable) {
        cures.push("remove an unreadable review unless another silo made it".to_owned());
    }
    let state = if cures.is_empty() { Health::Ok } else { Health::Degraded };
    Some(Check { name, state, detail: lines.join("; "), cure: cures.join("; ") })
}

fn describe(one: &StoredReview) -> Option<String> {
    let size = units::size(one.bytes);
    let project = one.project.as_ref().map_or_else(|| sanitize::path(&one.dir), |project| sanitize::path(project));
    match one.state {
        State::Waiting => Some(format!("changes of {project} wait for a decision ({size})")),
        State::Unfinished => Some(format!("a command was killed in a decision about {project} ({size})")),
        State::Gone => Some(format!("{project} is gone or was moved, and its review stays ({size})")),
        State::Unreadable => Some(format!("{project} is a review that this silo cannot read ({size})")),
        State::Busy | State::Decided | State::Empty => None,
    }
}

/// Finishes or undoes the decisions of killed commands.
pub fn fix(home: &Home) -> Result<(), Failure> {
    let found = stored_reviews::list_all(&home.reviews()).map_err(deciding::failure)?;
    for project in found.into_iter().filter(|one| one.state == State::Unfinished).filter_map(|one| one.project) {
        let Some(mut session) = Session::find(&home.reviews(), &project).map_err(deciding::failure)? else { continue };
        // A command that came in between finishes it.
        if session.lock().is_err() {
            continue;
        }
        let mut view = View::open(session).map_err(deciding::failure)?;
        let arrive = arrivals(home, project.clone());
        let lines = finish::finish_interrupted(&mut view, &Caller { now: deciding::now(), arrive: &arrive }).map_err(deciding::failure)?;
        if lines.is_empty() {
            ui::note(&format!("finished the decision of a killed command about {}", sanitize::path(&project)));
        }
        lines.iter().for_each(|line| ui::note(line));
    }
    Ok(())
}
