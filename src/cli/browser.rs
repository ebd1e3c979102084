//! `silo review` on a terminal: reads keys, reads details, and decides the chosen changes.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;

use silo_base::sanitize;
use silo_review::browser::{Browser, Decision, Effect};
use silo_review::choose::{self, Choice};
use silo_review::commits::Commits;
use silo_review::discard;
use silo_review::entries::{self, Entry};
use silo_review::view::View;
use silo_review::weigh::Weighed;

use super::browser_screen::{Palette, draw};
use super::context::Setting;
use super::deciding::{self, OnConflict, count};
use super::env;
use super::error::Failure;
use super::full_screen::{FullScreen, Input};
use super::progress;
use super::ui;

/// Exit code after Ctrl-C, as of a program that SIGINT ends.
const INTERRUPTED: u8 = 130;

/// True if the terminal can show the view.
pub fn has_terminal() -> bool {
    env::var("TERM").is_some_and(|term| term != "dumb") && ui::has_screen()
}

/// The listed state of a review.
struct Listed {
    view: View,
    all: Vec<Weighed>,
    commits: Commits,
}

impl Listed {
    fn read(setting: &Setting) -> Result<Option<Listed>, Failure> {
        let Some(view) = deciding::open(setting)? else { return Ok(None) };
        let all = deciding::weighed(setting, &view)?;
        let commits = deciding::commits(setting, &view)?;
        Ok((!all.is_empty() || view.repository.has_changes()).then_some(Listed { view, all, commits }))
    }

    fn title(&self) -> String {
        let running = if self.view.session.is_busy() { "  (a tool is still running; r reads again)" } else { "" };
        format!("Changes in {}{running}", sanitize::path(&self.view.session.project()))
    }

    fn entries(&self) -> Vec<Entry> {
        entries::entries(&self.all, self.view.repository, &self.commits)
    }
}

/// Shows the changes on the terminal until the user leaves.
pub fn run(setting: &Setting, view: View, all: Vec<Weighed>, commits: Commits) -> Result<ExitCode, Failure> {
    let mut listed = Listed { view, all, commits };
    let palette = if env::var("NO_COLOR").is_some() { Palette::Plain } else { Palette::Colours };
    let mut browser = Browser::new(listed.title(), listed.entries());
    // Nothing else may draw on the screen.
    progress::finish_command();
    let mut screen = FullScreen::open(&setting.home).map_err(lost)?;
    loop {
        browser.resize(screen.rows());
        screen.draw(|buffer| draw(buffer, &browser, palette)).map_err(lost)?;
        if !screen.has_input()
            && let Some(entry) = browser.wanted()
        {
            let lines = entries::details(&listed.view, (&listed.all, &listed.commits), entry);
            browser.set_details(&lines);
            continue;
        }
        let effect = match wait(&mut screen).map_err(lost)? {
            Input::Key(key) => browser.press(key),
            Input::Draw | Input::Idle => Effect::None,
            Input::Ended(signal) => {
                drop(screen);
                // Ends the process as the signal does.
                drop(signal_hook::low_level::emulate_default_handler(signal));
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        match effect {
            Effect::None => {}
            Effect::Leave => return Ok(ExitCode::SUCCESS),
            Effect::Interrupt => return Ok(ExitCode::from(INTERRUPTED)),
            Effect::Suspend => screen.suspend().map_err(lost)?,
            Effect::Redraw => screen.forget().map_err(lost)?,
            Effect::Reload => browser.message = "read the changes again".to_owned(),
            Effect::Decide(decision) => {
                // Notes of a decision stay on the ordinary screen.
                screen.leave();
                browser.message = decided(setting, &listed, browser.chosen(), decision);
            }
        }
        if matches!(effect, Effect::Reload | Effect::Decide(_)) {
            screen.leave();
            match Listed::read(setting)? {
                Some(now) => listed = now,
                None => return Ok(ExitCode::SUCCESS),
            }
            browser.reload(listed.title(), listed.entries());
            screen.enter().map_err(lost)?;
        }
    }
}

/// Waits for an event, without drawing for nothing.
fn wait(screen: &mut FullScreen) -> io::Result<Input> {
    loop {
        match screen.wait()? {
            Input::Idle => {}
            input => return Ok(input),
        }
    }
}

fn lost(error: io::Error) -> Failure {
    Failure::found(format!("cannot show the changes on this terminal: {error}"), "`silo review --plain` prints them")
}

/// Decides, prints the result, and returns its first line.
fn decided(setting: &Setting, listed: &Listed, chosen: &BTreeSet<usize>, decision: Decision) -> String {
    match decide(setting, listed, chosen, decision) {
        Ok(done) => {
            // A closed standard output loses the message only; the view ends at the next drawing.
            drop(ui::data(&format!("{done}\n")));
            done
        }
        Err(failure) => {
            ui::report(&failure);
            sanitize::line(failure.message().lines().next().unwrap_or_default())
        }
    }
}

fn decide(setting: &Setting, listed: &Listed, chosen: &BTreeSet<usize>, decision: Decision) -> Result<String, Failure> {
    let Some(mut view) = deciding::locked(setting)? else { return Ok("there are no changes any more".to_owned()) };
    let with_repository = chosen.contains(&listed.all.len());
    let chosen = match decision {
        // A new directory comes with each change in it, and goes with the last one.
        Decision::Apply => chosen.clone(),
        Decision::Discard => entries::with_emptied_dirs(&listed.all, chosen),
    };
    let seen: Vec<Weighed> = chosen.iter().filter_map(|index| listed.all.get(*index)).cloned().collect();
    let paths = seen.iter().map(|one| one.change.path.clone()).collect::<Vec<_>>();
    let choice = Choice::Seen(seen);
    if with_repository && deciding::commits(setting, &view)? != listed.commits {
        let what = "the repository changed again since you saw it, so nothing was decided";
        return Err(Failure::usage(what, "look at the changes again, then decide"));
    }
    let mut number = usize::from(with_repository);
    match decision {
        Decision::Apply => {
            number += deciding::apply(setting, &mut view, &choice, OnConflict::Refuse)?.paths.len();
            if with_repository {
                deciding::import(&mut view);
            }
            Ok(format!("applied {}; `silo apply --undo` undoes it", count(number, "change")))
        }
        Decision::Discard => {
            let all = deciding::weighed(setting, &view)?;
            let chosen = choose::choose(&all, &choice).map_err(deciding::unchosen)?;
            number += discard::some(&view, &all, &chosen, &paths).map_err(deciding::failure)?;
            if with_repository {
                discard::repository(&view).map_err(deciding::failure)?;
            }
            Ok(format!("discarded {}", count(number, "change")))
        }
    }
}
