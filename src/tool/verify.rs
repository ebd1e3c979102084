//! Verifies the hashes of images and layers, and reports damage.

use std::collections::BTreeSet;

use silo_store::digest::LayerId;
use silo_store::flock;
use silo_store::index::Index;
use silo_store::layer;
use silo_store::merge;
use silo_store::verify;

use silo_base::event::{self, Activity, Event};
use silo_build::image::{self, ImageId, boot, compressed};

use super::Context;
use super::definition;
use super::projects;
use super::record;

/// Error of verifying.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool's record cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A project's record cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The definition of a tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The images cannot be listed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The tool is not installed.
    #[error("{0} is not installed")]
    NotInstalled(String),
    /// The store could not be locked.
    #[error("cannot lock the layer store")]
    Lock(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Result of verifying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Number of verified layers.
    pub layers: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Damage, a line each.
    pub faults: Vec<String>,
}

/// Objects to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyScope {
    /// Images and layers of installed tools and projects.
    Used,
    /// Images and layers of these tools.
    Tools(Vec<String>),
    /// All images and layers, needed or not.
    All,
}

/// Verifies images and layers.
pub fn verify(context: &Context<'_>, wish: &VerifyScope) -> Result<Findings, Error> {
    let images = chosen(context, wish)?;
    let _shared = flock::share(context.store).map_err(|source| Error::Lock(Box::new(source)))?;
    let mut findings = Findings::default();
    let mut layers = BTreeSet::new();
    if *wish == VerifyScope::All {
        layers.extend(layer::list(context.store).map_err(|source| Error::Lock(Box::new(source)))?);
    }
    let mut whole = Vec::new();
    for image in &images {
        match image::get(context.home, *image) {
            Ok(Some(read)) => {
                layers.extend(read.layers.iter().copied());
                whole.push((*image, read.layers));
            }
            Ok(None) => findings.faults.push(format!("image {image}: it is gone")),
            Err(error) => findings.faults.push(error.to_string()),
        }
    }
    check_layers(context, &layers.into_iter().collect::<Vec<_>>(), &mut findings);
    for (image, layers) in whole {
        check_root(context, image, &layers, &mut findings);
    }
    Ok(findings)
}

fn chosen(context: &Context<'_>, wish: &VerifyScope) -> Result<BTreeSet<ImageId>, Error> {
    match wish {
        VerifyScope::All => Ok(image::list(context.home)?.into_iter().collect()),
        VerifyScope::Used => {
            let installed = record::list(context.home)?.into_iter().map(|tool| tool.image);
            let projects = projects::list(context.home)?;
            Ok(installed.chain(projects.iter().flat_map(projects::Project::images)).collect())
        }
        VerifyScope::Tools(names) => {
            let find = |name: &String| {
                definition::current(context.view(), name)?.map(|tool| tool.image).ok_or_else(|| Error::NotInstalled(name.clone()))
            };
            names.iter().map(find).collect()
        }
    }
}

fn check_layers(context: &Context<'_>, layers: &[LayerId], findings: &mut Findings) {
    let id = event::next_id();
    (context.sink)(Event::Started { id, kind: Activity::Verify, name: "layers".to_owned(), total: None });
    let bytes = std::sync::atomic::AtomicU64::new(0);
    let told = |more: u64| {
        let done = bytes.fetch_add(more, std::sync::atomic::Ordering::Relaxed) + more;
        (context.sink)(Event::Progress { id, done });
    };
    for (layer, checked) in verify::verify_layers(context.store, layers, &told) {
        findings.faults.extend(faults(&format!("layer {layer}"), checked));
    }
    (context.sink)(Event::Finished { id });
    findings.layers = layers.len();
    findings.bytes = bytes.into_inner();
}

/// Verifies that an image's composed root and its index match the composition of its layers.
fn check_root(context: &Context<'_>, image: ImageId, layers: &[LayerId], findings: &mut Findings) {
    let subject = format!("image {image}: root");
    let index = match composed(context, layers) {
        Ok(index) => index,
        Err(error) => return findings.faults.push(format!("{subject}: {error}")),
    };
    let path = image::index_path(context.home, image);
    match std::fs::read(&path) {
        Ok(text) if text == index.to_text() => {}
        Ok(_) => findings.faults.push(format!("{subject}: {} was changed", path.display())),
        Err(error) => findings.faults.push(format!("{subject}: {}: {error}", path.display())),
    }
    if compressed::is_cold(context.home, image) {
        // Its layers are verified, and its root will be composed of them before a run.
        return;
    }
    let seen = faults(&subject, verify::verify_root(&index, &image::root(context.home, image)));
    if seen.is_empty() {
        // Kernel and disk are derived from the root, so they can be verified only if the root is intact.
        match boot::changed(context.home, image) {
            Ok(changed) => findings.faults.extend(changed.iter().map(|path| format!("{} was changed; remove it", path.display()))),
            Err(error) => findings.faults.push(format!("{subject}: {error}")),
        }
    }
    findings.faults.extend(seen);
}

/// Returns the index of the composition of layers.
fn composed(context: &Context<'_>, layers: &[LayerId]) -> Result<Index, String> {
    let indexes: Result<Vec<Index>, _> = layers.iter().map(|layer| layer::read_index(context.store, layer)).collect();
    let indexes = indexes.map_err(|error| error.to_string())?;
    let merged = merge::merge(&indexes.iter().collect::<Vec<_>>());
    merged.map(|merged| merged.index).map_err(|error| error.to_string())
}

fn faults(subject: &str, checked: verify::Checked) -> Vec<String> {
    match checked {
        Ok(differences) => differences.into_iter().map(|difference| format!("{subject}: {difference}")).collect(),
        Err(error) => vec![format!("{subject}: {error}")],
    }
}
