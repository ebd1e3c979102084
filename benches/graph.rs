//! Large graphs: a thousand steps in a chain and in a fan, and an edit that changes none of them, compared with Nix.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{self, As, Silo};
use crate::table::{Promise, Table, timed};

/// Steps of each graph.
const STEPS: usize = 1000;
/// Branches of the fan: a tool each, on one base.
const BRANCHES: usize = 10;
/// Most that an edit that changes nothing may take.
const NOTHING_TO_DO: Duration = Duration::from_millis(20);

pub fn run(rounds: usize) -> bool {
    let warm = Silo::shared(As::Me);
    steps();
    comment(&warm, rounds)
}

/// A recipe of so many steps that a shell does nothing in, each of them another one than in every other recipe.
fn recipe(name: &str, steps: usize) -> String {
    recipe_of(steps, |step| format!(": {name} {step}"))
}

/// A recipe of so many steps with these commands.
pub fn recipe_of(steps: usize, command: impl Fn(usize) -> String) -> String {
    let steps: String = (0..steps).map(|step| format!("    \"{}\",\n", command(step))).collect();
    format!("command = [\"sh\"]\nsteps = [\n{steps}]\n[debian]\npackages = [\"dash\"]\nversionOf = \"dash\"\n")
}

/// A home with the base of all graphs built, so that only their steps are measured.
fn ground() -> Silo {
    let silo = Silo::seeded();
    silo.write(".silo/recipes/base.toml", &recipe("base", 0));
    timed(&mut silo.command(["install", "--quiet", "base"]));
    silo
}

/// Adds a row for Nix, where it is there.
fn beside_nix(table: &mut Table, name: &str) -> Option<usize> {
    if support::has("nix-build") {
        return Some(table.row(name));
    }
    table.absent("nix-build", "not installed");
    None
}

/// A thousand steps one after the other, and in ten branches; each is a sandbox started and its changes captured.
fn steps() {
    let mut table = Table::new("a thousand steps that do nothing: each a sandbox, its changes captured and kept");
    let one = table.row("a recipe of one step: what all of them share");
    let chain = table.row("a chain of 1,000");
    let fan = table.row("a fan: ten tools of 100 each");
    let nix = beside_nix(&mut table, "nix-build, a chain of 1,000, unsandboxed");
    let silo = ground();
    silo.write(".silo/recipes/one.toml", &recipe("one", 1));
    silo.write(".silo/recipes/chain.toml", &recipe("chain", STEPS));
    let tools: Vec<String> = (0..BRANCHES).map(|branch| format!("fan{branch}")).collect();
    for tool in &tools {
        silo.write(&format!(".silo/recipes/{tool}.toml"), &recipe(tool, STEPS / BRANCHES));
    }
    // Locking is not measured.
    for tool in ["one", "chain"].into_iter().chain(tools.iter().map(String::as_str)) {
        timed(&mut silo.command(["lock", "--quiet", tool]));
    }
    table.add(one, timed(&mut silo.command(["install", "--quiet", "one"])));
    table.add(chain, timed(&mut silo.command(["install", "--quiet", "chain"])));
    table.add(fan, timed(silo.command(["install", "--quiet"]).args(&tools)));
    if let Some(nix) = nix {
        table.add(nix, timed(&mut Nix::new(&silo).build()));
    }
    table.print(one, &[]);
}

/// An edit of a comment in the recipe of the chain: read, derived and looked up, and nothing made.
fn comment(warm: &Silo, rounds: usize) -> bool {
    let mut table = Table::new("a comment edited in a recipe of 1,000 steps");
    let version = table.row("silo --version: the process itself");
    let edited = table.row("silo install, after the edit");
    let nix = beside_nix(&mut table, "nix-build of a chain of 1,000, after the edit");
    let silo = ground();
    let text = recipe("chain", STEPS);
    silo.write(".silo/recipes/chain.toml", &text);
    timed(&mut silo.command(["install", "--quiet", "chain"]));
    let neighbour = nix.map(|row| (row, Nix::new(warm)));
    if let Some((_, nix)) = &neighbour {
        timed(&mut nix.build());
    }
    for round in 0..rounds {
        silo.write(".silo/recipes/chain.toml", &format!("# round {round}\n{text}"));
        table.add(version, timed(&mut silo.command(["--version"])));
        let told = silo.ok(["install", "--json", "chain"]);
        assert!(told.contains("\"changed\": false"), "{told}");
        silo.write(".silo/recipes/chain.toml", &format!("# round {round} again\n{text}"));
        table.add(edited, timed(&mut silo.command(["install", "--quiet", "chain"])));
        if let Some((row, nix)) = &neighbour {
            nix.write(&format!("# round {round}\n"));
            table.add(*row, timed(&mut nix.build()));
        }
    }
    table.print(nix.unwrap_or(version), &[Promise::Within { row: edited, limit: NOTHING_TO_DO }])
}

/// A store of Nix's own in a directory of ours, and a chain of derivations in it.
struct Nix(PathBuf);

impl Nix {
    fn new(silo: &Silo) -> Nix {
        let nix = Nix(silo.project().join("nix"));
        std::fs::create_dir_all(&nix.0).expect("our own project");
        nix.write("");
        nix
    }

    fn file(&self) -> PathBuf {
        self.0.join("chain.nix")
    }

    fn write(&self, comment: &str) {
        let text = format!(
            "{comment}let\n  step = below: number: derivation {{\n    name = \"step-${{toString number}}\";\n    system = builtins.currentSystem;\n    \
             builder = \"/bin/sh\";\n    args = [ \"-c\" \"echo ${{below}} > $out\" ];\n  }};\nin\n  \
             builtins.foldl' step \"\" (builtins.genList (n: n) {STEPS})\n"
        );
        std::fs::write(self.file(), text).expect("our own project");
    }

    fn build(&self) -> Command {
        let mut command = Command::new("nix-build");
        command.args(["--quiet", "--no-out-link", "--option", "sandbox", "false", "--option", "build-users-group", ""]);
        command.args(["--option", "substitute", "false", "--option", "max-jobs", "2"]).arg(self.file());
        let place = |name: &str, below: &str| (name.to_owned(), Path::new(&self.0).join(below));
        command.envs([
            place("NIX_STORE_DIR", "store"),
            place("NIX_STATE_DIR", "state"),
            place("NIX_LOG_DIR", "log"),
            place("NIX_CONF_DIR", "conf"),
            place("HOME", "home"),
        ]);
        command.env("NIX_REMOTE", "local").stderr(std::process::Stdio::null());
        command
    }
}
