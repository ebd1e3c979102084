//! The plan: which derivations an image needs and which of them wait for which, as a graph.
//!
//! A plan is made from a lock without looking at any file. What a node's derivation hashes is known only
//! when its inputs are built (they are named by content), so a plan holds *what to derive from*, and
//! `build` turns each node into a derivation when its turn comes.

use petgraph::graph::{DiGraph, NodeIndex};

use crate::lock::{self, Lock};
use crate::system::Arch;

/// The steps of one image; an edge leads from an input to what needs it.
#[derive(Debug)]
pub struct Plan {
    /// The graph.
    pub graph: DiGraph<Step, ()>,
    /// The node that puts the image together.
    pub image: NodeIndex,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch and unpack a package.
    Package {
        /// The package's name.
        name: String,
        /// The exact file.
        package: lock::Package,
    },
    /// Run the packages' maintainer scripts.
    Configure,
    /// Write the database of the packages that have none.
    Database,
    /// Put the image together.
    Image,
}

/// Makes the plan of a lock for one architecture; the order of nodes is that of package names.
pub fn plan(lock: &Lock, arch: Arch) -> Plan {
    let mut graph = DiGraph::new();
    let configure = graph.add_node(Step::Configure);
    let database = graph.add_node(Step::Database);
    let image = graph.add_node(Step::Image);
    graph.add_edge(configure, database, ());
    graph.add_edge(configure, image, ());
    graph.add_edge(database, image, ());
    for (name, package) in lock.packages.get(&arch).into_iter().flatten() {
        let node = graph.add_node(Step::Package { name: name.clone(), package: package.clone() });
        for user in [configure, database, image] {
            graph.add_edge(node, user, ());
        }
    }
    Plan { graph, image }
}
