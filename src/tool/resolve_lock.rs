//! Makes a lock: fetches and verifies signed indexes, and solves the dependencies for every architecture.
//!
//! The chain of trust: a key of the keyring in this binary signs the InRelease file, that file has the digests of the package indexes, and
//! an index has the digests of its packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use silo_store::digest::Digest;

use silo_base::event::{self, Activity, Event};
use silo_base::system::Arch;
use silo_fetch::download::{self, Context as Fetching};
use silo_fetch::error::Size;
use silo_fetch::fetch_small;
use silo_fetch::mirrors::Mirrors;
use silo_fetch::registry;
use silo_fetch::unpack::compressed;
use silo_model::lock::base::{Base, BaseLayer};
use silo_model::lock::{Archive, Lock, Package, PackageRequest, Sha256, UsedIndex};
use silo_model::oci::reference;
use silo_model::recipe::{Debian, Recipe, package_spec, source};
use silo_resolve::keyring::Keyring;
use silo_resolve::opt_in_suites::{self, SuiteIndex};
use silo_resolve::packages::{self, Index};
use silo_resolve::relation::{Operator, Qualifier, Relation};
use silo_resolve::release::{self, Release};
use silo_resolve::signature;
use silo_resolve::solve;

use super::Context;
use super::archives::{self, Source, SuitePackages};
use super::lock_error::Error;

/// The keys of Debian's archive (from its package debian-archive-keyring; the file gives the version).
const DEBIAN_KEYS: &[u8] = include_bytes!("../../recipes/keyrings/debian.asc");

/// Limit on the size of a decompressed package index; Debian's main area has about 60 MB.
const MAX_INDEX_BYTES: u64 = 512 << 20;

/// A suite with a verified index.
struct Verified {
    source: Source,
    release: Release,
    used: UsedIndex,
}

/// Makes the lock of a recipe from the current indexes of the mirrors.
pub fn relock(context: &Context<'_>, recipe: &Recipe) -> Result<Lock, Error> {
    let id = event::next_id();
    (context.sink)(Event::Started { id, kind: Activity::Resolve, name: recipe.name.clone(), total: None });
    let locked = locked(context, recipe);
    (context.sink)(Event::Finished { id });
    locked
}

fn locked(context: &Context<'_>, recipe: &Recipe) -> Result<Lock, Error> {
    if let Some(image) = &recipe.image {
        return of_image(context, recipe, image);
    }
    let mirrors = context.mirrors();
    let mut suites = Vec::new();
    for source in archives::of(&recipe.debian) {
        let own = source.key.as_ref().map(|key| Keyring::parse(key.as_bytes())).transpose();
        let own = own.map_err(|source_error| Error::Key { suite: source.suite.clone(), source: source_error })?;
        let keyring = own.map_or_else(|| Keyring::parse(DEBIAN_KEYS), Ok)?;
        suites.push(verified(context, &mirrors, &keyring, source)?);
    }
    let local = archives::index_of(&recipe.debian.debs)?;
    let named = |source| Error::Packages { suite: "debian.debs".to_owned(), arch: Arch::host().name(), source };
    let parsed = packages::parse(local.as_bytes()).map_err(named)?;
    let roots = Arch::ALL.map(|arch| {
        let foreign = archives::foreign(&recipe.debian, &parsed, arch);
        (arch, [vec![arch.name()], foreign].concat())
    });
    let architectures: BTreeSet<&'static str> = roots.iter().flat_map(|(_, architectures)| architectures).copied().collect();
    let files = fetch_indexes(context, &mirrors, &suites, &architectures)?;
    let mut chosen = BTreeMap::new();
    for (arch, architectures) in &roots {
        let indexes = Indexes { suites: &suites, files: &files, local: &parsed };
        let solved = solved(&recipe.debian, &indexes, architectures, *arch).map_err(|error| elsewhere(error, &files));
        chosen.insert(*arch, solved?);
    }
    let is_there = |owner: &str| chosen.values().any(|packages| packages.contains_key(owner));
    if let Some(answer) = recipe.debian.answers.iter().find(|answer| !is_there(source::owner(answer))) {
        return Err(Error::Answer { owner: source::owner(answer).to_owned() });
    }
    Ok(Lock {
        asked: PackageRequest::by(recipe),
        epoch: suites.iter().map(|suite| suite.used.date).max().unwrap_or(0),
        indexes: suites.into_iter().map(|suite| suite.used).collect(),
        packages: chosen,
        images: BTreeMap::new(),
        steps: BTreeMap::new(),
        layers: BTreeMap::new(),
        secrets: BTreeMap::new(),
    })
}

