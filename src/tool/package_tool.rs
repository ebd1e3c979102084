//! Debian packages as tools: a recipe made of package names, with the packages' programs as its commands.

use std::path::{Path, PathBuf};

use silo_base::grant::Grant;
use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_model::document;
use silo_model::recipe::catalog::{self, Draft, RecipeSources};
use silo_model::recipe::check::check_name;
use silo_model::recipe::package_spec;
use silo_store::flock as store_lock;
use silo_store::index::Index;
use silo_store::private;
use silo_store::resolve_in_root;

use crate::journal::Change;

use super::Context;
use super::definition::{self, Scope};
use super::import_image::{self, Error};
use super::install::{self, InstallOptions, Outcome};
use super::lock_files::{self, Resolving};

/// Maximum size of dpkg's list of the files of a package; the longest of Debian has a few megabytes.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// Limit on the commands of a tool, as for a tool made of an image.
const MAX_SHIMS: usize = 64;

/// Directories of programs, as dpkg lists them.
const DIRS: [&str; 6] = ["/usr/bin/", "/usr/games/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/local/bin/"];

/// Packages that make a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageTool {
    /// The tool's name.
    pub name: String,
    /// Debian packages, as in a recipe. The version of the first one is the tool's.
    pub packages: Vec<String>,
    /// Debian release; by default that of recipes.
    pub suite: Option<String>,
    /// Allowed hosts of the tool.
    pub network: Vec<Grant>,
}

impl PackageTool {
    /// Returns the text of the recipe.
    pub fn recipe(&self, shims: &[String]) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let list = |items: &[String]| format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "));
        let suite = self.suite.as_ref().map_or_else(String::new, |suite| format!("suite = {}\n", quoted(suite)));
        let shims = if shims.is_empty() { String::new() } else { format!("shims = {}\n", list(shims)) };
        let network = match self.network.as_slice() {
            [] => String::new(),
            allow => format!("\n[network]\nallow = {}\n", list(&allow.iter().map(Grant::to_string).collect::<Vec<_>>())),
        };
        format!(
            "# Made by `silo install`; it is yours to change.\ndescription = {}\n{shims}\n[debian]\n{suite}packages = {}\n{network}",
            quoted(&format!("Debian's {}", self.packages.join(", "))),
            list(&self.packages),
        )
    }

    /// Returns the sources of recipes with this one, and without those of the project.
    pub fn among(&self, places: &RecipeSources, shims: &[String]) -> RecipeSources {
        let draft = Draft { name: self.name.clone(), text: self.recipe(shims) };
        RecipeSources { draft: Some(draft), project: None, ..places.clone() }
    }
}

/// Returns the tool's name for a package; `None` if a package name cannot be a tool's.
pub fn tool_name(package: &str) -> Option<&str> {
    let name = package_spec::parse(package)?.name;
    check_name(name).is_ok().then_some(name)
}

/// Makes a tool of packages and installs it. The recipe is written only if the build succeeds. Returns the outcome and the commands.
pub fn adopt(context: &Context<'_>, wish: &PackageTool) -> Result<(Outcome, Vec<String>), Error> {
    let context = &context.without_project();
    let path = context.home.recipes().join(format!("{}.toml", wish.name));
    let taken = || Error::Taken { tool: wish.name.clone(), path: Some(path.clone()).filter(|path| path.exists()) };
    if catalog::built_in(&wish.name).is_some() {
        return Err(taken());
    }
    let written = document::text_of(&path).map_err(|error| failed(definition::Error::from(error).into()))?;
    let Some(text) = written else { return made(context, wish, &path) };
    let shims = shims_of(&text);
    if text != wish.recipe(&shims) {
        return Err(taken());
    }
    let outcome = install::install(context, &options(wish)).map_err(failed)?;
    Ok((outcome, shims))
}

