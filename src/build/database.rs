//! The dpkg database of the packages that the configure step did not see.
//!
//! They have nothing to configure, so they are installed by saying so: the status that the step left and
//! their own stanzas, merged. It is a layer of one file, made without running anything.

use std::time::Instant;

use silo_store::entry::Meta;
use silo_store::manifest::Record as Manifest;
use silo_store::path::LayerPath;

use crate::derivation::{self, Derivation};

use super::configure::{STATUS, stanzas_of};
use super::state::State;
use super::{Error, Workshop, realised, status};

/// Adds the layer of the whole database, where there is anything to add.
pub(super) fn realise(shop: &Workshop<'_>, epoch: i64, below: &State) -> Result<State, Error> {
    let mut state = below.handed_on();
    let Some(configured) = state.configured.last().copied().filter(|_| !state.plain.is_empty()) else { return Ok(state) };
    let layers = state.plain.iter().map(|package| package.record.layer).collect();
    let drv = Derivation::Database(derivation::Database { configured, epoch, layers });
    if let Some(layer) = realised(shop, &drv) {
        state.over.push(layer);
        return Ok(state);
    }
    let began = Instant::now();
    let mut stanzas = stanzas_of(shop, configured)?;
    stanzas.extend(state.plain.iter().map(|package| status::stanza(&package.record, "install ok installed")));
    let text = status::write(stanzas);
    let mut stage = shop.store.stage().map_err(|source| Error::store("staging the dpkg database", source))?;
    let path = LayerPath::parse(STATUS.as_bytes()).expect("a constant path is plain");
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: epoch, xattrs: Default::default() };
    stage.add_file(&path, &meta, &mut text.as_bytes(), u64::MAX).map_err(|source| Error::store("writing the dpkg database", source))?;
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: "dpkg database".to_owned(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs: std::iter::once(configured)
            .chain(state.plain.iter().map(|package| package.record.layer))
            .map(|layer| layer.to_string())
            .collect(),
        packages: Vec::new(),
    };
    let layer = stage.commit(&manifest, shop.lock).map_err(|source| Error::store("committing the dpkg database", source))?.id;
    shop.notes.add(drv.id().digest(), layer, None);
    state.over.push(layer);
    state.made += 1;
    Ok(state)
}
