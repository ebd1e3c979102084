//! Durations of a run's phases, for `--timing` and `--trace`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::Failure;
use super::ui;

/// The completed phases of a run.
pub struct Timing {
    began: Instant,
    phases: Vec<Phase>,
    /// True if the durations are printed at the end.
    prints: bool,
    trace: Option<(PathBuf, File)>,
}

struct Phase {
    name: &'static str,
    ended: Duration,
}

impl Timing {
    /// Starts the first phase. Creates the trace file now, so that an unwritable path fails before the run.
    pub fn begin(trace: Option<&Path>) -> Result<Timing, Failure> {
        let open = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(error) => Err(Failure::usage(format!("cannot write {}: {error}", path.display()), "name a file that can be written")),
        };
        Ok(Timing { began: Instant::now(), phases: Vec::new(), prints: false, trace: trace.map(open).transpose()? })
    }

    /// Prints the durations at the end.
    pub fn print_durations(&mut self) {
        self.prints = true;
    }

    /// Ends the current phase.
    pub fn done(&mut self, name: &'static str) {
        self.phases.push(Phase { name, ended: self.began.elapsed() });
    }

    /// Prints the durations, and writes the trace file.
    pub fn print(mut self) -> Result<(), Failure> {
        if self.prints {
            let mut began = Duration::ZERO;
            for phase in &self.phases {
                ui::line(&format!("[silo] {}: {:.2} ms", phase.name, millis(phase.ended - began)));
                began = phase.ended;
            }
            ui::line(&format!("[silo] total: {:.2} ms", millis(began)));
        }
        let text = self.trace_text();
        let Some((path, file)) = &mut self.trace else { return Ok(()) };
        file.write_all(text.as_bytes())
            .map_err(|error| Failure::found(format!("cannot write {}: {error}", path.display()), "is the disk full?"))
    }

    /// Formats the phases in the Trace Event Format; times are in microseconds.
    fn trace_text(&self) -> String {
        let mut began = Duration::ZERO;
        let mut spans = Vec::new();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        for phase in &self.phases {
            spans.push(serde_json::json!({
                "name": phase.name, "cat": "silo", "ph": "X", "pid": 1, "tid": 1, "ts": micros(began), "dur": micros(phase.ended - began),
            }));
            began = phase.ended;
        }
        format!("{:#}\n", serde_json::json!({ "traceEvents": spans, "displayTimeUnit": "ms" }))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
