//! Guards that last: a program writes what the host obeys in a loop while the host replaces it, and commits on both sides at
//! once lose nothing.

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

/// Tries to write every path, by every way, until it is told to stop.
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
