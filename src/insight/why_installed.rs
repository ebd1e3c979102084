//! Finds the reason for a package: the line of a recipe or settings file, and the shortest dependency chain from there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use silo_base::home::PROJECT_CONFIG;
use silo_base::system::Arch;
use silo_fetch::unpack::record::Stanza;
use silo_model::document;
use silo_model::recipe::addon;
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_model::recipe::package_spec;
use silo_resolve::relation;
use silo_tool::View;

use super::error::Error;

/// A package named by a recipe or settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPackage {
    /// The package.
    pub package: String,
    /// The file; for a built-in recipe, its path in Silo's source.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The text of the entry.
    pub text: String,
}

/// A dependency between two packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The dependent package.
    pub from: String,
    /// The dependency.
    pub to: String,
    /// The field, such as `Depends`.
    pub field: &'static str,
    /// The text of the relation.
    pub relation: String,
}

/// Reasons for a package in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The recipe entry with the shortest chain to the package, and the chain, which is empty if the entry names the package itself.
    pub wished: Option<(NamedPackage, Vec<Step>)>,
    /// The essential package with the shortest chain to the package, and the chain, which is empty if the package is essential itself.
    pub essential: Option<(String, Vec<Step>)>,
}

/// The part of a recipe that names packages; other keys are ignored.
#[derive(Deserialize)]
struct Named {
    debian: Option<Table>,
}

#[derive(Deserialize)]
struct Table {
    packages: Option<Vec<Spanned<String>>>,
}

/// The part of a settings file that names packages.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    overrides: BTreeMap<String, Over>,
}

#[derive(Deserialize)]
struct Over {
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    #[serde(default)]
    addons: Vec<Spanned<String>>,
}

/// Lists the packages named by the recipe of `tool` and by settings that override it.
pub fn wishes(view: View<'_>, tool: &str) -> Result<Vec<NamedPackage>, Error> {
    let mut wishes = of_recipe(view.places, tool)?;
    for path in [view.project.join(PROJECT_CONFIG), view.home.config()] {
        let Some(text) = document::text_of(&path)? else { continue };
        let mut settings: Settings = document::parse(&text, &path)?;
        let Some(over) = settings.overrides.remove(tool) else { continue };
        wishes.extend(over.packages.into_iter().map(|entry| named_package(&text, &path, entry)));
        for entry in over.addons {
            let wish = named_package(&text, &path, entry);
            let addon = addon::find(view.places, &wish.package).ok().flatten();
            let packages = addon.into_iter().flat_map(|addon| addon.packages);
            wishes.extend(packages.map(|package| NamedPackage { package: name_of(&package), ..wish.clone() }));
        }
    }
    Ok(wishes)
}

/// Lists the packages named by the recipe of `tool`. Of overlaid recipes, the topmost one that has the key counts.
fn of_recipe(places: &RecipeSources, tool: &str) -> Result<Vec<NamedPackage>, Error> {
    for (_, path, text) in catalog::documents(places, &format!("{tool}.toml"))?.into_iter().rev() {
        if let Some(wishes) = parse_names(&text, &path)? {
            return Ok(wishes);
        }
    }
    let Some(builtin) = catalog::built_in(tool) else { return Ok(Vec::new()) };
    Ok(parse_names(builtin.recipe, Path::new(&format!("recipes/{tool}.toml")))?.unwrap_or_default())
}

/// Lists the packages named by a recipe's text; `None` if the recipe does not have the key, so that the one below counts.
fn parse_names(text: &str, path: &Path) -> Result<Option<Vec<NamedPackage>>, Error> {
    let named: Named = document::parse(text, path)?;
    let Some(packages) = named.debian.and_then(|table| table.packages) else { return Ok(None) };
    Ok(Some(packages.into_iter().map(|entry| named_package(text, path, entry)).collect()))
}

/// Converts an entry of a document.
fn named_package(text: &str, path: &Path, entry: Spanned<String>) -> NamedPackage {
    NamedPackage {
        line: text.get(..entry.span().start).unwrap_or_default().matches('\n').count() + 1,
        file: path.to_owned(),
        package: name_of(entry.get_ref()),
        text: entry.into_inner(),
    }
}

