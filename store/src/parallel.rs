//! Runs work on many items on a thread pool, or with as many threads as the system allows.
//!
//! rayon's global pool panics if a thread cannot be started (a process limit, no memory). So the pool is built here, with fewer threads
//! after each failure; without threads, the caller does the work itself.

use std::num::NonZero;
use std::sync::OnceLock;
use std::thread;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Returns the results in the order of the items.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    match pool(items.len()) {
        Some(pool) => pool.install(|| items.par_iter().map(&work).collect()),
        None => items.iter().map(work).collect(),
    }
}

/// Returns the results in the order of the items, or an error; after an error no further items are started.
pub fn try_map<T: Sync, R: Send, E: Send>(items: &[T], work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    match pool(items.len()) {
        Some(pool) => pool.install(|| items.par_iter().map(&work).collect()),
        None => items.iter().map(work).collect(),
    }
}

/// Returns this process's pool, or `None` for fewer than two items or if no thread could be started.
fn pool(items: usize) -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    if items < 2 { None } else { POOL.get_or_init(|| started(thread::available_parallelism().map_or(1, NonZero::get))).as_ref() }
}

/// Starts a pool with `threads` threads; after a failure with half as many, and so on.
fn started(threads: usize) -> Option<ThreadPool> {
    let mut halves = std::iter::successors(Some(threads), |threads| Some(threads / 2).filter(|half| *half > 0));
    halves.find_map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().ok())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        assert_eq!(map(&items, |item| item * 2), (0..1000).map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(map(&[] as &[u64], |item| *item), []);
        assert_eq!(map(&[7_u64], |item| *item), [7]);
    }

    #[test]
    fn an_error_leaves_what_is_not_begun() {
        let items: Vec<u64> = (0..100_000).collect();
        let begun = AtomicUsize::new(0);
        let outcome = try_map(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 0 { Err("zero") } else { Ok(*item) }
        });
        assert_eq!(outcome, Err("zero"));
        assert!(begun.load(Ordering::Relaxed) <= items.len());
    }
}
