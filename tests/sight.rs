//! The parts of the host that a run sees in addition to the project: persistent directories, named files, a worktree's repository; and the
//! changes that it must not leave unreported.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{As, NOBODY, Silo, done, has, is_root, skip};

/// A silo that has sh, in a project with this `silo.toml`, which is approved.
fn project(settings: &str) -> Silo {
    let silo = Silo::shared(As::Me);
    settled(&silo, settings);
    silo
}

fn settled(silo: &Silo, settings: &str) {
    fs::write(silo.project().join("silo.toml"), settings).expect("our own project");
    let _ = silo.ok(["trust", "--yes"]);
}

fn sh(silo: &Silo, script: &str) -> String {
    silo.ok(["sh", "-c", script])
}

fn canonical(path: PathBuf) -> PathBuf {
    fs::canonicalize(path).expect("it is there")
}

#[test]
fn excluded_directories_are_the_sandboxs_own_and_stay() {
    let silo = project("[mount]\nexclude = [\"node_modules\", \"web/.venv\"]\n");
    fs::create_dir(silo.project().join("node_modules")).expect("our own project");
    fs::write(silo.project().join("node_modules/hosts"), "").expect("our own project");
    let said = sh(&silo, "ls -A node_modules web/.venv; echo inside > node_modules/made; echo too > web/.venv/made");
    assert_eq!(said, "node_modules:\n\nweb/.venv:\n");
    assert_eq!(sh(&silo, "cat node_modules/made /workspace/web/.venv/made; cd /workspace/node_modules && ls"), "inside\ntoo\nmade\n");
    let names = |dir: &str| fs::read_dir(silo.project().join(dir)).expect("there").flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    assert_eq!(names("node_modules"), ["hosts"], "the host's own is not touched");
    assert!(names("web/.venv").is_empty());
    // Another project has another one.
    let other = project("[mount]\nexclude = [\"node_modules\"]\n");
    assert_eq!(sh(&other, "ls -A node_modules"), "");
}

