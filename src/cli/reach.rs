//! What of the network a run gets: what is granted, ports that lead in, the ssh agent, and a record of it all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::build::network;
use crate::config::Settings;
use crate::ecosystem;
use crate::grant::Port;
use crate::image;
use crate::insight::network as journal;
use crate::launch;
use crate::launch::spec::{Asker, Dir, Network, Record, SSH_AGENT, SshAgent};
use crate::plain;
use crate::recipe::Recipe;
use crate::recipe::catalog::{self, Places};
use crate::tool::record::Installed;

use super::context::Setting;
use super::env;
use super::error::Failure;
use super::ui;

/// Reads a pair of ports as it is typed.
pub fn port(text: &str) -> Result<Port, String> {
    Port::parse(text).ok_or_else(|| "write 8080:80, or 8080 for both; ports are 1 to 65535".to_owned())
}

/// Adds the network to what a run sees: what its recipe and the settings grant, of which the project's own count if `own`.
pub fn furnish(
    setting: &Setting,
    tool: &Installed,
    recipe: Option<&Recipe>,
    own: bool,
    lesson: Option<&Lesson>,
    spec: &mut launch::spec::Spec,
) -> Result<(), Failure> {
    let users;
    let recipe = match own || setting.places.project.is_none() {
        true => recipe,
        false => {
            users = catalog::find(&Places { project: None, ..setting.places.clone() }, &tool.name).ok();
            users.as_ref().map(|found| &found.recipe)
        }
    };
    let Some(recipe) = recipe else { return Ok(()) };
    let settings = if own { &setting.settings } else { &setting.user_settings };
    let granted = settings.network(&tool.name, &recipe.run.network);
    let root = [image::root(&setting.home, tool.image)];
    let reach = setting.look(|context| {
        let wish = network::Wish {
            allow: &granted.allow,
            deny: &granted.deny,
            ecosystems: &settings.ecosystems,
            learn: lesson.map(|lesson| lesson.notes.path().to_owned()),
        };
        Ok(network::for_run(context.home, &context.outside, &root, wish, context.sink))
    })?;
    reach.furnish(spec);
    Ok(())
}

/// What a run is found to need of the network.
pub struct Lesson {
    notes: tempfile::NamedTempFile,
}

impl Lesson {
    /// Begins one.
    pub fn begin() -> Result<Lesson, Failure> {
        Ok(Lesson { notes: tempfile::NamedTempFile::new().map_err(Failure::other)? })
    }

    /// Tells it.
    pub fn tell(self) -> Result<(), Failure> {
        let names = ecosystem::noted(self.notes.path())?;
        if names.is_empty() {
            ui::note("it reached nothing that needs a grant");
        } else {
            // What a grant without a port covers needs none.
            let short = |name: &String| name.strip_suffix(":443").or_else(|| name.strip_suffix(":80")).unwrap_or(name).to_owned();
            let names: std::collections::BTreeSet<String> = names.iter().map(short).collect();
            let names: Vec<String> = names.into_iter().collect();
            ui::note(&format!("it reached {}\n  try: silo config network allow {}", names.join(", "), names.join(" ")));
        }
        Ok(())
    }
}

/// What the command line opens besides the settings.
pub struct Asked {
    /// Ports that lead in.
    pub ports: Vec<Port>,
    /// Whether the user's ssh agent may be asked.
    pub ssh_agent: bool,
}

/// Opens what leads in and to the user's ssh agent; grants nothing.
pub fn open_doors(settings: &Settings, tool: &str, asked: Asked, spec: &mut launch::spec::Spec) {
    let mut ports = settings.ports(tool).to_vec();
    // What is typed counts more: it may lead a port of this machine elsewhere for once.
    ports.retain(|port| asked.ports.iter().all(|own| own.host != port.host));
    ports.extend(asked.ports);
    ports.sort();
    ports.dedup();
    let agent = (asked.ssh_agent || settings.passes_ssh_agent(tool)).then(ssh_agent).flatten();
    if ports.is_empty() && agent.is_none() {
        return;
    }
    let network = spec.network.get_or_insert_with(|| Network { asker: Asker::Run, ..Network::default() });
    network.ports = ports;
    if let Some(agent) = agent {
        network.ssh_agent = Some(agent);
        let place = Path::new(SSH_AGENT);
        spec.dirs.extend(place.parent().map(|dir| Dir { guest: dir.to_owned(), mode: 0o755 }));
        spec.env.insert("SSH_AUTH_SOCK".into(), place.into());
    }
}

/// Finds the user's ssh agent, or says that there is none.
fn ssh_agent() -> Option<SshAgent> {
    let socket = env::var("SSH_AUTH_SOCK").filter(|value| !value.is_empty()).map(PathBuf::from);
    let why = match &socket {
        None => "SSH_AUTH_SOCK is not set".to_owned(),
        Some(socket) if !socket.exists() => format!("nothing is at {}", plain::path(socket)),
        Some(socket) => return Some(SshAgent { socket: socket.clone() }),
    };
    ui::note(&format!("there is no ssh agent to pass: {why}\n  try: eval \"$(ssh-agent)\" && ssh-add"));
    None
}

/// Has a run's network noted; returns where.
pub fn record(setting: &Setting, tool: &str, project: Option<&Path>, spec: &mut launch::spec::Spec) -> Option<PathBuf> {
    let network = spec.network.as_mut()?;
    let started = u64::try_from(env::now()).unwrap_or_default();
    let title = journal::Title { tool: tool.to_owned(), project: project.map(|path| path.to_string_lossy().into_owned()), started };
    let into = setting.home.network_logs().join(journal::file_name(started, std::process::id()));
    network.record = Some(Record { into: into.clone(), title: title.line() });
    Some(into)
}

/// Lets go of the oldest records once there is a new one.
pub fn noted(setting: &Setting, record: Option<&Path>) {
    if record.is_some_and(|record| fs::symlink_metadata(record).is_ok()) {
        journal::prune(&setting.home);
    }
}
