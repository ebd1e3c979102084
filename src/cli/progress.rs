//! Progress: bars on a terminal, plain lines elsewhere, and a sign of life each second of a command that works.
//!
//! Nothing is shown in the first moment, so a command without work prints only its result. After that, a thread looks at the running
//! activities five times a second. On a terminal it redraws the bars. Elsewhere it prints the progress when nothing was printed for almost
//! a second, also in the middle of an activity and between two.
//!
//! The thread runs while there is an activity, or until the end of a command that was announced with [`attend`]. `silo run` announces
//! nothing, because it must have a single thread when it launches its sandbox: there the thread has ended before the last activity has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use silo_base::event::{Activity, Event};
use silo_base::sanitize;
use silo_base::thread;
use silo_base::units;

use super::flags::Verbosity;
use super::ui::{self, line, message};

/// Initial time without output.
const SILENT: Duration = Duration::from_millis(250);
/// Longest silence without bars. With [`TICK`] this is less than a second.
const PATIENCE: Duration = Duration::from_millis(750);
/// Time between two looks at the running activities.
const TICK: Duration = Duration::from_millis(200);

/// Shows the events of a command.
pub struct Ui {
    mode: Mode,
    /// Show the output of build steps.
    shows_steps: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Plain,
    Terminal,
}

/// One running activity.
struct Running {
    name: String,
    kind: Activity,
    total: Option<u64>,
    done: Option<u64>,
    began: Instant,
    bar: Option<ProgressBar>,
    told: bool,
}

/// The work of this process.
struct Work {
    began: Instant,
    mode: Mode,
    running: BTreeMap<u64, Running>,
    /// The announced command, with its bar for times without an activity.
    command: Option<(String, Option<ProgressBar>)>,
    thread: Option<(JoinHandle<()>, Arc<AtomicBool>)>,
}

static WORK: LazyLock<Mutex<Work>> =
    LazyLock::new(|| Mutex::new(Work { began: Instant::now(), mode: Mode::Quiet, running: BTreeMap::new(), command: None, thread: None }));
/// Wakes the thread, so that it ends.
static ENDED: Condvar = Condvar::new();

fn work() -> MutexGuard<'static, Work> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Announces a command: from now on it gives a sign of life each second, also without an activity.
pub fn attend(name: &str, verbosity: Verbosity) {
    let mut work = work();
    work.mode = mode(verbosity);
    if work.mode != Mode::Quiet {
        work.command = Some((name.to_owned(), None));
        work.keep_looking();
    }
}

/// Ends the announced command and removes all bars.
pub fn finish_command() {
    let mut work = work();
    let bars = work.running.values_mut().filter_map(|running| running.bar.take()).collect::<Vec<_>>();
    let idle = work.command.take().and_then(|(_, bar)| bar);
    work.running.clear();
    bars.into_iter().chain(idle).for_each(|bar| bar.finish_and_clear());
    end(work);
}

fn mode(verbosity: Verbosity) -> Mode {
    match (verbosity, ui::has_terminal()) {
        (Verbosity::Quiet, _) => Mode::Quiet,
        (Verbosity::Normal, false) => Mode::Plain,
        (Verbosity::Normal, true) => Mode::Terminal,
    }
}

/// Ends the thread if there is no work for it, and waits for its end.
fn end(mut work: MutexGuard<'_, Work>) {
    if !work.running.is_empty() || work.command.is_some() {
        return;
    }
    let Some((thread, over)) = work.thread.take() else { return };
    over.store(true, Ordering::Relaxed);
    drop(work);
    ENDED.notify_all();
    // A panic of the thread was reported, and costs signs of life only.
    let _ = thread.join();
}

impl Ui {
    /// Chooses the output mode by the type of standard error.
    pub fn new(verbosity: Verbosity) -> Ui {
        let mode = mode(verbosity);
        work().mode = mode;
        Ui { mode, shows_steps: AtomicBool::new(false) }
    }

    /// Also shows the output of build steps from now on.
    pub fn show_steps(&self) {
        self.shows_steps.store(true, Ordering::Relaxed);
    }

