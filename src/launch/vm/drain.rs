//! The time limit for draining: a VM is kept after its program's end until the program's last network data was forwarded.

use std::time::{Duration, Instant};

use rustix::fs::Timespec;

/// Time without progress after which draining ends, so that a peer that accepts nothing does not delay the user's prompt. Twice the limit
/// of the native tier, because an emulated VM may have to wait for a processor.
const STALLED: Duration = Duration::from_secs(1);
/// Time limit for all of it. The kernels' socket buffers bound the number of bytes.
const MOST: Duration = Duration::from_secs(10);
/// Poll interval during draining.
pub const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The progress of draining.
#[derive(Debug, Default)]
pub struct Drain {
    began: Option<Instant>,
    last: Option<(Instant, u64)>,
}

impl Drain {
    /// Returns true if draining should end; `moved` changes with each forwarded piece of data.
    pub fn is_over(&mut self, moved: u64, now: Instant) -> bool {
        let began = *self.began.get_or_insert(now);
        match self.last {
            Some((since, before)) if before == moved => now.duration_since(since) >= STALLED,
            _ => {
                self.last = Some((now, moved));
                now.duration_since(began) >= MOST
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_while_something_moves_and_not_for_ever() {
        let (mut linger, now) = (Drain::default(), Instant::now());
        let mut at = |millis, moved| linger.is_over(moved, now + Duration::from_millis(millis));
        assert!(!at(0, 5) && !at(900, 5) && !at(950, 6) && !at(1900, 6) && at(1960, 6));
        assert!((2..10).all(|secs| !at(secs * 1000, secs)) && at(10_000, 99));
    }
}
