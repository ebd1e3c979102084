//! Silo obeys no project file that a sandboxed program made, unless it was approved.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::sandbox::until;
use crate::support::{As, Done, NOBODY, Silo, done, is_root, skip};

/// A `silo.toml` that shows itself by a variable.
const MADE_INSIDE: &str = "printf '[overrides.sh]\\nenv = { MADE_INSIDE = \"obeyed\" }\\n'";

/// Starts a sandbox that runs a script and then waits until there is a file `stop`.
fn running(silo: &Silo, dir: &Path, script: &str) -> Child {
    let script = format!("{script}; touch ready; while ! [ -e stop ]; do sleep 0.05; done");
    let mut command = silo.command(["sh", "-c", &script]);
    let child = command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
    until("it runs", || dir.join("ready").exists());
    child
}

fn stop(mut child: Child, dir: &Path) {
    fs::write(dir.join("stop"), "").expect("our own project");
    let _ = child.wait().expect("it ends");
    for name in ["ready", "stop"] {
        fs::remove_file(dir.join(name)).expect("our own project");
    }
}

fn shown(silo: &Silo, dir: &Path) -> Done {
    done(silo.command(["sh", "-c", "echo [$MADE_INSIDE]"]).current_dir(dir))
}

fn is_refused(done: &Done, line: &str) -> bool {
    done.code == 125 && done.out.is_empty() && done.err.contains(line)
}

#[test]
fn a_file_that_a_running_sandbox_made_is_obeyed_once_it_is_approved() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    let first = running(&silo, &project, &format!("{MADE_INSIDE} > silo.toml"));
    let line = "silo.toml is new: overrides.sh.env.MADE_INSIDE = \\\"obeyed\\\"";
    let refused = shown(&silo, &project);
    assert!(is_refused(&refused, line), "{refused:?}");
    // Another sandbox of the same project cannot help it.
    let help = silo.run(["run", "--no-project", "sh", "-c", "echo [$MADE_INSIDE]"]);
    assert_eq!((help.code, help.out.as_str()), (0, "[]\n"), "{help:?}");
    stop(first, &project);
    let refused = shown(&silo, &project);
    assert!(is_refused(&refused, line), "it is still what the sandbox made: {refused:?}");
    assert!(silo.run(["trust"]).out.contains(line), "nobody is there to be asked");
    let _ = silo.ok(["trust", "--yes"]);
    assert_eq!(shown(&silo, &project).out, "[obeyed]\n");
    // Later files of the user need no approval.
    fs::write(project.join("silo.toml"), "[overrides.sh]\nenv = { MADE_INSIDE = \"mine\" }\n").expect("our own project");
    assert_eq!(shown(&silo, &project).out, "[mine]\n");
}

#[test]
fn a_file_that_a_sandbox_made_is_not_obeyed_after_its_silo_was_killed() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    for (file, script, line) in [
        ("silo.toml", format!("{MADE_INSIDE} > silo.toml"), "silo.toml is new"),
        ("silo.lock", "printf 'version = 2\\n' > silo.lock".to_owned(), "silo.lock is new"),
        (".siloconf", "echo 'passEnv: []' > .siloconf".to_owned(), ".siloconf is new"),
    ] {
        let mut killed = running(&silo, &project, &script);
        killed.kill().expect("our own child");
        let _ = killed.wait().expect("it ends");
        for _ in 0..2 {
            let refused = shown(&silo, &project);
            assert!(is_refused(&refused, line), "{file}: {refused:?}");
        }
        for name in [file, "ready"] {
            fs::remove_file(project.join(name)).expect("our own project");
        }
        assert_eq!(shown(&silo, &project).out, "[]\n", "it is as it was");
    }
    // Recipes, beside a silo.toml of the user's.
    fs::write(project.join("silo.toml"), "").expect("our own project");
    let mut killed = running(&silo, &project, "mkdir recipes; printf '[run]\\nenv = { MADE_INSIDE = \"obeyed\" }\\n' > recipes/sh.toml");
    killed.kill().expect("our own child");
    let _ = killed.wait().expect("it ends");
    let refused = shown(&silo, &project);
    assert!(is_refused(&refused, "recipes/sh.toml is new"), "{refused:?}");
}

