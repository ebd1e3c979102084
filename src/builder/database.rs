//! The dpkg database of the finished image, as a layer of few files, made without running anything.
//!
//! Packages that no configure step saw have nothing to configure, so their stanzas are added to the status file as installed. If the last
//! tier was configured in two halves, each half knows only its own packages. Their status files are merged, and the trigger files of all
//! packages are rewritten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use silo_store::digest::LayerId;
use silo_store::entry::Meta;
use silo_store::manifest::Record as Manifest;
use silo_store::path::LayerPath;

use silo_model::derivation::{self, Derivation};

use super::configure::{STATUS, stanzas_of};
use super::scripted::Unpacked;
use super::state::State;
use super::{Error, Workshop, realised, status};

/// Directory of dpkg's trigger files.
const TRIGGERS: &str = "var/lib/dpkg/triggers";

/// Adds the layer of the complete database, if a configure step's own database is not complete.
pub(super) fn realise(shop: &Workshop<'_>, epoch: i64, below: &State) -> Result<State, Error> {
    let mut state = below.handed_on();
    let configured = state.heads.clone();
    let halves = configured.len() > 1;
    if configured.is_empty() || state.plain.is_empty() && !halves {
        return Ok(state);
    }
    let layers_of = |packages: &[Arc<Unpacked>]| packages.iter().map(|package| package.record.layer).collect::<Vec<_>>();
    let layers = layers_of(&state.plain);
    let triggers = if halves { layers_of(&state.present) } else { Vec::new() };
    let inputs = configured.iter().chain(&layers).chain(&triggers).map(LayerId::to_string).collect();
    let drv = Derivation::Database(derivation::Database { configured: configured.clone(), epoch, layers, triggers });
    if let Some(layer) = realised(shop, &drv) {
        state.over.push(layer);
        return Ok(state);
    }
    let began = Instant::now();
    let mut stanzas = stanzas_of(shop, &configured)?;
    stanzas.extend(state.plain.iter().map(|package| status::stanza(&package.record, "install ok installed")));
    let mut files = BTreeMap::from([(STATUS.to_owned(), status::write(stanzas))]);
    if halves {
        let records: Vec<_> = state.present.iter().map(|package| &package.record).collect();
        files.extend(status::triggers(&records).into_iter().map(|(name, text)| (format!("{TRIGGERS}/{name}"), text)));
    }
    let mut stage = shop.store.stage().map_err(|source| Error::store("staging the dpkg database", source))?;
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: epoch, xattrs: Default::default() };
    for (path, text) in &files {
        let path = LayerPath::parse(path.as_bytes()).map_err(|_| Error::Worker)?;
        stage.add_file(&path, &meta, &mut text.as_bytes(), u64::MAX).map_err(|source| Error::store("writing the dpkg database", source))?;
    }
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: "dpkg database".to_owned(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs,
        packages: Vec::new(),
    };
    let layer = stage.commit(&manifest, shop.lock).map_err(|source| Error::store("committing the dpkg database", source))?.id;
    shop.notes.add(drv.id().digest(), layer, None);
    state.over.push(layer);
    state.made += 1;
    Ok(state)
}
