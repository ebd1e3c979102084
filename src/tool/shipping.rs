//! The environment of a push or pull, from that of a command.

use silo_store::flock::SharedLock;

use super::Context;

/// Returns the environment of a push or pull.
pub fn shipping<'a>(context: &'a Context<'_>, shared: &'a SharedLock) -> silo_ship::Context<'a> {
    silo_ship::Context {
        home: context.home,
        store: context.store,
        lock: shared,
        transport: context.transport,
        user_home: &context.outside.user_home,
        jobs: context.jobs,
        sink: context.sink,
        stop: context.stop,
    }
}
