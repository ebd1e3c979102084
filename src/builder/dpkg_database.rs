//! The dpkg database of the finished image, as a layer of few files, made without running anything.
//!
//! Packages that no configure step saw have nothing to configure, so their stanzas are added to the status file as installed. If the last
//! tier was configured in two halves, each half knows only its own packages. Their status files are merged, and the trigger files of all
//! packages are rewritten.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use silo_store::digest::LayerId;
use silo_store::entry::Meta;
use silo_store::manifest::Record as Manifest;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;
use silo_store::resolve_in_root;

use silo_fetch::unpack::record::{self, Stanza};
use silo_model::derivation::{self, Derivation};

use super::context::{BuildContext, realised};
use super::dpkg_status;
use super::error::Error;
use super::select_packages::{self, Unpacked};
use super::state::State;

/// dpkg's status file in a layer.
pub(super) const STATUS: &str = "var/lib/dpkg/status";

/// dpkg's list of architectures in a layer.
pub(super) const ARCHITECTURES: &str = "var/lib/dpkg/arch";

/// Directory of dpkg's trigger files.
const TRIGGERS: &str = "var/lib/dpkg/triggers";

/// Adds the layer of the complete database, if a configure step's own database is not complete.
pub(super) fn realise(ctx: &BuildContext<'_>, epoch: i64, below: &State) -> Result<State, Error> {
    let mut state = below.for_later_node();
    let configured = state.heads.clone();
    let halves = configured.len() > 1;
    if configured.is_empty() || state.plain.is_empty() && !halves {
        return Ok(state);
    }
    let layers_of = |packages: &[Arc<Unpacked>]| packages.iter().map(|package| package.record.layer).collect::<Vec<_>>();
    let layers = layers_of(&state.plain);
    let foreign = state.foreign();
    let triggers = if halves || !select_packages::foreign(&*state.plain).is_empty() { layers_of(&state.present) } else { Vec::new() };
    let inputs = configured.iter().chain(&layers).chain(&triggers).map(LayerId::to_string).collect();
    let has_triggers = !triggers.is_empty();
    let drv = Derivation::Database(derivation::Database { configured: configured.clone(), epoch, layers, triggers });
    if let Some(layer) = realised(ctx, &drv) {
        state.over.push(layer);
        return Ok(state);
    }
    let began = Instant::now();
    let mut stanzas = stanzas_of(ctx, &configured)?;
    stanzas.extend(state.plain.iter().map(|package| dpkg_status::installed(&package.record)));
    let mut files = BTreeMap::from([(STATUS.to_owned(), dpkg_status::write(stanzas))]);
    files.extend(dpkg_status::architectures(ctx.home.arch(), &foreign).map(|text| (ARCHITECTURES.to_owned(), text)));
    if has_triggers {
        let records: Vec<_> = state.present.iter().map(|package| &package.record).collect();
        files.extend(dpkg_status::triggers(&records).into_iter().map(|(name, text)| (format!("{TRIGGERS}/{name}"), text)));
    }
    let mut stage = ctx.store.stage().map_err(|source| Error::store("staging the dpkg database", source))?;
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: epoch, xattrs: Default::default() };
    for (path, text) in &files {
        let path =
            LayerPath::parse(path.as_bytes()).map_err(|source| Error::store(format!("naming {path} of the dpkg database"), source))?;
        stage.add_file(&path, &meta, &mut text.as_bytes(), u64::MAX).map_err(|source| Error::store("writing the dpkg database", source))?;
    }
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: "dpkg database".to_owned(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: ctx.created(),
        inputs,
        packages: Vec::new(),
        removed: Vec::new(),
        place: String::new(),
    };
    let layer = stage.commit(&manifest, ctx.lock).map_err(|source| Error::store("committing the dpkg database", source))?.id;
    ctx.realisations.add(drv.id().digest(), layer, None);
    state.over.push(layer);
    state.made += 1;
    Ok(state)
}

/// Reads the stanzas of these layers' dpkg databases. If several have a package, the last one counts.
pub(super) fn stanzas_of(ctx: &BuildContext<'_>, layers: &[LayerId]) -> Result<Vec<Stanza>, Error> {
    let mut stanzas = BTreeMap::new();
    for layer in layers {
        let path = ctx.store.tree(layer).join(STATUS);
        // A step may have put a symlink or a device there.
        let read = resolve_in_root::read(&ctx.store.tree(layer), Path::new(STATUS), record::MAX_FILE_BYTES);
        let bytes = read.map_err(|source| Error::File(PathError { doing: "read", path, source }))?;
        for stanza in record::parse_stanzas(&bytes).map_err(|what| Error::Database { layer: *layer, what })? {
            stanzas.insert((stanza.package().to_owned(), stanza.architecture().to_owned()), stanza);
        }
    }
    Ok(stanzas.into_values().collect())
}