#[test]
fn a_sandbox_of_a_directory_above_cannot_have_a_project_obeyed_that_it_made() {
    let silo = Silo::shared(As::Me);
    let (outer, inner) = (silo.project(), silo.project().join("inner"));
    let first = running(&silo, &outer, &format!("mkdir inner; {MADE_INSIDE} > inner/silo.toml"));
    let refused = shown(&silo, &inner);
    assert!(is_refused(&refused, "silo.toml is new"), "{refused:?}");
    stop(first, &outer);
    let refused = shown(&silo, &inner);
    assert!(is_refused(&refused, "silo.toml is new"), "it is still what the sandbox made: {refused:?}");
    let _ = done(silo.command(["trust", "--yes"]).current_dir(&inner));
    assert_eq!(shown(&silo, &inner).out, "[obeyed]\n");
}

#[test]
fn revoked_approvals_are_listed_and_asked_about_again() {
    let silo = Silo::shared(As::Me);
    assert!(silo.ok(["trust", "--revoke"]).ends_with("nothing was approved\n"));
    fs::write(silo.project().join("silo.toml"), "passEnv = [\"TOKEN\"]\n").expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
    assert_eq!(shown(&silo, &silo.project()).code, 0);
    assert!(silo.ok(["trust", "--revoke"]).ends_with("no longer approved\n  every tool sees the variable TOKEN\n"));
    let refused = shown(&silo, &silo.project());
    assert!(is_refused(&refused, "every tool sees the variable TOKEN"), "{refused:?}");
}

#[test]
fn another_directory_at_the_path_of_a_removed_project_gets_nothing_of_it() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    let settings = "passEnv = [\"TOKEN\"]\n[mount]\nexclude = [\"n\"]\n[overrides.sh]\nstate = [\"~/.login\"]\ncache = [\"~/.cache/x\"]\n";
    fs::write(project.join("silo.toml"), settings).expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sh", "-c", "echo secret | tee ~/.login/a ~/.cache/x/a > n/a"]);
    assert_eq!(silo.ok(["sh", "-c", "cat ~/.login/a ~/.cache/x/a n/a"]), "secret\nsecret\nsecret\n");
    fs::remove_dir_all(&project).expect("our own project");
    fs::create_dir(&project).expect("our own directory");
    fs::write(project.join("silo.toml"), settings).expect("our own project");
    let refused = silo.run(["sh", "-c", "cat ~/.login/a"]);
    assert!(is_refused(&refused, "every tool sees the variable TOKEN"), "{refused:?}");
    let _ = silo.ok(["trust", "--yes"]);
    let looked = silo.run(["sh", "-c", "cat ~/.login/a ~/.cache/x/a n/a; echo mine > ~/.login/a; cat ~/.login/a"]);
    assert!(looked.out == "mine\n" && looked.err.matches("No such file").count() == 3, "{looked:?}");
}