    /// Shows an event; callable from any thread.
    pub fn show(&self, event: Event) {
        match event {
            Event::Warning { text } => line(&format!("silo: warning: {}", message(&text))),
            Event::Note { text } if self.mode != Mode::Quiet => line(&format!("silo: {}", message(&text))),
            Event::Note { .. } => {}
            _ if self.mode == Mode::Quiet => {}
            Event::Started { id, kind, name, total } => started(id, kind, &name, total),
            Event::Progress { id, done } => progressed(id, done),
            Event::Log { line: said, .. } if self.shows_steps.load(Ordering::Relaxed) => line(&format!("  {}", sanitize::said(&said))),
            Event::Log { .. } => {}
            Event::Finished { id } => finished(id),
        }
    }

    /// Removes the bars.
    pub fn clear(&self) {
        let mut work = work();
        for running in std::mem::take(&mut work.running).into_values() {
            if let Some(bar) = running.bar {
                bar.finish_and_clear();
            }
        }
        end(work);
    }
}

fn started(id: u64, kind: Activity, name: &str, total: Option<u64>) {
    let name = sanitize::line(name.lines().next().unwrap_or_default());
    let mut running = Running { name, kind, total, done: None, began: Instant::now(), bar: None, told: false };
    let mut work = work();
    if work.began.elapsed() >= SILENT {
        match work.mode {
            Mode::Plain => running.print_start(),
            Mode::Terminal => running.draw(),
            Mode::Quiet => {}
        }
    }
    work.running.insert(id, running);
    work.keep_looking();
}

fn progressed(id: u64, done: u64) {
    let mut work = work();
    let shows_bars = work.mode == Mode::Terminal && work.began.elapsed() >= SILENT;
    let Some(running) = work.running.get_mut(&id) else { return };
    running.done = Some(done);
    if shows_bars {
        running.draw();
    }
}

fn finished(id: u64) {
    let mut work = work();
    let Some(running) = work.running.remove(&id) else { return };
    if let Some(bar) = &running.bar {
        bar.finish_and_clear();
    }
    if running.told {
        line(&format!("{} {}: done", verb(running.kind), running.name));
    }
    end(work);
}