#[test]
fn excluded_directories_are_removed_and_made_again_and_the_hosts_stay() {
    let silo = project("[mount]\nexclude = [\"node_modules\", \"web/target\", \"web\"]\n");
    for dir in ["node_modules", "web/target"] {
        fs::create_dir_all(silo.project().join(dir)).expect("our own project");
        fs::write(silo.project().join(dir).join("hosts"), "mine").expect("our own project");
    }
    let check = |script: &str, expect: &str| {
        let tried = silo.run(["sh", "-c", script]);
        assert_eq!((tried.out.as_str(), tried.code), (expect, 0), "{script}: {tried:?}");
    };
    // Removed, it is gone at both of its paths; made again, it is empty and has the mode that was asked for.
    let gone = "test ! -e node_modules && ! ls /workspace/node_modules 2>/dev/null && ! test -d \"$PWD/node_modules\" && echo gone";
    check(&format!("mkdir node_modules/a && touch node_modules/a/b && rm -rf node_modules && {gone}"), "gone\n");
    check(
        &format!("rmdir node_modules/ && {gone} && rm -rf node_modules && ! rmdir node_modules 2>/dev/null && echo twice"),
        "gone\ntwice\n",
    );
    let again = "mkdir -m 750 node_modules && touch node_modules/x && ls -A /workspace/node_modules && stat -c %a node_modules";
    check(&format!("rm -rf node_modules; {again}"), "x\n750\n");
    check("umask 077; rm -rf node_modules; mkdir -p node_modules/deep/er && stat -c %a node_modules && ls node_modules", "700\ndeep\n");
    // One that is not empty is not removed, and one that is there is not made.
    check("rmdir node_modules 2>&1 | grep -o 'not empty'; mkdir node_modules 2>&1 | grep -o 'exists'", "not empty\nexists\n");
    // A rename moves it to another file system, and so does a rename over it.
    check("rm -rf old; mv node_modules old && test ! -e node_modules && mv old node_modules && ls node_modules && test ! -e old", "deep\n");
    check("rm -rf node_modules; mkdir new; touch new/n; mv -T new node_modules && ls node_modules; test ! -e new", "n\n");
    check("cd web && rm -rf target && mkdir target && touch target/t && cd .. && rm -rf web && test ! -e web/target && mkdir web", "");
    // A file or a symlink cannot take its place; why is said.
    let tried = silo.run(["sh", "-c", "rm -rf node_modules && ln -s /tmp node_modules"]);
    assert!(tried.code != 0 && tried.err.contains("node_modules is in mount.exclude"), "{tried:?}");
    // It counts for this run; the directory is kept, and the host's are as they were.
    check("rm -rf node_modules", "");
    check("ls -A node_modules && touch node_modules/kept", "");
    check("ls -A node_modules", "kept\n");
    for dir in ["node_modules", "web/target"] {
        let names: Vec<_> = fs::read_dir(silo.project().join(dir)).expect("there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["hosts"], "the host's own is not touched");
    }
}

#[test]
fn nothing_but_excluded_directories_is_removed_or_made_otherwise() {
    let silo = project("[mount]\nexclude = [\"target\"]\n");
    let script = "mkdir -p other/target && touch other/target/file && ! rmdir other/target 2>/dev/null && rm -rf other/target && \
                  mkdir other/target && mv other/target other/moved && ls other && ln -s other target2 && rm target2 && ls -d target other && \
                  rm -rf target && mkdir sub && cd sub && mkdir ../target && rmdir ../sub/../target && ! ls -d ../target 2>/dev/null";
    assert_eq!(sh(&silo, script), "moved\nother\ntarget\n");
    // Where the project cannot be written, nothing of it is removed.
    settled(&silo, "[mount]\nmode = \"ro\"\nexclude = [\"target\"]\n");
    let tried = silo.run(["sh", "-c", "rmdir target || rm -r target || ls -d target"]);
    assert!(tried.out == "target\n" && tried.err.contains("Read-only file system"), "{tried:?}");
}

#[test]
fn a_project_can_be_read_only() {
    let silo = project("[mount]\nmode = \"ro\"\nexclude = [\"out\"]\n");
    fs::write(silo.project().join("file"), "mine").expect("our own project");
    let refused = silo.run(["sh", "-c", "true"]);
    assert!(refused.code == 125 && refused.err.contains("out does not exist") && refused.err.contains("mkdir -p"), "{refused:?}");
    fs::create_dir(silo.project().join("out")).expect("our own project");
    let tried = silo.run(["sh", "-c", "echo x > file || echo x > /workspace/new || mkdir d || rm file || echo $? kept; echo y > out/y"]);
    assert!(tried.code == 0 && tried.out.ends_with("1 kept\n"), "{tried:?}");
    assert_eq!(fs::read_to_string(silo.project().join("file")).expect("there"), "mine");
    assert!(!silo.project().join("out/y").exists());
}

#[test]
fn files_that_are_named_are_read_and_not_written() {
    let silo = project("");
    let (name, absolute) = (format!(".secret-{}", std::process::id()), silo.project().join("../absolute"));
    fs::write(silo.home().join(&name), "of home\n").expect("our own home");
    fs::write(&absolute, "absolute\n").expect("our own directory");
    fs::write(silo.project().join("inner"), "inner\n").expect("our own project");
    let absolute = canonical(absolute);
    let settings = format!(
        "passFiles = [\"~/{name}\", {{ host = \"{}\", guest = \"/run/secrets/key\" }}]\n[overrides.sh]\npassFiles = [\"inner\"]\n",
        absolute.display()
    );
    fs::write(silo.project().join("silo.toml"), &settings).expect("our own project");
    let asked = silo.run(["sh", "-c", "true"]);
    assert!(asked.code == 125 && asked.err.contains(&format!("every tool reads the file ~/{name}")), "{asked:?}");
    assert!(!asked.err.contains("inner"), "{asked:?}");
    settled(&silo, &settings);
    let script = format!(
        "cat ~/{name} /run/secrets/key inner; for f in ~/{name} /run/secrets/key inner /workspace/inner; do echo x > $f || rm -f $f; done"
    );
    let tried = silo.run(["sh", "-c", &script]);
    assert_eq!(tried.out, "of home\nabsolute\ninner\n", "{tried:?}");
    assert_eq!(fs::read_to_string(silo.home().join(&name)).expect("there"), "of home\n");
    assert_eq!(fs::read_to_string(silo.project().join("inner")).expect("there"), "inner\n");
    // Nothing is left out silently, and no file of the project points out of it.
    symlink(&absolute, silo.project().join("link")).expect("our own project");
    for (file, expect) in [("~/no-such", "No such file"), ("link", "link is a symlink; name the file itself"), ("~/.silo", "not a file")] {
        settled(&silo, &format!("passFiles = [\"{file}\"]\n"));
        let refused = silo.run(["sh", "-c", "true"]);
        assert!(refused.code == 125 && refused.err.contains(expect), "{file}: {refused:?}");
    }
    fs::write(silo.project().join("silo.toml"), "passFiles = [\"../x\"]\n").expect("our own project");
    assert!(silo.fails(["sh", "-c", "true"]).err.contains("passFiles: \"../x\" is not the path of a file"));
    fs::remove_file(silo.home().join(name)).expect("our own home");
}

#[test]
fn caches_and_state_are_a_projects_own_unless_it_says_otherwise() {
    let settings = "[overrides.sh]\ncache = [\"~/.cache/x\", { guest = \"/opt/all\", scope = \"tool\" }]\nstate = [\"~/.login\"]\n";
    let silo = project(settings);
    let _ = sh(&silo, "echo one | tee ~/.cache/x/file ~/.login/file /opt/all/file; echo gone > ~/file");
    assert_eq!(sh(&silo, "cat ~/.cache/x/file ~/.login/file /opt/all/file; ls ~"), "one\none\none\n");
    // Neither another project nor another tool of this one can poison them; directories for all projects are shared.
    let other = project(settings);
    assert_eq!(
        sh(&other, "ls -A ~/.cache/x ~/.login; cat /opt/all/file"),
        format!("{0}/.cache/x:\n\n{0}/.login:\none\n", other.home().display())
    );
    assert_eq!(
        silo.ok(["run", "--shim", "sh", "python", "-c", "ls -A ~ ~/.cache"]).replace(&silo.home().display().to_string(), ""),
        ":\n.cache\n\n/.cache:\npip\n"
    );
    // A directory for all projects needs approval.
    let asked = Silo::shared(As::Me);
    fs::write(asked.project().join("silo.toml"), settings).expect("our own project");
    let refused = asked.run(["sh", "-c", "true"]);
    assert!(refused.code == 125 && refused.err.contains(" sh has the same /opt/all in all projects\n"), "{refused:?}");
    // No other user of the machine can read it.
    let kept = silo.path("kept/projects");
    assert_eq!(fs::metadata(kept).expect("there").mode() & 0o777, 0o700);
}

#[test]
fn downloads_of_pip_persist_for_the_project() {
    let silo = Silo::shared(As::Me);
    let dir = silo.ok(["pip", "cache", "dir"]);
    assert_eq!(dir, format!("{}/.cache/pip\n", silo.home().display()));
    let _ = silo.ok(["run", "--shim", "sh", "python", "-c", "echo kept > ~/.cache/pip/file"]);
    assert_eq!(silo.ok(["run", "--shim", "sh", "python", "-c", "cat ~/.cache/pip/file"]), "kept\n");
    assert!(silo.ok(["run", "--no-project", "--shim", "sh", "python", "-c", "ls ~/.cache/pip || echo none"]).ends_with("none\n"));
}

#[test]
fn a_moved_project_keeps_its_directories_and_approvals() {
    let settings = "passEnv = [\"X\"]\n[mount]\nexclude = [\"n\"]\n[overrides.sh]\nstate = [\"~/.login\"]\n";
    let silo = project(settings);
    let _ = sh(&silo, "echo me > ~/.login/who; echo dep > n/dep");
    let moved = silo.project().with_file_name("moved");
    fs::rename(silo.project(), &moved).expect("our own directory");
    fs::create_dir(silo.project()).expect("another one at its place");
    let at = |dir: &Path, script: &str| done(silo.command(["sh", "-c", script]).current_dir(dir));
    let told = at(&moved, "cat ~/.login/who n/dep");
    if told.err.contains("not approved") && fs::metadata(&moved).is_ok_and(|found| found.created().is_err()) {
        return skip("the file system does not know when directories were made");
    }
    assert_eq!(told.out, "me\ndep\n", "{told:?}");
    assert!(told.err.contains("was moved to"), "{told:?}");
    assert_eq!(at(&moved, "cat n/dep").err, "");
    settled(&silo, settings);
    assert_eq!(sh(&silo, "ls -A ~/.login n"), format!("{}/.login:\n\nn:\n", silo.home().display()));
    // By a name of its own, wherever it is; the use of data kept under a name needs approval.
    let name = format!("projectId = \"named-{}\"\n{settings}", std::process::id());
    settled(&silo, &name);
    let _ = sh(&silo, "echo named > n/dep");
    fs::write(moved.join("silo.toml"), &name).expect("our own project");
    let asked = at(&moved, "cat n/dep");
    assert!(asked.code == 125 && asked.err.contains("it has what is kept for the project named named-"), "{asked:?}");
    assert_eq!(done(silo.command(["trust", "--yes"]).current_dir(&moved)).code, 0);
    assert_eq!(at(&moved, "cat n/dep").out, "named\n");
}

/// Makes a repository without a git.
fn repository(project: &Path) -> PathBuf {
    let git = project.join(".git");
    for dir in ["objects", "refs/heads", "hooks"] {
        fs::create_dir_all(git.join(dir)).expect("our own project");
    }
    fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("our own project");
    fs::write(git.join("config"), "[core]\n\trepositoryformatversion = 0\n").expect("our own project");
    git
}

#[test]
fn files_that_the_host_obeys_are_guarded_and_every_change_of_them_is_reported() {
    let silo = Silo::shared(As::Me);
    let git = repository(&silo.project());
    let quiet =
        silo.run(["sh", "-c", "echo x > ordinary; echo x > .git/hooks/pre-commit && echo x >> .git/config && cat /workspace/.git/hooks/*"]);
    assert!(quiet.code == 0 && quiet.out == "x\n" && quiet.err.is_empty(), "{quiet:?}");
    assert_eq!(fs::read_dir(git.join("hooks")).expect("there").count(), 0, "what is written there stays inside");
    assert!(!fs::read_to_string(git.join("config")).expect("there").contains('x'));
    let told = silo.run(["sh", "-c", "echo x > .envrc; mkdir .vscode; echo 'passEnv = []' > silo.toml; echo x > AGENTS.md"]);
    let expect =
        "\n  .envrc (new; direnv)\n  .vscode (new; Visual Studio Code)\n  AGENTS.md (new; coding agents)\n  silo.toml (new; Silo)\n";
    assert!(told.err.contains("programs of this machine act on") && told.err.ends_with(expect), "{told:?}");
    // From now on they cannot be changed, and a silo.toml that a guest made is not obeyed by itself.
    let refused = silo.run(["sh", "-c", "true"]);
    assert!(refused.code == 125 && refused.err.contains(" silo.toml is new: passEnv = []\n"), "{refused:?}");
    let _ = silo.ok(["trust", "--yes"]);
    let again = silo.run(["sh", "-c", "echo y > .envrc; echo y > .vscode/tasks.json; rm -f silo.toml; mv .vscode x"]);
    assert!(again.code != 0 && !again.err.contains("programs of this machine act on"), "{again:?}");
    assert_eq!(fs::read_to_string(silo.project().join(".envrc")).expect("there"), "x\n");
    assert!(silo.project().join("silo.toml").exists() && silo.project().join(".vscode").exists());
}

#[test]
fn a_repository_is_shown_as_the_settings_say() {
    let silo = project("[mount]\ngit = \"hidden\"\n");
    let git = repository(&silo.project());
    assert_eq!(sh(&silo, "ls -A .git /workspace/.git"), ".git:\n\n/workspace/.git:\n");
    settled(&silo, "[mount]\ngit = \"read-only\"\n");
    let refused = silo.run(["sh", "-c", "cat .git/HEAD; echo x > .git/HEAD || echo y > /workspace/.git/new || echo refused"]);
    assert!(refused.out == "ref: refs/heads/main\nrefused\n" && !git.join("new").exists(), "{refused:?}");
    // A project that asks for more is asked about.
    fs::write(silo.project().join("silo.toml"), "[mount]\ngit = \"direct\"\n").expect("our own project");
    let asked = silo.run(["sh", "-c", "true"]);
    assert!(asked.code == 125 && asked.err.contains("every tool may write the git repository directly"), "{asked:?}");
    let _ = silo.ok(["trust", "--yes"]);
    let direct =
        silo.run(["sh", "-c", "echo x > .git/ORIG_HEAD; echo x > .git/hooks/post-commit || echo x >> .git/config || echo refused"]);
    assert!(direct.out == "refused\n" && git.join("ORIG_HEAD").exists(), "{direct:?}");
}

#[test]
fn sockets_of_the_host_in_the_project_are_hidden() {
    let silo = Silo::shared(As::Me);
    let path = silo.project().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("our own project");
    let seen = sh(&silo, "for s in socket /workspace/socket; do test -S $s && echo socket || echo none; done");
    assert_eq!(seen, "none\nnone\n");
    settled(&silo, "[mount]\nsockets = \"shown\"\n");
    assert_eq!(sh(&silo, "test -S socket && echo socket"), "socket\n");
}

#[test]
fn too_much_to_guard_is_refused_with_the_setting_that_allows_it() {
    let silo = project("[mount]\nmaxGuarded = 3\n");
    for number in 0..4 {
        fs::create_dir_all(silo.project().join(".vscode")).expect("our own project");
        fs::write(silo.project().join(format!(".vscode/{number}.json")), "").expect("our own project");
    }
    let refused = silo.run(["sh", "-c", "true"]);
    assert!(refused.code == 125 && refused.err.contains("raise mount.maxGuarded above 3"), "{refused:?}");
}

#[test]
fn a_worktree_sees_its_repository_but_cannot_change_its_hooks() {
    if !has("git") {
        return skip("there is no git here");
    }
    let silo = Silo::shared(As::Me);
    let main = silo.project().with_file_name("main");
    let git = |dir: &Path, words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]).args(words);
        let done = done(command.current_dir(dir).env("HOME", silo.home()));
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        done.out
    };
    fs::create_dir(&main).expect("our own directory");
    git(&main, &["init", "--quiet"]);
    git(&main, &["commit", "--quiet", "--allow-empty", "-m", "first"]);
    let tree = silo.project().with_file_name("tree");
    git(&main, &["worktree", "add", "--quiet", "-b", "work", tree.to_str().expect("our own path")]);
    let common = canonical(main.join(".git"));
    let script = format!(
        "cd {0}; head -c 4 HEAD; for f in config hooks/pre-commit worktrees/tree/commondir packed-refs; do echo evil > $f; done; \
         cp refs/heads/work refs/heads/new && echo x > objects/probe && echo x > worktrees/tree/index.lock && rm worktrees/tree/index.lock && echo written; \
         ls {1} 2>&1; echo y > {2}/.git; mv {2}/.git {2}/x",
        common.display(),
        main.join("file").display(),
        canonical(tree.clone()).display(),
    );
    fs::write(main.join("file"), "not of the worktree").expect("our own directory");
    let inside = done(silo.command(["sh", "-c", &script]).current_dir(&tree));
    assert!(inside.out.starts_with("ref:written\n") && inside.out.contains("No such file"), "{inside:?}");
    assert_eq!(inside.err.matches("Read-only file system").count(), 1, "{inside:?}");
    assert!(inside.err.contains("packed-refs is not a ref and was not imported"), "{inside:?}");
    // Changes there stay inside, except the ref.
    assert!(!common.join("hooks/pre-commit").exists() && !common.join("packed-refs").exists());
    let left = ["config", "worktrees/tree/commondir"].map(|name| fs::read_to_string(common.join(name)).expect("there"));
    assert!(left.iter().all(|text| !text.contains("evil")), "{left:?}");
    assert_eq!(git(&tree, &["branch", "--list", "new"]).trim(), "new");
    assert_eq!(git(&main, &["status", "--short"]), "?? file\n");
    // A `.git` that claims to be a worktree's shows nothing.
    fs::write(silo.project().join(".git"), fs::read(tree.join(".git")).expect("there")).expect("our own project");
    let other = silo.run(["sh", "-c", &format!("ls {}", common.display())]);
    assert!(other.code != 0 && other.err.contains("No such file"), "{other:?}");
}

