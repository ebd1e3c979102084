//! Review mode: a real sandbox changes a project, and nothing reaches the host.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::sandbox::until;
use crate::support::{As, Silo, has, skip};

/// A project with files of every kind.
fn project(silo: &Silo) -> PathBuf {
    let project = silo.project();
    for dir in ["src", "deep/er", ".vscode", ".husky"] {
        fs::create_dir_all(project.join(dir)).expect("our own project");
    }
    for (path, text) in [
        ("src/a.py", "one\ntwo\n"),
        ("src/b.py", "b\n"),
        ("deep/er/file", "deep\n"),
        (".vscode/tasks.json", "{}\n"),
        (".husky/pre-commit", "true\n"),
        (".envrc", "true\n"),
        ("run.sh", "#!/bin/sh\n"),
    ] {
        fs::write(project.join(path), text).expect("our own project");
    }
    symlink("a.py", project.join("src/link")).expect("our own project");
    project
}

/// Every file of a directory, with everything that a program can see of it.
pub(crate) fn state(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).expect("our own project") {
            let path = entry.expect("our own project").path();
            let meta = path.symlink_metadata().expect("our own project");
            let content = match (meta.is_dir(), meta.is_symlink()) {
                (true, _) => "directory".to_owned(),
                (_, true) => format!("{:?}", fs::read_link(&path).expect("a link")),
                _ => String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned(),
            };
            if meta.is_dir() {
                dirs.push(path.clone());
            }
            found.insert(path, format!("{:o} {} {content}", meta.mode(), if meta.is_dir() { 0 } else { meta.ino() }));
        }
    }
    found
}

/// Changes files in every way.
const CHANGES: &str = r#"
import os, shutil
open("src/a.py", "w").write("one\nTWO\n")
os.remove("src/b.py")
os.remove("src/link"); os.symlink("../../etc/passwd", "src/link")
open("src/new.py", "w").write("new\n")
shutil.copytree("deep", "moved"); shutil.rmtree("deep")
shutil.rmtree(".husky"); os.mkdir(".husky"); open(".husky/post-merge", "w").write("evil\n")
open(".vscode/tasks.json", "w").write('{"evil": 1}\n')
open(".envrc", "w").write("evil\n")
os.chmod("run.sh", 0o755)
os.makedirs("lib/.git/hooks"); open("lib/.git/config", "w").write("[core]\nfsmonitor = evil\n")
os.link("src/new.py", "src/other.py")
os.mkfifo("pipe")
"#;

/// Runs a Python program in review mode.
pub(crate) fn inside(silo: &Silo, program: &str) -> crate::support::Done {
    silo.run(["run", "--review", "--shim", "python3", "python", "--", "-c", program])
}

/// Lists the changes by path.
pub(crate) fn changes(silo: &Silo) -> BTreeMap<String, serde_json::Value> {
    let json: serde_json::Value = serde_json::from_str(&silo.ok(["review", "--json"])).expect("JSON");
    let all = json["changes"].as_array().expect("a list").iter();
    all.map(|change| (change["path"].as_str().expect("a path").to_owned(), change.clone())).collect()
}

