//! Removes the images of a repository that no kept tag needs.
//!
//! A kept tag needs its index, the manifests in it, and everything that is attached to these. The tags `drv-<derivation>` and
//! `inputs-<derivation>` of an image stay as long as another kept tag names the image, or as long as the caller needs the derivation.

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::Digest;

use silo_fetch::registry::repository::{Repository, STEP, fallback};
use silo_model::oci::artifact::{self, Document};
use silo_model::oci::contents::ANNOTATION;
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

/// Decides on each tag; `is_kept` is asked for tags that people chose, and `is_needed` for derivations.
pub fn plan(
    context: &Context<'_>,
    from: &Repository<'_>,
    is_kept: &dyn Fn(&str) -> bool,
    is_needed: &dyn Fn(&str) -> bool,
) -> Result<Plan, Error> {
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
    let mut graph = Graph { context, from, seen: BTreeMap::new() };
    for (tag, (digest, document)) in &tops {
        if is_chosen(tag) {
            graph.visit(*digest, document)?;
        }
    }
    // The derivation of an image that stays for another tag, and its inputs.
    let stays = |tag: &str| tops.get(tag).is_some_and(|(digest, _)| graph.seen.contains_key(digest));
    let derivations: Vec<&str> = tops.keys().filter_map(|tag| tag.strip_prefix(IMAGE).filter(|_| stays(tag))).collect();
    let with_inputs: Vec<String> = derivations.iter().map(|drv| format!("{INPUTS}{drv}")).collect();
    for tag in &with_inputs {
        if let Some((digest, document)) = tops.get(tag) {
            graph.visit(*digest, document)?;
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
}

impl Graph<'_> {
    /// Visits a manifest or an index, and everything that it names or that is attached to it.
    fn visit(&mut self, digest: Digest, document: &Document) -> Result<(), Error> {
        let mut left = vec![(digest, Some(document.clone()))];
        while let Some((digest, document)) = left.pop() {
            if self.seen.contains_key(&digest) {
                continue;
            }
            self.context.check_stop()?;
            let Some(document) = document.map_or_else(|| self.read(digest), |document| Ok(Some(document)))? else { continue };
            let named = document.config.iter().chain(&document.layers).map(|entry| entry.pointer.digest);
            let contents = document.annotations.get(ANNOTATION).and_then(|text| manifest::digest(text).ok());
            self.seen.insert(digest, named.chain(contents).collect());
            left.extend(document.manifests.iter().map(|entry| (entry.pointer.digest, None)));
            left.extend(self.from.referrers(digest)?.iter().map(|entry| (entry.pointer.digest, None)));
        }
        Ok(())
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