#[test]
fn a_home_is_shown_once_that_is_confirmed() {
    // A home of its own, because confirmations are stored.
    let silo = Silo::new();
    fs::create_dir_all(silo.home().join(".ssh/x")).expect("our own home");
    let keys = silo.home().join(".ssh");
    let run = |words: &[&str]| done(silo.command(words).current_dir(&keys));
    let told = run(&["trust", "--expose"]);
    assert!(told.code != 0 && told.out.contains("it is shown to tools although it holds keys or logins"), "{told:?}");
    assert_eq!(run(&["trust", "--expose", "--yes"]).code, 0);
    assert!(run(&["trust", "--expose"]).out.contains("everything is approved"));
    let other = done(silo.command(["trust", "--expose"]).current_dir(silo.home()));
    assert!(other.code != 0 && other.out.contains("it holds your home directory"), "{other:?}");
}

#[test]
fn a_user_may_trust_every_project_and_no_project_may_ask_for_that() {
    let silo = Silo::new();
    fs::write(silo.project().join("silo.toml"), "passEnv = [\"A\"]\n").expect("our own project");
    assert!(silo.fails(["sync"]).err.contains("every tool sees the variable A"));
    silo.write(".silo/silo.toml", "trust = \"always\"\n");
    assert!(silo.ok(["sync"]).contains("uses no tools"));
    fs::write(silo.project().join("silo.toml"), "trust = \"always\"\n").expect("our own project");
    assert!(silo.fails(["sync"]).err.contains("trust is a user setting, and a project cannot set it"));
    fs::write(silo.project().join("silo.toml"), "[cache.tools]\nmaxSizeMB = 1\n").expect("our own project");
    assert!(silo.fails(["sync"]).err.contains("cache is a user setting, and a project cannot set it"));
}

