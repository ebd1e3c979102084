//! Compares the layers of two runs of a step, and finds the cause of each difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use silo_store::difference::{Change, Difference, differences};
use silo_store::digest::LayerId;
use silo_store::entry::{Kind, Node};
use silo_store::path::LayerPath;

use super::cause::{Cause, RunFacts, Values};
use super::check::Finding;
use super::context::{BuildContext, read_index};
use super::error::Error;
use super::select_packages::Unpacked;

/// Limit on the size of a file that is searched for a cause.
const MAX_LOOK_BYTES: u64 = 16 << 20;

/// A layer and the facts of the run that made it.
pub(super) struct Made {
    pub layer: LayerId,
    pub facts: RunFacts,
    /// True if owners were real in the run, or if the layer was made before.
    pub has_owners: bool,
    /// The worker that ran the step, if it did not run here.
    pub worker: Option<String>,
}

/// Compares the layers of two runs of a step.
pub(super) fn compare(
    ctx: &BuildContext<'_>,
    step: &str,
    (first, second): (&Made, &Made),
    present: &[Arc<Unpacked>],
) -> Result<Vec<Finding>, Error> {
    let values = Values { first: &first.facts, second: &second.facts };
    let (first, second) = (first.layer, second.layer);
    if first == second {
        return Ok(Vec::new());
    }
    let (old, new) = (read_index(ctx, first)?, read_index(ctx, second)?);
    let trees = (ctx.store.tree(&first), ctx.store.tree(&second));
    let mut found = Vec::new();
    for mut difference in differences(&old, &new) {
        if !without_umask(&values, &mut difference) {
            continue;
        }
        let is_file = |index: &silo_store::index::Index| index.get(&difference.path).is_some_and(|entry| entry.node.kind() == Kind::File);
        let link = |index: &silo_store::index::Index| match index.get(&difference.path).map(|entry| entry.node.clone()) {
            Some(Node::Symlink { target }) => Some(target),
            _ => None,
        };
        let contents = match (link(&old), link(&new)) {
            (Some(old), Some(new)) => Some((old, new)),
            _ if is_file(&old) && is_file(&new) => read_file(&trees.0, &difference.path).zip(read_file(&trees.1, &difference.path)),
            _ => None,
        };
        let cause = cause(&values, &difference, contents.as_ref().map(|(old, new)| (old.as_slice(), new.as_slice())));
        let package = package_of(ctx, present, &difference.path);
        found.push(Finding { step: step.to_owned(), difference, package, cause, is_note: false });
    }
    name_changes(&values, &mut found);
    Ok(found)
}

/// Returns the findings of a second run with those of a third one, whose host name and umask are the usual ones. A path with such a cause
/// is a note if it did not differ in the third run; otherwise it has another cause, too.
pub(super) fn noted(mut found: Vec<Finding>, third: Vec<Finding>) -> Vec<Finding> {
    let differs: BTreeSet<&LayerPath> = third.iter().map(|finding| &finding.difference.path).collect();
    found.retain_mut(|finding| {
        finding.is_note = finding.cause.is_fixed();
        !finding.is_note || !differs.contains(&finding.difference.path)
    });
    let there: BTreeSet<LayerPath> = found.iter().map(|finding| finding.difference.path.clone()).collect();
    found.extend(third.into_iter().filter(|finding| !there.contains(&finding.difference.path)));
    found
}

fn read_file(tree: &Path, path: &LayerPath) -> Option<Vec<u8>> {
    let file = tree.join(path.as_path());
    let meta = fs::symlink_metadata(&file).ok()?;
    if meta.is_file() && meta.len() <= MAX_LOOK_BYTES { fs::read(file).ok() } else { None }
}

/// Returns the package that ships a path, or else one whose maintainer script names it.
fn package_of(ctx: &BuildContext<'_>, present: &[Arc<Unpacked>], path: &LayerPath) -> Option<String> {
    if let Some(owner) = present.iter().find(|package| package.index.get(path).is_some_and(|entry| entry.node.kind() != Kind::Dir)) {
        return Some(owner.name().to_owned());
    }
    let named = format!("/{path}");
    let scripts = ["postinst", "preinst"];
    let names_it = |package: &&Arc<Unpacked>| {
        let info = ctx.store.tree(&package.record.layer).join(silo_fetch::unpack::record::INFO);
        scripts.iter().filter(|script| package.record.members.contains(**script)).any(|script| {
            let text = fs::read(info.join(format!("{}.{script}", package.record.stanza.info_base()))).unwrap_or_default();
            text.windows(named.len()).any(|window| window == named.as_bytes())
        })
    };
    present.iter().find(names_it).map(|package| package.name().to_owned())
}

/// Finds the cause of a difference.
fn cause(values: &Values<'_>, difference: &Difference, contents: Option<(&[u8], &[u8])>) -> Cause {
    let aspects = match &difference.change {
        Change::Added | Change::Removed => return Cause::Presence,
        Change::Changed(aspects) => aspects,
    };
    if let Some((old, new)) = contents.filter(|(old, new)| old != new) {
        return values.of_contents(&difference.path.to_string(), old, new);
    }
    match aspects.first().map(|aspect| aspect.name) {
        Some("mode") => Cause::Mode,
        Some("owner") => Cause::Owner,
        Some("kind") => Cause::FileType,
        Some("time") => Cause::FileTime,
        _ => Cause::Unknown,
    }
}

/// Finds the causes of names that change: a path that only the first run made, and one in the same directory that only the second made.
fn name_changes(values: &Values<'_>, found: &mut [Finding]) {
    let split = |path: &LayerPath| {
        let path = path.to_string();
        path.rsplit_once('/').map_or_else(|| (String::new(), path.clone()), |(dir, name)| (dir.to_owned(), name.to_owned()))
    };
    let of = |found: &[Finding], change: &Change| {
        let mut names: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
        for (at, finding) in found.iter().enumerate().filter(|(_, finding)| finding.difference.change == *change) {
            let (dir, name) = split(&finding.difference.path);
            names.entry(dir).or_default().push((at, name));
        }
        names
    };
    let (removed, added) = (of(found, &Change::Removed), of(found, &Change::Added));
    for (dir, olds) in removed {
        for ((old_at, old), (new_at, new)) in olds.iter().zip(added.get(&dir).into_iter().flatten()) {
            let cause = match values.of_texts(old, new) {
                Cause::Unknown => Cause::Presence,
                cause => cause,
            };
            (found[*old_at].cause, found[*new_at].cause) = (cause, cause);
        }
    }
}

/// Drops differences of modes that follow from the umasks alone: every file that a step makes has one. Returns false if nothing is left.
fn without_umask(values: &Values<'_>, difference: &mut Difference) -> bool {
    let bits = values.first.umask & !values.second.umask;
    let Change::Changed(aspects) = &mut difference.change else { return true };
    aspects.retain(|aspect| {
        let octal = |text: &str| u32::from_str_radix(text, 8).ok();
        let follows = |(old, new): (u32, u32)| old ^ new == bits && new & bits == bits;
        aspect.name != "mode" || !octal(&aspect.old).zip(octal(&aspect.new)).is_some_and(follows)
    });
    !aspects.is_empty()
}
