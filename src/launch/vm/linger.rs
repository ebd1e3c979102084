//! How long a machine is kept for what its program wrote to the network last: as long as that is carried on.

use std::time::{Duration, Instant};

use rustix::fs::Timespec;

/// How long nothing may move: whoever outside takes nothing for so long keeps the user's prompt no longer. Twice what the
/// native tier allows, because a translated machine may have to wait for a processor meanwhile.
const STALLED: Duration = Duration::from_secs(1);
/// The most altogether. Bytes are bounded by what kernels hold of connections.
const MOST: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
pub const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What is known of it.
#[derive(Debug, Default)]
pub struct Linger {
    began: Option<Instant>,
    last: Option<(Instant, u64)>,
}

impl Linger {
    /// Says whether it has been enough; `moved` changes whenever something is carried.
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
        let (mut linger, now) = (Linger::default(), Instant::now());
        let mut at = |millis, moved| linger.is_over(moved, now + Duration::from_millis(millis));
        assert!(!at(0, 5) && !at(900, 5) && !at(950, 6) && !at(1900, 6) && at(1960, 6));
        assert!((2..10).all(|secs| !at(secs * 1000, secs)) && at(10_000, 99));
    }
}
