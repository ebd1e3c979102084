//! Finds the tool that has a program, for `silo exec`.
//!
//! A program can be in a directory of the project that a tool activates (`.venv/bin`, `node_modules/.bin`), among the commands of a tool,
//! or in the `PATH` of its image. The project's tools come before the other installed ones.
//!
//! After a tool that is a command itself, such as `go` or `python`, a word is a program only if the project or the tool's commands have it.
//! Other words are arguments of that command. `--` after the tool makes any word a program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use silo_build::image;
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_name;
use silo_store::resolve_in_root;
use silo_tool::View;
use silo_tool::definition::{self, Scope};
use silo_tool::kept_dirs::Keeper;
use silo_tool::record::{self, Installed};
use silo_tool::shim::table::{self, Table};

use super::activate;
use super::error::Error;
use super::grammar::Commands;
use super::target::{self, Target};

/// The typed words and their directory.
pub struct Wanted<'a> {
    /// A program and its arguments, with an optional tool before it.
    pub words: Vec<OsString>,
    /// Working directory of the caller.
    pub cwd: &'a Path,
    /// Project directory of the run; `None` without a project.
    pub project: Option<&'a Path>,
    /// Definitions that count.
    pub scope: Scope,
}

/// Kind of place of a program, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A directory of the project.
    Project,
    /// A command of the tool.
    Command,
    /// The image.
    Image,
}

/// User of a tool, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum User {
    /// The project.
    Project,
    /// The user only, who installed it.
    Person,
}

/// A tool with the data to search it.
struct Candidate {
    tool: Installed,
    recipe: Option<Recipe>,
    commands: Commands,
    user: User,
}

/// Finds the tool of a program, and the program's command line.
pub fn find(view: View<'_>, wanted: Wanted<'_>) -> Result<Target, Error> {
    let table = table::read(&view.home.shims())?;
    let Some((first, rest)) = wanted.words.split_first() else {
        return Err(Error::usage("no program is named", "silo exec [TOOL] PROGRAM [ARGUMENTS]"));
    };
    target::check_first_word(first, "exec")?;
    // As for `silo run`, a `--` after the tool belongs to silo.
    let is_named_program = rest.first().is_some_and(|word| word == "--");
    let rest = if is_named_program { &rest[1..] } else { rest };
    let search = Search { view, table: &table, wanted: &wanted };
    let name = first.to_str().filter(|name| check_name(name).is_ok());
    if let (Some(name), Some((program, args))) = (name, rest.split_first())
        && let Some(tool) = target::usable(view, name, wanted.scope)?
    {
        let candidate = search.candidate(tool, User::Project);
        let is_command = candidate.commands.shims.contains_key(name) && !is_named_program;
        // `silo exec go test` and `silo exec python script.py` name a command with its argument: every image has a program `test`.
        let found = search.place(&candidate, program).filter(|place| !is_command || *place != Place::Image);
        if found.is_some() || !is_command {
            return Ok(candidate.run(found, program, args));
        }
    }
    let (candidates, unbuilt) = search.candidates()?;
    let mut found: Vec<(User, Place, &Candidate)> =
        candidates.iter().filter_map(|candidate| Some((candidate.user, search.place(candidate, first)?, candidate))).collect();
    found.sort_by(|a, b| (a.0, a.1, &a.2.tool.name).cmp(&(b.0, b.1, &b.2.tool.name)));
    // An unbuilt tool of the project may have the program; another one must not take its place.
    if let Some(error) = unbuilt.filter(|_| found.first().is_none_or(|best| best.0 == User::Person)) {
        return Err(error.into());
    }
    match found.as_slice() {
        [] => Err(missing(view, first, candidates.len())),
        [best, next, ..] if (best.0, best.1) == (next.0, next.1) => Err(several(first, &found)),
        [best, ..] => Ok(best.2.run(Some(best.1), first, rest)),
    }
}

struct Search<'a> {
    view: View<'a>,
    table: &'a Table,
    wanted: &'a Wanted<'a>,
}