#[test]
fn nothing_of_a_run_in_review_mode_reaches_the_host() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    let before = state(&project);
    let done = inside(&silo, CHANGES);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.err.contains("silo review"), "{done:?}");
    assert_eq!(state(&project), before);
    let found = changes(&silo);
    for (path, kind) in [
        ("src/a.py", "changed"),
        ("src/b.py", "removed"),
        ("src/link", "link"),
        ("src/new.py", "added"),
        ("src/other.py", "added"),
        ("deep", "removed"),
        ("moved", "added"),
        ("moved/er/file", "added"),
        (".husky/pre-commit", "removed"),
        (".husky/post-merge", "added"),
        (".vscode/tasks.json", "changed"),
        (".envrc", "changed"),
        ("run.sh", "mode"),
        ("lib/.git/config", "added"),
        ("pipe", "added"),
    ] {
        assert_eq!(found.get(path).map(|change| change["change"].as_str()), Some(Some(kind)), "{path}: {found:?}");
    }
    assert!(!found.contains_key("deep/er/file") && !found.contains_key(".husky"), "{found:?}");
    // The next run continues, at both paths of the project.
    let again = inside(&silo, "import os; print(open('/workspace/src/a.py').read(), os.path.exists('deep'), os.listdir('.husky'))");
    assert_eq!(again.out.trim(), "one\nTWO\n False ['post-merge']", "{again:?}");
    // A run without review sees the host's files.
    let direct = silo.ok(["run", "--review=never", "--shim", "python3", "python", "--", "-c", "print(open('src/a.py').read())"]);
    assert_eq!(direct.trim(), "one\ntwo");
    assert_eq!(state(&project), before);
}

#[test]
fn one_run_at_a_time_uses_the_layer() {
    let silo = Silo::shared(As::Me);
    project(&silo);
    let wait = "import sys\nopen('ready', 'w')\nsys.stdin.read()";
    let words = ["run", "--review", "--shim", "python3", "python", "--", "-c", wait];
    let mut first = silo.command(words).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
    until("the program inside runs", || changes(&silo).contains_key("ready") || first.try_wait().is_ok_and(|end| end.is_some()));
    let second = silo.fails(["run", "--review", "--shim", "python3", "python", "--", "-c", "pass"]);
    assert!(second.code == 125 && second.err.contains("is running in review mode") && second.err.contains("hint:"), "{second:?}");
    drop(first.stdin.take());
    assert!(first.wait().expect("silo ends").success());
    assert_eq!(inside(&silo, "pass").code, 0);
}

#[test]
fn mount_mode_and_review_of_the_settings_keep_changes_too() {
    for (settings, is_kept) in [
        ("mount.mode = \"review\"", true),
        ("review = \"always\"", true),
        ("overrides.python.review = \"always\"", true),
        ("overrides.sh.review = \"always\"", false),
    ] {
        let silo = Silo::shared(As::Me);
        let project = silo.project();
        fs::write(project.join("silo.toml"), settings).expect("our own project");
        let _ = silo.run(["trust", "--yes"]);
        silo.ok(["run", "--shim", "python3", "python", "--", "-c", "open('made', 'w')"]);
        assert_eq!(project.join("made").exists(), !is_kept, "{settings}");
    }
}

#[test]
fn a_project_keeps_its_permissions_inside() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::set_permissions(&project, fs::Permissions::from_mode(0o750)).expect("our own project");
    fs::create_dir(project.join("node_modules")).expect("our own project");
    fs::write(project.join("silo.toml"), "mount.exclude = [\"node_modules\"]\n").expect("our own project");
    let program = "import os; print(oct(os.stat('.').st_mode & 0o777)); open('node_modules/x', 'w'); open('y', 'w')";
    assert_eq!(inside(&silo, program).out.trim(), "0o750");
    // An excluded directory stays one: its files are the sandboxes' own.
    assert_eq!(changes(&silo).keys().collect::<Vec<_>>(), ["y"]);
    assert_eq!(inside(&silo, "import os; print(os.listdir('node_modules'))").out.trim(), "['x']");
}

#[test]
fn changes_that_this_machine_obeys_come_first_with_their_reason() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    fs::write(project.join("package.json"), "{\"scripts\": {\"test\": \"a\"}}").expect("our own project");
    fs::write(project.join(".gitignore"), "node_modules\n*.log\n_build\n").expect("our own project");
    let program = r##"
