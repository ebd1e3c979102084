//! The records of runs.

use std::fs;

use crate::support::{As, Silo, done};

fn runs(silo: &Silo) -> Vec<serde_json::Value> {
    serde_json::from_str(&silo.ok(["log", "--runs", "--json"])).expect("JSON")
}

/// A shared home has other tests' runs, so a run is found by its project.
fn last(silo: &Silo) -> serde_json::Value {
    let project = fs::canonicalize(silo.project()).expect("there").display().to_string();
    let own = runs(silo).into_iter().find(|entry| entry["run"]["project"] == *project);
    own.expect("the run is recorded")
}

#[test]
fn a_run_is_recorded_with_its_rights_and_its_end_and_without_secrets() {
    let silo = Silo::shared(As::Me);
    let secret = "v3ry-s3cret";
    let tried = silo.run(["run", "--env", &format!("TOKEN={secret}"), "--memory", "512M", "sh", "-c", &format!("exit 7 # {secret}")]);
    assert_eq!(tried.code, 7, "{tried:?}");
    let entry = last(&silo);
    let run = &entry["run"];
    assert_eq!(entry["state"], "ended");
    assert_eq!((&run["ended"]["how"], &run["ended"]["code"]), (&"exited".into(), &7.into()));
    assert_eq!((&run["tool"], &run["arguments"], &run["machine"]), (&"sh".into(), &2.into(), &false.into()));
    assert_eq!(run["image"].as_str().map(str::len), Some(64));
    let granted = &run["granted"];
    assert_eq!(granted["memory_bytes"], 512 << 20);
    let names: Vec<&str> = granted["variables"].as_array().expect("a list").iter().filter_map(|name| name.as_str()).collect();
    assert!(names.contains(&"TOKEN") && names.contains(&"PATH"), "{names:?}");
    let files = granted["files"].as_array().expect("a list");
    assert!(files.iter().any(|file| file["path"] == run["project"] && file["writable"] == true), "{files:?}");
    for text in [entry.to_string(), silo.ok(["log", "--runs", "sh"])] {
        assert!(!text.contains(secret), "{text}");
    }
    let path = silo.ok(["log", "--runs", "--path"]);
    let path = path.lines().next().expect("a path");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("there").permissions()) & 0o77, 0);
    // A program that is not there has a record, too.
    assert_eq!(silo.run(["run", "--shim", "/no/such/program", "sh"]).code, 127);
    let run = &last(&silo)["run"];
    assert_eq!((&run["ended"]["how"], &run["ended"]["code"], &run["program"]), (&"failed".into(), &127.into(), &"/no/such/program".into()));
}

#[test]
fn changes_of_a_run_are_recorded_and_cannot_write_on_the_terminal() {
    let silo = Silo::shared(As::Me);
    let git = |args: &[&str]| done(std::process::Command::new("git").args(args).current_dir(silo.project()));
    let _ = git(&["init", "-q", "-b", "main"]);
    let _ = git(&["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "one"]);
    let name = "evil\u{1b}]0;owned\u{7}\u{202e}.code-workspace";
    let script = format!(
        "echo 'x' > '{name}'; cp .git/refs/heads/main /tmp/id; mkdir -p .git/refs/heads/new; cp /tmp/id .git/refs/heads/new/branch; kill -9 $$"
    );
    let tried = silo.run(["sh", "-c", &script]);
    assert_eq!(tried.code, 137, "{tried:?}");
    let run = &last(&silo)["run"];
    assert_eq!((&run["ended"]["how"], &run["ended"]["signal"]), (&"killed".into(), &9.into()), "{run}");
    assert_eq!(run["changed"]["refs"], serde_json::json!(["refs/heads/new/branch"]), "{run}");
    let files = run["changed"]["files"].to_string();
    assert!(files.contains("evil") && files.contains("new"), "{files}");
    for output in [silo.ok(["log", "--runs"]), silo.ok(["log", "--runs", "--json"])] {
        assert!(!output.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{output:?}");
    }
}

#[test]
fn records_are_removed_with_age_and_a_running_one_stays() {
    let silo = Silo::new();
    let dir = silo.home().join(".silo/logs/runs");
    fs::create_dir_all(&dir).expect("our own home");
    fs::write(dir.join("000000000001-1.json"), "{}").expect("our own home");
    fs::write(dir.join("000000000002-1.json"), "{}").expect("our own home");
    fs::write(dir.join(".000000000003-1.json.new"), "").expect("our own home");
    let held = fs::File::open(dir.join("000000000002-1.json")).expect("there");
    held.lock().expect("locked");
    let _ = silo.ok(["gc", "--all"]);
    let names = || fs::read_dir(&dir).expect("there").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert_eq!(names(), ["000000000002-1.json"]);
    drop(held);
    let _ = silo.ok(["gc", "--all"]);
    assert!(names().is_empty());
}
