//! Starts threads, which can fail: of users (`ulimit -u`), of control groups (`pids.max`) and of memory there are limits.
//!
//! `std::thread::spawn` and `Scope::spawn` panic there, so they are used nowhere (`tests/architecture.rs` holds that).

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// The system refuses another thread.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread")]
pub struct NoThread {
    #[from]
    source: io::Error,
}

/// Starts a thread that ends before its scope does. Where others of the scope wait for it, the caller stops them.
pub fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, NoThread> {
    Ok(Builder::new().spawn_scoped(scope, work)?)
}

/// Starts a thread that nothing waits for.
pub fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, NoThread> {
    Ok(Builder::new().spawn(work)?)
}
