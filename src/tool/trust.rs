//! What a project's own files open, and what of it the user has approved.
//!
//! A project comes from anywhere, and its `silo.toml` with it. What that file lets a tool reach, read, keep or be made of
//! counts only once the user has said so: each such thing is a line of text, and the lines that were approved stand, by project, in
//! `~/.silo/trust/<project>`. A line that is new since then is asked about again; one that has gone is no matter.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use silo_store::bounded;
use silo_store::digest::Digest;

use crate::config::read;
use crate::config::sight::{Git, Mode, Sockets};
use crate::config::{Network, Override, Settings};
use crate::document;
use crate::grant::Port;
use crate::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG, PROJECT_LOCK, RECIPES};
use crate::recipe::catalog::{self, Places};
use crate::recipe::file::check_step;
use crate::recipe::kept::{self, Kept, KeptEntry, Scope};
use crate::recipe::lsp::{self, Lsp};
use crate::recipe::{Recipe, Step};

use super::projects;

/// Why approvals could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// They cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a project opens, one line each.
pub type Exposures = BTreeSet<String>;

/// Finds what a project's `silo.toml` opens to its tools beyond what the user's own settings say.
pub fn of_settings(project: &Settings, user: &Settings) -> Exposures {
    let mut found = Exposures::new();
    of_place("every tool", &project.network, &project.pass_env, project.pass_ssh_agent, &mut found);
    found.extend(project.pass_files.iter().filter(|file| !file.is_of_project()).map(|file| reads("every tool", file.host())));
    for (tool, over) in &project.overrides {
        of_override(tool, over, &mut found);
    }
    for (name, grants) in &project.ecosystems {
        found.extend(grants.iter().map(|grant| format!("@{name} means {grant}")));
    }
    let mirrors = &project.mirrors;
    let bases = mirrors.debian.iter().chain(&mirrors.debian_security).chain(&mirrors.snapshot).chain(&mirrors.snapshot_security);
    found.extend(bases.map(|base| format!("packages come from {base}")));
    found.extend(project.project_id.iter().map(|id| format!("it has what is kept for the project named {id}")));
    if project.mount.mode == Some(Mode::Rw) && user.mount.mode == Some(Mode::Ro) {
        found.insert("every tool may write the project".to_owned());
    }
    match project.mount.git {
        Some(Git::Direct) => drop(found.insert("every tool may write the git repository directly".to_owned())),
        Some(Git::Import) if user.mount.git.is_some_and(|git| git > Git::Import) => {
            found.insert("every tool may add commits to the git repository".to_owned());
        }
        Some(Git::ReadOnly) if user.mount.git == Some(Git::Hidden) => {
            found.insert("every tool may read the git repository".to_owned());
        }
        Some(Git::Import | Git::ReadOnly | Git::Hidden) | None => {}
    }
    if project.mount.sockets == Some(Sockets::Shown) {
        found.insert("every tool may connect to sockets that lie in the project".to_owned());
    }
    found.iter().map(|line| plain(line)).collect()
}

/// Spells out what would not show as it is, such as line breaks and what turns text around: what is approved is what was
/// read, each on a line of its own, and no two things are spelled alike.
fn plain(line: &str) -> String {
    let turns = |letter: char| matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut plain = String::with_capacity(line.len());
    for letter in line.chars() {
        match letter {
            '\\' => plain.push_str("\\\\"),
            letter if letter.is_control() || turns(letter) => plain.extend(letter.escape_default()),
            letter => plain.push(letter),
        }
    }
    plain
}

fn of_override(tool: &str, over: &Override, found: &mut Exposures) {
    of_place(tool, &over.network, &over.pass_env, over.pass_ssh_agent, found);
    found.extend(over.pass_files.iter().filter(|file| !file.is_of_project()).map(|file| reads(tool, file.host())));
    found.extend(over.ports.iter().flatten().map(|port| listens(tool, *port)));
    found.extend(over.version.iter().map(|version| format!("{tool} is of version {version}")));
    found.extend(over.packages.iter().map(|package| made_with(tool, package)));
    found.extend(over.addons.iter().map(|addon| format!("{tool} is made with the add-on {addon}")));
    let steps = over.post_install.iter().filter_map(|step| check_step("postInstall", step.clone()).ok());
    found.extend(steps.map(|step| runs(tool, &step)));
    if let Some(lsp) = over.lsp.clone().and_then(|table| lsp::check(table).ok()) {
        of_server(tool, &lsp, found);
    }
    let checked = |key, entries: &Vec<KeptEntry>| kept::check(key, entries.clone()).unwrap_or_default();
    of_kept(tool, &checked("cache", &over.cache), &checked("state", &over.state), found);
}

