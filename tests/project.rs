//! Tools of projects: additions, builds and pins, rebuilt elsewhere from the lock, and checked.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::{As, Done, Silo, done, skip};

/// A silo that has python and sh, in a project with this `silo.toml`.
fn project(settings: &str) -> Silo {
    let silo = Silo::shared(As::Me);
    write(&silo, "silo.toml", settings);
    silo
}

fn write(silo: &Silo, file: &str, text: &str) {
    let path = silo.project().join(file);
    fs::create_dir_all(path.parent().expect("a file of the project")).expect("our own project");
    fs::write(path, text).expect("our own project");
    if file == "silo.toml" {
        let _ = silo.ok(["trust", "--yes"]);
    }
}

fn read(silo: &Silo, file: &str) -> String {
    fs::read_to_string(silo.project().join(file)).unwrap_or_default()
}

/// Another silo with an empty home and a copy of the project, at another path.
fn elsewhere(silo: &Silo) -> Silo {
    let other = Silo::new();
    // The downloads of this project too, so that no mirror is asked twice.
    silo.offer_downloads();
    other.seed_downloads();
    for file in ["silo.toml", "silo.lock"].into_iter().filter(|file| silo.project().join(file).exists()) {
        write(&other, file, &read(silo, file));
    }
    other
}

/// The image that a sync says a tool has.
fn image(silo: &Silo, flags: &[&str]) -> String {
    let told = silo.ok(["sync", "--quiet", "--json"].iter().chain(flags));
    let rows: serde_json::Value = serde_json::from_str(&told).expect("sync --json prints JSON");
    rows[0]["image"].as_str().unwrap_or_else(|| panic!("no image: {told}")).to_owned()
}

#[test]
fn packages_are_added_to_one_project_and_rebuilt_elsewhere_from_the_lock() {
    let silo = project("# mine\n");
    let said = silo.ok(["add", "--quiet", "jq", "ripgrep", "--for", "python"]);
    assert!(said.contains("+ package jq\n") && said.contains("+ package ripgrep\n") && said.contains("locked, image"), "{said}");
    assert_eq!(read(&silo, "silo.toml"), "# mine\n\n[overrides.python]\npackages = [\"jq\", \"ripgrep\"]\n");
    let lock = read(&silo, "silo.lock");
    for arch in ["amd64", "arm64"] {
        assert!(lock.contains(&format!("\n[tool.python.{arch}]\n")), "{lock}");
    }
    assert!(lock.contains("\n\"jq\" = { version = \"1.") && lock.contains("tier = \"added\""), "{lock}");
    let both = ["run", "--shim", "sh", "python", "-c", "jq --version; rg --version | head -1; python3 -c 'print(6 * 7)'"];
    let said = silo.ok(both);
    assert!(said.starts_with("jq-1.") && said.contains("ripgrep 1") && said.ends_with("42\n"), "{said}");
    // Nothing happens the second time, and another project does not know of it.
    let (first, before) = (image(&silo, &[]), read(&silo, "silo.lock"));
    assert_eq!((image(&silo, &["--frozen"]), read(&silo, "silo.lock")), (first.clone(), before));
    let other = Silo::shared(As::Me);
    assert_eq!(other.run(["run", "--shim", "jq", "python", "--version"]).code, 127);
    // The lock alone gives the same image.
    let other = elsewhere(&silo);
    assert_eq!(image(&other, &["--frozen"]), first);
    assert!(other.ok(both).ends_with("42\n"));
    let why = silo.ok(["why", "/usr/bin/jq"]);
    assert!(why.contains("silo.toml:4\n"), "{why}");
}

#[test]
fn a_language_is_added() {
    let silo = project("");
    let said = silo.ok(["add", "--quiet", "kotlin", "--for", "python"]);
    assert!(said.contains("+ language kotlin\n"), "{said}");
    let version = silo.run(["run", "--shim", "kotlinc", "python", "-version"]);
    assert!(version.code == 0 && version.err.contains("kotlinc-jvm 1."), "{version:?}");
    // The dates in Java's store of certificates are the build's, whenever it is built.
    let other = elsewhere(&silo);
    assert_eq!(image(&other, &["--frozen"]), image(&silo, &[]));
}