#[test]
fn a_lock_cannot_name_another_projects_layer_as_a_steps_result() {
    let settings = |run: &str| format!("[overrides.sh]\npostInstall = [{{ run = \"{run} > /opt/data\", project = true }}]\n");
    let with = |run: &str, data: &str| {
        let silo = Silo::shared(As::Me);
        fs::write(silo.project().join("silo.toml"), settings(run)).expect("our own project");
        fs::write(silo.project().join("data"), data).expect("our own project");
        let _ = silo.ok(["trust", "--yes"]);
        silo
    };
    let layer = |lock: &str| lock.split("layer = \"").nth(1).expect("a pinned step")[..64].to_owned();
    let private = with("cat data", "private\n");
    let _ = private.ok(["sync", "--quiet"]);
    assert_eq!(private.ok(["sh", "-c", "cat /opt/data"]), "private\n");
    let lock = fs::read_to_string(private.project().join("silo.lock")).expect("synced");
    // The same step, the same lock, and none of the files.
    let same = with("cat data", "other\n");
    fs::write(same.project().join("silo.lock"), &lock).expect("our own project");
    let early = same.run(["sh", "-c", "cat /opt/data"]);
    assert!(early.code == 125 && early.out.is_empty(), "{early:?}");
    let refused = same.fails(["sync", "--quiet"]);
    assert!(
        refused.err.contains("the output of `cat data > /opt/data` differs from the lock") && refused.err.contains("is locked"),
        "{refused:?}"
    );
    let late = same.run(["sh", "-c", "cat /opt/data"]);
    assert!(late.code == 125 && late.out.is_empty(), "{late:?}");
    // Another step, and a lock that names the private layer for it.
    let other = with("cat ./data", "honest\n");
    let _ = other.ok(["sync", "--quiet"]);
    let path = other.project().join("silo.lock");
    let honest = fs::read_to_string(&path).expect("synced");
    fs::write(&path, honest.replace(&layer(&honest), &layer(&lock))).expect("our own project");
    let told = other.ok(["trust"]);
    assert!(told.contains("sh: the result of `cat ./data > /opt/data` is ") && told.contains(" instead of "), "{told}");
    let refused = other.fails(["sync", "--quiet"]);
    assert!(refused.err.contains("differs from the lock"), "{refused:?}");
    let late = other.run(["sh", "-c", "cat /opt/data"]);
    assert!(late.code == 125 && late.out.is_empty(), "{late:?}");
    // The right one is taken, and a project with the same files rebuilds it.
    fs::write(&path, &honest).expect("our own project");
    assert_eq!(other.ok(["sh", "-c", "cat /opt/data"]), "honest\n");
    let rebuilt = with("cat data", "private\n");
    fs::write(rebuilt.project().join("silo.lock"), &lock).expect("our own project");
    let _ = rebuilt.ok(["sync", "--quiet", "--frozen"]);
    assert_eq!(rebuilt.ok(["sh", "-c", "cat /opt/data"]), "private\n");
}

/// Returns the values that `config show` in a directory has from a `silo.toml` above, and its words about an unused one.
fn settings_at(silo: &Silo, dir: &Path) -> Done {
    let shown = done(silo.command(["config", "show"]).current_dir(dir));
    assert_eq!(shown.code, 0, "{shown:?}");
    shown
}

#[test]
fn settings_that_others_can_write_are_not_used() {
    let silo = Silo::shared(As::Me);
    let (project, deep) = (silo.project(), silo.project().join("deep"));
    let file = project.join("silo.toml");
    fs::create_dir(&deep).expect("our own project");
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    let is_used = |shown: &Done| shown.out.contains("\"TOKEN\"") && shown.err.is_empty();
    let is_unused = |shown: &Done, why: &str| !shown.out.contains("TOKEN") && shown.err.lines().count() == 1 && shown.err.contains(why);
    fs::write(&file, "passEnv = [\"TOKEN\"]\n").expect("our own project");
    mode(&file, 0o644);
    mode(&project, 0o755);
    assert!(is_used(&settings_at(&silo, &deep)));
    for (dir, of_file, why) in [
        (0o777, 0o644, "other users can write /"),
        (0o1777, 0o644, "other users can write /"),
        (0o755, 0o666, "other users can write it (`chmod go-w` prevents that)"),
    ] {
        mode(&project, dir);
        mode(&file, of_file);
        let shown = settings_at(&silo, &deep);
        assert!(is_unused(&shown, &format!("silo.toml is not used: {why}")), "{dir:o} {of_file:o}: {shown:?}");
        // Its content does not matter: a run below asks no question about it and reads nothing of it.
        fs::write(&file, "nonsense").expect("our own project");
        let run = done(silo.command(["sh", "-c", "echo ran"]).current_dir(&deep));
        assert!(run.code == 0 && run.out == "ran\n" && run.err.matches("is not used").count() == 1, "{run:?}");
        fs::write(&file, "passEnv = [\"TOKEN\"]\n").expect("our own project");
    }
    mode(&project, 0o755);
    mode(&file, 0o644);
    // A symlink is as safe as its target directory.
    let shared = project.with_file_name("shared");
    fs::create_dir(&shared).expect("our own directory");
    fs::rename(&file, shared.join("real")).expect("our own file");
    std::os::unix::fs::symlink(shared.join("real"), &file).expect("our own project");
    assert!(is_used(&settings_at(&silo, &deep)));
    mode(&shared, 0o777);
    let shown = settings_at(&silo, &deep);
    assert!(is_unused(&shown, "/shared"), "{shown:?}");
    // A lock or a recipe that others can write is an error: without it the project would be another one.
    fs::remove_file(&file).expect("our own file");
    fs::write(&file, "tools = [\"sh\"]\n").expect("our own project");
    fs::create_dir(project.join("recipes")).expect("our own project");
    fs::write(project.join("recipes/sh.toml"), "[run]\nenv = { A = \"b\" }\n").expect("our own project");
    mode(&project.join("recipes"), 0o777);
    let refused = silo.fails(["show", "sh"]);
    assert!(refused.err.contains("recipes/sh.toml"), "{refused:?}");
}