fn of_server(tool: &str, lsp: &Lsp, found: &mut Exposures) {
    let name = format!("the language server of {tool}");
    found.extend(lsp.packages.iter().map(|package| made_with(&name, package)));
    found.extend(lsp.steps.iter().map(|step| runs(&name, step)));
    of_kept(tool, &lsp.cache, &[], found);
}

fn of_place(place: &str, network: &Network, names: &[String], ssh_agent: bool, found: &mut Exposures) {
    found.extend(network.allow.iter().map(|grant| format!("{place} may reach {grant}")));
    found.extend(network.install_allow.iter().map(|grant| format!("{place} may reach {grant} when it is built")));
    found.extend(names.iter().map(|name| format!("{place} sees the variable {name}")));
    found.extend(ssh_agent.then(|| format!("{place} may ask your ssh agent for signatures")));
}

fn of_kept(tool: &str, caches: &[Kept], states: &[Kept], found: &mut Exposures) {
    let shared = |kept: &&Kept| kept.scope == Scope::Tool;
    found.extend(caches.iter().chain(states).filter(shared).map(|kept| format!("{tool} has the same {} in all projects", kept.guest)));
}

fn reads(place: &str, file: &str) -> String {
    format!("{place} reads the file {file}")
}

fn made_with(tool: &str, package: &str) -> String {
    format!("{tool} is made with the package {package}")
}

fn runs(tool: &str, step: &Step) -> String {
    let network = if step.network.is_empty() { String::new() } else { format!(", reaching {}", step.network.join(", ")) };
    let project = if step.project { ", seeing the project" } else { "" };
    format!("{tool} runs `{}` when it is built{network}{project}", step.shown())
}

/// Says of a tool that a port of this machine leads to it.
pub fn listens(tool: &str, port: Port) -> String {
    format!("{tool} answers at port {} of this machine, from its port {}", port.host, port.guest)
}

/// Finds what a project's own recipes open to a tool beyond what the recipe without them does.
pub fn of_recipe(places: &Places, tool: &str) -> Exposures {
    if places.project.is_none() {
        return Exposures::new();
    }
    let of = |places: &Places| catalog::find(places, tool).map(|found| of_tool(&found.recipe)).unwrap_or_default();
    let without = of(&Places { project: None, ..places.clone() });
    of(places).difference(&without).cloned().collect()
}

fn of_tool(recipe: &Recipe) -> Exposures {
    let (tool, run) = (recipe.name.as_str(), &recipe.run);
    let mut found = Exposures::new();
    found.extend(run.network.iter().map(|grant| format!("{tool} may reach {grant}")));
    found.extend(recipe.install_allow.iter().map(|grant| format!("{tool} may reach {grant} when it is built")));
    found.extend(run.pass_env.iter().map(|name| format!("{tool} sees the variable {name}")));
    found.extend(recipe.image.iter().map(|image| format!("{tool} is made of the image {image}")));
    found.extend(recipe.debian.packages.iter().chain(&recipe.debian.build).map(|package| made_with(tool, package)));
    found.extend(recipe.steps.iter().map(|step| runs(tool, step)));
    of_kept(tool, &run.cache, &run.state, &mut found);
    if let Some(lsp) = &recipe.lsp {
        of_server(tool, lsp, &mut found);
    }
    found.iter().map(|line| plain(line)).collect()
}

/// Finds what silo obeys of a project that came while a sandbox ran, and may be the work of what ran in it.
pub fn of_inside(home: &Home, project: &Path) -> Result<Exposures, Error> {
    let text = document::text_of(&inside(home, project))?.unwrap_or_default();
    let named = text.lines().filter(|line| SILOS.contains(line)).map(|line| (line, project.join(line)));
    let told = |(line, path): (&str, PathBuf)| {
        let what = match bounded::read(&path, document::MAX_BYTES) {
            Ok(bytes) => format!("sha256 {:.12}", Digest::of(&bytes).to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) if error.kind() == ErrorKind::IsADirectory => "a directory".to_owned(),
            Err(_) => "nothing that can be read".to_owned(),
        };
        Some(format!("{line} counts, though it came while a sandbox ran ({what})"))
    };
    Ok(named.filter_map(told).collect())
}

