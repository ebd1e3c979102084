//! Disk use: reports, garbage collection and compression, which never remove needed files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use silo_base::home::Home;
use silo_build::image::ImageId;
use silo_guard::git::layer::Layer;
use silo_guard::git::layer_inputs::LayerInputs;
use silo_guard::git::repository::Repository;
use silo_store::{LayerId, LayerPath, Meta, Record, Store, flock, layer};
use silo_tool::projects::{self, Pinned, Project};

use crate::faults::silo_with_sh;
use crate::support::{Silo, has, outcome, skip};

fn json(silo: &Silo, args: &[&str]) -> Value {
    json_of(&silo.ok(args))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("--json prints JSON")
}

fn store(silo: &Silo) -> Store {
    Store::open(&silo.path("")).expect("a store")
}

fn image(silo: &Silo) -> String {
    json(silo, &["list", "--json"])[0]["image"].as_str().expect("sh is installed").to_owned()
}

/// A layer that nothing needs, of this many bytes.
fn stray(silo: &Silo, name: &str, bytes: usize) -> LayerId {
    let store = store(silo);
    let mut stage = store.stage().expect("a stage");
    let meta = Meta { mode: 0o644, mtime: 1_000_000_000, ..Meta::default() };
    let path = LayerPath::parse(name.as_bytes()).expect("a path");
    stage.add_file(&path, &meta, &mut vec![b'x'; bytes].as_slice(), u64::MAX).expect("a file");
    stage.commit(&Record::default(), &flock::share(&store).expect("nobody collects")).expect("a layer").id
}

fn used(path: &Path, ago: Duration) {
    File::open(path).and_then(|file| file.set_modified(SystemTime::now() - ago)).expect("our own file");
}

