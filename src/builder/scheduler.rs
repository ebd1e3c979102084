//! Scheduler: runs every node of a plan as soon as its inputs are done.
//!
//! If a node fails, its dependents are abandoned and everything else continues, so that one walk reports all independent errors. Steps
//! block for minutes, so the workers are plain threads. There is one pool for processor work and one for steps; neither waits for the
//! other's nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use silo_base::thread::{self, NoThread};

/// Interval at which a sleeping worker checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);

/// Class of worker that runs a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerClass {
    /// Uses a processor for a short while.
    Work,
    /// Starts a sandbox and waits for it.
    Step,
}

/// Scheduling properties of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The class of worker.
    pub class: WorkerClass,
    /// Of all ready nodes, the one with the lowest rank runs first.
    pub rank: u64,
    /// True if the node also waits for a release from outside, such as for a finished download.
    pub awaited: bool,
}

/// Numbers of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// For [`Class::Work`].
    pub work: usize,
    /// For [`Class::Step`].
    pub steps: usize,
}

/// Result of a walk.
pub struct Outcome<T, E> {
    /// The output of each node, by index; `None` if it failed or was abandoned.
    pub given: Vec<Option<T>>,
    /// The failures, in the order of the nodes.
    pub failed: Vec<(NodeIndex, E)>,
}

struct State<E> {
    /// Number of unfinished inputs of each node.
    waits: Vec<usize>,
    ready: [BinaryHeap<Reverse<(u64, usize)>>; 2],
    /// Number of nodes that are neither done nor abandoned.
    left: usize,
    given_up: Vec<bool>,
    failed: Vec<(NodeIndex, E)>,
    /// True if the workers must end early.
    quit: bool,
}

/// A running walk.
pub struct Walk<'a, N, T, E> {
    graph: &'a DiGraph<N, ()>,
    orders: Vec<Order>,
    state: Mutex<State<E>>,
    changed: Condvar,
    given: Vec<OnceLock<T>>,
    stop: &'a AtomicBool,
}