import os, json
for path, text in {
    ".husky/post-merge": "evil", ".vscode/tasks.json": "{}x", ".github/workflows/ci.yml": "on: push", "Makefile": "all:\n\techo",
    "package.json": json.dumps({"scripts": {"test": "a", "postinstall": "curl evil"}}),
    "package-lock.json": json.dumps({"lockfileVersion": 3, "packages": {"node_modules/" + n: {"version": "1", "hasInstallScript": True} for n in "abc"}}),
    "lib/.git/hooks/pre-commit": "evil", "src/plain.py": "x = 1\n", "notes.md": "hello\n", "debug.log": "x" * 1000,
    "_build/x.beam": "x", ".direnv/flake-profile-x.rc": "evil", "project/Build.scala": "x",
    "node_modules/a/index.js": "x", "node_modules/a/bin.sh": "x", "src/\u0430dmin.py": "x", "src/bidi.py": "a = 1 # \u202e evil\n",
}.items():
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True); open(path, "w").write(text)
os.chmod("node_modules/a/bin.sh", 0o755)
open("tool", "w").write("#!/bin/sh\n"); os.chmod("tool", 0o755)
os.symlink("/etc", "out"); os.symlink("plain.py", "src/alias.py")
"##;
    assert_eq!(inside(&silo, program).code, 0);
    let found = changes(&silo);
    for (path, weight, reason) in [
        (".husky/post-merge", "obeyed", "git hook"),
        (".vscode/tasks.json", "obeyed", "task"),
        (".github/workflows/ci.yml", "obeyed", "CI workflow"),
        ("Makefile", "obeyed", "build script"),
        ("package.json", "obeyed", "npm postinstall"),
        ("package-lock.json", "obeyed", "lock file: 3 new or changed packages"),
        ("lib/.git/hooks/pre-commit", "obeyed", "git hook"),
        (".direnv/flake-profile-x.rc", "obeyed", "direnv includes it"),
        ("project/Build.scala", "obeyed", "build script"),
        ("tool", "obeyed", "new executable"),
        ("out", "obeyed", "link that leads out"),
        ("src/plain.py", "source", ""),
        ("src/alias.py", "source", ""),
        ("notes.md", "source", ""),
        ("debug.log", "generated", ""),
        ("_build/x.beam", "generated", ""),
        ("node_modules/a/bin.sh", "generated", ""),
    ] {
        let change = &found[path];
        assert_eq!(change["weight"], weight, "{path}: {change}");
        assert!(change["reason"].as_str().unwrap_or_default().contains(reason), "{path}: {change}");
        assert_eq!(change["safe"], weight == "source" || path == "debug.log", "{path}: {change}");
    }
    let text = silo.ok(["review"]);
    let first = text.find("This machine executes or obeys").expect("the first heading");
    assert!(first < text.find("Sources:").expect("the second") && text.contains("node_modules: 2 files"), "{text}");
    assert!(text.contains("+a = 1 # \\u{202e} evil") && text.contains("\\u{430}dmin.py") && text.contains("+x = 1"), "{text}");
    assert!(!text.contains('\u{202e}') && !text.contains('\u{430}'));
    // One page, with nothing outside of it.
    silo.ok(["review", "--html", "page.html"]);
    let page = fs::read_to_string(project.join("page.html")).expect("written");
    assert!(page.contains("Content-Security-Policy") && page.contains("npm postinstall") && !page.contains("src="), "{page}");
    assert!(silo.ok(["review", "--list", "src"]).contains("src/plain.py"));
    // Everything that nothing here executes by itself.
    silo.ok(["apply", "--safe"]);
    for (path, is_here) in
        [("src/plain.py", true), ("debug.log", true), ("src/alias.py", true), ("tool", false), ("out", false), ("node_modules", false)]
    {
        assert_eq!(project.join(path).symlink_metadata().is_ok(), is_here, "{path}");
    }
    assert_eq!(fs::read_to_string(project.join("package.json")).expect("there"), "{\"scripts\": {\"test\": \"a\"}}");
    assert!(!changes(&silo).contains_key("src/plain.py") && changes(&silo).contains_key("tool"));
    assert_eq!(inside(&silo, "import os; print(os.path.exists('tool'), open('src/plain.py').read())").out.trim(), "True x = 1");
}

