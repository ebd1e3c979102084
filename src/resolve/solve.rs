//! From wanted packages to the exact set that apt would install on an empty system.
//!
//! Two parts work together. The *walk* follows apt's own policy and proposes a set. The *solver* judges: it proves that the
//! proposed set fits together, and where it does not, it searches all combinations for one that does, keeping as
//! much of the proposal as it can. If there is none, it says why.

use crate::resolve::packages::{self, Index, Package};
use crate::resolve::provider::{self, Failure};
use crate::resolve::relation::{self, Operator, Qualifier, Relation};
use crate::resolve::universe::{Id, Universe};
use crate::resolve::version;
use crate::resolve::walk::{self, Recommends};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The Debian name of the architecture, as `amd64`.
    pub architecture: &'a str,
    /// The packages, see [`wanted`]. Their order matters as it does for apt: earlier choices bind later ones.
    pub packages: Vec<Relation<'a>>,
    /// Whether recommended packages are installed where they can be.
    pub recommends: bool,
    /// Whether all `Essential: yes` packages are wanted, before the others, as every Debian root has them.
    pub include_essential: bool,
}

/// The packages to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution<'a> {
    /// All packages, sorted by name; one version each.
    pub packages: Vec<&'a Package<'a>>,
}

/// Why a request has no solution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// An index is broken.
    #[error(transparent)]
    Index(#[from] packages::Error),
    /// A wanted package is not written as one.
    #[error("bad package `{text}`: expected `name`, `name=version` or `name (>= version)`")]
    Wanted { text: String },
    /// No index knows the name.
    #[error("package {name} does not exist for {architecture}")]
    Unknown { name: String, architecture: String },
    /// No index has a version that is wanted.
    #[error("package {wanted} does not exist for {architecture}: the indexes have {available}")]
    NoSuchVersion { wanted: String, architecture: String, available: String },
    /// Several packages provide the name and none bears it.
    #[error("package {name} is virtual: choose one of {providers}")]
    Virtual { name: String, providers: String },
    /// The packages do not fit together.
    #[error("packages do not fit together:\n{text}")]
    Unsolvable { text: String },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Index(error) => Error::Index(error),
            Failure::Unsolvable(text) => Error::Unsolvable { text: text.trim_end().to_owned() },
        }
    }
}

/// Parses a wanted package: `name`, `name=version` or `name (>= version)`.
pub fn wanted(text: &str) -> Result<Relation<'_>, Error> {
    let bad = || Error::Wanted { text: text.to_owned() };
    let Some((name, exact)) = text.split_once('=').filter(|(name, _)| relation::is_name(name)) else {
        return relation::parse_one(text.trim()).ok().filter(|wanted| wanted.qualifier == Qualifier::Own).ok_or_else(bad);
    };
    if !version::is_valid(exact) {
        return Err(bad());
    }
    Ok(Relation { name, qualifier: Qualifier::Own, bound: Some((Operator::Equal, exact)), text })
}

/// Finds the packages that apt would install for a request, from indexes in the order of the sources (base, updates,
/// security).
pub fn solve<'a>(indexes: &'a [Index<'a>], request: &'a Request<'a>) -> Result<Solution<'a>, Error> {
    let universe = Universe::new(indexes, request.architecture, &request.packages)?;
    let recommends = if request.recommends { Recommends::Install } else { Recommends::Ignore };
    let wanted = all_wanted(&universe, request)?;
    let proposed = walk::walk(&universe, &wanted, recommends)?;
    let sound = wanted.iter().all(|id| proposed.binary_search(id).is_ok()) && walk::broken(&universe, &proposed)?.is_empty();
    let goal = if sound { &proposed } else { &wanted };
    let chosen = provider::solve(&universe, goal, &proposed, recommends)?;
    let mut packages: Vec<&Package<'_>> = chosen.into_iter().map(|id| universe.package(id)).collect();
    packages.sort_by_key(|package| package.name);
    Ok(Solution { packages })
}

/// Lists the numbers of what is wanted, each once: the essential packages by name, then the request's in its order.
fn all_wanted(universe: &Universe<'_>, request: &Request<'_>) -> Result<Vec<Id>, Error> {
    let mut all: Vec<Id> = Vec::new();
    if request.include_essential {
        all.extend(universe.ids().filter(|id| universe.package(*id).essential));
        all.sort_by_key(|id| universe.package(*id).name);
    }
    for relation in &request.packages {
        let id = one_wanted(universe, request, relation)?;
        if !all.contains(&id) {
            all.push(id);
        }
    }
    Ok(all)
}

/// Finds the candidate for one wanted package; a virtual name will do if only one package provides it.
fn one_wanted(universe: &Universe<'_>, request: &Request<'_>, relation: &Relation<'_>) -> Result<Id, Error> {
    let architecture = request.architecture.to_owned();
    match universe.by_name(relation.name) {
        Some((id, true)) => return Ok(id),
        Some((id, false)) => {
            let available = universe.package(id).version.to_owned();
            return Err(Error::NoSuchVersion { wanted: relation.text.to_owned(), architecture, available });
        }
        None => {}
    }
    let providers = universe.targets(relation, None);
    match providers[..] {
        [only] => Ok(only),
        [] => Err(Error::Unknown { name: relation.name.to_owned(), architecture }),
        _ => {
            let names: Vec<&str> = providers.iter().map(|id| universe.package(*id).name).collect();
            Err(Error::Virtual { name: relation.name.to_owned(), providers: names.join(", ") })
        }
    }
}
