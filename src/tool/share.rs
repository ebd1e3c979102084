//! Shares images: pushes those of this machine, and pulls those of others.

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::Digest;
use silo_store::flock as store_lock;

use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_fetch::registry::repository::Repository;
use silo_model::lock;
use silo_model::oci::inputs::Inputs;
use silo_model::oci::location::{self, Location};
use silo_model::oci::reference::{self, Reference};
use silo_ship::attach::{Attach, Over};
use silo_ship::find::{self, Found};
use silo_ship::prune::{self, Keep, Plan, Pruned};
use silo_ship::pull::{self, Pulled};
use silo_ship::push::{self, Options, Pushed, Subject};
use silo_ship::signatures::{self, Signature};
use silo_sign::external::Signer;
use silo_sign::key::Public;
use silo_sign::statement::Claim;

use super::definition;
use super::keys::{self, Named};
use super::lock_files;
use super::projects;
use super::record::{self, Installed};
use super::shipping::shipping;
use super::{Context, View};

/// Error of sharing an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the image in a repository is malformed.
    #[error("\"{name}\": {what}")]
    Name {
        /// The name.
        name: String,
        /// The fault.
        what: String,
    },
    /// The image to push does not exist.
    #[error("image {0} is gone")]
    Gone(ImageId),
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The record of a tool cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The record of a project cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The definition of the tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The lock of the tool cannot be read.
    #[error(transparent)]
    Lock(#[from] lock_files::Error),
    /// The store cannot be locked.
    #[error(transparent)]
    Store(#[from] silo_store::path_error::PathError),
    /// The transfer failed.
    #[error(transparent)]
    Ship(#[from] silo_ship::Error),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// Nobody whom the user trusts signed the image.
    #[error("{place} is not signed by a key that you trust")]
    Unsigned {
        /// The repository, with the tag or digest.
        place: String,
    },
}

/// An image in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The repository.
    pub location: Location,
    /// The tag.
    pub tag: String,
    /// The digest; it overrides the tag.
    pub digest: Option<Digest>,
}

/// Parses the name of an image in a repository; without a tag it is `latest`.
pub fn target(name: &str) -> Result<Target, Error> {
    let wrong = |what| Error::Name { name: name.to_owned(), what };
    let Reference { place, tag, digest } = reference::parse(name).map_err(wrong)?;
    Ok(Target { location: location::of_place(&place).map_err(wrong)?, tag: tag.unwrap_or_else(|| "latest".to_owned()), digest })
}

/// An image to push.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The image.
    pub id: ImageId,
    /// Its tool, whose lock is pushed too.
    pub tool: Option<&'a Installed>,
    /// Claims about the image, which are attached to it.
    pub claims: &'a [Claim],
}

/// Pushes an image, and signs it.
pub fn push(context: &Context<'_>, source: Source<'_>, to: &Target, options: &Options, signer: Option<&Signer>) -> Result<Pushed, Error> {
    let Source { id, tool, claims } = source;
    if signer.is_some() {
        signatures::check(claims)?;
    }
    let shared = store_lock::share(context.store)?;
    let image = image::get(context.home, id)?.ok_or(Error::Gone(id))?;
    let subject = Subject {
        id,
        image,
        tool: tool.map(|tool| (tool.name.clone(), tool.version.clone())),
        lock: tool.map(|tool| lock_of(context.view(), tool)).transpose()?.flatten(),
    };
    let shipping = shipping(context, &shared);
    let repository = shipping.repository(to.location.clone());
    let make = |to: &Repository<'_>, over: Over, digest: Digest| {
        let mut all = if over == Over::Manifest { signatures::bills(claims) } else { Vec::new() };
        if let Some(signer) = signer {
            all.extend(signatures::sign(to, (over, digest), signer, claims)?);
        }
        Ok(all)
    };
    let mut keys = publics(&keys::trusted(context.home)?);
    keys.extend(signer.map(Signer::public));
    let may_cover = |to: &Repository<'_>, other: Digest| {
        Ok(signer.is_none() || signatures::plain(to, other, &keys)?.iter().any(Signature::is_by_a_trusted_key))
    };
    Ok(push::push(&shipping, &repository, &subject, options, Attach { make: &make, may_cover: &may_cover })?)
}

/// Returns the text of a tool's lock, if the tool has one.
pub fn lock_of(view: View<'_>, tool: &Installed) -> Result<Option<String>, Error> {
    let scope = definition::scope(view, &tool.name)?;
    let definition = definition::of(view, &tool.name, scope)?;
    let found = lock_files::existing(view, &definition)?;
    Ok(found.map(|found| lock::write(&BTreeMap::from([(tool.name.clone(), found)]))))
}

/// Finds an image in a repository; reads its contents without its layers, and its signatures.
pub fn inspect(context: &Context<'_>, from: &Target, arch: Arch) -> Result<(Found, Vec<Signature>), Error> {
    let shared = store_lock::share(context.store)?;
    let shipping = shipping(context, &shared);
    let repository = shipping.repository(from.location.clone());
    let found = find::find(&repository, &from.tag, from.digest, arch)?;
    let keys = publics(&keys::trusted(context.home)?);
    let mut all = Vec::new();
    for over in std::iter::once(found.manifest).chain(found.index) {
        all.extend(signatures::all(&repository, over, &keys)?);
    }
    Ok((found, all))
}