/// Returns the name of a requested package, without its version.
fn name_of(package: &str) -> String {
    package_spec::name(package).to_owned()
}

/// Returns a package's name as in locks: with its architecture, if that is not the image's.
pub fn label(arch: Arch, stanza: &Stanza) -> String {
    stanza.label(arch.name())
}

/// Finds the reasons for `package` in an image with `stanzas`.
pub fn origin(arch: Arch, stanzas: &[Stanza], wishes: &[NamedPackage], package: &str) -> Origin {
    let graph = Graph::new(arch, stanzas);
    let wished: Vec<&str> = wishes.iter().map(|wish| wish.package.as_str()).collect();
    let essential: Vec<&str> =
        stanzas.iter().filter(|stanza| stanza.get("Essential") == Some("yes")).map(|stanza| stanza.package()).collect();
    let first = |chain: &[Step]| chain.first().map_or(package, |step| step.from.as_str()).to_owned();
    Origin {
        wished: graph.shortest(&wished, package).and_then(|chain| {
            let root = first(&chain);
            Some((wishes.iter().find(|wish| wish.package == root)?.clone(), chain))
        }),
        essential: graph.shortest(&essential, package).map(|chain| (first(&chain), chain)),
    }
}

/// Returns the packages that provide the virtual package `name`.
pub fn providers<'a>(stanzas: &'a [Stanza], name: &str) -> Vec<&'a str> {
    let provides = |stanza: &&Stanza| relations(stanza, "Provides").iter().flatten().any(|relation| relation.name == name);
    stanzas.iter().filter(provides).map(|stanza| stanza.package()).collect()
}

/// Returns for each stanza the sorted indexes of its dependencies.
pub fn dependencies(arch: Arch, stanzas: &[Stanza]) -> Vec<Vec<usize>> {
    let graph = Graph::new(arch, stanzas);
    let of = |number: usize| {
        let all: BTreeSet<usize> = graph.steps(number, &["Pre-Depends", "Depends"]).into_iter().map(|(to, _)| to).collect();
        all.into_iter().filter(|to| *to != number).collect()
    };
    (0..stanzas.len()).map(of).collect()
}

/// The dependency graph of the installed packages.
struct Graph<'a> {
    arch: Arch,
    stanzas: &'a [Stanza],
    /// Packages with this name, or that provide it, with the version.
    called: BTreeMap<&'a str, Vec<(usize, Option<&'a str>)>>,
}