/// A sandbox that reports its start and runs until it is stopped.
fn sandbox(silo: &Silo) -> Child {
    let mut command = silo.command(["run", "--no-project", "sh", "-c", "echo ready; read x; cat /etc/os-release | head -1; ls /bin/sh"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("silo starts");
    let mut line = String::new();
    let mut out = BufReader::with_capacity(1, child.stdout.take().expect("it is piped"));
    out.read_line(&mut line).expect("it says something");
    assert_eq!(line, "ready\n");
    child.stdout = Some(out.into_inner());
    child
}

fn end(mut child: Child) -> crate::support::Done {
    child.stdin.take().expect("it is piped").write_all(b"x\n").expect("it reads");
    outcome(child.wait_with_output().expect("it ends"))
}

fn works(silo: &Silo) -> String {
    let done = silo.run(["run", "--no-project", "sh", "-c", "echo works"]);
    assert_eq!((done.code, done.out.as_str()), (0, "works\n"), "{done:?}");
    done.err
}

#[test]
fn the_report_is_what_du_says() {
    let silo = silo_with_sh();
    silo.write(".silo/downloads/one", "fetched");
    // The copy lacks some empty directories, which any command makes.
    let _ = silo.ok(["list"]);
    let du = Command::new("du").args(["-s", "--block-size=1"]).arg(silo.path("")).output().expect("du runs");
    let du: u64 = String::from_utf8_lossy(&du.stdout).split_whitespace().next().expect("a number").parse().expect("a number");
    let report = json(&silo, &["cache", "report", "--json"]);
    let rooms = report["rooms"].as_array().expect("rooms");
    assert_eq!(rooms.iter().map(|room| room["bytes"].as_u64().expect("bytes")).sum::<u64>(), du);
    assert_eq!(report["bytes"].as_u64(), Some(du));
    assert!(silo.ok(["cache", "report"]).contains("\ntotal "));
}

#[test]
fn a_running_sandbox_keeps_its_image_and_nothing_else() {
    let silo = silo_with_sh();
    let running = sandbox(&silo);
    let _ = silo.ok(["uninstall", "sh"]);
    let stray = stray(&silo, "stray", 10_000);
    let layers = layer::list(&store(&silo)).expect("a store").len();
    let _ = silo.ok(["gc", "--all"]);
    assert!(!store(&silo).has(&stray), "what it does not use goes");
    assert_eq!(layer::list(&store(&silo)).expect("a store").len(), layers - 1, "what it uses stays");
    let list = json(&silo, &["cache", "list", "--json"]);
    let kept = list[0]["keptBy"][0].as_str().expect("a reason");
    assert!(kept.starts_with("the running sandbox of `silo run --no-project") && kept.contains(&running.id().to_string()), "{kept}");
    assert!(silo.fails(["reset", "--force"]).err.contains("1 images are in use by running sandboxes"));
    let _ = silo.ok(["cache", "compress", "--all"]);
    let done = end(running);
    assert!(done.code == 0 && done.out.ends_with("/bin/sh\n") && done.out.starts_with("PRETTY_NAME"), "{done:?}");
    let _ = silo.ok(["gc", "--all"]);
    assert_eq!((layer::list(&store(&silo)).expect("a store").len(), fs::read_dir(silo.path("images")).expect("images").count()), (0, 0));
    assert_eq!(fs::read_dir(silo.path("locks")).expect("locks").count(), 1);
}

#[test]
fn a_store_in_use_names_its_user() {
    let silo = silo_with_sh();
    let store = store(&silo);
    let shared = flock::share(&store).expect("nobody collects");
    let done = silo.fails(["gc"]);
    assert!(done.err.contains(&format!("(process {})", std::process::id())), "{done:?}");
    assert!(done.err.contains("hint: try again when it has ended"), "{done:?}");
    assert_eq!(works(&silo), "", "a run does not mind");
    drop(shared);
    let _ = silo.ok(["gc"]);
}

#[test]
fn the_least_recently_used_goes_first() {
    let silo = silo_with_sh();
    let mut layers = Vec::new();
    for (name, days) in [("old", 30), ("middle", 20), ("young", 1)] {
        let id = stray(&silo, name, 1 << 20);
        used(&store(&silo).layer(&id), Duration::from_secs(days * 86_400));
        layers.push(id);
    }
    silo.write(".silo/downloads/fetched", &"x".repeat(1 << 20));
    used(&silo.path("downloads/fetched"), Duration::from_secs(25 * 86_400));
    let left = || {
        let there = layers.iter().map(|id| store(&silo).has(id));
        there.chain([silo.path("downloads/fetched").exists()]).collect::<Vec<bool>>()
    };
    let total = json(&silo, &["cache", "report", "--json"])["bytes"].as_u64().expect("bytes");
    let cap = (total - (3 << 19)).to_string();
    let would = json(&silo, &["gc", "--max-size", &cap, "--dry-run", "--json"]);
    assert_eq!((would["layers"].as_u64(), would["downloads"].as_u64()), (Some(1), Some(1)), "{would}");
    assert_eq!(left(), [true, true, true, true], "a dry run removes nothing");
    let did = json(&silo, &["gc", "--max-size", &cap, "--json"]);
    assert_eq!(left(), [false, true, true, false], "{did}");
    assert_eq!(did["bytes"], would["bytes"]);
    assert!(json(&silo, &["cache", "report", "--json"])["bytes"].as_u64().expect("bytes") <= cap.parse().expect("a number"));
    let _ = silo.ok(["gc", "--max-age", "15d", "--min-age", "21d"]);
    assert_eq!(left(), [false, true, true, false]);
    let _ = silo.ok(["gc", "--max-age", "15d"]);
    assert_eq!(left(), [false, false, true, false]);
    let why = silo.ok(["gc", "--why", &layers[2].to_string()[..12]]);
    assert!(why.contains("kept by nothing"), "{why}");
    let needed = image(&silo);
    assert!(silo.ok(["gc", "--why", &needed[..12]]).contains("kept by tool sh"));
    // Needed files stay, however low the limit.
    let _ = silo.ok(["gc", "--max-size", "0"]);
    assert_eq!(left(), [false, false, false, false]);
    assert_eq!(works(&silo), "");
    for (args, expect) in [(["gc", "--max-size", "5X"], "such as 500M"), (["gc", "--why", "zz"], "is not the beginning of an id")] {
        let done = silo.fails(args);
        assert!(done.code == 2 && done.err.contains(expect), "{done:?}");
    }
}

#[test]
fn a_compressed_tool_is_made_ready_by_its_next_run() {
    let silo = silo_with_sh();
    let root = silo.image_root("sh");
    let bytes = || json(&silo, &["cache", "report", "--json"])["bytes"].as_u64().expect("bytes");
    let before = bytes();
    assert_eq!(json(&silo, &["cache", "compress", "--json"])["images"].as_u64(), Some(0), "it was used lately");
    used(root.parent().expect("an image"), Duration::from_secs(40 * 86_400));
    let done = json(&silo, &["cache", "compress", "--json"]);
    assert!(done["images"] == 1 && !root.exists(), "{done}");
    assert!(bytes() < before / 2, "{} of {before}", bytes());
    let list = silo.ok(["cache", "list"]);
    assert!(list.contains("compressed") && list.contains("40 d ago"), "compressing is no use: {list}");
    assert!(silo.ok(["verify"]).contains(" 0 faults"));
    assert!(silo.ok(["install", "sh"]).contains("is installed already"));
    let said = works(&silo);
    assert!(said.contains("restoring it") && said.lines().count() == 1, "{said}");
    assert_eq!(works(&silo), "");
    assert!(silo.ok(["verify"]).contains(" 0 faults"));
    // Some directories and records that runs make were not there before.
    assert!(bytes() <= before + 16 * 4096, "{} and {before} before", bytes());
    // A broken archive is not taken for the layer.
    let _ = silo.ok(["cache", "compress", "--all"]);
    let id = layer::list(&store(&silo)).expect("a store")[0];
    fs::write(store(&silo).packed(&id), "junk").expect("our own file");
    let done = silo.fails(["run", "--no-project", "sh", "-c", "true"]);
    assert!(done.code == 125 && done.err.contains("could not be restored") && done.err.contains("hint: "), "{done:?}");
    assert!(!root.exists());
}

/// Kills a command after a while; says whether it was still running.
fn killed(silo: &Silo, args: &[&str], after: Duration) -> bool {
    let mut child = silo.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
    thread::sleep(after);
    let ran = child.try_wait().expect("our own child").is_none();
    child.kill().expect("our own child");
    let _ = child.wait().expect("our own child");
    ran
}

#[test]
fn killed_while_compressing_and_collecting() {
    let silo = silo_with_sh();
    let began = Instant::now();
    let _ = silo.ok(["cache", "compress", "--all"]);
    let whole = began.elapsed();
    let _ = works(&silo);
    for round in 1..=rounds() {
        let _ = killed(&silo, &["cache", "compress", "--all"], whole * round / rounds());
        let _ = works(&silo);
        let stray = stray(&silo, &format!("stray-{round}"), 4 << 20);
        let _ = killed(&silo, &["gc", "--all"], Duration::from_millis(u64::from(round * 60 / rounds())));
        assert_eq!(works(&silo), "", "round {round}");
        if store(&silo).has(&stray) {
            assert_eq!(silo_store::verify::verify_layer(&store(&silo), &stray).expect("it can be read"), []);
        }
    }
    assert!(silo.ok(["verify"]).contains(" 0 faults"));
    let _ = silo.ok(["gc", "--all"]);
    for empty in ["stage", "work"] {
        assert_eq!(fs::read_dir(silo.path(empty)).map_or(0, Iterator::count), 0, "{empty}");
    }
}

/// The number of kills: a few, or SILO_TEST_ROUNDS.
fn rounds() -> u32 {
    std::env::var("SILO_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

#[test]
fn projects_keep_their_images_until_they_are_gone() {
    let silo = silo_with_sh();
    let (home, store) = (Home::new(silo.path("")), store(&silo));
    let path = fs::canonicalize(silo.project()).expect("our own project");
    let other = path.join("other");
    fs::create_dir(&other).expect("our own project");
    let pinned = Pinned { version: "0.5.12".to_owned(), image: ImageId::parse(&image(&silo)).expect("an id") };
    assert_eq!(silo.ok(["projects", "ls"]), "nothing is kept for any project\n");
    for path in [&path, &other] {
        let project = Project { path: path.clone(), tools: BTreeMap::from([("sh".to_owned(), pinned.clone())]), last_used: 1_000_000_000 };
        projects::put(&home, &store, &flock::share(&store).expect("nobody collects"), &project).expect("recorded");
    }
    assert_eq!(silo.ok(["sh", "-c", "echo seen"]), "seen\n");
    let rows = json(&silo, &["projects", "ls", "--json"]);
    assert_eq!((rows[0]["status"].as_str(), rows[1]["status"].as_str()), (Some("ok"), Some("ok")), "{rows}");
    assert!(rows[0]["lastUsedAt"].as_str() > rows[1]["lastUsedAt"].as_str(), "a run is a use: {rows}");
    assert!(rows[0]["sizeBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{rows}");

    // The tool goes, the projects stay, and so does the image.
    let _ = silo.ok(["uninstall", "sh"]);
    let _ = silo.ok(["prune"]);
    assert!(store.image(&pinned.image.digest()).exists());
    let why = silo.ok(["gc", "--why", &pinned.image.to_string()]);
    assert!(why.contains(&format!("kept by project {}", path.display())), "{why}");
    let said = silo.ok(["clean", "--force"]);
    assert!(said.contains("1 images stay, because other tools or projects need them"), "{said}");
    assert!(store.image(&pinned.image.digest()).exists());

    fs::remove_dir(&other).expect("our own project");
    let table = silo.ok(["projects", "ls", "--orphaned"]);
    assert!(table.starts_with("PATH ") && table.contains("sh@0.5.12") && table.trim_end().ends_with("orphaned"), "{table}");
    assert!(silo.ok(["clean", "--orphaned", "--dry-run"]).contains("1 images and "));
    let done = silo.fails(["clean", "--orphaned"]);
    assert!(done.code == 2 && done.err.contains("hint: --force does it without asking"), "{done:?}");
    let said = silo.ok(["clean", "--orphaned", "--force"]);
    assert!(!store.image(&pinned.image.digest()).exists() && layer::list(&store).expect("a store").is_empty(), "{said}");
    assert_eq!(fs::read_dir(silo.path("roots/project")).expect("roots").count(), 0);
    assert!(silo.fails(["clean"]).err.contains("hint: `silo projects ls` lists"));
}

#[test]
fn a_reset_leaves_nothing() {
    let silo = silo_with_sh();
    let done = silo.fails(["reset"]);
    assert!(done.code == 2 && done.err.contains("hint: --force"), "{done:?}");
    assert_eq!(works(&silo), "");
    let store = store(&silo);
    let shared = flock::share(&store).expect("nobody collects");
    assert!(silo.fails(["reset", "--force"]).err.contains("the store is in use by"));
    drop(shared);
    silo.write(".silo/silo.toml", "broken");
    fs::create_dir_all(silo.path("work/locked/below")).expect("our own directory");
    fs::set_permissions(silo.path("work/locked"), fs::Permissions::from_mode(0o500)).expect("our own directory");
    let _ = silo.ok(["reset", "--force"]);
    assert_eq!(fs::read_dir(silo.home()).expect("our own home").flatten().filter(|entry| entry.file_name() != "project").count(), 0);
    assert!(silo.ok(["reset", "--force"]).starts_with("there is no "));
}

#[test]
fn garbage_is_collected_automatically_at_most_once_a_day() {
    let silo = silo_with_sh();
    let old = stray(&silo, "old", 1 << 20);
    let long_ago = Duration::from_secs(40 * 86_400);
    used(&store(&silo).layer(&old), long_ago);
    let again = || {
        let _ = silo.ok(["uninstall", "sh"]);
        silo.ok(["install", "--quiet", "sh"])
    };
    again();
    assert!(store(&silo).has(&old), "the first time it only begins to count");
    again();
    assert!(store(&silo).has(&old), "not twice a day");
    used(&silo.path("collected"), Duration::from_secs(2 * 86_400));
    silo.write(".silo/silo.toml", "[gc]\nauto = false\n");
    again();
    assert!(store(&silo).has(&old), "not where it is not wanted");
    silo.write(".silo/silo.toml", "[gc]\nmaxAge = \"50d\"\n");
    again();
    assert!(store(&silo).has(&old), "not before its time");
    used(&silo.path("collected"), Duration::from_secs(2 * 86_400));
    silo.write(".silo/silo.toml", "");
    again();
    assert!(!store(&silo).has(&old));
    silo.write(".silo/silo.toml", "[gc]\nmaxSize = \"much\"\n");
    assert!(silo.fails(["list"]).err.contains("gc.maxSize: \"much\" is not a size"));
}

/// A layer over a project's repository whose run was killed while it wrote a commit message.
fn killed_over(silo: &Silo, project: &Path) {
    let done = Command::new("git").args(["init", "-q"]).arg(project).status();
    assert!(done.is_ok_and(|status| status.success()));
    let repository = Repository::find(project).expect("read").expect("a repository");
    let layers = silo.path("repositories");
    let layer = Layer::begin(LayerInputs { layers: &layers, project, repository: &repository, submodules: &[] }).expect("begun");
    fs::write(layer.upper().join("MERGE_MSG"), "inside\n").expect("our own");
}

#[test]
fn objects_of_killed_runs_are_reported_and_imported() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = silo_with_sh();
    let project = fs::canonicalize(silo.project()).expect("there");
    let gone = project.join("gone");
    killed_over(&silo, &project);
    killed_over(&silo, &gone);
    fs::remove_dir_all(&gone).expect("our own");
    let would = json(&silo, &["gc", "--dry-run", "--json"]);
    assert_eq!((would["leftovers"].as_u64(), would["waiting"].as_array().map(Vec::len)), (Some(1), Some(1)), "{would}");
    let done = silo.run(["gc"]);
    let told = format!("of work for the repository of {}; `silo doctor --fix` imports it", project.display());
    assert!(done.code == 0 && done.out.contains(" 1 leftovers removed") && done.err.contains(&told), "{done:?}");
    let waiting = json(&silo, &["gc", "--json"])["waiting"].clone();
    assert!(waiting[0]["project"] == *project.to_string_lossy() && waiting[0]["bytes"].as_u64() > Some(0), "{waiting}");
    let checks = json_of(&silo.run(["doctor", "--json"]).out);
    assert!(checks.as_array().is_some_and(|checks| checks.iter().any(|check| check["name"] == "repositories")), "{checks}");
    assert!(json(&silo, &["cache", "report", "--json"]).to_string().contains("repositories"));
    let fixed = silo.run(["doctor", "--fix"]);
    assert!(fixed.err.contains("imported the work of a killed run into the repository of"), "{fixed:?}");
    assert_eq!(fs::read_to_string(project.join(".git/MERGE_MSG")).expect("imported"), "inside\n");
    assert_eq!(fs::read_dir(silo.path("repositories")).expect("there").count(), 0);
    assert!(!silo.run(["doctor"]).out.contains("repositories"));
}

#[test]
fn partial_writes_of_killed_commands_are_removed() {
    for verb in [&["gc"][..], &["doctor", "--fix"]] {
        let silo = silo_with_sh();
        let record = silo.path("trust/2-3-4");
        silo.write(".silo/trust/2-3-4/known/silo.toml", "whole");
        let had_shims = silo.path("program").is_symlink();
        let half = [
            silo.path("projects/.0123456789abcdef.toml.new"),
            silo.path("tools/.sh.toml.new"),
            silo.path("recipe-locks/.sh.lock.new"),
            record.join(".record.toml.new"),
            record.join("known/.silo.toml.new"),
            silo.path("projects/0123456789abcdef.new.4194304"),
            silo.path("program.new.4194304"),
        ];
        for path in &half {
            fs::create_dir_all(path.parent().expect("not the root")).expect("our own");
            fs::write(path, "half").expect("our own");
        }
        std::os::unix::fs::symlink("/nowhere", silo.path("program.new")).expect("our own");
        let _ = silo.run(verb);
        let there = half.iter().filter(|path| path.exists()).count() + usize::from(silo.path("program.new").is_symlink());
        assert_eq!(there, 0, "{verb:?}: {half:?}");
        assert!(record.join("known/silo.toml").exists());
        assert!(silo.path("program").is_symlink() || !had_shims);
    }
}

/// A run in review mode that makes a file.
fn reviewed(silo: &Silo, text: &str) {
    let done = silo.run(["run", "--review", "sh", "-c", text]);
    assert_eq!(done.code, 0, "{done:?}");
}

/// The doctor's line about reviews.
fn doctor(silo: &Silo) -> Option<Value> {
    let done = silo.run(["doctor", "--json"]);
    let checks: Vec<Value> = serde_json::from_str(&done.out).expect("JSON");
    checks.into_iter().find(|check| check["name"] == "reviews")
}

#[test]
fn undecided_changes_stay_as_long_as_their_project() {
    let silo = silo_with_sh();
    assert!(doctor(&silo).is_none());
    reviewed(&silo, "head -c 3000000 /dev/zero > big; echo x > small");
    let room = || json(&silo, &["cache", "report", "--json"])["rooms"].as_array().expect("rooms").clone();
    let reviews = || room().iter().find(|room| room["room"] == "reviews").expect("a room")["bytes"].as_u64().expect("bytes");
    assert!(reviews() > 3_000_000);
    let check = doctor(&silo).expect("changes wait");
    assert!(check["state"] == "ok" && check["detail"].as_str().is_some_and(|text| text.contains("wait for a decision")), "{check}");
    let listed = json(&silo, &["projects", "ls", "--json"]);
    assert!(listed[0]["status"] == "ok" && listed[0]["sizeBytes"].as_u64() > Some(3_000_000), "{listed}");
    assert_eq!(json(&silo, &["gc", "--all", "--json"])["reviews"], 0);
    assert!(reviews() > 3_000_000);

    // Decided: the replaced files stay for a day, and then nothing does.
    fs::write(silo.project().join("small"), "here").expect("our own project");
    let _ = silo.ok(["discard", "small"]);
    let _ = silo.ok(["apply"]);
    assert_eq!(json(&silo, &["gc", "--all", "--json"])["reviews"], 0);
    let _ = silo.ok(["apply", "--undo"]);
    assert!(!silo.project().join("big").exists());
    let plans = |age: u64| {
        for review in fs::read_dir(silo.path("reviews")).expect("reviews").flatten() {
            for decision in fs::read_dir(review.path().join("done")).expect("decisions").flatten() {
                let path = decision.path().join("plan.json");
                let mut plan: Value = json_of(&fs::read_to_string(&path).expect("a plan"));
                plan["at"] = (plan["at"].as_u64().expect("seconds") - age).into();
                fs::write(&path, plan.to_string()).expect("our own file");
            }
        }
    };
    plans(2 * 86_400);
    let would = json(&silo, &["gc", "--dry-run", "--json"]);
    let before = reviews();
    let did = json(&silo, &["gc", "--json"]);
    assert!(did["bytes"] == would["bytes"] && before - reviews() > 3_000_000, "{did} {would} {before}");
    assert!(silo.fails(["apply", "--undo"]).err.contains("no applied changes"));
    let _ = silo.ok(["gc"]);
    assert_eq!(fs::read_dir(silo.path("reviews")).expect("reviews").count(), 0);
    assert!(doctor(&silo).is_none());
}

#[test]
fn changes_of_a_removed_project_stay_for_some_time_and_clean_removes_them() {
    let silo = silo_with_sh();
    let parent = silo.project().join("..").canonicalize().expect("there");
    let make = |name: &str| {
        let dir = parent.join(name);
        fs::create_dir(&dir).expect("our own directory");
        let done = outcome(silo.command(["run", "--review", "sh", "-c", "echo x > file"]).current_dir(&dir).output().expect("silo starts"));
        assert_eq!(done.code, 0, "{done:?}");
        dir
    };
    let (gone, moved) = (make("gone"), make("moved"));
    fs::remove_dir_all(&gone).expect("our own directory");
    fs::rename(&moved, parent.join("new")).expect("our own directory");
    let check = doctor(&silo).expect("a project is gone");
    assert!(check["state"] == "degraded" && check["cure"].as_str().is_some_and(|cure| cure.contains("silo clean --orphaned")), "{check}");
    assert_eq!(json(&silo, &["gc", "--all", "--json"])["reviews"], 0);
    // The moved project has its changes at the new path.
    let review = |verb: &[&str]| outcome(silo.command(verb).current_dir(parent.join("new")).output().expect("silo starts"));
    let listed = review(&["review", "--list"]);
    assert!(listed.code == 0 && listed.out.contains("file"), "{listed:?}");
    assert_eq!(review(&["apply"]).code, 0);
    assert_eq!(fs::read_to_string(parent.join("new/file")).expect("applied"), "x\n");
    let cleaned = silo.ok(["clean", "--orphaned", "--dry-run"]);
    assert!(cleaned.contains("undecided changes") && cleaned.contains("/gone"), "{cleaned}");
    for dir in fs::read_dir(silo.path("reviews")).expect("reviews").flatten() {
        used(&dir.path().join("lock"), Duration::from_secs(15 * 86_400));
    }
    // That of the moved project, too: all its changes are decided, and it is not known under its new path.
    let did = json(&silo, &["gc", "--json"]);
    assert_eq!(did["reviews"], 2, "{did}");

    let gone = make("gone");
    fs::remove_dir_all(&gone).expect("our own directory");
    let cleaned = silo.ok(["clean", "--orphaned", "--force"]);
    assert!(cleaned.contains("1 review"), "{cleaned}");
    assert_eq!(fs::read_dir(silo.path("reviews")).expect("reviews").count(), 0);
}
