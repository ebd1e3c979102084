//! Works on many items with all processors, or with as many threads as the system allows.
//!
//! The caller is one of the workers. So where no thread can be made (a limit of processes, no memory) the work is done all
//! the same, only more slowly.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Returns the result of each item, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    match try_map(items, |item| Ok::<R, std::convert::Infallible>(work(item))) {
        Ok(results) => results,
        Err(never) => match never {},
    }
}

/// Returns the result of each item, in their order, or the first error that occurred; items that nobody has begun by then
/// are left.
pub fn try_map<T: Sync, R: Send, E: Send>(items: &[T], work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let error = Mutex::new(None);
    let serve = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            match work(item) {
                Ok(result) => done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((at, result)),
                Err(why) => {
                    failed.store(true, Ordering::Relaxed);
                    error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(why);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            if thread::Builder::new().spawn_scoped(scope, serve).is_err() {
                break;
            }
        }
        serve();
    });
    if let Some(why) = error.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(why);
    }
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        assert_eq!(map(&items, |item| item * 2), (0..1000).map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(map(&[] as &[u64], |item| *item), []);
    }

    #[test]
    fn an_error_leaves_what_is_not_begun() {
        let items: Vec<u64> = (0..1000).collect();
        let begun = AtomicUsize::new(0);
        let outcome = try_map(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 0 { Err("zero") } else { Ok(*item) }
        });
        assert_eq!(outcome, Err("zero"));
    }
}
