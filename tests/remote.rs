//! Build steps on the workers of an engine: the same layers as here, or a clear error.

use std::fs;

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::engine::{self, Engine, Fault};
use crate::support::tls_front::TlsFront;
use crate::support::{Silo, skip};

/// Not a test: the engine of the others starts this program with a variable, to run an action.
#[test]
fn the_runner_of_an_engine() {
    if let Ok(arguments) = std::env::var(engine::ARGUMENTS) {
        engine::run_action(&arguments);
    }
}

/// A recipe with steps that read what others wrote, and remove it.
const RECIPE: &str = "version = \"1\"\ncommand = [\"cat\"]\nsteps = [\"echo one > /opt/one\", \
    \"cat /opt/one /opt/one > /opt/two && chmod 4755 /opt/two && chown 5:7 /opt/two\", \"rm /opt/one; ln /opt/two /opt/three; mkdir -m 1777 /opt/dir\"]\n\
    [debian]\npackages = [\"dash\"]\n";
/// A recipe with one step.
const SHORT: &str = "version = \"1\"\ncommand = [\"cat\"]\nsteps = [\"echo one > /opt/one\"]\n[debian]\npackages = [\"dash\"]\n";

fn layers(silo: &Silo, tool: &str) -> Vec<String> {
    silo.installed(tool).image.layers.iter().map(ToString::to_string).collect()
}

fn with_engine(silo: &Silo, engine: &str, more: &str) {
    silo.write(".silo/silo.toml", &format!("[remote.pool]\nendpoint = \"{engine}\"\n{more}"));
}

/// Starts an engine; `None` if there is none, which is reported.
fn started() -> Option<Engine> {
    Engine::start().map_err(|why| skip(&why)).ok()
}

/// An engine and a silo that has built everything below the step of a recipe here; the step of the recipe is left. `None` if there is no
/// engine.
fn prepared(more: &str) -> Option<(Engine, Silo)> {
    let engine = started()?;
    let silo = Silo::seeded();
    silo.write(".silo/recipes/mine.toml", &SHORT.replace("\"echo one > /opt/one\"", ""));
    drop(silo.ok(["install", "--quiet", "mine"]));
    drop(silo.ok(["uninstall", "mine"]));
    silo.write(".silo/recipes/mine.toml", SHORT);
    with_engine(&silo, &engine.url, more);
    Some((engine, silo))
}

/// Fails unless the store has no unfinished things and no image of the recipe, and unless the recipe then builds here.
fn nothing_is_half_done(silo: &Silo) {
    assert!(!silo.ok(["list"]).contains("mine"));
    let left = |name: &str| fs::read_dir(silo.path(name)).map_or(0, Iterator::count);
    assert_eq!((left("stage"), left("work")), (0, 0));
    drop(silo.ok(["verify"]));
    drop(silo.ok(["install", "--quiet", "--no-remote", "mine"]));
    drop(silo.ok(["verify"]));
    assert_eq!(silo.ok(["run", "mine", "/opt/one"]), "one\n");
}

