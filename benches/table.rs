//! Rounds of measurements, and their table.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::support;

/// The lines of `docs/promises.md` for the tables that this run has printed.
static LINES: Mutex<String> = Mutex::new(String::new());

/// One row: a label, and its time in each round.
pub struct Row {
    name: String,
    times: Vec<Duration>,
    /// The most memory of each round, in KiB.
    memory: Vec<u64>,
    /// Why there are no times.
    absent: Option<&'static str>,
}

/// Rows that are compared with one another.
pub struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(title: &'static str) -> Table {
        eprintln!("measuring: {title}");
        Table { title, rows: Vec::new() }
    }

    /// Adds a row and returns its number.
    pub fn row(&mut self, name: &str) -> usize {
        self.rows.push(Row { name: name.to_owned(), times: Vec::new(), memory: Vec::new(), absent: None });
        self.rows.len() - 1
    }

    /// Adds a row that only says why it is empty.
    pub fn absent(&mut self, name: &str, why: &'static str) {
        self.rows.push(Row { name: name.to_owned(), times: Vec::new(), memory: Vec::new(), absent: Some(why) });
    }

    /// Adds the time of one round.
    pub fn add(&mut self, row: usize, time: Duration) {
        self.rows[row].times.push(time);
    }

    /// Adds the most memory of one round, in KiB.
    pub fn add_memory(&mut self, row: usize, kib: u64) {
        self.rows[row].memory.push(kib);
    }

    /// Prints the table, with ratios to row `to`; returns whether its promises hold.
    pub fn print(mut self, to: usize, promises: &[Promise]) -> bool {
        for row in &mut self.rows {
            row.times.sort();
        }
        let base = self.rows[to].times.first().copied();
        self.note(base);
        println!("\n{}", self.title);
        println!("  {:52} {:>10} {:>10} {:>3} {:>8}", "", "least", "median", "n", "ratio");
        for row in &self.rows {
            match (row.times.first(), row.times.get(row.times.len() / 2), base) {
                (Some(least), Some(median), Some(base)) => {
                    let ratio = least.as_secs_f64() / base.as_secs_f64();
                    let memory = row.memory.iter().min().map_or_else(String::new, |kib| format!("  {} KiB", kib));
                    let (least, median, rounds) = (shown(*least), shown(*median), row.times.len());
                    println!("  {:52} {least:>10} {median:>10} {rounds:>3} {ratio:>7.2}x{memory}", row.name);
                }
                _ => println!("  {:52} {}", row.name, row.absent.unwrap_or("not measured")),
            }
        }
        // Prints each promise, also after one that fails.
        promises.iter().filter(|promise| !self.holds(promise)).count() == 0
    }

    /// Adds the sorted rows to the lines for `docs/promises.md`.
    fn note(&self, base: Option<Duration>) {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut title = self.title;
        for row in &self.rows {
            let _ = match (row.times.first(), row.times.get(row.times.len() / 2), base) {
                (Some(least), Some(median), Some(base)) => {
                    let ratio = least.as_secs_f64() / base.as_secs_f64();
                    let memory = row.memory.iter().min().map_or_else(String::new, |kib| format!("{:.1} MiB", *kib as f64 / 1024.0));
                    let (name, rounds) = (&row.name, row.times.len());
                    writeln!(lines, "| {title} | {name} | {} | {} | {rounds} | {ratio:.2} | {memory} |", shown(*least), shown(*median))
                }
                _ => writeln!(lines, "| {title} | {} | {} | | | | |", row.name, row.absent.unwrap_or("not measured")),
            };
            title = "";
        }
    }

    fn holds(&self, promise: &Promise) -> bool {
        let least = |row: usize| self.rows[row].times.first().copied();
        let (told, holds) = match *promise {
            Promise::Within { row, limit } => (format!("under {}", shown(limit)), least(row).map(|time| time < limit)),
            Promise::AtMost { row, times, of } => {
                let holds = least(row).zip(least(of)).map(|(time, other)| time.as_secs_f64() <= times * other.as_secs_f64());
                (format!("at most {times:.2} times {}", self.rows[of].name), holds)
            }
            Promise::Longer { row, by, than } => {
                let holds = least(row).zip(least(than)).map(|(time, other)| time <= other + by);
                (format!("at most {} more than {}", shown(by), self.rows[than].name), holds)
            }
        };
        println!("  promise: {told}: {}", if holds.unwrap_or(true) { "kept" } else { "NOT KEPT" });
        holds.unwrap_or(true)
    }
}

/// A promise of `docs/promises.md` about the least time of a row.
#[derive(Clone, Copy, Debug)]
pub enum Promise {
    /// It is under a limit.
    Within { row: usize, limit: Duration },
    /// It is at most so many times another's.
    AtMost { row: usize, times: f64, of: usize },
    /// It is at most so much more than another's.
    Longer { row: usize, by: Duration, than: usize },
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.2} ms", seconds * 1000.0) } else { format!("{seconds:.2} s") }
}

/// Writes the tables of this run to `docs/promises.md`, between the lines that mark the place.
pub fn write_page(groups: &[&str]) {
    const BEGIN: &str = "<!-- one run -->\n";
    const END: &str = "<!-- end of one run -->";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/promises.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (head, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (_, tail) = rest.split_once(END).expect("the end of the table");
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!(
        "{head}{BEGIN}\nOne run of `{}` on {}, with {processors} processors.\n\n\
         | measurement | | least | median | rounds | ratio | memory |\n|---|---|---|---|---|---|---|\n{lines}\n{END}{tail}",
        ["SILO_BLESS=1 cargo bench --"].iter().chain(groups).copied().collect::<Vec<_>>().join(" ").trim_end_matches(" --"),
        today()
    );
    fs::write(&page, text).expect("the page");
}

/// Returns the date as year, month and day.
fn today() -> String {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = silo_base::timestamp::rfc3339(i64::try_from(secs).unwrap_or(0));
    now.split('T').next().unwrap_or_default().to_owned()
}

/// Runs a command, which must succeed, and returns the most memory that one of its processes had, in KiB. `None` without GNU time.
pub fn peak_kib(command: &Command) -> Option<u64> {
    let time = Path::new("/usr/bin/time");
    if !time.exists() {
        return None;
    }
    let mut measured = Command::new(time);
    measured.args(["--quiet", "--format=%M"]).arg(command.get_program()).args(command.get_args()).env_clear();
    measured.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        measured.current_dir(dir);
    }
    let done = support::done(&mut measured);
    assert_eq!(done.code, 0, "{done:?}");
    done.err.lines().last()?.parse().ok()
}

/// Runs a command, which must succeed, and returns how long it took.
pub fn timed(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}
