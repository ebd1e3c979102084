//! Removes the images of a repository that no kept tag needs.
//!
//! A kept tag needs its index, the manifests in it, and everything that is attached to these. The tags `drv-<derivation>` and
//! `inputs-<derivation>` of an image stay as long as another kept tag names the image, or as long as the caller needs the derivation.

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::Digest;

use silo_fetch::registry::repository::{Repository, STEP, fallback};
use silo_model::oci::artifact::{self, Document};
use silo_model::oci::contents::{self, ANNOTATION};
use silo_model::oci::inputs::{self, Inputs};
use silo_model::oci::manifest;

use crate::context::Context;
use crate::error::Error;

/// The start of the tag of an image's derivation.
const IMAGE: &str = "drv-";
/// The start of the tag of its inputs.
const INPUTS: &str = "inputs-";
/// The start of the tags with lists of attachments.
const ATTACHMENTS: &str = "sha256-";

/// The decision about a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tags that stay.
    pub kept: Vec<String>,
    /// The tags that go.
    pub gone: Vec<String>,
    /// The manifests and indexes that go, in the order of their removal.
    removed: Vec<Digest>,
    /// The blobs that stay.
    blobs: BTreeSet<Digest>,
}

/// The result of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Number of manifests and indexes.
    pub manifests: usize,
    /// Number of blobs; none in a registry, which collects them by itself.
    pub blobs: usize,
    /// Bytes of these.
    pub bytes: u64,
}

/// The caller's answers.
pub struct Keep<'a> {
    /// True for a tag that a person keeps.
    pub tag: &'a dyn Fn(&str) -> bool,
    /// True for a derivation of an image that this machine needs.
    pub derivation: &'a dyn Fn(&str) -> bool,
    /// True for inputs that this machine needs.
    pub inputs: &'a dyn Fn(&Inputs) -> bool,
}

/// Decides on each tag.
pub fn plan(context: &Context<'_>, from: &Repository<'_>, keep: &Keep<'_>) -> Result<Plan, Error> {
    let (is_kept, is_needed) = (keep.tag, keep.derivation);
    let tags = from.tags()?;
    let tops: BTreeMap<String, (Digest, Document)> = {
        let read = context.each(&tags, |tag| top(from, tag))?;
        tags.iter().cloned().zip(read).filter_map(|(tag, read)| Some((tag, read?))).collect()
    };
    // A tag of an image that this machine needs stays, too.
    let needed: BTreeSet<Digest> = {
        let of = |tag: &str| tag.strip_prefix(IMAGE).is_some_and(is_needed);
        tops.iter().filter(|(tag, _)| of(tag)).map(|(_, (digest, _))| *digest).collect()
    };
    let names_needed = |tag: &str| {
        let named = tops.get(tag).map(|(_, document)| document.manifests.as_slice()).unwrap_or_default();
        named.iter().any(|entry| needed.contains(&entry.pointer.digest))
    };
    let is_chosen = |tag: &str| match tag.strip_prefix(IMAGE).or_else(|| tag.strip_prefix(INPUTS)) {
        Some(drv) => is_needed(drv) || is_kept(tag),
        None => !tag.starts_with(ATTACHMENTS) && !tag.starts_with(STEP) && (is_kept(tag) || names_needed(tag)),
    };
    let mut graph = Graph { context, from, seen: BTreeMap::new(), locks: BTreeSet::new() };
    for (tag, (digest, document)) in &tops {
        if is_chosen(tag) {
            graph.visit(*digest, Some(document))?;
        }
    }
    // Entries of other platforms stay and go with their name, and a person removes those without a name.
    let further = from.further_entries()?;
    for (_, digest) in further.iter().filter(|(name, _)| name.as_ref().is_none_or(|name| is_chosen(name))) {
        graph.visit(*digest, None)?;
    }
    // Inputs stay for each image that stays and was built from the same lock: their own derivation is the image's without its project.
    for (tag, (digest, document)) in tops.iter().filter(|(tag, _)| tag.starts_with(INPUTS)) {
        let inputs = graph.inputs(document)?;
        // Inputs that another version wrote are not removed unread.
        if inputs.is_none_or(|inputs| (keep.inputs)(&inputs) || graph.locks.contains(&lock_of(&inputs.tool, &inputs.lock))) {
            context.check_stop()?;
            graph.visit(*digest, tops.get(tag).map(|_| document))?;
        }
    }
    let lists: BTreeSet<String> = graph.seen.keys().map(|digest| fallback(*digest)).collect();
    let is_kept = |tag: &str, digest: &Digest| graph.seen.contains_key(digest) || lists.contains(tag);
    let mut plan = Plan { blobs: graph.blobs(), ..Plan::default() };
    // A manifest goes after the tags of attachments, so that a removal that is cut off leaves no list of nothing.
    let mut removed = BTreeSet::new();
    for (tag, (digest, document)) in &tops {
        // The tags of an image's layers stay and go with the image, and there are many.
        let is_listed = !tag.starts_with(STEP);
        if is_kept(tag, digest) {
            plan.kept.extend(is_listed.then(|| tag.clone()));
            plan.blobs.insert(*digest);
            continue;
        }
        plan.gone.extend(is_listed.then(|| tag.clone()));
        removed.insert(*digest);
        removed.extend(further.iter().filter(|(name, _)| name.as_ref() == Some(tag)).map(|(_, digest)| *digest));
        removed.extend(document.manifests.iter().map(|entry| entry.pointer.digest));
    }
    // A registry with a list of attachments has no tags for them.
    let subjects: Vec<Digest> = removed.iter().copied().collect();
    let attached = context.each(&subjects, |digest| Ok(from.referrers(*digest)?))?;
    removed.extend(attached.iter().flatten().map(|entry| entry.pointer.digest));
    removed.retain(|digest| !graph.seen.contains_key(digest));
    plan.removed = removed.into_iter().collect();
    Ok(plan)
}

