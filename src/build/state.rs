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
    /// Those of them whose dpkg databases together name all of `present`: the last, or the two halves of the last tier.
    pub heads: Vec<LayerId>,
    /// The entries of the configured layers.
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

    /// Returns the layers of the steps, lowest first.
    pub fn of_steps(&self) -> &[LayerId] {
        &self.over[self.over.len().saturating_sub(self.steps)..]
    }

    /// Takes the root that the last step saw.
    pub fn take_ground(&self) -> Option<Ground> {
        self.ground.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Leaves a root for the next one to be made of.
    pub fn put_ground(&self, ground: Ground) {
        *self.ground.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(ground);
    }

    /// Returns the same state for a half of a tier that is configured beside another one, which keeps the ground.
    pub fn beside(&self) -> State {
        let kept = self.take_ground();
        let beside = State { made: 0, ..self.handed_on() };
        kept.into_iter().for_each(|ground| self.put_ground(ground));
        beside
    }

    /// Puts a state together with that of the other half of its tier; both came of `below`.
    pub fn and(mut self, mut other: State, below: &State) -> State {
        self.tiers.extend(other.tiers.drain(below.tiers.len()..));
        self.present = Arc::new(self.present.iter().chain(&other.present[below.present.len()..]).cloned().collect());
        self.configured.extend(other.configured.drain(below.configured.len()..));
        self.changes.extend(other.changes.drain(below.changes.len()..));
        self.heads.append(&mut other.heads);
        // Only one half can have changed dpkg's list.
        if other.diverted != below.diverted {
            self.diverted = other.diverted;
        }
        self.made += other.made;
        self
    }

    /// Returns the same state for a node above, which takes the ground over.
    pub fn handed_on(&self) -> State {
        State {
            tiers: self.tiers.clone(),
            present: self.present.clone(),
            plain: self.plain.clone(),
            configured: self.configured.clone(),
            heads: self.heads.clone(),
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
