//! Image builds from local files, compared with mmdebstrap and the same packages.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::mmdebstrap::{Mirror, Order, Way};
use crate::support::{self, As, Silo};
use crate::table::{Promise, Table, timed};

/// A package without maintainer scripts that the python image has and a copy of its recipe leaves out.
const LEFT_OUT: &str = "python-is-python3";
/// The most time of a cold build, as a multiple of mmdebstrap's time for the same packages.
const TIMES_MMDEBSTRAP: f64 = 0.5;
/// Most that one package more may take.
const ONE_MORE: Duration = Duration::from_secs(1);

pub fn run(rounds: usize) -> bool {
    let warm = Silo::shared(As::Me);
    let cold = cold(&warm, rounds);
    one_more(&warm, rounds) && cold
}

/// The whole image, with nothing here but the .debs.
fn cold(warm: &Silo, rounds: usize) -> bool {
    let mut table = Table::new("python's image from .debs that are here, everything else cold");
    let ours = table.row("silo install python");
    let place = Silo::new();
    let neighbour = match (support::has("mmdebstrap"), support::is_root()) {
        (true, true) => Some(table.row("mmdebstrap, same packages, to a directory")),
        (false, _) => {
            table.absent("mmdebstrap", "not installed");
            None
        }
        (true, false) => {
            table.absent("mmdebstrap", "not comparable: its root mode needs root");
            None
        }
    };
    let why = if support::has("debootstrap") { "not comparable: it takes only a whole signed archive" } else { "not installed" };
    table.absent("debootstrap", why);
    let mirror = neighbour.is_some().then(|| Mirror::of(warm, &warm.installed("python"), &place.project()));
    // All that is made stays until the end: for each new inode ext4 searches past those that were freed a moment ago.
    let mut made = Vec::new();
    for round in 0..rounds {
        let silo = Silo::seeded();
        // The network request that learns pip's registry is not part of a build.
        silo.write(".silo/silo.toml", "[ecosystems]\npypi = [\"registry.example.com\"]\n");
        table.add(ours, timed(&mut silo.command(["install", "--quiet", "python"])));
        made.push(silo);
        if let (Some(row), Some(mirror)) = (neighbour, &mirror) {
            let root = place.project().join(format!("root-{round}"));
            table.add(row, timed(mirror.mmdebstrap(&root, Way::Mounted, Order::Together, &[]).arg("--silent")));
        }
    }
    let promise = neighbour.map(|of| Promise::AtMost { row: ours, times: TIMES_MMDEBSTRAP, of });
    table.print(neighbour.unwrap_or(ours), promise.as_slice())
}

/// An image that has one package more than one that is here.
fn one_more(warm: &Silo, rounds: usize) -> bool {
    let mut table = Table::new("a recipe with one package more, without maintainer scripts");
    let row = table.row("silo install, one layer and the image made anew");
    let silo = Silo::seeded();
    let lock = lock_of_python(warm);
    let less: Vec<&str> = lock.lines().filter(|line| !line.starts_with(&format!("\"{LEFT_OUT}\" = "))).collect();
    assert!(less.len() < lock.lines().count(), "the lock of python has no {LEFT_OUT} any more");
    for (name, lock) in [("less", format!("{}\n", less.join("\n"))), ("more", lock.clone())] {
        silo.write(&format!(".silo/recipes/{name}.toml"), RECIPE);
        silo.write(&format!(".silo/recipes/{name}.lock"), &lock.replace("[tool.python", &format!("[tool.{name}")));
    }
    timed(&mut silo.command(["install", "--quiet", "less"]));
    for _ in 0..rounds {
        let began = Instant::now();
        let made = silo.ok(["install", "--quiet", "--json", "more"]);
        table.add(row, began.elapsed());
        let made: serde_json::Value = serde_json::from_str(&made).expect("install --json prints JSON");
        assert_eq!(made[0]["layersMade"], 2, "the package's layer and the database: {made}");
        timed(&mut silo.command(["uninstall", "more"]));
        timed(&mut silo.command(["gc", "--min-age", "0"]));
    }
    table.print(row, &[Promise::Within { row, limit: ONE_MORE }])
}

/// The recipe of python as a recipe of the user's, under another name.
const RECIPE: &str = include_str!("../recipes/python.toml");

/// The lock that python was built from: a newer one than the built-in where the mirrors have dropped packages.
fn lock_of_python(warm: &Silo) -> String {
    fs::read_to_string(warm.path("recipe-locks/python.lock")).unwrap_or_else(|_| include_str!("../recipes/python.lock").to_owned())
}
