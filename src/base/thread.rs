//! Starts threads, which can fail: users (`ulimit -u`), control groups (`pids.max`) and memory have limits.
//!
//! `std::thread::spawn` and `Scope::spawn` panic in this case, so they are not used (`tests/architecture.rs` checks this).

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// The system refused to start a thread.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread")]
pub struct NoThread {
    #[from]
    source: io::Error,
}

/// Starts a scoped thread. If starting fails, the caller must stop other threads of the scope that wait for it.
pub fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    Ok(Builder::new().spawn_scoped(scope, work)?)
}

/// Calls `work` on this thread and on up to `count - 1` others; returns all results. A refused thread only slows the work. A panic of one
/// continues here.
pub fn together<R: Send>(count: usize, work: impl Fn() -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..count).map_while(|_| beside(scope, &work).ok()).collect();
        let own = work();
        let others = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        std::iter::once(own).chain(others).collect()
    })
}

/// Starts a detached thread.
pub fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, NoThread> {
    Ok(Builder::new().spawn(work)?)
}
