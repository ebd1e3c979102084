//! What stands when a node of the plan is done: the layers so far, and what later nodes must know of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use silo_store::digest::LayerId;
use silo_store::index::Index;

use crate::lock::{Sha256, StepOutput};

use super::ground::Ground;
use super::scripted::{self, Unpacked};

/// The layers of an image on its way.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The packages whose layers are simply there, by tier.
    pub tiers: Vec<Arc<Vec<Arc<Unpacked>>>>,
    /// All packages that took part in a configure step: those above, and those that dpkg unpacked.
    pub present: Arc<Vec<Arc<Unpacked>>>,
    /// The packages that no step has needed, by name.
    pub plain: Arc<Vec<Arc<Unpacked>>>,
    /// What the packages' scripts changed, by tier.
    pub configured: Vec<LayerId>,
    /// The entries of those layers.
    pub changes: Vec<Arc<Index>>,
    /// The paths that a package diverted, with that package.
    pub diverted: Arc<BTreeMap<Vec<u8>, String>>,
    /// What lies over all this: the dpkg database, then the steps' layers.
    pub over: Vec<LayerId>,
    /// What steps with a network came to, by derivation.
    pub outputs: BTreeMap<Sha256, StepOutput>,
    /// The root that the last step saw, for the next root to be made of; whoever comes first may have it.
    pub ground: Mutex<Option<Ground>>,
    /// How many of those are steps.
    pub steps: usize,
    /// Layers that were made, and not found.
    pub made: usize,
}

impl State {
    /// Returns the layers that a configure step sees, lowest first.
    ///
    /// dpkg leaves a directory as its first package made it, so the earlier tiers' layers lie over the later ones'; what
    /// scripts changed lies over all packages.
    pub fn seen(&self) -> Vec<LayerId> {
        let mut layers: Vec<LayerId> = self.tiers.iter().rev().flat_map(|tier| scripted::root_order(tier)).collect();
        layers.extend(&self.configured);
        layers
    }

    /// Returns all layers, lowest first.
    pub fn layers(&self) -> Vec<LayerId> {
        let mut layers: Vec<LayerId> = self.plain.iter().map(|package| package.record.layer).collect();
        layers.extend(self.seen());
        layers.extend(&self.over);
        layers
    }

    /// Takes the root that the last step saw.
    pub fn take_ground(&self) -> Option<Ground> {
        self.ground.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Returns the same state for a node above, which takes the ground over.
    pub fn handed_on(&self) -> State {
        State {
            tiers: self.tiers.clone(),
            present: self.present.clone(),
            plain: self.plain.clone(),
            configured: self.configured.clone(),
            changes: self.changes.clone(),
            diverted: self.diverted.clone(),
            over: self.over.clone(),
            outputs: self.outputs.clone(),
            ground: Mutex::new(self.take_ground()),
            steps: self.steps,
            made: self.made,
        }
    }
}