impl<'a> Graph<'a> {
    fn new(arch: Arch, stanzas: &'a [Stanza]) -> Graph<'a> {
        let mut called: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (number, stanza) in stanzas.iter().enumerate() {
            called.entry(stanza.package()).or_default().push((number, stanza.get("Version")));
            for provided in relations(stanza, "Provides").into_iter().flatten() {
                let version = provided.bound.map(|(_, version)| version);
                called.entry(provided.name).or_default().push((number, version));
            }
        }
        Graph { arch, stanzas, called }
    }

    /// Finds the shortest chain from one of `roots` to `goal`; of equal chains, the one whose root comes first.
    fn shortest(&self, roots: &[&str], goal: &str) -> Option<Vec<Step>> {
        // Only some recipes install recommended packages, so they count only if there is no chain of dependencies.
        self.walk(roots, goal, &["Pre-Depends", "Depends"]).or_else(|| self.walk(roots, goal, &["Pre-Depends", "Depends", "Recommends"]))
    }

    fn walk(&self, roots: &[&str], goal: &str, fields: &[&'static str]) -> Option<Vec<Step>> {
        let numbered = |name: &str| self.stanzas.iter().position(|stanza| label(self.arch, stanza) == name);
        let goal = numbered(goal)?;
        let mut came: BTreeMap<usize, Option<(usize, Step)>> = BTreeMap::new();
        let mut queue = VecDeque::new();
        for root in roots.iter().filter_map(|root| numbered(root)) {
            came.entry(root).or_insert_with(|| {
                queue.push_back(root);
                None
            });
        }
        while let Some(next) = queue.pop_front() {
            if next == goal {
                break;
            }
            for (to, step) in self.steps(next, fields) {
                came.entry(to).or_insert_with(|| {
                    queue.push_back(to);
                    Some((next, step))
                });
            }
        }
        let mut chain = Vec::new();
        let mut at = came.remove(&goal)?;
        while let Some((from, step)) = at {
            chain.push(step);
            at = came.remove(&from)?;
        }
        chain.reverse();
        Some(chain)
    }

    /// Lists the dependencies of a package.
    fn steps(&self, from: usize, fields: &[&'static str]) -> Vec<(usize, Step)> {
        let stanza = &self.stanzas[from];
        let mut steps = Vec::new();
        for field in fields {
            for wanted in relations(stanza, field).into_iter().flatten() {
                let targets =
                    self.called.get(wanted.name).into_iter().flatten().filter(|(to, _)| serves(self.arch, &self.stanzas[*to], stanza));
                for (to, _) in targets.filter(|(_, version)| wanted.admits(*version)) {
                    let step = Step {
                        from: label(self.arch, stanza),
                        to: label(self.arch, &self.stanzas[*to]),
                        field,
                        relation: wanted.text.split_whitespace().collect::<Vec<_>>().join(" "),
                    };
                    steps.push((*to, step));
                }
            }
        }
        steps
    }
}

/// Returns true if a package may satisfy a dependency of another by its architecture.
fn serves(arch: Arch, target: &Stanza, of: &Stanza) -> bool {
    let own = arch.name();
    target.foreign(own) == of.foreign(own) || matches!(target.get("Multi-Arch"), Some("foreign" | "allowed"))
}

/// Parses a relation field into alternatives. An invalid field counts as empty, as in dpkg's own queries.
fn relations<'a>(stanza: &'a Stanza, field: &str) -> Vec<Vec<relation::Relation<'a>>> {
    relation::parse(stanza.get(field).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use silo_fetch::unpack::record::parse_stanzas;

    const STATUS: &str = "Package: a\nVersion: 1\nArchitecture: all\nDepends: virtual (>= 2) | missing, c (>= 9)\n\n\
        Package: b\nVersion: 1\nArchitecture: all\nProvides: virtual (= 2)\nPre-Depends: c\n\n\
        Package: c\nVersion: 1\nArchitecture: all\n\n\
        Package: e\nVersion: 1\nArchitecture: all\nEssential: yes\nDepends: c\n\n\
        Package: lonely\nVersion: 1\nArchitecture: all\n";

    fn describe(origin: &Origin) -> String {
        let chain = |steps: &[Step]| steps.iter().map(|step| format!(" {}>{}:{}", step.from, step.to, step.relation)).collect::<String>();
        let wished = origin.wished.as_ref().map(|(wish, steps)| format!("{}:{}{}", wish.file.display(), wish.line, chain(steps)));
        let essential = origin.essential.as_ref().map(|(name, steps)| format!("{name}{}", chain(steps)));
        format!("{} / {}", wished.unwrap_or_default(), essential.unwrap_or_default())
    }

    #[test]
    fn the_shortest_chain_is_found() {
        let stanzas = parse_stanzas(STATUS.as_bytes()).expect("stanzas");
        let text = "# a recipe\n[debian]\npackages = [\n  \"x=1\", # not here\n  \"a\",\n]\nlater = 1\n";
        let wishes = parse_names(text, Path::new("r.toml")).expect("a recipe").expect("packages");
        assert_eq!((wishes[0].package.as_str(), wishes[0].line, wishes[0].text.as_str()), ("x", 4, "x=1"));
        for (package, expect) in [
            ("a", "r.toml:5 / "),
            ("b", "r.toml:5 a>b:virtual (>= 2) / "),
            ("c", "r.toml:5 a>b:virtual (>= 2) b>c:c / e e>c:c"),
            ("e", " / e"),
            ("lonely", " / "),
            ("unknown", " / "),
        ] {
            assert_eq!(describe(&origin(Arch::Amd64, &stanzas, &wishes, package)), expect, "{package}");
        }
        assert_eq!(providers(&stanzas, "virtual"), ["b"]);
        assert_eq!(parse_names("description = \"x\"", Path::new("r.toml")).expect("a recipe"), None);
    }
}
