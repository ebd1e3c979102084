//! Guards under load: a program writes obeyed files in a loop while the host replaces them, and parallel commits on both sides lose
//! nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::sandbox::until;
use crate::support::{As, Silo, done, has, skip};

fn git(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "gc.auto=0"]).args(words).current_dir(dir);
    let done = done(command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1"));
    assert_eq!(done.code, 0, "{words:?}: {done:?}");
    done.out.trim().to_owned()
}

fn replace(path: &Path, text: &str) {
    let staged = path.with_extension("new-one");
    fs::write(&staged, text).expect("our own project");
    fs::rename(staged, path).expect("our own project");
}

/// Tries to write every path, by every call, until it is stopped.
const ATTACK: &str = r#"
import os, sys
open("ready", "w").close()
paths = sys.argv[1:]
while not os.path.exists("stop"):
    for top in ("", "/workspace/"):
        for path in paths:
            try:
                with open(top + path, "a") as file: file.write("EVIL\n")
            except OSError: pass
            try:
                with open(top + "mine", "w") as file: file.write("EVIL\n")
                os.rename(top + "mine", top + path)
            except OSError: pass
"#;

#[test]
fn no_write_reaches_guarded_directories_while_the_host_replaces_their_files() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    git(&project, &["init", "-q", "-b", "main"]);
    for name in [".vscode", ".husky"] {
        fs::create_dir(project.join(name)).expect("our own project");
    }
    fs::write(project.join(".vscode/tasks.json"), "0").expect("our own project");
    fs::write(project.join(".husky/pre-push"), "stays").expect("our own project");
    fs::write(project.join(".husky/pre-commit"), "a").expect("our own project");
    fs::write(project.join(".envrc"), "0").expect("our own project");
    git(&project, &["add", ".husky"]);
    git(&project, &["commit", "-qm", "a"]);
    git(&project, &["checkout", "-qb", "other"]);
    fs::write(project.join(".husky/pre-commit"), "b").expect("our own project");
    git(&project, &["commit", "-qam", "b"]);

    let paths = [".git/config", ".git/hooks/pre-commit", ".git/info/attributes", ".vscode/tasks.json", ".husky/pre-commit", ".envrc"];
    let words = ["run", "--shim", "python3", "python", "--", "-c", ATTACK];
    let mut inside = silo.command(words.iter().chain(&paths)).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
    until("the program inside runs", || project.join("ready").exists() || inside.try_wait().is_ok_and(|end| end.is_some()));
    for round in 0..200 {
        git(&project, &["config", "x.round", &round.to_string()]);
        replace(&project.join(".vscode/tasks.json"), &round.to_string());
        replace(&project.join(".envrc"), &round.to_string());
        git(&project, &["checkout", "-q", if round % 2 == 0 { "main" } else { "other" }]);
    }
    let is_running = inside.try_wait().expect("silo is there").is_none();
    fs::write(project.join("stop"), "").expect("our own project");
    let end = inside.wait_with_output().expect("silo ends");
    let report = String::from_utf8_lossy(&end.stderr);
    assert!(is_running && end.status.success(), "{report}");
    for path in &paths[..5] {
        let text = fs::read_to_string(project.join(path)).unwrap_or_default();
        assert!(!text.contains("EVIL"), "{path}: {text}\n{report}");
    }
    assert!(report.contains(".envrc (changed; direnv)") && report.contains(".vscode/tasks.json (changed"), "{report}");
    git(&project, &["fsck", "--full"]);
}

/// Commits on two branches as git does: objects first, each by a rename, then the ref.
const COMMITS: &str = r#"
import hashlib, os, time, zlib
tree, base, count = os.environ["TREE"], os.environ["BASE"], 250
def put(kind, body):
    data = kind + b" " + str(len(body)).encode() + b"\0" + body
    name = hashlib.sha1(data).hexdigest()
    path = ".git/objects/" + name[:2]
    os.makedirs(path, exist_ok=True)
    with open(path + "/tmp_obj_x", "wb") as file: file.write(zlib.compress(data))
    os.rename(path + "/tmp_obj_x", path + "/" + name[2:])
    return name