/// What silo itself obeys of a project.
const SILOS: [&str; 4] = [PROJECT_CONFIG, LEGACY_CONFIG, PROJECT_LOCK, RECIPES];

/// Notes what of a project came while a sandbox ran; what silo does not obey is passed over.
pub fn came_inside(home: &Home, project: &Path, paths: &[PathBuf]) -> Result<(), Error> {
    let path = inside(home, project);
    let mut names: BTreeSet<String> = document::text_of(&path)?.unwrap_or_default().lines().map(str::to_owned).collect();
    let before = names.len();
    names.extend(SILOS.into_iter().filter(|name| paths.iter().any(|path| path == Path::new(name))).map(str::to_owned));
    if names.len() == before {
        return Ok(());
    }
    let text: String = names.iter().map(|name| format!("{name}\n")).collect();
    document::write(&path, &text).map_err(|source| Error::Write { path, source })
}

fn inside(home: &Home, project: &Path) -> PathBuf {
    home.trust().join(format!("{}.inside", projects::id(project)))
}

/// Approves what a change of a project's `silo.toml` opens: whoever typed the command has said so.
pub fn approve_change(home: &Home, project: &Path, user: &Settings, before: &str, after: &str) -> Result<(), Error> {
    let path = project.join(PROJECT_CONFIG);
    // What could not be read opened nothing.
    let opened = |text: &str| read::parse(text, &path).map(|settings| of_settings(&settings, user)).unwrap_or_default();
    let more: Exposures = opened(after).difference(&opened(before)).cloned().collect();
    if more.is_empty() { Ok(()) } else { approve(home, project, &more) }
}

/// Makes what was approved of a moved project its own again.
pub fn moved(home: &Home, from: &Path, to: &Path) -> Result<(), Error> {
    let old = approved(home, from)?;
    if old.is_empty() {
        return Ok(());
    }
    approve(home, to, &old)?;
    // What comes to the old place is another project.
    let path = file(home, from);
    fs::remove_file(&path).map_err(|source| Error::Write { path, source })
}