/// Pins the current digest of an image's name.
fn of_image(context: &Context<'_>, recipe: &Recipe, image: &str) -> Result<Lock, Error> {
    let reference = reference::parse(image).map_err(|what| Error::Image { image: image.to_owned(), what })?;
    let asking = registry::Context { transport: context.transport, user_home: &context.outside.user_home, cancel: context.stop };
    let found = registry::find(asking, &reference)?;
    let epoch = found.values().map(|image| image.configuration.created).max().unwrap_or(0);
    let base = |image: registry::PlatformImage| {
        let diffs = image.configuration.diff_ids.iter();
        let layers = image.layers.iter().zip(diffs);
        Base {
            manifest: Sha256(image.manifest),
            layers: layers.map(|(layer, diff)| BaseLayer { sha256: Sha256(layer.digest), size: layer.size, diff: Sha256(*diff) }).collect(),
            env: image.configuration.env,
            arguments: (!image.configuration.entrypoint.is_empty()).then(|| image.configuration.cmd.clone()),
            command: match image.configuration.entrypoint.is_empty() {
                true => image.configuration.cmd,
                false => image.configuration.entrypoint,
            },
        }
    };
    let images = found.into_iter().map(|(arch, image)| (arch, base(image))).collect();
    let asked = PackageRequest::by(recipe);
    Ok(Lock {
        asked,
        epoch,
        indexes: Vec::new(),
        packages: BTreeMap::new(),
        images,
        steps: BTreeMap::new(),
        layers: BTreeMap::new(),
        secrets: BTreeMap::new(),
    })
}

/// Fetches and verifies the signed index of a suite.
fn verified(context: &Context<'_>, mirrors: &Mirrors, keyring: &Keyring, source: Source) -> Result<Verified, Error> {
    let suite = source.suite.clone();
    let request = fetch_small::Request {
        name: format!("InRelease of {suite}"),
        max_bytes: signature::MAX_INRELEASE_BYTES as u64,
        sha256: None,
        candidates: mirrors.candidates(&source.archive, &format!("dists/{suite}/InRelease"), None),
    };
    let text = fetch_small::fetch_text(context.transport, &request, context.sink, context.stop).map_err(|error| match error.is_gone() {
        true => Error::NoSuite { suite: suite.clone(), source: error },
        false => Error::Fetch(error),
    })?;
    let text = text.bytes;
    let signed = signature::verify(&text, keyring, context.now).map_err(|source| Error::Signature { suite: suite.clone(), source })?;
    let release = release::parse(&signed.text).map_err(|source| Error::Release { suite: suite.clone(), source })?;
    // A validly signed index of another suite, or of an older release, would pass every other check.
    if release.codename != suite && release.suite != suite {
        return Err(Error::OtherSuite { suite, got: release.codename });
    }
    if let Some(until) = expired(release.valid_until_secs, context.now).filter(|_| !takes_stale(context)) {
        return Err(Error::Expired { suite, until });
    }
    let archive = if let Archive::Source(uri) = &source.archive { Some(uri.clone()) } else { None };
    let used = UsedIndex { suite, date: release.date_secs, inrelease: Sha256(Digest::of(&text)), key: signed.fingerprint, archive };
    Ok(Verified { source, release, used })
}

/// Returns the end of validity of an expired index.
fn expired(until: Option<i64>, now: i64) -> Option<i64> {
    until.filter(|until| *until < now)
}

/// Returns true if expired and older indexes are allowed, as needed for frozen mirrors and snapshots.
fn takes_stale(context: &Context<'_>) -> bool {
    context.user_settings.mirrors.allow_stale == Some(true)
}

/// Fails if an index is older than the one of the last lock.
pub fn check_age(context: &Context<'_>, lock: &Lock, before: &Lock) -> Result<(), Error> {
    let older = |index: &UsedIndex| {
        let known = before
            .indexes
            .iter()
            .find(|known| (&known.suite, &known.archive) == (&index.suite, &index.archive) && known.date > index.date)?;
        Some(Error::Older { suite: index.suite.clone(), got: index.date, before: known.date })
    };
    match lock.indexes.iter().find_map(older) {
        Some(error) if !takes_stale(context) => Err(error),
        _ => Ok(()),
    }
}

