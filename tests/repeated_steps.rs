//! Command steps whose inputs of chance are the same in each run: `random = "fixed"` and `deterministic = true`.

use std::fs;
use std::path::Path;

use crate::support::images::{Layer, base, layout};
use crate::support::{As, Silo, machine};

/// A silo of its own with a tool that has one step.
fn with_step(origin: &Path, step: &str) -> Silo {
    let silo = Silo::new();
    let recipe = format!("version = \"1\"\ncommand = [\"cat\"]\nimage = \"oci:{}:v1\"\nsteps = [{step}]\n", origin.display());
    silo.write(".silo/recipes/mine.toml", &recipe);
    silo
}

fn origin() -> tempfile::TempDir {
    let origin = tempfile::tempdir().expect("a directory");
    layout(origin.path(), &[Layer::plain(base())]);
    origin
}

/// Installs the tool in a new home, and returns the text that its step wrote.
fn written(origin: &Path, step: &str) -> String {
    let silo = with_step(origin, step);
    drop(silo.ok(["install", "--quiet", "mine"]));
    fs::read_to_string(silo.image_root("mine").join("opt/written")).expect("the step wrote it")
}

const CHANCE: &str = "head -c 16 /dev/urandom | od -An -tx1 > /opt/written; mktemp -u >> /opt/written; nproc >> /opt/written";

#[test]
fn fixed_random_numbers_follow_from_the_command() {
    let origin = origin();
    let fixed = |run: &str| written(origin.path(), &format!("{{ run = {run:?}, random = \"fixed\" }}"));
    let first = fixed(CHANCE);
    assert_eq!(first, fixed(CHANCE));
    assert_eq!(first.lines().last(), Some("1"), "{first}");
    let numbers = |text: &str| text.lines().next().map(str::to_owned);
    assert_ne!(numbers(&first), numbers(&fixed(&format!(": other; {CHANCE}"))));
    let real = || written(origin.path(), &format!("{{ run = {CHANCE:?}, random = \"real\" }}"));
    assert_ne!(numbers(&real()), numbers(&real()));
}

/// The second run of a check has other random numbers, unless the step fixes them.
#[test]
fn a_check_accepts_fixed_random_numbers() {
    let origin = origin();
    let step = |random: &str| format!("{{ run = {CHANCE:?}, random = {random:?} }}");
    let silo = with_step(origin.path(), &step("fixed"));
    drop(silo.ok(["build", "--check", "mine"]));
    let silo = with_step(origin.path(), &step("real"));
    let failed = silo.fails(["build", "--check", "mine"]);
    assert!([&failed.out, &failed.err].iter().any(|text| text.contains("opt/written") && text.contains("random")), "{failed:?}");
}

#[test]
fn a_deterministic_step_needs_a_machine_and_no_network() {
    let origin = origin();
    let silo = with_step(origin.path(), "{ run = \"true\", deterministic = true }");
    let failed = silo.fails(["install", "mine"]);
    assert!(failed.err.contains("a step with `deterministic` runs in an emulated virtual machine"), "{failed:?}");
    assert!(failed.err.contains("silo install vm"), "{failed:?}");
    let silo = with_step(origin.path(), "{ run = \"true\", deterministic = true, network = [\"@pypi\"] }");
    let failed = silo.fails(["install", "mine"]);
    assert!(failed.err.contains("a step with `deterministic` may have no `network`"), "{failed:?}");
    let silo = with_step(origin.path(), "{ run = \"true\", random = \"often\" }");
    let failed = silo.fails(["install", "mine"]);
    assert!(failed.err.contains("mine.toml:4") && failed.err.contains("often"), "{failed:?}");
}

#[test]
fn a_deterministic_step_has_a_constant_clock_and_an_emulated_processor() {
    let silo = machine::silo(As::Me);
    let script = "date +%s; echo $SOURCE_DATE_EPOCH; touch /opt/file; stat -c %Y /opt/file; uname -r; nproc; \
                  /lib64/ld-linux-x86-64.so.2 --list-diagnostics | grep cpu_features.basic | tr '\\n' ' '; echo; head -c 16 /dev/urandom | od -An -tx1";
    let step = format!("{{ run = {:?}, deterministic = true }}", format!("{{ {script}; }} > /opt/written"));
    fs::write(silo.project().join("silo.toml"), format!("[overrides.sh]\npostInstall = [{step}]\n")).expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sync", "--quiet"]);
    let written = silo.ok(["run", "sh", "-c", "cat /opt/written"]);
    let lines: Vec<&str> = written.lines().collect();
    let [date, epoch, file, kernel, processors, model, numbers] = lines[..] else { panic!("{written}") };
    let seconds = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{written}"));
    assert_eq!(date, epoch, "{written}");
    // The kernel's clock runs: it counts instructions from the epoch on.
    assert!((seconds(epoch)..seconds(epoch) + 3600).contains(&seconds(file)), "{written}");
    assert_ne!(Some(kernel), rustix::system::uname().release().to_str().ok(), "{written}");
    assert_eq!(processors, "1", "{written}");
    if cfg!(target_arch = "x86_64") {
        // Its maker is AMD, its model 6.
        assert!(model.contains("basic.family=0x6"), "{written}");
    }
    assert_eq!(numbers.split_whitespace().count(), 16, "{written}");
}
