//! silo.toml and its earlier formats: found upwards, shown with the origin of each value, migrated.

use std::fs;

use crate::support::{As, NOBODY, Silo, done, is_root, skip};

fn write(silo: &Silo, file: &str, text: &str) {
    let path = silo.project().join(file);
    fs::create_dir_all(path.parent().expect("a file of the project")).expect("our own project");
    fs::write(path, text).expect("our own project");
}

#[test]
fn settings_are_found_upwards_and_say_where_they_come_from() {
    let silo = Silo::new();
    write(&silo, "silo.toml", "# ours\npassEnv = [\"A\", \"B\"]\n\n[overrides.python]\nenv = { MODE = \"test\" }\n");
    write(&silo, "deep/er/file", "");
    silo.write(".silo/silo.toml", "passEnv = [\"A\"]\nmount.mode = \"ro\"\n");
    let deep = done(silo.command(["config", "show"]).current_dir(silo.project().join("deep/er")));
    let expect = "mount.mode = \"ro\"  # ~/.silo/silo.toml:2\noverrides.python.env.MODE = \"test\"  # silo.toml:5\n\
        passEnv = [\n    \"A\",  # ~/.silo/silo.toml:1\n    \"B\",  # silo.toml:2\n]\n";
    assert_eq!(deep.out, expect, "{deep:?}");
    let json: serde_json::Value = serde_json::from_str(&silo.ok(["config", "show", "--json"])).expect("JSON");
    assert_eq!((&json["passEnv"][1]["value"], &json["passEnv"][1]["line"]), (&"B".into(), &2.into()), "{json}");
    assert!(json["mount.mode"]["file"].as_str().is_some_and(|file| file.ends_with("/.silo/silo.toml")), "{json}");
    let with_recipe = silo.ok(["config", "show", "python"]);
    assert!(with_recipe.contains("overrides.python.cache = [\n    \"~/.cache/pip\",  # built-in recipes/python.toml:"), "{with_recipe}");
    let empty = Silo::new();
    assert!(empty.ok(["config", "show"]).starts_with("# nothing is set in "));
}

#[test]
fn files_of_another_user_above_make_no_project() {
    if !is_root() {
        return skip("only root can be two users");
    }
    let silo = Silo::of(As::Nobody);
    write(&silo, "silo.toml", "passEnv = [\"TOKEN\"]\n");
    write(&silo, ".git/config", "");
    let (deep, file) = (silo.project().join("deep"), silo.project().join("silo.toml"));
    fs::create_dir(&deep).expect("our own project");
    let shown = || done(silo.command(["config", "show"]).current_dir(&deep)).out;
    for owner in [0, NOBODY] {
        std::os::unix::fs::chown(&file, Some(owner), Some(owner)).expect("root may give a file away");
        assert!(shown().contains("\"TOKEN\",  # silo.toml:1"), "it is {owner}'s");
    }
    for path in [file, silo.project().join(".git")] {
        std::os::unix::fs::chown(path, Some(NOBODY + 1), Some(NOBODY + 1)).expect("root may give a file away");
    }
    let deep = fs::canonicalize(&deep).expect("it is there");
    assert!(shown().starts_with(&format!("# nothing is set in {}/silo.toml", deep.display())), "{}", shown());
}

#[test]
fn the_older_form_is_read_with_one_warning_and_migrated() {
    let silo = Silo::new();
    write(
        &silo,
        ".siloconf",
        "tools: [python]\npassEnv: [TOKEN]\noverrides:\n  python:\n    image: docker.io/library/python:3.12\n    env: {A: b}\n",
    );
    silo.write(".silo/siloconf", "passEnv: [MINE]\ncache:\n  tools: {maxSizeMB: 100}\n");
    let shown = silo.run(["config", "show"]);
    assert_eq!(shown.err.matches("in the older form (YAML)").count(), 2, "{shown:?}");
    assert!(shown.err.contains("not taken: overrides.python.image: images belong in a recipe"), "{shown:?}");
    assert!(
        shown.out.contains("\"MINE\",") && shown.out.contains("\"TOKEN\",") && shown.out.contains("cache.tools.maxSizeMB = 100"),
        "{shown:?}"
    );
    // Its grants need approval like those of a silo.toml, and no command changes it.
    let asked = silo.fails(["sync", "--dry-run"]);
    assert!(asked.err.contains("every tool sees the variable TOKEN"), "{asked:?}");
    let refused = silo.fails(["config", "network", "allow", "a.example"]);
    assert!(refused.err.contains("is in the older form") && refused.err.contains("silo config migrate"), "{refused:?}");
    assert!(!silo.project().join("silo.toml").exists());

    let said = silo.ok(["config", "migrate"]);
    assert!(said.contains(".siloconf is converted to ") && said.contains(".siloconf.bak"), "{said}");
    let text = fs::read_to_string(silo.project().join("silo.toml")).expect("written");
    assert!(text.starts_with("# Not taken from the older form: overrides.python.image") && text.contains("tools = [\"python\"]"), "{text}");
    assert!(silo.project().join(".siloconf.bak").exists() && !silo.project().join(".siloconf").exists());
    assert!(silo.path("silo.toml").exists() && silo.path("siloconf.bak").exists());
    let shown = silo.run(["config", "show"]);
    assert!(shown.err.is_empty() && shown.out.contains("overrides.python.env.A = \"b\""), "{shown:?}");
    assert!(silo.ok(["config", "migrate"]).contains("no old settings to convert"));
    write(&silo, ".siloconf", "tools: []\n");
    assert!(silo.ok(["config", "migrate"]).contains("exists already"));
    fs::remove_file(silo.project().join("silo.toml")).expect("ours");
    write(&silo, ".siloconf", "toolz: []\n");
    let wrong = silo.fails(["config", "migrate"]);
    assert!(wrong.err.contains(".siloconf: unknown field `toolz`") && wrong.err.contains("did you mean \"tools\"?"), "{wrong:?}");
}

