//! Keeps the filters of build steps: a process that launches many steps makes each filter once, and PID 1 and the program inherit them.

use std::sync::{Arc, Mutex, OnceLock};

use super::instruction::Instruction;
use super::seccomp_rules::{Addition, filter_for_all, filter_of_step};
use crate::spec::Abi;

/// A filter with the rules that it was made from.
type Kept = ((Vec<Addition>, Abi), Arc<[Instruction]>);

/// The filters that this process made. There are at most a few dozens.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Returns the filter of a build step.
pub fn of_step(additions: &[Addition], abi: Abi) -> Arc<[Instruction]> {
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, filter)) = kept.iter().find(|((kept_additions, kept_abi), _)| kept_additions == additions && *kept_abi == abi) {
        return Arc::clone(filter);
    }
    let filter: Arc<[Instruction]> = filter_of_step(additions, abi).into();
    kept.push(((additions.to_vec(), abi), Arc::clone(&filter)));
    filter
}

/// Returns the filter for PID 1.
pub fn of_first_process() -> &'static [Instruction] {
    static FILTER: OnceLock<Vec<Instruction>> = OnceLock::new();
    FILTER.get_or_init(filter_for_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_filters_are_those_that_would_be_made() {
        let seeded = [Addition::Seeded, Addition::FixedClock];
        for _ in 0..2 {
            assert_eq!(*of_step(&[], Abi::Native), *filter_of_step(&[], Abi::Native));
            assert_eq!(*of_step(&seeded, Abi::WithCompat), *filter_of_step(&seeded, Abi::WithCompat));
            assert_eq!(*of_first_process(), *filter_for_all());
        }
    }
}