def set_ref(name, value):
    with open(".git/refs/heads/" + name + ".lock", "w") as file: file.write(value + "\n")
    os.rename(".git/refs/heads/" + name + ".lock", ".git/refs/heads/" + name)
heads = {"inside": base, "both": base}
open("ready", "w").close()
while not os.path.exists("go"): time.sleep(0.01)
for number in range(count):
    name = "inside" if number % 2 else "both"
    who = b"a <a@example.com> %d +0000" % (1700000000 + number)
    body = b"tree %s\nparent %s\nauthor %s\ncommitter %s\n\ninside %d\n" % (tree.encode(), heads[name].encode(), who, who, number)
    heads[name] = put(b"commit", body)
    set_ref(name, heads[name])
"#;

#[test]
fn five_hundred_commits_from_both_sides_lose_nothing() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    git(&project, &["init", "-q", "-b", "main"]);
    git(&project, &["commit", "-q", "--allow-empty", "-m", "base"]);
    git(&project, &["branch", "both"]);
    let (tree, base) = (git(&project, &["rev-parse", "HEAD^{tree}"]), git(&project, &["rev-parse", "HEAD"]));
    let program = format!("import os\nos.environ.update(TREE='{tree}', BASE='{base}')\n{COMMITS}");
    let mut inside =
        silo.command(["run", "--shim", "python3", "python", "--", "-c", &program]).stderr(Stdio::piped()).spawn().expect("silo starts");
    until("the program inside runs", || project.join("ready").exists() || inside.try_wait().is_ok_and(|end| end.is_some()));
    let (mut ours, mut both) = (base.clone(), base.clone());
    for number in 0..250 {
        let (name, head) = if number % 2 == 0 { ("both", &mut both) } else { ("main", &mut ours) };
        let new = git(&project, &["commit-tree", "-p", head, "-m", &format!("host {number}"), &tree]);
        git(&project, &["update-ref", &format!("refs/heads/{name}"), &new]);
        *head = new;
        if number == 0 {
            fs::write(project.join("go"), "").expect("our own project");
        }
    }
    let end = inside.wait_with_output().expect("silo ends");
    let report = String::from_utf8_lossy(&end.stderr);
    assert!(end.status.success(), "{report}");
    let count = |name: &str| git(&project, &["rev-list", "--count", name]);
    assert_eq!((count("main"), count("inside")), ("126".to_owned(), "126".to_owned()), "{report}");
    // Of the branch that both moved, one side's commits are its, and the other's are kept beside it.
    let kept = git(&project, &["for-each-ref", "--format=%(refname)", "refs/silo"]);
    assert!(kept.ends_with("/heads/both") && report.contains(&kept), "{kept}: {report}");
    let all = git(&project, &["rev-list", "--count", "both", &kept]);
    assert_eq!((count("both"), all), ("126".to_owned(), "251".to_owned()));
    assert_eq!(git(&project, &["fsck", "--full", "--strict"]), "");
}

/// Waits until the host has replaced `.git` and the new one is guarded at both places, then tries to write it.
const WRITE_ANOTHER: &str = r#"
import os, time
open("ready", "w").close()
while not os.path.exists("go"): time.sleep(0.01)
def is_guarded(top):
    try: return os.statvfs(top + ".git").f_flag & os.ST_RDONLY
    except OSError: return False
for _ in range(3000):
    if is_guarded("") and is_guarded("/workspace/"): break
    time.sleep(0.01)
for top in ("", "/workspace/"):
    print("sees", os.path.exists(top + ".git/HEAD"))
    for path in (".git/config", ".git/hooks/pre-commit", ".git/HEAD", ".git/new"):
        try:
            with open(top + path, "a") as file: file.write("EVIL\n")
            print("wrote", top + path)
        except OSError: pass
"#;