/// Returns what was approved of the project at a canonical path.
pub fn approved(home: &Home, project: &Path) -> Result<Exposures, Error> {
    let text = document::text_of(&file(home, project))?.unwrap_or_default();
    Ok(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}

/// Approves these besides what was approved before.
pub fn approve(home: &Home, project: &Path, more: &Exposures) -> Result<(), Error> {
    let mut all = approved(home, project)?;
    all.extend(more.iter().cloned());
    let path = file(home, project);
    let lines: String = all.iter().map(|line| format!("{line}\n")).collect();
    // A path may hold line breaks, which a comment must not.
    let text = format!("# {project:?}\n{lines}");
    document::write(&path, &text).map_err(|source| Error::Write { path, source })
}

fn file(home: &Home, project: &Path) -> PathBuf {
    home.trust().join(projects::id(project))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_opens_more_is_a_line() {
        let text = "passFiles = [\"~/.netrc\", \"in/project\"]\nproject_id = \"x\"\nmount.mode = \"rw\"\nmount.git = \"direct\"\nmount.sockets = \"shown\"\nmirrors.debian = [\"/m\"]\n\
            network.installAllow = [\"@npm\"]\n[overrides.t]\nversion = \"1\"\npackages = [\"jq\"]\naddons = [\"java\"]\n\
            postInstall = [{ run = [\"a\", \"b c\"], network = [\"n.example\"], project = true }]\n\
            state = [{ guest = \"~/.t\", scope = \"tool\" }, \"~/.own\"]\ncache = [\"~/.cache/t\"]\npassFiles = [{ host = \"/h\", guest = \"/g\" }]\n";
        let project: Settings = toml::from_str(text).expect("settings");
        let user: Settings = toml::from_str("mount.mode = \"ro\"").expect("settings");
        let expect = [
            "every tool may connect to sockets that lie in the project",
            "every tool may reach @npm when it is built",
            "every tool may write the git repository directly",
            "every tool may write the project",
            "every tool reads the file ~/.netrc",
            "it has what is kept for the project named x",
            "packages come from /m",
            "t has the same ~/.t in all projects",
            "t is made with the add-on java",
            "t is made with the package jq",
            "t is of version 1",
            "t reads the file /h",
            "t runs `a 'b c'` when it is built, reaching n.example, seeing the project",
        ];
        assert_eq!(of_settings(&project, &user).iter().map(String::as_str).collect::<Vec<_>>(), expect);
        assert!(!of_settings(&project, &Settings::default()).contains("every tool may write the project"));
    }

    #[test]
    fn what_a_projects_recipe_adds_is_a_line() {
        let place = tempfile::tempdir().expect("a directory");
        let places = Places { project: Some(place.path().to_owned()), ..Places::default() };
        let write = |name: &str, text: &str| fs::write(place.path().join(name), text).expect("written");
        write("sh.toml", "passEnv = [\"KEY\"]\nstate = [{ guest = \"~/.x\", scope = \"tool\" }]\n");
        write("own.toml", "image = \"registry.example.com/a:1\"\nsteps = [{ run = \"true\", network = [\"n.example\"] }]\n");
        let lines = |tool| of_recipe(&places, tool).into_iter().collect::<Vec<_>>();
        assert_eq!(lines("sh"), ["sh has the same ~/.x in all projects", "sh sees the variable KEY"]);
        let own = ["own is made of the image registry.example.com/a:1", "own runs `true` when it is built, reaching n.example"];
        assert_eq!(lines("own"), own);
        assert!(lines("python").is_empty());
    }

    #[test]
    fn what_came_while_a_sandbox_ran_is_asked_about_until_it_is_gone() {
        let place = tempfile::tempdir().expect("a directory");
        let (home, project) = (Home::new(place.path().join("home")), place.path());
        let told = || of_inside(&home, project).expect("read").into_iter().collect::<Vec<_>>();
        came_inside(&home, project, &[".envrc".into()]).expect("nothing of silo's");
        assert!(told().is_empty() && !home.trust().exists());
        fs::write(project.join("silo.toml"), "a").expect("written");
        came_inside(&home, project, &["silo.toml".into(), ".envrc".into()]).expect("noted");
        let first = told();
        assert!(first.len() == 1 && first[0].starts_with("silo.toml counts, though it came while a sandbox ran (sha256 "), "{first:?}");
        fs::write(project.join("silo.toml"), "b").expect("written");
        assert_ne!(told(), first);
        fs::remove_file(project.join("silo.toml")).expect("there");
        assert!(told().is_empty());
    }

    #[test]
    fn what_is_approved_hides_nothing_between_lines() {
        let text = "[overrides.t]\npostInstall = [\"true\\nt may reach *\\n\", 'true\\nt may reach *\\n', \"\\u001b[2K\\u202e\"]\n";
        let found = of_settings(&toml::from_str(text).expect("settings"), &Settings::default());
        // A line break, and the letters that spell one.
        assert_eq!(found.len(), 3, "{found:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        approve(&home, Path::new("/a"), &found).expect("written");
        let read = approved(&home, Path::new("/a")).expect("read");
        assert_eq!(read, found);
        assert!(!read.contains("t may reach *") && read.iter().all(|line| !line.contains(char::is_control)), "{read:?}");
    }

    #[test]
    fn what_is_opened_is_told_line_by_line_and_approved_once() {
        let text = "[network]\nallow = [\"a.example\"]\ndeny = [\"b\"]\n[ecosystems]\npypi = [\"p.example\"]\n[overrides.t.network]\nallow = [\"*\"]\n[overrides.s]\npassSshAgent = true\npassEnv = [\"KEY\"]\nports = [{ host = 1, guest = 2 }]";
        let found = of_settings(&toml::from_str(text).expect("settings"), &Settings::default());
        let expect = [
            "@pypi means p.example",
            "every tool may reach a.example",
            "s answers at port 1 of this machine, from its port 2",
            "s may ask your ssh agent for signatures",
            "s sees the variable KEY",
            "t may reach *",
        ];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expect);
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        let project = Path::new("/a\nevery tool may reach *");
        assert!(approved(&home, project).expect("nothing").is_empty());
        approve(&home, project, &found).expect("written");
        assert_eq!(approved(&home, project).expect("read"), found);
        assert!(approved(&home, Path::new("/b")).expect("nothing").is_empty());
    }
}