#[test]
fn applied_changes_are_what_the_program_saw_and_can_be_undone() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    let before = contents(&project);
    assert_eq!(inside(&silo, &CHANGES.replace("os.mkfifo(\"pipe\")", "")).code, 0);
    let dump = "import os\nfor d, _, n in os.walk('.'):\n  for f in n:\n    p = os.path.join(d, f)\n    print(p, os.readlink(p) if os.path.islink(p) else open(p).read().encode())";
    let seen = inside(&silo, dump).out;
    let done = silo.ok(["apply"]);
    assert!(done.starts_with("applied "), "{done}");
    assert!(changes(&silo).is_empty());
    let here = silo.ok(["run", "--review=never", "--shim", "python3", "python", "--", "-c", dump]);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(&here), sorted(&seen));
    assert_eq!(fs::metadata(project.join("run.sh")).expect("there").permissions().mode() & 0o777, 0o755);
    silo.ok(["apply", "--undo"]);
    assert_eq!(contents(&project), before);
    silo.ok(["apply", "--undo"]);
    assert_eq!(sorted(&silo.ok(["run", "--review=never", "--shim", "python3", "python", "--", "-c", dump])), sorted(&seen));
}

/// Content of every file, without inodes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, String> {
    let strip = |text: String| text.splitn(3, ' ').enumerate().filter(|(place, _)| *place != 1).map(|(_, part)| part.to_owned()).collect();
    state(dir).into_iter().map(|(path, text)| (path, strip(text))).collect()
}

#[test]
fn a_file_that_changed_here_too_is_never_overwritten() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(
        inside(&silo, "open('src/a.py', 'w').write('inside'); open('src/c.py', 'w').write('c'); import os; os.remove('src/b.py')").code,
        0
    );
    fs::write(project.join("src/a.py"), "here").expect("our own project");
    fs::write(project.join("src/b.py"), "here").expect("our own project");
    let before = state(&project);
    let refused = silo.fails(["apply"]);
    assert!(refused.err.contains("src/a.py: it changed here") && refused.err.contains("src/b.py: it changed here"), "{refused:?}");
    assert_eq!(state(&project), before);
    drop(silo.fails(["apply", "src/a.py"]));
    silo.ok(["apply", "--skip-conflicts"]);
    assert_eq!(fs::read_to_string(project.join("src/a.py")).expect("there"), "here");
    assert_eq!(fs::read_to_string(project.join("src/c.py")).expect("there"), "c");
    assert_eq!(changes(&silo).keys().collect::<Vec<_>>(), ["src/a.py", "src/b.py"]);
    silo.ok(["discard", "src/b.py"]);
    assert_eq!(inside(&silo, "print(open('src/b.py').read(), open('src/a.py').read())").out.trim(), "here inside");
    silo.ok(["discard", "--yes"]);
    assert_eq!(inside(&silo, "print(open('src/a.py').read())").out.trim(), "here");
    for command in ["apply", "review"] {
        assert!(silo.fails([command, "nothing"]).err.contains("there is no change of nothing"), "{command}");
    }
}

#[test]
fn risky_applies_what_nothing_here_runs_and_keeps_the_rest() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    let risky = |program: &str| silo.run(["run", "--review=risky", "--shim", "python3", "python", "--", "-c", program]);
    let done = risky("open('src/a.py', 'w').write('fine')");
    assert_eq!(done.code, 0);
    assert_eq!(fs::read_to_string(project.join("src/a.py")).expect("there"), "fine", "{done:?}");
    let done = risky("open('src/b.py', 'w').write('x'); open('.envrc', 'w').write('evil')");
    assert!(done.err.contains(".envrc (changed; direnv acts on it)"), "{done:?}");
    assert_eq!(fs::read_to_string(project.join(".envrc")).expect("there"), "true\n");
    assert_eq!(fs::read_to_string(project.join("src/b.py")).expect("there"), "b\n");
    silo.ok(["apply", ".envrc"]);
    assert_eq!(fs::read_to_string(project.join(".envrc")).expect("there"), "evil");
}

