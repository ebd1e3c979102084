//! `silo doctor --remote`: asks each machine of a pool whether it can run build steps.

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::json;
use silo_base::error_chain;
use silo_base::sanitize::{self, brief};
use silo_base::system::Arch;
use silo_build::away::{Facts, Finding, probe};
use silo_build::pool::{NotRun, Pool};

use super::context::Setting;
use super::error::Failure;
use super::{env, remote, ui};

/// Form of the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    Text,
    /// Data.
    Json,
}

/// Probes the machines of [remote.NAME]; fails if one of them cannot run steps.
pub fn run(setting: &Setting, name: Option<&str>, form: Form) -> Result<ExitCode, Failure> {
    let pool = remote::pool(setting, name)?;
    let (mut answers, mut is_fine) = (Vec::new(), true);
    for (number, place) in pool.places().iter().enumerate() {
        let begun = Instant::now();
        let answer = asked(&*pool, number);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        is_fine &= answer.as_ref().is_ok_and(|(_, facts)| !is_lacking(facts, pool.arch()));
        if form == Form::Json {
            answers.push(match &answer {
                Ok((worker, facts)) => json!({ "place": place, "worker": worker, "millis": millis, "facts": facts }),
                Err(why) => json!({ "place": place, "millis": millis, "error": why }),
            });
        } else {
            ui::data(&text(place, pool.arch(), &answer, millis))?;
        }
    }
    if form == Form::Json {
        ui::json(&json!(answers))?;
    }
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks one machine; an error is the reason why there is no answer.
fn asked(pool: &dyn Pool, place: usize) -> Result<(String, Facts), String> {
    let program = env::program().map_err(|failure| failure.message())?;
    probe(pool, &program, place, &AtomicBool::new(false)).map_err(|error| match error {
        NotRun::Stopped => "stopped".to_owned(),
        NotRun::Unfit(why) => why,
        NotRun::Failed(error) => error_chain::of(&*error).join(": "),
    })
}

fn is_lacking(facts: &Facts, arch: Arch) -> bool {
    facts.checks.iter().any(|check| check.state == "missing") || facts.architecture != arch.machine()
}

fn text(place: &str, arch: Arch, answer: &Result<(String, Facts), String>, millis: u64) -> String {
    let place = brief(place);
    let (worker, facts) = match answer {
        Ok(answer) => answer,
        Err(why) => return format!("missing  {place}: {}\n", sanitize::line(why)),
    };
    let worker = if worker.is_empty() || *worker == place { String::new() } else { format!(", worker {}", brief(worker)) };
    let (silo, architecture, processors) = (brief(&facts.silo), brief(&facts.architecture), facts.processors);
    let mut text = format!("ok       {place}: answers in {millis} ms{worker}, silo {silo}, {architecture}, {processors} processors\n");
    if facts.architecture != arch.machine() {
        text += &format!("missing    architecture: steps for {} do not run there\n", arch.platform());
    }
    facts.checks.iter().for_each(|check| text += &line(check));
    text
}

fn line(check: &Finding) -> String {
    let state = match check.state.as_str() {
        "degraded" => "weak".to_owned(),
        other => brief(other),
    };
    let cure = if check.cure.is_empty() { String::new() } else { format!("\n             cure: {}", sanitize::line(&check.cure)) };
    format!("{state:8}   {}: {}{cure}\n", brief(&check.name), sanitize::line(&check.detail))
}
