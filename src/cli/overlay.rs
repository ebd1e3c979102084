//! Shared by commands that change a tool's settings: selects the tool and builds it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use silo_base::home::PROJECT_CONFIG;
use silo_base::sanitize;
use silo_model::document;
use silo_tool::definition::{self, Scope};
use silo_tool::install;
use silo_tool::journal::Change;
use silo_tool::lock_files::Resolving;
use silo_tool::record;
use silo_tool::settings_file::Changed;
use silo_tool::sync::{self, SyncOptions};

use super::context::{Globals, Setting, setting_with};
use super::error::Failure;
use super::flags::Effect;
use super::{install as install_command, sync as sync_command, trust, ui};

/// A tool to build.
pub struct Target {
    pub tool: String,
    pub scope: Scope,
    /// Run pinned steps again.
    pub anew: bool,
    /// Do not change the lock.
    pub frozen: bool,
}

/// Selects the tool: the named one, or the only candidate.
pub fn tool(setting: &Setting, named: Option<&str>, scope: Scope) -> Result<String, Failure> {
    if let Some(tool) = named {
        let definition = definition::of(setting.view(), tool, scope)?;
        return Ok(definition.tool().to_owned());
    }
    let mut tools = match scope {
        Scope::Project => definition::claimed(setting.view())?,
        Scope::Global => BTreeSet::new(),
    };
    if tools.is_empty() {
        tools.extend(record::list(&setting.home)?.into_iter().map(|tool| tool.name));
    }
    let list: Vec<String> = tools.into_iter().collect();
    match list.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::usage("there is no tool to add to", "name one, as in --for python")),
        several => Err(Failure::usage(format!("which tool? there are {}", several.join(", ")), "name one, as in --for python")),
    }
}

/// Builds a tool with changed settings. Writes the settings and the lock only if the build succeeds.
pub fn apply(globals: &Globals, setting: &mut Setting, target: &Target, changed: Option<Changed>) -> Result<ExitCode, Failure> {
    let mut fresh = setting_with(globals, &setting.project, changed.as_ref())?;
    // The judged files are the used ones.
    fresh.files = match changed.as_ref().filter(|changed| changed.path() == setting.project.join(PROJECT_CONFIG)) {
        Some(changed) => setting.files.clone().with_settings(changed.texts().1)?,
        None => setting.files.clone(),
    };
    fresh.places.project = fresh.files.recipes();
    fresh.keep_failed = setting.keep_failed;
    fresh.show_steps();
    fresh.machine.clone_from(&setting.machine);
    fresh.check = setting.check.take();
    let with = changed.iter().filter(|changed| changed.is_new()).map(|changed| changed.change(&fresh.home)).collect::<Result<_, _>>()?;
    let required = match target.scope {
        Scope::Global => Ok(()),
        Scope::Project => trust::require_change(&fresh, setting, &target.tool, changed.as_ref()),
    };
    // Announced first: a change that was written without its approval would be a question to the next command.
    let announced =
        required.and_then(|()| changed.as_ref().map_or_else(|| Ok(Default::default()), |changed| trust::announce(&fresh, changed)));
    let is_written = |changed: &Changed| document::text_of(changed.path()).is_ok_and(|text| text.as_deref() == Some(changed.texts().1));
    let done = announced.and_then(|lines| {
        let built = build(&fresh, target, with);
        // A command that changed nothing approves nothing; after a late failure the change may be there. The build's own error counts first.
        let end = if changed.as_ref().is_some_and(is_written) { trust::confirm } else { trust::withdraw };
        let ended = end(&fresh, &lines);
        built.and_then(|code| ended.map(|()| code))
    });
    setting.check = fresh.check.take();
    if let (Err(_), Some(changed)) = (&done, changed)
        && changed.is_new()
        && !is_written(&changed)
    {
        // The error itself is printed after this note.
        ui::note(&format!("{} was not changed", sanitize::path(changed.path())));
    }
    done
}

fn build(setting: &Setting, target: &Target, with: Vec<Change>) -> Result<ExitCode, Failure> {
    let resolving = Resolving::of_flag(target.frozen);
    if target.scope == Scope::Global {
        let wish = install::InstallOptions { name: target.tool.clone(), version: None, resolving, anew: target.anew, with };
        let outcome = setting.with(|context| Ok(install::install(context, &wish)?))?;
        ui::data(&install_command::line(&outcome))?;
        return Ok(ExitCode::SUCCESS);
    }
    let only = Some(BTreeSet::from([target.tool.clone()]));
    let wish = SyncOptions { only, anew: target.anew, resolving, with, ..SyncOptions::default() };
    let all = setting.with(|context| Ok(sync::sync(context, &wish)?))?;
    sync_command::report(&all, setting, Effect::Change)
}