#[test]
fn a_custom_language_is_found_and_a_wrong_name_reported() {
    let silo = project("");
    write(
        &silo,
        "recipes/addons/greeting.toml",
        "packages = [\"hello\"]\nenv = { GREETING = \"yes\" }\nsteps = [\"echo made > /opt/made\"]\n",
    );
    // Its commands are the project's, so the name alone does not approve them.
    let refused = silo.fails(["add", "--quiet", "greeting", "--for", "sh"]);
    assert!(refused.err.contains("sh runs `echo made > /opt/made` when it is built") && refused.err.contains("--no-sync"), "{refused:?}");
    let _ = silo.ok(["add", "--no-sync", "greeting", "--for", "sh"]);
    let _ = silo.ok(["trust", "--yes"]);
    let _ = silo.ok(["sync", "--quiet"]);
    let said = silo.ok(["sh", "-c", "hello; echo $GREETING; cat /opt/made"]);
    assert_eq!(said, "Hello, world!\nyes\nmade\n");
    fs::write(silo.project().join("silo.toml"), "[overrides.sh]\naddons = [\"greetin\"]\n").expect("our own project");
    for command in ["sync", "trust"] {
        let done = silo.fails([command]);
        assert!(done.err.contains("there is no add-on \"greetin\"; did you mean \"greeting\"?"), "{done:?}");
    }
}

#[test]
fn a_package_that_is_not_there_changes_nothing() {
    let silo = project("[overrides.sh]\nenv = { A = \"1\" } # kept\n");
    let before = read(&silo, "silo.toml");
    let done = silo.fails(["add", "no-such-package-anywhere", "--for", "sh"]);
    assert!(done.err.contains("package no-such-package-anywhere does not exist") && done.err.contains("was not changed"), "{done:?}");
    assert_eq!(read(&silo, "silo.toml"), before);
    assert_eq!(read(&silo, "silo.lock"), "");
    let done = silo.fails(["add", "Not-A-Name", "--for", "sh"]);
    assert!(done.err.contains("\"Not-A-Name\" is not a package name"), "{done:?}");
}