/// Removes the manifests of a plan.
pub fn prune(context: &Context<'_>, from: &Repository<'_>, plan: &Plan) -> Result<Pruned, Error> {
    for digest in &plan.removed {
        context.check_stop()?;
        from.remove(*digest)?;
    }
    let (blobs, bytes) = from.sweep(&plan.blobs)?;
    Ok(Pruned { manifests: plan.removed.len(), blobs, bytes })
}

fn top(from: &Repository<'_>, tag: &str) -> Result<Option<(Digest, Document)>, Error> {
    let Some(bytes) = from.tagged(tag)? else { return Ok(None) };
    let document = artifact::read(&bytes).map_err(|what| Error::Document { place: format!("{}:{tag}", from.location()), what })?;
    Ok(Some((Digest::of(&bytes), document)))
}

/// The documents that stay, with their blobs.
struct Graph<'a> {
    context: &'a Context<'a>,
    from: &'a Repository<'a>,
    seen: BTreeMap<Digest, BTreeSet<Digest>>,
    /// The tools and locks of the images that stay.
    locks: BTreeSet<Option<(String, String)>>,
}

/// Returns the tool and the lock of an image or of inputs; `None` without a lock.
fn lock_of(tool: &Option<(String, String)>, lock: &Option<String>) -> Option<(String, String)> {
    let name = tool.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
    lock.as_ref().map(|lock| (name, lock.clone()))
}

impl Graph<'_> {
    /// Visits a manifest or an index, and everything that it names or that is attached to it.
    fn visit(&mut self, digest: Digest, document: Option<&Document>) -> Result<(), Error> {
        let mut left = vec![(digest, document.cloned())];
        while let Some((digest, document)) = left.pop() {
            if self.seen.contains_key(&digest) {
                continue;
            }
            self.context.check_stop()?;
            let Some(document) = document.map_or_else(|| self.read(digest), |document| Ok(Some(document)))? else { continue };
            let named = document.config.iter().chain(&document.layers).map(|entry| entry.pointer.digest);
            let contents = document.annotations.get(ANNOTATION).and_then(|text| manifest::digest(text).ok());
            if let Some(bytes) = contents.map(|contents| self.from.blob(contents, contents::MAX_BYTES)).transpose()?.flatten()
                && let Ok(read) = contents::read(&bytes)
            {
                self.locks.extend(Some(lock_of(&read.tool, &read.lock)).filter(Option::is_some));
            }
            self.seen.insert(digest, named.chain(contents).collect());
            left.extend(document.manifests.iter().map(|entry| (entry.pointer.digest, None)));
            left.extend(self.from.referrers(digest)?.iter().map(|entry| (entry.pointer.digest, None)));
        }
        Ok(())
    }

    /// Reads the list of inputs that a manifest names; `None` if it cannot be read.
    fn inputs(&self, document: &Document) -> Result<Option<Inputs>, Error> {
        let Some(config) = &document.config else { return Ok(None) };
        let bytes = self.from.blob(config.pointer.digest, inputs::MAX_BYTES)?;
        Ok(bytes.and_then(|bytes| inputs::read(&bytes).ok()))
    }

    fn read(&self, digest: Digest) -> Result<Option<Document>, Error> {
        let place = || format!("{}@sha256:{digest}", self.from.location());
        let bytes = self.from.manifest(digest)?;
        bytes.map(|bytes| artifact::read(&bytes).map_err(|what| Error::Document { place: place(), what })).transpose()
    }

    fn blobs(&self) -> BTreeSet<Digest> {
        self.seen.iter().flat_map(|(digest, named)| named.iter().copied().chain([*digest])).collect()
    }
}