/// The package indexes by suite, component and architecture.
type Files = BTreeMap<(usize, String, &'static str), PathBuf>;

/// Fetches the package indexes of all suites, components and architectures.
fn fetch_indexes(
    context: &Context<'_>,
    mirrors: &Mirrors,
    suites: &[Verified],
    architectures: &BTreeSet<&'static str>,
) -> Result<Files, Error> {
    let mut keys = Vec::new();
    let mut requests = Vec::new();
    for (at, suite) in suites.iter().enumerate() {
        for arch in architectures.iter().copied() {
            for component in &suite.source.components {
                let name = &suite.source.suite;
                let Some((path, file)) = listed(suite, component, arch) else {
                    // Third-party archives often have packages for a single architecture.
                    if matches!(suite.source.archive, Archive::Source(_)) && suite.release.components.contains(component) {
                        continue;
                    }
                    return Err(not_listed(suite, component, arch));
                };
                let digest = Digest::from_bytes(file.sha256);
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                let path = if suite.release.acquire_by_hash { format!("{dir}/by-hash/SHA256/{digest}") } else { path.clone() };
                requests.push(download::Request {
                    name: format!("packages of {name} for {arch}"),
                    size: Size::Exactly(file.size),
                    sha256: file.sha256,
                    candidates: mirrors.candidates(&suite.source.archive, &format!("dists/{name}/{path}"), None),
                });
                keys.push((at, component.clone(), arch));
            }
        }
    }
    // Empty indexes of several architectures are the same file.
    let mut once: Vec<download::Request> = Vec::new();
    for request in &requests {
        if !once.iter().any(|other| other.sha256 == request.sha256) {
            once.push(request.clone());
        }
    }
    let dir = context.home.downloads();
    let fetching = Fetching { transport: context.transport, dir: &dir, jobs: download::MAX_JOBS, sink: context.sink, cancel: context.stop };
    // Verify the digests again: old downloads may be damaged, and from here on they are trusted.
    let paths = download::fetch_checked(&fetching, &once)?;
    let by_digest: BTreeMap<[u8; 32], PathBuf> = once.iter().map(|request| request.sha256).zip(paths).collect();
    Ok(keys.into_iter().zip(&requests).map(|(key, request)| (key, by_digest[&request.sha256].clone())).collect())
}

/// Finds a package index in a suite's list, in the smallest compressed form.
fn listed<'a>(suite: &'a Verified, component: &str, arch: &str) -> Option<(String, &'a release::File)> {
    let names = [".xz", ".gz", ""].map(|end| format!("{component}/binary-{arch}/Packages{end}"));
    names.into_iter().find_map(|name| suite.release.files.get(&name).map(|file| (name, file)))
}

fn not_listed(suite: &Verified, component: &str, arch: &str) -> Error {
    Error::NotListed {
        suite: suite.source.suite.clone(),
        path: format!("{component}/binary-{arch}/Packages"),
        components: suite.release.components.join(", "),
    }
}

/// Adds to the error of a missing package the other architecture that has it.
fn elsewhere(error: Error, files: &Files) -> Error {
    let Error::Solve { arch, source: source @ solve::Error::Unknown { .. }, .. } = error else { return error };
    let solve::Error::Unknown { name, architecture } = &source else { return Error::Solve { arch, source, only_on: None } };
    let has = |path: &PathBuf| {
        decompressed(path)
            .is_ok_and(|text| packages::parse(&text).is_ok_and(|index| index.packages.iter().any(|package| package.name == name)))
    };
    let is_own = architecture == arch.name();
    let other = archives::other_than(arch);
    let is_there = is_own && files.iter().any(|((.., of), path)| *of == other.name() && has(path));
    let only_on = is_there.then(|| (name.clone(), other));
    Error::Solve { arch, source, only_on }
}

/// All package indexes of a lock.
struct Indexes<'a> {
    suites: &'a [Verified],
    files: &'a Files,
    /// The index of the local .debs.
    local: &'a Index<'a>,
}