/// git makes no branch if the log of a removed one has its path.
#[test]
fn the_log_of_a_branch_that_was_removed_inside_is_removed() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    git(&project, &["init", "-q", "-b", "main"]);
    git(&project, &["commit", "-q", "--allow-empty", "-m", "a"]);
    git(&project, &["branch", "q/w"]);
    git(&project, &["branch", "q/x"]);
    let remove = |name: &str| {
        let script = format!("import os\nfor top in ('.git/', '.git/logs/'): os.remove(top + 'refs/heads/{name}')");
        let ran = silo.run(["run", "--review=never", "python", "-c", &script]);
        assert!(ran.code == 0 && ran.err.contains(&format!("refs/heads/{name} was removed inside")), "{ran:?}");
        assert!(!project.join(".git/logs/refs/heads").join(name).exists());
    };
    remove("q/w");
    assert_eq!(git(&project, &["branch", "--list", "q/*", "--format=%(refname:short)"]), "q/x");
    assert!(project.join(".git/logs/refs/heads/q/x").exists(), "the log of another branch stays");
    remove("q/x");
    assert!(project.join(".git/logs/refs/heads").exists());
    git(&project, &["branch", "q"]);
}

#[test]
fn a_repository_that_the_host_replaces_is_read_only_and_nothing_comes_into_it() {
    if !has("git") {
        return skip("there is no git here");
    }
    for way in ["moved", "removed", "hidden"] {
        let silo = Silo::shared(As::Me);
        let project = silo.project();
        git(&project, &["init", "-q", "-b", "main"]);
        git(&project, &["commit", "-q", "--allow-empty", "-m", "a"]);
        if way == "hidden" {
            fs::write(project.join("silo.toml"), "[mount]\ngit = \"hidden\"\n").expect("our own project");
        }
        let mut inside = silo.command(["run", "--shim", "python3", "python", "--", "-c", WRITE_ANOTHER]);
        let mut inside = inside.current_dir(&project).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
        until("the program inside runs", || project.join("ready").exists() || inside.try_wait().is_ok_and(|end| end.is_some()));
        if way == "removed" {
            fs::remove_dir_all(project.join(".git")).expect("our own project");
        } else {
            fs::rename(project.join(".git"), project.join("old")).expect("our own project");
        }
        git(&project, &["init", "-q", "-b", "main"]);
        fs::write(project.join("go"), "").expect("our own project");
        let end = inside.wait_with_output().expect("silo ends");
        let (out, report) = (String::from_utf8_lossy(&end.stdout), String::from_utf8_lossy(&end.stderr));
        assert!(end.status.success(), "{way}: {report}");
        let sees = if way == "hidden" { "sees False\n" } else { "sees True\n" };
        assert_eq!(out, sees.repeat(2), "{way}: {report}");
        for name in ["config", "hooks/pre-commit", "HEAD", "new"] {
            let text = fs::read_to_string(project.join(".git").join(name)).unwrap_or_default();
            assert!(!text.contains("EVIL"), "{way}: {name}: {report}");
        }
        let is_told = report.contains("the repository was moved, removed or replaced here during the run");
        assert_eq!(is_told, way != "hidden", "{way}: {report}");
        assert_eq!(git(&project, &["count-objects"]), "0 objects, 0 kilobytes", "{way}");
    }
}

#[test]
fn a_repository_that_comes_is_reported() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    let made = silo.run(["sh", "-c", "mkdir -p .git/hooks .git/objects; echo x > .git/config; echo x > .git/hooks/pre-commit"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.err.contains(".git/config (new; git)") && made.err.contains(".git/hooks (new; git)"), "{}: {made:?}", project.display());
}

#[test]
fn a_bare_repository_that_comes_is_reported_and_one_that_is_here_is_guarded() {
    let silo = Silo::shared(As::Me);
    let make = "mkdir -p lib/store/objects lib/store/refs; echo 'ref: refs/heads/x' > lib/store/HEAD; echo '[core]' > lib/store/config";
    let made = silo.run(["sh", "-c", make]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.err.contains("lib/store/config (new; git"), "{made:?}");
    let config = silo.project().join("lib/store/config");
    let changed = silo.run(["sh", "-c", "echo x >> lib/store/config || mv lib/store/HEAD lib/store/config"]);
    assert_ne!(changed.code, 0, "{changed:?}");
    assert_eq!(fs::read_to_string(config).expect("it is there"), "[core]\n");
}

