//! What a project's own files open, and what of it the user has approved.
//!
//! A project comes from anywhere, and its `silo.toml` with it. What that file lets a tool reach counts only once the
//! user has said so: each such thing is a line of text, and the lines that were approved stand, by project, in
//! `~/.silo/trust/<project>`. A line that is new since then is asked about again; one that has gone is no matter.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Network, Settings};
use crate::document;
use crate::grant::Port;
use crate::home::Home;
use crate::recipe::catalog::{self, Places};

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

/// Finds what a project's `silo.toml` opens to its tools.
pub fn of_settings(project: &Settings) -> Exposures {
    let mut found = Exposures::new();
    let mut network = |place: &str, network: &Network| {
        found.extend(network.allow.iter().map(|grant| format!("{place} may reach {grant}")));
    };
    network("every tool", &project.network);
    for (tool, over) in &project.overrides {
        network(tool, &over.network);
    }
    let mut passed = |place: &str, names: &[String], ssh_agent: bool| {
        found.extend(names.iter().map(|name| format!("{place} sees the variable {name}")));
        found.extend(ssh_agent.then(|| format!("{place} may ask your ssh agent for signatures")));
    };
    passed("every tool", &project.pass_env, project.pass_ssh_agent);
    for (tool, over) in &project.overrides {
        passed(tool, &over.pass_env, over.pass_ssh_agent);
    }
    for (tool, over) in &project.overrides {
        found.extend(over.ports.iter().flatten().map(|port| listens(tool, *port)));
    }
    for (name, grants) in &project.ecosystems {
        found.extend(grants.iter().map(|grant| format!("@{name} means {grant}")));
    }
    found
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
    let grants = |places: &Places| catalog::find(places, tool).map(|found| found.recipe.run.network).unwrap_or_default();
    let without = grants(&Places { user: places.user.clone(), project: None });
    grants(places).into_iter().filter(|grant| !without.contains(grant)).map(|grant| format!("{tool} may reach {grant}")).collect()
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
    fn what_is_opened_is_told_line_by_line_and_approved_once() {
        let text = "[network]\nallow = [\"a.example\"]\ndeny = [\"b\"]\n[ecosystems]\npypi = [\"p.example\"]\n[overrides.t.network]\nallow = [\"*\"]\n[overrides.s]\npassSshAgent = true\npassEnv = [\"KEY\"]\nports = [{ host = 1, guest = 2 }]";
        let found = of_settings(&toml::from_str(text).expect("settings"));
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