#[test]
fn tools_and_files_of_an_older_home_are_listed_with_the_next_commands() {
    let silo = Silo::new();
    silo.write(
        ".silo/config.toml",
        "version = 2\n[tools.python]\nimage = \"registry.example.com/python:3.12\"\n[tools.node]\nimage = \"x\"\n[tools.\"my tool\"]\nimage = \"registry.example.com/mine:1\"\n",
    );
    silo.write(".silo/rootfs-cache/0a.ext4", "old");
    let said = silo.ok(["config", "migrate"]);
    assert!(said.contains("config.toml lists 3 tools; it is now ") && said.contains("\n  silo install node python\n"), "{said}");
    assert!(said.contains("\n  silo install 'my tool' --image registry.example.com/mine:1 "), "{said}");
    assert!(said.contains("/.silo/rootfs-cache\n") && said.contains("\n  rm -r "), "{said}");
    assert!(silo.path("config.toml.bak").exists() && !silo.path("config.toml").exists());
    assert!(silo.path("rootfs-cache/0a.ext4").exists(), "nothing is removed");
    silo.write(".silo/config.yaml", "tools:\n  go: {image: x}\n");
    assert!(silo.ok(["config", "migrate"]).contains("\n  silo install go\n"));
    silo.write(".silo/config.yaml", "tools: [go]\n");
    let failed = silo.fails(["config", "migrate"]);
    assert!(failed.err.contains("config.yaml: tools is not a table"), "{failed:?}");
    assert!(silo.path("config.yaml").exists());
}

#[test]
fn commands_for_the_whole_home_work_beside_a_wrong_file_of_a_project() {
    let silo = Silo::new();
    write(&silo, "silo.toml", "[network]\nalow = []\n");
    for words in [&["gc", "--dry-run"][..], &["prune", "--dry-run"], &["verify", "--all"]] {
        let done = silo.run(words);
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        assert!(done.err.contains("silo.toml:2") && done.err.contains("this command needs no project"), "{words:?}: {done:?}");
    }
    // An uninstall reports its own error.
    let done = silo.fails(["uninstall", "python"]);
    assert!(done.err.contains("python is not installed"), "{done:?}");
    // The settings of the user count for each command, and those of a project for its own.
    assert!(silo.fails(["list"]).err.contains("silo.toml:2"));
    silo.write(".silo/silo.toml", "mount = 1\n");
    assert!(!silo.fails(["gc", "--dry-run"]).err.contains("goes on without it"));
}

#[test]
fn invalid_overrides_are_reported() {
    let silo = Silo::new();
    for (text, expect) in [
        ("[overrides.python]\nimage = \"x\"\n", "overrides.python.image is not allowed here: images belong in a recipe"),
        ("[overrides.python.lsp]\ncommand = []\n", "overrides.python: lsp.command must not be empty or zero"),
        ("[overrides.python.lsp]\ninstal = \"x\"\n", "did you mean \"install\"?"),
        (
            "tools = [\"python@3.13\"]\n[overrides.python]\nversion = \"3.12\"\n",
            "tools has python@3.13, but overrides.python.version is 3.12",
        ),
        ("tools = [\"python@\"]\n", "\"\" of \"python@\" is not a version"),
        ("[mount]\nexclude = [\"../x\"]\n", "mount.exclude: \"../x\" is not a directory of the project"),
        ("[mount]\nmode = \"read\"\n", "unknown variant `read`"),
        ("[overrides.sh]\ncache = [{ guest = \"~/x\", host = \"~\" }]\n", "expected a path such as"),
        ("[overrides.sh]\nstate = [\"/proc/x\"]\n", "overrides.sh.state: \"/proc/x\" cannot be a persistent directory"),
        ("projectId = \"../x\"\n", "projectId: \"../x\" is not a name"),
    ] {
        write(&silo, "silo.toml", text);
        let told = silo.fails(["list"]);
        assert!(told.err.contains(expect), "{text}: {told:?}");
    }
    write(&silo, "silo.toml", "tools = [\"python@3.13\"]\npassEnv = [\"TOKEN\"]\n");
    let asked = silo.fails(["sync", "--dry-run"]).err;
    assert!(asked.contains("every tool sees the variable TOKEN") && !asked.contains("3.13"), "a version opens nothing: {asked}");
    write(&silo, "silo.toml", "tools = [\"python@3\"]\n");
    let _ = silo.ok(["use", "python@3.13"]);
    let text = fs::read_to_string(silo.project().join("silo.toml")).expect("there");
    assert_eq!(text, "tools = [\"python\"]\n\n[overrides.python]\nversion = \"3.13\"\n");
}