#[test]
fn state_is_never_collected_and_goes_with_its_project() {
    let silo = project("[overrides.sh]\nstate = [\"~/.login\"]\ncache = [\"~/.cache/x\"]\n");
    let _ = sh(&silo, "echo me > ~/.login/who; echo a > ~/.cache/x/old; touch -d '2001-01-01' ~/.login/who ~/.cache/x/old");
    let held = Silo::hold_store();
    let would = silo.ok(["gc", "--dry-run"]);
    assert!(would.contains("files of package caches would be removed"), "{would}");
    let listed = silo.ok(["projects", "ls"]);
    assert!(listed.contains(&canonical(silo.project()).display().to_string()), "{listed}");
    assert!(silo.ok(["cache", "report"]).contains("\nkept "));
    let told = silo.ok(["clean", "--force"]);
    drop(held);
    assert!(told.contains("its package caches, private state (logins)"), "{told}");
    assert_eq!(sh(&silo, "ls ~/.login ~/.cache/x"), format!("{0}/.cache/x:\n\n{0}/.login:\n", silo.home().display()));
}

#[test]
fn persistent_directories_belong_to_the_user() {
    if !is_root() {
        return skip("only root can be two users");
    }
    let silo = Silo::shared(As::Nobody);
    fs::write(silo.project().join("silo.toml"), "[mount]\nexclude = [\"n\"]\n").expect("our own project");
    assert_eq!(sh(&silo, "echo x > n/x; cat n/x"), "x\n");
    let made = fs::metadata(silo.project().join("n")).expect("the place of it");
    assert_eq!(made.uid(), NOBODY);
}
