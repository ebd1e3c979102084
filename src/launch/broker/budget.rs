//! Limits of one sandbox: open connections, and bytes in buffers.
//!
//! A connection holds a permit from the request to its close, and two small buffers of its own, so it always makes progress. Larger buffers
//! come from one pool; when the pool is short, a connection continues with its small ones. The broker does not read from a connection whose
//! peer does not read: the bytes wait in the kernel, then at their sender.

use std::cell::Cell;
use std::rc::Rc;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most open connections. Browsers have a few dozen, package clients a hundred.
const MAX_CONNECTIONS: u64 = 2048;
/// Descriptors for other uses: the channel, ports, lookups.
const OTHER_DESCRIPTORS: u64 = 128;
/// The first connections keep the kernel's buffer sizes, which grow to many megabytes each. Later ones get small buffers: all sockets of
/// the machine share one memory limit, and near that limit every connection is slow.
const ROOMY: usize = 64;
/// Bytes of such a small buffer; the kernel doubles it.
const NARROW_BYTES: usize = 32 << 10;
/// Bytes of all large buffers together.
const POOL_BYTES: usize = 16 << 20;
/// The most long heads (HTTP request, ClientHello) read at a time; others wait.
const MAX_LONG_HEADS: usize = 32;

/// The limits and their current use.
pub struct Budget {
    most: usize,
    open: Cell<usize>,
    pool: Cell<usize>,
    heads: Semaphore,
}

/// The permit for one connection; returned when dropped.
pub struct ConnectionPermit {
    budget: Rc<Budget>,
    is_roomy: bool,
}

/// Bytes lent from the pool; returned when dropped.
pub struct Loan<'a>(&'a Budget, usize);

impl Budget {
    /// Creates a sandbox's budget, within this process's limit of open files.
    pub fn new() -> Rc<Budget> {
        // A connection has two descriptors, one for each side.
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = MAX_CONNECTIONS.min(files.saturating_sub(OTHER_DESCRIPTORS) / 2).max(1);
        Rc::new(Budget {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            open: Cell::new(0),
            pool: Cell::new(POOL_BYTES),
            heads: Semaphore::new(MAX_LONG_HEADS),
        })
    }

    /// Returns the maximum of open connections.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Takes one connection from the budget, if one is left.
    pub fn permit(self: &Rc<Budget>) -> Option<ConnectionPermit> {
        if self.open.get() >= self.most {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(ConnectionPermit { budget: Rc::clone(self), is_roomy: self.open.get() <= ROOMY })
    }

    /// Lends bytes for a large buffer, if the pool has enough.
    pub fn lend(&self, bytes: usize) -> Option<Loan<'_>> {
        let left = self.pool.get().checked_sub(bytes)?;
        self.pool.set(left);
        Some(Loan(self, bytes))
    }

    /// Whether large buffers are scarce, so that an idle connection must return its own.
    pub fn is_short(&self) -> bool {
        self.pool.get() < POOL_BYTES / 2
    }

    /// Waits for a permit to read a long head.
    pub async fn long_head(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.heads.acquire().await.ok()
    }
}

impl ConnectionPermit {
    /// Sets small kernel buffers if the sandbox has many connections.
    pub fn fit<'a>(&self, sockets: impl IntoIterator<Item = &'a TcpStream>) {
        for socket in sockets.into_iter().filter(|_| !self.is_roomy) {
            // Not fatal: the connection also works with large buffers.
            let _ = set_socket_recv_buffer_size(socket, NARROW_BYTES);
            let _ = set_socket_send_buffer_size(socket, NARROW_BYTES);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.budget.open.set(self.budget.open.get().saturating_sub(1));
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.pool.set(self.0.pool.get() + self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_returned_parts_are_available_again() {
        let budget = Budget::new();
        let permits: Vec<ConnectionPermit> = std::iter::from_fn(|| budget.permit()).collect();
        assert_eq!(permits.len(), budget.most());
        assert!(budget.permit().is_none());
        drop(permits);
        assert!(budget.permit().is_some());
        let loans: Vec<Loan<'_>> = std::iter::from_fn(|| budget.lend(512 << 10)).collect();
        assert_eq!(loans.len() * (512 << 10), POOL_BYTES);
        assert!(budget.is_short() && budget.lend(1).is_none());
        drop(loans);
        assert!(!budget.is_short() && budget.lend(POOL_BYTES + 1).is_none() && budget.lend(POOL_BYTES).is_some());
    }
}
