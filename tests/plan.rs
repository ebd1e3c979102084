//! The plan of a run: settings in, launch spec out; and files that are swapped during planning.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use silo::run::error::Error;
use silo::run::image::Images;
use silo::run::plan::{Caller, Inputs, Options, Private, Project, plan};
use silo::run::target::Target;
use silo::run::user::User;
use silo_base::home::Home;
use silo_build::host_network::HostNetwork;
use silo_launch::open_checked::{Links, OpenedPath};
use silo_launch::spec::{Access, Mount};
use silo_model::config::{merge, read};
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_store::layout::Store;
use silo_tool::{View, record};
use tar::EntryType::{Directory, Regular};

use crate::support::images::{Layer, layout, tar};
use crate::support::sandbox::bench;
use crate::support::{As, NOBODY, Silo, done, golden, skip};

/// A tool of an image that nothing can be run of; it has the accounts that a plan reads.
fn boxed() -> Silo {
    let silo = Silo::new();
    let place = silo.project().join("../layout");
    let files = [
        (Directory, "etc/", 0o755, ""),
        (Regular, "etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
        (Regular, "etc/group", 0o644, "root:x:0:\n"),
        (Directory, "bin/", 0o755, ""),
        (Regular, "bin/box", 0o755, "#!/none\n"),
    ];
    layout(&place, &[Layer::plain(tar(&files))]);
    let _ = silo.ok(["install", "--quiet", "box", "--shim", "box", "--image", &format!("oci:{}:v1", place.display())]);
    silo
}

struct Case<'a> {
    user: &'a str,
    project: &'a str,
    options: Options,
    env: &'a [(&'a str, &'a str)],
}

/// Plans a run of `box`, and returns the spec as text in which nothing is of this machine.
fn planned(silo: &Silo, case: Case<'_>) -> Result<String, Error> {
    let home = Home::of_user(silo.home());
    let store = Store::open(home.root()).expect("a store");
    let project = fs::canonicalize(silo.project()).expect("a project");
    let settings = |text: &str| read::parse(text, Path::new("silo.toml")).expect("settings");
    let (user_settings, project_settings) = (settings(case.user), settings(case.project));
    let merged = merge::merge(user_settings.clone(), project_settings.clone());
    let places = RecipeSources { user: Some(home.recipes()), ..RecipeSources::default() };
    let view = View {
        home: &home,
        places: &places,
        settings: &merged,
        user_settings: &user_settings,
        project_settings: &project_settings,
        project: &project,
        files: None,
    };
    let env: BTreeMap<&str, &str> = case.env.iter().copied().collect();
    let tool = record::get(&home, "box").expect("a record").expect("it is installed");
    let id = tool.image.to_string();
    let caller = Caller {
        user: User { uid: 1000, gid: 1000, name: "me".to_owned(), home: silo.home().to_owned() },
        cwd: project.clone(),
        typed: None,
        variable: &|name| env.get(name).map(OsString::from),
        outside: HostNetwork { user_home: silo.home().to_owned(), ..HostNetwork::default() },
        terminfo: Vec::new(),
        zones: silo::run::time_zone::Host::default(),
        now: 1_700_000_000,
        pid: 7,
    };
    let recipe = catalog::find(&places, "box").ok().map(|found| found.recipe);
    let target =
        Target { tool, recipe, argv: vec!["box".into(), "word".into()], args: vec!["word".into()], env: Vec::new(), least_memory_mb: 0 };
    let images = Images { home: &home, store: &store, program: Path::new("/none"), sink: &|_| {} };
    let inputs = Inputs { view, images, caller: &caller, target: &target, options: case.options, say: &|_| {} };
    let (spec, _leases) = plan(&inputs)?;
    spec.check().expect("a spec that can be launched");
    let mut value: serde_json::Value = serde_json::from_slice(&spec.to_json().expect("JSON")).expect("JSON");
    // Their order follows from how deep this machine's temporary directory is.
    value["mounts"].as_array_mut().expect("a list").sort_by_key(|mount| mount["guest"].to_string());
    let kept = silo_tool::projects::id(&project);
    let mut text = serde_json::to_string_pretty(&without_inodes(value)).expect("JSON") + "\n";
    for (from, to) in [(project.as_path(), "/PROJECT"), (silo.home(), "/HOME"), (Path::new(&id), "IMAGE"), (Path::new(&kept), "KEPT")] {
        text = text.replace(&from.display().to_string(), to);
    }
    Ok(text)
}