/// Solves for a root of `arch`; `architectures` has it first, then the foreign ones.
fn solved(debian: &Debian, indexes: &Indexes<'_>, architectures: &[&'static str], arch: Arch) -> Result<BTreeMap<String, Package>, Error> {
    let Indexes { suites, files, local } = *indexes;
    let mut texts = Vec::new();
    // As in apt: by suite and component, the root's own architecture first.
    let mut wanted: Vec<_> =
        files.iter().filter_map(|(key, path)| Some((key, architectures.iter().position(|of| *of == key.2)?, path))).collect();
    wanted.sort_by_key(|((at, component, _), order, _)| (*at, component.as_str(), *order));
    for ((at, _, of), _, path) in wanted {
        texts.push((*at, *of, decompressed(path)?));
    }
    // Local files come first: of equal versions, the one of the earlier index is chosen.
    let mut offers = vec![SuiteIndex { suite: "", is_withheld: false, index: local.clone() }];
    for (at, of, text) in &texts {
        let Verified { source, release, .. } = &suites[*at];
        let parsed = packages::parse(text).map_err(|error| Error::Packages { suite: source.suite.clone(), arch: of, source: error });
        let is_withheld = match source.counts {
            SuitePackages::All => false,
            SuitePackages::Named => true,
            SuitePackages::AsTheSuiteSays => release.not_automatic,
        };
        offers.push(SuiteIndex { suite: &source.suite, is_withheld, index: parsed? });
    }
    let failed = |source| Error::Solve { arch, source, only_on: None };
    let all = || debian.packages.iter().chain(&debian.added).chain(&debian.build);
    let named = all().filter_map(|package| package_spec::parse(package)).filter(|wanted| wanted.suite.is_some() && wanted.is_for(arch));
    let named: BTreeSet<(&str, &str)> = named.map(|wanted| (wanted.name, wanted.of.unwrap_or_else(|| arch.name()))).collect();
    opt_in_suites::withhold(&mut offers, architectures, &named).map_err(|error| failed(error.into()))?;
    let asked = |names| asked(names, &offers, arch).map_err(failed);
    let is_own = |package: &packages::Package<'_>| [arch.name(), "all"].contains(&package.architecture);
    let own = local.packages.iter().filter(|package| is_own(package) || architectures.contains(&package.architecture));
    let own = own.map(|package| Relation {
        name: package.name,
        qualifier: if is_own(package) { Qualifier::Own } else { Qualifier::Named(package.architecture) },
        bound: Some((Operator::Equal, package.version)),
        text: package.name,
    });
    let (own, mut packages, added, build): (Vec<_>, _, _, _) =
        (own.collect(), asked(&debian.packages)?, asked(&debian.added)?, asked(&debian.build)?);
    packages.extend(own);
    let indexes: Vec<Index<'_>> = offers.into_iter().map(|offer| offer.index).collect();
    let architectures = architectures.to_vec();
    let request = solve::Request { architectures, packages, added, build, recommends: debian.recommends, include_essential: true };
    let solution = solve::solve(&indexes, &request).map_err(failed)?;
    let mut chosen = BTreeMap::new();
    for (package, tier) in solution.packages {
        let at = indexes.iter().position(|index| index.packages.as_ptr_range().contains(&std::ptr::from_ref(package)));
        let archive = match at {
            None => Archive::Main,
            Some(0) => Archive::Local,
            Some(at) => suites[texts[at - 1].0].source.archive.clone(),
        };
        let entry = Package {
            version: package.version.to_owned(),
            tier,
            archive,
            path: package.filename.to_owned(),
            size: package.size,
            sha256: Sha256(Digest::from_bytes(package.sha256)),
        };
        let name = if is_own(package) { package.name.to_owned() } else { format!("{}:{}", package.name, package.architecture) };
        chosen.insert(name, entry);
    }
    Ok(chosen)
}

/// Lists the requested packages of an architecture; a package requested from a suite is bound to the version in that suite.
fn asked<'a>(names: &'a [String], offers: &[SuiteIndex<'a>], arch: Arch) -> Result<Vec<Relation<'a>>, solve::Error> {
    // An invalid text is reported below.
    let here = names.iter().filter(|name| package_spec::parse(name).is_none_or(|wanted| wanted.is_for(arch)));
    here.map(|name| package_spec::for_arch(name).0)
        .map(|name| {
            let relation = solve::wanted(name)?;
            let Some(suite) = package_spec::parse(name).and_then(|wanted| wanted.suite) else { return Ok(relation) };
            let version = opt_in_suites::version_in(offers, arch.name(), &relation, suite).ok_or_else(|| solve::Error::NotInSuite {
                wanted: name.to_owned(),
                suite: suite.to_owned(),
                architecture: arch.name().to_owned(),
            })?;
            Ok(Relation { bound: Some((Operator::Equal, version)), ..relation })
        })
        .collect()
}

fn decompressed(path: &PathBuf) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.clone(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    compressed::decompressed(file, size).and_then(|from| from.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        let what = format!("the index unpacks to more than {MAX_INDEX_BYTES} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, what)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::expired;

    #[test]
    fn an_index_counts_until_its_last_moment() {
        for (until, now, expect) in
            [(None, 5, None), (Some(5), 4, None), (Some(5), 5, None), (Some(5), 6, Some(5)), (Some(-1), 0, Some(-1))]
        {
            assert_eq!(expired(until, now), expect, "{until:?} at {now}");
        }
    }
}
