//! Lists the rights that a project's own files give to its tools, as lines of text.
//!
//! A project is untrusted, and so is its `silo.toml`. A right in that file (hosts, files, kept directories, packages) counts only after the
//! user approves its line. New lines need a new approval. The choice of a version needs no approval: it only selects among the versions of
//! a recipe, and if the recipe is the project's, the rights of the selected version are listed too. Nor does a package of the distribution: its signed index names
//! the file, its scripts run in a sandbox without a network, and other mirrors are a line of their own.

use std::collections::BTreeSet;

use silo_base::grant::{Grant, Port};
use silo_model::config::merge::merge;
use silo_model::config::mounts::{Git, Mode, Sockets};
use silo_model::config::{Network, Override, Review, Settings};
use silo_model::recipe::Lsp;
use silo_model::recipe::kept_dirs::{self, KeptDir, KeptEntry, Scope};
use silo_model::recipe::package_spec;
use silo_model::recipe::steps::check_step;
use silo_model::recipe::{Recipe, Step};

/// The rights that a project gives, one per line.
pub type Exposures = BTreeSet<String>;

/// Lists the rights that a project's `silo.toml` gives to its tools in addition to the user's own settings.
///
/// The settings were checked when they were read. Language servers are merged with their recipes, so [`of_recipe`] has their lines.
pub fn of_settings(project: &Settings, user: &Settings) -> Exposures {
    let mut found = Exposures::new();
    let merged = merge(user.clone(), project.clone());
    of_place("every tool", &project.network, &project.pass_env, &mut found);
    found.extend(project.pass_ssh_agent.then(|| signs("every tool")));
    found.extend(project.pass_files.iter().filter(|file| !file.is_of_project()).map(|file| reads("every tool", file.host())));
    for (tool, over) in &project.overrides {
        of_override(tool, over, &merged.install_allow(tool), &mut found);
    }
    for (name, grants) in &project.ecosystems {
        found.extend(grants.iter().map(|grant| format!("@{name} means {grant}")));
    }
    let mirrors = &project.mirrors;
    let bases = mirrors.debian.iter().chain(&mirrors.debian_security).chain(&mirrors.snapshot).chain(&mirrors.snapshot_security);
    found.extend(bases.map(|base| format!("packages come from {base}, and silo.lock decides which files they are, unsigned by Debian")));
    found.extend(project.caches.iter().map(|cache| format!("images come from the cache {}", cache.location)));
    found.extend(project.project_id.iter().map(|id| format!("it has what is kept for the project named {id}")));
    let writes_more = match (project.mount.mode, user.mount.mode) {
        (Some(Mode::Rw), Some(Mode::Ro | Mode::Review)) | (Some(Mode::Review), Some(Mode::Ro)) => true,
        (Some(_) | None, _) => false,
    };
    if writes_more {
        found.insert("every tool may write the project".to_owned());
    }
    let layered = (user.mount.mode == Some(Mode::Review)).then_some(Review::Always);
    of_review("every tool", project.review, user.review.or(layered), &mut found);
    for (tool, over) in &project.overrides {
        of_review(tool, over.review, user.overrides.get(tool).and_then(|over| over.review).or(user.review).or(layered), &mut found);
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

/// Escapes invisible characters, such as line breaks and text direction marks. So the approved text is the displayed text, each line is a
/// line of its own, and different texts have different escaped forms.
pub(super) fn plain(line: &str) -> String {
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

/// Lists a decision that lets more changes through than the user's own. Without one, the recipe decides, and lets at most safe changes through.
fn of_review(tools: &str, project: Option<Review>, user: Option<Review>, found: &mut Exposures) {
    let Some(project) = project.filter(|project| *project < user.unwrap_or(Review::Risky)) else { return };
    found.insert(match project {
        Review::Never => format!("changes of {tools} reach the project without a review"),
        Review::Risky | Review::Always => {
            format!("changes of {tools} reach the project without a review, unless this machine would run one")
        }
    });
}

/// Lists the rights in the settings of a tool; `network` is that of its commands without hosts of their own.
fn of_override(tool: &str, over: &Override, network: &[Grant], found: &mut Exposures) {
    of_place(tool, &over.network, &over.pass_env, found);
    found.extend(over.pass_ssh_agent.then(|| signs(tool)));
    found.extend(over.pass_files.iter().filter(|file| !file.is_of_project()).map(|file| reads(tool, file.host())));
    found.extend(over.ports.iter().flatten().map(|port| listens(tool, *port)));
    found.extend(over.packages.iter().filter(|package| !is_plain(package)).map(|package| made_with(tool, package)));
    found.extend(over.addons.iter().map(|addon| format!("{tool} is made with the add-on {addon}")));
    let steps = over.post_install.iter().filter_map(|step| check_step("postInstall", step.clone()).ok());
    found.extend(steps.map(|mut step| {
        if step.network.is_empty() {
            step.network = network.to_vec();
            step.network.sort();
        }
        runs(tool, &step)
    }));
    let checked = |key, entries: &Vec<KeptEntry>| kept_dirs::check(key, entries.clone()).unwrap_or_default();
    of_kept(tool, &checked("cache", &over.cache), &checked("state", &over.state), found);
}

fn of_server(tool: &str, lsp: &Lsp, found: &mut Exposures) {
    let name = format!("the language server of {tool}");
    found.extend(lsp.packages.iter().filter(|package| !is_plain(package)).map(|package| made_with(&name, package)));
    found.extend(lsp.steps.iter().map(|step| runs(&name, step)));
    of_kept(tool, &lsp.cache, &[], found);
}

fn of_place(place: &str, network: &Network, names: &[String], found: &mut Exposures) {
    found.extend(network.allow.iter().map(|grant| format!("{place} may reach {grant}")));
    found.extend(network.install_allow.iter().map(|grant| format!("{place} may reach {grant} when it is built")));
    found.extend(names.iter().map(|name| format!("{place} sees the variable {name}")));
}

fn of_kept(tool: &str, caches: &[KeptDir], states: &[KeptDir], found: &mut Exposures) {
    let shared = |kept: &&KeptDir| kept.scope == Scope::Tool;
    found.extend(caches.iter().chain(states).filter(shared).map(|kept| format!("{tool} has the same {} in all projects", kept.guest)));
}

fn signs(place: &str) -> String {
    format!("{place} may ask your ssh agent for signatures")
}

fn reads(place: &str, file: &str) -> String {
    format!("{place} reads the file {file}")
}

/// True for a package of the distribution, with or without a version. A package of a foreign architecture is none: it lets 32-bit programs
/// run, which have system calls of their own.
fn is_plain(package: &str) -> bool {
    package_spec::parse(package).is_some_and(|spec| spec.of.is_none())
}

fn made_with(tool: &str, package: &str) -> String {
    format!("{tool} is made with the package {package}")
}

fn runs(tool: &str, step: &Step) -> String {
    let network = if step.network.is_empty() { String::new() } else { format!(", reaching {}", Grant::join(&step.network, ", ")) };
    let project = if step.project { ", seeing the project" } else { "" };
    format!("{tool} runs `{}` when it is built{network}{project}", step.shown())
}

/// Returns the line for a port of the host that is forwarded to a tool.
pub fn listens(tool: &str, port: Port) -> String {
    format!("{tool} answers at port {} of this machine, from its port {}", port.host, port.guest)
}

/// Lists the rights that a built recipe gives to its tool, and to a language server of it.
pub fn of_recipe(recipe: &Recipe, server: Option<&Lsp>) -> Exposures {
    let (tool, run) = (recipe.name.as_str(), &recipe.run);
    let mut found = Exposures::new();
    found.extend(run.network.iter().map(|grant| format!("{tool} may reach {grant}")));
    found.extend(recipe.install_allow.iter().map(|grant| format!("{tool} may reach {grant} when it is built")));
    found.extend(run.pass_env.iter().map(|name| format!("{tool} sees the variable {name}")));
    found.extend(recipe.image.iter().map(|image| format!("{tool} is made of the image {image}")));
    let packages = recipe.debian.packages.iter().chain(&recipe.debian.added).chain(&recipe.debian.build);
    let is_of_distribution = |package: &&String| recipe.debian.sources.is_empty() && is_plain(package);
    found.extend(packages.filter(|package| !is_of_distribution(package)).map(|package| made_with(tool, package)));
    found.extend(recipe.debian.sources.iter().map(|source| format!("{tool} is made of packages of {}", source.line())));
    found.extend(recipe.debian.debs.iter().map(|deb| format!("{tool} is made with the file {}", deb.name)));
    found.extend(recipe.steps.iter().map(|step| runs(tool, step)));
    of_kept(tool, &run.cache, &run.state, &mut found);
    if let Some(lsp) = server {
        of_server(tool, lsp, &mut found);
    }
    found.iter().map(|line| plain(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_opens_more_is_a_line() {
        let text = "passFiles = [\"~/.netrc\", \"in/project\"]\nproject_id = \"x\"\nmount.mode = \"rw\"\nmount.git = \"direct\"\nmount.sockets = \"shown\"\nmirrors.debian = [\"/m\"]\n\
            network.installAllow = [\"@npm\"]\n[overrides.t]\nversion = \"1\"\npackages = [\"jq\", \"libc6:i386\"]\naddons = [\"java\"]\n\
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
            "packages come from /m, and silo.lock decides which files they are, unsigned by Debian",
            "t has the same ~/.t in all projects",
            "t is made with the add-on java",
            "t is made with the package libc6:i386",
            "t reads the file /h",
            "t runs `a 'b c'` when it is built, reaching n.example, seeing the project",
        ];
        assert_eq!(of_settings(&project, &user).iter().map(String::as_str).collect::<Vec<_>>(), expect);
        assert!(!of_settings(&project, &Settings::default()).contains("every tool may write the project"));
        // The mode of the user's own settings is a decision, too.
        let lower: Settings = toml::from_str("review = \"risky\"").expect("settings");
        let layered: Settings = toml::from_str("mount.mode = \"review\"").expect("settings");
        assert_eq!((of_settings(&lower, &layered).len(), of_settings(&lower, &Settings::default()).len()), (1, 0));
    }

    #[test]
    fn new_permissions_are_listed_line_by_line() {
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
    }
}
