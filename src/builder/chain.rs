//! Chains: a worker runs several command steps, one after another, in one action.
//!
//! The first step takes along the steps after it, each of which waits for the step before it and for nothing else. The worker captures the
//! changes of a step as this machine does, and runs the next one on that layer. All results come back together. Each step then takes its own
//! one, in its turn: it unpacks the changes, searches them for secrets, captures and commits them here. A result counts only if the worker
//! had the same layers below it as this machine has. So the plan, the layers and their ids are those of single steps.
//!
//! Chains are for small steps. A worker begins no further step once [`MAX_START_SECS`] have passed. It gives up a later step that writes
//! more than [`LATER_BYTES`] or that exceeds the action's time limit; that step then runs alone, with its full limits.

use std::path::{Path, PathBuf};

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use silo_store::digest::LayerId;
use silo_store::removal::remove_tree;

use silo_launch::spec::{Root, Spec, Stdio, Upper};
use silo_model::derivation::Repeats;
use silo_model::plan::Step;
use silo_model::recipe;

/// The most steps of a chain. All of their results are on the disk of the worker and of this machine at the same time.
const MAX_STEPS: usize = 32;
/// Seconds from the start of the first step, after which a worker begins no further one.
pub(super) const MAX_START_SECS: u64 = 10;
/// Limit on the bytes of files that a later step of a chain may write.
pub(super) const LATER_BYTES: u64 = 256 << 20;

/// Returns the steps after a command that may run in its action, in their order.
pub(super) fn later_steps(graph: &DiGraph<Step, ()>, first: NodeIndex) -> Vec<&recipe::Step> {
    let mut later = Vec::new();
    let mut last = first;
    while later.len() + 1 < MAX_STEPS {
        let mut users = graph.neighbors_directed(last, Direction::Outgoing);
        let (Some(user), None) = (users.next(), users.next()) else { break };
        match &graph[user] {
            // It needs nothing of this machine.
            Step::Command { step, .. } if step.network.is_empty() && !step.project && step.repeats != Repeats::Machine => later.push(step),
            _ => break,
        }
        last = user;
    }
    later
}

/// Results of later steps, which a worker sent with those of the first one. The directory is removed on drop.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The directory of the results.
    pub dir: PathBuf,
    /// The name of the worker.
    pub worker: String,
    /// The layers below the first step.
    below: Vec<LayerId>,
    /// The launches of the later steps.
    later: Vec<Spec>,
}

impl Ahead {
    /// Prepares for the results of an action in an empty directory. `later` are the launches of the later steps.
    pub fn new(dir: PathBuf, below: &[LayerId], later: &[Spec]) -> Ahead {
        Ahead { dir, worker: String::new(), below: below.to_vec(), later: later.iter().map(request_of).collect() }
    }

    /// Returns the number of the step with this launch on these layers: 1 for the first of the later ones. `None` if it is none of them, or
    /// if the worker had other layers below it; `made` reads the layer below a step on the worker.
    pub fn number(&self, layers: &[LayerId], spec: &Spec, made: impl Fn(&Path, usize) -> Option<LayerId>) -> Option<usize> {
        let above = layers.strip_prefix(&*self.below)?;
        let launch = self.later.get(above.len().checked_sub(1)?)?;
        let has_same = (1..).zip(above).all(|(number, layer)| made(&self.dir, number) == Some(*layer));
        (has_same && *launch == request_of(spec)).then_some(above.len())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // A failure leaves files for `silo gc`.
        drop(remove_tree(&self.dir));
    }
}

/// Returns a launch without the parts that follow from the layers below it and from the machine.
pub(super) fn request_of(spec: &Spec) -> Spec {
    Spec {
        root: Root { lower: Vec::new(), upper: Upper::Kept { upper: PathBuf::new(), work: PathBuf::new() } },
        stdio: Stdio::Log { path: PathBuf::new() },
        hostname: String::new(),
        files: Vec::new(),
        owners: Vec::new(),
        owners_at: None,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use silo_store::digest::Digest;

    fn command(needs: Needs) -> Step {
        let repeats = if needs == Needs::Machine { Repeats::Machine } else { Repeats::Random };
        let project = needs == Needs::Project;
        let step = recipe::Step { run: vec!["true".into()], network: Vec::new(), env: Default::default(), project, repeats };
        Step::Command { step, target: 0, below: NodeIndex::new(0) }
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Needs {
        Nothing,
        Project,
        Machine,
    }

    #[test]
    fn a_chain_ends_at_a_fork_at_a_step_of_this_machine_and_at_its_limit() {
        let plain = || command(Needs::Nothing);
        let image = || Step::Image { target: 0, below: NodeIndex::new(0), without: None };
        for (nodes, edges, expect) in [
            (vec![plain(), plain(), plain(), image()], vec![(0, 1), (1, 2), (2, 3)], 2),
            (vec![plain(), command(Needs::Project), plain()], vec![(0, 1), (1, 2)], 0),
            (vec![plain(), command(Needs::Machine), plain()], vec![(0, 1), (1, 2)], 0),
            (vec![plain(), plain(), plain(), plain()], vec![(0, 1), (1, 2), (1, 3)], 1),
            ((0..50).map(|_| plain()).collect(), (0..49).map(|at| (at, at + 1)).collect(), MAX_STEPS - 1),
        ] {
            let mut graph = DiGraph::new();
            for node in nodes {
                graph.add_node(node);
            }
            for (from, to) in edges {
                graph.add_edge(NodeIndex::new(from), NodeIndex::new(to), ());
            }
            assert_eq!(later_steps(&graph, NodeIndex::new(0)).len(), expect);
        }
    }

    #[test]
    fn a_result_counts_only_for_its_step_on_its_layers() {
        let layer = |name: &str| LayerId::new(Digest::of(name.as_bytes()));
        let spec = |word: &str| Spec::new(Root { lower: vec!["/x".into()], upper: Upper::Ephemeral { size_bytes: 1 } }, vec![word.into()]);
        let dir = tempfile::tempdir().expect("a directory");
        let ahead = Ahead::new(dir.path().join("ahead"), &[layer("a"), layer("b")], &[spec("two"), spec("three")]);
        let made = |_: &Path, number: usize| [layer("one"), layer("two")].get(number - 1).copied();
        let (one, two) = (layer("one"), layer("two"));
        let below = |above: &[LayerId]| [&[layer("a"), layer("b")], above].concat();
        let mut named = spec("two");
        named.hostname = "another".to_owned();
        for (layers, spec, expect) in [
            (below(&[one]), spec("two"), Some(1)),
            (below(&[one]), named, Some(1)),
            (below(&[one, two]), spec("three"), Some(2)),
            (below(&[one]), spec("three"), None),
            (below(&[two]), spec("two"), None),
            (below(&[two, two]), spec("three"), None),
            (below(&[]), spec("two"), None),
            (below(&[one, two, one]), spec("four"), None),
            (vec![layer("b"), layer("a"), one], spec("two"), None),
        ] {
            assert_eq!(ahead.number(&layers, &spec, made), expect, "{layers:?}");
        }
    }
}