#[test]
fn settings_of_another_user_are_never_used() {
    if !is_root() {
        return skip("only root can be two users");
    }
    for (who, other) in [(As::Me, NOBODY), (As::Nobody, NOBODY + 1)] {
        let silo = Silo::shared(who);
        let (project, deep) = (silo.project(), silo.project().join("deep"));
        let file = project.join("silo.toml");
        fs::create_dir(&deep).expect("our own project");
        fs::write(&file, "passEnv = [\"TOKEN\"]\n").expect("our own project");
        assert!(settings_at(&silo, &deep).out.contains("\"TOKEN\""), "root's own count");
        let own = fs::metadata(&project).expect("there").uid();
        for (path, why) in [
            (&file, format!("it belongs to user {other} (run silo as that user, or take it over with `chown`)")),
            (&project, format!("/project belongs to user {other}")),
        ] {
            chown(path, Some(other), Some(other)).expect("root may give a file away");
            let shown = settings_at(&silo, &deep);
            assert!(!shown.out.contains("TOKEN") && shown.err.contains(&why) && shown.err.lines().count() == 1, "{shown:?}");
            chown(path, Some(own), Some(own)).expect("root may give a file away");
        }
        // A group with other members can write as well as anybody.
        chown(&project, Some(own), Some(other)).expect("root may give a file away");
        fs::set_permissions(&project, fs::Permissions::from_mode(0o775)).expect("our own directory");
        let shown = settings_at(&silo, &deep);
        assert!(!shown.out.contains("TOKEN") && shown.err.contains("other users can write"), "{shown:?}");
        chown(&project, Some(own), Some(own)).expect("root may give a file away");
        assert!(settings_at(&silo, &deep).out.contains("\"TOKEN\""), "a group of one's own is nobody else");
    }
}

#[test]
fn a_hash_approves_exactly_the_permissions_that_it_was_made_of() {
    let silo = Silo::new();
    let project = silo.project();
    let settings = |extra: &str| {
        let text = format!("passEnv = [\"FIRST\"{extra}]\n");
        fs::write(project.join("silo.toml"), text).expect("our own project");
    };
    settings("");
    let refused = silo.run(["sync", "--frozen"]);
    assert!(refused.code != 0 && refused.err.contains("FIRST"), "{refused:?}");
    let hash = silo.ok(["trust", "--hash"]).trim().to_owned();
    assert_eq!(hash.len(), 64, "{hash}");
    assert!(silo.run(["sync", "--frozen"]).err.contains("FIRST"), "printing the hash approves nothing");
    // Another permission has another hash, which is named, and nothing is approved.
    settings(", \"TOKEN\"");
    let refused = silo.run(["sync", "--frozen", "--approve", &hash]);
    assert!(refused.code != 0 && refused.err.contains("TOKEN") && refused.err.contains(&hash), "{refused:?}");
    assert!(silo.run(["trust"]).out.contains("FIRST"), "nothing was approved");
    settings("");
    let done = silo.run(["sync", "--frozen", "--approve", &hash]);
    assert!(!done.err.contains("not approved"), "{done:?}");
    assert!(silo.ok(["trust"]).contains("everything is approved"));
    assert_eq!(silo.ok(["trust", "--hash"]).trim(), hash, "the hash is that of all permissions, approved or not");
    let typo = silo.run(["sync", "--approve", "abc"]);
    assert!(typo.code == 2 && typo.err.contains("--approve"), "{typo:?}");
}