/// Inodes differ between runs; only their presence in a mount counts.
fn without_inodes(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let inode = |(key, value)| if key == "inode" { (key, Value::from("checked")) } else { (key, without_inodes(value)) };
            Value::Object(map.into_iter().map(inode).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_inodes).collect()),
        value => value,
    }
}

#[test]
fn settings_decide_the_spec() {
    let silo = boxed();
    for (dir, file) in [(silo.home().to_owned(), ".netrc"), (silo.project(), "conf")] {
        fs::write(dir.join(file), "x").expect("a file of ours");
    }
    let learn_nothing = Options { tier: Some(silo_model::config::Tier::Native), ..Options::default() };
    let none = Options { project: Project::None, ..learn_nothing.clone() };
    let ports = Options { ports: vec![silo_base::grant::Port::parse("8080:80").expect("ports")], ..learn_nothing.clone() };
    let shaped = "passEnv = [\"A\"]\npassFiles = [\"~/.netrc\", { host = \"conf\", guest = \"/run/conf\" }]\n\
        mount.exclude = [\"node_modules\"]\nnetwork.allow = [\"a.example\"]\nnetwork.deny = [\"b.example\"]\n[overrides.box]\n\
        env = { MADE = \"yes\" }\nstate = [\"~/.box\"]\ncache = [\"~/.cache/box\"]\nmemoryMB = 512\ncpus = 2\n";
    let read_only = "mount.mode = \"ro\"\n[overrides.box]\nworkdir = \"/opt\"\nrootfsSizeMB = 64\n";
    let env = [("A", "1"), ("B", "2"), ("TERM", "of-nobody")];
    for (name, user, project, options) in [
        ("plain", "", "", learn_nothing.clone()),
        ("shaped", "", shaped, learn_nothing.clone()),
        ("read-only", read_only, "", learn_nothing.clone()),
        ("no-project", "passEnv = [\"B\"]\n", shaped, none),
        ("ports", "", "", ports),
    ] {
        let text = planned(&silo, Case { user, project, options, env: &env }).expect(name);
        golden(&format!("plan/{name}.json"), &text);
    }
}

#[test]
fn private_directories_and_planted_symlinks_are_refused() {
    let silo = boxed();
    let keys = silo.home().join(".ssh");
    fs::create_dir_all(&keys).expect("made");
    fs::write(keys.join("id"), "secret").expect("written");
    let of = |dir: PathBuf| Options { project: Project::Of(Some(dir), Private::Refuse), ..Options::default() };
    let run = |user: &str, options: Options| planned(&silo, Case { user, project: "", options, env: &[] });
    assert!(matches!(run("", of(keys.clone())), Err(Error::Private { .. })));
    assert!(matches!(run("", of(silo.home().join("none"))), Err(Error::Directory { .. })));
    // The project's own path is checked after symlinks are resolved.
    let inner = silo.project().join("inner");
    symlink(&keys, &inner).expect("made");
    assert!(matches!(run("", of(inner)), Err(Error::Private { .. })));
    // A file of the user's may be a symlink of the user's own, but none that a tool can have made.
    let (own, planted) = (silo.home().join("own"), silo.project().join("planted"));
    symlink(keys.join("id"), &own).expect("made");
    symlink(keys.join("id"), &planted).expect("made");
    let pass = |path: &Path| format!("passFiles = [{{ host = \"{}\", guest = \"/run/key\" }}]\n", path.display());
    assert!(run(&pass(&own), Options::default()).expect("it is the user's").contains("/HOME/.ssh/id"));
    for path in [planted.clone(), PathBuf::from("planted")] {
        let error = run(&pass(&path), Options::default()).expect_err("a symlink in the project").to_string();
        assert!(error.contains("is a symlink"), "{error}");
    }
}