#[test]
fn a_baked_command_is_words_and_survives() {
    let silo = project("");
    write(&silo, "data.txt", "of the project\n");
    // A shell would make a redirection of the third word.
    let script = "printf '%s|' \"$@\" > /opt/words; cat data.txt >> /opt/words; echo x > new.txt || echo refused >> /opt/words";
    let _ = silo.ok(["build", "--quiet", "sh", "sh", "-c", script, "name", "a>=2", "b c", ""]);
    assert!(!silo.project().join("new.txt").exists());
    for _ in 0..2 {
        assert_eq!(silo.ok(["sh", "-c", "cat /opt/words"]), "a>=2|b c||of the project\nrefused\n");
    }
    let (settings, lock) = (read(&silo, "silo.toml"), read(&silo, "silo.lock"));
    assert!(settings.contains("\"a>=2\", \"b c\", \"\"]") && settings.contains("project = true"), "{settings}");
    assert!(lock.contains("[tool.sh.steps."), "{lock}");
    // A step that fails leaves nothing, and its error has the exit code; its output steers no terminal.
    let script = "echo half > /opt/half; printf 'be\\033[31mcause\\033]0;title\\007\\n' >&2; exit 7";
    let done = silo.fails(["build", "sh", "sh", "-c", script]);
    assert!(done.err.contains("exit code 7") && done.err.contains("because\n") && !done.err.contains('\x1b'), "{done:?}");
    assert_eq!((read(&silo, "silo.toml"), read(&silo, "silo.lock")), (settings, lock));
    assert_eq!(silo.run(["sh", "-c", "cat /opt/half"]).code, 1);
    // A shell's command, and taking one away again.
    let _ = silo.ok(["build", "--quiet", "--script", "echo two > /opt/two && echo more", "sh"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/two /opt/words"]), "two\na>=2|b c||of the project\nrefused\n");
    let _ = silo.ok(["build", "--quiet", "--remove", "2", "sh"]);
    assert_eq!(silo.run(["sh", "-c", "cat /opt/two"]).code, 1);
    assert!(silo.ok(["sh", "-c", "cat /opt/words"]).starts_with("a>=2|"));
}

#[test]
fn global_additions_work_outside_a_project() {
    // A home of its own: it changes the user's settings.
    let silo = elsewhere(&project(""));
    // Only written down, then made.
    let _ = silo.ok(["add", "--no-sync", "--step", "echo later > /opt/later", "--for", "sh"]);
    let refused = silo.run(["sh", "-c", "cat /opt/later"]);
    assert!(refused.code == 125 && refused.err.contains("silo sync"), "{refused:?}");
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/later"]), "later\n");
    // In the user's own settings: outside of the project too, and in the project below its own additions.
    let _ = silo.ok(["build", "--quiet", "--global", "--script", "echo mine > /opt/mine; echo mine > /opt/later", "sh"]);
    let _ = silo.ok(["add", "--quiet", "--global", "--for", "sh", "--step", "echo too >> /opt/mine"]);
    let away = silo.home().join("away");
    fs::create_dir(&away).expect("our own home");
    let told = done(silo.command(["sh", "-c", "cat /opt/mine /opt/later"]).current_dir(&away));
    assert_eq!(told.out, "mine\ntoo\nmine\n", "{told:?}");
    let refused = silo.run(["sh", "-c", "cat /opt/mine"]);
    assert!(refused.code == 125 && refused.err.contains("silo sync"), "{refused:?}");
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/mine /opt/later"]), "mine\ntoo\nlater\n");
}

#[test]
fn steps_that_come_to_the_same_are_stacked_in_order() {
    let silo = project(
        "[overrides.sh]\npostInstall = [\": 1\", \": 2\", \"echo x > /opt/x\", \"echo y > /opt/x\", \"echo x > /opt/x\", \"cat /opt/x > /opt/seen\"]\n",
    );
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/x /opt/seen"]), "x\nx\n");
}

#[test]
fn pinned_steps_run_again_on_request() {
    let silo = project("[overrides.sh]\npostInstall = [{ run = \"cat data.txt > /opt/data\", project = true }]\n");
    write(&silo, "data.txt", "one\n");
    let first = image(&silo, &[]);
    write(&silo, "data.txt", "two\n");
    let _ = silo.ok(["build", "--quiet", "sh"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/data"]), "one\n");
    let _ = silo.ok(["build", "--quiet", "--rerun", "sh"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/data"]), "two\n");
    assert_ne!(image(&silo, &["--frozen"]), first);
}

#[test]
fn a_package_of_another_ecosystem_is_baked_and_rebuilt_from_the_lock() {
    let silo = project("");
    let done = silo.run(["build", "--quiet", "python", "pip", "install", "requests"]);
    if done.code != 0 && done.err.contains("pip install requests failed") {
        return skip(&format!("PyPI cannot be reached: {}", done.err.lines().last().unwrap_or_default()));
    }
    assert_eq!(done.code, 0, "{done:?}");
    let import = ["python", "-c", "import requests; print(requests.__file__)"];
    for _ in 0..2 {
        assert!(silo.ok(import).starts_with("/usr/local/lib/python3"));
    }
    let settings = read(&silo, "silo.toml");
    assert!(settings.contains("{ run = [\"pip\", \"install\", \"requests\"], network = [\"@pypi\"], project = true }"), "{settings}");
    let other = elsewhere(&silo);
    assert_eq!(image(&other, &["--frozen"]), image(&silo, &[]));
    assert!(other.ok(import).starts_with("/usr/local/lib/python3"));
}

#[test]
fn a_locked_build_gives_the_pinned_output_or_fails() {
    let silo = project("[overrides.sh]\npostInstall = [{ run = \"cat data.txt > /opt/data\", project = true }]\n");
    write(&silo, "data.txt", "one\n");
    let done = silo.fails(["sync", "--frozen"]);
    assert!(done.err.contains("the lock of sh is missing or out of date, and --frozen is set"), "{done:?}");
    let first = image(&silo, &[]);
    // Outputs of the same command in another project are not reused.
    let beside = project(&read(&silo, "silo.toml"));
    write(&beside, "data.txt", "beside\n");
    assert_ne!(image(&beside, &[]), first);
    // The same project elsewhere: the same image; with other data: an error that says so.
    let other = elsewhere(&silo);
    write(&other, "data.txt", "one\n");
    assert_eq!(image(&other, &["--frozen"]), first);
    write(&silo, "data.txt", "other\n");
    assert_eq!(image(&silo, &["--frozen"]), first, "what is pinned and there is not made again");
    let changed = elsewhere(&silo);
    write(&changed, "data.txt", "other\n");
    let done = changed.fails(["sync", "--frozen"]);
    assert!(
        done.err.contains("the output of `cat data.txt > /opt/data` differs from the lock") && done.err.contains("is locked"),
        "{done:?}"
    );
    assert_eq!(changed.run(["sh", "-c", "true"]).code, 125);
    // On request, it pins the new one, and reports the differences if both exist.
    assert_ne!(image(&silo, &["--force"]), first);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/data"]), "other\n");
}

#[test]
fn a_project_never_runs_another_version_than_it_pins() {
    let silo = project("");
    assert!(silo.ok(["use", "python@3.13"]).contains("run `silo sync` next"));
    // The installed python has this version, so it runs without a sync.
    assert_eq!(silo.ok(["python", "-c", "print(1)"]), "1\n");
    let plain = read(&silo, "silo.toml");
    write(&silo, "silo.toml", &format!("{plain}packages = [\"hello\"]\n"));
    let done = silo.run(["python", "-c", "print(1)"]);
    assert!(
        done.code == 125 && done.err.contains("this project's python is not built") && done.err.contains("run `silo sync`"),
        "{done:?}"
    );
    write(&silo, "silo.toml", &plain);
    assert!(silo.ok(["sync", "--dry-run"]).contains("would be locked"));
    assert_eq!(read(&silo, "silo.lock"), "");
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(silo.ok(["python", "-c", "print(1)"]), "1\n");
    assert_eq!(silo.ok(["run", "--no-project", "python", "-c", "print(2)"]), "2\n");
    let done = silo.fails(["use", "python@2"]);
    assert!(done.err.contains("python 2 is not available: there") && done.err.contains("3.13"), "{done:?}");
    let said = silo.ok(["unuse", "python"]);
    assert!(said.contains("silo.lock: python is no longer used"), "{said}");
    assert_eq!((read(&silo, "silo.toml"), read(&silo, "silo.lock")), ("tools = []\n".to_owned(), String::new()));
    let done = silo.fails(["use", "pyton"]);
    assert!(done.err.contains("did you mean \"python\"?"), "{done:?}");
}

#[test]
fn a_moved_project_and_another_one_share_the_image() {
    let silo = project("[overrides.sh]\npackages = [\"hello\"]\n");
    let first = image(&silo, &[]);
    let moved = silo.project().with_file_name("moved");
    fs::rename(silo.project(), &moved).expect("our own directory");
    fs::create_dir(silo.project()).expect("our own directory");
    let mut command = silo.command(["sh", "-c", "hello"]);
    assert_eq!(done(command.current_dir(&moved)).out, "Hello, world!\n");
    let other = project(&fs::read_to_string(moved.join("silo.toml")).expect("it was moved"));
    fs::copy(moved.join("silo.lock"), other.project().join("silo.lock")).expect("it was moved");
    let told = other.ok(["sync", "--json"]);
    assert!(told.contains("\"built\": false") && told.contains(&first), "{told}");
}

#[test]
fn tools_are_built_together_and_fail_alone() {
    let silo =
        project("[overrides.sh]\npostInstall = [\"echo one; exit 3\"]\n[overrides.python]\npostInstall = [\"echo fine > /opt/fine\"]\n");
    let done = silo.fails(["sync"]);
    assert!(
        done.out.contains("python 3.13") && done.err.contains("`echo one; exit 3`")
            || done.err.contains("echo one; exit 3 failed (exit code 3)"),
        "{done:?}"
    );
    assert_eq!(silo.ok(["run", "--shim", "cat", "python", "/opt/fine"]), "fine\n");
    let done = silo.fails(["build", "--all"]);
    assert!(done.err.contains("not built: sh"), "{done:?}");
}

#[test]
fn a_failed_step_can_be_looked_into() {
    let silo = project("[overrides.sh]\npostInstall = [{ run = \"echo half > /opt/half; false\", env = { WHERE = \"here\" } }]\n");
    let done = silo.fails(["build", "--keep-failed", "sh"]);
    let hint = done.err.split("`silo debug ").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_else(|| panic!("{done:?}"));
    let said = silo.ok(["debug", hint, "--", "sh", "-c", "cat /opt/half; echo $WHERE"]);
    assert_eq!(said, "half\nhere\n");
    let done = silo.fails(["debug", "0123456789ab"]);
    assert!(done.err.contains("no failed step 0123456789ab was kept"), "{done:?}");
}

/// A successful step may still leave files that no layer can hold.
#[test]
fn a_refused_step_can_be_looked_into() {
    let silo = project("[overrides.sh]\npostInstall = [\"printf x > /opt/.wh.x\"]\n");
    let done = silo.fails(["build", "--keep-failed", "sh"]);
    let hint = done.err.split("`silo debug ").nth(1).and_then(|rest| rest.split('`').next()).unwrap_or_else(|| panic!("{done:?}"));
    assert_eq!(silo.ok(["debug", hint, "--", "cat", "/opt/.wh.x"]), "x");
}

/// Faults that make a step come out otherwise in the second run of a check, each with the cause that the check names. `@` is the number of
/// the fault; the steps write below /opt/@, and see the tools of python's image with perl and zip.
const FAULTS: [(&str, &str); 70] = [
    // Dates and times.
    ("date +%s > f", "time"),
    ("date > f", "time"),
    ("date +%F > f", "time"),
    ("date +%Y > f", "time"),
    ("date +%A > f", "time"),
    ("date +%j > f", "time"),
    ("date +%s%N > f", "time"),
    ("date -R > f", "time"),
    ("date +%Y%m%d > f", "time"),
    ("printf 'built: %x\\n' $(date +%s) > f", "time"),
    ("echo $(($(date +%s) / 86400)) > f", "time"),
    ("python3 -c 'import struct, time; open(\"f\", \"wb\").write(b\"\\x7fELF\\xff\" + struct.pack(\"<I\", int(time.time())))'", "time"),
    ("python3 -c 'import struct, time; open(\"f\", \"wb\").write(b\"\\xff\\0\" + struct.pack(\">q\", int(time.time())))'", "time"),
    ("python3 -c 'import datetime; print(datetime.datetime.now().isoformat())' > f", "time"),
    ("perl -e 'print scalar localtime' > f", "time"),
    ("touch f-$(date +%s)", "time"),
    ("ln -s v$(date +%Y%m%d) f", "time"),
    ("date | gzip -n > f.gz", "time"),
    ("touch g && stat -c %y g > f", "time"),
    ("awk 'BEGIN { srand(); print srand() }' > f", "time"),
    // Random numbers.
    ("head -c 64 /dev/urandom > f", "random"),
    ("cat /proc/sys/kernel/random/uuid > f", "random"),
    ("head -c 15 /dev/urandom | base64 > f", "random"),
    ("head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n' > f", "random"),
    ("python3 -c 'import secrets; print(secrets.token_urlsafe(30))' > f", "random"),
    ("python3 -c 'import uuid; print(\"id = \" + str(uuid.uuid4()))' > f", "random"),
    ("ln -s $(cat /proc/sys/kernel/random/uuid) f", "random"),
    ("touch f-$(cat /proc/sys/kernel/random/uuid)", "random"),
    ("python3 -c 'import random; print(random.getrandbits(256))' > f", "random"),
    // Temporary names and addresses.
    ("mktemp -d > f", "temporary name"),
    ("echo '#line 1 \"'$(mktemp)'\"' > f", "temporary name"),
    ("python3 -c 'import tempfile; print(tempfile.mkdtemp())' > f", "temporary name"),
    ("python3 -c 'print(object())' > f", "address"),
    ("head -1 /proc/self/maps | cut -d- -f1 > f", "address"),
    // Orders.
    ("touch c a d b e; ls -U a b c d e > /dev/null; ls -U | grep -v f > f", "order"),
    ("mkdir d; touch d/c d/a d/b; find d -type f > f", "order"),
    ("mkdir d; touch d/c d/a d/b; python3 -c 'import os; print(os.listdir(\"d\"))' > f", "order"),
    ("mkdir d; touch d/c d/a d/b; perl -e 'opendir D, \"d\"; print join \",\", readdir D' > f", "order"),
    ("ls -U /usr/share/doc | head -40 | sort > /dev/null; ls -U /usr/share/doc > f", "order"),
    ("mkdir d; for n in c a b; do echo $n > d/$n; done; tar cf f.tar --sort=none --mtime=@1 d", "order"),
    ("mkdir d; for n in c a b; do echo $n > d/$n; done; tar cf - --sort=none --mtime=@1 d | gzip -n > f.tar.gz", "order"),
    ("env -u PYTHONHASHSEED python3 -c 'print(*set(map(str, range(99))))' > f", "order"),
    ("env -u PYTHONHASHSEED python3 -c 'print(\",\".join({str(n) for n in range(99)}))' > f", "order"),
    ("perl -e 'my %h = map { ($_ => 1) } 1 .. 99; print join \"\\n\", keys %h' > f", "order"),
    // Process ids, processors, inodes.
    ("echo $$ > f", "process id"),
    ("echo > f.$$", "process id"),
    ("python3 -c 'import os; print(\"pid:\", os.getpid())' > f", "process id"),
    ("nproc > f", "CPU count"),
    ("echo jobs=$(nproc) > f", "CPU count"),
    ("touch g; stat -c %i g > f", "inode"),
    ("touch g; ls -i g > f", "inode"),
    // The machine.
    ("hostname > f", "host name"),
    ("uname -a > f", "host name"),
    ("echo '<built on='$(cat /etc/hostname)'>' > f", "host name"),
    ("cut -d. -f1 /proc/uptime > f; sleep 1.1", "system number"),
    // Modes and times of files.
    ("umask > f", "umask"),
    ("touch g; stat -c %a g > f", "umask"),
    ("touch g; ls -l --time-style=+ g > f", "umask"),
    ("touch f; chmod $((600 + $(nproc))) f", "mode"),
    ("touch f; touch -d @$(date +%s%N | cut -c6-14) f", "mtime"),
    // Formats with times, and logs.
    ("echo x > g; touch -d @$(date +%s%N | cut -c6-14) g; tar cf f.tar g; touch -d @1 g", "archive"),
    ("echo x > g; touch -d @$(date +%s%N | cut -c6-14) g; gzip -cN g > f.gz; touch -d @1 g", "gzip header"),
    // Archives: times, orders and contents of members.
    ("python3 -c 'import zipfile; zipfile.ZipFile(\"f.zip\", \"w\").writestr(\"a\", \"x\")'", "archive"),
    (
        "env -u PYTHONHASHSEED python3 -c 'import zipfile as z; f = z.ZipFile(\"f.jar\", \"w\"); [f.writestr(z.ZipInfo(n), n) for n in {str(n) for n in range(99)}]'",
        "order",
    ),
    (
        "python3 -c 'import time, zipfile as z; z.ZipFile(\"f.jar\", \"w\", z.ZIP_DEFLATED).writestr(z.ZipInfo(\"META-INF/MANIFEST.MF\"), \"Built: \" + time.ctime())'",
        "time",
    ),
    ("python3 -c 'import os, zipfile as z; z.ZipFile(\"f.whl\", \"w\").writestr(z.ZipInfo(\"host\"), os.uname().nodename)'", "host name"),
    ("python3 -c 'import uuid, zipfile as z; z.ZipFile(\"f.jar\", \"w\").writestr(z.ZipInfo(str(uuid.uuid4())), \"\")'", "random"),
    ("printf '!<arch>\\n%-16s%-12s0     0     100644  2         `\\nx\\n' a/ $(date +%s) > f.a", "archive"),
    ("printf '!<arch>\\n%-16s%-12s0     0     100644  37        `\\n%s\\n\\n' a/ 0 $(cat /proc/sys/kernel/random/uuid) > f.a", "random"),
    (
        "touch c a d b e; printf '!<arch>\\n' > f.a; for n in $(ls -U c a d b e > /dev/null; ls -U | grep -v f); do printf '%-16s0           0     0     100644  2         `\\n%s\\n' $n/ $n >> f.a; done",
        "order",
    ),
];

/// More faults, whose steps write elsewhere.
const OTHER_FAULTS: [(&str, &str); 4] = [
    ("date > /var/log/made.log", "log"),
    ("test $(nproc) != 1 || touch /opt/sometimes", "presence"),
    ("rm -rf /opt/type; if [ $(nproc) = 1 ]; then mkdir /opt/type; else touch /opt/type; fi", "file type"),
    (
        "echo > /opt/c.py && touch -d @$(date +%s%N | cut -c6-14) /opt/c.py && env -u SOURCE_DATE_EPOCH python3 -m py_compile /opt/c.py && rm /opt/c.py",
        "pyc",
    ),
];

#[test]
fn a_check_names_differing_outputs() {
    let faults: Vec<(String, &str)> = FAULTS
        .iter()
        .enumerate()
        .map(|(number, (fault, cause))| (format!("mkdir /opt/{number}; cd /opt/{number}; {fault}"), *cause))
        .chain(OTHER_FAULTS.iter().map(|(fault, cause)| ((*fault).to_owned(), *cause)))
        .collect();
    let steps: String = faults.iter().map(|(step, _)| format!("    {step:?},\n")).collect();
    let silo = project(&format!(
        "[overrides.python]\npostInstall = [\n{steps}    \"echo same > /opt/same\",\n    \"mkdir /opt/d && touch /opt/d/a\",\n]\n"
    ));
    let one = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    let done = silo.fails(["build", "--quiet", "--check", "python"]);
    let mut wrong = Vec::new();
    for (number, (step, cause)) in faults.iter().enumerate() {
        if one && step.contains("nproc") {
            skip("the machine has one processor only");
            continue;
        }
        // Every build has the same host name and umask.
        let label = if ["host name", "umask"].contains(cause) { "note     " } else { "DIFFERENT" };
        let told = done.out.split(&format!("{label} {step}\n")).nth(1).unwrap_or_default();
        let told: String = told.lines().take_while(|line| line.starts_with(' ')).map(|line| format!("{line}\n")).collect();
        let path = if number < FAULTS.len() { format!(" opt/{number}/f") } else { String::new() };
        if !told.contains(&format!("      {cause}: ")) || !told.contains(&path) {
            wrong.push(format!("{cause} of {step}:\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), done.err);
    for same in
        ["same      echo same > /opt/same\n", "same      mkdir /opt/d && touch /opt/d/a\n", "same      configuring the packages (base)\n"]
    {
        assert!(done.out.contains(same), "{same}: {done:?}");
    }
    assert!(done.out.contains("cause     umask: 3 paths of 3 steps\n"), "{done:?}");
}

/// A step may depend on the host name and the umask, which every build fixes, but not on anything else together with them.
#[test]
fn a_check_notes_conditions_that_every_build_fixes() {
    let silo = project("[overrides.sh]\npostInstall = [\"hostname > /opt/name; umask > /opt/mask; touch /opt/of-$(hostname)\"]\n");
    let done = silo.run(["build", "--check", "sh"]);
    assert!(done.code == 0 && done.out.contains("note      hostname > /opt/name"), "{done:?}");
    assert!(done.out.contains("every build has the same one") && !done.out.contains("DIFFERENT"), "{done:?}");
    assert!(done.err.contains("4 paths depend on the host name or the umask alone"), "{done:?}");
    let strict = silo.fails(["build", "--check", "--strict", "sh"]);
    assert!(strict.out.contains("DIFFERENT hostname") && strict.err.contains("4 paths differ between the two runs"), "{strict:?}");

    let both = "echo $(hostname) $(cat /proc/sys/kernel/random/uuid) > /opt/both; hostname > /opt/name";
    write(&silo, "silo.toml", &format!("[overrides.sh]\npostInstall = [\"{both}\"]\n"));
    let done = silo.fails(["build", "--check", "sh"]);
    assert!(done.err.contains("1 paths differ between the two runs"), "{done:?}");
    assert!(
        done.out.contains("opt/both")
            && done.out.contains("cause     random: 1 paths")
            && done.out.contains("cause     host name: 1 paths"),
        "{done:?}"
    );
}

#[test]
fn two_syncs_at_once_build_once() {
    let silo =
        project("[overrides.sh]\npackages = [\"hello\"]\npostInstall = [\"sleep 0.3; cat /proc/sys/kernel/random/uuid > /opt/id\"]\n");
    let _ = silo.ok(["lock", "--quiet"]);
    let done: Vec<Done> = thread::scope(|scope| {
        let one = || silo.run(["sync", "--quiet", "--json"]);
        let all: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let built = done.iter().filter(|done| done.out.contains("\"built\": true")).count();
    assert!(done.iter().all(|done| done.code == 0) && built == 1, "{done:?}");
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/id"]).len(), 37);
}

#[test]
fn collecting_beside_runs_and_builds_takes_nothing_that_is_used() {
    let silo = Silo::seeded();
    let settings = |round: u32| format!("[overrides.sh]\npostInstall = [\"echo {round} > /opt/round\"]\n");
    write(&silo, "silo.toml", &settings(0));
    let _ = silo.ok(["sync", "--quiet"]);
    let over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        // One that finds a build at work says so and collects nothing; that is no failure here.
        let collecting = scope.spawn(|| {
            let mut done = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                done += u32::from(silo.run(["gc", "--all", "--quiet"]).code == 0);
            }
            done
        });
        for round in 1..6 {
            assert_eq!(silo.ok(["sh", "-c", "cat /opt/round"]), format!("{}\n", round - 1));
            write(&silo, "silo.toml", &settings(round));
            let _ = silo.ok(["sync", "--quiet"]);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collecting.join().expect("no panic") > 0, "nothing was ever collected");
    });
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/round"]), "5\n");
    assert!(silo.ok(["verify", "--all"]).contains(" 0 faults"));
}

/// How often a sync is killed at another moment; `SILO_TEST_ROUNDS` says otherwise.
const ROUNDS: u32 = 8;

#[test]
fn a_sync_killed_at_any_moment_loses_nothing() {
    let rounds = std::env::var("SILO_TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let silo = Silo::seeded();
    let settings = |round: u32| format!("[overrides.sh]\npostInstall = [\"echo {round} > /opt/round\", \"echo more > /opt/more\"]\n");
    for round in 0..rounds {
        write(&silo, "silo.toml", &settings(round));
        let mut child = silo.command(["sync", "--quiet"]).spawn().expect("silo starts");
        // Moments spread over the whole of a sync, without a clock that anything depends on.
        thread::sleep(Duration::from_millis(u64::from(round * 37 % 400)));
        child.kill().expect("it is our child");
        let _ = child.wait().expect("it ends");
    }
    write(&silo, "silo.toml", &settings(rounds));
    let _ = silo.ok(["sync", "--quiet"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/round /opt/more"]), format!("{rounds}\nmore\n"));
    for flags in [&[][..], &["--all"]] {
        let said = silo.ok(["verify"].iter().chain(flags));
        assert!(said.contains(" 0 faults") && !said.starts_with("0 layers"), "{said}");
    }
    let _ = silo.ok(["gc", "--all"]);
    assert_eq!(silo.ok(["sh", "-c", "cat /opt/round"]), format!("{rounds}\n"));
}