#[test]
fn commits_of_a_review_come_with_apply() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    let git = |words: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(words).current_dir(&project);
        let done = crate::support::done(command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1"));
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        done.out.trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    let head = git(&["rev-parse", "HEAD"]);
    fs::write(project.join("Makefile"), "all:\n").expect("our own project");
    git(&["add", "Makefile"]);
    let tree = git(&["write-tree"]);
    git(&["reset", "-q", "--hard"]);
    // As git commits: the object, then the ref.
    let program = format!(
        r#"
import hashlib, os, zlib
body = b"tree {tree}\nparent {head}\nauthor a <a@example.com> 1700000000 +0000\ncommitter a <a@example.com> 1700000000 +0000\n\ninside\n"
data = b"commit " + str(len(body)).encode() + b"\0" + body
name = hashlib.sha1(data).hexdigest()
os.makedirs(".git/objects/" + name[:2], exist_ok=True)
open(".git/objects/" + name[:2] + "/" + name[2:], "wb").write(zlib.compress(data))
open(".git/refs/heads/main", "w").write(name + "\n")
open(".git/hooks/pre-commit", "w").write("evil"); open(".git/config", "a").write("[core]\nfsmonitor = evil\n")
print(name)
"#
    );
    let done = inside(&silo, &program);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(git(&["rev-parse", "HEAD"]), head);
    assert!(silo.ok(["review"]).contains("git repository has changes"));
    // The commit brings a Makefile, so it does not come with safe changes.
    assert!(silo.run(["apply", "--safe"]).err.contains("the changes of the git repository wait"));
    assert_eq!(git(&["rev-parse", "HEAD"]), head);
    let risky = silo.run(["run", "--review=risky", "--shim", "python3", "python", "--", "-c", "pass"]);
    assert!(risky.err.contains("of the repository in") && risky.err.contains("wait for a decision"), "{risky:?}");
    assert!(risky.err.contains(&format!("Makefile (added in commit {}; build script)", &done.out[..12])), "{risky:?}");
    assert_eq!(git(&["rev-parse", "HEAD"]), head);
    // A second run sees the commit.
    assert_eq!(inside(&silo, "print(open('.git/refs/heads/main').read())").out.trim(), done.out.trim());
    silo.ok(["apply"]);
    assert_eq!(git(&["rev-parse", "HEAD"]), done.out.trim());
    assert!(!project.join(".git/hooks/pre-commit").exists() && git(&["config", "-l"]).lines().all(|line| !line.contains("evil")));
}

#[test]
fn a_killed_apply_is_finished_or_undone() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    for round in 0..8 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let program = format!(
            "import os, shutil\nshutil.rmtree('many', ignore_errors=True); os.mkdir('many')\nfor n in range(60): open('many/%d' % n, 'w').write('{round}')\nfor n in range(60): open('one%d' % n, 'w').write('{round}')"
        );
        assert_eq!(inside(&silo, &program).code, 0);
        let count =
            |text: &str| (0..60).filter(|n| fs::read_to_string(project.join(format!("one{n}"))).is_ok_and(|found| found == text)).count();
        let mut child = silo.command(["apply"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
        std::thread::sleep(std::time::Duration::from_millis(10 + round * 7));
        let _ = child.kill();
        let _ = child.wait();
        silo.ok(["review", "--list"]);
        let now = count(&round.to_string());
        assert!(now == 0 || now == 60, "{round}: {now} of 60");
        assert!(
            fs::read_dir(&project).expect("ours").all(|entry| !entry.expect("ours").file_name().to_string_lossy().contains(".silo-apply"))
        );
        if now == 0 {
            silo.ok(["apply"]);
        }
        assert_eq!(count(&round.to_string()), 60);
    }
}