impl Work {
    /// Starts the thread, unless it runs. If it cannot start, only the signs of life are missing.
    fn keep_looking(&mut self) {
        if self.thread.is_some() || self.mode == Mode::Quiet {
            return;
        }
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let looking = move || {
            let mut work = work();
            while !is_over.load(Ordering::Relaxed) {
                work.refresh();
                work = ENDED.wait_timeout(work, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        self.thread = thread::apart(looking).ok().map(|thread| (thread, over));
    }

    fn refresh(&mut self) {
        let silence = ui::silence().map_or_else(|| self.began.elapsed(), |silence| silence.min(self.began.elapsed()));
        match self.mode {
            Mode::Terminal if self.began.elapsed() >= SILENT => {
                self.running.values_mut().for_each(Running::draw);
                self.draw_command();
            }
            Mode::Plain if silence >= PATIENCE && !ui::waits_for_answer() => {
                let untold = self.running.values_mut().filter(|running| !running.told && running.has_line());
                let told = untold.map(Running::print_start).count();
                if told == 0 {
                    self.sign();
                }
            }
            Mode::Terminal | Mode::Plain | Mode::Quiet => {}
        }
    }

    /// On a terminal, shows the command itself while it works without an activity.
    fn draw_command(&mut self) {
        let is_idle = self.running.is_empty() && !ui::waits_for_answer();
        let Some((name, bar)) = &mut self.command else { return };
        match (is_idle, bar.as_ref()) {
            (true, Some(bar)) => bar.tick(),
            (true, None) if self.began.elapsed() >= PATIENCE => {
                let new = ui::bars().add(ProgressBar::new_spinner().with_elapsed(self.began.elapsed()));
                new.set_style(style("   working silo {wide_msg} {elapsed} {spinner}"));
                new.set_message(name.clone());
                *bar = Some(new);
            }
            (false, Some(_)) => bar.take().into_iter().for_each(|bar| bar.finish_and_clear()),
            (true | false, None) => {}
        }
    }

    /// Prints the progress: of the first activity, and of the last one in it.
    fn sign(&self) {
        let shown: Vec<&Running> = match (self.running.values().next(), self.running.values().next_back()) {
            (Some(first), Some(last)) if self.running.len() > 1 => vec![first, last],
            (first, _) => first.into_iter().collect(),
        };
        match (shown.is_empty(), &self.command) {
            (false, _) => line(&format!("still {}", shown.into_iter().map(Running::status).collect::<Vec<_>>().join("; "))),
            (true, Some((name, _))) => line(&format!("still working: silo {name}, {} s", self.began.elapsed().as_secs())),
            (true, None) => {}
        }
    }
}

impl Running {
    /// True if the activity has lines of its own. Single small files have none, since their total has.
    fn has_line(&self) -> bool {
        self.kind != Activity::Fetch || self.total.is_none_or(|bytes| bytes > 4 << 20)
    }

    fn print_start(&mut self) {
        if self.has_line() {
            line(&format!("{} {}", verb(self.kind), self.name));
            self.told = true;
        }
    }

    fn draw(&mut self) {
        let new = || {
            let bar = bar(self.kind, &self.name, self.total);
            ui::bars().add(bar.with_elapsed(self.began.elapsed()))
        };
        let bar = self.bar.get_or_insert_with(new);
        bar.set_position(self.done.unwrap_or(0));
        bar.tick();
    }

    /// Describes how far the activity is: `fetching libc6: 1.2 MiB of 3.0 MiB, 14 s`.
    fn status(&self) -> String {
        let is_transfer = matches!(self.kind, Activity::Fetch | Activity::Send);
        let amount = |number: u64| if is_transfer { units::size(number) } else { number.to_string() };
        let progress = match (self.done, self.total) {
            (done, Some(total)) => format!(": {} of {}", amount(done.unwrap_or(0)), amount(total)),
            (Some(done), None) => format!(": {}", amount(done)),
            (None, None) => String::new(),
        };
        format!("{} {}{progress}, {} s", verb(self.kind), self.name, self.began.elapsed().as_secs())
    }
}

fn verb(kind: Activity) -> &'static str {
    match kind {
        Activity::Build => "building",
        Activity::Resolve => "resolving",
        Activity::Fetch => "fetching",
        Activity::Unpack => "unpacking",
        Activity::Step => "running",
        Activity::Commit => "committing",
        Activity::Compose => "composing",
        Activity::Verify => "verifying",
        Activity::Send => "sending",
        Activity::Compress => "compressing",
        Activity::Restore => "restoring",
    }
}

fn bar(kind: Activity, name: &str, total: Option<u64>) -> ProgressBar {
    let template = match (kind, total) {
        (Activity::Fetch | Activity::Send, Some(_)) => {
            "{prefix:>10} {wide_msg} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} ETA {eta:4} [{bar:20}]"
        }
        (Activity::Build, Some(_)) => "{prefix:>10} {wide_msg} {pos:>5}/{len:5} parts, {elapsed} [{bar:20}]",
        (_, Some(_)) => "{prefix:>10} {wide_msg} {pos:>5}/{len:5} ETA {eta:4} [{bar:20}]",
        (Activity::Fetch | Activity::Send, None) => "{prefix:>10} {wide_msg} {bytes:>10} {elapsed} {spinner}",
        (_, None) => "{prefix:>10} {wide_msg} {elapsed} {spinner}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_style(style(template));
    bar.set_prefix(verb(kind));
    bar.set_message(name.to_owned());
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates in this file are right").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_described_with_amounts() {
        let running =
            |kind, total, done| Running { name: "x".to_owned(), kind, total, done, began: Instant::now(), bar: None, told: false };
        for (running, expect) in [
            (running(Activity::Fetch, Some(3 << 20), Some(1 << 20)), "fetching x: 1.0 MiB of 3.0 MiB, 0 s"),
            (running(Activity::Fetch, None, Some(1 << 20)), "fetching x: 1.0 MiB, 0 s"),
            (running(Activity::Send, Some(2 << 20), None), "sending x: 0 B of 2.0 MiB, 0 s"),
            (running(Activity::Build, Some(57), None), "building x: 0 of 57, 0 s"),
            (running(Activity::Step, None, None), "running x, 0 s"),
        ] {
            assert_eq!(running.status(), expect);
        }
    }
}
