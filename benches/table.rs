//! Rounds of measurements, and their table.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One row: a label, and its time in each round.
pub struct Row {
    name: String,
    times: Vec<Duration>,
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
        self.rows.push(Row { name: name.to_owned(), times: Vec::new(), absent: None });
        self.rows.len() - 1
    }

    /// Adds a row that only says why it is empty.
    pub fn absent(&mut self, name: &str, why: &'static str) {
        self.rows.push(Row { name: name.to_owned(), times: Vec::new(), absent: Some(why) });
    }

    /// Adds the time of one round.
    pub fn add(&mut self, row: usize, time: Duration) {
        self.rows[row].times.push(time);
    }

    /// Prints the table, with ratios to row `to`; returns whether its promises hold.
    pub fn print(mut self, to: usize, promises: &[Promise]) -> bool {
        for row in &mut self.rows {
            row.times.sort();
        }
        let base = self.rows[to].times.first().copied();
        println!("\n{}", self.title);
        println!("  {:52} {:>10} {:>10} {:>3} {:>8}", "", "least", "median", "n", "ratio");
        for row in &self.rows {
            match (row.times.first(), row.times.get(row.times.len() / 2), base) {
                (Some(least), Some(median), Some(base)) => {
                    let ratio = least.as_secs_f64() / base.as_secs_f64();
                    println!("  {:52} {:>10} {:>10} {:>3} {:>7.2}x", row.name, shown(*least), shown(*median), row.times.len(), ratio);
                }
                _ => println!("  {:52} {}", row.name, row.absent.unwrap_or("not measured")),
            }
        }
        // Prints each promise, also after one that fails.
        promises.iter().filter(|promise| !self.holds(promise)).count() == 0
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

/// Runs a command, which must succeed, and returns how long it took.
pub fn timed(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}