fn publics(keys: &[Named]) -> Vec<Public> {
    keys.iter().map(|key| key.public.clone()).collect()
}

/// Gives an image of a repository another tag; no blob moves.
pub fn tag(context: &Context<'_>, from: &Target, tag: &str) -> Result<Digest, Error> {
    let shared = store_lock::share(context.store)?;
    let repository = shipping(context, &shared).repository(from.location.clone());
    let bytes = match from.digest {
        Some(digest) => repository.manifest(digest),
        None => repository.tagged(&from.tag),
    };
    let place = from.location.to_string();
    let absent = || silo_ship::Error::Absent { place: place.clone(), name: from.tag.clone() };
    let bytes = bytes.map_err(silo_ship::Error::from)?.ok_or_else(absent)?;
    let media_type = silo_model::oci::artifact::media_type(&bytes);
    let media_type = media_type.map_err(|what| silo_ship::Error::Document { place: place.clone(), what })?;
    repository.put_tag(tag, media_type, &bytes).map_err(silo_ship::Error::from)?;
    Ok(Digest::of(&bytes))
}

/// The user's decision about signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedOfSignature {
    /// A trusted key must have signed the image.
    Required,
    /// The user vouches for the origin.
    Unneeded,
}

impl NeedOfSignature {
    /// Converts the flag `--unsigned`.
    pub fn of_flag(unsigned: bool) -> NeedOfSignature {
        if unsigned { NeedOfSignature::Unneeded } else { NeedOfSignature::Required }
    }
}

/// Pulls an image; returns the keys that signed it, too.
///
/// The image counts as the result of its derivations, so a trusted key must have signed it, unless the user does without.
pub fn pull(context: &Context<'_>, from: &Target, arch: Arch, signature: NeedOfSignature) -> Result<(Found, Pulled, Vec<String>), Error> {
    let shared = store_lock::share(context.store)?;
    let shipping = shipping(context, &shared);
    let repository = shipping.repository(from.location.clone());
    let found = find::find(&repository, &from.tag, from.digest, arch)?;
    let keys = keys::trusted(context.home)?;
    let signers = match signature {
        NeedOfSignature::Unneeded => Vec::new(),
        NeedOfSignature::Required => signatures::signers(&repository, &found, &publics(&keys))?,
    };
    if signers.is_empty() && signature == NeedOfSignature::Required {
        return Err(Error::Unsigned { place: found.place });
    }
    let pulled = pull::pull(&shipping, &repository, &found)?;
    pull::count(&shipping, &found, pulled.image)?;
    let signers = signers.iter().map(|key| keys::title(&keys, key)).collect();
    Ok((found, pulled, signers))
}

/// The tags that a removal keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptTags {
    /// Tags, or starts of tags with a `*` at the end.
    pub patterns: Vec<String>,
    /// True to keep the images of the tools of this machine.
    pub installed: bool,
}

/// Decides which tags of a repository stay. Removes nothing.
pub fn plan_prune(context: &Context<'_>, from: &Location, keep: &KeptTags) -> Result<Plan, Error> {
    let (mut needed, mut tools) = (BTreeSet::new(), BTreeSet::new());
    if keep.installed {
        tools.extend(tools_of_this_machine(context)?);
        for id in image::list(context.home)? {
            needed.extend(image::derivations(context.home, id)?.iter().map(ToString::to_string));
        }
    }
    let shared = store_lock::share(context.store)?;
    let shipping = shipping(context, &shared);
    let is_kept = |tag: &str| keep.patterns.iter().any(|pattern| fits(pattern, tag));
    // The derivation of inputs has no project, so it may be that of no image here. All inputs of a tool of this machine stay.
    let needs_inputs = |inputs: &Inputs| inputs.tool.as_ref().is_some_and(|(tool, _)| tools.contains(tool));
    let keep = Keep { tag: &is_kept, derivation: &|drv| needed.contains(drv), inputs: &needs_inputs };
    Ok(prune::plan(&shipping, &shipping.repository(from.clone()), &keep)?)
}

/// Returns the tools that are installed, or used by a project.
fn tools_of_this_machine(context: &Context<'_>) -> Result<BTreeSet<String>, Error> {
    let installed = record::list(context.home)?.into_iter().map(|tool| tool.name);
    let used = projects::list(context.home)?.into_iter().flat_map(|project| project.tools.into_keys());
    Ok(installed.chain(used).collect())
}

/// Removes the images of a repository that a plan does not keep.
pub fn prune(context: &Context<'_>, from: &Location, plan: &Plan) -> Result<Pruned, Error> {
    let shared = store_lock::share(context.store)?;
    let shipping = shipping(context, &shared);
    Ok(prune::prune(&shipping, &shipping.repository(from.clone()), plan)?)
}

/// Returns true if a tag is the pattern, or begins with it up to its `*`.
fn fits(pattern: &str, tag: &str) -> bool {
    pattern.strip_suffix('*').map_or(tag == pattern, |start| tag.starts_with(start))
}