/// Swaps two names in a loop until it is stopped.
fn swapping<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    /// Ends the loop also when the test fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("both are there");
            }
        });
        work()
    })
}

#[test]
fn a_file_that_is_swapped_for_a_symlink_is_never_shown() {
    let silo = Silo::shared(As::Me);
    let project = fs::canonicalize(silo.project()).expect("a project");
    let keys = project.join("../keys");
    fs::create_dir_all(&keys).expect("made");
    fs::write(keys.join("id"), "HOST-SECRET\n").expect("written");
    fs::write(project.join("a"), "plain\n").expect("written");
    symlink("../keys/id", project.join("b")).expect("made");
    fs::write(project.join("silo.toml"), "passFiles = [{ host = \"a\", guest = \"/run/a\" }]\n").expect("written");
    let mut seen = BTreeMap::<String, u32>::new();
    swapping(&project.join("a"), &project.join("b"), || {
        for _ in 0..40 {
            let run = silo.run(["sh", "-c", "cat /run/a"]);
            assert!(!run.out.contains("SECRET") && !run.err.contains("SECRET"), "{run:?}");
            assert!(run.code == 0 && run.out == "plain\n" || run.code == 125 || run.code == 2, "{run:?}");
            *seen.entry(format!("{} {}", run.code, run.out)).or_default() += 1;
        }
    });
    assert!(seen.values().sum::<u32>() == 40, "{seen:?}");
}

#[test]
fn a_directory_that_is_swapped_for_a_symlink_is_never_mounted() {
    let bench = bench();
    let outer = fs::canonicalize(bench.project()).expect("a project");
    let (inner, link, keys) = (outer.join("inner"), outer.join("link"), outer.join("../private"));
    for (dir, mark) in [(&inner, "inner"), (&keys, "private")] {
        fs::create_dir_all(dir).expect("made");
        fs::write(dir.join("mark"), mark).expect("written");
    }
    symlink("../private", &link).expect("made");
    // An opened directory stays the same, and is mounted or nothing is.
    let opened = OpenedPath::open(&inner, Links::Refuse).expect("a directory");
    let mut spec = bench.spec(&["cat", "/run/inner/mark"]);
    spec.mounts.push(Mount { host: opened.host(), guest: "/run/inner".into(), access: Access::ReadWrite });
    let mut shown = 0;
    swapping(&inner, &link, || {
        for _ in 0..40 {
            let done = done(&mut bench.command(&spec));
            assert!(done.code == 0 && done.out == "inner" || done.code == 125 && done.err.contains("another program replaced"), "{done:?}");
            shown += u32::from(done.code == 0);
        }
    });
    assert!(shown > 0, "a swap that goes on for ever keeps nobody out");
    // Another directory at its place is another directory.
    fs::rename(&inner, outer.join("old")).expect("moved");
    fs::create_dir(&inner).expect("made");
    let refused = done(&mut bench.command(&spec));
    assert!(refused.code == 125 && refused.err.contains("another program replaced"), "{refused:?}");
}

#[test]
fn an_ordinary_user_is_guarded_alike() {
    if !crate::support::is_root() {
        skip("it is an ordinary user already who runs the tests");
        return;
    }
    let silo = Silo::shared(As::Nobody);
    let project = fs::canonicalize(silo.project()).expect("a project");
    fs::write(project.join("real"), "plain\n").expect("written");
    symlink("real", project.join("a")).expect("made");
    fs::write(project.join("silo.toml"), "passFiles = [{ host = \"a\", guest = \"/run/a\" }]\n").expect("written");
    for name in ["real", "silo.toml"] {
        rustix::fs::chown(project.join(name), Some(rustix::fs::Uid::from_raw(NOBODY)), None).expect("root may");
    }
    let refused = silo.run(["sh", "-c", "cat /run/a"]);
    assert!(refused.code == 125 && refused.err.contains("a is a symlink; name the file itself"), "{refused:?}");
}