impl<'a, N: Sync, T: Send + Sync, E: Send> Walk<'a, N, T, E> {
    /// Prepares the walk of a graph with edges from inputs to dependents.
    pub fn new(graph: &'a DiGraph<N, ()>, stop: &'a AtomicBool, order: impl Fn(&N) -> Order) -> Walk<'a, N, T, E> {
        let orders: Vec<Order> = graph.node_weights().map(order).collect();
        let inputs = |node| graph.neighbors_directed(node, Direction::Incoming).count();
        let waits: Vec<usize> = graph.node_indices().zip(&orders).map(|(node, order)| inputs(node) + usize::from(order.awaited)).collect();
        let mut ready = [BinaryHeap::new(), BinaryHeap::new()];
        for (at, order) in orders.iter().enumerate().filter(|(at, _)| waits[*at] == 0) {
            ready[order.class as usize].push(Reverse((order.rank, at)));
        }
        let count = graph.node_count();
        let state = State { waits, ready, left: count, given_up: vec![false; count], failed: Vec::new(), quit: false };
        let given = (0..count).map(|_| OnceLock::new()).collect();
        Walk { graph, orders, state: Mutex::new(state), changed: Condvar::new(), given, stop }
    }

    /// Returns the output of a node. A node runs only after all its inputs are done.
    pub fn given(&self, node: NodeIndex) -> Option<&T> {
        self.given[node.index()].get()
    }

    /// Releases a node that waits for it from outside.
    pub fn release(&self, node: NodeIndex) {
        let mut state = self.state();
        self.one_less(&mut state, node);
        self.changed.notify_all();
    }

    /// Marks a running or waiting node as failed, and abandons its dependents.
    pub fn fail(&self, node: NodeIndex, error: E) {
        let mut state = self.state();
        if !state.given_up[node.index()] {
            state.failed.push((node, error));
        }
        self.give_up(&mut state, node);
    }

    /// Abandons a node and its dependents without an error.
    pub fn abandon(&self, node: NodeIndex) {
        let mut state = self.state();
        self.give_up(&mut state, node);
    }

    /// Returns true if no node is left to run.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.left == 0 || state.quit
    }

    /// Runs all nodes, while `feed` releases the waiting ones in parallel. One worker of each class is enough; if not even those can be
    /// started, nothing runs.
    pub fn run(
        self,
        workers: Workers,
        feed: impl FnOnce(&Self) + Send,
        work: impl Fn(&Self, NodeIndex) -> Result<T, E> + Sync,
    ) -> Result<Outcome<T, E>, NoThread> {
        std::thread::scope(|scope| {
            let (walk, work) = (&self, &work);
            for (class, count) in [(WorkerClass::Work, workers.work), (WorkerClass::Step, workers.steps)] {
                for number in 0..count.max(1) {
                    match thread::beside(scope, move || walk.serve(class, work)) {
                        Ok(_) => {}
                        Err(_) if number > 0 => break,
                        Err(refused) => {
                            walk.quit();
                            return Err(refused);
                        }
                    }
                }
            }
            feed(walk);
            Ok(())
        })?;
        let mut failed = self.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).failed;
        failed.sort_by_key(|(node, _)| node.index());
        Ok(Outcome { given: self.given.into_iter().map(OnceLock::into_inner).collect(), failed })
    }

    fn serve(&self, class: WorkerClass, work: &(impl Fn(&Self, NodeIndex) -> Result<T, E> + Sync)) {
        // If a worker panics, its node is never done; without this the others would wait for it.
        let _end = End(self);
        while let Some(node) = self.next(class) {
            match work(self, node) {
                Ok(given) => self.done(class, node, given),
                Err(error) => self.fail(node, error),
            }
        }
    }

    /// Waits for a node to run; `None` when there will be no more.
    fn next(&self, class: WorkerClass) -> Option<NodeIndex> {
        let mut state = self.state();
        loop {
            if state.left == 0 || state.quit || self.stop.load(Ordering::Relaxed) {
                return None;
            }
            while let Some(Reverse((_, at))) = state.ready[class as usize].pop() {
                if !state.given_up[at] {
                    return Some(NodeIndex::new(at));
                }
            }
            state = self.changed.wait_timeout(state, LOOK).map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Ends all workers after their current node.
    fn quit(&self) {
        self.state().quit = true;
        self.changed.notify_all();
    }

    /// Takes the output of a node from a worker of this class.
    fn done(&self, class: WorkerClass, node: NodeIndex, given: T) {
        // A node runs once, so the cell is empty.
        drop(self.given[node.index()].set(given));
        let mut state = self.state();
        state.left -= 1;
        let users = self.graph.neighbors_directed(node, Direction::Outgoing);
        let ready: Vec<WorkerClass> = users.filter_map(|user| self.one_less(&mut state, user)).collect();
        let is_over = state.left == 0;
        drop(state);
        // This worker itself takes the next node of a chain; waking the others would only delay it.
        if is_over || ready.len() > 1 || ready.iter().any(|other| *other != class) {
            self.changed.notify_all();
        }
    }

    /// Counts an input of a node as done; returns the node's class if it is ready now.
    fn one_less(&self, state: &mut State<E>, node: NodeIndex) -> Option<WorkerClass> {
        let at = node.index();
        // A node that waits for nothing is in the queue, or has run.
        let waits = state.waits[at].checked_sub(1)?;
        state.waits[at] = waits;
        if waits > 0 || state.given_up[at] {
            return None;
        }
        let Order { class, rank, .. } = self.orders[at];
        state.ready[class as usize].push(Reverse((rank, at)));
        Some(class)
    }

    fn give_up(&self, state: &mut State<E>, node: NodeIndex) {
        let mut queue = vec![node];
        while let Some(node) = queue.pop() {
            if std::mem::replace(&mut state.given_up[node.index()], true) || self.given(node).is_some() {
                continue;
            }
            state.left -= 1;
            queue.extend(self.graph.neighbors_directed(node, Direction::Outgoing));
        }
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Ends the walk if its worker panics.
struct End<'w, 'a, N: Sync, T: Send + Sync, E: Send>(&'w Walk<'a, N, T, E>);

impl<N: Sync, T: Send + Sync, E: Send> Drop for End<'_, '_, N, T, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.quit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const WORKERS: Workers = Workers { work: 2, steps: 2 };

    fn plain(rank: &u64) -> Order {
        Order { class: if rank.is_multiple_of(2) { WorkerClass::Work } else { WorkerClass::Step }, rank: *rank, awaited: false }
    }

    fn graph(count: usize, edges: &[(u32, u32)]) -> DiGraph<u64, ()> {
        let mut graph = DiGraph::new();
        for rank in 0..count {
            graph.add_node(rank as u64);
        }
        graph.extend_with_edges(edges);
        graph
    }

    #[test]
    fn inputs_come_first() {
        let graph = graph(6, &[(0, 2), (1, 2), (2, 3), (2, 4), (3, 5), (4, 5)]);
        let stop = AtomicBool::new(false);
        let walk: Walk<'_, _, u64, ()> = Walk::new(&graph, &stop, plain);
        let outcome = walk.run(
            WORKERS,
            |_| {},
            |walk, node| {
                let inputs = graph.neighbors_directed(node, Direction::Incoming);
                Ok(1 + inputs.map(|input| *walk.given(input).expect("an input that is done")).sum::<u64>())
            },
        );
        let outcome = outcome.expect("threads");
        assert_eq!(outcome.given, [1, 1, 3, 4, 4, 9].map(Some));
    }

    #[test]
    fn a_failure_skips_only_its_dependents() {
        let graph = graph(7, &[(0, 1), (1, 2), (3, 4), (5, 6)]);
        let stop = AtomicBool::new(false);
        let walk: Walk<'_, _, u64, String> = Walk::new(&graph, &stop, plain);
        let outcome = walk.run(
            WORKERS,
            |_| {},
            |_, node| match node.index() {
                at @ (0 | 5) => Err(format!("{at} failed")),
                at => Ok(at as u64),
            },
        );
        let outcome = outcome.expect("threads");
        assert_eq!(outcome.given, [None, None, None, Some(3), Some(4), None, None]);
        let failed: Vec<_> = outcome.failed.into_iter().map(|(node, error)| (node.index(), error)).collect();
        assert_eq!(failed, [(0, "0 failed".to_owned()), (5, "5 failed".to_owned())]);
    }

    #[test]
    fn awaited_nodes_wait_for_their_release() {
        let graph = graph(3, &[(0, 2), (1, 2)]);
        let stop = AtomicBool::new(false);
        let released = AtomicUsize::new(0);
        let walk: Walk<'_, _, usize, ()> = Walk::new(&graph, &stop, |rank| Order { awaited: *rank == 1, ..plain(rank) });
        let feed = |walk: &Walk<'_, _, usize, ()>| {
            std::thread::sleep(Duration::from_millis(5));
            released.store(1, Ordering::SeqCst);
            walk.release(NodeIndex::new(1));
        };
        let outcome = walk.run(WORKERS, feed, |_, node| Ok(if node.index() == 0 { 7 } else { released.load(Ordering::SeqCst) }));
        let outcome = outcome.expect("threads");
        assert_eq!(outcome.given, [Some(7), Some(1), Some(1)]);
    }

    #[test]
    fn a_stop_ends_the_walk() {
        let graph = graph(3, &[(0, 1), (1, 2)]);
        let stop = AtomicBool::new(false);
        let walk: Walk<'_, _, u64, ()> = Walk::new(&graph, &stop, plain);
        let outcome = walk.run(
            WORKERS,
            |_| {},
            |_, node| {
                stop.store(true, Ordering::SeqCst);
                Ok(node.index() as u64)
            },
        );
        let outcome = outcome.expect("threads");
        assert_eq!(outcome.given, [Some(0), None, None]);
        assert!(outcome.failed.is_empty());
    }

    #[test]
    fn a_worker_that_panics_ends_the_walk() {
        let graph = graph(3, &[(0, 2), (1, 2)]);
        let stop = AtomicBool::new(false);
        let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let walk: Walk<'_, _, u64, ()> = Walk::new(&graph, &stop, |rank| Order { awaited: *rank == 1, ..plain(rank) });
            drop(walk.run(WORKERS, |_| {}, |_, _| panic!("a fault of the test's own")));
        }));
        assert!(walked.is_err());
    }
}
