//! Runs in review mode, compared with ordinary ones: a start, `npm ci && npm test`, `cargo build`, and pytest.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Done, Silo};
use crate::table::{Promise, Table, timed};

/// Most that review mode adds to a start.
const ADDED_TO_A_START: Duration = Duration::from_millis(1);
/// Most time of a run in review mode, as a multiple of an ordinary one.
const TIMES_ORDINARY: f64 = 1.1;
/// Starts for each round of the longer runs.
const STARTS: usize = 20;
/// Modules of the crate and of the tests.
const MODULES: usize = 60;

/// A project, the tool of its command, and the command.
struct Work {
    title: &'static str,
    tool: &'static str,
    command: &'static str,
    /// What a run leaves in the project: removed before each ordinary run.
    made: &'static [&'static str],
}

pub fn run(rounds: usize) -> bool {
    let start = start(rounds * STARTS);
    let node = work(
        &Work {
            title: "npm ci && npm test, in a project with 200 packages",
            tool: "node",
            command: "npm ci --prefer-offline --no-audit --no-fund --loglevel=error && npm test",
            made: &["node_modules"],
        },
        rounds,
        |silo| {
            write(silo, "silo.toml", "tools = [\"node\"]\n");
            write(silo, "package.json", r#"{ "private": true, "scripts": { "test": "mocha --reporter dot test.js" } }"#);
            let test = "const assert = require('assert');\nfor (let n = 0; n < 500; n++) it(`${n}`, () => assert.equal(n + n, 2 * n));\n";
            write(silo, "test.js", test);
            let _ = silo.ok(["sync", "--quiet"]);
            silo.run(["npm", "install", "--no-audit", "--no-fund", "--save", "mocha@10", "express@4", "eslint@8", "webpack@5"])
        },
    );
    let cargo = work(
        &Work {
            title: "cargo build of a crate with 60 modules",
            tool: "rust",
            command: "cargo build --offline --quiet",
            made: &["target"],
        },
        rounds,
        |silo| {
            write(silo, "silo.toml", "tools = [\"rust\"]\n");
            write(silo, "Cargo.toml", "[package]\nname = \"many\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
            let mut main = String::new();
            for number in 0..MODULES {
                let body = format!("pub fn sum(of: &[u64]) -> u64 {{ of.iter().map(|one| one * {number}).sum() }}\n");
                write(silo, &format!("src/m{number}.rs"), &body);
                let _ = writeln!(main, "mod m{number};");
            }
            let calls: Vec<String> = (0..MODULES).map(|number| format!("m{number}::sum(&[1, 2, 3])")).collect();
            let _ = writeln!(main, "fn main() {{ println!(\"{{}}\", {}); }}", calls.join(" + "));
            write(silo, "src/main.rs", &main);
            silo.run(["sync", "--quiet"])
        },
    );
    let pytest = work(
        &Work { title: "pytest with 60 files of tests", tool: "python", command: "python3 -m pytest --quiet", made: &[".pytest_cache"] },
        rounds,
        |silo| {
            write(silo, "silo.toml", "tools = [\"python\"]\n[overrides.python]\npackages = [\"python3-pytest\"]\n");
            for number in 0..MODULES {
                let test = format!(
                    "import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_{number}(n, tmp_path):\n    (tmp_path / 'f').write_text(str(n))\n    assert (tmp_path / 'f').read_text() == str(n)\n"
                );
                write(silo, &format!("tests/test_{number}.py"), &test);
            }
            silo.run(["sync", "--quiet"])
        },
    );
    start && node && cargo && pytest
}

/// Writes a file of the project.
fn write(silo: &Silo, below: &str, text: &str) {
    let path = silo.project().join(below);
    fs::create_dir_all(path.parent().expect("a file of the project")).expect("a directory of our own");
    fs::write(path, text).expect("a file of our own");
}

fn start(rounds: usize) -> bool {
    let silo = Silo::seeded();
    silo.ok(["install", "--quiet", "sh"]);
    fs::create_dir_all(silo.project()).expect("a directory of our own");
    write(&silo, "silo.toml", "");
    write(&silo, "file", "text\n");
    let mut table = Table::new("start of `sh -c true` in a project");
    let (ordinary, review) = (table.row("ordinary"), table.row("in review mode"));
    for _ in 0..rounds {
        table.add(ordinary, timed(&mut silo.command(["run", "sh", "-c", "true"])));
        table.add(review, timed(&mut silo.command(["run", "--review", "sh", "-c", "true"])));
    }
    table.print(ordinary, &[Promise::Longer { row: review, by: ADDED_TO_A_START, than: ordinary }])
}

fn work(work: &Work, rounds: usize, prepare: impl FnOnce(&Silo) -> Done) -> bool {
    let silo = Silo::seeded();
    let mut table = Table::new(work.title);
    fs::create_dir_all(silo.project()).expect("a directory of our own");
    let installed = silo.run(["install", "--quiet", work.tool]);
    let prepared = prepare(&silo);
    silo.offer_downloads();
    if installed.code != 0 || prepared.code != 0 {
        eprintln!("{}{}", installed.err, prepared.err);
        table.absent("ordinary", "the project could not be prepared");
        return table.print(0, &[]);
    }
    let (ordinary, review) = (table.row("ordinary"), table.row("in review mode"));
    let made: Vec<PathBuf> = work.made.iter().map(|name| silo.project().join(name)).collect();
    for _ in 0..rounds {
        for (row, flag) in [(ordinary, "--review=never"), (review, "--review=always")] {
            for path in &made {
                let _ = fs::remove_dir_all(path);
            }
            table.add(row, timed(&mut silo.command(["run", flag, "--shim", "sh", work.tool, "--", "-c", work.command])));
            if row == review {
                silo.ok(["discard", "--yes"]);
            }
        }
    }
    table.print(ordinary, &[Promise::AtMost { row: review, times: TIMES_ORDINARY, of: ordinary }])
}