/// Ends or stops the process that guards files, and waits to be ended.
const STOP_THE_GUARD: &str = r#"
import os, signal, sys, time
def name(pid):
    try:
        with open("/proc/" + pid + "/comm") as file: return file.read().strip()
    except OSError: return ""
guards = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if name(pid) == "silo-guard"]
print(len(guards), flush=True)
for pid in guards:
    try: os.kill(int(pid), getattr(signal, sys.argv[1]))
    except PermissionError: sys.exit(print("refused"))
time.sleep(120)
print("went on")
"#;

/// Finds a process with this name that a process of ours has started, itself or through others.
fn descendant(top: u32, name: &str) -> Option<u32> {
    let stat = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (before, after) = text.rsplit_once(')')?;
        let parent: u32 = after.split_whitespace().nth(1)?.parse().ok()?;
        Some((before.split_once('(')?.1.to_owned(), parent))
    };
    let is_below = |pid: u32| std::iter::successors(Some(pid), |pid| stat(*pid).map(|(_, parent)| parent)).any(|pid| pid == top);
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(found, _)| found == name)).find(|pid| is_below(*pid))
}

#[test]
fn stopping_the_file_guard_ends_the_sandbox() {
    let told = "guarding the project's files";
    for signal in ["SIGKILL", "SIGSTOP"] {
        let silo = Silo::shared(As::Me);
        fs::write(silo.project().join(".envrc"), "").expect("our own project");
        let ended = done(&mut silo.command(["run", "--shim", "python3", "python", "--", "-c", STOP_THE_GUARD, signal]));
        // Refused if the kernel can keep a confined program from signalling processes outside.
        let is_refused = ended.out == "1\nrefused\n" && ended.code == 0;
        assert!(is_refused || ended.out == "1\n" && ended.code != 0 && ended.err.contains(told), "{signal}: {ended:?}");

        let words = ["run", "--shim", "python3", "python", "--", "-c", "open('ready', 'w').close(); import time; time.sleep(120)"];
        let mut inside = silo.command(words).stderr(Stdio::piped()).spawn().expect("silo starts");
        let ready = silo.project().join("ready");
        until("the program inside runs", || ready.exists() || inside.try_wait().is_ok_and(|end| end.is_some()));
        let guard = descendant(inside.id(), "silo-guard").expect("a process that guards .envrc");
        assert!(Command::new("kill").args(["-s", &signal[3..], &guard.to_string()]).status().is_ok_and(|status| status.success()));
        let end = inside.wait_with_output().expect("silo ends");
        let report = String::from_utf8_lossy(&end.stderr);
        assert!(!end.status.success() && report.contains(told), "{signal}: {report}");
    }
}

#[test]
fn a_repository_elsewhere_in_the_project_is_read_only() {
    if !has("git") {
        return skip("there is no git here");
    }
    for is_symlink in [false, true] {
        let silo = Silo::shared(As::Me);
        let project = silo.project();
        match is_symlink {
            false => git(&project, &["init", "-q", "--separate-git-dir", "meta", "."]),
            true => git(&project, &["init", "-q", "."]),
        };
        if is_symlink {
            fs::rename(project.join(".git"), project.join("meta")).expect("our own project");
            std::os::unix::fs::symlink("meta", project.join(".git")).expect("our own project");
        }
        let before = fs::read(project.join("meta/config")).expect("a configuration");
        let script = "for top in . /workspace; do echo x >> $top/meta/config || echo kept; mv $top/meta $top/other || echo kept; done";
        assert_eq!(silo.run(["sh", "-c", script]).out, "kept\n".repeat(4), "symlink: {is_symlink}");
        assert_eq!(fs::read(project.join("meta/config")).expect("a configuration"), before);
    }
}
