//! State of an image after a node of the plan: the layers so far, and the data that later nodes need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use silo_store::digest::LayerId;
use silo_store::index::Index;

use silo_model::lock::{Sha256, StepOutput};

use super::select_packages::{self, Unpacked};
use super::step_root::StepRoot;

/// An unfinished image.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The packages with directly used layers, by tier.
    pub tiers: Vec<Arc<Vec<Arc<Unpacked>>>>,
    /// All packages that took part in a configure step, including those that dpkg unpacked.
    pub present: Arc<Vec<Arc<Unpacked>>>,
    /// The packages that no step needed, by name.
    pub plain: Arc<Vec<Arc<Unpacked>>>,
    /// The layers of the configure steps, by tier.
    pub configured: Vec<LayerId>,
    /// The configured layers whose dpkg databases together have all of `present`: the last one, or those of the last tier's two halves.
    pub heads: Vec<LayerId>,
    /// The indexes of the configured layers.
    pub changes: Vec<Arc<Index>>,
    /// The diverted paths, each with the diverting package.
    pub diverted: Arc<BTreeMap<Vec<u8>, String>>,
    /// The layers above: the dpkg database, then the command steps' layers.
    pub over: Vec<LayerId>,
    /// Outputs of steps with network or project files, by derivation.
    pub outputs: BTreeMap<Sha256, StepOutput>,
    /// Layers of all other steps, by derivation.
    pub made_layers: BTreeMap<Sha256, Sha256>,
    /// The root of the last step, for reuse by the next one; the first node that takes it gets it.
    pub root: Mutex<Option<StepRoot>>,
    /// Number of command steps' layers in `over`.
    pub steps: usize,
    /// Number of layers that were made, not counting reused ones.
    pub made: usize,
}

impl State {
    /// Returns the layers that a configure step sees, lowest first.
    ///
    /// dpkg keeps a directory's metadata from the first package that ships it, so the earlier tiers' layers go above the later ones'. The
    /// changes of scripts go above all packages.
    pub fn seen(&self) -> Vec<LayerId> {
        let mut layers: Vec<LayerId> = self.tiers.iter().rev().flat_map(|tier| select_packages::root_order(tier)).collect();
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

    /// Lists the foreign architectures of the packages, sorted.
    pub fn foreign(&self) -> BTreeSet<&str> {
        select_packages::foreign(self.present.iter().chain(self.plain.iter()))
    }

    /// Returns the layers of the command steps, lowest first.
    pub fn of_steps(&self) -> &[LayerId] {
        &self.over[self.over.len().saturating_sub(self.steps)..]
    }

    /// Takes the root of the last step.
    pub fn take_root(&self) -> Option<StepRoot> {
        self.root.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    /// Stores the root of a step for reuse.
    pub fn put_root(&self, root: StepRoot) {
        *self.root.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(root);
    }

    /// Copies the state for the half of a tier that is configured in parallel; the original keeps the root.
    pub fn beside(&self) -> State {
        let kept = self.take_root();
        let beside = State { made: 0, ..self.for_later_node() };
        kept.into_iter().for_each(|root| self.put_root(root));
        beside
    }

    /// Merges the state with the other half's; both halves started from `below`.
    pub fn and(mut self, mut other: State, below: &State) -> State {
        self.tiers.extend(other.tiers.drain(below.tiers.len()..));
        self.present = Arc::new(self.present.iter().chain(&other.present[below.present.len()..]).cloned().collect());
        self.configured.extend(other.configured.drain(below.configured.len()..));
        self.changes.extend(other.changes.drain(below.changes.len()..));
        self.heads.append(&mut other.heads);
        self.made_layers.append(&mut other.made_layers);
        // At most one half can have changed dpkg's list of diversions.
        if other.diverted != below.diverted {
            self.diverted = other.diverted;
        }
        self.made += other.made;
        self
    }

    /// Copies the state for a later node; moves the root to the copy.
    pub fn for_later_node(&self) -> State {
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
            made_layers: self.made_layers.clone(),
            root: Mutex::new(self.take_root()),
            steps: self.steps,
            made: self.made,
        }
    }
}
