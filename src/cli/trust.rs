//! `silo trust`, and the checks before a project's own files take effect.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::run::error::Error;
use crate::run::private_dirs;
use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_model::config::legacy::SettingsOwner;
use silo_model::config::project::ProjectFiles;
use silo_model::config::{Trust, read};
use silo_store::digest::Digest;
use silo_tool::definition::Scope;
use silo_tool::kept_dirs;
use silo_tool::project_rights;
use silo_tool::settings_file::Changed;
use silo_tool::trust::exposure::Exposures;
use silo_tool::trust::{self, Verdict, worktree};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::{env, ui};

/// Approve the permissions that this project's silo.toml and recipes grant to its tools
///
/// Shows everything new since the last approval and asks. Changes that silo itself makes to silo.toml need no approval. If a tool could
/// write silo.toml, silo.lock or recipes while they changed, it also shows these changes and asks about them.
#[derive(clap::Args)]
pub struct Args {
    /// Approve without asking
    #[arg(long, short)]
    yes: bool,
    /// Show this directory to tools from now on, although it holds your home directory, keys or the whole machine
    #[arg(long)]
    expose: bool,
    /// Revoke every approval of this project, and list the revoked approvals
    #[arg(long, conflicts_with_all = ["yes", "expose"])]
    revoke: bool,
    /// Print the hash of all permissions that the project asks for; `silo sync --approve HASH` approves them in CI
    #[arg(long, conflicts_with_all = ["yes", "expose", "revoke"])]
    hash: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    setting.check_names()?;
    if args.revoke {
        return revoke(&setting);
    }
    if args.hash {
        ui::data(&format!("{}\n", hash(&exposures(&setting, None)?)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut asked, broken) = unapproved(&setting, None)?;
    if let (true, Some(why)) = (args.expose, why_hidden(&setting, &setting.project)?) {
        let line = private_dirs::approval(why);
        if !trust::approved(&setting.home, &setting.project)?.contains(&line) {
            asked.lines.insert(line);
        }
    }
    if asked.is_nothing() {
        broken.map_or(Ok(()), Err)?;
        ui::data(&format!("{}: everything is approved\n", sanitize::path(&setting.project)))?;
        let changes = trust::changes(&setting.home, &setting.files)?;
        if !changes.is_empty() {
            ui::data(&format!("changed since the last run of a tool here; needs no approval:\n{}", bullet_list(&changes)))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    ui::data(&asked.text(&setting.project))?;
    if !args.yes && !ui::ask("Approve it? [y/N] ", "y", "--yes approves without asking")? {
        return Ok(ExitCode::FAILURE);
    }
    asked.approve(&setting)?;
    ui::data("approved\n")?;
    broken.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn revoke(setting: &Setting) -> Result<ExitCode, Failure> {
    let revoked = trust::revoke(&setting.home, &setting.project)?;
    if revoked == trust::Revoked::default() {
        ui::data(&format!("{}: nothing was approved\n", sanitize::path(&setting.project)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let files = revoked.files.iter().map(|name| format!("{name}, as it was"));
    let lines: Vec<String> = revoked.lines.iter().cloned().chain(files).collect();
    ui::data(&format!("{}: no longer approved\n{}", sanitize::path(&setting.project), bullet_list(&lines)))?;
    Ok(ExitCode::SUCCESS)
}

/// Fails if a project grants a tool (or any of its tools) permissions that are not approved; on a terminal it asks first.
pub fn require(setting: &Setting, tool: Option<&str>) -> Result<(), Failure> {
    setting.check_names()?;
    if setting.user_settings.trust == Some(Trust::Always) {
        return Ok(());
    }
    let (asked, broken) = unapproved(setting, tool)?;
    ask(setting, &asked, "`silo trust` shows and approves it; --no-project runs without the project and its settings")?;
    broken.map_or(Ok(()), Err)
}

/// Like [`require`], for a change of the project's silo.toml by a command, which is not written yet. The command itself approves the
/// permissions that this change gives; those of other files stay a question. `before` has the project without the change.
pub fn require_change(setting: &Setting, before: &Setting, tool: &str, changed: Option<&Changed>) -> Result<(), Failure> {
    setting.check_names()?;
    if setting.user_settings.trust == Some(Trust::Always) {
        return Ok(());
    }
    let mut exposed = exposures(setting, Some(tool))?;
    if let Some(changed) = changed.filter(|changed| changed.path() != setting.home.config()) {
        let (before, after) = changed.texts();
        let given = trust::given_by_change(&setting.project, &setting.user_settings, before, after)?;
        exposed.retain(|line| !given.contains(line));
    }
    let hint = "`silo trust` shows and approves it; an add-on of the project that is new here needs `silo add --no-sync` before that";
    ask(before, &asked(before, exposed)?, hint)
}

/// Asks on a terminal whether unapproved parts of a project are approved; fails without one.
fn ask(setting: &Setting, asked: &Unapproved, hint: &str) -> Result<(), Failure> {
    if asked.is_nothing() {
        return Ok(());
    }
    let what = asked.text(&setting.project).trim_end().to_owned();
    if ui::is_asking() {
        ui::note(&what);
        if ui::ask("Approve it? [y/N] ", "y", "")? {
            return asked.approve(setting);
        }
    }
    Err(Failure::found(what, hint))
}

/// Approves the permissions of a project if they have this hash, and fails if they have another one. Files that a tool could have changed
/// are not approved by it.
pub fn approve_hash(setting: &Setting, expected: &Digest) -> Result<(), Failure> {
    setting.check_names()?;
    let exposed = exposures(setting, None)?;
    let found = hash(&exposed);
    if found != *expected {
        let project = sanitize::path(&setting.project);
        let what = format!("{project} asks for permissions with the hash {found}, not {expected}:\n{}", bullet_list(&exposed));
        return Err(Failure::found(what.trim_end().to_owned(), "review the change; `silo trust --hash` prints the hash for --approve"));
    }
    let asked = asked(setting, exposed)?;
    if !asked.lines.is_empty() {
        trust::approve(&setting.home, &setting.project, &asked.lines)?;
    }
    Ok(())
}

/// Returns the hash of permissions: the SHA-256 of their lines, each with its length.
fn hash(exposed: &Exposures) -> Digest {
    let mut text = "silo-permissions 1\n".to_owned();
    for line in exposed {
        text += &format!("{} {line}\n", line.len());
    }
    Digest::of(text.as_bytes())
}

/// Fails if a tool could have changed the project files that keep a program in a sandbox.
pub fn unchanged(home: &Home, from: &Path, files: &ProjectFiles) -> Result<(), Failure> {
    let lost = trust::lost_between(home, from, files.root())?;
    let lines = match trust::judge(home, files)? {
        Verdict::Asks(lines) => lines,
        Verdict::Counts if lost.is_some() => vec!["its settings are gone".to_owned()],
        Verdict::Counts => return Ok(()),
    };
    if read::read_any(&home.config(), &home.legacy_config(), SettingsOwner::User)?.0.trust == Some(Trust::Always) {
        return Ok(());
    }
    let root = sanitize::path(lost.as_ref().unwrap_or(files).root());
    let what = format!("a tool could write these files of {root} when they came or changed:\n{}", bullet_list(&lines));
    let hint = "nothing runs outside of a sandbox until `silo trust` has shown and approved them";
    Err(Failure::found(what.trim_end().to_owned(), hint))
}

/// Fails if a directory holds private files and was not confirmed; on a terminal it asks first.
pub fn showable(setting: &Setting, dir: &Path) -> Result<(), Failure> {
    match private_dirs::hidden(&setting.home, &env::home()?, dir)? {
        Some(why) => confirm_private(setting, dir, why),
        None => Ok(()),
    }
}

/// Returns the silo.toml to change: the user's or the project's. A directory such as the home directory must not become a project by
/// accident: without a silo.toml there, this asks, and without a terminal it fails.
pub fn settings_path(setting: &Setting, scope: Scope) -> Result<PathBuf, Failure> {
    if scope == Scope::Global {
        return Ok(setting.home.config());
    }
    let path = setting.project.join(PROJECT_CONFIG);
    let is_new = !path.exists() && !setting.project.join(LEGACY_CONFIG).exists();
    let Some(why) = private_dirs::why_private(&setting.home, &env::home()?, &setting.project).filter(|_| is_new) else { return Ok(path) };
    let what = format!("{} would become a project: {why}", sanitize::path(&setting.project));
    if ui::is_asking() {
        ui::note(&what);
        if ui::ask("Make it one anyway? Type yes: ", "yes", "")? {
            return Ok(path);
        }
    }
    Err(Failure::usage(what, "change to the project's own directory first; or add --global to change your own settings"))
}

/// Asks whether a directory with private files may be shown from now on; fails without a terminal.
pub fn confirm_private(setting: &Setting, dir: &Path, why: &'static str) -> Result<(), Failure> {
    let refused = Error::Private { dir: dir.to_owned(), why };
    if ui::is_asking() {
        ui::note(&refused.to_string());
        if ui::ask("Show it anyway, from now on? Type yes: ", "yes", "")? {
            return Ok(trust::approve(&setting.home, dir, &[private_dirs::approval(why)].into())?);
        }
    }
    Err(refused.into())
}

/// Approves a change of the project's silo.toml that the command writes later. The user's own silo.toml needs no approval. Returns the lines
/// that were not approved before.
pub fn announce(setting: &Setting, changed: &Changed) -> Result<Exposures, Failure> {
    if changed.path() == setting.home.config() {
        return Ok(Exposures::new());
    }
    let (before, after) = changed.texts();
    Ok(trust::announce_change(&setting.home, &setting.project, &setting.user_settings, before, after)?)
}

/// Approves announced lines, whose change is made now.
pub fn confirm(setting: &Setting, lines: &Exposures) -> Result<(), Failure> {
    if lines.is_empty() { Ok(()) } else { Ok(trust::approve(&setting.home, &setting.project, lines)?) }
}

/// Drops announced lines, whose change is not made.
pub fn withdraw(setting: &Setting, lines: &Exposures) -> Result<(), Failure> {
    if lines.is_empty() { Ok(()) } else { Ok(trust::withdraw(&setting.home, &setting.project)?) }
}

/// Approves a change of the project's silo.toml. The user's own silo.toml needs no approval. Returns the lines that were not approved before.
pub fn changed(setting: &Setting, changed: &Changed) -> Result<Exposures, Failure> {
    if changed.path() == setting.home.config() {
        return Ok(Exposures::new());
    }
    let (before, after) = changed.texts();
    Ok(trust::approve_change(&setting.home, &setting.project, &setting.user_settings, before, after)?)
}

fn why_hidden(setting: &Setting, dir: &Path) -> Result<Option<&'static str>, Failure> {
    Ok(private_dirs::why_private(&setting.home, &env::home()?, dir))
}

/// Returns the permissions that the project's files grant to a tool, or to all its tools.
fn exposures(setting: &Setting, tool: Option<&str>) -> Result<Exposures, Failure> {
    Ok(project_rights::of(setting.view(), tool)?)
}

/// Returns the unapproved parts of a project, and the reason why its permissions are unknown. Files that a tool could have written matter
/// even if they cannot be read as recipes.
fn unapproved(setting: &Setting, tool: Option<&str>) -> Result<(Unapproved, Option<Failure>), Failure> {
    match exposures(setting, tool) {
        Ok(exposed) => Ok((asked(setting, exposed)?, None)),
        Err(broken) => Ok((asked(setting, Exposures::new())?, Some(broken))),
    }
}

/// Unapproved parts of a project.
struct Unapproved {
    lines: Exposures,
    /// Changes of files that a sandbox may have written.
    files: Vec<String>,
    /// A directory below the project; a sandbox may have removed its settings.
    lost: Option<ProjectFiles>,
}

fn asked(setting: &Setting, exposed: Exposures) -> Result<Unapproved, Failure> {
    let approved = trust::approved_for(&setting.home, &setting.files)?;
    let mut lines: Exposures = exposed.difference(&approved).cloned().collect();
    if !lines.is_empty() {
        let in_main = worktree::approved_in_main(&setting.home, &setting.files)?;
        lines.retain(|line| !in_main.contains(line));
    }
    let files = match trust::judge(&setting.home, &setting.files)? {
        Verdict::Counts => Vec::new(),
        Verdict::Asks(files) => files,
    };
    let lost = trust::lost_between(&setting.home, &setting.from, &setting.project)?;
    Ok(Unapproved { lines, files, lost })
}

impl Unapproved {
    fn is_nothing(&self) -> bool {
        self.lines.is_empty() && self.files.is_empty() && self.lost.is_none()
    }

    fn text(&self, project: &Path) -> String {
        let project = sanitize::path(project);
        let mut text = String::new();
        if !self.files.is_empty() {
            text += &format!("a tool could write these files of {project} when they came or changed:\n{}", bullet_list(&self.files));
        }
        if let Some(lost) = &self.lost {
            let lost = sanitize::path(lost.root());
            text += &format!("{lost} had settings, which a tool could remove; without them those of {project} apply\n");
        }
        if !self.lines.is_empty() {
            text += &format!("{project} asks for permissions that are not approved:\n{}", bullet_list(&self.lines));
        }
        text
    }

    fn approve(&self, setting: &Setting) -> Result<(), Failure> {
        if !self.lines.is_empty() {
            trust::approve(&setting.home, &setting.project, &self.lines)?;
        }
        if !self.files.is_empty() {
            trust::approve_files(&setting.home, &setting.files)?;
        }
        if let Some(lost) = &self.lost {
            trust::approve_files(&setting.home, lost)?;
        }
        // Records the project's identity, so that it is recognized after a move.
        Ok(kept_dirs::own_by(&setting.home, &kept_dirs::id(&setting.project, None), &setting.project)?)
    }
}

/// Formats lines that others wrote; escaped, so that they cannot act on the terminal.
fn bullet_list<'a>(lines: impl IntoIterator<Item = &'a String>) -> String {
    lines.into_iter().map(|line| format!("  {}\n", line.escape_debug())).collect()
}
