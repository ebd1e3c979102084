//! Facts of one run of a step, for the search of the cause of a difference.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use silo_store::digest::LayerId;

use silo_launch::spec::{Conditions, Spec};

use super::cause::RunFacts;
use super::check::SecondRun;
use super::context::BuildContext;

/// Most inodes that are noted.
const MAX_INODES: usize = 100_000;
/// The process ids of a first run: its namespace numbers them from 1.
const FIRST_PIDS: u64 = 1;
/// The span of the process ids of one run.
const PID_SPAN: u64 = 100_000;
/// Programs may round a time.
const SLACK_SECS: i64 = 2;

/// A build usually takes less time than this.
const BUILD_SECS: i64 = 600;

/// Returns the current time in seconds since 1970. It goes into no layer.
pub(super) fn now() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec
}

impl RunFacts {
    /// Gathers the facts of a run that has just ended.
    pub fn of_run(ctx: &BuildContext<'_>, spec: &Spec, began: i64, upper: &Path) -> RunFacts {
        let conditions = &spec.conditions;
        let ahead = i64::from(conditions.clock_ahead);
        let last_pid = conditions.last_pid.map(u64::from);
        let mut inodes = BTreeSet::new();
        if ctx.check.is_some() {
            note_inodes(upper, &mut inodes);
        }
        let is_second = *conditions != Conditions::default();
        let machine = if is_second { ctx.check.and_then(|check| check.machine.as_ref()) } else { ctx.machine };
        let processors = match (conditions.processors, spec.seed, machine) {
            (Some(count), ..) => count.into(),
            (None, Some(_), _) => 1,
            (None, None, Some(machine)) => machine.cpus.into(),
            (None, None, None) => host_processors(),
        };
        let file_times = began - SLACK_SECS..=now() + SLACK_SECS;
        let times = spec.fixed_time.map_or_else(|| file_times.clone(), around);
        RunFacts {
            host: if spec.hostname == SecondRun::HOST_NAME { SecondRun::HOST_NAME } else { SecondRun::USUAL_HOST_NAME },
            processors,
            umask: conditions.umask.unwrap_or(SecondRun::USUAL_UMASK),
            pids: match last_pid {
                Some(last) => last..=last + PID_SPAN,
                None => FIRST_PIDS..=u64::from(SecondRun::LAST_PID),
            },
            moments: times.start().saturating_add(ahead)..=times.end().saturating_add(ahead),
            file_times,
            inodes,
            kernel: if machine.is_some() { None } else { rustix::system::uname().release().to_str().ok().map(str::to_owned) },
        }
    }

    /// Waits until the second in which the run ended is over, so that times of files differ between the runs.
    pub fn wait_for_another_second(&self) {
        const SECOND_NANOS: i64 = 1_000_000_000;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        if now.tv_sec <= self.file_times.end() - SLACK_SECS {
            thread::sleep(Duration::from_nanos(u64::try_from(SECOND_NANOS - now.tv_nsec).unwrap_or(0)));
        }
    }

    /// Returns the facts of an earlier run, as far as its layer has them, with the time of a clock that stood still.
    pub fn of_earlier(ctx: &BuildContext<'_>, layer: LayerId, fixed_time: Option<i64>) -> RunFacts {
        // Without a manifest, no time of the run is known.
        let manifest = silo_store::layer::read_manifest(ctx.store, &layer).map(|manifest| manifest.record).unwrap_or_default();
        let created = i64::try_from(manifest.created).unwrap_or(0);
        let lasted = i64::try_from(manifest.duration_ms / 1000).unwrap_or(0);
        // The manifest has the time of the build's start.
        let file_times = created - SLACK_SECS..=created + lasted + BUILD_SECS;
        RunFacts {
            host: SecondRun::USUAL_HOST_NAME,
            processors: host_processors(),
            umask: SecondRun::USUAL_UMASK,
            pids: FIRST_PIDS..=u64::from(SecondRun::LAST_PID),
            moments: fixed_time.map_or_else(|| file_times.clone(), around),
            file_times,
            inodes: BTreeSet::new(),
            kernel: None,
        }
    }
}

/// Returns a time with those to which programs may round it.
fn around(time: i64) -> RangeInclusive<i64> {
    time.saturating_sub(SLACK_SECS)..=time.saturating_add(SLACK_SECS)
}

fn host_processors() -> u64 {
    // The library reads the limits of control groups each time.
    static PROCESSORS: LazyLock<u64> = LazyLock::new(|| thread::available_parallelism().map_or(1, |count| count.get() as u64));
    *PROCESSORS
}

/// Notes the inodes below a directory; those that cannot be listed are left out.
fn note_inodes(dir: &Path, inodes: &mut BTreeSet<u64>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if inodes.len() >= MAX_INODES {
            return;
        }
        inodes.insert(found.ino());
        if found.is_dir() {
            note_inodes(&entry.path(), inodes);
        }
    }
}
