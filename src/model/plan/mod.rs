//! The plan: the graph of the derivations that images need.
//!
//! A plan is made from recipes and locks without reading any file. A node's derivation is only known after its inputs are built, because
//! inputs are named by content. So a node holds the *inputs of the derivation*, and `build` turns it into a derivation when it is ready.
//! Tools share equal nodes.

use std::collections::BTreeMap;

use petgraph::graph::{DiGraph, NodeIndex};
use silo_store::digest::Digest;

use crate::lock::{self, Lock, PackageTier};
use crate::recipe;
use crate::recipe::source;

/// The steps of some images; an edge points from an input to its user.
#[derive(Debug)]
pub struct Plan {
    /// The graph.
    pub graph: DiGraph<Step, ()>,
    /// The nodes that assemble the images, in the order of the requested tools.
    pub images: Vec<NodeIndex>,
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
        /// The date of the index with the package, in seconds since 1970, for the snapshot archive.
        epoch: i64,
    },
    /// Run the maintainer scripts of one tier's packages.
    Configure {
        /// The tier.
        tier: PackageTier,
        /// The build's SOURCE_DATE_EPOCH.
        epoch: i64,
        /// The packages of the tier, by name.
        packages: Vec<NodeIndex>,
        /// The previous tier.
        below: Option<NodeIndex>,
        /// Answers to the questions of its packages.
        answers: Vec<String>,
    },
    /// Write the database of the packages without scripts.
    Database {
        /// The build's SOURCE_DATE_EPOCH.
        epoch: i64,
        /// The last tier.
        below: NodeIndex,
    },
    /// Fetch and unpack the layers of the base image of a tool.
    Base {
        /// The tool, as an index into the requested ones.
        target: usize,
    },
    /// Run a command of the recipe or the project.
    Command {
        /// The command.
        step: recipe::Step,
        /// The tool, as an index into the requested ones.
        target: usize,
        /// The layers it runs on.
        below: NodeIndex,
    },
    /// Assemble an image.
    Image {
        /// The tool, as an index into the requested ones.
        target: usize,
        /// The layers it is made of.
        below: NodeIndex,
        /// The layers of the image without the steps' ones, if the steps ran on more layers than the image has.
        without: Option<NodeIndex>,
    },
}

/// Makes the plan of some tools, with the lock's packages for one architecture and each tool's steps.
pub fn plan<'a>(tools: impl IntoIterator<Item = Tool<'a>>) -> Plan {
    let mut making = Making::default();
    let images = tools.into_iter().enumerate().map(|(target, tool)| making.tool(target, &tool)).collect();
    Plan { graph: making.graph, images }
}

/// One tool to plan.
#[derive(Clone, Copy, Debug)]
pub struct Tool<'a> {
    /// Its lock.
    pub lock: &'a Lock,
    /// The lock's packages for the architecture.
    pub packages: &'a BTreeMap<String, lock::Package>,
    /// Its steps, in order.
    pub steps: &'a [recipe::Step],
}

/// Identity of a tier, for sharing between tools: epoch, previous tier, packages and answers.
type TierKey = (i64, Option<NodeIndex>, Vec<NodeIndex>, Vec<String>);

#[derive(Default)]
struct Making {
    graph: DiGraph<Step, ()>,
    packages: BTreeMap<(Digest, PackageTier), NodeIndex>,
    tiers: BTreeMap<TierKey, NodeIndex>,
}

impl Making {
    fn tool(&mut self, target: usize, tool: &Tool<'_>) -> NodeIndex {
        let (mut below, without) = match tool.lock.asked.image {
            Some(_) => (self.graph.add_node(Step::Base { target }), None),
            None => self.packaged(tool),
        };
        for step in tool.steps {
            below = self.above(below, |below| Step::Command { step: step.clone(), target, below });
        }
        let image = self.above(below, |below| Step::Image { target, below, without });
        if let Some(without) = without {
            self.graph.add_edge(without, image, ());
        }
        image
    }

    /// Adds the nodes of a tool's packages. Returns the last node that steps see and, if it is a different one, the image's own last node.
    fn packaged(&mut self, tool: &Tool<'_>) -> (NodeIndex, Option<NodeIndex>) {
        let epoch = tool.lock.epoch;
        let mut below = None;
        let mut own = None;
        for tier in PackageTier::ALL {
            if tier == PackageTier::Build {
                own = below;
            }
            let of_tier = tool.packages.iter().filter(|(_, package)| package.tier == tier);
            let packages: Vec<NodeIndex> = of_tier.map(|(name, package)| self.package(name, package, epoch)).collect();
            if packages.is_empty() && below.is_some() {
                continue;
            }
            let is_asked = |answer: &&String| tool.packages.get(source::owner(answer)).is_some_and(|package| package.tier == tier);
            let answers = tool.lock.asked.debconf.iter().filter(is_asked).cloned().collect();
            below = Some(self.tier(tier, (epoch, below, packages, answers)));
        }
        // There is at least the base's node.
        let last = self.above(below.unwrap_or_default(), |below| Step::Database { epoch, below });
        let own = own.filter(|own| Some(*own) != below);
        (last, own.map(|own| self.above(own, |below| Step::Database { epoch, below })))
    }

    fn above(&mut self, below: NodeIndex, step: impl FnOnce(NodeIndex) -> Step) -> NodeIndex {
        let node = self.graph.add_node(step(below));
        self.graph.add_edge(below, node, ());
        node
    }

    fn package(&mut self, name: &str, package: &lock::Package, epoch: i64) -> NodeIndex {
        *self
            .packages
            .entry((package.sha256.0, package.tier))
            .or_insert_with(|| self.graph.add_node(Step::Package { name: name.to_owned(), package: package.clone(), epoch }))
    }

    fn tier(&mut self, tier: PackageTier, key: TierKey) -> NodeIndex {
        let graph = &mut self.graph;
        *self.tiers.entry(key).or_insert_with_key(|(epoch, below, packages, answers)| {
            let (epoch, below, answers) = (*epoch, *below, answers.clone());
            let node = graph.add_node(Step::Configure { tier, epoch, packages: packages.clone(), below, answers });
            for input in packages.iter().copied().chain(below) {
                graph.add_edge(input, node, ());
            }
            node
        })
    }
}
