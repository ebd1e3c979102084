//! Hashing everything that installed tools stand on, and telling what is not as it was made.

use std::collections::BTreeSet;

use silo_store::digest::LayerId;
use silo_store::index::Index;
use silo_store::lock;
use silo_store::verify;

use crate::event::{self, Activity, Event};
use crate::image::{self, ImageId};

use super::Context;
use super::record::{self, Installed};

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool's record cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A tool that is not installed.
    #[error("{0} is not installed")]
    NotInstalled(String),
    /// The store could not be locked.
    #[error("cannot lock the layer store")]
    Lock(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Layers that were hashed.
    pub layers: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// What is not as it was made, a line each.
    pub faults: Vec<String>,
}

/// Verifies the tools of these names, or all.
pub fn verify(context: &Context<'_>, names: &[String]) -> Result<Findings, Error> {
    let tools = chosen(context, names)?;
    let _shared = lock::share(context.store).map_err(|source| Error::Lock(Box::new(source)))?;
    let mut findings = Findings::default();
    let images: BTreeSet<ImageId> = tools.iter().map(|tool| tool.image).collect();
    let mut layers = BTreeSet::new();
    for image in &images {
        match image::get(context.home, *image) {
            Ok(Some(read)) if image::is_intact(context.home, *image) => layers.extend(read.layers),
            Ok(Some(_)) => findings.faults.push(format!("image {image}: its configuration was changed")),
            Ok(None) => findings.faults.push(format!("image {image}: it is gone")),
            Err(error) => findings.faults.push(format!("image {image}: {error}")),
        }
    }
    check_layers(context, &layers.into_iter().collect::<Vec<_>>(), &mut findings);
    for image in images {
        check_root(context, image, &mut findings);
    }
    Ok(findings)
}

fn chosen(context: &Context<'_>, names: &[String]) -> Result<Vec<Installed>, Error> {
    if names.is_empty() {
        return Ok(record::list(context.home)?);
    }
    names.iter().map(|name| record::get(context.home, name)?.ok_or_else(|| Error::NotInstalled(name.clone()))).collect()
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

/// Checks that the composed root of an image holds what its index says.
fn check_root(context: &Context<'_>, image: ImageId, findings: &mut Findings) {
    let path = image::index_path(context.home, image);
    let subject = format!("image {image}: root");
    match std::fs::read(&path).map_err(|error| error.to_string()).and_then(|text| Index::parse(&text).map_err(|error| error.to_string())) {
        Ok(index) => findings.faults.extend(faults(&subject, verify::verify_root(&index, &image::root(context.home, image)))),
        Err(error) => findings.faults.push(format!("{subject}: {}: {error}", path.display())),
    }
}

fn faults(subject: &str, checked: verify::Checked) -> Vec<String> {
    match checked {
        Ok(differences) => differences.into_iter().map(|difference| format!("{subject}: {difference}")).collect(),
        Err(error) => vec![format!("{subject}: {error}")],
    }
}