#[test]
fn a_program_of_this_machine_sees_the_changes_and_cannot_change_them() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    fs::write(project.join("silo.toml"), "").expect("our own project");
    assert!(silo.fails(["review", "--", "true"]).err.contains("no changes to review"));
    assert_eq!(
        inside(&silo, &CHANGES.replace("os.mkfifo(\"pipe\")", "open('tool', 'w').write('#!/bin/sh\\n'); os.chmod('tool', 0o755)")).code,
        0
    );
    let before = state(&project);
    let script = "cat src/a.py; ls .husky src; readlink src/link; test -e deep || echo gone; cat moved/er/file\n\
                  echo x 2>&- > src/a.py || echo read-only; ./tool 2>&- || echo not executable; id -u";
    let refused = silo.fails(["review", "--", "sh", "-c", script]);
    assert!(refused.err.contains("executes or obeys ") && refused.err.contains("--obeyed"), "{refused:?}");
    let seen = silo.ok(["review", "--obeyed", "--", "sh", "-c", script]);
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(
        seen,
        format!(
            "one\nTWO\n.husky:\npost-merge\n\nsrc:\na.py\nlink\nnew.py\nother.py\n../../etc/passwd\ngone\ndeep\nread-only\n\
             not executable\n{uid}\n"
        )
    );
    assert_eq!(silo.run(["review", "--obeyed", "--", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(silo.run(["review", "--obeyed", "--", "sh", "-c", "kill -TERM $$"]).code, 128 + 15);
    let missing = silo.fails(["review", "--obeyed", "--", "no-such-program"]);
    assert!(missing.err.contains("starting no-such-program"), "{missing:?}");
    // The working directory is in the view.
    let below = crate::support::done(silo.command(["review", "--obeyed", "--", "cat", "new.py"]).current_dir(project.join("src")));
    assert_eq!(below.out, "new\n", "{below:?}");

    // A path for programs that run already; a sandbox may use the layer at the same time.
    let mut mount = silo.command(["review", "--obeyed", "--mount"]).stderr(Stdio::piped()).spawn().expect("silo starts");
    let mut line = String::new();
    let _ = BufReader::new(mount.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
    let shown = line.split_whitespace().find(|word| word.starts_with("/proc/")).expect("a path").to_owned();
    assert_eq!(fs::read_to_string(Path::new(&shown).join("src/a.py")).expect("it is visible"), "one\nTWO\n");
    assert!(fs::write(Path::new(&shown).join("src/a.py"), "x").is_err());
    assert_eq!(inside(&silo, "print(open('src/a.py').read())").out.trim(), "one\nTWO");
    mount.kill().expect("it runs");
    mount.wait().expect("it ends");
    until("the view is gone", || !Path::new(&shown).exists());
    assert_eq!(state(&project), before);
}

/// A program of this machine is not in a sandbox: git would run the commands of a repository that a tool made.
#[test]
fn a_program_of_this_machine_is_not_shown_what_it_may_obey() {
    if !has("git") {
        return skip("there is no git");
    }
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::write(project.join("silo.toml"), "").expect("our own project");
    assert_eq!(inside(&silo, "open('plain', 'w').write('x')").code, 0);
    assert_eq!(silo.ok(["review", "--", "cat", "plain"]), "x");
    let marker = project.with_file_name("obeyed");
    let repository = format!(
        "import os\nos.makedirs('.git/objects'); os.makedirs('.git/refs')\nopen('.git/HEAD', 'w').write('ref: refs/heads/main\\n')\n\
         open('.git/config', 'w').write('[core]\\nrepositoryformatversion = 0\\nfsmonitor = \"touch {}; false\"\\n')\n",
        marker.display()
    );
    assert_eq!(inside(&silo, &repository).code, 0);
    for words in [&["review", "--", "git", "status"][..], &["review", "--mount"]] {
        let refused = silo.fails(words);
        assert!(refused.err.contains("executes or obeys .git") && refused.err.contains("--obeyed"), "{refused:?}");
    }
    assert!(!marker.exists());
    // Programs can load each file in such a directory, and no list names it.
    silo.ok(["discard", "--yes"]);
    assert_eq!(inside(&silo, "import os; os.makedirs('node_modules/x'); open('node_modules/x/index.js', 'w').write('evil')").code, 0);
    let refused = silo.fails(["review", "--", "true"]);
    assert!(refused.err.contains("node_modules has changed files") && refused.err.contains("--obeyed"), "{refused:?}");
    silo.ok(["discard", "--yes"]);
    assert_eq!(inside(&silo, &repository).code, 0);
    // The repository is a trap: with the option, the program obeys it.
    drop(silo.run(["review", "--obeyed", "--", "git", "status"]));
    assert!(marker.exists());
}

/// Silo obeys its own settings, so each way on which they come here needs an approval.
#[test]
fn applied_settings_of_silo_need_an_approval_also_after_an_undo() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::write(project.join("silo.toml"), "# mine\n").expect("our own project");
    let asks = |silo: &Silo| {
        let done = silo.run(["run", "--review=never", "--shim", "python3", "python", "--", "-c", "pass"]);
        done.code != 0 && done.err.contains("silo trust")
    };
    assert_eq!(inside(&silo, "pass").code, 0);
    assert!(!asks(&silo));
    let program =
        "import os\nos.mkdir('recipes')\nopen('recipes/x.toml', 'w').write('evil = 1')\nopen('silo.toml', 'w').write('# theirs\\n')";
    assert_eq!(inside(&silo, program).code, 0);
    let found = changes(&silo);
    for path in ["silo.toml", "recipes/x.toml"] {
        assert_eq!((found[path]["weight"].as_str(), found[path]["safe"].as_bool()), (Some("obeyed"), Some(false)), "{found:?}");
    }
    silo.ok(["apply", "silo.toml"]);
    assert!(asks(&silo));
    // The user's own file is back, and known.
    silo.ok(["apply", "--undo"]);
    assert_eq!(fs::read_to_string(project.join("silo.toml")).expect("there"), "# mine\n");
    assert!(!asks(&silo));
    silo.ok(["apply", "--undo"]);
    assert_eq!(fs::read_to_string(project.join("silo.toml")).expect("there"), "# theirs\n");
    assert!(asks(&silo));
}

/// The view of `silo review -- COMMAND` is the whole layer, so nothing may be added to it after the check.
#[test]
fn no_tool_changes_the_layer_while_a_program_sees_it() {
    let silo = Silo::shared(As::Me);
    silo.project();
    assert_eq!(inside(&silo, "open('plain', 'w').write('x')").code, 0);
    let words = ["review", "--", "sh", "-c", "echo ready; read end"];
    let mut viewer = silo.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
    let mut line = String::new();
    let _ = BufReader::new(viewer.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let refused = inside(&silo, "open('.envrc', 'w').write('evil')");
    assert!(refused.code == 125 && refused.err.contains("another command decides its changes"), "{refused:?}");
    drop(viewer.stdin.take());
    let _ = viewer.wait().expect("it ends");
    assert_eq!(inside(&silo, "open('.envrc', 'w').write('evil')").code, 0);
}

/// The message at the end of a run has texts from inside.
#[test]
fn the_message_of_a_run_has_no_line_of_the_program() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::write(project.join("package.json"), "{}").expect("our own project");
    let program = r#"import json; open("package.json", "w").write(json.dumps({"scripts": {"x\nsilo: all is well\u001b[2K\u202e": "y"}}))"#;
    let done = inside(&silo, program);
    assert!(done.err.contains("npm script") && !done.err.contains("\nsilo: all is well"), "{done:?}");
    assert!(!done.err.contains(['\u{202e}', '\u{1b}']), "{done:?}");
}