fn made(context: &Context<'_>, wish: &PackageTool, path: &Path) -> Result<(Outcome, Vec<String>), Error> {
    let of = |context: &Context<'_>| definition::of(context.view(), &wish.name, Scope::Global).map_err(|error| failed(error.into()));
    let shared = store_lock::share(context.store).map_err(|source| failed(install::Error::Store(Box::new(source))))?;
    let places = wish.among(&context.places, &[]);
    let trying = context.among(&places);
    let lock = lock_files::obtain(&trying, &of(&trying)?, Resolving::Allowed).map_err(|error| failed(error.into()))?;
    let made = install::make(&trying, &shared, &of(&trying)?, lock, &options(wish)).map_err(failed)?;
    let shims = programs(context.home, made.image(), &wish.packages);
    let places = wish.among(&context.places, &shims);
    let trying = context.among(&places);
    private::make_dir(&context.home.recipes())?;
    let change = Change::new(context.home, path, None, Some(wish.recipe(&shims)))?;
    let outcome = install::record(&trying, &shared, &of(&trying)?, made, &[change]).map_err(failed)?;
    Ok((outcome, shims))
}

fn options(wish: &PackageTool) -> InstallOptions {
    InstallOptions { name: wish.name.clone(), version: None, resolving: Resolving::Allowed, anew: false, with: Vec::new() }
}

fn failed(error: install::Error) -> Error {
    Error::Install(Box::new(error))
}

/// Returns the commands in the text of a recipe.
fn shims_of(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_default();
    let items = table.get("shims").and_then(toml::Value::as_array);
    items.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
}

/// Returns the programs of packages in an image. Packages without programs, such as those that only depend on others, have all programs
/// of the image that are not in every image.
pub fn programs(home: &Home, id: ImageId, packages: &[String]) -> Vec<String> {
    let root = image::root(home, id);
    let mut found: Vec<String> = packages
        .iter()
        .filter_map(|package| Some(package_spec::parse(package)?.name))
        .flat_map(|name| listed(&root, name, home.arch()))
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        let index = std::fs::read(image::index_path(home, id)).ok().and_then(|text| Index::parse(&text).ok());
        found = index.map(|index| import_image::programs(&index, "")).unwrap_or_default();
    }
    found.truncate(MAX_SHIMS);
    found
}

/// Returns the names of the programs in dpkg's list of a package.
fn listed(root: &Path, package: &str, arch: Arch) -> Vec<String> {
    // The name has the architecture if the package can be there for several.
    let lists = [format!("{package}.list"), format!("{package}:{arch}.list")];
    let read = |list: &String| resolve_in_root::read(root, &PathBuf::from("var/lib/dpkg/info").join(list), MAX_LIST_BYTES).ok();
    let text = lists.iter().find_map(read).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(program).map(str::to_owned).collect()
}

/// Returns the name of a program at a path, if it can be a command.
fn program(path: &str) -> Option<&str> {
    let name = DIRS.iter().find_map(|dir| path.strip_prefix(dir))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    (name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)).then_some(name)
}

#[cfg(test)]
mod tests {
    use silo_model::recipe::file::RecipeFile;

    use super::*;

    #[test]
    fn the_recipe_of_packages_is_read_back() {
        let tool = PackageTool {
            name: "jq".to_owned(),
            packages: ["jq".to_owned(), "libfoo (>= 1)".to_owned()].to_vec(),
            suite: Some("forky".to_owned()),
            network: vec![Grant::parse("a.example").expect("a host")],
        };
        for shims in [&[][..], &["jq".to_owned()]] {
            let text = tool.recipe(shims);
            let file: RecipeFile = toml::from_str(&text).expect("a recipe");
            assert_eq!(file.shims.unwrap_or_default(), shims);
            let debian = file.debian.expect("it has packages");
            assert_eq!((debian.suite.as_deref(), debian.packages), (Some("forky"), Some(tool.packages.clone())));
            assert_eq!(file.network.allow, Some(vec!["a.example".to_owned()]));
            assert_eq!(shims_of(&text), shims);
        }
    }

    #[test]
    fn programs_are_found_by_their_directory_and_name() {
        for (path, expect) in [
            ("/usr/bin/jq", Some("jq")),
            ("/usr/games/cowsay", Some("cowsay")),
            ("/usr/bin", None),
            ("/usr/share/doc/jq", None),
            ("/usr/bin/x/y", None),
            ("/usr/bin/[", None),
            ("/bin/g++", Some("g++")),
        ] {
            assert_eq!(program(path), expect, "{path}");
        }
    }

    #[test]
    fn packages_with_plain_names_name_a_tool() {
        for (package, expect) in [("jq", Some("jq")), ("jq=1.7", Some("jq")), ("g++", None), ("7zip", None), ("a b", None)] {
            assert_eq!(tool_name(package), expect, "{package}");
        }
    }
}
