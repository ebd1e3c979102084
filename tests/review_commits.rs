//! Review mode: the files of new commits are weighed as those of the working tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{As, Done, Silo, done, has, skip};

/// A project with a repository, and a clone in which a test makes the commits that a program inside brings.
struct Ground {
    silo: Silo,
    project: PathBuf,
    away: PathBuf,
}

/// Brings objects and one ref, as git does: objects first.
const BRING: &str = "
import os, sys, tarfile
with tarfile.open('objects.tar') as objects:
    for member in objects:
        path = '.git/' + member.name
        if member.isdir(): os.makedirs(path, exist_ok=True)
        elif not os.path.exists(path): open(path, 'wb').write(objects.extractfile(member).read())
os.makedirs(os.path.dirname('.git/' + sys.argv[1]), exist_ok=True)
open('.git/' + sys.argv[1], 'w').write(sys.argv[2] + '\\n')
";

impl Ground {
    fn new(format: &str) -> Ground {
        let silo = Silo::shared(As::Me);
        let project = silo.project();
        fs::create_dir_all(project.join("src")).expect("our own project");
        for number in 0..50 {
            fs::write(project.join(format!("src/m{number}.py")), format!("x = {number}\n")).expect("our own project");
        }
        fs::write(project.join(".gitignore"), "objects.tar\n").expect("our own project");
        let away = project.with_file_name("away");
        let ground = Ground { silo, project, away };
        ground.git(&ground.project, &["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        ground.commit(&ground.project, "one");
        ground.git(&ground.project, &["branch", "begin"]);
        // A branch that the host has: its files are not new, but the branch can be another one's.
        ground.git(&ground.project, &["checkout", "-q", "-b", "other"]);
        fs::write(ground.project.join(".envrc"), "other\n").expect("our own project");
        ground.commit(&ground.project, "other");
        ground.git(&ground.project, &["checkout", "-q", "main"]);
        ground.clone_again();
        ground
    }

    /// Makes the clone as the project's repository is.
    fn clone_again(&self) {
        let _ = fs::remove_dir_all(&self.away);
        let (from, to) = (self.project.to_string_lossy().into_owned(), self.away.to_string_lossy().into_owned());
        self.git(Path::new("/"), &["clone", "-q", &from, &to]);
    }

    fn git_command(&self, dir: &Path, words: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "safe.directory=*", "-c", "protocol.file.allow=always"]);
        git.args(words).current_dir(dir).envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]);
        git
    }

    fn git(&self, dir: &Path, words: &[&str]) -> String {
        let done = done(&mut self.git_command(dir, words));
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        done.out.trim().to_owned()
    }

    fn git_with(&self, words: &[&str], input: &[u8]) -> String {
        let mut git = self.git_command(&self.away, words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git starts");
        std::io::Write::write_all(&mut git.stdin.take().expect("a pipe"), input).expect("git reads");
        let out = git.wait_with_output().expect("git ends");
        assert!(out.status.success(), "{words:?}");
        String::from_utf8(out.stdout).expect("an id").trim().to_owned()
    }

    /// Commits everything, and returns the commit.
    fn commit(&self, dir: &Path, message: &str) -> String {
        self.git(dir, &["add", "--all", "--force", "."]);
        self.git(dir, &["commit", "-q", "--allow-empty", "-m", message]);
        self.git(dir, &["rev-parse", "HEAD"])
    }

    /// Writes a file of the clone.
    fn write(&self, path: &str, text: &str) {
        let path = self.away.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("our own clone");
        fs::write(path, text).expect("our own clone");
    }

    /// Runs a program that brings the objects of the clone and a ref.
    fn bring(&self, review: &str, name: &str, oid: &str) -> Done {
        let tar = self.project.join("objects.tar");
        let made = Command::new("tar").arg("-C").arg(self.away.join(".git")).arg("-cf").arg(&tar).arg("objects").status();
        assert!(made.is_ok_and(|status| status.success()));
        self.silo.run(["run", review, "--shim", "python3", "python", "--", "-c", BRING, name, oid])
    }

    fn head(&self) -> String {
        self.git(&self.project, &["rev-parse", "main"])
    }

    /// The commits of the review.
    fn commits(&self) -> Value {
        let json: Value = serde_json::from_str(&self.silo.ok(["review", "--json"])).expect("JSON");
        json["commits"].clone()
    }

    /// Checks that the review lists these files with these reasons, and that the safe changes do not bring the commits.
    fn expect(&self, why: &str, files: &[(&str, &str)]) -> BTreeMap<String, Value> {
        let (commits, before) = (self.commits(), self.head());
        let list = commits["obeyed"].as_array().expect("a list").iter();
        let found: BTreeMap<String, Value> = list.map(|one| (one["path"].as_str().expect("a path").to_owned(), one.clone())).collect();
        for (path, reason) in files {
            let has = found.get(*path).and_then(|one| one["reason"].as_str());
            assert!(has.is_some_and(|has| has.contains(reason)), "{why}: {path}: {commits}");
        }
        assert_eq!(commits["safe"], false, "{why}: {commits}");
        let applied = self.silo.run(["apply", "--safe"]);
        assert!(applied.err.contains("the changes of the git repository wait"), "{why}: {applied:?}");
        assert_eq!(self.head(), before, "{why}");
        found
    }

    fn discard(&self) {
        self.silo.ok(["discard", "--yes"]);
    }
}