#[test]
fn a_step_has_the_same_layer_wherever_it_runs() {
    let Some(engine) = started() else { return };
    let (here, away) = (Silo::seeded(), Silo::seeded());
    with_engine(&away, &engine.url, "check = \"100%\"\n");
    for silo in [&here, &away] {
        silo.write(".silo/recipes/mine.toml", RECIPE);
    }
    drop(here.ok(["install", "--quiet", "mine"]));
    let lock = fs::read_to_string(here.path("recipes/mine.lock")).expect("a lock");
    away.write(".silo/recipes/mine.lock", &lock);
    let done = away.run(["install", "--remote", "mine"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", engine.log());
    assert!(!done.err.contains("differs") && !done.err.contains("run here"), "{done:?}");
    assert_eq!(layers(&here, "mine"), layers(&away, "mine"));
    assert_eq!(here.image_id("mine"), away.image_id("mine"));
    // The configure step, and a chain of three commands.
    assert_eq!(engine.begun(), 2);
    // A layer's manifest names the place.
    let place = |silo: &Silo, layer: &str| {
        let text = fs::read_to_string(silo.path("baked").join(layer).join("manifest.toml")).expect("a manifest");
        text.lines().find_map(|line| line.strip_prefix("place = ")).map(str::to_owned)
    };
    let last = layers(&away, "mine").pop().expect("a layer");
    assert_eq!(place(&away, &last), Some(format!("\"a worker of the tests of {}\"", engine.url)));
    assert_eq!(place(&here, &last), None);
    // A failing step fails as it does here, with its log.
    away.write(".silo/recipes/mine.toml", &RECIPE.replace("mkdir -m 1777 /opt/dir\"", "echo said; exit 3\""));
    let done = away.fails(["install", "--remote=pool", "mine"]);
    assert!(done.err.contains("exit code 3") && done.err.contains("said"), "{done:?}");
    assert_eq!(engine.begun(), 3);
}

#[test]
fn a_step_that_runs_away_composes_no_root_here() {
    let Some((engine, silo)) = prepared("") else { return };
    engine.fail(Fault::Wait);
    let child = silo.command(["install", "--remote", "mine"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    engine.await_worker();
    let work: Vec<_> = fs::read_dir(silo.path("work")).expect("the step's directories").flatten().map(|entry| entry.path()).collect();
    let is_root = |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("root-"));
    assert!(work.iter().any(is_root), "{work:?}");
    for root in work.iter().filter(|path| is_root(path)) {
        assert_eq!(fs::read_dir(root).expect("our own directory").count(), 0, "{root:?} has a tree");
    }
    engine.release();
    let done = child.wait_with_output().expect("silo ends");
    assert!(done.status.success(), "{done:?}\n{}", engine.log());
    assert_eq!(silo.ok(["run", "mine", "/opt/one"]), "one\n");
}

#[test]
fn a_collected_layer_is_fetched_from_the_engine() {
    let Some((engine, silo)) = prepared("") else { return };
    drop(silo.ok(["install", "--quiet", "--remote", "mine"]));
    let (image, made) = (silo.image_id("mine"), layers(&silo, "mine"));
    let collect = || {
        drop(silo.ok(["uninstall", "mine"]));
        drop(silo.ok(["gc", "--all"]));
        assert!(!silo.path("baked").join(&made[0]).exists());
    };
    collect();
    let done = silo.run(["install", "--remote", "mine"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", engine.log());
    assert!(done.err.contains(&format!("layers fetched from {}", engine.url)), "{done:?}");
    // Only the last step, which is below no other one, ran again.
    assert_eq!((engine.begun(), silo.image_id("mine")), (2, image), "{done:?}");
    drop(silo.ok(["verify"]));
    // Other bytes are not taken, and the engine is named.
    collect();
    engine.rot(&made);
    let done = silo.run(["install", "--remote", "mine"]);
    assert!(done.err.contains("is not fetched from the pool") && done.err.contains("other bytes than those of the blob"), "{done:?}");
    assert!(done.err.contains(&engine.url), "{done:?}");
    drop(silo.ok(["verify"]));
    // Without the engine, everything is made here.
    drop(silo.ok(["install", "--quiet", "--no-remote", "mine"]));
    assert_eq!(silo.image_id("mine"), image);
}

#[test]
fn many_steps_and_a_shell_have_the_same_images_wherever_they_are_built() {
    let Some(engine) = started() else { return };
    let (here, away) = (Silo::seeded(), Silo::seeded());
    with_engine(&away, &engine.url, "always = true\n");
    let steps: Vec<String> =
        (0..50).map(|step| format!("\"echo {step} >> /opt/log; cp /opt/log /opt/{step}; rm -f /opt/{}\"", step / 2)).collect();
    let recipe = format!("version = \"1\"\ncommand = [\"cat\"]\nsteps = [{}]\n[debian]\npackages = [\"dash\"]\n", steps.join(", "));
    for silo in [&here, &away] {
        silo.write(".silo/recipes/many.toml", &recipe);
    }
    drop(here.ok(["install", "--quiet", "sh", "many"]));
    let lock = fs::read_to_string(here.path("recipes/many.lock")).expect("a lock");
    away.write(".silo/recipes/many.lock", &lock);
    let done = away.run(["install", "sh", "many"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", engine.log());
    // Two configure steps, and the commands in chains. A slow worker ends a chain early.
    assert!((4..=26).contains(&engine.begun()), "{} actions: {done:?}", engine.begun());
    for tool in ["sh", "many"] {
        assert_eq!(here.image_id(tool), away.image_id(tool), "{tool}");
    }
}

/// The names of the layers in the store.
fn names(silo: &Silo) -> Vec<String> {
    let layers = fs::read_dir(silo.path("baked")).expect("a store").flatten();
    let texts = layers.map(|layer| fs::read_to_string(layer.path().join("manifest.toml")).expect("a manifest"));
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("name = ")).map(str::to_owned)).collect()
}

#[test]
fn a_failing_step_of_a_chain_keeps_the_steps_before_it() {
    let Some((engine, silo)) = prepared("") else { return };
    let recipe = |steps: &str| SHORT.replace("\"echo one > /opt/one\"", steps);
    let made = |silo: &Silo, step: &str| names(silo).contains(&format!("\"step {step}\""));
    silo.write(
        ".silo/recipes/mine.toml",
        &recipe("\"echo 1 > /opt/one\", \"echo 2 > /opt/two\", \"echo said; exit 3\", \"echo 4 > /opt/four\""),
    );
    let done = silo.fails(["install", "--remote", "mine"]);
    assert!(done.err.contains("exit code 3") && done.err.contains("said") && done.err.contains("echo said; exit 3"), "{done:?}");
    assert_eq!(engine.begun(), 1, "{done:?}");
    assert!(made(&silo, "echo 1 > /opt/one") && made(&silo, "echo 2 > /opt/two") && !made(&silo, "echo 4 > /opt/four"));
    assert_eq!(fs::read_dir(silo.path("work")).map_or(0, Iterator::count), 0);
    // The next attempt begins at the step that failed.
    silo.write(
        ".silo/recipes/mine.toml",
        &recipe("\"echo 1 > /opt/one\", \"echo 2 > /opt/two\", \"cat /opt/one /opt/two > /opt/all\", \"rm /opt/one\""),
    );
    drop(silo.ok(["install", "--quiet", "--remote", "mine"]));
    assert_eq!(engine.begun(), 2);
    assert_eq!(silo.ok(["run", "mine", "/opt/all"]), "1\n2\n");
    // After a long step the worker begins no further one.
    silo.write(".silo/recipes/mine.toml", &recipe("\"echo 1 > /opt/one\", \"sleep 11; cp /opt/one /opt/two\", \"cp /opt/two /opt/three\""));
    drop(silo.ok(["install", "--quiet", "--remote", "mine"]));
    assert_eq!(engine.begun(), 4);
    assert_eq!(silo.ok(["run", "mine", "/opt/three"]), "1\n");
    drop(silo.ok(["verify"]));
}

#[test]
fn a_result_of_a_chain_counts_only_on_the_same_layers() {
    let Some((engine, silo)) = prepared("") else { return };
    let here = Silo::seeded();
    silo.write(".silo/recipes/mine.toml", RECIPE);
    here.write(".silo/recipes/mine.toml", RECIPE);
    engine.fail(Fault::LaterGarbage);
    let done = silo.fails(["install", "--remote", "mine"]);
    assert!(done.err.contains("the changes of a worker of the tests are refused"), "{done:?}");
    assert!(done.err.contains("cat /opt/one /opt/one"), "the second step is named: {done:?}");
    // The first step is kept. The worker says that it had another layer below the third one, which then runs alone.
    engine.fail(Fault::LaterBelow);
    let begun = engine.begun();
    let done = silo.run(["install", "--remote", "mine"]);
    assert_eq!((done.code, engine.begun() - begun), (0, 2), "{done:?}\n{}", engine.log());
    drop(here.ok(["install", "--quiet", "mine"]));
    assert_eq!(layers(&here, "mine"), layers(&silo, "mine"));
    assert_eq!(fs::read_dir(silo.path("work")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_worker_without_a_sandbox_is_said_once_and_the_steps_run_here() {
    let Some((engine, silo)) = prepared("") else { return };
    engine.fail(Fault::Unfit);
    silo.write(".silo/recipes/mine.toml", RECIPE);
    let done = silo.run(["install", "--remote", "mine"]);
    assert_eq!(done.code, 0, "{done:?}\n{}", engine.log());
    assert_eq!(done.err.matches("the next ones run here").count(), 1, "{done:?}");
    assert_eq!(engine.begun(), 1);
    drop(silo.ok(["verify"]));
}

#[test]
fn a_lying_worker_and_a_rotten_blob_are_clear_errors() {
    let Some((engine, silo)) = prepared("") else { return };
    for (fault, expect) in [
        (Fault::Absent, "failed: NotFound"),
        (Fault::Garbage, "the changes of a worker of the tests are refused"),
        (Fault::Escape, "the changes of a worker of the tests are refused"),
        (Fault::Silent, "without a report"),
        (Fault::Rot, "other bytes than those of the blob"),
    ] {
        engine.fail(fault);
        let done = silo.fails(["install", "--remote", "mine"]);
        assert!(done.err.contains(expect) && done.err.contains("--no-remote builds here"), "{fault:?}: {done:?}\n{}", engine.log());
        assert!(!silo.path("escaped").exists() && !silo.path("work/escaped").exists());
    }
    nothing_is_half_done(&silo);
}

#[test]
fn a_checked_step_names_the_worker_with_another_result() {
    let Some((engine, silo)) = prepared("check = \"100%\"\n") else { return };
    engine.fail(Fault::Other);
    let done = silo.fails(["install", "--remote", "mine"]);
    assert!(done.err.contains("the worker a worker of the tests made layer") && done.err.contains("and this machine"), "{done:?}");
    nothing_is_half_done(&silo);
    // Without a check, a worker decides the contents of its step.
    with_engine(&silo, &engine.url, "check = \"0%\"\n");
    silo.write(".silo/recipes/mine.toml", &SHORT.replace("echo one", "echo more"));
    drop(silo.ok(["install", "--quiet", "--remote", "mine"]));
    assert_eq!(silo.ok(["run", "mine", "/other"]), "bad");
    for wrong in ["5", "101%", "%", "-1%"] {
        with_engine(&silo, &engine.url, &format!("check = \"{wrong}\"\n"));
        assert!(silo.fails(["list"]).err.contains("not a percentage"), "{wrong}");
    }
}

#[test]
fn a_stop_cancels_the_step_on_the_engine() {
    let Some((engine, silo)) = prepared("") else { return };
    engine.fail(Fault::Wait);
    let child = silo.command(["install", "--remote", "mine"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    engine.await_worker();
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("our own child");
    let done = child.wait_with_output().expect("silo ends");
    assert_eq!(done.status.code(), Some(130), "{done:?}");
    engine.await_cancellation();
    engine.release();
    engine.fail(Fault::None);
    nothing_is_half_done(&silo);
}

#[test]
fn a_step_that_is_too_slow_is_said_as_one() {
    let Some((engine, silo)) = prepared("queueSeconds = 1\ntimeSeconds = 1\n") else { return };
    engine.fail(Fault::Wait);
    let done = silo.fails(["install", "--remote", "mine"]);
    assert!(done.err.contains("the step ran longer than 1 s"), "{done:?}\n{}", engine.log());
    engine.release();
    engine.fail(Fault::None);
    nothing_is_half_done(&silo);
}

#[test]
fn a_cut_connection_waits_for_the_same_step() {
    let Some((engine, silo)) = prepared("") else { return };
    let between = engine::Wire::new(&engine);
    with_engine(&silo, &between.url, "");
    engine.fail(Fault::Wait);
    let child = silo.command(["install", "--remote", "mine"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    engine.await_worker();
    between.cut();
    between.await_another();
    engine.release();
    let done = child.wait_with_output().expect("silo ends");
    assert!(done.status.success(), "{done:?}\n{}", engine.log());
    assert_eq!(engine.begun(), 1, "the step ran once");
    assert_eq!(silo.ok(["run", "mine", "/opt/one"]), "one\n");
}

#[test]
fn an_engine_behind_tls_must_have_a_certificate_of_a_known_authority() {
    let Some((engine, silo)) = prepared("") else { return };
    let front = TlsFront::start(engine.url.trim_start_matches("http://"), &silo.path(""));
    let refused = |url: &str, more: &str, expect: &str| {
        with_engine(&silo, url, more);
        let done = silo.fails(["install", "--remote", "mine"]);
        assert!(done.err.contains(expect) && done.err.contains(&front.port.to_string()), "{url}: {done:?}");
    };
    let certificates = format!("certificates = \"{}\"\n", front.authority.display());
    refused(&format!("https://localhost:{}", front.port), "", "UnknownIssuer");
    // The certificate is for another name.
    refused(&format!("https://127.0.0.1:{}", front.port), &certificates, "not valid for name");
    refused(&format!("http://localhost:{}", front.port), "", "could not run on a worker");
    assert_eq!(engine.begun(), 0, "nothing was sent");
    with_engine(&silo, &format!("https://localhost:{}", front.port), &certificates);
    let done = silo.run(["install", "--remote", "mine"]);
    assert!(done.code == 0 && engine.begun() == 1, "{done:?}\n{}", engine.log());
    assert_eq!(silo.ok(["run", "mine", "/opt/one"]), "one\n");
}

#[test]
fn a_lost_engine_is_a_clear_error_and_leaves_nothing() {
    let silo = Silo::seeded();
    silo.write(".silo/recipes/mine.toml", SHORT);
    let port = crate::support::free_port();
    with_engine(&silo, &format!("http://127.0.0.1:{port}"), "");
    let done = silo.fails(["install", "--remote", "mine"]);
    assert!(done.err.contains("could not run on a worker") && done.err.contains(&format!("127.0.0.1:{port}")), "{done:?}");
    for (words, expect) in
        [(["install", "--remote=other", "mine"], "has no [remote.other]"), (["install", "--remote=", "mine"], "has no [remote.]")]
    {
        assert!(silo.fails(words).err.contains(expect), "{words:?}");
    }
    nothing_is_half_done(&silo);
    fs::write(silo.project().join("silo.toml"), "tools = [\"mine\"]\n[remote.mine]\nendpoint = \"http://127.0.0.1:1\"\n")
        .expect("our own file");
    let done = silo.fails(["sync"]);
    assert!(done.err.contains("remote is a user setting"), "{done:?}");
}
