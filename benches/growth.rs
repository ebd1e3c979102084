//! Growth: the same command on stores, graphs and homes of several sizes, with the memory that it needs.
//!
//! The promises are ratios between two sizes, so they fail if a cost begins to grow faster, on every machine.

use std::fs;
use std::process::Command;

use silo_store::gc_roots::{self, Root, RootName};
use silo_store::{LayerPath, Meta, Record, Store, flock};

use crate::graph::recipe_of;
use crate::support::Silo;
use crate::table::{Promise, Table, peak_kib, timed};

/// Layers of the images that are started.
const STACKS: [usize; 4] = [1, 10, 100, 1000];
/// Most that a start of an image with a thousand layers may take, in times of one with a single layer.
const TIMES_FLAT: f64 = 1.3;
/// Derivations of the graphs in which nothing is left to do, as tools and steps of each.
const GRAPHS: [(usize, usize); 3] = [(1, 1), (1, 100), (100, 100)];
/// Layers of the stores.
const STORES: [usize; 3] = [1_000, 10_000, 100_000];
/// Projects of the homes.
const PROJECTS: [usize; 3] = [1, 100, 1_000];
/// Most that ten times as much may take: linear, and a fifth for noise.
const TIMES_LINEAR: f64 = 12.0;

pub fn run(rounds: usize) -> bool {
    let starts = starts(rounds);
    let nothing = nothing_to_do(rounds);
    let stores = stores(rounds);
    projects(rounds) && stores && nothing && starts
}

/// Measures a command: its time as one of `row`, and its memory as one of `memory`.
fn measure(table: &mut Table, row: usize, command: &mut Command) {
    table.add(row, timed(command));
    if let Some(kib) = peak_kib(command) {
        table.add_memory(row, kib);
    }
}

/// A recipe whose steps each make a file, so all layers differ.
fn recipe(name: &str, steps: usize) -> String {
    recipe_of(steps, |step| format!(": > /srv/{name}-{step}"))
}

/// Starts of images with many layers.
fn starts(rounds: usize) -> bool {
    let mut table = Table::new("start of `sh -c true` in images of many layers");
    let silo = Silo::seeded();
    let tools = STACKS.map(|layers| (format!("layers{layers}"), table.row(&format!("{layers} layers of steps"))));
    for ((tool, _), layers) in tools.iter().zip(STACKS) {
        silo.write(&format!(".silo/recipes/{tool}.toml"), &recipe(tool, layers));
        timed(&mut silo.command(["install", "--quiet", tool]));
    }
    for _ in 0..rounds * 5 {
        for (tool, row) in &tools {
            measure(&mut table, *row, &mut silo.command(["run", "--no-project", tool, "-c", "true"]));
        }
    }
    let [(_, one), .., (_, most)] = &tools;
    table.print(*one, &[Promise::AtMost { row: *most, times: TIMES_FLAT, of: *one }])
}

/// `silo install` of tools that are installed.
fn nothing_to_do(rounds: usize) -> bool {
    let mut table = Table::new("`silo install` with nothing to do, in graphs of many derivations");
    let silo = Silo::seeded();
    let graphs = GRAPHS.map(|(tools, steps)| {
        let row = table.row(&format!("{} derivations of steps", tools * steps));
        let names: Vec<String> = (0..tools).map(|tool| format!("graph{}x{tool}", tools * steps)).collect();
        for name in &names {
            silo.write(&format!(".silo/recipes/{name}.toml"), &recipe(name, steps));
        }
        timed(silo.command(["install", "--quiet"]).args(&names));
        (row, names)
    });
    for _ in 0..rounds {
        for (row, names) in &graphs {
            measure(&mut table, *row, silo.command(["install", "--quiet"]).args(names));
        }
    }
    let [_, (few, _), (many, _)] = graphs;
    let times = 10.0 * TIMES_LINEAR;
    table.print(few, &[Promise::AtMost { row: many, times, of: few }])
}

/// `silo verify --all` and `silo gc` in stores of many layers, which a tool needs.
fn stores(rounds: usize) -> bool {
    let stores = STORES.map(|layers| (layers, store(layers)));
    let mut kept = true;
    for (title, words) in [
        ("`silo gc --dry-run` of stores with many layers", &["gc", "--dry-run", "--min-age", "0"][..]),
        ("`silo verify --all` of stores with many layers", &["verify", "--all", "--quiet"][..]),
    ] {
        let mut table = Table::new(title);
        let rows = stores.each_ref().map(|(layers, silo)| (table.row(&format!("{layers} layers")), silo));
        for _ in 0..rounds {
            for (row, silo) in &rows {
                measure(&mut table, *row, &mut silo.command(words.iter().copied()));
            }
        }
        let linear = |few: usize, many: usize| Promise::AtMost { row: rows[many].0, times: TIMES_LINEAR, of: rows[few].0 };
        kept &= table.print(rows[0].0, &[linear(0, 1), linear(1, 2)]);
    }
    kept
}

/// A home with so many layers of one file.
fn store(layers: usize) -> Silo {
    let silo = Silo::new();
    let store = Store::open(&silo.path("")).expect("a store");
    let permission = flock::share(&store).expect("a lock");
    let path = LayerPath::parse(b"file").expect("a path");
    let ids = (0..layers).map(|number| {
        let mut stage = store.stage().expect("a stage");
        let meta = Meta { mode: 0o644, mtime: 1_000_000_000, ..Meta::default() };
        stage.add_file(&path, &meta, &mut number.to_string().as_bytes(), u64::MAX).expect("a file");
        stage.commit(&Record::default(), &permission).expect("a layer").id
    });
    let root = Root { layers: ids.collect(), ..Root::default() };
    gc_roots::put(&store, &permission, &RootName::new("tool", "many").expect("a name"), &root).expect("a root");
    silo
}

/// The list of projects that silo knows.
fn projects(rounds: usize) -> bool {
    let mut table = Table::new("`silo projects ls` of many projects");
    let homes = PROJECTS.map(|projects| {
        let silo = Silo::seeded();
        silo.ok(["install", "--quiet", "sh"]);
        for number in 0..projects {
            let dir = silo.project().join(number.to_string());
            fs::create_dir(&dir).expect("our own project");
            fs::write(dir.join("silo.toml"), "tools = [\"sh\"]\n").expect("our own project");
            timed(silo.command(["sync", "--quiet"]).current_dir(&dir));
        }
        (table.row(&format!("{projects} projects")), silo)
    });
    for _ in 0..rounds {
        for (row, silo) in &homes {
            measure(&mut table, *row, &mut silo.command(["projects", "ls"]));
        }
    }
    let [_, (few, _), (many, _)] = homes;
    table.print(few, &[Promise::AtMost { row: many, times: TIMES_LINEAR, of: few }])
}