#[test]
fn a_commit_of_sources_alone_comes_without_a_question() {
    if !has("git") {
        return skip("there is no git here");
    }
    for format in ["sha1", "sha256"] {
        let ground = Ground::new(format);
        ground.write("src/m1.py", "x = 'new'\n");
        ground.write("notes/read me.md", "text\n");
        fs::remove_file(ground.away.join("src/m2.py")).expect("our own clone");
        ground.commit(&ground.away, "two");
        ground.write("src/m1.py", "x = 'newer'\n");
        let tip = ground.commit(&ground.away, "three");
        let done = ground.bring("--review=always", "refs/heads/main", &tip);
        assert_eq!(done.code, 0, "{done:?}");
        let commits = ground.commits();
        assert_eq!((&commits["safe"], &commits["count"], &commits["others"]), (&true.into(), &2.into(), &3.into()), "{commits}");
        assert!(ground.silo.ok(["review"]).contains("2 new commits with 3 other files"));
        ground.discard();
        let done = ground.bring("--review=risky", "refs/heads/main", &tip);
        assert!(done.code == 0 && done.err.contains("and 2 commits of this run"), "{done:?}");
        assert_eq!(ground.head(), tip);
    }
}

#[test]
fn files_of_commits_that_this_machine_obeys_are_listed_with_their_commit() {
    if !has("git") {
        return skip("there is no git here");
    }
    let ground = Ground::new("sha1");
    // A file that a later commit removes is still in the history.
    ground.write(".envrc", "evil\n");
    let first = ground.commit(&ground.away, "two");
    fs::remove_file(ground.away.join(".envrc")).expect("our own clone");
    let tip = ground.commit(&ground.away, "three");
    let done = ground.bring("--review=risky", "refs/heads/main", &tip);
    assert!(done.err.contains(&format!(".envrc (added in commit {}; direnv acts on it)", &first[..12])), "{done:?}");
    let found = ground.expect("removed later", &[(".envrc", "direnv")]);
    assert_eq!(found[".envrc"]["commit"], first[..12], "{found:?}");
    ground.discard();

    // Of every kind, with hostile names, in one pack with deltas.
    ground.clone_again();
    for (path, text) in [
        (".github/workflows/ci.yml", "on: push"),
        (".husky/pre-commit", "evil"),
        ("package.json", "{\"scripts\": {\"postinstall\": \"curl evil\"}}"),
        ("sub/build.rs", "fn main() {}"),
        ("node_modules/a/index.js", "x"),
        ("src/m3.py", "x = 1"),
        ("\u{1b}[31m\u{202e}\n/.envrc", "evil"),
        ("tool", "#!/bin/sh\n"),
    ] {
        ground.write(path, text);
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(ground.away.join("tool"), mode).expect("our own clone");
    symlink("/etc/passwd", ground.away.join("out")).expect("our own clone");
    ground.git(&ground.away, &["add", "--all", "--force", "."]);
    let head = ground.head();
    ground.git(&ground.away, &["update-index", "--add", "--cacheinfo", &format!("160000,{head},inner")]);
    ground.git(&ground.away, &["commit", "-q", "-m", "all"]);
    let tip = ground.git(&ground.away, &["rev-parse", "HEAD"]);
    ground.git(&ground.away, &["repack", "-q", "-a", "-d", "-f", "--depth=50", "--window=50"]);
    assert_eq!(ground.bring("--review=risky", "refs/heads/main", &tip).code, 0);
    let found = ground.expect(
        "every kind",
        &[
            (".github/workflows/ci.yml", "CI workflow"),
            (".husky/pre-commit", "git hook"),
            ("package.json", "npm postinstall"),
            ("sub/build.rs", "build script"),
            ("node_modules/a/index.js", "generated"),
            ("\u{1b}[31m\u{202e}\n/.envrc", "direnv"),
            ("tool", "new executable"),
            ("out", "link that leads out"),
            ("inner", "submodule"),
        ],
    );
    assert!(!found.contains_key("src/m3.py"), "{found:?}");
    for words in [["review", "--list"], ["review", "--plain"]] {
        let text = ground.silo.ok(words);
        assert!(text.contains("build.rs (added in commit") && !text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
    }
    ground.silo.ok(["apply"]);
    assert_eq!(ground.head(), tip);
}

#[test]
fn refs_that_lead_to_other_files_are_weighed_too() {
    if !has("git") {
        return skip("there is no git here");
    }
    let ground = Ground::new("sha1");
    // Commits that the host has: main becomes another branch.
    let other = ground.git(&ground.project, &["rev-parse", "other"]);
    assert_eq!(ground.bring("--review=risky", "refs/heads/main", &other).code, 0);
    ground.expect("another branch", &[(".envrc", "direnv")]);
    ground.discard();
    // A new name for it.
    assert_eq!(ground.bring("--review=risky", "refs/heads/mine", &other).code, 0);
    ground.expect("a new name", &[(".envrc", "direnv")]);
    ground.discard();
    // A merge of both.
    ground.write("src/m1.py", "mine\n");
    ground.commit(&ground.away, "two");
    ground.git(&ground.away, &["merge", "-q", "--no-edit", "origin/other"]);
    let merged = ground.git(&ground.away, &["rev-parse", "HEAD"]);
    assert_eq!(ground.bring("--review=risky", "refs/heads/main", &merged).code, 0);
    ground.expect("a merge", &[(".envrc", "direnv")]);
    ground.discard();
    // A tag without a branch.
    ground.clone_again();
    ground.write("Makefile", "all:\n");
    ground.commit(&ground.away, "tagged");
    ground.git(&ground.away, &["tag", "-a", "-m", "tag", "v1"]);
    let tag = ground.git(&ground.away, &["rev-parse", "v1"]);
    assert_eq!(ground.bring("--review=risky", "refs/tags/v1", &tag).code, 0);
    ground.expect("a tag", &[("Makefile", "build script")]);
    ground.discard();
    // A branch that follows another ref.
    let done = ground.bring("--review=risky", "refs/heads/main", "ref: refs/remotes/origin/other");
    assert!(done.err.contains("follows refs/remotes/origin/other"), "{done:?}");
}

#[test]
fn commits_that_silo_cannot_read_wait() {
    if !has("git") {
        return skip("there is no git here");
    }
    let ground = Ground::new("sha1");
    let blob = ground.git_with(&["hash-object", "-w", "--stdin"], b"x\n");
    // Trees with twenty equal trees each: the paths are more than any memory holds.
    let mut tree = ground.git_with(&["mktree"], format!("100644 blob {blob}\tx.py\n").as_bytes());
    for _ in 0..12 {
        let lines: String = (0..20).map(|number| format!("040000 tree {tree}\td{number}\n")).collect();
        tree = ground.git_with(&["mktree"], lines.as_bytes());
    }
    let problem = |why: &str, tip: &str, expect: &str| {
        let done = ground.bring("--review=risky", "refs/heads/main", tip);
        assert!(done.code == 0 && done.err.contains("wait for a decision") && done.err.contains(expect), "{why}: {done:?}");
        let commits = ground.commits();
        assert!(commits["problems"][0].as_str().is_some_and(|problem| problem.contains(expect)), "{why}: {commits}");
        ground.expect(why, &[]);
        ground.discard();
    };
    let commit = |tree: &str| ground.git_with(&["commit-tree", tree, "-m", "x"], b"");
    problem("too many paths", &commit(&tree), "more new commits and files");
    // A deep tree.
    let mut deep = ground.git_with(&["mktree"], format!("100644 blob {blob}\tx.py\n").as_bytes());
    for _ in 0..520 {
        deep = ground.git_with(&["mktree"], format!("040000 tree {deep}\td\n").as_bytes());
    }
    problem("a deep tree", &commit(&deep), "too long path");
    // A missing tree, and one that is not as its id says.
    let missing = ground.git_with(&["mktree", "--missing"], b"040000 tree 1111111111111111111111111111111111111111\td\n");
    problem("a missing tree", &commit(&missing), "cannot read the object 1111");
    ground.write("src/secret.py", "evil\n");
    let tip = ground.commit(&ground.away, "two");
    let tree = ground.git(&ground.away, &["rev-parse", "HEAD^{tree}"]);
    let other = ground.git(&ground.away, &["rev-parse", "HEAD~1^{tree}"]);
    let loose = |oid: &str| ground.away.join(".git/objects").join(&oid[..2]).join(&oid[2..]);
    let honest = ground.git_with(&["mktree"], format!("100644 blob {blob}\thonest.py\n").as_bytes());
    assert!(loose(&tree).exists() && other != tree);
    fs::remove_file(loose(&tree)).expect("our own clone");
    fs::copy(loose(&honest), loose(&tree)).expect("our own clone");
    problem("another tree", &tip, &format!("cannot read the object {tree}"));
    // Names that git refuses.
    let odd = |name: &str| {
        let mut content = format!("100644 {name}\0").into_bytes();
        content.extend((0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).expect("hex")));
        ground.git_with(&["hash-object", "-t", "tree", "-w", "--stdin", "--literally"], &content)
    };
    for name in ["..", ".", "", "a/b"] {
        problem("a name that git refuses", &commit(&odd(name)), "is damaged");
    }
    assert_eq!(ground.bring("--review=risky", "refs/heads/main", &commit(&odd(".GIT"))).code, 0);
    ground.expect("a repository", &[(".GIT", "repository of its own")]);
}

/// Brings objects without a ref, and the index or a state of an operation.
#[test]
fn the_index_is_weighed_and_a_stash_of_a_merge_and_a_cut_history_stay_inside() {
    if !has("git") {
        return skip("there is no git here");
    }
    let ground = Ground::new("sha1");
    let bring = |review: &str, name: &str, bytes: &[u8]| {
        fs::write(ground.project.join("objects.tar.state"), bytes).expect("our own project");
        let tar = ground.project.join("objects.tar");
        let made = Command::new("tar").arg("-C").arg(ground.away.join(".git")).arg("-cf").arg(&tar).arg("objects").status();
        assert!(made.is_ok_and(|status| status.success()));
        let script = BRING.replace(
            "open('.git/' + sys.argv[1], 'w').write(sys.argv[2] + '\\n')",
            "open('.git/' + sys.argv[1], 'wb').write(open(sys.argv[2], 'rb').read())",
        );
        ground.silo.run(["run", review, "--shim", "python3", "python", "--", "-c", &script, name, "objects.tar.state"])
    };
    let head = ground.head();
    // Sources alone come with the safe changes.
    fs::write(ground.project.join(".git/info/exclude"), "objects.tar*\n").expect("our own project");
    ground.git(&ground.away, &["checkout", "-q", "-B", "main", "origin/main"]);
    ground.write("src/new.py", "x = 1\n");
    ground.git(&ground.away, &["add", "src/new.py"]);
    let index = fs::read(ground.away.join(".git/index")).expect("git made it");
    let done = bring("--review=always", "index", &index);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(ground.commits()["safe"], true);
    ground.discard();
    // A staged file that the host obeys waits: `git checkout` writes it.
    ground.write(".envrc", "evil\n");
    ground.git(&ground.away, &["add", "--force", ".envrc"]);
    let index = fs::read(ground.away.join(".git/index")).expect("git made it");
    let done = bring("--review=always", "index", &index);
    assert_eq!(done.code, 0, "{done:?}");
    let found = ground.expect("staged", &[(".envrc", "direnv")]);
    assert_eq!(found[".envrc"]["commit"], "the index");
    assert!(!ground.git(&ground.project, &["ls-files"]).contains(".envrc"));
    ground.discard();
    let done = bring("--review=risky", "index", &index);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!ground.git(&ground.project, &["ls-files"]).contains(".envrc"), "{done:?}");
    ground.discard();
    // git writes the files of this stash at the end of a merge.
    ground.git(&ground.away, &["stash", "push", "-q", "--include-untracked"]);
    let stash = ground.git(&ground.away, &["rev-parse", "stash"]);
    let done = bring("--review=never", "MERGE_AUTOSTASH", format!("{stash}\n").as_bytes());
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!ground.project.join(".git/MERGE_AUTOSTASH").exists(), "{done:?}");
    // A cut at a commit whose parents are here would hide them.
    fs::write(ground.project.join("src/m1.py"), "x = 2\n").expect("our own project");
    let second = ground.commit(&ground.project, "two");
    let done = bring("--review=never", "shallow", format!("{second}\n").as_bytes());
    assert!(done.code == 0 && done.err.contains("shallow was not imported"), "{done:?}");
    assert!(!ground.project.join(".git/shallow").exists());
    assert_eq!(ground.git(&ground.project, &["rev-parse", "HEAD^"]), head);
}