impl Search<'_> {
    fn candidate(&self, tool: Installed, user: User) -> Candidate {
        let (recipe, commands) = target::commands(self.view, self.table, &tool.name, self.wanted.scope);
        Candidate { tool, recipe, commands, user }
    }

    /// Returns the usable tools, and the error of a tool of the project that has no image.
    fn candidates(&self) -> Result<(Vec<Candidate>, Option<definition::Error>), Error> {
        let mut unbuilt = None;
        let mut candidates = Vec::new();
        let claimed = if self.wanted.scope == Scope::Project { definition::claimed(self.view)? } else { Default::default() };
        for name in &claimed {
            match definition::current(self.view, name) {
                Ok(tool) => candidates.extend(tool.map(|tool| self.candidate(tool, User::Project))),
                Err(error) => unbuilt = unbuilt.or(Some(error)),
            }
        }
        let others = record::list(self.view.home)?.into_iter().filter(|tool| !claimed.contains(&tool.name));
        candidates.extend(others.map(|tool| self.candidate(tool, User::Person)));
        Ok((candidates, unbuilt))
    }

    /// Returns the best place of a program in a tool's sandbox.
    fn place(&self, candidate: &Candidate, program: &OsStr) -> Option<Place> {
        let path = Path::new(program);
        if program.is_empty() {
            return None;
        }
        if path.components().count() > 1 || path.is_absolute() || program.as_encoded_bytes().contains(&b'/') {
            return self.place_of_path(candidate, path);
        }
        let is_command = program.to_str().is_some_and(|name| candidate.commands.shims.contains_key(name));
        if self.active_dirs(candidate).iter().any(|dir| is_executable(&dir.join(path))) {
            Some(Place::Project)
        } else if is_command {
            Some(Place::Command)
        } else {
            let dirs = search_path(self.view, &candidate.tool);
            let root = image::root(self.view.home, candidate.tool.image);
            dirs.iter().any(|dir| resolve_in_root::exists(&root, &dir.join(path))).then_some(Place::Image)
        }
    }

    /// Returns the place of a program that is named by its path.
    fn place_of_path(&self, candidate: &Candidate, path: &Path) -> Option<Place> {
        let place = self.wanted.cwd.join(path);
        if self.wanted.project.is_some_and(|project| place.starts_with(project)) && is_executable(&place) {
            return Some(Place::Project);
        }
        let root = image::root(self.view.home, candidate.tool.image);
        (path.is_absolute() && resolve_in_root::exists(&root, path)).then_some(Place::Image)
    }

    /// Returns the host paths of the project's directories with programs that the tool activates.
    fn active_dirs(&self, candidate: &Candidate) -> Vec<PathBuf> {
        let (Some(recipe), Some(project)) = (&candidate.recipe, self.wanted.project) else { return Vec::new() };
        let settings = self.view.settings;
        let named = settings.project_id.as_deref().filter(|_| project == self.view.project);
        let keeper = Keeper::new(self.view.home, Some(project), named);
        let on_host = |path: &Path| -> PathBuf {
            let inner = path.strip_prefix(project).unwrap_or(path);
            let of = |dir: &String| {
                let below = inner.strip_prefix(dir).ok()?;
                Some((Path::new(dir).components().count(), keeper.excluded(dir)?.join(below)))
            };
            // The deepest excluded directory wins.
            let elsewhere = settings.mount.exclude.iter().filter_map(of).max_by_key(|(depth, _)| *depth);
            elsewhere.map_or_else(|| path.to_owned(), |(_, host)| host)
        };
        let active = activate::find(&recipe.run.activate, project, self.wanted.cwd, |path| on_host(path).symlink_metadata().is_ok());
        active.iter().filter_map(|active| Some(on_host(&active.dir.join(active.rule.path.as_ref()?)))).collect()
    }
}

impl Candidate {
    /// Returns the target of a program of this tool.
    fn run(&self, place: Option<Place>, program: &OsStr, args: &[OsString]) -> Target {
        let command = program.to_str().filter(|_| place == Some(Place::Command)).and_then(|name| self.commands.shims.get(name));
        let words: Vec<OsString> = match command {
            Some(words) => words.iter().map(OsString::from).collect(),
            None => vec![program.to_owned()],
        };
        let argv = words.into_iter().chain(args.iter().cloned()).collect();
        Target::plain(self.tool.clone(), self.recipe.clone(), argv, args.to_vec())
    }
}

/// Returns the directories of the image's `PATH`.
fn search_path(view: View<'_>, tool: &Installed) -> Vec<PathBuf> {
    let env = image::get(view.home, tool.image).ok().flatten().map(|image| image.env).unwrap_or_default();
    let path = env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    path.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from).collect()
}

/// True if the image of a tool has a program, by its name on `PATH` or by its absolute path.
pub fn is_in_image(view: View<'_>, tool: &Installed, program: &str) -> bool {
    let root = image::root(view.home, tool.image);
    match program.contains('/') {
        true => program.starts_with('/') && resolve_in_root::exists(&root, Path::new(program)),
        false => search_path(view, tool).iter().any(|dir| resolve_in_root::exists(&root, &dir.join(program))),
    }
}

/// True for a file with execute permission, or a symlink, which may point into the image.
fn is_executable(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    found.is_symlink() || (found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn several(program: &OsStr, found: &[(User, Place, &Candidate)]) -> Error {
    let best = (found[0].0, found[0].1);
    let tools: Vec<&str> = found.iter().filter(|one| (one.0, one.1) == best).map(|one| one.2.tool.name.as_str()).collect();
    let program = program.to_string_lossy();
    Error::usage(
        format!("{program} is a program of several tools: {}", tools.join(", ")),
        format!("`silo exec {} -- {program} …` selects one", tools[0]),
    )
}

fn missing(view: View<'_>, program: &OsStr, tools: usize) -> Error {
    let name = program.to_string_lossy();
    let owners = catalog::shim_owners(view.places, &name).unwrap_or_default();
    let owner = owners.keys().next().cloned().or_else(|| catalog::find(view.places, &name).ok().map(|found| found.recipe.name));
    let hint = match owner {
        Some(tool) => format!("silo install {tool}"),
        None if tools > 0 => {
            format!("`silo x --package PACKAGE -- {name} …` runs it from a Debian package; `silo list` shows the tools")
        }
        None => "`silo install TOOL` installs a tool; `silo list --available` shows them".to_owned(),
    };
    Error::missing(format!("no tool here has a program \"{name}\""), hint)
}
